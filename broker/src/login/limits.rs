//! How many connections and how many logins a second: in all, per address, tenant and principal; and how long a refusal
//! is held back.
//!
//! Invariants
//! - Every table has a bound. A full table of rates forgets the keys that have their whole allowance, then refuses new ones.
//! - A place is given back when its connection ends.
//! - A refusal waits before it is told: longer after each further one from the same address, up to [`DELAY_MAX`].

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schloss_core::TenantId;

use crate::config::LoginConfig;

/// Keys of one table.
const KEYS_MAX: usize = 100_000;
/// A key may use this many seconds of its rate at once, after being quiet.
const BURST_SECONDS: i64 = 2;
/// The longest a refusal is held back. Clients wait 10 s and more for an answer.
const DELAY_MAX: Duration = Duration::from_secs(5);
/// Failures are forgotten by half in this time.
const FORGET_MS: i64 = 10_000;

/// Why not now; the words are for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    /// `max.connections.per.tenant`.
    #[error("the tenant has max.connections.per.tenant connections")]
    TenantConnections,
    /// `max.connections.per.principal`.
    #[error("the principal has max.connections.per.principal connections")]
    PrincipalConnections,
    /// `max.login.rate.per.tenant`.
    #[error("the tenant logs in faster than max.login.rate.per.tenant")]
    TenantRate,
    /// `max.login.rate.per.principal`.
    #[error("the principal logs in faster than max.login.rate.per.principal")]
    PrincipalRate,
}

/// A bucket that fills with `rate` tokens a second.
#[derive(Debug)]
struct Rates<K> {
    rate: i64,
    buckets: HashMap<K, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// In thousandths of a token.
    level: i64,
    at_ms: i64,
}

impl<K: Hash + Eq + Clone> Rates<K> {
    fn new(rate: u32) -> Self {
        Self { rate: i64::from(rate), buckets: HashMap::new() }
    }

    fn full(&self) -> i64 {
        self.rate.saturating_mul(1000).saturating_mul(BURST_SECONDS)
    }

    fn level(&self, bucket: Bucket, now_ms: i64) -> i64 {
        let passed = now_ms.saturating_sub(bucket.at_ms).max(0);
        bucket.level.saturating_add(passed.saturating_mul(self.rate)).min(self.full())
    }

    fn take(&mut self, key: &K, now_ms: i64) -> bool {
        if self.buckets.len() >= KEYS_MAX && !self.buckets.contains_key(key) {
            let full = self.full();
            let (rate, buckets) = (self.rate, &mut self.buckets);
            buckets.retain(|_, bucket| {
                let passed = now_ms.saturating_sub(bucket.at_ms).max(0);
                bucket.level.saturating_add(passed.saturating_mul(rate)) < full
            });
            if self.buckets.len() >= KEYS_MAX {
                return false;
            }
        }
        let bucket = self.buckets.get(key).copied().unwrap_or(Bucket { level: self.full(), at_ms: now_ms });
        let level = self.level(bucket, now_ms);
        let taken = level >= 1000;
        let level = if taken { level.saturating_sub(1000) } else { level };
        self.buckets.insert(key.clone(), Bucket { level, at_ms: now_ms });
        taken
    }
}

/// Open connections.
#[derive(Debug, Default)]
struct Open {
    tenants: HashMap<TenantId, usize>,
    principals: HashMap<(TenantId, String), usize>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    at_ms: i64,
}

/// All counters.
#[derive(Debug)]
pub struct Limits {
    per_tenant_max: usize,
    per_principal_max: usize,
    failure_delay: Duration,
    open: Arc<Mutex<Open>>,
    connections: Mutex<Rates<()>>,
    addresses: Mutex<Rates<IpAddr>>,
    tenants: Mutex<Rates<TenantId>>,
    principals: Mutex<Rates<(TenantId, String)>>,
    failures: Mutex<HashMap<(IpAddr, Option<TenantId>), Failures>>,
}

/// One connection's place among its tenant's and its principal's; given back when dropped.
#[derive(Debug)]
pub struct LoginSlot {
    open: Arc<Mutex<Open>>,
    tenant: TenantId,
    principal: String,
}

impl Limits {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(config: &LoginConfig) -> Self {
        Self {
            per_tenant_max: config.connections_per_tenant_max,
            per_principal_max: config.connections_per_principal_max,
            failure_delay: config.failure_delay,
            open: Arc::default(),
            connections: Mutex::new(Rates::new(config.connection_rate)),
            addresses: Mutex::new(Rates::new(config.connection_rate_per_ip)),
            tenants: Mutex::new(Rates::new(config.login_rate_per_tenant)),
            principals: Mutex::new(Rates::new(config.login_rate_per_principal)),
            failures: Mutex::default(),
        }
    }

    /// A new TCP connection, before its handshake.
    ///
    /// # Errors
    /// The limit's config key.
    pub fn connect(&self, address: IpAddr, now_ms: i64) -> Result<(), &'static str> {
        if !lock(&self.addresses).take(&address.to_canonical(), now_ms) {
            return Err("max.connection.creation.rate.per.ip");
        }
        if lock(&self.connections).take(&(), now_ms) { Ok(()) } else { Err("max.connection.creation.rate") }
    }

    /// A login that was proved, the first of its connection or a further one.
    ///
    /// # Errors
    /// [`Limit::TenantRate`], [`Limit::PrincipalRate`].
    pub fn rate(&self, tenant: TenantId, principal: &str, now_ms: i64) -> Result<(), Limit> {
        if !lock(&self.tenants).take(&tenant, now_ms) {
            return Err(Limit::TenantRate);
        }
        let key = (tenant, principal.to_owned());
        if lock(&self.principals).take(&key, now_ms) { Ok(()) } else { Err(Limit::PrincipalRate) }
    }

    /// The first login of a connection, that was proved.
    ///
    /// # Errors
    /// [`Limit`].
    pub fn admit(&self, tenant: TenantId, principal: &str, now_ms: i64) -> Result<LoginSlot, Limit> {
        self.rate(tenant, principal, now_ms)?;
        let key = (tenant, principal.to_owned());
        let mut open = lock(&self.open);
        if open.tenants.get(&tenant).copied().unwrap_or(0) >= self.per_tenant_max {
            return Err(Limit::TenantConnections);
        }
        if open.principals.get(&key).copied().unwrap_or(0) >= self.per_principal_max {
            return Err(Limit::PrincipalConnections);
        }
        let one_more = |count: &mut usize| *count = count.saturating_add(1);
        one_more(open.tenants.entry(tenant).or_insert(0));
        one_more(open.principals.entry(key).or_insert(0));
        Ok(LoginSlot { open: Arc::clone(&self.open), tenant, principal: principal.to_owned() })
    }

    /// How long a refusal is to be held back; each one counts.
    pub fn failed(&self, address: IpAddr, tenant: Option<TenantId>, now_ms: i64) -> Duration {
        let mut failures = lock(&self.failures);
        if failures.len() >= KEYS_MAX {
            failures.retain(|_, failures| now_ms.saturating_sub(failures.at_ms) < FORGET_MS);
            if failures.len() >= KEYS_MAX {
                return DELAY_MAX;
            }
        }
        let entry = failures.entry((address.to_canonical(), tenant)).or_insert(Failures { count: 0, at_ms: now_ms });
        let halves = now_ms.saturating_sub(entry.at_ms).max(0).checked_div(FORGET_MS).unwrap_or(0);
        let count = entry.count.checked_shr(u32::try_from(halves).unwrap_or(u32::MAX)).unwrap_or(0).saturating_add(1);
        *entry = Failures { count, at_ms: now_ms };
        let factor = 1_u32.checked_shl(count.saturating_sub(1).min(16)).unwrap_or(u32::MAX);
        self.failure_delay.saturating_mul(factor).min(DELAY_MAX)
    }
}

impl Drop for LoginSlot {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        let Open { tenants, principals } = &mut *open;
        give_back(tenants, &self.tenant);
        give_back(principals, &(self.tenant, std::mem::take(&mut self.principal)));
    }
}

fn give_back<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            per_tenant_max: 3,
            per_principal_max: 2,
            failure_delay: Duration::from_millis(100),
            open: Arc::default(),
            connections: Mutex::new(Rates::new(1000)),
            addresses: Mutex::new(Rates::new(5)),
            tenants: Mutex::new(Rates::new(100)),
            principals: Mutex::new(Rates::new(100)),
            failures: Mutex::default(),
        }
    }

    fn tenant(number: u64) -> TenantId {
        TenantId::new(number).unwrap()
    }

    #[test]
    fn places_are_counted_by_tenant_and_principal_and_given_back() {
        let limits = limits();
        let held: Vec<_> = (0..2).map(|_| limits.admit(tenant(1), "a", 0).unwrap()).collect();
        assert_eq!(limits.admit(tenant(1), "a", 0).unwrap_err(), Limit::PrincipalConnections);
        let third = limits.admit(tenant(1), "b", 0).unwrap();
        assert_eq!(limits.admit(tenant(1), "c", 0).unwrap_err(), Limit::TenantConnections);
        assert!(limits.admit(tenant(2), "a", 0).is_ok());
        drop((held, third));
        assert!(limits.admit(tenant(1), "a", 0).is_ok());
        assert!(lock(&limits.open).principals.is_empty());
    }

    #[test]
    fn address_that_connects_too_fast_is_refused_until_time_passes_and_others_are_not() {
        let limits = limits();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let taken = (0..100).filter(|_| limits.connect(one, 0).is_ok()).count();
        assert_eq!(taken, 10, "two seconds' worth at once");
        assert_eq!(limits.connect(one, 0), Err("max.connection.creation.rate.per.ip"));
        assert!(limits.connect(other, 0).is_ok());
        assert!(limits.connect(one, 200).is_ok());
        assert!(limits.connect(one, 200).is_err());
    }

    #[test]
    fn delay_of_refusals_doubles_up_to_its_bound_and_is_forgotten() {
        let limits = limits();
        let address = IpAddr::from([10, 0, 0, 1]);
        let delays: Vec<_> = (0..4).map(|_| limits.failed(address, None, 0).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800]);
        for _ in 0..20 {
            assert!(limits.failed(address, None, 0) <= DELAY_MAX);
        }
        assert_eq!(limits.failed(IpAddr::from([10, 0, 0, 2]), None, 0).as_millis(), 100);
        assert_eq!(limits.failed(address, None, 10 * FORGET_MS).as_millis(), 100);
    }

    #[test]
    fn full_table_of_rates_forgets_who_is_quiet_and_then_refuses() {
        let mut rates = Rates::new(1);
        for key in 0..KEYS_MAX {
            assert!(rates.take(&key, 0));
        }
        assert!(!rates.take(&KEYS_MAX, 0));
        assert!(rates.take(&KEYS_MAX, 10_000));
    }
}
