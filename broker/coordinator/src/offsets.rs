//! Committed offsets of one group: who may commit, what is kept, what may be deleted.

use schloss_core::{ErrorCode, PartitionId, TopicId};

use crate::api::{CommitRequest, CommittedOffset, FetchedOffset, OffsetToCommit};
use crate::group::{Cx, Group, Phase};
use crate::{layout, limits, subscription};

/// The protocol type whose metadata this room can read.
const CONSUMER: &str = "consumer";

impl Group {
    /// Takes one OffsetCommit; a code per offset, or one refusal for all.
    pub fn commit(&mut self, cx: &mut Cx<'_>, request: CommitRequest<'_>) -> Result<Vec<ErrorCode>, ErrorCode> {
        self.check_commit(&request)?;
        self.keep_alive(cx, request.member_id);
        Ok(request.offsets.into_iter().map(|offset| self.commit_one(cx, offset).err().unwrap_or(ErrorCode::NONE)).collect())
    }

    fn check_commit(&self, request: &CommitRequest<'_>) -> Result<(), ErrorCode> {
        if request.generation < 0 && self.phase == Phase::Empty {
            // A consumer with assigned partitions, or a tool, using the group only to keep offsets.
            return Ok(());
        }
        if request.generation < 0 && request.member_id.is_empty() && request.group_instance_id.is_none() {
            return Err(ErrorCode::UNKNOWN_MEMBER_ID);
        }
        self.validate(request.member_id, request.group_instance_id)?;
        if request.generation != self.generation {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        // The member does not yet know its partitions of this generation, so these offsets are of an earlier one.
        if self.phase == Phase::CompletingRebalance { Err(ErrorCode::REBALANCE_IN_PROGRESS) } else { Ok(()) }
    }

    fn commit_one(&mut self, cx: &mut Cx<'_>, commit: OffsetToCommit) -> Result<(), ErrorCode> {
        let metadata = commit.metadata.unwrap_or_default();
        if metadata.len() > cx.limits.offset_metadata_bytes_max {
            return Err(ErrorCode::OFFSET_METADATA_TOO_LARGE);
        }
        let partition = PartitionId { topic: commit.topic, index: commit.partition };
        if self.offsets.len() >= limits::OFFSETS_PER_GROUP_MAX && !self.offsets.contains_key(&partition) {
            return Err(ErrorCode::INVALID_COMMIT_OFFSET_SIZE);
        }
        let kept =
            CommittedOffset { offset: commit.offset, leader_epoch: commit.leader_epoch, metadata, commit_ms: cx.now_ms };
        cx.effects.records.push(layout::offset_record(cx.name, partition, &kept));
        self.offsets.insert(partition, kept);
        Ok(())
    }

    /// The offsets of these partitions, or of all that have one.
    pub fn fetch(&self, partitions: Option<&[PartitionId]>) -> Vec<FetchedOffset> {
        match partitions {
            Some(partitions) => {
                let find = |partition: &PartitionId| self.offsets.get(partition).cloned();
                partitions.iter().map(|id| FetchedOffset { partition: *id, committed: find(id) }).collect()
            }
            None => {
                let line = |(id, offset): (&PartitionId, &CommittedOffset)| (*id, Some(offset.clone()));
                self.offsets.iter().map(line).map(|(partition, committed)| FetchedOffset { partition, committed }).collect()
            }
        }
    }

    /// Deletes offsets of topics nobody is subscribed to; a code per partition, or one refusal for all.
    pub fn delete_offsets(&mut self, cx: &mut Cx<'_>, which: &[(PartitionId, &str)]) -> Result<Vec<ErrorCode>, ErrorCode> {
        let is_consumer = self.protocol_type.as_deref() == Some(CONSUMER);
        if self.phase != Phase::Empty && !is_consumer {
            return Err(ErrorCode::NON_EMPTY_GROUP);
        }
        let codes = which.iter().map(|(partition, topic)| {
            if self.is_subscribed(topic) {
                return ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC;
            }
            if self.offsets.remove(partition).is_some() {
                cx.effects.records.push(layout::offset_tombstone(cx.name, *partition));
            }
            ErrorCode::NONE
        });
        Ok(codes.collect())
    }

    /// True unless it is certain that no member is subscribed.
    fn is_subscribed(&self, topic: &str) -> bool {
        let protocol = self.protocol.as_deref();
        let certainly_not = |metadata| subscription::topics(&metadata).is_some_and(|topics| topics.iter().all(|t| t != topic));
        !self.members.values().all(|member| certainly_not(member.metadata(protocol)))
    }

    /// The topic is gone, and its offsets with it.
    pub fn topic_deleted(&mut self, cx: &mut Cx<'_>, topic: TopicId) {
        for partition in self.partitions_of(topic) {
            self.offsets.remove(&partition);
            cx.effects.records.push(layout::offset_tombstone(cx.name, partition));
        }
    }

    /// The partitions of `topic` that have an offset.
    pub fn partitions_of(&self, topic: TopicId) -> Vec<PartitionId> {
        let all = PartitionId { topic, index: i32::MIN }..=PartitionId { topic, index: i32::MAX };
        self.offsets.range(all).map(|(id, _)| *id).collect()
    }
}
