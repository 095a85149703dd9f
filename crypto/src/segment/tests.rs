//! What a segment promises, byte for byte.

use bytes::{Bytes, BytesMut};

use super::*;
use crate::{DataKey, SealError, WrappedKey};

const TOPIC: [u8; 16] = [0x77; 16];
const INDEX: &[u8] = b"the index";

fn key(byte: u8) -> DataKey {
    DataKey::take(&mut [byte; 32])
}

fn header() -> SegmentHeader {
    SegmentHeader {
        object_id: [0x11; 32],
        cluster: [0x22; 16],
        tenant: [0x33; 16],
        segment: [0x44; 16],
        writer_epoch: 5,
        created_ms: 6,
        frame_bytes_max: 1024,
        key_id: [0x55; 16],
    }
}

fn wrapped() -> WrappedKey {
    WrappedKey { provider: "local".into(), key_ref: "k".into(), blob: vec![1, 2, 3] }
}

fn facts(number: i64) -> FrameFacts {
    FrameFacts { topic: TOPIC, partition: 0, first_offset: number * 10, last_offset: number * 10 + 9 }
}

fn texts() -> [&'static [u8]; 3] {
    [b"first frame", b"second", b"third and last"]
}

fn sealed() -> (SealedSegment, Vec<FrameRef>) {
    let mut writer = SegmentWriter::new(&key(1), header(), &wrapped()).unwrap();
    let frames = texts().iter().zip(0..).map(|(text, n)| writer.frame(facts(n), text).unwrap()).collect();
    (writer.finish(INDEX).unwrap(), frames)
}

fn expectation() -> ObjectExpectation {
    let SegmentHeader { object_id, cluster, tenant, segment, .. } = header();
    ObjectExpectation { object_id, cluster, tenant, segment, frame_count: 3 }
}

fn frame_bytes(object: &[u8], frame: &FrameRef) -> BytesMut {
    let at = usize::try_from(frame.position).unwrap();
    object.get(at..at + frame.sealed_len as usize).map(BytesMut::from).unwrap_or_default()
}

/// Reads everything as a broker would; the plaintexts, or the first refusal.
fn read_all(object: &[u8], segment: &SealedSegment, frames: &[FrameRef]) -> Result<Vec<Bytes>, SealError> {
    let head = &object[..object.len().min(HEAD_BYTES)];
    let opener = SegmentOpener::open(head, &key(1), &expectation())?;
    let mut out = Vec::new();
    for (frame, n) in frames.iter().zip(0..) {
        out.push(opener.open_frame(frame.number, &facts(n), frame_bytes(object, frame))?);
    }
    let tail = object.get(segment.footer_position as usize..).unwrap_or_default();
    let footer = opener.open_footer(tail, segment.footer_position, &segment.footer_tag)?;
    assert_eq!(footer.index, INDEX);
    Ok(out)
}

#[test]
fn segment_opens_to_what_was_sealed() {
    let (segment, frames) = sealed();
    assert_eq!(read_all(&segment.bytes, &segment, &frames).unwrap(), texts());
    assert_eq!(read_wrapped_key(&segment.bytes).unwrap(), wrapped());
    let opener = SegmentOpener::open(&segment.bytes, &key(1), &expectation()).unwrap();
    let tail = &segment.bytes[segment.footer_position as usize..];
    let footer = opener.open_footer(tail, segment.footer_position, &segment.footer_tag).unwrap();
    let digest = opener.frame_tags_digest(&segment.bytes, segment.footer_position).unwrap();
    assert_eq!(digest, footer.frame_tags_digest);
}

#[test]
fn every_flipped_bit_of_a_segment_is_refused_except_in_the_key_slot_copy() {
    let (segment, frames) = sealed();
    for at in 0..segment.bytes.len() {
        for bit in 0..8 {
            let mut object = segment.bytes.clone();
            object[at] ^= 1 << bit;
            let outcome = read_all(&object, &segment, &frames);
            if (180..HEAD_BYTES).contains(&at) {
                // The slot is only a copy of the wrapped key; damage there never changes what is read.
                assert_eq!(outcome.unwrap(), texts());
            } else {
                assert!(outcome.is_err(), "byte {at} bit {bit}");
            }
        }
    }
}

#[test]
fn damaged_key_slot_is_noticed() {
    let (segment, _) = sealed();
    for at in 180..180 + 4 + wrapped().to_bytes().unwrap().len() + 4 {
        let mut object = segment.bytes.clone();
        object[at] ^= 1;
        assert!(read_wrapped_key(&object).is_err(), "byte {at}");
    }
}

#[test]
fn every_cut_of_a_segment_is_refused() {
    let (segment, frames) = sealed();
    for cut in 0..segment.bytes.len() {
        assert!(read_all(&segment.bytes[..cut], &segment, &frames).is_err(), "cut at {cut}");
    }
}

#[test]
fn frame_opens_only_with_its_own_number_partition_topic_and_offsets() {
    let (segment, frames) = sealed();
    let opener = SegmentOpener::open(&segment.bytes, &key(1), &expectation()).unwrap();
    let open = |number, facts: FrameFacts| opener.open_frame(number, &facts, frame_bytes(&segment.bytes, &frames[0]));
    assert!(open(0, facts(0)).is_ok());
    assert!(open(1, facts(0)).is_err());
    assert!(open(0, facts(1)).is_err());
    assert!(open(0, FrameFacts { partition: 1, ..facts(0) }).is_err());
    assert!(open(0, FrameFacts { topic: [0; 16], ..facts(0) }).is_err());
    assert!(open(0, FrameFacts { first_offset: 1, ..facts(0) }).is_err());
    assert!(open(0, FrameFacts { last_offset: 10, ..facts(0) }).is_err());
    // A doubled frame: the second's bytes in the first's place.
    assert!(opener.open_frame(0, &facts(0), frame_bytes(&segment.bytes, &frames[1])).is_err());
}

#[test]
fn segment_of_another_tenant_segment_or_installation_is_refused() {
    let (segment, _) = sealed();
    let open = |expect| SegmentOpener::open(&segment.bytes, &key(1), &expect).map(|_| ()).unwrap_err();
    let other = |field| SealError::OtherObject { field };
    assert_eq!(open(ObjectExpectation { tenant: [0; 16], ..expectation() }), other("tenant"));
    assert_eq!(open(ObjectExpectation { segment: [0; 16], ..expectation() }), other("segment"));
    assert_eq!(open(ObjectExpectation { cluster: [0; 16], ..expectation() }), other("cluster"));
    assert_eq!(open(ObjectExpectation { object_id: [0; 32], ..expectation() }), other("object id"));
    let wrong = SegmentOpener::open(&segment.bytes, &key(2), &expectation()).map(|_| ()).unwrap_err();
    assert_eq!(wrong, SealError::WrongKey { what: "segment" });
}

#[test]
fn older_whole_copy_with_another_footer_is_refused() {
    let (segment, frames) = sealed();
    let mut other = SegmentWriter::new(&key(1), header(), &wrapped()).unwrap();
    for (text, n) in texts().iter().zip(0..) {
        other.frame(facts(n), text).unwrap();
    }
    let other = other.finish(b"an older index").unwrap();
    assert_eq!(read_all(&other.bytes, &segment, &frames), Err(SealError::OtherObject { field: "footer" }));
}

#[test]
fn frame_above_the_bound_and_empty_segment_are_refused() {
    let mut writer = SegmentWriter::new(&key(1), header(), &wrapped()).unwrap();
    assert_eq!(writer.frame(facts(0), &[0; 1025]), Err(SealError::TooLong { what: "frame" }));
    assert_eq!(writer.finish(b"").unwrap_err(), SealError::Empty);
}

/// Computed by an independent program (Python, OpenSSL). Everything but the head's zeros, which are checked and left out.
#[test]
fn segment_has_these_exact_bytes() {
    let (segment, _) = sealed();
    let used = 180 + 4 + wrapped().to_bytes().unwrap().len() + 4;
    assert!(segment.bytes[used..HEAD_BYTES].iter().all(|byte| *byte == 0));
    let head: String = segment.bytes[..used].iter().map(|byte| format!("{byte:02x}")).collect();
    let rest: String = segment.bytes[HEAD_BYTES..].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(head, HEAD_HEX);
    assert_eq!(rest, REST_HEX);
}

const HEAD_HEX: &str = "\
    5343484c5345473100010001000100001111111111111111111111111111111111111111111111111111111111111111\
    222222222222222222222222222222223333333333333333333333333333333344444444444444444444444444444444\
    000000000000000500000000000000060000040055555555555555555555555555555555320d4dd2a6a51b2999719711\
    f4016c0821986059c974c524955d96ceae780cfe9b4c66e4544ca0d30e7b7b40cfdb8bdc000000100100056c6f63616c\
    00016b00030102033077169d";
const REST_HEX: &str = "\
    0000000b00304f1fa02be28be160df3f1a6cae731f1d2ace175e5b12a1f22e710000000600356bd1ebda7cbfe1e08fda\
    060f2c2d2fa9dbc46f14010000000e015dddc2932525847ea303b660317c9691334cd7614f401617d746c1c3d96f1e86\
    0085a910c9ac667e2a2fb752c42edd0517c4005e04ecc389f365a575067b0fe6707ad0b4caa3aae9e382fd2a75a000ad\
    d5178c155aa0fbb7d2a4400000002d000000035343484c53454e44";
