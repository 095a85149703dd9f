//! TLS configurations, and their exchange while the broker runs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::files::{read_certificates, read_private_key};
use crate::trust::{ClientCa, ClientTrust};
use crate::CertError;

/// A server certificate and the host names it is shown for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerIdentity {
    /// PEM chain, leaf first.
    pub cert: PathBuf,
    /// PEM key.
    pub key: PathBuf,
    /// Names a client may ask for (SNI). The certificate must be valid for each.
    pub host_names: Vec<String>,
}

/// All files TLS is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The first is also shown to clients that ask for no name (IP addresses, Java with `localhost`). A certificate tells all its
    /// names to everybody who connects: give each tenant's host its own to keep tenants' names apart.
    pub server: Vec<ServerIdentity>,
    /// The client CAs of all tenants.
    pub client_cas: Vec<ClientCa>,
}

/// One consistent state: handshake with `kafka`, then judge the peer's chain with `trust` of the same snapshot.
pub struct TlsSnapshot {
    /// For Kafka listeners: a client certificate is required.
    pub kafka: Arc<ServerConfig>,
    /// For the admin listener: HTTPS without client certificates.
    pub admin: Arc<ServerConfig>,
    /// Who vouches for clients.
    pub trust: Arc<ClientTrust>,
}

/// The state in force, replaced as a whole.
pub struct ReloadingTls {
    files: RwLock<TlsFiles>,
    current: RwLock<Arc<TlsSnapshot>>,
}

impl ReloadingTls {
    /// Reads everything for the first time.
    ///
    /// # Errors
    /// [`CertError`].
    pub fn load(files: TlsFiles) -> Result<Self, CertError> {
        let current = RwLock::new(Arc::new(snapshot(&files)?));
        Ok(Self { files: RwLock::new(files), current })
    }

    /// The state for the next connection.
    #[must_use]
    pub fn current(&self) -> Arc<TlsSnapshot> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again. Connections that stand keep what they have.
    ///
    /// # Errors
    /// [`CertError`]; the old state stays in force.
    pub fn reload(&self) -> Result<(), CertError> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.reload_with(files)
    }

    /// Takes other files, for example after a tenant was added.
    ///
    /// # Errors
    /// [`CertError`]; the old files and state stay in force.
    pub fn reload_with(&self, files: TlsFiles) -> Result<(), CertError> {
        let fresh = Arc::new(snapshot(&files)?);
        *self.files.write().unwrap_or_else(PoisonError::into_inner) = files;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

impl std::fmt::Debug for ReloadingTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReloadingTls").finish_non_exhaustive()
    }
}

/// A client's configuration: trusts `server_ca_pem` only, shows `client` when given.
///
/// # Errors
/// [`CertError`] when PEM cannot be read.
pub fn client_config(server_ca_pem: &str, client: Option<(&str, &str)>) -> Result<Arc<ClientConfig>, CertError> {
    let no_certificate = || CertError::NoCertificate { path: "ca.pem".into() };
    let no_key = || CertError::NoPrivateKey { path: "key.pem".into() };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(server_ca_pem.as_bytes()) {
        roots.add(certificate.map_err(|_| no_certificate())?)?;
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some((cert_pem, key_pem)) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert_pem.as_bytes()).collect();
            let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| no_key())?;
            builder.with_client_auth_cert(chain.map_err(|_| no_certificate())?, key)?
        }
    };
    Ok(Arc::new(config))
}

/// aws-lc-rs with its default suites: TLS 1.3, and TLS 1.2 with ECDHE and AEAD; X25519MLKEM768 first. A test holds this.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn snapshot(files: &TlsFiles) -> Result<TlsSnapshot, CertError> {
    let names = Arc::new(HostNames::load(&files.server)?);
    let trust = Arc::new(ClientTrust::load(&files.client_cas)?);
    let builder = || ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13, &TLS12]);
    let resolver = Arc::clone(&names) as Arc<dyn ResolvesServerCert>;
    let mut kafka = builder()?.with_client_cert_verifier(trust.verifier()).with_cert_resolver(resolver);
    let mut admin = builder()?.with_no_client_auth().with_cert_resolver(names);
    for config in [&mut kafka, &mut admin] {
        // SECURITY: a resumed session would carry a certificate past its revocation.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    admin.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsSnapshot { kafka: Arc::new(kafka), admin: Arc::new(admin), trust })
}

/// Certificates by host name.
struct HostNames {
    default: Arc<CertifiedKey>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl HostNames {
    fn load(identities: &[ServerIdentity]) -> Result<Self, CertError> {
        let mut default = None;
        let mut by_name = HashMap::new();
        for identity in identities {
            let certified = Arc::new(certified(identity)?);
            for host in &identity.host_names {
                check_host(identity, &certified, host)?;
                by_name.insert(host.to_ascii_lowercase(), Arc::clone(&certified));
            }
            default.get_or_insert(certified);
        }
        Ok(Self { default: default.ok_or(CertError::NoServerIdentity)?, by_name })
    }
}

impl ResolvesServerCert for HostNames {
    /// `None` ends the handshake: every unknown name fails in the same way.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match hello.server_name() {
            None => Some(Arc::clone(&self.default)),
            Some(name) => self.by_name.get(&name.to_ascii_lowercase()).cloned(),
        }
    }
}

impl std::fmt::Debug for HostNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostNames").field("names", &self.by_name.len()).finish_non_exhaustive()
    }
}

fn certified(identity: &ServerIdentity) -> Result<CertifiedKey, CertError> {
    let chain = read_certificates(&identity.cert)?;
    let key = read_private_key(&identity.key)?;
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|_| CertError::KeyMismatch { cert: identity.cert.clone(), key: identity.key.clone() })
}

fn check_host(identity: &ServerIdentity, certified: &CertifiedKey, host: &str) -> Result<(), CertError> {
    let not_valid = || CertError::HostNotInCertificate { cert: identity.cert.clone(), host: host.to_owned() };
    let name = ServerName::try_from(host).map_err(|_| not_valid())?;
    let leaf = certified.end_entity_cert().map_err(|_| not_valid())?;
    let parsed = ParsedCertificate::try_from(leaf).map_err(|_| not_valid())?;
    rustls::client::verify_server_name(&parsed, &name).map_err(|_| not_valid())
}

#[cfg(test)]
mod tests;
