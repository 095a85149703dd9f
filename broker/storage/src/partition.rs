//! One partition in memory: where its parts are, its tail, who waits for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use bytes::Bytes;
use schloss_core::{PartitionId, ShardId, TenantId};
use schloss_metadata::PartRow;
use tokio::sync::Notify;

use crate::producer::Producers;
use crate::read_ahead::Trail;
use crate::segment::Segment;

/// What a topic's settings mean for its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Longest age of a record in milliseconds, -1 for no limit.
    pub retention_ms: i64,
    /// Largest size of the partition in bytes, -1 for no limit.
    pub retention_bytes: i64,
    /// Most bytes of one partition in one part of a segment.
    pub segment_bytes: i64,
    /// Longest time one part of a segment takes in records.
    pub segment_ms: i64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { retention_ms: 604_800_000, retention_bytes: -1, segment_bytes: 1 << 30, segment_ms: 604_800_000 }
    }
}

/// A partition's ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// First offset that exists.
    pub log_start: i64,
    /// Next offset to be written; everything below is durable.
    pub high_watermark: i64,
    /// The epoch of the shard that leads it.
    pub leader_epoch: i32,
}

/// A durable batch not yet in a segment, in two pieces: the header with its place in the log, and the rest as it came.
#[derive(Clone, Debug)]
pub struct TailBatch {
    pub base_offset: i64,
    pub last_offset: i64,
    pub max_timestamp: i64,
    pub appended_ms: i64,
    pub head: Bytes,
    pub payload: Bytes,
}

impl TailBatch {
    /// Bytes of the whole batch.
    pub fn size(&self) -> usize {
        self.head.len().saturating_add(self.payload.len())
    }
}

/// One partition's share of one segment.
#[derive(Clone)]
pub struct Part {
    pub row: PartRow,
    pub segment: Arc<Segment>,
}

/// What readers see.
#[derive(Default)]
pub struct Inner {
    pub log_start: i64,
    pub high_watermark: i64,
    pub parts: VecDeque<Part>,
    pub tail: VecDeque<TailBatch>,
    /// (leader epoch, first offset), ascending.
    pub epochs: Vec<(i32, i64)>,
    pub config: LogConfig,
    /// The KMS key the topic names instead of the tenant's.
    pub key_ref: Option<Arc<str>>,
}

impl Inner {
    /// Bytes of parts and tail.
    pub fn size(&self) -> u64 {
        let parts: u64 = self.parts.iter().map(|part| part.row.bytes).sum();
        let tail: usize = self.tail.iter().map(TailBatch::size).sum();
        parts.saturating_add(tail as u64)
    }

    /// Drops what lies wholly below a new log start; returns the bytes of tail dropped.
    pub fn start_at(&mut self, offset: i64) -> usize {
        self.log_start = self.log_start.max(offset);
        while self.parts.front().is_some_and(|part| part.row.next_offset <= self.log_start) {
            self.parts.pop_front();
        }
        self.drop_tail_below(self.log_start)
    }

    /// Drops tail batches that end below `offset`; returns their bytes.
    pub fn drop_tail_below(&mut self, offset: i64) -> usize {
        let mut bytes = 0_usize;
        while self.tail.front().is_some_and(|batch| batch.last_offset < offset) {
            bytes = bytes.saturating_add(self.tail.pop_front().map_or(0, |batch| batch.size()));
        }
        bytes
    }
}

/// What only the shard's thread uses.
#[derive(Default)]
pub struct Writer {
    pub next_offset: i64,
    pub producers: Producers,
    /// Producers changed since the last flush.
    pub producers_dirty: bool,
    /// This epoch is in the partition's epoch list.
    pub epoch_listed: bool,
}

/// One partition.
pub struct Partition {
    pub id: PartitionId,
    pub tenant: TenantId,
    pub shard: ShardId,
    inner: RwLock<Inner>,
    writer: Mutex<Writer>,
    trail: Mutex<Trail>,
    watchers: Mutex<Vec<Weak<Notify>>>,
    removed: AtomicBool,
}

impl Partition {
    pub fn new(id: PartitionId, tenant: TenantId, shard: ShardId, log_start: i64, config: LogConfig) -> Self {
        let inner = Inner { log_start, high_watermark: log_start, config, ..Inner::default() };
        let writer = Writer { next_offset: log_start, ..Writer::default() };
        Self {
            id,
            tenant,
            shard,
            inner: RwLock::new(inner),
            writer: Mutex::new(writer),
            trail: Mutex::default(),
            watchers: Mutex::default(),
            removed: AtomicBool::new(false),
        }
    }

    pub fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where reads of its segments ended.
    pub fn trail(&self) -> MutexGuard<'_, Trail> {
        self.trail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the partition as deleted and wakes who waits for it.
    pub fn remove(&self) {
        self.removed.store(true, Ordering::Release);
        self.wake();
    }

    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    fn watch(&self, notify: &Arc<Notify>) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        // Watches come and go with every waiting fetch; the dead ones are swept when the list has doubled.
        if watchers.len() >= 16 && watchers.len().is_power_of_two() {
            watchers.retain(|watcher| watcher.strong_count() > 0);
        }
        watchers.push(Arc::downgrade(notify));
    }

    /// Wakes everyone who waits for this partition.
    pub fn wake(&self) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| match watcher.upgrade() {
            Some(notify) => {
                notify.notify_one();
                true
            }
            None => false,
        });
    }
}

/// Waits for any of several partitions to change. Made before reading, it misses nothing that comes after.
pub struct Watch {
    notify: Arc<Notify>,
}

impl Watch {
    pub(crate) fn new<'a>(partitions: impl Iterator<Item = &'a Arc<Partition>>) -> Self {
        let notify = Arc::new(Notify::new());
        for partition in partitions {
            partition.watch(&notify);
        }
        Self { notify }
    }

    /// Returns when a partition changed since the watch was made or since the last return.
    pub async fn changed(&mut self) {
        self.notify.notified().await;
    }
}
