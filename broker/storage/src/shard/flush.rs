//! Moves tails into segments and the checkpoint behind them.
//!
//! Taken between two entries, so it is a snapshot of durable state. One transaction brings segments, facts, state and
//! checkpoint; until it is committed, tail and log keep everything.
//!
//! A tenant whose key is missing keeps its tail; the checkpoint then stays before its first unflushed entry.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use schloss_core::{PartitionId, TenantId};
use schloss_crypto::{EntryId, seal_value};
use schloss_metadata::{Checkpoint, FlushCommit, MetadataError, PartitionFacts, SegmentRow, ShardLease, StateRow};

use super::{Command, FLUSH_RETRY_AFTER, Shard};
use crate::engine::Shared;
use crate::log::Part;
use crate::segment::{Run, plan_objects};
use crate::stats::Stats;

/// Row kinds of the name index are told apart by numbers; this one is ours.
const STATE_ROW: u8 = 200;

/// What one tenant gives to a flush.
struct TenantFlush {
    tenant: TenantId,
    runs: Vec<(Run, usize)>,
    /// Producers still plain.
    facts: Vec<PartitionFacts>,
    state: Vec<(Bytes, Option<Bytes>)>,
    oldest: Option<EntryId>,
}

/// What became of a flush.
pub(crate) struct Flushed {
    done: HashMap<TenantId, Vec<SegmentRow>>,
    /// State keys of tenants that failed.
    failed: Vec<(TenantId, Vec<Bytes>)>,
    checkpoint: Option<Checkpoint>,
    fenced: bool,
}

impl Shard {
    pub(super) fn flush_due(&mut self) -> bool {
        let now = self.shared.clock.monotonic();
        if self.flushing || self.stopped || now < self.flush_again {
            return false;
        }
        let old = |since: Duration| now.saturating_sub(since) >= self.shared.config.flush_age;
        let aged = || self.tenants.values().any(|tenant| tenant.oldest.is_some_and(|(_, since)| old(since)));
        self.flush_wanted || self.tail_bytes >= self.shared.config.flush_bytes || aged()
    }

    /// False when there is nothing to flush.
    pub(super) fn start_flush(&mut self) -> bool {
        self.flush_wanted = false;
        let jobs: Vec<TenantFlush> = self.tenants.keys().copied().collect::<Vec<_>>().into_iter().filter_map(|id| self.snapshot(id)).collect();
        let Some(me) = self.me.upgrade().filter(|_| !jobs.is_empty()) else {
            self.flush_waiters.drain(..).for_each(|waiter| _ = waiter.send(true));
            return false;
        };
        self.flushing = true;
        let (shared, lease, upto) = (Arc::clone(&self.shared), self.lease, self.checkpoint_now());
        let pinned = self.locked.values().filter_map(|replay| replay.oldest()).min();
        tokio::spawn(async move {
            let flushed = run(&shared, lease, jobs, upto, pinned).await;
            let _ = me.send(Command::Flushed(flushed));
        });
        true
    }

    fn snapshot(&mut self, id: TenantId) -> Option<TenantFlush> {
        let limit_ms = self.shared.clock.now_ms()
            - i64::try_from(self.shared.config.producer_id_expiration.as_millis()).unwrap_or(i64::MAX);
        let tenant = self.tenants.get_mut(&id)?;
        tenant.oldest?;
        tenant.flushing = tenant.oldest.take();
        let (mut runs, mut facts) = (Vec::new(), Vec::new());
        for partition in tenant.dirty.drain() {
            let Some(owned) = self.partitions.get_mut(&partition) else { continue };
            owned.producers.expire(limit_ms);
            let inner = owned.log.read();
            let batches: Vec<_> = inner.tail.iter().cloned().collect();
            let cut = usize::try_from(inner.config.segment_bytes).unwrap_or(usize::MAX).max(1);
            facts.push(PartitionFacts {
                partition,
                log_start: inner.log_start,
                next_offset: owned.next_offset,
                epochs: inner.epochs.clone(),
                producers: owned.producers.to_bytes(),
            });
            if !batches.is_empty() {
                runs.push((Run { partition, bytes: inner.tail_bytes, batches }, cut));
            }
        }
        let keys: Vec<Bytes> = tenant.dirty_state.drain().collect();
        let state = keys.into_iter().map(|key| { let value = self.shared.state_value(id, &key); (key, value) }).collect();
        runs.sort_by_key(|(run, _)| run.partition);
        Some(TenantFlush { tenant: id, runs, facts, state, oldest: tenant.flushing.map(|(name, _)| name) })
    }

    pub(super) fn flushed(&mut self, flushed: Flushed) {
        self.flushing = false;
        let ok = flushed.failed.is_empty() && flushed.checkpoint.is_some();
        for (id, rows) in flushed.done {
            self.tenant_flushed(id, rows);
        }
        for (id, keys) in flushed.failed {
            self.tenant_kept(id, keys);
        }
        if let Some(checkpoint) = flushed.checkpoint {
            Stats::add(&self.shared.stats.flushes, 1);
            self.wal.collect(EntryId { shard: self.next.shard, epoch: checkpoint.epoch, seq: checkpoint.seq });
        }
        if flushed.fenced {
            self.stop();
        }
        if !ok {
            Stats::add(&self.shared.stats.flush_failures, 1);
            self.flush_wanted = true;
            self.flush_again = self.shared.clock.monotonic() + FLUSH_RETRY_AFTER;
        }
        self.flush_waiters.drain(..).for_each(|waiter| _ = waiter.send(ok));
    }

    /// The manifest has them: readers go to the segments, the tail is freed.
    fn tenant_flushed(&mut self, id: TenantId, rows: Vec<SegmentRow>) {
        let mut parts: HashMap<PartitionId, Vec<Part>> = HashMap::new();
        for mut row in rows {
            let list = std::mem::take(&mut row.parts);
            let segment = Arc::new(row);
            for part in list {
                parts.entry(part.partition).or_default().push(Part {
                    first_offset: part.first_offset,
                    next_offset: part.next_offset,
                    max_timestamp: part.max_timestamp,
                    bytes: part.bytes,
                    segment: Arc::clone(&segment),
                });
            }
        }
        let mut freed = 0;
        for (partition, mut parts) in parts {
            parts.sort_by_key(|part| part.first_offset);
            if let Some(owned) = self.partitions.get(&partition) {
                freed += owned.log.write().flushed(parts);
            }
        }
        self.tail_freed(freed);
        if let Some(tenant) = self.tenants.get_mut(&id) {
            tenant.flushing = None;
        }
    }

    fn tenant_kept(&mut self, id: TenantId, keys: Vec<Bytes>) {
        let tenant = self.tenants.entry(id).or_default();
        tenant.oldest = tenant.flushing.take().or(tenant.oldest);
        tenant.dirty_state.extend(keys);
        let owned = self.partitions.values().filter(|owned| owned.log.tenant == id && owned.log.read().tail_bytes > 0);
        tenant.dirty.extend(owned.map(|owned| owned.log.id));
    }
}

async fn run(
    shared: &Shared,
    lease: ShardLease,
    jobs: Vec<TenantFlush>,
    upto: Checkpoint,
    pinned: Option<EntryId>,
) -> Flushed {
    let mut commit = FlushCommit { checkpoint: upto, now_ms: shared.clock.now_ms(), ..FlushCommit::default() };
    let mut flushed = Flushed { done: HashMap::new(), failed: Vec::new(), checkpoint: None, fenced: false };
    let mut pins: Vec<EntryId> = pinned.into_iter().collect();
    let mut keys_of: Vec<(TenantId, Vec<Bytes>)> = Vec::new();
    for job in jobs {
        let (tenant, oldest) = (job.tenant, job.oldest);
        let keys: Vec<Bytes> = job.state.iter().map(|(key, _)| key.clone()).collect();
        match make(shared, lease, job).await {
            Ok((rows, facts, state)) => {
                commit.segments.extend(rows.iter().cloned());
                commit.facts.extend(facts);
                commit.state.extend(state);
                flushed.done.insert(tenant, rows);
                keys_of.push((tenant, keys));
            }
            Err(error) => {
                tracing::warn!(%tenant, %error, "flush failed, tried again later");
                pins.extend(oldest);
                flushed.failed.push((tenant, keys));
            }
        }
    }
    if let Some(pin) = pins.into_iter().min() {
        // Replay begins behind the checkpoint, so it stays right before the first entry still needed.
        commit.checkpoint = upto.min(Checkpoint { epoch: pin.epoch, seq: pin.seq.saturating_sub(1) });
    }
    let checkpoint = commit.checkpoint;
    match shared.metadata.commit_flush(lease, commit).await {
        Ok(()) => flushed.checkpoint = Some(checkpoint),
        Err(error) => {
            tracing::warn!(%error, "flush not committed, tried again later");
            flushed.fenced = matches!(error, MetadataError::Fenced { .. });
            let made: Vec<SegmentRow> = flushed.done.drain().flat_map(|(_, rows)| rows).collect();
            if error == MetadataError::Full {
                // Surely rolled back, and the space is needed.
                shared.erase(&made).await;
            }
            flushed.failed.extend(keys_of);
        }
    }
    flushed
}

/// Segments, facts with sealed producers, sealed state.
type Made = (Vec<SegmentRow>, Vec<PartitionFacts>, Vec<StateRow>);

async fn make(shared: &Shared, lease: ShardLease, job: TenantFlush) -> Result<Made, MakeError> {
    let tenant = job.tenant;
    let keys = shared.keyring.of(tenant).await?;
    let mut facts = job.facts;
    for fact in &mut facts {
        if !fact.producers.is_empty() {
            fact.producers = seal_value(&keys.metadata, &producers_binding(fact), &fact.producers);
        }
    }
    let state = job.state.into_iter().map(|(key, value)| {
        let row_key = keys.index.name_index(STATE_ROW, &hex(&key));
        let sealed = value.map(|value| {
            let mut plain = u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
            plain.extend_from_slice(&key);
            plain.extend_from_slice(&value);
            seal_value(&keys.metadata, &state_binding(tenant, &row_key), &plain)
        });
        StateRow { tenant, row_key, sealed }
    });
    let state = state.collect();
    let mut rows = Vec::new();
    for object in plan_objects(job.runs, shared.config.segment_object_bytes_max) {
        match shared.maker.make(tenant, lease.epoch, object).await {
            Ok(row) => rows.push(row),
            Err(error) => {
                // Never committed, so nobody refers to them.
                shared.erase(&rows).await;
                return Err(error.into());
            }
        }
    }
    Ok((rows, facts, state))
}

#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error(transparent)]
    Keyring(#[from] crate::keyring::KeyringError),
    #[error(transparent)]
    Build(#[from] crate::segment::BuildError),
}

/// Where a producers snapshot belongs: another partition's, or an older one, does not open.
pub(super) fn producers_binding(facts: &PartitionFacts) -> Vec<u8> {
    let mut binding = b"producers".to_vec();
    binding.extend_from_slice(&facts.partition.topic.to_bytes());
    binding.extend_from_slice(&facts.partition.index.to_be_bytes());
    binding.extend_from_slice(&facts.next_offset.to_be_bytes());
    binding
}

/// Where a state row belongs.
pub(super) fn state_binding(tenant: TenantId, row_key: &[u8; 32]) -> Vec<u8> {
    [b"state".as_slice(), &tenant.to_bytes(), row_key].concat()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
