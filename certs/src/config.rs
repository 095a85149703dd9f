//! rustls configs: the one place where protocol versions, suites and key exchanges are chosen.
//!
//! Invariants: as in the head of the crate. `SECURITY:` the lists are written out, so that an update of the library
//! adds nothing to them by itself.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::CertificateDer;

use crate::client_ca::{ClientAuthorities, Optional};
use crate::{TlsError, files};

static VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// Versions apart, what is offered and accepted on every connection.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    })
}

/// Whether a Kafka listener asks its clients for certificates (Kafka's `ssl.client.auth`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// It does not.
    None,
    /// It does; who shows none must prove itself otherwise. One that is shown must be a tenant's.
    Requested,
    /// It does; without one there is no connection.
    Required,
}

/// For Kafka clients.
pub(crate) fn kafka(
    provider: &Arc<CryptoProvider>,
    clients: &Arc<ClientAuthorities>,
    wish: ClientCertificate,
    hosts: Arc<HostResolver>,
) -> Result<ServerConfig, TlsError> {
    let clients: Arc<dyn ClientCertVerifier> = match wish {
        ClientCertificate::None => WebPkiClientVerifier::no_client_auth(),
        ClientCertificate::Requested => Arc::new(Optional(Arc::clone(clients))),
        ClientCertificate::Required => Arc::<ClientAuthorities>::clone(clients),
    };
    server(provider, clients, hosts)
}

/// For health checks, scrapers and operators: a certificate may be shown, and is then judged by `operators` alone.
pub(crate) fn admin(
    provider: &Arc<CryptoProvider>,
    operators: Vec<CertificateDer<'static>>,
    hosts: Arc<HostResolver>,
) -> Result<ServerConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in operators {
        roots.add(authority)?;
    }
    let clients = if roots.is_empty() {
        WebPkiClientVerifier::no_client_auth()
    } else {
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .allow_unauthenticated()
            .build()
            .map_err(|_unusable| TlsError::BadOperatorAuthority)?
    };
    let mut config = server(provider, clients, hosts)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn server(
    provider: &Arc<CryptoProvider>,
    clients: Arc<dyn ClientCertVerifier>,
    hosts: Arc<HostResolver>,
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&VERSIONS)?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(hosts);
    // SECURITY: a resumed session would carry a certificate that may be revoked since, or its CA withdrawn.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// A client's side with a certificate of its own, as the demo uses it. All three are PEM texts.
///
/// # Errors
/// When a text is not what its name says, or certificate and key are no pair.
pub fn client_config(ca_pem: &[u8], cert_pem: &[u8], key_pem: &[u8]) -> Result<Arc<ClientConfig>, TlsError> {
    let chain = files::certificates(Path::new("cert.pem"), cert_pem)?;
    let key = files::private_key(Path::new("key.pem"), key_pem)?;
    let mut config = trusting(ca_pem)?.with_client_auth_cert(chain, key)?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A client's side that shows no certificate, for the admin listener.
///
/// # Errors
/// When the text holds no usable authority.
pub fn server_trust_config(ca_pem: &[u8]) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = trusting(ca_pem)?.with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn trusting(ca_pem: &[u8]) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in files::certificates(Path::new("ca.pem"), ca_pem)? {
        roots.add(authority)?;
    }
    Ok(ClientConfig::builder_with_provider(provider()).with_protocol_versions(&VERSIONS)?.with_root_certificates(roots))
}

/// Host names the broker answers to, apart from those in its certificate. Changed in place.
#[derive(Debug, Default)]
pub(crate) struct Hosts(RwLock<HashSet<String>>);

impl Hosts {
    pub(crate) fn set(&self, hosts: Vec<String>) {
        let hosts = hosts.into_iter().map(|host| normal(&host)).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = hosts;
    }

    fn contains(&self, name: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(name)
    }
}

/// Shows the broker's certificate to peers that dial a name it has, and to those that dial none.
#[derive(Debug)]
pub(crate) struct HostResolver {
    pub(crate) certified: Arc<CertifiedKey>,
    /// DNS names of the certificate.
    pub(crate) own: Vec<String>,
    pub(crate) hosts: Arc<Hosts>,
}

impl HostResolver {
    pub(crate) fn answers_to(&self, name: &str) -> bool {
        let name = normal(name);
        name == "localhost" || self.hosts.contains(&name) || self.own.iter().any(|own| covers(&normal(own), &name))
    }
}

impl ResolvesServerCert for HostResolver {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match client_hello.server_name() {
            Some(name) if !self.answers_to(name) => None,
            _ => Some(Arc::clone(&self.certified)),
        }
    }
}

/// Whether a certificate's name covers a host's; a leading `*` stands for one label.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(rest) => name.split_once('.').is_some_and(|(label, parent)| !label.is_empty() && parent == rest),
        None => pattern == name,
    }
}

fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_stands_for_exactly_one_label() {
        assert!(covers("*.kafka.example", "acme.kafka.example"));
        assert!(!covers("*.kafka.example", "a.b.kafka.example"));
        assert!(!covers("*.kafka.example", "kafka.example"));
        assert!(!covers("*.kafka.example", ".kafka.example"));
    }

    #[test]
    fn every_suite_of_tls_1_2_has_ephemeral_keys_and_an_aead() {
        for suite in provider().cipher_suites.iter().filter(|suite| suite.tls13().is_none()) {
            let name = format!("{:?}", suite.suite());
            assert!(name.contains("_ECDHE_") && (name.contains("_GCM_") || name.contains("_POLY1305_")), "{name}");
        }
    }

    #[test]
    fn hybrid_key_exchange_is_offered_first() {
        assert_eq!(provider().kx_groups[0].name(), rustls::NamedGroup::X25519MLKEM768);
    }
}
