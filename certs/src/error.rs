//! Why certificates, keys or chains were refused.

use std::io;
use std::path::PathBuf;

/// A file or configuration that cannot be used. Each message says what to look at.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// Reading or writing failed.
    #[error("`{path}`: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No PEM certificate in it, or a broken one.
    #[error("`{path}` holds no readable PEM certificate")]
    NoCertificate {
        /// Where.
        path: PathBuf,
    },
    /// No PEM private key in it, or a broken one.
    #[error("`{path}` holds no readable PEM private key (PKCS#8, SEC1 or PKCS#1, not encrypted)")]
    NoPrivateKey {
        /// Where.
        path: PathBuf,
    },
    /// Others can read the key.
    #[error("the private key `{path}` can be read by others (mode {mode:03o}); run `chmod 600` on it")]
    KeyOpenToOthers {
        /// Where.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Key and certificate are not a pair.
    #[error("the private key `{key}` does not belong to the certificate `{cert}`")]
    KeyMismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The certificate is not valid for a host name it is to serve.
    #[error("the certificate `{cert}` is not valid for the host name `{host}`; issue one with that name in its subject alternative names")]
    HostNotInCertificate {
        /// The certificate.
        cert: PathBuf,
        /// The host.
        host: String,
    },
    /// Nothing to serve with.
    #[error("no server certificate is configured")]
    NoServerIdentity,
    /// Nobody could ever connect.
    #[error("no client CA is configured, so nobody could connect")]
    NoClientCa,
    /// Not usable as a trust anchor.
    #[error("the client CA `{path}` of `{label}` is not a usable CA certificate")]
    BadClientCa {
        /// Whose.
        label: String,
        /// Where.
        path: PathBuf,
    },
    /// One CA for two tenants: who vouched could not be told.
    #[error("`{first}` and `{second}` have a client CA with the same key; every tenant needs its own")]
    SharedClientCa {
        /// One tenant.
        first: String,
        /// The other.
        second: String,
    },
    /// Not a readable revocation list.
    #[error("`{path}` holds no readable certificate revocation list")]
    BadCrl {
        /// Where.
        path: PathBuf,
    },
    /// rustls refused the combination.
    #[error("TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
    /// A certificate could not be made.
    #[error("making a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// A PKCS#12 file could not be made.
    #[error("making a PKCS#12 file failed")]
    Pkcs12,
}

/// Why a peer's chain names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// Unreadable.
    #[error("the peer's certificate cannot be read")]
    Unreadable,
    /// No client CA vouches for it now (unknown issuer, expired, revoked).
    #[error("no client CA vouches for the peer's certificate")]
    NotVouchedFor,
    /// More than one would.
    #[error("more than one client CA vouches for the peer's certificate")]
    Ambiguous,
}
