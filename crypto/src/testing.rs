//! A vault in memory, for the tests of rooms that need keys but no KMS.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::value::{unwrap_key, wrap_key};
use crate::{DataKey, Denial, EncryptionContext, KeyError, KeyVault, Outage, Standing, WrappedKey};

const KEY_REF: &str = "test-key";

/// Wraps every data key under one key in memory. Can deny a tenant, be unreachable, and counts its calls.
#[derive(Debug)]
pub struct TestVault {
    wrapping: DataKey,
    denied: Mutex<BTreeSet<[u8; 16]>>,
    unreachable: AtomicBool,
    generated: AtomicU64,
    opened: AtomicU64,
}

impl TestVault {
    /// A vault with a fresh key. Keys wrapped by another vault do not open.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::with_seed(crate::random_array())
    }

    /// A vault whose key is `seed`: two vaults of one seed open each other's keys.
    #[must_use]
    pub fn with_seed(mut seed: [u8; 32]) -> Arc<Self> {
        Arc::new(Self {
            wrapping: DataKey::take(&mut seed),
            denied: Mutex::default(),
            unreachable: AtomicBool::new(false),
            generated: AtomicU64::new(0),
            opened: AtomicU64::new(0),
        })
    }

    /// From now on refuses `tenant` (or allows it again).
    pub fn set_denied(&self, tenant: [u8; 16], denied: bool) {
        let mut set = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        if denied {
            set.insert(tenant)
        } else {
            set.remove(&tenant)
        };
    }

    /// From now on answers nobody (or everybody again).
    pub fn set_unreachable(&self, unreachable: bool) {
        self.unreachable.store(unreachable, Ordering::SeqCst);
    }

    /// Calls of `generate` so far.
    #[must_use]
    pub fn generated(&self) -> u64 {
        self.generated.load(Ordering::SeqCst)
    }

    /// Calls of `open` so far.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    fn refuse(&self, context: &EncryptionContext) -> Result<(), KeyError> {
        let key_ref = KEY_REF.to_owned();
        if self.unreachable.load(Ordering::SeqCst) {
            return Err(KeyError::Unreachable { key_ref, why: Outage::NoAnswer });
        }
        if self.denied.lock().unwrap_or_else(PoisonError::into_inner).contains(&context.tenant) {
            return Err(KeyError::Denied { key_ref, why: Denial::Disabled });
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl KeyVault for TestVault {
    async fn generate_under(
        &self,
        context: &EncryptionContext,
        key_ref: Option<&str>,
    ) -> Result<(Arc<DataKey>, WrappedKey), KeyError> {
        self.generated.fetch_add(1, Ordering::SeqCst);
        self.refuse(context)?;
        let key = DataKey::generate();
        let blob = wrap_key(&self.wrapping, &context.to_bytes(), &key);
        let key_ref = key_ref.unwrap_or(KEY_REF).to_owned();
        Ok((Arc::new(key), WrappedKey { provider: "test".into(), key_ref, blob }))
    }

    async fn open(&self, context: &EncryptionContext, wrapped: &WrappedKey) -> Result<Arc<DataKey>, KeyError> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        self.refuse(context)?;
        unwrap_key(&self.wrapping, &context.to_bytes(), &wrapped.blob)
            .map(Arc::new)
            .map_err(|_| KeyError::ContextMismatch)
    }

    async fn rewrap(
        &self,
        context: &EncryptionContext,
        wrapped: &WrappedKey,
        key_ref: Option<&str>,
    ) -> Result<Option<WrappedKey>, KeyError> {
        self.refuse(context)?;
        let key_ref = key_ref.unwrap_or(KEY_REF);
        let moved = WrappedKey { key_ref: key_ref.to_owned(), ..wrapped.clone() };
        Ok((wrapped.key_ref != key_ref).then_some(moved))
    }

    fn standing(&self, tenant: [u8; 16], _key_ref: &str) -> Standing {
        if self.denied.lock().unwrap_or_else(PoisonError::into_inner).contains(&tenant) {
            Standing::Stopped
        } else {
            Standing::Usable
        }
    }
}
