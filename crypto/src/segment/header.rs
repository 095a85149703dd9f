//! The first 4096 bytes of a segment object.
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `SCHLSEG1` |
//! | 8 | 2 | format version, 1 |
//! | 10 | 2 | suite, 1 |
//! | 12 | 2 | kind, 1 (segment) |
//! | 14 | 2 | flags, 0 |
//! | 16 | 32 | object id, random |
//! | 48 | 16 | cluster |
//! | 64 | 16 | tenant |
//! | 80 | 16 | segment |
//! | 96 | 8 | writer epoch |
//! | 104 | 8 | created, ms since 1970 |
//! | 112 | 4 | largest plaintext of a frame |
//! | 116 | 16 | key id |
//! | 132 | 32 | key commitment |
//! | 164 | 16 | tag (empty plaintext, bytes 0..164 as associated data) |
//! | 180 | 4 | length of the wrapped key |
//! | 184 | n | wrapped key ([`WrappedKey::to_bytes`]) |
//! | 184 + n | 4 | CRC-32C of the wrapped key; zeros up to 4096 |
//!
//! The key slot is a copy for disaster recovery, outside the tag so that re-wrapping a key never reseals the object.
//! A false one opens another key, which fails the commitment.

use crate::aead::{COMMIT_BYTES, Nonce, Root, SUITE, SealError, TAG_BYTES};
use crate::layout::Reader;
use crate::segment::HEADER_DOMAIN;
use crate::{WrappedKey, random_array};

/// Length of header and key slot; the first frame stands here.
pub const HEAD_BYTES: usize = 4096;
const MAGIC: [u8; 8] = *b"SCHLSEG1";
const VERSION: u16 = 1;
const KIND_SEGMENT: u16 = 1;
const UNTAGGED_BYTES: usize = 164;
const KEY_SLOT_AT: usize = UNTAGGED_BYTES + TAG_BYTES;
const HEADER: &str = "segment header";
const SLOT: &str = "key slot";

/// The facts in a segment's header. All are plaintext; none is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Random and used once: [`new_object_id`].
    pub object_id: [u8; 32],
    /// The installation.
    pub cluster: [u8; 16],
    /// The tenant.
    pub tenant: [u8; 16],
    /// The segment.
    pub segment: [u8; 16],
    /// The epoch of the shard writer that made it.
    pub writer_epoch: u64,
    /// When it was begun.
    pub created_ms: i64,
    /// No frame's plaintext is longer.
    pub frame_bytes_max: u32,
    /// The data key's id in the manifest.
    pub key_id: [u8; 16],
}

/// A fresh object id. One per object, also per second try with other bytes.
#[must_use]
pub fn new_object_id() -> [u8; 32] {
    random_array()
}

/// The wrapped key in a segment's head (at least [`HEAD_BYTES`] of the object): for recovery without a manifest.
///
/// # Errors
/// [`SealError::Malformed`] when the slot is damaged.
pub fn read_wrapped_key(head: &[u8]) -> Result<WrappedKey, SealError> {
    let bad = SealError::Malformed { what: SLOT };
    let mut reader = Reader::new(head.get(KEY_SLOT_AT..HEAD_BYTES).ok_or(bad)?);
    let len = u32::from_be_bytes(reader.array().ok_or(bad)?);
    let slot = reader.slice(usize::try_from(len).map_err(|_| bad)?).ok_or(bad)?;
    if reader.array() != Some(crc32c(slot)) {
        return Err(bad);
    }
    WrappedKey::from_bytes(slot)
}

/// Appends the whole head to `out`.
pub(super) fn write_head(
    header: &SegmentHeader,
    root: &Root,
    wrapped: &WrappedKey,
    out: &mut Vec<u8>,
) -> Result<(), SealError> {
    let slot = wrapped.to_bytes()?;
    let mut head = untagged(header, &root.commitment("commit"));
    let tag = root.key("header").seal(NONCE, &head, &mut [])?;
    head.extend_from_slice(&tag);
    head.extend_from_slice(&u32::try_from(slot.len()).unwrap_or(u32::MAX).to_be_bytes());
    head.extend_from_slice(&slot);
    head.extend_from_slice(&crc32c(&slot));
    if head.len() > HEAD_BYTES {
        return Err(SealError::TooLong { what: SLOT });
    }
    head.resize(HEAD_BYTES, 0);
    out.extend_from_slice(&head);
    Ok(())
}

/// Reads a header's fields. Nothing in them is to be believed before [`check_tag`].
pub(super) fn parse(head: &[u8]) -> Result<(SegmentHeader, [u8; COMMIT_BYTES]), SealError> {
    fields(head).ok_or(SealError::Malformed { what: HEADER })?
}

fn fields(head: &[u8]) -> Option<Result<(SegmentHeader, [u8; COMMIT_BYTES]), SealError>> {
    let mut reader = Reader::new(head);
    if reader.array()? != MAGIC {
        return None;
    }
    let (version, suite) = (u16::from_be_bytes(reader.array()?), u16::from_be_bytes(reader.array()?));
    if (version, suite) != (VERSION, SUITE) {
        return Some(Err(SealError::UnknownFormat { version, suite }));
    }
    if u16::from_be_bytes(reader.array()?) != KIND_SEGMENT || u16::from_be_bytes(reader.array()?) != 0 {
        return None;
    }
    let header = SegmentHeader {
        object_id: reader.array()?,
        cluster: reader.array()?,
        tenant: reader.array()?,
        segment: reader.array()?,
        writer_epoch: u64::from_be_bytes(reader.array()?),
        created_ms: i64::from_be_bytes(reader.array()?),
        frame_bytes_max: u32::from_be_bytes(reader.array()?),
        key_id: reader.array()?,
    };
    Some(Ok((header, reader.array()?)))
}

/// Checks commitment, then tag, of the header in `head`.
pub(super) fn check_tag(head: &[u8], commit: &[u8], root: &Root) -> Result<(), SealError> {
    if !root.committed("commit", commit) {
        return Err(SealError::WrongKey { what: "segment" });
    }
    let bad = SealError::Malformed { what: HEADER };
    let untagged = head.get(..UNTAGGED_BYTES).ok_or(bad)?;
    let mut tag: [u8; TAG_BYTES] =
        head.get(UNTAGGED_BYTES..).and_then(|rest| rest.first_chunk().copied()).ok_or(bad)?;
    root.key("header").open(NONCE, untagged, &mut tag, HEADER)
}

const NONCE: Nonce = Nonce { domain: HEADER_DOMAIN, number: 0 };

fn untagged(header: &SegmentHeader, commit: &[u8; COMMIT_BYTES]) -> Vec<u8> {
    [
        &MAGIC[..],
        &VERSION.to_be_bytes(),
        &SUITE.to_be_bytes(),
        &KIND_SEGMENT.to_be_bytes(),
        &0_u16.to_be_bytes(),
        &header.object_id,
        &header.cluster,
        &header.tenant,
        &header.segment,
        &header.writer_epoch.to_be_bytes(),
        &header.created_ms.to_be_bytes(),
        &header.frame_bytes_max.to_be_bytes(),
        &header.key_id,
        commit,
    ]
    .concat()
}

fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(crc).unwrap_or(u32::MAX).to_be_bytes()
}
