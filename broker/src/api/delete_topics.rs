//! DeleteTopics (20), by name or by id.
//!
//! SECURITY: an id whose name the principal may not describe answers without the name.

use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_core::{ErrorCode, TopicId};

use super::{wire_id, wire_name, wire_text};
use crate::authorize::Call;

/// Answers one request.
pub async fn handle(call: &Call, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let mut response = DeleteTopicsResponse::default();
    for name in &request.topic_names {
        response.responses.push(by_name(call, name).await);
    }
    for state in &request.topics {
        let result = match &state.name {
            Some(name) => by_name(call, name).await,
            None => by_id(call, TopicId::from_bytes(*state.topic_id.as_bytes())).await,
        };
        response.responses.push(result);
    }
    response
}

async fn by_name(call: &Call, name: &kafka_protocol::messages::TopicName) -> DeletableTopicResult {
    let mut result = DeletableTopicResult::default();
    result.name = Some(name.clone());
    match delete(call, name).await {
        Ok(id) => result.topic_id = wire_id(id),
        Err(code) => fail(&mut result, code),
    }
    result
}

async fn by_id(call: &Call, id: TopicId) -> DeletableTopicResult {
    let mut result = DeletableTopicResult::default();
    result.topic_id = wire_id(id);
    let Some(topic) = call.session.tenant.catalog.by_id(id) else {
        fail(&mut result, ErrorCode::UNKNOWN_TOPIC_ID);
        return result;
    };
    if call.allow(can::DescribeTopic, ResourceRef::topic(topic.name.as_str())).is_err() {
        fail(&mut result, ErrorCode::TOPIC_AUTHORIZATION_FAILED);
        return result;
    }
    result.name = Some(wire_name(&topic.name));
    if let Err(code) = delete(call, topic.name.as_str()).await {
        fail(&mut result, code);
    }
    result
}

async fn delete(call: &Call, name: &str) -> Result<TopicId, ErrorCode> {
    let permit = call
        .administer(can::DeleteTopic, ResourceRef::topic(name))
        .await
        .map_err(|_| ErrorCode::TOPIC_AUTHORIZATION_FAILED)?;
    let deleted = call.session.tenant.catalog.delete(&permit).await.map_err(|error| error.code())?;
    call.session.tenant.groups.topic_deleted(deleted).await.map_err(|error| error.code())?;
    Ok(deleted)
}

fn fail(result: &mut DeletableTopicResult, code: ErrorCode) {
    result.error_code = code.code();
    result.error_message = Some(wire_text(code.name()));
}
