//! Where keys come from: the only room that calls a key management service.
//!
//! In: a tenant and what a key is for ([`EncryptionContext`]). Out: data keys, through [`Vault`], which is the
//! [`schloss_crypto::KeyVault`] of the whole broker.
//!
//! - [`Kms`]: four verbs every provider has. [`LocalKeyring`] is a sealed file, [`AwsKms`] is AWS KMS, [`Transit`] is
//!   HashiCorp Vault's or OpenBao's transit engine.
//! - Layers, each alone: retries within a budget, counting and timing, and [`Vault`]: which tenant uses which KMS key, the cache
//!   of plain data keys, one call in flight per key, key-use events.
//!
//! Invariants
//! - Every use of a KMS key is recorded by the [`KeyUseSink`] before the data key is handed out; not recorded, not done.
//! - "Denied" and "unreachable" are never confused: the first wipes the tenant's keys, the second lives on cached keys.
//! - A wrapped key is opened only by a KMS key configured for the tenant asking.
//!
//! Must not: seal data, know topics, hold a lock across `.await` of a KMS (one call per key excepted).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod aws;
mod aws_credentials;
mod cache;
mod key_use;
mod local;
mod measured;
pub mod promises;
mod provider;
mod retry;
mod seen;
mod transit;
mod vault;

pub use aws::{AwsKms, AwsKmsConfig, AwsRole};
pub use aws_credentials::AwsCredentials;
pub use key_use::{KeyOperation, KeyOutcome, KeyUse, KeyUseSink, NotRecorded};
pub use local::{KeyringError, LocalKeyring, Unlock, write_key_file};
pub use provider::{KeyState, Kms};
pub use schloss_crypto::EncryptionContext;
pub use seen::TenantKeyState;
pub use transit::{Transit, TransitConfig, TransitError};
pub use vault::{KeyName, KeyReport, KeyWatch, KmsStats, TenantKeys, Vault, VaultConfig};
