//! OffsetCommit (8). From version 10 on a topic is named by its id (KIP-848).

use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_coordinator::{Commit, MemberRef, PartitionCommit, Reply};
use schloss_core::{ErrorCode, GroupId, TopicId};

use crate::authorize::Call;

/// From this version on a topic is named by its id.
const BY_ID: i16 = 10;

/// One partition: what to commit, or why not.
type Judged = Result<PartitionCommit, ErrorCode>;

/// Answers one request; what it accepts is durable then.
pub async fn handle(call: &Call, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let group = match call.allow(can::AlterGroup, ResourceRef::group(&request.group_id)) {
        Err(_) => Err(ErrorCode::GROUP_AUTHORIZATION_FAILED),
        Ok(_permit) => call
            .session
            .tenant
            .check_key()
            // A coordinator's word: clients retry it, and throw a storage error of a commit at the application.
            .map_err(|_| ErrorCode::COORDINATOR_LOAD_IN_PROGRESS)
            .and_then(|()| GroupId::new(&request.group_id).map_err(|_| ErrorCode::INVALID_GROUP_ID)),
    };
    let judged: Vec<Judged> = match &group {
        Ok(_) => request.topics.iter().flat_map(|topic| judge(call, topic)).collect(),
        Err(code) => request.topics.iter().flat_map(|topic| topic.partitions.iter().map(|_| Err(*code))).collect(),
    };
    let accepted: Vec<PartitionCommit> = judged.iter().filter_map(|one| one.as_ref().ok().cloned()).collect();
    let committed = match group {
        Ok(group) if !accepted.is_empty() => commit(call, &request, &group, accepted).await,
        _ => Vec::new(),
    };
    answer(&request, judged, committed)
}

/// Each partition of one topic, in order.
fn judge(call: &Call, topic: &OffsetCommitRequestTopic) -> Vec<Judged> {
    let found = if call.header.api_version >= BY_ID {
        call.topic_by_id(can::ReadData, TopicId::from_bytes(*topic.topic_id.as_bytes()))
    } else {
        call.topic(can::ReadData, &topic.name)
    };
    let judge = |asked: &OffsetCommitRequestPartition| match &found {
        Ok(found) if found.has(asked.partition_index) => Ok(PartitionCommit {
            partition: found.partition(asked.partition_index),
            offset: asked.committed_offset,
            leader_epoch: asked.committed_leader_epoch,
            metadata: asked.committed_metadata.as_deref().unwrap_or_default().into(),
        }),
        Ok(_) => Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        Err(code) => Err(*code),
    };
    topic.partitions.iter().map(judge).collect()
}

async fn commit(
    call: &Call,
    request: &OffsetCommitRequest,
    group: &GroupId,
    partitions: Vec<PartitionCommit>,
) -> Vec<ErrorCode> {
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

/// Puts the outcomes where the request had their partitions: by place, as below version 10 only names and from then on
/// only ids tell topics apart, and either may come twice.
fn answer(request: &OffsetCommitRequest, judged: Vec<Judged>, committed: Vec<ErrorCode>) -> OffsetCommitResponse {
    let mut committed = committed.into_iter();
    let mut codes = judged.into_iter().map(|one| match one {
        Ok(_) => committed.next().unwrap_or(ErrorCode::UNKNOWN_SERVER_ERROR),
        Err(code) => code,
    });
    let mut response = OffsetCommitResponse::default();
    for topic in &request.topics {
        let mut result = OffsetCommitResponseTopic::default();
        result.name = topic.name.clone();
        result.topic_id = topic.topic_id;
        for asked in &topic.partitions {
            let mut partition = OffsetCommitResponsePartition::default();
            partition.partition_index = asked.partition_index;
            partition.error_code = codes.next().unwrap_or(ErrorCode::UNKNOWN_SERVER_ERROR).code();
            result.partitions.push(partition);
        }
        response.topics.push(result);
    }
    response
}
