//! Figures for the operator.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters inside the engine.
#[derive(Debug, Default)]
pub struct Counters {
    pub wal_entries: AtomicU64,
    pub wal_bytes: AtomicU64,
    pub wal_sync_nanos: AtomicU64,
    pub flush_failures: AtomicU64,
    pub cache_hits: AtomicU64,
    pub cache_misses: AtomicU64,
    pub integrity_failures: AtomicU64,
    pub keys_rewrapped: AtomicU64,
    pub segments_rewritten: AtomicU64,
    pub segments_scrubbed: AtomicU64,
}

/// The engine's figures at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Entries written since start.
    pub wal_entries: u64,
    /// Bytes written since start.
    pub wal_bytes: u64,
    /// Nanoseconds spent in writes and syncs since start.
    pub wal_sync_nanos: u64,
    /// Bytes of batches not yet in segments.
    pub tail_bytes: u64,
    /// Bytes of log entries set aside for tenants whose keys are away.
    pub log_bytes_set_aside: u64,
    /// Live segments.
    pub segments: u64,
    /// Their bytes.
    pub segment_bytes: u64,
    /// Flushes that failed since start.
    pub flush_failures: u64,
    /// Frames found opened.
    pub cache_hits: u64,
    /// Frames read and opened.
    pub cache_misses: u64,
    /// Keys wrapped anew since start.
    pub keys_rewrapped: u64,
    /// Segments rewritten under new data keys since start.
    pub segments_rewritten: u64,
    /// Segments checked by the scrub since start.
    pub segments_scrubbed: u64,
    /// Reads that met stored bytes that are not what was written.
    pub integrity_failures: u64,
}

impl Counters {
    /// Adds one.
    pub fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    /// Reads one.
    pub fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}
