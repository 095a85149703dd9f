//! DescribeDelegationToken (41, KIP-48): the tokens a principal owns, may renew, or may describe by policy.

use kafka_protocol::messages::describe_delegation_token_response::{
    DescribedDelegationToken, DescribedDelegationTokenRenewer,
};
use kafka_protocol::messages::{DescribeDelegationTokenRequest, DescribeDelegationTokenResponse};
use schloss_authz::{Action, Organisation, Principal, PrincipalKind, ResourceKind, ResourceRef};

use super::create_delegation_token::{USER, check_connection, concerns, kafka_name};
use super::wire_text;
use crate::authorize::Call;
use crate::credentials::DelegationToken;

/// Answers one request. Tokens that may not be seen are left out.
pub fn handle(call: &Call, request: &DescribeDelegationTokenRequest) -> DescribeDelegationTokenResponse {
    let mut response = DescribeDelegationTokenResponse::default();
    if let Err(code) = check_connection(call) {
        response.error_code = code.code();
        return response;
    }
    let organisation = call.broker.tenancy.policies().organisation();
    let me = call.session.policies().principal().clone();
    let credentials = &call.broker.credentials;
    for token in credentials.delegation_tokens(call.session.tenant.id) {
        let owner = name_of(&organisation, &me, &token.owner);
        let asked = request.owners.as_ref().is_none_or(|owners| {
            owners.iter().any(|wanted| &*wanted.principal_type == USER && *wanted.principal_name == *owner)
        });
        let live = asked && credentials.delegation_token(call.session.tenant.id, &token.id).is_some();
        let resource = ResourceRef { kind: ResourceKind::Principal, name: &owner };
        if live && (concerns(&token, &me) || call.may(Action::DescribeDelegationToken, resource)) {
            let requester = name_of(&organisation, &me, &token.requester);
            let mut told = told(&token, &owner);
            if call.header.api_version >= 3 {
                told.token_requester_principal_type = wire_text(USER);
                told.token_requester_principal_name = wire_text(&requester);
            }
            response.tokens.push(told);
        }
    }
    response
}

/// The name of a principal of the caller's tenant; of one that is gone, what it was called.
fn name_of(organisation: &Organisation, me: &Principal, kind: &PrincipalKind) -> String {
    let found = organisation.tenant(me.account).and_then(|tenant| tenant.principal(kind));
    found.map_or_else(
        || match kind {
            PrincipalKind::User { name } | PrincipalKind::Role { name, .. } | PrincipalKind::Kafka { name } => {
                name.to_string()
            }
        },
        |principal| kafka_name(&principal),
    )
}

fn told(token: &DelegationToken, owner: &str) -> DescribedDelegationToken {
    let renewer = |name: &str| {
        DescribedDelegationTokenRenewer::default()
            .with_principal_type(wire_text(USER))
            .with_principal_name(wire_text(name))
    };
    DescribedDelegationToken::default()
        .with_principal_type(wire_text(USER))
        .with_principal_name(wire_text(owner))
        .with_issue_timestamp(token.issued_ms)
        .with_expiry_timestamp(token.expires_ms)
        .with_max_timestamp(token.max_ms)
        .with_token_id(wire_text(&token.id))
        .with_hmac(token.hmac().into())
        .with_renewers(token.renewers.iter().map(|name| renewer(name)).collect())
}
