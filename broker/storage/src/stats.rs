//! Figures of the engine, for metrics. Counting never blocks and never fails.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the sync latency buckets, in microseconds; one more bucket takes the rest.
pub const SYNC_BUCKETS_US: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub wal_entries: AtomicU64,
    pub wal_bytes: AtomicU64,
    pub wal_failures: AtomicU64,
    pub sync_us_sum: AtomicU64,
    pub sync_buckets: [AtomicU64; SYNC_BUCKETS_US.len() + 1],
    pub batches: AtomicU64,
    pub duplicates: AtomicU64,
    pub refused_no_space: AtomicU64,
    pub flushes: AtomicU64,
    pub flush_failures: AtomicU64,
    pub segments_written: AtomicU64,
    pub segment_bytes_written: AtomicU64,
    pub segments_erased: AtomicU64,
    pub cache_hits: AtomicU64,
    pub cache_misses: AtomicU64,
    pub tamper_refusals: AtomicU64,
}

impl Stats {
    pub(crate) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    pub(crate) fn synced(&self, bytes: usize, sync_us: u64) {
        Self::add(&self.wal_entries, 1);
        Self::add(&self.wal_bytes, bytes as u64);
        Self::add(&self.sync_us_sum, sync_us);
        let bucket = SYNC_BUCKETS_US.partition_point(|bound| *bound < sync_us);
        if let Some(counter) = self.sync_buckets.get(bucket) {
            Self::add(counter, 1);
        }
    }

    pub(crate) fn snapshot(&self) -> EngineStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EngineStats {
            wal_entries: read(&self.wal_entries),
            wal_bytes: read(&self.wal_bytes),
            wal_failures: read(&self.wal_failures),
            sync_us_sum: read(&self.sync_us_sum),
            sync_buckets: std::array::from_fn(|at| self.sync_buckets.get(at).map_or(0, read)),
            batches: read(&self.batches),
            duplicates: read(&self.duplicates),
            refused_no_space: read(&self.refused_no_space),
            flushes: read(&self.flushes),
            flush_failures: read(&self.flush_failures),
            segments_written: read(&self.segments_written),
            segment_bytes_written: read(&self.segment_bytes_written),
            segments_erased: read(&self.segments_erased),
            cache_hits: read(&self.cache_hits),
            cache_misses: read(&self.cache_misses),
            tamper_refusals: read(&self.tamper_refusals),
            ..EngineStats::default()
        }
    }
}

/// A reading of all figures. Counters only grow while the process lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Entries written; each was one sync.
    pub wal_entries: u64,
    /// Bytes of entries.
    pub wal_bytes: u64,
    /// Writes or syncs that failed.
    pub wal_failures: u64,
    /// Sum of sync times.
    pub sync_us_sum: u64,
    /// Syncs by [`SYNC_BUCKETS_US`], not cumulated.
    pub sync_buckets: [u64; SYNC_BUCKETS_US.len() + 1],
    /// Batches appended.
    pub batches: u64,
    /// Retried batches answered with their old offset.
    pub duplicates: u64,
    /// Appends refused because the disk was full.
    pub refused_no_space: u64,
    /// Flushes committed.
    pub flushes: u64,
    /// Flushes that failed and are tried again.
    pub flush_failures: u64,
    /// Segments written.
    pub segments_written: u64,
    /// Bytes of segments written.
    pub segment_bytes_written: u64,
    /// Segments erased.
    pub segments_erased: u64,
    /// Frames found open.
    pub cache_hits: u64,
    /// Frames read and opened.
    pub cache_misses: u64,
    /// Pieces of data that did not verify.
    pub tamper_refusals: u64,
    /// Bytes in tails now.
    pub tail_bytes: u64,
    /// Partitions now.
    pub partitions: u64,
    /// Live segments' bytes of partitions now.
    pub log_bytes: u64,
}
