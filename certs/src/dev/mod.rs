//! Certificates for development: authorities, a server's certificate and each principal's client files.
//!
//! In: a folder, host names, tenants and principals. Out, under the folder:
//! `authority/` (the authorities' keys and the server authority's certificate), `server/cert.pem`, `server/key.pem`,
//! `client-ca/<tenant>.pem`; and wherever the caller wants it, a folder of client files per principal.
//!
//! Invariants
//! - What is good is kept, byte for byte; what is missing, damaged, not of its authority or near its end is made anew.
//! - Each tenant has an authority of its own; a key file is readable by its owner only and replaced as one act.
//!
//! Must not: be used for anything but development. Authorities' keys lie in files, in the clear.

mod client_files;
mod issue;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;

pub use client_files::{ClientPaths, client_properties, librdkafka_conf};
use issue::{Authority, Issued};

use crate::files::{self, Secrecy};

/// Why development certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file or folder could not be read or written.
    #[error("`{path}` cannot be read or written: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A name cannot stand in a certificate or a path.
    #[error("`{name}` cannot be used as a host, tenant or principal name in a certificate")]
    Name {
        /// The name.
        name: String,
    },
    /// The certificate could not be made.
    #[error("a certificate could not be made: {0}")]
    Issue(#[from] rcgen::Error),
    /// The Java key store could not be made.
    #[error("a PKCS#12 key store could not be made: {0}")]
    KeyStore(#[from] p12_keystore::error::Error),
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

/// All development certificates under one folder.
#[derive(Debug)]
pub struct Pki {
    folder: PathBuf,
    now: OffsetDateTime,
    server_authority: Authority,
}

impl Pki {
    /// Opens the folder, and makes it and the server's authority where they are missing.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn open(folder: &Path) -> Result<Self, PkiError> {
        Self::open_at(folder, OffsetDateTime::now_utc())
    }

    /// [`Pki::open`] with the time given, which decides what is near its end.
    ///
    /// # Errors
    /// As [`Pki::open`].
    pub fn open_at(folder: &Path, now: OffsetDateTime) -> Result<Self, PkiError> {
        let folder = std::path::absolute(folder).map_err(failed(folder))?;
        make_folder(&folder, Secrecy::Public)?;
        make_folder(&folder.join("authority"), Secrecy::Owner)?;
        make_folder(&folder.join("server"), Secrecy::Public)?;
        make_folder(&folder.join("client-ca"), Secrecy::Public)?;
        let server_authority = authority(
            &folder.join("authority/server.pem"),
            &folder.join("authority/server.key"),
            "Schloss development server CA",
            now,
        )?;
        Ok(Self { folder, now, server_authority })
    }

    /// Makes sure of `server/cert.pem` and `server/key.pem`, good for exactly these hosts (names or addresses),
    /// `localhost`, `127.0.0.1` and `::1`.
    ///
    /// # Errors
    /// When a name is malformed or a file cannot be written.
    pub fn server(&self, hosts: &[String]) -> Result<(), PkiError> {
        let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        for host in hosts {
            if !names.contains(host) {
                names.push(host.clone());
            }
        }
        let (certificate, key) = (self.folder.join("server/cert.pem"), self.folder.join("server/key.pem"));
        if load(&certificate, &key)
            .is_some_and(|pair| issue::is_good_server(&pair, &self.server_authority, &names, unix(self.now)))
        {
            return Ok(());
        }
        let pair = issue::server(&self.server_authority, &names, self.now)?;
        save(&pair, &certificate, &key)
    }

    /// Makes sure of the files of one principal in `folder`: `ca.pem`, `cert.pem`, `key.pem`, `client.p12`,
    /// `client.properties` for Java and `librdkafka.conf`, all for the broker at `localhost:port`.
    /// The tenant's authority is made when it is missing.
    ///
    /// # Errors
    /// When a name cannot be used or a file cannot be written.
    pub fn client(&self, tenant: &str, principal: &str, folder: &Path, port: u16) -> Result<(), PkiError> {
        let authority = self.tenant(tenant)?;
        let folder = std::path::absolute(folder).map_err(failed(folder))?;
        make_folder(&folder, Secrecy::Owner)?;
        let paths = ClientPaths::in_folder(&folder);
        let kept = load(&paths.certificate, &paths.key)
            .filter(|pair| issue::is_good_client(pair, &authority, principal, unix(self.now)));
        let renewed = kept.is_none();
        let pair = match kept {
            Some(pair) => pair,
            None => {
                let pair = issue::client(&authority, tenant, principal, self.now)?;
                save(&pair, &paths.certificate, &paths.key)?;
                pair
            }
        };
        write_if_changed(&paths.ca, self.server_authority.pem.as_bytes(), Secrecy::Public)?;
        let password = match client_files::password_in_use(&paths).filter(|_| !renewed) {
            Some(password) => password,
            None => {
                let password = client_files::new_password()?;
                let store = client_files::key_store(&pair, &authority, principal, &password)?;
                write(&paths.key_store, &store, Secrecy::Owner)?;
                password
            }
        };
        let bootstrap = format!("localhost:{port}");
        write_if_changed(
            &paths.properties,
            client_properties(&paths, &password, &bootstrap).as_bytes(),
            Secrecy::Owner,
        )?;
        write_if_changed(&paths.librdkafka, librdkafka_conf(&paths, &bootstrap).as_bytes(), Secrecy::Public)
    }

    /// Makes sure of `operator-ca.pem` and of an operator's files in `folder`: `ca.pem`, `cert.pem`, `key.pem`.
    ///
    /// # Errors
    /// When the name cannot be used or a file cannot be written.
    pub fn operator(&self, name: &str, folder: &Path) -> Result<PathBuf, PkiError> {
        let ca = self.folder.join("operator-ca.pem");
        let key = self.folder.join("authority/operator.key");
        let authority = authority(&ca, &key, "Schloss development operator CA", self.now)?;
        make_folder(folder, Secrecy::Owner)?;
        let paths = ClientPaths::in_folder(folder);
        let kept = load(&paths.certificate, &paths.key)
            .filter(|pair| issue::is_good_client(pair, &authority, name, unix(self.now)));
        if kept.is_none() {
            let pair = issue::client(&authority, "operators", name, self.now)?;
            save(&pair, &paths.certificate, &paths.key)?;
        }
        write_if_changed(&paths.ca, self.server_authority.pem.as_bytes(), Secrecy::Public)?;
        Ok(ca)
    }

    /// Makes sure of a tenant's client authority, `client-ca/<tenant>.pem`.
    fn tenant(&self, tenant: &str) -> Result<Authority, PkiError> {
        check_name(tenant)?;
        authority(
            &self.folder.join("client-ca").join(format!("{tenant}.pem")),
            &self.folder.join("authority").join(format!("client-{tenant}.key")),
            &format!("Schloss development client CA of {tenant}"),
            self.now,
        )
    }
}

/// A name that becomes part of a path is checked first.
fn check_name(name: &str) -> Result<(), PkiError> {
    let fine = !name.is_empty()
        && name.len() <= 64
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if fine { Ok(()) } else { Err(PkiError::Name { name: name.to_owned() }) }
}

fn authority(certificate: &Path, key: &Path, common_name: &str, now: OffsetDateTime) -> Result<Authority, PkiError> {
    if let Some(pair) = load(certificate, key)
        && issue::is_good_authority(&pair, common_name, unix(now))
    {
        return Authority::of(pair);
    }
    let pair = issue::authority(common_name, now)?;
    save(&pair, certificate, key)?;
    Authority::of(pair)
}

/// A pair from its files, or `None` when it is missing, damaged or no pair, which all mean "make it anew".
fn load(certificate: &Path, key: &Path) -> Option<Issued> {
    let pem = files::read(certificate).ok()?;
    let key_pem = files::read(key).ok()?;
    let der = CertificateDer::from_pem_slice(&pem).ok()?;
    Issued::of(der, std::str::from_utf8(&pem).ok()?, std::str::from_utf8(&key_pem).ok()?)
}

/// The key first: after a crash between the two they are no pair, and are made anew.
fn save(pair: &Issued, certificate: &Path, key: &Path) -> Result<(), PkiError> {
    write(key, pair.key.serialize_pem().as_bytes(), Secrecy::Owner)?;
    write(certificate, pair.pem.as_bytes(), Secrecy::Public)
}

fn write(path: &Path, bytes: &[u8], secrecy: Secrecy) -> Result<(), PkiError> {
    files::replace(path, bytes, secrecy).map_err(failed(path))
}

fn write_if_changed(path: &Path, bytes: &[u8], secrecy: Secrecy) -> Result<(), PkiError> {
    if files::read(path).is_ok_and(|old| *old == bytes) {
        return Ok(());
    }
    write(path, bytes, secrecy)
}

fn make_folder(path: &Path, secrecy: Secrecy) -> Result<(), PkiError> {
    let mode = match secrecy {
        Secrecy::Public => 0o755,
        Secrecy::Owner => 0o700,
    };
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed(path))
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::File { path, source }
}

fn unix(now: OffsetDateTime) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(now.unix_timestamp()).unwrap_or(0)))
}

#[cfg(test)]
mod tests;
