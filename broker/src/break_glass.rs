//! Operators' time-boxed access to a tenant: told to the tenant's audit log, and opened through the operator door.
//!
//! In: the grants of the organisation's files. Out: events in the tenant's own stream, temporary credentials.
//!
//! Invariants
//! - Every grant is in the tenant's audit stream when it comes into force, and when its file goes.
//! - Credentials are given to the operator whose certificate the grant names, during its time, and end with it. What is
//!   done with them is judged and recorded as the role `break-glass.<id>`.

use std::collections::BTreeSet;

use schloss_audit::{Class, Event, Verdict};
use schloss_authz::{BreakGlass, Organisation};
use schloss_core::TenantId;
use serde_json::{Value, json};

use crate::broker::Broker;
use crate::credentials::SessionClaims;
use crate::operate::{OperatorCall, OperatorRefusal};
use crate::tenancy::tenant_id;

const GRANTED: &str = "schloss:BreakGlassGranted";
const WITHDRAWN: &str = "schloss:BreakGlassWithdrawn";
const OPENED: &str = "schloss:BreakGlassOpened";

/// Grants of an organisation, each with its tenant.
#[must_use]
pub fn grants(organisation: &Organisation) -> BTreeSet<(TenantId, BreakGlass)> {
    let of = |tenant: &schloss_authz::Tenant| {
        let id = tenant_id(tenant);
        tenant.break_glass().iter().filter_map(move |grant| Some((id?, grant.clone()))).collect::<Vec<_>>()
    };
    organisation.tenants().flat_map(of).collect()
}

/// Tells each tenant which grants came and went.
pub async fn tell(
    broker: &Broker,
    before: &BTreeSet<(TenantId, BreakGlass)>,
    after: &BTreeSet<(TenantId, BreakGlass)>,
) {
    let come = after.difference(before).map(|(tenant, grant)| event(*tenant, grant, GRANTED));
    let gone = before.difference(after).map(|(tenant, grant)| event(*tenant, grant, WITHDRAWN));
    for event in come.chain(gone) {
        if let Err(error) = broker.audit.record(event).await {
            tracing::error!(%error, "a break-glass grant could not be told to its tenant");
        }
    }
}

fn event(tenant: TenantId, grant: &BreakGlass, action: &str) -> Event {
    let mut event = Event::new(Some(tenant), Class::Administration, Verdict::Allowed, action);
    event.principal = Some(format!("operator:{}", grant.operator));
    event.reason = Some(grant.reason.to_string());
    event.details.push(("grant", grant.id.to_string()));
    event.details.push(("role", grant.role()));
    event.details.push(("from_ms", grant.from_ms.to_string()));
    event.details.push(("until_ms", grant.until_ms.to_string()));
    event
}

/// `POST /operator/v1/break-glass/open`: temporary credentials of the grant's role for the operator it names.
///
/// # Errors
/// `NoSuchGrant`, one answer for a grant that is not there, not the caller's or not in its time.
pub async fn open(call: &OperatorCall) -> Result<Value, OperatorRefusal> {
    let tenant = call.tenant()?;
    let id = call.text("id")?;
    let now = call.broker.clock.now_ms();
    let found = grants(&call.broker.tenancy.policies().organisation())
        .into_iter()
        .find(|(of, grant)| *of == tenant && *grant.id == *id && *grant.operator == *call.operator && grant.holds(now));
    let (_, grant) = found.ok_or_else(|| {
        OperatorRefusal::new(
            "NoSuchGrant",
            "there is no grant of this name for this operator and this moment",
            "ask for one: `schloss iam break-glass grant --help`",
        )
    })?;
    let mut opened = event(tenant, &grant, OPENED);
    opened.request_id = Some(call.request_id.clone());
    call.broker.audit.record(opened).await.map_err(|_| not_now("the tenant's audit log did not take the event"))?;
    let claims = SessionClaims {
        name: grant.role().into(),
        session: Some(call.operator.as_ref().into()),
        issued_ms: now,
        expires_ms: grant.until_ms,
        policies: Vec::new(),
        named: Vec::new(),
        tags: std::collections::BTreeMap::new(),
        transitive: Vec::new(),
        source_identity: Some(format!("operator.{}", call.operator).into()),
        made_with: None,
        facts: std::collections::BTreeMap::new(),
    };
    let session = call.broker.credentials.new_session(tenant, claims).map_err(|_| not_now("the tenant is not open"))?;
    Ok(json!({
        "role": grant.role(),
        "access_key_id": &*session.access_key_id,
        "secret_access_key": session.secret.expose(),
        "session_token": session.token.expose(),
        "expires_ms": grant.until_ms,
    }))
}

fn not_now(what: &str) -> OperatorRefusal {
    OperatorRefusal::new("NotNow", what, "look at the broker's log, then try again")
}
