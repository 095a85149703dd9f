//! The 61 bytes in front of each batch, and cutting stored bytes into batches.
//!
//! Must not: trust a length before it is compared with the bytes there.

use bytes::Bytes;

/// Bytes of a batch's header.
pub const HEADER_BYTES: usize = schloss_core::limits::BATCH_HEADER_BYTES;
/// Bytes that the batch's own length does not count: base offset and length.
const PREFIX_BYTES: usize = 12;

pub(super) const MAGIC_AT: usize = 16;
pub(super) const CRC_AT: usize = 17;
/// The checksum covers all from here.
pub(super) const CHECKED_FROM: usize = 21;

/// How a batch's records are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Snappy, raw or in xerial's framing.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// Whose clock a batch's timestamps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's.
    LogAppendTime,
}

/// A header as it stands in the bytes; nothing of it is checked but the magic byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// What the batch claims to be long, from the field after this one.
    pub batch_length: i32,
    /// The leader epoch it was appended in.
    pub partition_leader_epoch: i32,
    /// CRC-32C from the attributes on.
    pub crc: u32,
    /// Codec, timestamp type and flags.
    pub attributes: i16,
    /// Offset of the last record, from the base offset.
    pub last_offset_delta: i32,
    /// What the records' timestamps count from.
    pub base_timestamp: i64,
    /// The greatest timestamp.
    pub max_timestamp: i64,
    /// The idempotent producer, or -1.
    pub producer_id: i64,
    /// Its epoch, or -1.
    pub producer_epoch: i16,
    /// Its sequence number of the first record, or -1.
    pub base_sequence: i32,
    /// How many records.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads a header; `None` when the bytes are too few or the magic byte is not 2.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        let mut at = Fields { bytes: header };
        let (base_offset, batch_length, partition_leader_epoch) =
            (i64::from_be_bytes(at.next()?), i32::from_be_bytes(at.next()?), i32::from_be_bytes(at.next()?));
        let [magic] = at.next()?;
        (magic == 2).then_some(())?;
        Some(Self {
            base_offset,
            batch_length,
            partition_leader_epoch,
            crc: u32::from_be_bytes(at.next()?),
            attributes: i16::from_be_bytes(at.next()?),
            last_offset_delta: i32::from_be_bytes(at.next()?),
            base_timestamp: i64::from_be_bytes(at.next()?),
            max_timestamp: i64::from_be_bytes(at.next()?),
            producer_id: i64::from_be_bytes(at.next()?),
            producer_epoch: i16::from_be_bytes(at.next()?),
            base_sequence: i32::from_be_bytes(at.next()?),
            record_count: i32::from_be_bytes(at.next()?),
        })
    }

    /// The codec; `None` for a number that has no meaning.
    #[must_use]
    pub fn codec(&self) -> Option<Codec> {
        match self.attributes & 0x07 {
            0 => Some(Codec::None),
            1 => Some(Codec::Gzip),
            2 => Some(Codec::Snappy),
            3 => Some(Codec::Lz4),
            4 => Some(Codec::Zstd),
            _ => None,
        }
    }

    /// Whose clock the timestamps are.
    #[must_use]
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & LOG_APPEND_TIME == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    /// Whether the batch is part of a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// Whether the batch is a transaction marker.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    /// Whether the base timestamp is a compaction's delete horizon.
    #[must_use]
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & 0x40 != 0
    }

    /// Offset of the last record.
    #[must_use]
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// Length of the whole batch, header included; `None` when it claims less than a header.
    #[must_use]
    pub fn total_bytes(&self) -> Option<usize> {
        usize::try_from(self.batch_length).ok()?.checked_add(PREFIX_BYTES).filter(|total| *total >= HEADER_BYTES)
    }
}

/// The attribute bit of [`TimestampType::LogAppendTime`].
pub(super) const LOG_APPEND_TIME: i16 = 0x08;

struct Fields<'a> {
    bytes: &'a [u8],
}

impl Fields<'_> {
    fn next<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*field)
    }
}

/// One batch of stored bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBatch {
    /// Its header.
    pub header: BatchHeader,
    /// All of it, header included; a slice of what was split.
    pub bytes: Bytes,
}

/// Stored bytes that are not whole batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no whole record batch at byte {at}")]
pub struct SplitError {
    /// Where.
    pub at: usize,
}

/// Cuts stored bytes into batches without copying. After an error the iterator ends.
pub fn split(bytes: Bytes) -> Split {
    Split { bytes, at: 0 }
}

/// See [`split`].
#[derive(Clone, Debug)]
pub struct Split {
    bytes: Bytes,
    at: usize,
}

impl Iterator for Split {
    type Item = Result<StoredBatch, SplitError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let at = self.at;
        let whole = BatchHeader::read(&self.bytes)
            .and_then(|header| header.total_bytes().map(|total| (header, total)))
            .filter(|(_, total)| *total <= self.bytes.len());
        let Some((header, total)) = whole else {
            self.bytes.clear();
            return Some(Err(SplitError { at }));
        };
        self.at = at.saturating_add(total);
        Some(Ok(StoredBatch { header, bytes: self.bytes.split_to(total) }))
    }
}
