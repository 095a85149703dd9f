//! Producer ids: who may write idempotently under which id and epoch.
//!
//! In: InitProducerId, with random bytes. Out: an id and epoch, and the record to make durable first.
//!
//! Invariants
//! - Ids are 62 random bits, so a tenant's client cannot guess another's; each is bound to the principal it was given
//!   to, and [`ProducerIds::check`] refuses everyone else.
//! - An id's epoch only grows; before it would overflow a fresh id is given.
//! - No more than `ids_max` ids are kept; who asks for one more loses the one it used least recently.
//!
//! An id that is not known here (aged out, or crowded out) belongs to the first principal that writes under it. Clients of
//! idempotent producers never ask for a new id by themselves: refused, they would retry until the application is restarted.
//! Nobody is harmed: the sequences under such an id are nobody else's.
//!
//! Epochs are not compared here. SPEC: KIP-360, a client without transactions raises its epoch by itself, without asking,
//! and finishes older batches of other partitions meanwhile; the log fences old epochs for each partition.
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
    /// A current id that is not known, not the asker's or not at its newest epoch gets a fresh id, as Kafka gives every
    /// producer without transactions: a fresh id can disturb nobody.
    ///
    /// # Errors
    /// None yet; transactions will have some.
    pub fn init(&mut self, request: &InitProducer) -> Result<(ProducerEpoch, Vec<StateRecord>), ErrorCode> {
        let owned = |current: &ProducerEpoch| {
            let entry = self.entries.get(&current.id).filter(|entry| entry.owner == request.owner);
            entry.is_some_and(|entry| current.epoch >= entry.epoch)
        };
        if let Some(current) = request.current.filter(owned)
            && let Some(epoch) = current.epoch.checked_add(1).filter(|epoch| *epoch <= EPOCH_MAX)
        {
            return Ok(self.give(ProducerEpoch { id: current.id, epoch }, request));
        }
        let out = self.make_room(request.owner);
        let mut id = i64::from_be_bytes(request.fresh) & (i64::MAX >> 1);
        while self.entries.contains_key(&id) {
            id = id.checked_add(1).unwrap_or(0);
        }
        let (given, mut records) = self.give(ProducerEpoch { id, epoch: 0 }, request);
        records.extend(out);
        Ok((given, records))
    }

    /// At the bound, forgets the least recently used id of `owner`, or of all if it has none.
    fn make_room(&mut self, owner: Owner) -> Option<StateRecord> {
        if self.entries.len() < self.ids_max {
            return None;
        }
        let oldest = |own: bool| {
            let candidates = self.entries.iter().filter(|(_, entry)| !own || entry.owner == owner);
            candidates.min_by_key(|(_, entry)| entry.used_wall_ms).map(|(id, _)| *id)
        };
        let id = oldest(true).or_else(|| oldest(false))?;
        self.entries.remove(&id);
        Some(entry_record(id, None))
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
    /// `INVALID_PRODUCER_ID_MAPPING` for an id that is another principal's: clients give up instead of retrying.
    /// `INVALID_PRODUCER_EPOCH` for numbers no producer has.
    pub fn check(
        &mut self,
        producer: ProducerEpoch,
        owner: Owner,
        now_wall_ms: i64,
    ) -> Result<Option<StateRecord>, ErrorCode> {
        if producer.id < 0 || producer.epoch < 0 {
            return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
        }
        let Some(entry) = self.entries.get_mut(&producer.id) else {
            return Ok(self.adopt(producer, owner, now_wall_ms));
        };
        if entry.owner != owner {
            return Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING);
        }
        if now_wall_ms.saturating_sub(entry.used_wall_ms) < USE_STEP_MS {
            return Ok(None);
        }
        entry.used_wall_ms = now_wall_ms;
        Ok(Some(entry_record(producer.id, Some(entry))))
    }

    /// Binds an id nobody has. At the bound it stays unbound: then it is still nobody's.
    fn adopt(&mut self, producer: ProducerEpoch, owner: Owner, now_wall_ms: i64) -> Option<StateRecord> {
        if self.entries.len() >= self.ids_max {
            return None;
        }
        let entry = Entry { owner, epoch: producer.epoch, used_wall_ms: now_wall_ms };
        self.entries.insert(producer.id, entry);
        Some(entry_record(producer.id, Some(&entry)))
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
        assert_eq!(ids.check(second, ALICE, 1000), Ok(None));
    }

    #[test]
    fn epoch_that_a_client_raised_by_itself_is_accepted_beside_the_older_one() {
        let mut ids = empty();
        let (given, _) = ids.init(&ask(ALICE, None, 7)).unwrap();
        let raised = ProducerEpoch { epoch: 3, ..given };
        assert_eq!(ids.check(raised, ALICE, 1000), Ok(None));
        assert_eq!(ids.check(given, ALICE, 1000), Ok(None));
        let (next, _) = ids.init(&ask(ALICE, Some(raised), 0)).unwrap();
        assert_eq!(next, ProducerEpoch { id: given.id, epoch: 4 });
    }

    #[test]
    fn impossible_numbers_are_refused() {
        for (id, epoch) in [(-1, 0), (5, -1), (i64::MIN, i16::MIN)] {
            assert_eq!(empty().check(ProducerEpoch { id, epoch }, ALICE, 0), Err(ErrorCode::INVALID_PRODUCER_EPOCH));
        }
    }

    #[test]
    fn id_of_another_principal_is_refused() {
        let mut ids = empty();
        let (given, _) = ids.init(&ask(ALICE, None, 7)).unwrap();
        assert_eq!(ids.check(given, MALLORY, 1000), Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING));
    }

    #[test]
    fn foreign_unknown_or_old_current_id_gets_a_fresh_one() {
        let mut ids = ProducerIds::load(9, []).unwrap();
        let (given, _) = ids.init(&ask(ALICE, None, 7)).unwrap();
        let (raised, _) = ids.init(&ask(ALICE, Some(given), 0)).unwrap();
        let never = ProducerEpoch { id: 99, epoch: 0 };
        for (owner, current) in [(MALLORY, raised), (ALICE, never), (ALICE, given)] {
            let (fresh, _) = ids.init(&ask(owner, Some(current), 1)).unwrap();
            assert!(fresh.id != current.id && fresh.epoch == 0);
        }
    }

    #[test]
    fn unknown_id_belongs_to_who_writes_first() {
        let mut ids = empty();
        let forgotten = ProducerEpoch { id: 99, epoch: 4 };
        assert!(ids.check(forgotten, ALICE, 1000).unwrap().is_some());
        assert_eq!(ids.check(forgotten, ALICE, 1000), Ok(None));
        assert_eq!(ids.check(forgotten, MALLORY, 1000), Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING));
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
    fn who_asks_for_more_ids_than_allowed_loses_its_own_oldest() {
        let mut ids = empty();
        let (others, _) = ids.init(&ask(MALLORY, None, 1)).unwrap();
        let (oldest, _) = ids.init(&ask(ALICE, None, 2)).unwrap();
        let (newer, _) = ids.init(&InitProducer { now_wall_ms: 2000, ..ask(ALICE, None, 3) }).unwrap();
        let (newest, records) = ids.init(&InitProducer { now_wall_ms: 3000, ..ask(ALICE, None, 4) }).unwrap();
        assert!(records.contains(&entry_record(oldest.id, None)));
        let kept: Vec<i64> = ids.entries.keys().copied().collect();
        let mut expected = vec![others.id, newer.id, newest.id];
        expected.sort_unstable();
        assert_eq!(kept, expected);
    }

    #[test]
    fn unknown_id_at_the_bound_may_write_and_takes_nobodys_place() {
        let mut ids = empty();
        for chance in 0..3 {
            ids.init(&ask(ALICE, None, chance)).unwrap();
        }
        assert_eq!(ids.check(ProducerEpoch { id: 99, epoch: 0 }, MALLORY, 1000), Ok(None));
        assert_eq!(ids.entries.len(), 3);
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
        assert!(!ids.entries.contains_key(&unused.id) && ids.entries.contains_key(&used.id));
    }
}
