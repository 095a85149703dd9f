//! One partition's log as readers see it: segments' parts below, the tail above, the high watermark at the end.
//!
//! In: durable batches from the shard, parts from flushes, log starts. Out: plans of what to read where.
//!
//! Invariants
//! - Only durable batches are in the tail, so everything below the high watermark stays.
//! - Parts and tail follow each other without a hole: `parts | tail = log_start.. high_watermark`.
//! - The log start and the high watermark never go back.
//!
//! Must not: await under its lock.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use bytes::Bytes;
use schloss_core::{PartitionId, ShardId, TenantId};
use schloss_metadata::SegmentRow;
use tokio::sync::Notify;

use crate::batch::Batch;
use crate::config::LogConfig;
use crate::error::ReadError;

/// A run of this partition in a segment.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub first_offset: i64,
    pub next_offset: i64,
    pub max_timestamp: i64,
    pub bytes: u64,
    /// Facts of the object; its own list of parts is empty here.
    pub segment: Arc<SegmentRow>,
}

/// Where a partition's log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// First readable offset.
    pub log_start: i64,
    /// One past the last durable record.
    pub high_watermark: i64,
    /// The leader epoch now.
    pub leader_epoch: i32,
}

pub(crate) struct PartitionLog {
    pub id: PartitionId,
    pub tenant: TenantId,
    pub shard: ShardId,
    pub leader_epoch: i32,
    inner: RwLock<Inner>,
    waiting: Mutex<Vec<Weak<Notify>>>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub config: LogConfig,
    pub log_start: i64,
    pub high_watermark: i64,
    pub parts: VecDeque<Part>,
    pub tail: VecDeque<Batch>,
    pub tail_bytes: usize,
    pub epochs: Vec<(i32, i64)>,
    /// The tenant's key was not there at recovery: nothing is known yet.
    pub locked: bool,
    pub removed: bool,
}

/// What a read at an offset finds.
pub(crate) enum Plan {
    /// At the end.
    Nothing,
    /// Whole batches of the tail.
    Tail(Vec<Batch>),
    /// A part; its frames are to be opened.
    Part(Part),
}

impl PartitionLog {
    pub(crate) fn new(
        id: PartitionId,
        tenant: TenantId,
        shard: ShardId,
        leader_epoch: i32,
        config: LogConfig,
    ) -> Self {
        Self {
            id,
            tenant,
            shard,
            leader_epoch,
            inner: RwLock::new(Inner {
                config,
                log_start: 0,
                high_watermark: 0,
                parts: VecDeque::new(),
                tail: VecDeque::new(),
                tail_bytes: 0,
                epochs: Vec::new(),
                locked: false,
                removed: false,
            }),
            waiting: Mutex::default(),
        }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes durable batches into the tail and wakes readers.
    pub(crate) fn extend(&self, batches: Vec<Batch>) {
        let mut inner = self.write();
        for batch in batches {
            inner.push(batch);
        }
        drop(inner);
        self.wake();
    }

    pub(crate) fn offsets(&self) -> Offsets {
        let inner = self.read();
        Offsets {
            log_start: inner.log_start,
            high_watermark: inner.high_watermark,
            leader_epoch: self.leader_epoch,
        }
    }

    /// Wakes `notify` at the next change of the log.
    pub(crate) fn register(&self, notify: &Arc<Notify>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Fetches that gave up are swept here, so the list stays as long as there are waiters.
        waiting.retain(|waiter| waiter.strong_count() > 0);
        waiting.push(Arc::downgrade(notify));
    }

    pub(crate) fn wake(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.iter().filter_map(Weak::upgrade).for_each(|waiter| waiter.notify_one());
    }
}

impl Inner {
    pub(crate) fn push(&mut self, batch: Batch) {
        let epoch = batch.leader_epoch();
        if self.epochs.last().is_none_or(|(last, _)| *last < epoch) {
            self.epochs.push((epoch, batch.base_offset()));
        }
        self.high_watermark = batch.last_offset() + 1;
        self.tail_bytes += batch.len();
        self.tail.push_back(batch);
    }

    /// What stands at `offset`; the first batch is given whatever its size if `min_one`.
    pub(crate) fn plan(&self, offset: i64, max_bytes: usize, min_one: bool) -> Result<Plan, ReadError> {
        if self.removed {
            return Err(ReadError::UnknownPartition);
        }
        if self.locked {
            return Err(ReadError::Key);
        }
        if offset < self.log_start || offset > self.high_watermark {
            return Err(ReadError::OffsetOutOfRange {
                log_start: self.log_start,
                high_watermark: self.high_watermark,
            });
        }
        if let Some(part) = self.part_at(offset) {
            return Ok(Plan::Part(part.clone()));
        }
        let from = self.tail.partition_point(|batch| batch.last_offset() < offset);
        let mut taken = Vec::new();
        let mut bytes = 0_usize;
        for batch in self.tail.range(from..) {
            bytes = bytes.saturating_add(batch.len());
            if bytes > max_bytes && !(min_one && taken.is_empty()) {
                break;
            }
            taken.push(batch.clone());
        }
        Ok(if taken.is_empty() { Plan::Nothing } else { Plan::Tail(taken) })
    }

    pub(crate) fn part_at(&self, offset: i64) -> Option<&Part> {
        let at = self.parts.partition_point(|part| part.next_offset <= offset);
        self.parts.get(at)
    }

    /// Replaces the tail below the new parts' end by them. Answers the bytes freed.
    pub(crate) fn flushed(&mut self, parts: Vec<Part>) -> usize {
        let before = self.tail_bytes;
        for part in parts {
            while self.tail.front().is_some_and(|batch| batch.last_offset() < part.next_offset) {
                self.tail_bytes -= self.tail.pop_front().map_or(0, |batch| batch.len());
            }
            self.parts.push_back(part);
        }
        before - self.tail_bytes
    }

    pub(crate) fn size(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum::<u64>() + self.tail_bytes as u64
    }

    /// Leading parts that retention takes at `now_ms`, and the log start behind them.
    pub(crate) fn expired(&self, now_ms: i64) -> (Vec<i64>, i64) {
        let mut left = self.size();
        let mut start = self.log_start;
        let mut gone = Vec::new();
        for part in &self.parts {
            let old = self.config.retention_ms >= 0 && part.max_timestamp < now_ms - self.config.retention_ms;
            let limit = u64::try_from(self.config.retention_bytes).unwrap_or(u64::MAX);
            let large = left - part.bytes >= limit;
            let deleted = part.next_offset <= start;
            if !(old || large || deleted) {
                break;
            }
            left -= part.bytes;
            start = start.max(part.next_offset);
            gone.push(part.first_offset);
        }
        (gone, start)
    }

    /// Drops what [`Inner::expired`] named.
    pub(crate) fn drop_parts(&mut self, gone: &[i64], start: i64) {
        while self.parts.front().is_some_and(|part| gone.contains(&part.first_offset)) {
            self.parts.pop_front();
        }
        self.log_start = self.log_start.max(start);
        let first = self.log_start;
        // The last epoch that begins at or below the log start still names the records after it.
        let keep = self.epochs.iter().rposition(|(_, offset)| *offset <= first).unwrap_or(0);
        self.epochs.drain(..keep);
    }

    /// SPEC: KIP-320: the largest known epoch not above `epoch`, and where it ended.
    pub(crate) fn end_of_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        let at = self.epochs.iter().rposition(|(known, _)| *known <= epoch)?;
        let end = self.epochs.get(at + 1).map_or(self.high_watermark, |(_, offset)| *offset);
        self.epochs.get(at).map(|(known, _)| (*known, end))
    }
}

/// Header and body slices of batches, one behind the other.
pub(crate) fn pieces(batches: &[Batch]) -> Vec<Bytes> {
    batches.iter().flat_map(Batch::pieces).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::testing::batch;
    use schloss_core::TopicId;

    fn log(batches: &[(i32, i64)]) -> PartitionLog {
        let id = PartitionId { topic: TopicId::from_bytes([1; 16]), index: 0 };
        let tenant = TenantId::new(1).unwrap();
        let log = PartitionLog::new(id, tenant, ShardId(0), 1, LogConfig::default());
        let mut next = 0;
        for (records, time_ms) in batches {
            log.extend(vec![batch(*records, (-1, -1, -1), *time_ms, b"body").place(next, 1, None)]);
            next += i64::from(*records);
        }
        log
    }

    fn tail_of(plan: Plan) -> Vec<i64> {
        match plan {
            Plan::Tail(batches) => batches.iter().map(Batch::base_offset).collect(),
            Plan::Nothing => vec![],
            Plan::Part(_) => panic!("no part is there"),
        }
    }

    #[test]
    fn read_inside_a_batch_gives_the_whole_batch() {
        let log = log(&[(5, 0), (5, 0), (5, 0)]);
        assert_eq!(tail_of(log.read().plan(7, usize::MAX, false).unwrap()), [5, 10]);
        assert_eq!(tail_of(log.read().plan(15, usize::MAX, true).unwrap()), [0_i64; 0]);
    }

    #[test]
    fn first_batch_is_given_whatever_its_size_only_if_asked() {
        let log = log(&[(1, 0), (1, 0)]);
        assert_eq!(tail_of(log.read().plan(0, 1, true).unwrap()), [0]);
        assert_eq!(tail_of(log.read().plan(0, 1, false).unwrap()), [0_i64; 0]);
    }

    #[test]
    fn offset_outside_of_the_log_is_refused() {
        let log = log(&[(2, 0)]);
        log.write().log_start = 1;
        let refused = ReadError::OffsetOutOfRange { log_start: 1, high_watermark: 2 };
        assert_eq!(log.read().plan(0, 9, true).err(), Some(refused.clone()));
        assert_eq!(log.read().plan(3, 9, true).err(), Some(refused));
    }

    #[test]
    fn waiter_is_woken_by_the_next_batch() {
        let log = log(&[]);
        let notify = Arc::new(Notify::new());
        log.register(&notify);
        log.extend(vec![batch(1, (-1, -1, -1), 0, b"")]);
        assert!(futures::FutureExt::now_or_never(notify.notified()).is_some());
    }

    #[test]
    fn end_of_an_epoch_is_the_start_of_the_next() {
        let log = log(&[(2, 0)]);
        log.extend(vec![batch(2, (-1, -1, -1), 0, b"").place(2, 4, None)]);
        assert_eq!(log.read().end_of_epoch(1), Some((1, 2)));
        assert_eq!(log.read().end_of_epoch(3), Some((1, 2)));
        assert_eq!(log.read().end_of_epoch(4), Some((4, 4)));
        assert_eq!(log.read().end_of_epoch(0), None);
    }
}
