//! Who a connection is: every way to log in ends here, is judged, recorded, and gives a [`Session`].
//!
//! In: a TLS connection and what its peer shows (a certificate, or SASL messages). Out: a [`Session`], a renewed one, or a
//! [`Failed`] login.
//!
//! | way | file |
//! |---|---|
//! | what every connection shows before it says a word | [`door`] |
//! | client certificates | [`certificate`] |
//! | the SASL dialogue and its four mechanisms | [`exchange`], [`iam`], [`scram`], [`oauth`], [`jwks`] |
//! | what a login is while it lasts, and what ends it | [`identity`], [`watch`] |
//! | how many, how fast | [`limits`] |
//! | the tenants' own rules | [`rules`] |
//!
//! Invariants
//! - A tenant is fixed at the first login. Certificate, host name dialled and credential must agree on it.
//! - Not recorded, not done: a login whose event cannot be written is refused.
//! - Why a login failed is in the audit log and in no answer. Which step failed stands there as `step`.

pub mod certificate;
pub mod door;
pub mod exchange;
mod iam;
pub mod identity;
mod jwks;
pub mod limits;
pub(crate) mod oauth;
pub mod rules;
mod scram;
mod watch;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use schloss_audit::{Class, Event, Verdict};
use schloss_authn::replay::ReplayCache;
use schloss_authn::sigv4::SigningKeys;
use schloss_authz::{Principal, RequestContext, ResourceRef, Session as Policies, SessionTerms, can};
use schloss_core::{ErrorCode, TenantId};

use crate::abroad::Abroad;
use crate::authorize::reason;
use crate::broker::Broker;
use crate::session::Session;
use crate::tenancy::Tenant;
use door::Door;
use exchange::Exchange;
use identity::{Identity, Proof};
use limits::Limits;

/// The action every login is judged by.
const CONNECT: &str = "kafka-cluster:Connect";
/// Signatures remembered for one tenant. At the default login rate a window of 15 minutes has room.
const SIGNATURES_PER_TENANT_MAX: usize = 500_000;
/// Signing keys remembered, of all tenants.
const SIGNING_KEYS_MAX: usize = 10_000;

/// What logins share: caches, counters, compiled rules.
pub struct LoginRoom {
    /// How many, how fast.
    pub limits: Limits,
    pub(super) signing_keys: Mutex<SigningKeys>,
    pub(super) signatures: Mutex<std::collections::HashMap<TenantId, ReplayCache>>,
    pub(super) jwks: jwks::Jwks,
    pub(super) rules: rules::Compiled,
}

impl LoginRoom {
    /// Nobody logged in yet.
    ///
    /// # Errors
    /// When the authorities of key-set hosts cannot be used.
    pub fn new(config: &crate::config::LoginConfig) -> Result<Self, String> {
        Ok(Self {
            limits: Limits::new(config),
            signing_keys: Mutex::new(SigningKeys::new(SIGNING_KEYS_MAX)),
            signatures: Mutex::default(),
            jwks: jwks::Jwks::new(&config.jwks)?,
            rules: rules::Compiled::default(),
        })
    }

    pub(super) fn with_signatures<T>(&self, tenant: TenantId, ask: impl FnOnce(&mut ReplayCache) -> T) -> T {
        let mut all = self.signatures.lock().unwrap_or_else(PoisonError::into_inner);
        ask(all.entry(tenant).or_insert_with(|| ReplayCache::new(SIGNATURES_PER_TENANT_MAX)))
    }
}

/// Who somebody proved to be, before it is judged whether they may come in.
pub struct Proved {
    /// Whose tenant.
    pub tenant: TenantId,
    /// The user or the session of a role.
    pub principal: Principal,
    /// What limits and describes the session.
    pub terms: SessionTerms,
    /// By what.
    pub proof: Proof,
    /// The way: a SASL mechanism's name, or `mTLS`.
    pub mechanism: &'static str,
    /// When the credential ends, if it does.
    pub until_ms: Option<i64>,
    /// Facts for the audit log.
    pub details: Vec<(&'static str, String)>,
}

/// The words of a refusal that a peer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// `[id]: Access denied`, as Amazon MSK says it.
    AccessDenied,
    /// `[id]: Too many connects`, as Amazon MSK says it.
    TooManyConnects,
    /// Kafka's words for a wrong password.
    InvalidCredentials,
    /// RFC 7628's status.
    InvalidToken,
    /// KIP-368: the principal changes at re-authentication.
    PrincipalChanged,
    /// The message or request was out of order.
    OutOfOrder,
}

/// A login that failed. All but `told` is for the audit log.
#[derive(Debug)]
pub struct Failed {
    /// Whose stream the event belongs to, when that is known for certain.
    pub tenant: Option<TenantId>,
    /// Who it claimed to be.
    pub claimed: Option<String>,
    /// By which way: a SASL mechanism's name, `mTLS`, or empty before one was chosen.
    pub mechanism: &'static str,
    /// Which step failed: one of a fixed set of words.
    pub step: &'static str,
    /// Why.
    pub why: String,
    /// What the peer is told.
    pub told: Told,
}

impl Failed {
    /// A failure at a step.
    pub fn at(step: &'static str, why: impl std::fmt::Display, told: Told) -> Self {
        Self { tenant: None, claimed: None, mechanism: "", step, why: why.to_string(), told }
    }

    /// Of a known tenant.
    #[must_use]
    pub fn of(mut self, tenant: TenantId) -> Self {
        self.tenant = Some(tenant);
        self
    }

    /// By this way.
    #[must_use]
    pub fn by(mut self, mechanism: &'static str) -> Self {
        self.mechanism = mechanism;
        self
    }

    /// By somebody who said so.
    #[must_use]
    pub fn claimed(mut self, who: impl Into<String>) -> Self {
        self.claimed = Some(who.into());
        self
    }
}

/// A login that was refused and recorded.
#[derive(Debug)]
pub struct Refused {
    /// Told to the peer and in the audit log.
    pub request_id: String,
    /// What else the peer is told.
    pub told: Told,
    /// The two principals, both proved by this peer, when they differ.
    pub principals: Option<String>,
}

impl Refused {
    /// The error message for the peer.
    #[must_use]
    pub fn message(&self, mechanism: &str) -> String {
        let id = &self.request_id;
        match self.told {
            Told::AccessDenied => format!("[{id}]: Access denied"),
            Told::TooManyConnects => format!("[{id}]: Too many connects"),
            Told::InvalidCredentials => format!(
                "[{id}]: Authentication failed during authentication due to invalid credentials with SASL mechanism {mechanism}"
            ),
            Told::InvalidToken => format!("[{id}]: {{\"status\":\"invalid_token\"}}"),
            Told::PrincipalChanged => {
                let principals = self.principals.as_deref().unwrap_or_default();
                format!("Cannot change principals during re-authentication {principals} [{id}]")
            }
            Told::OutOfOrder => format!("[{id}]: Unexpected request during SASL authentication"),
        }
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self.told {
            Told::OutOfOrder => ErrorCode::ILLEGAL_SASL_STATE,
            _ => ErrorCode::SASL_AUTHENTICATION_FAILED,
        }
    }
}

/// Policies bound to a principal that may connect, and the reason for the record.
struct Admitted {
    tenant: Arc<Tenant>,
    policies: Policies,
    identity: Identity,
    why: String,
}

impl Broker {
    /// Judges somebody who proved who they are, records it, and opens the session.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn admit(
        &self,
        door: &Arc<Door>,
        request_id: &str,
        proved: Result<Proved, Failed>,
        exchange: Exchange,
    ) -> Result<Session, Refused> {
        let outcome = proved.and_then(|proved| {
            let (details, mechanism) = (proved.details.clone(), proved.mechanism);
            let (tenant, name) = (proved.tenant, proved.principal.policy_arn());
            let slot = self.login.limits.admit(tenant, &name, self.clock.now_ms()).map_err(|limit| {
                Failed::at("limit", limit, Told::TooManyConnects).of(tenant).claimed(name.clone()).by(mechanism)
            })?;
            Ok((self.judge(door, proved)?, details, slot))
        });
        let (admitted, details, slot) = match outcome {
            Ok(admitted) => admitted,
            Err(failed) => return Err(self.refuse(door, request_id, failed).await),
        };
        self.record_login(door, request_id, &admitted, details, "login").await?;
        let Admitted { tenant, policies, identity, .. } = admitted;
        let advertised = door.advertised.clone();
        Ok(Session {
            id: request_id.to_owned(),
            tenant,
            principal: identity.principal.policy_arn().into(),
            source: door.source,
            advertised,
            door: Arc::clone(door),
            exchange: tokio::sync::Mutex::new(exchange),
            identity: RwLock::new(Arc::new(identity)),
            policies: Mutex::new(Arc::new(policies)),
            abroad: Abroad::default(),
            fetch_session: Mutex::new(None),
            ended: tokio::sync::watch::Sender::new(false),
            renewed: tokio::sync::watch::Sender::new(0),
            slot,
        })
    }

    /// KIP-368: the same principal proves itself again on its live connection.
    ///
    /// # Errors
    /// [`Refused`]; the connection ends.
    pub async fn readmit(
        &self,
        session: &Session,
        request_id: &str,
        proved: Result<Proved, Failed>,
    ) -> Result<(), Refused> {
        let outcome = proved.and_then(|proved| {
            let (tenant, details) = (proved.tenant, proved.details.clone());
            // Account and role are compared, not the session's name: SDKs make a new one each time.
            let (was, is) = (session.identity(), proved.principal.policy_arn());
            if tenant != session.tenant.id || *is != *session.principal {
                // Kafka's words; both are the peer's own.
                let why = format!("from IAM.{}: IAM.{}", was.arn, proved.principal.arn());
                let failed = Failed::at("principal", why, Told::PrincipalChanged);
                return Err(failed.of(session.tenant.id).by(proved.mechanism));
            }
            self.login
                .limits
                .rate(tenant, &is, self.clock.now_ms())
                .map_err(|limit| Failed::at("limit", limit, Told::TooManyConnects).of(tenant).by(proved.mechanism))?;
            Ok((self.judge(&session.door, proved)?, details))
        });
        let (admitted, mut details) = match outcome {
            Ok(admitted) => admitted,
            Err(failed) => return Err(self.refuse(&session.door, request_id, failed).await),
        };
        details.push(("before", session.identity().arn.to_string()));
        self.record_login(&session.door, request_id, &admitted, details, "re-authentication").await?;
        session.renew(admitted.identity, admitted.policies);
        Ok(())
    }

    /// Records a failed login.
    pub async fn refuse(&self, door: &Door, request_id: &str, failed: Failed) -> Refused {
        let mut event = Event::new(failed.tenant, Class::Authentication, Verdict::Denied, CONNECT);
        event.principal = failed.claimed;
        event.request_id = Some(request_id.to_owned());
        event.source = Some(door.source);
        event.reason = Some(failed.why.clone());
        event.details.push(("step", failed.step.to_owned()));
        if !failed.mechanism.is_empty() {
            event.details.push(("mechanism", failed.mechanism.to_owned()));
        }
        if let Some(certificate) = &door.certificate {
            event.details.push(("certificate_sha256", certificate.fingerprint_hex()));
        }
        if let Err(error) = self.audit.record(event).await {
            tracing::error!(request_id, %error, "a refused login could not be recorded");
        }
        tracing::info!(peer = %door.source, request_id, step = failed.step, "login refused");
        self.metrics.refused(if failed.told == Told::TooManyConnects { "too_many_connects" } else { "login_refused" });
        let principals = (failed.told == Told::PrincipalChanged).then_some(failed.why);
        Refused { request_id: request_id.to_owned(), told: failed.told, principals }
    }

    fn judge(&self, door: &Door, proved: Proved) -> Result<Admitted, Failed> {
        let number = proved.tenant;
        let claimed = proved.principal.arn();
        let mechanism = proved.mechanism;
        let refused = |step, why: &dyn std::fmt::Display| {
            Failed::at(step, why, Told::AccessDenied).of(number).claimed(&*claimed).by(mechanism)
        };
        if door.tenant_named().is_some_and(|named| named != number) {
            let why = "the credential is of another tenant than the host name dialled or the certificate shown";
            return Err(refused("tenant", &why));
        }
        let organisation = self.tenancy.policies().organisation();
        let entry =
            organisation.tenant(proved.principal.account).ok_or_else(|| refused("tenant", &"no such tenant"))?;
        if entry.is_suspended() {
            return Err(refused("tenant", &"the tenant is suspended"));
        }
        let allowed = entry.authentication().mechanisms.as_ref();
        if allowed.is_some_and(|allowed| !allowed.iter().any(|name| **name == *proved.mechanism)) {
            return Err(refused("mechanism", &"the tenant does not allow this way to log in"));
        }
        let tenant = self.tenancy.tenant(number);
        let tenant = tenant.ok_or_else(|| {
            if let Some(doubt) = self.engine.in_doubt(number) {
                return refused("tenant", &format!("the tenant is not open: {doubt}"));
            }
            let why = self.waiting.want(number).unwrap_or_default();
            refused("tenant", &format!("the tenant is not open: its keys cannot be had now: {why}"))
        })?;
        let bound = self.tenancy.policies().bind_session(&proved.principal, proved.principal.account, &proved.terms);
        let policies = bound.map_err(|error| refused("principal", &error))?;
        let now_ms = self.clock.now_ms();
        let identity = Identity {
            arn: claimed.clone().into(),
            context: context(door, &proved, now_ms),
            until_ms: lifetime_end(self.config.login.max_reauth, proved.until_ms, now_ms),
            principal: proved.principal,
            terms: proved.terms,
            mechanism: proved.mechanism,
            proof: proved.proof,
        };
        match connect(&policies, &identity.context.at(now_ms)) {
            Ok(why) => Ok(Admitted { tenant, policies, identity, why }),
            Err(why) => Err(refused("authorize", &why)),
        }
    }

    async fn record_login(
        &self,
        door: &Door,
        request_id: &str,
        admitted: &Admitted,
        details: Vec<(&'static str, String)>,
        kind: &'static str,
    ) -> Result<(), Refused> {
        let tenant = &admitted.tenant;
        let mut event = Event::new(Some(tenant.id), Class::Authentication, Verdict::Allowed, CONNECT);
        event.principal = Some(admitted.identity.arn.to_string());
        event.resource = Some(tenant.cluster.arn_of(ResourceRef::CLUSTER));
        event.reason = Some(admitted.why.clone());
        event.request_id = Some(request_id.to_owned());
        event.source = Some(door.source);
        event.details = details;
        event.details.push(("mechanism", admitted.identity.mechanism.to_owned()));
        event.details.push(("kind", kind.to_owned()));
        if let Some(certificate) = &door.certificate {
            event.details.push(("certificate_sha256", certificate.fingerprint_hex()));
        }
        // Not recorded, not done: a log that cannot be written refuses everyone.
        self.audit.record(event).await.map_err(|error| {
            tracing::error!(request_id, %error, "a login could not be recorded and is refused");
            Refused { request_id: request_id.to_owned(), told: Told::AccessDenied, principals: None }
        })
    }
}

/// Whether bound policies allow to connect, with the reason either way.
pub(super) fn connect(policies: &Policies, context: &RequestContext) -> Result<String, String> {
    match policies.authorize(can::Connect, ResourceRef::CLUSTER, context) {
        Ok(permit) => Ok(reason(permit.decision())),
        Err(denied) => Err(reason(&denied.decision)),
    }
}

/// What policies may ask about the connection (`aws:SourceIp`, `aws:SecureTransport`, and our own keys).
fn context(door: &Door, proved: &Proved, now_ms: i64) -> RequestContext {
    let mut keys = schloss_authz::Keys::new();
    keys.set("schloss:Mechanism", proved.mechanism);
    keys.set("schloss:TlsVersion", door.tls_version);
    if let Some(certificate) = &door.certificate {
        keys.set("schloss:CertificateFingerprint", certificate.fingerprint_hex());
    }
    if let Some((_, agent)) = proved.details.iter().find(|(name, _)| *name == "user_agent") {
        keys.set("aws:UserAgent", agent.clone());
    }
    RequestContext::connection(keys, door.source.ip(), now_ms)
}

/// The earlier of a credential's end and the longest time a login lasts here.
fn lifetime_end(max: Option<std::time::Duration>, credential: Option<i64>, now_ms: i64) -> Option<i64> {
    let own = max.map(|max| now_ms.saturating_add(i64::try_from(max.as_millis()).unwrap_or(i64::MAX)));
    own.into_iter().chain(credential).min()
}

/// A short unguessable name for a connection, or for one attempt to log in.
#[must_use]
pub fn request_name() -> String {
    uuid::Uuid::new_v4().to_string()
}
