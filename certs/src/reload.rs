//! TLS of a running broker: configs made from files, swapped when the files change.
//!
//! In: [`TlsFiles`], allowed host names. Out: server configs for the next connection, identities of peers.
//!
//! Invariants
//! - A generation (configs, authorities) is whole: no reader sees the certificate of one and the authorities of another.
//! - Contents that were refused are reported once, and looked at again only when they change.
//!
//! Must not: hold a lock while reading files; keep the key's bytes beyond the making of a config.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use aws_lc_rs::digest;
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::client_ca::ClientAuthorities;
use crate::config::{self, ClientCertificate, HostResolver, Hosts};
use crate::{ClientIdentity, IdentityError, TlsError, distinguished_name, files};

/// Where the PEM files are.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's chain, its own certificate first.
    pub certificate: PathBuf,
    /// The server's private key.
    pub key: PathBuf,
    /// Folder of `<tenant alias>.pem`: that tenant's client CAs and, if wanted, their revocation lists; these may also
    /// stand in `<tenant alias>.crl` (PEM).
    pub client_ca_dir: PathBuf,
    /// The CA of operators' client certificates, for the admin listener; without one nobody is an operator.
    pub operator_ca: Option<PathBuf>,
}

/// The configs in force, and the means to replace them while connections go on.
#[derive(Debug)]
pub struct ReloadingTls {
    files: TlsFiles,
    hosts: Arc<Hosts>,
    current: RwLock<Arc<Generation>>,
    /// Digest of the contents refused last.
    refused: Mutex<Option<[u8; 32]>>,
}

#[derive(Debug)]
struct Generation {
    kafka: [Arc<ServerConfig>; 3],
    resolver: Arc<HostResolver>,
    admin: Arc<ServerConfig>,
    authorities: Arc<ClientAuthorities>,
    digest: [u8; 32],
}

impl ReloadingTls {
    /// Reads the files and makes the first generation. `hosts` are the names answered to besides the certificate's own.
    ///
    /// # Errors
    /// When a file is missing, malformed, out of date or contradicts another.
    pub fn open(files: TlsFiles, hosts: Vec<String>) -> Result<Arc<Self>, TlsError> {
        let names = Arc::new(Hosts::default());
        names.set(hosts);
        let (digest, contents) = Contents::read(&files);
        let first = Generation::new(&files, &contents?, digest, &names)?;
        Ok(Arc::new(Self { files, hosts: names, current: RwLock::new(Arc::new(first)), refused: Mutex::new(None) }))
    }

    /// For the next Kafka connection.
    #[must_use]
    pub fn kafka_config(&self, wish: ClientCertificate) -> Arc<ServerConfig> {
        let [none, requested, required] = &self.current().kafka;
        Arc::clone(match wish {
            ClientCertificate::None => none,
            ClientCertificate::Requested => requested,
            ClientCertificate::Required => required,
        })
    }

    /// Whether the broker is known by this host name: its certificate's, a tenant's, or `localhost`.
    #[must_use]
    pub fn answers_to(&self, name: &str) -> bool {
        self.current().resolver.answers_to(name)
    }

    /// Whether a certificate that was accepted once would be accepted now: not run out, not revoked, its CA still there
    /// and still the same tenant's.
    #[must_use]
    pub fn is_still_good(&self, identity: &ClientIdentity) -> bool {
        let current = self.current();
        identity.is_vouched_by(&current.authorities, UnixTime::now())
    }

    /// For the next HTTPS connection of the admin listener: an operator's certificate is welcome, none is needed; HTTP/1.1.
    #[must_use]
    pub fn admin_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current().admin)
    }

    /// The common name of the operator whose certificate the peer of an admin connection proved, if it showed one.
    #[must_use]
    pub fn operator(&self, connection: &ServerConnection) -> Option<String> {
        // The handshake has judged the chain by the operators' authority, the only one that listener knows.
        let leaf = connection.peer_certificates()?.first()?;
        let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
        distinguished_name::common_name(parsed.subject())
    }

    /// Whose certificate the peer proved, judged by the authorities in force now.
    ///
    /// # Errors
    /// When the peer showed none, or no single tenant vouches for it (any more).
    pub fn client_identity(&self, connection: &ServerConnection) -> Result<ClientIdentity, IdentityError> {
        let current = self.current();
        ClientIdentity::of(connection, &current.authorities, UnixTime::now())
    }

    /// Reads the files again; `true` when they changed and are now in force. Blocks on the disk.
    ///
    /// # Errors
    /// When they changed and cannot be used. The old ones stay in force, and the same contents are not reported again.
    pub fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let (digest, contents) = Contents::read(&self.files);
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if self.current().digest == digest {
            *refused = None;
            return Ok(false);
        }
        if *refused == Some(digest) {
            return Ok(false);
        }
        let made = contents.and_then(|contents| Generation::new(&self.files, &contents, digest, &self.hosts));
        *refused = made.is_err().then_some(digest);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(made?);
        Ok(true)
    }

    /// Replaces the names answered to besides `localhost` and the certificate's own, from the next handshake on.
    pub fn set_hosts(&self, hosts: Vec<String>) {
        self.hosts.set(hosts);
    }

    fn current(&self) -> Arc<Generation> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Generation {
    fn new(paths: &TlsFiles, contents: &Contents, digest: [u8; 32], hosts: &Arc<Hosts>) -> Result<Self, TlsError> {
        let provider = config::provider();
        let chain = files::certificates(&paths.certificate, &contents.certificate)?;
        let own = judge_server_certificate(paths, chain.first())?;
        let key = files::private_key(&paths.key, &contents.key)?;
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::KeyMismatch { certificate: paths.certificate.clone(), key: paths.key.clone() }
            }
            _ => TlsError::BadKey { path: paths.key.clone() },
        })?;
        if contents.authorities.is_empty() {
            return Err(TlsError::NoAuthority { folder: paths.client_ca_dir.clone() });
        }
        let authorities = Arc::new(ClientAuthorities::new(&contents.authorities, &provider)?);
        let resolver = Arc::new(HostResolver { certified: Arc::new(certified), own, hosts: Arc::clone(hosts) });
        let kafka = |wish| config::kafka(&provider, &authorities, wish, Arc::clone(&resolver)).map(Arc::new);
        let operators = match (&paths.operator_ca, &contents.operator_ca) {
            (Some(path), Some(pem)) => files::certificates(path, pem)?,
            _ => Vec::new(),
        };
        Ok(Self {
            kafka: [
                kafka(ClientCertificate::None)?,
                kafka(ClientCertificate::Requested)?,
                kafka(ClientCertificate::Required)?,
            ],
            admin: Arc::new(config::admin(&provider, operators, Arc::clone(&resolver))?),
            resolver,
            authorities,
            digest,
        })
    }
}

/// The DNS names of the server's certificate, if it is valid now.
fn judge_server_certificate(files: &TlsFiles, leaf: Option<&CertificateDer<'static>>) -> Result<Vec<String>, TlsError> {
    let path = || files.certificate.clone();
    let leaf = leaf.ok_or_else(|| TlsError::NoCertificate { path: path() })?;
    let (_, parsed) =
        X509Certificate::from_der(leaf).map_err(|_malformed| TlsError::BadCertificate { path: path() })?;
    let validity = parsed.validity();
    let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
    if now < validity.not_before.timestamp() || now > validity.not_after.timestamp() {
        return Err(TlsError::NotValidNow {
            path: path(),
            not_before: validity.not_before.to_string(),
            not_after: validity.not_after.to_string(),
        });
    }
    let names = parsed.subject_alternative_name().map_err(|_twice| TlsError::BadCertificate { path: path() })?;
    let dns = names.into_iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        _ => None,
    });
    Ok(dns.collect())
}

/// All files at one look.
struct Contents {
    certificate: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
    authorities: Vec<(PathBuf, Vec<u8>)>,
    operator_ca: Option<Vec<u8>>,
}

impl Contents {
    /// The digest covers what could not be read too, so that the same failure is known again.
    fn read(files: &TlsFiles) -> ([u8; 32], Result<Self, TlsError>) {
        let mut digest = digest::Context::new(&digest::SHA256);
        let contents = Self::read_into(files, &mut digest);
        if let Err(error) = &contents {
            add(&mut digest, error.to_string().as_bytes());
        }
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(digest.finish().as_ref()) {
            *to = *from;
        }
        (bytes, contents)
    }

    fn read_into(files: &TlsFiles, digest: &mut digest::Context) -> Result<Self, TlsError> {
        let certificate = files::read(&files.certificate)?;
        add(digest, &certificate);
        let key = files::read(&files.key)?;
        add(digest, &key);
        let mut authorities = Vec::new();
        for path in files::pem_files(&files.client_ca_dir)? {
            let mut bytes = files::read(&path)?;
            add(digest, path.as_os_str().as_encoded_bytes());
            add(digest, &bytes);
            // `<alias>.crl` beside it, when there is one: revocation lists come by other ways than authorities.
            let list = path.with_extension("crl");
            if list.exists() {
                let more = files::read(&list)?;
                add(digest, &more);
                bytes.push(b'\n');
                bytes.extend_from_slice(&more);
            }
            authorities.push((path, std::mem::take(&mut *bytes)));
        }
        let operator_ca = match &files.operator_ca {
            Some(path) => {
                let mut bytes = files::read(path)?;
                add(digest, &bytes);
                Some(std::mem::take(&mut *bytes))
            }
            None => None,
        };
        Ok(Self { certificate, key, authorities, operator_ca })
    }
}

/// Adds a length before the bytes, so that no two sets of files run together to the same text.
fn add(digest: &mut digest::Context, bytes: &[u8]) {
    digest.update(&bytes.len().to_be_bytes());
    digest.update(bytes);
}

#[cfg(test)]
mod tests;
