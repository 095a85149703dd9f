//! Plain data keys by wrapped key and context, bounded in number and age.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use schloss_crypto::{DataKey, EncryptionContext, digest};
use tokio::time::Instant;

/// What a cached key is found by: its context and a digest of its wrapped bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey {
    pub(crate) context: EncryptionContext,
    wrapped: [u8; 32],
}

impl CacheKey {
    pub(crate) fn new(context: &EncryptionContext, blob: &[u8]) -> Self {
        Self { context: *context, wrapped: digest::sha256(blob) }
    }
}

/// A key and when a KMS last proved it.
struct Cached {
    key: Arc<DataKey>,
    proved: Instant,
}

/// Dropping an entry wipes the key once no seal in flight holds it.
pub(crate) struct Cache {
    entries: HashMap<CacheKey, Cached>,
    keys_max: usize,
}

impl Cache {
    pub(crate) fn new(keys_max: usize) -> Self {
        Self { entries: HashMap::new(), keys_max: keys_max.max(1) }
    }

    /// The key, if it was proved at most `age_max` ago.
    pub(crate) fn find(&self, id: &CacheKey, age_max: Duration) -> Option<Arc<DataKey>> {
        self.entries.get(id).filter(|cached| cached.proved.elapsed() <= age_max).map(|cached| Arc::clone(&cached.key))
    }

    pub(crate) fn put(&mut self, id: CacheKey, key: Arc<DataKey>) {
        if self.entries.len() >= self.keys_max && !self.entries.contains_key(&id) {
            let oldest = self.entries.iter().min_by_key(|(_, cached)| cached.proved).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.entries.remove(&oldest);
            }
        }
        self.entries.insert(id, Cached { key, proved: Instant::now() });
    }

    pub(crate) fn forget_tenant(&mut self, tenant: [u8; 16]) {
        self.entries.retain(|id, _| id.context.tenant != tenant);
    }

    pub(crate) fn forget_older_than(&mut self, age: Duration) {
        self.entries.retain(|_, cached| cached.proved.elapsed() <= age);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
