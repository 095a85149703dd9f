//! SyncGroup, Heartbeat and LeaveGroup.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use schloss_core::ErrorCode;

use super::member::LeavingMember;
use super::{Group, GroupState, Turn};
use crate::effects::{Reply, ReplyToken, SyncReply};

/// Who speaks, and in which generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRef {
    /// The generation it knows.
    pub generation: i32,
    /// Its id.
    pub member_id: Arc<str>,
    /// Its static name.
    pub instance_id: Option<Arc<str>>,
}

/// A SyncGroup request.
#[derive(Clone, Debug)]
pub struct Sync {
    /// Who asks.
    pub member: MemberRef,
    /// The kind of group it believes in; from version 5 on.
    pub protocol_type: Option<Arc<str>>,
    /// The protocol it believes in; from version 5 on.
    pub protocol: Option<Arc<str>>,
    /// From the leader: who gets what.
    pub assignments: Vec<(Arc<str>, Bytes)>,
}

impl Group {
    /// Handles a sync; the reply comes now or with the leader's assignment.
    pub(crate) fn sync(&mut self, sync: Sync, token: ReplyToken, turn: &mut Turn<'_>) {
        if let Err(error) = self.try_sync(sync, token, turn) {
            turn.effects.sync_error(token, error);
        }
    }

    fn try_sync(&mut self, sync: Sync, token: ReplyToken, turn: &mut Turn<'_>) -> Result<(), ErrorCode> {
        let MemberRef { generation, member_id, instance_id } = &sync.member;
        self.check_member(member_id, instance_id.as_deref())?;
        self.check_generation(*generation)?;
        let differs = |said: &Option<Arc<str>>, ours: &Option<Arc<str>>| said.is_some() && said != ours;
        if differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol, &self.protocol) {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        match self.state {
            GroupState::Empty => Err(ErrorCode::UNKNOWN_MEMBER_ID),
            GroupState::PreparingRebalance => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            GroupState::Stable => {
                let reply = self.sync_reply(member_id);
                turn.effects.reply(token, reply);
                self.touch(member_id, turn);
                Ok(())
            }
            GroupState::CompletingRebalance => {
                let is_leader = self.leader.as_ref() == Some(member_id);
                if is_leader && sync.assignments.iter().any(|(_, given)| given.len() > turn.config.member_bytes_max) {
                    return Err(ErrorCode::INVALID_REQUEST);
                }
                if let Some(member) = self.members.get_mut(member_id) {
                    member.has_synced = true;
                    member.expires_ms = None;
                    if let Some(earlier) = member.syncing.replace(token) {
                        turn.effects.sync_error(earlier, ErrorCode::REBALANCE_IN_PROGRESS);
                    }
                }
                if is_leader {
                    self.assign(sync.assignments, turn);
                }
                Ok(())
            }
        }
    }

    /// The leader has spoken: everyone gets a share, those it forgot an empty one.
    fn assign(&mut self, assignments: Vec<(Arc<str>, Bytes)>, turn: &mut Turn<'_>) {
        let mut given: BTreeMap<_, _> = assignments.into_iter().collect();
        for (id, member) in &mut self.members {
            member.assignment = given.remove(id).unwrap_or_default();
        }
        self.set_state(GroupState::Stable, turn);
        self.store(turn);
        let parked: Vec<_> =
            self.members.iter_mut().filter_map(|(id, member)| Some((id.clone(), member.syncing.take()?))).collect();
        for (id, token) in parked {
            let reply = self.sync_reply(&id);
            turn.effects.reply(token, reply);
            self.touch(&id, turn);
        }
        if self.members.values().all(|member| member.has_synced) {
            self.sync_deadline_ms = None;
        }
    }

    fn sync_reply(&mut self, member_id: &str) -> Reply {
        let assignment = self.members.get_mut(member_id).map(|member| {
            member.has_synced = true;
            member.assignment.clone()
        });
        if self.members.values().all(|member| member.has_synced) {
            self.sync_deadline_ms = None;
        }
        Reply::Sync(SyncReply {
            error: ErrorCode::NONE,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: assignment.unwrap_or_default(),
        })
    }

    /// Those that never sent SyncGroup hold the group up no longer.
    pub(crate) fn sync_deadline(&mut self, turn: &mut Turn<'_>) {
        self.sync_deadline_ms = None;
        let missing: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| !member.has_synced && member.joining.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        if !missing.is_empty() {
            self.remove_members(&missing, ErrorCode::UNKNOWN_MEMBER_ID, turn);
        }
    }

    /// A new rebalance begins: whoever waits for an assignment must join again.
    pub(crate) fn refuse_parked_syncs(&mut self, turn: &mut Turn<'_>) {
        let ids: Vec<_> = self.members.keys().cloned().collect();
        for id in ids {
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.assignment = Bytes::new();
            if let Some(token) = member.syncing.take() {
                turn.effects.sync_error(token, ErrorCode::REBALANCE_IN_PROGRESS);
                self.touch(&id, turn);
            }
        }
    }

    /// Handles a heartbeat.
    pub(crate) fn heartbeat(&mut self, member: &MemberRef, turn: &mut Turn<'_>) -> ErrorCode {
        let checked = self
            .check_member(&member.member_id, member.instance_id.as_deref())
            .and_then(|()| self.check_generation(member.generation));
        if let Err(error) = checked {
            return error;
        }
        self.touch(&member.member_id, turn);
        match self.state {
            GroupState::Empty => ErrorCode::UNKNOWN_MEMBER_ID,
            GroupState::PreparingRebalance => ErrorCode::REBALANCE_IN_PROGRESS,
            GroupState::CompletingRebalance | GroupState::Stable => ErrorCode::NONE,
        }
    }

    /// Handles a leave; one code per member asked for.
    pub(crate) fn leave(&mut self, leaving: &[LeavingMember], turn: &mut Turn<'_>) -> Vec<ErrorCode> {
        let mut gone = Vec::new();
        let mut pending_left = false;
        let mut codes = Vec::with_capacity(leaving.len());
        for member in leaving {
            let id = match &member.instance_id {
                Some(instance_id) if member.member_id.is_empty() => {
                    self.static_members.get(instance_id).cloned().ok_or(ErrorCode::UNKNOWN_MEMBER_ID)
                }
                _ if self.pending.remove(&member.member_id).is_some() => {
                    pending_left = true;
                    codes.push(ErrorCode::NONE);
                    continue;
                }
                instance_id => {
                    self.check_member(&member.member_id, instance_id.as_deref()).map(|()| member.member_id.clone())
                }
            };
            match id {
                Ok(id) if !gone.contains(&id) => {
                    gone.push(id);
                    codes.push(ErrorCode::NONE);
                }
                Ok(_) => codes.push(ErrorCode::UNKNOWN_MEMBER_ID),
                Err(error) => codes.push(error),
            }
        }
        if !gone.is_empty() {
            self.remove_members(&gone, ErrorCode::UNKNOWN_MEMBER_ID, turn);
        } else if pending_left {
            self.complete_join_if_all_are_here(turn);
        }
        codes
    }
}
