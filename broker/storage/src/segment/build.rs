//! Makes segments of tails: chooses what goes into one object, seals it, stores it.
//!
//! Invariants
//! - An object holds one tenant's batches, under a fresh data key and a fresh object id.
//! - A batch is whole in one frame; a part is not longer than `segment.bytes` unless it is one batch.

use std::sync::Arc;

use object_store::{ObjectStore, PutMode, PutOptions, PutPayload};
use schloss_core::{Clock, ClusterId, PartitionId, TenantId};
use schloss_crypto::segment::new_object_id;
use schloss_crypto::{
    DataKey, EncryptionContext, FrameFacts, KeyError, KeyVault, Purpose, SealError, SealedSegment, SegmentHeader,
    SegmentWriter, WrappedKey, random_array,
};
use schloss_metadata::{PartRow, SegmentRow};

use super::{FrameEntry, index_to_bytes, object_path};
use crate::batch::Batch;
use crate::stats::Stats;

/// Runs at least this long get objects of their own, so that deleting them frees space at once.
const OWN_OBJECT_BYTES: usize = 4 * 1024 * 1024;

/// Batches of one partition, in order.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub partition: PartitionId,
    pub batches: Vec<Batch>,
    pub bytes: usize,
}

/// Why a segment was not made. Its batches stay in tail and log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("the segment store failed: {0}")]
    Store(#[from] object_store::Error),
    #[error("the worker ended")]
    Worker,
}

/// Groups runs into objects: large ones alone, cut at `cut` bytes; small ones packed up to `object_bytes_max`.
pub(crate) fn plan_objects(runs: Vec<(Run, usize)>, object_bytes_max: usize) -> Vec<Vec<Run>> {
    let mut objects = Vec::new();
    let mut packed: Vec<Run> = Vec::new();
    let mut packed_bytes = 0;
    for (run, cut) in runs {
        let alone = run.bytes >= OWN_OBJECT_BYTES.min(cut);
        for piece in cut_run(run, cut.min(object_bytes_max)) {
            if alone {
                objects.push(vec![piece]);
                continue;
            }
            if packed_bytes + piece.bytes > object_bytes_max && !packed.is_empty() {
                objects.push(std::mem::take(&mut packed));
                packed_bytes = 0;
            }
            packed_bytes += piece.bytes;
            packed.push(piece);
        }
    }
    if !packed.is_empty() {
        objects.push(packed);
    }
    objects
}

fn cut_run(run: Run, bytes_max: usize) -> Vec<Run> {
    let mut pieces: Vec<Run> = Vec::new();
    for batch in run.batches {
        match pieces.last_mut() {
            Some(piece) if piece.bytes + batch.len() <= bytes_max => {
                piece.bytes += batch.len();
                piece.batches.push(batch);
            }
            _ => pieces.push(Run { partition: run.partition, bytes: batch.len(), batches: vec![batch] }),
        }
    }
    pieces
}

/// Seals and stores objects.
pub(crate) struct SegmentMaker {
    pub cluster: ClusterId,
    pub vault: Arc<dyn KeyVault>,
    pub store: Arc<dyn ObjectStore>,
    pub clock: Arc<dyn Clock>,
    pub stats: Arc<Stats>,
    pub frame_bytes: usize,
}

impl SegmentMaker {
    /// Stores one object of `runs`; its row is to be committed next.
    pub(crate) async fn make(&self, tenant: TenantId, writer_epoch: u64, runs: Vec<Run>) -> Result<SegmentRow, BuildError> {
        let segment: [u8; 16] = random_array();
        let context = EncryptionContext {
            cluster: self.cluster.to_bytes(),
            tenant: tenant.to_bytes(),
            purpose: Purpose::Segment { segment },
        };
        let (key, wrapped) = self.vault.generate(&context).await?;
        let largest = runs.iter().flat_map(|run| &run.batches).map(Batch::len).max().unwrap_or(0);
        let header = SegmentHeader {
            object_id: new_object_id(),
            cluster: self.cluster.to_bytes(),
            tenant: tenant.to_bytes(),
            segment,
            writer_epoch,
            created_ms: self.clock.now_ms(),
            frame_bytes_max: u32::try_from(largest.max(self.frame_bytes)).unwrap_or(u32::MAX),
            key_id: segment,
        };
        let frame_bytes = self.frame_bytes;
        let wrapped_bytes = wrapped.to_bytes()?;
        let (object_id, born_ms) = (header.object_id, header.created_ms);
        let sealing = move || seal(&key, header, &wrapped, &runs, frame_bytes);
        let (sealed, parts) = tokio::task::spawn_blocking(sealing).await.map_err(|_| BuildError::Worker)??;
        let size = sealed.bytes.len() as u64;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.store.put_opts(&object_path(tenant, segment), PutPayload::from(sealed.bytes), options).await?;
        Stats::add(&self.stats.segments_written, 1);
        Stats::add(&self.stats.segment_bytes_written, size);
        Ok(SegmentRow {
            segment,
            tenant,
            object_id,
            born_ms,
            size,
            footer_position: sealed.footer_position,
            frame_count: sealed.frame_count,
            footer_tag: sealed.footer_tag,
            wrapped: wrapped_bytes,
            parts,
        })
    }
}

/// `SealedSegment` whose bytes went to the store, and its parts.
fn seal(
    key: &DataKey,
    header: SegmentHeader,
    wrapped: &WrappedKey,
    runs: &[Run],
    frame_bytes: usize,
) -> Result<(SealedSegment, Vec<PartRow>), SealError> {
    let mut writer = SegmentWriter::new(key, header, wrapped)?;
    let bytes: usize = runs.iter().map(|run| run.bytes).sum();
    writer.reserve(bytes + bytes / 256 + 4096);
    let mut index = Vec::with_capacity(runs.len());
    let mut parts = Vec::with_capacity(runs.len());
    let mut plain = Vec::with_capacity(frame_bytes);
    for run in runs {
        let mut frames = Vec::new();
        let (mut pending, mut pending_bytes) = (0, 0);
        for (at, batch) in run.batches.iter().enumerate() {
            pending_bytes += batch.len();
            // A frame is closed by the batch that would make it too long, or by the run's end.
            let next_len = run.batches.get(at + 1).map(Batch::len);
            if next_len.is_some_and(|next| pending_bytes + next <= frame_bytes) {
                continue;
            }
            plain.clear();
            let whole = run.batches.get(pending..=at).unwrap_or_default();
            whole.iter().for_each(|batch| batch.write_to(&mut plain));
            (pending, pending_bytes) = (at + 1, 0);
            let (first_offset, last_offset) = (whole.first().unwrap_or(batch).base_offset(), batch.last_offset());
            let facts = frame_facts(run.partition, first_offset, last_offset);
            let placed = writer.frame(facts, &plain)?;
            frames.push(FrameEntry {
                number: placed.number,
                position: placed.position,
                sealed_len: placed.sealed_len,
                first_offset,
                last_offset,
                max_timestamp: whole.iter().map(Batch::max_timestamp).max().unwrap_or(-1),
            });
        }
        parts.extend(part_row(run, &frames));
        index.push((run.partition, frames));
    }
    let index = merge_parts(index);
    Ok((writer.finish(&index_to_bytes(&index))?, parts))
}

/// Two runs of one partition in one object are one list of frames.
fn merge_parts(index: Vec<(PartitionId, Vec<FrameEntry>)>) -> Vec<(PartitionId, Vec<FrameEntry>)> {
    let mut merged: Vec<(PartitionId, Vec<FrameEntry>)> = Vec::with_capacity(index.len());
    for (partition, frames) in index {
        match merged.last_mut() {
            Some((last, all)) if *last == partition => all.extend(frames),
            _ => merged.push((partition, frames)),
        }
    }
    merged
}

pub(super) fn frame_facts(partition: PartitionId, first_offset: i64, last_offset: i64) -> FrameFacts {
    FrameFacts { topic: partition.topic.to_bytes(), partition: partition.index, first_offset, last_offset }
}

fn part_row(run: &Run, frames: &[FrameEntry]) -> Option<PartRow> {
    let (first, last) = (frames.first()?, frames.last()?);
    Some(PartRow {
        partition: run.partition,
        first_offset: first.first_offset,
        next_offset: last.last_offset + 1,
        max_timestamp: frames.iter().map(|frame| frame.max_timestamp).max().unwrap_or(-1),
        bytes: run.bytes as u64,
    })
}
