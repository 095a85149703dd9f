//! What the broker does as tenants' KMS keys come and go.
//!
//! In: verdicts of the vault, at once. Out: keys wiped in every room that holds some, an event in the audit log, and tenants opened
//! that could not be at start.
//!
//! Invariants
//! - A disabled key stops its tenant, and only it, within [`KEY_PROOF`]; an enabled one is back within it, while its clients try.
//! - A tenant whose key is away is not open: nothing of it is served, its logins are refused, its files stay as they are.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use schloss_audit::{AuditLog, Class, Event, Verdict};
use schloss_core::TenantId;
use schloss_kms::{KeyName, KeyWatch, TenantKeyState};
use schloss_storage::Engine;

use crate::broker::Broker;

/// A disabled KMS key is noticed within this, and so is an enabled one.
pub const KEY_PROOF: Duration = Duration::from_secs(30);
/// A tenant that nobody asks for is tried this often.
const TRY_UNWANTED_EVERY: Duration = Duration::from_secs(300);
/// Tenants tried at once.
const TRIES_MAX: usize = 16;

/// A tenant that is not open because its KMS key is away.
struct Absent {
    why: String,
    since: Instant,
    tried: Instant,
    /// A client tried to log in.
    wanted: bool,
}

/// Tenants that wait for their key.
#[derive(Default)]
pub struct Waiting {
    absent: Mutex<HashMap<TenantId, Absent>>,
    opening: Mutex<HashSet<TenantId>>,
}

/// A tenant is opened by one task at a time.
pub struct Opening<'w> {
    waiting: &'w Waiting,
    tenant: TenantId,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.waiting.opening.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.tenant);
    }
}

impl Waiting {
    /// The right to open a tenant, unless another task has it.
    pub fn begin(&self, tenant: TenantId) -> Option<Opening<'_>> {
        let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        opening.insert(tenant).then_some(Opening { waiting: self, tenant })
    }

    fn all(&self) -> MutexGuard<'_, HashMap<TenantId, Absent>> {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a tenant is about to be opened; false when it waits already.
    pub fn expect(&self, tenant: TenantId) -> bool {
        let now = Instant::now();
        let mut all = self.all();
        let news = !all.contains_key(&tenant);
        let why = || "its KMS key has not answered yet".to_owned();
        all.entry(tenant).or_insert_with(|| Absent { why: why(), since: now, tried: now, wanted: false });
        news
    }

    /// Notes that a tenant could not be opened; true when that is news.
    pub fn put(&self, tenant: TenantId, why: String) -> bool {
        let now = Instant::now();
        let mut all = self.all();
        let news = all.get(&tenant).is_none_or(|absent| absent.why != why);
        let since = all.get(&tenant).map_or(now, |absent| absent.since);
        all.insert(tenant, Absent { why, since, tried: now, wanted: false });
        news
    }

    /// The tenant is open.
    pub fn take(&self, tenant: TenantId) {
        self.all().remove(&tenant);
    }

    /// A client asked for the tenant: it is tried at the next round. The reason it is not open, if it waits.
    pub fn want(&self, tenant: TenantId) -> Option<String> {
        let mut all = self.all();
        let absent = all.get_mut(&tenant)?;
        absent.wanted = true;
        Some(absent.why.clone())
    }

    /// Why a tenant is not open, and for how long it has not been.
    pub fn reason(&self, tenant: TenantId) -> Option<(String, Duration)> {
        self.all().get(&tenant).map(|absent| (absent.why.clone(), absent.since.elapsed()))
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.all().len()
    }

    fn due(&self) -> Vec<TenantId> {
        let all = self.all();
        let due = all.iter().filter(|(_, absent)| absent.wanted || absent.tried.elapsed() >= TRY_UNWANTED_EVERY);
        due.map(|(tenant, _)| *tenant).collect()
    }
}

/// Told by the vault.
pub struct Watch {
    /// Weak: the engine holds the vault.
    pub engine: Weak<Engine>,
    /// Where changes are recorded.
    pub audit: Arc<AuditLog>,
}

impl KeyWatch for Watch {
    fn state_changed(&self, tenant: [u8; 16], key: &KeyName, state: TenantKeyState) {
        let Some(id) = TenantId::from_bytes(tenant).filter(|id| id.account() != 0) else { return };
        let text = state.text();
        match state {
            TenantKeyState::Denied(_) | TenantKeyState::Unreachable(_) => {
                tracing::warn!(tenant = %id, state = %text, "the state of a tenant's KMS key changed");
            }
            TenantKeyState::Unproved | TenantKeyState::Proved => {
                tracing::info!(tenant = %id, state = %text, "the state of a tenant's KMS key changed");
            }
        }
        let verdict = if state == TenantKeyState::Proved { Verdict::Allowed } else { Verdict::Denied };
        let mut event = Event::new(Some(id), Class::KeyUse, verdict, "schloss:KeyStateChanged");
        event.resource = Some(key.key_ref.clone());
        event.reason = Some(text);
        let audit = Arc::clone(&self.audit);
        // The change is in force already; the event follows it.
        tokio::spawn(async move {
            if let Err(error) = audit.record(event).await {
                tracing::error!(%error, "a change of a key's state could not be recorded");
            }
        });
    }

    fn wipe(&self, tenant: [u8; 16], _key: &KeyName) {
        if let (Some(engine), Some(tenant)) = (self.engine.upgrade(), TenantId::from_bytes(tenant)) {
            engine.forget_keys(tenant);
        }
    }
}

/// Proves the keys of tenants in use, and tries to open those that wait for theirs.
pub async fn prove_keys(broker: Arc<Broker>) {
    loop {
        tokio::time::sleep(KEY_PROOF / 3).await;
        for tenant in broker.tenancy.tenants() {
            if tenant.active.swap(false, Ordering::Relaxed) {
                broker.vault.mark_used(tenant.id.to_bytes());
            }
        }
        broker.vault.probe(KEY_PROOF).await;
        // Apart: a key that hangs must not hold up the next round of proofs.
        tokio::spawn(Broker::try_tenants(Arc::clone(&broker), broker.waiting.due(), TRIES_MAX));
    }
}
