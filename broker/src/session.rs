//! One authenticated connection: whose it is, what binds it, and what it remembers between requests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use schloss_authz::RequestContext;
use schloss_authz::Session as Policies;
use schloss_certs::ClientIdentity;
use tokio::sync::watch;

use crate::abroad::Abroad;
use crate::config::Advertised;
use crate::credentials::CredentialRef;
use crate::fetch_session::FetchSession;
use crate::tenancy::Tenant;

/// A connection whose principal is known. The tenant is fixed here and never changes.
pub struct Session {
    /// Unguessable name of this connection, part of every request id.
    pub id: String,
    /// Whose connection it is.
    pub tenant: Arc<Tenant>,
    /// The principal's ARN.
    pub principal: Arc<str>,
    /// Where the client connects from.
    pub source: SocketAddr,
    /// Host and port told to this client in Metadata: the name it dialled when that is its tenant's own.
    pub advertised: Advertised,
    /// What the client certificate says.
    pub certificate: ClientIdentity,
    /// What it was let in by, when that is more than its certificate.
    pub credential: Option<CredentialRef>,
    /// What policies may ask about this connection.
    pub context: RequestContext,
    /// Policies bound to the principal, bound anew when the organisation changes.
    pub policies: Mutex<Arc<Policies>>,
    /// The principal's policies in other tenants whose topics it uses.
    pub abroad: Abroad,
    /// KIP-227: this connection's incremental fetch session, if any.
    pub fetch_session: Mutex<Option<FetchSession>>,
    /// Turns true when the credential is no longer good.
    pub ended: watch::Sender<bool>,
}

impl Session {
    /// The policies bound now.
    #[must_use]
    pub fn policies(&self) -> Arc<Policies> {
        Arc::clone(&self.policies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the credential is no longer good: removed, remapped or expired.
    pub async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        if ended.wait_for(|ended| *ended).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
