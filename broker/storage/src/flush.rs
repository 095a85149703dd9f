//! Flush: tails become segments, and segments, changed state and the checkpoint become one transaction. What a tenant's key keeps from
//! being sealed is set aside as the log has it, so that the log need not hold it ([`crate::aside`]).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use schloss_core::{ClusterId, TenantId};
use schloss_crypto::{EncryptionContext, IntegrityKey, KeyVault, Purpose, random_array, seal_value};
use schloss_metadata::{AsideRow, FlushCommit, Metadata, MetadataError, PartRow, SegmentRow, StateRow};

use crate::anchor;
use crate::append::own_key;
use crate::aside::{self, Aside, Draft, Name};
use crate::keys::{RowKeys, TenantKeys};
use crate::locked::Locked;
use crate::partition::{Part, Partition, TailBatch};
use crate::segment::{self, Build, BuildPart, Built, Segment, object_path};
use crate::shared::{OWN_STATE, STATE_PRODUCERS, ShardShared};
use crate::topic_keys::{TopicKeyError, TopicKeys};
use crate::wal::WalReader;

/// Kind byte of state keys in the name index.
const INDEX_STATE: u8 = 2;
/// A larger segment's memory goes back.
const SPARE_BYTES_MAX: usize = 96 * 1024 * 1024;

/// What a flush takes up, as of one entry.
pub struct FlushPlan {
    shared: Arc<ShardShared>,
    checkpoint: (u64, u64),
    now_ms: i64,
    tails: HashMap<TenantId, Vec<Tail>>,
    state: Vec<(TenantId, Bytes, Option<Bytes>)>,
    producers: Vec<Arc<Partition>>,
    /// First entry of each tenant that is not flushed.
    oldest: HashMap<TenantId, (u64, u64)>,
    /// What is still sealed since the start.
    locked: HashMap<TenantId, Arc<Locked>>,
    /// What was set aside before.
    aside: HashMap<TenantId, Aside>,
    log: Arc<dyn WalReader>,
}

/// A flush that is committed.
pub struct FlushDone {
    pub checkpoint: (u64, u64),
    /// Tenants whose share could not be sealed, and why. Their tails and log entries stay.
    pub left: HashMap<TenantId, String>,
}

impl FlushPlan {
    /// Called between entries by the shard's thread, so that everything agrees with the checkpoint.
    pub fn gather(shared: &Arc<ShardShared>, checkpoint: Name, now_ms: i64, log: Arc<dyn WalReader>) -> Self {
        // One lock at a time.
        let oldest = std::mem::take(&mut *shared.oldest());
        let locked = shared.locked().clone();
        let aside = shared.aside().clone();
        let mut plan = Self {
            shared: Arc::clone(shared),
            checkpoint,
            now_ms,
            tails: HashMap::new(),
            state: Vec::new(),
            producers: Vec::new(),
            oldest,
            locked,
            aside,
            log,
        };
        let partitions: Vec<Arc<Partition>> =
            shared.partitions.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for partition in partitions {
            let inner = partition.read();
            let batches: Vec<TailBatch> = inner.tail.iter().cloned().collect();
            let part_bytes_max = inner.config.segment_bytes;
            let key_ref = inner.key_ref.clone();
            drop(inner);
            let mut writer = partition.writer();
            if std::mem::take(&mut writer.producers_dirty) {
                plan.state.push((
                    partition.tenant,
                    own_key(STATE_PRODUCERS, &partition),
                    Some(writer.producers.to_bytes().into()),
                ));
                plan.producers.push(Arc::clone(&partition));
            }
            drop(writer);
            if !batches.is_empty() {
                plan.tails.entry(partition.tenant).or_default().push(Tail {
                    partition,
                    part_bytes_max,
                    key_ref,
                    batches,
                });
            }
        }
        let mut states = shared.states();
        let dirty = std::mem::take(&mut states.dirty);
        for (tenant, key) in dirty {
            let value = states.live.get(&tenant).and_then(|live| live.get(&key)).cloned();
            plan.state.push((tenant, key, value));
        }
        drop(states);
        plan
    }

    /// Tenants of which everything set aside is in memory, and so in this plan.
    fn caught_up(&self) -> impl Iterator<Item = TenantId> {
        self.aside.keys().copied().filter(|tenant| self.locked.get(tenant).is_none_or(|locked| locked.aside.is_empty()))
    }

    /// The first entry of a locked tenant that only the log and memory have.
    fn locked_from(&self, tenant: TenantId, locked: &Locked) -> Option<Name> {
        locked.first_behind(self.set_aside(tenant))
    }

    fn set_aside(&self, tenant: TenantId) -> Name {
        self.aside.get(&tenant).map_or((0, 0), |aside| aside.last)
    }

    /// What was taken up of some tenants is due again; entries of those `set_aside` need the log no more.
    fn give_back(&self, of: impl Fn(TenantId) -> bool, set_aside: &HashSet<TenantId>) {
        let mut states = self.shared.states();
        for (tenant, key, _) in
            self.state.iter().filter(|(tenant, key, _)| of(*tenant) && !key.starts_with(&[OWN_STATE, STATE_PRODUCERS]))
        {
            states.dirty.insert((*tenant, key.clone()));
        }
        drop(states);
        for partition in self.producers.iter().filter(|partition| of(partition.tenant)) {
            partition.writer().producers_dirty = true;
        }
        let mut oldest = self.shared.oldest();
        for (tenant, name) in self.oldest.iter().filter(|(tenant, _)| of(**tenant) && !set_aside.contains(*tenant)) {
            oldest.insert(*tenant, *name);
        }
    }
}

/// A tail at least this long gets an object of its own, so that deleting its topic frees the disk at once.
const OWN_OBJECT_BYTES: usize = 4 << 20;

/// One partition's share of a flush.
#[derive(Clone)]
struct Tail {
    partition: Arc<Partition>,
    part_bytes_max: i64,
    /// The KMS key the topic names.
    key_ref: Option<Arc<str>>,
    batches: Vec<TailBatch>,
}

/// What goes into one object each: long tails alone, all short ones of one KMS key together, so that ten thousand partitions
/// rolling are not ten thousand data keys.
fn objects_of(tails: &[Tail]) -> Vec<Vec<Tail>> {
    let long = |tail: &&Tail| tail.batches.iter().map(TailBatch::size).sum::<usize>() >= OWN_OBJECT_BYTES;
    let (alone, short): (Vec<&Tail>, Vec<&Tail>) = tails.iter().partition(long);
    let mut objects: Vec<Vec<Tail>> = alone.into_iter().map(|tail| vec![tail.clone()]).collect();
    let mut by_key: HashMap<Option<Arc<str>>, Vec<Tail>> = HashMap::new();
    for tail in short {
        by_key.entry(tail.key_ref.clone()).or_default().push(tail.clone());
    }
    objects.extend(by_key.into_values());
    objects
}

/// Does flushes.
pub struct Flusher {
    pub objects: Arc<dyn ObjectStore>,
    pub vault: Arc<dyn KeyVault>,
    pub metadata: Arc<dyn Metadata>,
    pub cluster: ClusterId,
    pub rows: Arc<RowKeys>,
    pub topic_keys: Arc<TopicKeys>,
    pub integrity: Arc<IntegrityKey>,
    /// Memory of the last segment, for the next: mapping and clearing it anew costs more than sealing. Holds nothing but
    /// sealed bytes.
    pub spare: Mutex<Vec<u8>>,
}

impl Flusher {
    /// Carries out a plan; on failure everything in it is due again and nothing is shown. What one tenant's key keeps
    /// from being sealed is due again alone.
    pub async fn flush(&self, plan: FlushPlan) -> Result<FlushDone, String> {
        let done = self.commit(&plan).await;
        if done.is_err() {
            plan.give_back(|_| true, &HashSet::new());
        }
        done
    }

    async fn commit(&self, plan: &FlushPlan) -> Result<FlushDone, String> {
        let mut commit = FlushCommit { checkpoint: plan.checkpoint, ..FlushCommit::default() };
        let mut left: HashMap<TenantId, String> = HashMap::new();
        let caught_up: HashSet<TenantId> = plan.caught_up().collect();
        let mut given_up = if caught_up.is_empty() { Vec::new() } else { self.rows_of(plan, &caught_up).await? };
        let changed = plan.tails.keys().copied().chain(plan.state.iter().map(|(tenant, _, _)| *tenant));
        let tenants: HashSet<TenantId> = changed.chain(caught_up.iter().copied()).collect();
        for tenant in tenants {
            // A tenant whose key is refused keeps its tail; the others' are not held up by it.
            match self.share(plan, tenant).await {
                Ok(share) => {
                    commit.segments.extend(share.segments);
                    commit.parts.extend(share.parts);
                    commit.state.extend(share.state);
                }
                Err(reason) => drop(left.insert(tenant, reason)),
            }
        }
        given_up.retain(|row| !left.contains_key(&row.tenant));
        commit.caught_up = caught_up.into_iter().filter(|tenant| !left.contains_key(tenant)).collect();
        let mut set_aside: HashSet<TenantId> = left.keys().chain(plan.locked.keys()).copied().collect();
        match self.set_aside(plan, &left).await {
            Ok(rows) => commit.aside = rows,
            Err(reason) => {
                // Replay must still find what stays behind.
                tracing::error!(
                    shard = plan.shared.id.0,
                    reason,
                    "what cannot be flushed could not be set aside: the log holds it"
                );
                set_aside.clear();
                let sealed = plan.locked.iter().filter_map(|(tenant, locked)| plan.locked_from(*tenant, locked));
                for name in left.keys().filter_map(|tenant| plan.oldest.get(tenant).copied()).chain(sealed) {
                    commit.checkpoint = commit.checkpoint.min((name.0, name.1.saturating_sub(1)));
                }
            }
        }
        let checkpoint = commit.checkpoint;
        plan.shared.log_held.store(checkpoint < plan.checkpoint, Ordering::Release);
        let (segments, parts) = (commit.segments.clone(), commit.parts.clone());
        let (aside, caught_up) = (commit.aside.clone(), commit.caught_up.clone());
        // An engine that was dropped without a close leaves everything as a crash would.
        if plan.shared.abandoned.load(Ordering::Acquire) {
            return Err("the engine is gone".to_owned());
        }
        if let Err(error) = self.metadata.flush(plan.shared.guard, commit).await {
            // Where it surely rolled back, what a start would sweep must not fill the disk until then. Any other outcome is
            // unknown: the objects may be in the manifest, and stay for the sweep to judge.
            if matches!(error, MetadataError::Full | MetadataError::Fenced) {
                self.erase(&segments).await;
                self.erase_aside(&aside).await;
            }
            return Err(error.to_string());
        }
        anchor::note(&*self.objects, plan.shared.id, checkpoint).await;
        plan.shared.aside().retain(|tenant, _| !caught_up.contains(tenant));
        plan.give_back(|tenant| left.contains_key(&tenant), &set_aside);
        plan.shared.was_set_aside(&set_aside, &aside, checkpoint);
        show(plan, &segments, &parts);
        self.erase_aside(&given_up).await;
        Ok(FlushDone { checkpoint, left })
    }

    async fn rows_of(&self, plan: &FlushPlan, tenants: &HashSet<TenantId>) -> Result<Vec<AsideRow>, String> {
        let mut rows = self.metadata.aside().await.map_err(|error| error.to_string())?;
        rows.retain(|row| row.shard == plan.shared.id && tenants.contains(&row.tenant));
        Ok(rows)
    }

    /// Puts what the log has of tenants that were left behind, and what is sealed since the start, into objects of their own.
    async fn set_aside(&self, plan: &FlushPlan, left: &HashMap<TenantId, String>) -> Result<Vec<AsideRow>, String> {
        let of_log: HashMap<TenantId, Name> = left
            .keys()
            .filter_map(|tenant| {
                plan.oldest.get(tenant).map(|name| (*tenant, (*name).max(behind(plan.set_aside(*tenant)))))
            })
            .collect();
        let mut drafts = HashMap::new();
        if !of_log.is_empty() {
            let (log, integrity) = (Arc::clone(&plan.log), Arc::clone(&self.integrity));
            let (shard, until, wanted) = (plan.shared.id, plan.checkpoint, of_log.clone());
            let read = tokio::task::spawn_blocking(move || aside::gather(&*log, shard, &wanted, until, &integrity));
            drafts = read.await.map_err(|error| error.to_string())??;
        }
        // What the log gave of a tenant includes what is locked of it.
        for (tenant, locked) in plan.locked.iter().filter(|(tenant, _)| !of_log.contains_key(*tenant)) {
            let draft = drafts.entry(*tenant).or_insert_with(|| Draft::new(plan.shared.id, *tenant));
            for section in locked.sections_behind(plan.set_aside(*tenant)) {
                draft.push(section.entry, section.number, section.generation, &section.wrapped, &section.sealed);
            }
        }
        let mut rows = Vec::new();
        for draft in drafts.into_values() {
            match draft.put(&*self.objects, plan.checkpoint).await {
                Ok(row) => rows.extend(row),
                Err(error) => {
                    self.erase_aside(&rows).await;
                    return Err(error.to_string());
                }
            }
        }
        Ok(rows)
    }

    async fn erase_aside(&self, rows: &[AsideRow]) {
        for row in rows {
            if let Err(error) = self.objects.delete(&aside::path(row)).await {
                tracing::warn!(%error, "entries set aside that nobody needs stay until the next start");
            }
        }
    }

    /// One tenant's part of a commit.
    async fn share(&self, plan: &FlushPlan, tenant: TenantId) -> Result<FlushCommit, String> {
        let state: Vec<_> = plan.state.iter().filter(|(owner, _, _)| *owner == tenant).cloned().collect();
        let mut share = FlushCommit { state: self.seal_state(&state).await?, ..FlushCommit::default() };
        for tails in objects_of(plan.tails.get(&tenant).map(Vec::as_slice).unwrap_or_default()) {
            match self.put_segment(plan, tenant, &tails).await {
                Ok(Some((segment, parts))) => {
                    share.segments.push(segment);
                    share.parts.extend(parts);
                }
                Ok(None) => {}
                Err(reason) => {
                    self.erase(&share.segments).await;
                    return Err(reason);
                }
            }
        }
        Ok(share)
    }

    async fn erase(&self, segments: &[SegmentRow]) {
        for row in segments {
            if let Err(error) = self.objects.delete(&object_path(row.tenant, &row.object_id)).await {
                tracing::warn!(%error, "a segment of a failed flush stays until the next start");
            }
        }
    }

    async fn put_segment(
        &self,
        plan: &FlushPlan,
        tenant: TenantId,
        tails: &[Tail],
    ) -> Result<Option<(SegmentRow, Vec<PartRow>)>, String> {
        let segment_id: [u8; 16] = random_array();
        let context = EncryptionContext {
            cluster: self.cluster.to_bytes(),
            tenant: tenant.to_bytes(),
            purpose: Purpose::Segment { segment: segment_id },
        };
        let (key, wrapped) = self
            .vault
            .generate_under(&context, tails.first().and_then(|tail| tail.key_ref.as_deref()))
            .await
            .map_err(|error| error.to_string())?;
        let mut partitions = Vec::with_capacity(tails.len());
        for tail in tails {
            let topic_key = match self.topic_keys.find(tenant, tail.partition.id.topic).await {
                Ok(topic_key) => topic_key,
                // Deleted since the flush was begun.
                Err(TopicKeyError::Destroyed) => continue,
                Err(error) => return Err(error.to_string()),
            };
            partitions.push(BuildPart {
                partition: tail.partition.id,
                part_bytes_max: tail.part_bytes_max,
                topic_key,
                batches: tail.batches.clone(),
            });
        }
        if partitions.is_empty() {
            return Ok(None);
        }
        let build =
            Build { tenant, cluster: self.cluster, writer_epoch: plan.shared.epoch, now_ms: plan.now_ms, partitions };
        let spare = std::mem::take(&mut *self.spare.lock().unwrap_or_else(PoisonError::into_inner));
        let built = tokio::task::spawn_blocking(move || segment::build(&build, spare, segment_id, &key, &wrapped));
        let Built { sealed, row, parts } =
            built.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let path = object_path(tenant, &row.object_id);
        let bytes = Bytes::from(sealed.bytes);
        self.objects.put(&path, PutPayload::from(bytes.clone())).await.map_err(|error| error.to_string())?;
        self.keep(bytes);
        Ok(Some((row, parts)))
    }

    /// Keeps a written segment's memory, unless the store still holds it or it is larger than it is worth.
    fn keep(&self, written: Bytes) {
        let Ok(mut written) = written.try_into_mut() else { return };
        if written.capacity() <= SPARE_BYTES_MAX {
            written.clear();
            *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = written.into();
        }
    }

    async fn seal_state(&self, state: &[(TenantId, Bytes, Option<Bytes>)]) -> Result<Vec<StateRow>, String> {
        let mut rows = Vec::with_capacity(state.len());
        for (tenant, key, value) in state {
            let keys = self.rows.get(*tenant).await.map_err(|error| error.to_string())?;
            rows.push(seal_row(&keys, *tenant, key, value.as_deref()));
        }
        Ok(rows)
    }
}

/// The entry after this one.
fn behind((epoch, seq): Name) -> Name {
    (epoch, seq.saturating_add(1))
}

fn seal_row(keys: &TenantKeys, tenant: TenantId, key: &[u8], value: Option<&[u8]>) -> StateRow {
    let key_index = keys.index.bytes_index(INDEX_STATE, key);
    let sealed = value.map_or_else(Vec::new, |value| {
        let mut plain = Vec::with_capacity(key.len().saturating_add(value.len()).saturating_add(4));
        plain.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes());
        plain.extend_from_slice(key);
        plain.extend_from_slice(value);
        seal_value(&keys.metadata, &state_binding(tenant, &key_index), &plain)
    });
    StateRow { tenant, key_index, sealed }
}

/// What a state row is bound to: under another index or tenant it does not open.
pub fn state_binding(tenant: TenantId, key_index: &[u8; 32]) -> Vec<u8> {
    [b"state".as_slice(), &tenant.to_bytes(), key_index].concat()
}

/// The committed segments take the place of the tails they were made from.
fn show(plan: &FlushPlan, segments: &[SegmentRow], parts: &[PartRow]) {
    let segments: HashMap<[u8; 32], Arc<Segment>> =
        segments.iter().map(|row| (row.object_id, Arc::new(Segment::new(row.clone())))).collect();
    let flushed: HashSet<TenantId> = segments.values().map(|segment| segment.row.tenant).collect();
    for Tail { partition, batches, .. } in
        plan.tails.values().flatten().filter(|tail| flushed.contains(&tail.partition.tenant))
    {
        let mut inner = partition.write();
        let log_start = inner.log_start;
        for part in parts.iter().filter(|part| part.partition == partition.id && part.next_offset > log_start) {
            if let Some(segment) = segments.get(&part.object_id) {
                inner.parts.push_back(Part { row: *part, segment: Arc::clone(segment) });
            }
        }
        let behind = batches.last().map_or(0, |last| last.last_offset.saturating_add(1));
        let bytes = inner.drop_tail_below(behind);
        drop(inner);
        plan.shared.left_tail(bytes);
    }
}
