//! X.509 and TLS: who the broker is to its clients, and whose certificate a client holds.
//!
//! In: PEM files and a peer's certificate chain. Out: rustls configs, a [`ClientIdentity`], and for
//! development a whole set of authorities, certificates and client settings ([`dev`]).
//!
//! Invariants
//! - A client certificate belongs to exactly one tenant: the one whose authority vouches for it. None or two is a refusal.
//! - TLS 1.3, and TLS 1.2 with ephemeral keys and AEAD only. Nothing switches that off.
//! - A client certificate that is shown must be some tenant's, also where none is required.
//! - No session is ever resumed: each connection proves its certificate anew, under the authorities of that moment.
//! - Files that cannot be used never replace files that can.
//!
//! Must not: decide what a principal may do, know a tenant's policies, log, print a key.
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

mod client_ca;
mod config;
pub mod dev;
mod distinguished_name;
mod error;
mod files;
mod identity;
mod reload;
#[cfg(test)]
mod testing;

pub use config::{ClientCertificate, client_config, server_trust_config};
pub use error::{IdentityError, TlsError};
pub use identity::ClientIdentity;
pub use reload::{ReloadingTls, TlsFiles};
