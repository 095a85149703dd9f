//! A tenant's long-lived keys: wrapped in the manifest, opened by the vault, made at first need.

use std::sync::Arc;

use schloss_core::{ClusterId, TenantId};
use schloss_crypto::{DataKey, EncryptionContext, IndexKey, KeyError, KeyVault, Purpose, SealError, WrappedKey};
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

/// Opens the newest stored key of a purpose, or makes and stores the first one.
///
/// # Errors
/// [`KeyTrouble`].
pub async fn stored_key(
    metadata: &dyn Metadata,
    vault: &dyn KeyVault,
    cluster: ClusterId,
    tenant: [u8; 16],
    purpose: Purpose,
) -> Result<Arc<DataKey>, KeyTrouble> {
    let context = EncryptionContext { cluster: cluster.to_bytes(), tenant, purpose };
    if let Some(row) = metadata.keys(tenant, purpose.name()).await?.pop() {
        return Ok(vault.open(&context, &WrappedKey::from_bytes(&row.wrapped)?).await?);
    }
    let (key, wrapped) = vault.generate(&context).await?;
    let row = KeyRow { tenant, purpose: purpose.name().to_owned(), generation: 0, wrapped: wrapped.to_bytes()? };
    metadata.add_key(row).await?;
    Ok(key)
}

/// What seals a tenant's rows in the manifest.
#[derive(Clone)]
pub struct TenantKeys {
    /// Seals names, settings, state.
    pub metadata: Arc<DataKey>,
    /// Finds them.
    pub index: Arc<IndexKey>,
}

impl TenantKeys {
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
        let sealing =
            stored_key(metadata, vault, cluster, tenant.to_bytes(), Purpose::Metadata { generation: 0 }).await?;
        let index = stored_key(metadata, vault, cluster, tenant.to_bytes(), Purpose::Index).await?;
        Ok(Self { metadata: sealing, index: Arc::new(IndexKey::new(&index)) })
    }
}
