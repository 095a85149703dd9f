//! The metadata store: slow facts in SQL. Topics, partitions, segments, shard ownership, wrapped keys, group state.
//!
//! In: rows whose names and values are already sealed. Out: the same rows. This is the one room that speaks SQL.
//!
//! Invariants
//! - Nothing of a shard's log changes unless the row still has the caller's epoch and writer (`CLUSTER.md` rule 5).
//! - A flush, its segments, its state rows and its checkpoint are one transaction.
//! - Once proved, every change is committed with sums of all rows, sealed under the installation's key of proofs.
//!
//! Must not: hold a plain name, a record, or any key but the installation's key of proofs; know what a sealed value means.

mod rows;
mod sqlite;
pub mod suite;

pub use rows::{
    AsideRow, Doubt, FlushCommit, GarbageRow, KeyRow, PartRow, PartitionRow, SealedRow, SegmentRow, ShardGuard,
    ShardRow, StateRow, TopicRow,
};
pub use sqlite::SqliteMetadata;

use schloss_core::{PartitionId, ShardId, TenantId, TopicId};

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// Written by a newer release.
    #[error("the manifest has format {found}, this release knows {known}")]
    NewerFormat {
        /// In the file.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Not our file.
    #[error("the manifest is a database of something else")]
    Foreign,
    /// Another process holds it.
    #[error("another process holds the data folder")]
    Locked,
    /// The shard has another owner now, or the row changed under us.
    #[error("the shard is owned by another writer")]
    Fenced,
    /// The row is there already.
    #[error("the row exists already")]
    Exists,
    /// The disk is full.
    #[error("the disk is full")]
    Full,
    /// A row does not have its form.
    #[error("a row of `{table}` is malformed")]
    Malformed {
        /// Which table.
        table: &'static str,
    },
    /// SQLite's own trouble; its text names tables, never values.
    #[error("the manifest failed: {0}")]
    Sql(String),
    /// The store's thread is gone.
    #[error("the manifest is closed")]
    Closed,
}

/// The store's verbs. Each is atomic.
#[async_trait::async_trait]
pub trait Metadata: Send + Sync {
    /// The installation's id, made at first open.
    async fn cluster_id(&self) -> Result<[u8; 16], MetadataError>;

    /// A tenant's topics.
    async fn topics(&self, tenant: TenantId) -> Result<Vec<TopicRow>, MetadataError>;
    /// Adds a topic and its partitions. [`MetadataError::Exists`] when the tenant has the name.
    async fn create_topic(&self, topic: TopicRow, partitions: Vec<PartitionRow>) -> Result<(), MetadataError>;
    /// Replaces a topic's sealed part and number of partitions; adds the partitions given.
    async fn update_topic(&self, topic: TopicRow, added: Vec<PartitionRow>) -> Result<(), MetadataError>;
    /// Removes a topic with everything below it; segments no partition needs any more become garbage.
    async fn delete_topic(&self, topic: TopicId, now_ms: i64) -> Result<(), MetadataError>;

    /// A tenant's wrapped keys of one purpose, oldest generation first.
    async fn keys(&self, tenant: [u8; 16], purpose: &str) -> Result<Vec<KeyRow>, MetadataError>;
    /// Adds a wrapped key. [`MetadataError::Exists`] when the generation is taken.
    async fn add_key(&self, key: KeyRow) -> Result<(), MetadataError>;

    /// All wrapped keys of a tenant, of every purpose and generation.
    async fn all_keys(&self, tenant: [u8; 16]) -> Result<Vec<KeyRow>, MetadataError>;
    /// Replaces the wrapped form of a key that is there; the key in it is the same.
    async fn rewrap_key(&self, key: KeyRow) -> Result<(), MetadataError>;
    /// Replaces the wrapped form of segments' data keys; segments that are gone are passed over.
    async fn rewrap_segments(&self, wrapped: Vec<([u8; 32], Vec<u8>)>) -> Result<(), MetadataError>;
    /// Puts one segment in another's place: its parts now name the new object, the old one becomes garbage.
    /// [`MetadataError::Fenced`] when the old one is gone.
    async fn replace_segment(
        &self,
        guard: ShardGuard,
        old: [u8; 32],
        new: SegmentRow,
        now_ms: i64,
    ) -> Result<(), MetadataError>;
    /// Destroys every row of a tenant; its segments become garbage. Row contents are overwritten, also in SQLite's own log.
    async fn shred_tenant(&self, tenant: TenantId, now_ms: i64) -> Result<(), MetadataError>;
    /// Makes what was deleted unreadable in the store's own files too.
    async fn scrub_deleted(&self) -> Result<(), MetadataError>;
    /// Writes a consistent copy of everything to a new file.
    async fn snapshot(&self, to: std::path::PathBuf) -> Result<(), MetadataError>;

    /// A tenant's sealed values of one kind.
    async fn sealed(&self, tenant: TenantId, kind: &str) -> Result<Vec<SealedRow>, MetadataError>;
    /// Writes or removes sealed values, all or none.
    async fn put_sealed(&self, rows: Vec<SealedRow>) -> Result<(), MetadataError>;

    /// Takes a shard: epoch + 1 (or `at_least`, if higher), a fresh writer. What was there before is returned with the new epoch.
    async fn acquire(&self, shard: ShardId, writer: [u8; 16], at_least: u64) -> Result<ShardRow, MetadataError>;
    /// Confirms the guard's epoch as opened and records where epochs were sealed: past ones, or at a clean end its own.
    async fn confirm(&self, guard: ShardGuard, sealed: Vec<(u64, u64)>) -> Result<(), MetadataError>;
    /// Every shard's checkpoint: epoch and sequence number.
    async fn checkpoints(&self) -> Result<Vec<(ShardId, (u64, u64))>, MetadataError>;
    /// Where past epochs of a shard ended: (epoch, last sequence number).
    async fn sealed_epochs(&self, shard: ShardId) -> Result<Vec<(u64, u64)>, MetadataError>;
    /// All partitions.
    async fn partitions(&self) -> Result<Vec<PartitionRow>, MetadataError>;
    /// All parts of segments, in order of partition and offset.
    async fn parts(&self) -> Result<Vec<PartRow>, MetadataError>;
    /// All live segments.
    async fn segments(&self) -> Result<Vec<SegmentRow>, MetadataError>;
    /// All state rows.
    async fn state(&self, shard: ShardId) -> Result<Vec<StateRow>, MetadataError>;
    /// All that is set aside, in order of shard, tenant and entry.
    async fn aside(&self) -> Result<Vec<AsideRow>, MetadataError>;
    /// Segments in, state in, what was set aside out and in, checkpoint forward: one transaction, guarded.
    async fn flush(&self, guard: ShardGuard, commit: FlushCommit) -> Result<(), MetadataError>;
    /// Moves log starts and drops the parts wholly below them; segments no partition needs become garbage.
    async fn set_log_starts(
        &self,
        guard: ShardGuard,
        starts: Vec<(PartitionId, i64)>,
        now_ms: i64,
    ) -> Result<(), MetadataError>;

    /// Garbage removed before `before_ms`, of all tenants but some.
    async fn garbage(&self, before_ms: i64, except: &[TenantId]) -> Result<Vec<GarbageRow>, MetadataError>;
    /// Forgets garbage whose object is gone.
    async fn forget_garbage(&self, objects: Vec<[u8; 32]>) -> Result<(), MetadataError>;
}
