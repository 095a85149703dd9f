//! RenewDelegationToken (39, KIP-48): the owner or a renewer moves a token's end, never past its last one.

use kafka_protocol::messages::{RenewDelegationTokenRequest, RenewDelegationTokenResponse};
use schloss_core::ErrorCode;

use super::create_delegation_token::{record, token_of};
use crate::authorize::Call;

/// Answers one request.
pub async fn handle(call: &Call, request: RenewDelegationTokenRequest) -> RenewDelegationTokenResponse {
    let mut response = RenewDelegationTokenResponse::default();
    match renew(call, &request).await {
        Ok(expires_ms) => response.expiry_timestamp_ms = expires_ms,
        Err(code) => response.error_code = code.code(),
    }
    response
}

async fn renew(call: &Call, request: &RenewDelegationTokenRequest) -> Result<i64, ErrorCode> {
    let token = token_of(call, &request.hmac)?;
    record(call, "RenewDelegationToken", token.owner_name()).await?;
    let most = call.broker.config.delegation_tokens.expiry_ms;
    let period = if request.renew_period_ms > 0 { most.min(request.renew_period_ms) } else { most };
    let expires_ms = call.broker.clock.now_ms().saturating_add(period);
    let moved = call.broker.credentials.extend_delegation_token(call.session.tenant.id, &token.id, expires_ms).await;
    moved.map_err(|_| ErrorCode::KAFKA_STORAGE_ERROR)
}
