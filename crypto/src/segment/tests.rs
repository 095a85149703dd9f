//! What a segment promises, byte for byte.

use bytes::{Bytes, BytesMut};

use super::*;
use crate::vectors::{hex, vector};
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
    assert_eq!(hex(&segment.bytes[..used]), vector("segment-head"));
    assert_eq!(hex(&segment.bytes[HEAD_BYTES..]), vector("segment-rest"));
}

fn keyed() -> (SealedSegment, FrameRef) {
    let mut writer = SegmentWriter::new(&key(1), header(), &wrapped()).unwrap();
    let frame = writer.frame_of(facts(0), Some(&key(2)), b"only frame").unwrap();
    (writer.finish(INDEX).unwrap(), frame)
}

#[test]
fn frame_of_a_topic_with_its_own_key_has_these_exact_bytes() {
    let (segment, frame) = keyed();
    assert_eq!(hex(&frame_bytes(&segment.bytes, &frame)), vector("topic-frame"));
}

#[test]
fn frame_of_a_topic_with_its_own_key_opens_with_both_keys_only() {
    let (segment, frame) = keyed();
    let expect = ObjectExpectation { frame_count: 1, ..expectation() };
    let opener = SegmentOpener::open(&segment.bytes, &key(1), &expect).unwrap();
    let sealed = || frame_bytes(&segment.bytes, &frame);
    assert!(opener.open_frame(0, &facts(0), sealed()).is_err(), "the data key alone");
    assert!(opener.open_frame_of(0, &facts(0), &key(3), sealed()).is_err(), "another topic's key");
    assert_eq!(opener.open_frame_of(0, &facts(0), &key(2), sealed()).unwrap(), "only frame");
    assert!(SegmentOpener::open(&segment.bytes, &key(2), &expect).is_err(), "the topic key alone");
}

#[test]
fn inspection_tells_the_facts_in_the_clear_and_refuses_what_is_no_whole_segment() {
    let (segment, _) = sealed();
    let facts = inspect(&segment.bytes).unwrap();
    assert_eq!((facts.header, facts.frame_count), (header(), 3));
    assert_eq!((facts.footer_position, facts.footer_tag), (segment.footer_position, segment.footer_tag));
    for cut in 0..segment.bytes.len() {
        assert!(inspect(&segment.bytes[..cut]).is_err(), "cut at {cut}");
    }
}
