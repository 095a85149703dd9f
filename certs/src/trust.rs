//! Which client CAs are trusted, and whose each of them is.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};

use crate::files::{read_certificates, read_crls};
use crate::{CertError, IdentityError, sha256, tls};

/// A tenant's client CA on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCa {
    /// Whose it is, in the caller's words (a tenant's id). Comes back in [`crate::ClientIdentity::vouched_by`].
    pub label: String,
    /// PEM with one or more CA certificates.
    pub path: PathBuf,
    /// PEM with revocation lists; none is allowed.
    pub crls: Vec<PathBuf>,
}

/// The trust anchors in force.
pub struct ClientTrust {
    anchors: Vec<Anchor>,
    all: Arc<dyn ClientCertVerifier>,
}

struct Anchor {
    label: String,
    fingerprint: [u8; 32],
    key_info: Vec<u8>,
    subject: Vec<u8>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl ClientTrust {
    /// Reads all CAs.
    ///
    /// # Errors
    /// [`CertError`]: unreadable, no CA, or one key trusted for two labels.
    pub fn load(cas: &[ClientCa]) -> Result<Self, CertError> {
        let mut anchors: Vec<Anchor> = Vec::new();
        let (mut all, mut all_crls) = (RootCertStore::empty(), Vec::new());
        for ca in cas {
            let mut crls = Vec::new();
            for path in &ca.crls {
                crls.extend(read_crls(path)?);
            }
            for certificate in read_certificates(&ca.path)? {
                let anchor = Anchor::new(ca, &certificate, &crls)?;
                if let Some(other) = anchors.iter().find(|a| a.key_info == anchor.key_info && a.label != anchor.label) {
                    return Err(CertError::SharedClientCa { first: other.label.clone(), second: anchor.label });
                }
                if anchors.iter().any(|a| a.fingerprint == anchor.fingerprint) {
                    continue;
                }
                all.add(certificate).map_err(|_| bad(ca))?;
                anchors.push(anchor);
            }
            all_crls.extend(crls);
        }
        if anchors.is_empty() {
            return Err(CertError::NoClientCa);
        }
        let all = verifier(all, all_crls, true).map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self { anchors, all })
    }

    /// For the handshake: any of the CAs.
    pub(crate) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.all)
    }

    /// The one CA whose signature stands behind `chain` (leaf first): its label and fingerprint.
    ///
    /// # Errors
    /// [`IdentityError`] when none or more than one vouches.
    pub fn vouching(&self, chain: &[CertificateDer<'_>], now_ms: i64) -> Result<(&str, [u8; 32]), IdentityError> {
        let (leaf, intermediates) = chain.split_first().ok_or(IdentityError::NoCertificate)?;
        let since_1970 = std::time::Duration::from_millis(u64::try_from(now_ms).unwrap_or(0));
        let now = UnixTime::since_unix_epoch(since_1970);
        // Names only narrow the search; the signature decides.
        let issuers: Vec<Vec<u8>> = chain.iter().filter_map(|certificate| Some(names(certificate)?.1)).collect();
        let mut vouching = self.anchors.iter().filter(|anchor| {
            issuers.contains(&anchor.subject) && anchor.verifier.verify_client_cert(leaf, intermediates, now).is_ok()
        });
        let first = vouching.next().ok_or(IdentityError::NotVouchedFor)?;
        // One tenant may list old and new certificates of one CA; two tenants never share one.
        if vouching.any(|other| other.label != first.label) {
            return Err(IdentityError::Ambiguous);
        }
        Ok((&first.label, first.fingerprint))
    }

    /// Label and fingerprint of every CA.
    pub fn anchors(&self) -> impl Iterator<Item = (&str, [u8; 32])> {
        self.anchors.iter().map(|anchor| (anchor.label.as_str(), anchor.fingerprint))
    }
}

impl std::fmt::Debug for ClientTrust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTrust").field("anchors", &self.anchors.len()).finish_non_exhaustive()
    }
}

impl Anchor {
    fn new(
        ca: &ClientCa,
        certificate: &CertificateDer<'_>,
        crls: &[CertificateRevocationListDer<'static>],
    ) -> Result<Self, CertError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| bad(ca))?;
        if !parsed.is_ca() {
            return Err(bad(ca));
        }
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone().into_owned()).map_err(|_| bad(ca))?;
        Ok(Self {
            label: ca.label.clone(),
            fingerprint: sha256(certificate),
            key_info: parsed.public_key().raw.to_vec(),
            subject: parsed.subject().as_raw().to_vec(),
            verifier: verifier(roots, crls.to_vec(), false).map_err(|_| bad(ca))?,
        })
    }
}

fn verifier(
    roots: RootCertStore,
    crls: Vec<CertificateRevocationListDer<'static>>,
    hide_names: bool,
) -> Result<Arc<dyn ClientCertVerifier>, rustls::server::VerifierBuilderError> {
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider())
        .with_crls(crls)
        .allow_unknown_revocation_status();
    if hide_names {
        // SECURITY: the names of tenants' CAs are not shown to everybody who connects.
        builder = builder.clear_root_hint_subjects();
    }
    builder.build()
}

/// Raw subject and issuer of a certificate.
fn names(certificate: &CertificateDer<'_>) -> Option<(Vec<u8>, Vec<u8>)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some((parsed.subject().as_raw().to_vec(), parsed.issuer().as_raw().to_vec()))
}

fn bad(ca: &ClientCa) -> CertError {
    CertError::BadClientCa { label: ca.label.clone(), path: ca.path.clone() }
}
