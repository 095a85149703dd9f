//! ExpireDelegationToken (40, KIP-48): the owner or a renewer ends a token, now or at a moment.

use kafka_protocol::messages::{ExpireDelegationTokenRequest, ExpireDelegationTokenResponse};
use schloss_core::ErrorCode;

use super::create_delegation_token::{record, token_of};
use crate::authorize::Call;

/// Answers one request.
pub async fn handle(call: &Call, request: ExpireDelegationTokenRequest) -> ExpireDelegationTokenResponse {
    let mut response = ExpireDelegationTokenResponse::default();
    match expire(call, &request).await {
        Ok(expires_ms) => response.expiry_timestamp_ms = expires_ms,
        Err(code) => response.error_code = code.code(),
    }
    response
}

async fn expire(call: &Call, request: &ExpireDelegationTokenRequest) -> Result<i64, ErrorCode> {
    let token = token_of(call, &request.hmac)?;
    record(call, "ExpireDelegationToken", token.owner_name()).await?;
    let (tenant, credentials) = (call.session.tenant.id, &call.broker.credentials);
    if request.expiry_time_period_ms < 0 {
        // At once; Kafka answers the period itself.
        let removed = credentials.delete_delegation_token(tenant, &token.id).await;
        return removed.map(|()| request.expiry_time_period_ms).map_err(|_| ErrorCode::KAFKA_STORAGE_ERROR);
    }
    let expires_ms = call.broker.clock.now_ms().saturating_add(request.expiry_time_period_ms);
    let moved = credentials.extend_delegation_token(tenant, &token.id, expires_ms).await;
    moved.map_err(|_| ErrorCode::KAFKA_STORAGE_ERROR)
}
