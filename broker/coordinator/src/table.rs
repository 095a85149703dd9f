//! All groups of one tenant, and the timetable of what is due.
//!
//! In: requests, already authorised. Out: [`Effects`], or an answer at once where nothing durable changes.
//!
//! Invariants
//! - A group that nobody joined, and that has no offsets, does not stay: naming groups costs nothing.
//! - `timetable` holds exactly one entry for each group that has a deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use schloss_core::{ErrorCode, GroupId, PartitionId, TopicId};

use crate::config::GroupConfig;
use crate::effects::{Effects, Now, Reply, ReplyToken};
use crate::group::join::Join;
use crate::group::member::LeavingMember;
use crate::group::sync::{MemberRef, Sync};
use crate::group::{Group, GroupDescription, GroupState, Turn};
use crate::offsets::{Commit, CommittedOffset, OffsetToDelete};
use crate::record::{self, LoadError, Loaded};

/// A group for ListGroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    /// Its id.
    pub id: GroupId,
    /// Its kind, empty when it never had members.
    pub protocol_type: Arc<str>,
    /// Its state.
    pub state: GroupState,
}

/// Every group of one tenant.
#[derive(Debug)]
pub struct GroupTable {
    config: GroupConfig,
    groups: BTreeMap<GroupId, Group>,
    timetable: BTreeSet<(u64, GroupId)>,
}

/// What to do with a group that does not exist.
enum Absent {
    Create,
    Refuse,
}

impl GroupTable {
    /// Groups as they stand in the tenant's durable state; records of other rooms are passed over. Members keep their
    /// generation and assignment, and get a fresh session.
    ///
    /// # Errors
    /// [`LoadError`] for state that this version did not write.
    pub fn load<'a>(
        config: GroupConfig,
        state: impl IntoIterator<Item = (&'a Bytes, &'a Bytes)>,
        now: Now,
    ) -> Result<Self, LoadError> {
        let mut table = Self { config, groups: BTreeMap::new(), timetable: BTreeSet::new() };
        let mut offsets = Vec::new();
        for (key, value) in state {
            match record::load(key, value)? {
                None => {}
                Some(Loaded::Group(group)) => {
                    table.groups.insert(group.id.clone(), *group);
                }
                Some(Loaded::Offset(group, partition, offset)) => offsets.push((group, partition, offset)),
            }
        }
        for (id, partition, offset) in offsets {
            let group = table.groups.entry(id).or_insert_with_key(|id| Group::new(id.clone(), now.wall_ms));
            group.offsets.insert(partition, offset);
        }
        let ids: Vec<_> = table.groups.keys().cloned().collect();
        for id in ids {
            if let Some(group) = table.groups.get_mut(&id) {
                for member in group.members.values_mut() {
                    member.expires_ms = Some(now.monotonic_ms.saturating_add(member.session_timeout_ms));
                }
            }
            table.settle(&id);
        }
        Ok(table)
    }

    /// JoinGroup. The reply comes in these effects or in later ones, at the latest from [`GroupTable::tick`].
    pub fn join(&mut self, id: &GroupId, join: Join, token: ReplyToken, now: Now) -> Effects {
        let mut effects = Effects::default();
        let session = self.config.session_timeout_min_ms..=self.config.session_timeout_max_ms;
        let bytes = join.protocols.iter().fold(0_usize, |sum, own| sum.saturating_add(own.metadata.len()));
        let absent = if join.member_id.is_empty() { Absent::Create } else { Absent::Refuse };
        let refusal = if !session.contains(&join.session_timeout_ms) {
            Some(ErrorCode::INVALID_SESSION_TIMEOUT)
        } else if bytes > self.config.member_bytes_max {
            Some(ErrorCode::INVALID_REQUEST)
        } else if self.groups.contains_key(id) {
            None
        } else {
            match absent {
                Absent::Refuse => Some(ErrorCode::UNKNOWN_MEMBER_ID),
                Absent::Create => self.refuse_creation(),
            }
        };
        if let Some(error) = refusal {
            effects.join_error(token, &join.member_id, error);
            return effects;
        }
        self.on_group(id, absent, now, &mut effects, |group, turn| group.join(join, token, turn));
        effects
    }

    /// SyncGroup. The reply comes in these effects or in later ones.
    pub fn sync(&mut self, id: &GroupId, sync: Sync, token: ReplyToken, now: Now) -> Effects {
        let mut effects = Effects::default();
        let done = self.on_group(id, Absent::Refuse, now, &mut effects, |group, turn| group.sync(sync, token, turn));
        if done.is_none() {
            effects.sync_error(token, ErrorCode::UNKNOWN_MEMBER_ID);
        }
        effects
    }

    /// Heartbeat. Answered at once.
    pub fn heartbeat(&mut self, id: &GroupId, member: &MemberRef, token: ReplyToken, now: Now) -> Effects {
        let mut effects = Effects::default();
        let code = self.on_group(id, Absent::Refuse, now, &mut effects, |group, turn| group.heartbeat(member, turn));
        effects.reply(token, Reply::Heartbeat(code.unwrap_or(ErrorCode::UNKNOWN_MEMBER_ID)));
        effects
    }

    /// LeaveGroup. Up to version 2 the one member's code is the answer's.
    pub fn leave(&mut self, id: &GroupId, leaving: &[LeavingMember], token: ReplyToken, now: Now) -> Effects {
        let mut effects = Effects::default();
        let codes = self.on_group(id, Absent::Refuse, now, &mut effects, |group, turn| group.leave(leaving, turn));
        // Kafka: no such group is the same as no such member, for each.
        let members = codes.unwrap_or_else(|| vec![ErrorCode::UNKNOWN_MEMBER_ID; leaving.len()]);
        effects.reply(token, Reply::Leave { error: ErrorCode::NONE, members });
        effects
    }

    /// OffsetCommit.
    pub fn commit(&mut self, id: &GroupId, commit: &Commit, token: ReplyToken, now: Now) -> Effects {
        let mut effects = Effects::default();
        let refusal = if self.groups.contains_key(id) {
            None
        } else if commit.member.generation >= 0 {
            Some(ErrorCode::ILLEGAL_GENERATION)
        } else {
            self.refuse_creation()
        };
        let codes = match refusal {
            Some(error) => Some(vec![error; commit.partitions.len()]),
            None => self.on_group(id, Absent::Create, now, &mut effects, |group, turn| group.commit(commit, turn)),
        };
        effects.reply(token, Reply::Commit(codes.unwrap_or_default()));
        effects
    }

    /// One committed offset.
    #[must_use]
    pub fn offset(&self, id: &GroupId, partition: PartitionId) -> Option<&CommittedOffset> {
        self.groups.get(id)?.offsets.get(&partition)
    }

    /// All committed offsets of a group, by partition.
    pub fn offsets(&self, id: &GroupId) -> impl Iterator<Item = (PartitionId, &CommittedOffset)> {
        let offsets = self.groups.get(id).into_iter().flat_map(|group| &group.offsets);
        offsets.map(|(partition, offset)| (*partition, offset))
    }

    /// OffsetDelete.
    pub fn delete_offsets(
        &mut self,
        id: &GroupId,
        partitions: &[OffsetToDelete],
        token: ReplyToken,
        now: Now,
    ) -> Effects {
        let mut effects = Effects::default();
        let answer =
            self.on_group(id, Absent::Refuse, now, &mut effects, |group, turn| group.delete_offsets(partitions, turn));
        let reply = match answer {
            None => Reply::DeleteOffsets { error: ErrorCode::GROUP_ID_NOT_FOUND, partitions: Vec::new() },
            Some(Err(error)) => Reply::DeleteOffsets { error, partitions: Vec::new() },
            Some(Ok(partitions)) => Reply::DeleteOffsets { error: ErrorCode::NONE, partitions },
        };
        effects.reply(token, reply);
        effects
    }

    /// DeleteGroups.
    pub fn delete_groups(&mut self, ids: &[GroupId], token: ReplyToken, now: Now) -> Effects {
        let mut effects = Effects::default();
        let mut codes = Vec::with_capacity(ids.len());
        for id in ids {
            let code = self.on_group(id, Absent::Refuse, now, &mut effects, |group, turn| {
                if group.state != GroupState::Empty {
                    return ErrorCode::NON_EMPTY_GROUP;
                }
                group.forget_all(turn);
                group.pending.clear();
                ErrorCode::NONE
            });
            codes.push(code.unwrap_or(ErrorCode::GROUP_ID_NOT_FOUND));
        }
        effects.reply(token, Reply::DeleteGroups(codes));
        effects
    }

    /// DescribeGroups; `None` when there is no such group.
    #[must_use]
    pub fn describe(&self, id: &GroupId) -> Option<GroupDescription> {
        self.groups.get(id).map(Group::describe)
    }

    /// ListGroups, sorted by id.
    pub fn list(&self) -> impl Iterator<Item = GroupListing> {
        self.groups.values().map(|group| GroupListing {
            id: group.id.clone(),
            protocol_type: group.protocol_type.clone().unwrap_or_default(),
            state: group.state,
        })
    }

    /// A topic was deleted: its offsets go.
    pub fn topic_deleted(&mut self, topic: TopicId, now: Now) -> Effects {
        self.on_every_group(now, |group, turn| group.forget_topic(topic, turn))
    }

    /// Forgets offsets, and then groups, that nobody used for the retention time. To be called every few minutes.
    pub fn expire_offsets(&mut self, now: Now) -> Effects {
        self.on_every_group(now, |group, turn| {
            let had_offsets = !group.offsets.is_empty();
            group.expire_offsets(turn);
            let is_old = turn.now.wall_ms.saturating_sub(group.state_wall_ms) >= turn.config.offsets_retention_ms;
            let is_idle = group.state == GroupState::Empty && group.offsets.is_empty() && group.pending.is_empty();
            if is_idle && (had_offsets || is_old) {
                group.forget_all(turn);
            }
        })
    }

    /// When [`GroupTable::tick`] has something to do, in monotonic milliseconds.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.timetable.first().map(|(at, _)| *at)
    }

    /// Does everything that is due.
    pub fn tick(&mut self, now: Now) -> Effects {
        let mut effects = Effects::default();
        let due: Vec<_> =
            self.timetable.iter().take_while(|(at, _)| *at <= now.monotonic_ms).map(|(_, id)| id.clone()).collect();
        for id in due {
            self.on_group(&id, Absent::Refuse, now, &mut effects, |group, turn| group.tick(turn));
        }
        effects
    }

    fn refuse_creation(&self) -> Option<ErrorCode> {
        (self.groups.len() >= self.config.groups_max).then_some(ErrorCode::POLICY_VIOLATION)
    }

    fn on_every_group(&mut self, now: Now, mut event: impl FnMut(&mut Group, &mut Turn<'_>)) -> Effects {
        let mut effects = Effects::default();
        let ids: Vec<_> = self.groups.keys().cloned().collect();
        for id in ids {
            self.on_group(&id, Absent::Refuse, now, &mut effects, &mut event);
        }
        effects
    }

    /// Runs an event on a group and keeps the timetable right; `None` when there is no such group.
    fn on_group<T>(
        &mut self,
        id: &GroupId,
        absent: Absent,
        now: Now,
        effects: &mut Effects,
        event: impl FnOnce(&mut Group, &mut Turn<'_>) -> T,
    ) -> Option<T> {
        let group = match absent {
            Absent::Refuse => self.groups.get_mut(id)?,
            Absent::Create => self.groups.entry(id.clone()).or_insert_with(|| Group::new(id.clone(), now.wall_ms)),
        };
        let answer = event(group, &mut Turn { now, config: &self.config, effects });
        self.settle(id);
        Some(answer)
    }

    fn settle(&mut self, id: &GroupId) {
        let Some(group) = self.groups.get_mut(id) else { return };
        let deadline = group.deadline_ms();
        if group.scheduled_ms != deadline {
            if let Some(at) = group.scheduled_ms {
                self.timetable.remove(&(at, id.clone()));
            }
            if let Some(at) = deadline {
                self.timetable.insert((at, id.clone()));
            }
            group.scheduled_ms = deadline;
        }
        if group.is_vacant() {
            self.groups.remove(id);
        }
    }
}
