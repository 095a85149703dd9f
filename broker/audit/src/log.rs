//! The log as the broker sees it: record, count, close. One task commits what gathered while the last commit was in flight.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schloss_core::{Clock, ClusterId};
use schloss_crypto::KeyVault;
use schloss_crypto::signing::VerifyingKey;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::counts::{CountKey, Counts};
use crate::event::{Class, Event, Verdict};
use crate::stream::AuditError;
use crate::writer::{Totals, Writer, key_text};
use crate::{CLUSTER_STREAM, keys};

/// Events of one commit; more wait for the next.
const BATCH_EVENTS_MAX: usize = 1024;

/// Where and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// The log's folder.
    pub folder: PathBuf,
    /// This installation.
    pub cluster: ClusterId,
    /// A stream is signed after so many events,
    pub checkpoint_events: u64,
    /// and all after so much time.
    pub checkpoint_every: Duration,
    /// Counts are written so often.
    pub summary_every: Duration,
    /// A file is followed by the next from this size.
    pub file_bytes_max: u64,
    /// Events waiting for a commit; more wait at the door.
    pub queue_max: usize,
    /// Different things counted at once; at that number they are written early.
    pub distinct_counts_max: usize,
}

impl AuditConfig {
    /// The usual bounds.
    #[must_use]
    pub fn new(folder: PathBuf, cluster: ClusterId) -> Self {
        Self {
            folder,
            cluster,
            checkpoint_events: 1000,
            checkpoint_every: Duration::from_secs(60),
            summary_every: Duration::from_secs(60),
            file_bytes_max: 8 << 20,
            queue_max: 4096,
            distinct_counts_max: 10_000,
        }
    }
}

/// Why an event is not in the log. What it is about must then not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Writing failed, for example because the disk is full. The next event tries again.
    #[error("the audit log could not be written: {0}")]
    NotDurable(io::ErrorKind),
    /// The stream's files were changed or damaged while we ran.
    #[error("the audit log was changed or damaged; run `schloss audit verify`")]
    Damaged,
    /// The log is closed.
    #[error("the audit log is closed")]
    Closed,
}

/// Figures since start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditStats {
    /// Events written, summaries included.
    pub events: u64,
    /// Commits, each with one fdatasync.
    pub commits: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Commits that failed.
    pub failures: u64,
}

enum Command {
    Record(Box<Event>, oneshot::Sender<Result<(), RecordError>>),
    WriteCounts(oneshot::Sender<Result<(), RecordError>>),
    Checkpoint(oneshot::Sender<Result<(), RecordError>>),
    Certify(String, String, oneshot::Sender<Result<String, RecordError>>),
    Close(oneshot::Sender<Result<(), RecordError>>),
}

/// The open log. Cheap to share.
pub struct AuditLog {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    public_key: VerifyingKey,
}

struct Shared {
    counts: Mutex<Counts>,
    totals: Mutex<Totals>,
    counts_full: tokio::sync::Notify,
    clock: Arc<dyn Clock>,
    _lock: File,
}

impl AuditLog {
    /// Opens or makes the log and records its start. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`AuditError`]; nothing was changed but a torn end dropped.
    pub async fn open(
        config: AuditConfig,
        vault: &dyn KeyVault,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, AuditError> {
        let lock = lock(&config)?;
        let signing = keys::signing_key(&config.folder, config.cluster, vault).await?;
        let public_key = signing.verifying_key();
        let (key, wrapped) = vault.generate(&keys::context(config.cluster)).await?;
        let key_ref = wrapped.key_ref.clone();
        let malformed = || AuditError::Malformed { path: config.folder.clone() };
        let mut writer = Writer {
            folder: config.folder.clone(),
            key,
            key_text: key_text(&wrapped).ok_or_else(malformed)?,
            signing,
            checkpoint_events: config.checkpoint_events,
            file_bytes_max: config.file_bytes_max,
            streams: HashMap::new(),
            moved: BTreeMap::new(),
            totals: Totals::default(),
        };
        let recovered = writer.open_existing()?;
        let shared = Arc::new(Shared {
            counts: Mutex::new(Counts::new(config.distinct_counts_max)),
            totals: Mutex::default(),
            counts_full: tokio::sync::Notify::new(),
            clock,
            _lock: lock,
        });
        let (commands, receiver) = mpsc::channel(config.queue_max);
        tokio::spawn(run(config.clone(), writer, receiver, Arc::clone(&shared)));
        let log = Arc::new(Self { commands, shared, public_key });
        // The key of the log itself is recorded as soon as there is a log to record it in.
        let mut key_use = Event::new(None, Class::KeyUse, Verdict::Allowed, "kms:GenerateDataKey");
        key_use.resource = Some(key_ref);
        key_use.details.push(("purpose", "audit".into()));
        let start = Event::new(None, Class::System, Verdict::Allowed, "schloss:AuditLogOpened");
        for event in recovered.into_iter().chain([key_use, start]) {
            let path = config.folder.join(CLUSTER_STREAM);
            log.record(event).await.map_err(|error| AuditError::Io { path, source: io::Error::other(error) })?;
        }
        // Signs what a crash left unsigned, and makes the copy of the checkpoint before any tenant has a stream.
        let path = config.folder.join(CLUSTER_STREAM);
        log.checkpoint().await.map_err(|error| AuditError::Io { path, source: io::Error::other(error) })?;
        Ok(log)
    }

    /// Returns when the event is on disk.
    ///
    /// # Errors
    /// [`RecordError`]: it is not, and what it is about must not be done.
    pub async fn record(&self, event: Event) -> Result<(), RecordError> {
        self.ask(|reply| Command::Record(Box::new(event), reply)).await
    }

    /// Counts an allowed data-plane action. Never waits; written within `summary_every`, early when there are many.
    pub fn count(&self, key: &CountKey, times: u64) {
        let now_ms = self.shared.clock.now_ms();
        if lock_of(&self.shared.counts).add(key, times, now_ms) {
            self.shared.counts_full.notify_one();
        }
    }

    /// Writes the counts now.
    ///
    /// # Errors
    /// [`RecordError`]; the counts are then kept for the next time.
    pub async fn write_counts(&self) -> Result<(), RecordError> {
        self.ask(Command::WriteCounts).await
    }

    /// Chains a signed statement into a tenant's stream (the installation's without one) and gives the line: the certificate.
    /// It is readable by everybody: ids, no names.
    ///
    /// # Errors
    /// [`RecordError`].
    pub async fn certify(
        &self,
        tenant: Option<schloss_core::TenantId>,
        statement: String,
    ) -> Result<String, RecordError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Certify(crate::stream_name(tenant), statement, reply);
        self.commands.send(command).await.map_err(|_| RecordError::Closed)?;
        answer.await.unwrap_or(Err(RecordError::Closed))
    }

    /// Signs now.
    ///
    /// # Errors
    /// [`RecordError`].
    pub async fn checkpoint(&self) -> Result<(), RecordError> {
        self.ask(Command::Checkpoint).await
    }

    /// Writes counts, records the end, signs. Later records fail.
    ///
    /// # Errors
    /// [`RecordError`]; also when it was closed before.
    pub async fn close(&self) -> Result<(), RecordError> {
        self.ask(Command::Close).await
    }

    /// Verifies the log's checkpoints.
    #[must_use]
    pub const fn public_key(&self) -> VerifyingKey {
        self.public_key
    }

    /// Figures since start.
    #[must_use]
    pub fn stats(&self) -> AuditStats {
        let Totals { events, commits, bytes, failures } = *lock_of(&self.shared.totals);
        AuditStats { events, commits, bytes, failures }
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), RecordError>>) -> Command,
    ) -> Result<(), RecordError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| RecordError::Closed)?;
        answer.await.unwrap_or(Err(RecordError::Closed))
    }
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditLog").finish_non_exhaustive()
    }
}

/// The task: gathers, commits, keeps the two rhythms.
async fn run(config: AuditConfig, writer: Writer, mut commands: mpsc::Receiver<Command>, shared: Arc<Shared>) {
    let mut task = Task { writer: Some(writer), shared, unwritten: Vec::new() };
    let rhythm = |every: Duration| {
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    };
    let (mut checkpoints, mut summaries) = (rhythm(config.checkpoint_every), rhythm(config.summary_every));
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            received = commands.recv_many(&mut batch, BATCH_EVENTS_MAX) => {
                let closed = received == 0 || task.serve(std::mem::take(&mut batch)).await;
                if closed {
                    break;
                }
            }
            _ = checkpoints.tick() => { let _ = task.checkpoint(false).await; }
            _ = summaries.tick() => { let _ = task.write_counts().await; }
            () = task.shared.counts_full.notified() => { let _ = task.write_counts().await; }
        }
    }
    if task.writer.is_some() && batch.is_empty() && commands.is_closed() {
        let _ = task.close().await;
    }
}

struct Task {
    /// `None` while a blocking commit has it; for good if that panicked.
    writer: Option<Writer>,
    shared: Arc<Shared>,
    /// Summaries whose commit failed.
    unwritten: Vec<Event>,
}

impl Task {
    /// Records all events of a batch in one commit, then does the rest in order. True after a close.
    async fn serve(&mut self, batch: Vec<Command>) -> bool {
        let (mut events, mut replies, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for command in batch {
            match command {
                Command::Record(event, reply) => {
                    events.push(*event);
                    replies.push(reply);
                }
                other => others.push(other),
            }
        }
        if !events.is_empty() {
            let answers = self.record(events).await;
            for (reply, answer) in replies.into_iter().zip(answers) {
                let _ = reply.send(answer);
            }
        }
        for command in others {
            match command {
                Command::Record(..) => {}
                Command::WriteCounts(reply) => {
                    let _ = reply.send(self.write_counts().await);
                }
                Command::Certify(stream, statement, reply) => {
                    let now_ms = self.shared.clock.now_ms();
                    let done = self.blocking(move |writer| writer.certify(&stream, statement, now_ms)).await;
                    let _ = reply.send(done.unwrap_or(Err(RecordError::Closed)));
                }
                Command::Checkpoint(reply) => {
                    let _ = reply.send(self.checkpoint(false).await);
                }
                Command::Close(reply) => {
                    let result = self.close().await;
                    self.writer = None;
                    let _ = reply.send(result);
                    return true;
                }
            }
        }
        false
    }

    async fn record(&mut self, events: Vec<Event>) -> Vec<Result<(), RecordError>> {
        let len = events.len();
        let now_ms = self.shared.clock.now_ms();
        self.blocking(move |writer| writer.record(&events, now_ms))
            .await
            .unwrap_or_else(|| vec![Err(RecordError::Closed); len])
    }

    async fn write_counts(&mut self) -> Result<(), RecordError> {
        self.unwritten.extend(lock_of(&self.shared.counts).take());
        let mut result = Ok(());
        let mut failed = Vec::new();
        let events = std::mem::take(&mut self.unwritten);
        for chunk in events.chunks(BATCH_EVENTS_MAX) {
            for (event, answer) in chunk.iter().zip(self.record(chunk.to_vec()).await) {
                if answer.is_err() {
                    failed.push(event.clone());
                }
                result = result.and(answer);
            }
        }
        // While the disk is full, counts go on in memory within their bound: what failed is counted again, not piled up.
        let now_ms = self.shared.clock.now_ms();
        let mut counts = lock_of(&self.shared.counts);
        for event in failed {
            let key = CountKey {
                tenant: match event.tenant {
                    Some(tenant) => tenant,
                    None => continue,
                },
                principal: event.principal.unwrap_or_default(),
                action: event.action,
                resource: event.resource.unwrap_or_default(),
                statement: event.statement,
            };
            counts.add(&key, event.count, now_ms);
        }
        result
    }

    async fn checkpoint(&mut self, closed: bool) -> Result<(), RecordError> {
        let now_ms = self.shared.clock.now_ms();
        self.blocking(move |writer| writer.checkpoint(now_ms, closed)).await.unwrap_or(Err(RecordError::Closed))
    }

    async fn close(&mut self) -> Result<(), RecordError> {
        let counts = self.write_counts().await;
        let end = Event::new(None, Class::System, Verdict::Allowed, "schloss:AuditLogClosed");
        let end = self.record(vec![end]).await.into_iter().fold(Ok(()), Result::and);
        counts.and(end).and(self.checkpoint(true).await)
    }

    /// Runs `work` where blocking is allowed. `None` when the writer is gone.
    async fn blocking<T: Send + 'static>(&mut self, work: impl FnOnce(&mut Writer) -> T + Send + 'static) -> Option<T> {
        let mut writer = self.writer.take()?;
        let (writer, outcome) = tokio::task::spawn_blocking(move || {
            let outcome = work(&mut writer);
            (writer, outcome)
        })
        .await
        .ok()?;
        *lock_of(&self.shared.totals) = writer.totals;
        self.writer = Some(writer);
        Some(outcome)
    }
}

fn lock(config: &AuditConfig) -> Result<File, AuditError> {
    let path = config.folder.join("lock");
    let io = |source| AuditError::Io { path: path.clone(), source };
    fs::create_dir_all(&config.folder).map_err(io)?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(AuditError::Locked { path: config.folder.clone() }),
        Err(fs::TryLockError::Error(source)) => Err(io(source)),
    }
}

fn lock_of<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
