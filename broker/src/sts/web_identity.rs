//! AssumeRoleWithWebIdentity: a session of a role for whoever an identity provider of the role's tenant vouches for.
//!
//! The token is the one that OAUTHBEARER takes: the same issuers, key sets and rules judge it. Its claims are condition
//! keys under the provider's name (`login.example.com:sub`) when the role's trust policy is judged.

use std::net::SocketAddr;

use schloss_authn::oauth::jwt::{self, JwtRefusal, Unproved};
use schloss_authz::Assumer;
use schloss_authz::organisation::Issuer;
use serde_json::{Map, Value};

use super::Trail;
use super::answer::{Code, Elements, Refusal};
use super::assume::{Wish, denied, issue};
use super::parameters::invalid;
use super::query::Query;
use crate::broker::Broker;
use crate::login::oauth::condition_keys;

/// AWS's bounds of a token.
const TOKEN_CHARS: std::ops::RangeInclusive<usize> = 4..=20_000;
const ACTION: &str = "sts:AssumeRoleWithWebIdentity";

/// A token that was proved.
struct Proved {
    issuer: Issuer,
    claims: Map<String, Value>,
}

/// Answers the operation. It is not signed: the token is the proof.
pub(super) async fn assume(
    broker: &Broker,
    query: &Query,
    source: SocketAddr,
    trail: &mut Trail,
) -> Result<Elements, Refusal> {
    let wish = Wish::read(query, trail)?;
    let token = query.value("WebIdentityToken").filter(|token| TOKEN_CHARS.contains(&token.len()));
    let token = token.ok_or_else(|| invalid("WebIdentityToken must have 4 to 20000 characters"))?;
    let proved = prove(broker, &wish, token).await?;
    let claim = |name: &str| proved.claims.get(name).and_then(Value::as_str).unwrap_or_default();
    let provider = proved.issuer.provider();
    trail.principal = Some(format!("{provider}:{}", claim("sub")));
    let mut keys = wish.keys();
    keys.put_all(&condition_keys(provider, &proved.claims));
    let organisation = broker.tenancy.policies().organisation();
    let partition = organisation.tenant(wish.role.account).map_or("aws", |tenant| &tenant.cluster().partition);
    let arn = format!("arn:{partition}:iam::{}:oidc-provider/{provider}", wish.role.account);
    let told = denied(claim("sub"), "AssumeRoleWithWebIdentity", wish.role.arn);
    let assumer = Assumer::Federated(&arn);
    let tenant = wish.judge(broker, assumer, ACTION, keys, source, trail).map_err(|why| told.because(why))?;
    let seconds = wish.seconds(broker, query, false)?;
    let mut claims = wish.claims(broker.clock.now_ms(), seconds);
    claims.facts.insert("aws:FederatedProvider".into(), arn.as_str().into());
    claims.facts.insert(format!("{provider}:sub").into(), claim("sub").into());
    let elements = issue(broker, tenant, &wish, claims, trail)?;
    Ok(elements
        .text("SubjectFromWebIdentityToken", claim("sub"))
        .text("Audience", audience(&proved))
        .text("Provider", &proved.issuer.issuer))
}

/// The audience of the token that its issuer's rules name.
fn audience(proved: &Proved) -> String {
    let of_token: Vec<&str> = match proved.claims.get("aud") {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let known = |text: &&&str| proved.issuer.audiences.iter().any(|audience| **audience == ***text);
    of_token.iter().find(known).copied().unwrap_or_default().to_owned()
}

/// Proves the token by an issuer of the role's tenant. A role's account that does not exist has none.
async fn prove(broker: &Broker, wish: &Wish<'_>, token: &str) -> Result<Proved, Refusal> {
    let no_provider = || {
        const TOLD: &str = "No OpenIDConnect provider found in your account for the issuer of the token";
        Refusal::new(Code::InvalidIdentityToken, "identity provider", TOLD)
    };
    let unproved = Unproved::read(token).map_err(refused)?;
    let rules = {
        let organisation = broker.tenancy.policies().organisation();
        let entry = organisation.tenant(wish.role.account).ok_or_else(no_provider)?;
        broker.login.rules.of(broker.tenancy.policies().epoch(), entry)
    };
    let mut refusal = no_provider();
    for (issuer, rules) in rules.issuers.iter().filter(|(issuer, _)| *issuer.issuer == *unproved.issuer) {
        let keys = broker.login.jwks.keys(&issuer.jwks_url, unproved.key_id.as_deref()).await.map_err(|error| {
            const TOLD: &str = "The identity provider's keys could not be retrieved";
            Refusal::new(Code::IdpCommunicationError, "key set", TOLD).because(error)
        })?;
        match jwt::verify(token, rules, &keys, broker.clock.now_ms()) {
            Ok(claims) => return Ok(Proved { issuer: issuer.clone(), claims }),
            Err(error) => refusal = refused(error),
        }
    }
    Err(refusal)
}

fn refused(error: JwtRefusal) -> Refusal {
    let code = if error == JwtRefusal::Expired { Code::ExpiredTokenException } else { Code::InvalidIdentityToken };
    Refusal::new(code, "web identity token", error.to_string())
}
