//! Segments: immutable objects of one tenant that hold runs of its partitions.
//!
//! In: tails to flush ([`build`]); rows of the manifest and offsets to read ([`SegmentReader`]). Out: stored objects; batches.
//!
//! The index in the footer: number of parts u32, then per part: topic \[16\], partition i32, number of frames u32, and per
//! frame: number u32, position u64, sealed length u32, first offset i64, last offset i64, largest time i64.

mod build;
mod cache;
mod read;

pub(crate) use build::{BuildError, Run, SegmentMaker, plan_objects};
pub(crate) use read::SegmentReader;

use std::collections::HashMap;

use object_store::path::Path;
use schloss_core::{PartitionId, TenantId, TopicId};

use crate::producers::take;

/// A frame as the index names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameEntry {
    pub number: u32,
    pub position: u64,
    pub sealed_len: u32,
    pub first_offset: i64,
    pub last_offset: i64,
    pub max_timestamp: i64,
}

pub(crate) type Index = HashMap<PartitionId, Vec<FrameEntry>>;

/// Where a segment's object stands.
pub(crate) fn object_path(tenant: TenantId, segment: [u8; 16]) -> Path {
    Path::from(format!("seg/{tenant}/{:032x}", u128::from_be_bytes(segment)))
}

/// The inverse of [`object_path`]'s last part.
pub(crate) fn segment_of(path: &Path) -> Option<[u8; 16]> {
    let name = path.filename().filter(|name| name.len() == 32)?;
    u128::from_str_radix(name, 16).ok().map(u128::to_be_bytes)
}

pub(crate) fn index_to_bytes(parts: &[(PartitionId, Vec<FrameEntry>)]) -> Vec<u8> {
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = count(parts.len()).to_vec();
    for (partition, frames) in parts {
        bytes.extend_from_slice(&partition.topic.to_bytes());
        bytes.extend_from_slice(&partition.index.to_be_bytes());
        bytes.extend_from_slice(&count(frames.len()));
        for frame in frames {
            bytes.extend_from_slice(&frame.number.to_be_bytes());
            bytes.extend_from_slice(&frame.position.to_be_bytes());
            bytes.extend_from_slice(&frame.sealed_len.to_be_bytes());
            bytes.extend_from_slice(&frame.first_offset.to_be_bytes());
            bytes.extend_from_slice(&frame.last_offset.to_be_bytes());
            bytes.extend_from_slice(&frame.max_timestamp.to_be_bytes());
        }
    }
    bytes
}

pub(crate) fn index_from_bytes(mut bytes: &[u8]) -> Option<Index> {
    let mut index = Index::new();
    for _ in 0..u32::from_be_bytes(take(&mut bytes)?) {
        let topic = TopicId::from_bytes(take(&mut bytes)?);
        let partition = PartitionId { topic, index: i32::from_be_bytes(take(&mut bytes)?) };
        let frames: &mut Vec<FrameEntry> = index.entry(partition).or_default();
        for _ in 0..u32::from_be_bytes(take(&mut bytes)?) {
            frames.push(FrameEntry {
                number: u32::from_be_bytes(take(&mut bytes)?),
                position: u64::from_be_bytes(take(&mut bytes)?),
                sealed_len: u32::from_be_bytes(take(&mut bytes)?),
                first_offset: i64::from_be_bytes(take(&mut bytes)?),
                last_offset: i64::from_be_bytes(take(&mut bytes)?),
                max_timestamp: i64::from_be_bytes(take(&mut bytes)?),
            });
        }
    }
    bytes.is_empty().then_some(index)
}
