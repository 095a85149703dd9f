//! What the engine does when a tenant's KMS key goes away, and when it comes back.
//!
//! Invariants
//! - [`Engine::forget_keys`] leaves no key of the tenant in this room: epoch keys, row keys, opened segments; nor its records in the
//!   cache of opened frames. Batches not yet in segments stay in memory: they are acknowledged and not on disk in the clear.
//! - [`Engine::unlock`] either gives all back that recovery had left sealed, or changes nothing.

use std::sync::{Arc, PoisonError};

use schloss_core::TenantId;
use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::error::OpenError;
use crate::locked::{InDoubt, Locked, Opener};
use crate::shard::Command;

impl Engine {
    /// Drops and wipes every key of a tenant, and its opened records that can be read again.
    pub fn forget_keys(&self, tenant: TenantId) {
        self.row_keys.forget(tenant);
        self.topic_keys.forget(tenant);
        for handle in &self.shards {
            // A shard that has stopped holds no key any more.
            drop(handle.commands.send(Command::Forget(tenant)));
        }
        let partitions = self.partitions.read().unwrap_or_else(PoisonError::into_inner);
        let mut objects = std::collections::HashSet::new();
        for partition in partitions.values().filter(|partition| partition.tenant == tenant) {
            for part in &partition.read().parts {
                if objects.insert(part.row.object_id) {
                    part.segment.forget();
                }
            }
        }
        drop(partitions);
        self.reader.cache.retain(|(object, _), _| !objects.contains(object));
    }

    /// Tenants of which something could not be opened at start, with the reason.
    #[must_use]
    pub fn locked_tenants(&self) -> Vec<(TenantId, String)> {
        let mut all = Vec::new();
        for handle in &self.shards {
            all.extend(handle.shared.locked().iter().map(|(tenant, locked)| (*tenant, locked.why.to_string())));
        }
        all
    }

    /// What is in doubt of a tenant. It stays so until a restart.
    #[must_use]
    pub fn in_doubt(&self, tenant: TenantId) -> Option<&InDoubt> {
        self.in_doubt.get(&tenant)
    }

    /// Opens what recovery had to leave sealed of a tenant. Nothing to do is fine.
    ///
    /// # Errors
    /// [`OpenError`]; nothing changed.
    pub async fn unlock(&self, tenant: TenantId) -> Result<(), OpenError> {
        if let Some(doubt) = self.in_doubt(tenant) {
            return Err(doubt.clone().into());
        }
        for handle in &self.shards {
            let locked: Option<Arc<Locked>> = handle.shared.locked().get(&tenant).cloned();
            let Some(locked) = locked else { continue };
            let keys = self.row_keys.get(tenant).await?;
            let opener = Opener {
                shard: handle.shared.id,
                cluster: self.reader.cluster,
                metadata: &*self.metadata,
                objects: &*self.objects,
                vault: &*self.reader.vault,
            };
            let opened = opener.open(tenant, &locked, &keys).await.inspect_err(|error| {
                if let OpenError::SetAside { object, damage } = error {
                    self.reader.integrity.report_aside(&self.counters, tenant, object, *damage);
                }
            })?;
            let (reply, answer) = oneshot::channel();
            let stopped = || OpenError::Io {
                what: "the shard has stopped",
                source: std::io::Error::from(std::io::ErrorKind::BrokenPipe),
            };
            handle.commands.send(Command::Unlock { tenant, opened, reply }).map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?.map_err(|_| stopped())?;
        }
        Ok(())
    }
}
