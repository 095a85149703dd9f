//! The tenants' client authorities, and which one of them vouches for a peer.
//!
//! In: `<tenant alias>.pem` files, a peer's chain. Out: the alias of the one tenant that vouches, or a refusal.
//!
//! Invariants
//! - A tenant's authorities are asked apart from all others: neither a certificate nor a revocation list of one
//!   tenant takes part in a chain of another.
//! - No authority's key stands under two tenants, and a chain that two tenants vouch for is nobody's.
//!
//! Must not: tell the peer which tenants exist, neither by hints nor by different alerts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{TlsError, files};

/// Certificates a peer may send besides its own. Each one multiplies the paths to try, before anyone has logged in.
const INTERMEDIATES_MAX: usize = 4;
const ALIAS_BYTES_MAX: usize = 64;

/// Every tenant's client authorities.
#[derive(Debug)]
pub(crate) struct ClientAuthorities {
    tenants: Vec<TenantAuthority>,
    /// Which tenants have an authority of this subject: only these are asked.
    by_subject: HashMap<Vec<u8>, Vec<usize>>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct TenantAuthority {
    alias: Arc<str>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl ClientAuthorities {
    /// Builds the set from the files' names and contents.
    pub(crate) fn new(files: &[(PathBuf, Vec<u8>)], provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let mut set = Self { tenants: Vec::new(), by_subject: HashMap::new(), provider: Arc::clone(provider) };
        let mut holders: HashMap<Vec<u8>, &Path> = HashMap::new();
        for (path, pem) in files {
            let authorities = files::certificates(path, pem)?;
            for authority in &authorities {
                let facts = AuthorityFacts::read(path, authority)?;
                // SECURITY: compared by key, not by certificate: a second certificate of the same key would vouch as well.
                if let Some(other) = holders.insert(facts.key, path)
                    && other != path.as_path()
                {
                    return Err(TlsError::SharedAuthority { path: path.clone(), other: other.to_owned() });
                }
                let asked = set.by_subject.entry(facts.subject).or_default();
                if !asked.contains(&set.tenants.len()) {
                    asked.push(set.tenants.len());
                }
            }
            let verifier = verifier(path, authorities, files::revocation_lists(path, pem)?, provider)?;
            set.tenants.push(TenantAuthority { alias: alias(path)?, verifier });
        }
        Ok(set)
    }

    /// The alias of the one tenant that vouches for the chain now.
    pub(crate) fn vouch(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Arc<str>, Error> {
        if intermediates.len() > INTERMEDIATES_MAX {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let mut vouching: Option<Arc<str>> = None;
        let mut refusal = CertificateError::UnknownIssuer;
        for tenant in self.candidates(leaf, intermediates)? {
            match tenant.verifier.verify_client_cert(leaf, intermediates, now) {
                Ok(_) if vouching.is_some() => return Err(CertificateError::UnknownIssuer.into()),
                Ok(_) => vouching = Some(Arc::clone(&tenant.alias)),
                Err(Error::InvalidCertificate(reason)) => refusal = told(reason),
                Err(_) => {}
            }
        }
        vouching.ok_or_else(|| refusal.into())
    }

    fn candidates(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<Vec<&TenantAuthority>, Error> {
        let mut found = Vec::new();
        for certificate in std::iter::once(leaf).chain(intermediates) {
            let (_, parsed) =
                X509Certificate::from_der(certificate).map_err(|_malformed| CertificateError::BadEncoding)?;
            found.extend(self.by_subject.get(parsed.issuer().as_raw()).into_iter().flatten().copied());
        }
        found.sort_unstable();
        found.dedup();
        Ok(found.into_iter().filter_map(|at| self.tenants.get(at)).collect())
    }
}

/// What the peer may learn: that its own certificate ran out or was revoked. Anything else, such as a forged
/// signature under the name of an authority that exists, is told as an authority nobody knows.
fn told(reason: CertificateError) -> CertificateError {
    match reason {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. }
        | CertificateError::Revoked => reason,
        _ => CertificateError::UnknownIssuer,
    }
}

impl ClientCertVerifier for ClientAuthorities {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // SECURITY: hints go to peers nobody has identified yet, and would list all tenants.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.vouch(end_entity, intermediates, now).map(|_alias| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The same, for listeners where a peer may come without a certificate.
#[derive(Debug)]
pub(crate) struct Optional(pub(crate) Arc<ClientAuthorities>);

impl ClientCertVerifier for Optional {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

struct AuthorityFacts {
    subject: Vec<u8>,
    key: Vec<u8>,
}

impl AuthorityFacts {
    fn read(path: &Path, der: &CertificateDer<'_>) -> Result<Self, TlsError> {
        let (_, parsed) =
            X509Certificate::from_der(der).map_err(|_malformed| TlsError::BadCertificate { path: path.to_owned() })?;
        if !parsed.is_ca() {
            return Err(TlsError::NotAnAuthority { path: path.to_owned() });
        }
        Ok(Self { subject: parsed.subject().as_raw().to_vec(), key: parsed.public_key().raw.to_vec() })
    }
}

fn verifier(
    path: &Path,
    authorities: Vec<CertificateDer<'static>>,
    revoked: Vec<rustls_pki_types::CertificateRevocationListDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|_malformed| TlsError::BadCertificate { path: path.to_owned() })?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .with_crls(revoked)
        .allow_unknown_revocation_status()
        .build()
        .map_err(|_unusable| TlsError::BadRevocationList { path: path.to_owned() })
}

fn alias(path: &Path) -> Result<Arc<str>, TlsError> {
    let wanted = |stem: &&str| {
        stem.len() <= ALIAS_BYTES_MAX && stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let stem = path.file_stem().and_then(|stem| stem.to_str()).filter(wanted);
    stem.map(Arc::from).ok_or_else(|| TlsError::BadAlias { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::Fixture;
    use crate::{config, distinguished_name};

    fn authorities(fixture: &Fixture) -> ClientAuthorities {
        let paths = files::pem_files(&fixture.tls_files().client_ca_dir).unwrap();
        let read = paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect::<Vec<_>>();
        ClientAuthorities::new(&read, &config::provider()).unwrap()
    }

    fn leaf(fixture: &Fixture) -> CertificateDer<'static> {
        let path = fixture.client_folder("acme").join("cert.pem");
        files::certificates(&path, &fs::read(&path).unwrap()).unwrap().remove(0)
    }

    #[test]
    fn certificate_with_any_byte_changed_is_nobodys() {
        let fixture = Fixture::new();
        let (authorities, leaf) = (authorities(&fixture), leaf(&fixture));
        assert_eq!(&*authorities.vouch(&leaf, &[], UnixTime::now()).unwrap(), "acme");
        for at in 0..leaf.len() {
            for mask in [0x01, 0x80] {
                let mut bytes = leaf.to_vec();
                bytes[at] ^= mask;
                if let Ok((_, parsed)) = X509Certificate::from_der(&bytes) {
                    let _ = distinguished_name::rfc2253(parsed.subject());
                }
                assert!(authorities.vouch(&CertificateDer::from(bytes), &[], UnixTime::now()).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn longer_chain_than_the_bound_is_refused_before_any_signature_is_checked() {
        let fixture = Fixture::new();
        let (authorities, leaf) = (authorities(&fixture), leaf(&fixture));
        let chain = vec![leaf.clone(); INTERMEDIATES_MAX + 1];
        assert!(authorities.vouch(&leaf, &chain[1..], UnixTime::now()).is_ok());
        assert!(authorities.vouch(&leaf, &chain, UnixTime::now()).is_err());
    }

    #[test]
    fn unidentified_peer_is_given_no_list_of_tenants() {
        assert!(authorities(&Fixture::new()).root_hint_subjects().is_empty());
    }
}
