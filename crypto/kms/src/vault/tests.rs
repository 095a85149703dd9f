//! What the vault promises about caching, verdicts and recording.

use std::sync::atomic::{AtomicBool, Ordering};

use schloss_crypto::value::{unwrap_key, wrap_key};

use super::*;
use crate::key_use::NotRecorded;
use crate::provider::KeyState;

const A: [u8; 16] = [1; 16];
const B: [u8; 16] = [2; 16];

/// A KMS of one key per name whose answers the test chooses.
struct FakeKms {
    key: DataKey,
    answer: Mutex<Option<KeyError>>,
}

impl FakeKms {
    fn answer(&self, error: Option<KeyError>) {
        *lock(&self.answer) = error;
    }

    fn check(&self) -> Result<(), KeyError> {
        lock(&self.answer).clone().map_or(Ok(()), Err)
    }
}

#[async_trait::async_trait]
impl Kms for FakeKms {
    fn provider(&self) -> &'static str {
        "fake"
    }

    async fn generate_data_key(&self, _: &str, context: &EncryptionContext) -> Result<(DataKey, Vec<u8>), KeyError> {
        self.check()?;
        let key = DataKey::generate();
        let blob = wrap_key(&self.key, &context.to_bytes(), &key);
        Ok((key, blob))
    }

    async fn decrypt(&self, _: &str, blob: &[u8], context: &EncryptionContext) -> Result<DataKey, KeyError> {
        tokio::task::yield_now().await;
        self.check()?;
        unwrap_key(&self.key, &context.to_bytes(), blob).map_err(|_| KeyError::ContextMismatch)
    }

    async fn re_encrypt(&self, _: &str, blob: &[u8], _: &str, _: &EncryptionContext) -> Result<Vec<u8>, KeyError> {
        Ok(blob.to_vec())
    }

    async fn describe(&self, _: &str) -> Result<KeyState, KeyError> {
        self.check().map(|()| KeyState::Enabled)
    }
}

#[derive(Default)]
struct Sink {
    events: Mutex<Vec<KeyUse>>,
    broken: AtomicBool,
}

#[async_trait::async_trait]
impl KeyUseSink for Sink {
    async fn key_used(&self, event: KeyUse) -> Result<(), NotRecorded> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(NotRecorded);
        }
        lock(&self.events).push(event);
        Ok(())
    }
}

fn name(key_ref: &str) -> KeyName {
    KeyName { provider: "fake".into(), key_ref: key_ref.into() }
}

fn tenants() -> HashMap<[u8; 16], TenantKeys> {
    let keys = |key_ref| TenantKeys::only(name(key_ref));
    HashMap::from([(A, keys("a")), (B, keys("b"))])
}

fn vault() -> (Arc<Vault>, Arc<FakeKms>, Arc<Sink>) {
    let kms = Arc::new(FakeKms { key: DataKey::generate(), answer: Mutex::default() });
    let sink = Arc::new(Sink::default());
    let providers: Vec<Arc<dyn Kms>> = vec![Arc::clone(&kms) as _];
    let vault = Vault::new(VaultConfig::default(), providers, tenants());
    vault.attach_sink(Arc::clone(&sink) as _);
    (vault, kms, sink)
}

const fn context(tenant: [u8; 16]) -> EncryptionContext {
    EncryptionContext { cluster: [9; 16], tenant, purpose: Purpose::Metadata { generation: 0 } }
}

fn denied() -> KeyError {
    KeyError::Denied { key_ref: "a".into(), why: Denial::Disabled }
}

fn outage() -> KeyError {
    KeyError::Unreachable { key_ref: "a".into(), why: Outage::NoAnswer }
}

#[tokio::test(start_paused = true)]
async fn key_is_proved_again_after_five_minutes_and_not_before() {
    let (vault, _, _) = vault();
    let (_, wrapped) = vault.generate(&context(A)).await.unwrap();
    vault.open(&context(A), &wrapped).await.unwrap();
    assert_eq!(vault.stats().decrypt_calls, 0);
    tokio::time::advance(Duration::from_secs(301)).await;
    vault.open(&context(A), &wrapped).await.unwrap();
    assert_eq!(vault.stats().decrypt_calls, 1);
}

#[tokio::test]
async fn many_who_want_one_key_make_one_call() {
    let (vault, _, _) = vault();
    let (_, wrapped) = vault.generate(&context(A)).await.unwrap();
    lock(&vault.cache).forget(A, None);
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let (vault, wrapped) = (Arc::clone(&vault), wrapped.clone());
            tokio::spawn(async move { vault.open(&context(A), &wrapped).await.map(|_| ()) })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(vault.stats().decrypt_calls, 1);
    assert!(lock(&vault.in_flight).is_empty());
}

#[tokio::test(start_paused = true)]
async fn denial_wipes_the_keys_of_that_tenant_only_and_ends_when_the_key_is_back() {
    let (vault, kms, _) = vault();
    let (_, wrapped_a) = vault.generate(&context(A)).await.unwrap();
    let (_, wrapped_b) = vault.generate(&context(B)).await.unwrap();
    kms.answer(Some(denied()));
    assert_eq!(vault.probe_tenant(A).await, Err(denied()));
    assert_eq!(vault.open(&context(A), &wrapped_a).await.unwrap_err(), denied());
    assert_eq!(vault.tenant_state(A), TenantKeyState::Denied(Denial::Disabled));
    assert!(vault.open(&context(B), &wrapped_b).await.is_ok());
    kms.answer(None);
    tokio::time::advance(Duration::from_secs(6)).await;
    assert!(vault.open(&context(A), &wrapped_a).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn outage_serves_cached_keys_up_to_the_grace_and_no_longer() {
    let (vault, kms, _) = vault();
    let (_, wrapped) = vault.generate(&context(A)).await.unwrap();
    kms.answer(Some(outage()));
    tokio::time::advance(Duration::from_secs(10 * 60)).await;
    assert!(vault.open(&context(A), &wrapped).await.is_ok());
    assert_eq!(vault.generate(&context(A)).await.unwrap_err(), outage());
    tokio::time::advance(Duration::from_secs(6 * 60)).await;
    assert_eq!(vault.open(&context(A), &wrapped).await.unwrap_err(), outage());
}

#[tokio::test]
async fn key_whose_use_is_not_recorded_is_not_given() {
    let (vault, _, sink) = vault();
    sink.broken.store(true, Ordering::SeqCst);
    let refused = vault.generate(&context(A)).await.unwrap_err();
    assert!(matches!(refused, KeyError::Unreachable { why: Outage::NotRecorded, .. }));
    let audit = EncryptionContext { purpose: Purpose::Audit, ..context(A) };
    assert!(vault.generate(&audit).await.is_ok(), "the audit log records its own key once it is open");
}

#[tokio::test]
async fn every_call_to_the_kms_is_recorded_with_its_outcome() {
    let (vault, kms, sink) = vault();
    vault.generate(&context(A)).await.unwrap();
    kms.answer(Some(denied()));
    vault.generate(&context(A)).await.unwrap_err();
    let outcomes: Vec<_> = lock(&sink.events).iter().map(|event| (event.operation, event.outcome)).collect();
    let generate = KeyOperation::GenerateDataKey;
    assert_eq!(outcomes, [(generate, KeyOutcome::Done), (generate, KeyOutcome::Denied(Denial::Disabled))]);
}

#[tokio::test]
async fn wrapped_key_of_another_tenant_or_of_an_unknown_kms_key_is_refused_without_a_call() {
    let (vault, _, _) = vault();
    let (_, wrapped) = vault.generate(&context(A)).await.unwrap();
    let no_key = |error| matches!(error, KeyError::Denied { why: Denial::NoKeyConfigured, .. });
    assert!(no_key(vault.open(&context(B), &wrapped).await.unwrap_err()));
    let foreign = WrappedKey { key_ref: "attackers".into(), ..wrapped };
    assert!(no_key(vault.open(&context(A), &foreign).await.unwrap_err()));
    assert_eq!(vault.stats().decrypt_calls, 0);
}

#[tokio::test(start_paused = true)]
async fn probe_asks_about_active_tenants_only() {
    let (vault, _, _) = vault();
    vault.generate(&context(A)).await.unwrap();
    tokio::time::advance(Duration::from_secs(20)).await;
    vault.probe(Duration::from_secs(30)).await;
    assert_eq!(vault.stats().probe_calls, 1);
    tokio::time::advance(Duration::from_secs(31)).await;
    vault.probe(Duration::from_secs(30)).await;
    assert_eq!(vault.stats().probe_calls, 1, "idle tenants are not probed");
}

#[tokio::test]
async fn number_of_cached_keys_is_bounded() {
    let kms: Arc<dyn Kms> = Arc::new(FakeKms { key: DataKey::generate(), answer: Mutex::default() });
    let vault = Vault::new(VaultConfig { cached_keys_max: 3, ..VaultConfig::default() }, vec![kms], tenants());
    vault.attach_sink(Arc::new(Sink::default()));
    for _ in 0..10 {
        vault.generate(&context(A)).await.unwrap();
    }
    assert_eq!(vault.stats().cached_keys, 3);
}
