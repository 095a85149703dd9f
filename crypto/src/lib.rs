//! Keys, seals and signatures: the only room that touches key bytes.
//!
//! In: data keys (from a [`KeyVault`]) and plaintext of validated batches. Out: sealed objects, sections and values.
//!
//! | what is sealed | by | nonce |
//! | --- | --- | --- |
//! | a segment object of one tenant | [`segment`] | domain ‖ frame number; key derived from a random object id |
//! | a tenant's section of a write-ahead-log entry | [`wal`] | zero; key derived from entry id ‖ section number |
//! | a value in the metadata store, an audit body | [`value`] | zero; key derived from a random 32-byte salt |
//!
//! Invariants
//! - No (key, nonce) pair ever seals two plaintexts: every derived key is bound to an id that is used once.
//! - Plaintext leaves only after its tag verified, and a key is checked against a commitment before anything is opened:
//!   AES-GCM alone can be opened under two keys by whoever chose both.
//! - A [`DataKey`] has no `Clone`, no `Debug` of its bytes, no serialisation, and is wiped on drop.
//!
//! Must not: import another room of ours, call a KMS, read names of topics.
//!
//! What is not wiped: ring keeps expanded AES key schedules and HMAC states in its own types, which it does not clear on drop.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod aead;
mod context;
pub mod digest;
pub mod integrity;
mod layout;
mod scram;
mod secrets;
pub mod segment;
pub mod signing;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod value;
mod vault;
#[cfg(test)]
mod vectors;
pub mod wal;

pub use aead::SealError;
pub use context::{EncryptionContext, Purpose};
pub use integrity::IntegrityKey;
pub use scram::{ScramMechanism, ScramVerifier};
pub use secrets::{DataKey, SecretText, random_array, random_bytes, wipe, wipe_text};
pub use segment::{
    FrameFacts, FrameRef, ObjectExpectation, SealedSegment, SegmentHeader, SegmentOpener, SegmentWriter,
};
pub use value::{IndexKey, open_value, seal_value};
pub use vault::{Denial, KeyError, KeyVault, Outage, Standing, WrappedKey};
pub use wal::{EntryId, SECTION_OVERHEAD_BYTES, WalKeys};
