//! X.509 and TLS: who may speak, in which suites, and what a peer's certificate says.
//!
//! In: PEM files, a peer's certificate chain. Out: TLS configurations ([`ReloadingTls`]), [`ClientIdentity`], development
//! certificates ([`Authority`]).
//!
//! Invariants
//! - TLS 1.3 and TLS 1.2 with AEAD suites only, post-quantum hybrid key exchange offered first; a Kafka client without a
//!   certificate of a known client CA ends in the handshake.
//! - Each client CA belongs to one tenant. [`ClientIdentity`] names the CA that vouched, found by signature, not by name.
//! - No session resumption: every connection shows its certificate, so a reload (new CA, new CRL) binds the next connection.
//! - A failed reload leaves the configuration in force as it is.
//!
//! Must not: import another room of ours, map certificates to principals (that is `broker/authn`), touch sockets.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod authority;
mod client_files;
mod error;
mod files;
mod identity;
mod subject;
mod tls;
mod trust;

pub use authority::{Authority, Issued};
pub use client_files::{
    ClientPaths, client_properties, librdkafka_conf, pkcs12, random_password, write_client_folder,
};
pub use error::{CertError, IdentityError};
pub use files::{read_certificates, read_private_key, write_private, write_public};
pub use identity::ClientIdentity;
pub use subject::rfc2253;
pub use tls::{ReloadingTls, ServerIdentity, TlsFiles, TlsSnapshot, client_config};
pub use trust::{ClientCa, ClientTrust};

/// SHA-256 from the TLS provider: this room may not import ours.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let hash = TLS13_AES_128_GCM_SHA256.tls13().map(|suite| suite.common.hash_provider.hash(bytes));
    hash.and_then(|hash| hash.as_ref().try_into().ok()).unwrap_or_default()
}
