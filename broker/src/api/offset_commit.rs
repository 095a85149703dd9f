//! OffsetCommit (8).

use std::collections::HashMap;

use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};
use schloss_authz::can;
use schloss_authz::ResourceRef;
use schloss_coordinator::{Commit, MemberRef, PartitionCommit, Reply};
use schloss_core::{ErrorCode, GroupId};

use crate::authorize::Call;

/// Answers one request; what it accepts is durable then.
pub async fn handle(call: &Call, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let group = match call.allow(can::AlterGroup, ResourceRef::group(&request.group_id)) {
        Err(_) => Err(ErrorCode::GROUP_AUTHORIZATION_FAILED),
        Ok(_permit) => GroupId::new(&request.group_id).map_err(|_| ErrorCode::INVALID_GROUP_ID),
    };
    let mut refused = HashMap::new();
    let mut partitions = Vec::new();
    for topic in &request.topics {
        let found = match &group {
            Ok(_) => call.topic(can::ReadData, &topic.name),
            Err(code) => Err(*code),
        };
        for asked in &topic.partitions {
            match &found {
                Ok(found) if found.has(asked.partition_index) => partitions.push((
                    (topic.name.clone(), asked.partition_index),
                    PartitionCommit {
                        partition: found.partition(asked.partition_index),
                        offset: asked.committed_offset,
                        leader_epoch: asked.committed_leader_epoch,
                        metadata: asked.committed_metadata.as_deref().unwrap_or_default().into(),
                    },
                )),
                Ok(_) => drop(refused.insert((topic.name.clone(), asked.partition_index), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)),
                Err(code) => drop(refused.insert((topic.name.clone(), asked.partition_index), *code)),
            }
        }
    }
    let codes = match group {
        Ok(group) if !partitions.is_empty() => commit(call, &request, &group, partitions.iter().map(|(_, commit)| commit.clone()).collect()).await,
        _ => Vec::new(),
    };
    let codes: HashMap<_, _> = partitions.into_iter().map(|(key, _)| key).zip(codes).chain(refused).collect();
    answer(&request, &codes)
}

async fn commit(call: &Call, request: &OffsetCommitRequest, group: &GroupId, partitions: Vec<PartitionCommit>) -> Vec<ErrorCode> {
    let count = partitions.len();
    let member = MemberRef {
        generation: request.generation_id_or_member_epoch,
        member_id: request.member_id.as_str().into(),
        instance_id: request.group_instance_id.as_ref().map(|id| id.as_str().into()),
    };
    let commit = Commit { member, partitions };
    match call.session.tenant.groups.ask(|table, token, now| table.commit(group, &commit, token, now)).await {
        Ok(Reply::Commit(codes)) => codes,
        Ok(_) => vec![ErrorCode::UNKNOWN_SERVER_ERROR; count],
        Err(code) => vec![code; count],
    }
}

fn answer(request: &OffsetCommitRequest, codes: &HashMap<(kafka_protocol::messages::TopicName, i32), ErrorCode>) -> OffsetCommitResponse {
    let mut response = OffsetCommitResponse::default();
    for topic in &request.topics {
        let mut result = OffsetCommitResponseTopic::default();
        result.name = topic.name.clone();
        for asked in &topic.partitions {
            let mut partition = OffsetCommitResponsePartition::default();
            partition.partition_index = asked.partition_index;
            let code = codes.get(&(topic.name.clone(), asked.partition_index)).copied().unwrap_or(ErrorCode::UNKNOWN_SERVER_ERROR);
            partition.error_code = code.code();
            result.partitions.push(partition);
        }
        response.topics.push(result);
    }
    response
}

