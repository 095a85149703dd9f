//! Bounds of this room that no configuration changes, each with its reason.

/// A new member waits this long in a rebalance before it counts as gone (Kafka's `NEW_MEMBER_JOIN_TIMEOUT_MS`).
pub const NEW_MEMBER_JOIN_TIMEOUT_MS: i64 = 5 * 60 * 1000;
/// Empty groups are looked at this often (Kafka's default `offsets.retention.check.interval.ms`).
pub const CLEANUP_INTERVAL_MS: i64 = 10 * 60 * 1000;
/// A rebalance that nobody joined is looked at again no sooner than this, so that a timeout of 0 does not spin.
pub const REARM_MS_MIN: i64 = 1000;
/// Protocols one member may offer; clients send two or three.
pub const PROTOCOLS_PER_MEMBER_MAX: usize = 64;
/// Names and metadata of one member's protocols together.
pub const MEMBER_METADATA_BYTES_MAX: usize = 1024 * 1024;
/// Names and metadata of all members of one group together: what a group may hold in memory.
pub const GROUP_METADATA_BYTES_MAX: usize = 16 * 1024 * 1024;
/// One group's state record. Kafka's bound is the `max.message.bytes` of its offsets topic, 1 MiB.
pub const GROUP_RECORD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Client ids and hosts are kept for display and cut to this; a member id begins with the cut client id.
pub const DISPLAY_BYTES_MAX: usize = 255;
/// Kafka's own bound of `group.instance.id`.
pub const INSTANCE_ID_BYTES_MAX: usize = 249;
/// What a Kafka STRING can hold; bounds names of protocols.
pub const STRING_BYTES_MAX: usize = 32_767;
/// Partitions one group may have committed offsets for.
pub const OFFSETS_PER_GROUP_MAX: usize = 100_000;
/// Records one tick may ask for; the rest is due at once again. Keeps one write-ahead-log entry small.
pub const RECORDS_PER_TICK_MAX: usize = 1000;

/// Cuts `text` to `bytes_max` bytes at a character's boundary.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
