//! Every bound that is not configurable, with its reason.

/// Kafka's own limit for topic names (`Topic.MAX_NAME_LENGTH`).
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
/// What a Kafka STRING can hold.
pub const GROUP_ID_BYTES_MAX: usize = 32_767;
/// Frame bound before authentication: SASL tokens and ApiVersions fit, memory of strangers stays small.
pub const FRAME_BYTES_BEFORE_AUTHENTICATION_MAX: usize = 64 * 1024;
/// A batch smaller than this is no batch (Kafka's record batch v2 header).
pub const BATCH_HEADER_BYTES: usize = 61;
/// Partitions of one topic; Kafka has no limit, a claimed number must have one.
pub const PARTITIONS_PER_TOPIC_MAX: i32 = 10_000;
