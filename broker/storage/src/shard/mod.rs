//! One shard: a loop that owns its partitions' ends, its log and its epoch.
//!
//! In: commands, in the order they were sent. Out: replies, after what they speak of is durable.
//!
//! Invariants
//! - One entry in flight; the next one gathers meanwhile. Assigned state equals durable state whenever none is.
//! - Work of one tenant stays in order; tenants take turns by bytes.
//! - A tenant whose key is missing holds up nobody else.
//!
//! Must not: block, ask the metadata store or the vault in the loop itself (tasks do, and send their answer).

mod commit;
mod flush;
mod maintain;
mod recover;
mod replay;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use schloss_core::{PartitionId, TenantId};
use schloss_crypto::{EntryId, KeyError};
use schloss_metadata::{Checkpoint, ShardLease};
use tokio::sync::mpsc::{UnboundedReceiver, WeakUnboundedSender};
use tokio::sync::{Notify, oneshot};
use tokio::time::MissedTickBehavior;

use crate::batch::Batch;
use crate::config::LogConfig;
use crate::engine::Shared;
use crate::error::{AppendError, WalError};
use crate::log::PartitionLog;
use crate::producers::Producers;
use crate::wal::entry::EpochKey;
use crate::wal::{Created, WalStore};

pub(crate) use commit::state_bytes;
pub(crate) use recover::{leader_epoch, open_shard};
use replay::{Recovered, TenantReplay};

/// Batches for one partition.
#[derive(Clone, Debug)]
pub struct Append {
    /// Where.
    pub partition: PartitionId,
    /// Validated batches, in order.
    pub batches: Vec<Batch>,
}

/// Where appended batches went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: i64,
    /// The broker's time, or -1 with CreateTime.
    pub log_append_time_ms: i64,
    /// First readable offset.
    pub log_start_offset: i64,
}

/// One thing to be made durable.
pub(crate) struct Work {
    pub tenant: TenantId,
    pub since: Duration,
    pub bytes: usize,
    pub kind: WorkKind,
}

pub(crate) enum WorkKind {
    Append { appends: Vec<Append>, reply: oneshot::Sender<Vec<Result<Appended, AppendError>>> },
    State { records: Vec<(Bytes, Option<Bytes>)>, reply: oneshot::Sender<Result<(), AppendError>> },
    DeleteRecords { partition: PartitionId, before: i64, reply: oneshot::Sender<Result<i64, AppendError>> },
}

pub(crate) enum Command {
    Work(Work),
    Expect(Append),
    Add(Vec<Arc<PartitionLog>>),
    Remove(Vec<PartitionId>),
    Configure(Vec<PartitionId>, LogConfig),
    Flush(oneshot::Sender<bool>),
    Close(oneshot::Sender<()>),
    ForgetKey(TenantId),
    KeyReady { tenant: TenantId, generation: u32, result: Result<EpochKey, KeyError> },
    Flushed(flush::Flushed),
    Maintained,
    Unlocked { tenant: TenantId, recovered: Option<Recovered> },
}

/// The writing end of a partition.
pub(crate) struct Owned {
    pub log: Arc<PartitionLog>,
    pub producers: Producers,
    pub next_offset: i64,
}

/// A tenant's epoch key here.
enum KeyState {
    Absent,
    Ready { key: Arc<EpochKey>, proved: Duration },
}

struct Tenant {
    waiting: VecDeque<Work>,
    in_ring: bool,
    key: KeyState,
    asking: bool,
    /// When to ask the vault again after it refused or did not answer.
    ask_again: Duration,
    next_generation: u32,
    /// Partitions with a tail.
    dirty: HashSet<PartitionId>,
    dirty_state: HashSet<Bytes>,
    /// First entry that holds something unflushed, and when it was written.
    oldest: Option<(EntryId, Duration)>,
    /// The same, of what a flush in progress takes.
    flushing: Option<(EntryId, Duration)>,
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            in_ring: false,
            key: KeyState::Absent,
            asking: false,
            ask_again: Duration::ZERO,
            next_generation: 0,
            dirty: HashSet::new(),
            dirty_state: HashSet::new(),
            oldest: None,
            flushing: None,
        }
    }
}

/// What becomes true when the entry in flight is durable.
#[derive(Default)]
struct Pending {
    batches: Vec<(PartitionId, Vec<Batch>)>,
    states: Vec<(TenantId, Bytes, Option<Bytes>)>,
    starts: Vec<(PartitionId, i64)>,
    tenants: Vec<TenantId>,
    replies: Vec<Reply>,
}

enum Reply {
    Append(oneshot::Sender<Vec<Result<Appended, AppendError>>>, Vec<Result<Appended, AppendError>>),
    State(oneshot::Sender<Result<(), AppendError>>),
    Deleted(oneshot::Sender<Result<i64, AppendError>>, i64),
}

/// What senders know of a shard without asking it.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    pub queued_bytes: AtomicUsize,
    pub tail_bytes: AtomicUsize,
    pub room: Notify,
}

pub(crate) struct Shard {
    shared: Arc<Shared>,
    lease: ShardLease,
    wal: Arc<dyn WalStore>,
    inbox: UnboundedReceiver<Command>,
    me: WeakUnboundedSender<Command>,
    gauge: Arc<Gauge>,
    next: EntryId,
    previous: [u8; 32],
    partitions: HashMap<PartitionId, Owned>,
    tenants: HashMap<TenantId, Tenant>,
    ring: VecDeque<TenantId>,
    locked: HashMap<TenantId, Arc<TenantReplay>>,
    unlocking: HashSet<TenantId>,
    tail_bytes: usize,
    in_flight: Option<(BoxFuture<'static, Result<Created, WalError>>, Pending)>,
    flushing: bool,
    flush_wanted: bool,
    flush_again: Duration,
    flush_waiters: Vec<oneshot::Sender<bool>>,
    maintaining: bool,
    maintain_at: Duration,
    stopped: bool,
    closing: Option<oneshot::Sender<()>>,
    close_flushed: bool,
}

/// How often time-outs and ages are looked at.
const TICK: Duration = Duration::from_millis(500);
/// After a refusal the vault, a locked tenant or a failed flush is tried again so much later.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// A full disk is tried again so much later.
const FLUSH_RETRY_AFTER: Duration = Duration::from_secs(2);

impl Shard {
    /// Runs until closed or dropped; answers whom to tell.
    pub(crate) async fn run(mut self) -> Option<oneshot::Sender<()>> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.start_what_is_due().await;
            if self.closed().await {
                return self.closing.take();
            }
            let written = async {
                match &mut self.in_flight {
                    Some((write, _)) => write.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                written = written => self.entry_written(written),
                _ = tick.tick() => self.tick(),
                command = self.inbox.recv() => match command {
                    Some(command) => self.take(command),
                    // The engine was dropped without closing: as after a crash, the log has everything.
                    None => return None,
                },
            }
            // Everything waiting goes into the next entry.
            for _ in 0..GATHER_MAX {
                let Ok(command) = self.inbox.try_recv() else { break };
                self.take(command);
            }
        }
    }

    async fn start_what_is_due(&mut self) {
        if self.in_flight.is_some() {
            return;
        }
        // A flush is a snapshot of durable state, so it begins between entries.
        if self.flush_due() {
            self.start_flush();
        }
        self.begin_entry().await;
    }

    /// Commands.
    fn take(&mut self, command: Command) {
        match command {
            Command::Work(work) => self.enqueue(work),
            Command::Expect(append) => self.expect(&append),
            Command::Add(logs) => self.add(logs),
            Command::Remove(ids) => self.remove(&ids),
            Command::Configure(ids, config) => self.configure(&ids, config),
            Command::Flush(reply) => {
                self.flush_waiters.push(reply);
                self.flush_wanted = true;
                self.flush_again = Duration::ZERO;
            }
            Command::Close(reply) => self.closing = Some(reply),
            Command::ForgetKey(tenant) => self.forget_key(tenant),
            Command::KeyReady { tenant, generation, result } => self.key_ready(tenant, generation, result),
            Command::Flushed(flushed) => self.flushed(flushed),
            Command::Maintained => self.maintaining = false,
            Command::Unlocked { tenant, recovered } => self.unlocked(tenant, recovered),
        }
    }

    fn add(&mut self, logs: Vec<Arc<PartitionLog>>) {
        for log in logs {
            self.partitions.entry(log.id).or_insert_with(|| Owned {
                log,
                producers: Producers::default(),
                next_offset: 0,
            });
        }
    }

    fn remove(&mut self, ids: &[PartitionId]) {
        for id in ids {
            let Some(owned) = self.partitions.remove(id) else { continue };
            let freed = {
                let mut inner = owned.log.write();
                inner.tail.clear();
                inner.parts.clear();
                std::mem::take(&mut inner.tail_bytes)
            };
            self.tail_freed(freed);
            if let Some(tenant) = self.tenants.get_mut(&owned.log.tenant) {
                tenant.dirty.remove(id);
            }
        }
    }

    fn configure(&mut self, ids: &[PartitionId], config: LogConfig) {
        for id in ids {
            if let Some(owned) = self.partitions.get(id) {
                owned.log.write().config = config;
            }
        }
        self.maintain_at = Duration::ZERO;
    }

    fn enqueue(&mut self, work: Work) {
        if self.stopped || self.closing.is_some() {
            self.refuse(work, AppendError::Stopped);
            return;
        }
        if self.locked.contains_key(&work.tenant) || self.shared.is_suspended(work.tenant) {
            self.refuse(work, AppendError::KeyDenied);
            return;
        }
        let id = work.tenant;
        self.tenants.entry(id).or_default().waiting.push_back(work);
        self.enter_ring(id);
    }

    /// Puts a tenant with work and a usable key in line; asks for the key otherwise.
    fn enter_ring(&mut self, id: TenantId) {
        let usable = self.has_key(id);
        let Some(tenant) = self.tenants.get_mut(&id) else { return };
        if usable && !tenant.in_ring && !tenant.waiting.is_empty() {
            tenant.in_ring = true;
            self.ring.push_back(id);
        }
    }

    fn tail_freed(&mut self, bytes: usize) {
        self.tail_bytes = self.tail_bytes.saturating_sub(bytes);
        self.gauge.tail_bytes.store(self.tail_bytes, Ordering::Relaxed);
    }

    fn tick(&mut self) {
        let now = self.shared.clock.monotonic();
        let limit = self.shared.config.append_wait_max;
        let late: Vec<TenantId> = self
            .tenants
            .iter()
            .filter(|(_, tenant)| tenant.waiting.front().is_some_and(|work| now.saturating_sub(work.since) > limit))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.refuse_all(id, &AppendError::Overloaded);
        }
        let waiting: Vec<TenantId> =
            self.tenants.iter().filter(|(_, tenant)| !tenant.waiting.is_empty()).map(|(id, _)| *id).collect();
        waiting.into_iter().for_each(|id| self.enter_ring(id));
        self.unlock_due(now);
        if !self.maintaining && !self.stopped && now >= self.maintain_at {
            self.maintain(now);
        }
    }

    /// Refuses everything that waits for `id`.
    fn refuse_all(&mut self, id: TenantId, error: &AppendError) {
        let waiting = self.tenants.get_mut(&id).map(|tenant| std::mem::take(&mut tenant.waiting)).unwrap_or_default();
        waiting.into_iter().for_each(|work| self.refuse(work, error.clone()));
    }

    /// Answers work that was not taken, and remembers whose first batch it was.
    fn refuse(&mut self, work: Work, error: AppendError) {
        self.dequeued(work.bytes);
        match work.kind {
            WorkKind::Append { appends, reply } => {
                appends.iter().for_each(|append| self.expect(append));
                // A connection that is gone does not wait for its answer.
                let _ = reply.send(appends.iter().map(|_| Err(error.clone())).collect());
            }
            WorkKind::State { reply, .. } => drop(reply.send(Err(error))),
            WorkKind::DeleteRecords { reply, .. } => drop(reply.send(Err(error))),
        }
    }

    fn expect(&mut self, append: &Append) {
        let now_ms = self.shared.clock.now_ms();
        if let (Some(owned), Some(batch)) = (self.partitions.get_mut(&append.partition), append.batches.first()) {
            owned.producers.expect(batch, now_ms, self.shared.config.producers_per_partition_max);
        }
    }

    fn dequeued(&self, bytes: usize) {
        self.gauge.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.gauge.room.notify_waiters();
    }

    /// After a failed write nothing more is taken.
    fn stop(&mut self) {
        self.stopped = true;
        tracing::error!(shard = self.lease.shard.0, "shard stopped after a failed write; restart to recover it");
        let ids: Vec<TenantId> = self.tenants.keys().copied().collect();
        ids.into_iter().for_each(|id| self.refuse_all(id, &AppendError::Stopped));
        self.flush_waiters.drain(..).for_each(|waiter| _ = waiter.send(false));
    }

    /// True when the shard is done: everything flushed, its epoch sealed.
    async fn closed(&mut self) -> bool {
        if self.closing.is_none() {
            return false;
        }
        if self.in_flight.is_some() || self.flushing {
            return false;
        }
        let waiting = self.tenants.values().any(|tenant| !tenant.waiting.is_empty() && tenant.in_ring);
        if waiting && !self.stopped {
            return false;
        }
        if !self.close_flushed && !self.stopped {
            self.close_flushed = true;
            if self.start_flush() {
                return false;
            }
        }
        let ids: Vec<TenantId> = self.tenants.keys().copied().collect();
        ids.into_iter().for_each(|id| self.refuse_all(id, &AppendError::Stopped));
        if !self.stopped {
            self.seal_epoch().await;
        }
        true
    }

    fn checkpoint_now(&self) -> Checkpoint {
        Checkpoint { epoch: self.next.epoch, seq: self.next.seq - 1 }
    }
}

/// Commands taken at once between two entries.
const GATHER_MAX: usize = 4096;

/// Everything a shard starts with.
pub(crate) struct ShardStart {
    pub lease: ShardLease,
    pub wal: Arc<dyn WalStore>,
    pub next: EntryId,
    pub previous: [u8; 32],
    pub partitions: HashMap<PartitionId, Owned>,
    pub recovered: Vec<Recovered>,
    pub locked: HashMap<TenantId, Arc<TenantReplay>>,
}

impl ShardStart {
    pub(crate) fn into_shard(
        self,
        shared: Arc<Shared>,
        inbox: UnboundedReceiver<Command>,
        me: WeakUnboundedSender<Command>,
        gauge: Arc<Gauge>,
    ) -> Shard {
        let maintain_at = shared.clock.monotonic() + shared.config.retention_every;
        let mut shard = Shard {
            shared,
            lease: self.lease,
            wal: self.wal,
            inbox,
            me,
            gauge,
            next: self.next,
            previous: self.previous,
            partitions: self.partitions,
            tenants: HashMap::new(),
            ring: VecDeque::new(),
            locked: self.locked,
            unlocking: HashSet::new(),
            tail_bytes: 0,
            in_flight: None,
            flushing: false,
            flush_wanted: false,
            flush_again: Duration::ZERO,
            flush_waiters: Vec::new(),
            maintaining: false,
            maintain_at,
            stopped: false,
            closing: None,
            close_flushed: false,
        };
        self.recovered.into_iter().for_each(|recovered| shard.absorb(recovered));
        shard
    }
}

/// A tenant's live state.
pub(crate) type State = BTreeMap<Bytes, Bytes>;
