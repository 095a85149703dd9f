//! Recovery of one shard: take it, replay what is behind the checkpoint, open a new epoch, confirm.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use schloss_core::{ClusterId, PartitionId, ShardId, TenantId, TopicId};
use schloss_crypto::{EncryptionContext, EntryId, KeyVault, Purpose, WalKeys, WrappedKey, open_value, random_array};
use schloss_metadata::{Metadata, ShardGuard};
use schloss_wire::batch;

use crate::error::OpenError;
use crate::flush::{Flusher, state_binding};
use crate::partition::{Partition, TailBatch};
use crate::producer::{Cursor, Numbered, Producers};
use crate::shard::{OWN_STATE, STATE_EPOCHS, STATE_PRODUCERS, StateRecord, States};
use crate::wal::entry::{self, Entry, Header, Item, Kind};
use crate::wal::{ReplayEnd, WalError, WalStore, crc32c};

/// A shard taken and replayed.
pub struct Recovered {
    pub guard: ShardGuard,
    pub states: States,
    pub last: (u64, [u8; 32]),
    pub tail_bytes: usize,
    pub oldest: HashMap<TenantId, (u64, u64)>,
    /// Epochs whose files are still needed.
    pub epochs_behind: usize,
}

/// What recovery works with.
pub struct Recovery<'a> {
    pub shard: ShardId,
    pub cluster: ClusterId,
    pub metadata: &'a dyn Metadata,
    pub vault: &'a dyn KeyVault,
    pub flusher: &'a Flusher,
    pub partitions: &'a HashMap<PartitionId, Arc<Partition>>,
}

impl Recovery<'_> {
    /// Acquire, replay, open, confirm (CLUSTER.md, section 3; a local log has one writer at a time by the manifest's lock).
    pub async fn run(&self, wal: &mut dyn WalStore) -> Result<Recovered, OpenError> {
        let io = |what| move |source| OpenError::Io { what, source };
        let epochs = wal.epochs().map_err(io("the write-ahead log's folder cannot be read"))?;
        let writer = random_array();
        let row = self.metadata.acquire(self.shard, writer, epochs.last().copied().unwrap_or(0)).await?;
        let guard = ShardGuard { shard: self.shard, epoch: row.epoch, writer };
        let sealed_before: HashMap<u64, u64> = self.metadata.sealed_epochs(self.shard).await?.into_iter().collect();

        // A lost folder must not pass for an empty log: the checkpoint's file is kept, and every later epoch's.
        let known =
            sealed_before.keys().copied().chain([row.checkpoint.0]).filter(|epoch| *epoch >= row.checkpoint.0.max(1));
        if let Some(missing) = known.filter(|epoch| !epochs.contains(epoch)).min() {
            return Err(self.damaged(
                missing,
                1,
                "the epoch's files are missing: put them back, or restore the whole data folder",
            ));
        }
        let mut replayed = Replayed {
            states: self.load_states().await?,
            keys: HashMap::new(),
            last_digest: [0; 32],
            tail_bytes: 0,
            oldest: HashMap::new(),
        };
        let mut sealed = Vec::new();
        for epoch in epochs.into_iter().filter(|epoch| *epoch >= row.checkpoint.0) {
            let after = if epoch == row.checkpoint.0 { row.checkpoint.1 } else { 0 };
            let replay = wal.replay(epoch, after).map_err(io("the write-ahead log cannot be read"))?;
            if let ReplayEnd::Damaged { seq } = replay.end {
                return Err(self.damaged(epoch, seq, "an entry is missing or altered, and later ones exist"));
            }
            let end = self.replay_epoch(epoch, after, replay.entries, &mut replayed).await?;
            if sealed_before.get(&epoch).is_some_and(|sealed| *sealed != end) {
                return Err(self.damaged(
                    epoch,
                    end.saturating_add(1),
                    "the epoch ended further on when it was sealed",
                ));
            }
            sealed.push((epoch, end));
        }
        let opening = Header {
            kind: Kind::Opening,
            shard: self.shard.0,
            epoch: row.epoch,
            seq: 1,
            writer,
            previous: replayed.last_digest,
            body_bytes: 0,
            body_crc: crc32c(&[]),
        };
        wal.create(row.epoch, 1, &opening.to_bytes()).map_err(|error| OpenError::Io {
            what: "the write-ahead log cannot be opened for writing",
            source: match error {
                WalError::Full => std::io::Error::from(std::io::ErrorKind::StorageFull),
                WalError::Failed(source) => source,
            },
        })?;
        let epochs_behind = sealed.len();
        self.metadata.confirm(guard, sealed).await?;
        Ok(Recovered {
            guard,
            states: replayed.states,
            last: (1, opening.digest()),
            tail_bytes: replayed.tail_bytes,
            oldest: replayed.oldest,
            epochs_behind,
        })
    }

    fn damaged(&self, epoch: u64, seq: u64, what: &'static str) -> OpenError {
        OpenError::Damaged { shard: self.shard.0, epoch, seq, what }
    }

    /// State as of the checkpoint.
    async fn load_states(&self) -> Result<States, OpenError> {
        let mut states = States::default();
        for row in self.metadata.state(self.shard).await? {
            let keys = self.flusher.tenant_keys(row.tenant).await?;
            let binding = state_binding(row.tenant, &row.key_index);
            let plain = open_value(&keys.metadata, &binding, &row.sealed)
                .map_err(|source| OpenError::Sealed { what: "a state row of the manifest", source })?;
            let mut cursor = Cursor(&plain);
            let length = cursor.take().map(u32::from_be_bytes).and_then(|length| usize::try_from(length).ok());
            let key = length.and_then(|length| cursor.slice(length)).map(Bytes::copy_from_slice);
            let Some(key) = key else { continue };
            self.apply_own(&key, Some(cursor.0));
            states.live.entry(row.tenant).or_default().insert(key, Bytes::copy_from_slice(cursor.0));
        }
        Ok(states)
    }

    /// Epoch lists and producers go to their partitions.
    fn apply_own(&self, key: &[u8], value: Option<&[u8]>) {
        let [OWN_STATE, kind, rest @ ..] = key else { return };
        let mut cursor = Cursor(rest);
        let (Some(topic), Some(index)) = (cursor.take(), cursor.take()) else { return };
        let id = PartitionId { topic: TopicId::from_bytes(topic), index: i32::from_be_bytes(index) };
        let (Some(partition), Some(value)) = (self.partitions.get(&id), value) else { return };
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

    /// Applies one epoch's entries; returns the sequence number of its last.
    async fn replay_epoch(
        &self,
        epoch: u64,
        after: u64,
        entries: Vec<Entry<Bytes>>,
        replayed: &mut Replayed,
    ) -> Result<u64, OpenError> {
        let mut end = after;
        let mut ended = false;
        for entry in entries {
            let Header { seq, kind, previous, .. } = entry.header;
            if ended || seq != end.saturating_add(1) {
                return Err(self.damaged(epoch, end.saturating_add(1), "an entry is missing"));
            }
            if replayed.last_digest != [0; 32] && previous != replayed.last_digest {
                return Err(self.damaged(epoch, seq, "an entry does not follow the one before it"));
            }
            match kind {
                Kind::Opening => {}
                Kind::Data => self.replay_entry(&entry, replayed).await?,
                Kind::Seal => ended = true,
            }
            replayed.last_digest = entry.header.digest();
            end = seq;
        }
        Ok(end)
    }

    async fn replay_entry(&self, entry: &Entry<Bytes>, replayed: &mut Replayed) -> Result<(), OpenError> {
        let Header { epoch, seq, .. } = entry.header;
        let sections =
            entry::sections(&entry.body).ok_or_else(|| self.damaged(epoch, seq, "its sections are malformed"))?;
        for (number, section) in sections.iter().enumerate() {
            let id = EntryId { shard: self.shard.0, epoch, seq };
            let keys = self.section_keys(section, epoch, replayed).await?;
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            let plain = keys
                .open_section(id, number, section.tenant.to_bytes(), BytesMut::from(section.sealed))
                .map_err(|_| self.damaged(epoch, seq, "a section does not open: it was altered"))?;
            replayed.oldest.entry(section.tenant).or_insert((epoch, seq));
            self.replay_section(section.tenant, &plain, replayed)
                .ok_or_else(|| self.damaged(epoch, seq, "an item is malformed"))?;
        }
        Ok(())
    }

    async fn section_keys<'k>(
        &self,
        section: &entry::Section<'_>,
        epoch: u64,
        replayed: &'k mut Replayed,
    ) -> Result<&'k WalKeys, OpenError> {
        let name = (section.tenant, section.wrapped.to_vec());
        if !replayed.keys.contains_key(&name) {
            let purpose = Purpose::Wal { shard: self.shard.0, epoch, generation: section.generation };
            let context =
                EncryptionContext { cluster: self.cluster.to_bytes(), tenant: section.tenant.to_bytes(), purpose };
            let wrapped = WrappedKey::from_bytes(section.wrapped)
                .map_err(|source| OpenError::Sealed { what: "a wrapped key of the log", source })?;
            let key = self.vault.open(&context, &wrapped).await?;
            replayed.keys.insert(name.clone(), WalKeys::new(&key));
        }
        replayed.keys.get(&name).ok_or_else(|| self.damaged(epoch, 0, "a key is missing"))
    }

    fn replay_section(&self, tenant: TenantId, plain: &Bytes, replayed: &mut Replayed) -> Option<()> {
        for item in entry::items(plain)? {
            match item {
                Item::Batch { topic, partition, appended_ms, at } => {
                    let id = PartitionId { topic: TopicId::from_bytes(topic), index: partition };
                    // A topic deleted since has no partition here.
                    let Some(partition) = self.partitions.get(&id).filter(|partition| partition.tenant == tenant)
                    else {
                        continue;
                    };
                    replayed.tail_bytes =
                        replayed.tail_bytes.saturating_add(replay_batch(partition, plain.slice(at), appended_ms)?);
                }
                Item::State { key, value } => {
                    self.apply_own(key, value);
                    let record =
                        StateRecord { key: Bytes::copy_from_slice(key), value: value.map(Bytes::copy_from_slice) };
                    replayed.states.apply(tenant, &record);
                }
            }
        }
        Some(())
    }
}

struct Replayed {
    states: States,
    keys: HashMap<(TenantId, Vec<u8>), WalKeys>,
    last_digest: [u8; 32],
    tail_bytes: usize,
    oldest: HashMap<TenantId, (u64, u64)>,
}

/// Puts a batch back where it was; one that a segment holds already is passed over. Returns the bytes added to the tail.
fn replay_batch(partition: &Partition, bytes: Bytes, appended_ms: i64) -> Option<usize> {
    let stored = batch::split(bytes).next()?.ok()?;
    let header = stored.header;
    let mut writer = partition.writer();
    // By its end: a deletion may have moved the log start into the middle of a batch that only the log holds.
    if header.last_offset() < writer.next_offset {
        return Some(0);
    }
    if header.producer_id >= 0 {
        let numbered = Numbered {
            producer_id: header.producer_id,
            epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            last_offset_delta: header.last_offset_delta,
        };
        writer.producers.append(&numbered, header.base_offset, appended_ms);
        writer.producers_dirty = true;
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
