//! OffsetFetch (9): committed offsets of one group, or of several from version 8 on (KIP-709). From version 10 on a topic
//! is named by its id (KIP-848).
//!
//! What is told is durable: the answer waits for commits applied before it.

use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopics;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{GroupId as WireGroupId, OffsetFetchRequest, OffsetFetchResponse, TopicName};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_core::{ErrorCode, GroupId, PartitionId, TopicId};

use super::{wire_id, wire_text};
use crate::authorize::Call;

/// From this version a request names several groups.
const SEVERAL: i16 = 8;
/// From this version a topic is named by its id.
const BY_ID: i16 = 10;
/// The offset of a partition without a commit.
const NONE: i64 = -1;

/// A topic as the client names it; the version says which of the two counts.
#[derive(Clone)]
struct Named {
    name: TopicName,
    id: uuid::Uuid,
}

/// Topics and partitions asked for; none is all.
type Asked = Option<Vec<(Named, Vec<i32>)>>;

/// Answers one request.
pub async fn handle(call: &Call, request: OffsetFetchRequest) -> OffsetFetchResponse {
    let mut response = OffsetFetchResponse::default();
    if call.header.api_version >= SEVERAL {
        for group in request.groups {
            let name = |topic: OffsetFetchRequestTopics| {
                (Named { name: topic.name, id: topic.topic_id }, topic.partition_indexes)
            };
            let asked = group.topics.map(|topics| topics.into_iter().map(name).collect());
            response.groups.push(fetch(call, group.group_id, asked).await);
        }
        return response;
    }
    let named = |name| Named { name, id: uuid::Uuid::nil() };
    let asked = request
        .topics
        .map(|topics| topics.into_iter().map(|topic| (named(topic.name), topic.partition_indexes)).collect::<Vec<_>>());
    // Version 0 and 1 have no "all"; an empty list is all in version 1 of some clients and nothing in Kafka.
    let one = fetch(call, request.group_id, asked).await;
    response.error_code = one.error_code;
    response.topics = one.topics.into_iter().map(old_topic).collect();
    if call.header.api_version < 2 && one.error_code != 0 {
        response.error_code = 0;
    }
    response
}

async fn fetch(call: &Call, id: WireGroupId, asked: Asked) -> OffsetFetchResponseGroup {
    let mut result = OffsetFetchResponseGroup::default();
    result.group_id = id.clone();
    match offsets(call, &id, &asked).await {
        Ok(topics) => result.topics = topics,
        Err(code) => {
            result.error_code = code.code();
            let failed = |(named, partitions): (Named, Vec<i32>)| {
                topic(named, partitions.into_iter().map(|index| absent(index, code)).collect())
            };
            // Below version 2 the error stands at each partition.
            if call.header.api_version < 2 {
                result.topics = asked.unwrap_or_default().into_iter().map(failed).collect();
            }
        }
    }
    result
}

async fn offsets(call: &Call, id: &str, asked: &Asked) -> Result<Vec<OffsetFetchResponseTopics>, ErrorCode> {
    let _permit =
        call.allow(can::DescribeGroup, ResourceRef::group(id)).map_err(|_| ErrorCode::GROUP_AUTHORIZATION_FAILED)?;
    let group = GroupId::new(id).map_err(|_| ErrorCode::INVALID_GROUP_ID)?;
    let tenant = &call.session.tenant;
    tenant.groups.settled().await?;
    let Some(asked) = asked else { return Ok(all(call, &group)) };
    let mut topics = Vec::new();
    for (named, partitions) in asked {
        let found = if call.header.api_version >= BY_ID {
            call.topic_by_id(can::DescribeTopic, TopicId::from_bytes(*named.id.as_bytes()))
        } else {
            call.topic(can::DescribeTopic, &named.name)
        };
        let committed = partitions.iter().map(|index| match &found {
            Ok(known) => one(call, &group, known.partition(*index)),
            // A topic that is not there has no offsets; that is no error (Kafka).
            Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => absent(*index, ErrorCode::NONE),
            Err(code) => absent(*index, *code),
        });
        topics.push(topic(named.clone(), committed.collect()));
    }
    Ok(topics)
}

fn all(call: &Call, group: &GroupId) -> Vec<OffsetFetchResponseTopics> {
    let tenant = &call.session.tenant;
    let mut partitions: Vec<PartitionId> =
        tenant.groups.look(|table| table.offsets(group).map(|(partition, _)| partition).collect());
    partitions.sort_unstable();
    let mut topics: Vec<OffsetFetchResponseTopics> = Vec::new();
    for same in partitions.chunk_by(|one, other| one.topic == other.topic) {
        let Some(id) = same.first().map(|first| first.topic) else { continue };
        let Some(name) = call.name_of(id) else { continue };
        if call.may_see(&name) {
            let named = Named { name: wire_text(&name).into(), id: wire_id(id) };
            topics.push(topic(named, same.iter().map(|partition| one(call, group, *partition)).collect()));
        }
    }
    topics
}

fn one(call: &Call, group: &GroupId, partition: PartitionId) -> OffsetFetchResponsePartitions {
    let committed = call.session.tenant.groups.look(|table| table.offset(group, partition).cloned());
    let mut result = absent(partition.index, ErrorCode::NONE);
    if let Some(committed) = committed {
        result.committed_offset = committed.offset;
        // Older versions have no field for it.
        if call.header.api_version >= 5 {
            result.committed_leader_epoch = committed.leader_epoch;
        }
        result.metadata = Some(wire_text(&committed.metadata));
    }
    result
}

fn absent(index: i32, code: ErrorCode) -> OffsetFetchResponsePartitions {
    let mut result = OffsetFetchResponsePartitions::default();
    result.partition_index = index;
    result.committed_offset = NONE;
    result.committed_leader_epoch = -1;
    result.metadata = Some(wire_text(""));
    result.error_code = code.code();
    result
}

fn topic(named: Named, partitions: Vec<OffsetFetchResponsePartitions>) -> OffsetFetchResponseTopics {
    let mut topic = OffsetFetchResponseTopics::default();
    topic.name = named.name;
    topic.topic_id = named.id;
    topic.partitions = partitions;
    topic
}

fn old_topic(new: OffsetFetchResponseTopics) -> OffsetFetchResponseTopic {
    let mut topic = OffsetFetchResponseTopic::default();
    topic.name = new.name;
    topic.partitions = new
        .partitions
        .into_iter()
        .map(|new| {
            let mut partition = OffsetFetchResponsePartition::default();
            partition.partition_index = new.partition_index;
            partition.committed_offset = new.committed_offset;
            partition.committed_leader_epoch = new.committed_leader_epoch;
            partition.metadata = new.metadata;
            partition.error_code = new.error_code;
            partition
        })
        .collect();
    topic
}
