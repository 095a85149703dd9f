//! JoinGroup, and the phase that gathers members.

use std::sync::Arc;

use bytes::Bytes;
use schloss_core::ErrorCode;

use super::member::Member;
use super::{Group, GroupState, JoinPhase, Turn};
use crate::effects::{Reply, ReplyToken};

/// A protocol a member can follow, with its metadata, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Its name.
    pub name: Arc<str>,
    /// What the leader shall know; opaque.
    pub metadata: Bytes,
}

/// A JoinGroup request.
#[derive(Clone, Debug)]
pub struct Join {
    /// Empty for a newcomer.
    pub member_id: Arc<str>,
    /// The static name (KIP-345).
    pub instance_id: Option<Arc<str>>,
    /// What the client calls itself.
    pub client_id: Arc<str>,
    /// Where it comes from.
    pub client_host: Arc<str>,
    /// Heartbeats must come this often.
    pub session_timeout_ms: i32,
    /// How long the member may take to join again; below 0 (version 0 has none) the session timeout counts.
    pub rebalance_timeout_ms: i32,
    /// `consumer`, `connect` and the like.
    pub protocol_type: Arc<str>,
    /// Best first.
    pub protocols: Vec<Protocol>,
    /// From version 4 on a newcomer must come back with the id it is given (KIP-394).
    pub id_required: bool,
    /// From version 9 on a static leader that comes back may be told to keep the assignment (KIP-814).
    pub can_skip_assignment: bool,
    /// Random bytes for the id of a newcomer.
    pub fresh: [u8; 16],
}

impl Join {
    fn rebalance_ms(&self) -> u64 {
        u64::try_from(self.rebalance_timeout_ms).unwrap_or_else(|_| millis(self.session_timeout_ms))
    }
}

/// How long a member that never got an answer is kept (Kafka's bound for clients that gave up on a long rebalance).
const NEWCOMER_KEPT_MS: u64 = 5 * 60 * 1_000;

impl Group {
    /// Handles a join; the reply comes now or with the end of the join phase.
    pub(crate) fn join(&mut self, join: Join, token: ReplyToken, turn: &mut Turn<'_>) {
        let answer = if join.member_id.is_empty() {
            self.join_newcomer(&join, token, turn)
        } else {
            self.join_known(&join, token, turn)
        };
        if let Err(error) = answer {
            turn.effects.join_error(token, &join.member_id, error);
        }
    }

    /// Kafka counts by state: while joins gather, only those that are here count.
    fn has_room_for(&self, member_id: &str, members_max: usize) -> bool {
        match self.state {
            GroupState::Empty => true,
            GroupState::PreparingRebalance => {
                let known = self.members.get(member_id);
                let here = self.members.values().filter(|member| member.joining.is_some()).count();
                // SECURITY: static members that are away are kept; without the second bound names could pile up.
                let bounded = known.is_some() || self.members.len() < members_max.saturating_mul(2);
                known.is_some_and(|member| member.joining.is_some()) || (here < members_max && bounded)
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                self.members.contains_key(member_id) || self.members.len() < members_max
            }
        }
    }

    fn supports(&self, join: &Join) -> bool {
        if self.members.is_empty() {
            return !join.protocol_type.is_empty() && !join.protocols.is_empty();
        }
        let common = self.common_protocols();
        self.protocol_type.as_ref() == Some(&join.protocol_type)
            && join.protocols.iter().any(|protocol| common.contains(&protocol.name))
    }

    fn join_newcomer(&mut self, join: &Join, token: ReplyToken, turn: &mut Turn<'_>) -> Result<(), ErrorCode> {
        if !self.has_room_for("", turn.config.members_max) {
            return Err(ErrorCode::GROUP_MAX_SIZE_REACHED);
        }
        if !self.supports(join) {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        let fresh = member_id(join);
        if let Some(instance_id) = &join.instance_id {
            return match self.static_members.get(instance_id).cloned() {
                Some(old) => self.replace_static(&old, fresh, join, token, turn),
                None => {
                    self.add(fresh, join, token, turn);
                    Ok(())
                }
            };
        }
        if join.id_required {
            if self.pending.len() >= turn.config.members_max {
                return Err(ErrorCode::GROUP_MAX_SIZE_REACHED);
            }
            self.pending.insert(fresh.clone(), turn.after(millis(join.session_timeout_ms)));
            turn.effects.join_error(token, &fresh, ErrorCode::MEMBER_ID_REQUIRED);
            return Ok(());
        }
        self.add(fresh, join, token, turn);
        Ok(())
    }

    fn join_known(&mut self, join: &Join, token: ReplyToken, turn: &mut Turn<'_>) -> Result<(), ErrorCode> {
        if !self.has_room_for(&join.member_id, turn.config.members_max) {
            self.pending.remove(&join.member_id);
            return Err(ErrorCode::GROUP_MAX_SIZE_REACHED);
        }
        if !self.supports(join) {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        if self.pending.contains_key(&join.member_id) && join.instance_id.is_none() {
            self.pending.remove(&join.member_id);
            self.add(join.member_id.clone(), join, token, turn);
            return Ok(());
        }
        self.check_member(&join.member_id, join.instance_id.as_deref())?;
        let is_leader = self.leader.as_ref() == Some(&join.member_id);
        let is_same = self.members.get(&join.member_id).is_some_and(|member| member.protocols == join.protocols);
        match self.state {
            GroupState::Empty => Err(ErrorCode::UNKNOWN_MEMBER_ID),
            GroupState::PreparingRebalance => {
                self.update(&join.member_id, join, token, turn);
                self.complete_join_if_all_are_here(turn);
                Ok(())
            }
            // The answer was lost on the way: give it again.
            GroupState::CompletingRebalance if is_same => {
                self.answer_again(&join.member_id, is_leader, token, turn);
                Ok(())
            }
            GroupState::Stable if is_same && !is_leader => {
                self.answer_again(&join.member_id, false, token, turn);
                Ok(())
            }
            // A leader that joins again wants a new assignment; others that changed need one.
            GroupState::CompletingRebalance | GroupState::Stable => {
                self.update(&join.member_id, join, token, turn);
                self.prepare_rebalance(turn);
                Ok(())
            }
        }
    }

    fn answer_again(&mut self, member_id: &Arc<str>, is_leader: bool, token: ReplyToken, turn: &mut Turn<'_>) {
        let leader = self.leader.clone().unwrap_or_default();
        let reply = self.join_reply(member_id, leader, is_leader);
        turn.effects.reply(token, reply);
        self.touch(member_id, turn);
    }

    fn add(&mut self, member_id: Arc<str>, join: &Join, token: ReplyToken, turn: &mut Turn<'_>) {
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type.clone());
        }
        let member = Member {
            instance_id: join.instance_id.clone(),
            client_id: join.client_id.clone(),
            client_host: join.client_host.clone(),
            session_timeout_ms: millis(join.session_timeout_ms),
            rebalance_timeout_ms: join.rebalance_ms(),
            protocols: join.protocols.clone(),
            assignment: Bytes::new(),
            joining: Some(token),
            syncing: None,
            has_synced: false,
            is_new: true,
            expires_ms: Some(turn.after(NEWCOMER_KEPT_MS)),
        };
        self.members.insert(member_id.clone(), member);
        if let Some(instance_id) = &join.instance_id {
            self.static_members.insert(instance_id.clone(), member_id.clone());
        }
        self.leader.get_or_insert(member_id);
        if let Some(phase) = &mut self.join_phase {
            phase.has_newcomer = true;
        }
        self.prepare_rebalance(turn);
    }

    fn update(&mut self, member_id: &str, join: &Join, token: ReplyToken, turn: &mut Turn<'_>) {
        let Some(member) = self.members.get_mut(member_id) else { return };
        member.protocols.clone_from(&join.protocols);
        member.session_timeout_ms = millis(join.session_timeout_ms);
        member.rebalance_timeout_ms = join.rebalance_ms();
        member.client_id = join.client_id.clone();
        member.client_host = join.client_host.clone();
        member.expires_ms = member.is_new.then(|| turn.after(NEWCOMER_KEPT_MS));
        // A second join of the same member: the first one's connection is gone, but each request has its answer.
        if let Some(earlier) = member.joining.replace(token) {
            turn.effects.join_error(earlier, member_id, ErrorCode::REBALANCE_IN_PROGRESS);
        }
    }

    /// A static member came back without its id: it gets a new one, and whoever still uses the old one is fenced.
    fn replace_static(
        &mut self,
        old: &Arc<str>,
        fresh: Arc<str>,
        join: &Join,
        token: ReplyToken,
        turn: &mut Turn<'_>,
    ) -> Result<(), ErrorCode> {
        let was_leader = self.leader.as_ref() == Some(old);
        let Some(mut member) = self.members.remove(old) else { return Err(ErrorCode::UNKNOWN_MEMBER_ID) };
        if let Some(parked) = member.joining.take() {
            turn.effects.join_error(parked, old, ErrorCode::FENCED_INSTANCE_ID);
        }
        if let Some(parked) = member.syncing.take() {
            turn.effects.sync_error(parked, ErrorCode::FENCED_INSTANCE_ID);
        }
        self.members.insert(fresh.clone(), member);
        if let Some(instance_id) = &join.instance_id {
            self.static_members.insert(instance_id.clone(), fresh.clone());
        }
        if was_leader {
            self.leader = Some(fresh.clone());
        }
        self.update(&fresh, join, token, turn);
        match self.state {
            GroupState::Empty => Err(ErrorCode::UNKNOWN_MEMBER_ID),
            GroupState::PreparingRebalance => {
                self.complete_join_if_all_are_here(turn);
                Ok(())
            }
            GroupState::Stable if self.select_protocol() == self.protocol => {
                // Nothing changed for the others: no rebalance.
                if let Some(member) = self.members.get_mut(&fresh) {
                    member.joining = None;
                }
                self.touch(&fresh, turn);
                self.store(turn);
                let shown = if was_leader && !join.can_skip_assignment {
                    old.clone()
                } else {
                    self.leader.clone().unwrap_or_default()
                };
                let skips = was_leader && join.can_skip_assignment;
                let mut reply = self.join_reply(&fresh, shown, skips);
                if let Reply::Join(reply) = &mut reply {
                    reply.skip_assignment = skips;
                }
                turn.effects.reply(token, reply);
                Ok(())
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                self.prepare_rebalance(turn);
                Ok(())
            }
        }
    }

    /// Begins the join phase, unless one is under way.
    pub(crate) fn prepare_rebalance(&mut self, turn: &mut Turn<'_>) {
        if self.state == GroupState::CompletingRebalance {
            self.refuse_parked_syncs(turn);
        }
        if self.state != GroupState::PreparingRebalance {
            let longest = self.longest_rebalance_ms();
            let was_empty = self.state == GroupState::Empty;
            self.sync_deadline_ms = None;
            self.set_state(GroupState::PreparingRebalance, turn);
            let first_delay = longest.min(turn.config.initial_rebalance_delay_ms);
            self.join_phase = Some(JoinPhase {
                deadline_ms: turn.after(if was_empty { first_delay } else { longest }),
                initial_left_ms: was_empty.then(|| longest.saturating_sub(first_delay)),
                has_newcomer: false,
            });
        }
        self.complete_join_if_all_are_here(turn);
    }

    fn longest_rebalance_ms(&self) -> u64 {
        self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0)
    }

    /// Ends the join phase early when nobody is missing; the first phase of an empty group always waits its delay.
    pub(crate) fn complete_join_if_all_are_here(&mut self, turn: &mut Turn<'_>) {
        let Some(phase) = self.join_phase else { return };
        if self.members.is_empty() && self.pending.is_empty() {
            return self.complete_join(turn);
        }
        let waits = phase.initial_left_ms.is_some() && phase.deadline_ms > turn.now.monotonic_ms;
        let all_here = self.members.values().all(|member| member.joining.is_some());
        if !waits && all_here && self.pending.is_empty() {
            self.complete_join(turn);
        }
    }

    pub(crate) fn join_deadline(&mut self, phase: JoinPhase, turn: &mut Turn<'_>) {
        match phase.initial_left_ms {
            Some(left) if phase.has_newcomer && left > 0 => {
                let delay = left.min(turn.config.initial_rebalance_delay_ms.max(1));
                self.join_phase = Some(JoinPhase {
                    deadline_ms: turn.after(delay),
                    initial_left_ms: Some(left.saturating_sub(delay)),
                    has_newcomer: false,
                });
            }
            _ => self.complete_join(turn),
        }
    }

    /// Ends the join phase: who did not come is out (static members stay), the rest is the next generation.
    fn complete_join(&mut self, turn: &mut Turn<'_>) {
        let absent: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| member.joining.is_none() && member.instance_id.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in absent {
            self.drop_member(&id, ErrorCode::UNKNOWN_MEMBER_ID, turn);
        }
        let first_here = self.members.iter().find(|(_, member)| member.joining.is_some()).map(|(id, _)| id.clone());
        if self.members.is_empty() {
            return self.become_empty(turn);
        }
        let Some(first_here) = first_here else {
            // Only static members, none of them here: wait on, their sessions decide.
            self.join_phase = Some(JoinPhase {
                deadline_ms: turn.after(self.longest_rebalance_ms().max(1)),
                initial_left_ms: None,
                has_newcomer: false,
            });
            return;
        };
        let leads = |id: &Arc<str>| self.members.get(id).is_some_and(|member| member.joining.is_some());
        let leader = self.leader.take().filter(leads).unwrap_or(first_here);
        self.leader = Some(leader.clone());
        self.join_phase = None;
        self.generation = next_generation(self.generation);
        self.protocol = self.select_protocol();
        self.set_state(GroupState::CompletingRebalance, turn);
        self.sync_deadline_ms = Some(turn.after(self.longest_rebalance_ms()));
        let ids: Vec<_> = self.members.keys().cloned().collect();
        for id in ids {
            let reply = self.join_reply(&id, leader.clone(), id == leader);
            if let Some(member) = self.members.get_mut(&id) {
                member.is_new = false;
                member.has_synced = false;
                member.assignment = Bytes::new();
                if let Some(token) = member.joining.take() {
                    turn.effects.reply(token, reply);
                    self.touch(&id, turn);
                }
            }
        }
    }

    fn become_empty(&mut self, turn: &mut Turn<'_>) {
        self.join_phase = None;
        self.sync_deadline_ms = None;
        self.generation = next_generation(self.generation);
        self.protocol = None;
        self.leader = None;
        self.set_state(GroupState::Empty, turn);
        self.store(turn);
    }
}

/// A newcomer's id: what the client calls itself, then chance, so that nobody can guess another's.
fn member_id(join: &Join) -> Arc<str> {
    use std::fmt::Write as _;
    let name = join.instance_id.as_ref().unwrap_or(&join.client_id);
    let mut id = String::with_capacity(name.len().saturating_add(37));
    id.push_str(name);
    id.push('-');
    for (at, byte) in join.fresh.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            id.push('-');
        }
        // Writing to a string does not fail.
        let _ = write!(id, "{byte:02x}");
    }
    id.into()
}

fn millis(value: i32) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn next_generation(generation: i32) -> i32 {
    generation.checked_add(1).unwrap_or(1)
}
