//! The broker's [`KeyVault`]: tenant → KMS keys, cache, one call in flight per key, key-use events, verdicts.
//!
//! Invariants
//! - At most `cached_keys_max` plain keys. None is served unless its KMS key's [`Standing`] is usable: proved within
//!   `proof_age_max` by any successful call, or unreachable and proved within the grace.
//! - A denial of a tenant's current key drops all cached keys of that tenant, a denial of another of its keys those that
//!   one opened; never another tenant's. Who holds on to opened keys is told at once ([`KeyWatch`]).
//! - A key is handed out only after its use was recorded. Keys of [`Purpose::Audit`] are the exception: the audit log cannot record
//!   before it is open, and records their use itself once it is. Probes that find nothing new are no use: they hand out nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use schloss_crypto::{DataKey, Denial, EncryptionContext, KeyError, KeyVault, Outage, Purpose, Standing, WrappedKey};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use crate::cache::{Cache, CacheKey};
use crate::key_use::{KeyOperation, KeyOutcome, KeyUse, KeyUseSink};
use crate::measured::{Calls, Measured};
use crate::provider::Kms;
use crate::retry::Retry;
use crate::seen::{Seen, TenantKeyState};

/// A wrapping key: which provider, and its name there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyName {
    /// For example `local` or `aws`.
    pub provider: String,
    /// For example `local:111122223333` or an ARN.
    pub key_ref: String,
}

/// The KMS keys of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantKeys {
    /// Wraps new data keys.
    pub current: KeyName,
    /// May still open old ones, and wrap where a topic names them.
    pub others: Vec<KeyName>,
    /// Instead of the vault's `outage_grace`.
    pub outage_grace: Option<Duration>,
}

/// Bounds of the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VaultConfig {
    /// Plain data keys held at once.
    pub cached_keys_max: usize,
    /// Age of the last KMS proof after which a KMS key is proved again before anything it opened is used.
    pub proof_age_max: Duration,
    /// Age of the last proof up to which keys serve on while the KMS gives no answer.
    pub outage_grace: Duration,
    /// Deadline of one KMS call, all tries together.
    pub call_timeout: Duration,
    /// A denial is repeated from memory this long, so that clients' retries do not become KMS calls.
    pub denial_memory: Duration,
    /// The same for an outage.
    pub outage_memory: Duration,
}

impl Default for VaultConfig {
    fn default() -> Self {
        Self {
            cached_keys_max: 4096,
            proof_age_max: Duration::from_secs(5 * 60),
            outage_grace: Duration::from_secs(15 * 60),
            call_timeout: Duration::from_secs(10),
            denial_memory: Duration::from_secs(5),
            outage_memory: Duration::from_secs(1),
        }
    }
}

/// Deadline of one probe: shorter than a call's, so that a round of them stays within its bound.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Probes under way at once.
const PROBES_MAX: usize = 64;

/// Counters since start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KmsStats {
    /// GenerateDataKey calls; every try counts, here and below.
    pub generate_calls: u64,
    /// Decrypt calls.
    pub decrypt_calls: u64,
    /// ReEncrypt calls.
    pub re_encrypt_calls: u64,
    /// DescribeKey calls.
    pub describe_calls: u64,
    /// Calls that only asked whether a key may be used.
    pub probe_calls: u64,
    /// Calls refused by the KMS.
    pub denied: u64,
    /// Calls without an answer.
    pub unreachable: u64,
    /// Nanoseconds in calls.
    pub call_nanos: u64,
    /// Keys served without a call.
    pub cache_hits: u64,
    /// Keys served past their age because the KMS gave no answer.
    pub grace_hits: u64,
    /// Plain keys held now.
    pub cached_keys: u64,
}

/// Told at once when what is known of a key changes. Must not block.
pub trait KeyWatch: Send + Sync {
    /// The tenant's current KMS key is seen otherwise than before.
    fn state_changed(&self, tenant: [u8; 16], key: &KeyName, state: TenantKeyState);

    /// What this KMS key opened must be dropped now: it was denied, or not proved for too long.
    fn wipe(&self, tenant: [u8; 16], key: &KeyName);
}

/// What [`Vault::describe`] tells of one KMS key of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyReport {
    /// The key.
    pub name: KeyName,
    /// Wraps what is new.
    pub current: bool,
    /// As it was last seen.
    pub state: TenantKeyState,
    /// For how long.
    pub since: Option<Duration>,
}

type Known = HashMap<([u8; 16], KeyName), Seen>;

/// See the head of this file.
pub struct Vault {
    config: VaultConfig,
    providers: HashMap<&'static str, Arc<dyn Kms>>,
    tenants: Mutex<HashMap<[u8; 16], TenantKeys>>,
    seen: Mutex<Known>,
    cache: Mutex<Cache>,
    in_flight: Mutex<HashMap<CacheKey, Arc<AsyncMutex<()>>>>,
    sink: OnceLock<Arc<dyn KeyUseSink>>,
    watch: OnceLock<Arc<dyn KeyWatch>>,
    calls: Arc<Calls>,
    cache_hits: AtomicU64,
    grace_hits: AtomicU64,
}

impl Vault {
    /// A vault over `providers`, each behind the layers of retries and measuring. Until [`Vault::attach_sink`] only the audit
    /// log's own keys are given.
    #[must_use]
    pub fn new(config: VaultConfig, providers: Vec<Arc<dyn Kms>>, tenants: HashMap<[u8; 16], TenantKeys>) -> Arc<Self> {
        let calls = Arc::new(Calls::default());
        let layered = |inner: Arc<dyn Kms>| -> Arc<dyn Kms> {
            let measured = Measured { inner, calls: Arc::clone(&calls) };
            Arc::new(Retry::new(Arc::new(measured), config.call_timeout / 2))
        };
        Arc::new(Self {
            config,
            providers: providers.into_iter().map(|kms| (kms.provider(), layered(kms))).collect(),
            tenants: Mutex::new(tenants),
            seen: Mutex::default(),
            cache: Mutex::new(Cache::new(config.cached_keys_max)),
            in_flight: Mutex::default(),
            sink: OnceLock::new(),
            watch: OnceLock::new(),
            calls,
            cache_hits: AtomicU64::new(0),
            grace_hits: AtomicU64::new(0),
        })
    }

    /// Says who records key uses. The first call counts; later ones change nothing.
    pub fn attach_sink(&self, sink: Arc<dyn KeyUseSink>) {
        let _ = self.sink.set(sink);
    }

    /// Says who is told of changes. The first call counts; later ones change nothing.
    pub fn attach_watch(&self, watch: Arc<dyn KeyWatch>) {
        let _ = self.watch.set(watch);
    }

    /// Replaces the map of tenants' keys (an organisation was reloaded). What keys opened that are a tenant's no more is wiped.
    pub fn set_tenants(&self, tenants: HashMap<[u8; 16], TenantKeys>) {
        *lock(&self.tenants) = tenants.clone();
        let gone: Vec<([u8; 16], KeyName)> = lock(&self.seen)
            .keys()
            .filter(|(tenant, name)| !tenants.get(tenant).is_some_and(|keys| keys.has(name)))
            .cloned()
            .collect();
        for (tenant, name) in gone {
            lock(&self.seen).remove(&(tenant, name.clone()));
            self.wipe(tenant, &name);
        }
    }

    /// Counters and the number of cached keys.
    #[must_use]
    pub fn stats(&self) -> KmsStats {
        KmsStats {
            generate_calls: self.calls.generate.load(Relaxed),
            decrypt_calls: self.calls.decrypt.load(Relaxed),
            re_encrypt_calls: self.calls.re_encrypt.load(Relaxed),
            describe_calls: self.calls.describe.load(Relaxed),
            probe_calls: self.calls.probe.load(Relaxed),
            denied: self.calls.denied.load(Relaxed),
            unreachable: self.calls.unreachable.load(Relaxed),
            call_nanos: self.calls.nanos.load(Relaxed),
            cache_hits: self.cache_hits.load(Relaxed),
            grace_hits: self.grace_hits.load(Relaxed),
            cached_keys: lock(&self.cache).len() as u64,
        }
    }

    /// How a tenant's current key was last seen.
    #[must_use]
    pub fn tenant_state(&self, tenant: [u8; 16]) -> TenantKeyState {
        let Ok(name) = self.current(tenant) else { return TenantKeyState::Denied(Denial::NoKeyConfigured) };
        lock(&self.seen).get(&(tenant, name)).map_or(TenantKeyState::Unproved, |seen| seen.state)
    }

    /// All KMS keys of a tenant as they were last seen. Calls nothing.
    #[must_use]
    pub fn describe(&self, tenant: [u8; 16]) -> Vec<KeyReport> {
        let Some(keys) = lock(&self.tenants).get(&tenant).cloned() else { return Vec::new() };
        let seen = lock(&self.seen);
        let report = |name: KeyName, current| {
            let known = seen.get(&(tenant, name.clone()));
            let state = known.map_or(TenantKeyState::Unproved, |seen| seen.state);
            KeyReport { name, current, state, since: known.map(|seen| seen.since.elapsed()) }
        };
        let current = report(keys.current, true);
        std::iter::once(current).chain(keys.others.into_iter().map(|name| report(name, false))).collect()
    }

    /// Whether a key reference is one of the tenant's.
    #[must_use]
    pub fn is_key_of(&self, tenant: [u8; 16], key_ref: &str) -> bool {
        lock(&self.tenants).get(&tenant).is_some_and(|keys| keys.all().any(|name| name.key_ref == key_ref))
    }

    /// The standing of a tenant's current key.
    #[must_use]
    pub fn tenant_standing(&self, tenant: [u8; 16]) -> Standing {
        self.current(tenant).map_or(Standing::Stopped, |name| self.standing_of(tenant, &name))
    }

    /// Asks the KMS about keys used within `every` whose last verdict is older than half of that, and wipes what was opened
    /// by keys not proved for too long. Called every third of `every`, it bounds how late a disabled key is noticed by `every`.
    pub async fn probe(&self, every: Duration) {
        let due: Vec<([u8; 16], KeyName)> = lock(&self.seen)
            .iter()
            .filter(|(_, seen)| seen.used.elapsed() <= every && seen.learnt.elapsed() >= every / 2)
            .map(|(id, _)| id.clone())
            .collect();
        let asked = due.into_iter().map(|(tenant, name)| async move {
            let _ = self.prove(tenant, &name).await;
        });
        futures::stream::iter(asked).buffer_unordered(PROBES_MAX).collect::<()>().await;
        self.expire();
    }

    /// Wipes what was opened by keys that may not be used now without asking.
    fn expire(&self) {
        let known: Vec<([u8; 16], KeyName)> =
            lock(&self.seen).iter().filter(|(_, seen)| !seen.wiped).map(|(id, _)| id.clone()).collect();
        for (tenant, name) in known {
            if self.standing_of(tenant, &name) != Standing::Usable {
                self.wipe(tenant, &name);
            }
        }
    }

    /// Asks the KMS about one tenant's current key now.
    ///
    /// # Errors
    /// What the KMS said; a denial has then already wiped the tenant's keys.
    pub async fn probe_tenant(&self, tenant: [u8; 16]) -> Result<(), KeyError> {
        let name = self.current(tenant)?;
        self.prove(tenant, &name).await
    }

    /// Opens a key that seals nothing. DescribeKey would not do: it is allowed to many who may not decrypt.
    async fn prove(&self, tenant: [u8; 16], name: &KeyName) -> Result<(), KeyError> {
        let context = EncryptionContext { cluster: [0; 16], tenant, purpose: Purpose::Probe };
        let kms = self.provider(name)?;
        let id = (tenant, name.clone());
        let blob = lock(&self.seen).get(&id).and_then(|seen| seen.probe.clone());
        let begun = Instant::now();
        let deadline = PROBE_TIMEOUT.min(self.config.call_timeout);
        let result = match &blob {
            Some(blob) => within(deadline, name, kms.decrypt(&name.key_ref, blob, &context)).await.map(|_| None),
            None => {
                within(deadline, name, kms.generate_data_key(&name.key_ref, &context)).await.map(|(_, blob)| Some(blob))
            }
        };
        let before = lock(&self.seen).get(&id).map(|seen| seen.state);
        self.learn(tenant, name, begun, &result, false);
        if let Some(seen) = lock(&self.seen).get_mut(&id) {
            match &result {
                Ok(Some(fresh)) => seen.probe = Some(fresh.clone()),
                // A blob the KMS does not know as its own says nothing about the key: ask with another next time.
                Err(KeyError::Corrupt { .. } | KeyError::ContextMismatch) => seen.probe = None,
                _ => {}
            }
        }
        // Probes that only confirm what is known are no news; a change is.
        if before != lock(&self.seen).get(&id).map(|seen| seen.state) {
            let operation = if blob.is_some() { KeyOperation::Decrypt } else { KeyOperation::GenerateDataKey };
            self.record(tenant, name, operation, Some(context.purpose), KeyOutcome::of(&result)).await?;
        }
        result.map(drop)
    }

    async fn call_open(
        &self,
        context: &EncryptionContext,
        wrapped: &WrappedKey,
        id: CacheKey,
    ) -> Result<Arc<DataKey>, KeyError> {
        let name = self.allowed(context.tenant, wrapped)?;
        let result = match self.refuse_if_just_refused(context.tenant, &name) {
            Err(remembered) => Err(remembered),
            Ok(()) => {
                let kms = self.provider(&name)?;
                let begun = Instant::now();
                let call = kms.decrypt(&name.key_ref, &wrapped.blob, context);
                let result = within(self.config.call_timeout, &name, call).await;
                self.settle(context, &name, KeyOperation::Decrypt, begun, &result).await?;
                result
            }
        };
        match result {
            Ok(key) => {
                let key = Arc::new(key);
                lock(&self.cache).put(id, &name.key_ref, Arc::clone(&key));
                Ok(key)
            }
            Err(error @ KeyError::Unreachable { .. }) => {
                let held = lock(&self.cache).find(&id);
                let held = held.filter(|_| self.standing_of(context.tenant, &name) == Standing::Usable);
                if held.is_some() {
                    self.grace_hits.fetch_add(1, Relaxed);
                }
                held.ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Learns from the outcome, then records it; an outcome that is not recorded becomes an error.
    async fn settle<T>(
        &self,
        context: &EncryptionContext,
        name: &KeyName,
        operation: KeyOperation,
        begun: Instant,
        result: &Result<T, KeyError>,
    ) -> Result<(), KeyError> {
        self.learn(context.tenant, name, begun, result, true);
        if matches!(context.purpose, Purpose::Audit) {
            return Ok(());
        }
        self.record(context.tenant, name, operation, Some(context.purpose), KeyOutcome::of(result)).await
    }

    async fn record(
        &self,
        tenant: [u8; 16],
        name: &KeyName,
        operation: KeyOperation,
        purpose: Option<Purpose>,
        outcome: KeyOutcome,
    ) -> Result<(), KeyError> {
        let not_recorded = || KeyError::Unreachable { key_ref: name.key_ref.clone(), why: Outage::NotRecorded };
        let sink = self.sink.get().ok_or_else(not_recorded)?;
        let event = KeyUse { tenant, key_ref: name.key_ref.clone(), operation, purpose, outcome };
        sink.key_used(event).await.map_err(|_| not_recorded())
    }

    fn learn<T>(&self, tenant: [u8; 16], name: &KeyName, begun: Instant, result: &Result<T, KeyError>, used: bool) {
        let state = match result {
            Ok(_) => TenantKeyState::Proved,
            Err(KeyError::Denied { why, .. }) => TenantKeyState::Denied(*why),
            Err(KeyError::Unreachable { why, .. }) => TenantKeyState::Unreachable(*why),
            // One bad wrapped key says nothing about the KMS key.
            Err(KeyError::Corrupt { .. } | KeyError::ContextMismatch) => return,
        };
        let now = Instant::now();
        let changed = {
            let mut seen = lock(&self.seen);
            let entry = seen.entry((tenant, name.clone())).or_insert_with(|| Seen::new(now));
            let changed = entry.state != state;
            if changed {
                entry.since = now;
            }
            entry.state = state;
            entry.learnt = now;
            if state == TenantKeyState::Proved {
                // From before the question: what it proves is no younger.
                entry.proved = Some(begun);
                entry.wiped = false;
            }
            if used {
                entry.used = now;
            }
            changed
        };
        if self.standing_of(tenant, name) == Standing::Stopped {
            self.wipe(tenant, name);
        }
        if changed
            && self.current(tenant).is_ok_and(|current| current == *name)
            && let Some(watch) = self.watch.get()
        {
            watch.state_changed(tenant, name, state);
        }
    }

    /// A denial of the current key takes everything of the tenant with it.
    fn wipe(&self, tenant: [u8; 16], name: &KeyName) {
        let whole = self.current(tenant).is_ok_and(|current| current == *name)
            && matches!(self.tenant_state(tenant), TenantKeyState::Denied(_));
        lock(&self.cache).forget(tenant, (!whole).then_some(name.key_ref.as_str()));
        if let Some(seen) = lock(&self.seen).get_mut(&(tenant, name.clone())) {
            seen.wiped = true;
        }
        if let Some(watch) = self.watch.get() {
            watch.wipe(tenant, name);
        }
    }

    /// Forgets what is known of a tenant's other keys and wipes what they opened: after a re-wrap nothing needs them, and they are
    /// not to be asked for any more. What does need one proves it anew.
    pub fn retire_others(&self, tenant: [u8; 16]) {
        let Ok(current) = self.current(tenant) else { return };
        let others: Vec<KeyName> = lock(&self.seen)
            .keys()
            .filter(|(owner, name)| *owner == tenant && *name != current)
            .map(|(_, name)| name.clone())
            .collect();
        for name in others {
            lock(&self.seen).remove(&(tenant, name.clone()));
            self.wipe(tenant, &name);
        }
    }

    /// Says that a tenant is in use, for rooms that hold on to an opened key: only keys in use are probed.
    pub fn mark_used(&self, tenant: [u8; 16]) {
        let Ok(name) = self.current(tenant) else { return };
        if let Some(seen) = lock(&self.seen).get_mut(&(tenant, name)) {
            seen.used = Instant::now();
        }
    }

    fn refuse_if_just_refused(&self, tenant: [u8; 16], name: &KeyName) -> Result<(), KeyError> {
        let key_ref = || name.key_ref.clone();
        match lock(&self.seen).get(&(tenant, name.clone())) {
            Some(Seen { state: TenantKeyState::Denied(why), learnt, .. })
                if learnt.elapsed() < self.config.denial_memory =>
            {
                Err(KeyError::Denied { key_ref: key_ref(), why: *why })
            }
            Some(Seen { state: TenantKeyState::Unreachable(why), learnt, .. })
                if learnt.elapsed() < self.config.outage_memory =>
            {
                Err(KeyError::Unreachable { key_ref: key_ref(), why: *why })
            }
            _ => Ok(()),
        }
    }

    fn standing_of(&self, tenant: [u8; 16], name: &KeyName) -> Standing {
        let grace =
            lock(&self.tenants).get(&tenant).and_then(|keys| keys.outage_grace).unwrap_or(self.config.outage_grace);
        let now = Instant::now();
        lock(&self.seen)
            .get(&(tenant, name.clone()))
            .map_or(Standing::Stale, |seen| seen.standing(now, self.config.proof_age_max, grace))
    }

    fn current(&self, tenant: [u8; 16]) -> Result<KeyName, KeyError> {
        lock(&self.tenants)
            .get(&tenant)
            .map(|keys| keys.current.clone())
            .ok_or(KeyError::Denied { key_ref: "none".to_owned(), why: Denial::NoKeyConfigured })
    }

    /// The key to wrap under: the current one, or the one asked for if it is the tenant's.
    fn wrapping(&self, tenant: [u8; 16], key_ref: Option<&str>) -> Result<KeyName, KeyError> {
        let Some(key_ref) = key_ref else { return self.current(tenant) };
        let tenants = lock(&self.tenants);
        let own = tenants.get(&tenant).and_then(|keys| keys.all().find(|name| name.key_ref == key_ref).cloned());
        own.ok_or_else(|| KeyError::Denied { key_ref: key_ref.to_owned(), why: Denial::NoKeyConfigured })
    }

    /// SECURITY: the name in a stored row is a claim. Only keys configured for this tenant are ever asked, so a row cannot make us
    /// call somebody else's key.
    fn allowed(&self, tenant: [u8; 16], wrapped: &WrappedKey) -> Result<KeyName, KeyError> {
        let claimed = KeyName { provider: wrapped.provider.clone(), key_ref: wrapped.key_ref.clone() };
        if lock(&self.tenants).get(&tenant).is_some_and(|keys| keys.has(&claimed)) {
            Ok(claimed)
        } else {
            Err(KeyError::Denied { key_ref: claimed.key_ref, why: Denial::NoKeyConfigured })
        }
    }

    fn provider(&self, name: &KeyName) -> Result<Arc<dyn Kms>, KeyError> {
        self.providers
            .get(name.provider.as_str())
            .cloned()
            .ok_or_else(|| KeyError::Denied { key_ref: name.key_ref.clone(), why: Denial::NoKeyConfigured })
    }

    /// A cached key whose KMS key may be used.
    fn cached(&self, name: &KeyName, id: &CacheKey) -> Option<Arc<DataKey>> {
        let tenant = id.context.tenant;
        if self.standing_of(tenant, name) != Standing::Usable {
            return None;
        }
        let key = lock(&self.cache).find(id)?;
        self.cache_hits.fetch_add(1, Relaxed);
        if let Some(seen) = lock(&self.seen).get_mut(&(tenant, name.clone())) {
            seen.used = Instant::now();
        }
        Some(key)
    }
}

impl TenantKeys {
    /// One key and nothing special.
    #[must_use]
    pub fn only(current: KeyName) -> Self {
        Self { current, others: Vec::new(), outage_grace: None }
    }

    fn all(&self) -> impl Iterator<Item = &KeyName> {
        std::iter::once(&self.current).chain(&self.others)
    }

    fn has(&self, name: &KeyName) -> bool {
        self.all().any(|own| own == name)
    }
}

#[async_trait::async_trait]
impl KeyVault for Vault {
    async fn generate_under(
        &self,
        context: &EncryptionContext,
        key_ref: Option<&str>,
    ) -> Result<(Arc<DataKey>, WrappedKey), KeyError> {
        let name = self.wrapping(context.tenant, key_ref)?;
        self.refuse_if_just_refused(context.tenant, &name)?;
        let kms = self.provider(&name)?;
        let begun = Instant::now();
        let call = kms.generate_data_key(&name.key_ref, context);
        let result = within(self.config.call_timeout, &name, call).await;
        self.settle(context, &name, KeyOperation::GenerateDataKey, begun, &result).await?;
        let (key, blob) = result?;
        let key = Arc::new(key);
        lock(&self.cache).put(CacheKey::new(context, &blob), &name.key_ref, Arc::clone(&key));
        Ok((key, WrappedKey { provider: name.provider, key_ref: name.key_ref, blob }))
    }

    async fn open(&self, context: &EncryptionContext, wrapped: &WrappedKey) -> Result<Arc<DataKey>, KeyError> {
        let id = CacheKey::new(context, &wrapped.blob);
        let name = self.allowed(context.tenant, wrapped)?;
        if let Some(key) = self.cached(&name, &id) {
            return Ok(key);
        }
        let gate = Arc::clone(lock(&self.in_flight).entry(id).or_default());
        let result = {
            let _one_at_a_time = gate.lock().await;
            match self.cached(&name, &id) {
                Some(key) => Ok(key),
                None => self.call_open(context, wrapped, id).await,
            }
        };
        let mut in_flight = lock(&self.in_flight);
        // The map's reference and ours: nobody waits.
        if Arc::strong_count(&gate) <= 2 {
            in_flight.remove(&id);
        }
        drop(in_flight);
        result
    }

    // The provider must be the same: no KMS re-encrypts for another.
    async fn rewrap(
        &self,
        context: &EncryptionContext,
        wrapped: &WrappedKey,
        key_ref: Option<&str>,
    ) -> Result<Option<WrappedKey>, KeyError> {
        let from = self.allowed(context.tenant, wrapped)?;
        let to = self.wrapping(context.tenant, key_ref)?;
        if from == to {
            return Ok(None);
        }
        if from.provider != to.provider {
            return Err(KeyError::Denied { key_ref: to.key_ref, why: Denial::NoKeyConfigured });
        }
        let kms = self.provider(&to)?;
        let begun = Instant::now();
        let call = kms.re_encrypt(&from.key_ref, &wrapped.blob, &to.key_ref, context);
        let result = within(self.config.call_timeout, &to, call).await;
        // Success proves the key. A refusal is of re-encrypting, by one key or the other: it says nothing about opening and
        // must stop nobody.
        if result.is_ok() {
            self.learn(context.tenant, &to, begun, &result, true);
        }
        let outcome = KeyOutcome::of(&result);
        self.record(context.tenant, &to, KeyOperation::ReEncrypt, Some(context.purpose), outcome).await?;
        let blob = result?;
        Ok(Some(WrappedKey { provider: to.provider, key_ref: to.key_ref, blob }))
    }

    fn standing(&self, tenant: [u8; 16], key_ref: &str) -> Standing {
        if self.tenant_standing(tenant) == Standing::Stopped {
            return Standing::Stopped;
        }
        self.wrapping(tenant, Some(key_ref)).map_or(Standing::Stopped, |name| self.standing_of(tenant, &name))
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("config", &self.config).finish_non_exhaustive()
    }
}

async fn within<T>(
    deadline: Duration,
    name: &KeyName,
    call: impl Future<Output = Result<T, KeyError>>,
) -> Result<T, KeyError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(result) => result,
        Err(_) => Err(KeyError::Unreachable { key_ref: name.key_ref.clone(), why: Outage::NoAnswer }),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
