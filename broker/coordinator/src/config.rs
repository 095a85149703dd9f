//! The limits of groups, with Kafka's names and defaults.

/// How groups may be. Defaults are Kafka's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// `group.min.session.timeout.ms`.
    pub session_timeout_min_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub session_timeout_max_ms: i32,
    /// `group.initial.rebalance.delay.ms`: how long the first rebalance of an empty group waits for more members.
    pub initial_rebalance_delay_ms: u64,
    /// `group.max.size`. Kafka has no limit by default; a claimed number must have one.
    pub members_max: usize,
    /// Groups of one tenant. Ours: without it one tenant's names fill everyone's memory.
    pub groups_max: usize,
    /// Committed partitions of one group. Ours.
    pub offsets_max: usize,
    /// Metadata of all protocols of one member, and one member's assignment. Ours; Kafka's bound is that the group must
    /// fit in one message.
    pub member_bytes_max: usize,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_bytes_max: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            session_timeout_min_ms: 6_000,
            session_timeout_max_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            members_max: 1_000,
            groups_max: 10_000,
            offsets_max: 100_000,
            member_bytes_max: 1 << 20,
            offset_metadata_bytes_max: 4_096,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1_000,
        }
    }
}
