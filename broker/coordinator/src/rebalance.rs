//! The phases of a rebalance: prepare, complete the join, sync, and what leaving or silence does to them.

use std::collections::HashMap;

use bytes::Bytes;
use schloss_core::ErrorCode;

use crate::api::{HeartbeatRequest, JoinReply, MemberIdentity, Reply, ReplyToken, SyncReply, SyncRequest};
use crate::group::{Cx, Group, InitialRebalance, Phase, Waiting, answer};
use crate::{layout, limits};

impl Group {
    /// Begins a rebalance, or completes the running one if everybody is there.
    pub fn prepare_or_complete(&mut self, cx: &mut Cx<'_>) {
        match self.phase {
            Phase::Empty | Phase::CompletingRebalance | Phase::Stable => self.prepare_rebalance(cx),
            Phase::PreparingRebalance => self.maybe_complete_join(cx),
        }
    }

    /// Completes the running rebalance if everybody is there and its first delay is over.
    pub fn maybe_complete_join(&mut self, cx: &mut Cx<'_>) {
        if self.phase == Phase::PreparingRebalance && self.initial.is_none() && self.has_all_joined() {
            self.complete_join(cx);
        }
    }

    /// Asks everybody to join again.
    pub fn prepare_rebalance(&mut self, cx: &mut Cx<'_>) {
        if self.phase == Phase::CompletingRebalance {
            self.withdraw_assignments(cx, ErrorCode::REBALANCE_IN_PROGRESS);
        }
        self.pending_sync.clear();
        self.sync_deadline_ms = None;
        let was_empty = self.phase == Phase::Empty;
        self.enter(cx, Phase::PreparingRebalance);
        if was_empty {
            let delay_ms = i64::from(cx.limits.initial_rebalance_delay_ms.max(0));
            let remaining_ms = (self.rebalance_timeout_ms() - delay_ms).max(0);
            self.initial = Some(InitialRebalance { delay_ms, remaining_ms, member_added: false });
            self.join_deadline_ms = Some(cx.after(delay_ms));
        } else if self.has_all_joined() {
            self.complete_join(cx);
        } else {
            self.join_deadline_ms = Some(cx.after(self.rebalance_timeout_ms()));
        }
    }

    /// The join deadline passed.
    pub fn join_deadline_passed(&mut self, cx: &mut Cx<'_>) {
        match &mut self.initial {
            Some(initial) if initial.member_added && initial.remaining_ms > 0 => {
                let delay_ms = i64::from(cx.limits.initial_rebalance_delay_ms.max(0)).min(initial.remaining_ms);
                let remaining_ms = (initial.remaining_ms - initial.delay_ms).max(0);
                *initial = InitialRebalance { delay_ms, remaining_ms, member_added: false };
                self.join_deadline_ms = Some(cx.after(delay_ms));
            }
            _ => self.complete_join(cx),
        }
    }

    /// Ends the join: drops those that did not come, begins the next generation and answers everybody.
    fn complete_join(&mut self, cx: &mut Cx<'_>) {
        self.initial = None;
        self.join_deadline_ms = None;
        let late = self.members.iter().filter(|(_, member)| !member.join.is_waiting() && member.instance_id.is_none());
        let late: Vec<String> = late.map(|(id, _)| id.clone()).collect();
        for id in late {
            self.forget(&id);
        }
        if !self.members.is_empty() && !self.elect_leader() {
            // Only static members are left and none has come back yet: wait for their sessions to end.
            self.join_deadline_ms = Some(cx.after(self.rebalance_timeout_ms().max(limits::REARM_MS_MIN)));
            return;
        }
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        if self.members.is_empty() {
            self.become_empty(cx);
        } else {
            self.begin_generation(cx);
        }
    }

    /// True when the leader is one that joined this time.
    fn elect_leader(&mut self) -> bool {
        let waits = |id: &String| self.members.get(id).is_some_and(|member| member.join.is_waiting());
        if self.leader.as_ref().is_some_and(waits) {
            return true;
        }
        let joined = self.members.iter().find(|(_, member)| member.join.is_waiting()).map(|(id, _)| id.clone());
        let found = joined.is_some();
        if found {
            self.leader = joined;
        }
        found
    }

    fn become_empty(&mut self, cx: &mut Cx<'_>) {
        self.protocol = None;
        self.leader = None;
        self.enter(cx, Phase::Empty);
        self.cleanup_ms = cx.after(limits::CLEANUP_INTERVAL_MS);
        self.record(cx);
    }

    fn begin_generation(&mut self, cx: &mut Cx<'_>) {
        self.protocol = self.select_protocol();
        self.enter(cx, Phase::CompletingRebalance);
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let reply = self.join_reply(&id);
            if let Some(member) = self.members.get_mut(&id) {
                answer(cx.effects, &mut member.join, reply);
                member.is_new = false;
                member.deadline_ms = cx.after(member.session_timeout_ms);
            }
            self.pending_sync.insert(id);
        }
        self.sync_deadline_ms = Some(cx.after(self.rebalance_timeout_ms()));
    }

    fn enter(&mut self, cx: &Cx<'_>, phase: Phase) {
        self.phase = phase;
        self.since_ms = cx.now_ms;
    }

    /// What `member_id` is told about the generation in force.
    pub fn join_reply(&self, member_id: &str) -> Reply {
        Reply::Join(JoinReply {
            error: ErrorCode::NONE,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            member_id: member_id.to_owned(),
            members: if self.is_leader(member_id) { self.members_for_leader() } else { Vec::new() },
        })
    }

    /// Takes one SyncGroup; the answer is parked or in the effects.
    pub fn sync(&mut self, cx: &mut Cx<'_>, token: ReplyToken, request: SyncRequest<'_>) {
        if let Err(error) = self.check_sync(&request) {
            cx.effects.replies.push((token, SyncReply::refused(error)));
            return;
        }
        self.pending_sync.remove(request.member_id);
        let is_leader = self.is_leader(request.member_id);
        let completing = self.phase == Phase::CompletingRebalance;
        let reply = self.sync_reply(request.member_id);
        let Some(member) = self.members.get_mut(request.member_id) else { return };
        if !completing {
            member.deadline_ms = cx.after(member.session_timeout_ms);
            cx.effects.replies.push((token, reply));
            return;
        }
        answer(cx.effects, &mut member.sync, SyncReply::refused(ErrorCode::REBALANCE_IN_PROGRESS));
        member.sync = Waiting::For(token);
        if is_leader {
            self.assign(cx, request.assignments);
        }
    }

    fn check_sync(&self, request: &SyncRequest<'_>) -> Result<(), ErrorCode> {
        self.validate(request.member_id, request.group_instance_id)?;
        if request.generation != self.generation {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        let differs = |asked: Option<&str>, ours: &Option<String>| asked.is_some_and(|asked| Some(asked) != ours.as_deref());
        if differs(request.protocol_type, &self.protocol_type) || differs(request.protocol, &self.protocol) {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        match self.phase {
            Phase::PreparingRebalance => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            Phase::Empty => Err(ErrorCode::UNKNOWN_MEMBER_ID),
            Phase::CompletingRebalance | Phase::Stable => Ok(()),
        }
    }

    fn sync_reply(&self, member_id: &str) -> Reply {
        Reply::Sync(SyncReply {
            error: ErrorCode::NONE,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members.get(member_id).map(|member| member.assignment.clone()).unwrap_or_default(),
        })
    }

    /// The leader's assignment arrived: the group is stable once it is durable.
    fn assign(&mut self, cx: &mut Cx<'_>, assignments: Vec<(String, Bytes)>) {
        let mut assignments: HashMap<String, Bytes> = assignments.into_iter().collect();
        for (id, member) in &mut self.members {
            member.assignment = assignments.remove(id).unwrap_or_default();
        }
        if !self.record(cx) {
            self.withdraw_assignments(cx, ErrorCode::UNKNOWN_SERVER_ERROR);
            return self.prepare_rebalance(cx);
        }
        self.enter(cx, Phase::Stable);
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let reply = self.sync_reply(&id);
            let Some(member) = self.members.get_mut(&id) else { continue };
            if member.sync.is_waiting() {
                member.deadline_ms = cx.after(member.session_timeout_ms);
                answer(cx.effects, &mut member.sync, reply);
            }
        }
        if self.pending_sync.is_empty() {
            self.sync_deadline_ms = None;
        }
    }

    fn withdraw_assignments(&mut self, cx: &mut Cx<'_>, error: ErrorCode) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
            if member.sync.is_waiting() {
                member.deadline_ms = cx.after(member.session_timeout_ms);
                answer(cx.effects, &mut member.sync, SyncReply::refused(error));
            }
        }
    }

    /// Not everybody asked for the assignment in time: those are gone and the rest rebalances.
    pub fn sync_deadline_passed(&mut self, cx: &mut Cx<'_>) {
        self.sync_deadline_ms = None;
        if self.pending_sync.is_empty() || matches!(self.phase, Phase::Empty | Phase::PreparingRebalance) {
            return;
        }
        for id in std::mem::take(&mut self.pending_sync) {
            self.forget(&id);
        }
        self.prepare_rebalance(cx);
    }

    /// Takes one Heartbeat.
    pub fn heartbeat(&mut self, cx: &Cx<'_>, request: &HeartbeatRequest<'_>) -> Result<(), ErrorCode> {
        self.validate(request.member_id, request.group_instance_id)?;
        if request.generation != self.generation {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        self.keep_alive(cx, request.member_id);
        match self.phase {
            Phase::Empty => Err(ErrorCode::UNKNOWN_MEMBER_ID),
            Phase::PreparingRebalance => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            Phase::CompletingRebalance | Phase::Stable => Ok(()),
        }
    }

    /// The member spoke.
    pub fn keep_alive(&mut self, cx: &Cx<'_>, member_id: &str) {
        if let Some(member) = self.members.get_mut(member_id) {
            member.deadline_ms = cx.after(member.session_timeout_ms);
        }
    }

    /// Takes one LeaveGroup; one code per leaver.
    pub fn leave(&mut self, cx: &mut Cx<'_>, leavers: &[MemberIdentity]) -> Vec<ErrorCode> {
        let codes: Vec<ErrorCode> =
            leavers.iter().map(|leaver| self.leave_one(cx, leaver).err().unwrap_or(ErrorCode::NONE)).collect();
        if codes.contains(&ErrorCode::NONE) {
            self.after_removal(cx);
        }
        codes
    }

    fn leave_one(&mut self, cx: &mut Cx<'_>, leaver: &MemberIdentity) -> Result<(), ErrorCode> {
        if leaver.member_id.is_empty() {
            let instance = leaver.group_instance_id.as_ref().ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
            let member_id = self.static_members.get(instance).cloned().ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
            self.dismiss(cx, &member_id);
            return Ok(());
        }
        if self.pending.remove(&leaver.member_id).is_some() {
            return Ok(());
        }
        self.validate(&leaver.member_id, leaver.group_instance_id.as_deref())?;
        self.dismiss(cx, &leaver.member_id);
        Ok(())
    }

    /// Takes a member out, answers what it waits for, and lets the group go on without it.
    pub fn remove_member(&mut self, cx: &mut Cx<'_>, member_id: &str) {
        self.dismiss(cx, member_id);
        self.after_removal(cx);
    }

    fn dismiss(&mut self, cx: &mut Cx<'_>, member_id: &str) {
        let Some(mut member) = self.forget(member_id) else { return };
        answer(cx.effects, &mut member.join, JoinReply::refused(ErrorCode::UNKNOWN_MEMBER_ID, ""));
        answer(cx.effects, &mut member.sync, SyncReply::refused(ErrorCode::UNKNOWN_MEMBER_ID));
    }

    fn after_removal(&mut self, cx: &mut Cx<'_>) {
        match self.phase {
            Phase::Empty => {}
            Phase::PreparingRebalance => self.maybe_complete_join(cx),
            Phase::CompletingRebalance | Phase::Stable => self.prepare_rebalance(cx),
        }
    }

    /// Asks for the group's record to be written; false when it is over the limit of one record.
    pub fn record(&mut self, cx: &mut Cx<'_>) -> bool {
        match layout::group_record(cx.name, self) {
            Some(record) => {
                cx.effects.records.push(record);
                self.recorded = true;
                true
            }
            None => false,
        }
    }
}
