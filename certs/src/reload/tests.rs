//! Promises of the TLS a client meets.

use std::fs;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, KeyIdMethod, KeyPair,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls::{AlertDescription, CertificateError, Error, HandshakeKind, NamedGroup, ProtocolVersion};
use time::{Duration, OffsetDateTime};

use crate::dev::Pki;
use crate::testing::{Fixture, client_in, handshake, text};
use crate::{
    ClientCertificate, ClientIdentity, IdentityError, ReloadingTls, TlsError, client_config, server_trust_config,
};

fn login(fixture: &Fixture, tls: &ReloadingTls, tenant: &str) -> ClientIdentity {
    let server =
        handshake(fixture.client(tenant), tls.kafka_config(ClientCertificate::Required), "localhost").server.unwrap();
    tls.client_identity(&server).unwrap()
}

/// A client certificate of the tenant's own authority, made to measure.
fn client_signed_by(
    fixture: &Fixture,
    tenant: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> Arc<rustls::ClientConfig> {
    let mut params = CertificateParams::default();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &fixture.authority(tenant)).unwrap();
    let ca = text(&fixture.client_folder(tenant).join("ca.pem"));
    client_config(ca.as_bytes(), certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
}

#[test]
fn client_is_of_the_tenant_whose_authority_vouches() {
    let fixture = Fixture::new();
    let tls = fixture.open().unwrap();
    let identity = login(&fixture, &tls, "acme");
    assert_eq!(
        (identity.tenant.as_str(), identity.subject.as_str(), identity.common_name.as_deref()),
        ("acme", "CN=producer,O=acme", Some("producer"))
    );
    assert_eq!(identity.fingerprint_hex().len(), 64);
    assert!(identity.not_after_ms > OffsetDateTime::now_utc().unix_timestamp() * 1000);
    assert_eq!(login(&fixture, &tls, "globex").tenant, "globex");
}

#[test]
fn certificate_that_names_another_tenant_is_still_of_its_authority() {
    let fixture = Fixture::new();
    let tls = fixture.open().unwrap();
    let client =
        client_signed_by(&fixture, "globex", |params| params.distinguished_name.push(DnType::OrganizationName, "acme"));
    let server = handshake(client, tls.kafka_config(ClientCertificate::Required), "localhost").server.unwrap();
    assert_eq!(tls.client_identity(&server).unwrap().tenant, "globex");
}

#[test]
fn alternative_names_are_read_by_kind() {
    let fixture = Fixture::new();
    let tls = fixture.open().unwrap();
    let client = client_signed_by(&fixture, "acme", |params| {
        params.subject_alt_names = vec![
            SanType::URI("spiffe://acme/ns/a".try_into().unwrap()),
            SanType::DnsName("a.acme".try_into().unwrap()),
            SanType::Rfc822Name("a@acme".try_into().unwrap()),
        ];
    });
    let server = handshake(client, tls.kafka_config(ClientCertificate::Required), "localhost").server.unwrap();
    let identity = tls.client_identity(&server).unwrap();
    assert_eq!(
        (identity.uris, identity.dns, identity.emails),
        (vec!["spiffe://acme/ns/a".to_owned()], vec!["a.acme".to_owned()], vec!["a@acme".to_owned()])
    );
}

#[test]
fn client_without_certificate_is_refused_by_kafka_and_served_by_admin() {
    let fixture = Fixture::new();
    let tls = fixture.open().unwrap();
    let bare = server_trust_config(&fs::read(fixture.client_folder("acme").join("ca.pem")).unwrap()).unwrap();
    assert!(matches!(
        handshake(Arc::clone(&bare), tls.kafka_config(ClientCertificate::Required), "localhost").server,
        Err(Error::NoCertificatesPresented)
    ));
    let admin = handshake(bare, tls.admin_config(), "localhost").server.unwrap();
    assert!(matches!(tls.client_identity(&admin), Err(IdentityError::NoCertificate)));
}

#[test]
fn where_a_certificate_is_welcome_none_is_needed_and_a_foreign_one_is_refused() {
    let fixture = Fixture::new();
    let tls = fixture.open().unwrap();
    let ca = fs::read(fixture.client_folder("acme").join("ca.pem")).unwrap();
    let server = || tls.kafka_config(ClientCertificate::Requested);
    let bare = handshake(server_trust_config(&ca).unwrap(), server(), "localhost").server.unwrap();
    assert!(matches!(tls.client_identity(&bare), Err(IdentityError::NoCertificate)));
    let shown = handshake(fixture.client("acme"), server(), "localhost").server.unwrap();
    assert_eq!(tls.client_identity(&shown).unwrap().tenant, "acme");
    let foreign = Fixture::new();
    let folder = foreign.client_folder("acme");
    let config =
        client_config(&ca, &fs::read(folder.join("cert.pem")).unwrap(), &fs::read(folder.join("key.pem")).unwrap());
    assert!(handshake(config.unwrap(), server(), "localhost").is_refused());
}

#[test]
fn forged_authority_and_unknown_authority_look_the_same_to_the_peer() {
    let fixture = Fixture::new();
    let tls = fixture.open().unwrap();
    let others = Fixture::new();
    let ca = fs::read(fixture.client_folder("acme").join("ca.pem")).unwrap();
    let alert_for = |folder: &std::path::Path| {
        let client =
            client_config(&ca, &fs::read(folder.join("cert.pem")).unwrap(), &fs::read(folder.join("key.pem")).unwrap())
                .unwrap();
        handshake(client, tls.kafka_config(ClientCertificate::Required), "localhost").client.unwrap_err()
    };
    // The other fixture's acme has an authority of the same name with another key.
    let forged = alert_for(&others.client_folder("acme"));
    others.pki.client("initech", "producer", &others.client_folder("initech"), 9094).unwrap();
    let unknown = alert_for(&others.client_folder("initech"));
    assert_eq!(forged, Error::AlertReceived(AlertDescription::UnknownCA));
    assert_eq!(forged, unknown);
}

#[test]
fn expired_client_is_told_so_and_refused() {
    let fixture = Fixture::new();
    let past = Pki::open_at(&fixture.path("."), OffsetDateTime::now_utc().saturating_sub(Duration::days(400))).unwrap();
    let folder = fixture.folder.path().join("late");
    past.client("acme", "late", &folder, 9094).unwrap();
    let outcome =
        handshake(client_in(&folder), fixture.open().unwrap().kafka_config(ClientCertificate::Required), "localhost");
    assert!(matches!(
        outcome.server,
        Err(Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }))
    ));
    assert_eq!(outcome.client.unwrap_err(), Error::AlertReceived(AlertDescription::CertificateExpired));
}

/// Where a revocation list stands.
#[derive(Clone, Copy)]
enum Place {
    InTheFile,
    BesideIt,
}

#[test]
fn revocation_list_beside_the_authority_is_obeyed_and_binds_no_other_tenant() {
    revoke(Place::InTheFile);
}

#[test]
fn revocation_list_in_a_file_of_its_own_is_obeyed_and_binds_no_other_tenant() {
    revoke(Place::BesideIt);
}

fn revoke(place: Place) {
    let fixture = Fixture::new();
    let number = || SerialNumber::from_slice(&[7, 7, 7]);
    let list = CertificateRevocationListParams {
        this_update: OffsetDateTime::now_utc().saturating_sub(Duration::days(1)),
        next_update: OffsetDateTime::now_utc().saturating_add(Duration::days(1)),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: number(),
            revocation_time: OffsetDateTime::now_utc(),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let tls = fixture.open().unwrap();
    let client = |tenant: &str| client_signed_by(&fixture, tenant, |params| params.serial_number = Some(number()));
    let (revoked, bystander) = (client("acme"), client("globex"));
    let open_before =
        handshake(Arc::clone(&revoked), tls.kafka_config(ClientCertificate::Required), "localhost").server.unwrap();

    let identity = tls.client_identity(&open_before).unwrap();
    assert!(tls.is_still_good(&identity));
    let path = fixture.path("client-ca/acme.pem");
    let list = list.signed_by(&fixture.authority("acme")).unwrap().pem().unwrap();
    match place {
        Place::InTheFile => fs::write(&path, text(&path) + &list).unwrap(),
        Place::BesideIt => fs::write(path.with_extension("crl"), list).unwrap(),
    }
    assert!(tls.reload_if_changed().unwrap());
    assert!(!tls.is_still_good(&identity));

    assert_eq!(
        handshake(revoked, tls.kafka_config(ClientCertificate::Required), "localhost").client.unwrap_err(),
        Error::AlertReceived(AlertDescription::CertificateRevoked)
    );
    assert!(matches!(tls.client_identity(&open_before), Err(IdentityError::NotVouched(_))));
    assert!(handshake(bystander, tls.kafka_config(ClientCertificate::Required), "localhost").server.is_ok());
    assert_eq!(login(&fixture, &tls, "acme").tenant, "acme");
}

#[test]
fn authority_of_two_tenants_is_refused_even_as_another_certificate_of_the_same_key() {
    let fixture = Fixture::new();
    let key = KeyPair::from_pem(&text(&fixture.path("authority/client-acme.key"))).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(fixture.path("client-ca/initech.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    assert!(matches!(fixture.open(), Err(TlsError::SharedAuthority { .. })));
}

#[test]
fn chain_that_two_tenants_vouch_for_is_nobodys() {
    let fixture = Fixture::new();
    let mut intermediate = CertificateParams::default();
    intermediate.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    intermediate.distinguished_name.push(DnType::CommonName, "shared");
    let key = KeyPair::generate().unwrap();
    let mut chain = String::new();
    for (at, tenant) in ["acme", "globex"].iter().enumerate() {
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.distinguished_name.push(DnType::CommonName, format!("root {at}"));
        let root_key = KeyPair::generate().unwrap();
        fs::write(fixture.path(&format!("client-ca/{tenant}.pem")), root.self_signed(&root_key).unwrap().pem())
            .unwrap();
        chain += &intermediate.signed_by(&key, &rcgen::Issuer::from_params(&root, &root_key)).unwrap().pem();
    }
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::default()
        .signed_by(&leaf_key, &rcgen::Issuer::from_params(&intermediate, &key))
        .unwrap()
        .pem();
    let ca = fs::read(fixture.client_folder("acme").join("ca.pem")).unwrap();
    let both = client_config(&ca, (leaf.clone() + &chain).as_bytes(), leaf_key.serialize_pem().as_bytes()).unwrap();
    let first = chain.find("-----END CERTIFICATE-----").unwrap() + "-----END CERTIFICATE-----".len();
    let one = client_config(&ca, (leaf + &chain[..first]).as_bytes(), leaf_key.serialize_pem().as_bytes()).unwrap();
    let tls = fixture.open().unwrap();
    assert!(handshake(both, tls.kafka_config(ClientCertificate::Required), "localhost").is_refused());
    assert!(handshake(one, tls.kafka_config(ClientCertificate::Required), "localhost").server.is_ok());
}

#[test]
fn certificate_that_may_not_sign_is_no_authority() {
    let fixture = Fixture::new();
    fs::copy(fixture.client_folder("acme").join("cert.pem"), fixture.path("client-ca/initech.pem")).unwrap();
    assert!(matches!(fixture.open(), Err(TlsError::NotAnAuthority { .. })));
}

#[test]
fn server_certificate_of_a_tenants_authority_is_no_client_certificate() {
    let fixture = Fixture::new();
    let tls = fixture.open().unwrap();
    let client = client_signed_by(&fixture, "acme", |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth]
    });
    assert!(handshake(client, tls.kafka_config(ClientCertificate::Required), "localhost").is_refused());
}

#[test]
fn names_answered_to_are_those_of_the_certificate_and_the_allowed_ones() {
    let fixture = Fixture::new();
    let tls = fixture.open().unwrap();
    let server =
        |name: &str| handshake(fixture.client("acme"), tls.kafka_config(ClientCertificate::Required), name).server;
    assert_eq!(server("Kafka.example").unwrap().server_name(), Some("kafka.example"));
    assert_eq!(server("127.0.0.1").unwrap().server_name(), None);
    assert!(matches!(server("a.kafka.example"), Err(Error::General(_))));
}

#[test]
fn unknown_name_and_withdrawn_name_fail_in_the_same_way() {
    let fixture = Fixture::new();
    fixture.pki.server(&["acme.localhost".to_owned()]).unwrap();
    let tls = ReloadingTls::open(fixture.tls_files(), vec!["globex.localhost".to_owned()]).unwrap();
    let alert = |name: &str| {
        handshake(fixture.client("acme"), tls.kafka_config(ClientCertificate::Required), name).client.unwrap_err()
    };
    // Answered to, though the certificate does not cover it: the client's own check fails, not the server.
    assert!(matches!(alert("globex.localhost"), Error::InvalidCertificate(_)));
    tls.set_hosts(Vec::new());
    assert_eq!(alert("globex.localhost"), alert("never.heard.of"));
    assert_eq!(alert("globex.localhost"), Error::AlertReceived(AlertDescription::AccessDenied));
}

#[test]
fn no_session_is_ever_resumed() {
    let fixture = Fixture::new();
    let tls = fixture.open().unwrap();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let mut client = rustls::ClientConfig::builder_with_provider(crate::config::provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots(&fixture))
            .with_client_auth_cert(chain(&fixture), key(&fixture))
            .unwrap();
        client.resumption = rustls::client::Resumption::in_memory_sessions(8);
        let client = Arc::new(client);
        for _ in 0..2 {
            let server = handshake(Arc::clone(&client), tls.kafka_config(ClientCertificate::Required), "localhost")
                .server
                .unwrap();
            assert!(matches!(
                server.handshake_kind(),
                Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)
            ));
            assert_eq!(server.protocol_version(), Some(version.version));
        }
    }
}

fn roots(fixture: &Fixture) -> rustls::RootCertStore {
    let path = fixture.client_folder("acme").join("ca.pem");
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(crate::files::certificates(&path, &fs::read(&path).unwrap()).unwrap());
    roots
}

fn chain(fixture: &Fixture) -> Vec<rustls_pki_types::CertificateDer<'static>> {
    let path = fixture.client_folder("acme").join("cert.pem");
    crate::files::certificates(&path, &fs::read(&path).unwrap()).unwrap()
}

fn key(fixture: &Fixture) -> rustls_pki_types::PrivateKeyDer<'static> {
    let path = fixture.client_folder("acme").join("key.pem");
    crate::files::private_key(&path, &fs::read(&path).unwrap()).unwrap()
}

#[test]
fn hybrid_post_quantum_exchange_is_used_with_a_client_that_has_it() {
    let fixture = Fixture::new();
    let server = handshake(
        fixture.client("acme"),
        fixture.open().unwrap().kafka_config(ClientCertificate::Required),
        "localhost",
    )
    .server
    .unwrap();
    assert_eq!(server.negotiated_key_exchange_group().map(|group| group.name()), Some(NamedGroup::X25519MLKEM768));
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn unusable_files_leave_the_old_ones_in_force_and_are_reported_once() {
    let fixture = Fixture::new();
    let tls = fixture.open().unwrap();
    assert!(!tls.reload_if_changed().unwrap());
    let path = fixture.path("server/key.pem");
    let good = fs::read(&path).unwrap();

    fs::write(&path, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(matches!(tls.reload_if_changed(), Err(TlsError::KeyMismatch { .. })));
    assert!(!tls.reload_if_changed().unwrap());
    fs::remove_file(&path).unwrap();
    assert!(matches!(tls.reload_if_changed(), Err(TlsError::Read { .. })));
    assert!(!tls.reload_if_changed().unwrap());
    assert_eq!(login(&fixture, &tls, "acme").tenant, "acme");

    fs::write(&path, good).unwrap();
    assert!(!tls.reload_if_changed().unwrap());
    fs::remove_file(&path).unwrap();
    assert!(tls.reload_if_changed().is_err());
}

#[test]
fn new_server_certificate_is_shown_to_the_next_connection() {
    let fixture = Fixture::new();
    let tls = fixture.open().unwrap();
    let shown = || {
        handshake(fixture.client("acme"), tls.kafka_config(ClientCertificate::Required), "localhost")
            .client
            .unwrap()
            .peer_certificates()
            .unwrap()[0]
            .to_vec()
    };
    let before = shown();
    fixture.pki.server(&["another.example".to_owned()]).unwrap();
    assert!(tls.reload_if_changed().unwrap());
    assert_ne!(shown(), before);
}

#[test]
fn withdrawn_authority_takes_its_clients_identities_away() {
    let fixture = Fixture::new();
    let tls = fixture.open().unwrap();
    let open_before =
        handshake(fixture.client("acme"), tls.kafka_config(ClientCertificate::Required), "localhost").server.unwrap();
    fs::remove_file(fixture.path("client-ca/acme.pem")).unwrap();
    assert!(tls.reload_if_changed().unwrap());
    assert!(matches!(tls.client_identity(&open_before), Err(IdentityError::NotVouched(_))));
    assert!(handshake(fixture.client("acme"), tls.kafka_config(ClientCertificate::Required), "localhost").is_refused());
    assert_eq!(login(&fixture, &tls, "globex").tenant, "globex");
}

#[test]
fn files_that_cannot_serve_are_named_with_their_fault() {
    let fixture = Fixture::new();
    fs::write(fixture.path("client-ca/not a tenant.pem"), text(&fixture.path("authority/server.pem"))).unwrap();
    assert!(matches!(fixture.open(), Err(TlsError::BadAlias { .. })));
    fs::write(fixture.path("client-ca/not a tenant.pem"), "nothing").unwrap();
    assert!(matches!(fixture.open(), Err(TlsError::NoCertificate { .. })));
    fs::write(
        fixture.path("client-ca/not a tenant.pem"),
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    assert!(matches!(fixture.open(), Err(TlsError::NotPem { .. })));
    fs::remove_dir_all(fixture.path("client-ca")).unwrap();
    assert!(matches!(fixture.open(), Err(TlsError::Read { .. })));
    fs::create_dir(fixture.path("client-ca")).unwrap();
    assert!(matches!(fixture.open(), Err(TlsError::NoAuthority { .. })));
    fs::copy(fixture.path("server/cert.pem"), fixture.path("server/key.pem")).unwrap();
    assert!(matches!(fixture.open(), Err(TlsError::NoKey { .. })));
}

#[test]
fn server_certificate_past_its_end_is_refused() {
    let fixture = Fixture::new();
    let past =
        Pki::open_at(&fixture.path("old"), OffsetDateTime::now_utc().saturating_sub(Duration::days(900))).unwrap();
    past.server(&[]).unwrap();
    let mut files = fixture.tls_files();
    files.certificate = fixture.path("old/server/cert.pem");
    files.key = fixture.path("old/server/key.pem");
    assert!(matches!(ReloadingTls::open(files, Vec::new()), Err(TlsError::NotValidNow { .. })));
}
