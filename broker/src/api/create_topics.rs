//! CreateTopics (19).

use std::collections::{BTreeMap, HashMap};

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};
use schloss_authz::ResourceRef;
use schloss_authz::{Action, can};
use schloss_core::{ErrorCode, TopicName, limits};

use super::{wire_id, wire_text};
use crate::authorize::Call;
use crate::catalog::{CreateTopic, Topic};
use crate::topic_config;

/// A refusal with its text.
type Refusal = (ErrorCode, String);

/// Answers one request.
pub async fn handle(call: &Call, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let mut response = CreateTopicsResponse::default();
    let mut times = HashMap::new();
    for topic in &request.topics {
        *times.entry(topic.name.clone()).or_insert(0_usize) += 1;
    }
    for (name, count) in &times {
        if *count > 1 {
            response.topics.push(failed(name, ErrorCode::INVALID_REQUEST, "Duplicate topic name."));
        }
    }
    for asked in request.topics.iter().filter(|topic| times.get(&topic.name) == Some(&1)) {
        let result = match create(call, asked, request.validate_only).await {
            Ok(topic) => succeeded(call, &topic),
            Err((code, why)) => failed(&asked.name, code, &why),
        };
        response.topics.push(result);
    }
    response
}

async fn create(call: &Call, asked: &CreatableTopic, validate_only: bool) -> Result<Topic, Refusal> {
    let permit = call
        .administer(can::CreateTopic, ResourceRef::topic(&asked.name))
        .await
        .map_err(|_| (ErrorCode::TOPIC_AUTHORIZATION_FAILED, "Authorization failed.".to_owned()))?;
    let wish = check(call, asked)?;
    let catalog = &call.session.tenant.catalog;
    if validate_only {
        catalog.check(&wish).map_err(|error| (error.code(), error.to_string()))?;
        return Ok(Topic::imagined(wish, &call.broker.config.topic_defaults));
    }
    let made = catalog.create(&permit, wish).await.map_err(|error| (error.code(), error.to_string()))?;
    Ok(Topic::clone(&made))
}

fn check(call: &Call, asked: &CreatableTopic) -> Result<CreateTopic, Refusal> {
    let name = TopicName::new(&asked.name).map_err(|why| (ErrorCode::INVALID_TOPIC_EXCEPTION, why.to_string()))?;
    if call.is_abroad(name.as_str()) {
        let why = "The name is a mount of another tenant's topic.".to_owned();
        return Err((ErrorCode::TOPIC_ALREADY_EXISTS, why));
    }
    let defaults = &call.broker.config.topic_defaults;
    let partitions = if asked.assignments.is_empty() {
        match asked.num_partitions {
            -1 => defaults.partitions,
            count if count >= 1 => count,
            _ => {
                return Err((
                    ErrorCode::INVALID_PARTITIONS,
                    "Number of partitions was set to an invalid non-positive value.".to_owned(),
                ));
            }
        }
    } else {
        from_assignments(call, asked)?
    };
    if partitions > limits::PARTITIONS_PER_TOPIC_MAX {
        return Err((
            ErrorCode::INVALID_PARTITIONS,
            format!("A topic has at most {} partitions.", limits::PARTITIONS_PER_TOPIC_MAX),
        ));
    }
    if asked.assignments.is_empty() && asked.replication_factor != -1 && asked.replication_factor < 1 {
        return Err((
            ErrorCode::INVALID_REPLICATION_FACTOR,
            "Replication factor must be larger than 0, or -1 to use the default value.".to_owned(),
        ));
    }
    // One broker owns a partition and its store keeps the copies, so any larger factor has nothing to stand on.
    if asked.assignments.is_empty() && asked.replication_factor > 1 {
        return Err((
            ErrorCode::INVALID_REPLICATION_FACTOR,
            format!(
                "Unable to replicate the partition {} time(s): the store keeps the copies; use replication factor 1 or -1.",
                asked.replication_factor
            ),
        ));
    }
    let mut overrides = BTreeMap::new();
    for config in &asked.configs {
        let Some(value) = &config.value else {
            return Err((
                ErrorCode::INVALID_CONFIG,
                format!("Null value not supported for topic configs: {}", config.name.escape_default()),
            ));
        };
        overrides.insert(config.name.to_string(), value.to_string());
    }
    topic_config::check(&overrides, defaults).map_err(|why| (ErrorCode::INVALID_CONFIG, why))?;
    Ok(CreateTopic { name, partitions, overrides })
}

fn from_assignments(call: &Call, asked: &CreatableTopic) -> Result<i32, Refusal> {
    if asked.num_partitions != -1 || asked.replication_factor != -1 {
        return Err((
            ErrorCode::INVALID_REQUEST,
            "Both an assignment and a number of partitions or replicas were given.".to_owned(),
        ));
    }
    let mut indexes: Vec<i32> = asked.assignments.iter().map(|assignment| assignment.partition_index).collect();
    indexes.sort_unstable();
    let consecutive = indexes.iter().enumerate().all(|(n, index)| i32::try_from(n) == Ok(*index));
    let ours = |assignment: &kafka_protocol::messages::create_topics_request::CreatableReplicaAssignment| matches!(assignment.broker_ids.as_slice(), [node] if node.0 == call.broker.config.node_id);
    if !consecutive || !asked.assignments.iter().all(ours) {
        return Err((
            ErrorCode::INVALID_REPLICA_ASSIGNMENT,
            format!("Partitions must be numbered from 0 and assigned to broker {} alone.", call.broker.config.node_id),
        ));
    }
    i32::try_from(indexes.len()).map_err(|_| (ErrorCode::INVALID_PARTITIONS, "Too many partitions.".to_owned()))
}

fn failed(name: &kafka_protocol::messages::TopicName, code: ErrorCode, why: &str) -> CreatableTopicResult {
    let mut result = CreatableTopicResult::default();
    result.name = name.clone();
    result.error_code = code.code();
    result.error_message = Some(wire_text(why));
    result.num_partitions = -1;
    result.replication_factor = -1;
    result
}

fn succeeded(call: &Call, topic: &Topic) -> CreatableTopicResult {
    let mut result = CreatableTopicResult::default();
    result.name = super::wire_name(&topic.name);
    result.topic_id = wire_id(topic.id);
    if !call.may(Action::DescribeTopicDynamicConfiguration, ResourceRef::topic(topic.name.as_str())) {
        result.topic_config_error_code = ErrorCode::TOPIC_AUTHORIZATION_FAILED.code();
        result.num_partitions = -1;
        result.replication_factor = -1;
        result.configs = Some(Vec::new());
        return result;
    }
    result.num_partitions = topic.partitions;
    result.replication_factor = 1;
    let defaults = &call.broker.config.topic_defaults;
    let configs = topic_config::DEFINITIONS.iter().map(|definition| {
        let mut config = CreatableTopicConfigs::default();
        config.name = wire_text(definition.name);
        config.value = Some(wire_text(topic_config::effective(&topic.overrides, defaults, definition.name)));
        config.config_source = super::describe_configs::source(topic, defaults, definition.name);
        config
    });
    result.configs = Some(configs.collect());
    result
}
