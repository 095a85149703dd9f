//! What time does to logs: retention by age and size, erasing of garbage, the sweep of orphans.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use schloss_core::TenantId;
use schloss_metadata::{Metadata, MetadataError};

use crate::aside;
use crate::locked::InDoubt;
use crate::partition::{Inner, Partition};
use crate::segment::object_path;

/// Where retention moves a partition's log start to, if anywhere.
pub fn retained_from(inner: &Inner, now_ms: i64) -> Option<i64> {
    let by_age = if inner.config.retention_ms >= 0 {
        expired_until(inner, now_ms.saturating_sub(inner.config.retention_ms))
    } else {
        None
    };
    let by_size = u64::try_from(inner.config.retention_bytes).ok().and_then(|max| oversized_until(inner, max));
    by_age.max(by_size).filter(|start| *start > inner.log_start)
}

/// The offset behind the oldest run of parts and batches whose newest record is older than `before_ms`.
fn expired_until(inner: &Inner, before_ms: i64) -> Option<i64> {
    let mut until = None;
    for part in &inner.parts {
        if part.row.max_timestamp >= before_ms {
            return until;
        }
        until = Some(part.row.next_offset);
    }
    for batch in &inner.tail {
        if batch.max_timestamp >= before_ms {
            return until;
        }
        until = Some(batch.last_offset.saturating_add(1));
    }
    until
}

/// Whole parts go while what is left is still at least the limit, as in Kafka; the tail is its newest segment and stays.
fn oversized_until(inner: &Inner, max: u64) -> Option<i64> {
    let mut excess = inner.size().saturating_sub(max);
    let mut until = None;
    for part in &inner.parts {
        if excess < part.row.bytes {
            break;
        }
        excess = excess.saturating_sub(part.row.bytes);
        until = Some(part.row.next_offset);
    }
    until
}

/// Drops what is below a partition's new log start from memory; returns the bytes of tail dropped.
pub fn apply_start(partition: &Partition, start: i64) -> usize {
    partition.write().start_at(start)
}

/// Erases objects that no partition needs any more; nothing of tenants in doubt, whose rows may have been made to say so.
pub async fn erase_garbage(
    metadata: &dyn Metadata,
    objects: &dyn ObjectStore,
    before_ms: i64,
    in_doubt: &BTreeMap<TenantId, InDoubt>,
) -> Result<usize, MetadataError> {
    let mut erased = Vec::new();
    let except: Vec<TenantId> = in_doubt.keys().copied().collect();
    for row in metadata.garbage(before_ms, &except).await? {
        match objects.delete(&object_path(row.tenant, &row.object_id)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => erased.push(row.object_id),
            Err(error) => tracing::warn!(%error, "a segment could not be erased and is tried again"),
        }
    }
    let count = erased.len();
    if count > 0 {
        metadata.forget_garbage(erased).await?;
    }
    Ok(count)
}

/// Deletes objects of segments and of entries set aside that no row names: flushes that did not come to their commit. Only at start, before anything is written.
pub async fn sweep_orphans(metadata: &dyn Metadata, objects: &Arc<dyn ObjectStore>) -> Result<usize, MetadataError> {
    let mut known: HashSet<Path> =
        metadata.segments().await?.iter().map(|row| object_path(row.tenant, &row.object_id)).collect();
    known.extend(metadata.garbage(i64::MAX, &[]).await?.iter().map(|row| object_path(row.tenant, &row.object_id)));
    known.extend(metadata.aside().await?.iter().map(aside::path));
    let mut listed = Vec::new();
    for folder in ["seg", aside::FOLDER] {
        match objects.list(Some(&Path::from(folder))).try_collect::<Vec<_>>().await {
            Ok(found) => listed.extend(found),
            Err(error) => {
                tracing::warn!(%error, folder, "objects could not be listed; orphans stay until the next start")
            }
        }
    }
    let mut swept = 0_usize;
    for meta in listed.into_iter().filter(|meta| !known.contains(&meta.location)) {
        match objects.delete(&meta.location).await {
            Ok(()) => swept = swept.saturating_add(1),
            Err(error) => tracing::warn!(%error, "an orphan could not be deleted"),
        }
    }
    Ok(swept)
}
