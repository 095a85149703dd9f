//! A key of its own for each topic, kept outside the data folder, so that destroying it makes every copy of the topic's segments
//! unreadable: older ones of the data folder and its manifest too, whoever may still ask the KMS.
//!
//! `<folder>/<tenant>/<topic id>` holds 32 random bytes, sealed under the tenant's metadata key ([`schloss_crypto::value`]) and bound to
//! tenant and topic: opening one needs the KMS like everything else, and costs no call of its own.
//!
//! Invariants
//! - A key is on disk before its topic exists, and gone from disk before its topic is.
//! - A topic that has one is never written or read without it: what its frames are sealed under says so in the segment's index.
//!
//! What overwriting cannot promise: file systems and disks that keep old blocks (snapshots, copy on write, flash). Encrypt that disk.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schloss_core::{TenantId, TopicId};
use schloss_crypto::{DataKey, random_array, value};

use crate::keys::{KeyTrouble, RowKeys};

/// Opened topic keys held at once.
const HELD_MAX: usize = 65_536;

/// Why there is no topic key.
#[derive(Debug, thiserror::Error)]
pub enum TopicKeyError {
    /// The tenant's own keys.
    #[error(transparent)]
    Key(#[from] KeyTrouble),
    /// The file.
    #[error("the topic's key: {0}")]
    Io(#[from] io::Error),
    /// It was destroyed, or lost.
    #[error("the topic's key was destroyed or is lost")]
    Destroyed,
    /// It does not open.
    #[error("the topic's key was altered")]
    Altered,
}

/// The store of topic keys.
pub struct TopicKeys {
    folder: Option<PathBuf>,
    rows: Arc<RowKeys>,
    held: Mutex<HashMap<TopicId, (TenantId, Arc<DataKey>)>>,
    /// Destroyed since the start: a flush under way must not take such a topic for one that never had a key.
    destroyed: Mutex<HashSet<TopicId>>,
}

impl TopicKeys {
    /// Opens the folder, making it. Without one no topic gets a key of its own.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(folder: Option<PathBuf>, rows: Arc<RowKeys>) -> io::Result<Self> {
        if let Some(folder) = &folder {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        Ok(Self { folder, rows, held: Mutex::default(), destroyed: Mutex::default() })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<TopicId, (TenantId, Arc<DataKey>)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(folder: &Path, tenant: TenantId, topic: TopicId) -> PathBuf {
        folder.join(tenant.to_string()).join(topic.to_string())
    }

    /// Makes a new topic's key; durable when it returns.
    pub async fn create(&self, tenant: TenantId, topic: TopicId) -> Result<(), TopicKeyError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let keys = self.rows.get(tenant).await?;
        let key = DataKey::take(&mut random_array());
        let sealed = value::wrap_key(&keys.metadata, &binding(tenant, topic), &key);
        let path = Self::path(folder, tenant, topic);
        let parent = path.parent().unwrap_or(folder);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(&sealed)?;
        file.sync_all()?;
        File::open(parent)?.sync_all()?;
        File::open(folder)?.sync_all()?;
        self.hold(tenant, topic, key);
        Ok(())
    }

    fn hold(&self, tenant: TenantId, topic: TopicId, key: DataKey) -> Arc<DataKey> {
        let key = Arc::new(key);
        let mut held = self.held();
        if held.len() >= HELD_MAX {
            held.clear();
        }
        held.insert(topic, (tenant, Arc::clone(&key)));
        key
    }

    /// A topic's key; none when it never had one.
    pub async fn find(&self, tenant: TenantId, topic: TopicId) -> Result<Option<Arc<DataKey>>, TopicKeyError> {
        let Some(folder) = &self.folder else { return Ok(None) };
        // What opens it must itself be usable now, also for one that is held.
        let keys = self.rows.get(tenant).await?;
        if let Some((owner, key)) = self.held().get(&topic)
            && *owner == tenant
        {
            return Ok(Some(Arc::clone(key)));
        }
        if self.destroyed.lock().unwrap_or_else(PoisonError::into_inner).contains(&topic) {
            return Err(TopicKeyError::Destroyed);
        }
        let sealed = match fs::read(Self::path(folder, tenant, topic)) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let key = value::unwrap_key(&keys.metadata, &binding(tenant, topic), &sealed);
        Ok(Some(self.hold(tenant, topic, key.map_err(|_| TopicKeyError::Altered)?)))
    }

    /// The key of a topic whose frames say that it has one.
    pub async fn required(&self, tenant: TenantId, topic: TopicId) -> Result<Arc<DataKey>, TopicKeyError> {
        self.find(tenant, topic).await?.ok_or(TopicKeyError::Destroyed)
    }

    /// Destroys a topic's key: overwritten, removed, and the removal durable. True when there was one.
    pub fn destroy(&self, tenant: TenantId, topic: TopicId) -> io::Result<bool> {
        self.destroyed.lock().unwrap_or_else(PoisonError::into_inner).insert(topic);
        self.held().remove(&topic);
        let Some(folder) = &self.folder else { return Ok(false) };
        overwrite_and_remove(&Self::path(folder, tenant, topic))
    }

    /// Destroys all keys of a tenant's topics; returns how many there were.
    pub fn destroy_all(&self, tenant: TenantId) -> io::Result<usize> {
        self.forget(tenant);
        let Some(folder) = &self.folder else { return Ok(0) };
        let folder = folder.join(tenant.to_string());
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut destroyed = 0_usize;
        for entry in entries {
            if overwrite_and_remove(&entry?.path())? {
                destroyed = destroyed.saturating_add(1);
            }
        }
        Ok(destroyed)
    }

    /// Wipes a tenant's opened keys.
    pub fn forget(&self, tenant: TenantId) {
        self.held().retain(|_, (owner, _)| *owner != tenant);
    }
}

fn overwrite_and_remove(path: &Path) -> io::Result<bool> {
    let mut file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0).min(4096);
    let mut noise = vec![0; length];
    schloss_crypto::random_bytes(&mut noise);
    file.write_all(&noise)?;
    file.sync_all()?;
    fs::remove_file(path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
    Ok(true)
}

fn binding(tenant: TenantId, topic: TopicId) -> Vec<u8> {
    [b"topic-key".as_slice(), &tenant.to_bytes(), &topic.to_bytes()].concat()
}
