//! Crypto-shredding: what opens a topic's or a tenant's records is destroyed, not only what points at them.
//!
//! After it, in this data folder: no row, no key slot of a live object, no entry of the log. Outside of it: a topic's records need the
//! topic's own key, which was never in the data folder ([`crate::topic_keys`]); a tenant's need its KMS key, which is its owner's to
//! delete. Entries of the log that somebody copied before they were flushed are sealed under the tenant's epoch key alone.

use std::sync::atomic::Ordering;

use object_store::ObjectStoreExt;
use schloss_core::{PartitionId, TenantId, TopicId};
use schloss_metadata::{AsideRow, MetadataError};
use tokio::sync::oneshot;

use crate::aside;
use crate::engine::Engine;
use crate::error::{AppendError, LogError};
use crate::keys::KeyTrouble;
use crate::maintenance;
use crate::rewrite::RewriteError;
use crate::segment::object_path;
use crate::shard::Command;
use crate::topic_keys::TopicKeyError;

/// Tries to empty a log that others write to.
const PURGE_ROUNDS: u32 = 10;

/// What was destroyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shredded {
    /// Objects that held its records and are gone, with their wrapped data keys.
    pub objects: u64,
    /// Topics' own keys.
    pub topic_keys: u64,
    /// The log's files were emptied too, and nothing of the tenant is set aside. False while the tenant's own key is away: what is set aside
    /// goes with the first flush after it is back; and while something could neither be flushed nor set aside.
    pub log_purged: bool,
}

/// Why it is not finished. What was destroyed is destroyed; running it again goes on.
#[derive(Debug, thiserror::Error)]
pub enum ShredError {
    /// The log or the manifest.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Neighbours' records in shared objects could not be moved.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
}

impl From<MetadataError> for ShredError {
    fn from(error: MetadataError) -> Self {
        Self::Log(error.into())
    }
}

impl From<AppendError> for ShredError {
    fn from(error: AppendError) -> Self {
        Self::Log(error.into())
    }
}

impl Engine {
    /// Shreds a topic: its key, its rows, its objects; records of other topics in shared objects are moved to new ones first.
    /// The topic's catalog entry must be gone already, so that nobody writes to it.
    ///
    /// # Errors
    /// [`ShredError`].
    pub async fn shred_topic(&self, tenant: TenantId, topic: TopicId, partitions: i32) -> Result<Shredded, ShredError> {
        let mut done = Shredded::default();
        self.flush_all_before().await?;
        let shared: Vec<_> = self
            .segments_of(tenant)
            .into_iter()
            .filter(|(segment, _)| self.objects_topics(segment.row.object_id).contains(&topic))
            .collect();
        done.objects = shared.len() as u64;
        done.topic_keys =
            u64::from(self.topic_keys.destroy(tenant, topic).map_err(TopicKeyError::from).map_err(LogError::from)?);
        self.delete_topic(topic, partitions).await?;
        for (segment, key_ref) in shared {
            // False when the topic was alone in it: deleting the topic has made it garbage.
            self.rewrite_segment(&segment, key_ref.as_deref()).await?;
        }
        self.erase_now().await?;
        // What is set aside of the tenant may hold the topic's records, under the tenant's key alone.
        done.log_purged = self.purge_log().await? && !self.has_set_aside(tenant);
        self.metadata.scrub_deleted().await?;
        Ok(done)
    }

    /// Whether something of a tenant is set aside.
    pub(crate) fn has_set_aside(&self, tenant: TenantId) -> bool {
        self.shards.iter().any(|handle| handle.shared.aside_bytes(tenant) > 0)
    }

    /// Shreds everything of a tenant. Nobody may use it any more.
    ///
    /// # Errors
    /// [`ShredError`].
    pub async fn shred_tenant(&self, tenant: TenantId) -> Result<Shredded, ShredError> {
        let mut done = Shredded::default();
        let topic_keys = self.topic_keys.destroy_all(tenant).map_err(TopicKeyError::from).map_err(LogError::from)?;
        done.topic_keys = topic_keys as u64;
        let segments: Vec<_> = self.metadata.segments().await?;
        let objects: Vec<_> = segments.into_iter().filter(|row| row.tenant == tenant).collect();
        done.objects = objects.len() as u64;
        let mut aside = self.set_aside_of(tenant).await?;
        self.forget_keys(tenant);
        self.forget_partitions(tenant);
        self.metadata.shred_tenant(tenant, self.clock.now_ms()).await?;
        // A flush that was under way may have committed rows in between.
        self.flush_all_before().await?;
        // Nor may it give back to memory, or have set aside, what it had taken up.
        self.forget_partitions(tenant);
        aside.extend(self.set_aside_of(tenant).await?);
        self.metadata.shred_tenant(tenant, self.clock.now_ms()).await?;
        for row in aside {
            if let Err(error) = self.objects.delete(&aside::path(&row)).await {
                tracing::debug!(%error, "entries set aside are gone already, or are swept at the next start");
            }
        }
        for row in objects {
            if let Err(error) = self.objects.delete(&object_path(tenant, &row.object_id)).await {
                tracing::debug!(%error, "an object is erased with the garbage");
            }
        }
        self.erase_now().await?;
        done.log_purged = self.purge_log().await?;
        self.metadata.scrub_deleted().await?;
        Ok(done)
    }

    async fn set_aside_of(&self, tenant: TenantId) -> Result<Vec<AsideRow>, MetadataError> {
        let mut rows = self.metadata.aside().await?;
        rows.retain(|row| row.tenant == tenant);
        Ok(rows)
    }

    fn objects_topics(&self, object: [u8; 32]) -> std::collections::HashSet<TopicId> {
        let partitions = self.partitions.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let holds = |partition: &&std::sync::Arc<crate::partition::Partition>| {
            partition.read().parts.iter().any(|part| part.row.object_id == object)
        };
        partitions.values().filter(holds).map(|partition| partition.id.topic).collect()
    }

    fn forget_partitions(&self, tenant: TenantId) {
        let mut partitions = self.partitions.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let gone: Vec<PartitionId> =
            partitions.values().filter(|partition| partition.tenant == tenant).map(|partition| partition.id).collect();
        let gone: Vec<_> = gone.into_iter().filter_map(|id| partitions.remove(&id)).collect();
        drop(partitions);
        for partition in gone {
            partition.remove();
            let handle = self.shards.iter().find(|handle| handle.shared.id == partition.shard);
            let Some(handle) = handle else { continue };
            handle.shared.partitions.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&partition.id);
            let dropped = partition.write().drop_tail_below(i64::MAX);
            handle.shared.left_tail(dropped);
        }
        for handle in &self.shards {
            handle.shared.locked().remove(&tenant);
            handle.shared.aside().remove(&tenant);
            handle.shared.oldest().remove(&tenant);
            let mut states = handle.shared.states();
            states.live.remove(&tenant);
            states.dirty.retain(|(owner, _)| *owner != tenant);
        }
    }

    /// Erases all garbage without the grace for running readers: their next read fails, as it should.
    async fn erase_now(&self) -> Result<(), MetadataError> {
        maintenance::erase_garbage(&*self.metadata, &*self.objects, i64::MAX, &self.in_doubt).await.map(drop)
    }

    /// Empties the log behind the checkpoint. False while a checkpoint is held back.
    async fn purge_log(&self) -> Result<bool, ShredError> {
        let mut whole = false;
        // Others write meanwhile: an entry between flush and purge makes a second round necessary.
        for _ in 0..PURGE_ROUNDS {
            self.flush_all_before().await?;
            whole = true;
            for handle in &self.shards {
                let (reply, answer) = oneshot::channel();
                handle.commands.send(Command::Purge(reply)).map_err(|_| AppendError::Stopped)?;
                whole &= answer.await.unwrap_or(Err(AppendError::Stopped))?;
            }
            if whole || self.shards.iter().any(|handle| handle.shared.log_held.load(Ordering::Acquire)) {
                break;
            }
        }
        Ok(whole)
    }
}

impl From<KeyTrouble> for ShredError {
    fn from(error: KeyTrouble) -> Self {
        Self::Rewrite(error.into())
    }
}
