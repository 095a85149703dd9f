//! Who signed the request: the access key, its secret, the signature, the principal.

use schloss_authn::signed_request::{Authorization, HttpRequest};
use schloss_authn::sigv4::SignatureRefusal;
use schloss_authz::{Principal, PrincipalKind, SessionTerms};
use schloss_core::TenantId;

use super::Trail;
use super::answer::{Code, Refusal};
use crate::broker::Broker;
use crate::credentials::{SessionClaims, SessionRefused};
use crate::tenancy::tenant_id;

/// The signing service.
const SERVICE: &str = "sts";

/// A caller whose signature was verified.
#[derive(Debug)]
pub(super) struct Caller {
    pub tenant: TenantId,
    pub principal: Principal,
    pub access_key_id: Box<str>,
    /// The terms of its own session; none of a long-term key.
    pub terms: SessionTerms,
    /// What its own token holds, if it has one.
    pub claims: Option<SessionClaims>,
}

/// What a claimed key stands for.
struct Found {
    tenant: TenantId,
    kind: PrincipalKind,
    terms: SessionTerms,
    claims: Option<SessionClaims>,
}

impl Caller {
    /// Verifies the signature of a request.
    ///
    /// # Errors
    /// The step that failed, in AWS's words for the caller and in ours for the audit log.
    pub fn verify(broker: &Broker, request: &HttpRequest<'_>, trail: &mut Trail) -> Result<Self, Refusal> {
        let now_ms = broker.clock.now_ms();
        let authorization = Authorization::read(request, SERVICE).map_err(refused)?.ok_or_else(|| {
            Refusal::new(Code::MissingAuthenticationToken, "signature", "Request is missing Authentication Token")
        })?;
        let key_id = authorization.access_key_id;
        trail.details.push(("access_key_id", key_id.to_owned()));
        authorization.check_time(now_ms).map_err(refused)?;
        let unknown = || {
            const TOLD: &str = "The security token included in the request is invalid";
            Refusal::new(Code::InvalidClientTokenId, "access key", TOLD)
        };
        let found = match authorization.session_token {
            Some(token) => {
                let session = broker.credentials.session(key_id, token, now_ms).map_err(|error| match error {
                    SessionRefused::Expired => {
                        const TOLD: &str = "The security token included in the request is expired";
                        Refusal::new(Code::ExpiredToken, "session token", TOLD)
                    }
                    error => unknown().because(error),
                })?;
                authorization.verify(request, session.secret.expose()).map_err(refused)?;
                let (tenant, kind) = (session.tenant, session.principal);
                Found { tenant, kind, terms: session.terms, claims: Some(session.claims) }
            }
            None => {
                let key = broker.credentials.access_key(key_id).ok_or_else(|| unknown().because("nobody has it"))?;
                authorization.verify(request, key.secret.expose()).map_err(refused)?;
                if !key.active {
                    trail.tenants.push(key.tenant);
                    return Err(unknown().because("the key is inactive"));
                }
                broker.credentials.used(key_id, now_ms);
                let kind = key.principal.clone();
                Found { tenant: key.tenant, kind, terms: SessionTerms::default(), claims: None }
            }
        };
        trail.tenants.push(found.tenant);
        if broker.tenancy.tenant(found.tenant).is_none_or(|tenant| tenant.check_key().is_err()) {
            const TOLD: &str = "The request could not be processed; try again.";
            return Err(Refusal::new(Code::InternalFailure, "tenant", TOLD).because("the tenant's KMS key is refused"));
        }
        let organisation = broker.tenancy.policies().organisation();
        let entry = organisation.tenants().find(|entry| tenant_id(entry) == Some(found.tenant));
        if entry.is_some_and(schloss_authz::Tenant::is_suspended) {
            return Err(unknown().because("the tenant is suspended"));
        }
        let principal = entry.and_then(|entry| entry.principal(&found.kind));
        let principal = principal.ok_or_else(|| unknown().because("the key's user or role is gone"))?;
        trail.principal = Some(principal.arn());
        let Found { tenant, terms, claims, .. } = found;
        Ok(Self { tenant, principal, access_key_id: key_id.into(), terms, claims })
    }

    /// AWS's `UserId`: what policies compare as `aws:userid`.
    pub fn user_id(&self) -> String {
        match &self.principal.kind {
            PrincipalKind::User { name } | PrincipalKind::Kafka { name } => name.to_string(),
            PrincipalKind::Role { name, session } => format!("{name}:{session}"),
        }
    }
}

fn refused(error: SignatureRefusal) -> Refusal {
    match error {
        SignatureRefusal::Mismatch => Refusal::new(
            Code::SignatureDoesNotMatch,
            "signature",
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
             Access Key and signing method. Consult the service documentation for details.",
        ),
        SignatureRefusal::Expired => {
            Refusal::new(Code::SignatureDoesNotMatch, "time of the signature", "Signature expired: check the clock")
        }
        SignatureRefusal::NotYet => Refusal::new(
            Code::SignatureDoesNotMatch,
            "time of the signature",
            "Signature not yet current: check the clock",
        ),
        error => Refusal::new(Code::IncompleteSignature, "form of the signature", error.to_string()),
    }
}
