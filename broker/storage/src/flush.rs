//! Flush: tails become segments, and segments, changed state and the checkpoint become one transaction.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use schloss_core::{ClusterId, TenantId};
use schloss_crypto::{EncryptionContext, KeyVault, Purpose, random_array, seal_value};
use schloss_metadata::{FlushCommit, Metadata, PartRow, SegmentRow, StateRow};

use crate::keys::TenantKeys;
use crate::partition::{Part, Partition, TailBatch};
use crate::segment::{self, Build, Built, Segment, object_path};
use crate::shard::{STATE_PRODUCERS, ShardShared, own_key};

/// Kind byte of state keys in the name index.
const INDEX_STATE: u8 = 2;
/// A larger segment's memory goes back.
const SPARE_BYTES_MAX: usize = 96 * 1024 * 1024;

/// What a flush takes up, as of one entry.
pub struct FlushPlan {
    shared: Arc<ShardShared>,
    checkpoint: (u64, u64),
    now_ms: i64,
    tails: HashMap<TenantId, Vec<(Arc<Partition>, i64, Vec<TailBatch>)>>,
    state: Vec<(TenantId, Bytes, Option<Bytes>)>,
    producers: Vec<Arc<Partition>>,
}

/// A flush that is committed.
pub struct FlushDone {
    pub checkpoint: (u64, u64),
}

impl FlushPlan {
    /// Called between entries by the shard's thread, so that everything agrees with the checkpoint.
    pub fn gather(shared: &Arc<ShardShared>, checkpoint: (u64, u64), now_ms: i64) -> Self {
        let mut plan = Self { shared: Arc::clone(shared), checkpoint, now_ms, tails: HashMap::new(), state: Vec::new(), producers: Vec::new() };
        let partitions: Vec<Arc<Partition>> = shared.partitions.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for partition in partitions {
            let inner = partition.read();
            let batches: Vec<TailBatch> = inner.tail.iter().cloned().collect();
            let part_bytes_max = inner.config.segment_bytes;
            drop(inner);
            let mut writer = partition.writer();
            if std::mem::take(&mut writer.producers_dirty) {
                plan.state.push((partition.tenant, own_key(STATE_PRODUCERS, &partition), Some(writer.producers.to_bytes().into())));
                plan.producers.push(Arc::clone(&partition));
            }
            drop(writer);
            if !batches.is_empty() {
                plan.tails.entry(partition.tenant).or_default().push((partition, part_bytes_max, batches));
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

    /// What was taken up is due again.
    fn give_back(&self) {
        let mut states = self.shared.states();
        for (tenant, key, _) in &self.state {
            states.dirty.insert((*tenant, key.clone()));
        }
        drop(states);
        for partition in &self.producers {
            partition.writer().producers_dirty = true;
        }
    }
}

/// Does flushes.
pub struct Flusher {
    pub objects: Arc<dyn ObjectStore>,
    pub vault: Arc<dyn KeyVault>,
    pub metadata: Arc<dyn Metadata>,
    pub cluster: ClusterId,
    pub keys: Mutex<HashMap<TenantId, TenantKeys>>,
    /// Memory of the last segment, for the next: mapping and clearing it anew costs more than sealing. Holds nothing but
    /// sealed bytes.
    pub spare: Mutex<Vec<u8>>,
}

impl Flusher {
    /// Carries out a plan; on failure everything in it is due again and nothing is shown.
    pub async fn flush(&self, plan: FlushPlan) -> Result<FlushDone, String> {
        match self.commit(&plan).await {
            Ok(()) => Ok(FlushDone { checkpoint: plan.checkpoint }),
            Err(reason) => {
                plan.give_back();
                Err(reason)
            }
        }
    }

    async fn commit(&self, plan: &FlushPlan) -> Result<(), String> {
        let mut commit = FlushCommit { checkpoint: plan.checkpoint, ..FlushCommit::default() };
        for (tenant, tails) in &plan.tails {
            let built = self.put_segment(plan, *tenant, tails).await?;
            commit.segments.push(built.0);
            commit.parts.extend(built.1);
        }
        commit.state = self.seal_state(&plan.state).await?;
        let (segments, parts) = (commit.segments.clone(), commit.parts.clone());
        self.metadata.flush(plan.shared.guard, commit).await.map_err(|error| error.to_string())?;
        show(plan, &segments, &parts);
        Ok(())
    }

    async fn put_segment(&self, plan: &FlushPlan, tenant: TenantId, tails: &[(Arc<Partition>, i64, Vec<TailBatch>)]) -> Result<(SegmentRow, Vec<PartRow>), String> {
        let segment_id: [u8; 16] = random_array();
        let context = EncryptionContext { cluster: self.cluster.to_bytes(), tenant: tenant.to_bytes(), purpose: Purpose::Segment { segment: segment_id } };
        let (key, wrapped) = self.vault.generate(&context).await.map_err(|error| error.to_string())?;
        let build = Build {
            tenant,
            cluster: self.cluster,
            writer_epoch: plan.shared.epoch,
            now_ms: plan.now_ms,
            partitions: tails.iter().map(|(partition, part_bytes_max, batches)| (partition.id, *part_bytes_max, batches.clone())).collect(),
        };
        let spare = std::mem::take(&mut *self.spare.lock().unwrap_or_else(PoisonError::into_inner));
        let built = tokio::task::spawn_blocking(move || segment::build(&build, spare, segment_id, &key, &wrapped));
        let Built { sealed, row, parts } = built.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let path = object_path(tenant, &row.object_id);
        let bytes = Bytes::from(sealed.bytes);
        self.objects.put(&path, PutPayload::from(bytes.clone())).await.map_err(|error| error.to_string())?;
        self.keep(bytes);
        Ok((row, parts))
    }

    /// Keeps a written segment's memory, unless the store still holds it or it is larger than it is worth.
    fn keep(&self, written: Bytes) {
        let Ok(mut written) = written.try_into_mut() else { return };
        if written.capacity() <= SPARE_BYTES_MAX {
            written.clear();
            *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = written.into();
        }
    }

    /// Keys of a tenant's rows, opened once.
    pub async fn tenant_keys(&self, tenant: TenantId) -> Result<TenantKeys, crate::keys::KeyTrouble> {
        if let Some(keys) = self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(&tenant) {
            return Ok(keys.clone());
        }
        let keys = TenantKeys::open(&*self.metadata, &*self.vault, self.cluster, tenant).await?;
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant, keys.clone());
        Ok(keys)
    }

    async fn seal_state(&self, state: &[(TenantId, Bytes, Option<Bytes>)]) -> Result<Vec<StateRow>, String> {
        let mut rows = Vec::with_capacity(state.len());
        for (tenant, key, value) in state {
            let keys = self.tenant_keys(*tenant).await.map_err(|error| error.to_string())?;
            rows.push(seal_row(&keys, *tenant, key, value.as_deref()));
        }
        Ok(rows)
    }
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
    let segments: HashMap<[u8; 32], Arc<Segment>> = segments.iter().map(|row| (row.object_id, Arc::new(Segment::new(row.clone())))).collect();
    for (partition, _, batches) in plan.tails.values().flatten() {
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
