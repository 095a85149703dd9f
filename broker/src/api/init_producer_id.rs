//! InitProducerId (22): an id for an idempotent producer, durable before it is told.
//!
//! Passes with WriteDataIdempotently on the cluster, or WriteData on any topic (KIP-679).

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};
use schloss_authz::ResourceRef;
use schloss_authz::{Action, can};
use schloss_core::ErrorCode;

use crate::authorize::Call;

/// Answers one request.
pub async fn handle(call: &Call, request: InitProducerIdRequest) -> InitProducerIdResponse {
    let mut response = InitProducerIdResponse::default();
    response.producer_id = ProducerId(-1);
    response.producer_epoch = -1;
    match init(call, &request).await {
        Ok((id, epoch)) => {
            response.producer_id = ProducerId(id);
            response.producer_epoch = epoch;
        }
        Err(code) => response.error_code = code.code(),
    }
    response
}

async fn init(call: &Call, request: &InitProducerIdRequest) -> Result<(i64, i16), ErrorCode> {
    if let Some(id) = &request.transactional_id {
        return match call.allow(can::AlterTransactionalId, ResourceRef::transactional_id(id)) {
            // Transactions are not served in this release.
            Ok(_permit) => Err(ErrorCode::COORDINATOR_NOT_AVAILABLE),
            Err(_) => Err(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        };
    }
    if !call.allows_any(Action::WriteData) {
        let _permit = call
            .allow(can::WriteDataIdempotently, ResourceRef::CLUSTER)
            .map_err(|_| ErrorCode::CLUSTER_AUTHORIZATION_FAILED)?;
    }
    call.session.tenant.producers.init(&call.session.principal, request.producer_id.0, request.producer_epoch).await
}
