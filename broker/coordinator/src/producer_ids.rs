//! Producer ids of one tenant: handed out unguessable, bound to the principal that uses them.
//!
//! In: InitProducerId without a transactional id, and each producer id seen in Produce. Out: ids, epochs, records.
//!
//! Binding: a batch under another principal's id is refused, so no client can spoil another's sequence numbers. An id this
//! table does not know (expired, put out by the bound, or lost in a crash before use) is taken over by the first principal
//! that writes with it: idempotent clients never ask for a new id by themselves, they would retry for ever. Ids are random,
//! so an unknown id harms nobody but its own idle user.
//!
//! Invariants
//! - `ids.len() <= ids_max`; a principal at the bound loses its own least recently used id first.
//! - An id is in 1..2^62 and never handed out while known.
//!
//! Must not: judge sequences or per-partition epochs; those are the log's.

use std::collections::HashMap;

use bytes::Bytes;
use schloss_core::ErrorCode;

use crate::api::{LoadError, StateRecord};
use crate::layout;

/// An id unused for so long is forgotten.
pub const UNUSED_MS_MAX: i64 = 7 * 24 * 60 * 60 * 1000;
/// Uses are written down at this grain, so that a busy producer costs one record a day.
pub const USE_GRAIN_MS: i64 = 24 * 60 * 60 * 1000;
/// The table is looked over this often.
pub const TICK_MS: i64 = 60 * 60 * 1000;
/// Records one tick may ask for.
const RECORDS_PER_TICK_MAX: usize = crate::limits::RECORDS_PER_TICK_MAX;
/// Ids are 62 bits, so that neither Kafka's -1 nor arithmetic near the end is ever met.
const ID_MASK: u128 = (1 << 62) - 1;

/// The caller's SHA-256 of a principal's ARN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrincipalDigest(pub [u8; 32]);

#[derive(Clone, Copy, Debug)]
struct Entry {
    principal: PrincipalDigest,
    /// The epoch last handed out. Clients also raise it by themselves.
    epoch: i16,
    used_ms: i64,
    /// The last use as the durable record has it.
    recorded_ms: i64,
}

/// What InitProducerId answers, once `records` are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Initialised {
    /// The id.
    pub producer_id: i64,
    /// The epoch.
    pub epoch: i16,
    /// State to make durable.
    pub records: Vec<StateRecord>,
}

/// The producer ids of one tenant.
#[derive(Debug)]
pub struct ProducerIds {
    ids: HashMap<i64, Entry>,
    ids_max: usize,
    next_tick_ms: i64,
}

impl ProducerIds {
    /// Takes over stored state; keys of other rooms are passed over.
    ///
    /// # Errors
    /// [`LoadError`] when a record is not what this room writes.
    pub fn load(ids_max: usize, state: &[(Bytes, Bytes)], now_ms: i64) -> Result<Self, LoadError> {
        let mut ids = HashMap::new();
        for (key, value) in state.iter().filter(|(key, _)| key.first() == Some(&layout::PRODUCER)) {
            let (id, principal, epoch, used_ms) = layout::read_producer(key, value)?;
            let principal = PrincipalDigest(principal);
            ids.insert(id, Entry { principal, epoch, used_ms, recorded_ms: used_ms });
        }
        Ok(Self { ids, ids_max: ids_max.max(1), next_tick_ms: now_ms })
    }

    /// InitProducerId. Both `requested` are -1 for a new producer. SPEC: KIP-360: a known id with its epoch goes on with the
    /// next epoch; anything else gets a fresh id, which can disturb nobody. `random` must be unguessable.
    pub fn init(
        &mut self,
        principal: PrincipalDigest,
        requested_id: i64,
        requested_epoch: i16,
        now_ms: i64,
        random: u128,
    ) -> Initialised {
        let own = self.ids.get(&requested_id).filter(|entry| entry.principal == principal);
        let next = own.filter(|entry| requested_epoch >= entry.epoch).and_then(|_| requested_epoch.checked_add(1));
        // The last epoch is never given out: clients raise epochs by themselves and need one to go to.
        let (producer_id, epoch) = match next {
            Some(epoch) if epoch < i16::MAX => (requested_id, epoch),
            _ => (self.fresh(random), 0),
        };
        let mut records = Vec::new();
        self.put(producer_id, Entry { principal, epoch, used_ms: now_ms, recorded_ms: now_ms }, &mut records);
        records.push(layout::producer_record(producer_id, &principal.0, epoch, now_ms));
        Initialised { producer_id, epoch, records }
    }

    /// May `principal` write under this id? Counts as a use. Returned records need not be waited for.
    ///
    /// # Errors
    /// `INVALID_PRODUCER_ID_MAPPING` for another principal's id, `INVALID_PRODUCER_EPOCH` for impossible numbers.
    pub fn check(
        &mut self,
        principal: PrincipalDigest,
        producer_id: i64,
        epoch: i16,
        now_ms: i64,
    ) -> Result<Vec<StateRecord>, ErrorCode> {
        if producer_id < 0 || epoch < 0 {
            return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
        }
        if let Some(entry) = self.ids.get_mut(&producer_id) {
            if entry.principal != principal {
                return Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING);
            }
            entry.used_ms = entry.used_ms.max(now_ms);
            return Ok(Vec::new());
        }
        let mut records = Vec::new();
        self.put(producer_id, Entry { principal, epoch, used_ms: now_ms, recorded_ms: now_ms }, &mut records);
        records.push(layout::producer_record(producer_id, &principal.0, epoch, now_ms));
        Ok(records)
    }

    /// When `tick` is to be called next.
    #[must_use]
    pub fn next_deadline_ms(&self) -> i64 {
        self.next_tick_ms
    }

    /// Forgets unused ids and writes down uses. What would be too much for one write stays due.
    #[must_use]
    pub fn tick(&mut self, now_ms: i64) -> Vec<StateRecord> {
        let mut records = Vec::new();
        self.ids.retain(|id, entry| {
            if records.len() >= RECORDS_PER_TICK_MAX {
                return true;
            }
            let is_kept = now_ms.saturating_sub(entry.used_ms) < UNUSED_MS_MAX;
            if !is_kept {
                records.push(layout::producer_tombstone(*id));
            } else if entry.used_ms.saturating_sub(entry.recorded_ms) >= USE_GRAIN_MS {
                entry.recorded_ms = entry.used_ms;
                records.push(layout::producer_record(*id, &entry.principal.0, entry.epoch, entry.used_ms));
            }
            is_kept
        });
        let more = records.len() >= RECORDS_PER_TICK_MAX;
        self.next_tick_ms = if more { now_ms } else { now_ms.saturating_add(TICK_MS) };
        records
    }

    /// Known ids, for metrics.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True without ids.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    fn fresh(&self, random: u128) -> i64 {
        let start = i64::try_from(random & ID_MASK).unwrap_or(1).max(1);
        // Of 2^62 ids few are taken: the second is free as good as always, and the search ends at `ids.len() + 1`.
        (start..=i64::MAX).find(|id| !self.ids.contains_key(id)).unwrap_or(start)
    }

    fn put(&mut self, id: i64, entry: Entry, records: &mut Vec<StateRecord>) {
        if !self.ids.contains_key(&id) && self.ids.len() >= self.ids_max {
            let least_used = |own: bool| {
                let candidates = self.ids.iter().filter(|(_, other)| !own || other.principal == entry.principal);
                candidates.min_by_key(|(id, other)| (other.used_ms, **id)).map(|(id, _)| *id)
            };
            if let Some(out) = least_used(true).or_else(|| least_used(false)) {
                self.ids.remove(&out);
                records.push(layout::producer_tombstone(out));
            }
        }
        self.ids.insert(id, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: PrincipalDigest = PrincipalDigest([1; 32]);
    const BOB: PrincipalDigest = PrincipalDigest([2; 32]);

    fn empty() -> ProducerIds {
        ProducerIds::load(3, &[], 0).unwrap()
    }

    fn stored(records: &[StateRecord]) -> Vec<(Bytes, Bytes)> {
        records.iter().filter_map(|record| Some((record.key.clone(), record.value.clone()?))).collect()
    }

    #[test]
    fn fresh_ids_are_positive_and_62_bits() {
        for random in [0, 1, u128::MAX, u128::from(u64::MAX)] {
            let id = empty().init(ALICE, -1, -1, 0, random).producer_id;
            assert!((1..1 << 62).contains(&id), "{id}");
        }
    }

    #[test]
    fn id_of_another_principal_is_refused() {
        let mut ids = empty();
        let given = ids.init(ALICE, -1, -1, 0, 42);
        assert_eq!(ids.check(ALICE, given.producer_id, 0, 0), Ok(vec![]));
        assert_eq!(ids.check(BOB, given.producer_id, 0, 0), Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING));
    }

    #[test]
    fn known_id_with_its_epoch_goes_on_with_the_next_epoch() {
        let mut ids = empty();
        let first = ids.init(ALICE, -1, -1, 0, 42);
        let second = ids.init(ALICE, first.producer_id, 0, 0, 43);
        assert_eq!((second.producer_id, second.epoch), (first.producer_id, 1));
    }

    #[test]
    fn epoch_the_client_raised_by_itself_counts() {
        let mut ids = empty();
        let first = ids.init(ALICE, -1, -1, 0, 42);
        assert_eq!(ids.init(ALICE, first.producer_id, 7, 0, 43).epoch, 8);
    }

    #[test]
    fn foreign_unknown_old_or_exhausted_ids_get_a_fresh_one() {
        let mut ids = ProducerIds::load(10, &[], 0).unwrap();
        let id = ids.init(ALICE, -1, -1, 0, 42).producer_id;
        assert_ne!(ids.init(BOB, id, 0, 0, 100).producer_id, id);
        assert_ne!(ids.init(ALICE, 77, 0, 0, 200).producer_id, 77);
        assert_eq!(ids.init(ALICE, id, 0, 0, 300).epoch, 1);
        assert_ne!(ids.init(ALICE, id, 0, 0, 400).producer_id, id, "epoch 0 is over");
        let fresh = ids.init(ALICE, id, i16::MAX - 1, 0, 500);
        assert_eq!((fresh.producer_id, fresh.epoch), (500, 0));
    }

    #[test]
    fn taken_id_is_not_given_twice() {
        let mut ids = empty();
        let first = ids.init(ALICE, -1, -1, 0, 42).producer_id;
        assert_ne!(ids.init(BOB, -1, -1, 0, 42).producer_id, first);
    }

    #[test]
    fn ids_survive_a_reload_and_stay_bound() {
        let given = empty().init(ALICE, -1, -1, 5, 42);
        let mut ids = ProducerIds::load(3, &stored(&given.records), 6).unwrap();
        assert_eq!(ids.check(BOB, given.producer_id, 0, 6), Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING));
    }

    #[test]
    fn unknown_id_is_bound_to_who_writes_first() {
        let mut ids = empty();
        assert_eq!(ids.check(ALICE, 9, 0, 0).map(|records| records.len()), Ok(1));
        assert_eq!(ids.check(BOB, 9, 0, 0), Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING));
    }

    #[test]
    fn id_unused_for_seven_days_is_forgotten() {
        let mut ids = empty();
        let _ = ids.init(ALICE, -1, -1, 0, 42);
        assert!(ids.tick(UNUSED_MS_MAX - 1).is_empty());
        assert_eq!(ids.tick(UNUSED_MS_MAX), vec![layout::producer_tombstone(42)]);
        assert!(ids.is_empty());
    }

    #[test]
    fn use_keeps_an_id_and_is_written_once_a_day() {
        let mut ids = empty();
        let _ = ids.init(ALICE, -1, -1, 0, 42);
        assert_eq!(ids.check(ALICE, 42, 0, USE_GRAIN_MS), Ok(vec![]));
        assert_eq!(ids.tick(USE_GRAIN_MS).len(), 1);
        assert!(ids.tick(USE_GRAIN_MS + TICK_MS).is_empty());
        assert_eq!(ids.tick(UNUSED_MS_MAX).len(), 0);
    }

    #[test]
    fn principal_at_the_bound_loses_its_own_oldest_id() {
        let mut ids = empty();
        let _ = ids.init(BOB, -1, -1, 0, 1);
        let _ = ids.init(ALICE, -1, -1, 1, 2);
        let _ = ids.init(ALICE, -1, -1, 2, 3);
        let fourth = ids.init(ALICE, -1, -1, 3, 4);
        assert_eq!(fourth.records.first(), Some(&layout::producer_tombstone(2)));
        assert_eq!(ids.len(), 3);
        assert_eq!(ids.check(ALICE, 1, 0, 4), Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING), "bob's is still bob's");
    }
}
