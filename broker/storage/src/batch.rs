//! Record batches as the log sees them: a header of 61 bytes it may patch, a body it never reads.
//!
//! In: bytes of one whole batch that `wire` validated (or that we stored). Out: the same batch with its place in the log.
//!
//! Invariant: the body's bytes are never copied between the request and the sealed log.
//!
//! Must not: decompress or decode records.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use schloss_core::limits::BATCH_HEADER_BYTES;

/// Batch header fields by position (Kafka's record batch, magic 2).
const LENGTH: usize = 8;
const LEADER_EPOCH: usize = 12;
const MAGIC: usize = 16;
const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
const LAST_OFFSET_DELTA: usize = 23;
const MAX_TIMESTAMP: usize = 35;
const PRODUCER_ID: usize = 43;
const PRODUCER_EPOCH: usize = 51;
const BASE_SEQUENCE: usize = 53;
/// Bytes before the part that the length field counts.
const LENGTH_FROM: usize = 12;
/// Bit 3 of the attributes: times are the broker's.
const LOG_APPEND_TIME: u8 = 0x08;

/// One whole batch, its header read.
#[derive(Clone, Debug)]
pub struct Batch {
    head: [u8; BATCH_HEADER_BYTES],
    body: Bytes,
}

impl Batch {
    /// Reads the header of exactly one batch; `None` when it is none. Its checksum is not checked here.
    #[must_use]
    pub fn read(bytes: &Bytes) -> Option<Self> {
        let head: [u8; BATCH_HEADER_BYTES] = *bytes.first_chunk()?;
        let batch = Self { head, body: bytes.slice(BATCH_HEADER_BYTES..) };
        let whole = length_of(&batch.head)? == bytes.len() && batch.head[MAGIC] == 2;
        (whole && batch.last_offset_delta() >= 0).then_some(batch)
    }

    fn at<const N: usize>(&self, position: usize) -> [u8; N] {
        // Positions are the constants above, all inside the head.
        let mut field = [0; N];
        field.copy_from_slice(&self.head[position..position + N]);
        field
    }

    /// Bytes of the whole batch.
    #[must_use]
    pub fn len(&self) -> usize {
        BATCH_HEADER_BYTES + self.body.len()
    }

    /// Never: a batch has a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Offset of the first record.
    #[must_use]
    pub fn base_offset(&self) -> i64 {
        i64::from_be_bytes(self.at(0))
    }

    /// Offset of the last record.
    #[must_use]
    pub fn last_offset(&self) -> i64 {
        self.base_offset().saturating_add(i64::from(self.last_offset_delta()))
    }

    /// Last record's offset less the first's.
    #[must_use]
    pub fn last_offset_delta(&self) -> i32 {
        i32::from_be_bytes(self.at(LAST_OFFSET_DELTA))
    }

    /// Leader epoch it was appended in.
    #[must_use]
    pub fn leader_epoch(&self) -> i32 {
        i32::from_be_bytes(self.at(LEADER_EPOCH))
    }

    /// Largest record time.
    #[must_use]
    pub fn max_timestamp(&self) -> i64 {
        i64::from_be_bytes(self.at(MAX_TIMESTAMP))
    }

    /// Producer id, or -1.
    #[must_use]
    pub fn producer_id(&self) -> i64 {
        i64::from_be_bytes(self.at(PRODUCER_ID))
    }

    /// Producer epoch.
    #[must_use]
    pub fn producer_epoch(&self) -> i16 {
        i16::from_be_bytes(self.at(PRODUCER_EPOCH))
    }

    /// Sequence of the first record.
    #[must_use]
    pub fn base_sequence(&self) -> i32 {
        i32::from_be_bytes(self.at(BASE_SEQUENCE))
    }

    /// Sequence of the last record; sequences go on at 0 after 2^31 - 1.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        let sum = i64::from(self.base_sequence()) + i64::from(self.last_offset_delta());
        i32::try_from(sum & i64::from(i32::MAX)).unwrap_or(0)
    }

    /// Gives the batch its place in the log. The checksum covers none of the patched fields, except with
    /// `log_append_time_ms`, where it is made anew.
    #[must_use]
    pub fn place(mut self, base_offset: i64, leader_epoch: i32, log_append_time_ms: Option<i64>) -> Self {
        self.head[..LENGTH].copy_from_slice(&base_offset.to_be_bytes());
        self.head[LEADER_EPOCH..MAGIC].copy_from_slice(&leader_epoch.to_be_bytes());
        if let Some(time_ms) = log_append_time_ms {
            self.head[ATTRIBUTES + 1] |= LOG_APPEND_TIME;
            self.head[MAX_TIMESTAMP..PRODUCER_ID].copy_from_slice(&time_ms.to_be_bytes());
            let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
            digest.update(&self.head[ATTRIBUTES..]);
            digest.update(&self.body);
            // A CRC-32 fits.
            let crc = u32::try_from(digest.finalize()).unwrap_or(0);
            self.head[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
        }
        self
    }

    /// Header and body, to be written one behind the other.
    #[must_use]
    pub fn pieces(&self) -> [Bytes; 2] {
        [Bytes::copy_from_slice(&self.head), self.body.clone()]
    }

    /// Appends the whole batch.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(&self.body);
    }
}

/// Length of the batch that begins with `head`, by its own word.
fn length_of(head: &[u8]) -> Option<usize> {
    let length = i32::from_be_bytes(*head.get(LENGTH..)?.first_chunk()?);
    usize::try_from(length).ok().map(|length| length + LENGTH_FROM)
}

/// Splits bytes of whole batches; `None` when they are not.
#[must_use]
pub fn split_batches(mut bytes: Bytes) -> Option<Vec<Batch>> {
    let mut batches = Vec::new();
    while !bytes.is_empty() {
        let length = length_of(&bytes)?;
        if length > bytes.len() {
            return None;
        }
        batches.push(Batch::read(&bytes.split_to(length))?);
    }
    Some(batches)
}

/// Batches for tests of this and other rooms' code.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A batch of `records` records that carries `payload` as its body.
    pub(crate) fn batch(records: i32, producer: (i64, i16, i32), time_ms: i64, payload: &[u8]) -> Batch {
        let mut bytes = vec![0; BATCH_HEADER_BYTES];
        let length = i32::try_from(BATCH_HEADER_BYTES - LENGTH_FROM + payload.len()).unwrap();
        bytes[LENGTH..LEADER_EPOCH].copy_from_slice(&length.to_be_bytes());
        bytes[MAGIC] = 2;
        bytes[LAST_OFFSET_DELTA..27].copy_from_slice(&(records - 1).to_be_bytes());
        bytes[27..MAX_TIMESTAMP].copy_from_slice(&time_ms.to_be_bytes());
        bytes[MAX_TIMESTAMP..PRODUCER_ID].copy_from_slice(&time_ms.to_be_bytes());
        bytes[PRODUCER_ID..PRODUCER_EPOCH].copy_from_slice(&producer.0.to_be_bytes());
        bytes[PRODUCER_EPOCH..BASE_SEQUENCE].copy_from_slice(&producer.1.to_be_bytes());
        bytes[BASE_SEQUENCE..57].copy_from_slice(&producer.2.to_be_bytes());
        bytes[57..].copy_from_slice(&records.to_be_bytes());
        bytes.extend_from_slice(payload);
        Batch::read(&bytes.into()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::batch;
    use super::*;

    #[test]
    fn place_changes_offset_and_epoch_and_nothing_else() {
        let before = batch(3, (5, 1, 7), 99, b"body");
        let after = before.clone().place(1000, 4, None);
        assert_eq!((after.base_offset(), after.last_offset(), after.leader_epoch()), (1000, 1002, 4));
        assert_eq!(after.head[MAGIC..], before.head[MAGIC..]);
        assert_eq!((after.max_timestamp(), after.last_sequence()), (99, 9));
    }

    #[test]
    fn log_append_time_is_covered_by_a_new_checksum() {
        let after = batch(1, (-1, -1, -1), 5, b"body").place(0, 0, Some(77));
        let covered = [&after.head[ATTRIBUTES..], &after.body[..]].concat();
        let crc = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &covered);
        assert_eq!(u64::from(u32::from_be_bytes(after.at(CRC))), crc);
        assert_eq!(after.max_timestamp(), 77);
    }

    #[test]
    fn sequence_goes_on_at_zero_after_its_maximum() {
        assert_eq!(batch(3, (1, 0, i32::MAX - 1), 0, b"").last_sequence(), 0);
    }

    #[test]
    fn cut_or_lengthened_bytes_are_no_batch() {
        let [head, body] = batch(1, (-1, -1, -1), 0, b"body").pieces();
        let whole = [head, body].concat();
        assert!(Batch::read(&Bytes::copy_from_slice(&whole[..whole.len() - 1])).is_none());
        assert!(Batch::read(&[&whole[..], b"x"].concat().into()).is_none());
        assert_eq!(split_batches([&whole[..], &whole].concat().into()).unwrap().len(), 2);
        assert!(split_batches(whole[..30].to_vec().into()).is_none());
    }
}
