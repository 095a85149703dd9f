//! Records into new segments under new data keys, for a data key that may have leaked, or to leave a deleted topic's frames behind.
//! Online: readers go on with the old object until the new one stands in its place in one transaction.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::{ObjectStoreExt, PutPayload};
use schloss_core::{PartitionId, TenantId, TopicId};
use schloss_crypto::segment::{SegmentHeader, SegmentWriter, new_object_id};
use schloss_crypto::{DataKey, EncryptionContext, Purpose, WrappedKey, random_array};
use schloss_metadata::{MetadataError, SegmentRow};

use crate::engine::Engine;
use crate::keys::KeyTrouble;
use crate::partition::Part;
use crate::rewrap::Progress;
use crate::segment::{self, Frame, Opened, Segment, object_path};
use crate::stats::Counters;

/// What a rewrite did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Segments rewritten.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Why it stopped. What was done stays done.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyTrouble),
    /// Stored records cannot be read.
    #[error(transparent)]
    Read(#[from] crate::ReadError),
    /// The new object could not be made or stored.
    #[error("a new segment could not be written: {0}")]
    Write(String),
}

impl Engine {
    /// Rewrites all live segments of a tenant, or those with records of one topic; at most `bytes_per_second`.
    ///
    /// # Errors
    /// [`RewriteError`].
    pub async fn rewrite(
        &self,
        tenant: TenantId,
        topic: Option<TopicId>,
        bytes_per_second: u64,
        progress: &Progress,
    ) -> Result<Rewritten, RewriteError> {
        let all = self.segments_of(tenant);
        let wanted: Vec<_> = all
            .into_iter()
            .filter(|(segment, _)| topic.is_none_or(|topic| self.has_records_of(segment, topic)))
            .collect();
        let of: u64 = wanted.iter().map(|(segment, _)| segment.row.size).sum();
        let mut done = Rewritten::default();
        progress.send_replace((0, of));
        for (segment, key_ref) in wanted {
            let begun = Instant::now();
            if self.rewrite_segment(&segment, key_ref.as_deref()).await? {
                done.segments = done.segments.saturating_add(1);
                done.bytes = done.bytes.saturating_add(segment.row.size);
                Counters::add(&self.counters.segments_rewritten, 1);
            }
            progress.send_replace((done.bytes, of));
            let pace = Duration::from_secs_f64(segment.row.size as f64 / bytes_per_second.max(1) as f64);
            tokio::time::sleep(pace.saturating_sub(begun.elapsed())).await;
        }
        Ok(done)
    }

    fn has_records_of(&self, segment: &Segment, topic: TopicId) -> bool {
        self.live_parts(segment).iter().any(|(partition, _)| partition.topic == topic)
    }

    /// Parts of a segment that are still in a log.
    fn live_parts(&self, segment: &Segment) -> Vec<(PartitionId, Vec<Part>)> {
        let partitions = self.partitions.read().unwrap_or_else(PoisonError::into_inner);
        let mut live = Vec::new();
        for partition in partitions.values().filter(|partition| partition.tenant == segment.row.tenant) {
            let inner = partition.read();
            let parts: Vec<Part> =
                inner.parts.iter().filter(|part| part.row.object_id == segment.row.object_id).cloned().collect();
            if !parts.is_empty() {
                live.push((partition.id, parts));
            }
        }
        live
    }

    /// False when it left the manifest meanwhile.
    pub(crate) async fn rewrite_segment(&self, old: &Segment, key_ref: Option<&str>) -> Result<bool, RewriteError> {
        let live = self.live_parts(old);
        if live.is_empty() {
            return Ok(false);
        }
        let opened = old.open(&*self.objects, &*self.reader.vault, self.reader.cluster).await?;
        let mut content = Vec::new();
        for (partition, parts) in &live {
            content.push(self.live_frames(*partition, parts, old, &opened).await?);
        }
        let segment_id: [u8; 16] = random_array();
        let context = EncryptionContext {
            cluster: self.reader.cluster.to_bytes(),
            tenant: old.row.tenant.to_bytes(),
            purpose: Purpose::Segment { segment: segment_id },
        };
        let (key, wrapped) = self.reader.vault.generate_under(&context, key_ref).await.map_err(KeyTrouble::from)?;
        let header = SegmentHeader {
            object_id: new_object_id(),
            segment: segment_id,
            key_id: segment_id,
            ..*opened.opener.header()
        };
        let born_ms = old.row.born_ms;
        let tenant = old.row.tenant;
        let sealing = move || seal(tenant, born_ms, &key, header, &wrapped, content);
        let sealed =
            tokio::task::spawn_blocking(sealing).await.map_err(|error| RewriteError::Write(error.to_string()))?;
        let (row, bytes) = sealed.map_err(|error| RewriteError::Write(error.to_string()))?;
        let path = object_path(tenant, &row.object_id);
        let failed = |error: &dyn std::fmt::Display| RewriteError::Write(error.to_string());
        self.objects.put(&path, PutPayload::from(bytes)).await.map_err(|error| failed(&error))?;
        self.put_in_place(old, row, &live).await
    }

    async fn live_frames(
        &self,
        partition: PartitionId,
        parts: &[Part],
        old: &Segment,
        opened: &Opened,
    ) -> Result<Content, RewriteError> {
        let frames: Vec<Frame> = opened
            .index
            .get(&partition)
            .map(Vec::as_slice)
            .unwrap_or_default()
            .iter()
            .filter(|frame| {
                parts
                    .iter()
                    .any(|part| frame.last_offset >= part.row.first_offset && frame.first_offset < part.row.next_offset)
            })
            .copied()
            .collect();
        let mut plain = Vec::with_capacity(frames.len());
        for run in frames.chunks(64) {
            let opened = self.reader.open_frames(partition, old, opened, run).await?;
            plain.extend(opened.into_iter().map(|(frame, plain)| (*frame, plain)));
        }
        let topic_key = self.topic_key_of(old.row.tenant, partition.topic).await?;
        Ok(Content { partition, topic_key, frames: plain })
    }

    async fn topic_key_of(&self, tenant: TenantId, topic: TopicId) -> Result<Option<Arc<DataKey>>, RewriteError> {
        self.reader.topic_keys.find(tenant, topic).await.map_err(|error| RewriteError::Write(error.to_string()))
    }

    async fn put_in_place(
        &self,
        old: &Segment,
        row: SegmentRow,
        live: &[(PartitionId, Vec<Part>)],
    ) -> Result<bool, RewriteError> {
        let Some(shard) = live.first().and_then(|(id, _)| self.partition(*id)).map(|partition| partition.shard) else {
            return Ok(false);
        };
        let Some(handle) = self.shards.iter().find(|handle| handle.shared.id == shard) else { return Ok(false) };
        let now_ms = self.clock.now_ms();
        match self.metadata.replace_segment(handle.shared.guard, old.row.object_id, row.clone(), now_ms).await {
            Ok(()) => {}
            Err(MetadataError::Fenced) => {
                // Everything of it was deleted meanwhile; the new object is nobody's.
                if let Err(error) = self.objects.delete(&object_path(row.tenant, &row.object_id)).await {
                    tracing::warn!(%error, "a segment that is not needed stays until the next start");
                }
                return Ok(false);
            }
            Err(error) => return Err(KeyTrouble::from(error).into()),
        }
        let new = Arc::new(Segment::new(row));
        for (id, _) in live {
            let Some(partition) = self.partition(*id) else { continue };
            for part in partition.write().parts.iter_mut().filter(|part| part.row.object_id == old.row.object_id) {
                part.row.object_id = new.row.object_id;
                part.segment = Arc::clone(&new);
            }
        }
        old.forget();
        Ok(true)
    }
}

/// One partition's frames, opened.
struct Content {
    partition: PartitionId,
    topic_key: Option<Arc<DataKey>>,
    frames: Vec<(Frame, Bytes)>,
}

fn seal(
    tenant: TenantId,
    born_ms: i64,
    key: &DataKey,
    header: SegmentHeader,
    wrapped: &WrappedKey,
    content: Vec<Content>,
) -> Result<(SegmentRow, Bytes), schloss_crypto::SealError> {
    let mut writer = SegmentWriter::new(key, header, wrapped)?;
    let mut index = Vec::with_capacity(content.len());
    for Content { partition, topic_key, frames } in content {
        let mut places = Vec::with_capacity(frames.len());
        for (frame, plain) in frames {
            let place = writer.frame_of(segment::facts(partition, &frame), topic_key.as_deref(), &plain)?;
            places.push(Frame { place, keyed: topic_key.is_some(), ..frame });
        }
        index.push((partition, places));
    }
    let sealed = writer.finish(&segment::write_index(&index))?;
    let row = SegmentRow {
        object_id: header.object_id,
        segment: header.segment,
        tenant,
        wrapped: wrapped.to_bytes()?,
        born_ms,
        size: sealed.bytes.len() as u64,
        frame_count: sealed.frame_count,
        footer_position: sealed.footer_position,
        footer_tag: sealed.footer_tag,
    };
    Ok((row, Bytes::from(sealed.bytes)))
}
