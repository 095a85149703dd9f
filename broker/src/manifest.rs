//! Opens the manifest and proves that it is the one that was written.
//!
//! In: the data folder, the cluster's KMS key. Out: the manifest, its key of proofs and what is in doubt of tenants; or why the start is
//! refused. Every finding is in the audit log before anybody acts on it.
//!
//! Invariants
//! - A new manifest is made in a new data folder only: beside an audit log, objects or log files its absence is a loss, and everything they
//!   hold would be orphans to it.
//! - Only a new manifest makes its key of proofs by itself. One whose key is gone or does not open is not proved.
//! - Of a manifest that is refused no row is changed.

use std::path::Path;
use std::sync::Arc;

use schloss_audit::{AuditConfig, AuditLog, CLUSTER_STREAM, Class, Event, RecordError, Verdict};
use schloss_core::{Clock, ClusterId};
use schloss_crypto::{Denial, EncryptionContext, IntegrityKey, KeyError, KeyVault, Purpose, SealError, WrappedKey};
use schloss_metadata::{Doubt, KeyRow, Metadata, MetadataError, SqliteMetadata};
use schloss_storage::{Damage, stored_key};

use crate::cluster_id;
use crate::failure::{Failure, Number};
use crate::keys::CLUSTER;

/// File of the data folder that holds the slow facts.
pub const MANIFEST: &str = "manifest.db";

/// Opens the file; makes it in a folder that holds nothing yet.
///
/// # Errors
/// [`Number::Manifest`] when it is lost; [`Number::DataFolder`], [`Number::Locked`], [`Number::NewerFormat`].
pub async fn open(
    data: &Path,
    vault: &dyn KeyVault,
    clock: &Arc<dyn Clock>,
) -> Result<(Arc<SqliteMetadata>, ClusterId), Failure> {
    let failed = |error| failed(data, error);
    let missing = is_missing(data);
    if missing && ["audit", "objects", "wal"].iter().any(|name| holds_files(&data.join(name))) {
        tell_loss(data, MANIFEST, vault, clock).await;
        return Err(self::missing(data));
    }
    create_data_folder(data)?;
    let metadata = SqliteMetadata::open(&data.join(MANIFEST)).map_err(failed)?;
    // A start that broke off may have left a blank one; a blank one beside what tenants did is in the place of theirs.
    let lived =
        || ["objects", "wal"].iter().any(|name| holds_files(&data.join(name))) || knows_tenants(&data.join("audit"));
    if !missing && lived() && metadata.is_blank().await.map_err(failed)? {
        tell_loss(data, MANIFEST, vault, clock).await;
        return Err(self::missing(data));
    }
    let cluster = match metadata.cluster_id().await {
        Ok(cluster) => ClusterId::from_bytes(cluster),
        Err(error @ MetadataError::Malformed { .. }) => {
            tell_loss(data, "manifest table cluster", vault, clock).await;
            return Err(failed(error));
        }
        Err(error) => return Err(failed(error)),
    };
    if cluster_id::read(data).is_some_and(|noted| noted != cluster) {
        tell_loss(data, "manifest table cluster", vault, clock).await;
        return Err(refused(data, &["cluster"]));
    }
    Ok((Arc::new(metadata), cluster))
}

/// Whether there is no manifest, or an empty file in its place.
#[must_use]
pub fn is_missing(data: &Path) -> bool {
    std::fs::metadata(data.join(MANIFEST)).map_or(true, |found| found.len() == 0)
}

fn create_data_folder(folder: &Path) -> Result<(), Failure> {
    for path in [folder.to_owned(), folder.join("objects"), folder.join("wal")] {
        std::fs::create_dir_all(&path).map_err(|error| {
            Failure::new(
                Number::DataFolder,
                format!("`{}`: {error}", path.display()),
                "choose a folder that the broker may write, with free space",
            )
        })?;
    }
    Ok(())
}

/// Whether a folder holds a file at any depth. One that cannot be read may.
fn holds_files(folder: &Path) -> bool {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.into_iter().any(|entry| {
            entry.is_ok_and(|entry| {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) { holds_files(&entry.path()) } else { true }
            })
        }),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

/// Whether the audit log has the stream of a tenant.
fn knows_tenants(audit: &Path) -> bool {
    let is_stream = |entry: std::fs::DirEntry| entry.path().is_dir() && entry.file_name() != CLUSTER_STREAM;
    std::fs::read_dir(audit).is_ok_and(|entries| entries.flatten().any(is_stream))
}

/// Tells, in the audit log if that opens, of a manifest that is gone or another installation's.
async fn tell_loss(data: &Path, resource: &str, vault: &dyn KeyVault, clock: &Arc<dyn Clock>) {
    let Some(cluster) = cluster_id::read(data) else { return };
    match AuditLog::open(AuditConfig::new(data.join("audit"), cluster), vault, Arc::clone(clock)).await {
        Ok(audit) => {
            let mut event = failure_event(None, resource.to_owned());
            event.reason = Some(Damage::Missing.word().to_owned());
            if let Err(error) = audit.record(event).await {
                tracing::error!(%error, "the loss of the manifest could not be recorded");
            }
            close(&audit).await;
        }
        Err(error) => tracing::error!(%error, "the loss of the manifest could not be recorded"),
    }
}

/// The refusal of a data folder without its manifest.
pub fn missing(data: &Path) -> Failure {
    Failure::new(
        Number::Manifest,
        format!(
            "`{}` is missing or empty, and the data folder holds what only it leads to",
            data.join(MANIFEST).display()
        ),
        "put it back, or restore the data folder from a backup; nothing was changed",
    )
}

/// What a broken or foreign file means.
pub fn failed(data: &Path, error: MetadataError) -> Failure {
    let file = data.join(MANIFEST);
    let file = file.display();
    match error {
        MetadataError::Locked => Failure::new(
            Number::Locked,
            format!("`{file}`: {error}"),
            "stop the other broker; two never share a data folder",
        ),
        MetadataError::NewerFormat { .. } => Failure::new(
            Number::NewerFormat,
            format!("`{file}`: {error}"),
            "use the newer release, or another data folder; nothing was changed",
        ),
        MetadataError::Malformed { table } => refused(data, &[table]),
        _ => Failure::new(
            Number::DataFolder,
            format!("`{file}`: {error}"),
            "check the folder, its owner and free space, or restore it from a backup; nothing was changed",
        ),
    }
}

/// Why the key of proofs cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NoKey {
    /// The vault.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] MetadataError),
    /// A new one has no byte form.
    #[error(transparent)]
    Sealed(#[from] SealError),
}

/// The key of proofs that a manifest has; none when its row is gone or is not what was written.
///
/// # Errors
/// [`NoKey`] when it cannot be opened now.
pub async fn its_key(
    metadata: &dyn Metadata,
    vault: &dyn KeyVault,
    cluster: ClusterId,
) -> Result<Option<Arc<IntegrityKey>>, NoKey> {
    let Some(row) = metadata.keys(CLUSTER, Purpose::Integrity.name()).await?.pop() else { return Ok(None) };
    let Ok(wrapped) = WrappedKey::from_bytes(&row.wrapped) else { return Ok(None) };
    match vault.open(&context(cluster), &wrapped).await {
        Ok(key) => Ok(Some(Arc::new(IntegrityKey::new(&key)))),
        // A row that names a KMS key which is not the cluster's was not written by us.
        Err(
            KeyError::Corrupt { .. }
            | KeyError::ContextMismatch
            | KeyError::Denied { why: Denial::NoKeyConfigured, .. },
        ) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A new key of proofs, the newest of the manifest.
///
/// # Errors
/// [`NoKey`].
pub async fn new_key(
    metadata: &dyn Metadata,
    vault: &dyn KeyVault,
    cluster: ClusterId,
) -> Result<Arc<IntegrityKey>, NoKey> {
    let purpose = Purpose::Integrity.name().to_owned();
    let newest = metadata.keys(CLUSTER, &purpose).await?.pop();
    let (key, wrapped) = vault.generate(&context(cluster)).await?;
    let generation = newest.map_or(0, |row| row.generation.saturating_add(1));
    metadata.add_key(KeyRow { tenant: CLUSTER, purpose, generation, wrapped: wrapped.to_bytes()? }).await?;
    Ok(Arc::new(IntegrityKey::new(&key)))
}

fn context(cluster: ClusterId) -> EncryptionContext {
    EncryptionContext { cluster: cluster.to_bytes(), tenant: CLUSTER, purpose: Purpose::Integrity }
}

/// Proves the manifest, or begins the proofs of a new one. What is in doubt of tenants is returned, with the key.
///
/// # Errors
/// [`Number::Manifest`] when the installation's own rows are in doubt or nothing is proved, [`Number::Kms`].
pub async fn prove(
    data: &Path,
    metadata: &SqliteMetadata,
    vault: &dyn KeyVault,
    cluster: ClusterId,
    audit: &AuditLog,
) -> Result<(Arc<IntegrityKey>, Vec<Doubt>), Failure> {
    let failed = |error| failed(data, error);
    let no_key = |error: &dyn std::fmt::Display| {
        Failure::new(
            Number::Kms,
            format!("the key of proofs: {error}"),
            "check the cluster's KMS key and the key service, then start again; nothing was changed",
        )
    };
    if metadata.is_blank().await.map_err(failed)? {
        let key = stored_key(metadata, vault, cluster, CLUSTER, Purpose::Integrity).await;
        let key = Arc::new(IntegrityKey::new(&key.map_err(|error| no_key(&error))?.0));
        metadata.accept(Arc::clone(&key)).await.map_err(failed)?;
        return Ok((key, Vec::new()));
    }
    let key = its_key(metadata, vault, cluster).await.map_err(|error| no_key(&error))?;
    let doubts = match &key {
        Some(key) => metadata.prove(Arc::clone(key)).await.map_err(failed)?,
        None => vec![Doubt { tenant: None, table: "keys".to_owned() }],
    };
    for doubt in &doubts {
        tracing::error!(tenant = ?doubt.tenant, table = doubt.table, "rows of the manifest are not what was written");
        record(audit, doubt).await.map_err(|error| {
            Failure::new(
                Number::AuditUnreadable,
                format!("rows of the manifest are not what was written, which could not be recorded: {error}"),
                "free the audit log's disk, then start again; nothing was changed",
            )
        })?;
    }
    let own: Vec<&str> =
        doubts.iter().filter(|doubt| doubt.tenant.is_none()).map(|doubt| doubt.table.as_str()).collect();
    match key {
        Some(key) if own.is_empty() => Ok((key, doubts)),
        _ => {
            // Signed before the process ends.
            close(audit).await;
            Err(refused(data, &own))
        }
    }
}

fn refused(data: &Path, tables: &[&str]) -> Failure {
    Failure::new(
        Number::Manifest,
        format!("rows of `{}` are not what was written, in {}", data.join(MANIFEST).display(), tables.join(", ")),
        "copy the data folder and restore it from a backup; or look with `schloss manifest verify` and take the rows as they are with \
         `schloss manifest accept`; nothing was changed",
    )
}

async fn close(audit: &AuditLog) {
    if let Err(error) = audit.close().await {
        tracing::error!(%error, "the audit log could not be closed");
    }
}

async fn record(audit: &AuditLog, doubt: &Doubt) -> Result<(), RecordError> {
    let mut event = failure_event(doubt.tenant, format!("manifest table {}", doubt.table));
    event.reason = Some(Damage::Manifest.word().to_owned());
    audit.record(event).await
}

fn failure_event(tenant: Option<schloss_core::TenantId>, resource: String) -> Event {
    let mut event = Event::new(tenant, Class::System, Verdict::Failed, "schloss:IntegrityFailure");
    event.resource = Some(resource);
    event
}

#[cfg(test)]
mod tests {
    use schloss_core::SystemClock;
    use schloss_crypto::testing::TestVault;

    use super::*;

    struct Folder {
        data: tempfile::TempDir,
        vault: Arc<TestVault>,
        clock: Arc<dyn Clock>,
    }

    impl Folder {
        fn new() -> Self {
            Self { data: tempfile::tempdir().unwrap(), vault: TestVault::new(), clock: Arc::new(SystemClock::new()) }
        }

        /// A start up to the proofs; the manifest is closed again.
        async fn start(&self) -> Result<Vec<Doubt>, Failure> {
            let data = self.data.path();
            let (metadata, cluster) = open(data, &*self.vault, &self.clock).await?;
            std::fs::write(data.join("cluster-id"), format!("{cluster}\n")).unwrap();
            let config = AuditConfig::new(data.join("audit"), cluster);
            let audit = AuditLog::open(config, &*self.vault, Arc::clone(&self.clock)).await.unwrap();
            let proved = prove(data, &metadata, &*self.vault, cluster, &audit).await;
            if proved.is_ok() {
                audit.close().await.unwrap();
            }
            Ok(proved?.1)
        }

        async fn refusal(&self) -> String {
            self.start().await.expect_err("it is refused").to_string()
        }

        fn manifest(&self) -> std::path::PathBuf {
            self.data.path().join(MANIFEST)
        }
    }

    #[tokio::test]
    async fn a_new_folder_is_begun_and_proved_at_the_next_start() {
        let folder = Folder::new();
        assert_eq!(folder.start().await.unwrap(), []);
        assert_eq!(folder.start().await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_first_start_that_broke_off_before_its_proofs_can_be_tried_again() {
        let folder = Folder::new();
        let (metadata, cluster) = open(folder.data.path(), &*folder.vault, &folder.clock).await.unwrap();
        let config = AuditConfig::new(folder.data.path().join("audit"), cluster);
        let audit = AuditLog::open(config, &*folder.vault, Arc::clone(&folder.clock)).await.unwrap();
        folder.vault.set_denied(CLUSTER, true);
        let refused = prove(folder.data.path(), &metadata, &*folder.vault, cluster, &audit).await;
        assert!(refused.unwrap_err().to_string().contains("SCH-105"));
        audit.close().await.unwrap();
        drop((metadata, audit));
        folder.vault.set_denied(CLUSTER, false);
        assert_eq!(folder.start().await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_manifest_that_is_gone_or_empty_is_refused_and_none_is_made() {
        let folder = Folder::new();
        folder.start().await.unwrap();
        std::fs::remove_file(folder.manifest()).unwrap();
        assert!(folder.refusal().await.contains("SCH-206"));
        assert!(!folder.manifest().exists());
        std::fs::write(folder.manifest(), b"").unwrap();
        assert!(folder.refusal().await.contains("SCH-206"));
        assert_eq!(std::fs::read(folder.manifest()).unwrap(), b"");
    }

    #[tokio::test]
    async fn a_blank_manifest_beside_objects_or_the_audit_log_of_a_tenant_is_refused() {
        for path in ["objects/seg/1/2", "wal/0000/1.log", "audit/000000000001/1.jsonl"] {
            let folder = Folder::new();
            // Blank: no proofs yet.
            drop(open(folder.data.path(), &*folder.vault, &folder.clock).await.unwrap());
            let file = folder.data.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, b"x").unwrap();
            assert!(folder.refusal().await.contains("SCH-206"), "{path}");
        }
    }

    #[tokio::test]
    async fn a_manifest_of_another_installation_is_refused() {
        let (folder, other) = (Folder::new(), Folder::new());
        folder.start().await.unwrap();
        other.start().await.unwrap();
        std::fs::copy(other.manifest(), folder.manifest()).unwrap();
        let said = folder.refusal().await;
        assert!(said.contains("SCH-206") && said.contains("cluster"), "{said}");
    }

    #[tokio::test]
    async fn a_key_of_proofs_that_is_not_what_was_written_is_refused_and_no_other_is_made() {
        let folder = Folder::new();
        folder.start().await.unwrap();
        let store = SqliteMetadata::open(&folder.manifest()).unwrap();
        let mut row = store.keys(CLUSTER, "integrity").await.unwrap().pop().unwrap();
        row.wrapped.reverse();
        store.rewrap_key(row.clone()).await.unwrap();
        drop(store);
        let said = folder.refusal().await;
        assert!(said.contains("SCH-206") && said.contains("keys"), "{said}");
        let store = SqliteMetadata::open(&folder.manifest()).unwrap();
        assert_eq!(store.keys(CLUSTER, "integrity").await.unwrap(), [row]);
    }
}
