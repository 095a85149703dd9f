//! The audit log as the broker holds it.
//!
//! In: events and counts, from any task. Out: durability, or an error that means "then do not do it".
//!
//! Invariants
//! - One process writes a folder at a time.
//! - The signing key is in the folder sealed only; it is made once and never replaced while there is a log.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use schloss_core::{Clock, ClusterId, TenantId};
use schloss_crypto::signing::{SigningKey, VerifyingKey};
use schloss_crypto::{DataKey, SealError, open_value, seal_value};
use tokio::sync::{mpsc, oneshot};

use crate::counts::Counts;
use crate::event::{Event, EventClass, Verdict};
use crate::folder::{self, CLUSTER_LOG, LOCK_FILE, NEWEST_FILE, PUBLIC_KEY_FILE, SIGNING_KEY_FILE};
use crate::line::{Breach, Head, Heads, Kind, Line, signed_by};
use crate::log::{Log, OpenFault, Pen, Spot};
use crate::verify::{public_key_from_pem, public_key_to_pem};
use crate::writer::{Counters, JOBS_MAX, Job, Writer};

/// Where and how the log is kept.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// The audit folder; made when it is not there.
    pub folder: PathBuf,
    /// The installation.
    pub cluster: ClusterId,
    /// A log with so many unsigned lines gets a checkpoint.
    pub checkpoint_every_events: u64,
    /// Every log with unsigned lines gets a checkpoint so often; the cluster's log always.
    pub checkpoint_every: Duration,
    /// A file at least this long is followed by another.
    pub file_bytes_max: u64,
}

impl AuditConfig {
    /// The usual: a checkpoint every 1,000 lines or every minute, files of 64 MiB.
    #[must_use]
    pub fn new(folder: PathBuf, cluster: ClusterId) -> Self {
        let checkpoint_every = Duration::from_secs(60);
        Self { folder, cluster, checkpoint_every_events: 1_000, checkpoint_every, file_bytes_max: 64 * 1024 * 1024 }
    }
}

/// Why the audit log could not be opened, or an event not be written.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file system.
    #[error("audit folder `{folder}`: {source}")]
    Io {
        /// Where.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process writes there.
    #[error("audit folder `{folder}` is in use by another process")]
    Locked {
        /// Where.
        folder: PathBuf,
    },
    /// The log was changed by somebody.
    #[error("audit log `{file}`, line {line}: {breach}; keep the folder for examination and start with another")]
    Broken {
        /// The file.
        file: PathBuf,
        /// Counted from 1; 0 is the file as a whole.
        line: u64,
        /// What is wrong.
        breach: Breach,
    },
    /// The signing key does not open.
    #[error("the audit signing key does not open under the audit key: {source}")]
    SigningKey {
        /// Why.
        source: SealError,
    },
    /// There is a log, but the key that signed it is gone or another.
    #[error("the audit log in `{folder}` has no fitting `{name}`: restore it from a backup")]
    KeyMissing {
        /// Where.
        folder: PathBuf,
        /// The file.
        name: &'static str,
    },
    /// Not on disk; the thing to be recorded must not be done.
    #[error("the audit log `{log}` could not be written: {kind}")]
    NotWritten {
        /// Which.
        log: String,
        /// Why.
        kind: io::ErrorKind,
    },
    /// Closed already.
    #[error("the audit log is closed")]
    Closed,
}

/// What the log did since it was opened, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditStats {
    /// Events made durable.
    pub events: u64,
    /// Bytes made durable.
    pub bytes: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Groups that could not be written.
    pub failures: u64,
    /// The newest attempt failed: the broker refuses what must be recorded.
    pub failing: bool,
}

/// The audit log of a broker. Cheap to share; all methods may be called from any task.
pub struct AuditLog {
    jobs: mpsc::Sender<Job>,
    counts: Arc<Counts>,
    counters: Arc<Counters>,
    public_key: VerifyingKey,
}

impl AuditLog {
    /// Opens the logs in the folder, or begins them. A line torn by a crash is cut off, and that is recorded.
    ///
    /// # Errors
    /// [`AuditError`]; anything but a torn last line is refused.
    pub fn open(config: AuditConfig, key: Arc<DataKey>, clock: Arc<dyn Clock>) -> Result<Arc<Self>, AuditError> {
        let folder = config.folder.clone();
        let failed = |source| AuditError::Io { folder: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(failed)?;
        let lock = lock(&folder)?;
        let cluster = config.cluster.to_string();
        let signing = signing_key(&folder, &cluster, &key)?;
        let public_key = signing.verifying_key();
        let pen = Pen { cluster, key, signing, file_bytes_max: config.file_bytes_max };
        let found = open_logs(&folder, &pen).map_err(|fault| match fault {
            OpenFault::Io(source) => failed(source),
            OpenFault::Broken(Spot { file, line, breach }) => AuditError::Broken { file, line, breach },
        })?;
        let (counts, counters) = (Arc::new(Counts::default()), Arc::new(Counters::default()));
        let often = (config.checkpoint_every_events.max(1), config.checkpoint_every);
        let mut writer = Writer::new(folder.clone(), pen, clock, often, found.logs, Arc::clone(&counts), Arc::clone(&counters), found.heads);
        writer.round().map_err(|(log, kind)| AuditError::NotWritten { log, kind })?;
        let (jobs, queue) = mpsc::channel(JOBS_MAX);
        for (tenant, cut_bytes) in found.mended {
            // The queue is empty and longer than one line per start matters.
            drop(jobs.try_send(Job::Record(vec![mended(tenant, cut_bytes)], oneshot::channel().0)));
        }
        spawn(writer, queue, lock).map_err(failed)?;
        Ok(Arc::new(Self { jobs, counts, counters, public_key }))
    }

    /// Writes an event; returns when it is durable.
    ///
    /// # Errors
    /// [`AuditError::NotWritten`], [`AuditError::Closed`]: then the thing must not be done.
    pub async fn record(&self, event: Event) -> Result<(), AuditError> {
        self.record_all(vec![event]).await
    }

    /// Writes events together; returns when all are durable.
    ///
    /// # Errors
    /// As [`AuditLog::record`]; some may then be written.
    pub async fn record_all(&self, events: Vec<Event>) -> Result<(), AuditError> {
        self.ask(|done| Job::Record(events, done)).await
    }

    /// Counts one allowed data-plane action, to be summarised within the minute.
    pub fn count(&self, tenant: TenantId, principal: &str, action: &'static str, resource: &str) {
        if self.counts.add(tenant, principal, action, resource) {
            // A full queue means that the writer is awake.
            drop(self.jobs.try_send(Job::Wake));
        }
    }

    /// Does now what is due by the clock: summaries and checkpoints. The log does this by itself every second.
    ///
    /// # Errors
    /// As [`AuditLog::record`].
    pub async fn tick(&self) -> Result<(), AuditError> {
        self.ask(Job::Tick).await
    }

    /// Writes the summaries and a checkpoint of every log, and ends. A second call does nothing.
    ///
    /// # Errors
    /// [`AuditError::NotWritten`].
    pub async fn close(&self) -> Result<(), AuditError> {
        match self.ask(Job::Close).await {
            Err(AuditError::Closed) => Ok(()),
            other => other,
        }
    }

    /// What the log did so far.
    #[must_use]
    pub fn stats(&self) -> AuditStats {
        let Counters { events, bytes, syncs, failures, failing } = &*self.counters;
        AuditStats {
            events: events.load(Ordering::Relaxed),
            bytes: bytes.load(Ordering::Relaxed),
            syncs: syncs.load(Ordering::Relaxed),
            failures: failures.load(Ordering::Relaxed),
            failing: failing.load(Ordering::Relaxed),
        }
    }

    /// The key to verify with, PEM.
    #[must_use]
    pub fn public_key_pem(&self) -> String {
        public_key_to_pem(&self.public_key)
    }

    async fn ask(&self, job: impl FnOnce(oneshot::Sender<Result<(), AuditError>>) -> Job) -> Result<(), AuditError> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(job(done)).await.map_err(|_| AuditError::Closed)?;
        answer.await.unwrap_or(Err(AuditError::Closed))
    }
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuditLog({:?})", self.stats())
    }
}

/// The thread ends, and the lock with it, when the log is closed or dropped.
fn spawn(writer: Writer, queue: mpsc::Receiver<Job>, lock: File) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let work = move || runtime.block_on(writer.run(queue, lock));
    std::thread::Builder::new().name("audit".to_owned()).spawn(work).map(drop)
}

fn lock(folder: &Path) -> Result<File, AuditError> {
    let failed = |source| AuditError::Io { folder: folder.to_owned(), source };
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(LOCK_FILE)).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(AuditError::Locked { folder: folder.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Opens the signing key, or makes it where there is no log yet.
fn signing_key(folder: &Path, cluster: &str, key: &DataKey) -> Result<SigningKey, AuditError> {
    let failed = |source| AuditError::Io { folder: folder.to_owned(), source };
    let missing = |name| AuditError::KeyMissing { folder: folder.to_owned(), name };
    let binding = format!("schloss audit signing key v1\n{cluster}");
    let (path, public_path) = (folder.join(SIGNING_KEY_FILE), folder.join(PUBLIC_KEY_FILE));
    let signing = if let Some(sealed) = folder::read_if_there(&path).map_err(failed)? {
        let document = open_value(key, binding.as_bytes(), &sealed).map_err(|source| AuditError::SigningKey { source })?;
        SigningKey::from_pkcs8(&document).map_err(|_| missing(SIGNING_KEY_FILE))?
    } else {
        if !folder::logs(folder).map_err(failed)?.known.is_empty() {
            return Err(missing(SIGNING_KEY_FILE));
        }
        let document = SigningKey::generate_pkcs8();
        folder::replace(&path, &seal_value(key, binding.as_bytes(), &document), 0o600).map_err(failed)?;
        SigningKey::from_pkcs8(&document).map_err(|_| missing(SIGNING_KEY_FILE))?
    };
    let pem = public_key_to_pem(&signing.verifying_key());
    match folder::read_if_there(&public_path).map_err(failed)? {
        None => folder::replace(&public_path, pem.as_bytes(), 0o644).map_err(failed)?,
        Some(present) => {
            let present = String::from_utf8(present).ok().and_then(|pem| public_key_from_pem(&pem));
            if present != Some(signing.verifying_key()) {
                return Err(missing(PUBLIC_KEY_FILE));
            }
        }
    }
    Ok(signing)
}

#[derive(Default)]
struct Found {
    logs: BTreeMap<String, Log>,
    /// Newest places the cluster's log named.
    heads: Heads,
    /// Logs that lost a torn line, with its length.
    mended: Vec<(Option<TenantId>, u64)>,
}

fn open_logs(folder: &Path, pen: &Pen) -> Result<Found, OpenFault> {
    let newest = newest_checkpoint(folder, pen)?;
    let mut found = Found::default();
    let mut names: BTreeSet<String> = folder::logs(folder)?.known.into_iter().collect();
    names.remove(CLUSTER_LOG);
    if let Some((_, heads)) = &newest {
        found.heads.extend(heads.clone());
    }
    let heads = found.take(folder, pen, CLUSTER_LOG, newest.map(|(head, _)| head))?;
    found.heads.extend(heads);
    names.extend(found.heads.keys().filter(|name| folder::is_log(name)).cloned());
    for name in names {
        let expected = found.heads.get(&name).copied();
        found.take(folder, pen, &name, expected)?;
    }
    Ok(found)
}

impl Found {
    fn take(&mut self, folder: &Path, pen: &Pen, name: &str, expected: Option<Head>) -> Result<Heads, OpenFault> {
        let opened = Log::open(folder, name, pen, expected)?;
        if opened.cut_bytes > 0 {
            self.mended.push((name.parse().ok(), opened.cut_bytes));
        }
        self.logs.insert(name.to_owned(), opened.log);
        Ok(opened.heads)
    }
}

fn newest_checkpoint(folder: &Path, pen: &Pen) -> Result<Option<(Head, Heads)>, OpenFault> {
    let file = folder.join(NEWEST_FILE);
    let Some(bytes) = folder::read_if_there(&file)? else { return Ok(None) };
    let broken = |breach| OpenFault::Broken(Spot { file: file.clone(), line: 1, breach });
    let raw = bytes.strip_suffix(b"\n").ok_or_else(|| broken(Breach::Torn))?;
    let line = Line::parse(raw).map_err(broken)?;
    if !signed_by(raw, &pen.signing.verifying_key()) {
        return Err(broken(Breach::Signature));
    }
    match line.kind {
        Kind::Checkpoint { heads, .. } => Ok(Some((Head { seq: line.seq, hash: line.hash }, heads))),
        _ => Err(broken(Breach::Malformed)),
    }
}

fn mended(tenant: Option<TenantId>, cut_bytes: u64) -> Event {
    let mut event = Event::new(EventClass::Administration, tenant, Verdict::Allowed);
    event.action = "schloss:MendAuditLog".to_owned();
    event.reason = format!("a line torn by a crash, {cut_bytes} bytes, was cut off");
    event
}
