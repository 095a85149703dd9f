//! What ends a login: its credential's end, its removal, its principal's, its tenant's.
//!
//! Bounds: a stored credential that is removed cuts its connections at once; a change of the organisation's files or of
//! certificates within [`RELOAD_EVERY`](crate::broker) plus the time to read them; an end that was known beforehand at
//! that moment. Measured by `tests/suites/test_reauthentication.py`.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use schloss_authz::Session as Policies;

use super::certificate;
use super::connect;
use super::identity::{Identity, Proof};
use crate::broker::Broker;
use crate::session::Session;
use crate::tenancy::tenant_id;

/// Wall clocks jump; a wait for a moment far away is looked at again this often.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// KIP-368: a connection whose lifetime is over is served nothing more, but may still prove itself again for so long.
const GRACE_MS: i64 = 1_000;

impl Broker {
    /// Binds a session anew when the organisation changed since; ends it when its principal may no longer connect.
    pub fn rebind(&self, session: &Session) {
        // A tenant that was closed and opened anew is another one.
        let open = self.tenancy.tenant(session.tenant.id);
        if !open.is_some_and(|open| Arc::ptr_eq(&open, &session.tenant)) {
            session.ended.send_replace(true);
            return;
        }
        if session.policies().is_current() {
            return;
        }
        match self.bound_anew(session, &session.identity()) {
            Some(policies) => *session.policies.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(policies),
            None => drop(session.ended.send_replace(true)),
        }
    }

    fn bound_anew(&self, session: &Session, identity: &Identity) -> Option<Policies> {
        let organisation = self.tenancy.policies().organisation();
        let entry = organisation.tenant(identity.principal.account)?;
        if tenant_id(entry) != Some(session.tenant.id) || entry.is_suspended() {
            return None;
        }
        let allowed = entry.authentication().mechanisms.as_ref();
        if allowed.is_some_and(|allowed| !allowed.iter().any(|name| **name == *identity.mechanism)) {
            return None;
        }
        match &identity.proof {
            Proof::Certificate => {
                let rules = self.login.rules.of(self.tenancy.policies().epoch(), entry);
                let principal = certificate::principal(entry, &rules, session.door.certificate.as_ref()?).ok()?;
                if principal.policy_arn() != *session.principal {
                    return None;
                }
            }
            Proof::Issuer(name) => {
                entry.issuers().iter().find(|issuer| issuer.name == *name)?;
            }
            Proof::Stored(_) => {}
        }
        let account = identity.principal.account;
        let policies = self.tenancy.policies().bind_session(&identity.principal, account, &identity.terms).ok()?;
        connect(&policies, &identity.context.at(self.clock.now_ms())).ok()?;
        Some(policies)
    }

    fn is_still_good(&self, session: &Session) -> bool {
        let identity = session.identity();
        let certificate = session.door.certificate.as_ref();
        let stored = identity.stored();
        // A certificate that was shown is looked at even when the login was by something else.
        certificate.is_none_or(|certificate| self.tls.is_still_good(certificate))
            && stored.is_none_or(|credential| self.credentials.still_good(credential))
            && identity.until_ms.is_none_or(|until| self.clock.now_ms() < until.saturating_add(GRACE_MS))
    }

    /// Waits until the login of a connection is no longer good.
    pub async fn login_ends(&self, session: &Session) {
        let mut organisation = self.organisation_changed();
        let mut credentials = self.credentials.changes();
        let mut renewed = session.renewed.subscribe();
        loop {
            self.rebind(session);
            if *session.ended.borrow() || !self.is_still_good(session) {
                return;
            }
            let certificate = session.door.certificate.as_ref().map(|certificate| certificate.not_after_ms);
            let lifetime = session.identity().until_ms.map(|until| until.saturating_add(GRACE_MS));
            let until = lifetime.into_iter().chain(certificate).min();
            let left = until.map_or(i64::MAX, |until| until.saturating_sub(self.clock.now_ms()));
            let sleep = Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(LOOK_AGAIN);
            let gone = tokio::select! {
                () = tokio::time::sleep(sleep) => false,
                () = session.ended() => true,
                changed = organisation.changed() => changed.is_err(),
                changed = credentials.changed() => changed.is_err(),
                changed = renewed.changed() => changed.is_err(),
            };
            if gone {
                return;
            }
        }
    }
}
