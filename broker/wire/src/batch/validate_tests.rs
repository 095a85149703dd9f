//! Promises about what a producer may write.

use proptest::prelude::*;

use super::super::testing::{Batch, Record, compress, number};
use super::super::{find_time, latest_time, split};
use super::*;

fn rules() -> BatchRules {
    BatchRules {
        message_bytes_max: 1 << 20,
        budget: Budget::default(),
        time: TimeRule::CreateTime { before_ms_max: i64::MAX, after_ms_max: 3_600_000 },
        now_ms: 2000,
        key: KeyRule::Optional,
        produce_version: 9,
    }
}

fn check(batch: &Batch) -> Result<ValidBatch, BatchError> {
    validate(batch.seal().into(), &rules())
}

#[test]
fn every_codec_is_taken_and_kept_as_it_came() {
    for codec in [0, 1, 2, 3, 4] {
        let sealed = Batch::compressed(codec).seal();
        let batch = validate(sealed.clone().into(), &rules()).unwrap();
        assert_eq!(batch.facts().record_count, 3);
        assert_eq!(batch.facts().max_timestamp, 1010);
        assert_eq!(batch.payload(), sealed[HEADER_BYTES..]);
    }
    let xerial = Batch { attributes: 2, payload: compress(102, &Batch::plain().payload), ..Batch::plain() };
    assert_eq!(check(&xerial).unwrap().facts().codec, Codec::Snappy);
}

#[test]
fn assigned_offsets_leave_the_checksum_right() {
    let batch = check(&Batch::plain()).unwrap();
    let stored = batch.assign(42, 7, None);
    let header = BatchHeader::read(&stored).unwrap();
    assert_eq!((header.base_offset, header.last_offset(), header.partition_leader_epoch), (42, 44, 7));
    assert_eq!(validate(stored, &rules()).unwrap().facts(), batch.facts());
}

#[test]
fn log_append_time_is_written_and_checksummed() {
    let batch = check(&Batch::compressed(4)).unwrap();
    let stored = batch.assign(42, 7, Some(5000));
    let header = BatchHeader::read(&stored).unwrap();
    assert_eq!((header.timestamp_type(), header.max_timestamp), (TimestampType::LogAppendTime, 5000));
    assert_eq!(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &stored[21..]), u64::from(header.crc));
    assert_eq!(stored.len(), batch.total_bytes());
}

#[test]
fn wrong_max_timestamp_is_put_right_when_the_batch_is_stored() {
    let batch = check(&Batch { max_timestamp: 99_999, ..Batch::plain() }).unwrap();
    let stored = batch.assign(0, 0, None);
    let header = BatchHeader::read(&stored).unwrap();
    assert_eq!(header.max_timestamp, 1010);
    assert_eq!(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &stored[21..]), u64::from(header.crc));
}

#[test]
fn each_flipped_bit_behind_the_checksum_is_found() {
    let sealed = Batch::plain().seal();
    for at in 17..sealed.len() {
        let mut flipped = sealed.clone();
        flipped[at] ^= 0x10;
        assert_eq!(validate(flipped.into(), &rules()), Err(BatchError::Checksum), "byte {at}");
    }
}

#[test]
fn every_cut_is_refused() {
    let sealed = Bytes::from(Batch::plain().seal());
    for length in 0..sealed.len() {
        let error = validate(sealed.slice(..length), &rules()).unwrap_err();
        assert!(matches!(error, BatchError::Size { .. } | BatchError::NotOneBatch), "{length}: {error}");
    }
}

#[test]
fn two_batches_in_one_partition_are_refused() {
    let two = [Batch::plain().seal(), Batch::plain().seal()].concat();
    assert_eq!(validate(two.into(), &rules()), Err(BatchError::NotOneBatch));
}

#[test]
fn old_magic_is_an_invalid_record() {
    let error = check(&Batch { magic: 1, ..Batch::plain() }).unwrap_err();
    assert_eq!(error, BatchError::Magic { magic: 1 });
    assert_eq!(ErrorCode::from(&error), ErrorCode::INVALID_RECORD);
}

#[test]
fn batch_above_the_limit_is_too_large() {
    let bytes = Batch::plain().seal();
    let (length, max) = (bytes.len(), bytes.len() - 1);
    let error = validate(bytes.into(), &BatchRules { message_bytes_max: max, ..rules() }).unwrap_err();
    assert_eq!(error, BatchError::TooLarge { bytes: length, max });
    assert_eq!(ErrorCode::from(&error), ErrorCode::MESSAGE_TOO_LARGE);
}

#[test]
fn control_batch_from_a_client_is_refused() {
    let batch = Batch { attributes: 0x30, producer_id: 1, producer_epoch: 0, base_sequence: 0, ..Batch::plain() };
    assert_eq!(check(&batch), Err(BatchError::Control));
    assert_eq!(check(&Batch { attributes: 0x40, ..Batch::plain() }), Err(BatchError::DeleteHorizon));
}

#[test]
fn unknown_codec_and_early_zstd_are_unsupported_compression() {
    for codec in [5, 6, 7] {
        let error = check(&Batch { attributes: codec, ..Batch::plain() }).unwrap_err();
        assert_eq!(ErrorCode::from(&error), ErrorCode::UNSUPPORTED_COMPRESSION_TYPE);
    }
    let early = BatchRules { produce_version: 6, ..rules() };
    assert_eq!(validate(Batch::compressed(4).seal().into(), &early), Err(BatchError::ZstdTooOld));
}

#[test]
fn counts_that_contradict_each_other_are_refused() {
    for (record_count, last_offset_delta) in [(0, -1), (3, 3), (3, 1), (-1, -2), (i32::MAX, 2), (i32::MIN, i32::MAX)] {
        let batch = Batch { record_count, last_offset_delta, ..Batch::plain() };
        assert_eq!(check(&batch), Err(BatchError::Count { record_count, last_offset_delta }));
    }
}

#[test]
fn more_or_fewer_records_than_claimed_are_refused_in_every_codec() {
    for codec in [0, 1, 2, 3, 4] {
        let more = Batch { record_count: 4, last_offset_delta: 3, ..Batch::compressed(codec) };
        assert_eq!(check(&more), Err(BatchError::Record(RecordError::Framing)));
        let fewer = Batch { record_count: 2, last_offset_delta: 1, ..Batch::compressed(codec) };
        assert_eq!(check(&fewer), Err(BatchError::Record(RecordError::Trailing)));
    }
}

#[test]
fn records_out_of_sequence_are_refused() {
    let payload = Record::new(1, 0, b"v").bytes();
    let batch = Batch { payload, record_count: 1, last_offset_delta: 0, ..Batch::plain() };
    assert_eq!(check(&batch), Err(BatchError::Record(RecordError::OffsetDelta)));
}

#[test]
fn producer_id_needs_epoch_and_sequence() {
    let whole = Batch { producer_id: 5, producer_epoch: 1, base_sequence: 9, ..Batch::plain() };
    let producer = Producer { id: 5, epoch: 1, base_sequence: 9 };
    assert_eq!(check(&whole).unwrap().facts().producer, Some(producer));
    for broken in [
        Batch { base_sequence: -1, ..whole.clone() },
        Batch { producer_epoch: -1, ..whole.clone() },
        Batch { producer_id: -2, ..whole.clone() },
        Batch { producer_id: -1, attributes: 0x10, ..whole },
    ] {
        assert_eq!(check(&broken), Err(BatchError::Producer));
    }
}

#[test]
fn timestamps_out_of_bounds_are_refused() {
    let strict = TimeRule::CreateTime { before_ms_max: 500, after_ms_max: 500 };
    for (now_ms, taken) in [(1400, true), (1500, true), (1501, false), (510, true), (509, false)] {
        let answer = validate(Batch::plain().seal().into(), &BatchRules { time: strict, now_ms, ..rules() });
        assert_eq!(answer.is_ok(), taken, "{now_ms}");
        if let Err(error) = answer {
            assert_eq!(ErrorCode::from(&error), ErrorCode::INVALID_TIMESTAMP);
        }
    }
    let by_broker = BatchRules { time: TimeRule::LogAppendTime, now_ms: 0, ..rules() };
    assert!(validate(Batch::plain().seal().into(), &by_broker).is_ok());
}

#[test]
fn producer_cannot_claim_the_brokers_clock() {
    let error = check(&Batch { attributes: 0x08, ..Batch::plain() }).unwrap_err();
    assert_eq!(ErrorCode::from(&error), ErrorCode::INVALID_TIMESTAMP);
}

#[test]
fn record_without_timestamp_is_taken() {
    let batch = Batch {
        payload: Record::new(0, 0, b"v").bytes(),
        record_count: 1,
        last_offset_delta: 0,
        base_timestamp: -1,
        max_timestamp: -1,
        ..Batch::plain()
    };
    let strict = TimeRule::CreateTime { before_ms_max: 1, after_ms_max: 1 };
    let answer = validate(batch.seal().into(), &BatchRules { time: strict, ..rules() });
    assert_eq!(answer.unwrap().facts().max_timestamp, -1);
}

#[test]
fn compacted_topic_takes_no_record_without_a_key() {
    let record = Record { key: None, ..Record::new(0, 0, b"v") };
    let batch = Batch { payload: record.bytes(), record_count: 1, last_offset_delta: 0, ..Batch::plain() };
    assert!(check(&batch).is_ok());
    let compacted = BatchRules { key: KeyRule::Required, ..rules() };
    assert_eq!(validate(batch.seal().into(), &compacted), Err(BatchError::KeyMissing));
}

#[test]
fn damaged_compression_is_an_invalid_record() {
    for codec in [1, 2, 3, 4] {
        let mut batch = Batch::compressed(codec);
        batch.payload.truncate(batch.payload.len() / 2);
        let error = check(&batch).unwrap_err();
        assert_eq!(ErrorCode::from(&error), ErrorCode::INVALID_RECORD, "{codec}: {error}");
    }
}

/// One record that claims `bytes` zeros as its value, compressed.
fn bomb(codec: i16, bytes: usize) -> Batch {
    let body = Record { headers: vec![], value: Some(vec![0; bytes]), ..Record::new(0, 0, b"") }.bytes();
    let payload = compress(codec, &body);
    Batch { attributes: codec % 100, payload, record_count: 1, last_offset_delta: 0, ..Batch::plain() }
}

#[test]
fn decompression_stops_at_the_budget_in_every_codec() {
    let small = Budget { bytes_max: 1 << 20, ratio_max: 1024 };
    for codec in [1, 2, 3, 4] {
        let bomb = bomb(codec, 16 << 20).seal();
        let large = BatchRules { message_bytes_max: 8 << 20, ..rules() };
        let error = validate(bomb.clone().into(), &BatchRules { budget: small, ..large }).unwrap_err();
        assert_eq!(error, BatchError::Record(RecordError::Budget), "codec {codec}");
        assert_eq!(ErrorCode::from(&error), ErrorCode::MESSAGE_TOO_LARGE);
        let ratio = Budget { bytes_max: 128 << 20, ratio_max: 2 };
        let ratio = validate(bomb.into(), &BatchRules { budget: ratio, ..large });
        assert_eq!(ratio, Err(BatchError::Record(RecordError::Budget)), "codec {codec}");
    }
}

#[test]
fn megabyte_of_zeros_is_a_fair_message() {
    for codec in [1, 2, 3, 4] {
        assert!(check(&bomb(codec, 1 << 20)).is_ok(), "codec {codec}");
    }
}

#[test]
fn snappy_that_claims_gigabytes_reserves_nothing() {
    // The raw length of 2^32 - 1 in front of a single literal.
    let payload = vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0, b'x'];
    let batch = Batch { attributes: 2, payload, ..Batch::plain() };
    assert_eq!(check(&batch), Err(BatchError::Record(RecordError::Compression)));
}

#[test]
fn zstd_window_above_8_mib_is_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(24).unwrap();
    std::io::Write::write_all(&mut encoder, &vec![1; 17 << 20]).unwrap();
    let batch = Batch { attributes: 4, payload: encoder.finish().unwrap(), ..Batch::plain() };
    assert_eq!(check(&batch), Err(BatchError::Record(RecordError::Compression)));
}

#[test]
fn record_lengths_that_lie_are_refused() {
    let good = Record::new(0, 0, b"value");
    for at in 0..good.bytes().len() {
        for lie in [0x01, 0x7f, 0x80, 0xff] {
            let mut payload = good.bytes();
            payload[at] = lie;
            let batch = Batch { payload, record_count: 1, last_offset_delta: 0, ..Batch::plain() };
            // Content bytes may be anything; whatever is taken must have the framing of one record.
            let _ = check(&batch);
        }
    }
    let mut huge = Vec::new();
    number(&mut huge, i64::from(i32::MAX));
    let batch = Batch { payload: huge, record_count: 1, last_offset_delta: 0, ..Batch::plain() };
    assert_eq!(check(&batch), Err(BatchError::Record(RecordError::Framing)));
}

#[test]
fn time_is_found_within_a_batch_of_any_codec() {
    for codec in [0, 1, 2, 3, 4] {
        let stored = check(&Batch::compressed(codec)).unwrap().assign(100, 0, None);
        let find = |time| find_time(&stored, time, Budget::default()).unwrap().map(|at| (at.offset, at.timestamp));
        assert_eq!(find(0), Some((100, 1000)));
        assert_eq!(find(1001), Some((101, 1010)));
        assert_eq!(find(1011), None);
        let latest = latest_time(&stored, Budget::default()).unwrap().unwrap();
        assert_eq!((latest.offset, latest.timestamp), (101, 1010));
    }
}

#[test]
fn stored_batches_are_split_without_copying() {
    let stored = Bytes::from([Batch::plain().seal(), Batch::compressed(4).seal()].concat());
    let batches: Vec<_> = split(stored.clone()).collect::<Result<_, _>>().unwrap();
    assert_eq!(batches.len(), 2);
    assert_eq!(batches[0].bytes.as_ptr(), stored.as_ptr());
    let cut = split(stored.slice(..stored.len() - 1)).collect::<Vec<_>>();
    assert_eq!(cut.len(), 2);
    assert_eq!(cut[1].as_ref().unwrap_err().at, batches[0].bytes.len());
}

proptest! {
    #[test]
    fn no_bytes_make_the_check_panic(mut payload in prop::collection::vec(any::<u8>(), 0..300), codec in 0_i16..5) {
        let batch = Batch { attributes: codec, payload: payload.clone(), ..Batch::plain() };
        let _ = check(&batch);
        payload.splice(0..0, b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".iter().copied());
        let _ = check(&Batch { attributes: 2, payload, ..Batch::plain() });
    }
}
