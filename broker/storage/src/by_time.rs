//! Offsets found by time: in the index of segments first, then in the batches themselves.

use schloss_core::PartitionId;
use schloss_wire::batch::{self, Budget};

use crate::engine::Engine;
use crate::error::ReadError;
use crate::integrity::Damage;
use crate::partition::{Part, Partition, TailBatch};
use crate::segment::whole;

/// How far a compressed batch may unfold when a time is looked for in it; it was checked when it came.
const LOOKUP_BUDGET: Budget = Budget { bytes_max: 1 << 30, ratio_max: 1 << 20 };

impl Engine {
    /// The first record with a timestamp of at least `timestamp`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn offset_for_time(&self, id: PartitionId, timestamp: i64) -> Result<Option<(i64, i64)>, ReadError> {
        let partition = self.partition(id).ok_or(ReadError::UnknownPartition)?;
        let (parts, tail, log_start) = snapshot(&partition);
        for part in parts.iter().filter(|part| part.row.max_timestamp >= timestamp) {
            let found = self
                .find_in_part(
                    id,
                    part,
                    log_start,
                    |frame| frame >= timestamp,
                    |bytes| batch::find_time(bytes, timestamp, LOOKUP_BUDGET),
                )
                .await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        for bytes in tail.iter().filter(|batch| batch.max_timestamp >= timestamp) {
            let found = batch::find_time(&whole(bytes), timestamp, LOOKUP_BUDGET)
                .map_err(|error| ReadError::Storage(error.to_string()))?;
            if let Some(found) = found.filter(|found| found.offset >= log_start) {
                return Ok(Some((found.offset, found.timestamp)));
            }
        }
        Ok(None)
    }

    /// The record with the largest timestamp, the first of several.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn max_timestamp(&self, id: PartitionId) -> Result<Option<(i64, i64)>, ReadError> {
        let partition = self.partition(id).ok_or(ReadError::UnknownPartition)?;
        let (parts, tail, log_start) = snapshot(&partition);
        let largest =
            parts.iter().map(|part| part.row.max_timestamp).chain(tail.iter().map(|batch| batch.max_timestamp)).max();
        let Some(largest) = largest.filter(|largest| *largest >= 0) else { return Ok(None) };
        for part in parts.iter().filter(|part| part.row.max_timestamp == largest) {
            let found = self
                .find_in_part(
                    id,
                    part,
                    log_start,
                    |frame| frame == largest,
                    |bytes| batch::find_time(bytes, largest, LOOKUP_BUDGET),
                )
                .await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        for bytes in tail.iter().filter(|batch| batch.max_timestamp == largest) {
            let found = batch::latest_time(&whole(bytes), LOOKUP_BUDGET)
                .map_err(|error| ReadError::Storage(error.to_string()))?;
            if let Some(found) = found {
                return Ok(Some((found.offset, found.timestamp)));
            }
        }
        Ok(None)
    }

    async fn find_in_part(
        &self,
        id: PartitionId,
        part: &Part,
        log_start: i64,
        wanted: impl Fn(i64) -> bool,
        find: impl Fn(&[u8]) -> Result<Option<batch::TimeAt>, batch::RecordError>,
    ) -> Result<Option<(i64, i64)>, ReadError> {
        let found = self.search_part(id, part, log_start, wanted, find).await;
        found.inspect_err(|error| self.reader.integrity.report(&self.counters, &part.segment, error))
    }

    async fn search_part(
        &self,
        id: PartitionId,
        part: &Part,
        log_start: i64,
        wanted: impl Fn(i64) -> bool,
        find: impl Fn(&[u8]) -> Result<Option<batch::TimeAt>, batch::RecordError>,
    ) -> Result<Option<(i64, i64)>, ReadError> {
        let opened = part.segment.open(&*self.objects, &*self.reader.vault, self.reader.cluster).await?;
        let frames = opened.index.get(&id).map(Vec::as_slice).unwrap_or_default();
        let in_part = frames.iter().filter(|frame| {
            frame.first_offset >= part.row.first_offset
                && frame.first_offset < part.row.next_offset
                && wanted(frame.max_timestamp)
        });
        for frame in in_part {
            for (_, plain) in self.reader.open_frames(id, &part.segment, &opened, std::slice::from_ref(frame)).await? {
                for stored in batch::split(plain) {
                    let stored = stored.map_err(|_| ReadError::Damaged(Damage::Batches))?;
                    let found = find(&stored.bytes).map_err(|error| ReadError::Storage(error.to_string()))?;
                    if let Some(found) = found.filter(|found| found.offset >= log_start) {
                        return Ok(Some((found.offset, found.timestamp)));
                    }
                }
            }
        }
        Ok(None)
    }
}

fn snapshot(partition: &Partition) -> (Vec<Part>, Vec<TailBatch>, i64) {
    let inner = partition.read();
    (inner.parts.iter().cloned().collect(), inner.tail.iter().cloned().collect(), inner.log_start)
}
