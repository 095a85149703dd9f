//! Producer ids: who may write idempotently under which id and epoch.
//!
//! In: InitProducerId, with random bytes. Out: an id and epoch, and the record to make durable first.
//!
//! Invariants
//! - Ids are 62 random bits, so a tenant's client cannot guess another's; each is bound to the principal it was given
//!   to, and [`ProducerIds::check`] refuses everyone else.
//! - An id's epoch only grows; before it would overflow a fresh id is given.
//!
//! Must not: know transactions; transactional ids are refused by the caller until they exist.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use schloss_core::ErrorCode;

use crate::effects::StateRecord;
use crate::record::{self, LoadError, PRODUCER, Reader};

/// A producer id with its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerEpoch {
    /// The id, 0 or more.
    pub id: i64,
    /// The epoch, 0 or more.
    pub epoch: i16,
}

/// Who an id was given to: a digest of the principal, made by the caller, so that no name is kept here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(pub [u8; 32]);

/// An InitProducerId request without a transactional id.
#[derive(Clone, Copy, Debug)]
pub struct InitProducer {
    /// Who asks.
    pub owner: Owner,
    /// From version 3 on: the id it has and wants a higher epoch of (KIP-360).
    pub current: Option<ProducerEpoch>,
    /// Random bytes for a fresh id.
    pub fresh: [u8; 8],
    /// For the retention.
    pub now_wall_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    owner: Owner,
    epoch: i16,
    used_wall_ms: i64,
}

/// Every producer id of one tenant.
#[derive(Debug)]
pub struct ProducerIds {
    entries: BTreeMap<i64, Entry>,
    ids_max: usize,
}

/// Kafka gives a new id when the epoch reaches this, so that the old one can still be fenced.
const EPOCH_MAX: i16 = i16::MAX - 1;
/// How stale the stored time of use may be: a record per batch would double the writing.
const USE_STEP_MS: i64 = 60 * 60 * 1_000;

impl ProducerIds {
    /// Ids as they stand in the tenant's durable state; records of other rooms are passed over. `ids_max` bounds how
    /// many one tenant may have.
    ///
    /// # Errors
    /// [`LoadError`] for state that this version did not write.
    pub fn load<'a>(
        ids_max: usize,
        state: impl IntoIterator<Item = (&'a Bytes, &'a Bytes)>,
    ) -> Result<Self, LoadError> {
        let mut entries = BTreeMap::new();
        for (key, value) in state {
            let Some((&PRODUCER, id)) = key.split_first() else { continue };
            let id = i64::from_be_bytes(id.try_into().map_err(|_| LoadError::Damaged)?);
            let mut value = Reader::of_format(value)?;
            let entry = Entry {
                owner: Owner(value.array()?),
                epoch: i16::from_be_bytes(value.array()?),
                used_wall_ms: i64::from_be_bytes(value.array()?),
            };
            value.end()?;
            entries.insert(id, entry);
        }
        Ok(Self { entries, ids_max })
    }

    /// Gives an id, or the next epoch of the one the producer has. The answer may only be sent once the records are
    /// durable.
    ///
    /// # Errors
    /// `PRODUCER_FENCED` when the epoch is not the newest, `INVALID_PRODUCER_ID_MAPPING` when the id is not the
    /// asker's, `POLICY_VIOLATION` above the tenant's number of ids.
    pub fn init(&mut self, request: &InitProducer) -> Result<(ProducerEpoch, Vec<StateRecord>), ErrorCode> {
        if let Some(current) = request.current {
            let entry = self.owned(current.id, request.owner)?;
            if entry.epoch != current.epoch {
                // Older: fenced. Newer: never given by us.
                return Err(ErrorCode::PRODUCER_FENCED);
            }
            if let Some(epoch) = entry.epoch.checked_add(1).filter(|epoch| *epoch <= EPOCH_MAX) {
                return Ok(self.give(ProducerEpoch { id: current.id, epoch }, request));
            }
        }
        if self.entries.len() >= self.ids_max {
            return Err(ErrorCode::POLICY_VIOLATION);
        }
        let mut id = i64::from_be_bytes(request.fresh) & (i64::MAX >> 1);
        while self.entries.contains_key(&id) {
            id = id.checked_add(1).unwrap_or(0);
        }
        Ok(self.give(ProducerEpoch { id, epoch: 0 }, request))
    }

    fn give(&mut self, given: ProducerEpoch, request: &InitProducer) -> (ProducerEpoch, Vec<StateRecord>) {
        let entry = Entry { owner: request.owner, epoch: given.epoch, used_wall_ms: request.now_wall_ms };
        self.entries.insert(given.id, entry);
        (given, vec![entry_record(given.id, Some(&entry))])
    }

    /// Whether this principal may write under this id and epoch. A record to store comes back now and then, so that
    /// ids in use are not aged out; it need not be waited for.
    ///
    /// # Errors
    /// `UNKNOWN_PRODUCER_ID` for an id that was never given or is not the asker's: both look the same.
    /// `INVALID_PRODUCER_EPOCH` for an epoch that is not the newest.
    pub fn check(
        &mut self,
        producer: ProducerEpoch,
        owner: Owner,
        now_wall_ms: i64,
    ) -> Result<Option<StateRecord>, ErrorCode> {
        let entry = self.entries.get_mut(&producer.id).filter(|entry| entry.owner == owner);
        let entry = entry.ok_or(ErrorCode::UNKNOWN_PRODUCER_ID)?;
        if entry.epoch != producer.epoch {
            return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
        }
        if now_wall_ms.saturating_sub(entry.used_wall_ms) < USE_STEP_MS {
            return Ok(None);
        }
        entry.used_wall_ms = now_wall_ms;
        Ok(Some(entry_record(producer.id, Some(entry))))
    }

    /// Forgets ids unused for `retention_ms` (`producer.id.expiration.ms`).
    #[must_use]
    pub fn expire(&mut self, retention_ms: i64, now_wall_ms: i64) -> Vec<StateRecord> {
        let kept_ms = retention_ms.saturating_add(USE_STEP_MS);
        let is_old = |entry: &Entry| now_wall_ms.saturating_sub(entry.used_wall_ms) >= kept_ms;
        let gone: Vec<_> = self.entries.iter().filter(|(_, entry)| is_old(entry)).map(|(id, _)| *id).collect();
        gone.into_iter()
            .map(|id| {
                self.entries.remove(&id);
                entry_record(id, None)
            })
            .collect()
    }

    fn owned(&self, id: i64, owner: Owner) -> Result<Entry, ErrorCode> {
        let entry = self.entries.get(&id).filter(|entry| entry.owner == owner);
        entry.copied().ok_or(ErrorCode::INVALID_PRODUCER_ID_MAPPING)
    }
}

fn entry_record(id: i64, entry: Option<&Entry>) -> StateRecord {
    let mut key = BytesMut::new();
    key.put_u8(PRODUCER);
    key.put_i64(id);
    let value = entry.map(|entry| {
        let mut value = record::value_of_format();
        value.put_slice(&entry.owner.0);
        value.put_i16(entry.epoch);
        value.put_i64(entry.used_wall_ms);
        value.freeze()
    });
    StateRecord { key: key.freeze(), value }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: Owner = Owner([1; 32]);
    const MALLORY: Owner = Owner([2; 32]);

    fn ask(owner: Owner, current: Option<ProducerEpoch>, chance: u8) -> InitProducer {
        InitProducer { owner, current, fresh: [chance; 8], now_wall_ms: 1000 }
    }

    fn empty() -> ProducerIds {
        ProducerIds::load(3, []).unwrap()
    }

    #[test]
    fn fresh_id_starts_at_epoch_0_and_grows_by_one() {
        let mut ids = empty();
        let (first, records) = ids.init(&ask(ALICE, None, 0xff)).unwrap();
        assert!(first.id >= 0 && first.epoch == 0 && records.len() == 1);
        let (second, _) = ids.init(&ask(ALICE, Some(first), 0)).unwrap();
        assert_eq!(second, ProducerEpoch { id: first.id, epoch: 1 });
        assert_eq!(ids.check(first, ALICE, 1000), Err(ErrorCode::INVALID_PRODUCER_EPOCH));
        assert_eq!(ids.check(second, ALICE, 1000), Ok(None));
        assert_eq!(ids.init(&ask(ALICE, Some(first), 0)).unwrap_err(), ErrorCode::PRODUCER_FENCED);
    }

    #[test]
    fn foreign_id_looks_as_one_never_given() {
        let mut ids = empty();
        let (given, _) = ids.init(&ask(ALICE, None, 7)).unwrap();
        let never = ProducerEpoch { id: 99, epoch: 0 };
        for id in [given, never] {
            assert_eq!(ids.check(id, MALLORY, 1000), Err(ErrorCode::UNKNOWN_PRODUCER_ID));
            let refused = ids.init(&ask(MALLORY, Some(id), 0)).unwrap_err();
            assert_eq!(refused, ErrorCode::INVALID_PRODUCER_ID_MAPPING);
        }
    }

    #[test]
    fn spent_epoch_gives_a_fresh_id() {
        let mut ids = empty();
        ids.entries.insert(5, Entry { owner: ALICE, epoch: EPOCH_MAX, used_wall_ms: 0 });
        let (given, _) = ids.init(&ask(ALICE, Some(ProducerEpoch { id: 5, epoch: EPOCH_MAX }), 1)).unwrap();
        assert!(given.id != 5 && given.epoch == 0);
    }

    #[test]
    fn equal_chance_never_gives_an_id_twice() {
        let mut ids = empty();
        let (first, _) = ids.init(&ask(ALICE, None, 7)).unwrap();
        let (second, _) = ids.init(&ask(MALLORY, None, 7)).unwrap();
        assert_ne!(first.id, second.id);
    }

    #[test]
    fn more_ids_than_allowed_are_refused() {
        let mut ids = empty();
        for chance in 0..3 {
            assert!(ids.init(&ask(ALICE, None, chance)).is_ok());
        }
        assert_eq!(ids.init(&ask(ALICE, None, 9)).unwrap_err(), ErrorCode::POLICY_VIOLATION);
    }

    #[test]
    fn ids_survive_a_restart() {
        let mut ids = empty();
        let (given, records) = ids.init(&ask(ALICE, None, 7)).unwrap();
        let state: Vec<_> = records.into_iter().map(|record| (record.key, record.value.unwrap())).collect();
        let mut again = ProducerIds::load(3, state.iter().map(|(key, value)| (key, value))).unwrap();
        assert_eq!(again.check(given, ALICE, 1000), Ok(None));
    }

    #[test]
    fn unused_id_is_forgotten_and_used_one_kept() {
        let mut ids = empty();
        let (used, _) = ids.init(&ask(ALICE, None, 1)).unwrap();
        let (unused, _) = ids.init(&ask(ALICE, None, 2)).unwrap();
        assert!(ids.check(used, ALICE, 1000 + USE_STEP_MS).unwrap().is_some());
        let gone = ids.expire(10, 1010 + USE_STEP_MS);
        assert_eq!(gone.len(), 1);
        assert_eq!(gone[0].value, None);
        assert_eq!(ids.check(unused, ALICE, 0), Err(ErrorCode::UNKNOWN_PRODUCER_ID));
        assert!(ids.check(used, ALICE, 1000 + USE_STEP_MS).is_ok());
    }
}
