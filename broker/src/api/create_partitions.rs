//! CreatePartitions (37).

use std::collections::HashSet;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_core::{ErrorCode, limits};

use super::wire_text;
use crate::authorize::Call;

/// Answers one request.
pub async fn handle(call: &Call, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let mut response = CreatePartitionsResponse::default();
    let mut seen = HashSet::new();
    let doubled: HashSet<_> = request
        .topics
        .iter()
        .filter(|topic| !seen.insert(topic.name.clone()))
        .map(|topic| topic.name.clone())
        .collect();
    for asked in &request.topics {
        let outcome = if doubled.contains(&asked.name) {
            Err((ErrorCode::INVALID_REQUEST, "Duplicate topic in request.".to_owned()))
        } else {
            grow(call, asked, request.validate_only).await
        };
        let mut result = CreatePartitionsTopicResult::default();
        result.name = asked.name.clone();
        if let Err((code, why)) = outcome {
            result.error_code = code.code();
            result.error_message = Some(wire_text(&why));
        }
        response.results.push(result);
    }
    response
}

async fn grow(call: &Call, asked: &CreatePartitionsTopic, validate_only: bool) -> Result<(), (ErrorCode, String)> {
    let refuse = |code: ErrorCode, why: String| Err((code, why));
    let permit = call
        .administer(can::AlterTopic, ResourceRef::topic(&asked.name))
        .await
        .map_err(|_| (ErrorCode::TOPIC_AUTHORIZATION_FAILED, "Authorization failed.".to_owned()))?;
    let catalog = &call.session.tenant.catalog;
    let Some(topic) = catalog.by_name(&asked.name) else {
        return refuse(
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            "This server does not host this topic-partition.".to_owned(),
        );
    };
    if asked.count == topic.partitions {
        return refuse(ErrorCode::INVALID_PARTITIONS, format!("Topic already has {} partition(s).", topic.partitions));
    }
    if asked.count < topic.partitions {
        return refuse(
            ErrorCode::INVALID_PARTITIONS,
            format!(
                "The topic currently has {} partition(s); {} would not be an increase.",
                topic.partitions, asked.count
            ),
        );
    }
    if asked.count > limits::PARTITIONS_PER_TOPIC_MAX {
        return refuse(
            ErrorCode::INVALID_PARTITIONS,
            format!("A topic has at most {} partitions.", limits::PARTITIONS_PER_TOPIC_MAX),
        );
    }
    if let Some(assignments) = &asked.assignments {
        let added = usize::try_from(asked.count.saturating_sub(topic.partitions)).unwrap_or(0);
        let ours = assignments
            .iter()
            .all(|one| matches!(one.broker_ids.as_slice(), [node] if node.0 == call.broker.config.node_id));
        if assignments.len() != added || !ours {
            return refuse(
                ErrorCode::INVALID_REPLICA_ASSIGNMENT,
                format!("Each new partition must be assigned to broker {} alone.", call.broker.config.node_id),
            );
        }
    }
    if validate_only {
        return Ok(());
    }
    catalog.grow(&permit, asked.count).await.map(drop).map_err(|error| (error.code(), error.to_string()))
}
