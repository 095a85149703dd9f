//! FindCoordinator (10): this broker, for every key the principal may describe.

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_core::ErrorCode;

use super::wire_text;
use crate::authorize::Call;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// Answers one request.
pub fn handle(call: &Call, request: &FindCoordinatorRequest) -> FindCoordinatorResponse {
    let mut response = FindCoordinatorResponse::default();
    if call.header.api_version >= 4 {
        response.coordinators = request.coordinator_keys.iter().map(|key| find(call, request.key_type, key)).collect();
        return response;
    }
    let found = find(call, request.key_type, &request.key);
    response.error_code = found.error_code;
    response.error_message = found.error_message;
    response.node_id = found.node_id;
    response.host = found.host;
    response.port = found.port;
    response
}

fn find(call: &Call, key_type: i8, key: &str) -> Coordinator {
    let mut coordinator = Coordinator::default();
    coordinator.key = wire_text(key);
    coordinator.node_id = BrokerId(-1);
    coordinator.port = -1;
    let judged = match key_type {
        GROUP if key.is_empty() => Err(ErrorCode::INVALID_GROUP_ID),
        GROUP => {
            call.allow(can::DescribeGroup, ResourceRef::group(key)).map_err(|_| ErrorCode::GROUP_AUTHORIZATION_FAILED)
        }
        // Transactions are not served in this release; the answer is the same for every transactional id.
        TRANSACTION => match call.allow(can::DescribeTransactionalId, ResourceRef::transactional_id(key)) {
            Ok(_permit) => Err(ErrorCode::COORDINATOR_NOT_AVAILABLE),
            Err(_) => Err(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        },
        _ => Err(ErrorCode::INVALID_REQUEST),
    };
    match judged {
        Ok(_permit) => {
            coordinator.node_id = BrokerId(call.broker.config.node_id);
            coordinator.host = wire_text(&call.session.advertised.host);
            coordinator.port = i32::from(call.session.advertised.port);
        }
        Err(code) => {
            coordinator.error_code = code.code();
            coordinator.error_message = Some(wire_text(code.name()));
        }
    }
    coordinator
}
