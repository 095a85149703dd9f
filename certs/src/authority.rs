//! A certificate authority for development and tests: ECDSA P-256, one for the server, one per tenant for its clients.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::CertError;

const CA_DAYS: i64 = 3650;
/// What browsers and macOS accept at most for servers.
const LEAF_DAYS: i64 = 397;
/// Clocks of other machines may be behind.
const BACKDATED: Duration = Duration::hours(1);

/// A certificate with its key.
pub struct Issued {
    /// The certificate in PEM, followed by its issuer's.
    pub cert_pem: String,
    /// The key in PKCS#8 PEM.
    pub key_pem: String,
}

/// A CA that can issue.
pub struct Authority {
    cert_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a CA named `common_name`.
    ///
    /// # Errors
    /// [`CertError::Issue`].
    pub fn create(common_name: &str, organization: &str, now_ms: i64) -> Result<Self, CertError> {
        let key = new_key()?;
        let mut params = params(common_name, organization, now_ms, CA_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert_pem = params.self_signed(&key)?.pem();
        Self::from_pem(&cert_pem, &key.serialize_pem())
    }

    /// Takes up a CA made before.
    ///
    /// # Errors
    /// [`CertError::Issue`] when certificate or key cannot be read.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, CertError> {
        let issuer = Issuer::from_ca_cert_pem(cert_pem, KeyPair::from_pem(key_pem)?)?;
        Ok(Self { cert_pem: cert_pem.to_owned(), key_pem: key_pem.to_owned(), issuer })
    }

    /// Its certificate, to be trusted by the other side.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Its key, to be kept.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// A server certificate for `hosts` (DNS names or IP addresses).
    ///
    /// # Errors
    /// [`CertError::Issue`] for a host that is neither.
    pub fn issue_server(&self, hosts: &[&str], now_ms: i64) -> Result<Issued, CertError> {
        let sans = CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>())?;
        let common_name = hosts.first().copied().unwrap_or("localhost");
        let mut params = params(common_name, "Schloss", now_ms, LEAF_DAYS);
        params.subject_alt_names = sans.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    /// A client certificate with the subject `CN=common_name,O=organization` and URI names (for example SPIFFE ids).
    ///
    /// # Errors
    /// [`CertError::Issue`] for a URI that is not ASCII.
    pub fn issue_client(
        &self,
        common_name: &str,
        organization: &str,
        uris: &[&str],
        now_ms: i64,
    ) -> Result<Issued, CertError> {
        let mut params = params(common_name, organization, now_ms, LEAF_DAYS);
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into()?));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    fn issue(&self, mut params: CertificateParams) -> Result<Issued, CertError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = new_key()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { cert_pem: cert.pem() + &self.cert_pem, key_pem: key.serialize_pem() })
    }
}

fn new_key() -> Result<KeyPair, CertError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

fn params(common_name: &str, organization: &str, now_ms: i64, days: i64) -> CertificateParams {
    let now = OffsetDateTime::from_unix_timestamp(now_ms / 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = now.saturating_sub(BACKDATED);
    params.not_after = now.saturating_add(Duration::days(days));
    params
}
