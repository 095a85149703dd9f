//! Backups: sealed objects as they are, and snapshots of the manifest, sealed under the cluster's KMS key.
//!
//! ```text
//! DIR/objects/seg/<tenant>/<id>        segment objects, copied once
//! DIR/objects/aside/<shard>/…          log entries set aside for tenants whose keys are away, the same
//! DIR/snapshots/<time>-<id>.snap       a manifest, with the list of its objects and their digests
//! DIR/topic-keys/<tenant>/<topic>      topics' own keys: those of now, never older ones, so that a shredded topic stays shredded
//! DIR/head                             which snapshots there are, with their digests
//! ```
//! A sealed file: magic `SCHLBKP1` | cluster \[16\] | random id \[16\] | wrapped key length u32 | wrapped key | sealed value, bound to cluster
//! and file name.
//!
//! Invariants
//! - A snapshot holds everything acknowledged before it was begun: the log is flushed first, what a tenant's key keeps from that is set aside
//!   and copied, and no log is in a backup. Where neither can be done there is no backup.
//! - A file is whole under its name, or not there: written beside it, synced, renamed.
//! - What a snapshot names is in `objects` before the snapshot is in `head`.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use schloss_core::ClusterId;
use schloss_crypto::{
    DataKey, EncryptionContext, KeyVault, Purpose, WrappedKey, digest, open_value, random_array, seal_value,
};
use schloss_metadata::{AsideRow, Metadata as _, MetadataError, SegmentRow, SqliteMetadata};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::manifest::{self, NoKey};
use crate::operate::{OperatorCall, OperatorRefusal};

const MAGIC: [u8; 8] = *b"SCHLBKP1";
/// A manifest beyond this is not read into memory.
const SNAPSHOT_BYTES_MAX: u64 = 16 << 30;
/// A segment erased while it was being copied makes the snapshot stale; it is taken again.
const ROUNDS: u32 = 5;

/// Why a backup cannot be made, used or trusted.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is not what was written.
    #[error("`{}` is not what was written: {what}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// The cluster's key.
    #[error(transparent)]
    Key(#[from] schloss_crypto::KeyError),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] MetadataError),
    /// Segments come and go faster than they can be copied.
    #[error("segments were erased while they were copied, {ROUNDS} times")]
    Restless,
    /// Another installation's.
    #[error("the folder holds a backup of another installation")]
    Foreign,
    /// Nothing to restore.
    #[error("the backup has no snapshot from before that time")]
    NoSnapshot,
    /// Something is there already.
    #[error("`{}` is not empty", .0.display())]
    NotEmpty(PathBuf),
}

impl From<NoKey> for BackupError {
    fn from(error: NoKey) -> Self {
        match error {
            NoKey::Key(error) => Self::Key(error),
            NoKey::Manifest(error) => Self::Manifest(error),
            NoKey::Sealed(_) => Self::Damaged { path: PathBuf::from("manifest.db"), what: "its key of proofs" },
        }
    }
}

/// One object of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    size: u64,
    sha256: String,
}

/// What stands before a manifest in its snapshot.
#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    created_ms: i64,
    /// By path below `objects`.
    objects: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Snapshot {
    file: String,
    created_ms: i64,
    sha256: String,
    objects: usize,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Head {
    cluster: String,
    snapshots: Vec<Snapshot>,
}

/// A backup's folder, and what opens it.
pub struct Repository<'v> {
    folder: PathBuf,
    vault: &'v dyn KeyVault,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> BackupError + use<> {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(failed(parent))?;
    let draft = path.with_extension("draft");
    let write = || {
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(parent)?.sync_all()
    };
    write().map_err(failed(path))
}

fn object_name(row: &SegmentRow) -> String {
    format!("seg/{}/{}", row.tenant, hex(&row.object_id))
}

fn aside_name(row: &AsideRow) -> String {
    format!("aside/{:04}/{}/{}", row.shard.0, row.tenant, hex(&row.object_id))
}

impl<'v> Repository<'v> {
    /// A folder, there or not.
    #[must_use]
    pub fn new(folder: PathBuf, vault: &'v dyn KeyVault) -> Self {
        Self { folder, vault }
    }

    async fn seal(&self, cluster: ClusterId, name: &str, plain: &[u8]) -> Result<Vec<u8>, BackupError> {
        let snapshot = random_array();
        let context = context(cluster, snapshot);
        let (key, wrapped) = self.vault.generate(&context).await?;
        let damaged = |_| BackupError::Damaged { path: self.folder.join(name), what: "its wrapped key is too long" };
        let wrapped = wrapped.to_bytes().map_err(damaged)?;
        let length = u32::try_from(wrapped.len()).unwrap_or(u32::MAX).to_be_bytes();
        let sealed = seal_value(&key, &binding(cluster, name), plain);
        Ok([&MAGIC[..], &cluster.to_bytes(), &snapshot, &length, &wrapped, &sealed].concat())
    }

    async fn open(&self, name: &str) -> Result<(ClusterId, Vec<u8>), BackupError> {
        let path = self.folder.join(name);
        let bytes = fs::read(&path).map_err(failed(&path))?;
        let damaged = |what| BackupError::Damaged { path: path.clone(), what };
        let bad = || damaged("its form");
        let rest = bytes.strip_prefix(&MAGIC).ok_or_else(bad)?;
        let (cluster, rest) = rest.split_first_chunk::<16>().ok_or_else(bad)?;
        let (snapshot, rest) = rest.split_first_chunk::<16>().ok_or_else(bad)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(bad)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| bad())?;
        let (wrapped, sealed) = rest.split_at_checked(length).ok_or_else(bad)?;
        let wrapped = WrappedKey::from_bytes(wrapped).map_err(|_| bad())?;
        let cluster = ClusterId::from_bytes(*cluster);
        let key = match self.vault.open(&context(cluster, *snapshot), &wrapped).await {
            Err(schloss_crypto::KeyError::ContextMismatch | schloss_crypto::KeyError::Corrupt { .. }) => {
                return Err(damaged("its wrapped key"));
            }
            opened => opened?,
        };
        let plain = open(&key, cluster, name, sealed).ok_or_else(|| damaged("its seal"))?;
        Ok((cluster, plain))
    }

    async fn head(&self) -> Result<Option<Head>, BackupError> {
        if !self.folder.join("head").exists() {
            // A folder with snapshots but no head lost it.
            return if self.folder.join("snapshots").exists() {
                Err(BackupError::Damaged { path: self.folder.join("head"), what: "it is missing" })
            } else {
                Ok(None)
            };
        }
        let (_, plain) = self.open("head").await?;
        let damaged = |_| BackupError::Damaged { path: self.folder.join("head"), what: "its content" };
        serde_json::from_slice(&plain).map(Some).map_err(damaged)
    }

    async fn contents(&self, snapshot: &Snapshot) -> Result<(Contents, Vec<u8>), BackupError> {
        let path = self.folder.join(&snapshot.file);
        let damaged = |what| BackupError::Damaged { path: path.clone(), what };
        let size = fs::metadata(&path).map_err(failed(&path))?.len();
        if size > SNAPSHOT_BYTES_MAX {
            return Err(damaged("its size"));
        }
        let (_, plain) = self.open(&snapshot.file).await?;
        let (length, rest) = plain.split_first_chunk::<4>().ok_or_else(|| damaged("its content"))?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (contents, manifest) = rest.split_at_checked(length).ok_or_else(|| damaged("its content"))?;
        let contents = serde_json::from_slice(contents).map_err(|_| damaged("its list of objects"))?;
        Ok((contents, manifest.to_vec()))
    }

    /// Whether everything a backup needs is there and whole: (snapshots, objects, bytes).
    ///
    /// # Errors
    /// [`BackupError`]: the first thing wrong.
    pub async fn verify(&self) -> Result<(usize, usize, u64), BackupError> {
        let head = self.head().await?.ok_or(BackupError::NoSnapshot)?;
        let mut objects: BTreeMap<String, Entry> = BTreeMap::new();
        for snapshot in &head.snapshots {
            let path = self.folder.join(&snapshot.file);
            let bytes = fs::read(&path).map_err(failed(&path))?;
            if hex(&digest::sha256(&bytes)) != snapshot.sha256 {
                return Err(BackupError::Damaged { path, what: "it is not the one that the head names" });
            }
            objects.extend(self.contents(snapshot).await?.0.objects);
        }
        let mut bytes = 0_u64;
        for (name, entry) in &objects {
            self.read_object(name, entry)?;
            bytes = bytes.saturating_add(entry.size);
        }
        Ok((head.snapshots.len(), objects.len(), bytes))
    }

    fn read_object(&self, name: &str, entry: &Entry) -> Result<Vec<u8>, BackupError> {
        let path = self.folder.join("objects").join(name);
        let bytes = fs::read(&path).map_err(failed(&path))?;
        if bytes.len() as u64 != entry.size || hex(&digest::sha256(&bytes)) != entry.sha256 {
            return Err(BackupError::Damaged { path, what: "its bytes" });
        }
        Ok(bytes)
    }

    /// Fills an empty data folder with the newest snapshot, or the newest made at or before `at_ms`.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn restore(
        &self,
        data: &Path,
        topic_keys: &Path,
        at_ms: Option<i64>,
    ) -> Result<(i64, usize), BackupError> {
        let occupied = fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_some());
        if occupied {
            return Err(BackupError::NotEmpty(data.to_owned()));
        }
        let head = self.head().await?.ok_or(BackupError::NoSnapshot)?;
        let wanted = head.snapshots.iter().filter(|one| at_ms.is_none_or(|at| one.created_ms <= at));
        let snapshot = wanted.max_by_key(|one| one.created_ms).ok_or(BackupError::NoSnapshot)?;
        let (contents, manifest) = self.contents(snapshot).await?;
        for (name, entry) in &contents.objects {
            write_whole(&data.join("objects").join(name), &self.read_object(name, entry)?)?;
        }
        copy_new(&self.folder.join("topic-keys"), topic_keys)?;
        // Last: a folder without a manifest is none that a broker would take for whole.
        let draft = data.join("manifest.restoring");
        write_whole(&draft, &manifest)?;
        self.begin(&draft).await?;
        settle(&draft, &data.join("manifest.db"))?;
        Ok((contents.created_ms, contents.objects.len()))
    }
}

impl Repository<'_> {
    /// A manifest out of a snapshot, made ready for an empty log. It is sealed under the cluster's KMS key as a whole, so one of a release
    /// that had no proofs is taken as it is; one that has them must agree with them.
    async fn begin(&self, draft: &Path) -> Result<(), BackupError> {
        let store = SqliteMetadata::open(draft)?;
        let cluster = ClusterId::from_bytes(store.cluster_id().await?);
        let damaged = || BackupError::Damaged { path: draft.to_owned(), what: "its rows" };
        match manifest::its_key(&store, self.vault, cluster).await? {
            Some(key) if !store.is_of_earlier_format().await? => {
                let doubts = store.prove(key).await?;
                // A tenant that was in doubt when the snapshot was made is so still.
                if doubts.iter().any(|doubt| doubt.tenant.is_none()) {
                    return Err(damaged());
                }
            }
            Some(key) => store.accept(key).await?,
            None if store.is_of_earlier_format().await? => {
                store.accept(manifest::new_key(&store, self.vault, cluster).await?).await?;
            }
            None => return Err(damaged()),
        }
        Ok(store.begin_logs_anew().await?)
    }
}

/// Renames a closed database; its own log is gone when its last connection is.
fn settle(draft: &Path, path: &Path) -> Result<(), BackupError> {
    for _ in 0..500 {
        if !draft.with_extension("restoring-wal").exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    fs::rename(draft, path).map_err(failed(path))
}

fn context(cluster: ClusterId, snapshot: [u8; 16]) -> EncryptionContext {
    EncryptionContext { cluster: cluster.to_bytes(), tenant: [0; 16], purpose: Purpose::Backup { snapshot } }
}

fn binding(cluster: ClusterId, name: &str) -> Vec<u8> {
    [b"backup".as_slice(), &cluster.to_bytes(), name.as_bytes()].concat()
}

fn open(key: &DataKey, cluster: ClusterId, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
    open_value(key, &binding(cluster, name), sealed).ok()
}

/// Files of `from` that `to` lacks, as they are.
fn copy_new(from: &Path, to: &Path) -> Result<(), BackupError> {
    for (name, path) in files_below(from)? {
        let target = to.join(name);
        if !target.exists() {
            write_whole(&target, &fs::read(&path).map_err(failed(&path))?)?;
        }
    }
    Ok(())
}

/// Files two folders deep, by name.
fn files_below(folder: &Path) -> Result<HashMap<PathBuf, PathBuf>, BackupError> {
    let mut found = HashMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        let entries = match fs::read_dir(&current) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&current)(error)),
        };
        for entry in entries {
            let path = entry.map_err(failed(&current))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(name) = path.strip_prefix(folder) {
                found.insert(name.to_owned(), path.clone());
            }
        }
    }
    Ok(found)
}

/// `backup create`, in the running broker.
pub async fn create(call: &OperatorCall) -> Result<Value, OperatorRefusal> {
    let folder = PathBuf::from(call.text("folder")?);
    let refused = |error: &dyn std::fmt::Display| {
        OperatorRefusal::new(
            "NotBackedUp",
            error,
            "check the folder, its free space and the cluster's KMS key, then run it again: what was copied stays",
        )
    };
    if !folder.is_absolute() {
        return Err(refused(&"the folder's name must be absolute"));
    }
    call.broker.engine.flush_or_set_aside().await.map_err(|error| refused(&error))?;
    let repository = Repository::new(folder, &*call.broker.vault);
    for _ in 0..ROUNDS {
        match snapshot(call, &repository).await {
            Ok(Some(done)) => return Ok(done),
            Ok(None) => {}
            Err(error) => return Err(refused(&error)),
        }
    }
    Err(refused(&BackupError::Restless))
}

/// One try; none when an object was erased while it was copied.
async fn snapshot(call: &OperatorCall, repository: &Repository<'_>) -> Result<Option<Value>, BackupError> {
    let broker = &call.broker;
    let cluster = ClusterId::from_bytes(broker.metadata.cluster_id().await?);
    let mut head = repository.head().await?.unwrap_or_default();
    if !head.cluster.is_empty() && head.cluster != cluster.to_string() {
        return Err(BackupError::Foreign);
    }
    head.cluster = cluster.to_string();
    let mut known = BTreeMap::new();
    if let Some(last) = head.snapshots.last() {
        known = repository.contents(last).await?.0.objects;
    }
    let draft = broker.config.data_dir.join("snapshot.draft");
    drop(fs::remove_file(&draft));
    broker.metadata.snapshot(draft.clone()).await?;
    let created_ms = broker.clock.now_ms();
    let manifest = fs::read(&draft).map_err(failed(&draft))?;
    let names: Vec<String> = {
        let store = SqliteMetadata::open(&draft)?;
        let (segments, aside) = (store.segments().await?, store.aside().await?);
        segments.iter().map(object_name).chain(aside.iter().map(aside_name)).collect()
    };
    drop(fs::remove_file(&draft));
    let mut contents = Contents { created_ms, objects: BTreeMap::new() };
    let (mut copied, of) = (0_u64, names.len() as u64);
    for (name, n) in names.into_iter().zip(1_u64..) {
        let target = repository.folder.join("objects").join(&name);
        let entry = match known.remove(&name) {
            Some(entry) if target.exists() => entry,
            _ => {
                let source = broker.config.data_dir.join("objects").join(&name);
                let bytes = match fs::read(&source) {
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(failed(&source)(error)),
                };
                write_whole(&target, &bytes)?;
                copied = copied.saturating_add(1);
                Entry { size: bytes.len() as u64, sha256: hex(&digest::sha256(&bytes)) }
            }
        };
        contents.objects.insert(name, entry);
        call.progress(n, of).await;
    }
    keep_topic_keys(&broker.config.topic_keys_dir, &repository.folder.join("topic-keys"))?;
    let list = serde_json::to_vec(&contents).unwrap_or_default();
    let length = u32::try_from(list.len()).unwrap_or(u32::MAX).to_be_bytes();
    let file = format!("snapshots/{created_ms:016}-{}.snap", hex(&random_array::<4>()));
    let sealed = repository.seal(cluster, &file, &[&length[..], &list, &manifest].concat()).await?;
    write_whole(&repository.folder.join(&file), &sealed)?;
    let sha256 = hex(&digest::sha256(&sealed));
    head.snapshots.push(Snapshot { file: file.clone(), created_ms, sha256, objects: contents.objects.len() });
    let plain = serde_json::to_vec(&head).unwrap_or_default();
    write_whole(&repository.folder.join("head"), &repository.seal(cluster, "head", &plain).await?)?;
    Ok(Some(json!({
        "snapshot": file, "created_ms": created_ms, "objects": contents.objects.len(), "copied": copied,
        "snapshots": head.snapshots.len(),
    })))
}

/// Keys of topics that are, and no others: what was shredded since the last backup is destroyed here too.
fn keep_topic_keys(from: &Path, to: &Path) -> Result<(), BackupError> {
    copy_new(from, to)?;
    let live = files_below(from)?;
    for (name, path) in files_below(to)? {
        if !live.contains_key(&name) {
            let length = usize::try_from(fs::metadata(&path).map_err(failed(&path))?.len()).unwrap_or(0);
            let mut noise = vec![0; length];
            schloss_crypto::random_bytes(&mut noise);
            let overwrite = || {
                let mut file = fs::OpenOptions::new().write(true).open(&path)?;
                file.write_all(&noise)?;
                file.sync_all()?;
                fs::remove_file(&path)
            };
            overwrite().map_err(failed(&path))?;
        }
    }
    Ok(())
}
