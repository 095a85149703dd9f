//! Opens single frames and the footer of a segment object, each checked against its manifest row.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes, BytesMut};

use crate::DataKey;
use crate::aead::{Nonce, Root, SealError, SealKey, TAG_BYTES};
use crate::digest::{Sha256, constant_time_eq};
use crate::layout::Reader;
use crate::segment::header::{self, SegmentHeader};
use crate::segment::writer::FrameFacts;
use crate::segment::{
    FOOTER_DOMAIN, FOOTER_MAGIC, FOOTER_PREFIX_BYTES, FOOTER_TRAILER_BYTES, FRAME_PREFIX_BYTES, FrameKind,
    footer_associated_data, frame_associated_data, topic_frame_key,
};

const FRAME: &str = "frame";
const FOOTER: &str = "footer";

/// What the manifest says the object is. Everything is compared before a byte is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectExpectation {
    /// The object's random id.
    pub object_id: [u8; 32],
    /// The installation.
    pub cluster: [u8; 16],
    /// The tenant.
    pub tenant: [u8; 16],
    /// The segment.
    pub segment: [u8; 16],
    /// Frames in it: the last one must be of the kind "last", all others not.
    pub frame_count: u32,
}

/// An opened footer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The caller's index, as given to `finish`.
    pub index: Vec<u8>,
    /// SHA-256 over all frame tags in order; a scrub compares it with [`SegmentOpener::frame_tags_digest`].
    pub frame_tags_digest: [u8; 32],
}

/// What stands in the clear in a segment object. Nothing of it is verified: that needs the data key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// The header's facts.
    pub header: SegmentHeader,
    /// The commitment to the data key.
    pub commit: [u8; 32],
    /// Frames, as the footer says and the object has.
    pub frame_count: u32,
    /// Where the footer begins.
    pub footer_position: u64,
    /// The footer's tag.
    pub footer_tag: [u8; 16],
}

/// Reads what needs no key, and checks that the frames fill the place up to the footer.
///
/// # Errors
/// [`SealError`] when it is no whole segment.
pub fn inspect(object: &[u8]) -> Result<Inspected, SealError> {
    let bad = SealError::Malformed { what: FOOTER };
    let (header, commit) = header::parse(object)?;
    let trailer_at = object.len().checked_sub(FOOTER_TRAILER_BYTES).ok_or(bad)?;
    let mut trailer = Reader::new(object.get(trailer_at..).ok_or(bad)?);
    let footer_tag = trailer.array().ok_or(bad)?;
    let plain_len = u32::from_be_bytes(trailer.array().ok_or(bad)?);
    let frame_count = u32::from_be_bytes(trailer.array().ok_or(bad)?);
    if trailer.array() != Some(FOOTER_MAGIC) {
        return Err(bad);
    }
    let footer_at = trailer_at.checked_sub(usize::try_from(plain_len).map_err(|_| bad)?).ok_or(bad)?;
    let bad = SealError::Malformed { what: FRAME };
    let mut frames = Reader::new(object.get(header::HEAD_BYTES..footer_at).ok_or(bad)?);
    for _ in 0..frame_count {
        let plain_len = u32::from_be_bytes(frames.array().ok_or(bad)?);
        frames.array::<1>().ok_or(bad)?;
        frames.slice(usize::try_from(plain_len).map_err(|_| bad)?).ok_or(bad)?;
        frames.array::<TAG_BYTES>().ok_or(bad)?;
    }
    if !frames.is_empty() {
        return Err(bad);
    }
    let footer_position = u64::try_from(footer_at).map_err(|_| bad)?;
    Ok(Inspected { header, commit, frame_count, footer_position, footer_tag })
}

/// A segment whose header was checked. Opens its frames and footer.
pub struct SegmentOpener {
    header: SegmentHeader,
    frame_count: u32,
    data_key: DataKey,
    frame_key: SealKey,
    footer_key: SealKey,
    /// Frame keys of topics that have keys of their own, as they were needed.
    topics: Mutex<HashMap<[u8; 16], Arc<SealKey>>>,
}

impl SegmentOpener {
    /// Checks an object's head (its first [`header::HEAD_BYTES`], or at least the first 180 bytes).
    ///
    /// # Errors
    /// [`SealError`]: not a segment, another object than expected, another key, or altered.
    pub fn open(head: &[u8], key: &DataKey, expect: &ObjectExpectation) -> Result<Self, SealError> {
        let (header, commit) = header::parse(head)?;
        let fields = [
            ("object id", header.object_id == expect.object_id),
            ("cluster", header.cluster == expect.cluster),
            ("tenant", header.tenant == expect.tenant),
            ("segment", header.segment == expect.segment),
        ];
        if let Some((field, _)) = fields.into_iter().find(|(_, equal)| !equal) {
            return Err(SealError::OtherObject { field });
        }
        let root = Root::new(key, &header.object_id);
        header::check_tag(head, &commit, &root)?;
        let (frame_key, footer_key) = (root.key("frame"), root.key("footer"));
        let (data_key, topics) = (key.copy(), Mutex::default());
        Ok(Self { header, frame_count: expect.frame_count, data_key, frame_key, footer_key, topics })
    }

    /// The header's facts, verified.
    #[must_use]
    pub const fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Opens frame `number` in place. `sealed` is exactly the frame: `sealed_len` bytes at its position.
    ///
    /// # Errors
    /// [`SealError`] unless all of number, place, facts and bytes are those that were sealed.
    pub fn open_frame(&self, number: u32, facts: &FrameFacts, sealed: BytesMut) -> Result<Bytes, SealError> {
        self.open_with(&self.frame_key, number, facts, sealed)
    }

    /// The same for a topic with a key of its own.
    ///
    /// # Errors
    /// As [`SegmentOpener::open_frame`], and under another topic key.
    pub fn open_frame_of(
        &self,
        number: u32,
        facts: &FrameFacts,
        topic_key: &DataKey,
        sealed: BytesMut,
    ) -> Result<Bytes, SealError> {
        let known = self.topics.lock().unwrap_or_else(PoisonError::into_inner).get(&facts.topic).cloned();
        if let Some(key) = known {
            return self.open_with(&key, number, facts, sealed);
        }
        let key = Arc::new(topic_frame_key(&self.data_key, topic_key, &self.header.object_id));
        let opened = self.open_with(&key, number, facts, sealed)?;
        // Kept only once it opened something: a wrong key must not stand in a right one's way.
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).insert(facts.topic, key);
        Ok(opened)
    }

    fn open_with(
        &self,
        key: &SealKey,
        number: u32,
        facts: &FrameFacts,
        mut sealed: BytesMut,
    ) -> Result<Bytes, SealError> {
        let (plain_len, kind) = self.frame_prefix(number, &sealed)?;
        sealed.advance(FRAME_PREFIX_BYTES);
        let len = usize::try_from(plain_len).map_err(|_| SealError::TooLong { what: FRAME })?;
        if Some(sealed.len()) != len.checked_add(TAG_BYTES) {
            return Err(SealError::Malformed { what: FRAME });
        }
        let aad = frame_associated_data(&self.header, number, kind, plain_len, facts);
        key.open(kind.nonce(number), &aad, &mut sealed, FRAME)?;
        sealed.truncate(len);
        Ok(sealed.freeze())
    }

    /// Opens the footer. `tail` goes from the footer's position to the end of the object;
    /// `footer_tag` is the manifest's, so an older whole copy is refused.
    ///
    /// # Errors
    /// [`SealError`] when cut, altered, or another copy's.
    pub fn open_footer(&self, tail: &[u8], position: u64, footer_tag: &[u8; 16]) -> Result<Footer, SealError> {
        let bad = SealError::Malformed { what: FOOTER };
        let len = tail.len().checked_sub(FOOTER_TRAILER_BYTES).ok_or(bad)?;
        let (text, trailer) = tail.split_at_checked(len).ok_or(bad)?;
        let mut reader = Reader::new(trailer);
        let tag: [u8; TAG_BYTES] = reader.array().ok_or(bad)?;
        let plain_len = u32::from_be_bytes(reader.array().ok_or(bad)?);
        let frames = u32::from_be_bytes(reader.array().ok_or(bad)?);
        if reader.array() != Some(FOOTER_MAGIC) || usize::try_from(plain_len) != Ok(len) {
            return Err(bad);
        }
        if frames != self.frame_count || !constant_time_eq(&tag, footer_tag) {
            return Err(SealError::OtherObject { field: "footer" });
        }
        let mut text = [text, &tag].concat();
        let aad = footer_associated_data(&self.header, frames, position, plain_len);
        let nonce = Nonce { domain: FOOTER_DOMAIN, number: u64::from(frames) };
        self.footer_key.open(nonce, &aad, &mut text, FOOTER)?;
        let mut reader = Reader::new(text.get(..len).ok_or(bad)?);
        if reader.array() != Some(frames.to_be_bytes()) {
            return Err(bad);
        }
        let frame_tags_digest = reader.array().ok_or(bad)?;
        Ok(Footer { index: reader.rest().to_vec(), frame_tags_digest })
    }

    /// Walks all frames of `object` up to `footer_position` and digests their tags, for a scrub without decryption.
    ///
    /// # Errors
    /// [`SealError::Malformed`] when the frames do not fill the place exactly.
    pub fn frame_tags_digest(&self, object: &[u8], footer_position: u64) -> Result<[u8; 32], SealError> {
        let bad = SealError::Malformed { what: FRAME };
        let end = usize::try_from(footer_position).map_err(|_| bad)?;
        let mut reader = Reader::new(object.get(header::HEAD_BYTES..end).ok_or(bad)?);
        let mut tags = Sha256::new();
        for number in 0..self.frame_count {
            let prefix = reader.slice(FRAME_PREFIX_BYTES).ok_or(bad)?;
            let (plain_len, _) = self.frame_prefix(number, prefix)?;
            reader.slice(usize::try_from(plain_len).map_err(|_| bad)?).ok_or(bad)?;
            tags.update(&reader.array::<TAG_BYTES>().ok_or(bad)?);
        }
        if reader.is_empty() { Ok(tags.finish()) } else { Err(bad) }
    }

    fn frame_prefix(&self, number: u32, frame: &[u8]) -> Result<(u32, FrameKind), SealError> {
        let bad = SealError::Malformed { what: FRAME };
        let mut reader = Reader::new(frame);
        let plain_len = u32::from_be_bytes(reader.array().ok_or(bad)?);
        if plain_len > self.header.frame_bytes_max {
            return Err(SealError::TooLong { what: FRAME });
        }
        let last = number.checked_add(1) == Some(self.frame_count);
        let kind = if last { FrameKind::Last } else { FrameKind::Data };
        if number >= self.frame_count || reader.array() != Some([kind.byte()]) {
            return Err(bad);
        }
        Ok((plain_len, kind))
    }
}

impl std::fmt::Debug for SegmentOpener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentOpener").field("header", &self.header).finish_non_exhaustive()
    }
}

const _: () = assert!(FOOTER_PREFIX_BYTES == 36);
