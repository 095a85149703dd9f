//! What a client's certificate says about it, and who vouched for that.

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use crate::{ClientTrust, IdentityError, sha256, subject};

/// The facts of a verified client certificate. Only [`ClientIdentity::from_chain`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientIdentity {
    /// The subject as Kafka's mapping rules see it.
    pub subject_rfc2253: String,
    /// URI names, for example SPIFFE ids.
    pub san_uris: Vec<String>,
    /// DNS names.
    pub san_dns: Vec<String>,
    /// E-mail names.
    pub san_emails: Vec<String>,
    /// SHA-256 of the certificate.
    pub fingerprint_sha256: [u8; 32],
    /// SHA-256 of the CA certificate that vouched.
    pub issuer_ca_fingerprint: [u8; 32],
    /// The label of that CA: whose it is.
    pub vouched_by: String,
    /// When the certificate ends, ms since 1970. The connection must not outlive it.
    pub not_after_ms: i64,
}

impl ClientIdentity {
    /// Reads the chain a peer showed in the handshake (leaf first) and finds who vouches for it.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn from_chain(trust: &ClientTrust, chain: &[CertificateDer<'_>], now_ms: i64) -> Result<Self, IdentityError> {
        let leaf = chain.first().ok_or(IdentityError::NoCertificate)?;
        let (label, issuer_ca_fingerprint) = trust.vouching(chain, now_ms)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|_| IdentityError::Unreadable)?;
        let mut identity = Self {
            subject_rfc2253: subject::rfc2253(parsed.subject()),
            san_uris: Vec::new(),
            san_dns: Vec::new(),
            san_emails: Vec::new(),
            fingerprint_sha256: sha256(leaf),
            issuer_ca_fingerprint,
            vouched_by: label.to_owned(),
            not_after_ms: parsed.validity().not_after.timestamp().saturating_mul(1000),
        };
        // Two such extensions in one certificate are an error, not a choice.
        let names = parsed.subject_alternative_name().map_err(|_| IdentityError::Unreadable)?;
        for name in names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default() {
            match name {
                GeneralName::URI(uri) => identity.san_uris.push((*uri).to_owned()),
                GeneralName::DNSName(dns) => identity.san_dns.push((*dns).to_owned()),
                GeneralName::RFC822Name(email) => identity.san_emails.push((*email).to_owned()),
                _ => {}
            }
        }
        Ok(identity)
    }
}
