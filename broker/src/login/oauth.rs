//! OAUTHBEARER: a JWT of one of the tenants' identity providers, or the signed URL of the MSK IAM signers.
//!
//! A JWT becomes a session of a role: the issuer's file says which (`role_claim`, else `role`), and the role's trust
//! policy must let the provider's token have it, as with AssumeRoleWithWebIdentity. Its claims are condition keys under
//! the provider's name (`login.example.com/tenant:sub`), there and in every later decision.
//!
//! Several tenants may take tokens of one issuer: host name or certificate say whose it is, else the audience must fit
//! exactly one of them.

use std::sync::Arc;

use schloss_authn::oauth::jwt::{self, JwtRefusal, Unproved};
use schloss_authn::oauth::{Bearer, Kind, signed_url};
use schloss_authz::organisation::Issuer;
use schloss_authz::{Assumer, KeyValue, Keys, RequestContext, RoleRequest, SessionTerms};
use serde_json::{Map, Value};

use super::door::Door;
use super::identity::Proof;
use super::rules::session_name;
use super::{Failed, Proved, Told, iam};
use crate::broker::Broker;
use crate::tenancy::tenant_id;

const MECHANISM: &str = "OAUTHBEARER";
const ASSUME: &str = "sts:AssumeRoleWithWebIdentity";

pub(super) async fn login(broker: &Arc<Broker>, door: &Door, message: &[u8]) -> Result<Proved, Failed> {
    let bearer = Bearer::read(message).map_err(|why| Failed::at("message", why, Told::AccessDenied))?;
    match bearer.kind() {
        Kind::Jwt => by_jwt(broker, door, &bearer).await,
        Kind::SignedUrl => by_signed_url(broker, door, &bearer),
    }
}

fn by_signed_url(broker: &Broker, door: &Door, bearer: &Bearer) -> Result<Proved, Failed> {
    let signed = signed_url::read(&bearer.token).map_err(|why| Failed::at("message", why, Told::AccessDenied))?;
    let mut proved = iam::by_signature(broker, door, &signed.presigned, MECHANISM, Some(signed.presigned.until_ms))?;
    let organisation = broker.tenancy.policies().organisation();
    let allowed =
        organisation.tenant(proved.principal.account).is_some_and(|tenant| tenant.authentication().msk_signer_tokens);
    if !allowed {
        let why = "the tenant does not take signed URLs: they are bound to no broker";
        return Err(Failed::at("mechanism", why, Told::AccessDenied).of(proved.tenant).claimed(proved.principal.arn()));
    }
    proved.details.push(("user_agent", signed.user_agent));
    Ok(proved)
}

/// One tenant's trust in the token's issuer.
struct Candidate {
    account: schloss_authz::AccountId,
    issuer: Issuer,
    rules: jwt::Rules,
}

async fn by_jwt(broker: &Arc<Broker>, door: &Door, bearer: &Bearer) -> Result<Proved, Failed> {
    let invalid = |step, why: &dyn std::fmt::Display| Failed::at(step, why, Told::InvalidToken);
    let unproved = Unproved::read(&bearer.token).map_err(|why| invalid("token", &why))?;
    let candidates = candidates(broker, door, &unproved.issuer);
    if candidates.is_empty() {
        return Err(invalid("issuer", &"no tenant takes tokens of this issuer here"));
    }
    let mut proved: Option<(Candidate, Map<String, Value>)> = None;
    let mut refusal = invalid("token", &JwtRefusal::Audience);
    for candidate in candidates {
        match verified(broker, &candidate, &unproved, &bearer.token).await {
            Ok(_) if proved.is_some() => {
                return Err(invalid("tenant", &"the token fits two tenants, and nothing says which"));
            }
            Ok(claims) => proved = Some((candidate, claims)),
            Err(failed) => refusal = failed,
        }
    }
    let (candidate, claims) = proved.ok_or(refusal)?;
    assume(broker, &candidate, &claims, bearer)
}

fn candidates(broker: &Broker, door: &Door, issuer: &str) -> Vec<Candidate> {
    let organisation = broker.tenancy.policies().organisation();
    let epoch = broker.tenancy.policies().epoch();
    let mut found = Vec::new();
    for entry in organisation.tenants() {
        if door.tenant_named().is_some_and(|named| tenant_id(entry) != Some(named)) {
            continue;
        }
        for (known, rules) in &broker.login.rules.of(epoch, entry).issuers {
            if *known.issuer == *issuer && found.len() < CANDIDATES_MAX {
                found.push(Candidate { account: entry.account(), issuer: known.clone(), rules: rules.clone() });
            }
        }
    }
    found
}

/// Tenants that share an issuer and are tried for one token. Each try is a public-key operation for a stranger.
const CANDIDATES_MAX: usize = 8;

async fn verified(
    broker: &Arc<Broker>,
    candidate: &Candidate,
    unproved: &Unproved,
    token: &str,
) -> Result<Map<String, Value>, Failed> {
    let now_ms = broker.clock.now_ms();
    let keys = broker.login.jwks.keys(&candidate.issuer.jwks_url, unproved.key_id.as_deref()).await;
    let keys = keys.map_err(|why| Failed::at("keys", why, Told::InvalidToken))?;
    jwt::verify(token, &candidate.rules, &keys, now_ms).map_err(|why| Failed::at("token", why, Told::InvalidToken))
}

/// From a proved token to a session of a role.
fn assume(
    broker: &Broker,
    candidate: &Candidate,
    claims: &Map<String, Value>,
    bearer: &Bearer,
) -> Result<Proved, Failed> {
    let organisation = broker.tenancy.policies().organisation();
    let entry = organisation.tenant(candidate.account);
    let number = entry.and_then(tenant_id);
    let (Some(entry), Some(number)) = (entry, number) else {
        return Err(Failed::at("tenant", "no such tenant", Told::InvalidToken));
    };
    let issuer = &candidate.issuer;
    let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
    let claimed = format!("{}:{subject}", issuer.provider());
    let denied = |step, why: &dyn std::fmt::Display| {
        Failed::at(step, why, Told::AccessDenied).of(number).claimed(claimed.as_str())
    };
    if !bearer.authorization_id.is_empty() && bearer.authorization_id != subject {
        return Err(denied("identity", &"another authorization identity than the token's subject is asked for"));
    }
    let role =
        role_of(issuer, claims).ok_or_else(|| denied("role", &"no claim names a role, and the issuer has none"))?;
    let session = claims.get(&*issuer.session_claim).and_then(Value::as_str).unwrap_or(subject);
    let principal = entry.role(&role, &session_name(session));
    let principal = principal.ok_or_else(|| denied("role", &format!("the tenant has no role `{role}`")))?;
    let keys = condition_keys(issuer.provider(), claims);
    let provider =
        format!("arn:{}:iam::{}:oidc-provider/{}", entry.cluster().partition, candidate.account, issuer.provider());
    let request = RoleRequest {
        assumer: Assumer::Federated(&provider),
        account: candidate.account,
        role: &role,
        actions: &[ASSUME],
        context: RequestContext { now_ms: Some(broker.clock.now_ms()), keys: Arc::new(keys.clone()) },
    };
    let decision = broker.tenancy.policies().judge_assumption(&request).map_err(|why| denied("trust", &why))?;
    let mut terms_keys = keys;
    if let Some(issued) = jwt::issued_ms(claims) {
        terms_keys.set("aws:TokenIssueTime", crate::credentials::rfc3339(issued));
    }
    let until = jwt::expiry_ms(claims);
    Ok(Proved {
        tenant: number,
        principal,
        terms: SessionTerms { keys: terms_keys, ..SessionTerms::default() },
        proof: Proof::Issuer(issuer.name.clone()),
        mechanism: MECHANISM,
        until_ms: until,
        details: vec![
            ("issuer", issuer.issuer.to_string()),
            ("subject", subject.to_owned()),
            ("trust", crate::authorize::reason(&decision)),
        ],
    })
}

/// A role's name: of the claim (a name, or the ARN of a role; of a list the first), else the issuer's own.
fn role_of(issuer: &Issuer, claims: &Map<String, Value>) -> Option<String> {
    let claim = issuer.role_claim.as_deref().and_then(|name| claims.get(name));
    let text = match claim {
        Some(Value::String(text)) => Some(text.as_str()),
        Some(Value::Array(list)) => list.first().and_then(Value::as_str),
        _ => None,
    };
    let named = text.map(|text| text.rsplit_once(":role/").map_or(text, |(_, name)| name).to_owned());
    named.or_else(|| issuer.role.as_deref().map(str::to_owned))
}

/// A token's claims as condition keys under the provider's name.
pub(crate) fn condition_keys(provider: &str, claims: &Map<String, Value>) -> Keys {
    let mut keys = Keys::new();
    for mut claim in jwt::condition_values(claims) {
        let key = format!("{provider}:{}", claim.name);
        if claim.is_list {
            keys.put(&key, KeyValue::Many(claim.values.into_iter().map(Into::into).collect()));
        } else if let Some(value) = claim.values.pop() {
            keys.set(&key, value);
        }
    }
    keys
}
