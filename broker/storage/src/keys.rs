//! A tenant's long-lived keys: wrapped in the manifest, opened by the vault, made at first need.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schloss_core::{ClusterId, TenantId};
use schloss_crypto::{
    DataKey, EncryptionContext, IndexKey, KeyError, KeyVault, Purpose, SealError, Standing, WrappedKey,
};
use schloss_metadata::{KeyRow, Metadata, MetadataError};

/// Why a long-lived key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyTrouble {
    /// The vault.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The manifest.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A wrapped key's form.
    #[error(transparent)]
    Sealed(#[from] SealError),
}

impl KeyTrouble {
    /// Whether it is only that the KMS key cannot be used now.
    #[must_use]
    pub const fn key_is_away(&self) -> bool {
        matches!(self, Self::Key(KeyError::Denied { .. } | KeyError::Unreachable { .. }))
    }
}

/// Opens the newest stored key of a purpose, or makes and stores the first one; with it the KMS key that wrapped it.
///
/// # Errors
/// [`KeyTrouble`].
pub async fn stored_key(
    metadata: &dyn Metadata,
    vault: &dyn KeyVault,
    cluster: ClusterId,
    tenant: [u8; 16],
    purpose: Purpose,
) -> Result<(Arc<DataKey>, String), KeyTrouble> {
    let context = EncryptionContext { cluster: cluster.to_bytes(), tenant, purpose };
    if let Some(row) = metadata.keys(tenant, purpose.name()).await?.pop() {
        let wrapped = WrappedKey::from_bytes(&row.wrapped)?;
        return Ok((vault.open(&context, &wrapped).await?, wrapped.key_ref));
    }
    let (key, wrapped) = vault.generate(&context).await?;
    let row = KeyRow { tenant, purpose: purpose.name().to_owned(), generation: 0, wrapped: wrapped.to_bytes()? };
    metadata.add_key(row).await?;
    Ok((key, wrapped.key_ref))
}

/// What seals a tenant's rows in the manifest.
#[derive(Clone)]
pub struct TenantKeys {
    /// Seals names, settings, state.
    pub metadata: Arc<DataKey>,
    /// Finds them.
    pub index: Arc<IndexKey>,
    /// The KMS keys that opened them.
    key_refs: [Arc<str>; 2],
}

impl TenantKeys {
    /// Of keys made elsewhere, for tests of the rooms that use them.
    #[must_use]
    pub fn of(metadata: Arc<DataKey>, index: Arc<IndexKey>) -> Self {
        Self { metadata, index, key_refs: ["".into(), "".into()] }
    }

    /// Opens or makes both.
    ///
    /// # Errors
    /// [`KeyTrouble`].
    pub async fn open(
        metadata: &dyn Metadata,
        vault: &dyn KeyVault,
        cluster: ClusterId,
        tenant: TenantId,
    ) -> Result<Self, KeyTrouble> {
        let (sealing, sealing_ref) =
            stored_key(metadata, vault, cluster, tenant.to_bytes(), Purpose::Metadata { generation: 0 }).await?;
        let (index, index_ref) = stored_key(metadata, vault, cluster, tenant.to_bytes(), Purpose::Index).await?;
        let key_refs = [sealing_ref.into(), index_ref.into()];
        Ok(Self { metadata: sealing, index: Arc::new(IndexKey::new(&index)), key_refs })
    }

    /// Whether they may be used without asking again.
    #[must_use]
    pub fn usable(&self, vault: &dyn KeyVault, tenant: TenantId) -> bool {
        self.key_refs.iter().all(|key_ref| vault.standing(tenant.to_bytes(), key_ref) == Standing::Usable)
    }
}

/// Gives a tenant's row keys when they are needed; nobody keeps them longer than that.
#[async_trait::async_trait]
pub trait KeySource: Send + Sync {
    /// A tenant's keys, opened.
    ///
    /// # Errors
    /// [`KeyTrouble`].
    async fn tenant_keys(&self, tenant: TenantId) -> Result<TenantKeys, KeyTrouble>;
}

#[async_trait::async_trait]
impl KeySource for RowKeys {
    async fn tenant_keys(&self, tenant: TenantId) -> Result<TenantKeys, KeyTrouble> {
        self.get(tenant).await
    }
}

/// Every tenant's row keys: opened once, again whenever their KMS key was not proved lately, wiped when it is refused.
pub struct RowKeys {
    metadata: Arc<dyn Metadata>,
    vault: Arc<dyn KeyVault>,
    cluster: ClusterId,
    held: Mutex<HashMap<TenantId, TenantKeys>>,
}

impl RowKeys {
    /// None opened yet.
    pub fn new(metadata: Arc<dyn Metadata>, vault: Arc<dyn KeyVault>, cluster: ClusterId) -> Self {
        Self { metadata, vault, cluster, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<TenantId, TenantKeys>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tenant's keys.
    pub async fn get(&self, tenant: TenantId) -> Result<TenantKeys, KeyTrouble> {
        let held = self.held().get(&tenant).cloned();
        if let Some(keys) = held
            && keys.usable(&*self.vault, tenant)
        {
            return Ok(keys);
        }
        let keys = TenantKeys::open(&*self.metadata, &*self.vault, self.cluster, tenant).await?;
        self.held().insert(tenant, keys.clone());
        Ok(keys)
    }

    /// Wipes a tenant's keys, and those that may not be held any longer.
    pub fn forget(&self, tenant: TenantId) {
        let mut held = self.held();
        held.remove(&tenant);
        held.retain(|tenant, keys| keys.usable(&*self.vault, *tenant));
    }
}
