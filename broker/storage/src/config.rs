//! Bounds and ages of the engine and of one log. Every number has its reason beside it.

use std::path::PathBuf;
use std::time::Duration;

/// The engine's bounds. [`EngineConfig::new`] gives those of one machine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Folder of the write-ahead logs, one folder per shard in it.
    pub wal_dir: PathBuf,
    /// Number of shards of a new data folder; an existing one keeps its own.
    pub shards: u32,
    /// Length of one WAL file, preallocated and recycled. Also bounds an entry.
    pub wal_file_bytes: u64,
    /// Gathered bytes at which an entry is full: small enough to keep the wait behind it short.
    pub entry_bytes_max: usize,
    /// Bytes one tenant puts into an entry before the next tenant's turn.
    pub tenant_quantum_bytes: usize,
    /// Tail bytes of a shard at which it is flushed into segments.
    pub flush_bytes: usize,
    /// Age of the oldest unflushed entry at which the shard is flushed.
    pub flush_age: Duration,
    /// Tail bytes of a shard above which produce waits.
    pub tail_bytes_max: usize,
    /// Bytes submitted and not yet in an entry, per shard, above which produce is refused.
    pub queue_bytes_max: usize,
    /// How long a produce waits for room in the tail before it is refused.
    pub append_wait_max: Duration,
    /// Target of a frame's plaintext.
    pub frame_bytes: usize,
    /// No segment is begun larger than this.
    pub segment_object_bytes_max: usize,
    /// Opened frames kept in memory.
    pub cache_bytes: usize,
    /// An epoch key is used for no longer than this; renewed at half of it.
    pub epoch_key_age_max: Duration,
    /// How long the last proved key is used while the KMS does not answer.
    pub kms_outage_grace: Duration,
    /// How often retention looks.
    pub retention_every: Duration,
    /// A segment out of the manifest is erased so much later.
    pub erase_grace: Duration,
    /// A silent producer id is forgotten after this (`producer.id.expiration.ms`).
    pub producer_id_expiration: Duration,
    /// Producers remembered per partition: what one tenant can make us keep.
    pub producers_per_partition_max: usize,
}

impl EngineConfig {
    /// Defaults for one machine with WALs in `wal_dir`.
    #[must_use]
    pub fn new(wal_dir: PathBuf) -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            wal_dir,
            shards: 2,
            wal_file_bytes: 32 * MIB as u64,
            entry_bytes_max: 8 * MIB,
            tenant_quantum_bytes: MIB,
            flush_bytes: 32 * MIB,
            flush_age: Duration::from_secs(600),
            tail_bytes_max: 96 * MIB,
            queue_bytes_max: 128 * MIB,
            append_wait_max: Duration::from_secs(10),
            frame_bytes: 64 * 1024,
            segment_object_bytes_max: 64 * MIB,
            cache_bytes: 64 * MIB,
            epoch_key_age_max: Duration::from_secs(300),
            kms_outage_grace: Duration::from_secs(900),
            retention_every: Duration::from_secs(30),
            erase_grace: Duration::ZERO,
            producer_id_expiration: Duration::from_secs(86_400),
            producers_per_partition_max: 10_000,
        }
    }
}

/// The topic settings the log obeys, in Kafka's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `retention.ms`; negative keeps for ever.
    pub retention_ms: i64,
    /// `retention.bytes` per partition; negative keeps all.
    pub retention_bytes: i64,
    /// `segment.bytes`: no part is longer.
    pub segment_bytes: i64,
    /// `segment.ms`: the tail is flushed at this age at the latest.
    pub segment_ms: i64,
    /// `message.timestamp.type` is `LogAppendTime`.
    pub log_append_time: bool,
}

impl LogConfig {
    /// Keeps everything: what a log obeys until its topic's settings are known.
    pub(crate) const UNSET: Self = Self {
        retention_ms: -1,
        retention_bytes: -1,
        segment_bytes: 1 << 30,
        segment_ms: i64::MAX,
        log_append_time: false,
    };
}

impl Default for LogConfig {
    /// Kafka's defaults: seven days, no size limit, 1 GiB, seven days, CreateTime.
    fn default() -> Self {
        const WEEK_MS: i64 = 7 * 24 * 3600 * 1000;
        Self {
            retention_ms: WEEK_MS,
            retention_bytes: -1,
            segment_bytes: 1 << 30,
            segment_ms: WEEK_MS,
            log_append_time: false,
        }
    }
}
