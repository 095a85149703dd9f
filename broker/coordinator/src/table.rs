//! All groups of one tenant: finds the group a request is for, and knows what is due next.
//!
//! Invariants
//! - `deadlines` holds each group once at most, under `Group::indexed_ms`, never later than what is really due.
//! - `parked` holds exactly the tokens that are still to be answered.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use schloss_core::{ErrorCode, PartitionId, TopicId};

use crate::api::{
    CommitRequest, Effects, FetchedOffset, GroupDescription, GroupLimits, GroupListing, HeartbeatRequest, JoinReply,
    JoinRequest, LoadError, MemberIdentity, ReplyToken, SyncReply, SyncRequest,
};
use crate::group::{Cx, Group, Phase};
use crate::join::{self, Joining};
use crate::{layout, limits};

/// The consumer groups of one tenant.
#[cfg_attr(test, derive(Clone))]
#[derive(Debug)]
pub struct GroupTable {
    limits: GroupLimits,
    groups: HashMap<Arc<str>, Group>,
    deadlines: BTreeSet<(i64, Arc<str>)>,
    parked: HashMap<ReplyToken, Arc<str>>,
}

impl GroupTable {
    /// Takes over stored state. Members get a fresh session; keys of other rooms are passed over.
    ///
    /// # Errors
    /// [`LoadError`] when a record is not what this room writes.
    pub fn load(limits: GroupLimits, state: &[(Bytes, Bytes)], now_ms: i64) -> Result<Self, LoadError> {
        let mut table = Self { limits, groups: HashMap::new(), deadlines: BTreeSet::new(), parked: HashMap::new() };
        for (key, value) in state {
            match key.first() {
                Some(&layout::GROUP) => {
                    let (name, mut group) = layout::read_group(key, value, now_ms)?;
                    if let Some(offsets_only) = table.groups.remove(name.as_str()) {
                        group.offsets = offsets_only.offsets;
                    }
                    table.groups.insert(name.into(), group);
                }
                Some(&layout::OFFSET) => {
                    let (name, partition, offset) = layout::read_offset(key, value)?;
                    let group = table.groups.entry(name.into()).or_insert_with(|| Group::new(now_ms));
                    group.offsets.insert(partition, offset);
                }
                _ => {}
            }
        }
        for (name, group) in &mut table.groups {
            index(&mut table.deadlines, name, group);
        }
        Ok(table)
    }

    /// When `tick` is to be called next.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<i64> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    /// Does what is due. What would be too much for one write stays due.
    pub fn tick(&mut self, now_ms: i64) -> Effects {
        let mut effects = Effects::default();
        let due: Vec<Arc<str>> = self.deadlines.iter().take_while(|(due, _)| *due <= now_ms).map(|(_, name)| name.clone()).collect();
        for name in due {
            if effects.records.len() >= limits::RECORDS_PER_TICK_MAX {
                break;
            }
            self.act(&name, now_ms, &mut effects, |group, cx| group.tick(cx));
        }
        effects
    }

    /// JoinGroup. The reply comes in these or later effects, under `token`. `random` must be unguessable.
    pub fn join(&mut self, token: ReplyToken, request: JoinRequest<'_>, now_ms: i64, random: u128) -> Effects {
        let member_id = request.member_id;
        if let Err(error) = join::check_request(&request, &self.limits) {
            return Effects::reply(token, JoinReply::refused(error, member_id));
        }
        let name = request.group;
        let found = if member_id.is_empty() {
            self.ensure(name, now_ms)
        } else if self.groups.contains_key(name) {
            Ok(())
        } else {
            Err(ErrorCode::UNKNOWN_MEMBER_ID)
        };
        if let Err(error) = found {
            return Effects::reply(token, JoinReply::refused(error, member_id));
        }
        let mut effects = Effects::default();
        self.park(token, name);
        self.act(name, now_ms, &mut effects, |group, cx| group.join(cx, Joining { token, request, random }));
        effects
    }

    /// SyncGroup. The reply comes in these or later effects, under `token`.
    pub fn sync(&mut self, token: ReplyToken, request: SyncRequest<'_>, now_ms: i64) -> Effects {
        let name = request.group;
        if !self.groups.contains_key(name) {
            return Effects::reply(token, SyncReply::refused(ErrorCode::UNKNOWN_MEMBER_ID));
        }
        let mut effects = Effects::default();
        self.park(token, name);
        self.act(name, now_ms, &mut effects, |group, cx| group.sync(cx, token, request));
        effects
    }

    /// Heartbeat.
    ///
    /// # Errors
    /// The code to answer.
    pub fn heartbeat(&mut self, request: &HeartbeatRequest<'_>, now_ms: i64) -> Result<(), ErrorCode> {
        let mut effects = Effects::default();
        self.act(request.group, now_ms, &mut effects, |group, cx| group.heartbeat(cx, request))
            .unwrap_or(Err(ErrorCode::UNKNOWN_MEMBER_ID))
    }

    /// LeaveGroup: one code per leaver.
    pub fn leave(&mut self, group: &str, leavers: &[MemberIdentity], now_ms: i64) -> (Vec<ErrorCode>, Effects) {
        let mut effects = Effects::default();
        let codes = self.act(group, now_ms, &mut effects, |group, cx| group.leave(cx, leavers));
        (codes.unwrap_or_else(|| vec![ErrorCode::UNKNOWN_MEMBER_ID; leavers.len()]), effects)
    }

    /// The client behind a parked request is gone. The member stays until its session ends, as in Kafka.
    pub fn drop_reply(&mut self, token: ReplyToken) {
        if let Some(group) = self.parked.remove(&token).and_then(|name| self.groups.get_mut(&name)) {
            group.hang_up(token);
        }
    }

    /// OffsetCommit: one code per offset, or one refusal for all. Answer success only once the records are durable.
    pub fn commit(&mut self, request: CommitRequest<'_>, now_ms: i64) -> (Result<Vec<ErrorCode>, ErrorCode>, Effects) {
        let mut effects = Effects::default();
        let name = request.group;
        if name.is_empty() {
            return (Err(ErrorCode::INVALID_GROUP_ID), effects);
        }
        let found = match (self.groups.contains_key(name), request.generation) {
            (true, _) => Ok(()),
            (false, ..0) => self.ensure(name, now_ms),
            (false, _) => Err(ErrorCode::ILLEGAL_GENERATION),
        };
        let codes = found.and_then(|()| {
            self.act(name, now_ms, &mut effects, |group, cx| group.commit(cx, request)).unwrap_or(Err(ErrorCode::UNKNOWN_MEMBER_ID))
        });
        (codes, effects)
    }

    /// OffsetFetch: these partitions in this order, or all that have an offset. An unknown group has none.
    #[must_use]
    pub fn fetch(&self, group: &str, partitions: Option<&[PartitionId]>) -> Vec<FetchedOffset> {
        match self.groups.get(group) {
            Some(group) => group.fetch(partitions),
            None => {
                let none = |partition: &PartitionId| FetchedOffset { partition: *partition, committed: None };
                partitions.unwrap_or_default().iter().map(none).collect()
            }
        }
    }

    /// OffsetDelete: partitions with their topics' names; one code each, or one refusal for all.
    pub fn delete_offsets(
        &mut self,
        group: &str,
        which: &[(PartitionId, &str)],
        now_ms: i64,
    ) -> (Result<Vec<ErrorCode>, ErrorCode>, Effects) {
        let mut effects = Effects::default();
        let codes = self.act(group, now_ms, &mut effects, |group, cx| group.delete_offsets(cx, which));
        (codes.unwrap_or(Err(ErrorCode::GROUP_ID_NOT_FOUND)), effects)
    }

    /// A topic is gone: its offsets go too.
    pub fn topic_deleted(&mut self, topic: TopicId, now_ms: i64) -> Effects {
        let mut effects = Effects::default();
        let with_offsets = self.groups.iter().filter(|(_, group)| !group.partitions_of(topic).is_empty());
        let names: Vec<Arc<str>> = with_offsets.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.act(&name, now_ms, &mut effects, |group, cx| group.topic_deleted(cx, topic));
        }
        effects
    }

    /// DescribeGroups; `None` for a group that is not there.
    #[must_use]
    pub fn describe(&self, group: &str) -> Option<GroupDescription> {
        self.groups.get(group).map(Group::describe)
    }

    /// ListGroups. An empty filter lets all pass; words are compared without case, as Kafka does.
    #[must_use]
    pub fn list(&self, states: &[&str], types: &[&str]) -> Vec<GroupListing> {
        let passes = |filter: &[&str], word: &str| filter.is_empty() || filter.iter().any(|asked| asked.eq_ignore_ascii_case(word));
        let wanted = self.groups.iter().filter(|(_, group)| passes(states, group.phase.word()) && passes(types, "classic"));
        let line = |(name, group): (&Arc<str>, &Group)| GroupListing {
            group: name.to_string(),
            protocol_type: group.protocol_type.clone().unwrap_or_default(),
            state: group.phase.word(),
        };
        let mut list: Vec<GroupListing> = wanted.map(line).collect();
        list.sort_by(|a, b| a.group.cmp(&b.group));
        list
    }

    /// DeleteGroups, one group.
    ///
    /// # Errors
    /// `GROUP_ID_NOT_FOUND` or `NON_EMPTY_GROUP`.
    pub fn delete_group(&mut self, group: &str, now_ms: i64) -> Result<Effects, ErrorCode> {
        let found = self.groups.get(group).ok_or(ErrorCode::GROUP_ID_NOT_FOUND)?;
        if found.phase != Phase::Empty {
            return Err(ErrorCode::NON_EMPTY_GROUP);
        }
        let mut effects = Effects::default();
        self.act(group, now_ms, &mut effects, |group, cx| group.die(cx));
        Ok(effects)
    }

    /// Groups, for metrics and bounds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// True without groups.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    fn ensure(&mut self, name: &str, now_ms: i64) -> Result<(), ErrorCode> {
        if self.groups.contains_key(name) {
            return Ok(());
        }
        if self.groups.len() >= self.limits.groups_max {
            return Err(ErrorCode::POLICY_VIOLATION);
        }
        self.groups.insert(name.into(), Group::new(now_ms));
        Ok(())
    }

    fn park(&mut self, token: ReplyToken, name: &str) {
        if let Some((name, _)) = self.groups.get_key_value(name) {
            self.parked.insert(token, name.clone());
        }
    }

    /// Lets `change` work on a group, then settles what the table knows of it. `None` without such a group.
    fn act<R>(
        &mut self,
        name: &str,
        now_ms: i64,
        effects: &mut Effects,
        change: impl FnOnce(&mut Group, &mut Cx<'_>) -> R,
    ) -> Option<R> {
        let (name, mut group) = self.groups.remove_entry(name)?;
        let answered_before = effects.replies.len();
        let result = change(&mut group, &mut Cx { limits: &self.limits, now_ms, name: &name, effects });
        for (token, _) in effects.replies.iter().skip(answered_before) {
            self.parked.remove(token);
        }
        if group.is_void() {
            if let Some(due) = group.indexed_ms {
                self.deadlines.remove(&(due, name));
            }
        } else {
            index(&mut self.deadlines, &name, &mut group);
            self.groups.insert(name, group);
        }
        Some(result)
    }

    #[cfg(test)]
    pub(crate) fn groups(&self) -> &HashMap<Arc<str>, Group> {
        &self.groups
    }

    #[cfg(test)]
    pub(crate) fn parked(&self) -> usize {
        self.parked.len()
    }
}

/// Files the group under its next deadline.
fn index(deadlines: &mut BTreeSet<(i64, Arc<str>)>, name: &Arc<str>, group: &mut Group) {
    let due = group.deadline_ms();
    if due == group.indexed_ms {
        return;
    }
    if let Some(old) = group.indexed_ms {
        deadlines.remove(&(old, name.clone()));
    }
    if let Some(due) = due {
        deadlines.insert((due, name.clone()));
    }
    group.indexed_ms = due;
}
