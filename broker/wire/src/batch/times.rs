//! Times within one stored batch, for ListOffsets.
//!
//! In: a whole stored batch. Out: the offset and timestamp of a record.
//!
//! Must not: be asked about bytes that were not validated when they came; the budget still holds.

use super::header::{BatchHeader, HEADER_BYTES, TimestampType};
use super::payload::Budget;
use super::records::{Go, RecordError, RecordFacts, scan};

/// A record's place in the log and in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeAt {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp.
    pub timestamp: i64,
}

/// The first record of `batch` with a timestamp of at least `timestamp`.
///
/// # Errors
/// [`RecordError`] when the bytes are no batch.
pub fn find_time(batch: &[u8], timestamp: i64, budget: Budget) -> Result<Option<TimeAt>, RecordError> {
    let header = BatchHeader::read(batch).ok_or(RecordError::Framing)?;
    if header.max_timestamp < timestamp {
        return Ok(None);
    }
    first(&header, batch, budget, |at| at >= timestamp)
}

/// The first record of `batch` that has the batch's greatest timestamp.
///
/// # Errors
/// [`RecordError`] when the bytes are no batch.
pub fn latest_time(batch: &[u8], budget: Budget) -> Result<Option<TimeAt>, RecordError> {
    let header = BatchHeader::read(batch).ok_or(RecordError::Framing)?;
    first(&header, batch, budget, |at| at == header.max_timestamp)
}

fn first(
    header: &BatchHeader,
    batch: &[u8],
    budget: Budget,
    wanted: impl Fn(i64) -> bool,
) -> Result<Option<TimeAt>, RecordError> {
    if header.timestamp_type() == TimestampType::LogAppendTime {
        // Every record has the batch's time.
        let found = TimeAt { offset: header.base_offset, timestamp: header.max_timestamp };
        return Ok(Some(found).filter(|found| wanted(found.timestamp)));
    }
    let codec = header.codec().ok_or(RecordError::Framing)?;
    let payload = batch.get(HEADER_BYTES..).ok_or(RecordError::Framing)?;
    let mut found = None;
    scan(codec, payload, header.record_count, budget, |record: RecordFacts| {
        let timestamp = header.base_timestamp.wrapping_add(record.timestamp_delta);
        if !wanted(timestamp) {
            return Ok::<_, RecordError>(Go::On);
        }
        let offset = header.base_offset.saturating_add(i64::from(record.offset_delta));
        found = Some(TimeAt { offset, timestamp });
        Ok(Go::Stop)
    })?;
    Ok(found)
}
