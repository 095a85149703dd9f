//! Rebuilds one tenant's part of a shard: manifest rows, then the sections of the log behind the checkpoint.
//!
//! Invariants
//! - A batch below a partition's flushed end is skipped, one above its end is damage: never twice, never a hole.
//! - Nothing of a tenant is served before all of it opened under its own keys.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use schloss_core::{PartitionId, ShardId, TenantId};
use schloss_crypto::{EncryptionContext, EntryId, KeyError, Purpose, SealError, WalKeys, WrappedKey, open_value};
use schloss_metadata::{PartitionRow, SegmentRow, StateRow};

use super::State;
use super::flush::{producers_binding, state_binding};
use crate::engine::Shared;
use crate::keyring::KeyringError;
use crate::log::{Inner, Part, PartitionLog};
use crate::producers::Producers;
use crate::wal::entry::SealedSection;
use crate::wal::item::Item;

/// What is known of a tenant before its keys.
pub(crate) struct TenantReplay {
    pub tenant: TenantId,
    pub shard: ShardId,
    pub partitions: Vec<(PartitionRow, Arc<PartitionLog>)>,
    pub segments: Vec<SegmentRow>,
    pub state: Vec<StateRow>,
    pub sections: Vec<SealedSection>,
}

impl TenantReplay {
    /// The first entry that is still needed.
    pub(super) fn oldest(&self) -> Option<EntryId> {
        self.sections.first().map(|section| section.entry)
    }
}

/// A tenant as it was when the log ended.
pub(crate) struct Recovered {
    pub tenant: TenantId,
    pub partitions: Vec<RecoveredPartition>,
    pub state: State,
    pub dirty_state: HashSet<Bytes>,
    pub oldest: Option<EntryId>,
}

pub(crate) struct RecoveredPartition {
    pub log: Arc<PartitionLog>,
    pub inner: Inner,
    pub producers: Producers,
    pub next_offset: i64,
    pub dirty: bool,
}

/// Why a tenant cannot be served.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// Its keys are not to be had now.
    Key,
    /// Its data does not open under its keys.
    Damaged(SealError),
}

fn damaged(what: &'static str) -> Unusable {
    Unusable::Damaged(SealError::Malformed { what })
}

impl From<KeyError> for Unusable {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Denied { .. } | KeyError::Unreachable { .. } => Self::Key,
            KeyError::Corrupt { .. } | KeyError::ContextMismatch => {
                Self::Damaged(SealError::WrongKey { what: "wrapped key" })
            }
        }
    }
}

impl From<KeyringError> for Unusable {
    fn from(error: KeyringError) -> Self {
        match error {
            KeyringError::Key(error) => error.into(),
            KeyringError::Metadata(_) => Self::Key,
        }
    }
}

pub(crate) async fn recover(shared: &Shared, replay: &TenantReplay) -> Result<Recovered, Unusable> {
    let needs_keyring = !replay.state.is_empty()
        || replay.partitions.iter().any(|(row, _)| !row.facts.producers.is_empty());
    // A tenant without snapshots is served without asking its key.
    let metadata_key = if needs_keyring { Some(shared.keyring.of(replay.tenant).await?) } else { None };
    let mut state = State::new();
    let mut partitions: HashMap<PartitionId, RecoveredPartition> = HashMap::new();
    for (row, log) in &replay.partitions {
        let producers = match &metadata_key {
            Some(keys) if !row.facts.producers.is_empty() => {
                let plain = open_value(&keys.metadata, &producers_binding(&row.facts), &row.facts.producers);
                Producers::from_bytes(&plain.map_err(Unusable::Damaged)?).ok_or_else(|| damaged("producers"))?
            }
            _ => Producers::default(),
        };
        partitions.insert(log.id, from_row(row, log, producers));
    }
    if let Some(keys) = &metadata_key {
        for row in &replay.state {
            let sealed = row.sealed.as_deref().unwrap_or_default();
            let plain = open_value(&keys.metadata, &state_binding(replay.tenant, &row.row_key), sealed)
                .map_err(Unusable::Damaged)?;
            let (key, value) = split_state(&plain).ok_or_else(|| damaged("state"))?;
            state.insert(key, value);
        }
    }
    add_parts(&mut partitions, &replay.segments);
    let mut recovered = Recovered {
        tenant: replay.tenant,
        partitions: Vec::new(),
        state,
        dirty_state: HashSet::new(),
        oldest: replay.oldest(),
    };
    replay_sections(shared, replay, &mut partitions, &mut recovered).await?;
    recovered.partitions = partitions.into_values().collect();
    Ok(recovered)
}

fn from_row(row: &PartitionRow, log: &Arc<PartitionLog>, producers: Producers) -> RecoveredPartition {
    let inner = Inner {
        config: log.read().config,
        log_start: row.facts.log_start,
        high_watermark: row.facts.next_offset,
        parts: Default::default(),
        tail: Default::default(),
        tail_bytes: 0,
        epochs: row.facts.epochs.clone(),
        locked: false,
        removed: false,
    };
    RecoveredPartition { log: Arc::clone(log), inner, producers, next_offset: row.facts.next_offset, dirty: false }
}

fn add_parts(partitions: &mut HashMap<PartitionId, RecoveredPartition>, segments: &[SegmentRow]) {
    for row in segments {
        let segment = Arc::new(SegmentRow { parts: Vec::new(), ..row.clone() });
        for part in &row.parts {
            if let Some(partition) = partitions.get_mut(&part.partition) {
                partition.inner.parts.push_back(Part {
                    first_offset: part.first_offset,
                    next_offset: part.next_offset,
                    max_timestamp: part.max_timestamp,
                    bytes: part.bytes,
                    segment: Arc::clone(&segment),
                });
            }
        }
    }
    for partition in partitions.values_mut() {
        let inner = &mut partition.inner;
        inner.parts.make_contiguous().sort_by_key(|part| part.first_offset);
        let first = inner.parts.front().map_or(inner.high_watermark, |part| part.first_offset);
        inner.log_start = inner.log_start.max(first);
    }
}

async fn replay_sections(
    shared: &Shared,
    replay: &TenantReplay,
    partitions: &mut HashMap<PartitionId, RecoveredPartition>,
    recovered: &mut Recovered,
) -> Result<(), Unusable> {
    let mut keys: HashMap<(u64, u32), WalKeys> = HashMap::new();
    for section in &replay.sections {
        let id = (section.entry.epoch, section.generation);
        if let std::collections::hash_map::Entry::Vacant(vacant) = keys.entry(id) {
            let context = EncryptionContext {
                cluster: shared.cluster.to_bytes(),
                tenant: replay.tenant.to_bytes(),
                purpose: Purpose::Wal { shard: replay.shard.0, epoch: id.0, generation: id.1 },
            };
            let wrapped = WrappedKey::from_bytes(&section.wrapped).map_err(Unusable::Damaged)?;
            vacant.insert(WalKeys::new(&*shared.vault.open(&context, &wrapped).await?));
        }
        let Some(key) = keys.get(&id) else { continue };
        let sealed = BytesMut::from(&section.sealed[..]);
        let plain = key
            .open_section(section.entry, section.number, replay.tenant.to_bytes(), sealed)
            .map_err(Unusable::Damaged)?;
        for item in Item::read_all(plain).ok_or_else(|| damaged("log section"))? {
            apply(shared, item, partitions, recovered)?;
        }
    }
    Ok(())
}

fn apply(
    shared: &Shared,
    item: Item,
    partitions: &mut HashMap<PartitionId, RecoveredPartition>,
    recovered: &mut Recovered,
) -> Result<(), Unusable> {
    match item {
        Item::Batches { partition, batches } => {
            // A topic deleted since: its records are gone with it.
            let Some(partition) = partitions.get_mut(&partition) else { return Ok(()) };
            let now_ms = shared.clock.now_ms();
            for batch in batches {
                if batch.last_offset() < partition.next_offset {
                    continue;
                }
                if batch.base_offset() != partition.next_offset {
                    return Err(damaged("order of offsets"));
                }
                partition.producers.note(&batch, now_ms, shared.config.producers_per_partition_max);
                partition.next_offset = batch.last_offset() + 1;
                partition.inner.push(batch);
            }
        }
        Item::State { key, value } => {
            recovered.dirty_state.insert(key.clone());
            match value {
                Some(value) => recovered.state.insert(key, value),
                None => recovered.state.remove(&key),
            };
        }
        Item::LogStart { partition, offset } => {
            if let Some(partition) = partitions.get_mut(&partition) {
                partition.inner.log_start = partition.inner.log_start.max(offset);
                partition.dirty = true;
            }
        }
    }
    Ok(())
}

fn split_state(plain: &[u8]) -> Option<(Bytes, Bytes)> {
    let (length, rest) = plain.split_first_chunk::<4>()?;
    let (key, value) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Some((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)))
}
