//! The segment object: one tenant's batches of one or several partitions, sealed under one data key.
//!
//! ```text
//! head    4096 bytes: header [180] | key slot | zeros
//! frame n plain_len u32 | kind u8 (0 data, 1 last) | ciphertext | tag [16]
//! footer  ciphertext | tag [16] | ciphertext length u32 | frame count u32 | magic "SCHLSEND"
//! ```
//! Everything big-endian. Header fields are in [`header`], the key slot is [`crate::WrappedKey`]'s byte form.
//!
//! Keys: PRK = HKDF-Extract-SHA-512(salt = object id, ikm = data key); `frame`, `footer`, `header` keys and `commit` are expanded
//! with the label `schloss/1/` ‖ name ‖ suite u16.
//! Frames of a topic with a key of its own: PRK = HKDF-Extract-SHA-512(salt = object id, ikm = data key ‖ topic key), label
//! `topic-frame`. The footer's index says which topics these are.
//! Nonces: domain u32 (1 data, 2 last, 3 footer, 4 header) ‖ number u64 (the frame's; frame count for the footer; 0).
//! Associated data of frame n: suite u16 ‖ object id \[32\] ‖ tenant \[16\] ‖ topic \[16\] ‖ partition i32 ‖ n u32 ‖ kind u8 ‖ plain_len u32
//! ‖ first offset i64 ‖ last offset i64. Of the footer: suite ‖ object id ‖ tenant ‖ frame count u32 ‖ position u64 ‖ plain_len u32.
//! Footer plaintext: frame count u32 | SHA-256 over all frame tags | the caller's index.
//!
//! Invariants
//! - An object id is random and used for one object, so counters start at 0 and no nonce repeats. A writer that died is not
//!   continued; a retried upload sends the same bytes.
//! - A frame swapped, reordered, doubled, or moved to another partition, tenant or object fails its tag.
//! - A cut object has no last frame and footer; an older whole copy has another object id and footer tag than its manifest row.

pub mod header;
mod opener;
mod writer;

pub use header::{HEAD_BYTES, SegmentHeader, new_object_id, read_wrapped_key};
pub use opener::{Footer, Inspected, ObjectExpectation, SegmentOpener, inspect};
pub use writer::{FrameFacts, FrameRef, SealedSegment, SegmentWriter};

use crate::DataKey;
use crate::aead::{Nonce, Root, SUITE, SealKey, TAG_BYTES};

/// Bytes of a frame before its ciphertext.
pub const FRAME_PREFIX_BYTES: usize = 5;
/// Bytes a sealed frame is longer than its plaintext.
pub const FRAME_OVERHEAD_BYTES: usize = FRAME_PREFIX_BYTES + TAG_BYTES;
/// Bytes after the footer's ciphertext.
pub const FOOTER_TRAILER_BYTES: usize = TAG_BYTES + 4 + 4 + FOOTER_MAGIC.len();

const FOOTER_MAGIC: [u8; 8] = *b"SCHLSEND";
/// Frame count and digest before the caller's index.
const FOOTER_PREFIX_BYTES: usize = 4 + 32;
const HEADER_DOMAIN: u32 = 4;
const FOOTER_DOMAIN: u32 = 3;
/// AES-GCM's comfortable bound for one derived key.
const OBJECT_BYTES_MAX: u64 = 64 << 30;

/// Whether more frames follow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FrameKind {
    Data,
    Last,
}

impl FrameKind {
    const fn byte(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Last => 1,
        }
    }

    const fn nonce(self, number: u32) -> Nonce {
        let domain = match self {
            Self::Data => 1,
            Self::Last => 2,
        };
        Nonce { domain, number: number as u64 }
    }
}

/// Opens nothing without both: the data key, which the KMS can refuse, and the topic's, which can be destroyed.
fn topic_frame_key(data_key: &DataKey, topic_key: &DataKey, object_id: &[u8; 32]) -> SealKey {
    Root::of_both(data_key, topic_key, object_id).key("topic-frame")
}

fn frame_associated_data(
    header: &SegmentHeader,
    number: u32,
    kind: FrameKind,
    plain_len: u32,
    facts: &FrameFacts,
) -> Vec<u8> {
    [
        &SUITE.to_be_bytes()[..],
        &header.object_id,
        &header.tenant,
        &facts.topic,
        &facts.partition.to_be_bytes(),
        &number.to_be_bytes(),
        &[kind.byte()],
        &plain_len.to_be_bytes(),
        &facts.first_offset.to_be_bytes(),
        &facts.last_offset.to_be_bytes(),
    ]
    .concat()
}

fn footer_associated_data(header: &SegmentHeader, frame_count: u32, position: u64, plain_len: u32) -> Vec<u8> {
    [
        &SUITE.to_be_bytes()[..],
        &header.object_id,
        &header.tenant,
        &frame_count.to_be_bytes(),
        &position.to_be_bytes(),
        &plain_len.to_be_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests;
