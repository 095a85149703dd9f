//! The read path: slices of the tail, or frames of segments opened through a bounded cache.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use object_store::ObjectStore;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use schloss_core::{ClusterId, PartitionId};
use schloss_crypto::{DataKey, KeyVault};
use schloss_wire::batch;
use tokio::sync::Semaphore;

use crate::error::ReadError;
use crate::integrity::{Damage, Integrity};
use crate::partition::{Part, Partition, TailBatch};
use crate::segment::{self, Frame, Opened, Segment};
use crate::stats::Counters;
use crate::topic_keys::{TopicKeyError, TopicKeys};

/// Most bytes of frames fetched from the store in one read.
const RANGE_BYTES: u64 = 4 * 1024 * 1024;
/// Tail batches below this are put together, so that the socket gets fewer and larger pieces.
const SMALL_BATCH_BYTES: usize = 8 * 1024;

/// What a read found.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// Whole batches one after the other, in any number of pieces.
    pub records: Vec<Bytes>,
    /// Next offset to be written.
    pub high_watermark: i64,
    /// First offset that exists.
    pub log_start_offset: i64,
}

/// Weighs a cached frame by its bytes.
#[derive(Clone)]
pub struct ByBytes;

impl Weighter<([u8; 32], u32), Bytes> for ByBytes {
    fn weight(&self, _key: &([u8; 32], u32), frame: &Bytes) -> u64 {
        (frame.len() as u64).max(1)
    }
}

/// Opened frames by object and number.
pub type FrameCache = Cache<([u8; 32], u32), Bytes, ByBytes>;

/// A cache of at most so many bytes. Half of it is for what was read once: frames read ahead must still be there when they are
/// asked for.
pub fn frame_cache(bytes_max: usize) -> FrameCache {
    let items = bytes_max / segment::FRAME_BYTES;
    let options = OptionsBuilder::new()
        .estimated_items_capacity(items)
        .weight_capacity(bytes_max as u64)
        .hot_allocation(0.5)
        .build();
    match options {
        Ok(options) => {
            Cache::with_options(options, ByBytes, DefaultHashBuilder::default(), DefaultLifecycle::default())
        }
        // Cannot happen: both capacities are given.
        Err(_) => Cache::with_weighter(items, bytes_max as u64, ByBytes),
    }
}

/// What reading needs.
pub struct Reader {
    pub objects: Arc<dyn ObjectStore>,
    pub vault: Arc<dyn KeyVault>,
    pub cluster: ClusterId,
    pub cache: FrameCache,
    pub counters: Arc<Counters>,
    /// Keys of topics that have their own.
    pub topic_keys: Arc<TopicKeys>,
    /// Where damaged objects are reported.
    pub integrity: Integrity,
    /// One for each task that reads ahead.
    pub ahead: Arc<Semaphore>,
}

pub enum Source {
    Nothing,
    Tail(Vec<TailBatch>),
    Part(Part),
}

impl Reader {
    /// Reads whole batches from the one that holds `offset`, at most `bytes_max` bytes, or one batch when `at_least_one`.
    pub async fn read(
        self: &Arc<Self>,
        partition: &Arc<Partition>,
        offset: i64,
        bytes_max: usize,
        at_least_one: bool,
    ) -> Result<Read, ReadError> {
        let mut read = Read::default();
        let mut next = offset;
        let mut left = bytes_max;
        let mut at_least_one = at_least_one;
        loop {
            let source = locate(partition, next, left, at_least_one, &mut read)
                .inspect_err(|error| self.integrity.report_gap(&self.counters, partition, error))?;
            match source {
                Source::Nothing => break,
                Source::Tail(batches) => {
                    put_tail(&batches, &mut read.records);
                    return Ok(read);
                }
                Source::Part(part) => {
                    let taken = self.read_part(partition.id, &part, next, left, at_least_one, &mut read.records).await;
                    let (bytes, behind) =
                        taken.inspect_err(|error| self.integrity.report(&self.counters, &part.segment, error))?;
                    next = behind;
                    if bytes == 0 || behind < part.row.next_offset {
                        break;
                    }
                    left = left.saturating_sub(bytes);
                    at_least_one = false;
                }
            }
        }
        if next > offset {
            self.follow(partition, offset, next, bytes_max);
        }
        Ok(read)
    }

    async fn read_part(
        &self,
        partition: PartitionId,
        part: &Part,
        offset: i64,
        bytes_max: usize,
        at_least_one: bool,
        out: &mut Vec<Bytes>,
    ) -> Result<(usize, i64), ReadError> {
        let opened = part.segment.open(&*self.objects, &*self.vault, self.cluster).await?;
        let mut wanted = wanted_frames(&opened, partition, part, offset)?;
        let mut taken = 0_usize;
        let mut behind = offset;
        while !wanted.is_empty() {
            let run = run_of(wanted, bytes_max.saturating_sub(taken));
            for (frame, plain) in
                self.open_frames(partition, &part.segment, &opened, wanted.get(..run).unwrap_or_default()).await?
            {
                let (bytes, until, full) = take_batches(
                    &plain,
                    offset.max(frame.first_offset),
                    bytes_max.saturating_sub(taken),
                    at_least_one && taken == 0,
                    out,
                )?;
                taken = taken.saturating_add(bytes);
                behind = until.unwrap_or(behind);
                if full {
                    return Ok((taken, behind));
                }
            }
            wanted = wanted.get(run..).unwrap_or_default();
        }
        Ok((taken, behind))
    }

    /// Opens neighbouring frames: those in the cache, and the others with one read of the store.
    pub async fn open_frames<'a>(
        &self,
        partition: PartitionId,
        segment: &Segment,
        opened: &Opened,
        frames: &'a [Frame],
    ) -> Result<Vec<(&'a Frame, Bytes)>, ReadError> {
        let cached: Vec<Option<Bytes>> =
            frames.iter().map(|frame| self.cache.get(&(segment.row.object_id, frame.place.number))).collect();
        let missing: Vec<&Frame> =
            frames.iter().zip(&cached).filter(|(_, hit)| hit.is_none()).map(|(frame, _)| frame).collect();
        Counters::add(&self.counters.cache_hits, (frames.len().saturating_sub(missing.len())) as u64);
        let (Some(first), Some(last)) = (missing.first(), missing.last()) else {
            return Ok(frames.iter().zip(cached.into_iter().flatten()).collect());
        };
        let topic_key = if frames.iter().any(|frame| frame.keyed) {
            Some(self.topic_keys.required(segment.row.tenant, partition.topic).await.map_err(of_topic_key)?)
        } else {
            None
        };
        let start = first.place.position;
        let end = last.place.position.saturating_add(u64::from(last.place.sealed_len));
        let bytes = segment.range(&*self.objects, start..end).await?;
        let mut all = Vec::with_capacity(frames.len());
        for (frame, hit) in frames.iter().zip(cached) {
            let plain = match hit {
                Some(plain) => plain,
                None => self.open_frame(partition, segment, opened, frame, topic_key.as_deref(), &bytes, start)?,
            };
            all.push((frame, plain));
        }
        Counters::add(&self.counters.cache_misses, missing.len() as u64);
        // The key may have been refused, and the cache swept, while these were read.
        if !segment.is_open(&*self.vault) {
            missing.iter().for_each(|frame| drop(self.cache.remove(&(segment.row.object_id, frame.place.number))));
        }
        Ok(all)
    }

    #[expect(clippy::too_many_arguments, reason = "a frame, what opens it, and where it is")]
    fn open_frame(
        &self,
        partition: PartitionId,
        segment: &Segment,
        opened: &Opened,
        frame: &Frame,
        topic_key: Option<&DataKey>,
        bytes: &Bytes,
        start: u64,
    ) -> Result<Bytes, ReadError> {
        let at = usize::try_from(frame.place.position.saturating_sub(start)).unwrap_or(usize::MAX);
        let until = at.saturating_add(usize::try_from(frame.place.sealed_len).unwrap_or(usize::MAX));
        let sealed = bytes.get(at..until).ok_or(ReadError::Damaged(Damage::Size))?;
        let (number, facts) = (frame.place.number, segment::facts(partition, frame));
        let plain = match topic_key {
            Some(key) => opened.opener.open_frame_of(number, &facts, key, BytesMut::from(sealed)),
            None => opened.opener.open_frame(number, &facts, BytesMut::from(sealed)),
        };
        match plain {
            Ok(plain) => {
                self.cache.insert((segment.row.object_id, frame.place.number), plain.clone());
                Ok(plain)
            }
            Err(error) => {
                tracing::debug!(object = %segment.path, frame = frame.place.number, %error, "a frame does not verify");
                Err(ReadError::Damaged(Damage::Frame))
            }
        }
    }
}

impl Reader {
    /// Opens one frame of a whole object and forgets it.
    pub fn check_frame(
        &self,
        partition: PartitionId,
        opened: &Opened,
        frame: &Frame,
        topic_key: Option<&DataKey>,
        object: &Bytes,
    ) -> Result<(), ReadError> {
        let at = usize::try_from(frame.place.position).unwrap_or(usize::MAX);
        let until = at.saturating_add(usize::try_from(frame.place.sealed_len).unwrap_or(usize::MAX));
        let sealed = object.get(at..until).ok_or(ReadError::Damaged(Damage::Size))?;
        let (number, facts) = (frame.place.number, segment::facts(partition, frame));
        let plain = match topic_key {
            Some(key) => opened.opener.open_frame_of(number, &facts, key, BytesMut::from(sealed)),
            None => opened.opener.open_frame(number, &facts, BytesMut::from(sealed)),
        };
        plain.map(drop).map_err(|_| ReadError::Damaged(Damage::Frame))
    }
}

/// A topic key that is gone or altered is damage; one whose tenant's key is away is not.
fn of_topic_key(error: TopicKeyError) -> ReadError {
    match error {
        TopicKeyError::Destroyed | TopicKeyError::Altered => ReadError::Damaged(Damage::TopicKey),
        TopicKeyError::Key(_) | TopicKeyError::Io(_) => ReadError::Storage(error.to_string()),
    }
}

/// A part's frames from the one that holds `offset`. Frames of parts that retention removed are still in the object; the part's
/// range decides.
pub fn wanted_frames<'o>(
    opened: &'o Opened,
    partition: PartitionId,
    part: &Part,
    offset: i64,
) -> Result<&'o [Frame], ReadError> {
    let frames = opened.index.get(&partition).ok_or(ReadError::Damaged(Damage::Index))?;
    let from = frames.partition_point(|frame| frame.last_offset < offset);
    let until = frames.partition_point(|frame| frame.first_offset < part.row.next_offset);
    Ok(frames.get(from..until).unwrap_or_default())
}

/// How many frames from the front to fetch at once.
pub fn run_of(frames: &[Frame], bytes_max: usize) -> usize {
    let most = u64::try_from(bytes_max).unwrap_or(u64::MAX).min(RANGE_BYTES);
    let mut bytes = 0_u64;
    let fits = frames.iter().take_while(|frame| {
        bytes = bytes.saturating_add(u64::from(frame.place.sealed_len));
        bytes <= most
    });
    fits.count().max(1)
}

/// Takes batches from a frame while they fit; returns bytes taken, the offset behind the last one, and whether to stop.
fn take_batches(
    plain: &Bytes,
    offset: i64,
    bytes_max: usize,
    at_least_one: bool,
    out: &mut Vec<Bytes>,
) -> Result<(usize, Option<i64>, bool), ReadError> {
    let (mut start, mut end, mut position) = (None, 0_usize, 0_usize);
    let mut until = None;
    let mut full = false;
    for stored in batch::split(plain.clone()) {
        let stored = stored.map_err(|_| ReadError::Damaged(Damage::Batches))?;
        let size = stored.bytes.len();
        let at = position;
        position = position.saturating_add(size);
        if stored.header.last_offset() < offset {
            continue;
        }
        let taken = end.saturating_sub(start.unwrap_or(end));
        if taken.saturating_add(size) > bytes_max && !(at_least_one && taken == 0) {
            full = true;
            break;
        }
        start.get_or_insert(at);
        end = position;
        until = Some(stored.header.last_offset().saturating_add(1));
    }
    let taken = match start {
        Some(start) => {
            out.push(plain.slice(start..end));
            end.saturating_sub(start)
        }
        None => 0,
    };
    Ok((taken, until, full))
}

/// Finds where `offset` is and, for the tail, takes the batches at once under the lock.
pub fn locate(
    partition: &Partition,
    offset: i64,
    bytes_max: usize,
    at_least_one: bool,
    read: &mut Read,
) -> Result<Source, ReadError> {
    if partition.is_removed() {
        return Err(ReadError::UnknownPartition);
    }
    let inner = partition.read();
    read.high_watermark = inner.high_watermark;
    read.log_start_offset = inner.log_start;
    if offset < inner.log_start || offset > inner.high_watermark {
        if !read.records.is_empty() {
            return Ok(Source::Nothing);
        }
        return Err(ReadError::OffsetOutOfRange {
            offset,
            log_start: inner.log_start,
            high_watermark: inner.high_watermark,
        });
    }
    if offset == inner.high_watermark {
        return Ok(Source::Nothing);
    }
    let at = inner.parts.partition_point(|part| part.row.next_offset <= offset);
    if let Some(part) = inner.parts.get(at).filter(|part| part.row.first_offset <= offset) {
        return Ok(Source::Part(part.clone()));
    }
    let from = inner.tail.partition_point(|batch| batch.last_offset < offset);
    // INVARIANT: offsets have no gap. Records that neither a segment nor the tail holds were taken out of the manifest.
    if inner.tail.get(from).is_none_or(|batch| batch.base_offset > offset) {
        return if read.records.is_empty() { Err(ReadError::Damaged(Damage::Gap)) } else { Ok(Source::Nothing) };
    }
    let mut bytes = 0_usize;
    let batches = inner.tail.iter().skip(from).take_while(|batch| {
        bytes = bytes.saturating_add(batch.size());
        bytes <= bytes_max || (at_least_one && bytes == batch.size())
    });
    Ok(Source::Tail(batches.cloned().collect()))
}

/// Small batches are copied together (a socket write for each would cost more than the copy); large ones go as they are.
fn put_tail(batches: &[TailBatch], out: &mut Vec<Bytes>) {
    let mut small = BytesMut::new();
    for batch in batches {
        if batch.size() < SMALL_BATCH_BYTES {
            small.extend_from_slice(&batch.head);
            small.extend_from_slice(&batch.payload);
            continue;
        }
        small.extend_from_slice(&batch.head);
        out.push(small.split().freeze());
        out.push(batch.payload.clone());
    }
    if !small.is_empty() {
        out.push(small.freeze());
    }
}
