//! What a TLS 1.3 handshake costs the server's core, the client's share left out: the other half of a login's price
//! (`broker/authn/benches/login.rs`).
//!
//! `cargo bench -p schloss-certs`

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;
use schloss_certs::dev::Pki;
use schloss_certs::{ClientCertificate, ReloadingTls, TlsFiles, client_config, server_trust_config};

/// One handshake in memory; the time spent in the server.
fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Duration {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let begun = Instant::now();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    let mut spent = begun.elapsed();
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let begun = Instant::now();
        let (mut rest, mut answer) = (wire.as_slice(), Vec::new());
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().unwrap();
        }
        while server.wants_write() {
            server.write_tls(&mut answer).unwrap();
        }
        spent += begun.elapsed();
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    spent
}

fn handshakes(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::open(&folder.path().join("certs")).unwrap();
    pki.server(&["localhost".to_owned()]).unwrap();
    let owner = folder.path().join("client");
    pki.client("acme", "producer", &owner, 9094).unwrap();
    let path = |name: &str| folder.path().join("certs").join(name);
    let files = TlsFiles {
        certificate: path("server/cert.pem"),
        key: path("server/key.pem"),
        client_ca_dir: path("client-ca"),
        operator_ca: None,
    };
    let tls = ReloadingTls::open(files, Vec::new()).unwrap();
    let read = |name: &str| std::fs::read(owner.join(name)).unwrap();
    let with = client_config(&read("ca.pem"), &read("cert.pem"), &read("key.pem")).unwrap();
    let without = server_trust_config(&read("ca.pem")).unwrap();
    let server = tls.kafka_config(ClientCertificate::Requested);
    for (name, client) in [("TLS 1.3, no client certificate", &without), ("TLS 1.3, client certificate", &with)] {
        c.bench_function(name, |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| handshake(client, &server)).sum());
        });
    }
}

criterion_group!(benches, handshakes);
criterion_main!(benches);
