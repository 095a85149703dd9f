//! Builds one segment object in memory.
//!
//! The newest frame stays unsealed at the end of the buffer until the next one or [`SegmentWriter::finish`] tells whether it was
//! the last: its kind is part of what is sealed.

use std::sync::Arc;

use crate::aead::{Root, SealError, SealKey, TAG_BYTES};
use crate::segment::header::{self, SegmentHeader};
use crate::segment::{
    FOOTER_DOMAIN, FOOTER_MAGIC, FOOTER_PREFIX_BYTES, FRAME_OVERHEAD_BYTES, FRAME_PREFIX_BYTES, FrameKind,
    OBJECT_BYTES_MAX, footer_associated_data, frame_associated_data, topic_frame_key,
};
use crate::{DataKey, WrappedKey, aead::Nonce, digest::Sha256};

/// What a frame holds: whole batches of one partition. Part of its associated data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameFacts {
    /// The topic's id.
    pub topic: [u8; 16],
    /// The partition.
    pub partition: i32,
    /// Offset of the first record.
    pub first_offset: i64,
    /// Offset of the last record.
    pub last_offset: i64,
}

/// Where a frame stands in its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRef {
    /// Its number, from 0.
    pub number: u32,
    /// Its first byte in the object.
    pub position: u64,
    /// Its length in the object.
    pub sealed_len: u32,
}

/// A finished object and what its manifest row must hold.
#[derive(Clone, Debug)]
pub struct SealedSegment {
    /// The whole object.
    pub bytes: Vec<u8>,
    /// Tag of the footer: tells this object from every other copy under the same name.
    pub footer_tag: [u8; 16],
    /// Frames in it.
    pub frame_count: u32,
    /// Where the footer begins; it goes to the end of the object.
    pub footer_position: u64,
}

/// Seals frames one after the other.
pub struct SegmentWriter {
    header: SegmentHeader,
    data_key: DataKey,
    frame_key: Arc<SealKey>,
    /// The frame key of the last topic that has a key of its own.
    topic: Option<([u8; 16], Arc<SealKey>)>,
    footer_key: SealKey,
    out: Vec<u8>,
    pending: Option<Pending>,
    frames: u32,
    tags: Sha256,
}

struct Pending {
    number: u32,
    /// Where its ciphertext begins in `out`; it is the end of the buffer.
    text_at: usize,
    plain_len: u32,
    facts: FrameFacts,
    key: Arc<SealKey>,
}

impl SegmentWriter {
    /// Begins an object. `header.object_id` must be fresh: [`header::new_object_id`].
    ///
    /// # Errors
    /// [`SealError::TooLong`] when the wrapped key does not fit the key slot.
    pub fn new(key: &DataKey, header: SegmentHeader, wrapped: &WrappedKey) -> Result<Self, SealError> {
        Self::new_in(Vec::new(), key, header, wrapped)
    }

    /// Begins an object in the memory of `buffer`; what is in it is forgotten.
    ///
    /// # Errors
    /// As [`SegmentWriter::new`].
    pub fn new_in(
        buffer: Vec<u8>,
        key: &DataKey,
        header: SegmentHeader,
        wrapped: &WrappedKey,
    ) -> Result<Self, SealError> {
        let root = Root::new(key, &header.object_id);
        let mut out = buffer;
        out.clear();
        header::write_head(&header, &root, wrapped, &mut out)?;
        Ok(Self {
            header,
            data_key: key.copy(),
            frame_key: Arc::new(root.key("frame")),
            topic: None,
            footer_key: root.key("footer"),
            out,
            pending: None,
            frames: 0,
            tags: Sha256::new(),
        })
    }

    /// Makes room for `bytes` more, so that a caller who knows the size avoids regrowth.
    pub fn reserve(&mut self, bytes: usize) {
        self.out.reserve_exact(bytes);
    }

    /// Bytes of the object so far, footer excluded.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len().saturating_add(if self.pending.is_some() { TAG_BYTES } else { 0 })
    }

    /// True before the first frame.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Adds a frame of whole batches of one partition.
    ///
    /// # Errors
    /// [`SealError::TooLong`] above `frame_bytes_max`, 2^32 frames or 64 GiB.
    pub fn frame(&mut self, facts: FrameFacts, plaintext: &[u8]) -> Result<FrameRef, SealError> {
        self.frame_of(facts, None, plaintext)
    }

    /// The same for a topic with a key of its own: the frame opens with both keys only. One key for all frames of a topic.
    ///
    /// # Errors
    /// As [`SegmentWriter::frame`].
    pub fn frame_of(
        &mut self,
        facts: FrameFacts,
        topic_key: Option<&DataKey>,
        plaintext: &[u8],
    ) -> Result<FrameRef, SealError> {
        let key = match (topic_key, &self.topic) {
            (None, _) => Arc::clone(&self.frame_key),
            (Some(_), Some((topic, key))) if *topic == facts.topic => Arc::clone(key),
            (Some(topic_key), _) => {
                let key = Arc::new(topic_frame_key(&self.data_key, topic_key, &self.header.object_id));
                self.topic = Some((facts.topic, Arc::clone(&key)));
                key
            }
        };
        let plain_len = u32::try_from(plaintext.len())
            .ok()
            .filter(|len| *len <= self.header.frame_bytes_max)
            .ok_or(SealError::TooLong { what: "frame" })?;
        let overhead = u32::try_from(FRAME_OVERHEAD_BYTES).unwrap_or(u32::MAX);
        let sealed_len = plain_len.checked_add(overhead).ok_or(SealError::TooLong { what: "frame" })?;
        let frames = self.frames.checked_add(1).ok_or(SealError::TooLong { what: "segment" })?;
        self.seal_pending(FrameKind::Data)?;
        let position = self.position()?;
        if position.saturating_add(u64::from(sealed_len)) > OBJECT_BYTES_MAX {
            return Err(SealError::TooLong { what: "segment" });
        }
        let number = self.frames;
        self.frames = frames;
        self.out.extend_from_slice(&plain_len.to_be_bytes());
        self.out.push(FrameKind::Data.byte());
        let text_at = self.out.len();
        self.out.extend_from_slice(plaintext);
        self.pending = Some(Pending { number, text_at, plain_len, facts, key });
        Ok(FrameRef { number, position, sealed_len })
    }

    /// Seals the last frame and the footer with the caller's index in it.
    ///
    /// # Errors
    /// [`SealError::Empty`] without a frame; [`SealError::TooLong`] for an index of 4 GiB.
    pub fn finish(mut self, index: &[u8]) -> Result<SealedSegment, SealError> {
        if self.pending.is_none() {
            return Err(SealError::Empty);
        }
        self.seal_pending(FrameKind::Last)?;
        let position = self.position()?;
        let text_at = self.out.len();
        let plain_len = u32::try_from(index.len().saturating_add(FOOTER_PREFIX_BYTES))
            .map_err(|_| SealError::TooLong { what: "index" })?;
        self.out.extend_from_slice(&self.frames.to_be_bytes());
        self.out.extend_from_slice(&self.tags.clone().finish());
        self.out.extend_from_slice(index);
        let aad = footer_associated_data(&self.header, self.frames, position, plain_len);
        let nonce = Nonce { domain: FOOTER_DOMAIN, number: u64::from(self.frames) };
        let text = self.out.get_mut(text_at..).unwrap_or_default();
        let footer_tag = self.footer_key.seal(nonce, &aad, text)?;
        self.out.extend_from_slice(&footer_tag);
        self.out.extend_from_slice(&plain_len.to_be_bytes());
        self.out.extend_from_slice(&self.frames.to_be_bytes());
        self.out.extend_from_slice(&FOOTER_MAGIC);
        Ok(SealedSegment { bytes: self.out, footer_tag, frame_count: self.frames, footer_position: position })
    }

    fn seal_pending(&mut self, kind: FrameKind) -> Result<(), SealError> {
        let Some(Pending { number, text_at, plain_len, facts, key }) = self.pending.take() else {
            return Ok(());
        };
        let kind_at = text_at.saturating_sub(FRAME_PREFIX_BYTES).saturating_add(4);
        if let Some(byte) = self.out.get_mut(kind_at) {
            *byte = kind.byte();
        }
        let aad = frame_associated_data(&self.header, number, kind, plain_len, &facts);
        let text = self.out.get_mut(text_at..).unwrap_or_default();
        let tag = key.seal(kind.nonce(number), &aad, text)?;
        self.out.extend_from_slice(&tag);
        self.tags.update(&tag);
        Ok(())
    }

    fn position(&self) -> Result<u64, SealError> {
        u64::try_from(self.out.len()).map_err(|_| SealError::TooLong { what: "segment" })
    }
}

impl std::fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentWriter")
            .field("header", &self.header)
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}
