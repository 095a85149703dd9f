//! Where keys come from: the only room that calls a key management service.
//!
//! In: a tenant and what a key is for ([`EncryptionContext`]). Out: data keys, through [`Vault`], which is the
//! [`schloss_crypto::KeyVault`] of the whole broker.
//!
//! - [`Kms`]: four verbs every provider has. [`LocalKeyring`] is a sealed file, [`AwsKms`] is AWS KMS.
//! - [`Vault`]: which tenant uses which KMS key, the cache of plain data keys, one call in flight per key, key-use events.
//!
//! Invariants
//! - Every use of a KMS key is recorded by the [`KeyUseSink`] before the data key is handed out; not recorded, not done.
//! - "Denied" and "unreachable" are never confused: the first wipes the tenant's keys, the second lives on cached keys.
//! - A wrapped key is opened only by a KMS key configured for the tenant asking.
//!
//! Must not: seal data, know topics, hold a lock across `.await` of a KMS (one call per key excepted).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod aws;
mod cache;
mod key_use;
mod local;
mod provider;
mod vault;

pub use aws::{AwsCredentials, AwsKms, AwsKmsConfig};
pub use key_use::{KeyOperation, KeyOutcome, KeyUse, KeyUseSink, NotRecorded};
pub use local::{KeyringError, LocalKeyring, Unlock, write_key_file};
pub use provider::{KeyState, Kms};
pub use schloss_crypto::EncryptionContext;
pub use vault::{KeyName, KmsStats, TenantKeyState, TenantKeys, Vault, VaultConfig};
