//! What recovery could not open because a tenant's KMS key was denied or out of reach, or does not open because the tenant's rows of the
//! manifest are in doubt: kept sealed, opened later, lost never.
//!
//! In: sealed sections of the log in order. Out, once the key is back: the same as a replay at start would have given.
//!
//! Invariants
//! - While a tenant is locked, no checkpoint moves past its first sealed section, unless that is set aside.
//! - A tenant is unlocked whole, between two entries of its shard.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use object_store::ObjectStore;
use schloss_core::{ClusterId, PartitionId, ShardId, TenantId, TopicId};
use schloss_crypto::{EncryptionContext, EntryId, KeyError, KeyVault, Purpose, WalKeys, WrappedKey, open_value};
use schloss_metadata::{AsideRow, Metadata, StateRow};
use schloss_wire::batch;

use crate::aside;
use crate::error::OpenError;
use crate::flush::state_binding;
use crate::integrity::Damage;
use crate::keys::{KeyTrouble, TenantKeys};
use crate::partition::{Partition, TailBatch};
use crate::producer::{Cursor, Numbered, Producers};
use crate::shared::{OWN_STATE, STATE_EPOCHS, STATE_PRODUCERS, StateRecord, States};
use crate::wal::entry::{self, Item};

/// A section as it stands in the log.
#[derive(Clone, Debug)]
pub struct SealedSection {
    pub entry: EntryId,
    pub number: u32,
    pub generation: u32,
    pub wrapped: Vec<u8>,
    pub sealed: Bytes,
}

impl SealedSection {
    /// Epoch and sequence number of its entry.
    pub fn name(&self) -> (u64, u64) {
        (self.entry.epoch, self.entry.seq)
    }
}

/// One tenant's share of a shard that could not be opened.
#[derive(Clone, Debug)]
pub struct Locked {
    /// Why.
    pub why: Why,
    /// Its state rows of the manifest were not read either.
    pub states: bool,
    /// What is set aside and was not read; it comes before the sections.
    pub aside: Vec<AsideRow>,
    pub sections: Vec<SealedSection>,
}

/// Why a share stays sealed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Why {
    /// The KMS key cannot be used now.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Its rows of the manifest are not what was written; it is not opened by this process.
    #[error(transparent)]
    Manifest(#[from] InDoubt),
    /// What was set aside is not what was written.
    #[error("entries set aside in `{object}` are not what was written: {}", .damage.word())]
    SetAside { object: String, damage: Damage },
}

/// Rows of a tenant that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rows of the manifest are not what was written, in {}", .tables.join(", "))]
pub struct InDoubt {
    /// Which tables.
    pub tables: Vec<String>,
}

impl Locked {
    /// The first entry behind `last` that must stay in the log.
    pub fn first_behind(&self, last: (u64, u64)) -> Option<(u64, u64)> {
        self.sections_behind(last).next().map(SealedSection::name)
    }

    /// Sections that are not set aside yet.
    pub fn sections_behind(&self, last: (u64, u64)) -> impl Iterator<Item = &SealedSection> {
        self.sections.iter().filter(move |section| section.name() > last)
    }
}

/// The KMS key's verdict, when a tenant's trouble is only that its key cannot be used now.
pub fn key_is_away(trouble: &KeyTrouble) -> Option<KeyError> {
    match trouble {
        KeyTrouble::Key(error) if trouble.key_is_away() => Some(error.clone()),
        _ => None,
    }
}

/// A section's plaintext, with its entry's name.
pub type Opened = ((u64, u64), Bytes);

/// What was locked, opened.
pub struct Unlocked {
    /// State rows of the manifest, in any order.
    pub states: Vec<(Bytes, Bytes)>,
    /// Sections in order, with their entries' names.
    pub sections: Vec<Opened>,
}

/// What opens a locked tenant's share of a shard.
pub struct Opener<'a> {
    pub shard: ShardId,
    pub cluster: ClusterId,
    pub metadata: &'a dyn Metadata,
    pub objects: &'a dyn ObjectStore,
    pub vault: &'a dyn KeyVault,
}

impl Opener<'_> {
    /// Opens everything of a locked tenant. Changes nothing.
    pub async fn open(&self, tenant: TenantId, locked: &Locked, keys: &TenantKeys) -> Result<Unlocked, OpenError> {
        let mut states = Vec::new();
        if locked.states {
            for row in self.metadata.state(self.shard).await?.into_iter().filter(|row| row.tenant == tenant) {
                states.extend(open_state_row(keys, &row)?);
            }
        }
        let mut sections = self.open_aside(tenant, &locked.aside).await?;
        sections.extend(self.open_sections(tenant, &locked.sections).await?);
        Ok(Unlocked { states, sections })
    }

    /// Opens what is set aside, all of it or nothing.
    pub async fn open_aside(&self, tenant: TenantId, rows: &[AsideRow]) -> Result<Vec<Opened>, OpenError> {
        let mut all = Vec::new();
        for row in rows {
            let sections = aside::read(self.objects, row).await?;
            let opened = self.open_sections(tenant, &sections).await.map_err(|error| match error {
                error if error.key_is_away() => error,
                error @ (OpenError::Metadata(_) | OpenError::Io { .. }) => error,
                // The manifest vouches for the object, and it still does not open: both were altered, or one put in another's place.
                _ => aside::damaged(row, Damage::SetAside),
            })?;
            all.extend(opened);
        }
        Ok(all)
    }

    async fn open_sections(&self, tenant: TenantId, sealed: &[SealedSection]) -> Result<Vec<Opened>, OpenError> {
        let mut keys: HashMap<&[u8], WalKeys> = HashMap::new();
        let mut sections = Vec::with_capacity(sealed.len());
        for section in sealed {
            let wrapped = section.wrapped.as_slice();
            if !keys.contains_key(wrapped) {
                let key =
                    epoch_key(self.cluster, tenant, section.entry, section.generation, wrapped, self.vault).await?;
                keys.insert(wrapped, key);
            }
            let EntryId { shard, epoch, seq } = section.entry;
            let damaged = |what| OpenError::Damaged { shard, epoch, seq, what };
            let plain = keys
                .get(wrapped)
                .ok_or_else(|| damaged("a key is missing"))?
                .open_section(section.entry, section.number, tenant.to_bytes(), BytesMut::from(&section.sealed[..]))
                .map_err(|_| damaged("a section does not open: it was altered"))?;
            if entry::items(&plain).is_none() {
                return Err(damaged("an item is malformed"));
            }
            sections.push((section.name(), plain));
        }
        Ok(sections)
    }
}

/// The epoch key of a section.
pub async fn epoch_key(
    cluster: ClusterId,
    tenant: TenantId,
    entry: EntryId,
    generation: u32,
    wrapped: &[u8],
    vault: &dyn KeyVault,
) -> Result<WalKeys, OpenError> {
    let purpose = Purpose::Wal { shard: entry.shard, epoch: entry.epoch, generation };
    let context = EncryptionContext { cluster: cluster.to_bytes(), tenant: tenant.to_bytes(), purpose };
    let wrapped = WrappedKey::from_bytes(wrapped)
        .map_err(|source| OpenError::Sealed { what: "a wrapped key of the log", source })?;
    Ok(WalKeys::new(&*vault.open(&context, &wrapped).await?))
}

/// Key and value of a state row; `None` for one without its form.
pub fn open_state_row(keys: &TenantKeys, row: &StateRow) -> Result<Option<(Bytes, Bytes)>, OpenError> {
    let binding = state_binding(row.tenant, &row.key_index);
    let plain = open_value(&keys.metadata, &binding, &row.sealed)
        .map_err(|source| OpenError::Sealed { what: "a state row of the manifest", source })?;
    let mut cursor = Cursor(&plain);
    let length = cursor.take().map(u32::from_be_bytes).and_then(|length| usize::try_from(length).ok());
    let key = length.and_then(|length| cursor.slice(length)).map(Bytes::copy_from_slice);
    Ok(key.map(|key| (key, Bytes::copy_from_slice(cursor.0))))
}

type Partitions = HashMap<PartitionId, Arc<Partition>>;

/// Epoch lists and producers go to their partitions.
pub fn apply_own(partitions: &Partitions, key: &[u8], value: Option<&[u8]>) {
    let [OWN_STATE, kind, rest @ ..] = key else { return };
    let mut cursor = Cursor(rest);
    let (Some(topic), Some(index)) = (cursor.take(), cursor.take()) else { return };
    let id = PartitionId { topic: TopicId::from_bytes(topic), index: i32::from_be_bytes(index) };
    let (Some(partition), Some(value)) = (partitions.get(&id), value) else { return };
    match *kind {
        STATE_EPOCHS => {
            let mut cursor = Cursor(value);
            let mut epochs = Vec::new();
            while let (Some(epoch), Some(offset)) = (cursor.take(), cursor.take()) {
                epochs.push((i32::from_be_bytes(epoch), i64::from_be_bytes(offset)));
            }
            partition.write().epochs = epochs;
        }
        STATE_PRODUCERS => {
            if let Some(producers) = Producers::from_bytes(value) {
                partition.writer().producers = producers;
            }
        }
        _ => {}
    }
}

/// Applies an opened section; returns the bytes it added to tails, `None` when it is malformed.
pub fn replay_section(partitions: &Partitions, states: &mut States, tenant: TenantId, plain: &Bytes) -> Option<usize> {
    let mut added = 0_usize;
    for item in entry::items(plain)? {
        match item {
            Item::Batch { topic, partition, appended_ms, at } => {
                let id = PartitionId { topic: TopicId::from_bytes(topic), index: partition };
                // A topic deleted since has no partition here.
                let Some(partition) = partitions.get(&id).filter(|partition| partition.tenant == tenant) else {
                    continue;
                };
                added = added.saturating_add(replay_batch(partition, plain.slice(at), appended_ms)?);
            }
            Item::State { key, value } => {
                apply_own(partitions, key, value);
                let record = StateRecord { key: Bytes::copy_from_slice(key), value: value.map(Bytes::copy_from_slice) };
                states.apply(tenant, &record);
            }
        }
    }
    Some(added)
}

/// Puts a batch back where it was; one that a segment holds already is passed over. Returns the bytes added to the tail.
fn replay_batch(partition: &Partition, bytes: Bytes, appended_ms: i64) -> Option<usize> {
    let stored = batch::split(bytes).next()?.ok()?;
    let header = stored.header;
    let mut writer = partition.writer();
    // By its end: a deletion may have moved the log start into the middle of a batch that only the log holds.
    let passed = header.last_offset() < writer.next_offset;
    // One that a segment holds is known of its producer too; one deleted before it was flushed is not, and the producer goes on behind it.
    if header.producer_id >= 0 && !(passed && writer.producers.knows(header.producer_id, header.base_offset)) {
        let numbered = Numbered {
            producer_id: header.producer_id,
            epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            last_offset_delta: header.last_offset_delta,
        };
        writer.producers.append(&numbered, header.base_offset, appended_ms);
        writer.producers_dirty = true;
    }
    if passed {
        return Some(0);
    }
    writer.next_offset = header.last_offset().saturating_add(1);
    drop(writer);
    let head = stored.bytes.slice(..schloss_core::limits::BATCH_HEADER_BYTES.min(stored.bytes.len()));
    let payload = stored.bytes.slice(head.len()..);
    let tail = TailBatch {
        base_offset: header.base_offset,
        last_offset: header.last_offset(),
        max_timestamp: header.max_timestamp,
        appended_ms,
        head,
        payload,
    };
    let mut inner = partition.write();
    inner.high_watermark = tail.last_offset.saturating_add(1);
    if tail.last_offset < inner.log_start {
        return Some(0);
    }
    let size = tail.size();
    inner.tail.push_back(tail);
    Some(size)
}
