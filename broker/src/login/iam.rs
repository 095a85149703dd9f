//! AWS_MSK_IAM, and the signed URL that the MSK IAM signers send by OAUTHBEARER: a Signature Version 4 by an access key of
//! the broker's own store.

use schloss_authn::msk_iam;
use schloss_authn::replay::{Admission, Uses};
use schloss_authn::sigv4::{Presigned, SigningKey};
use schloss_authz::{PrincipalKind, SessionTerms};
use schloss_core::TenantId;

use super::door::Door;
use super::exchange::Step;
use super::identity::Proof;
use super::{Failed, Proved, Told};
use crate::broker::Broker;
use crate::credentials::CredentialRef;

/// The one round of AWS_MSK_IAM.
pub(super) fn login(broker: &Broker, door: &Door, request_id: &str, message: &[u8]) -> Step {
    match proved(broker, door, message) {
        Ok(proved) => Step::Proved(msk_iam::answer(request_id), Box::new(proved)),
        Err(failed) => Step::Failed(failed),
    }
}

fn proved(broker: &Broker, door: &Door, message: &[u8]) -> Result<Proved, Failed> {
    let request = msk_iam::read(message).map_err(|why| Failed::at("message", why, Told::AccessDenied))?;
    let host = &request.presigned.host;
    let told_to_clients = door.listener.advertised.host.eq_ignore_ascii_case(host);
    if !told_to_clients && !broker.tls.answers_to(host) {
        let why = "the signature is for another host than this broker's";
        return Err(Failed::at("host", why, Told::AccessDenied).claimed(&*request.presigned.access_key_id));
    }
    let named = broker.tenancy.policies().organisation().tenant_by_host(host).map(schloss_authz::Tenant::account);
    let until = None;
    let mut proved = by_signature(broker, door, &request.presigned, "AWS_MSK_IAM", until)?;
    if named.is_some_and(|account| account != proved.principal.account) {
        let why = "the signature is for another tenant's host name";
        return Err(Failed::at("host", why, Told::AccessDenied).of(proved.tenant).claimed(proved.principal.arn()));
    }
    proved.details.push(("user_agent", request.user_agent));
    Ok(proved)
}

/// What the store has for an access key id.
struct Credential {
    tenant: TenantId,
    principal: PrincipalKind,
    terms: SessionTerms,
    reference: CredentialRef,
    ends_ms: Option<i64>,
}

/// Checks a signature in every respect but its host.
pub(super) fn by_signature(
    broker: &Broker,
    door: &Door,
    presigned: &Presigned,
    mechanism: &'static str,
    until_ms: Option<i64>,
) -> Result<Proved, Failed> {
    let now_ms = broker.clock.now_ms();
    let id = &presigned.access_key_id;
    let denied = |step, why: &dyn std::fmt::Display| Failed::at(step, why, Told::AccessDenied).claimed(id.as_str());
    presigned.check_time(now_ms).map_err(|why| denied("time", &why))?;
    let credential = match verified(broker, presigned, now_ms) {
        Ok(credential) => credential,
        Err((step, why, tenant)) => {
            let failed = denied(step, &why);
            return Err(match tenant {
                Some(tenant) => failed.of(tenant),
                None => failed,
            });
        }
    };
    let tenant = credential.tenant;
    let denied = |step, why: &dyn std::fmt::Display| denied(step, why).of(tenant);
    let organisation = broker.tenancy.policies().organisation();
    let entry = organisation.tenants().find(|entry| entry.account().number() == tenant.account());
    let entry = entry.ok_or_else(|| denied("tenant", &"no such tenant"))?;
    let regions = &entry.authentication().aws_regions;
    if *presigned.region != *entry.cluster().region && !regions.iter().any(|region| **region == *presigned.region) {
        let why = format!("signed for region `{}`, which the tenant does not have", presigned.region);
        return Err(denied("region", &why));
    }
    let principal = entry.principal(&credential.principal);
    let principal = principal.ok_or_else(|| denied("principal", &"the tenant has no such user or role any more"))?;
    let uses = if broker.config.login.single_use_signatures && mechanism == "AWS_MSK_IAM" {
        Uses::Once
    } else {
        Uses::OneAddress
    };
    let good_until = presigned.until_ms;
    let admission = broker.login.with_signatures(tenant, |seen| {
        seen.admit(presigned.signature, good_until, door.source.ip().to_canonical(), uses, now_ms)
    });
    match admission {
        Admission::Admitted => {}
        Admission::Replayed => {
            return Err(denied("replay", &"the signature was used before, from another address or too often"));
        }
        Admission::Full => {
            let why = "too many signatures in one window of time";
            return Err(Failed::at("limit", why, Told::TooManyConnects).of(tenant).claimed(principal.arn()));
        }
    }
    broker.credentials.used(id, now_ms);
    Ok(Proved {
        tenant,
        principal,
        terms: credential.terms,
        proof: Proof::Stored(credential.reference),
        mechanism,
        until_ms: credential.ends_ms.into_iter().chain(until_ms).min(),
        details: vec![("access_key_id", id.clone()), ("region", presigned.region.clone())],
    })
}

type NotVerified = (&'static str, String, Option<TenantId>);

/// Looks the secret up and checks the signature by it. An id that nobody has costs the same.
fn verified(broker: &Broker, presigned: &Presigned, now_ms: i64) -> Result<Credential, NotVerified> {
    let check = |secret: &str| {
        let key =
            broker.login.signing_keys.lock().unwrap_or_else(std::sync::PoisonError::into_inner).of(presigned, secret);
        presigned.verify(&key)
    };
    if let Some(token) = &presigned.session_token {
        let session = broker.credentials.session(&presigned.access_key_id, token, now_ms).map_err(|why| {
            decoy(presigned);
            ("credential", why.to_string(), None)
        })?;
        check(session.secret.expose()).map_err(|why| ("signature", why.to_string(), Some(session.tenant)))?;
        return Ok(Credential {
            tenant: session.tenant,
            reference: session.reference(),
            ends_ms: Some(session.expires_ms),
            principal: session.principal,
            terms: session.terms,
        });
    }
    let Some(key) = broker.credentials.access_key(&presigned.access_key_id) else {
        decoy(presigned);
        return Err(("credential", "nobody has this access key id".to_owned(), None));
    };
    check(key.secret.expose()).map_err(|why| ("signature", why.to_string(), Some(key.tenant)))?;
    if !key.active {
        return Err(("credential", "the access key is inactive".to_owned(), Some(key.tenant)));
    }
    Ok(Credential {
        tenant: key.tenant,
        reference: key.reference(),
        ends_ms: None,
        principal: key.principal.clone(),
        terms: SessionTerms::default(),
    })
}

fn decoy(presigned: &Presigned) {
    let key = SigningKey::derive("no secret has these forty-one characters.", presigned.day(), &presigned.region);
    let _ = std::hint::black_box(presigned.verify(&key));
}
