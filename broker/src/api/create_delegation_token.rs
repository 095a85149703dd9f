//! CreateDelegationToken (38, KIP-48, KIP-373), and what the four delegation token APIs share.
//!
//! A principal makes tokens for itself freely; for another it needs `CreateDelegationToken` on that principal.
//!
//! SECURITY: a token carries a name and nothing that limits it. So neither a connection that was let in by a token, nor one
//! that was let in by temporary credentials or an identity provider, may make one: it would outgrow and outlive itself.

use kafka_protocol::messages::{CreateDelegationTokenRequest, CreateDelegationTokenResponse};
use schloss_audit::{Class, Event, Verdict};
use schloss_authz::{Principal, PrincipalKind, ResourceKind, ResourceRef, can};
use schloss_core::ErrorCode;

use super::wire_text;
use crate::authorize::Call;
use crate::credentials::{CredentialRef, DelegationToken, NewToken};
use crate::login::identity::Proof;

/// The one principal type there is (Kafka's `KafkaPrincipal.USER_TYPE`).
pub(super) const USER: &str = "User";
/// Renewers of one token.
const RENEWERS_MAX: usize = 100;
/// Bytes of a renewer's name.
const NAME_BYTES_MAX: usize = 2_048;

/// Answers one request.
pub async fn handle(call: &Call, request: CreateDelegationTokenRequest) -> CreateDelegationTokenResponse {
    let requester = call.session.policies().principal().clone();
    let mut response = CreateDelegationTokenResponse::default()
        .with_principal_type(wire_text(USER))
        .with_principal_name(wire_text(&kafka_name(&requester)));
    if call.header.api_version >= 3 {
        response.token_requester_principal_type = wire_text(USER);
        response.token_requester_principal_name = wire_text(&kafka_name(&requester));
    }
    match create(call, &request, &requester).await {
        Ok((owner, token)) => {
            response.principal_name = wire_text(&owner);
            response.issue_timestamp_ms = token.issued_ms;
            response.expiry_timestamp_ms = token.expires_ms;
            response.max_timestamp_ms = token.max_ms;
            response.token_id = wire_text(&token.id);
            response.hmac = token.hmac().into();
        }
        Err(code) => response.error_code = code.code(),
    }
    response
}

async fn create(
    call: &Call,
    request: &CreateDelegationTokenRequest,
    requester: &Principal,
) -> Result<(String, std::sync::Arc<DelegationToken>), ErrorCode> {
    check_connection(call)?;
    let limits = &call.session.policies();
    let terms = limits.terms();
    let limited = !terms.policies.is_empty() || !terms.named.is_empty();
    let temporary =
        matches!(call.session.identity().proof, Proof::Stored(CredentialRef::Session { .. }) | Proof::Issuer(_));
    if limited || temporary {
        return Err(ErrorCode::DELEGATION_TOKEN_REQUEST_NOT_ALLOWED);
    }
    let owner = owner(call, request, requester).await?;
    if request.renewers.len() > RENEWERS_MAX
        || request.renewers.iter().any(|renewer| renewer.principal_name.len() > NAME_BYTES_MAX)
    {
        return Err(ErrorCode::INVALID_REQUEST);
    }
    if request.renewers.iter().any(|renewer| &*renewer.principal_type != USER) {
        return Err(ErrorCode::INVALID_PRINCIPAL_TYPE);
    }
    let config = &call.broker.config.delegation_tokens;
    let life = if request.max_lifetime_ms > 0 {
        config.max_lifetime_ms.min(request.max_lifetime_ms)
    } else {
        config.max_lifetime_ms
    };
    let now_ms = call.broker.clock.now_ms();
    let name = kafka_name(&owner);
    record(call, "CreateDelegationToken", &name).await?;
    let wish = NewToken {
        owner: owner.kind.clone(),
        requester: requester.kind.clone(),
        renewers: request.renewers.iter().map(|renewer| (&*renewer.principal_name).into()).collect(),
        expires_ms: now_ms.saturating_add(config.expiry_ms),
        max_ms: now_ms.saturating_add(life),
    };
    let made = call.broker.credentials.create_delegation_token(call.session.tenant.id, wish).await;
    made.map(|token| (name, token)).map_err(|_| ErrorCode::KAFKA_STORAGE_ERROR)
}

/// The requester itself, or the principal it names and may make tokens for.
async fn owner(
    call: &Call,
    request: &CreateDelegationTokenRequest,
    requester: &Principal,
) -> Result<Principal, ErrorCode> {
    let Some(name) = request.owner_principal_name.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(requester.clone());
    };
    if request.owner_principal_type.as_deref() != Some(USER) {
        return Err(ErrorCode::INVALID_PRINCIPAL_TYPE);
    }
    if is_named(requester, name) {
        return Ok(requester.clone());
    }
    let denied = ErrorCode::DELEGATION_TOKEN_AUTHORIZATION_FAILED;
    let resource = ResourceRef { kind: ResourceKind::Principal, name };
    let _permit = call.administer(can::CreateDelegationToken, resource).await.map_err(|_| denied)?;
    let organisation = call.broker.tenancy.policies().organisation();
    organisation.tenant(requester.account).and_then(|tenant| tenant.user(name)).ok_or(denied)
}

/// KIP-48: a connection that was let in by a token may not handle tokens.
pub(super) fn check_connection(call: &Call) -> Result<(), ErrorCode> {
    match call.session.identity().stored() {
        Some(CredentialRef::DelegationToken { .. }) => Err(ErrorCode::DELEGATION_TOKEN_REQUEST_NOT_ALLOWED),
        _ => Ok(()),
    }
}

/// The live token with this secret, if the caller is its owner or one of its renewers.
pub(super) fn token_of(call: &Call, hmac: &[u8]) -> Result<std::sync::Arc<DelegationToken>, ErrorCode> {
    check_connection(call)?;
    let credentials = &call.broker.credentials;
    let token = credentials
        .delegation_token_by_hmac(call.session.tenant.id, hmac)
        .ok_or(ErrorCode::DELEGATION_TOKEN_NOT_FOUND)?;
    if credentials.delegation_token(call.session.tenant.id, &token.id).is_none() {
        return Err(ErrorCode::DELEGATION_TOKEN_EXPIRED);
    }
    if !concerns(&token, call.session.policies().principal()) {
        return Err(ErrorCode::DELEGATION_TOKEN_OWNER_MISMATCH);
    }
    Ok(token)
}

/// Whether the principal owns the token or may renew it.
pub(super) fn concerns(token: &DelegationToken, principal: &Principal) -> bool {
    token.owner == principal.kind || token.renewers.iter().any(|renewer| is_named(principal, renewer))
}

/// A principal's name in Kafka's words: a user's name, a role's ARN.
pub(super) fn kafka_name(principal: &Principal) -> String {
    match &principal.kind {
        PrincipalKind::User { name } | PrincipalKind::Kafka { name } => name.to_string(),
        PrincipalKind::Role { .. } => principal.policy_arn(),
    }
}

/// Whether a client means this principal by a name: Kafka's, or its ARN.
fn is_named(principal: &Principal, name: &str) -> bool {
    name == kafka_name(principal) || name == principal.policy_arn()
}

/// Records an administrative action before it is done.
pub(super) async fn record(call: &Call, action: &str, on: &str) -> Result<(), ErrorCode> {
    let tenant = Some(call.session.tenant.id);
    let mut event = Event::new(tenant, Class::Administration, Verdict::Allowed, format!("kafka-cluster:{action}"));
    event.principal = Some(call.session.identity().arn.to_string());
    let resource = ResourceRef { kind: ResourceKind::Principal, name: on };
    event.resource = Some(call.session.tenant.cluster.arn_of(resource));
    event.api = Some(call.api.to_owned());
    event.request_id = Some(call.request_id.clone());
    event.source = Some(call.session.source);
    call.broker.audit.record(event).await.map(drop).map_err(|_| ErrorCode::UNKNOWN_SERVER_ERROR)
}
