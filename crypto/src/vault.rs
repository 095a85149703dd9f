//! The seam between rooms that seal and rooms that hold a KMS: three verbs, two kinds of refusal.

use std::sync::Arc;

use crate::layout::Reader;
use crate::{DataKey, EncryptionContext, SealError};

/// Gives and reopens data keys. Implemented by `schloss-kms`; asked by storage, metadata and audit.
#[async_trait::async_trait]
pub trait KeyVault: Send + Sync {
    /// A fresh data key for `context`, plain and wrapped. The wrapped form is what may be stored.
    ///
    /// # Errors
    /// [`KeyError::Denied`] and [`KeyError::Unreachable`] are never to be confused: see there.
    async fn generate(&self, context: &EncryptionContext) -> Result<(Arc<DataKey>, WrappedKey), KeyError> {
        self.generate_under(context, None).await
    }

    /// The same under another KMS key of the tenant than its current one.
    ///
    /// # Errors
    /// As [`KeyVault::generate`]; a key that is not the tenant's is denied.
    async fn generate_under(
        &self,
        context: &EncryptionContext,
        key_ref: Option<&str>,
    ) -> Result<(Arc<DataKey>, WrappedKey), KeyError>;

    /// The plain form of a key made by [`KeyVault::generate`] under the same context.
    ///
    /// # Errors
    /// As `generate`, and [`KeyError::ContextMismatch`] or [`KeyError::Corrupt`].
    async fn open(&self, context: &EncryptionContext, wrapped: &WrappedKey) -> Result<Arc<DataKey>, KeyError>;

    /// Wraps a key anew under `key_ref`, or the tenant's current KMS key; the plain key stays. `None` when it already is.
    ///
    /// # Errors
    /// As [`KeyVault::open`].
    async fn rewrap(
        &self,
        context: &EncryptionContext,
        wrapped: &WrappedKey,
        key_ref: Option<&str>,
    ) -> Result<Option<WrappedKey>, KeyError>;

    /// Whether keys that were opened with a KMS key may still be used. Rooms that hold on to a key ask before each use.
    fn standing(&self, tenant: [u8; 16], key_ref: &str) -> Standing;
}

/// What is known of a KMS key, for those who hold keys it opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Proved lately, or unreachable within the grace: go on.
    Usable,
    /// Not proved lately: drop the key and open it anew, which proves it.
    Stale,
    /// Denied, or unreachable for too long: drop the key and serve nothing under it.
    Stopped,
}

/// A data key as it may be stored: readable only by the KMS key that wrapped it.
///
/// Byte form (big-endian): version `01` | provider u16 length, bytes | key reference u16 length, bytes | blob u16 length, bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WrappedKey {
    /// Which provider wrapped it, for example `local` or `aws`.
    pub provider: String,
    /// The wrapping key in the provider's words, for example an ARN.
    pub key_ref: String,
    /// The provider's bytes.
    pub blob: Vec<u8>,
}

impl WrappedKey {
    /// The byte form above.
    ///
    /// # Errors
    /// [`SealError::TooLong`] when a part does not fit its length field.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SealError> {
        let mut bytes = vec![1];
        for part in [self.provider.as_bytes(), self.key_ref.as_bytes(), &self.blob] {
            let len = u16::try_from(part.len()).map_err(|_| SealError::TooLong { what: "wrapped key" })?;
            bytes.extend_from_slice(&len.to_be_bytes());
            bytes.extend_from_slice(part);
        }
        Ok(bytes)
    }

    /// Reads the byte form; all of `bytes` must be used.
    ///
    /// # Errors
    /// [`SealError::Malformed`] otherwise.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        const WHAT: SealError = SealError::Malformed { what: "wrapped key" };
        let mut reader = Reader::new(bytes);
        if reader.array::<1>() != Some([1]) {
            return Err(WHAT);
        }
        let mut part = || {
            let len = u16::from_be_bytes(reader.array()?);
            reader.slice(usize::from(len)).map(<[u8]>::to_vec)
        };
        let (provider, key_ref, blob) = (part(), part(), part());
        match (provider.map(String::from_utf8), key_ref.map(String::from_utf8), blob) {
            (Some(Ok(provider)), Some(Ok(key_ref)), Some(blob)) if reader.is_empty() => {
                Ok(Self { provider, key_ref, blob })
            }
            _ => Err(WHAT),
        }
    }
}

/// Why a KMS said no for good (until someone changes the key or its policy).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// The key is disabled.
    Disabled,
    /// The key is scheduled for deletion.
    PendingDeletion,
    /// The key's policy, or ours, does not allow it.
    AccessDenied,
    /// There is no such key.
    NotFound,
    /// No KMS key is configured for this tenant.
    NoKeyConfigured,
}

/// Why a KMS gave no answer (this time).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outage {
    /// No answer within the deadline, or none at all.
    NoAnswer,
    /// It asked us to slow down.
    Throttled,
    /// It answered that it is broken.
    Failing,
    /// Our own audit log could not record the use, so it was not done.
    NotRecorded,
}

/// Why there is no key.
///
/// **Denied** wipes the tenant's cached keys and stops that tenant. **Unreachable** does not: cached keys serve on
/// for the configured grace, and what needs a new key fails retriably.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The KMS refused.
    #[error("KMS key `{key_ref}` refused: {why:?}")]
    Denied {
        /// The wrapping key.
        key_ref: String,
        /// The reason.
        why: Denial,
    },
    /// The KMS could not be asked.
    #[error("KMS key `{key_ref}` cannot be reached: {why:?}")]
    Unreachable {
        /// The wrapping key.
        key_ref: String,
        /// The reason.
        why: Outage,
    },
    /// The wrapped key is not what the KMS made.
    #[error("a key wrapped by `{key_ref}` is damaged")]
    Corrupt {
        /// The wrapping key.
        key_ref: String,
    },
    /// The wrapped key was made for another tenant, purpose or installation (or is damaged: a KMS tells no difference).
    #[error("a wrapped key was opened under another encryption context than it was made for")]
    ContextMismatch,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_key_has_this_byte_form() {
        let key = WrappedKey { provider: "local".into(), key_ref: "k".into(), blob: vec![0xaa, 0xbb] };
        let bytes = key.to_bytes().unwrap();
        assert_eq!(bytes, b"\x01\x00\x05local\x00\x01k\x00\x02\xaa\xbb");
        assert_eq!(WrappedKey::from_bytes(&bytes).unwrap(), key);
        for cut in 0..bytes.len() {
            assert!(WrappedKey::from_bytes(&bytes[..cut]).is_err());
        }
        assert!(WrappedKey::from_bytes(&[&bytes[..], b"x"].concat()).is_err());
    }
}
