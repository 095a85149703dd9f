//! A tenant's change of KMS key: every live wrapped key is wrapped anew, data untouched. Online, resumable, rate-limited.
//!
//! Live wrapped keys are those of the manifest: the tenant's metadata and index keys, and each segment's data key. Epoch keys of the log
//! are made anew and what they sealed is flushed into segments. The copy of a wrapped key in a segment's own key slot stays as it was
//! written (objects are immutable): it is for recovery without a manifest, and then needs the KMS key it names.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use schloss_core::TenantId;
use schloss_crypto::{EncryptionContext, KeyError, Purpose, WrappedKey};
use schloss_metadata::KeyRow;
use tokio::sync::watch;

use crate::engine::Engine;
use crate::error::AppendError;
use crate::keys::KeyTrouble;
use crate::segment::Segment;
use crate::shard::Command;
use crate::stats::Counters;

/// Rows changed in one transaction.
const BATCH: usize = 8;

/// How far it is: done and of how many.
pub type Progress = watch::Sender<(u64, u64)>;

/// What a re-wrap did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrapped {
    /// Keys wrapped anew.
    pub rewrapped: u64,
    /// Keys that were under the right KMS key already.
    pub kept: u64,
    /// The log, or what is set aside of the tenant, still holds sections under older keys. The old KMS key must stay enabled until a later
    /// run says otherwise.
    pub log_held: bool,
}

/// Why it stopped. What was done stays done; running it again goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum RewrapError {
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyTrouble),
    /// The log.
    #[error("the log could not be flushed first: {0}")]
    Log(#[from] AppendError),
    /// A stored key of a purpose this release does not know.
    #[error("a stored key is for `{purpose}`, which this release does not know")]
    Unknown {
        /// Its purpose.
        purpose: String,
    },
}

/// A segment, and the KMS key that all its topics name, if they do.
type Placed = (Arc<Segment>, Option<Arc<str>>);

impl Engine {
    /// Wraps every live key of a tenant under its current KMS key, or the one its topic names; at most `rate` calls a second.
    ///
    /// # Errors
    /// [`RewrapError`].
    pub async fn rewrap(&self, tenant: TenantId, rate: u32, progress: &Progress) -> Result<Rewrapped, RewrapError> {
        let mut done = Rewrapped::default();
        for handle in &self.shards {
            // The next entry asks for a key under the new KMS key.
            drop(handle.commands.send(Command::Forget(tenant)));
        }
        self.flush_all_before().await?;
        done.log_held = self.log_is_held() || self.has_set_aside(tenant);
        let rows = self.metadata.all_keys(tenant.to_bytes()).await.map_err(KeyTrouble::from)?;
        let segments = self.segments_of(tenant);
        let of = (rows.len().saturating_add(segments.len())) as u64;
        progress.send_replace((0, of));
        let pace = Duration::from_secs(1) / rate.max(1);
        for row in rows {
            self.rewrap_row(tenant, row, &mut done).await?;
            progress.send_replace((done.rewrapped.saturating_add(done.kept), of));
            tokio::time::sleep(pace).await;
        }
        self.row_keys.forget(tenant);
        for batch in segments.chunks(BATCH) {
            let mut moved = Vec::new();
            for (segment, key_ref) in batch {
                match self.rewrap_segment(segment, key_ref.as_deref()).await? {
                    Some(wrapped) => {
                        Counters::add(&self.counters.keys_rewrapped, 1);
                        moved.push((Arc::clone(segment), wrapped));
                        tokio::time::sleep(pace).await;
                    }
                    None => done.kept = done.kept.saturating_add(1),
                }
            }
            let rows = moved.iter().map(|(segment, wrapped)| (segment.row.object_id, wrapped.clone())).collect();
            self.metadata.rewrap_segments(rows).await.map_err(KeyTrouble::from)?;
            done.rewrapped = done.rewrapped.saturating_add(moved.len() as u64);
            for (segment, wrapped) in moved {
                segment.set_wrapped(wrapped);
            }
            progress.send_replace((done.rewrapped.saturating_add(done.kept), of));
        }
        Ok(done)
    }

    /// Flushes everything acknowledged before the call, but for tenants whose keys are away.
    ///
    /// # Errors
    /// A shard has stopped, or the disk is full.
    pub async fn flush_now(&self) -> Result<(), AppendError> {
        self.flush_all_before().await
    }

    /// The same, and what those tenants have is set aside: afterwards nothing acknowledged before the call is in the log alone.
    ///
    /// # Errors
    /// A shard has stopped, or the disk is full.
    pub async fn flush_or_set_aside(&self) -> Result<(), AppendError> {
        self.flush_all_before().await?;
        if self.log_is_held() { Err(AppendError::Full) } else { Ok(()) }
    }

    /// Whether the log alone holds something that could neither be flushed nor set aside.
    pub(crate) fn log_is_held(&self) -> bool {
        self.shards.iter().any(|handle| handle.shared.log_held.load(Ordering::Acquire))
    }

    /// Flushes everything acknowledged before the call. A flush that was under way answers for the first one.
    pub(crate) async fn flush_all_before(&self) -> Result<(), AppendError> {
        for _ in 0..2 {
            match self.flush().await {
                // Some tenant's key is away; the others' records are in segments.
                Ok(()) | Err(AppendError::Key) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn rewrap_row(&self, tenant: TenantId, row: KeyRow, done: &mut Rewrapped) -> Result<(), RewrapError> {
        let purpose = match row.purpose.as_str() {
            "metadata" => Purpose::Metadata { generation: u32::try_from(row.generation).unwrap_or(u32::MAX) },
            "index" => Purpose::Index,
            _ => return Err(RewrapError::Unknown { purpose: row.purpose }),
        };
        let wrapped = WrappedKey::from_bytes(&row.wrapped).map_err(KeyTrouble::from)?;
        match self.rewrapped(tenant, purpose, &wrapped, None).await? {
            Some(wrapped) => {
                self.metadata.rewrap_key(KeyRow { wrapped, ..row }).await.map_err(KeyTrouble::from)?;
                done.rewrapped = done.rewrapped.saturating_add(1);
                Counters::add(&self.counters.keys_rewrapped, 1);
            }
            None => done.kept = done.kept.saturating_add(1),
        }
        Ok(())
    }

    async fn rewrap_segment(&self, segment: &Segment, key_ref: Option<&str>) -> Result<Option<Vec<u8>>, KeyTrouble> {
        let wrapped = WrappedKey::from_bytes(&segment.wrapped())?;
        let purpose = Purpose::Segment { segment: segment.row.segment };
        self.rewrapped(segment.row.tenant, purpose, &wrapped, key_ref).await
    }

    async fn rewrapped(
        &self,
        tenant: TenantId,
        purpose: Purpose,
        wrapped: &WrappedKey,
        key_ref: Option<&str>,
    ) -> Result<Option<Vec<u8>>, KeyTrouble> {
        let context = EncryptionContext { cluster: self.reader.cluster.to_bytes(), tenant: tenant.to_bytes(), purpose };
        let moved = self.reader.vault.rewrap(&context, wrapped, key_ref).await?;
        Ok(moved.map(|wrapped| wrapped.to_bytes()).transpose()?)
    }

    /// Live segments of a tenant, each with the KMS key that all its topics name, if they do.
    pub(crate) fn segments_of(&self, tenant: TenantId) -> Vec<Placed> {
        let mut found: HashMap<[u8; 32], Placed> = HashMap::new();
        let partitions = self.partitions.read().unwrap_or_else(PoisonError::into_inner);
        for partition in partitions.values().filter(|partition| partition.tenant == tenant) {
            let inner = partition.read();
            for part in &inner.parts {
                let known = found
                    .entry(part.row.object_id)
                    .or_insert_with(|| (Arc::clone(&part.segment), inner.key_ref.clone()));
                if known.1 != inner.key_ref {
                    known.1 = None;
                }
            }
        }
        let mut segments: Vec<_> = found.into_values().collect();
        segments.sort_by_key(|(segment, _)| (segment.row.born_ms, segment.row.object_id));
        segments
    }

    /// By which KMS keys a tenant's live segments are wrapped, with their number.
    #[must_use]
    pub fn wrapping_keys(&self, tenant: TenantId) -> Vec<(String, u64)> {
        let mut counts: HashMap<String, u64> = HashMap::new();
        for (segment, _) in self.segments_of(tenant) {
            let name =
                WrappedKey::from_bytes(&segment.wrapped()).map_or_else(|_| "damaged".to_owned(), |key| key.key_ref);
            let count = counts.entry(name).or_insert(0);
            *count = count.saturating_add(1);
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort();
        counts
    }
}

impl RewrapError {
    /// Whether a KMS said no or nothing: what to look at is there.
    #[must_use]
    pub const fn is_of_kms(&self) -> bool {
        matches!(self, Self::Key(KeyTrouble::Key(KeyError::Denied { .. } | KeyError::Unreachable { .. })))
    }
}
