//! OffsetForLeaderEpoch (23, KIP-320): where a leader epoch ended.

use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use schloss_authz::can;
use schloss_core::{ErrorCode, PartitionId};

use crate::authorize::Call;

/// Answers one request.
pub fn handle(call: &Call, request: &OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
    let mut response = OffsetForLeaderEpochResponse::default();
    for asked in &request.topics {
        let topic = call.topic(can::DescribeTopic, &asked.topic);
        let mut result = OffsetForLeaderTopicResult::default();
        result.topic = asked.topic.clone();
        for wish in &asked.partitions {
            let outcome = match &topic {
                Ok(topic) if topic.has(wish.partition) => find(call, topic.partition(wish.partition), wish),
                Ok(_) => Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
                Err(code) => Err(*code),
            };
            let mut end = EpochEndOffset::default();
            end.partition = wish.partition;
            end.leader_epoch = -1;
            end.end_offset = -1;
            match outcome {
                Ok(Some((epoch, offset))) => (end.leader_epoch, end.end_offset) = (epoch, offset),
                Ok(None) => {}
                Err(code) => end.error_code = code.code(),
            }
            result.partitions.push(end);
        }
        response.topics.push(result);
    }
    response
}

fn find(call: &Call, partition: PartitionId, wish: &OffsetForLeaderPartition) -> Result<Option<(i32, i64)>, ErrorCode> {
    let offsets = call.broker.engine.offsets(partition).map_err(|error| error.code())?;
    call.check_leader_epoch(wish.current_leader_epoch, offsets.leader_epoch)?;
    call.broker.engine.end_offset_for_epoch(partition, wish.leader_epoch).map_err(|error| error.code())
}
