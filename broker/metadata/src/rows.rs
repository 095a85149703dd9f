//! The rows, typed.

use schloss_core::{PartitionId, ShardId, TenantId, TopicId};

/// One topic. Its name and settings are inside `sealed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRow {
    /// Owner.
    pub tenant: TenantId,
    /// Id, unique over all tenants and for ever.
    pub topic_id: TopicId,
    /// HMAC of the name under the tenant's index key: unique within the tenant.
    pub name_index: [u8; 32],
    /// Name and settings, sealed under the tenant's metadata key.
    pub sealed: Vec<u8>,
    /// Number of partitions.
    pub partitions: i32,
    /// Milliseconds since 1970.
    pub created_ms: i64,
}

/// One partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionRow {
    /// Owner.
    pub tenant: TenantId,
    /// Which.
    pub partition: PartitionId,
    /// The shard that orders it.
    pub shard: ShardId,
    /// First offset that exists.
    pub log_start: i64,
}

/// A data key as its KMS key wrapped it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// Owner; all zero for the cluster.
    pub tenant: [u8; 16],
    /// `metadata`, `index`, `audit`, …
    pub purpose: String,
    /// Grows by rotation.
    pub generation: i64,
    /// Byte form of a wrapped key.
    pub wrapped: Vec<u8>,
}

/// Proof of who writes: changes to a shard carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardGuard {
    /// The shard.
    pub shard: ShardId,
    /// The caller's epoch.
    pub epoch: u64,
    /// The caller's writer id.
    pub writer: [u8; 16],
}

/// A shard as it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardRow {
    /// The new epoch.
    pub epoch: u64,
    /// Replay begins behind this entry: epoch and sequence number. (0, 0) is the beginning.
    pub checkpoint: (u64, u64),
    /// The last epoch that was confirmed: its opening was on disk. 0 for none.
    pub opened: u64,
}

/// A live segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRow {
    /// Random, never used again.
    pub object_id: [u8; 32],
    /// The segment's own id, part of its encryption context.
    pub segment: [u8; 16],
    /// Owner.
    pub tenant: TenantId,
    /// Byte form of its wrapped data key.
    pub wrapped: Vec<u8>,
    /// When it was begun, milliseconds since 1970.
    pub born_ms: i64,
    /// Bytes.
    pub size: u64,
    /// Frames.
    pub frame_count: u32,
    /// Where the footer begins.
    pub footer_position: u64,
    /// The footer's tag: a cut or older copy has another.
    pub footer_tag: [u8; 16],
}

/// One partition's share of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartRow {
    /// Owner.
    pub tenant: TenantId,
    /// Whose share.
    pub partition: PartitionId,
    /// First offset in it.
    pub first_offset: i64,
    /// Offset behind the last.
    pub next_offset: i64,
    /// The segment.
    pub object_id: [u8; 32],
    /// Bytes of its batches.
    pub bytes: u64,
    /// Largest record time.
    pub max_timestamp: i64,
    /// When its first batch was appended, milliseconds since 1970.
    pub appended_ms: i64,
}

/// One sealed state value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRow {
    /// Owner.
    pub tenant: TenantId,
    /// HMAC of the key.
    pub key_index: [u8; 32],
    /// Key and value, sealed. Empty to remove the row.
    pub sealed: Vec<u8>,
}

/// One sealed value of a tenant that is found by its key alone: a credential, for instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedRow {
    /// Owner.
    pub tenant: TenantId,
    /// What it is; plain, the same for all tenants: `access-key`, `scram`, …
    pub kind: String,
    /// HMAC of its key under the tenant's index key.
    pub key_index: [u8; 32],
    /// Key and value, sealed under the tenant's metadata key. Empty to remove the row.
    pub sealed: Vec<u8>,
}

/// Entries of the log that a tenant could not flush, kept as an object of their own so that the log need not hold them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsideRow {
    /// Whose log.
    pub shard: ShardId,
    /// Whose entries.
    pub tenant: TenantId,
    /// The first entry with something in it: epoch and sequence number.
    pub first: (u64, u64),
    /// The checkpoint it was set aside for: nothing of the tenant in entries up to here is anywhere else.
    pub last: (u64, u64),
    /// Random, never used again.
    pub object_id: [u8; 32],
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the object.
    pub digest: [u8; 32],
}

/// What one flush changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlushCommit {
    /// New segments.
    pub segments: Vec<SegmentRow>,
    /// Their parts.
    pub parts: Vec<PartRow>,
    /// State that changed since the last flush.
    pub state: Vec<StateRow>,
    /// What is set aside for tenants that could not be flushed.
    pub aside: Vec<AsideRow>,
    /// Tenants of which everything set aside before is now in segments and state.
    pub caught_up: Vec<TenantId>,
    /// The new checkpoint.
    pub checkpoint: (u64, u64),
}

/// An object no partition needs any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GarbageRow {
    /// The object.
    pub object_id: [u8; 32],
    /// Whose it was.
    pub tenant: TenantId,
}

/// Rows that are not what was written: altered, taken away, put there or put back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Doubt {
    /// Whose rows; none for the installation's own.
    pub tenant: Option<TenantId>,
    /// The table. `proofs`: the sums themselves; `sqlite_schema`: the tables are not those of the format; `indexes`: an index or a page
    /// does not agree with its table.
    pub table: String,
}
