//! Credentials as sealed rows of the metadata store.
//!
//! Every value is JSON under the tenant's metadata key, bound to tenant, kind and key; the key is its HMAC.

use std::fmt;

use schloss_core::TenantId;
use schloss_metadata::{Metadata, MetadataError, SealedRow};
use schloss_storage::TenantKeys;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Keeps the HMACs of credentials apart from those of topics and groups.
const INDEX_KIND: u8 = 0x10;

/// What a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    AccessKey,
    Scram,
    DelegationToken,
    Revocation,
    Bootstrap,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::AccessKey => "access-key",
            Self::Scram => "scram",
            Self::DelegationToken => "delegation-token",
            Self::Revocation => "revocation",
            Self::Bootstrap => "bootstrap",
        }
    }
}

/// Why a change of credentials was not made.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The tenant is not open.
    #[error("the tenant is not open: its keys cannot be had now")]
    UnknownTenant,
    /// No such credential.
    #[error("the credential does not exist")]
    Unknown,
    /// AWS's quota.
    #[error("the user has {max} access keys already; delete one first")]
    TooManyAccessKeys {
        /// How many there may be.
        max: usize,
    },
    /// A tenant's own bound.
    #[error("the tenant's limit of {what} ({max}) is reached")]
    Quota {
        /// What.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// The metadata store.
    #[error("the metadata store did not take the change")]
    Metadata(#[from] MetadataError),
    /// A stored credential could not be opened.
    #[error("a stored {what} could not be opened: the metadata was altered or its key is wrong")]
    Sealed {
        /// Which kind.
        what: &'static str,
    },
}

/// Names a row within its kind and tenant.
fn binding(tenant: TenantId, kind: Kind, index: [u8; 32]) -> Vec<u8> {
    [b"schloss/credential/", kind.word().as_bytes(), b"/", &tenant.to_bytes(), &index].concat()
}

fn key_index(keys: &TenantKeys, kind: Kind, key: &str) -> [u8; 32] {
    keys.index.bytes_index(INDEX_KIND, &[kind.word().as_bytes(), &[0], key.as_bytes()].concat())
}

/// A row that holds `value` under `key`.
pub(super) fn row<T: Serialize>(
    tenant: TenantId,
    keys: &TenantKeys,
    kind: Kind,
    key: &str,
    value: &T,
) -> Result<SealedRow, CredentialError> {
    let key_index = key_index(keys, kind, key);
    let mut plain = serde_json::to_vec(value).map_err(|_| CredentialError::Sealed { what: kind.word() })?;
    let sealed = schloss_crypto::seal_value(&keys.metadata, &binding(tenant, kind, key_index), &plain);
    schloss_crypto::wipe(&mut plain);
    Ok(SealedRow { tenant, kind: kind.word().to_owned(), key_index, sealed })
}

/// A row that removes what stands under `key`.
pub(super) fn removal(tenant: TenantId, keys: &TenantKeys, kind: Kind, key: &str) -> SealedRow {
    SealedRow { tenant, kind: kind.word().to_owned(), key_index: key_index(keys, kind, key), sealed: Vec::new() }
}

/// Opens all rows of a kind.
pub(super) async fn read<T: DeserializeOwned>(
    metadata: &dyn Metadata,
    tenant: TenantId,
    keys: &TenantKeys,
    kind: Kind,
) -> Result<Vec<T>, CredentialError> {
    let refused = CredentialError::Sealed { what: kind.word() };
    let mut values = Vec::new();
    for row in metadata.sealed(tenant, kind.word()).await? {
        let opened = schloss_crypto::open_value(&keys.metadata, &binding(tenant, kind, row.key_index), &row.sealed);
        let Ok(mut plain) = opened else { return Err(refused) };
        let value = serde_json::from_slice(&plain);
        schloss_crypto::wipe(&mut plain);
        let Ok(value) = value else { return Err(refused) };
        values.push(value);
    }
    Ok(values)
}

/// Bytes as text for the rows.
pub(super) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The inverse of [`hex`].
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.as_bytes().chunks(2).map(|pair| Some((digit(pair.first()?)? << 4) | digit(pair.get(1)?)?)).collect()
}
