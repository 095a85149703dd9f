//! What goes in with each event and what comes out.

use std::sync::Arc;

use bytes::Bytes;
use schloss_core::ErrorCode;

/// The time of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For deadlines: never goes back.
    pub monotonic_ms: u64,
    /// For stored times: may jump.
    pub wall_ms: i64,
}

/// Names the request that a reply belongs to. The caller makes them; each is answered once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyToken(pub u64);

/// One change of a tenant's durable state; no value removes the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRecord {
    /// Which state.
    pub key: Bytes,
    /// Its new value.
    pub value: Option<Bytes>,
}

/// What an event leads to.
#[must_use]
#[derive(Debug, Default, PartialEq)]
pub struct Effects {
    /// To be made durable together, before any of `replies` is sent.
    pub records: Vec<StateRecord>,
    /// To be sent after that.
    pub replies: Vec<(ReplyToken, Reply)>,
}

impl Effects {
    pub(crate) fn reply(&mut self, token: ReplyToken, reply: Reply) {
        self.replies.push((token, reply));
    }

    pub(crate) fn join_error(&mut self, token: ReplyToken, member_id: &str, error: ErrorCode) {
        self.reply(token, Reply::Join(JoinReply::error(member_id, error)));
    }

    pub(crate) fn sync_error(&mut self, token: ReplyToken, error: ErrorCode) {
        self.reply(
            token,
            Reply::Sync(SyncReply { error, protocol_type: None, protocol: None, assignment: Bytes::new() }),
        );
    }

    /// Puts `later` behind this.
    pub fn append(&mut self, mut later: Self) {
        self.records.append(&mut later.records);
        self.replies.append(&mut later.replies);
    }
}

/// An answer, one per request.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// To JoinGroup.
    Join(JoinReply),
    /// To SyncGroup.
    Sync(SyncReply),
    /// To Heartbeat.
    Heartbeat(ErrorCode),
    /// To LeaveGroup: one code per member asked for, or the group's.
    Leave {
        /// Of the whole request.
        error: ErrorCode,
        /// Per member, in the order asked.
        members: Vec<ErrorCode>,
    },
    /// To OffsetCommit: one code per partition, in the order asked.
    Commit(Vec<ErrorCode>),
    /// To OffsetDelete.
    DeleteOffsets {
        /// Of the whole request.
        error: ErrorCode,
        /// Per partition, in the order asked.
        partitions: Vec<ErrorCode>,
    },
    /// To DeleteGroups: one code per group, in the order asked.
    DeleteGroups(Vec<ErrorCode>),
}

/// The answer to JoinGroup.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinReply {
    /// The error, or none.
    pub error: ErrorCode,
    /// The generation, or -1.
    pub generation: i32,
    /// The kind of group.
    pub protocol_type: Option<Arc<str>>,
    /// The chosen protocol.
    pub protocol: Option<Arc<str>>,
    /// The leader's member id.
    pub leader: Arc<str>,
    /// Whether the leader keeps the old assignment (KIP-814).
    pub skip_assignment: bool,
    /// The asking member's id.
    pub member_id: Arc<str>,
    /// All members; for the leader only.
    pub members: Vec<JoinedMember>,
}

impl JoinReply {
    pub(crate) fn error(member_id: &str, error: ErrorCode) -> Self {
        Self {
            error,
            generation: -1,
            protocol_type: None,
            protocol: None,
            leader: "".into(),
            skip_assignment: false,
            member_id: member_id.into(),
            members: Vec::new(),
        }
    }
}

/// A member as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub member_id: Arc<str>,
    /// Its static name (KIP-345).
    pub instance_id: Option<Arc<str>>,
    /// Its metadata for the chosen protocol.
    pub metadata: Bytes,
}

/// The answer to SyncGroup.
#[derive(Clone, Debug, PartialEq)]
pub struct SyncReply {
    /// The error, or none.
    pub error: ErrorCode,
    /// The kind of group.
    pub protocol_type: Option<Arc<str>>,
    /// The chosen protocol.
    pub protocol: Option<Arc<str>>,
    /// What the leader gave this member.
    pub assignment: Bytes,
}
