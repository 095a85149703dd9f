//! One classic group: its members, its generation, its offsets. The facts and small questions; changes of state are in
//! `join` and `rebalance`, offsets in `offsets`, ageing in `clean`.
//!
//! Invariants
//! - `Phase::Empty` has no members; every other phase but an initial rebalance has at least one.
//! - `static_members` maps exactly the members with an instance id.
//! - A member waits for its join only in `PreparingRebalance`, for its sync only in `CompletingRebalance`; these phases
//!   always have `join_deadline_ms` or `sync_deadline_ms`, so nobody waits for ever.
//! - All members of a group support at least one protocol in common.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use schloss_core::{ErrorCode, PartitionId};

use crate::api::{CommittedOffset, Effects, GroupDescription, GroupLimits, JoinMember, MemberDescription, Reply, ReplyToken};

/// What a change of a group may use.
pub struct Cx<'a> {
    pub limits: &'a GroupLimits,
    pub now_ms: i64,
    /// The group's id.
    pub name: &'a str,
    pub effects: &'a mut Effects,
}

impl Cx<'_> {
    /// The time `ms` from now.
    pub fn after(&self, ms: impl Into<i64>) -> i64 {
        self.now_ms.saturating_add(ms.into().max(0))
    }
}

/// Where a group is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No members.
    Empty,
    /// Waiting for members to join.
    PreparingRebalance,
    /// Waiting for the leader's assignment.
    CompletingRebalance,
    /// Everybody has an assignment.
    Stable,
}

impl Phase {
    /// Kafka's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// Whether a member waits for an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waiting {
    /// It does not.
    #[default]
    No,
    /// It waits under this token.
    For(ReplyToken),
    /// It counts as waiting, but its connection is gone.
    Gone,
}

impl Waiting {
    /// True for both kinds of waiting.
    pub fn is_waiting(self) -> bool {
        self != Self::No
    }

    /// Ends the waiting; the token to answer, if somebody listens.
    pub fn take(&mut self) -> Option<ReplyToken> {
        match std::mem::take(self) {
            Self::For(token) => Some(token),
            Self::No | Self::Gone => None,
        }
    }
}

/// A member.
#[derive(Clone, Debug)]
pub struct Member {
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    /// In order of preference; never empty.
    pub protocols: Vec<(String, Bytes)>,
    pub assignment: Bytes,
    pub join: Waiting,
    pub sync: Waiting,
    /// Has not been through a completed join yet: may expire while it waits.
    pub is_new: bool,
    /// Without a word until then it is gone.
    pub deadline_ms: i64,
}

impl Member {
    /// The metadata for `protocol`, empty if unsupported.
    pub fn metadata(&self, protocol: Option<&str>) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| Some(name.as_str()) == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    /// True when `name` is among its protocols.
    pub fn supports(&self, name: &str) -> bool {
        self.protocols.iter().any(|(own, _)| own == name)
    }

    /// Bytes of names and metadata.
    pub fn metadata_bytes(&self) -> usize {
        protocols_bytes(&self.protocols)
    }

    /// When it is gone unless it speaks. Waiting members do not expire, but new ones do.
    pub fn expires_ms(&self) -> Option<i64> {
        (self.is_new || !(self.join.is_waiting() || self.sync.is_waiting())).then_some(self.deadline_ms)
    }
}

/// Bytes of names and metadata of a list of protocols.
pub fn protocols_bytes(protocols: &[(String, Bytes)]) -> usize {
    protocols.iter().map(|(name, metadata)| name.len().saturating_add(metadata.len())).fold(0, usize::saturating_add)
}

/// A rebalance of a group that was empty: waits a little for more members.
#[derive(Clone, Copy, Debug)]
pub struct InitialRebalance {
    /// The delay now running.
    pub delay_ms: i64,
    /// How much longer it may be extended.
    pub remaining_ms: i64,
    /// Somebody came during this delay.
    pub member_added: bool,
}

/// One classic group.
#[derive(Clone, Debug)]
pub struct Group {
    pub phase: Phase,
    /// When the phase began.
    pub since_ms: i64,
    pub generation: i32,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub leader: Option<String>,
    pub members: BTreeMap<String, Member>,
    /// Ids handed out with MEMBER_ID_REQUIRED, and until when they may be used (KIP-394).
    pub pending: BTreeMap<String, i64>,
    /// Instance id to member id (KIP-345).
    pub static_members: BTreeMap<String, String>,
    /// Members that have not asked for this generation's assignment.
    pub pending_sync: BTreeSet<String>,
    pub join_deadline_ms: Option<i64>,
    pub initial: Option<InitialRebalance>,
    pub sync_deadline_ms: Option<i64>,
    /// When an empty group is looked at again.
    pub cleanup_ms: i64,
    pub offsets: BTreeMap<PartitionId, CommittedOffset>,
    /// Its record is in the durable state.
    pub recorded: bool,
    /// Removed; the table forgets it after this call.
    pub dead: bool,
    /// The deadline under which the table finds it.
    pub indexed_ms: Option<i64>,
}

impl Group {
    /// A group nobody has joined.
    pub fn new(now_ms: i64) -> Self {
        Self {
            phase: Phase::Empty,
            since_ms: now_ms,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            pending: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_sync: BTreeSet::new(),
            join_deadline_ms: None,
            initial: None,
            sync_deadline_ms: None,
            cleanup_ms: now_ms.saturating_add(crate::limits::CLEANUP_INTERVAL_MS),
            offsets: BTreeMap::new(),
            recorded: false,
            dead: false,
            indexed_ms: None,
        }
    }

    /// True when forgetting it loses nothing.
    pub fn is_void(&self) -> bool {
        self.dead || (self.phase == Phase::Empty && !self.recorded && self.pending.is_empty() && self.offsets.is_empty())
    }

    pub fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    /// The first thing that will be due.
    pub fn deadline_ms(&self) -> Option<i64> {
        let cleanup = (self.phase == Phase::Empty).then_some(self.cleanup_ms);
        let members = self.members.values().filter_map(Member::expires_ms);
        let pending = self.pending.values().copied();
        members.chain(pending).chain(self.join_deadline_ms).chain(self.sync_deadline_ms).chain(cleanup).min()
    }

    /// True when the rebalance waits for nobody.
    pub fn has_all_joined(&self) -> bool {
        self.pending.is_empty() && self.members.values().all(|member| member.join.is_waiting())
    }

    /// The longest any member wants a rebalance to wait.
    pub fn rebalance_timeout_ms(&self) -> i64 {
        self.members.values().map(|member| i64::from(member.rebalance_timeout_ms)).max().unwrap_or(0)
    }

    /// Kafka's check of a member id and an instance id.
    pub fn validate(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance) = instance_id {
            match self.static_members.get(instance) {
                None => return Err(ErrorCode::UNKNOWN_MEMBER_ID),
                Some(current) if current != member_id => return Err(ErrorCode::FENCED_INSTANCE_ID),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ErrorCode::UNKNOWN_MEMBER_ID) }
    }

    /// True when a member with these protocols could be in the group.
    pub fn supports(&self, protocol_type: &str, protocols: &[(String, Bytes)]) -> bool {
        if protocol_type.is_empty() || protocols.is_empty() {
            return false;
        }
        if self.phase == Phase::Empty {
            return true;
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|(name, _)| self.members.values().all(|member| member.supports(name)))
    }

    /// The protocol with most votes among those all members support; each votes for the one it likes best of these.
    pub fn select_protocol(&self) -> Option<String> {
        let first = self.members.values().next()?;
        let common: Vec<&str> = first.protocols.iter().map(|(name, _)| name.as_str()).collect();
        let common: Vec<&str> =
            common.into_iter().filter(|name| self.members.values().all(|member| member.supports(name))).collect();
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let choice = member.protocols.iter().map(|(name, _)| name.as_str()).find(|name| common.contains(name));
            if let Some(choice) = choice {
                *votes.entry(choice).or_default() += 1;
            }
        }
        // Equal votes: the one the first member prefers, so that the outcome is the same at every run.
        let most = votes.values().copied().max()?;
        common.into_iter().find(|name| votes.get(name) == Some(&most)).map(str::to_owned)
    }

    /// All members for the leader.
    pub fn members_for_leader(&self) -> Vec<JoinMember> {
        let protocol = self.protocol.as_deref();
        let view = |(id, member): (&String, &Member)| JoinMember {
            member_id: id.clone(),
            group_instance_id: member.instance_id.clone(),
            metadata: member.metadata(protocol),
        };
        self.members.iter().map(view).collect()
    }

    /// Takes a member out without answering it; a leader that goes is replaced.
    pub fn forget(&mut self, member_id: &str) -> Option<Member> {
        let member = self.members.remove(member_id)?;
        if let Some(instance) = &member.instance_id {
            self.static_members.remove(instance);
        }
        self.pending_sync.remove(member_id);
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
        Some(member)
    }

    /// Marks the answer under `token` as unwanted.
    pub fn hang_up(&mut self, token: ReplyToken) {
        for member in self.members.values_mut() {
            for waiting in [&mut member.join, &mut member.sync] {
                if *waiting == Waiting::For(token) {
                    *waiting = Waiting::Gone;
                }
            }
        }
    }

    /// For DescribeGroups.
    pub fn describe(&self) -> GroupDescription {
        let stable = self.phase == Phase::Stable;
        let protocol = self.protocol.as_deref().filter(|_| stable);
        let view = |(id, member): (&String, &Member)| MemberDescription {
            member_id: id.clone(),
            group_instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: member.metadata(protocol),
            assignment: if stable { member.assignment.clone() } else { Bytes::new() },
        };
        GroupDescription {
            state: self.phase.word(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol: protocol.unwrap_or_default().to_owned(),
            members: self.members.iter().map(view).collect(),
        }
    }
}

/// Answers whoever waits in `waiting`.
pub fn answer(effects: &mut Effects, waiting: &mut Waiting, reply: Reply) {
    if let Some(token) = waiting.take() {
        effects.replies.push((token, reply));
    }
}
