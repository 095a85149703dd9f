//! Reads batches out of segments: only the frames wanted, neighbours in one request, through the cache.
//!
//! Invariants
//! - Nothing leaves that did not verify against the manifest's row and its own place.
//! - A plain data key is held no longer than five minutes since the vault last gave it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use object_store::ObjectStore;
use schloss_core::{Clock, ClusterId, PartitionId, TenantId};
use schloss_crypto::segment::HEAD_BYTES;
use schloss_crypto::{
    EncryptionContext, KeyVault, ObjectExpectation, Purpose, SealError, SegmentOpener, WrappedKey,
};
use schloss_metadata::SegmentRow;

use super::build::frame_facts;
use super::cache::FrameCache;
use super::{FrameEntry, Index, index_from_bytes, object_path};
use crate::batch::{Batch, split_batches};
use crate::error::ReadError;
use crate::stats::Stats;

const KEY_AGE_MAX: Duration = Duration::from_secs(300);
/// Segments held open: each is a key schedule and an index of a few kilobytes.
const OPEN_MAX: usize = 1024;

/// Opens segments.
pub(crate) struct SegmentReader {
    cluster: ClusterId,
    vault: Arc<dyn KeyVault>,
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    stats: Arc<Stats>,
    cache: FrameCache,
    open: Mutex<HashMap<[u8; 16], (Duration, Arc<OpenSegment>)>>,
}

struct OpenSegment {
    tenant: TenantId,
    opener: SegmentOpener,
    index: Index,
}

impl SegmentReader {
    pub(crate) fn new(
        cluster: ClusterId,
        vault: Arc<dyn KeyVault>,
        store: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        stats: Arc<Stats>,
        cache_bytes: usize,
    ) -> Self {
        Self { cluster, vault, store, clock, stats, cache: FrameCache::new(cache_bytes), open: Mutex::default() }
    }

    /// Whole batches from the one that holds `offset`, up to `max_bytes`; the first in any case if `min_one`.
    pub(crate) async fn read(
        &self,
        row: &SegmentRow,
        partition: PartitionId,
        offset: i64,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<Vec<Batch>, ReadError> {
        let segment = self.opened(row).await?;
        let frames = segment.index.get(&partition).map(Vec::as_slice).unwrap_or_default();
        let from = frames.partition_point(|frame| frame.last_offset < offset);
        let wanted = wanted(frames.get(from..).unwrap_or_default(), max_bytes);
        let mut batches = Vec::new();
        let mut bytes = 0_usize;
        for plain in self.frames(row, &segment, partition, wanted).await? {
            let opened = split_batches(plain).ok_or(ReadError::Tampered(SealError::Malformed { what: "frame" }))?;
            for batch in opened.into_iter().filter(|batch| batch.last_offset() >= offset) {
                bytes = bytes.saturating_add(batch.len());
                if bytes > max_bytes && !(min_one && batches.is_empty()) {
                    return Ok(batches);
                }
                batches.push(batch);
            }
        }
        Ok(batches)
    }

    /// The first offset of the frame in `row` that may hold a record of `time_ms` or later.
    pub(crate) async fn frame_for_time(
        &self,
        row: &SegmentRow,
        partition: PartitionId,
        time_ms: i64,
        not_before: i64,
    ) -> Result<Option<i64>, ReadError> {
        let segment = self.opened(row).await?;
        let frames = segment.index.get(&partition).map(Vec::as_slice).unwrap_or_default();
        let hit = frames.iter().find(|frame| frame.max_timestamp >= time_ms && frame.last_offset >= not_before);
        Ok(hit.map(|frame| frame.first_offset))
    }

    /// Drops keys and plaintext of `tenant`.
    pub(crate) fn forget(&self, tenant: TenantId) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, (_, segment)| segment.tenant != tenant);
        self.cache.forget(tenant);
    }

    async fn opened(&self, row: &SegmentRow) -> Result<Arc<OpenSegment>, ReadError> {
        let now = self.clock.monotonic();
        let known = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&row.segment).cloned();
        if let Some((since, segment)) = known
            && now.saturating_sub(since) < KEY_AGE_MAX
        {
            return Ok(segment);
        }
        let segment = Arc::new(self.open(row).await.inspect_err(|error| self.count(error))?);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= OPEN_MAX
            && let Some(oldest) = open.iter().min_by_key(|(_, (since, _))| *since).map(|(id, _)| *id)
        {
            open.remove(&oldest);
        }
        open.insert(row.segment, (now, Arc::clone(&segment)));
        Ok(segment)
    }

    async fn open(&self, row: &SegmentRow) -> Result<OpenSegment, ReadError> {
        let wrapped = WrappedKey::from_bytes(&row.wrapped).map_err(ReadError::Tampered)?;
        let context = EncryptionContext {
            cluster: self.cluster.to_bytes(),
            tenant: row.tenant.to_bytes(),
            purpose: Purpose::Segment { segment: row.segment },
        };
        let key = self.vault.open(&context, &wrapped).await.map_err(|_| ReadError::Key)?;
        let path = object_path(row.tenant, row.segment);
        let ranges = [0..HEAD_BYTES as u64, row.footer_position..row.size];
        let pieces = self.store.get_ranges(&path, &ranges).await.map_err(|error| store_error(&error))?;
        let [head, tail] = pieces.as_slice() else { return Err(ReadError::Store) };
        let expect = ObjectExpectation {
            object_id: row.object_id,
            cluster: self.cluster.to_bytes(),
            tenant: row.tenant.to_bytes(),
            segment: row.segment,
            frame_count: row.frame_count,
        };
        let opener = SegmentOpener::open(head, &key, &expect).map_err(ReadError::Tampered)?;
        let footer =
            opener.open_footer(tail, row.footer_position, &row.footer_tag).map_err(ReadError::Tampered)?;
        let index = index_from_bytes(&footer.index)
            .ok_or(ReadError::Tampered(SealError::Malformed { what: "segment index" }))?;
        Ok(OpenSegment { tenant: row.tenant, opener, index })
    }

    /// Plaintext of `wanted`, from the cache or, neighbours together, from the store.
    async fn frames(
        &self,
        row: &SegmentRow,
        segment: &OpenSegment,
        partition: PartitionId,
        wanted: &[FrameEntry],
    ) -> Result<Vec<Bytes>, ReadError> {
        let mut plain: Vec<Option<Bytes>> =
            wanted.iter().map(|frame| self.cache.get((row.segment, frame.number))).collect();
        let missing: Vec<usize> =
            plain.iter().enumerate().filter(|(_, frame)| frame.is_none()).map(|(at, _)| at).collect();
        Stats::add(&self.stats.cache_hits, (wanted.len() - missing.len()) as u64);
        Stats::add(&self.stats.cache_misses, missing.len() as u64);
        if !missing.is_empty() {
            let ranges: Vec<_> = missing
                .iter()
                .filter_map(|&at| wanted.get(at))
                .map(|frame| frame.position..frame.position + u64::from(frame.sealed_len))
                .collect();
            let path = object_path(row.tenant, row.segment);
            // The store joins ranges that touch.
            let sealed = self.store.get_ranges(&path, &ranges).await.map_err(|error| store_error(&error))?;
            for (at, sealed) in missing.into_iter().zip(sealed) {
                let (Some(frame), Some(place)) = (wanted.get(at), plain.get_mut(at)) else { continue };
                let facts = frame_facts(partition, frame.first_offset, frame.last_offset);
                let opened = segment
                    .opener
                    .open_frame(frame.number, &facts, BytesMut::from(&sealed[..]))
                    .map_err(ReadError::Tampered)
                    .inspect_err(|error| self.count(error))?;
                self.cache.put((row.segment, frame.number), row.tenant, opened.clone());
                *place = Some(opened);
            }
        }
        plain.into_iter().map(|frame| frame.ok_or(ReadError::Store)).collect()
    }

    fn count(&self, error: &ReadError) {
        if matches!(error, ReadError::Tampered(_)) {
            Stats::add(&self.stats.tamper_refusals, 1);
            tracing::error!(%error, "stored data refused");
        }
    }
}

/// A range outside of the object is a cut object.
fn store_error(error: &object_store::Error) -> ReadError {
    tracing::warn!(%error, "segment store");
    ReadError::Store
}

/// Frames whose bytes reach `max_bytes`, at least one.
fn wanted(frames: &[FrameEntry], max_bytes: usize) -> &[FrameEntry] {
    let mut bytes = 0_usize;
    let enough = frames.iter().position(|frame| {
        bytes = bytes.saturating_add(usize::try_from(frame.sealed_len).unwrap_or(usize::MAX));
        // One more than fits: the first may be entered in its middle.
        bytes > max_bytes.saturating_add(64 * 1024)
    });
    frames.get(..enough.map_or(frames.len(), |at| at.max(1))).unwrap_or_default()
}
