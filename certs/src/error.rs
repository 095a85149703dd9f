//! What can be wrong with certificates. Messages name files and facts, never contents.

use std::path::PathBuf;

/// Why TLS files cannot be used. The files in use before stay in use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file or folder could not be read.
    #[error("`{path}` cannot be read: {source}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is larger than any honest one.
    #[error("`{path}` is larger than {bytes_max} bytes, which no certificate file is")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        bytes_max: u64,
    },
    /// More files of authorities than the bound.
    #[error("`{folder}` holds more than {files_max} files of authorities")]
    TooManyFiles {
        /// The folder.
        folder: PathBuf,
        /// The bound.
        files_max: usize,
    },
    /// A file is not PEM, or one of its blocks is damaged.
    #[error("`{path}` is not well-formed PEM")]
    NotPem {
        /// The file.
        path: PathBuf,
    },
    /// A file holds no certificate.
    #[error("`{path}` holds no certificate; it needs at least one `BEGIN CERTIFICATE` block")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A block says certificate and is none.
    #[error("`{path}` holds a certificate that cannot be parsed")]
    BadCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A file holds no private key.
    #[error("`{path}` holds no private key; it needs one unencrypted PKCS#8, SEC 1 or PKCS#1 block")]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A private key of a kind TLS has no use for.
    #[error("the private key in `{path}` cannot be used: give an ECDSA P-256 or P-384, Ed25519 or RSA key")]
    BadKey {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key are of different pairs; happens halfway through a rotation.
    #[error("the key in `{key}` does not belong to the first certificate in `{certificate}`")]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The server's certificate is past its end or before its beginning.
    #[error("the certificate in `{path}` is not valid now (valid from {not_before} to {not_after}); issue a new one")]
    NotValidNow {
        /// The file.
        path: PathBuf,
        /// Its beginning, as written in the certificate.
        not_before: String,
        /// Its end.
        not_after: String,
    },
    /// The folder of client authorities is empty, so nobody could ever log in.
    #[error("`{folder}` holds no `<tenant>.pem`: no client could log in; put each tenant's client CA there")]
    NoAuthority {
        /// The folder.
        folder: PathBuf,
    },
    /// A certificate among the authorities may not sign others.
    #[error("`{path}` holds a certificate that is not a CA (basic constraints): it would vouch for nobody")]
    NotAnAuthority {
        /// The file.
        path: PathBuf,
    },
    /// One authority under two tenants: its certificates would belong to both.
    #[error("`{path}` and `{other}` hold the same CA key: a CA vouches for one tenant only")]
    SharedAuthority {
        /// The file read second.
        path: PathBuf,
        /// The file read first.
        other: PathBuf,
    },
    /// A file name that cannot be a tenant's alias.
    #[error("`{path}` is not named `<tenant alias>.pem` (letters, digits, `-`, `_` and `.`, at most 64)")]
    BadAlias {
        /// The file.
        path: PathBuf,
    },
    /// A certificate revocation list that cannot be used.
    #[error("`{path}` holds a certificate revocation list that cannot be used")]
    BadRevocationList {
        /// The file.
        path: PathBuf,
    },
    /// The operators' authority cannot judge anyone.
    #[error("the CA of `admin.client.ca.file` cannot be used to judge operators' certificates")]
    BadOperatorAuthority,
    /// The TLS library refused the parts.
    #[error("TLS refuses the configuration: {0}")]
    Refused(#[from] rustls::Error),
}

/// Why a peer has no identity. The peer is told nothing but that the connection ends.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The peer showed no certificate, or the handshake is not complete.
    #[error("the client showed no certificate")]
    NoCertificate,
    /// The certificate was valid to TLS and still cannot be read in full.
    #[error("the client's certificate is malformed")]
    Malformed,
    /// Its authority was withdrawn, or it ran out, since the handshake.
    #[error("no tenant's CA vouches for the client's certificate: {0}")]
    NotVouched(rustls::Error),
}
