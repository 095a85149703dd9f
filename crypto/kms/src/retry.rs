//! A layer that tries again what got no answer, within a budget: a KMS in trouble is not helped by three times the calls.
//!
//! A KMS that gave no answer several times in a row is asked once a second only, and everyone else is told so at once: a
//! thousand tenants must not wait for a thousand time-outs one after the other.
//!
//! Invariants
//! - Only [`KeyError::Unreachable`] is tried again, twice at most; a denial never is.
//! - Retries of all callers together are at most [`TOKENS_MAX`] plus a tenth of the calls that succeeded.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schloss_crypto::{DataKey, EncryptionContext, KeyError, Outage, random_array};

use tokio::time::Instant;

use crate::provider::{KeyState, Kms};

/// Different keys in a row without an answer after which the KMS counts as down. One tenant's trouble is not everybody's.
const DOWN_AFTER: usize = 3;
/// Between two tries of a KMS that is down.
const TRY_DOWN_EVERY: Duration = Duration::from_secs(1);
/// Retries saved up, in tenths.
const TOKENS_MAX: i64 = 100;
const RETRY_COST: i64 = 10;
const WAITS_MS: [u64; 2] = [50, 200];

/// The layer.
pub(crate) struct Retry {
    inner: Arc<dyn Kms>,
    /// Deadline of one try.
    try_timeout: Duration,
    tokens: AtomicI64,
    /// Keys in a row without an answer, and when the next try may go out.
    unanswered: Mutex<(HashSet<String>, Instant)>,
}

impl Retry {
    pub(crate) fn new(inner: Arc<dyn Kms>, try_timeout: Duration) -> Self {
        let unanswered = Mutex::new((HashSet::new(), Instant::now()));
        Self { inner, try_timeout, tokens: AtomicI64::new(TOKENS_MAX), unanswered }
    }

    async fn once<T>(&self, key_ref: &str, call: impl Future<Output = Result<T, KeyError>>) -> Result<T, KeyError> {
        let no_answer = || KeyError::Unreachable { key_ref: key_ref.to_owned(), why: Outage::NoAnswer };
        {
            let mut unanswered = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            if unanswered.0.len() >= DOWN_AFTER {
                if now < unanswered.1 {
                    return Err(no_answer());
                }
                unanswered.1 = now + TRY_DOWN_EVERY;
            }
        }
        let result = tokio::time::timeout(self.try_timeout, call).await.unwrap_or_else(|_| Err(no_answer()));
        let mut unanswered = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        match &result {
            Err(KeyError::Unreachable { why: Outage::NoAnswer, .. }) => {
                if unanswered.0.len() < DOWN_AFTER {
                    unanswered.0.insert(key_ref.to_owned());
                }
                unanswered.1 = Instant::now() + TRY_DOWN_EVERY;
            }
            _ => unanswered.0.clear(),
        }
        result
    }

    async fn run<T, F>(&self, key_ref: &str, mut call: impl FnMut() -> F + Send) -> Result<T, KeyError>
    where
        F: Future<Output = Result<T, KeyError>> + Send,
        T: Send,
    {
        for wait in WAITS_MS {
            match self.once(key_ref, call()).await {
                Err(KeyError::Unreachable { why, .. }) if why != Outage::NotRecorded && self.spend() => {
                    // Jitter, so that all who failed together do not come back together.
                    let [jitter] = random_array::<1>();
                    tokio::time::sleep(Duration::from_millis(wait.saturating_add(u64::from(jitter) / 4))).await;
                }
                done => {
                    if done.is_ok() {
                        let more = |tokens: i64| (tokens < TOKENS_MAX).then(|| tokens.saturating_add(1));
                        let _full = self.tokens.fetch_update(Relaxed, Relaxed, more);
                    }
                    return done;
                }
            }
        }
        self.once(key_ref, call()).await
    }

    fn spend(&self) -> bool {
        let less = |tokens: i64| (tokens >= RETRY_COST).then(|| tokens.saturating_sub(RETRY_COST));
        self.tokens.fetch_update(Relaxed, Relaxed, less).is_ok()
    }
}

#[async_trait::async_trait]
impl Kms for Retry {
    fn provider(&self) -> &'static str {
        self.inner.provider()
    }

    async fn generate_data_key(
        &self,
        key_ref: &str,
        context: &EncryptionContext,
    ) -> Result<(DataKey, Vec<u8>), KeyError> {
        self.run(key_ref, || self.inner.generate_data_key(key_ref, context)).await
    }

    async fn decrypt(&self, key_ref: &str, blob: &[u8], context: &EncryptionContext) -> Result<DataKey, KeyError> {
        self.run(key_ref, || self.inner.decrypt(key_ref, blob, context)).await
    }

    async fn re_encrypt(
        &self,
        from: &str,
        blob: &[u8],
        to: &str,
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, KeyError> {
        self.run(to, || self.inner.re_encrypt(from, blob, to, context)).await
    }

    async fn describe(&self, key_ref: &str) -> Result<KeyState, KeyError> {
        self.run(key_ref, || self.inner.describe(key_ref)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use schloss_crypto::Denial;

    use super::*;

    struct Failing {
        calls: AtomicUsize,
        error: KeyError,
    }

    #[async_trait::async_trait]
    impl Kms for Failing {
        fn provider(&self) -> &'static str {
            "failing"
        }

        async fn generate_data_key(&self, _: &str, _: &EncryptionContext) -> Result<(DataKey, Vec<u8>), KeyError> {
            Err(self.error.clone())
        }

        async fn decrypt(&self, _: &str, _: &[u8], _: &EncryptionContext) -> Result<DataKey, KeyError> {
            Err(self.error.clone())
        }

        async fn re_encrypt(&self, _: &str, _: &[u8], _: &str, _: &EncryptionContext) -> Result<Vec<u8>, KeyError> {
            Err(self.error.clone())
        }

        async fn describe(&self, _: &str) -> Result<KeyState, KeyError> {
            self.calls.fetch_add(1, Relaxed);
            Err(self.error.clone())
        }
    }

    fn failing(error: KeyError) -> (Arc<Failing>, Retry) {
        let inner = Arc::new(Failing { calls: AtomicUsize::new(0), error });
        (Arc::clone(&inner), Retry::new(inner, Duration::from_secs(5)))
    }

    #[tokio::test(start_paused = true)]
    async fn denial_is_never_tried_again() {
        let (inner, retry) = failing(KeyError::Denied { key_ref: "k".into(), why: Denial::Disabled });
        retry.describe("k").await.unwrap_err();
        assert_eq!(inner.calls.load(Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn outage_is_tried_again_until_the_budget_is_spent() {
        let (inner, retry) = failing(KeyError::Unreachable { key_ref: "k".into(), why: Outage::Throttled });
        retry.describe("k").await.unwrap_err();
        assert_eq!(inner.calls.load(Relaxed), 3);
        for _ in 0..100 {
            retry.describe("k").await.unwrap_err();
        }
        assert_eq!(inner.calls.load(Relaxed), 101 + 10, "one call each, and ten retries in all");
    }

    #[tokio::test(start_paused = true)]
    async fn kms_that_gives_no_answer_is_asked_once_a_second_and_others_are_told_at_once() {
        let (inner, retry) = failing(KeyError::Unreachable { key_ref: "k".into(), why: Outage::NoAnswer });
        for n in 0..1_000 {
            retry.describe(&n.to_string()).await.unwrap_err();
        }
        assert!(inner.calls.load(Relaxed) <= 16, "{}", inner.calls.load(Relaxed));
        let before = inner.calls.load(Relaxed);
        tokio::time::advance(Duration::from_secs(2)).await;
        retry.describe("k").await.unwrap_err();
        assert!(inner.calls.load(Relaxed) > before);
    }
}
