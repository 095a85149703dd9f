//! Epoch keys of a shard: what a tenant's sections of log entries are sealed under.
//!
//! In: keys the vault made. Out: a key whose KMS key may be used now.
//!
//! Invariants
//! - A key is used only while its KMS key's standing is usable; [`EpochKeys::forget`] and [`EpochKeys::sweep`] wipe the others.
//! - A key in use is replaced every [`RENEW_EVERY`] times the number of shards, or [`BYTES_MAX`], in the background: while the KMS gives
//!   no answer the old one goes on, as long as the vault lets it.
//! - However many shards a tenant writes to, it costs at most one call in [`RENEW_EVERY`], which is the budget of 0.2 a minute. How
//!   long a key may be used is not bounded by its age but by its KMS key's standing, and by its bytes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use schloss_core::TenantId;
use schloss_crypto::{KeyVault, Standing, WalKeys};

/// With one shard; with more, each shard's keys are older when their successors are asked for.
const RENEW_EVERY: Duration = Duration::from_secs(300);
/// After a renewal that failed.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// AES-GCM's comfortable bound is 64 GiB for a derived key; an epoch key stays far below it.
const BYTES_MAX: u64 = 32 << 30;
/// How often keys are looked through for such as may not be held any longer.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Whose key it is: a tenant, and the KMS key a topic names, if it does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    pub tenant: TenantId,
    pub key_ref: Option<Arc<str>>,
}

/// A tenant's epoch key of this shard and epoch.
pub struct EpochKey {
    pub keys: WalKeys,
    pub wrapped: Vec<u8>,
    /// The KMS key that wrapped it.
    pub key_ref: String,
    pub generation: u32,
}

struct Held {
    key: EpochKey,
    since: Instant,
    bytes: u64,
    asked: Option<Instant>,
}

/// See the head of this file.
pub struct EpochKeys {
    held: HashMap<Owner, Held>,
    generations: HashMap<TenantId, u32>,
    swept: Instant,
    renew_every: Duration,
}

impl EpochKeys {
    /// Of one of `shards` shards.
    pub fn new(shards: u32) -> Self {
        let renew_every = RENEW_EVERY.saturating_mul(shards.max(1));
        Self { held: HashMap::new(), generations: HashMap::new(), swept: Instant::now(), renew_every }
    }

    /// Whether there is a key that may be used now.
    pub fn usable(&self, owner: &Owner, vault: &dyn KeyVault) -> bool {
        self.held.get(owner).is_some_and(|held| {
            held.bytes < BYTES_MAX && vault.standing(owner.tenant.to_bytes(), &held.key.key_ref) == Standing::Usable
        })
    }

    pub fn get(&self, owner: &Owner) -> Option<&EpochKey> {
        self.held.get(owner).map(|held| &held.key)
    }

    /// The number of the tenant's next key.
    pub fn next_generation(&mut self, tenant: TenantId) -> u32 {
        let generation = self.generations.entry(tenant).or_insert(0);
        let number = *generation;
        *generation = number.saturating_add(1);
        number
    }

    pub fn put(&mut self, owner: Owner, key: EpochKey, now: Instant) {
        self.held.insert(owner, Held { key, since: now, bytes: 0, asked: None });
    }

    /// Counts what was sealed.
    pub fn sealed(&mut self, owner: &Owner, bytes: usize) {
        if let Some(held) = self.held.get_mut(owner) {
            held.bytes = held.bytes.saturating_add(bytes as u64);
        }
    }

    /// Wipes a tenant's keys.
    pub fn forget(&mut self, tenant: TenantId) {
        self.held.retain(|owner, _| owner.tenant != tenant);
    }

    /// Wipes keys that may not be used.
    pub fn sweep(&mut self, vault: &dyn KeyVault) {
        if self.swept.elapsed() < SWEEP_EVERY {
            return;
        }
        self.swept = Instant::now();
        self.held.retain(|owner, held| vault.standing(owner.tenant.to_bytes(), &held.key.key_ref) == Standing::Usable);
    }

    /// Whether a key in use is due to be replaced; says so once per try.
    pub fn due(&mut self, owner: &Owner, now: Instant) -> bool {
        let Some(held) = self.held.get_mut(owner) else { return false };
        let since = |moment| now.saturating_duration_since(moment);
        let old = since(held.since) >= self.renew_every || held.bytes >= BYTES_MAX / 2;
        let due = old && held.asked.is_none_or(|asked| since(asked) >= ASK_AGAIN);
        if due {
            held.asked = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use schloss_crypto::DataKey;

    use super::*;

    fn key(generation: u32) -> EpochKey {
        EpochKey { keys: WalKeys::new(&DataKey::generate()), wrapped: Vec::new(), key_ref: "k".to_owned(), generation }
    }

    /// Renewals of a tenant that writes to every shard once a second for `hours`, after its first keys.
    fn renewals(shards: u32, hours: u64) -> u32 {
        let owner = Owner { tenant: TenantId::new(111_111_111_111).unwrap(), key_ref: None };
        let begun = Instant::now();
        let mut all: Vec<EpochKeys> = (0..shards).map(|_| EpochKeys::new(shards)).collect();
        for keys in &mut all {
            keys.put(owner.clone(), key(0), begun);
        }
        let mut asked = 0;
        for second in 1..=hours * 3600 {
            let now = begun + Duration::from_secs(second);
            for keys in &mut all {
                if keys.due(&owner, now) {
                    asked += 1;
                    keys.put(owner.clone(), key(asked), now);
                }
            }
        }
        asked
    }

    #[test]
    fn tenant_that_writes_all_the_time_costs_at_most_a_call_in_five_minutes_however_many_shards() {
        for shards in [1, 2, 3, 16] {
            let hours = 24;
            let a_minute = f64::from(renewals(shards, hours)) / (hours * 60) as f64;
            assert!(a_minute > 0.15 && a_minute <= 0.2, "{shards} shards: {a_minute} calls a minute");
        }
    }

    #[test]
    fn renewal_that_fails_is_asked_for_again_after_ten_seconds_and_not_before() {
        let owner = Owner { tenant: TenantId::new(111_111_111_111).unwrap(), key_ref: None };
        let (mut keys, begun) = (EpochKeys::new(1), Instant::now());
        keys.put(owner.clone(), key(0), begun);
        let due: Vec<u64> = (1..=330).filter(|at| keys.due(&owner, begun + Duration::from_secs(*at))).collect();
        assert_eq!(due, [300, 310, 320, 330]);
    }
}
