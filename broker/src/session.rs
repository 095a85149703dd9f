//! One authenticated connection: whose it is, what binds it, and what it remembers between requests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use schloss_authz::Session as Policies;
use tokio::sync::watch;

use crate::abroad::Abroad;
use crate::config::Advertised;
use crate::fetch_session::FetchSession;
use crate::login::door::Door;
use crate::login::exchange::Exchange;
use crate::login::identity::Identity;
use crate::login::limits::LoginSlot;
use crate::tenancy::Tenant;

/// A connection whose principal is known. Tenant, and user or role, are fixed here and never change.
pub struct Session {
    /// Unguessable name of this connection, part of every request id.
    pub id: String,
    /// Whose connection it is.
    pub tenant: Arc<Tenant>,
    /// The ARN of the user or role, without a session's name: what stays the same over re-authentications.
    pub principal: Arc<str>,
    /// Where the client connects from.
    pub source: SocketAddr,
    /// Host and port told to this client in Metadata: the name it dialled when that is its tenant's own.
    pub advertised: Advertised,
    /// What it showed before it said a word.
    pub door: Arc<Door>,
    /// Its SASL dialogue, which goes on when it proves itself again (KIP-368).
    pub exchange: tokio::sync::Mutex<Exchange>,
    /// Who it is at present.
    pub identity: RwLock<Arc<Identity>>,
    /// Policies bound to the principal, bound anew when the organisation changes.
    pub policies: Mutex<Arc<Policies>>,
    /// The principal's policies in other tenants whose topics it uses.
    pub abroad: Abroad,
    /// KIP-227: this connection's incremental fetch session, if any.
    pub fetch_session: Mutex<Option<FetchSession>>,
    /// Turns true when the login is no longer good.
    pub ended: watch::Sender<bool>,
    /// Moves with each re-authentication.
    pub renewed: watch::Sender<u64>,
    /// Its place among the connections of its tenant and principal.
    pub slot: LoginSlot,
}

impl Session {
    /// The policies bound now.
    #[must_use]
    pub fn policies(&self) -> Arc<Policies> {
        Arc::clone(&self.policies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who it is now.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over what a re-authentication proved. The caller has compared the principals.
    pub fn renew(&self, identity: Identity, policies: Policies) {
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
        *self.policies.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(policies);
        self.renewed.send_modify(|times| *times = times.wrapping_add(1));
    }

    /// Waits until the login is no longer good.
    pub async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        if ended.wait_for(|ended| *ended).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
