//! ILLEGAL_SASL_STATE in the form of each API: a client that sends a request before its login is told so in the answer it
//! waits for, then the connection ends.
//!
//! Nothing is looked up: the answer repeats names of the request and nothing else. Requests without a place for an error
//! (a log-dir list, an offset fetch of the oldest versions) are not answered.

use kafka_protocol::messages as m;
use kafka_protocol::messages::{RequestKind, ResponseKind};
use schloss_core::ErrorCode;

const CODE: i16 = ErrorCode::ILLEGAL_SASL_STATE.code();
/// Elements repeated in an answer. A stranger's request must not be answered by a longer one without end.
const ELEMENTS_MAX: usize = 1_000;

/// Answers with the error at the top.
macro_rules! at_top {
    ($response:ty) => {{
        let mut response = <$response>::default();
        response.error_code = CODE;
        response.into()
    }};
}

/// The answer, or `None` when the API has no place for it.
#[must_use]
pub fn answer(request: &RequestKind) -> Option<ResponseKind> {
    Some(match request {
        RequestKind::Fetch(_) => at_top!(m::FetchResponse),
        RequestKind::JoinGroup(_) => at_top!(m::JoinGroupResponse),
        RequestKind::SyncGroup(_) => at_top!(m::SyncGroupResponse),
        RequestKind::Heartbeat(_) => at_top!(m::HeartbeatResponse),
        RequestKind::LeaveGroup(_) => at_top!(m::LeaveGroupResponse),
        RequestKind::ListGroups(_) => at_top!(m::ListGroupsResponse),
        RequestKind::InitProducerId(_) => at_top!(m::InitProducerIdResponse),
        RequestKind::OffsetDelete(_) => at_top!(m::OffsetDeleteResponse),
        RequestKind::DescribeCluster(_) => at_top!(m::DescribeClusterResponse),
        RequestKind::GetTelemetrySubscriptions(_) => at_top!(m::GetTelemetrySubscriptionsResponse),
        RequestKind::PushTelemetry(_) => at_top!(m::PushTelemetryResponse),
        RequestKind::CreateDelegationToken(_) => at_top!(m::CreateDelegationTokenResponse),
        RequestKind::RenewDelegationToken(_) => at_top!(m::RenewDelegationTokenResponse),
        RequestKind::ExpireDelegationToken(_) => at_top!(m::ExpireDelegationTokenResponse),
        RequestKind::DescribeDelegationToken(_) => at_top!(m::DescribeDelegationTokenResponse),
        RequestKind::DescribeClientQuotas(_) => at_top!(m::DescribeClientQuotasResponse),
        RequestKind::DescribeUserScramCredentials(_) => at_top!(m::DescribeUserScramCredentialsResponse),
        RequestKind::SaslHandshake(_) => at_top!(m::SaslHandshakeResponse),
        RequestKind::SaslAuthenticate(_) => at_top!(m::SaslAuthenticateResponse),
        RequestKind::FindCoordinator(request) => find_coordinator(request).into(),
        RequestKind::Metadata(request) => metadata(request).into(),
        RequestKind::Produce(request) => produce(request).into(),
        RequestKind::ListOffsets(request) => list_offsets(request).into(),
        RequestKind::CreateTopics(request) => create_topics(request).into(),
        RequestKind::DeleteTopics(request) => delete_topics(request).into(),
        RequestKind::CreatePartitions(request) => create_partitions(request).into(),
        RequestKind::DescribeConfigs(request) => describe_configs(request).into(),
        RequestKind::DescribeGroups(request) => describe_groups(request).into(),
        RequestKind::DeleteGroups(request) => delete_groups(request).into(),
        RequestKind::OffsetFetch(request) => offset_fetch(request).into(),
        _ => return None,
    })
}

fn find_coordinator(request: &m::FindCoordinatorRequest) -> m::FindCoordinatorResponse {
    let mut response = m::FindCoordinatorResponse::default();
    // Both forms; the encoder writes the one its version has.
    response.error_code = CODE;
    for key in request.coordinator_keys.iter().take(ELEMENTS_MAX) {
        let mut coordinator = m::find_coordinator_response::Coordinator::default();
        coordinator.key = key.clone();
        coordinator.error_code = CODE;
        response.coordinators.push(coordinator);
    }
    if !response.coordinators.is_empty() {
        response.error_code = 0;
    }
    response
}

fn metadata(request: &m::MetadataRequest) -> m::MetadataResponse {
    let mut response = m::MetadataResponse::default();
    for asked in request.topics.iter().flatten().take(ELEMENTS_MAX) {
        let mut topic = m::metadata_response::MetadataResponseTopic::default();
        topic.name = asked.name.clone();
        topic.topic_id = asked.topic_id;
        topic.error_code = CODE;
        response.topics.push(topic);
    }
    response
}

fn produce(request: &m::ProduceRequest) -> m::ProduceResponse {
    let mut response = m::ProduceResponse::default();
    for asked in request.topic_data.iter().take(ELEMENTS_MAX) {
        let mut topic = m::produce_response::TopicProduceResponse::default();
        topic.name = asked.name.clone();
        topic.topic_id = asked.topic_id;
        for data in asked.partition_data.iter().take(ELEMENTS_MAX) {
            let mut partition = m::produce_response::PartitionProduceResponse::default();
            partition.index = data.index;
            partition.base_offset = -1;
            partition.error_code = CODE;
            topic.partition_responses.push(partition);
        }
        response.responses.push(topic);
    }
    response
}

fn list_offsets(request: &m::ListOffsetsRequest) -> m::ListOffsetsResponse {
    let mut response = m::ListOffsetsResponse::default();
    for asked in request.topics.iter().take(ELEMENTS_MAX) {
        let mut topic = m::list_offsets_response::ListOffsetsTopicResponse::default();
        topic.name = asked.name.clone();
        for wish in asked.partitions.iter().take(ELEMENTS_MAX) {
            let mut partition = m::list_offsets_response::ListOffsetsPartitionResponse::default();
            partition.partition_index = wish.partition_index;
            partition.error_code = CODE;
            topic.partitions.push(partition);
        }
        response.topics.push(topic);
    }
    response
}

fn create_topics(request: &m::CreateTopicsRequest) -> m::CreateTopicsResponse {
    let mut response = m::CreateTopicsResponse::default();
    for asked in request.topics.iter().take(ELEMENTS_MAX) {
        let mut topic = m::create_topics_response::CreatableTopicResult::default();
        topic.name = asked.name.clone();
        topic.error_code = CODE;
        response.topics.push(topic);
    }
    response
}

fn delete_topics(request: &m::DeleteTopicsRequest) -> m::DeleteTopicsResponse {
    let mut response = m::DeleteTopicsResponse::default();
    let by_name = request.topic_names.iter().map(|name| (Some(name.clone()), uuid::Uuid::nil()));
    let by_id = request.topics.iter().map(|topic| (topic.name.clone(), topic.topic_id));
    for (name, id) in by_name.chain(by_id).take(ELEMENTS_MAX) {
        let mut result = m::delete_topics_response::DeletableTopicResult::default();
        result.name = name;
        result.topic_id = id;
        result.error_code = CODE;
        response.responses.push(result);
    }
    response
}

fn create_partitions(request: &m::CreatePartitionsRequest) -> m::CreatePartitionsResponse {
    let mut response = m::CreatePartitionsResponse::default();
    for asked in request.topics.iter().take(ELEMENTS_MAX) {
        let mut result = m::create_partitions_response::CreatePartitionsTopicResult::default();
        result.name = asked.name.clone();
        result.error_code = CODE;
        response.results.push(result);
    }
    response
}

fn describe_configs(request: &m::DescribeConfigsRequest) -> m::DescribeConfigsResponse {
    let mut response = m::DescribeConfigsResponse::default();
    for asked in request.resources.iter().take(ELEMENTS_MAX) {
        let mut result = m::describe_configs_response::DescribeConfigsResult::default();
        result.resource_type = asked.resource_type;
        result.resource_name = asked.resource_name.clone();
        result.error_code = CODE;
        response.results.push(result);
    }
    response
}

fn describe_groups(request: &m::DescribeGroupsRequest) -> m::DescribeGroupsResponse {
    let mut response = m::DescribeGroupsResponse::default();
    for asked in request.groups.iter().take(ELEMENTS_MAX) {
        let mut group = m::describe_groups_response::DescribedGroup::default();
        group.group_id = asked.clone();
        group.error_code = CODE;
        response.groups.push(group);
    }
    response
}

fn delete_groups(request: &m::DeleteGroupsRequest) -> m::DeleteGroupsResponse {
    let mut response = m::DeleteGroupsResponse::default();
    for asked in request.groups_names.iter().take(ELEMENTS_MAX) {
        let mut result = m::delete_groups_response::DeletableGroupResult::default();
        result.group_id = asked.clone();
        result.error_code = CODE;
        response.results.push(result);
    }
    response
}

fn offset_fetch(request: &m::OffsetFetchRequest) -> m::OffsetFetchResponse {
    let mut response = m::OffsetFetchResponse::default();
    response.error_code = CODE;
    for asked in request.groups.iter().take(ELEMENTS_MAX) {
        let mut group = m::offset_fetch_response::OffsetFetchResponseGroup::default();
        group.group_id = asked.group_id.clone();
        group.error_code = CODE;
        response.groups.push(group);
        response.error_code = 0;
    }
    response
}
