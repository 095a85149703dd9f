//! Plain data keys by wrapped key and context, bounded in number. How long one may be used is judged by its KMS key's
//! standing, not here.

use std::collections::HashMap;
use std::sync::Arc;

use schloss_crypto::{DataKey, EncryptionContext, digest};

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

/// A key, the KMS key that opened it, and when it was used last (a count of uses).
struct Cached {
    key: Arc<DataKey>,
    key_ref: Arc<str>,
    used: u64,
}

/// Dropping an entry wipes the key once no seal in flight holds it.
pub(crate) struct Cache {
    entries: HashMap<CacheKey, Cached>,
    keys_max: usize,
    uses: u64,
}

impl Cache {
    pub(crate) fn new(keys_max: usize) -> Self {
        Self { entries: HashMap::new(), keys_max: keys_max.max(1), uses: 0 }
    }

    pub(crate) fn find(&mut self, id: &CacheKey) -> Option<Arc<DataKey>> {
        self.uses = self.uses.saturating_add(1);
        let cached = self.entries.get_mut(id)?;
        cached.used = self.uses;
        Some(Arc::clone(&cached.key))
    }

    pub(crate) fn put(&mut self, id: CacheKey, key_ref: &str, key: Arc<DataKey>) {
        if self.entries.len() >= self.keys_max && !self.entries.contains_key(&id) {
            let oldest = self.entries.iter().min_by_key(|(_, cached)| cached.used).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.entries.remove(&oldest);
            }
        }
        self.uses = self.uses.saturating_add(1);
        self.entries.insert(id, Cached { key, key_ref: key_ref.into(), used: self.uses });
    }

    /// Forgets what a tenant's KMS key opened, or everything of the tenant.
    pub(crate) fn forget(&mut self, tenant: [u8; 16], key_ref: Option<&str>) {
        self.entries.retain(|id, cached| {
            id.context.tenant != tenant || key_ref.is_some_and(|key_ref| *key_ref != *cached.key_ref)
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
