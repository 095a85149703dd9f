//! The broker's [`KeyVault`]: tenant → KMS key, cache, one call in flight per key, key-use events, verdicts.
//!
//! Invariants
//! - At most `cached_keys_max` plain keys; none is served longer than `proof_age_max` after its last KMS proof, or
//!   `outage_grace` while the KMS gives no answer.
//! - A denial drops all cached keys of that tenant, and of that tenant only.
//! - A key is handed out only after its use was recorded. Keys of [`Purpose::Audit`] are the exception: the audit log cannot record
//!   before it is open, and records their use itself once it is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use schloss_crypto::{DataKey, Denial, EncryptionContext, KeyError, KeyVault, Outage, Purpose, WrappedKey};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use crate::cache::{Cache, CacheKey};
use crate::key_use::{KeyOperation, KeyOutcome, KeyUse, KeyUseSink};
use crate::provider::{KeyState, Kms};

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
    /// May still open old ones.
    pub previous: Vec<KeyName>,
}

/// Bounds of the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VaultConfig {
    /// Plain data keys held at once.
    pub cached_keys_max: usize,
    /// Age since the last KMS proof after which a key is proved again.
    pub proof_age_max: Duration,
    /// Age up to which keys serve on while the KMS gives no answer.
    pub outage_grace: Duration,
    /// Deadline of one KMS call.
    pub call_timeout: Duration,
    /// A denial is repeated from memory this long, so that clients' retries do not become KMS calls.
    pub denial_memory: Duration,
}

impl Default for VaultConfig {
    fn default() -> Self {
        Self {
            cached_keys_max: 4096,
            proof_age_max: Duration::from_secs(5 * 60),
            outage_grace: Duration::from_secs(15 * 60),
            call_timeout: Duration::from_secs(10),
            denial_memory: Duration::from_secs(5),
        }
    }
}

/// How a tenant's KMS key was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantKeyState {
    /// Never asked since start.
    Unproved,
    /// The last call succeeded.
    Proved,
    /// The last call was refused: the tenant is stopped.
    Denied(Denial),
    /// The last call got no answer: the tenant lives on cached keys.
    Unreachable(Outage),
}

/// Counters since start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KmsStats {
    /// GenerateDataKey calls.
    pub generate_calls: u64,
    /// Decrypt calls.
    pub decrypt_calls: u64,
    /// ReEncrypt calls.
    pub re_encrypt_calls: u64,
    /// DescribeKey calls.
    pub describe_calls: u64,
    /// Calls refused by the KMS.
    pub denied: u64,
    /// Calls without an answer.
    pub unreachable: u64,
    /// Keys served without a call.
    pub cache_hits: u64,
    /// Keys served past their age because the KMS gave no answer.
    pub grace_hits: u64,
    /// Plain keys held now.
    pub cached_keys: u64,
}

#[derive(Default)]
struct Counters {
    generate: AtomicU64,
    decrypt: AtomicU64,
    re_encrypt: AtomicU64,
    describe: AtomicU64,
    denied: AtomicU64,
    unreachable: AtomicU64,
    cache_hits: AtomicU64,
    grace_hits: AtomicU64,
}

/// What is known of a tenant's key.
#[derive(Clone, Copy)]
struct Seen {
    state: TenantKeyState,
    /// When `state` was learnt.
    learnt: Instant,
    used: Instant,
}

/// See the head of this file.
pub struct Vault {
    config: VaultConfig,
    providers: HashMap<&'static str, Arc<dyn Kms>>,
    tenants: Mutex<HashMap<[u8; 16], TenantKeys>>,
    seen: Mutex<HashMap<[u8; 16], Seen>>,
    cache: Mutex<Cache>,
    in_flight: Mutex<HashMap<CacheKey, Arc<AsyncMutex<()>>>>,
    sink: OnceLock<Arc<dyn KeyUseSink>>,
    counters: Counters,
}

impl Vault {
    /// A vault over `providers`. Until [`Vault::attach_sink`] only the audit log's own keys are given.
    #[must_use]
    pub fn new(config: VaultConfig, providers: Vec<Arc<dyn Kms>>, tenants: HashMap<[u8; 16], TenantKeys>) -> Arc<Self> {
        Arc::new(Self {
            config,
            providers: providers.into_iter().map(|kms| (kms.provider(), kms)).collect(),
            tenants: Mutex::new(tenants),
            seen: Mutex::default(),
            cache: Mutex::new(Cache::new(config.cached_keys_max)),
            in_flight: Mutex::default(),
            sink: OnceLock::new(),
            counters: Counters::default(),
        })
    }

    /// Says who records key uses. The first call counts; later ones change nothing.
    pub fn attach_sink(&self, sink: Arc<dyn KeyUseSink>) {
        let _ = self.sink.set(sink);
    }

    /// Replaces the map of tenants' keys (an organisation was reloaded). Tenants whose keys changed lose their cached keys.
    pub fn set_tenants(&self, tenants: HashMap<[u8; 16], TenantKeys>) {
        let before = std::mem::replace(&mut *lock(&self.tenants), tenants.clone());
        let mut cache = lock(&self.cache);
        let mut seen = lock(&self.seen);
        for (tenant, keys) in before {
            if tenants.get(&tenant) != Some(&keys) {
                cache.forget_tenant(tenant);
                seen.remove(&tenant);
            }
        }
    }

    /// Counters and the number of cached keys.
    #[must_use]
    pub fn stats(&self) -> KmsStats {
        KmsStats {
            generate_calls: self.counters.generate.load(Relaxed),
            decrypt_calls: self.counters.decrypt.load(Relaxed),
            re_encrypt_calls: self.counters.re_encrypt.load(Relaxed),
            describe_calls: self.counters.describe.load(Relaxed),
            denied: self.counters.denied.load(Relaxed),
            unreachable: self.counters.unreachable.load(Relaxed),
            cache_hits: self.counters.cache_hits.load(Relaxed),
            grace_hits: self.counters.grace_hits.load(Relaxed),
            cached_keys: lock(&self.cache).len() as u64,
        }
    }

    /// How a tenant's key was last seen.
    #[must_use]
    pub fn tenant_state(&self, tenant: [u8; 16]) -> TenantKeyState {
        lock(&self.seen).get(&tenant).map_or(TenantKeyState::Unproved, |seen| seen.state)
    }

    /// Asks the KMS about tenants used within `every` whose last verdict is older than that, and forgets keys past every age.
    /// Called every third of `every`, it bounds how late a disabled key is noticed by `every` (30 s).
    pub async fn probe(&self, every: Duration) {
        lock(&self.cache).forget_older_than(self.config.proof_age_max.max(self.config.outage_grace));
        let due: Vec<[u8; 16]> = lock(&self.seen)
            .iter()
            .filter(|(_, seen)| seen.used.elapsed() <= every && seen.learnt.elapsed() >= every / 2)
            .map(|(tenant, _)| *tenant)
            .collect();
        for tenant in due {
            let _ = self.probe_tenant(tenant).await;
        }
    }

    /// Asks the KMS about one tenant's current key now.
    ///
    /// # Errors
    /// What the KMS said; a denial has then already wiped the tenant's keys.
    pub async fn probe_tenant(&self, tenant: [u8; 16]) -> Result<(), KeyError> {
        let name = self.current(tenant)?;
        let kms = self.provider(&name)?;
        self.counters.describe.fetch_add(1, Relaxed);
        let key_ref = name.key_ref.clone();
        let denied = |why| Err(KeyError::Denied { key_ref, why });
        let result = match self.within_deadline(&name, kms.describe(&name.key_ref)).await {
            Ok(KeyState::Enabled) => Ok(()),
            Ok(KeyState::Disabled) => denied(Denial::Disabled),
            Ok(KeyState::PendingDeletion) => denied(Denial::PendingDeletion),
            Err(error) => Err(error),
        };
        let changed = self.tenant_state(tenant);
        self.learn(tenant, &result, false);
        // Probes that only confirm what is known are no news; a change is.
        if changed != self.tenant_state(tenant) {
            self.record(tenant, &name, KeyOperation::Describe, None, KeyOutcome::of(&result)).await?;
        }
        result
    }

    /// Wraps `wrapped` anew under the tenant's current key; `None` when it already is. The provider must be the same.
    ///
    /// # Errors
    /// As [`KeyVault::open`].
    pub async fn rewrap(
        &self,
        context: &EncryptionContext,
        wrapped: &WrappedKey,
    ) -> Result<Option<WrappedKey>, KeyError> {
        let from = self.allowed(context.tenant, wrapped)?;
        let to = self.current(context.tenant)?;
        if from == to {
            return Ok(None);
        }
        let denied = |why| KeyError::Denied { key_ref: to.key_ref.clone(), why };
        if from.provider != to.provider {
            return Err(denied(Denial::NoKeyConfigured));
        }
        let kms = self.provider(&to)?;
        self.counters.re_encrypt.fetch_add(1, Relaxed);
        let call = kms.re_encrypt(&from.key_ref, &wrapped.blob, &to.key_ref, context);
        let result = self.within_deadline(&to, call).await;
        self.settle(context, &to, KeyOperation::ReEncrypt, &result).await?;
        let blob = result?;
        Ok(Some(WrappedKey { provider: to.provider, key_ref: to.key_ref, blob }))
    }

    async fn call_open(
        &self,
        context: &EncryptionContext,
        wrapped: &WrappedKey,
        id: CacheKey,
    ) -> Result<Arc<DataKey>, KeyError> {
        let name = self.allowed(context.tenant, wrapped)?;
        self.refuse_if_just_denied(context.tenant, &name)?;
        let kms = self.provider(&name)?;
        self.counters.decrypt.fetch_add(1, Relaxed);
        let result = self.within_deadline(&name, kms.decrypt(&name.key_ref, &wrapped.blob, context)).await;
        self.settle(context, &name, KeyOperation::Decrypt, &result).await?;
        match result {
            Ok(key) => {
                let key = Arc::new(key);
                lock(&self.cache).put(id, Arc::clone(&key));
                Ok(key)
            }
            Err(error @ KeyError::Unreachable { .. }) => {
                let cached = lock(&self.cache).find(&id, self.config.outage_grace);
                if cached.is_some() {
                    self.counters.grace_hits.fetch_add(1, Relaxed);
                }
                cached.ok_or(error)
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
        result: &Result<T, KeyError>,
    ) -> Result<(), KeyError> {
        self.learn(context.tenant, result, true);
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

    fn learn<T>(&self, tenant: [u8; 16], result: &Result<T, KeyError>, used: bool) {
        let state = match result {
            Ok(_) => TenantKeyState::Proved,
            Err(KeyError::Denied { why, .. }) => {
                self.counters.denied.fetch_add(1, Relaxed);
                lock(&self.cache).forget_tenant(tenant);
                TenantKeyState::Denied(*why)
            }
            Err(KeyError::Unreachable { why, .. }) => {
                self.counters.unreachable.fetch_add(1, Relaxed);
                TenantKeyState::Unreachable(*why)
            }
            // One bad wrapped key says nothing about the KMS key.
            Err(KeyError::Corrupt { .. } | KeyError::ContextMismatch) => return,
        };
        let now = Instant::now();
        let mut seen = lock(&self.seen);
        let entry = seen.entry(tenant).or_insert(Seen { state, learnt: now, used: now });
        entry.state = state;
        entry.learnt = now;
        if used {
            entry.used = now;
        }
    }

    /// Says that a tenant's key is in use, for rooms that hold on to an opened key: only tenants in use are probed.
    pub fn mark_used(&self, tenant: [u8; 16]) {
        if let Some(seen) = lock(&self.seen).get_mut(&tenant) {
            seen.used = Instant::now();
        }
    }

    fn refuse_if_just_denied(&self, tenant: [u8; 16], name: &KeyName) -> Result<(), KeyError> {
        match lock(&self.seen).get(&tenant) {
            Some(Seen { state: TenantKeyState::Denied(why), learnt, .. })
                if learnt.elapsed() < self.config.denial_memory =>
            {
                Err(KeyError::Denied { key_ref: name.key_ref.clone(), why: *why })
            }
            _ => Ok(()),
        }
    }

    fn current(&self, tenant: [u8; 16]) -> Result<KeyName, KeyError> {
        lock(&self.tenants)
            .get(&tenant)
            .map(|keys| keys.current.clone())
            .ok_or(KeyError::Denied { key_ref: "none".to_owned(), why: Denial::NoKeyConfigured })
    }

    /// SECURITY: the name in a stored row is a claim. Only keys configured for this tenant are ever asked, so a row cannot make us
    /// call somebody else's key.
    fn allowed(&self, tenant: [u8; 16], wrapped: &WrappedKey) -> Result<KeyName, KeyError> {
        let claimed = KeyName { provider: wrapped.provider.clone(), key_ref: wrapped.key_ref.clone() };
        let known = lock(&self.tenants)
            .get(&tenant)
            .is_some_and(|keys| keys.current == claimed || keys.previous.contains(&claimed));
        if known {
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

    async fn within_deadline<T>(
        &self,
        name: &KeyName,
        call: impl Future<Output = Result<T, KeyError>>,
    ) -> Result<T, KeyError> {
        match tokio::time::timeout(self.config.call_timeout, call).await {
            Ok(result) => result,
            Err(_) => Err(KeyError::Unreachable { key_ref: name.key_ref.clone(), why: Outage::NoAnswer }),
        }
    }

    fn cached(&self, id: &CacheKey) -> Option<Arc<DataKey>> {
        let key = lock(&self.cache).find(id, self.config.proof_age_max)?;
        self.counters.cache_hits.fetch_add(1, Relaxed);
        self.mark_used(id.context.tenant);
        Some(key)
    }
}

#[async_trait::async_trait]
impl KeyVault for Vault {
    async fn generate(&self, context: &EncryptionContext) -> Result<(Arc<DataKey>, WrappedKey), KeyError> {
        let name = self.current(context.tenant)?;
        self.refuse_if_just_denied(context.tenant, &name)?;
        let kms = self.provider(&name)?;
        self.counters.generate.fetch_add(1, Relaxed);
        let result = self.within_deadline(&name, kms.generate_data_key(&name.key_ref, context)).await;
        self.settle(context, &name, KeyOperation::GenerateDataKey, &result).await?;
        let (key, blob) = result?;
        let key = Arc::new(key);
        lock(&self.cache).put(CacheKey::new(context, &blob), Arc::clone(&key));
        Ok((key, WrappedKey { provider: name.provider, key_ref: name.key_ref, blob }))
    }

    async fn open(&self, context: &EncryptionContext, wrapped: &WrappedKey) -> Result<Arc<DataKey>, KeyError> {
        let id = CacheKey::new(context, &wrapped.blob);
        self.allowed(context.tenant, wrapped)?;
        if let Some(key) = self.cached(&id) {
            return Ok(key);
        }
        let gate = Arc::clone(lock(&self.in_flight).entry(id).or_default());
        let result = {
            let _one_at_a_time = gate.lock().await;
            match self.cached(&id) {
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
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("config", &self.config).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
