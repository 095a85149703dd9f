//! Shared by the tests of this room: development certificates in a folder, and handshakes in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{Issuer, KeyPair};
use rustls::{ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;
use tempfile::TempDir;

use crate::dev::Pki;
use crate::{ReloadingTls, TlsError, TlsFiles, client_config};

/// A folder with certificates for tenants `acme` and `globex`, each with a principal `producer`.
pub(crate) struct Fixture {
    pub(crate) folder: TempDir,
    pub(crate) pki: Pki,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(&folder.path().join("certs")).unwrap();
        pki.server(&["kafka.example".to_owned()]).unwrap();
        let fixture = Self { folder, pki };
        for tenant in ["acme", "globex"] {
            fixture.pki.client(tenant, "producer", &fixture.client_folder(tenant), 9094).unwrap();
        }
        fixture
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("certs").join(name)
    }

    pub(crate) fn client_folder(&self, tenant: &str) -> PathBuf {
        self.folder.path().join("clients").join(tenant)
    }

    pub(crate) fn tls_files(&self) -> TlsFiles {
        TlsFiles {
            certificate: self.path("server/cert.pem"),
            key: self.path("server/key.pem"),
            operator_ca: None,
            client_ca_dir: self.path("client-ca"),
        }
    }

    pub(crate) fn open(&self) -> Result<Arc<ReloadingTls>, TlsError> {
        ReloadingTls::open(self.tls_files(), vec!["acme.localhost".to_owned()])
    }

    pub(crate) fn client(&self, tenant: &str) -> Arc<ClientConfig> {
        client_in(&self.client_folder(tenant))
    }

    /// The tenant's authority, to sign what it never should.
    pub(crate) fn authority(&self, tenant: &str) -> Issuer<'static, KeyPair> {
        let key = KeyPair::from_pem(&text(&self.path(&format!("authority/client-{tenant}.key")))).unwrap();
        Issuer::from_ca_cert_pem(&text(&self.path(&format!("client-ca/{tenant}.pem"))), key).unwrap()
    }
}

pub(crate) fn client_in(folder: &Path) -> Arc<ClientConfig> {
    let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| std::fs::read(folder.join(name)).unwrap());
    client_config(&ca, &cert, &key).unwrap()
}

pub(crate) fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// How a handshake ended at both ends.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) server: Result<ServerConnection, Error>,
    pub(crate) client: Result<ClientConnection, Error>,
}

impl Outcome {
    pub(crate) fn is_refused(&self) -> bool {
        self.server.is_err() && self.client.is_err()
    }
}

/// A whole handshake in memory, alerts included.
pub(crate) fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>, name: &str) -> Outcome {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let (mut client_end, mut server_end) = (Ok(()), Ok(()));
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() && server_end.is_ok() {
            server.read_tls(&mut rest).unwrap();
            server_end = server.process_new_packets().map(drop);
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() && client_end.is_ok() {
            client.read_tls(&mut rest).unwrap();
            client_end = client.process_new_packets().map(drop);
        }
    }
    Outcome { server: server_end.map(|()| server), client: client_end.map(|()| client) }
}
