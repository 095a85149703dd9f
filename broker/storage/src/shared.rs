//! What a shard's thread and everyone else share: state of tenants, partitions, and what of the log is still needed.
//!
//! Must not: hold a lock across `.await`, or bytes of a tenant longer than they are durable state or tail.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use schloss_core::{PartitionId, ShardId, TenantId};
use schloss_metadata::{AsideRow, ShardGuard};

use crate::aside::{Aside, Name};
use crate::locked::Locked;
use crate::partition::{Partition, TailBatch};

/// First byte of state keys that belong to the engine; others belong to the rooms above.
pub const OWN_STATE: u8 = 0;
/// Own state: a partition's leader epochs.
pub const STATE_EPOCHS: u8 = 1;
/// Own state: a partition's producers, written at flush.
pub const STATE_PRODUCERS: u8 = 2;

/// A durable value of a tenant, under the tenant's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRecord {
    /// Key; its first byte tells the room and is never 0.
    pub key: Bytes,
    /// Value; none removes it.
    pub value: Option<Bytes>,
}

/// State of all tenants of a shard: what is durable, and what changed since the last flush.
#[derive(Default)]
pub struct States {
    pub live: HashMap<TenantId, HashMap<Bytes, Bytes>>,
    pub dirty: HashSet<(TenantId, Bytes)>,
}

impl States {
    /// Applies a durable record.
    pub fn apply(&mut self, tenant: TenantId, record: &StateRecord) {
        let live = self.live.entry(tenant).or_default();
        match &record.value {
            Some(value) => drop(live.insert(record.key.clone(), value.clone())),
            None => drop(live.remove(&record.key)),
        }
        self.dirty.insert((tenant, record.key.clone()));
    }
}

/// What the thread and everyone else share.
pub struct ShardShared {
    pub id: ShardId,
    pub epoch: u64,
    pub guard: ShardGuard,
    pub states: Mutex<States>,
    pub partitions: Mutex<HashMap<PartitionId, Arc<Partition>>>,
    pub stopped: AtomicBool,
    /// The engine is gone.
    pub abandoned: AtomicBool,
    /// Bytes of durable batches not yet in segments.
    pub tail_bytes: AtomicUsize,
    /// Per tenant the first entry that holds something not flushed: (epoch, sequence number).
    pub oldest: Mutex<HashMap<TenantId, (u64, u64)>>,
    /// Tenants whose share could not be opened at start.
    pub locked: Mutex<HashMap<TenantId, Arc<Locked>>>,
    /// What is set aside, by tenant. Held while `oldest` is brought in line with it.
    pub aside: Mutex<HashMap<TenantId, Aside>>,
    /// The last flush could not move the checkpoint to its end: a tenant's share could neither be flushed nor set aside.
    pub log_held: AtomicBool,
}

impl ShardShared {
    /// The leader epoch of this shard's partitions.
    pub fn leader_epoch(&self) -> i32 {
        i32::try_from(self.epoch).unwrap_or(i32::MAX)
    }

    /// Bytes of durable batches not yet in segments.
    pub fn tail_bytes(&self) -> usize {
        self.tail_bytes.load(Ordering::Acquire)
    }

    /// Batches left the tail.
    pub fn left_tail(&self, bytes: usize) {
        self.tail_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Bytes of tail of some tenants.
    pub fn tail_bytes_of(&self, of: impl Fn(TenantId) -> bool) -> usize {
        let partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = partitions.values().filter(|partition| of(partition.tenant));
        wanted.map(|partition| partition.read().tail.iter().map(TailBatch::size).sum::<usize>()).sum()
    }

    pub fn oldest(&self) -> MutexGuard<'_, HashMap<TenantId, (u64, u64)>> {
        self.oldest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn locked(&self) -> MutexGuard<'_, HashMap<TenantId, Arc<Locked>>> {
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn aside(&self) -> MutexGuard<'_, HashMap<TenantId, Aside>> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes set aside for a tenant.
    pub fn aside_bytes(&self, tenant: TenantId) -> u64 {
        self.aside().get(&tenant).map_or(0, |aside| aside.bytes)
    }

    /// Everything of these tenants up to `checkpoint` needs the log no more; for those still locked the objects are where it is.
    pub fn was_set_aside(&self, tenants: &HashSet<TenantId>, rows: &[AsideRow], checkpoint: Name) {
        let mut aside = self.aside();
        for row in rows {
            aside.entry(row.tenant).or_default().add(row);
        }
        let mut oldest = self.oldest();
        for tenant in tenants {
            if let Some(name) = oldest.get_mut(tenant) {
                *name = (*name).max((checkpoint.0, checkpoint.1.saturating_add(1)));
            }
        }
        drop(oldest);
        let mut all = self.locked();
        for row in rows {
            if let Some(locked) = all.get_mut(&row.tenant) {
                let mut moved = Locked { sections: Vec::new(), ..Locked::clone(locked) };
                moved.aside.push(row.clone());
                *locked = Arc::new(moved);
            }
        }
    }

    pub fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
