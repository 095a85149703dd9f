//! OffsetDelete (47, KIP-496).

use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_coordinator::{OffsetToDelete, Reply};
use schloss_core::{ErrorCode, GroupId};

use crate::authorize::Call;

/// Answers one request.
pub async fn handle(call: &Call, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    match delete(call, &request).await {
        Ok(response) => response,
        Err(code) => {
            let mut response = OffsetDeleteResponse::default();
            response.error_code = code.code();
            response
        }
    }
}

async fn delete(call: &Call, request: &OffsetDeleteRequest) -> Result<OffsetDeleteResponse, ErrorCode> {
    let _permit = call
        .administer(can::DeleteGroup, ResourceRef::group(&request.group_id))
        .await
        .map_err(|_| ErrorCode::GROUP_AUTHORIZATION_FAILED)?;
    let group = GroupId::new(&request.group_id).map_err(|_| ErrorCode::INVALID_GROUP_ID)?;
    let mut wanted = Vec::new();
    let mut judged = Vec::new();
    for topic in &request.topics {
        let found = call.topic(can::ReadData, &topic.name);
        for asked in &topic.partitions {
            let outcome = match &found {
                Ok(found) if found.has(asked.partition_index) => {
                    wanted.push(OffsetToDelete {
                        partition: found.partition(asked.partition_index),
                        topic_name: topic.name.as_str().into(),
                    });
                    Ok(wanted.len().saturating_sub(1))
                }
                Ok(_) => Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
                Err(code) => Err(*code),
            };
            judged.push(outcome);
        }
    }
    let reply =
        call.session.tenant.groups.ask(|table, token, now| table.delete_offsets(&group, &wanted, token, now)).await?;
    let Reply::DeleteOffsets { error, partitions } = reply else { return Err(ErrorCode::UNKNOWN_SERVER_ERROR) };
    if !error.is_none() {
        return Err(error);
    }
    let mut judged = judged.into_iter();
    let mut response = OffsetDeleteResponse::default();
    for topic in &request.topics {
        let mut result = OffsetDeleteResponseTopic::default();
        result.name = topic.name.clone();
        for asked in &topic.partitions {
            let code = match judged.next() {
                Some(Ok(at)) => partitions.get(at).copied().unwrap_or(ErrorCode::UNKNOWN_SERVER_ERROR),
                Some(Err(code)) => code,
                None => ErrorCode::UNKNOWN_SERVER_ERROR,
            };
            let mut partition = OffsetDeleteResponsePartition::default();
            partition.partition_index = asked.partition_index;
            partition.error_code = code.code();
            result.partitions.push(partition);
        }
        response.topics.push(result);
    }
    Ok(response)
}
