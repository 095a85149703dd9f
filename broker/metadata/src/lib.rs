//! The slow facts of an installation: tenants, topics, partitions, segments, shard ownership, snapshots, wrapped keys.
//!
//! In: rows whose names and values are already sealed (opaque blobs, 32-byte name indexes). Out: the same rows.
//! One trait, [`Metadata`]; [`SqliteMetadata`] is the embedded back end; [`suite`] holds the promises each back end runs.
//!
//! Invariants
//! - A change of several rows is one transaction: all of it is durable, or none of it happened.
//! - Checkpoints and segments are committed only while the shard's row still has the committer's epoch and writer.
//! - A segment that no part refers to stands in the garbage, and nowhere else.
//!
//! Must not: see a plaintext name or key, be called once per record or request of the data path.

mod error;
mod rows;
mod sqlite;
pub mod suite;

pub use error::MetadataError;
pub use rows::{
    Acquired, Change, Checkpoint, CreateOutcome, FlushCommit, GarbageRow, KeyRow, NewPartition, NewTopic, PartRow,
    PartitionFacts, PartitionRow, Removal, SegmentRow, ShardLease, StateRow, TenantRow, TopicRow,
};
pub use sqlite::SqliteMetadata;

use async_trait::async_trait;
use schloss_core::{ClusterId, ShardId, TenantId, TopicId};

/// The store of facts. Every method is one transaction.
#[async_trait]
pub trait Metadata: Send + Sync {
    /// The installation's id, made when the store was.
    async fn cluster_id(&self) -> Result<ClusterId, MetadataError>;

    /// Adds tenants, or replaces their sealed facts.
    async fn put_tenants(&self, rows: Vec<TenantRow>) -> Result<(), MetadataError>;
    /// All tenants.
    async fn tenants(&self) -> Result<Vec<TenantRow>, MetadataError>;

    /// Keeps the first wrapped key of its (tenant, purpose, generation) and answers the one that is kept,
    /// so that two starters agree on one key.
    async fn put_key(&self, row: KeyRow) -> Result<KeyRow, MetadataError>;
    /// All wrapped keys of long-lived purposes of `tenant`.
    async fn keys(&self, tenant: TenantId) -> Result<Vec<KeyRow>, MetadataError>;
    /// Replaces wrapped keys after re-wrapping; rows that are gone stay gone.
    async fn rewrap_keys(&self, rows: Vec<KeyRow>) -> Result<(), MetadataError>;

    /// Creates topics with their partitions. A name that exists is told, the others are created.
    async fn create_topics(&self, tenant: TenantId, topics: Vec<NewTopic>)
    -> Result<Vec<CreateOutcome>, MetadataError>;
    /// Removes topics, partitions and parts; segments left without a part become garbage. Answers those that existed.
    async fn delete_topics(&self, tenant: TenantId, topics: Vec<TopicId>, now_ms: i64)
    -> Result<Vec<TopicId>, MetadataError>;
    /// Replaces the sealed facts (name and configs) of topics. Answers those that exist.
    async fn seal_topics(&self, tenant: TenantId, topics: Vec<(TopicId, Vec<u8>)>)
    -> Result<Vec<TopicId>, MetadataError>;
    /// Adds partitions to a topic; false when the topic is gone.
    async fn add_partitions(&self, tenant: TenantId, topic: TopicId, partitions: Vec<NewPartition>)
    -> Result<bool, MetadataError>;
    /// All topics, of one tenant or of all.
    async fn topics(&self, tenant: Option<TenantId>) -> Result<Vec<TopicRow>, MetadataError>;
    /// All partitions of a shard.
    async fn partitions(&self, shard: ShardId) -> Result<Vec<PartitionRow>, MetadataError>;
    /// Partitions of some topics.
    async fn partitions_of(&self, topics: Vec<TopicId>) -> Result<Vec<PartitionRow>, MetadataError>;

    /// Takes a shard: raises its epoch above `listed_epoch` and its own, names the new writer.
    async fn acquire_shard(&self, shard: ShardId, writer: [u8; 16], listed_epoch: u64)
    -> Result<Acquired, MetadataError>;
    /// Confirms an opening: notes where earlier epochs ended. [`MetadataError::Fenced`] if the shard was taken since.
    async fn confirm_shard(&self, lease: ShardLease, ended: Vec<(u64, u64)>) -> Result<(), MetadataError>;
    /// Adds segments and parts, facts and state, and moves the checkpoint, guarded by epoch and writer.
    /// Parts of partitions that are gone are left out; a segment left without a part becomes garbage.
    async fn commit_flush(&self, lease: ShardLease, flush: FlushCommit) -> Result<(), MetadataError>;
    /// Removes parts and moves log starts, guarded by epoch and writer; segments left without a part become garbage.
    async fn remove_parts(&self, lease: ShardLease, removal: Removal) -> Result<(), MetadataError>;
    /// All segments of a shard with their parts in offset order.
    async fn segments(&self, shard: ShardId) -> Result<Vec<SegmentRow>, MetadataError>;
    /// Ids of all segments of all shards: what an orphan sweep must leave alone.
    async fn segment_ids(&self) -> Result<Vec<[u8; 16]>, MetadataError>;
    /// Number of shards ever taken: one more than the highest.
    async fn shard_count(&self) -> Result<u32, MetadataError>;
    /// The state rows of a shard as of its checkpoint.
    async fn state(&self, shard: ShardId) -> Result<Vec<StateRow>, MetadataError>;

    /// Garbage removed at or before `removed_ms`.
    async fn garbage(&self, removed_ms: i64) -> Result<Vec<GarbageRow>, MetadataError>;
    /// Forgets garbage whose objects are erased.
    async fn erased(&self, segments: Vec<[u8; 16]>) -> Result<(), MetadataError>;
    /// Changes after `number`, oldest first, at most 1000.
    async fn changes(&self, number: i64) -> Result<Vec<Change>, MetadataError>;
}
