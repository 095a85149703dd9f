//! What every key management service can do for us.

use schloss_crypto::{DataKey, EncryptionContext, KeyError};

/// Whether a KMS key may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It may.
    Enabled,
    /// Switched off; may come back.
    Disabled,
    /// Will be destroyed.
    PendingDeletion,
}

/// A key management service. `key_ref` is its own name of a wrapping key.
#[async_trait::async_trait]
pub trait Kms: Send + Sync {
    /// The word stored with every wrapped key, for example `aws`.
    fn provider(&self) -> &'static str;

    /// A fresh data key, plain and wrapped, bound to `context`.
    ///
    /// # Errors
    /// [`KeyError::Denied`] or [`KeyError::Unreachable`].
    async fn generate_data_key(
        &self,
        key_ref: &str,
        context: &EncryptionContext,
    ) -> Result<(DataKey, Vec<u8>), KeyError>;

    /// Unwraps.
    ///
    /// # Errors
    /// As above, and [`KeyError::ContextMismatch`] or [`KeyError::Corrupt`].
    async fn decrypt(&self, key_ref: &str, blob: &[u8], context: &EncryptionContext) -> Result<DataKey, KeyError>;

    /// Wraps anew under another key of the same provider; the data key stays.
    ///
    /// # Errors
    /// As `decrypt`.
    async fn re_encrypt(
        &self,
        from: &str,
        blob: &[u8],
        to: &str,
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, KeyError>;

    /// The key's state.
    ///
    /// # Errors
    /// [`KeyError::Denied`] or [`KeyError::Unreachable`].
    async fn describe(&self, key_ref: &str) -> Result<KeyState, KeyError>;
}
