//! Making certificates, and judging whether one made before is still good.
//!
//! Invariant: a leaf counts as good only when the very library that will judge it in a handshake accepts it,
//! [`RENEW_BEFORE`] from now, under the authority of today.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{PkiError, check_name};
use crate::{config, distinguished_name};

/// Ten years, for authorities.
const AUTHORITY_DAYS: i64 = 3650;
/// The longest that browsers and Apple's libraries accept.
const SERVER_DAYS: i64 = 825;
const CLIENT_DAYS: i64 = 365;
/// What ends within this time is made anew, so that a long run does not outlive it.
pub(super) const RENEW_BEFORE: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3600);
/// Clocks of two machines differ.
const BEGUN_BEFORE: Duration = Duration::hours(1);

/// A certificate with its key.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) der: CertificateDer<'static>,
    pub(super) pem: String,
    pub(super) key: KeyPair,
}

impl Issued {
    /// From texts; `None` when they are no pair.
    pub(super) fn of(der: CertificateDer<'static>, pem: &str, key_pem: &str) -> Option<Self> {
        let key = KeyPair::from_pem(key_pem).ok()?;
        let (_, parsed) = X509Certificate::from_der(&der).ok()?;
        let same = parsed.public_key().subject_public_key.data == key.public_key_raw();
        same.then(|| Self { pem: pem.to_owned(), key, der: der.clone() })
    }
}

/// An authority that can sign.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) der: CertificateDer<'static>,
    pub(super) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn of(pair: Issued) -> Result<Self, PkiError> {
        let issuer = Issuer::from_ca_cert_der(&pair.der, pair.key)?;
        Ok(Self { der: pair.der, pem: pair.pem, issuer })
    }

    fn roots(&self) -> Option<Arc<RootCertStore>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).ok()?;
        Some(Arc::new(roots))
    }
}

pub(super) fn authority(common_name: &str, now: OffsetDateTime) -> Result<Issued, PkiError> {
    let key = KeyPair::generate()?;
    let mut params = params(common_name, now, AUTHORITY_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok(Issued { der: certificate.der().clone(), pem: certificate.pem(), key })
}

pub(super) fn server(authority: &Authority, names: &[String], now: OffsetDateTime) -> Result<Issued, PkiError> {
    let mut params = params("schloss", now, SERVER_DAYS);
    for name in names {
        let bad = || PkiError::Name { name: name.clone() };
        params.subject_alt_names.push(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => {
                ServerName::try_from(name.as_str()).map_err(|_malformed| bad())?;
                SanType::DnsName(name.as_str().try_into().map_err(|_malformed| bad())?)
            }
        });
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf(params, authority)
}

pub(super) fn client(
    authority: &Authority,
    tenant: &str,
    principal: &str,
    now: OffsetDateTime,
) -> Result<Issued, PkiError> {
    check_name(principal)?;
    let mut params = params(principal, now, CLIENT_DAYS);
    // Written from the general to the specific; as text it is read the other way: `CN=producer,O=acme`.
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, tenant);
    params.distinguished_name.push(DnType::CommonName, principal);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    leaf(params, authority)
}

fn params(common_name: &str, now: OffsetDateTime, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = now.saturating_sub(BEGUN_BEFORE);
    params.not_after = now.saturating_add(Duration::days(days));
    params
}

fn leaf(mut params: CertificateParams, authority: &Authority) -> Result<Issued, PkiError> {
    let key = KeyPair::generate()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &authority.issuer)?;
    Ok(Issued { der: certificate.der().clone(), pem: certificate.pem(), key })
}

pub(super) fn is_good_authority(pair: &Issued, common_name: &str, now: UnixTime) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(&pair.der) else { return false };
    let end = i64::try_from(later(now).as_secs()).unwrap_or(i64::MAX);
    parsed.is_ca()
        && distinguished_name::common_name(parsed.subject()).as_deref() == Some(common_name)
        && parsed.validity().not_after.timestamp() > end
}

pub(super) fn is_good_server(pair: &Issued, authority: &Authority, names: &[String], now: UnixTime) -> bool {
    let Some(roots) = authority.roots() else { return false };
    let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(roots, config::provider()).build() else {
        return false;
    };
    let accepted = |name: &String| {
        let Ok(name) = ServerName::try_from(name.as_str()) else { return false };
        [now, later(now)].iter().all(|at| verifier.verify_server_cert(&pair.der, &[], &name, &[], *at).is_ok())
    };
    // As many as wanted and each one accepted: a host that was taken out leaves the certificate too.
    name_count(pair) == Some(names.len()) && names.iter().all(accepted)
}

pub(super) fn is_good_client(pair: &Issued, authority: &Authority, principal: &str, now: UnixTime) -> bool {
    let Some(roots) = authority.roots() else { return false };
    let Ok(verifier) = WebPkiClientVerifier::builder_with_provider(roots, config::provider()).build() else {
        return false;
    };
    let Ok((_, parsed)) = X509Certificate::from_der(&pair.der) else { return false };
    distinguished_name::common_name(parsed.subject()).as_deref() == Some(principal)
        && [now, later(now)].iter().all(|at| verifier.verify_client_cert(&pair.der, &[], *at).is_ok())
}

fn name_count(pair: &Issued) -> Option<usize> {
    let (_, parsed) = X509Certificate::from_der(&pair.der).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    Some(
        names
            .value
            .general_names
            .iter()
            .filter(|name| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_)))
            .count(),
    )
}

fn later(now: UnixTime) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_secs()).saturating_add(RENEW_BEFORE))
}
