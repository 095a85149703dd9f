//! A tenant's long-lived keys: the metadata key (names, snapshots) and the index key (finding names).
//!
//! In: the store of wrapped keys and the vault. Out: keys in use, made at the first touch of a tenant.
//!
//! Invariant: of two starters the first one's wrapped key is kept, and both use that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schloss_core::{Clock, ClusterId, TenantId};
use schloss_crypto::{DataKey, EncryptionContext, IndexKey, KeyError, KeyVault, Purpose, WrappedKey};
use schloss_metadata::{KeyRow, Metadata, MetadataError};

/// Metadata and index key of one tenant.
#[derive(Debug)]
pub struct TenantKeys {
    /// Seals names, configs and snapshots of the tenant.
    pub metadata: Arc<DataKey>,
    /// Finds the tenant's names.
    pub index: IndexKey,
}

/// Why a tenant's keys are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The vault refused or did not answer.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store of wrapped keys failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// The keys of all tenants, each kept no longer than five minutes since its last proof.
pub struct Keyring {
    cluster: ClusterId,
    metadata: Arc<dyn Metadata>,
    vault: Arc<dyn KeyVault>,
    clock: Arc<dyn Clock>,
    open: Mutex<HashMap<TenantId, (Duration, Arc<TenantKeys>)>>,
}

/// A plain key is proved again after this.
const PROOF_AGE_MAX: Duration = Duration::from_secs(300);

impl Keyring {
    /// An empty ring.
    #[must_use]
    pub fn new(
        cluster: ClusterId,
        metadata: Arc<dyn Metadata>,
        vault: Arc<dyn KeyVault>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { cluster, metadata, vault, clock, open: Mutex::default() }
    }

    /// The keys of `tenant`, made when it has none.
    ///
    /// # Errors
    /// [`KeyringError`]; nothing is kept then.
    pub async fn of(&self, tenant: TenantId) -> Result<Arc<TenantKeys>, KeyringError> {
        let now = self.clock.monotonic();
        let known = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&tenant).cloned();
        if let Some((proved, keys)) = known
            && now.saturating_sub(proved) < PROOF_AGE_MAX
        {
            return Ok(keys);
        }
        let rows = self.metadata.keys(tenant).await?;
        let metadata = self.key(tenant, "metadata", Purpose::Metadata { generation: 0 }, &rows).await?;
        let index = self.key(tenant, "index", Purpose::Index, &rows).await?;
        let keys = Arc::new(TenantKeys { metadata, index: IndexKey::new(&index) });
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant, (now, Arc::clone(&keys)));
        Ok(keys)
    }

    /// Drops the keys of `tenant` at once: its KMS key was disabled.
    pub fn forget(&self, tenant: TenantId) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&tenant);
    }

    async fn key(
        &self,
        tenant: TenantId,
        name: &str,
        purpose: Purpose,
        rows: &[KeyRow],
    ) -> Result<Arc<DataKey>, KeyringError> {
        let context = EncryptionContext { cluster: self.cluster.to_bytes(), tenant: tenant.to_bytes(), purpose };
        if let Some(row) = rows.iter().find(|row| row.purpose == name && row.generation == 0) {
            return Ok(self.vault.open(&context, &read_wrapped(&row.wrapped)?).await?);
        }
        let (key, wrapped) = self.vault.generate(&context).await?;
        let wrapped = wrapped.to_bytes().map_err(|_| corrupt())?;
        let row = KeyRow { tenant, purpose: name.into(), generation: 0, wrapped };
        let kept = self.metadata.put_key(row.clone()).await?;
        if kept == row {
            return Ok(key);
        }
        Ok(self.vault.open(&context, &read_wrapped(&kept.wrapped)?).await?)
    }
}

fn corrupt() -> KeyringError {
    KeyringError::Metadata(MetadataError::Corrupt { what: "wrapped key" })
}

fn read_wrapped(bytes: &[u8]) -> Result<WrappedKey, KeyringError> {
    WrappedKey::from_bytes(bytes).map_err(|_| corrupt())
}
