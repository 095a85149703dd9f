//! Metadata (3): brokers, topics, partitions and their leader; creates topics on first use where that is allowed.
//!
//! SPEC: a name the principal may not describe answers TOPIC_AUTHORIZATION_FAILED whether it exists or not; existence
//! is not looked up. All-topics requests leave such names out.

use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse};
use schloss_authz::ResourceRef;
use schloss_authz::{Action, can};
use schloss_core::{ErrorCode, TopicId, TopicName};

use super::{OPERATIONS_NOT_ASKED, wire_id, wire_text};
use crate::authorize::Call;
use crate::catalog::{CreateTopic, Topic};

/// Answers one request.
pub async fn handle(call: &Call, request: MetadataRequest) -> MetadataResponse {
    let version = call.header.api_version;
    let mut response = MetadataResponse::default();
    response.brokers = vec![broker(call)];
    response.cluster_id = Some(wire_text(&call.session.tenant.cluster.uuid));
    response.controller_id = BrokerId(call.broker.config.node_id);
    response.cluster_authorized_operations = OPERATIONS_NOT_ASKED;
    if (8..=10).contains(&version) && request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = call.cluster_operations(Action::DescribeCluster);
    }
    let masks = request.include_topic_authorized_operations;
    let all = match &request.topics {
        None => true,
        Some(topics) => version == 0 && topics.is_empty(),
    };
    if all {
        for (name, topic) in call.visible_topics() {
            response.topics.push(found(call, &topic, &name, masks));
        }
        return response;
    }
    let may_create = version < 4 || request.allow_auto_topic_creation;
    for asked in request.topics.unwrap_or_default() {
        let topic = match &asked.name {
            Some(name) => by_name(call, name, may_create, masks).await,
            None => by_id(call, TopicId::from_bytes(*asked.topic_id.as_bytes()), masks),
        };
        response.topics.push(topic);
    }
    response
}

/// This broker, by the name the client should dial.
pub fn broker(call: &Call) -> MetadataResponseBroker {
    let mut broker = MetadataResponseBroker::default();
    broker.node_id = BrokerId(call.broker.config.node_id);
    broker.host = wire_text(&call.session.advertised.host);
    broker.port = i32::from(call.session.advertised.port);
    broker
}

async fn by_name(
    call: &Call,
    name: &kafka_protocol::messages::TopicName,
    may_create: bool,
    masks: bool,
) -> MetadataResponseTopic {
    let mut failed = MetadataResponseTopic::default();
    failed.name = Some(name.clone());
    failed.topic_authorized_operations = OPERATIONS_NOT_ASKED;
    failed.error_code = match call.topic(can::DescribeTopic, name) {
        Ok(topic) => return found(call, &topic, name, masks),
        Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) if call.is_abroad(name) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => match TopicName::new(name) {
            Ok(checked) if may_create && call.broker.config.auto_create_topics => match create(call, checked).await {
                Ok(topic) => return found(call, &topic, name, masks),
                Err(code) => code,
            },
            Ok(_) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            Err(_) => ErrorCode::INVALID_TOPIC_EXCEPTION,
        },
        Err(code) => code,
    }
    .code();
    failed
}

async fn create(call: &Call, name: TopicName) -> Result<std::sync::Arc<Topic>, ErrorCode> {
    let permit = call
        .administer(can::CreateTopic, ResourceRef::topic(name.as_str()))
        .await
        .map_err(|_| ErrorCode::TOPIC_AUTHORIZATION_FAILED)?;
    let defaults = &call.broker.config.topic_defaults;
    let wish = CreateTopic {
        name: name.clone(),
        partitions: defaults.partitions,
        overrides: std::collections::BTreeMap::new(),
    };
    match call.session.tenant.catalog.create(&permit, wish).await {
        Ok(topic) => Ok(topic),
        // Another request was faster: what it made is as good.
        Err(error) => call.session.tenant.catalog.by_name(name.as_str()).ok_or(error.code()),
    }
}

fn by_id(call: &Call, id: TopicId, masks: bool) -> MetadataResponseTopic {
    let mut failed = MetadataResponseTopic::default();
    failed.topic_id = wire_id(id);
    failed.topic_authorized_operations = OPERATIONS_NOT_ASKED;
    match call.topic_by_id(can::DescribeTopic, id) {
        Ok(topic) => found(call, &topic, &call.name_of(id).unwrap_or_default(), masks),
        Err(code) => {
            failed.error_code = code.code();
            failed
        }
    }
}

/// `name` is what the client knows the topic by: of another tenant's topic its ARN or mount.
fn found(call: &Call, topic: &Topic, name: &str, masks: bool) -> MetadataResponseTopic {
    let mut answer = MetadataResponseTopic::default();
    answer.name = Some(wire_text(name).into());
    answer.topic_id = wire_id(topic.id);
    answer.topic_authorized_operations = if masks { call.topic_operations(name) } else { OPERATIONS_NOT_ASKED };
    let node = BrokerId(call.broker.config.node_id);
    answer.partitions = (0..topic.partitions)
        .map(|index| {
            let mut partition = MetadataResponsePartition::default();
            partition.partition_index = index;
            partition.leader_id = node;
            partition.leader_epoch = call.broker.engine.leader_epoch(topic.partition(index)).unwrap_or(0);
            partition.replica_nodes = vec![node];
            partition.isr_nodes = vec![node];
            partition
        })
        .collect();
    answer
}
