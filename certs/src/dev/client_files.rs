//! What a client needs beside its certificate: a Java key store and settings for Java and librdkafka.
//!
//! The settings are pure functions of paths and names. Paths in them are absolute, so a client may run anywhere.

use std::path::{Path, PathBuf};

use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, Pkcs12ImportPolicy, PrivateKey, PrivateKeyChain};

use super::PkiError;
use super::issue::{Authority, Issued};
use crate::files;

/// 24 hexadecimal digits. The store lies beside the same key in the clear, with the same mode: Java asks for a password, so it gets one.
const PASSWORD_BYTES: usize = 12;
const PASSWORD_KEY: &str = "ssl.keystore.password=";

/// The files of one client.
#[derive(Clone, Debug)]
pub struct ClientPaths {
    /// The server's authority.
    pub ca: PathBuf,
    /// The client's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Both as PKCS#12.
    pub key_store: PathBuf,
    /// Settings for Java.
    pub properties: PathBuf,
    /// Settings for librdkafka.
    pub librdkafka: PathBuf,
}

impl ClientPaths {
    /// The usual names in one folder, which should be absolute.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            ca: folder.join("ca.pem"),
            certificate: folder.join("cert.pem"),
            key: folder.join("key.pem"),
            key_store: folder.join("client.p12"),
            properties: folder.join("client.properties"),
            librdkafka: folder.join("librdkafka.conf"),
        }
    }
}

/// Settings for Kafka's Java clients and command-line tools (`--command-config`, `--consumer.config`, ...).
#[must_use]
pub fn client_properties(paths: &ClientPaths, password: &str, bootstrap: &str) -> String {
    let store = java_value(&paths.key_store.display().to_string());
    let ca = java_value(&paths.ca.display().to_string());
    let password = java_value(password);
    format!(
        "# Made by schloss. Java clients: --command-config, --producer.config or --consumer.config of Kafka's tools.\n\
         bootstrap.servers={bootstrap}\n\
         security.protocol=SSL\n\
         ssl.keystore.type=PKCS12\n\
         ssl.keystore.location={store}\n\
         {PASSWORD_KEY}{password}\n\
         ssl.key.password={password}\n\
         ssl.truststore.type=PEM\n\
         ssl.truststore.location={ca}\n"
    )
}

/// Settings for librdkafka clients, as `kcat -F` reads them.
#[must_use]
pub fn librdkafka_conf(paths: &ClientPaths, bootstrap: &str) -> String {
    format!(
        "# Made by schloss. librdkafka clients, for instance: kcat -F this-file -L\n\
         bootstrap.servers={bootstrap}\n\
         # The development broker listens on 127.0.0.1 only; without this ::1 is tried too, and complained about.\n\
         broker.address.family=v4\n\
         security.protocol=ssl\n\
         ssl.endpoint.identification.algorithm=https\n\
         ssl.ca.location={}\n\
         ssl.certificate.location={}\n\
         ssl.key.location={}\n",
        paths.ca.display(),
        paths.certificate.display(),
        paths.key.display(),
    )
}

/// Java reads properties as Latin-1, with the backslash as escape.
fn java_value(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut leading = true;
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            ' ' if leading => out.push_str("\\ "),
            ' '..='~' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
        leading = leading && character == ' ';
    }
    out
}

pub(super) fn new_password() -> Result<String, PkiError> {
    let mut bytes = [0; PASSWORD_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_unspecified| PkiError::NoRandomness)?;
    Ok(files::hex(&bytes))
}

/// The password standing in the properties, if it opens the key store that lies there to the key that lies there.
pub(super) fn password_in_use(paths: &ClientPaths) -> Option<String> {
    let properties = files::read(&paths.properties).ok()?;
    let password =
        std::str::from_utf8(&properties).ok()?.lines().find_map(|line| line.strip_prefix(PASSWORD_KEY))?.to_owned();
    let store =
        KeyStore::from_pkcs12(&files::read(&paths.key_store).ok()?, &password, Pkcs12ImportPolicy::Relaxed).ok()?;
    let (_, chain) = store.private_key_chain()?;
    let stored = files::certificates(&paths.certificate, &files::read(&paths.certificate).ok()?).ok()?;
    (chain.certs().first()?.as_der() == stored.first()?.as_ref()).then_some(password)
}

/// A PKCS#12 store (PBES2 with AES-256, MAC with HMAC-SHA-256) of the key, its certificate and the tenant's authority.
pub(super) fn key_store(pair: &Issued, authority: &Authority, name: &str, password: &str) -> Result<Vec<u8>, PkiError> {
    let key = PrivateKey::from_der(pair.key.serialized_der())?;
    let certificates = [Certificate::from_der(&pair.der)?, Certificate::from_der(&authority.der)?];
    let mut store = KeyStore::new();
    store.add_entry(name, KeyStoreEntry::PrivateKeyChain(PrivateKeyChain::new(name.as_bytes(), key, certificates)));
    Ok(store.writer(password).write()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_value_survives_backslash_leading_space_and_letters_beyond_latin_1() {
        assert_eq!(java_value(" a b\\ü𝄞"), "\\ a b\\\\\\u00fc\\ud834\\udd1e");
    }
}
