//! DescribeTopicPartitions (75, KIP-966): topics page by page.

use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{BrokerId, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};
use schloss_authz::can;
use schloss_core::ErrorCode;

use super::wire_id;
use crate::authorize::Call;
use crate::catalog::Topic;

/// Kafka's `max.request.partition.size.limit`.
const PARTITIONS_MAX: usize = 2_000;

/// Answers one request.
pub fn handle(call: &Call, request: &DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let mut response = DescribeTopicPartitionsResponse::default();
    let limit = usize::try_from(request.response_partition_limit).unwrap_or(PARTITIONS_MAX).clamp(1, PARTITIONS_MAX);
    let all = request.topics.is_empty();
    let mut names: Vec<String> = if all {
        call.visible_topics().into_keys().map(|name| name.to_string()).collect()
    } else {
        request.topics.iter().map(|topic| topic.name.to_string()).collect()
    };
    names.sort_unstable();
    names.dedup();
    let start = request.cursor.as_ref();
    let mut left = limit;
    for name in names {
        if start.is_some_and(|cursor| name.as_str() < cursor.topic_name.as_str()) {
            continue;
        }
        let from =
            start.filter(|cursor| cursor.topic_name.as_str() == name).map_or(0, |cursor| cursor.partition_index.max(0));
        if left == 0 {
            response.next_cursor = Some(cursor(&name, from));
            break;
        }
        match call.topic(can::DescribeTopic, &name) {
            Ok(topic) => {
                let until = topic.partitions.min(from.saturating_add(i32::try_from(left).unwrap_or(i32::MAX)));
                response.topics.push(describe(call, &topic, &name, from, until));
                left = left.saturating_sub(usize::try_from(until.saturating_sub(from)).unwrap_or(0));
                if until < topic.partitions {
                    response.next_cursor = Some(cursor(&name, until));
                    break;
                }
            }
            Err(code) => {
                let mut failed = DescribeTopicPartitionsResponseTopic::default();
                failed.error_code = code.code();
                failed.name = Some(super::wire_text(&name).into());
                failed.topic_authorized_operations = super::OPERATIONS_NOT_ASKED;
                response.topics.push(failed);
                left = left.saturating_sub(1);
            }
        }
    }
    response
}

fn cursor(name: &str, partition: i32) -> Cursor {
    let mut cursor = Cursor::default();
    cursor.topic_name = super::wire_text(name).into();
    cursor.partition_index = partition;
    cursor
}

fn describe(call: &Call, topic: &Topic, name: &str, from: i32, until: i32) -> DescribeTopicPartitionsResponseTopic {
    let node = BrokerId(call.broker.config.node_id);
    let mut answer = DescribeTopicPartitionsResponseTopic::default();
    answer.error_code = ErrorCode::NONE.code();
    answer.name = Some(super::wire_text(name).into());
    answer.topic_id = wire_id(topic.id);
    answer.topic_authorized_operations = call.topic_operations(name);
    answer.partitions = (from..until)
        .map(|index| {
            let mut partition = DescribeTopicPartitionsResponsePartition::default();
            partition.partition_index = index;
            partition.leader_id = node;
            partition.leader_epoch = call.broker.engine.leader_epoch(topic.partition(index)).unwrap_or(0);
            partition.replica_nodes = vec![node];
            partition.isr_nodes = vec![node];
            partition.eligible_leader_replicas = Some(Vec::new());
            partition.last_known_elr = Some(Vec::new());
            partition
        })
        .collect();
    answer
}
