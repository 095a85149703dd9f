//! A layer that counts and times what is asked of a provider. Every try counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use schloss_crypto::{DataKey, EncryptionContext, KeyError, Purpose};

use crate::provider::{KeyState, Kms};

/// Calls since start, shared by all providers of a vault.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) generate: AtomicU64,
    pub(crate) decrypt: AtomicU64,
    pub(crate) re_encrypt: AtomicU64,
    pub(crate) describe: AtomicU64,
    pub(crate) probe: AtomicU64,
    pub(crate) denied: AtomicU64,
    pub(crate) unreachable: AtomicU64,
    pub(crate) nanos: AtomicU64,
}

impl Calls {
    /// Probes are counted apart: they are bounded by time, the others by use.
    fn of<'c>(&'c self, context: &EncryptionContext, other: &'c AtomicU64) -> &'c AtomicU64 {
        if matches!(context.purpose, Purpose::Probe) { &self.probe } else { other }
    }

    async fn measure<T>(
        &self,
        counter: &AtomicU64,
        call: impl Future<Output = Result<T, KeyError>>,
    ) -> Result<T, KeyError> {
        counter.fetch_add(1, Relaxed);
        let begun = Instant::now();
        let result = call.await;
        self.nanos.fetch_add(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX), Relaxed);
        match &result {
            Err(KeyError::Denied { .. }) => drop(self.denied.fetch_add(1, Relaxed)),
            Err(KeyError::Unreachable { .. }) => drop(self.unreachable.fetch_add(1, Relaxed)),
            _ => {}
        }
        result
    }
}

/// The layer.
pub(crate) struct Measured {
    pub(crate) inner: Arc<dyn Kms>,
    pub(crate) calls: Arc<Calls>,
}

#[async_trait::async_trait]
impl Kms for Measured {
    fn provider(&self) -> &'static str {
        self.inner.provider()
    }

    async fn generate_data_key(
        &self,
        key_ref: &str,
        context: &EncryptionContext,
    ) -> Result<(DataKey, Vec<u8>), KeyError> {
        let counter = self.calls.of(context, &self.calls.generate);
        self.calls.measure(counter, self.inner.generate_data_key(key_ref, context)).await
    }

    async fn decrypt(&self, key_ref: &str, blob: &[u8], context: &EncryptionContext) -> Result<DataKey, KeyError> {
        let counter = self.calls.of(context, &self.calls.decrypt);
        self.calls.measure(counter, self.inner.decrypt(key_ref, blob, context)).await
    }

    async fn re_encrypt(
        &self,
        from: &str,
        blob: &[u8],
        to: &str,
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, KeyError> {
        self.calls.measure(&self.calls.re_encrypt, self.inner.re_encrypt(from, blob, to, context)).await
    }

    async fn describe(&self, key_ref: &str) -> Result<KeyState, KeyError> {
        self.calls.measure(&self.calls.describe, self.inner.describe(key_ref)).await
    }
}
