//! What goes in and what comes out: requests, replies, effects and views.

use bytes::Bytes;
use schloss_core::{ErrorCode, PartitionId, TopicId};

/// The configured bounds of a tenant's groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLimits {
    /// `group.min.session.timeout.ms`.
    pub session_timeout_min_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub session_timeout_max_ms: i32,
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: i32,
    /// `group.max.size`: members of one group.
    pub size_max: usize,
    /// Groups of this tenant.
    pub groups_max: usize,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_bytes_max: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
}

/// Names a parked request; the caller draws them and never uses one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyToken(pub u64);

/// One change of durable state: `None` removes the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRecord {
    /// The key; its first byte is the kind.
    pub key: Bytes,
    /// The whole new value.
    pub value: Option<Bytes>,
}

/// What a call asks of its caller: make `records` durable (in order; several writes are allowed), then send `replies`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Effects {
    /// State to make durable.
    pub records: Vec<StateRecord>,
    /// Replies that may go out once the records are durable.
    pub replies: Vec<(ReplyToken, Reply)>,
}

impl Effects {
    /// True when there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.replies.is_empty()
    }

    pub(crate) fn reply(token: ReplyToken, reply: Reply) -> Self {
        Self { records: Vec::new(), replies: vec![(token, reply)] }
    }
}

/// The answer to a parked request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To JoinGroup.
    Join(JoinReply),
    /// To SyncGroup.
    Sync(SyncReply),
}

/// JoinGroup, decoded.
#[derive(Clone, Debug)]
pub struct JoinRequest<'a> {
    /// The group.
    pub group: &'a str,
    /// Empty for a new member.
    pub member_id: &'a str,
    /// KIP-345.
    pub group_instance_id: Option<&'a str>,
    /// From the request's header; becomes the beginning of the member's id.
    pub client_id: &'a str,
    /// The peer's address, for display.
    pub client_host: &'a str,
    /// Without a heartbeat for so long a member is gone.
    pub session_timeout_ms: i32,
    /// How long a rebalance waits for this member; negative (version 0) means the session timeout.
    pub rebalance_timeout_ms: i32,
    /// `consumer`, `connect`, …
    pub protocol_type: &'a str,
    /// Name and metadata, in order of preference.
    pub protocols: Vec<(String, Bytes)>,
    /// Version 4 and newer (KIP-394).
    pub require_known_member_id: bool,
    /// Version 9 and newer (KIP-814).
    pub supports_skip_assignment: bool,
}

/// JoinGroup's response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinReply {
    /// Success or why not.
    pub error: ErrorCode,
    /// -1 with an error.
    pub generation: i32,
    /// As the group has it.
    pub protocol_type: Option<String>,
    /// The chosen protocol.
    pub protocol: Option<String>,
    /// The leader's member id; empty with an error.
    pub leader: String,
    /// True when a leader that came back need not assign anew.
    pub skip_assignment: bool,
    /// The member's id.
    pub member_id: String,
    /// For the leader only: all members.
    pub members: Vec<JoinMember>,
}

impl JoinReply {
    pub(crate) fn refused(error: ErrorCode, member_id: &str) -> Reply {
        Reply::Join(Self {
            error,
            generation: -1,
            protocol_type: None,
            protocol: None,
            leader: String::new(),
            skip_assignment: false,
            member_id: member_id.to_owned(),
            members: Vec::new(),
        })
    }
}

/// One member as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinMember {
    /// Its id.
    pub member_id: String,
    /// KIP-345.
    pub group_instance_id: Option<String>,
    /// Its metadata for the chosen protocol.
    pub metadata: Bytes,
}

/// SyncGroup, decoded.
#[derive(Clone, Debug)]
pub struct SyncRequest<'a> {
    /// The group.
    pub group: &'a str,
    /// The generation the member joined.
    pub generation: i32,
    /// The member.
    pub member_id: &'a str,
    /// KIP-345.
    pub group_instance_id: Option<&'a str>,
    /// Version 5 and newer; checked when there.
    pub protocol_type: Option<&'a str>,
    /// Version 5 and newer; checked when there.
    pub protocol: Option<&'a str>,
    /// From the leader: member id and assignment.
    pub assignments: Vec<(String, Bytes)>,
}

/// SyncGroup's response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncReply {
    /// Success or why not.
    pub error: ErrorCode,
    /// As the group has it; `None` with an error.
    pub protocol_type: Option<String>,
    /// The chosen protocol; `None` with an error.
    pub protocol: Option<String>,
    /// The member's share; empty with an error.
    pub assignment: Bytes,
}

impl SyncReply {
    pub(crate) fn refused(error: ErrorCode) -> Reply {
        Reply::Sync(Self { error, protocol_type: None, protocol: None, assignment: Bytes::new() })
    }
}

/// Heartbeat, decoded.
#[derive(Clone, Copy, Debug)]
pub struct HeartbeatRequest<'a> {
    /// The group.
    pub group: &'a str,
    /// The generation the member is in.
    pub generation: i32,
    /// The member.
    pub member_id: &'a str,
    /// KIP-345.
    pub group_instance_id: Option<&'a str>,
}

/// A member that leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberIdentity {
    /// Its id; empty when only the instance id is known.
    pub member_id: String,
    /// KIP-345.
    pub group_instance_id: Option<String>,
}

/// OffsetCommit, decoded, with topics that exist.
#[derive(Clone, Debug)]
pub struct CommitRequest<'a> {
    /// The group.
    pub group: &'a str,
    /// -1 for a consumer that is no member.
    pub generation: i32,
    /// Empty for a consumer that is no member.
    pub member_id: &'a str,
    /// KIP-345.
    pub group_instance_id: Option<&'a str>,
    /// What to keep.
    pub offsets: Vec<OffsetToCommit>,
}

/// One partition's offset to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetToCommit {
    /// The topic.
    pub topic: TopicId,
    /// The partition's number.
    pub partition: i32,
    /// The next offset to read.
    pub offset: i64,
    /// The leader epoch of the last record read, or -1.
    pub leader_epoch: i32,
    /// The client's note.
    pub metadata: Option<String>,
}

/// An offset as kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: i64,
    /// The leader epoch, or -1.
    pub leader_epoch: i32,
    /// The client's note.
    pub metadata: String,
    /// When it came.
    pub commit_ms: i64,
}

/// One line of an OffsetFetch answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedOffset {
    /// Which.
    pub partition: PartitionId,
    /// `None`: nothing committed.
    pub committed: Option<CommittedOffset>,
}

/// A group for DescribeGroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// `Empty`, `PreparingRebalance`, `CompletingRebalance` or `Stable`.
    pub state: &'static str,
    /// Empty for groups that only keep offsets.
    pub protocol_type: String,
    /// The chosen protocol, when stable.
    pub protocol: String,
    /// The members.
    pub members: Vec<MemberDescription>,
}

/// A member for DescribeGroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    /// Its id.
    pub member_id: String,
    /// KIP-345.
    pub group_instance_id: Option<String>,
    /// From its JoinGroup.
    pub client_id: String,
    /// From its JoinGroup.
    pub client_host: String,
    /// For the chosen protocol, when stable.
    pub metadata: Bytes,
    /// When stable.
    pub assignment: Bytes,
}

/// A group for ListGroups. The type of all groups is `classic`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    /// Its id.
    pub group: String,
    /// Empty for groups that only keep offsets.
    pub protocol_type: String,
    /// As in [`GroupDescription::state`].
    pub state: &'static str,
}

/// Why stored state could not be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Written by a newer release.
    #[error("state record of kind `{kind}` has version {version}, this release knows up to {known}")]
    Version {
        /// The key's first byte.
        kind: char,
        /// The version found.
        version: u8,
        /// The newest known.
        known: u8,
    },
    /// The bytes are not what this room writes.
    #[error("state record of kind `{kind}` is malformed")]
    Malformed {
        /// The key's first byte.
        kind: char,
    },
}
