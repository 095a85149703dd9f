//! Recovery of one shard: take it, replay what is behind the checkpoint, open a new epoch, confirm.
//!
//! A tenant whose KMS key is denied or out of reach is locked: its rows and sections stay sealed, the others are served; so is one whose
//! rows of the manifest are in doubt. What fails to open for another reason keeps the shard from starting.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use schloss_core::{ClusterId, PartitionId, ShardId, TenantId};
use schloss_crypto::{EntryId, IntegrityKey, KeyError, KeyVault, WalKeys, random_array};
use schloss_metadata::{AsideRow, Metadata, ShardGuard};

use crate::aside::Aside;
use crate::early_keys::EarlyKeys;
use crate::error::OpenError;
use crate::flush::Flusher;
use crate::locked::{self, InDoubt, Locked, Opener, SealedSection, Why};
use crate::partition::Partition;
use crate::shared::States;
use crate::wal::entry::{self, Entry, Header, Kind};
use crate::wal::{ReplayEnd, WalError, WalStore, crc32c};

const UNPROVED: &str = "the entry is not what this installation wrote: it was altered, taken from elsewhere or emptied";

/// A shard taken and replayed.
pub struct Recovered {
    pub guard: ShardGuard,
    pub states: States,
    pub last: (u64, [u8; 32]),
    pub tail_bytes: usize,
    pub oldest: HashMap<TenantId, (u64, u64)>,
    pub locked: HashMap<TenantId, Arc<Locked>>,
    pub aside: HashMap<TenantId, Aside>,
    /// Epochs whose files are still needed.
    pub epochs_behind: usize,
}

/// What recovery works with.
pub struct Recovery<'a> {
    pub shard: ShardId,
    pub cluster: ClusterId,
    pub metadata: &'a dyn Metadata,
    pub vault: &'a Arc<dyn KeyVault>,
    pub integrity: &'a IntegrityKey,
    pub early: &'a EarlyKeys,
    pub flusher: &'a Flusher,
    pub partitions: &'a HashMap<PartitionId, Arc<Partition>>,
    /// Tenants whose rows of the manifest are not what was written.
    pub in_doubt: &'a BTreeMap<TenantId, InDoubt>,
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
        let known = sealed_before.keys().copied().chain([row.checkpoint.0, row.opened]);
        let known = known.filter(|epoch| *epoch >= row.checkpoint.0.max(1));
        if let Some(missing) = known.filter(|epoch| !epochs.contains(epoch)).min() {
            return Err(self.damaged(
                missing,
                1,
                "the epoch's files are missing: put them back, or restore the whole data folder",
            ));
        }
        let mut replayed = Replayed {
            states: States::default(),
            locked: HashMap::new(),
            keys: HashMap::new(),
            last_digest: [0; 32],
            tail_bytes: 0,
            oldest: HashMap::new(),
            aside: HashMap::new(),
        };
        for (tenant, doubt) in self.in_doubt {
            self.lock(*tenant, doubt.clone().into(), &mut replayed).states = true;
        }
        self.load_states(&mut replayed).await?;
        self.load_aside(&mut replayed).await?;
        let mut sealed = Vec::new();
        for epoch in epochs.into_iter().filter(|epoch| *epoch >= row.checkpoint.0) {
            let after = if epoch == row.checkpoint.0 { row.checkpoint.1 } else { 0 };
            let replay = wal.replay(epoch, after).map_err(io("the write-ahead log cannot be read"))?;
            if let ReplayEnd::Damaged { seq } = replay.end {
                return Err(self.damaged(epoch, seq, "an entry is missing or altered, and later ones exist"));
            }
            if replay.last < after {
                return Err(self.damaged(epoch, replay.last.saturating_add(1), "the log ends before its checkpoint"));
            }
            let Replayed { keys, locked, .. } = &mut replayed;
            let sections = replay
                .entries
                .iter()
                .flat_map(|entry| self.sections(entry))
                .filter(|(section, _)| !locked.contains_key(&section.tenant));
            self.early.open_section_keys(self.cluster, sections, self.vault, keys).await;
            let end = self.replay_epoch(epoch, after, replay.entries, &mut replayed).await?;
            if end == 0 && epoch == row.opened {
                return Err(self.damaged(epoch, 1, "the entry that opened the epoch is missing"));
            }
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
            proof: [0; 32],
        };
        let opening = opening.proved(&[], self.integrity).ok_or_else(|| self.damaged(row.epoch, 1, UNPROVED))?;
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
            locked: replayed.locked.into_iter().map(|(tenant, locked)| (tenant, Arc::new(locked))).collect(),
            aside: replayed.aside,
            epochs_behind,
        })
    }

    /// An entry's sections with its name; none of a malformed one, which replay will meet.
    fn sections<'e>(&self, entry: &'e Entry<Bytes>) -> impl Iterator<Item = (entry::Section<'e>, EntryId)> + use<'e> {
        let id = EntryId { shard: self.shard.0, epoch: entry.header.epoch, seq: entry.header.seq };
        entry::sections(&entry.body).unwrap_or_default().into_iter().map(move |section| (section, id))
    }

    fn damaged(&self, epoch: u64, seq: u64, what: &'static str) -> OpenError {
        OpenError::Damaged { shard: self.shard.0, epoch, seq, what }
    }

    /// State as of the checkpoint. Rows of a tenant whose KMS key is away stay where they are.
    async fn load_states(&self, replayed: &mut Replayed) -> Result<(), OpenError> {
        let rows = self.metadata.state(self.shard).await?;
        let tenants = rows.iter().map(|row| row.tenant).filter(|tenant| !replayed.locked.contains_key(tenant));
        self.early.open_row_keys(tenants, &self.flusher.rows).await;
        for row in rows {
            if replayed.locked.contains_key(&row.tenant) {
                continue;
            }
            if let Some(why) = self.early.away(row.tenant) {
                self.lock(row.tenant, why.into(), replayed).states = true;
                continue;
            }
            let keys = match self.flusher.rows.get(row.tenant).await {
                Ok(keys) => keys,
                Err(trouble) => {
                    let Some(why) = locked::key_is_away(&trouble) else { return Err(trouble.into()) };
                    self.lock(row.tenant, why.into(), replayed).states = true;
                    continue;
                }
            };
            let Some((key, value)) = locked::open_state_row(&keys, &row)? else { continue };
            locked::apply_own(self.partitions, &key, Some(&value));
            replayed.states.live.entry(row.tenant).or_default().insert(key, value);
        }
        Ok(())
    }

    /// What was set aside comes before a tenant's sections of the log. Where it cannot be opened it stays where it is.
    async fn load_aside(&self, replayed: &mut Replayed) -> Result<(), OpenError> {
        let mut rows: HashMap<TenantId, Vec<AsideRow>> = HashMap::new();
        for row in self.metadata.aside().await?.into_iter().filter(|row| row.shard == self.shard) {
            replayed.aside.entry(row.tenant).or_default().add(&row);
            rows.entry(row.tenant).or_default().push(row);
        }
        let opener = Opener {
            shard: self.shard,
            cluster: self.cluster,
            metadata: self.metadata,
            objects: &*self.flusher.objects,
            vault: &**self.vault,
        };
        let tenants = rows.keys().copied().filter(|tenant| !replayed.locked.contains_key(tenant));
        self.early.open_row_keys(tenants, &self.flusher.rows).await;
        for (tenant, rows) in rows {
            if let Some(why) = self.early.away(tenant) {
                self.lock(tenant, why.into(), replayed);
            }
            if let Some(locked) = replayed.locked.get_mut(&tenant) {
                locked.aside = rows;
                continue;
            }
            let why = match opener.open_aside(tenant, &rows).await {
                Ok(sections) => {
                    for ((epoch, seq), plain) in sections {
                        let added = locked::replay_section(self.partitions, &mut replayed.states, tenant, &plain)
                            .ok_or_else(|| self.damaged(epoch, seq, "an item is malformed"))?;
                        replayed.tail_bytes = replayed.tail_bytes.saturating_add(added);
                    }
                    continue;
                }
                Err(OpenError::Key(why @ (KeyError::Denied { .. } | KeyError::Unreachable { .. }))) => Why::Key(why),
                Err(OpenError::SetAside { object, damage }) => Why::SetAside { object, damage },
                Err(error) => return Err(error),
            };
            self.lock(tenant, why, replayed).aside = rows;
        }
        Ok(())
    }

    fn lock<'r>(&self, tenant: TenantId, why: Why, replayed: &'r mut Replayed) -> &'r mut Locked {
        replayed.locked.entry(tenant).or_insert_with(|| {
            tracing::error!(shard = self.shard.0, %tenant, %why, "a tenant's records stay sealed");
            Locked { why, states: false, aside: Vec::new(), sections: Vec::new() }
        })
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
            if !entry.header.is_proved(&entry.body, self.integrity) {
                return Err(self.damaged(epoch, seq, UNPROVED));
            }
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
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            if let Some(why) = self.early.away(section.tenant) {
                self.lock(section.tenant, why.into(), replayed);
            }
            if let Some(locked) = replayed.locked.get_mut(&section.tenant) {
                // In order: what follows a section that stays sealed stays sealed too.
                locked.sections.push(sealed(id, number, section));
                continue;
            }
            let keys = match self.section_keys(section, id, replayed).await {
                Ok(keys) => keys,
                Err(OpenError::Key(why @ (KeyError::Denied { .. } | KeyError::Unreachable { .. }))) => {
                    self.lock(section.tenant, why.into(), replayed).sections.push(sealed(id, number, section));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let plain = keys
                .open_section(id, number, section.tenant.to_bytes(), BytesMut::from(section.sealed))
                .map_err(|_| self.damaged(epoch, seq, "a section does not open: it was altered"))?;
            replayed.oldest.entry(section.tenant).or_insert((epoch, seq));
            let added = locked::replay_section(self.partitions, &mut replayed.states, section.tenant, &plain)
                .ok_or_else(|| self.damaged(epoch, seq, "an item is malformed"))?;
            replayed.tail_bytes = replayed.tail_bytes.saturating_add(added);
        }
        Ok(())
    }

    async fn section_keys<'k>(
        &self,
        section: &entry::Section<'_>,
        id: EntryId,
        replayed: &'k mut Replayed,
    ) -> Result<&'k WalKeys, OpenError> {
        let name = (section.tenant, section.wrapped.to_vec());
        if !replayed.keys.contains_key(&name) {
            let key =
                locked::epoch_key(self.cluster, section.tenant, id, section.generation, section.wrapped, &**self.vault)
                    .await?;
            replayed.keys.insert(name.clone(), key);
        }
        replayed.keys.get(&name).ok_or_else(|| self.damaged(id.epoch, id.seq, "a key is missing"))
    }
}

/// A copy: the entry's own memory goes with the log's file.
fn sealed(entry: EntryId, number: u32, section: &entry::Section<'_>) -> SealedSection {
    SealedSection {
        entry,
        number,
        generation: section.generation,
        wrapped: section.wrapped.to_vec(),
        sealed: Bytes::copy_from_slice(section.sealed),
    }
}

struct Replayed {
    states: States,
    locked: HashMap<TenantId, Locked>,
    keys: HashMap<(TenantId, Vec<u8>), WalKeys>,
    last_digest: [u8; 32],
    tail_bytes: usize,
    oldest: HashMap<TenantId, (u64, u64)>,
    aside: HashMap<TenantId, Aside>,
}
