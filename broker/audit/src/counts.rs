//! Counts allowed data-plane actions until they are summarised.
//!
//! In: one call per allowed action, on the hot path. Out: one summary event per tenant, principal, action and resource.
//!
//! Invariants
//! - Nothing is allocated for a key that is already counted.
//! - At most [`COUNT_KEYS_MAX`] keys; beyond, actions are counted per tenant under the name `*`, never dropped.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use schloss_core::TenantId;

use crate::event::{Event, EventClass, Verdict, capped};

/// Keys counted at once: about 20 MB at usual lengths of names.
pub const COUNT_KEYS_MAX: usize = 65_536;

/// At so many keys the summaries are written early.
const FLUSH_KEYS: usize = COUNT_KEYS_MAX / 4 * 3;
const SHARDS: usize = 16;
/// Stands for names that found no place.
const ANY: &str = "*";

struct Counted {
    tenant: TenantId,
    principal: Box<str>,
    action: &'static str,
    resource: Box<str>,
    count: u64,
}

type Shard = HashMap<u64, Vec<Counted>>;

/// The counts of the present minute.
#[derive(Default)]
pub struct Counts {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    keys: AtomicUsize,
    wanted: AtomicBool,
}

impl Counts {
    /// Counts one action. True when the summaries should be written soon; said once.
    pub fn add(&self, tenant: TenantId, principal: &str, action: &'static str, resource: &str) -> bool {
        let (principal, resource) = (capped(principal), capped(resource));
        if !self.bump(tenant, &principal, action, &resource, 1, COUNT_KEYS_MAX) {
            self.bump(tenant, ANY, ANY, ANY, 1, usize::MAX);
        }
        self.keys.load(Ordering::Relaxed) >= FLUSH_KEYS && !self.wanted.swap(true, Ordering::Relaxed)
    }

    /// True when an early summary was asked for.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Takes everything out, as summary events that cover the time from `since_ms`.
    pub fn take(&self, since_ms: i64) -> Vec<Summary> {
        self.wanted.store(false, Ordering::Relaxed);
        let mut taken = Vec::new();
        for shard in &self.shards {
            let counted = std::mem::take(&mut *lock(shard));
            taken.extend(counted.into_values().flatten());
        }
        self.keys.fetch_sub(taken.len(), Ordering::Relaxed);
        taken.into_iter().map(|counted| Summary { counted, since_ms }).collect()
    }

    /// Puts summaries back that could not be written.
    pub fn give_back(&self, summaries: Vec<Summary>) {
        for Summary { counted, .. } in summaries {
            if !self.bump(counted.tenant, &counted.principal, counted.action, &counted.resource, counted.count, COUNT_KEYS_MAX) {
                self.bump(counted.tenant, ANY, ANY, ANY, counted.count, usize::MAX);
            }
        }
    }

    /// False when the key is new and there is no room.
    fn bump(&self, tenant: TenantId, principal: &str, action: &'static str, resource: &str, by: u64, keys_max: usize) -> bool {
        let hash = self.hasher.hash_one((tenant, principal, action, resource));
        let Some(shard) = self.shards.get(usize::try_from(hash).unwrap_or(0) % SHARDS) else { return false };
        let mut shard = lock(shard);
        let same = |counted: &&mut Counted| {
            counted.tenant == tenant && counted.action == action && *counted.principal == *principal && *counted.resource == *resource
        };
        if let Some(counted) = shard.get_mut(&hash).and_then(|alike| alike.iter_mut().find(same)) {
            counted.count = counted.count.saturating_add(by);
            return true;
        }
        if self.keys.load(Ordering::Relaxed) >= keys_max {
            return false;
        }
        self.keys.fetch_add(1, Ordering::Relaxed);
        shard.entry(hash).or_default().push(Counted { tenant, principal: principal.into(), action, resource: resource.into(), count: by });
        true
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One count, to be written.
pub struct Summary {
    counted: Counted,
    since_ms: i64,
}

impl Summary {
    /// As an event.
    pub fn event(&self) -> Event {
        let mut event = Event::new(EventClass::Data, Some(self.counted.tenant), Verdict::Allowed);
        event.principal = self.counted.principal.to_string();
        event.action = self.counted.action.to_owned();
        event.resource = self.counted.resource.to_string();
        event.count = self.counted.count;
        event.since_ms = Some(self.since_ms);
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> TenantId {
        TenantId::new(7).unwrap()
    }

    #[test]
    fn actions_are_counted_per_principal_action_and_resource() {
        let counts = Counts::default();
        for _ in 0..3 {
            counts.add(tenant(), "alice", "kafka-cluster:ReadData", "orders");
        }
        counts.add(tenant(), "bob", "kafka-cluster:ReadData", "orders");
        let mut seen: Vec<_> = counts.take(5).iter().map(Summary::event).map(|e| (e.principal, e.count, e.since_ms)).collect();
        seen.sort();
        assert_eq!(seen, [("alice".to_owned(), 3, Some(5)), ("bob".to_owned(), 1, Some(5))]);
        assert!(counts.take(6).is_empty());
    }

    #[test]
    fn more_keys_than_there_is_room_for_are_counted_under_a_star_and_ask_for_a_summary_once() {
        let counts = Counts::default();
        let asked = (0..COUNT_KEYS_MAX + 10).filter(|n| counts.add(tenant(), "p", "a", &n.to_string())).count();
        assert_eq!(asked, 1);
        let taken = counts.take(0);
        assert_eq!(taken.len(), COUNT_KEYS_MAX + 1);
        assert_eq!(taken.iter().map(|s| s.counted.count).sum::<u64>(), COUNT_KEYS_MAX as u64 + 10);
        assert_eq!(taken.iter().map(Summary::event).find(|e| e.principal == ANY).map(|e| e.count), Some(10));
    }

    #[test]
    fn summaries_given_back_are_added_to_what_came_meanwhile() {
        let counts = Counts::default();
        counts.add(tenant(), "p", "a", "r");
        let taken = counts.take(0);
        counts.add(tenant(), "p", "a", "r");
        counts.give_back(taken);
        assert_eq!(counts.take(0).iter().map(|s| s.counted.count).collect::<Vec<_>>(), [2]);
    }
}
