//! Opened frames, bounded by bytes; the one used longest ago goes first.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use schloss_core::TenantId;

/// A frame of a segment.
pub(super) type FrameKey = ([u8; 16], u32);

/// The cache. Its memory holds plaintext of records; it is dropped tenant by tenant when a key is denied.
#[derive(Debug)]
pub(super) struct FrameCache {
    bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    frames: HashMap<FrameKey, (u64, TenantId, Bytes)>,
    by_use: BTreeMap<u64, FrameKey>,
    uses: u64,
    bytes: usize,
}

impl FrameCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, inner: Mutex::default() }
    }

    pub(super) fn get(&self, key: FrameKey) -> Option<Bytes> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.uses += 1;
        let now = inner.uses;
        let (used, _, bytes) = inner.frames.get_mut(&key)?;
        let before = std::mem::replace(used, now);
        let bytes = bytes.clone();
        inner.by_use.remove(&before);
        inner.by_use.insert(now, key);
        Some(bytes)
    }

    pub(super) fn put(&self, key: FrameKey, tenant: TenantId, bytes: Bytes) {
        if bytes.len() > self.bytes_max {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.remove(key);
        inner.uses += 1;
        let now = inner.uses;
        inner.bytes += bytes.len();
        inner.frames.insert(key, (now, tenant, bytes));
        inner.by_use.insert(now, key);
        while inner.bytes > self.bytes_max {
            let Some((_, &oldest)) = inner.by_use.first_key_value() else { break };
            inner.remove(oldest);
        }
    }

    pub(super) fn forget(&self, tenant: TenantId) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<FrameKey> =
            inner.frames.iter().filter(|(_, (_, owner, _))| *owner == tenant).map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| inner.remove(key));
    }
}

impl Inner {
    fn remove(&mut self, key: FrameKey) {
        if let Some((used, _, bytes)) = self.frames.remove(&key) {
            self.by_use.remove(&used);
            self.bytes -= bytes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_keeps_within_its_bytes_and_drops_the_least_used() {
        let cache = FrameCache::new(100);
        let tenant = TenantId::new(1).unwrap();
        for number in 0..3 {
            cache.put(([0; 16], number), tenant, Bytes::from(vec![0; 40]));
            cache.get(([0; 16], 0));
        }
        assert!(cache.get(([0; 16], 0)).is_some());
        assert!(cache.get(([0; 16], 1)).is_none());
        assert_eq!(cache.inner.lock().unwrap().bytes, 80);
        cache.forget(tenant);
        assert_eq!(cache.inner.lock().unwrap().bytes, 0);
    }
}
