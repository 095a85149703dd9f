//! Entries set aside: what a tenant could not flush because its key is away, in objects of its own, so that the log need not hold it.
//!
//! In: sealed sections of one tenant, from the log or from memory. Out: an object of them as they were, and the row that vouches for it.
//!
//! Object `aside/<shard>/<tenant>/<id>`, big-endian:
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `SCHLASD1` |
//! | 8 | 4 | shard |
//! | 12 | 16 | tenant |
//! | 28 | … | sections: epoch u64, sequence number u64, section number u32, key generation u32, wrapped key length u16, bytes, sealed length u32, bytes |
//!
//! Invariants
//! - Nothing is opened here: sections stay under the tenant's epoch keys, bound to the entry they were written in.
//! - Size and digest in the manifest say what the object is; another one, a cut one or none is damage of that tenant, never an empty log.
//! - Rows of a tenant follow each other, and the log behind the checkpoint follows the last.

use std::collections::HashMap;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use schloss_core::{ShardId, TenantId};
use schloss_crypto::{EntryId, IntegrityKey, digest, random_array};
use schloss_metadata::AsideRow;

use crate::error::OpenError;
use crate::integrity::Damage;
use crate::locked::SealedSection;
use crate::producer::Cursor;
use crate::wal::{ReplayEnd, WalReader, entry};

const MAGIC: [u8; 8] = *b"SCHLASD1";
/// Folder of the object store.
pub const FOLDER: &str = "aside";

/// Epoch and sequence number of an entry.
pub type Name = (u64, u64);

/// What a shard has set aside for a tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aside {
    /// In all objects together.
    pub bytes: u64,
    /// Nothing of the tenant up to this entry needs the log.
    pub last: Name,
}

impl Aside {
    /// One more object.
    pub fn add(&mut self, row: &AsideRow) {
        self.bytes = self.bytes.saturating_add(row.size);
        self.last = self.last.max(row.last);
    }
}

/// Where an object is.
pub fn path(row: &AsideRow) -> Path {
    let hex: String = row.object_id.iter().map(|byte| format!("{byte:02x}")).collect();
    Path::from_iter([FOLDER.to_owned(), format!("{:04}", row.shard.0), row.tenant.to_string(), hex])
}

/// An object in the making.
pub struct Draft {
    shard: ShardId,
    tenant: TenantId,
    first: Option<Name>,
    bytes: Vec<u8>,
}

impl Draft {
    /// Without a section yet.
    pub fn new(shard: ShardId, tenant: TenantId) -> Self {
        let bytes = [&MAGIC[..], &shard.0.to_be_bytes(), &tenant.to_bytes()].concat();
        Self { shard, tenant, first: None, bytes }
    }

    /// Adds the tenant's next section.
    pub fn push(&mut self, entry: EntryId, number: u32, generation: u32, wrapped: &[u8], sealed: &[u8]) {
        self.first.get_or_insert((entry.epoch, entry.seq));
        self.bytes.extend_from_slice(&entry.epoch.to_be_bytes());
        self.bytes.extend_from_slice(&entry.seq.to_be_bytes());
        self.bytes.extend_from_slice(&number.to_be_bytes());
        self.bytes.extend_from_slice(&generation.to_be_bytes());
        self.bytes.extend_from_slice(&u16::try_from(wrapped.len()).unwrap_or(u16::MAX).to_be_bytes());
        self.bytes.extend_from_slice(wrapped);
        self.bytes.extend_from_slice(&u32::try_from(sealed.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.bytes.extend_from_slice(sealed);
    }

    /// Writes the object; `last` is the checkpoint. None when there is nothing in it.
    ///
    /// # Errors
    /// The store's.
    pub async fn put(self, objects: &dyn ObjectStore, last: Name) -> object_store::Result<Option<AsideRow>> {
        let Some(first) = self.first else { return Ok(None) };
        let row = AsideRow {
            shard: self.shard,
            tenant: self.tenant,
            first,
            last,
            object_id: random_array(),
            size: self.bytes.len() as u64,
            digest: digest::sha256(&self.bytes),
        };
        objects.put(&path(&row), PutPayload::from(self.bytes)).await?;
        Ok(Some(row))
    }
}

/// That the object of a row is not what was written.
pub fn damaged(row: &AsideRow, damage: Damage) -> OpenError {
    OpenError::SetAside { object: path(row).to_string(), damage }
}

/// An object's sections, still sealed.
///
/// # Errors
/// [`OpenError::SetAside`] when it is not what the row says; [`OpenError::Io`] when the store does not answer.
pub async fn read(objects: &dyn ObjectStore, row: &AsideRow) -> Result<Vec<SealedSection>, OpenError> {
    let failed = |error| OpenError::Io {
        what: "entries set aside cannot be read",
        source: std::io::Error::other::<object_store::Error>(error),
    };
    let found = match objects.get(&path(row)).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Err(damaged(row, Damage::Missing)),
        Err(error) => return Err(failed(error)),
    };
    // SECURITY: before memory is reserved for whatever lies there.
    if found.meta.size != row.size {
        return Err(damaged(row, Damage::Size));
    }
    let bytes = found.bytes().await.map_err(failed)?;
    if digest::sha256(&bytes) != row.digest {
        return Err(damaged(row, Damage::SetAside));
    }
    sections(&bytes, row).ok_or_else(|| damaged(row, Damage::SetAside))
}

fn sections(bytes: &Bytes, row: &AsideRow) -> Option<Vec<SealedSection>> {
    let mut cursor = Cursor(bytes);
    let head = cursor.take() == Some(MAGIC)
        && cursor.take() == Some(row.shard.0.to_be_bytes())
        && cursor.take() == Some(row.tenant.to_bytes());
    if !head {
        return None;
    }
    let mut all: Vec<SealedSection> = Vec::new();
    while !cursor.0.is_empty() {
        let (epoch, seq) = (u64::from_be_bytes(cursor.take()?), u64::from_be_bytes(cursor.take()?));
        let (number, generation) = (u32::from_be_bytes(cursor.take()?), u32::from_be_bytes(cursor.take()?));
        let wrapped_bytes = usize::from(u16::from_be_bytes(cursor.take()?));
        let wrapped = cursor.slice(wrapped_bytes)?.to_vec();
        let sealed_bytes = usize::try_from(u32::from_be_bytes(cursor.take()?)).ok()?;
        let sealed = bytes.slice_ref(cursor.slice(sealed_bytes)?);
        let entry = EntryId { shard: row.shard.0, epoch, seq };
        let in_order = all.last().is_none_or(|last| (last.entry, last.number) < (entry, number));
        if !in_order || (epoch, seq) < row.first || (epoch, seq) > row.last {
            return None;
        }
        all.push(SealedSection { entry, number, generation, wrapped, sealed });
    }
    (!all.is_empty()).then_some(all)
}

/// Reads from the log what the tenants `wanted` have in entries from the one named up to `until`. Blocks on files. The log behind
/// `until` is being written and is not judged.
///
/// # Errors
/// What is wrong: nothing may be set aside, and the log must stay.
pub fn gather(
    log: &dyn WalReader,
    shard: ShardId,
    wanted: &HashMap<TenantId, Name>,
    until: Name,
    key: &IntegrityKey,
) -> Result<HashMap<TenantId, Draft>, String> {
    let mut drafts: HashMap<TenantId, Draft> = HashMap::new();
    let Some(from) = wanted.values().copied().min().filter(|from| *from <= until) else { return Ok(drafts) };
    let missing = |epoch: u64, seq: u64| format!("entry {seq} of epoch {epoch} of the log cannot be read back");
    let mut reached = (0, 0);
    for epoch in log.epochs().map_err(|error| error.to_string())? {
        if epoch < from.0 || epoch > until.0 {
            continue;
        }
        let after = if epoch == from.0 { from.1.saturating_sub(1) } else { 0 };
        let replay = log.replay(epoch, after).map_err(|error| error.to_string())?;
        reached = (epoch, after);
        for entry in replay.entries {
            let name = (epoch, entry.header.seq);
            if name > until {
                break;
            }
            if name.1 != reached.1.saturating_add(1) || !entry.header.is_proved(&entry.body, key) {
                return Err(missing(epoch, reached.1.saturating_add(1)));
            }
            reached = name;
            let id = EntryId { shard: shard.0, epoch, seq: name.1 };
            let sections = entry::sections(&entry.body).ok_or_else(|| missing(epoch, name.1))?;
            for (section, number) in sections.iter().zip(0_u32..) {
                if wanted.get(&section.tenant).is_some_and(|oldest| *oldest <= name) {
                    drafts.entry(section.tenant).or_insert_with(|| Draft::new(shard, section.tenant)).push(
                        id,
                        number,
                        section.generation,
                        section.wrapped,
                        section.sealed,
                    );
                }
            }
        }
        if epoch < until.0
            && let ReplayEnd::Damaged { seq } = replay.end
        {
            return Err(missing(epoch, seq));
        }
    }
    if reached != until {
        return Err(missing(until.0, until.1));
    }
    Ok(drafts)
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn draft() -> Draft {
        let mut draft = Draft::new(ShardId(1), TenantId::new(6).unwrap());
        draft.push(EntryId { shard: 1, epoch: 2, seq: 3 }, 0, 9, &[7; 5], &[8; 50]);
        draft.push(EntryId { shard: 1, epoch: 2, seq: 4 }, 1, 9, &[7; 5], &[9; 50]);
        draft
    }

    #[test]
    fn object_has_this_byte_form() {
        let section = |seq: u8, number: u8, sealed: u8| {
            let mut bytes = vec![0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, seq, 0, 0, 0, number, 0, 0, 0, 9];
            bytes.extend_from_slice(&[0, 5, 7, 7, 7, 7, 7, 0, 0, 0, 50]);
            bytes.extend_from_slice(&[sealed; 50]);
            bytes
        };
        let mut expected = b"SCHLASD1\x00\x00\x00\x01".to_vec();
        expected.extend_from_slice(&6_u128.to_be_bytes());
        expected.extend(section(3, 0, 8));
        expected.extend(section(4, 1, 9));
        assert_eq!(draft().bytes, expected);
    }

    #[tokio::test]
    async fn object_is_read_back_and_every_other_one_is_damage() {
        let store = InMemory::new();
        let row = draft().put(&store, (2, 5)).await.unwrap().unwrap();
        assert_eq!((row.first, row.last), ((2, 3), (2, 5)));
        let found = read(&store, &row).await.unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].entry.seq, found[1].number, &found[1].sealed[..]), (4, 1, &[9_u8; 50][..]));
        let whole = draft().bytes;
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            store.put(&path(&row), flipped.into()).await.unwrap();
            let outcome = read(&store, &row).await;
            assert!(matches!(outcome, Err(OpenError::SetAside { damage: Damage::SetAside, .. })), "byte {at}");
        }
        store.put(&path(&row), whole[..whole.len() - 1].to_vec().into()).await.unwrap();
        assert!(matches!(read(&store, &row).await, Err(OpenError::SetAside { damage: Damage::Size, .. })));
        store.delete(&path(&row)).await.unwrap();
        assert!(matches!(read(&store, &row).await, Err(OpenError::SetAside { damage: Damage::Missing, .. })));
    }

    #[tokio::test]
    async fn object_of_another_tenant_shard_or_range_is_damage_although_its_digest_was_put_into_the_row() {
        let store = InMemory::new();
        let row = draft().put(&store, (2, 5)).await.unwrap().unwrap();
        let others = [
            AsideRow { tenant: TenantId::new(7).unwrap(), ..row.clone() },
            AsideRow { shard: ShardId(0), ..row.clone() },
            AsideRow { first: (2, 4), ..row.clone() },
            AsideRow { last: (2, 3), ..row.clone() },
        ];
        for other in others {
            store.put(&path(&other), draft().bytes.into()).await.unwrap();
            let outcome = read(&store, &other).await;
            assert!(matches!(outcome, Err(OpenError::SetAside { damage: Damage::SetAside, .. })), "{other:?}");
        }
    }
}
