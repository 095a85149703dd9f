//! ListOffsets (2): offsets by special timestamp or by time.

use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};
use schloss_authz::can;
use schloss_core::{ErrorCode, PartitionId};

use crate::authorize::Call;

/// Kafka's special timestamps.
mod timestamp {
    pub const LATEST: i64 = -1;
    pub const EARLIEST: i64 = -2;
    /// KIP-734.
    pub const MAX_TIMESTAMP: i64 = -3;
    /// KIP-405: the earliest offset on local disk. Nothing is tiered, so it is the earliest.
    pub const EARLIEST_LOCAL: i64 = -4;
    /// KIP-1005: the last offset that was tiered. Nothing is, so there is none.
    pub const LATEST_TIERED: i64 = -5;
    /// KIP-1023: the earliest offset not yet tiered. Nothing is tiered, so it is the earliest.
    pub const EARLIEST_PENDING_UPLOAD: i64 = -6;
}

/// Answers one request.
pub async fn handle(call: &Call, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let mut response = ListOffsetsResponse::default();
    for asked in &request.topics {
        let topic = call.topic(can::DescribeTopic, &asked.name);
        let mut result = ListOffsetsTopicResponse::default();
        result.name = asked.name.clone();
        for wish in &asked.partitions {
            let outcome = match &topic {
                Ok(topic) if topic.has(wish.partition_index) => {
                    find(call, topic.partition(wish.partition_index), wish).await
                }
                Ok(_) => Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
                Err(code) => Err(*code),
            };
            let mut partition = ListOffsetsPartitionResponse::default();
            partition.partition_index = wish.partition_index;
            partition.timestamp = -1;
            partition.offset = -1;
            partition.leader_epoch = -1;
            match outcome {
                Ok(Some(found)) => {
                    partition.offset = found.offset;
                    partition.timestamp = found.timestamp;
                    // Older versions have no field for it.
                    if call.header.api_version >= 4 {
                        partition.leader_epoch = found.leader_epoch;
                    }
                }
                Ok(None) => {}
                Err(code) => partition.error_code = code.code(),
            }
            result.partitions.push(partition);
        }
        response.topics.push(result);
    }
    response
}

struct Found {
    offset: i64,
    timestamp: i64,
    leader_epoch: i32,
}

async fn find(call: &Call, partition: PartitionId, wish: &ListOffsetsPartition) -> Result<Option<Found>, ErrorCode> {
    let engine = &call.broker.engine;
    let offsets = engine.offsets(partition).map_err(|error| error.code())?;
    call.check_leader_epoch(wish.current_leader_epoch, offsets.leader_epoch)?;
    let at = |offset, timestamp| Some(Found { offset, timestamp, leader_epoch: offsets.leader_epoch });
    match wish.timestamp {
        timestamp::LATEST => Ok(at(offsets.high_watermark, -1)),
        timestamp::EARLIEST | timestamp::EARLIEST_LOCAL | timestamp::EARLIEST_PENDING_UPLOAD => {
            Ok(at(offsets.log_start, -1))
        }
        timestamp::LATEST_TIERED => Ok(None),
        timestamp::MAX_TIMESTAMP => {
            let found = engine.max_timestamp(partition).await.map_err(|error| error.code())?;
            Ok(found.and_then(|(offset, timestamp)| at(offset, timestamp)))
        }
        time if time >= 0 => {
            let found = engine.offset_for_time(partition, time).await.map_err(|error| error.code())?;
            Ok(found.and_then(|(offset, timestamp)| at(offset, timestamp)))
        }
        _ => Err(ErrorCode::UNSUPPORTED_VERSION),
    }
}
