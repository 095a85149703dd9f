//! Committed offsets of a group: commit, fetch, delete, age out.
//!
//! Invariants
//! - Offsets belong to a topic's id, so a topic made anew under an old name starts without them.
//! - Each change is a record; what a fetch returns may not yet be durable only between a commit and its reply.
//!
//! Must not: keep more than `offsets_max` partitions or longer metadata than `offset_metadata_bytes_max`.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use schloss_core::{ErrorCode, PartitionId, TopicId};

use crate::group::sync::MemberRef;
use crate::group::{Group, GroupState, Turn};
use crate::record;

/// An offset that a group has reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: i64,
    /// The leader epoch of the record before it, or -1.
    pub leader_epoch: i32,
    /// What the client adds.
    pub metadata: Arc<str>,
    /// When it was committed.
    pub committed_wall_ms: i64,
}

/// One partition of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionCommit {
    /// Which partition.
    pub partition: PartitionId,
    /// The next offset to read.
    pub offset: i64,
    /// The leader epoch of the record before it, or -1.
    pub leader_epoch: i32,
    /// What the client adds; null counts as empty.
    pub metadata: Arc<str>,
}

/// An OffsetCommit request.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Who commits; generation -1 and an empty id for consumers that assign partitions themselves.
    pub member: MemberRef,
    /// What.
    pub partitions: Vec<PartitionCommit>,
}

/// One partition of OffsetDelete. The name is needed because members tell their subscriptions by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetToDelete {
    /// Which partition.
    pub partition: PartitionId,
    /// Its topic's name.
    pub topic_name: Arc<str>,
}

/// The protocol type of consumers, whose metadata tells the subscription.
const CONSUMER: &str = "consumer";

impl Group {
    /// Handles a commit; one code per partition. The codes may only be told once the records are durable.
    pub(crate) fn commit(&mut self, commit: &Commit, turn: &mut Turn<'_>) -> Vec<ErrorCode> {
        if let Err(error) = self.check_commit(&commit.member) {
            return vec![error; commit.partitions.len()];
        }
        self.touch(&commit.member.member_id, turn);
        commit.partitions.iter().map(|partition| self.commit_partition(partition, turn)).collect()
    }

    fn check_commit(&self, member: &MemberRef) -> Result<(), ErrorCode> {
        if member.generation < 0 && self.state == GroupState::Empty {
            return Ok(());
        }
        if member.generation < 0 && member.member_id.is_empty() && member.instance_id.is_none() {
            // Someone commits by hand under a group that has members.
            return Err(ErrorCode::UNKNOWN_MEMBER_ID);
        }
        self.check_member(&member.member_id, member.instance_id.as_deref())?;
        self.check_generation(member.generation)?;
        // The member is about to learn its new partitions; what it commits now may not be its own.
        if self.state == GroupState::CompletingRebalance { Err(ErrorCode::REBALANCE_IN_PROGRESS) } else { Ok(()) }
    }

    fn commit_partition(&mut self, commit: &PartitionCommit, turn: &mut Turn<'_>) -> ErrorCode {
        if commit.metadata.len() > turn.config.offset_metadata_bytes_max {
            return ErrorCode::OFFSET_METADATA_TOO_LARGE;
        }
        if !self.offsets.contains_key(&commit.partition) && self.offsets.len() >= turn.config.offsets_max {
            return ErrorCode::INVALID_COMMIT_OFFSET_SIZE;
        }
        let offset = CommittedOffset {
            offset: commit.offset,
            leader_epoch: commit.leader_epoch,
            metadata: commit.metadata.clone(),
            committed_wall_ms: turn.now.wall_ms,
        };
        turn.effects.records.push(record::offset_record(&self.id, commit.partition, Some(&offset)));
        self.offsets.insert(commit.partition, offset);
        ErrorCode::NONE
    }

    /// Handles OffsetDelete: one code per partition, or one for all.
    pub(crate) fn delete_offsets(
        &mut self,
        partitions: &[OffsetToDelete],
        turn: &mut Turn<'_>,
    ) -> Result<Vec<ErrorCode>, ErrorCode> {
        let is_consumer = self.protocol_type.as_deref() == Some(CONSUMER);
        if self.state != GroupState::Empty && !is_consumer {
            return Err(ErrorCode::NON_EMPTY_GROUP);
        }
        let subscribed = self.subscribed_topics();
        let codes = partitions.iter().map(|one| {
            if subscribed.as_ref().is_some_and(|topics| !topics.contains(one.topic_name.as_bytes())) {
                self.forget(one.partition, turn);
                ErrorCode::NONE
            } else {
                ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC
            }
        });
        Ok(codes.collect())
    }

    /// Topics that members read; `None` when a member's metadata cannot be read, which counts as all.
    fn subscribed_topics(&self) -> Option<BTreeSet<Bytes>> {
        let mut topics = BTreeSet::new();
        if self.state != GroupState::Empty {
            for member in self.members.values() {
                for protocol in &member.protocols {
                    topics.append(&mut subscription(&protocol.metadata)?);
                }
            }
        }
        Some(topics)
    }

    fn forget(&mut self, partition: PartitionId, turn: &mut Turn<'_>) {
        if self.offsets.remove(&partition).is_some() {
            turn.effects.records.push(record::offset_record(&self.id, partition, None));
        }
    }

    /// A topic is gone: so are its offsets.
    pub(crate) fn forget_topic(&mut self, topic: TopicId, turn: &mut Turn<'_>) {
        let first = PartitionId { topic, index: i32::MIN };
        let last = PartitionId { topic, index: i32::MAX };
        let gone: Vec<_> = self.offsets.range(first..=last).map(|(partition, _)| *partition).collect();
        for partition in gone {
            self.forget(partition, turn);
        }
    }

    /// Forgets offsets that nobody used for the retention time (KIP-211): counted from when the group became empty,
    /// or from the commit for groups that never had members.
    pub(crate) fn expire_offsets(&mut self, turn: &mut Turn<'_>) {
        if self.state != GroupState::Empty {
            return;
        }
        let retention = turn.config.offsets_retention_ms;
        let since_empty = if self.protocol_type.is_some() { self.state_wall_ms } else { i64::MIN };
        let gone: Vec<_> = self
            .offsets
            .iter()
            .filter(|(_, offset)| {
                let last_used = offset.committed_wall_ms.max(since_empty);
                turn.now.wall_ms.saturating_sub(last_used) >= retention
            })
            .map(|(partition, _)| *partition)
            .collect();
        for partition in gone {
            self.forget(partition, turn);
        }
    }

    /// Forgets everything durable; the caller then drops the group.
    pub(crate) fn forget_all(&mut self, turn: &mut Turn<'_>) {
        for partition in std::mem::take(&mut self.offsets).into_keys() {
            turn.effects.records.push(record::offset_record(&self.id, partition, None));
        }
        if std::mem::take(&mut self.is_stored) {
            turn.effects.records.push(record::group_tombstone(&self.id));
        }
    }
}

/// The topics in a consumer's metadata: a version, then an array of strings; what follows does not matter here.
fn subscription(metadata: &Bytes) -> Option<BTreeSet<Bytes>> {
    let mut rest = metadata.get(2..)?;
    let (count, after) = rest.split_first_chunk::<4>()?;
    rest = after;
    let mut topics = BTreeSet::new();
    // Each turn takes at least two bytes or ends, whatever the count claims.
    for _ in 0..i32::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let length = usize::try_from(i16::from_be_bytes(*length)).ok()?;
        let (name, after) = after.split_at_checked(length)?;
        topics.insert(metadata.slice_ref(name));
        rest = after;
    }
    Some(topics)
}
