//! One shard: a thread that gathers, numbers, seals and writes entries, and publishes what is durable.
//!
//! In: commands in the order of requests. Out: replies after the entry is on disk.
//!
//! A failed write gives back every offset and sequence number it had assigned. A write whose outcome is unknown stops the
//! shard: the next start raises the epoch and replays.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use schloss_core::{Clock, ClusterId, TenantId};
use schloss_crypto::{EncryptionContext, EntryId, IntegrityKey, KeyError, KeyVault, Purpose, Standing, WalKeys};
use schloss_wire::batch::ValidBatch;
use tokio::sync::oneshot;

use crate::append::numbered;
use crate::epoch_keys::{EpochKey, EpochKeys, Owner};
use crate::error::AppendError;
use crate::flush::{self, FlushDone, FlushPlan};
use crate::locked::{self, Unlocked};
use crate::partition::{Partition, TailBatch};
use crate::producer::{Numbered, Producer};
use crate::shared::{ShardShared, StateRecord};
use crate::stats::Counters;
use crate::wal::entry::{self, HEADER_BYTES, Header, Kind};
use crate::wal::{WalError, WalStore, crc32c};

/// An entry takes no more commands when its body has this much.
const ENTRY_BYTES: usize = 8 * 1024 * 1024;
/// How often time-driven work is looked at when nothing comes.
const TICK: Duration = Duration::from_millis(100);
/// After a flush failed.
const FLUSH_RETRY: Duration = Duration::from_secs(1);

/// Where a batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: i64,
    /// The broker's time, when it is the records' time.
    pub log_append_time_ms: Option<i64>,
    /// First offset that exists.
    pub log_start_offset: i64,
}

/// What is asked of the shard's thread.
pub enum Command {
    Append {
        partition: Arc<Partition>,
        batch: ValidBatch,
        log_append_time: bool,
        reply: oneshot::Sender<Result<Appended, AppendError>>,
    },
    State {
        tenant: TenantId,
        records: Vec<StateRecord>,
        reply: oneshot::Sender<Result<(), AppendError>>,
    },
    Key {
        owner: Owner,
        outcome: Result<EpochKey, KeyError>,
    },
    /// The tenant's keys are to be wiped.
    Forget(TenantId),
    Unlock {
        tenant: TenantId,
        opened: Unlocked,
        reply: oneshot::Sender<Result<(), AppendError>>,
    },
    Flushed(Result<FlushDone, String>),
    /// Entries behind the checkpoint are to leave the disk; tells whether all did.
    Purge(oneshot::Sender<Result<bool, AppendError>>),
    FlushNow(oneshot::Sender<Result<(), AppendError>>),
    /// Answers with the sequence number of the seal, when there is one.
    Close(oneshot::Sender<Option<u64>>),
}

/// Bounds of a shard.
#[derive(Clone, Copy, Debug)]
pub struct ShardLimits {
    pub tail_bytes_max: usize,
    pub flush_bytes: usize,
    pub flush_every: Duration,
}

/// The thread's own things.
pub struct Shard {
    pub shared: Arc<ShardShared>,
    /// How many there are: all of them share a tenant's budget of KMS calls.
    pub shards: u32,
    pub cluster: ClusterId,
    pub wal: Box<dyn WalStore>,
    pub limits: ShardLimits,
    pub clock: Arc<dyn Clock>,
    pub vault: Arc<dyn KeyVault>,
    pub integrity: Arc<IntegrityKey>,
    pub flusher: Arc<flush::Flusher>,
    pub counters: Arc<Counters>,
    pub runtime: tokio::runtime::Handle,
    pub commands: mpsc::Receiver<Command>,
    pub sender: mpsc::Sender<Command>,
    /// Sequence number of the last entry, and the digest of its header.
    pub last: (u64, [u8; 32]),
}

/// What one gathered command becomes when the entry is durable.
pub enum Publish {
    Append {
        partition: Arc<Partition>,
        batch: TailBatch,
        reply: oneshot::Sender<Result<Appended, AppendError>>,
        appended: Appended,
    },
    State {
        tenant: TenantId,
        records: Vec<StateRecord>,
        reply: Option<oneshot::Sender<Result<(), AppendError>>>,
    },
    /// A repetition of something in this very entry: answered with it.
    Repeated {
        reply: oneshot::Sender<Result<Appended, AppendError>>,
        appended: Appended,
    },
}

/// What a failed write gives back.
pub struct Undo {
    pub partition: Arc<Partition>,
    pub next_offset: i64,
    pub numbered: Option<Numbered>,
    pub producer: Option<(i64, Option<Producer>)>,
    pub epoch_listed: bool,
}

struct Run {
    shard: Shard,
    keys: EpochKeys,
    parked: HashMap<Owner, VecDeque<Command>>,
    gathering: Vec<Command>,
    gathered_bytes: usize,
    held: VecDeque<Command>,
    body: Vec<u8>,
    flushing: bool,
    flush_failed: Option<Instant>,
    flush_waiters: Vec<oneshot::Sender<Result<(), AppendError>>>,
    /// Tenants whose share of the last flush could not be sealed: they may not fill a tail that others need.
    /// With the bytes they have written since.
    unflushed: HashMap<TenantId, u64>,
    oldest_unflushed: Option<Instant>,
    /// Of the last flush since the start.
    checkpoint: (u64, u64),
    /// Bytes of tail that the last flush could not seal.
    left_bytes: usize,
    closing: Option<oneshot::Sender<Option<u64>>>,
}

/// Runs the shard until it is closed. Blocks; it is a thread's whole life.
pub fn run(shard: Shard) {
    let oldest_unflushed = (shard.shared.tail_bytes() > 0).then(Instant::now);
    let shards = shard.shards;
    let mut run = Run {
        shard,
        keys: EpochKeys::new(shards),
        parked: HashMap::new(),
        gathering: Vec::new(),
        gathered_bytes: 0,
        held: VecDeque::new(),
        body: Vec::new(),
        flushing: false,
        flush_failed: None,
        flush_waiters: Vec::new(),
        unflushed: HashMap::new(),
        oldest_unflushed,
        checkpoint: (0, 0),
        left_bytes: 0,
        closing: None,
    };
    while run.step() {}
}

impl Run {
    fn step(&mut self) -> bool {
        match self.shard.commands.recv_timeout(TICK) {
            Ok(command) => self.take(command),
            // An engine that was dropped without a close leaves its log as a crash would.
            Err(RecvTimeoutError::Timeout) if self.shard.shared.abandoned.load(Ordering::Acquire) => return false,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        while self.gathered_bytes < ENTRY_BYTES && self.closing.is_none() {
            match self.shard.commands.try_recv() {
                Ok(command) => self.take(command),
                Err(_) => break,
            }
        }
        self.renew_keys();
        self.write();
        if self.closing.is_none() && self.flush_due() {
            self.start_flush();
        }
        if let Some(reply) = self.closing.take() {
            // Whoever asked may have given up waiting.
            let _gone = reply.send(self.close());
            return false;
        }
        true
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Key { owner, outcome } => self.take_key(owner, outcome),
            Command::Forget(tenant) => self.keys.forget(tenant),
            Command::Unlock { tenant, opened, reply } => drop(reply.send(self.unlock(tenant, opened))),
            Command::Flushed(outcome) => self.flushed(outcome),
            Command::Purge(reply) => drop(reply.send(self.purge())),
            Command::FlushNow(reply) if self.shard.shared.stopped.load(Ordering::Acquire) => {
                drop(reply.send(Err(AppendError::Stopped)))
            }
            Command::FlushNow(reply) => self.flush_waiters.push(reply),
            Command::Close(reply) => self.closing = Some(reply),
            command => self.gather(command),
        }
    }

    /// Puts a command into the next entry, or where it waits for a key or for room.
    fn gather(&mut self, command: Command) {
        let Some(owner) = owner(&command) else { return };
        let bytes = match &command {
            Command::Append { batch, .. } => batch.total_bytes(),
            Command::State { records, .. } => records
                .iter()
                .map(|record| record.key.len().saturating_add(record.value.as_ref().map_or(0, Bytes::len)))
                .sum(),
            _ => return,
        };
        if self.shard.shared.stopped.load(Ordering::Acquire) {
            return refuse(command, &AppendError::Stopped);
        }
        if self.holds_its_share(owner.tenant) {
            return refuse(command, &AppendError::Key);
        }
        // INVARIANT: who came later never passes who is held, also when room appears before the flush is told of.
        if !self.held.is_empty() {
            return self.held.push_back(command);
        }
        if self.shard.shared.tail_bytes() >= self.shard.limits.tail_bytes_max {
            // Slow is better than full while a flush is on its way; refusing early is better than waiting for none.
            return if self.flush_failed.is_some() && !self.flushing {
                refuse(command, &AppendError::Full)
            } else {
                self.held.push_back(command)
            };
        }
        if !self.keys.usable(&owner, &*self.shard.vault) {
            let first = !self.parked.contains_key(&owner);
            self.parked.entry(owner.clone()).or_default().push_back(command);
            if first {
                self.ask_key(owner);
            }
            return;
        }
        self.gathered_bytes = self.gathered_bytes.saturating_add(bytes);
        self.gathering.push(command);
    }

    /// What cannot be flushed may take half of the tail, and as much set aside, so that a short outage of its key is not noticed.
    fn holds_its_share(&self, tenant: TenantId) -> bool {
        let Some(written) = self.unflushed.get(&tenant) else { return false };
        let shared = &self.shard.shared;
        let half = self.shard.limits.tail_bytes_max / 2;
        shared.tail_bytes() >= half || shared.aside_bytes(tenant).saturating_add(*written) >= half as u64
    }

    fn ask_key(&mut self, owner: Owner) {
        let generation = self.keys.next_generation(owner.tenant);
        let purpose = Purpose::Wal { shard: self.shard.shared.id.0, epoch: self.shard.shared.epoch, generation };
        let context =
            EncryptionContext { cluster: self.shard.cluster.to_bytes(), tenant: owner.tenant.to_bytes(), purpose };
        let (vault, sender) = (Arc::clone(&self.shard.vault), self.shard.sender.clone());
        self.shard.runtime.spawn(async move {
            let outcome = match vault.generate_under(&context, owner.key_ref.as_deref()).await {
                Ok((key, wrapped)) => wrapped
                    .to_bytes()
                    .map(|bytes| EpochKey {
                        keys: WalKeys::new(&key),
                        wrapped: bytes,
                        key_ref: wrapped.key_ref.clone(),
                        generation,
                    })
                    .map_err(|_| KeyError::Corrupt { key_ref: String::new() }),
                Err(error) => Err(error),
            };
            // A closed shard needs no key.
            drop(sender.send(Command::Key { owner, outcome }));
        });
    }

    fn take_key(&mut self, owner: Owner, outcome: Result<EpochKey, KeyError>) {
        let parked = self.parked.remove(&owner).unwrap_or_default();
        match outcome {
            // A key that was refused between its making and here is dropped again: nothing may be written under it.
            Ok(key) if self.shard.vault.standing(owner.tenant.to_bytes(), &key.key_ref) != Standing::Usable => {
                parked.into_iter().for_each(|command| refuse(command, &AppendError::Key));
            }
            Ok(key) => {
                self.keys.put(owner, key, Instant::now());
                parked.into_iter().for_each(|command| self.gather(command));
            }
            Err(error) => {
                tracing::warn!(tenant = %owner.tenant, %error, "no key for the write-ahead log");
                parked.into_iter().for_each(|command| refuse(command, &AppendError::Key));
            }
        }
    }

    /// Keys in use are replaced before they are too old to write under.
    fn renew_keys(&mut self) {
        self.keys.sweep(&*self.shard.vault);
        let active: HashSet<Owner> = self.gathering.iter().filter_map(owner).collect();
        for owner in active {
            if self.keys.due(&owner, Instant::now()) {
                self.ask_key(owner);
            }
        }
    }

    /// Puts back what was sealed while the tenant's key was away, as a replay at start would have.
    fn unlock(&mut self, tenant: TenantId, opened: Unlocked) -> Result<(), AppendError> {
        let shared = &self.shard.shared;
        let partitions = shared.partitions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut states = shared.states();
        for (key, value) in opened.states {
            locked::apply_own(&partitions, &key, Some(&value));
            states.live.entry(tenant).or_default().insert(key, value);
        }
        let aside = shared.aside();
        let set_aside = aside.get(&tenant).map_or((0, 0), |aside| aside.last);
        for (name, plain) in opened.sections {
            let added = locked::replay_section(&partitions, &mut states, tenant, &plain).ok_or(AppendError::Stopped)?;
            shared.tail_bytes.fetch_add(added, Ordering::AcqRel);
            if name > set_aside {
                shared.oldest().entry(tenant).or_insert(name);
            }
        }
        drop((aside, states));
        shared.locked().remove(&tenant);
        self.oldest_unflushed.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Writes what was gathered as one entry and publishes it.
    fn write(&mut self) {
        if self.gathering.is_empty() {
            return;
        }
        let commands = std::mem::take(&mut self.gathering);
        self.gathered_bytes = 0;
        let seq = self.shard.last.0.saturating_add(1);
        self.body.clear();
        self.body.resize(HEADER_BYTES, 0);
        let (mut publish, mut undo) = (Vec::new(), Vec::new());
        let sealed = self.fill(commands, seq, &mut publish, &mut undo);
        if publish.is_empty() {
            return;
        }
        if !sealed {
            return self.give_back(publish, undo, &AppendError::Key);
        }
        if self.body.len() == HEADER_BYTES {
            return self.publish(publish);
        }
        match self.create(Kind::Data, seq) {
            Ok(()) => self.publish(publish),
            Err(WalError::Full) => {
                tracing::error!(shard = self.shard.shared.id.0, "the disk is full; produce waits for space");
                self.give_back(publish, undo, &AppendError::Full);
            }
            Err(WalError::Failed(error)) => {
                tracing::error!(shard = self.shard.shared.id.0, %error, "a write has an unknown outcome; the shard stops until the next start");
                self.shard.shared.stopped.store(true, Ordering::Release);
                self.give_back(publish, undo, &AppendError::Stopped);
                // Nothing will ever be written or flushed for those who wait.
                std::mem::take(&mut self.held).into_iter().for_each(|command| refuse(command, &AppendError::Stopped));
                std::mem::take(&mut self.flush_waiters)
                    .into_iter()
                    .for_each(|waiter| drop(waiter.send(Err(AppendError::Stopped))));
            }
        }
    }

    fn header(&self, kind: Kind, seq: u64) -> Option<Header> {
        let body = self.body.get(HEADER_BYTES..).unwrap_or_default();
        let header = Header {
            kind,
            shard: self.shard.shared.id.0,
            epoch: self.shard.shared.epoch,
            seq,
            writer: self.shard.shared.guard.writer,
            previous: self.shard.last.1,
            body_bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
            body_crc: crc32c(body),
            proof: [0; 32],
        };
        header.proved(body, &self.shard.integrity)
    }

    /// Writes the body as the next entry.
    fn create(&mut self, kind: Kind, seq: u64) -> Result<(), WalError> {
        let header =
            self.header(kind, seq).ok_or_else(|| WalError::Failed(std::io::Error::other("a body without form")))?;
        if let Some(place) = self.body.get_mut(..HEADER_BYTES) {
            place.copy_from_slice(&header.to_bytes());
        }
        let begun = Instant::now();
        let outcome = self.shard.wal.create(header.epoch, header.seq, &self.body);
        let counters = &self.shard.counters;
        Counters::add(&counters.wal_sync_nanos, u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        if outcome.is_ok() {
            Counters::add(&counters.wal_entries, 1);
            Counters::add(&counters.wal_bytes, self.body.len() as u64);
            self.shard.last = (seq, header.digest());
        }
        outcome
    }

    /// Numbers every command and seals a section per tenant. False when a section could not be sealed.
    fn fill(&mut self, commands: Vec<Command>, seq: u64, publish: &mut Vec<Publish>, undo: &mut Vec<Undo>) -> bool {
        let mut by_owner: Vec<(Owner, Vec<Command>)> = Vec::new();
        for command in commands {
            let Some(owner) = owner(&command) else { continue };
            match by_owner.iter_mut().find(|(known, _)| *known == owner) {
                Some((_, list)) => list.push(command),
                None => by_owner.push((owner, vec![command])),
            }
        }
        let now_ms = self.shard.clock.now_ms();
        let entry = EntryId { shard: self.shard.shared.id.0, epoch: self.shard.shared.epoch, seq };
        let mut section = 0_u32;
        for (owner, commands) in by_owner {
            let tenant = owner.tenant;
            let Some(key) = self.keys.get(&owner) else {
                commands.into_iter().for_each(|command| refuse(command, &AppendError::Key));
                continue;
            };
            let begun = self.body.len();
            let start = entry::begin_section(&mut self.body, tenant, key.generation, &key.wrapped);
            for command in commands {
                match command {
                    Command::Append { partition, batch, log_append_time, reply } => {
                        self.shard.shared.append(
                            &mut self.body,
                            partition,
                            batch,
                            log_append_time.then_some(now_ms),
                            now_ms,
                            reply,
                            publish,
                            undo,
                        );
                    }
                    Command::State { tenant, records, reply } => {
                        records
                            .iter()
                            .for_each(|record| entry::put_state(&mut self.body, &record.key, record.value.as_deref()));
                        publish.push(Publish::State { tenant, records, reply: Some(reply) });
                    }
                    _ => {}
                }
            }
            if self.body.len() == start {
                self.body.truncate(begun);
                continue;
            }
            if key.keys.seal_section_from(entry, section, tenant.to_bytes(), &mut self.body, start).is_err() {
                return false;
            }
            entry::end_section(&mut self.body, start);
            let bytes = self.body.len().saturating_sub(start);
            self.keys.sealed(&owner, bytes);
            if let Some(written) = self.unflushed.get_mut(&tenant) {
                *written = written.saturating_add(self.body.len().saturating_sub(begun) as u64);
            }
            section = section.saturating_add(1);
        }
        true
    }

    /// Everything in the entry is durable: show it, count it, answer.
    fn publish(&mut self, publish: Vec<Publish>) {
        let name = (self.shard.shared.epoch, self.shard.last.0);
        let mut oldest = self.shard.shared.oldest();
        for one in &publish {
            match one {
                Publish::Append { partition, .. } => drop(oldest.entry(partition.tenant).or_insert(name)),
                Publish::State { tenant, .. } => drop(oldest.entry(*tenant).or_insert(name)),
                Publish::Repeated { .. } => {}
            }
        }
        drop(oldest);
        let mut woken: Vec<Arc<Partition>> = Vec::new();
        let mut replies = Vec::with_capacity(publish.len());
        for one in publish {
            match one {
                Publish::Append { partition, batch, reply, mut appended } => {
                    self.shard.shared.tail_bytes.fetch_add(batch.size(), Ordering::AcqRel);
                    let mut inner = partition.write();
                    inner.high_watermark = batch.last_offset.saturating_add(1);
                    inner.tail.push_back(batch);
                    appended.log_start_offset = inner.log_start;
                    drop(inner);
                    if !woken.iter().any(|known| Arc::ptr_eq(known, &partition)) {
                        woken.push(partition);
                    }
                    replies.push((reply, appended));
                }
                Publish::State { tenant, records, reply } => {
                    let mut states = self.shard.shared.states();
                    records.iter().for_each(|record| states.apply(tenant, record));
                    drop(states);
                    if let Some(reply) = reply {
                        // The asker may be gone; the state stands.
                        drop(reply.send(Ok(())));
                    }
                }
                Publish::Repeated { reply, appended } => replies.push((reply, appended)),
            }
        }
        self.oldest_unflushed.get_or_insert_with(Instant::now);
        for (reply, appended) in replies {
            drop(reply.send(Ok(appended)));
        }
        woken.iter().for_each(|partition| partition.wake());
    }

    /// Nothing of the entry happened: offsets and sequence numbers go back, in reverse.
    fn give_back(&mut self, publish: Vec<Publish>, undo: Vec<Undo>, error: &AppendError) {
        for undo in undo.into_iter().rev() {
            let mut writer = undo.partition.writer();
            writer.next_offset = undo.next_offset;
            writer.epoch_listed = undo.epoch_listed;
            if let Some((id, old)) = undo.producer {
                writer.producers.undo(id, old);
            }
            // In reverse: the first of the entry's batches is the one expected in the end.
            if let Some(numbered) = &undo.numbered {
                writer.producers.expect_again(numbered);
            }
        }
        for one in publish {
            match one {
                Publish::Append { reply, .. } | Publish::Repeated { reply, .. } => drop(reply.send(Err(error.clone()))),
                Publish::State { reply: Some(reply), .. } => drop(reply.send(Err(error.clone()))),
                Publish::State { reply: None, .. } => {}
            }
        }
    }

    fn flush_due(&self) -> bool {
        if self.flushing || self.shard.shared.stopped.load(Ordering::Acquire) {
            return false;
        }
        if self.flush_failed.is_some_and(|at| at.elapsed() < FLUSH_RETRY) && self.flush_waiters.is_empty() {
            return false;
        }
        let old = self.oldest_unflushed.is_some_and(|since| since.elapsed() >= self.shard.limits.flush_every);
        let flushable = self.shard.shared.tail_bytes().saturating_sub(self.left_bytes);
        old || flushable >= self.shard.limits.flush_bytes
            || !self.flush_waiters.is_empty()
            || self.flush_failed.is_some()
    }

    fn start_flush(&mut self) {
        let plan = FlushPlan::gather(
            &self.shard.shared,
            (self.shard.shared.epoch, self.shard.last.0),
            self.shard.clock.now_ms(),
            self.shard.wal.reader(),
        );
        self.flushing = true;
        self.oldest_unflushed = None;
        let (flusher, sender) = (Arc::clone(&self.shard.flusher), self.shard.sender.clone());
        self.shard.runtime.spawn(async move {
            let outcome = flusher.flush(plan).await;
            drop(sender.send(Command::Flushed(outcome)));
        });
    }

    fn flushed(&mut self, outcome: Result<FlushDone, String>) {
        self.flushing = false;
        let waiters = std::mem::take(&mut self.flush_waiters);
        match outcome {
            Ok(done) => {
                self.checkpoint = done.checkpoint;
                if let Err(error) = self.shard.wal.collect(done.checkpoint) {
                    tracing::warn!(%error, "write-ahead log files behind the checkpoint could not be recycled");
                }
                let answer = if done.left.is_empty() { Ok(()) } else { Err(AppendError::Key) };
                self.flush_failed = None;
                self.left_bytes = self.shard.shared.tail_bytes_of(|tenant| done.left.contains_key(&tenant));
                if !done.left.is_empty() {
                    // Tried again with the next flush: what only these tenants need must not cut everybody's segments small.
                    self.oldest_unflushed.get_or_insert_with(Instant::now);
                }
                for (tenant, reason) in &done.left {
                    tracing::warn!(shard = self.shard.shared.id.0, %tenant, reason, "a tenant's tail could not be flushed and is tried again");
                }
                self.unflushed = done.left.into_keys().map(|tenant| (tenant, 0)).collect();
                waiters.into_iter().for_each(|waiter| drop(waiter.send(answer.clone())));
            }
            Err(reason) => {
                tracing::error!(
                    shard = self.shard.shared.id.0,
                    reason,
                    "a flush failed and is tried again; nothing is lost"
                );
                Counters::add(&self.shard.counters.flush_failures, 1);
                self.flush_failed = Some(Instant::now());
                waiters.into_iter().for_each(|waiter| drop(waiter.send(Err(AppendError::Full))));
            }
        }
        for command in std::mem::take(&mut self.held) {
            self.gather(command);
        }
    }

    /// Begins a new log file, so that all before it can go, and overwrites what goes.
    fn purge(&mut self) -> Result<bool, AppendError> {
        if self.shard.shared.stopped.load(Ordering::Acquire) {
            return Err(AppendError::Stopped);
        }
        self.shard.wal.begin_file();
        let seq = self.shard.last.0.saturating_add(1);
        self.body.clear();
        self.body.resize(HEADER_BYTES, 0);
        self.create(Kind::Data, seq).map_err(|error| match error {
            WalError::Full => AppendError::Full,
            WalError::Failed(_) => {
                self.shard.shared.stopped.store(true, Ordering::Release);
                AppendError::Stopped
            }
        })?;
        let held = self.shard.shared.log_held.load(Ordering::Acquire);
        if held || self.checkpoint != (self.shard.shared.epoch, seq.saturating_sub(1)) {
            return Ok(false);
        }
        // Everything before this entry is in segments.
        let done = self.shard.wal.collect(self.checkpoint).and_then(|()| self.shard.wal.wipe_spares());
        match done {
            Ok(()) => Ok(true),
            Err(error) => {
                tracing::error!(%error, "the log's old files could not be overwritten");
                Ok(false)
            }
        }
    }

    /// A clean end: a seal says that this epoch has no more entries, so that a change to its last one is noticed.
    fn close(&mut self) -> Option<u64> {
        for (_, parked) in std::mem::take(&mut self.parked) {
            parked.into_iter().for_each(|command| refuse(command, &AppendError::Stopped));
        }
        std::mem::take(&mut self.held).into_iter().for_each(|command| refuse(command, &AppendError::Stopped));
        if self.shard.shared.stopped.swap(true, Ordering::AcqRel) {
            return None;
        }
        let seq = self.shard.last.0.saturating_add(1);
        self.body.clear();
        self.body.resize(HEADER_BYTES, 0);
        match self.create(Kind::Seal, seq) {
            Ok(()) => Some(seq),
            Err(error) => {
                tracing::warn!(%error, "the log could not be sealed; the next start replays it");
                None
            }
        }
    }
}

/// Whose key seals a command.
fn owner(command: &Command) -> Option<Owner> {
    match command {
        Command::Append { partition, .. } => {
            Some(Owner { tenant: partition.tenant, key_ref: partition.read().key_ref.clone() })
        }
        Command::State { tenant, .. } => Some(Owner { tenant: *tenant, key_ref: None }),
        _ => None,
    }
}

/// Refuses for a passing reason. An unknown producer must come again with this batch before any later one: else a later
/// one would be taken, and the retry of this one for a repetition.
fn refuse(command: Command, error: &AppendError) {
    match command {
        Command::Append { partition, batch, reply, .. } => {
            if let Some(numbered) = numbered(&batch) {
                partition.writer().producers.expect(&numbered);
            }
            drop(reply.send(Err(error.clone())));
        }
        Command::State { reply, .. } => drop(reply.send(Err(error.clone()))),
        _ => {}
    }
}
