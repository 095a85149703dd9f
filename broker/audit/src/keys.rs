//! The log's own keys on disk: the signing key, sealed under the audit key; the public key for everybody.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schloss_core::ClusterId;
use schloss_crypto::signing::{SigningKey, VerifyingKey};
use schloss_crypto::{EncryptionContext, KeyVault, Purpose, WrappedKey, open_value, seal_value};
use serde::{Deserialize, Serialize};

use crate::stream::AuditError;

const SIGNING_KEY_FILE: &str = "signing-key.json";
const PUBLIC_KEY_FILE: &str = "public-key.pem";
const BINDING: &[u8] = b"schloss-audit/1 signing key";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SigningKeyFile {
    key: String,
    sealed: String,
}

/// The context of every key of the audit log.
pub(crate) fn context(cluster: ClusterId) -> EncryptionContext {
    EncryptionContext { cluster: cluster.to_bytes(), tenant: [0; 16], purpose: Purpose::Audit }
}

/// Reads the signing key, or makes one in a new log. The public key file must agree with it.
pub(crate) async fn signing_key(
    folder: &Path,
    cluster: ClusterId,
    vault: &dyn KeyVault,
) -> Result<SigningKey, AuditError> {
    let path = folder.join(SIGNING_KEY_FILE);
    let malformed = || AuditError::Malformed { path: path.clone() };
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return make_signing_key(folder, cluster, vault).await,
        Err(source) => return Err(AuditError::Io { path, source }),
    };
    let file: SigningKeyFile = serde_json::from_slice(&text).map_err(|_| malformed())?;
    let wrapped = BASE64.decode(file.key).ok().and_then(|bytes| WrappedKey::from_bytes(&bytes).ok());
    let sealed = BASE64.decode(file.sealed).map_err(|_| malformed())?;
    let key = vault.open(&context(cluster), &wrapped.ok_or_else(malformed)?).await?;
    let document = open_value(&key, BINDING, &sealed).map_err(|_| malformed())?;
    let signing = SigningKey::from_pkcs8(&document).map_err(|_| malformed())?;
    // An earlier start may have ended between the two files.
    let public_path = folder.join(PUBLIC_KEY_FILE);
    match fs::read_to_string(&public_path) {
        Ok(pem) if public_key_from_pem(&pem) == Some(signing.verifying_key()) => {}
        Ok(_) => return Err(AuditError::PublicKeyMismatch { path: public_path }),
        Err(_) => write_public_key(folder, &signing)?,
    }
    Ok(signing)
}

/// Wraps the signing key's key under the cluster's current KMS key; false when it is already.
pub(crate) async fn rewrap_signing_key(
    folder: &Path,
    cluster: ClusterId,
    vault: &dyn KeyVault,
) -> Result<bool, AuditError> {
    let path = folder.join(SIGNING_KEY_FILE);
    let malformed = || AuditError::Malformed { path: path.clone() };
    let io = |source| AuditError::Io { path: path.clone(), source };
    let file: SigningKeyFile = serde_json::from_slice(&fs::read(&path).map_err(io)?).map_err(|_| malformed())?;
    let wrapped = BASE64.decode(&file.key).ok().and_then(|bytes| WrappedKey::from_bytes(&bytes).ok());
    let Some(anew) = vault.rewrap(&context(cluster), &wrapped.ok_or_else(malformed)?, None).await? else {
        return Ok(false);
    };
    let key = BASE64.encode(anew.to_bytes().map_err(|_| malformed())?);
    let bytes = serde_json::to_vec(&SigningKeyFile { key, ..file }).unwrap_or_default();
    write_whole(&path, &bytes).map_err(io)?;
    Ok(true)
}

async fn make_signing_key(folder: &Path, cluster: ClusterId, vault: &dyn KeyVault) -> Result<SigningKey, AuditError> {
    // SECURITY: a log with streams but no signing key lost it, or somebody wants it to be signed anew.
    let public_path = folder.join(PUBLIC_KEY_FILE);
    if public_path.exists() {
        return Err(AuditError::PublicKeyMismatch { path: public_path });
    }
    let path = folder.join(SIGNING_KEY_FILE);
    let (key, wrapped) = vault.generate(&context(cluster)).await?;
    let document = SigningKey::generate_pkcs8();
    let signing = SigningKey::from_pkcs8(&document).map_err(|_| AuditError::Malformed { path: path.clone() })?;
    let wrapped = wrapped.to_bytes().map_err(|_| AuditError::Malformed { path: path.clone() })?;
    let sealed = BASE64.encode(seal_value(&key, BINDING, &document));
    let file = SigningKeyFile { key: BASE64.encode(wrapped), sealed };
    let bytes = serde_json::to_vec(&file).unwrap_or_default();
    write_whole(&path, &bytes).map_err(|source| AuditError::Io { path: path.clone(), source })?;
    write_public_key(folder, &signing)?;
    Ok(signing)
}

fn write_public_key(folder: &Path, signing: &SigningKey) -> Result<(), AuditError> {
    let pem = public_key_to_pem(&signing.verifying_key());
    let path = folder.join(PUBLIC_KEY_FILE);
    write_whole(&path, pem.as_bytes()).map_err(|source| AuditError::Io { path, source })
}

/// PEM, as `openssl pkey -pubin` reads it.
#[must_use]
pub fn public_key_to_pem(key: &VerifyingKey) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64.encode(key.to_spki()))
}

/// The inverse of [`public_key_to_pem`]; `None` for anything but one Ed25519 public key.
#[must_use]
pub fn public_key_from_pem(pem: &str) -> Option<VerifyingKey> {
    let body = pem.trim().strip_prefix("-----BEGIN PUBLIC KEY-----")?.strip_suffix("-----END PUBLIC KEY-----")?;
    let text: String = body.split_whitespace().collect();
    VerifyingKey::from_spki(&BASE64.decode(text).ok()?).ok()
}

/// Replaces a file as a whole; after a crash the old or the new one is there.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
