//! One member of a group.

use std::sync::Arc;

use bytes::Bytes;

use super::join::Protocol;
use crate::effects::ReplyToken;

/// A member to leave, by its id, its static name, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeavingMember {
    /// Empty when only the static name is known.
    pub member_id: Arc<str>,
    /// The static name.
    pub instance_id: Option<Arc<str>>,
}

/// What a group knows of a member. The fields up to `assignment` are durable.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) instance_id: Option<Arc<str>>,
    pub(crate) client_id: Arc<str>,
    pub(crate) client_host: Arc<str>,
    pub(crate) session_timeout_ms: u64,
    pub(crate) rebalance_timeout_ms: u64,
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) assignment: Bytes,
    /// The parked JoinGroup.
    pub(crate) joining: Option<ReplyToken>,
    /// The parked SyncGroup.
    pub(crate) syncing: Option<ReplyToken>,
    /// Whether SyncGroup came in this generation.
    pub(crate) has_synced: bool,
    /// Whether its first join was not yet answered.
    pub(crate) is_new: bool,
    /// When it counts as gone; none while a reply is parked, which has its own deadline.
    pub(crate) expires_ms: Option<u64>,
}

impl Member {
    pub(crate) fn metadata(&self, protocol: Option<&str>) -> Bytes {
        let found = self.protocols.iter().find(|own| Some(&*own.name) == protocol);
        found.map_or_else(Bytes::new, |own| own.metadata.clone())
    }

    pub(crate) fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|own| &*own.name == protocol)
    }
}
