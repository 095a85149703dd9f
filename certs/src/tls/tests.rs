//! Whole handshakes in memory.

use std::io::Read as _;
use std::path::Path;

use rustls::{ClientConnection, NamedGroup, ServerConnection};

use super::*;
use crate::Authority;
use crate::{ClientIdentity, IdentityError, Issued, write_private, write_public};


/// A server with two tenants on disk.
struct World {
    folder: tempfile::TempDir,
    server_ca: Authority,
    acme: Authority,
    globex: Authority,
    tls: ReloadingTls,
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

fn write_server(folder: &Path, issued: &Issued) {
    write_public(&folder.join("server.pem"), issued.cert_pem.as_bytes()).unwrap();
    write_private(&folder.join("server.key"), issued.key_pem.as_bytes()).unwrap();
}

fn ca(folder: &Path, label: &str) -> (Authority, ClientCa) {
    // Both CAs carry the same name: who vouched must not be told by name.
    let authority = Authority::create("client CA", "any", now_ms()).unwrap();
    let path = folder.join(format!("{label}.pem"));
    write_public(&path, authority.cert_pem().as_bytes()).unwrap();
    (authority, ClientCa { label: label.into(), path, crls: vec![] })
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let server_ca = Authority::create("server CA", "Schloss", now_ms()).unwrap();
    write_server(at, &server_ca.issue_server(&["localhost", "127.0.0.1", "acme.localhost"], now_ms()).unwrap());
    let (acme, acme_ca) = ca(at, "acme");
    let (globex, globex_ca) = ca(at, "globex");
    let host_names = vec!["localhost".into(), "acme.localhost".into()];
    let server = vec![ServerIdentity { cert: at.join("server.pem"), key: at.join("server.key"), host_names }];
    let tls = ReloadingTls::load(TlsFiles { server, client_cas: vec![acme_ca, globex_ca] }).unwrap();
    World { folder, server_ca, acme, globex, tls }
}

/// Runs a handshake; the server's view of the peer, or the first error of either side.
fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    host: &str,
) -> Result<ServerConnection, rustls::Error> {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            server.read_tls(&mut wire).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    assert!(client.reader().read(&mut [0; 1]).is_err(), "nothing was sent");
    Ok(server)
}

impl World {
    fn client(&self, issued: Option<&Issued>) -> Arc<ClientConfig> {
        let pair = issued.map(|issued| (issued.cert_pem.as_str(), issued.key_pem.as_str()));
        client_config(self.server_ca.cert_pem(), pair).unwrap()
    }

    fn connect(&self, issued: Option<&Issued>, host: &str) -> Result<ServerConnection, rustls::Error> {
        handshake(self.client(issued), Arc::clone(&self.tls.current().kafka), host)
    }
}

#[test]
fn only_tls_1_3_and_aead_suites_with_forward_secrecy_and_the_hybrid_group_first() {
    let provider = provider();
    for suite in &provider.cipher_suites {
        let name = format!("{:?}", suite.suite());
        let tls13 = name.starts_with("TLS13_");
        let tls12 = name.starts_with("TLS_ECDHE_") && (name.contains("_GCM_") || name.contains("_CHACHA20_POLY1305_"));
        assert!(tls13 || tls12, "{name}");
    }
    assert_eq!(provider.kx_groups[0].name(), NamedGroup::X25519MLKEM768);
    let world = world();
    let issued = world.acme.issue_client("producer", "acme", &[], now_ms()).unwrap();
    let server = world.connect(Some(&issued), "localhost").unwrap();
    assert_eq!(server.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
}

#[test]
fn identity_names_subject_names_and_the_ca_that_vouched() {
    let world = world();
    let issued = world.globex.issue_client("p1", "acme", &["spiffe://x/p1"], now_ms()).unwrap();
    let server = world.connect(Some(&issued), "acme.localhost").unwrap();
    let trust = Arc::clone(&world.tls.current().trust);
    let identity = ClientIdentity::from_chain(&trust, server.peer_certificates().unwrap(), now_ms()).unwrap();
    assert_eq!(identity.subject_rfc2253, "CN=p1,O=acme");
    assert_eq!(identity.san_uris, ["spiffe://x/p1"]);
    // The subject claims acme and both CAs have one name; the signature is globex's.
    assert_eq!(identity.vouched_by, "globex");
    let globex = trust.anchors().find(|(label, _)| *label == "globex").unwrap().1;
    assert_eq!(identity.issuer_ca_fingerprint, globex);
    assert!(identity.not_after_ms > now_ms());
}

#[test]
fn client_without_a_certificate_or_of_an_unknown_ca_is_refused() {
    let world = world();
    assert!(world.connect(None, "localhost").is_err());
    let stranger = Authority::create("client CA", "any", now_ms()).unwrap();
    let issued = stranger.issue_client("producer", "acme", &[], now_ms()).unwrap();
    assert!(world.connect(Some(&issued), "localhost").is_err());
    let chain: Vec<_> = CertificateDer::pem_slice_iter(issued.cert_pem.as_bytes()).map(Result::unwrap).collect();
    let trust = &world.tls.current().trust;
    assert_eq!(trust.vouching(&chain, now_ms()).unwrap_err(), IdentityError::NotVouchedFor);
}

#[test]
fn server_certificate_is_no_client_certificate() {
    let world = world();
    let issued = world.acme.issue_server(&["localhost"], now_ms()).unwrap();
    assert!(world.connect(Some(&issued), "localhost").is_err());
}

#[test]
fn expired_certificate_is_refused() {
    let world = world();
    let issued = world.acme.issue_client("producer", "acme", &[], 1_500_000_000_000).unwrap();
    assert!(world.connect(Some(&issued), "localhost").is_err());
}

#[test]
fn unknown_host_name_ends_the_handshake_and_no_host_name_gets_the_default() {
    let world = world();
    let issued = world.acme.issue_client("producer", "acme", &[], now_ms()).unwrap();
    let unknown = world.connect(Some(&issued), "secret.localhost").map(|_| ()).unwrap_err();
    let other = world.connect(Some(&issued), "globex.localhost").map(|_| ()).unwrap_err();
    assert_eq!(unknown, other);
    assert!(world.connect(Some(&issued), "127.0.0.1").is_ok());
}

#[test]
fn admin_listener_asks_for_no_client_certificate() {
    let world = world();
    let admin = Arc::clone(&world.tls.current().admin);
    assert!(handshake(world.client(None), admin, "localhost").is_ok());
}

#[test]
fn reload_shows_the_new_certificate_and_a_broken_file_changes_nothing() {
    let world = world();
    let issued = world.acme.issue_client("producer", "acme", &[], now_ms()).unwrap();
    let new_ca = Authority::create("server CA 2", "Schloss", now_ms()).unwrap();
    let renewed = new_ca.issue_server(&["localhost", "acme.localhost"], now_ms()).unwrap();
    std::fs::write(world.folder.path().join("server.pem"), "not a certificate").unwrap();
    assert!(matches!(world.tls.reload(), Err(CertError::NoCertificate { .. })));
    assert!(world.connect(Some(&issued), "localhost").is_ok());
    write_public(&world.folder.path().join("server.pem"), renewed.cert_pem.as_bytes()).unwrap();
    assert!(matches!(world.tls.reload(), Err(CertError::KeyMismatch { .. })));
    write_server(world.folder.path(), &renewed);
    world.tls.reload().unwrap();
    assert!(world.connect(Some(&issued), "localhost").is_err(), "the old CA does not vouch for the new certificate");
    let pair = Some((issued.cert_pem.as_str(), issued.key_pem.as_str()));
    let client = client_config(new_ca.cert_pem(), pair).unwrap();
    assert!(handshake(client, Arc::clone(&world.tls.current().kafka), "localhost").is_ok());
}

#[test]
fn one_ca_for_two_tenants_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_, first) = ca(folder.path(), "acme");
    let second = ClientCa { label: "globex".into(), ..first.clone() };
    assert!(matches!(ClientTrust::load(&[first, second]), Err(CertError::SharedClientCa { .. })));
}

#[test]
fn certificate_that_lacks_a_host_name_is_refused_at_load() {
    let world = world();
    let mut files = world.tls.files.read().unwrap().clone();
    files.server[0].host_names.push("globex.localhost".into());
    let error = world.tls.reload_with(files).unwrap_err();
    assert!(matches!(error, CertError::HostNotInCertificate { host, .. } if host == "globex.localhost"));
}

#[test]
fn authority_read_back_from_its_files_issues_certificates_that_are_trusted() {
    let world = world();
    let again = Authority::from_pem(world.acme.cert_pem(), world.acme.key_pem()).unwrap();
    let issued = again.issue_client("consumer", "acme", &[], now_ms()).unwrap();
    assert!(world.connect(Some(&issued), "localhost").is_ok());
}

#[test]
fn revoked_certificate_is_refused_after_reload() {
    let world = world();
    let issued = world.acme.issue_client("producer", "acme", &[], now_ms()).unwrap();
    let chain: Vec<_> = CertificateDer::pem_slice_iter(issued.cert_pem.as_bytes()).map(Result::unwrap).collect();
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    let now = time::OffsetDateTime::from_unix_timestamp(now_ms() / 1000).unwrap();
    let params = rcgen::CertificateRevocationListParams {
        this_update: now,
        next_update: now + time::Duration::days(1),
        crl_number: rcgen::SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![rcgen::RevokedCertParams {
            serial_number: rcgen::SerialNumber::from_slice(leaf.raw_serial()),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let key = rcgen::KeyPair::from_pem(world.acme.key_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(world.acme.cert_pem(), key).unwrap();
    let crl = world.folder.path().join("acme.crl");
    write_public(&crl, params.signed_by(&issuer).unwrap().pem().unwrap().as_bytes()).unwrap();
    let mut files = world.tls.files.read().unwrap().clone();
    files.client_cas[0].crls.push(crl);
    world.tls.reload_with(files).unwrap();
    assert!(world.connect(Some(&issued), "localhost").is_err());
    let other = world.acme.issue_client("consumer", "acme", &[], now_ms()).unwrap();
    assert!(world.connect(Some(&other), "localhost").is_ok());
}
