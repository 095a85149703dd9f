//! The event of a KMS key being used, and who must have recorded it.

use schloss_crypto::{Denial, KeyError, Outage, Purpose};

/// What was asked of the KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOperation {
    /// A fresh data key.
    GenerateDataKey,
    /// An old data key.
    Decrypt,
    /// A new wrap of an old data key.
    ReEncrypt,
    /// The key's state.
    Describe,
}

impl KeyOperation {
    /// AWS's word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::GenerateDataKey => "GenerateDataKey",
            Self::Decrypt => "Decrypt",
            Self::ReEncrypt => "ReEncrypt",
            Self::Describe => "DescribeKey",
        }
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOutcome {
    /// The KMS did it.
    Done,
    /// The KMS refused.
    Denied(Denial),
    /// The KMS gave no answer.
    Unreachable(Outage),
    /// The wrapped key is damaged or was made for another context.
    Refused,
}

impl KeyOutcome {
    pub(crate) fn of<T>(result: &Result<T, KeyError>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(KeyError::Denied { why, .. }) => Self::Denied(*why),
            Err(KeyError::Unreachable { why, .. }) => Self::Unreachable(*why),
            Err(KeyError::Corrupt { .. } | KeyError::ContextMismatch) => Self::Refused,
        }
    }
}

/// One use of a KMS key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUse {
    /// The tenant's account number, big-endian; zero is the installation.
    pub tenant: [u8; 16],
    /// The KMS key.
    pub key_ref: String,
    /// What was asked.
    pub operation: KeyOperation,
    /// What the data key is for; `None` when only the KMS key itself was asked about.
    pub purpose: Option<Purpose>,
    /// How it ended.
    pub outcome: KeyOutcome,
}

/// The event was not recorded, so the key is not handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the use of a key could not be recorded")]
pub struct NotRecorded;

/// Records key uses durably.
#[async_trait::async_trait]
pub trait KeyUseSink: Send + Sync {
    /// Returns when the event is durable.
    ///
    /// # Errors
    /// [`NotRecorded`]; the key is then withheld.
    async fn key_used(&self, event: KeyUse) -> Result<(), NotRecorded>;
}
