//! Promises of the development certificates.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use p12_keystore::{KeyStore, Pkcs12ImportPolicy};
use time::{Duration, OffsetDateTime};

use super::{Pki, PkiError};
use crate::ClientCertificate;
use crate::testing::{Fixture, client_in, handshake, text};

/// Every file below a folder with its inode and contents: a file that was replaced by equal bytes shows too.
fn files_below(folder: &Path, found: &mut BTreeMap<String, (u64, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.insert(path.display().to_string(), (fs::metadata(&path).unwrap().ino(), fs::read(&path).unwrap()));
        }
    }
}

fn snapshot(fixture: &Fixture) -> BTreeMap<String, (u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    files_below(fixture.folder.path(), &mut found);
    found
}

fn again(fixture: &Fixture, at: OffsetDateTime, port: u16) {
    let pki = Pki::open_at(&fixture.path("."), at).unwrap();
    pki.server(&["kafka.example".to_owned()]).unwrap();
    for tenant in ["acme", "globex"] {
        pki.client(tenant, "producer", &fixture.client_folder(tenant), port).unwrap();
    }
}

fn in_days(days: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc().saturating_add(Duration::days(days))
}

fn property(fixture: &Fixture, key: &str) -> String {
    let properties = text(&fixture.client_folder("acme").join("client.properties"));
    properties.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap().to_owned()
}

fn stored_certificate(fixture: &Fixture) -> Vec<u8> {
    let store = fs::read(fixture.client_folder("acme").join("client.p12")).unwrap();
    let store =
        KeyStore::from_pkcs12(&store, &property(fixture, "ssl.keystore.password"), Pkcs12ImportPolicy::Strict).unwrap();
    store.private_key_chain().unwrap().1.certs()[0].as_der().to_vec()
}

fn certificate(fixture: &Fixture) -> Vec<u8> {
    let path = fixture.client_folder("acme").join("cert.pem");
    crate::files::certificates(&path, &fs::read(&path).unwrap()).unwrap()[0].to_vec()
}

#[test]
fn second_run_touches_no_file() {
    let fixture = Fixture::new();
    let before = snapshot(&fixture);
    again(&fixture, in_days(0), 9094);
    assert_eq!(snapshot(&fixture), before);
}

#[test]
fn another_port_changes_the_settings_only() {
    let fixture = Fixture::new();
    let before = snapshot(&fixture);
    again(&fixture, in_days(0), 19094);
    let after = snapshot(&fixture);
    let changed: Vec<_> = after
        .iter()
        .filter(|(path, file)| before.get(*path) != Some(file))
        .map(|(path, _)| path.rsplit('/').next().unwrap().to_owned())
        .collect();
    assert_eq!(changed, ["client.properties", "librdkafka.conf", "client.properties", "librdkafka.conf"]);
    assert_eq!(property(&fixture, "bootstrap.servers"), "localhost:19094");
}

#[test]
fn client_near_its_end_is_renewed_under_the_same_authority() {
    let fixture = Fixture::new();
    let (ca, old) = (text(&fixture.path("client-ca/acme.pem")), certificate(&fixture));
    again(&fixture, in_days(340), 9094);
    assert_eq!(text(&fixture.path("client-ca/acme.pem")), ca);
    assert_ne!(certificate(&fixture), old);
    assert_eq!(stored_certificate(&fixture), certificate(&fixture));
}

#[test]
fn expired_authority_takes_everything_below_it_along() {
    let fixture = Fixture::new();
    let before = snapshot(&fixture);
    again(&fixture, in_days(3640), 9094);
    let kept: Vec<_> = snapshot(&fixture)
        .into_iter()
        .filter(|(path, file)| before.get(path).is_some_and(|old| old.1 == file.1))
        .map(|(path, _)| path)
        .collect();
    assert!(kept.iter().all(|path| path.ends_with("librdkafka.conf")), "{kept:?}");
}

#[test]
fn damaged_or_missing_file_is_made_anew_and_works() {
    let fixture = Fixture::new();
    let folder = fixture.client_folder("acme");
    for (name, damage) in
        [("key.pem", "x"), ("cert.pem", ""), ("client.p12", "x"), ("client.properties", "x"), ("ca.pem", "x")]
    {
        fs::write(folder.join(name), damage).unwrap();
        again(&fixture, in_days(0), 9094);
        assert_eq!(stored_certificate(&fixture), certificate(&fixture), "after {name}");
    }
    fs::remove_file(fixture.path("authority/client-acme.key")).unwrap();
    fs::write(fixture.path("server/key.pem"), "").unwrap();
    again(&fixture, in_days(0), 9094);
    assert!(
        handshake(client_in(&folder), fixture.open().unwrap().kafka_config(ClientCertificate::Required), "localhost")
            .server
            .is_ok()
    );
}

#[test]
fn keys_and_passwords_are_readable_by_their_owner_only() {
    let fixture = Fixture::new();
    let secret = |path: &&String| {
        path.ends_with(".key") || path.ends_with("key.pem") || path.ends_with(".p12") || path.ends_with(".properties")
    };
    let files = snapshot(&fixture);
    assert_eq!(files.keys().filter(secret).count(), 3 + 1 + 6);
    for path in files.keys().filter(secret) {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{path}");
    }
}

#[test]
fn host_taken_out_leaves_the_certificate() {
    let fixture = Fixture::new();
    fixture.pki.server(&["a.example".to_owned(), "b.example".to_owned()]).unwrap();
    fixture.pki.server(&["a.example".to_owned()]).unwrap();
    let server = fixture.open().unwrap().kafka_config(ClientCertificate::Required);
    assert!(handshake(fixture.client("acme"), server.clone(), "a.example").server.is_ok());
    assert!(handshake(fixture.client("acme"), server, "b.example").is_refused());
}

#[test]
fn name_that_would_leave_its_folder_is_refused() {
    let fixture = Fixture::new();
    let folder = fixture.folder.path().join("x");
    assert!(matches!(fixture.pki.client("../acme", "producer", &folder, 1), Err(PkiError::Name { .. })));
    assert!(matches!(fixture.pki.client("acme", "a\nb", &folder, 1), Err(PkiError::Name { .. })));
    assert!(matches!(fixture.pki.server(&["no host".to_owned()]), Err(PkiError::Name { .. })));
}

#[test]
fn settings_hold_absolute_paths_and_one_authority() {
    let fixture = Fixture::new();
    let folder = fixture.client_folder("acme");
    assert_eq!(property(&fixture, "ssl.keystore.location"), folder.join("client.p12").display().to_string());
    assert_eq!(property(&fixture, "ssl.truststore.location"), folder.join("ca.pem").display().to_string());
    let librdkafka = text(&folder.join("librdkafka.conf"));
    assert!(librdkafka.contains(&format!("ssl.key.location={}\n", folder.join("key.pem").display())));
}
