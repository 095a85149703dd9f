//! Group commit: gather work, give it offsets, seal, write, acknowledge. And the epoch keys it needs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use schloss_core::{PartitionId, TenantId};
use schloss_crypto::{EncryptionContext, KeyError, Purpose, WalKeys};

use super::{
    Append, Appended, Command, KeyState, Pending, RETRY_AFTER, Reply, Shard, Work, WorkKind,
};
use crate::batch::Batch;
use crate::error::{AppendError, WalError, append_error};
use crate::producers::Verdict;
use crate::stats::Stats;
use crate::wal::entry::{EntryHead, EpochKey, PlainSection, seal, sealed_bytes};
use crate::wal::item::Item;
use crate::wal::{Created, Kind};

/// What a section takes beside its items: headers, wrapped key, commitment and tag, an upper bound.
const SECTION_EXTRA_BYTES: usize = 64 * 1024;
/// What one append takes beside its batches.
const ITEM_EXTRA_BYTES: usize = 64;

impl Shard {
    /// Writes the next entry if there is something for it.
    pub(super) async fn begin_entry(&mut self) {
        if self.in_flight.is_some() || self.stopped || self.ring.is_empty() {
            return;
        }
        if self.tail_bytes >= self.shared.config.tail_bytes_max {
            // Back-pressure: the flush makes room, or the work's time runs out.
            self.flush_wanted = true;
            return;
        }
        let gathered = self.gather();
        if gathered.is_empty() || !self.reserve(&gathered).await {
            gathered.into_iter().for_each(|(_, _, works)| self.refuse_no_space(works));
            return;
        }
        let (sections, pending) = self.assign(gathered);
        if sections.is_empty() {
            // Only duplicates and refusals: what they answer is durable already.
            self.acknowledge(pending);
            return;
        }
        self.write(Kind::Entry, sections, pending);
    }

    /// Takes turns by bytes until the entry is full. Order within a tenant stays.
    fn gather(&mut self) -> Vec<(TenantId, Arc<EpochKey>, Vec<Work>)> {
        let (entry_max, quantum) = (self.shared.config.entry_bytes_max, self.shared.config.tenant_quantum_bytes);
        let mut gathered: Vec<(TenantId, Arc<EpochKey>, Vec<Work>)> = Vec::new();
        let mut total = 0;
        while total < entry_max
            && let Some(id) = self.ring.pop_front()
        {
            if !self.has_key(id) {
                if let Some(tenant) = self.tenants.get_mut(&id) {
                    tenant.in_ring = false;
                }
                continue;
            }
            let Some(tenant) = self.tenants.get_mut(&id) else { continue };
            let KeyState::Ready { key, .. } = &tenant.key else { continue };
            let at = gathered.iter().position(|(known, _, _)| *known == id).unwrap_or_else(|| {
                gathered.push((id, Arc::clone(key), Vec::new()));
                gathered.len() - 1
            });
            let mut turn = 0;
            while let Some(work) = tenant.waiting.front() {
                let fits = total == 0 || (turn < quantum && total + work.bytes <= entry_max);
                if !fits {
                    break;
                }
                turn += work.bytes.max(1);
                total += work.bytes;
                if let (Some(work), Some((_, _, works))) = (tenant.waiting.pop_front(), gathered.get_mut(at)) {
                    works.push(work);
                }
            }
            tenant.in_ring = !tenant.waiting.is_empty();
            if tenant.in_ring {
                self.ring.push_back(id);
            }
            if turn == 0 {
                // Its next piece does not fit any more; it is first in the next entry.
                break;
            }
        }
        gathered.retain(|(_, _, works)| !works.is_empty());
        gathered
    }

    /// Makes sure of the space before anything gets an offset, so that a full disk changes nothing.
    async fn reserve(&mut self, gathered: &[(TenantId, Arc<EpochKey>, Vec<Work>)]) -> bool {
        let parts = |work: &Work| match &work.kind {
            WorkKind::Append { appends, .. } => appends.len(),
            WorkKind::State { records, .. } => records.len(),
            WorkKind::DeleteRecords { .. } => 1,
        };
        let bytes: usize = gathered
            .iter()
            .map(|(_, key, works)| {
                let items: usize = works.iter().map(|work| work.bytes + parts(work) * ITEM_EXTRA_BYTES).sum();
                SECTION_EXTRA_BYTES.min(1024 + key.wrapped.len()) + items
            })
            .sum();
        if bytes + 4096 <= self.wal.room() {
            return true;
        }
        match self.wal.reserve(bytes + 4096).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(shard = self.lease.shard.0, %error, "no room in the write-ahead log");
                false
            }
        }
    }

    fn refuse_no_space(&mut self, works: Vec<Work>) {
        Stats::add(&self.shared.stats.refused_no_space, works.len() as u64);
        works.into_iter().for_each(|work| self.refuse(work, AppendError::NoSpace));
    }

    /// Gives offsets. From here on the work is in the log, unless the shard stops.
    fn assign(&mut self, gathered: Vec<(TenantId, Arc<EpochKey>, Vec<Work>)>) -> (Vec<PlainSection>, Pending) {
        let now_ms = self.shared.clock.now_ms();
        let mut pending = Pending::default();
        let mut sections = Vec::with_capacity(gathered.len());
        for (tenant, key, works) in gathered {
            let mut items = Vec::new();
            for work in works {
                self.dequeued(work.bytes);
                self.assign_work(work, now_ms, &mut items, &mut pending);
            }
            if !items.is_empty() {
                pending.tenants.push(tenant);
                sections.push(PlainSection { tenant, key, items });
            }
        }
        (sections, pending)
    }

    fn assign_work(&mut self, work: Work, now_ms: i64, items: &mut Vec<Item>, pending: &mut Pending) {
        let tenant = work.tenant;
        match work.kind {
            WorkKind::Append { appends, reply } => {
                let results = appends
                    .into_iter()
                    .map(|append| self.assign_append(append, now_ms, items, pending))
                    .collect();
                pending.replies.push(Reply::Append(reply, results));
            }
            WorkKind::State { records, reply } => {
                for (key, value) in records {
                    items.push(Item::State { key: key.clone(), value: value.clone() });
                    pending.states.push((tenant, key, value));
                }
                pending.replies.push(Reply::State(reply));
            }
            WorkKind::DeleteRecords { partition, before, reply } => match self.log_start(partition, before) {
                Ok(offset) => {
                    items.push(Item::LogStart { partition, offset });
                    pending.starts.push((partition, offset));
                    pending.replies.push(Reply::Deleted(reply, offset));
                }
                Err(error) => drop(reply.send(Err(error))),
            },
        }
    }

    /// SPEC: DeleteRecords: -1 means up to the high watermark; a start already behind it stays.
    fn log_start(&self, partition: PartitionId, before: i64) -> Result<i64, AppendError> {
        let owned = self.partitions.get(&partition).ok_or(AppendError::UnknownPartition)?;
        let start = owned.log.read().log_start;
        match before {
            -1 => Ok(owned.next_offset),
            before if before < 0 || before > owned.next_offset => Err(AppendError::OffsetOutOfRange),
            before => Ok(before.max(start)),
        }
    }

    fn assign_append(
        &mut self,
        append: Append,
        now_ms: i64,
        items: &mut Vec<Item>,
        pending: &mut Pending,
    ) -> Result<Appended, AppendError> {
        let producers_max = self.shared.config.producers_per_partition_max;
        let owned = self.partitions.get_mut(&append.partition).ok_or(AppendError::UnknownPartition)?;
        let (log_append_time, log_start_offset) = {
            let inner = owned.log.read();
            (inner.config.log_append_time, inner.log_start)
        };
        let stamp = log_append_time.then_some(now_ms);
        let first = append.batches.first().ok_or(AppendError::Malformed)?;
        if let Verdict::Duplicate { base_offset, time_ms } = owned.producers.check(first)? {
            Stats::add(&self.shared.stats.duplicates, 1);
            let log_append_time_ms = stamp.map_or(-1, |_| time_ms);
            return Ok(Appended { base_offset, log_append_time_ms, log_start_offset });
        }
        // Several batches in one request are all taken or none; a copy of the producers tries it.
        let mut trial = (append.batches.len() > 1).then(|| owned.producers.clone());
        let base_offset = owned.next_offset;
        let mut next = base_offset;
        let mut placed: Vec<Batch> = Vec::with_capacity(append.batches.len());
        for batch in append.batches {
            let batch = batch.place(next, owned.log.leader_epoch, stamp);
            if let Some(trial) = &mut trial {
                if trial.check(&batch)? != Verdict::New {
                    let (got, expected) = (batch.base_sequence(), -1);
                    return Err(AppendError::OutOfOrderSequence { got, expected });
                }
                trial.note(&batch, now_ms, producers_max);
            } else {
                owned.producers.note(&batch, now_ms, producers_max);
            }
            next = batch.last_offset() + 1;
            placed.push(batch);
        }
        if let Some(trial) = trial {
            owned.producers = trial;
        }
        owned.next_offset = next;
        Stats::add(&self.shared.stats.batches, placed.len() as u64);
        items.push(Item::Batches { partition: append.partition, batches: placed.clone() });
        pending.batches.push((append.partition, placed));
        Ok(Appended { base_offset, log_append_time_ms: stamp.unwrap_or(-1), log_start_offset })
    }

    fn write(&mut self, kind: Kind, sections: Vec<PlainSection>, pending: Pending) {
        let head = EntryHead { kind, name: self.next, writer: self.lease.writer, previous: self.previous };
        let wal = Arc::clone(&self.wal);
        let job = Box::new(move |mut buffer: Vec<u8>| {
            buffer.reserve(sealed_bytes(&sections).next_multiple_of(4096).saturating_sub(buffer.len()));
            seal(&head, &sections, buffer)
        });
        let write = Box::pin(async move { wal.create(head.name, job).await });
        self.in_flight = Some((write, pending));
    }

    /// The entry in flight is durable, or the shard is dead.
    pub(super) fn entry_written(&mut self, written: Result<Created, WalError>) {
        let Some((_, pending)) = self.in_flight.take() else { return };
        match written {
            Ok(created) => {
                self.shared.stats.synced(created.bytes, created.sync_us);
                let name = self.next;
                self.previous = created.digest;
                self.next.seq += 1;
                let now = self.shared.clock.monotonic();
                for id in &pending.tenants {
                    self.tenants.entry(*id).or_default().oldest.get_or_insert((name, now));
                }
                self.acknowledge(pending);
            }
            Err(error) => {
                Stats::add(&self.shared.stats.wal_failures, 1);
                tracing::error!(shard = self.lease.shard.0, %error, "write-ahead log failed");
                for reply in pending.replies {
                    match reply {
                        Reply::Append(reply, results) => {
                            let failed = |result: Result<Appended, AppendError>| result.and(Err(AppendError::Stopped));
                            drop(reply.send(results.into_iter().map(failed).collect()));
                        }
                        Reply::State(reply) => drop(reply.send(Err(AppendError::Stopped))),
                        Reply::Deleted(reply, _) => drop(reply.send(Err(AppendError::Stopped))),
                    }
                }
                self.stop();
            }
        }
    }

    /// Shows what is durable to readers, then answers its writers.
    fn acknowledge(&mut self, pending: Pending) {
        for (id, batches) in pending.batches {
            let Some(owned) = self.partitions.get(&id) else { continue };
            self.tail_bytes += batches.iter().map(Batch::len).sum::<usize>();
            self.tenants.entry(owned.log.tenant).or_default().dirty.insert(id);
            owned.log.extend(batches);
        }
        self.gauge.tail_bytes.store(self.tail_bytes, Ordering::Relaxed);
        for (id, offset) in pending.starts {
            let Some(owned) = self.partitions.get(&id) else { continue };
            // The checkpoint must carry it: its entry is collected.
            self.tenants.entry(owned.log.tenant).or_default().dirty.insert(id);
            let mut inner = owned.log.write();
            inner.log_start = inner.log_start.max(offset);
            drop(inner);
            owned.log.wake();
            self.maintain_at = Duration::ZERO;
        }
        for (tenant, key, value) in pending.states {
            self.tenants.entry(tenant).or_default().dirty_state.insert(key.clone());
            self.shared.put_state(tenant, key, value);
        }
        for reply in pending.replies {
            // A connection that is gone does not wait for its answer.
            match reply {
                Reply::Append(reply, results) => drop(reply.send(results)),
                Reply::State(reply) => drop(reply.send(Ok(()))),
                Reply::Deleted(reply, offset) => drop(reply.send(Ok(offset))),
            }
        }
    }

    /// The closing object: an orderly end, so that the last entry can be told from a torn one.
    pub(super) async fn seal_epoch(&mut self) {
        self.write(Kind::Seal, Vec::new(), Pending::default());
        if let Some((write, _)) = self.in_flight.take()
            && let Err(error) = write.await
        {
            tracing::warn!(shard = self.lease.shard.0, %error, "epoch not sealed; the next start does it");
        }
    }

    /// True when `id` may seal now; asks the vault when the key is old or missing.
    pub(super) fn has_key(&mut self, id: TenantId) -> bool {
        let now = self.shared.clock.monotonic();
        let (age_max, grace) = (self.shared.config.epoch_key_age_max, self.shared.config.kms_outage_grace);
        let tenant = self.tenants.entry(id).or_default();
        let age = match &tenant.key {
            KeyState::Ready { proved, .. } => now.saturating_sub(*proved),
            KeyState::Absent => Duration::MAX,
        };
        let ask = age >= age_max / 2 && !tenant.asking && now >= tenant.ask_again;
        // A key past its age is used only while the vault does not answer, and no longer than the grace.
        let usable = age < age_max || (age < grace && tenant.ask_again > now);
        if ask {
            self.ask_key(id);
        }
        usable
    }

    fn ask_key(&mut self, id: TenantId) {
        let Some(me) = self.me.upgrade() else { return };
        let tenant = self.tenants.entry(id).or_default();
        tenant.asking = true;
        let generation = tenant.next_generation;
        tenant.next_generation += 1;
        let context = EncryptionContext {
            cluster: self.shared.cluster.to_bytes(),
            tenant: id.to_bytes(),
            purpose: Purpose::Wal { shard: self.next.shard, epoch: self.next.epoch, generation },
        };
        let vault = Arc::clone(&self.shared.vault);
        tokio::spawn(async move {
            let result = vault.generate(&context).await.and_then(|(key, wrapped)| {
                let key_ref = wrapped.key_ref.clone();
                let wrapped = wrapped.to_bytes().map_err(|_| KeyError::Corrupt { key_ref })?;
                Ok(EpochKey { keys: WalKeys::new(&key), generation, wrapped })
            });
            // The shard may have ended meanwhile.
            let _ = me.send(Command::KeyReady { tenant: id, generation, result });
        });
    }

    pub(super) fn key_ready(&mut self, id: TenantId, generation: u32, result: Result<EpochKey, KeyError>) {
        let now = self.shared.clock.monotonic();
        let tenant = self.tenants.entry(id).or_default();
        tenant.asking = false;
        if generation + 1 != tenant.next_generation {
            return;
        }
        match result {
            Ok(key) => {
                tenant.key = KeyState::Ready { key: Arc::new(key), proved: now };
                self.enter_ring(id);
            }
            Err(error) => {
                tracing::warn!(tenant = %id, %error, "no epoch key");
                tenant.ask_again = now + RETRY_AFTER;
                let unreachable = matches!(error, KeyError::Unreachable { .. });
                if !unreachable {
                    tenant.key = KeyState::Absent;
                }
                if !self.has_key(id) {
                    self.refuse_all(id, &append_error(&error));
                }
            }
        }
    }

    /// The tenant's KMS key was disabled: its plain key goes at once.
    pub(super) fn forget_key(&mut self, id: TenantId) {
        if let Some(tenant) = self.tenants.get_mut(&id) {
            tenant.key = KeyState::Absent;
            // A key asked for before the denial is not used.
            tenant.next_generation += 1;
            tenant.ask_again = Duration::ZERO;
        }
        self.refuse_all(id, &AppendError::KeyDenied);
    }
}

/// Bytes a state record takes.
pub(crate) fn state_bytes(key: &Bytes, value: Option<&Bytes>) -> usize {
    key.len() + value.map_or(0, Bytes::len) + ITEM_EXTRA_BYTES
}
