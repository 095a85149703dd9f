//! Tenants at run time: the organisation in force, and for each tenant its keys, topics, groups and producers.
//!
//! In: the organisation's files. Out: [`Tenant`]s, and [`Binding`]s of principals to policies. A wrong set of files is
//! refused whole and the old one stays in force.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use schloss_authz::ClusterArn;
use schloss_authz::Engine as Policies;
use schloss_authz::Finding;
use schloss_authz::FrameError;
use schloss_authz::organisation::Organisation;
use schloss_authz::policy::Library;
use schloss_core::{ErrorCode, TenantId};
use schloss_crypto::{Standing, digest};
use schloss_kms::Vault;
use tokio::sync::Semaphore;

use crate::abroad::Met;
use crate::acls::Acls;
use crate::catalog::Catalog;
use crate::groups::Groups;
use crate::producers::Producers;

/// Files of one organisation, at most; and bytes of one file.
const FILES_MAX: usize = 100_000;
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Everything of one tenant that lives while the broker runs.
pub struct Tenant {
    /// Account number.
    pub id: TenantId,
    /// The virtual cluster, whose UUID is told to clients as cluster id.
    pub cluster: ClusterArn,
    /// Topics.
    pub catalog: Catalog,
    /// Consumer groups.
    pub groups: Arc<Groups>,
    /// Producer ids.
    pub producers: Producers,
    /// Kafka ACLs.
    pub acls: Acls,
    /// Topics of other tenants that its clients met.
    pub met: Met,
    /// Bytes of requests this tenant may have in memory, in units of 1 KiB.
    pub request_memory: Arc<Semaphore>,
    /// Knows whether the tenant's KMS key may be used.
    pub vault: Arc<Vault>,
    /// Asked for something since the last look at its key: only such tenants' keys are proved.
    pub active: AtomicBool,
}

impl Tenant {
    /// Whether records may be taken and given.
    ///
    /// # Errors
    /// KAFKA_STORAGE_ERROR, which clients retry, so that nothing they hold is lost.
    pub fn check_key(&self) -> Result<(), ErrorCode> {
        self.active.store(true, Ordering::Relaxed);
        match self.vault.tenant_standing(self.id.to_bytes()) {
            Standing::Stopped => Err(ErrorCode::KAFKA_STORAGE_ERROR),
            // A stale key is proved by the room that needs it.
            Standing::Usable | Standing::Stale => Ok(()),
        }
    }

    /// Proves the key when it was not proved lately, for what needs no key of its own: records still in memory.
    ///
    /// # Errors
    /// As [`Tenant::check_key`].
    pub async fn prove_key(&self) -> Result<(), ErrorCode> {
        let tenant = self.id.to_bytes();
        if self.vault.tenant_standing(tenant) == Standing::Stale {
            // What it learns is judged below; an outage within the grace is no refusal.
            drop(self.vault.probe_tenant(tenant).await);
        }
        self.check_key()
    }
}

/// Why files could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file or the folder cannot be read.
    #[error("`{}` cannot be read: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// More or larger files than an organisation has.
    #[error("`{}` is over the limit of {limit}", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// The limit in words.
        limit: &'static str,
    },
    /// Mistakes in the files.
    #[error("{}", list(.0))]
    Wrong(Vec<Finding>),
}

fn list(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// All tenants, and the policies in force.
pub struct Tenancy {
    policies: Policies,
    digest: Mutex<String>,
    /// Digest of every file in force.
    files: Mutex<BTreeMap<String, String>>,
    tenants: RwLock<HashMap<TenantId, Arc<Tenant>>>,
}

impl Tenancy {
    /// Starts with a loaded organisation and no tenant opened yet.
    ///
    /// # Errors
    /// [`FrameError`] when there can be no decisions.
    pub fn new(organisation: Organisation, digest: String) -> Result<Self, FrameError> {
        Ok(Self {
            policies: Policies::new(organisation)?,
            digest: Mutex::new(digest),
            files: Mutex::default(),
            tenants: RwLock::default(),
        })
    }

    /// The policies in force.
    #[must_use]
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Digest of the files in force, and their number.
    #[must_use]
    pub fn version(&self) -> (String, u64) {
        (self.digest.lock().unwrap_or_else(PoisonError::into_inner).clone(), self.policies.epoch())
    }

    /// Digests of the files in force, by path.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, String> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers the digests of the files that [`Tenancy::new`] or [`Tenancy::replace`] put in force.
    pub fn remember_files(&self, files: BTreeMap<String, String>) {
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = files;
    }

    /// Puts a new organisation in force.
    pub fn replace(&self, organisation: Organisation, digest: String) -> u64 {
        let epoch = self.policies.apply(organisation);
        *self.digest.lock().unwrap_or_else(PoisonError::into_inner) = digest;
        epoch
    }

    /// An opened tenant.
    #[must_use]
    pub fn tenant(&self, id: TenantId) -> Option<Arc<Tenant>> {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// All opened tenants.
    #[must_use]
    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Closes a tenant: its connections end, its logins are refused.
    pub fn remove(&self, id: TenantId) -> Option<Arc<Tenant>> {
        self.tenants.write().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    /// Adds an opened tenant.
    pub fn add(&self, tenant: Arc<Tenant>) {
        self.tenants.write().unwrap_or_else(PoisonError::into_inner).insert(tenant.id, tenant);
    }
}

/// A tenant's number in the broker's words.
#[must_use]
pub fn tenant_id(tenant: &schloss_authz::organisation::Tenant) -> Option<TenantId> {
    TenantId::new(tenant.account().number())
}

/// Reads an organisation's folder.
///
/// # Errors
/// [`LoadError`], with every mistake at once.
pub fn load(folder: &Path) -> Result<(Organisation, String), LoadError> {
    let files = read_files(folder)?;
    let digest = digest_of(&files);
    Ok((check(&files)?, digest))
}

/// Reads an organisation out of files already in memory.
///
/// # Errors
/// [`LoadError::Wrong`], with every mistake at once.
pub fn check(files: &BTreeMap<String, String>) -> Result<Organisation, LoadError> {
    let organisation = Organisation::load(files, &mut Library::default()).map_err(LoadError::Wrong)?;
    crate::login::rules::check(&organisation, files).map_err(LoadError::Wrong)?;
    Ok(organisation)
}

/// The digest of each file of a folder.
///
/// # Errors
/// [`LoadError`] when it cannot be read.
pub fn digests_of_files(folder: &Path) -> Result<BTreeMap<String, String>, LoadError> {
    let hex = |text: &str| digest::sha256(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(read_files(folder)?.into_iter().map(|(path, text)| (path, hex(&text))).collect())
}

/// The digest a folder's content would have in force.
///
/// # Errors
/// [`LoadError`] when it cannot be read.
pub fn digest_of_folder(folder: &Path) -> Result<String, LoadError> {
    Ok(digest_of(&read_files(folder)?))
}

fn digest_of(files: &BTreeMap<String, String>) -> String {
    let mut hash = digest::Sha256::new();
    for (path, text) in files {
        for part in [path.as_bytes(), text.as_bytes()] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hash.finish().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every file of an organisation's folder, by its path in it.
///
/// # Errors
/// [`LoadError`].
pub fn read_files(folder: &Path) -> Result<BTreeMap<String, String>, LoadError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| LoadError::Unreadable { path, source }
    };
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        for entry in std::fs::read_dir(&current).map_err(unreadable(&current))? {
            let path = entry.map_err(unreadable(&current))?.path();
            let meta = std::fs::metadata(&path).map_err(unreadable(&path))?;
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                continue;
            }
            if meta.is_dir() {
                folders.push(path);
                continue;
            }
            if !path.extension().is_some_and(|extension| extension == "toml" || extension == "json") {
                continue;
            }
            if meta.len() > FILE_BYTES_MAX {
                return Err(LoadError::TooLarge { path, limit: "1 MiB a file" });
            }
            if files.len() >= FILES_MAX {
                return Err(LoadError::TooLarge { path: folder.to_owned(), limit: "100,000 files" });
            }
            let text = std::fs::read_to_string(&path).map_err(unreadable(&path))?;
            let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
            files.insert(name, text);
        }
    }
    Ok(files)
}
