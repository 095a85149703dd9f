//! The rows, as back ends take and give them. Names, configs and state arrive sealed.

use schloss_core::{PartitionId, ShardId, TenantId, TopicId};

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRow {
    /// The tenant.
    pub tenant: TenantId,
    /// Alias and settings, sealed.
    pub sealed: Vec<u8>,
    /// When it was added.
    pub created_ms: i64,
}

/// A wrapped key of a long-lived purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// Whose.
    pub tenant: TenantId,
    /// What for: `metadata`, `index`.
    pub purpose: String,
    /// Counts the keys of one purpose, from 0.
    pub generation: u32,
    /// The wrapped key's bytes.
    pub wrapped: Vec<u8>,
}

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Fresh id.
    pub topic: TopicId,
    /// HMAC of the name, unique per tenant.
    pub name_index: [u8; 32],
    /// Name and configs, sealed.
    pub sealed: Vec<u8>,
    /// Its partitions.
    pub partitions: Vec<NewPartition>,
    /// When.
    pub created_ms: i64,
}

/// A partition to create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewPartition {
    /// Its number.
    pub index: i32,
    /// The shard that keeps it.
    pub shard: ShardId,
}

/// What became of a [`NewTopic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateOutcome {
    /// Created.
    Created,
    /// The tenant has a topic of that name: this one.
    Exists(TopicId),
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRow {
    /// Its id.
    pub topic: TopicId,
    /// Whose.
    pub tenant: TenantId,
    /// HMAC of the name.
    pub name_index: [u8; 32],
    /// Name and configs, sealed.
    pub sealed: Vec<u8>,
    /// Number of partitions.
    pub partitions: i32,
    /// When it was created.
    pub created_ms: i64,
}

/// What a checkpoint says of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionFacts {
    /// The partition.
    pub partition: PartitionId,
    /// First offset readers may ask for.
    pub log_start: i64,
    /// Everything below stands in segments (or was removed).
    pub next_offset: i64,
    /// Leader epochs with their first offsets, ascending.
    pub epochs: Vec<(i32, i64)>,
    /// Producer state as of `next_offset`, sealed.
    pub producers: Vec<u8>,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionRow {
    /// Whose.
    pub tenant: TenantId,
    /// The shard that keeps it.
    pub shard: ShardId,
    /// Added to the shard's epoch it gives the leader epoch.
    pub epoch_base: i32,
    /// As of the last checkpoint.
    pub facts: PartitionFacts,
}

/// A place in a shard's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Checkpoint {
    /// The writer's epoch.
    pub epoch: u64,
    /// The entry's number in it.
    pub seq: u64,
}

/// The right to commit for a shard, as long as nobody took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardLease {
    /// The shard.
    pub shard: ShardId,
    /// My epoch.
    pub epoch: u64,
    /// My random name.
    pub writer: [u8; 16],
}

/// A shard just taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquired {
    /// My epoch.
    pub epoch: u64,
    /// Replay begins behind this.
    pub checkpoint: Checkpoint,
    /// Where earlier epochs are known to have ended.
    pub ended: Vec<(u64, u64)>,
}

/// A segment and its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRow {
    /// Its id.
    pub segment: [u8; 16],
    /// Whose.
    pub tenant: TenantId,
    /// Random id of the object's bytes.
    pub object_id: [u8; 32],
    /// When it was made.
    pub born_ms: i64,
    /// Length of the object.
    pub size: u64,
    /// Where the footer begins.
    pub footer_position: u64,
    /// Frames in it.
    pub frame_count: u32,
    /// Tag of the footer.
    pub footer_tag: [u8; 16],
    /// The wrapped data key's bytes.
    pub wrapped: Vec<u8>,
    /// What it holds.
    pub parts: Vec<PartRow>,
}

/// A run of one partition in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartRow {
    /// The partition.
    pub partition: PartitionId,
    /// Its first offset.
    pub first_offset: i64,
    /// One past its last offset.
    pub next_offset: i64,
    /// Largest record time.
    pub max_timestamp: i64,
    /// Plaintext bytes.
    pub bytes: u64,
}

/// One row of a tenant's durable state. `sealed` absent removes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRow {
    /// Whose.
    pub tenant: TenantId,
    /// HMAC of the key.
    pub row_key: [u8; 32],
    /// Key and value, sealed.
    pub sealed: Option<Vec<u8>>,
}

/// Everything one flush commits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlushCommit {
    /// New segments with their parts.
    pub segments: Vec<SegmentRow>,
    /// Partitions that moved on.
    pub facts: Vec<PartitionFacts>,
    /// State that changed.
    pub state: Vec<StateRow>,
    /// Replay begins behind this from now on; never goes back.
    pub checkpoint: Checkpoint,
    /// When.
    pub now_ms: i64,
}

/// What retention takes away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Parts by partition and first offset.
    pub parts: Vec<(PartitionId, i64)>,
    /// New log starts.
    pub log_starts: Vec<(PartitionId, i64)>,
    /// When.
    pub now_ms: i64,
}

/// A segment whose object is to be erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GarbageRow {
    /// Its id.
    pub segment: [u8; 16],
    /// Whose.
    pub tenant: TenantId,
    /// When it left the manifest.
    pub removed_ms: i64,
}

/// One line of the running list that other brokers follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its number.
    pub number: i64,
    /// Whose things.
    pub tenant: TenantId,
    /// The topic created, changed or removed.
    pub topic: TopicId,
}
