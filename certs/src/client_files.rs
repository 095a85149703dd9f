//! What a client needs on its disk: PEM, PKCS#12, and ready property files for Java clients and librdkafka.

use std::fs;
use std::path::{Path, PathBuf};

use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::authority::Issued;
use crate::files::{write_private, write_public};
use crate::{CertError, tls};

const ALIAS: &str = "client";

/// Where a client's files are, as they stand in its property files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPaths {
    /// `ca.pem`: whom the client trusts.
    pub ca: PathBuf,
    /// `cert.pem`.
    pub cert: PathBuf,
    /// `key.pem`.
    pub key: PathBuf,
    /// `client.p12`.
    pub p12: PathBuf,
}

impl ClientPaths {
    /// The usual names in `folder`.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            ca: folder.join("ca.pem"),
            cert: folder.join("cert.pem"),
            key: folder.join("key.pem"),
            p12: folder.join("client.p12"),
        }
    }
}

/// Writes `ca.pem cert.pem key.pem client.p12 client.properties librdkafka.conf` for one client. `folder` should be absolute.
///
/// # Errors
/// [`CertError`]; files written so far stay and are replaced by the next try.
pub fn write_client_folder(
    folder: &Path,
    server_ca_pem: &str,
    client: &Issued,
    bootstrap: &str,
) -> Result<(), CertError> {
    fs::create_dir_all(folder).map_err(|source| CertError::Io { path: folder.into(), source })?;
    let paths = ClientPaths::in_folder(folder);
    let password = random_password()?;
    write_public(&paths.ca, server_ca_pem.as_bytes())?;
    write_public(&paths.cert, client.cert_pem.as_bytes())?;
    write_private(&paths.key, client.key_pem.as_bytes())?;
    write_private(&paths.p12, &pkcs12(&client.cert_pem, &client.key_pem, &password)?)?;
    write_private(&folder.join("client.properties"), client_properties(&paths, &password, bootstrap).as_bytes())?;
    write_private(&folder.join("librdkafka.conf"), librdkafka_conf(&paths, bootstrap).as_bytes())
}

/// A Java client's properties: works with `--command-config`, `--consumer.config` and as producer properties.
#[must_use]
pub fn client_properties(paths: &ClientPaths, password: &str, bootstrap: &str) -> String {
    let java = |path: &Path| path.display().to_string().replace('\\', "\\\\");
    format!(
        "bootstrap.servers={bootstrap}\n\
         security.protocol=SSL\n\
         ssl.truststore.type=PEM\n\
         ssl.truststore.location={}\n\
         ssl.keystore.type=PKCS12\n\
         ssl.keystore.location={}\n\
         ssl.keystore.password={password}\n\
         ssl.key.password={password}\n",
        java(&paths.ca),
        java(&paths.p12),
    )
}

/// librdkafka's properties: works with `kcat -F`.
#[must_use]
pub fn librdkafka_conf(paths: &ClientPaths, bootstrap: &str) -> String {
    format!(
        "bootstrap.servers={bootstrap}\n\
         security.protocol=ssl\n\
         ssl.ca.location={}\n\
         ssl.certificate.location={}\n\
         ssl.key.location={}\n",
        paths.ca.display(),
        paths.cert.display(),
        paths.key.display(),
    )
}

/// A PKCS#12 store (PBES2, AES-256, HMAC-SHA-256: what Java 17 and OpenSSL 3 write themselves) with one key and its chain.
///
/// # Errors
/// [`CertError::Pkcs12`] when PEM cannot be read.
pub fn pkcs12(cert_chain_pem: &str, key_pem: &str, password: &str) -> Result<Vec<u8>, CertError> {
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(cert_chain_pem.as_bytes()) {
        let certificate = certificate.map_err(|_| CertError::Pkcs12)?;
        chain.push(Certificate::from_der(&certificate).map_err(|_| CertError::Pkcs12)?);
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| CertError::Pkcs12)?;
    let key = PrivateKey::from_der(key.secret_der()).map_err(|_| CertError::Pkcs12)?;
    let mut store = KeyStore::new();
    store.add_entry(ALIAS, KeyStoreEntry::PrivateKeyChain(PrivateKeyChain::new(ALIAS, key, chain)));
    store.writer(password).write().map_err(|_| CertError::Pkcs12)
}

/// 32 hexadecimal digits of randomness.
///
/// # Errors
/// [`CertError::Tls`] without randomness.
pub fn random_password() -> Result<String, CertError> {
    let mut bytes = [0_u8; 16];
    tls::provider().secure_random.fill(&mut bytes).map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Authority;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    fn folder() -> (tempfile::TempDir, String) {
        let now_ms = 1_800_000_000_000;
        let folder = tempfile::tempdir().unwrap();
        let ca = Authority::create("server CA", "Schloss", now_ms).unwrap();
        let client = ca.issue_client("producer", "acme", &[], now_ms).unwrap();
        write_client_folder(folder.path(), ca.cert_pem(), &client, "acme.localhost:9094").unwrap();
        let properties = fs::read_to_string(folder.path().join("client.properties")).unwrap();
        let password = properties.lines().find_map(|line| line.strip_prefix("ssl.key.password=")).unwrap();
        let password = password.to_owned();
        (folder, password)
    }

    #[test]
    fn secret_files_are_readable_by_their_owner_only() {
        let (folder, _) = folder();
        for name in ["key.pem", "client.p12", "client.properties"] {
            let mode = fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{name}");
        }
    }

    #[test]
    fn java_opens_the_pkcs12_file() {
        let (folder, password) = folder();
        let listing = Command::new("keytool")
            .args(["-list", "-storetype", "PKCS12", "-storepass", &password, "-keystore"])
            .arg(folder.path().join("client.p12"))
            .output();
        let Ok(listing) = listing else {
            return; // No Java here: the black-box suite runs real Java clients.
        };
        let text = String::from_utf8_lossy(&listing.stdout);
        assert!(listing.status.success() && text.contains("client, ") && text.contains("PrivateKeyEntry"), "{text}");
    }

    #[test]
    fn property_files_name_the_files_beside_them() {
        let paths = ClientPaths::in_folder(Path::new("/c"));
        assert_eq!(
            client_properties(&paths, "pw", "h:1"),
            "bootstrap.servers=h:1\nsecurity.protocol=SSL\nssl.truststore.type=PEM\nssl.truststore.location=/c/ca.pem\n\
             ssl.keystore.type=PKCS12\nssl.keystore.location=/c/client.p12\nssl.keystore.password=pw\nssl.key.password=pw\n"
        );
        assert_eq!(
            librdkafka_conf(&paths, "h:1"),
            "bootstrap.servers=h:1\nsecurity.protocol=ssl\nssl.ca.location=/c/ca.pem\n\
             ssl.certificate.location=/c/cert.pem\nssl.key.location=/c/key.pem\n"
        );
    }
}
