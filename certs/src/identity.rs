//! What a client's certificate says about its holder.
//!
//! In: the chain a peer proved in its handshake and the tenants' authorities. Out: [`ClientIdentity`].
//! Must not: be built in any other way; holding one is proof that the tenant's authority vouched.

use rustls::ServerConnection;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::client_ca::ClientAuthorities;
use crate::{IdentityError, distinguished_name, files};

/// The holder of a client certificate, in the words of the certificate, and the tenant whose authority vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientIdentity {
    /// Alias of the tenant whose authority vouches. All else here was written by that authority.
    pub tenant: String,
    /// Subject as Java writes it (RFC 2253).
    pub subject: String,
    /// The subject's common name when it has exactly one.
    pub common_name: Option<String>,
    /// URIs among the alternative names (SPIFFE ids are such).
    pub uris: Vec<String>,
    /// DNS names among the alternative names.
    pub dns: Vec<String>,
    /// Mail addresses among the alternative names.
    pub emails: Vec<String>,
    /// SHA-256 of the certificate.
    pub fingerprint_sha256: [u8; 32],
    /// When the certificate ends, in milliseconds since 1970.
    pub not_after_ms: i64,
    /// The chain as it was shown, to be judged again when authorities or revocation lists change.
    chain: Vec<CertificateDer<'static>>,
}

impl ClientIdentity {
    /// The fingerprint in lower-case hexadecimal.
    #[must_use]
    pub fn fingerprint_hex(&self) -> String {
        files::hex(&self.fingerprint_sha256)
    }

    /// Whether the same tenant still vouches for the chain.
    pub(crate) fn is_vouched_by(&self, authorities: &ClientAuthorities, now: UnixTime) -> bool {
        let Some((leaf, intermediates)) = self.chain.split_first() else { return false };
        authorities.vouch(leaf, intermediates, now).is_ok_and(|tenant| *tenant == *self.tenant)
    }

    pub(crate) fn of(
        connection: &ServerConnection,
        authorities: &ClientAuthorities,
        now: UnixTime,
    ) -> Result<Self, IdentityError> {
        let (leaf, intermediates) =
            connection.peer_certificates().and_then(<[_]>::split_first).ok_or(IdentityError::NoCertificate)?;
        let tenant = authorities.vouch(leaf, intermediates, now).map_err(IdentityError::NotVouched)?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_malformed| IdentityError::Malformed)?;
        let mut identity = Self {
            tenant: tenant.to_string(),
            subject: distinguished_name::rfc2253(parsed.subject()).ok_or(IdentityError::Malformed)?,
            common_name: distinguished_name::common_name(parsed.subject()),
            uris: Vec::new(),
            dns: Vec::new(),
            emails: Vec::new(),
            fingerprint_sha256: files::sha256(leaf),
            chain: connection
                .peer_certificates()
                .into_iter()
                .flatten()
                .map(|shown| shown.clone().into_owned())
                .collect(),
            not_after_ms: parsed.validity().not_after.timestamp().checked_mul(1000).ok_or(IdentityError::Malformed)?,
        };
        // A name given twice over is malformed, never "the first one".
        let names = parsed.subject_alternative_name().map_err(|_twice| IdentityError::Malformed)?;
        for name in names.into_iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => identity.uris.push((*uri).to_owned()),
                GeneralName::DNSName(dns) => identity.dns.push((*dns).to_owned()),
                GeneralName::RFC822Name(email) => identity.emails.push((*email).to_owned()),
                GeneralName::Invalid(..) => return Err(IdentityError::Malformed),
                _ => {}
            }
        }
        Ok(identity)
    }
}
