//! JoinGroup: who may come in, under which id, and whether that begins a rebalance.
//!
//! SPEC: KIP-345 static members, KIP-394 known member ids, KIP-814 skipped assignment.

use bytes::Bytes;
use schloss_core::ErrorCode;

use crate::api::{GroupLimits, JoinReply, JoinRequest, ReplyToken};
use crate::group::{self, Cx, Group, Member, Phase, Waiting, answer};
use crate::limits;

/// Checks that need no group.
pub fn check_request(request: &JoinRequest<'_>, limits: &GroupLimits) -> Result<(), ErrorCode> {
    if request.group.is_empty() {
        return Err(ErrorCode::INVALID_GROUP_ID);
    }
    if !(limits.session_timeout_min_ms..=limits.session_timeout_max_ms).contains(&request.session_timeout_ms) {
        return Err(ErrorCode::INVALID_SESSION_TIMEOUT);
    }
    let instance_is_wrong = request.group_instance_id.is_some_and(|id| id.is_empty() || id.len() > limits::INSTANCE_ID_BYTES_MAX);
    let names_are_wrong = request.protocol_type.len() > limits::STRING_BYTES_MAX
        || request.protocols.iter().any(|(name, _)| name.len() > limits::STRING_BYTES_MAX);
    let too_much = request.protocols.len() > limits::PROTOCOLS_PER_MEMBER_MAX
        || group::protocols_bytes(&request.protocols) > limits::MEMBER_METADATA_BYTES_MAX;
    if instance_is_wrong || names_are_wrong || too_much {
        return Err(ErrorCode::INVALID_REQUEST);
    }
    Ok(())
}

/// A JoinGroup at its group.
pub struct Joining<'a> {
    pub token: ReplyToken,
    pub request: JoinRequest<'a>,
    /// What makes a new member id unguessable.
    pub random: u128,
}

impl Joining<'_> {
    fn new_member_id(&self) -> String {
        let prefix = self.request.group_instance_id.unwrap_or(self.request.client_id);
        let hex = format!("{:032x}", self.random);
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
        let uuid = [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-");
        format!("{}-{uuid}", limits::cut(prefix, limits::DISPLAY_BYTES_MAX))
    }

    fn rebalance_timeout_ms(&self) -> i32 {
        match self.request.rebalance_timeout_ms {
            ..0 => self.request.session_timeout_ms,
            timeout => timeout,
        }
    }

    fn refuse(&self, cx: &mut Cx<'_>, error: ErrorCode, member_id: &str) {
        cx.effects.replies.push((self.token, JoinReply::refused(error, member_id)));
    }
}

impl Group {
    /// Takes one JoinGroup; the answer is parked or in the effects.
    pub fn join(&mut self, cx: &mut Cx<'_>, joining: Joining<'_>) {
        let member_id = joining.request.member_id;
        if !self.has_room_for(cx, &joining) {
            joining.refuse(cx, ErrorCode::GROUP_MAX_SIZE_REACHED, "");
            if self.members.contains_key(member_id) {
                self.remove_member(cx, member_id);
            } else if self.pending.remove(member_id).is_some() {
                self.maybe_complete_join(cx);
            }
            return;
        }
        if !self.supports(joining.request.protocol_type, &joining.request.protocols) {
            return joining.refuse(cx, ErrorCode::INCONSISTENT_GROUP_PROTOCOL, member_id);
        }
        if member_id.is_empty() {
            return self.join_new(cx, joining);
        }
        if self.pending.contains_key(member_id) {
            if joining.request.group_instance_id.is_some() {
                // Ids are handed out ahead to dynamic members only.
                return joining.refuse(cx, ErrorCode::UNKNOWN_MEMBER_ID, member_id);
            }
            let member_id = member_id.to_owned();
            self.pending.remove(&member_id);
            return self.add_member(cx, joining, member_id);
        }
        if let Err(error) = self.validate(member_id, joining.request.group_instance_id) {
            return joining.refuse(cx, error, member_id);
        }
        self.join_again(cx, joining);
    }

    fn has_room_for(&self, cx: &Cx<'_>, joining: &Joining<'_>) -> bool {
        let known = self.members.get(joining.request.member_id);
        let comes_back_static =
            joining.request.group_instance_id.is_some_and(|instance| self.static_members.contains_key(instance));
        let others_bytes = self.members.iter().filter(|(id, _)| *id != joining.request.member_id);
        let bytes = others_bytes.map(|(_, member)| member.metadata_bytes()).fold(0, usize::saturating_add);
        if bytes.saturating_add(group::protocols_bytes(&joining.request.protocols)) > limits::GROUP_METADATA_BYTES_MAX {
            return false;
        }
        // SECURITY: ids handed out ahead cost memory too, and cost the asker nothing.
        if joining.request.member_id.is_empty() && self.pending.len() >= cx.limits.size_max {
            return false;
        }
        match self.phase {
            Phase::Empty => true,
            Phase::PreparingRebalance => {
                let waiting = self.members.values().filter(|member| member.join.is_waiting()).count();
                known.is_some_and(|member| member.join.is_waiting()) || waiting < cx.limits.size_max
            }
            Phase::CompletingRebalance | Phase::Stable => {
                known.is_some() || comes_back_static || self.members.len() < cx.limits.size_max
            }
        }
    }

    fn join_new(&mut self, cx: &mut Cx<'_>, joining: Joining<'_>) {
        let member_id = joining.new_member_id();
        if let Some(instance) = joining.request.group_instance_id {
            return match self.static_members.get(instance).cloned() {
                Some(old_id) => self.replace_static(cx, joining, &old_id, member_id),
                None => self.add_member(cx, joining, member_id),
            };
        }
        if joining.request.require_known_member_id {
            self.pending.insert(member_id.clone(), cx.after(joining.request.session_timeout_ms));
            return joining.refuse(cx, ErrorCode::MEMBER_ID_REQUIRED, &member_id);
        }
        self.add_member(cx, joining, member_id);
    }

    fn join_again(&mut self, cx: &mut Cx<'_>, joining: Joining<'_>) {
        let member_id = joining.request.member_id.to_owned();
        let Some(member) = self.members.get(&member_id) else { return };
        let unchanged = member.protocols == joining.request.protocols;
        let nothing_new = match self.phase {
            Phase::CompletingRebalance => unchanged,
            Phase::Stable => unchanged && !self.is_leader(&member_id),
            Phase::Empty | Phase::PreparingRebalance => false,
        };
        if nothing_new {
            // The member did not see the answer it got; it gets it again.
            let reply = self.join_reply(&member_id);
            cx.effects.replies.push((joining.token, reply));
            return;
        }
        self.update_member(cx, &joining, &member_id);
        self.prepare_or_complete(cx);
    }

    fn add_member(&mut self, cx: &mut Cx<'_>, joining: Joining<'_>, member_id: String) {
        if self.members.is_empty() {
            self.protocol_type = Some(joining.request.protocol_type.to_owned());
        }
        if let Some(initial) = &mut self.initial {
            initial.member_added = true;
        }
        if let Some(instance) = joining.request.group_instance_id {
            self.static_members.insert(instance.to_owned(), member_id.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(member_id.clone());
        }
        let member = Member {
            instance_id: joining.request.group_instance_id.map(str::to_owned),
            client_id: limits::cut(joining.request.client_id, limits::DISPLAY_BYTES_MAX).to_owned(),
            client_host: limits::cut(joining.request.client_host, limits::DISPLAY_BYTES_MAX).to_owned(),
            session_timeout_ms: joining.request.session_timeout_ms,
            rebalance_timeout_ms: joining.rebalance_timeout_ms(),
            protocols: joining.request.protocols,
            assignment: Bytes::new(),
            join: Waiting::For(joining.token),
            sync: Waiting::No,
            is_new: true,
            deadline_ms: cx.after(limits::NEW_MEMBER_JOIN_TIMEOUT_MS),
        };
        self.members.insert(member_id, member);
        self.prepare_or_complete(cx);
    }

    fn update_member(&mut self, cx: &mut Cx<'_>, joining: &Joining<'_>, member_id: &str) {
        let Some(member) = self.members.get_mut(member_id) else { return };
        // A second request of the same member: the first one's connection is answered, not forgotten.
        answer(cx.effects, &mut member.join, JoinReply::refused(ErrorCode::REBALANCE_IN_PROGRESS, member_id));
        member.protocols.clone_from(&joining.request.protocols);
        member.session_timeout_ms = joining.request.session_timeout_ms;
        member.rebalance_timeout_ms = joining.rebalance_timeout_ms();
        member.join = Waiting::For(joining.token);
    }

    /// A static member came back without its member id: it takes over under a new one and the old one is fenced.
    fn replace_static(&mut self, cx: &mut Cx<'_>, joining: Joining<'_>, old_id: &str, new_id: String) {
        let leader_before = self.leader.clone();
        self.rename(cx, old_id, &new_id);
        self.update_member(cx, &joining, &new_id);
        if let Some(member) = self.members.get_mut(&new_id) {
            member.deadline_ms = cx.after(member.session_timeout_ms);
        }
        match self.phase {
            Phase::Stable if self.select_protocol() == self.protocol => {
                self.keep_assignment(cx, &joining, &new_id, leader_before);
            }
            Phase::Stable => self.prepare_or_complete(cx),
            Phase::CompletingRebalance => self.prepare_rebalance(cx),
            Phase::Empty | Phase::PreparingRebalance => self.maybe_complete_join(cx),
        }
    }

    fn rename(&mut self, cx: &mut Cx<'_>, old_id: &str, new_id: &str) {
        let Some(mut member) = self.members.remove(old_id) else { return };
        answer(cx.effects, &mut member.join, JoinReply::refused(ErrorCode::FENCED_INSTANCE_ID, old_id));
        answer(cx.effects, &mut member.sync, crate::api::SyncReply::refused(ErrorCode::FENCED_INSTANCE_ID));
        if let Some(instance) = &member.instance_id {
            self.static_members.insert(instance.clone(), new_id.to_owned());
        }
        if self.is_leader(old_id) {
            self.leader = Some(new_id.to_owned());
        }
        if self.pending_sync.remove(old_id) {
            self.pending_sync.insert(new_id.to_owned());
        }
        self.members.insert(new_id.to_owned(), member);
    }

    /// Answers a returned static member of a stable group: same generation, same assignment, no rebalance.
    fn keep_assignment(&mut self, cx: &mut Cx<'_>, joining: &Joining<'_>, member_id: &str, leader_before: Option<String>) {
        if !self.record(cx) {
            return self.prepare_or_complete(cx);
        }
        let mut reply = self.join_reply(member_id);
        if let crate::api::Reply::Join(reply) = &mut reply {
            if joining.request.supports_skip_assignment {
                reply.skip_assignment = self.is_leader(member_id);
            } else {
                // Told its old id as the leader's, it does not take itself for the leader and assigns nothing.
                reply.leader = leader_before.unwrap_or_default();
                reply.members.clear();
            }
        }
        if let Some(member) = self.members.get_mut(member_id) {
            member.is_new = false;
            answer(cx.effects, &mut member.join, reply);
        }
    }
}
