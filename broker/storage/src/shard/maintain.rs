//! Background work of a shard: retention, erasing garbage, unlocking tenants whose key came back.
//!
//! Must not: hold up an entry. Everything slow runs in a task of its own.

use std::sync::Arc;
use std::time::Duration;

use schloss_core::{PartitionId, TenantId};
use schloss_metadata::Removal;

use super::replay::{self, Recovered, Unusable};
use super::{Command, KeyState, RETRY_AFTER, Shard};
use crate::log::PartitionLog;

/// Parts removed in one transaction; the rest follows at the next look.
const PARTS_MAX: usize = 1000;

impl Shard {
    /// Looks at every partition once: what is too old or too much goes.
    pub(super) fn maintain(&mut self, now: Duration) {
        self.maintain_at = now + self.shared.config.retention_every;
        let now_ms = self.shared.clock.now_ms();
        let mut removal = Removal { now_ms, ..Removal::default() };
        let mut gone: Vec<(Arc<PartitionLog>, Vec<i64>, i64)> = Vec::new();
        for owned in self.partitions.values() {
            let id = owned.log.id;
            let inner = owned.log.read();
            let (parts, start) = inner.expired(now_ms);
            if tail_is_due(&inner, now_ms) {
                self.flush_wanted = true;
            }
            if !parts.is_empty() && removal.parts.len() < PARTS_MAX {
                removal.parts.extend(parts.iter().map(|first| (id, *first)));
                removal.log_starts.push((id, start));
                gone.push((Arc::clone(&owned.log), parts, start));
            }
        }
        let Some(me) = self.me.upgrade() else { return };
        self.maintaining = true;
        let (shared, lease) = (Arc::clone(&self.shared), self.lease);
        tokio::spawn(async move {
            let removed = removal.parts.is_empty() || shared.metadata.remove_parts(lease, removal).await.is_ok();
            if removed {
                for (log, parts, start) in gone {
                    log.write().drop_parts(&parts, start);
                    log.wake();
                }
                shared.erase_garbage().await;
            }
            let _ = me.send(Command::Maintained);
        });
    }

    /// Tries the keys of locked tenants again.
    pub(super) fn unlock_due(&mut self, now: Duration) {
        let ids: Vec<TenantId> = self.locked.keys().copied().filter(|id| !self.unlocking.contains(id)).collect();
        for id in ids {
            let tenant = self.tenants.entry(id).or_default();
            let (Some(me), Some(replay)) = (self.me.upgrade(), self.locked.get(&id).map(Arc::clone)) else { continue };
            if now < tenant.ask_again {
                continue;
            }
            tenant.ask_again = now + RETRY_AFTER;
            self.unlocking.insert(id);
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move {
                let recovered = match replay::recover(&shared, &replay).await {
                    Ok(recovered) => Some(recovered),
                    Err(Unusable::Key) => None,
                    Err(Unusable::Damaged(error)) => {
                        tracing::error!(tenant = %id, %error, "stored data of the tenant cannot be used");
                        None
                    }
                };
                let _ = me.send(Command::Unlocked { tenant: id, recovered });
            });
        }
    }

    pub(super) fn unlocked(&mut self, id: TenantId, recovered: Option<Recovered>) {
        self.unlocking.remove(&id);
        let Some(recovered) = recovered else { return };
        self.locked.remove(&id);
        self.absorb(recovered);
        if let Some(tenant) = self.tenants.get_mut(&id) {
            tenant.ask_again = Duration::ZERO;
            tenant.key = KeyState::Absent;
        }
        tracing::info!(tenant = %id, "key proved, tenant is served");
    }

    /// Takes over what recovery made of a tenant.
    pub(super) fn absorb(&mut self, recovered: Recovered) {
        let now = self.shared.clock.monotonic();
        let tenant = self.tenants.entry(recovered.tenant).or_default();
        tenant.oldest = recovered.oldest.map(|name| (name, now));
        tenant.dirty_state.extend(recovered.dirty_state);
        let mut tail: usize = 0;
        for partition in recovered.partitions {
            let id: PartitionId = partition.log.id;
            // A topic deleted while its tenant was locked.
            if !self.shared.has_partition(id) {
                continue;
            }
            if partition.inner.tail_bytes > 0 || partition.dirty {
                tenant.dirty.insert(id);
            }
            tail += partition.inner.tail_bytes;
            let config = partition.log.read().config;
            *partition.log.write() = crate::log::Inner { config, ..partition.inner };
            let next_offset = partition.next_offset;
            self.partitions.insert(id, super::Owned { log: partition.log, producers: partition.producers, next_offset });
        }
        self.tail_bytes += tail;
        self.shared.set_state(recovered.tenant, recovered.state);
    }
}

/// A tail that retention or `segment.ms` cannot leave where it is: only parts are removed.
fn tail_is_due(inner: &crate::log::Inner, now_ms: i64) -> bool {
    let Some(oldest) = inner.tail.front() else { return false };
    let age_ms = now_ms.saturating_sub(oldest.max_timestamp());
    let limit = u64::try_from(inner.config.retention_bytes).unwrap_or(u64::MAX);
    let expired = inner.config.retention_ms >= 0 && age_ms > inner.config.retention_ms;
    let deleted = oldest.last_offset() < inner.log_start;
    expired || deleted || age_ms > inner.config.segment_ms || inner.tail_bytes as u64 > limit
}
