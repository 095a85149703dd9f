//! DescribeLogDirs (35): sizes of the tenant's partitions. The folder's true place and the disk's size are the
//! operator's and are not told.

use std::collections::BTreeMap;

use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_core::ErrorCode;

use super::{wire_name, wire_text};
use crate::authorize::Call;

/// The one log dir's name.
const LOG_DIR: &str = "schloss";
/// "Not told" for the size of the disk (KIP-827).
const NOT_TOLD: i64 = -1;

/// Answers one request.
pub fn handle(call: &Call, request: &DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    let mut response = DescribeLogDirsResponse::default();
    if call.allow(can::DescribeCluster, ResourceRef::CLUSTER).is_err() {
        // Below version 3 there is no field for it; the empty list says the same.
        if call.header.api_version >= 3 {
            response.error_code = ErrorCode::CLUSTER_AUTHORIZATION_FAILED.code();
        }
        return response;
    }
    let mut result = DescribeLogDirsResult::default();
    result.log_dir = wire_text(LOG_DIR);
    result.total_bytes = NOT_TOLD;
    result.usable_bytes = NOT_TOLD;
    let asked: Option<BTreeMap<String, &Vec<i32>>> = request
        .topics
        .as_ref()
        .map(|topics| topics.iter().map(|topic| (topic.topic.to_string(), &topic.partitions)).collect());
    for topic in call.session.tenant.catalog.all() {
        let wanted = asked.as_ref().map(|asked| asked.get(topic.name.as_str()));
        if wanted == Some(None) {
            continue;
        }
        let mut entry = DescribeLogDirsTopic::default();
        entry.name = wire_name(&topic.name);
        let chosen = |index: &i32| wanted.flatten().is_none_or(|partitions| partitions.contains(index));
        entry.partitions = (0..topic.partitions)
            .filter(chosen)
            .map(|index| {
                let mut partition = DescribeLogDirsPartition::default();
                partition.partition_index = index;
                partition.partition_size = call
                    .broker
                    .engine
                    .size_of(topic.partition(index))
                    .map_or(0, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
                partition
            })
            .collect();
        result.topics.push(entry);
    }
    response.results = vec![result];
    response
}
