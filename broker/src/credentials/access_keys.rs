//! Access keys: two per user, an id that is public and a secret that is shown once.
//!
//! Ids look like AWS's (`AKIA` and 16 letters or digits of base32), so that SDKs and scanners know them for what they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use schloss_authz::PrincipalKind;
use schloss_core::TenantId;
use schloss_crypto::{SecretText, random_array};
use schloss_metadata::Metadata;
use schloss_storage::TenantKeys;
use serde::{Deserialize, Serialize};

use super::store::{self, CredentialError, Kind};
use super::{CredentialRef, Credentials};

/// AWS's quota: one in use, one to rotate to.
pub const ACCESS_KEYS_PER_USER_MAX: usize = 2;
/// The last use is written down at most this often: it is a hint for rotation, not an audit record.
const LAST_USED_EVERY_MS: i64 = 60_000;

/// A long-term access key.
#[derive(Debug)]
pub struct AccessKey {
    /// Its id, `AKIA…`.
    pub id: Box<str>,
    /// Whose it is.
    pub tenant: TenantId,
    /// The user it belongs to.
    pub principal: PrincipalKind,
    /// What signatures are checked by.
    pub secret: Arc<SecretText>,
    /// Whether it may be used; an inactive one is known but refused.
    pub active: bool,
    /// When it was made.
    pub created_ms: i64,
}

impl AccessKey {
    /// What a connection let in by it remembers.
    #[must_use]
    pub fn reference(&self) -> CredentialRef {
        CredentialRef::AccessKey { id: self.id.clone() }
    }
}

/// A key as it is kept: with its last use.
pub(super) struct KeyEntry {
    pub key: Arc<AccessKey>,
    last_used_ms: AtomicI64,
    written_ms: AtomicI64,
}

/// A new key, to be shown once.
#[derive(Debug)]
pub struct NewAccessKey {
    /// Its id.
    pub id: Box<str>,
    /// Its secret.
    pub secret: Arc<SecretText>,
}

/// What may be told about a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccessKeyFacts {
    /// Its id.
    pub id: Box<str>,
    /// Its user.
    pub user: Box<str>,
    /// Whether it may be used.
    pub active: bool,
    /// When it was made.
    pub created_ms: i64,
    /// When it was last used, if ever.
    pub last_used_ms: Option<i64>,
}

/// A row's content.
#[derive(Serialize, Deserialize)]
struct Stored {
    id: String,
    user: String,
    secret: String,
    active: bool,
    created_ms: i64,
    last_used_ms: i64,
}

impl Drop for Stored {
    fn drop(&mut self) {
        schloss_crypto::wipe_text(&mut self.secret);
    }
}

pub(super) async fn read(
    metadata: &dyn Metadata,
    tenant: TenantId,
    keys: &TenantKeys,
) -> Result<Vec<KeyEntry>, CredentialError> {
    let rows: Vec<Stored> = store::read(metadata, tenant, keys, Kind::AccessKey).await?;
    let entry = |mut row: Stored| {
        let key = AccessKey {
            id: row.id.as_str().into(),
            tenant,
            principal: PrincipalKind::User { name: row.user.as_str().into() },
            secret: Arc::new(SecretText::new(std::mem::take(&mut row.secret))),
            active: row.active,
            created_ms: row.created_ms,
        };
        KeyEntry::new(key, row.last_used_ms)
    };
    Ok(rows.into_iter().map(entry).collect())
}

impl KeyEntry {
    fn new(key: AccessKey, last_used_ms: i64) -> Self {
        let written_ms = AtomicI64::new(last_used_ms);
        Self { key: Arc::new(key), last_used_ms: AtomicI64::new(last_used_ms), written_ms }
    }

    fn user(&self) -> &str {
        user_of(&self.key.principal)
    }

    fn facts(&self) -> AccessKeyFacts {
        let last_used_ms = Some(self.last_used_ms.load(Ordering::Relaxed)).filter(|moment| *moment > 0);
        AccessKeyFacts {
            id: self.key.id.clone(),
            user: self.user().into(),
            active: self.key.active,
            created_ms: self.key.created_ms,
            last_used_ms,
        }
    }

    fn stored(&self, active: bool) -> Stored {
        Stored {
            id: self.key.id.to_string(),
            user: self.user().to_owned(),
            secret: self.key.secret.expose().to_owned(),
            active,
            created_ms: self.key.created_ms,
            last_used_ms: self.last_used_ms.load(Ordering::Relaxed),
        }
    }
}

/// Keys belong to users only.
fn user_of(principal: &PrincipalKind) -> &str {
    match principal {
        PrincipalKind::User { name } | PrincipalKind::Role { name, .. } | PrincipalKind::Kafka { name } => name,
    }
}

impl Credentials {
    /// The key of this id, whosever it is.
    #[must_use]
    pub fn access_key(&self, id: &str) -> Option<Arc<AccessKey>> {
        self.look(|maps| maps.access_keys.get(id).map(|entry| Arc::clone(&entry.key)))
    }

    /// Notes that a key was used; written down by [`Credentials::write_last_used`].
    pub fn used(&self, id: &str, now_ms: i64) {
        self.look(|maps| {
            if let Some(entry) = maps.access_keys.get(id) {
                entry.last_used_ms.fetch_max(now_ms, Ordering::Relaxed);
            }
        });
    }

    /// Writes down the last use of keys that were used since. Called from time to time; a crash loses at most a minute.
    ///
    /// # Errors
    /// [`CredentialError::Metadata`].
    pub async fn write_last_used(&self) -> Result<(), CredentialError> {
        let _one = self.changing.lock().await;
        let due = self.look(|maps| {
            let due = |entry: &Arc<KeyEntry>| {
                let since = entry.last_used_ms.load(Ordering::Relaxed) - entry.written_ms.load(Ordering::Relaxed);
                since >= LAST_USED_EVERY_MS
            };
            maps.access_keys.values().filter(|entry| due(entry)).cloned().collect::<Vec<_>>()
        });
        for entry in due {
            let tenant = entry.key.tenant;
            let stored = entry.stored(entry.key.active);
            let written = stored.last_used_ms;
            let row = store::row(tenant, &self.keys(tenant).await?, Kind::AccessKey, &entry.key.id, &stored)?;
            self.metadata.put_sealed(vec![row]).await?;
            entry.written_ms.store(written, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A tenant's keys, or one user's, oldest first.
    #[must_use]
    pub fn access_keys(&self, tenant: TenantId, user: Option<&str>) -> Vec<AccessKeyFacts> {
        let mut facts = self.look(|maps| {
            let of =
                |entry: &&Arc<KeyEntry>| entry.key.tenant == tenant && user.is_none_or(|user| entry.user() == user);
            maps.access_keys.values().filter(of).map(|entry| entry.facts()).collect::<Vec<_>>()
        });
        facts.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        facts
    }

    /// Makes a key for a user, who the caller knows to exist.
    ///
    /// # Errors
    /// [`CredentialError::TooManyAccessKeys`] and the store's.
    pub async fn create_access_key(&self, tenant: TenantId, user: &str) -> Result<NewAccessKey, CredentialError> {
        let _one = self.changing.lock().await;
        if self.access_keys(tenant, Some(user)).len() >= ACCESS_KEYS_PER_USER_MAX {
            return Err(CredentialError::TooManyAccessKeys { max: ACCESS_KEYS_PER_USER_MAX });
        }
        let key = AccessKey {
            id: fresh_id("AKIA"),
            tenant,
            principal: PrincipalKind::User { name: user.into() },
            secret: Arc::new(SecretText::generate()),
            active: true,
            created_ms: self.clock.now_ms(),
        };
        let new = NewAccessKey { id: key.id.clone(), secret: Arc::clone(&key.secret) };
        self.keep(KeyEntry::new(key, 0), true).await?;
        Ok(new)
    }

    /// Makes a new key for the user of an old one and makes the old one inactive: a rotation in one step.
    ///
    /// # Errors
    /// As creation and [`Credentials::set_access_key_active`].
    pub async fn rotate_access_key(&self, tenant: TenantId, id: &str) -> Result<NewAccessKey, CredentialError> {
        let old = self.own_key(tenant, id)?;
        let new = self.create_access_key(tenant, old.user()).await?;
        self.set_access_key_active(tenant, id, false).await?;
        Ok(new)
    }

    /// Makes a key inactive, or active again. Connections that were let in by an inactive one are cut.
    ///
    /// # Errors
    /// [`CredentialError::Unknown`] and the store's.
    pub async fn set_access_key_active(&self, tenant: TenantId, id: &str, active: bool) -> Result<(), CredentialError> {
        let _one = self.changing.lock().await;
        let old = self.own_key(tenant, id)?;
        let key = AccessKey {
            id: old.key.id.clone(),
            tenant,
            principal: old.key.principal.clone(),
            secret: Arc::clone(&old.key.secret),
            active,
            created_ms: old.key.created_ms,
        };
        self.keep(KeyEntry::new(key, old.last_used_ms.load(Ordering::Relaxed)), active).await
    }

    /// Removes a key for ever. Connections that were let in by it are cut.
    ///
    /// # Errors
    /// [`CredentialError::Unknown`] and the store's.
    pub async fn delete_access_key(&self, tenant: TenantId, id: &str) -> Result<(), CredentialError> {
        let _one = self.changing.lock().await;
        let old = self.own_key(tenant, id)?;
        let row = store::removal(tenant, &self.keys(tenant).await?, Kind::AccessKey, &old.key.id);
        self.metadata.put_sealed(vec![row]).await?;
        self.change(|maps| drop(maps.access_keys.remove(id)));
        Ok(())
    }

    fn own_key(&self, tenant: TenantId, id: &str) -> Result<Arc<KeyEntry>, CredentialError> {
        let found = self.look(|maps| maps.access_keys.get(id).cloned());
        found.filter(|entry| entry.key.tenant == tenant).ok_or(CredentialError::Unknown)
    }

    async fn keep(&self, entry: KeyEntry, active: bool) -> Result<(), CredentialError> {
        let tenant = entry.key.tenant;
        let row = store::row(tenant, &self.keys(tenant).await?, Kind::AccessKey, &entry.key.id, &entry.stored(active))?;
        self.metadata.put_sealed(vec![row]).await?;
        self.change(|maps| drop(maps.access_keys.insert(entry.key.id.clone(), Arc::new(entry))));
        Ok(())
    }
}

/// A prefix and 16 random characters of base32: 80 bits, so that no two are ever the same.
pub(super) fn fresh_id(prefix: &str) -> Box<str> {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bytes: [u8; 16] = random_array();
    let letters = bytes.iter().filter_map(|byte| ALPHABET.get(usize::from(byte % 32))).copied().map(char::from);
    prefix.chars().chain(letters).collect::<String>().into_boxed_str()
}
