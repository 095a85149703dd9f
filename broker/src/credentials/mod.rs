//! The credentials of all tenants: access keys, sessions of the STS, SCRAM verifiers, delegation tokens.
//!
//! In: what a peer claims (an access key id, a session token, a user name). Out: the secret to check it by, and whose it
//! is. Changes come from the Kafka APIs, the STS and the operator.
//!
//! Invariants
//! - At rest every secret and every name is sealed under its tenant's metadata key, found by HMAC under its index key.
//! - A change is in force only after its row is durable, and what is removed is out of force before the answer leaves.
//! - Access key ids are unique over all tenants. An id that nobody has and one of another tenant take the same path;
//!   whose it is, is the caller's to compare with the tenant that was dialled.
//! - Secrets are wiped on drop and have no `Debug`.
//!
//! Must not: decide what a principal may do, answer a peer.

mod access_keys;
mod bootstrap;
mod delegation;
mod nobody;
mod scram;
mod session;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use schloss_authz::PrincipalKind;
use schloss_core::{Clock, TenantId};
use schloss_crypto::{DataKey, IndexKey, ScramMechanism};
use schloss_metadata::Metadata;
use schloss_storage::{KeySource, TenantKeys};
use tokio::sync::watch;

pub use access_keys::{AccessKey, AccessKeyFacts, NewAccessKey};
pub use bootstrap::BootstrapRefused;
pub use delegation::{DelegationToken, NewToken};
pub use nobody::Look;
pub use scram::{ITERATIONS, ScramChange, ScramFacts, StoredScram};
pub use session::{NewSession, SessionClaims, SessionCredential, SessionRefused, TOKEN_CHARS_MAX, compile, rfc3339};
pub use store::CredentialError;

use access_keys::KeyEntry;

/// How often last uses are written and ended tokens removed.
const KEEP_EVERY: Duration = Duration::from_secs(30);

/// All credentials of this broker.
pub struct Credentials {
    clock: Arc<dyn Clock>,
    metadata: Arc<dyn Metadata>,
    rows: Arc<dyn KeySource>,
    maps: RwLock<Maps>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
    changes: watch::Sender<u64>,
    /// What salts of real users look like.
    forms: std::sync::Mutex<nobody::Forms>,
    /// Opened in the place of a key that does not exist, so that a foreign token costs as much as an unknown one.
    decoy: DataKey,
}

/// Made from a tenant's index key, one-way, so that logins need none of the keys that are wiped when the KMS refuses: neither opens
/// anything stored.
#[derive(Clone)]
struct LoginSecrets {
    /// Seals session tokens.
    session: Arc<DataKey>,
    /// Makes the salts of users that do not exist.
    nobody: Arc<IndexKey>,
}

impl LoginSecrets {
    fn of(keys: &TenantKeys) -> Self {
        let secret = |what: &[u8]| DataKey::take(&mut keys.index.bytes_index(SECRETS_KIND, what));
        Self { session: Arc::new(secret(b"session tokens")), nobody: Arc::new(IndexKey::new(&secret(b"nobody"))) }
    }
}

/// Apart from every other use of a tenant's index key.
const SECRETS_KIND: u8 = 0x4c;

#[derive(Default)]
struct Maps {
    secrets: HashMap<TenantId, LoginSecrets>,
    access_keys: HashMap<Box<str>, Arc<KeyEntry>>,
    scram: HashMap<(TenantId, ScramMechanism, Box<str>), Arc<StoredScram>>,
    tokens: HashMap<(TenantId, Box<str>), Arc<DelegationToken>>,
    /// Ids of tokens by the digest of their secret.
    token_ids: HashMap<(TenantId, [u8; 32]), Box<str>>,
    /// Per role: sessions issued before this moment are refused.
    revoked: HashMap<(TenantId, Box<str>), i64>,
    /// One-time tokens by their digest.
    bootstraps: HashMap<Box<str>, (TenantId, bootstrap::Bootstrap)>,
}

/// What a live connection was let in by; asked about again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialRef {
    /// A long-term access key.
    AccessKey {
        /// Its id.
        id: Box<str>,
    },
    /// A session of a role or of a user, made by the STS.
    Session {
        /// The tenant.
        tenant: TenantId,
        /// Whose session.
        principal: PrincipalKind,
        /// The access key it was made with, for sessions of a user.
        made_with: Option<Box<str>>,
        /// When it was made.
        issued_ms: i64,
        /// When it ends.
        expires_ms: i64,
    },
    /// A SCRAM user.
    Scram {
        /// The tenant.
        tenant: TenantId,
        /// The mechanism.
        mechanism: ScramMechanism,
        /// The user.
        user: Box<str>,
        /// Tells this password from the next.
        version: u64,
    },
    /// A delegation token.
    DelegationToken {
        /// The tenant.
        tenant: TenantId,
        /// Its id.
        id: Box<str>,
    },
}

impl Credentials {
    /// None yet; [`Credentials::open_tenant`] fills it.
    #[must_use]
    pub fn new(metadata: Arc<dyn Metadata>, clock: Arc<dyn Clock>, rows: Arc<dyn KeySource>) -> Self {
        Self {
            clock,
            metadata,
            rows,
            maps: RwLock::default(),
            changing: tokio::sync::Mutex::new(()),
            changes: watch::Sender::new(0),
            forms: std::sync::Mutex::default(),
            decoy: DataKey::generate(),
        }
    }

    /// Reads and opens a tenant's rows.
    ///
    /// # Errors
    /// [`CredentialError`] when one cannot be read or opened; nothing of the tenant is in force then.
    pub async fn open_tenant(&self, tenant: TenantId, keys: TenantKeys) -> Result<(), CredentialError> {
        let _one = self.changing.lock().await;
        let access_keys = access_keys::read(&*self.metadata, tenant, &keys).await?;
        let scram = scram::read(&*self.metadata, tenant, &keys).await?;
        let tokens = delegation::read(&*self.metadata, tenant, &keys).await?;
        let revoked = session::read_revocations(&*self.metadata, tenant, &keys).await?;
        let bootstraps = bootstrap::read(&*self.metadata, tenant, &keys).await?;
        self.change(|maps| {
            maps.secrets.insert(tenant, LoginSecrets::of(&keys));
            maps.access_keys.extend(access_keys.into_iter().map(|entry| (entry.key.id.clone(), Arc::new(entry))));
            let named = |stored: StoredScram| ((tenant, stored.mechanism(), stored.user.clone()), Arc::new(stored));
            maps.scram.extend(scram.into_iter().map(named));
            for token in tokens {
                maps.put_token(tenant, Arc::new(token));
            }
            maps.bootstraps.extend(bootstraps);
            maps.revoked.extend(revoked.into_iter().map(|(role, before_ms)| ((tenant, role), before_ms)));
        });
        Ok(())
    }

    /// Tells of every change: connections ask [`Credentials::still_good`] again.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether what a connection was let in by is still good now.
    #[must_use]
    pub fn still_good(&self, credential: &CredentialRef) -> bool {
        let now_ms = self.clock.now_ms();
        match credential {
            CredentialRef::AccessKey { id } => self.access_key(id).is_some_and(|key| key.active),
            CredentialRef::Session { tenant, principal, made_with, issued_ms, expires_ms } => {
                now_ms < *expires_ms && !self.is_revoked(*tenant, principal, made_with.as_deref(), *issued_ms)
            }
            CredentialRef::Scram { tenant, mechanism, user, version } => {
                self.scram(*tenant, *mechanism, user).is_some_and(|stored| stored.version == *version)
            }
            CredentialRef::DelegationToken { tenant, id } => {
                self.delegation_token(*tenant, id).is_some_and(|token| now_ms < token.expires_ms)
            }
        }
    }

    /// Writes down last uses and removes ended tokens, again and again.
    pub async fn tend(self: Arc<Self>) {
        loop {
            tokio::time::sleep(KEEP_EVERY).await;
            if let Err(error) = self.write_last_used().await {
                tracing::warn!(%error, "the last use of access keys could not be written down");
            }
            if let Err(error) = self.remove_ended_tokens().await {
                tracing::warn!(%error, "ended delegation tokens could not be removed");
            }
        }
    }

    fn look<T>(&self, look: impl FnOnce(&Maps) -> T) -> T {
        look(&self.maps.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, change: impl FnOnce(&mut Maps)) {
        change(&mut self.maps.write().unwrap_or_else(PoisonError::into_inner));
        self.changes.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// A tenant's row keys; asked for each time, because they are wiped when the KMS refuses.
    async fn keys(&self, tenant: TenantId) -> Result<TenantKeys, CredentialError> {
        if !self.look(|maps| maps.secrets.contains_key(&tenant)) {
            return Err(CredentialError::UnknownTenant);
        }
        self.rows.tenant_keys(tenant).await.map_err(|_| CredentialError::UnknownTenant)
    }
}
