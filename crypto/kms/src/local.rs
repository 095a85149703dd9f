//! The local keyring: key-encryption keys in one file, sealed under a passphrase or a key file. The embedded default.
//!
//! The file is JSON: `schloss_keyring` (format, 1), `unlock` (how the master key is found), `keys` (name, enabled, the key wrapped
//! under the master key with its name as binding), `seal` (an empty value sealed under the master key, bound to all of the above).
//!
//! Invariants
//! - The file changes as a whole: a new one is written, fsynced and renamed over the old one.
//! - A changed name, state or key fails the seal; a wrong passphrase fails its commitment. Neither yields a key.
//!
//! What it cannot see: an older copy of the file put back. Keep the file where tenants' disks are not.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schloss_crypto::value::{unwrap_key, wrap_key};
use schloss_crypto::{DataKey, Denial, EncryptionContext, KeyError, SealError, open_value, random_array, seal_value};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::provider::{KeyState, Kms};

const FORMAT: u32 = 1;
/// OWASP's 2023 figure for PBKDF2-HMAC-SHA-256; a file with fewer was weakened by somebody.
const ITERATIONS_MIN: u32 = 600_000;
/// A file that asks for more would only keep us busy.
const ITERATIONS_MAX: u32 = 20_000_000;
/// A keyring is small; a bigger file is not one.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What opens a keyring.
pub enum Unlock {
    /// A passphrase.
    Passphrase(Zeroizing<String>),
    /// A file with 64 hexadecimal digits, readable by its owner only.
    KeyFile(PathBuf),
}

/// Why a keyring was not opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// There is none.
    #[error(
        "there is no keyring at `{path}`; create one with `schloss quickstart`, or restore it from your backup: without it no data can be read"
    )]
    Missing {
        /// Where.
        path: PathBuf,
    },
    /// There is one already.
    #[error("`{path}` exists already; it was left as it is")]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error("`{path}`: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not the secret it was sealed with.
    #[error("the passphrase or key file does not open the keyring `{path}`; use the one it was created with")]
    WrongSecret {
        /// Where.
        path: PathBuf,
    },
    /// Sealed one way, opened the other.
    #[error("the keyring `{path}` is opened by a {by}, not by what was configured")]
    OtherKindOfSecret {
        /// Where.
        path: PathBuf,
        /// What opens it.
        by: &'static str,
    },
    /// Changed since it was sealed.
    #[error("the keyring `{path}` was altered after it was sealed; restore it from your backup")]
    Altered {
        /// Where.
        path: PathBuf,
    },
    /// Not a keyring.
    #[error("`{path}` is not a keyring; restore it from your backup")]
    Malformed {
        /// Where.
        path: PathBuf,
    },
    /// Made by a newer program.
    #[error("the keyring `{path}` has format {version}, this program knows {FORMAT}; use the newer program")]
    NewerFormat {
        /// Where.
        path: PathBuf,
        /// Its format.
        version: u32,
    },
    /// Others can read the key file.
    #[error("the key file `{path}` can be read by others (mode {mode:03o}); run `chmod 600` on it")]
    KeyFileOpenToOthers {
        /// Where.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not 64 hexadecimal digits.
    #[error("the key file `{path}` does not hold 64 hexadecimal digits")]
    KeyFileMalformed {
        /// Where.
        path: PathBuf,
    },
    /// No such key.
    #[error("the keyring has no key `{name}`")]
    NoSuchKey {
        /// The name.
        name: String,
    },
}

/// An opened keyring.
pub struct LocalKeyring {
    path: PathBuf,
    master: DataKey,
    unlock: UnlockRow,
    keys: Mutex<BTreeMap<String, Entry>>,
}

struct Entry {
    enabled: bool,
    wrapped: Vec<u8>,
    key: Arc<DataKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    #[serde(flatten)]
    body: Body,
    seal: String,
}

#[derive(Serialize, Deserialize)]
struct Body {
    schloss_keyring: u32,
    unlock: UnlockRow,
    keys: Vec<KeyRow>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum UnlockRow {
    Pbkdf2Sha256 { iterations: u32, salt: String },
    KeyFile,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyRow {
    name: String,
    enabled: bool,
    wrapped: String,
}

impl LocalKeyring {
    /// Makes a new, empty keyring.
    ///
    /// # Errors
    /// [`KeyringError::Exists`] rather than overwriting, and the key file's errors.
    pub fn create(path: &Path, unlock: &Unlock) -> Result<Self, KeyringError> {
        if path.exists() {
            return Err(KeyringError::Exists { path: path.into() });
        }
        let row = match unlock {
            Unlock::Passphrase(_) => {
                UnlockRow::Pbkdf2Sha256 { iterations: ITERATIONS_MIN, salt: BASE64.encode(random_array::<32>()) }
            }
            Unlock::KeyFile(_) => UnlockRow::KeyFile,
        };
        let master = master_key(path, &row, unlock)?;
        let keyring = Self { path: path.into(), master, unlock: row, keys: Mutex::default() };
        keyring.save(&BTreeMap::new())?;
        Ok(keyring)
    }

    /// Opens an existing keyring.
    ///
    /// # Errors
    /// Every variant says what to do next; nothing is changed.
    pub fn open(path: &Path, unlock: &Unlock) -> Result<Self, KeyringError> {
        let malformed = || KeyringError::Malformed { path: path.into() };
        let text = read_bounded(path)?;
        let file: FileForm = match serde_json::from_slice(&text) {
            Ok(file) => file,
            Err(_) => return Err(newer_or_malformed(path, &text)),
        };
        let body = file.body;
        if body.schloss_keyring != FORMAT {
            return Err(KeyringError::NewerFormat { path: path.into(), version: body.schloss_keyring });
        }
        let master = master_key(path, &body.unlock, unlock)?;
        let seal = BASE64.decode(&file.seal).map_err(|_| malformed())?;
        match open_value(&master, &binding(&body), &seal) {
            Ok(_) => {}
            Err(SealError::WrongKey { .. }) => return Err(KeyringError::WrongSecret { path: path.into() }),
            Err(_) => return Err(KeyringError::Altered { path: path.into() }),
        }
        let mut keys = BTreeMap::new();
        for KeyRow { name, enabled, wrapped } in body.keys {
            let wrapped = BASE64.decode(wrapped).map_err(|_| malformed())?;
            let key = unwrap_key(&master, name.as_bytes(), &wrapped)
                .map_err(|_| KeyringError::Altered { path: path.into() })?;
            keys.insert(name, Entry { enabled, wrapped, key: Arc::new(key) });
        }
        Ok(Self { path: path.into(), master, unlock: body.unlock, keys: Mutex::new(keys) })
    }

    /// Adds a key unless there is one of that name. True when it was added. Durable when it returns.
    ///
    /// # Errors
    /// [`KeyringError::Io`]; the keyring is then as before.
    pub fn ensure_key(&self, name: &str) -> Result<bool, KeyringError> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.contains_key(name) {
            return Ok(false);
        }
        let key = Arc::new(DataKey::generate());
        let wrapped = wrap_key(&self.master, name.as_bytes(), &key);
        keys.insert(name.to_owned(), Entry { enabled: true, wrapped, key });
        if let Err(error) = self.save(&keys) {
            keys.remove(name);
            return Err(error);
        }
        Ok(true)
    }

    /// Switches a key on or off. Durable when it returns.
    ///
    /// # Errors
    /// [`KeyringError::NoSuchKey`], [`KeyringError::Io`].
    pub fn set_enabled(&self, name: &str, enabled: bool) -> Result<(), KeyringError> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let no_such_key = || KeyringError::NoSuchKey { name: name.to_owned() };
        let before = keys.get(name).ok_or_else(no_such_key)?.enabled;
        keys.entry(name.to_owned()).and_modify(|entry| entry.enabled = enabled);
        if let Err(error) = self.save(&keys) {
            keys.entry(name.to_owned()).and_modify(|entry| entry.enabled = before);
            return Err(error);
        }
        Ok(())
    }

    /// Names of all keys, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn save(&self, keys: &BTreeMap<String, Entry>) -> Result<(), KeyringError> {
        let rows = keys.iter().map(|(name, entry)| KeyRow {
            name: name.clone(),
            enabled: entry.enabled,
            wrapped: BASE64.encode(&entry.wrapped),
        });
        let body = Body { schloss_keyring: FORMAT, unlock: self.unlock.clone(), keys: rows.collect() };
        let seal = BASE64.encode(seal_value(&self.master, &binding(&body), b""));
        let text = serde_json::to_vec_pretty(&FileForm { body, seal }).unwrap_or_default();
        write_private(&self.path, &text)
    }

    fn key(&self, name: &str) -> Result<Arc<DataKey>, KeyError> {
        let denied = |why| KeyError::Denied { key_ref: name.to_owned(), why };
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = keys.get(name).ok_or_else(|| denied(Denial::NotFound))?;
        if entry.enabled { Ok(Arc::clone(&entry.key)) } else { Err(denied(Denial::Disabled)) }
    }
}

impl std::fmt::Debug for LocalKeyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalKeyring").field("path", &self.path).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl Kms for LocalKeyring {
    fn provider(&self) -> &'static str {
        "local"
    }

    async fn generate_data_key(
        &self,
        key_ref: &str,
        context: &EncryptionContext,
    ) -> Result<(DataKey, Vec<u8>), KeyError> {
        let wrapping = self.key(key_ref)?;
        let key = DataKey::generate();
        let blob = wrap_key(&wrapping, &context.to_bytes(), &key);
        Ok((key, blob))
    }

    async fn decrypt(&self, key_ref: &str, blob: &[u8], context: &EncryptionContext) -> Result<DataKey, KeyError> {
        unwrap_key(self.key(key_ref)?.as_ref(), &context.to_bytes(), blob).map_err(|error| match error {
            SealError::Tampered { .. } => KeyError::ContextMismatch,
            _ => KeyError::Corrupt { key_ref: key_ref.to_owned() },
        })
    }

    async fn re_encrypt(
        &self,
        from: &str,
        blob: &[u8],
        to: &str,
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, KeyError> {
        let wrapping = self.key(to)?;
        let key = self.decrypt(from, blob, context).await?;
        Ok(wrap_key(&wrapping, &context.to_bytes(), &key))
    }

    async fn describe(&self, key_ref: &str) -> Result<KeyState, KeyError> {
        match self.key(key_ref) {
            Ok(_) => Ok(KeyState::Enabled),
            Err(KeyError::Denied { why: Denial::Disabled, .. }) => Ok(KeyState::Disabled),
            Err(error) => Err(error),
        }
    }
}

/// Writes a new key file of 32 random bytes in hexadecimal, mode 0600.
///
/// # Errors
/// [`KeyringError::Exists`] rather than overwriting; [`KeyringError::Io`].
pub fn write_key_file(path: &Path) -> Result<(), KeyringError> {
    if path.exists() {
        return Err(KeyringError::Exists { path: path.into() });
    }
    let bytes = Zeroizing::new(random_array::<32>());
    let mut text = Zeroizing::new(String::with_capacity(65));
    for byte in bytes.iter() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    text.push('\n');
    write_private(path, text.as_bytes())
}

fn master_key(path: &Path, row: &UnlockRow, unlock: &Unlock) -> Result<DataKey, KeyringError> {
    match (row, unlock) {
        (UnlockRow::KeyFile, Unlock::KeyFile(key_file)) => read_key_file(key_file),
        (UnlockRow::Pbkdf2Sha256 { iterations, salt }, Unlock::Passphrase(passphrase)) => {
            // SECURITY: a file with fewer iterations than we write was weakened to make guessing cheap.
            let altered = || KeyringError::Altered { path: path.into() };
            let iterations = Some(*iterations)
                .filter(|n| (ITERATIONS_MIN..=ITERATIONS_MAX).contains(n))
                .and_then(NonZeroU32::new)
                .ok_or_else(altered)?;
            let salt = BASE64.decode(salt).map_err(|_| altered())?;
            Ok(DataKey::from_passphrase(passphrase.as_bytes(), &salt, iterations))
        }
        (UnlockRow::KeyFile, Unlock::Passphrase(_)) => {
            Err(KeyringError::OtherKindOfSecret { path: path.into(), by: "key file" })
        }
        (UnlockRow::Pbkdf2Sha256 { .. }, Unlock::KeyFile(_)) => {
            Err(KeyringError::OtherKindOfSecret { path: path.into(), by: "passphrase" })
        }
    }
}

fn read_key_file(path: &Path) -> Result<DataKey, KeyringError> {
    let io = |source| KeyringError::Io { path: path.into(), source };
    let mode = fs::metadata(path).map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyringError::KeyFileOpenToOthers { path: path.into(), mode });
    }
    let malformed = || KeyringError::KeyFileMalformed { path: path.into() };
    let text = Zeroizing::new(read_bounded(path)?);
    let text = std::str::from_utf8(&text).map_err(|_| malformed())?.trim();
    let mut bytes = Zeroizing::new([0_u8; 32]);
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(malformed());
    }
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        let digits = text.get(at..at + 2).ok_or_else(malformed)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| malformed())?;
    }
    Ok(DataKey::take(&mut bytes))
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, KeyringError> {
    let io = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeyringError::Missing { path: path.into() },
        _ => KeyringError::Io { path: path.into(), source },
    };
    if fs::metadata(path).map_err(io)?.len() > FILE_BYTES_MAX {
        return Err(KeyringError::Malformed { path: path.into() });
    }
    fs::read(path).map_err(io)
}

fn newer_or_malformed(path: &Path, text: &[u8]) -> KeyringError {
    let version = serde_json::from_slice::<serde_json::Value>(text)
        .ok()
        .and_then(|value| value.get("schloss_keyring")?.as_u64())
        .and_then(|version| u32::try_from(version).ok());
    match version {
        Some(version) if version > FORMAT => KeyringError::NewerFormat { path: path.into(), version },
        _ => KeyringError::Malformed { path: path.into() },
    }
}

/// Writes beside, syncs, renames over, syncs the folder: readers see the old file or the new one, whole.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), KeyringError> {
    let io = |source| KeyringError::Io { path: path.into(), source };
    let beside = path.with_extension("new");
    let write = || -> io::Result<()> {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    };
    write().map_err(io)
}

/// What the seal is bound to: the body in compact JSON, fields in the order of the type.
fn binding(body: &Body) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use schloss_crypto::Purpose;

    const CONTEXT: EncryptionContext = EncryptionContext { cluster: [1; 16], tenant: [2; 16], purpose: Purpose::Index };

    fn with_key_file(folder: &Path) -> (PathBuf, Unlock) {
        let key_file = folder.join("keyring.key");
        write_key_file(&key_file).unwrap();
        (folder.join("keyring.json"), Unlock::KeyFile(key_file))
    }

    #[tokio::test]
    async fn data_key_opens_after_the_keyring_was_closed_and_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, unlock) = with_key_file(folder.path());
        let keyring = LocalKeyring::create(&path, &unlock).unwrap();
        assert!(keyring.ensure_key("local:1").unwrap());
        assert!(!keyring.ensure_key("local:1").unwrap());
        let (key, blob) = keyring.generate_data_key("local:1", &CONTEXT).await.unwrap();
        let again = LocalKeyring::open(&path, &unlock).unwrap();
        let opened = again.decrypt("local:1", &blob, &CONTEXT).await.unwrap();
        assert_eq!(open_value(&opened, b"", &seal_value(&key, b"", b"same key")).unwrap(), b"same key");
        let other = EncryptionContext { tenant: [3; 16], ..CONTEXT };
        assert_eq!(again.decrypt("local:1", &blob, &other).await.unwrap_err(), KeyError::ContextMismatch);
        assert_eq!(again.names(), ["local:1"]);
    }

    #[tokio::test]
    async fn local_keyring_keeps_every_promise() {
        let folder = tempfile::tempdir().unwrap();
        let (path, unlock) = with_key_file(folder.path());
        let keyring = LocalKeyring::create(&path, &unlock).unwrap();
        keyring.ensure_key("first").unwrap();
        keyring.ensure_key("second").unwrap();
        crate::promises::tests::all_kept(&keyring).await;
    }

    #[tokio::test]
    async fn re_encrypted_key_opens_under_the_new_key_and_the_old_may_be_disabled() {
        let folder = tempfile::tempdir().unwrap();
        let (path, unlock) = with_key_file(folder.path());
        let keyring = LocalKeyring::create(&path, &unlock).unwrap();
        keyring.ensure_key("a").unwrap();
        keyring.ensure_key("b").unwrap();
        let (_, blob) = keyring.generate_data_key("a", &CONTEXT).await.unwrap();
        let moved = keyring.re_encrypt("a", &blob, "b", &CONTEXT).await.unwrap();
        keyring.set_enabled("a", false).unwrap();
        assert!(keyring.decrypt("b", &moved, &CONTEXT).await.is_ok());
        let denied = KeyError::Denied { key_ref: "a".into(), why: Denial::Disabled };
        assert_eq!(keyring.decrypt("a", &blob, &CONTEXT).await.unwrap_err(), denied);
        assert_eq!(LocalKeyring::open(&path, &unlock).unwrap().describe("a").await, Ok(KeyState::Disabled));
    }

    #[test]
    fn keyring_opens_by_its_own_passphrase_only_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keyring.json");
        let unlock = |text: &str| Unlock::Passphrase(Zeroizing::new(text.to_owned()));
        LocalKeyring::create(&path, &unlock("right")).unwrap();
        assert!(LocalKeyring::open(&path, &unlock("right")).is_ok());
        let wrong = LocalKeyring::open(&path, &unlock("wrong")).unwrap_err();
        assert!(matches!(wrong, KeyringError::WrongSecret { .. }), "{wrong}");
        let weakened = fs::read_to_string(&path).unwrap().replace("600000", "1000");
        fs::write(&path, weakened).unwrap();
        assert!(matches!(LocalKeyring::open(&path, &unlock("right")), Err(KeyringError::Altered { .. })));
    }

    #[test]
    fn altered_missing_newer_and_foreign_files_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let (path, unlock) = with_key_file(folder.path());
        assert!(matches!(LocalKeyring::open(&path, &unlock), Err(KeyringError::Missing { .. })));
        let keyring = LocalKeyring::create(&path, &unlock).unwrap();
        keyring.ensure_key("local:1").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let put = |changed: String| {
            assert_ne!(changed, text);
            fs::write(&path, changed).unwrap();
            LocalKeyring::open(&path, &unlock).unwrap_err()
        };
        assert!(matches!(put(text.replace("local:1", "local:2")), KeyringError::Altered { .. }));
        assert!(matches!(put(text.replace("true", "false")), KeyringError::Altered { .. }));
        assert!(matches!(
            put(text.replace("keyring\": 1", "keyring\": 2")),
            KeyringError::NewerFormat { version: 2, .. }
        ));
        assert!(matches!(put("{}".into()), KeyringError::Malformed { .. }));
        assert!(matches!(put(String::new()), KeyringError::Malformed { .. }));
        assert!(matches!(LocalKeyring::create(&path, &unlock), Err(KeyringError::Exists { .. })));
    }

    #[test]
    fn files_are_private_and_a_key_file_open_to_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (path, unlock) = with_key_file(folder.path());
        LocalKeyring::create(&path, &unlock).unwrap();
        let key_file = folder.path().join("keyring.key");
        for file in [&path, &key_file] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            LocalKeyring::open(&path, &unlock),
            Err(KeyringError::KeyFileOpenToOthers { mode: 0o640, .. })
        ));
    }
}
