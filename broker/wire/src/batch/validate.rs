//! The check of a producer's batch, by the rules of Kafka's `LogValidator`.
//!
//! In: the records of one partition of a Produce request. Out: [`ValidBatch`], or a [`BatchError`] with its error code.
//!
//! Must not: take a control batch, an unknown codec or another magic from a client.

use bytes::{BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use schloss_core::ErrorCode;

use super::header::{BatchHeader, CHECKED_FROM, CRC_AT, Codec, HEADER_BYTES, LOG_APPEND_TIME, MAGIC_AT, TimestampType};
use super::payload::Budget;
use super::records::{Go, RecordError, RecordFacts, scan};

/// The first Produce version with Zstandard (KIP-110).
const PRODUCE_ZSTD_MIN: i16 = 7;
/// "No timestamp" in a record.
const NO_TIMESTAMP: i64 = -1;

/// Whose clock counts in a topic, and how far a producer's may be off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeRule {
    /// The producer's (`message.timestamp.type=CreateTime`).
    CreateTime {
        /// `message.timestamp.before.max.ms`.
        before_ms_max: i64,
        /// `message.timestamp.after.max.ms`.
        after_ms_max: i64,
    },
    /// The broker's (`message.timestamp.type=LogAppendTime`).
    LogAppendTime,
}

/// Whether each record needs a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRule {
    /// As the producer likes.
    Optional,
    /// Compacted topics: a record without a key could never be compacted away.
    Required,
}

/// What a batch must keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRules {
    /// `max.message.bytes`: the whole batch as it came.
    pub message_bytes_max: usize,
    /// How much it may become decompressed.
    pub budget: Budget,
    /// Whose clock counts.
    pub time: TimeRule,
    /// The broker's clock.
    pub now_ms: i64,
    /// Whether `cleanup.policy` has `compact`.
    pub key: KeyRule,
    /// Version of the Produce request.
    pub produce_version: i16,
}

/// An idempotent producer's mark on a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Its id, 0 or more.
    pub id: i64,
    /// Its epoch, 0 or more.
    pub epoch: i16,
    /// The sequence number of the batch's first record, 0 or more.
    pub base_sequence: i32,
}

/// What is known of a batch after its check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchFacts {
    /// How many records, 1 or more.
    pub record_count: i32,
    /// Offset of the last record from the first: `record_count - 1`.
    pub last_offset_delta: i32,
    /// The producer, when it is idempotent.
    pub producer: Option<Producer>,
    /// What the records' timestamps count from.
    pub base_timestamp: i64,
    /// The greatest timestamp that a record really has, or -1.
    pub max_timestamp: i64,
    /// The compression, kept as it came.
    pub codec: Codec,
    /// Whether the batch is part of a transaction.
    pub is_transactional: bool,
}

/// A batch that keeps to every rule. Only [`validate`] makes one.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidBatch {
    bytes: Bytes,
    head: [u8; HEADER_BYTES],
    facts: BatchFacts,
}

/// Why a batch was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// No batch, or more than the one Kafka allows per partition.
    #[error("a partition of a produce request must have exactly one record batch")]
    NotOneBatch,
    /// Fewer bytes than the batch claims, or a claim below a header.
    #[error("the record batch claims {claimed} bytes, {present} are there")]
    Size {
        /// What its length says.
        claimed: i64,
        /// What came.
        present: usize,
    },
    /// Another magic byte than 2.
    #[error("record batches of magic {magic} are not taken")]
    Magic {
        /// What it says.
        magic: u8,
    },
    /// Above `max.message.bytes`.
    #[error("the record batch has {bytes} bytes, {max} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The checksum does not match.
    #[error("the record batch's CRC-32C does not match")]
    Checksum,
    /// The control bit, which only coordinators set.
    #[error("clients must not write control batches")]
    Control,
    /// The delete-horizon bit, which only compaction sets.
    #[error("clients must not set the delete horizon")]
    DeleteHorizon,
    /// A codec number without meaning.
    #[error("unknown compression type {codec}")]
    Codec {
        /// The number.
        codec: i16,
    },
    /// Zstandard in a Produce request older than Zstandard.
    #[error("zstd needs produce version 7 or newer")]
    ZstdTooOld,
    /// Count and last offset delta that contradict each other, or no record at all.
    #[error("{record_count} records with last offset delta {last_offset_delta}")]
    Count {
        /// Records claimed.
        record_count: i32,
        /// Last offset delta claimed.
        last_offset_delta: i32,
    },
    /// A producer id without epoch or sequence number, or a transaction without a producer id.
    #[error("producer id, epoch and sequence number do not fit together")]
    Producer,
    /// The producer claims the broker's clock, or is too far off it.
    #[error("timestamp {timestamp} is out of bounds")]
    Timestamp {
        /// The timestamp.
        timestamp: i64,
    },
    /// A record without key in a compacted topic.
    #[error("a compacted topic takes no record without a key")]
    KeyMissing,
    /// The records themselves.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl From<&BatchError> for ErrorCode {
    fn from(error: &BatchError) -> Self {
        match error {
            BatchError::Size { .. } | BatchError::Checksum => Self::CORRUPT_MESSAGE,
            BatchError::TooLarge { .. } | BatchError::Record(RecordError::Budget) => Self::MESSAGE_TOO_LARGE,
            BatchError::Codec { .. } | BatchError::ZstdTooOld => Self::UNSUPPORTED_COMPRESSION_TYPE,
            BatchError::Timestamp { .. } => Self::INVALID_TIMESTAMP,
            BatchError::NotOneBatch
            | BatchError::Magic { .. }
            | BatchError::Control
            | BatchError::DeleteHorizon
            | BatchError::Count { .. }
            | BatchError::Producer
            | BatchError::KeyMissing
            | BatchError::Record(
                RecordError::Framing | RecordError::OffsetDelta | RecordError::Trailing | RecordError::Compression,
            ) => Self::INVALID_RECORD,
        }
    }
}

/// Checks the records of one partition. Kafka's answer to anything but exactly one batch is a refusal.
///
/// # Errors
/// The first [`BatchError`] found.
pub fn validate(records: Bytes, rules: &BatchRules) -> Result<ValidBatch, BatchError> {
    let header = whole_batch(&records, rules)?;
    let codec = flags(&header, rules)?;
    if header.record_count <= 0 || header.last_offset_delta != header.record_count.saturating_sub(1) {
        let BatchHeader { record_count, last_offset_delta, .. } = header;
        return Err(BatchError::Count { record_count, last_offset_delta });
    }
    let producer = producer(&header)?;
    let payload = records.get(HEADER_BYTES..).unwrap_or_default();
    let mut max_timestamp = NO_TIMESTAMP;
    scan(codec, payload, header.record_count, rules.budget, |record: RecordFacts| {
        if rules.key == KeyRule::Required && !record.has_key {
            return Err(BatchError::KeyMissing);
        }
        let timestamp = header.base_timestamp.wrapping_add(record.timestamp_delta);
        check_time(timestamp, rules)?;
        max_timestamp = max_timestamp.max(timestamp);
        Ok(Go::On)
    })?;
    let facts = BatchFacts {
        record_count: header.record_count,
        last_offset_delta: header.last_offset_delta,
        producer,
        base_timestamp: header.base_timestamp,
        max_timestamp,
        codec,
        is_transactional: header.is_transactional(),
    };
    let head = *records.first_chunk().ok_or(BatchError::NotOneBatch)?;
    Ok(ValidBatch { bytes: records, head, facts })
}

/// Sizes, magic and checksum.
fn whole_batch(records: &Bytes, rules: &BatchRules) -> Result<BatchHeader, BatchError> {
    let present = records.len();
    if present == 0 {
        return Err(BatchError::NotOneBatch);
    }
    match records.get(MAGIC_AT) {
        None => return Err(BatchError::Size { claimed: 0, present }),
        Some(2) => {}
        Some(magic) => return Err(BatchError::Magic { magic: *magic }),
    }
    let header = BatchHeader::read(records).ok_or(BatchError::Size { claimed: 0, present })?;
    let claimed = i64::from(header.batch_length);
    let total = header.total_bytes().filter(|total| *total <= present);
    let total = total.ok_or(BatchError::Size { claimed, present })?;
    if total < present {
        return Err(BatchError::NotOneBatch);
    }
    if total > rules.message_bytes_max {
        return Err(BatchError::TooLarge { bytes: total, max: rules.message_bytes_max });
    }
    let checked = records.get(CHECKED_FROM..).unwrap_or_default();
    if crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, checked) != u64::from(header.crc) {
        return Err(BatchError::Checksum);
    }
    Ok(header)
}

fn flags(header: &BatchHeader, rules: &BatchRules) -> Result<Codec, BatchError> {
    // SECURITY: a forged control batch would end or abort other producers' transactions in readers' eyes.
    if header.is_control() {
        return Err(BatchError::Control);
    }
    if header.has_delete_horizon() {
        return Err(BatchError::DeleteHorizon);
    }
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Err(BatchError::Timestamp { timestamp: header.max_timestamp });
    }
    match header.codec() {
        None => Err(BatchError::Codec { codec: header.attributes & 0x07 }),
        Some(Codec::Zstd) if rules.produce_version < PRODUCE_ZSTD_MIN => Err(BatchError::ZstdTooOld),
        Some(codec) => Ok(codec),
    }
}

fn producer(header: &BatchHeader) -> Result<Option<Producer>, BatchError> {
    let (id, epoch, base_sequence) = (header.producer_id, header.producer_epoch, header.base_sequence);
    match id {
        0.. if epoch >= 0 && base_sequence >= 0 => Ok(Some(Producer { id, epoch, base_sequence })),
        -1 if !header.is_transactional() => Ok(None),
        _ => Err(BatchError::Producer),
    }
}

fn check_time(timestamp: i64, rules: &BatchRules) -> Result<(), BatchError> {
    let TimeRule::CreateTime { before_ms_max, after_ms_max } = rules.time else { return Ok(()) };
    let fits = timestamp == NO_TIMESTAMP
        || (timestamp >= 0
            && rules.now_ms.saturating_sub(timestamp) <= before_ms_max
            && timestamp.saturating_sub(rules.now_ms) <= after_ms_max);
    if fits { Ok(()) } else { Err(BatchError::Timestamp { timestamp }) }
}

impl ValidBatch {
    /// What the check learned.
    #[must_use]
    pub fn facts(&self) -> &BatchFacts {
        &self.facts
    }

    /// Size of the whole batch; [`ValidBatch::assign`] does not change it.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Everything behind the header, uncopied and the same before and after [`ValidBatch::assign_head`].
    #[must_use]
    pub fn payload(&self) -> Bytes {
        self.bytes.slice(HEADER_BYTES.min(self.bytes.len())..)
    }

    /// The header with its place in the log. With `log_append_ms` the batch takes the broker's time.
    #[must_use]
    pub fn assign_head(&self, base_offset: i64, leader_epoch: i32, log_append_ms: Option<i64>) -> [u8; HEADER_BYTES] {
        let fields = BatchHeader::read(&self.head);
        let (was_attributes, was_max) = fields.map_or((0, 0), |head| (head.attributes, head.max_timestamp));
        let (attributes, max_timestamp) = match log_append_ms {
            Some(now_ms) => (was_attributes | LOG_APPEND_TIME, now_ms),
            None => (was_attributes, self.facts.max_timestamp),
        };
        let mut checked = BytesMut::with_capacity(HEADER_BYTES);
        checked.put_i16(attributes);
        checked.put_slice(self.head.get(23..35).unwrap_or_default());
        checked.put_i64(max_timestamp);
        checked.put_slice(self.head.get(43..).unwrap_or_default());
        let crc = if (attributes, max_timestamp) == (was_attributes, was_max) {
            fields.map_or(0, |head| head.crc)
        } else {
            let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
            digest.update(&checked);
            digest.update(self.bytes.get(HEADER_BYTES..).unwrap_or_default());
            u32::try_from(digest.finalize()).unwrap_or_default()
        };
        let mut head = BytesMut::with_capacity(HEADER_BYTES);
        head.put_i64(base_offset);
        head.put_slice(self.head.get(8..12).unwrap_or_default());
        head.put_i32(leader_epoch);
        head.put_slice(self.head.get(MAGIC_AT..CRC_AT).unwrap_or_default());
        head.put_u32(crc);
        head.put_slice(&checked);
        head.first_chunk().copied().unwrap_or(self.head)
    }

    /// The whole batch with its place in the log, in one new allocation.
    #[must_use]
    pub fn assign(&self, base_offset: i64, leader_epoch: i32, log_append_ms: Option<i64>) -> Bytes {
        let mut whole = BytesMut::with_capacity(self.bytes.len());
        whole.put_slice(&self.assign_head(base_offset, leader_epoch, log_append_ms));
        whole.put_slice(self.bytes.get(HEADER_BYTES..).unwrap_or_default());
        whole.freeze()
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
