//! The Security Token Service: AWS's Query protocol on the admin HTTPS listener, so that AWS SDKs get temporary
//! credentials from Schloss by `AWS_ENDPOINT_URL_STS` alone.
//!
//! In: one HTTP request and where it came from. Out: XML, a status, and one audit event.
//!
//! Invariants
//! - Credentials leave only after the event of their making is durable in the audit log.
//! - Every refusal has a request id, an AWS error code, and an event that says which step failed; the answer never says
//!   which policy refused, nor whether a role exists.
//! - Limits hold per address before anything is parsed, and per tenant once the caller is known.
//!
//! Must not: keep a session; what is handed out is sealed in its own token (room `credentials`).

mod answer;
mod assume;
mod caller;
mod limit;
mod parameters;
mod query;
mod web_identity;

use std::net::SocketAddr;
use std::sync::Arc;

use schloss_audit::{Class, Event, Verdict};
use schloss_authn::signed_request::HttpRequest;
use schloss_core::TenantId;
use schloss_crypto::random_array;

pub use answer::{Code, Refusal};
pub use limit::Limit;
pub use query::BODY_BYTES_MAX;

use answer::Elements;
use caller::Caller;
use query::Query;

use crate::broker::Broker;

/// The one version of the API.
const VERSION: &str = "2011-06-15";
/// Requests of one address: a program asks once an hour.
const PER_ADDRESS: (u32, u32) = (20, 200);
/// Requests of one tenant.
const PER_TENANT: (u32, u32) = (200, 1_000);

/// The limits of this broker's STS.
#[derive(Debug)]
pub struct StsLimits {
    addresses: Limit<std::net::IpAddr>,
    tenants: Limit<TenantId>,
    /// Throttled requests that are told to the audit log: a flood must not become a flood of events.
    told: Limit<std::net::IpAddr>,
}

impl Default for StsLimits {
    fn default() -> Self {
        let (rate, burst) = PER_ADDRESS;
        let addresses = Limit::new(rate, burst);
        let (rate, burst) = PER_TENANT;
        Self { addresses, tenants: Limit::new(rate, burst), told: Limit::new(1, 1) }
    }
}

impl StsLimits {
    /// Whether an address may ask once more.
    #[must_use]
    pub fn admits(&self, source: SocketAddr, now: std::time::Duration) -> bool {
        self.addresses.take(source.ip().to_canonical(), now)
    }
}

/// An answer, ready to be sent.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// XML.
    pub body: String,
    /// `x-amzn-RequestId`.
    pub request_id: String,
}

/// What an operation found out, for its event.
#[derive(Debug, Default)]
struct Trail {
    /// Whose streams get the event.
    tenants: Vec<TenantId>,
    principal: Option<String>,
    resource: Option<String>,
    details: Vec<(&'static str, String)>,
}

/// Answers one request.
pub async fn answer(broker: &Arc<Broker>, request: &HttpRequest<'_>, source: SocketAddr) -> Reply {
    let request_id = uuid::Uuid::from_bytes(random_array()).to_string();
    let mut trail = Trail::default();
    let (operation, done) = match parse(broker, request, source) {
        Ok(query) => {
            let operation = query.value("Action").unwrap_or_default().to_owned();
            let done = operate(broker, request, &query, source, &mut trail).await;
            (operation, done)
        }
        Err(refusal) => (String::new(), Err(refusal)),
    };
    let known = OPERATIONS.iter().find(|known| **known == operation);
    let throttled = matches!(&done, Err(refusal) if refusal.code == Code::Throttling);
    let silent = throttled && !broker.sts_limits.told.take(source.ip().to_canonical(), broker.clock.monotonic());
    let recorded =
        silent || record(broker, known.copied().unwrap_or("Unknown"), source, &request_id, &trail, &done).await;
    let done = if recorded {
        done
    } else {
        // SECURITY: not recorded, not done.
        Err(Refusal::new(Code::InternalFailure, "audit", "The request could not be processed; try again."))
    };
    match done {
        Ok(elements) => Reply { status: 200, body: elements.body(&operation, &request_id), request_id },
        Err(refusal) => Reply { status: refusal.code.status(), body: refusal.body(&request_id), request_id },
    }
}

/// What this endpoint does.
const OPERATIONS: [&str; 4] = ["AssumeRole", "AssumeRoleWithWebIdentity", "GetSessionToken", "GetCallerIdentity"];

fn parse(broker: &Broker, request: &HttpRequest<'_>, source: SocketAddr) -> Result<Query, Refusal> {
    if !broker.sts_limits.admits(source, broker.clock.monotonic()) {
        return Err(Refusal::new(Code::Throttling, "rate of the address", "Rate exceeded"));
    }
    let query = Query::parse(request.body)
        .map_err(|error| Refusal::new(Code::ValidationError, "parameters", error.to_string()))?;
    let known = query.value("Action").is_some_and(|action| OPERATIONS.contains(&action));
    if !known || query.value("Version").is_some_and(|version| version != VERSION) {
        return Err(Refusal::new(Code::InvalidAction, "operation", "Could not find operation for version 2011-06-15"));
    }
    Ok(query)
}

async fn operate(
    broker: &Arc<Broker>,
    request: &HttpRequest<'_>,
    query: &Query,
    source: SocketAddr,
    trail: &mut Trail,
) -> Result<Elements, Refusal> {
    if query.value("Action") == Some("AssumeRoleWithWebIdentity") {
        return web_identity::assume(broker, query, source, trail).await;
    }
    let caller = Caller::verify(broker, request, trail)?;
    if !broker.sts_limits.tenants.take(caller.tenant, broker.clock.monotonic()) {
        return Err(Refusal::new(Code::Throttling, "rate of the tenant", "Rate exceeded"));
    }
    match query.value("Action") {
        Some("AssumeRole") => assume::role(broker, query, &caller, source, request, trail),
        Some("GetSessionToken") => assume::session_token(broker, query, &caller, trail),
        _ => Ok(Elements::default()
            .text("Arn", caller.principal.arn())
            .text("UserId", caller.user_id())
            .text("Account", caller.principal.account)),
    }
}

async fn record(
    broker: &Broker,
    operation: &str,
    source: SocketAddr,
    request_id: &str,
    trail: &Trail,
    done: &Result<Elements, Refusal>,
) -> bool {
    let verdict = if done.is_ok() { Verdict::Allowed } else { Verdict::Denied };
    let streams: Vec<Option<TenantId>> =
        if trail.tenants.is_empty() { vec![None] } else { trail.tenants.iter().copied().map(Some).collect() };
    for tenant in streams {
        let mut event = Event::new(tenant, Class::Authentication, verdict, format!("sts:{operation}"));
        event.principal.clone_from(&trail.principal);
        event.resource.clone_from(&trail.resource);
        event.api = Some(operation.to_owned());
        event.request_id = Some(request_id.to_owned());
        event.source = Some(source);
        event.details.clone_from(&trail.details);
        if let Err(refusal) = done {
            event.reason = Some(format!("{}: {}", refusal.step, refusal.reason));
            event.details.push(("error", refusal.code.name().to_owned()));
        }
        if let Err(error) = broker.audit.record(event).await {
            tracing::error!(%request_id, %error, "an STS request could not be recorded and is refused");
            return false;
        }
    }
    true
}
