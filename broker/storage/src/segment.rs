//! Segments: the index inside the encrypted footer, building, and where frames are.
//!
//! Index, big-endian: version u8 (2) | partitions u32 | per partition: topic \[16\] | partition i32 | keyed u8 (1: the topic has a key
//! of its own; version 1 has no such field, and no such topic) | frames u32 | per frame:
//! number u32 | position u64 | sealed length u32 | first offset i64 | last offset i64 | max timestamp i64.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use schloss_core::{ClusterId, PartitionId, TenantId, TopicId};
use schloss_crypto::segment::{
    FrameFacts, FrameRef, HEAD_BYTES, ObjectExpectation, SealedSegment, SegmentHeader, SegmentOpener, SegmentWriter,
    new_object_id,
};
use schloss_crypto::{
    DataKey, Denial, EncryptionContext, KeyError, KeyVault, Purpose, SealError, Standing, WrappedKey,
};
use schloss_metadata::{PartRow, SegmentRow};
use tokio::sync::Mutex;

use crate::error::ReadError;
use crate::integrity::Damage;
use crate::partition::TailBatch;
use crate::producer::Cursor;

/// A frame is closed when it holds this much; a larger batch stands alone in its own.
pub const FRAME_BYTES: usize = 64 * 1024;

/// One frame of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub place: FrameRef,
    /// Its topic has a key of its own.
    pub keyed: bool,
    pub first_offset: i64,
    pub last_offset: i64,
    pub max_timestamp: i64,
}

/// Frames of every partition in a segment.
pub type Index = HashMap<PartitionId, Vec<Frame>>;

/// An opened segment.
pub struct Opened {
    pub opener: SegmentOpener,
    pub index: Index,
    /// Over all frame tags, as the footer says.
    pub frame_tags_digest: [u8; 32],
}

/// A live segment: its row, and its index once somebody read it.
pub struct Segment {
    pub row: SegmentRow,
    pub path: Path,
    /// Changes when the data key is wrapped anew.
    wrapped: StdMutex<Vec<u8>>,
    /// With the KMS key that opened it.
    opened: StdMutex<Option<(String, Arc<Opened>)>>,
    /// One opens, the others wait for that.
    opening: Mutex<()>,
}

/// Where a segment's object is.
pub fn object_path(tenant: TenantId, object_id: &[u8; 32]) -> Path {
    let hex: String = object_id.iter().map(|byte| format!("{byte:02x}")).collect();
    Path::from_iter(["seg".to_owned(), tenant.to_string(), hex])
}

impl Segment {
    pub fn new(row: SegmentRow) -> Self {
        let path = object_path(row.tenant, &row.object_id);
        let wrapped = StdMutex::new(row.wrapped.clone());
        Self { row, path, wrapped, opened: StdMutex::default(), opening: Mutex::default() }
    }

    /// Opens header and footer; again when the KMS key was not proved lately, so that a key refused since then opens nothing.
    pub async fn open(
        &self,
        objects: &dyn ObjectStore,
        vault: &dyn KeyVault,
        cluster: ClusterId,
    ) -> Result<Arc<Opened>, ReadError> {
        if let Some(opened) = self.held(vault) {
            return Ok(opened);
        }
        let _one_at_a_time = self.opening.lock().await;
        if let Some(opened) = self.held(vault) {
            return Ok(opened);
        }
        self.forget();
        let (key_ref, opened) = self.read_index(objects, vault, cluster).await?;
        // A key that was refused meanwhile is not held.
        if vault.standing(self.row.tenant.to_bytes(), &key_ref) == Standing::Usable {
            *self.opened() = Some((key_ref, Arc::clone(&opened)));
        }
        Ok(opened)
    }

    /// Whether it is opened and may stay so.
    pub fn is_open(&self, vault: &dyn KeyVault) -> bool {
        self.held(vault).is_some()
    }

    fn held(&self, vault: &dyn KeyVault) -> Option<Arc<Opened>> {
        let held = self.opened();
        let (key_ref, opened) = held.as_ref()?;
        (vault.standing(self.row.tenant.to_bytes(), key_ref) == Standing::Usable).then(|| Arc::clone(opened))
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, Option<(String, Arc<Opened>)>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the keys derived for it.
    pub fn forget(&self) {
        drop(self.opened().take());
    }

    /// Its wrapped data key as it is now.
    pub fn wrapped(&self) -> Vec<u8> {
        self.wrapped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its data key was wrapped anew.
    pub fn set_wrapped(&self, wrapped: Vec<u8>) {
        *self.wrapped.lock().unwrap_or_else(PoisonError::into_inner) = wrapped;
        self.forget();
    }

    async fn read_index(
        &self,
        objects: &dyn ObjectStore,
        vault: &dyn KeyVault,
        cluster: ClusterId,
    ) -> Result<(String, Arc<Opened>), ReadError> {
        let row = &self.row;
        let damaged = |damage| move |_: SealError| ReadError::Damaged(damage);
        let wrapped = WrappedKey::from_bytes(&self.wrapped()).map_err(damaged(Damage::WrappedKey))?;
        let context = EncryptionContext {
            cluster: cluster.to_bytes(),
            tenant: row.tenant.to_bytes(),
            purpose: Purpose::Segment { segment: row.segment },
        };
        let key = vault.open(&context, &wrapped).await.map_err(of_key)?;
        let head = self.range(objects, 0..HEAD_BYTES as u64).await?;
        let tail = self.range(objects, row.footer_position..row.size).await?;
        let expect = ObjectExpectation {
            object_id: row.object_id,
            cluster: cluster.to_bytes(),
            tenant: row.tenant.to_bytes(),
            segment: row.segment,
            frame_count: row.frame_count,
        };
        let opener = SegmentOpener::open(&head, &key, &expect).map_err(damaged(Damage::Header))?;
        let footer =
            opener.open_footer(&tail, row.footer_position, &row.footer_tag).map_err(damaged(Damage::Footer))?;
        let index = read_index(&footer.index).ok_or(ReadError::Damaged(Damage::Index))?;
        Ok((wrapped.key_ref, Arc::new(Opened { opener, index, frame_tags_digest: footer.frame_tags_digest })))
    }

    /// Reads a range of the object; one that is gone or has another size than its row says is damaged, not unreachable.
    pub async fn range(&self, objects: &dyn ObjectStore, range: std::ops::Range<u64>) -> Result<Bytes, ReadError> {
        let wanted = range.end.saturating_sub(range.start);
        match objects.get_ranges(&self.path, &[range]).await.map(|mut ranges| ranges.pop().unwrap_or_default()) {
            Ok(bytes) if bytes.len() as u64 == wanted => Ok(bytes),
            Ok(_) => Err(ReadError::Damaged(Damage::Size)),
            Err(object_store::Error::NotFound { .. }) => Err(ReadError::Damaged(Damage::Missing)),
            Err(error) => match objects.head(&self.path).await {
                Ok(meta) if meta.size != self.row.size => Err(ReadError::Damaged(Damage::Size)),
                _ => Err(ReadError::Storage(error.to_string())),
            },
        }
    }
}

/// A key that does not fit its row is damage; one that is refused or out of reach is not.
fn of_key(error: KeyError) -> ReadError {
    match error {
        KeyError::Corrupt { .. } | KeyError::ContextMismatch => ReadError::Damaged(Damage::WrappedKey),
        KeyError::Denied { why: Denial::NoKeyConfigured, .. } => ReadError::Damaged(Damage::ForeignKey),
        KeyError::Denied { .. } | KeyError::Unreachable { .. } => ReadError::Storage(error.to_string()),
    }
}

/// The facts a frame is bound to.
pub fn facts(partition: PartitionId, frame: &Frame) -> FrameFacts {
    FrameFacts {
        topic: partition.topic.to_bytes(),
        partition: partition.index,
        first_offset: frame.first_offset,
        last_offset: frame.last_offset,
    }
}

/// What is built from: one tenant's tails.
pub struct Build {
    pub tenant: TenantId,
    pub cluster: ClusterId,
    pub writer_epoch: u64,
    pub now_ms: i64,
    pub partitions: Vec<BuildPart>,
}

/// One partition's tail.
pub struct BuildPart {
    pub partition: PartitionId,
    pub part_bytes_max: i64,
    pub topic_key: Option<Arc<DataKey>>,
    pub batches: Vec<TailBatch>,
}

/// What was built.
pub struct Built {
    pub sealed: SealedSegment,
    pub row: SegmentRow,
    pub parts: Vec<PartRow>,
}

/// Seals one tenant's tails into one segment, in the memory of `buffer`. CPU only.
pub fn build(
    build: &Build,
    buffer: Vec<u8>,
    segment: [u8; 16],
    key: &DataKey,
    wrapped: &WrappedKey,
) -> Result<Built, SealError> {
    let object_id = new_object_id();
    let largest = build.partitions.iter().flat_map(|part| &part.batches).map(TailBatch::size).max().unwrap_or(0);
    let header = SegmentHeader {
        object_id,
        cluster: build.cluster.to_bytes(),
        tenant: build.tenant.to_bytes(),
        segment,
        writer_epoch: build.writer_epoch,
        created_ms: build.now_ms,
        frame_bytes_max: u32::try_from(largest.max(FRAME_BYTES)).unwrap_or(u32::MAX),
        key_id: segment,
    };
    let mut writer = SegmentWriter::new_in(buffer, key, header, wrapped)?;
    let all: usize = build.partitions.iter().flat_map(|part| &part.batches).map(TailBatch::size).sum();
    writer.reserve(all.saturating_add(all / 512).saturating_add(FRAME_BYTES));
    let mut index = Vec::new();
    let mut parts = Vec::new();
    for BuildPart { partition, part_bytes_max, topic_key, batches } in &build.partitions {
        let frames = frames_of(&mut writer, *partition, topic_key.as_deref(), batches)?;
        parts.extend(parts_of(build.tenant, *partition, *part_bytes_max, batches, object_id));
        index.push((*partition, frames));
    }
    let sealed = writer.finish(&write_index(&index))?;
    let row = SegmentRow {
        object_id,
        segment,
        tenant: build.tenant,
        wrapped: wrapped.to_bytes()?,
        born_ms: build.now_ms,
        size: sealed.bytes.len() as u64,
        frame_count: sealed.frame_count,
        footer_position: sealed.footer_position,
        footer_tag: sealed.footer_tag,
    };
    Ok(Built { sealed, row, parts })
}

fn frames_of(
    writer: &mut SegmentWriter,
    partition: PartitionId,
    topic_key: Option<&DataKey>,
    batches: &[TailBatch],
) -> Result<Vec<Frame>, SealError> {
    let mut frames = Vec::new();
    let mut plain = Vec::with_capacity(FRAME_BYTES);
    let mut begun: Option<(i64, i64, i64)> = None;
    let close = |writer: &mut SegmentWriter,
                 plain: &mut Vec<u8>,
                 begun: &mut Option<(i64, i64, i64)>,
                 frames: &mut Vec<Frame>|
     -> Result<(), SealError> {
        let Some((first_offset, last_offset, max_timestamp)) = begun.take() else { return Ok(()) };
        let facts =
            FrameFacts { topic: partition.topic.to_bytes(), partition: partition.index, first_offset, last_offset };
        let place = writer.frame_of(facts, topic_key, plain)?;
        plain.clear();
        frames.push(Frame { place, keyed: topic_key.is_some(), first_offset, last_offset, max_timestamp });
        Ok(())
    };
    for batch in batches {
        if plain.len().saturating_add(batch.size()) > FRAME_BYTES {
            close(writer, &mut plain, &mut begun, &mut frames)?;
        }
        plain.extend_from_slice(&batch.head);
        plain.extend_from_slice(&batch.payload);
        begun = Some(match begun {
            None => (batch.base_offset, batch.last_offset, batch.max_timestamp),
            Some((first, _, max)) => (first, batch.last_offset, max.max(batch.max_timestamp)),
        });
    }
    close(writer, &mut plain, &mut begun, &mut frames)?;
    Ok(frames)
}

/// Parts of at most `segment.bytes`: what retention removes at once.
fn parts_of(
    tenant: TenantId,
    partition: PartitionId,
    bytes_max: i64,
    batches: &[TailBatch],
    object_id: [u8; 32],
) -> Vec<PartRow> {
    let bytes_max = u64::try_from(bytes_max).unwrap_or(u64::MAX).max(1);
    let mut parts: Vec<PartRow> = Vec::new();
    for batch in batches {
        let size = batch.size() as u64;
        match parts.last_mut() {
            Some(part) if part.bytes.saturating_add(size) <= bytes_max => {
                part.next_offset = batch.last_offset.saturating_add(1);
                part.bytes = part.bytes.saturating_add(size);
                part.max_timestamp = part.max_timestamp.max(batch.max_timestamp);
            }
            _ => parts.push(PartRow {
                tenant,
                partition,
                first_offset: batch.base_offset,
                next_offset: batch.last_offset.saturating_add(1),
                object_id,
                bytes: size,
                max_timestamp: batch.max_timestamp,
                appended_ms: batch.appended_ms,
            }),
        }
    }
    parts
}

pub fn write_index(index: &[(PartitionId, Vec<Frame>)]) -> Vec<u8> {
    let mut bytes = vec![2];
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
    bytes.extend_from_slice(&count(index.len()));
    for (partition, frames) in index {
        bytes.extend_from_slice(&partition.topic.to_bytes());
        bytes.extend_from_slice(&partition.index.to_be_bytes());
        bytes.push(u8::from(frames.first().is_some_and(|frame| frame.keyed)));
        bytes.extend_from_slice(&count(frames.len()));
        for frame in frames {
            bytes.extend_from_slice(&frame.place.number.to_be_bytes());
            bytes.extend_from_slice(&frame.place.position.to_be_bytes());
            bytes.extend_from_slice(&frame.place.sealed_len.to_be_bytes());
            bytes.extend_from_slice(&frame.first_offset.to_be_bytes());
            bytes.extend_from_slice(&frame.last_offset.to_be_bytes());
            bytes.extend_from_slice(&frame.max_timestamp.to_be_bytes());
        }
    }
    bytes
}

fn read_index(bytes: &[u8]) -> Option<Index> {
    let mut cursor = Cursor(bytes);
    let [version] = cursor.take()?;
    if !(1..=2).contains(&version) {
        return None;
    }
    let partitions = u32::from_be_bytes(cursor.take()?);
    let mut index = Index::new();
    for _ in 0..partitions {
        let partition =
            PartitionId { topic: TopicId::from_bytes(cursor.take()?), index: i32::from_be_bytes(cursor.take()?) };
        let keyed = match (version, if version == 1 { [0] } else { cursor.take()? }) {
            (_, [0]) => false,
            (2, [1]) => true,
            _ => return None,
        };
        let count = u32::from_be_bytes(cursor.take()?);
        let mut frames = Vec::new();
        for _ in 0..count {
            let place = FrameRef {
                number: u32::from_be_bytes(cursor.take()?),
                position: u64::from_be_bytes(cursor.take()?),
                sealed_len: u32::from_be_bytes(cursor.take()?),
            };
            frames.push(Frame {
                place,
                keyed,
                first_offset: i64::from_be_bytes(cursor.take()?),
                last_offset: i64::from_be_bytes(cursor.take()?),
                max_timestamp: i64::from_be_bytes(cursor.take()?),
            });
        }
        index.insert(partition, frames);
    }
    cursor.0.is_empty().then_some(index)
}

/// The whole batch of a tail entry in one piece.
pub fn whole(batch: &TailBatch) -> Bytes {
    [&batch.head[..], &batch.payload[..]].concat().into()
}
