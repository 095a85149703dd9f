//! One classic group: members, generation, leader.
//!
//! In: joins, syncs, heartbeats, leaves, deadlines. Out: replies and, when something durable changed, its record.
//!
//! Invariants
//! - Exactly one leader while there are members and a generation was begun; it is a member.
//! - The generation grows by one with each completed join phase and never falls.
//! - `static_members` maps each static name to a member that has it.
//! - A join is parked only in `PreparingRebalance`, a sync only in `CompletingRebalance`.

pub(crate) mod join;
pub(crate) mod member;
pub(crate) mod sync;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use schloss_core::{ErrorCode, GroupId, PartitionId};

use crate::config::GroupConfig;
use crate::effects::{Effects, JoinReply, JoinedMember, Now, Reply};
use crate::offsets::CommittedOffset;
use crate::record;
use member::Member;

/// Where a group is in its life, by Kafka's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// No members; perhaps offsets.
    Empty,
    /// Waiting for members to join.
    PreparingRebalance,
    /// Waiting for the leader's assignment.
    CompletingRebalance,
    /// Every member has its assignment.
    Stable,
}

impl GroupState {
    /// Kafka's name of the state.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// A group for DescribeGroups.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupDescription {
    /// Its state.
    pub state: GroupState,
    /// Its kind, empty when it never had members.
    pub protocol_type: Arc<str>,
    /// Its protocol, empty unless stable.
    pub protocol: Arc<str>,
    /// Its members.
    pub members: Vec<MemberDescription>,
}

/// A member for DescribeGroups.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberDescription {
    /// Its id.
    pub member_id: Arc<str>,
    /// Its static name.
    pub instance_id: Option<Arc<str>>,
    /// What the client calls itself.
    pub client_id: Arc<str>,
    /// Where it came from.
    pub client_host: Arc<str>,
    /// Its metadata for the chosen protocol; empty unless stable.
    pub metadata: Bytes,
    /// Its assignment; empty unless stable.
    pub assignment: Bytes,
}

/// The join phase under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JoinPhase {
    pub(crate) deadline_ms: u64,
    /// For the first rebalance of an empty group: how much longer new members may put it off.
    pub(crate) initial_left_ms: Option<u64>,
    pub(crate) has_newcomer: bool,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) state: GroupState,
    /// When the group became empty, for the retention of its offsets.
    pub(crate) state_wall_ms: i64,
    pub(crate) generation: i32,
    pub(crate) protocol_type: Option<Arc<str>>,
    pub(crate) protocol: Option<Arc<str>>,
    pub(crate) leader: Option<Arc<str>>,
    pub(crate) members: BTreeMap<Arc<str>, Member>,
    pub(crate) static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// Members that were told their id and have not come back with it, and until when they may.
    pub(crate) pending: BTreeMap<Arc<str>, u64>,
    pub(crate) join_phase: Option<JoinPhase>,
    /// Until when every member must have sent SyncGroup.
    pub(crate) sync_deadline_ms: Option<u64>,
    pub(crate) offsets: BTreeMap<PartitionId, CommittedOffset>,
    /// Whether a record of the group itself was written.
    pub(crate) is_stored: bool,
    /// What stands in the table's timetable.
    pub(crate) scheduled_ms: Option<u64>,
}

/// What every event brings along.
pub(crate) struct Turn<'a> {
    pub(crate) now: Now,
    pub(crate) config: &'a GroupConfig,
    pub(crate) effects: &'a mut Effects,
}

impl Turn<'_> {
    pub(crate) fn after(&self, delay_ms: u64) -> u64 {
        self.now.monotonic_ms.saturating_add(delay_ms)
    }
}

impl Group {
    pub(crate) fn new(id: GroupId, now_wall_ms: i64) -> Self {
        Self {
            id,
            state: GroupState::Empty,
            state_wall_ms: now_wall_ms,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending: BTreeMap::new(),
            join_phase: None,
            sync_deadline_ms: None,
            offsets: BTreeMap::new(),
            is_stored: false,
            scheduled_ms: None,
        }
    }

    /// Nothing left that anyone could ask for.
    pub(crate) fn is_vacant(&self) -> bool {
        self.state == GroupState::Empty && self.pending.is_empty() && self.offsets.is_empty() && !self.is_stored
    }

    /// The next time something is due.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        let members = self.members.values().filter_map(|member| member.expires_ms);
        let phases = self.join_phase.map(|phase| phase.deadline_ms).into_iter().chain(self.sync_deadline_ms);
        members.chain(self.pending.values().copied()).chain(phases).min()
    }

    pub(crate) fn describe(&self) -> GroupDescription {
        let is_stable = self.state == GroupState::Stable;
        let protocol = self.protocol.clone().filter(|_| is_stable);
        let members = self.members.iter().map(|(id, member)| MemberDescription {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: member.metadata(protocol.as_deref()),
            assignment: if is_stable { member.assignment.clone() } else { Bytes::new() },
        });
        GroupDescription {
            state: self.state,
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            members: members.collect(),
            protocol: protocol.unwrap_or_default(),
        }
    }

    /// Checks who speaks: the member exists, and its static name is its own.
    pub(crate) fn check_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(ErrorCode::UNKNOWN_MEMBER_ID),
                Some(owner) if &**owner != member_id => return Err(ErrorCode::FENCED_INSTANCE_ID),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ErrorCode::UNKNOWN_MEMBER_ID) }
    }

    pub(crate) fn check_generation(&self, generation: i32) -> Result<(), ErrorCode> {
        if generation == self.generation { Ok(()) } else { Err(ErrorCode::ILLEGAL_GENERATION) }
    }

    /// The member was heard of.
    pub(crate) fn touch(&mut self, member_id: &str, turn: &Turn<'_>) {
        let member = self.members.get_mut(member_id);
        if let Some(member) = member.filter(|member| member.joining.is_none() && member.syncing.is_none()) {
            member.expires_ms = Some(turn.after(member.session_timeout_ms));
        }
    }

    pub(crate) fn set_state(&mut self, state: GroupState, turn: &Turn<'_>) {
        self.state = state;
        self.state_wall_ms = turn.now.wall_ms;
    }

    /// Writes the group as it is.
    pub(crate) fn store(&mut self, turn: &mut Turn<'_>) {
        self.is_stored = true;
        turn.effects.records.push(record::group_record(self));
    }

    /// Everything that is due now.
    pub(crate) fn tick(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.monotonic_ms;
        let pending_before = self.pending.len();
        self.pending.retain(|_, until| *until > now);
        let gone: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| member.expires_ms.is_some_and(|expires| expires <= now))
            .map(|(id, _)| id.clone())
            .collect();
        if !gone.is_empty() {
            self.remove_members(&gone, ErrorCode::UNKNOWN_MEMBER_ID, turn);
        } else if self.pending.len() != pending_before {
            self.complete_join_if_all_are_here(turn);
        }
        if let Some(phase) = self.join_phase.filter(|phase| phase.deadline_ms <= now) {
            self.join_deadline(phase, turn);
        }
        if self.sync_deadline_ms.is_some_and(|deadline| deadline <= now) {
            self.sync_deadline(turn);
        }
    }

    /// Takes members out and lets the rest go on: a new rebalance, or the end of the one they held up.
    pub(crate) fn remove_members(&mut self, ids: &[Arc<str>], error: ErrorCode, turn: &mut Turn<'_>) {
        for id in ids {
            self.drop_member(id, error, turn);
        }
        match self.state {
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(turn),
            GroupState::PreparingRebalance => self.complete_join_if_all_are_here(turn),
            GroupState::Empty => {}
        }
    }

    pub(crate) fn drop_member(&mut self, id: &str, error: ErrorCode, turn: &mut Turn<'_>) {
        let Some(member) = self.members.remove(id) else { return };
        if let Some(token) = member.joining {
            turn.effects.join_error(token, id, error);
        }
        if let Some(token) = member.syncing {
            turn.effects.sync_error(token, error);
        }
        if let Some(instance_id) = &member.instance_id {
            self.static_members.remove(instance_id);
        }
        if self.leader.as_deref() == Some(id) {
            // Kafka: the next member becomes leader, one that is here if there is one.
            let here = self.members.iter().find(|(_, member)| member.joining.is_some());
            self.leader = here.or_else(|| self.members.iter().next()).map(|(id, _)| id.clone());
        }
    }

    /// The protocols that every member knows.
    fn common_protocols(&self) -> BTreeSet<Arc<str>> {
        let mut members = self.members.values();
        let Some(first) = members.next() else { return BTreeSet::new() };
        let mut common: BTreeSet<_> = first.protocols.iter().map(|protocol| protocol.name.clone()).collect();
        for member in members {
            common.retain(|name| member.supports(name));
        }
        common
    }

    /// The protocol that most members like best among those that all know.
    pub(crate) fn select_protocol(&self) -> Option<Arc<str>> {
        let common = self.common_protocols();
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some(vote) = member.protocols.iter().find(|protocol| common.contains(&protocol.name)) {
                let count = votes.entry(&vote.name).or_default();
                *count = count.saturating_add(1);
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name.clone())
    }

    /// The answer to a join in the present generation; the leader also gets the members.
    pub(crate) fn join_reply(&self, member_id: &Arc<str>, leader: Arc<str>, for_leader: bool) -> Reply {
        let members = self.members.iter().filter(|_| for_leader).map(|(id, member)| JoinedMember {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            metadata: member.metadata(self.protocol.as_deref()),
        });
        Reply::Join(JoinReply {
            error: ErrorCode::NONE,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader,
            skip_assignment: false,
            member_id: member_id.clone(),
            members: members.collect(),
        })
    }
}
