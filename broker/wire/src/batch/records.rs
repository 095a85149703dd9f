//! Walks the records of a batch: framing only, nothing kept.
//!
//! In: the bytes behind a batch's header, compressed or not. Out: per record its deltas and whether it has a key.
//!
//! Invariants
//! - Each record ends exactly where its length says; all records together are exactly the payload.
//! - Memory is one buffer of the decompressor, whatever the payload claims.
//!
//! Must not: hand out keys, values or headers.

use std::io::{self, BufRead};

use super::header::Codec;
use super::payload::{self, Budget};

/// What is wrong with a batch's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A record's lengths contradict each other or the payload's end.
    #[error("a record's lengths do not fit")]
    Framing,
    /// Offset deltas other than 0, 1, 2 and so on.
    #[error("a record is out of sequence within its batch")]
    OffsetDelta,
    /// Bytes behind the last record.
    #[error("bytes remain behind the last record")]
    Trailing,
    /// The compressed stream is damaged.
    #[error("the compressed records cannot be decompressed")]
    Compression,
    /// More comes out than the budget allows.
    #[error("the records decompress to more than is allowed")]
    Budget,
}

/// One record, without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordFacts {
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: i32,
    pub(super) has_key: bool,
}

/// Whether to go on after a record.
pub(super) enum Go {
    On,
    /// Stop without looking at the rest.
    Stop,
}

/// Walks `count` records and calls `each` for every one.
pub(super) fn scan<E: From<RecordError>>(
    codec: Codec,
    payload: &[u8],
    count: i32,
    budget: Budget,
    each: impl FnMut(RecordFacts) -> Result<Go, E>,
) -> Result<(), E> {
    match codec {
        Codec::None => walk(payload, count, each),
        Codec::Gzip => walk(payload::gzip(payload, budget), count, each),
        Codec::Snappy => walk(payload::snappy(payload, budget), count, each),
        Codec::Lz4 => walk(payload::lz4(payload, budget), count, each),
        Codec::Zstd => walk(payload::zstd(payload, budget).map_err(|_| RecordError::Compression)?, count, each),
    }
}

fn walk<R: BufRead, E: From<RecordError>>(
    reader: R,
    count: i32,
    mut each: impl FnMut(RecordFacts) -> Result<Go, E>,
) -> Result<(), E> {
    let mut source = Source { reader, taken: 0 };
    for expected in 0..count {
        let facts = source.record()?;
        if facts.offset_delta != expected {
            return Err(RecordError::OffsetDelta.into());
        }
        if let Go::Stop = each(facts)? {
            return Ok(());
        }
    }
    // For a compressed payload this also reads and checks the stream's own trailer.
    if source.is_at_end()? { Ok(()) } else { Err(RecordError::Trailing.into()) }
}

struct Source<R> {
    reader: R,
    taken: u64,
}

impl<R: BufRead> Source<R> {
    fn record(&mut self) -> Result<RecordFacts, RecordError> {
        let length = self.length()?.ok_or(RecordError::Framing)?;
        let end = self.taken.saturating_add(length);
        self.byte()?;
        let timestamp_delta = self.number(10)?;
        let offset_delta = self.number32()?;
        let key = self.length()?;
        self.skip(key.unwrap_or(0), end)?;
        let value = self.length()?;
        self.skip(value.unwrap_or(0), end)?;
        let headers = self.length()?.ok_or(RecordError::Framing)?;
        for _ in 0..headers {
            let name = self.length()?.ok_or(RecordError::Framing)?;
            self.skip(name, end)?;
            let value = self.length()?;
            self.skip(value.unwrap_or(0), end)?;
        }
        if self.taken != end {
            return Err(RecordError::Framing);
        }
        Ok(RecordFacts { timestamp_delta, offset_delta, has_key: key.is_some() })
    }

    /// A length or count; `None` is -1.
    fn length(&mut self) -> Result<Option<u64>, RecordError> {
        match self.number32()? {
            -1 => Ok(None),
            length => u64::try_from(length).map(Some).map_err(|_| RecordError::Framing),
        }
    }

    fn number32(&mut self) -> Result<i32, RecordError> {
        i32::try_from(self.number(5)?).map_err(|_| RecordError::Framing)
    }

    /// A zigzag number of at most so many bytes.
    fn number(&mut self, bytes_max: u32) -> Result<i64, RecordError> {
        let mut value = 0_u64;
        for at in 0..bytes_max {
            let byte = self.byte()?;
            // The tenth byte has room for one bit.
            if at == 9 && byte > 1 {
                return Err(RecordError::Framing);
            }
            value |= u64::from(byte & 0x7f).checked_shl(at.saturating_mul(7)).unwrap_or(0);
            if byte < 0x80 {
                return Ok((value >> 1).cast_signed() ^ (value & 1).cast_signed().wrapping_neg());
            }
        }
        Err(RecordError::Framing)
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, RecordError> {
        let byte = *self.reader.fill_buf().map_err(told)?.first().ok_or(RecordError::Framing)?;
        self.reader.consume(1);
        self.taken = self.taken.saturating_add(1);
        Ok(byte)
    }

    fn skip(&mut self, count: u64, end: u64) -> Result<(), RecordError> {
        let to = self.taken.saturating_add(count);
        if to > end {
            return Err(RecordError::Framing);
        }
        while self.taken < to {
            let there = self.reader.fill_buf().map_err(told)?.len();
            if there == 0 {
                return Err(RecordError::Framing);
            }
            let left = to.saturating_sub(self.taken);
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(there);
            self.reader.consume(step);
            self.taken = self.taken.saturating_add(u64::try_from(step).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    fn is_at_end(&mut self) -> Result<bool, RecordError> {
        Ok(self.reader.fill_buf().map_err(told)?.is_empty())
    }
}

fn told(error: io::Error) -> RecordError {
    if error.kind() == io::ErrorKind::QuotaExceeded { RecordError::Budget } else { RecordError::Compression }
}
