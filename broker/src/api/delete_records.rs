//! DeleteRecords (21): moves a partition's log start forward.

use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_core::ErrorCode;

use crate::authorize::Call;

/// "Up to the high watermark".
const HIGH_WATERMARK: i64 = -1;

/// Answers one request.
pub async fn handle(call: &Call, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let mut response = DeleteRecordsResponse::default();
    for asked in &request.topics {
        let topic = match call.administer(can::DeleteTopic, ResourceRef::topic(&asked.name)).await {
            Ok(permit) => call.session.tenant.catalog.permitted(&permit).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            Err(_) => Err(ErrorCode::TOPIC_AUTHORIZATION_FAILED),
        };
        let mut result = DeleteRecordsTopicResult::default();
        result.name = asked.name.clone();
        for wish in &asked.partitions {
            let mut partition = DeleteRecordsPartitionResult::default();
            partition.partition_index = wish.partition_index;
            partition.low_watermark = -1;
            let outcome = match &topic {
                Ok(topic) if topic.has(wish.partition_index) => {
                    delete(call, topic.partition(wish.partition_index), wish.offset).await
                }
                Ok(_) => Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
                Err(code) => Err(*code),
            };
            match outcome {
                Ok(low_watermark) => partition.low_watermark = low_watermark,
                Err(code) => partition.error_code = code.code(),
            }
            result.partitions.push(partition);
        }
        response.topics.push(result);
    }
    response
}

async fn delete(call: &Call, partition: schloss_core::PartitionId, offset: i64) -> Result<i64, ErrorCode> {
    let offsets = call.broker.engine.offsets(partition).map_err(|error| error.code())?;
    let before = if offset == HIGH_WATERMARK { offsets.high_watermark } else { offset };
    if before < 0 || before > offsets.high_watermark {
        return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
    }
    call.broker.engine.delete_records(partition, before).await.map_err(|error| error.code())
}
