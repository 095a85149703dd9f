//! DescribeCluster (60): brokers and the cluster's id. Needs no permission but for the operations mask.

use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};
use schloss_authz::Action;
use schloss_core::ErrorCode;

use super::{OPERATIONS_NOT_ASKED, wire_text};
use crate::authorize::Call;

/// KIP-919: endpoint type of brokers; 2 is controllers, which clients cannot reach here.
const BROKERS: i8 = 1;

/// Answers one request.
pub fn handle(call: &Call, request: &DescribeClusterRequest) -> DescribeClusterResponse {
    let mut response = DescribeClusterResponse::default();
    response.cluster_authorized_operations = OPERATIONS_NOT_ASKED;
    response.endpoint_type = BROKERS;
    if call.header.api_version >= 1 && request.endpoint_type != BROKERS {
        response.error_code = ErrorCode::MISMATCHED_ENDPOINT_TYPE.code();
        response.error_message = Some(wire_text("this listener serves clients; ask for broker endpoints"));
        return response;
    }
    response.cluster_id = wire_text(&call.session.tenant.cluster.uuid);
    response.controller_id = BrokerId(call.broker.config.node_id);
    let mut broker = DescribeClusterBroker::default();
    broker.broker_id = BrokerId(call.broker.config.node_id);
    broker.host = wire_text(&call.session.advertised.host);
    broker.port = i32::from(call.session.advertised.port);
    response.brokers = vec![broker];
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = call.cluster_operations(Action::DescribeCluster);
    }
    response
}
