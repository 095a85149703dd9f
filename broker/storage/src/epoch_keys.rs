//! Epoch keys of a shard: what a tenant's sections of log entries are sealed under.
//!
//! In: keys the vault made. Out: a key whose KMS key may be used now.
//!
//! Invariants
//! - A key is used only while its KMS key's standing is usable; [`EpochKeys::forget`] and [`EpochKeys::sweep`] wipe the others.
//! - A key in use is replaced every [`RENEW_EVERY`] or [`BYTES_MAX`], in the background: while the KMS gives no answer the old one
//!   goes on, as long as the vault lets it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use schloss_core::TenantId;
use schloss_crypto::{KeyVault, Standing, WalKeys};

/// Half an epoch key's life of ten minutes: then its successor is asked for, if the tenant writes.
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
}

impl EpochKeys {
    pub fn new() -> Self {
        Self { held: HashMap::new(), generations: HashMap::new(), swept: Instant::now() }
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

    pub fn put(&mut self, owner: Owner, key: EpochKey) {
        self.held.insert(owner, Held { key, since: Instant::now(), bytes: 0, asked: None });
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
    pub fn due(&mut self, owner: &Owner) -> bool {
        let Some(held) = self.held.get_mut(owner) else { return false };
        let old = held.since.elapsed() >= RENEW_EVERY || held.bytes >= BYTES_MAX / 2;
        let due = old && held.asked.is_none_or(|asked| asked.elapsed() >= ASK_AGAIN);
        if due {
            held.asked = Some(Instant::now());
        }
        due
    }
}
