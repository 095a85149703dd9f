//! Reading ahead: while a consumer that catches up takes in one answer, the records behind it are read and opened.
//!
//! In: where reads of a partition's segments began and ended. Out: frames in the cache that the next read will ask for.
//!
//! Invariants
//! - Only a read that goes on where one of the last [`ENDS`] of its partition ended is followed: jumps cost nothing.
//! - For a partition one task at a time reads ahead, for all partitions [`AT_ONCE`], of at most one answer's bytes each.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::error::ReadError;
use crate::partition::Partition;
use crate::read::{Read, Reader, Source, locate, run_of, wanted_frames};

/// Reads of a partition that are remembered: consumers at so many places of it are told apart.
const ENDS: usize = 8;
/// Tasks of all tenants. Without a free one a read is not followed.
pub const AT_ONCE: usize = 16;
/// A larger frame is not read ahead: it might find no room in the cache and be read twice.
const FRAME_BYTES_MAX: u32 = 1024 * 1024;

/// Where the last reads of a partition's segments ended.
#[derive(Debug, Default)]
pub struct Trail {
    ends: [i64; ENDS],
    oldest: usize,
    ahead: bool,
}

impl Trail {
    /// Notes a read of `from..behind`. True when it went on where an earlier one ended and nobody reads ahead: then the caller
    /// does, and says [`Trail::done`].
    fn follow(&mut self, from: i64, behind: i64) -> bool {
        let known = self.ends.iter().position(|end| *end == from && from > 0);
        let at = known.unwrap_or_else(|| {
            self.oldest = self.oldest.wrapping_add(1).checked_rem(ENDS).unwrap_or(0);
            self.oldest
        });
        if let Some(end) = self.ends.get_mut(at) {
            *end = behind;
        }
        let first = known.is_some() && !self.ahead;
        self.ahead |= first;
        first
    }

    fn done(&mut self) {
        self.ahead = false;
    }
}

/// Says done however the task ends.
struct Ahead {
    partition: Arc<Partition>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.partition.trail().done();
    }
}

impl Reader {
    /// After a read of `from..behind` out of segments: reads on in the background if that seems wanted.
    pub fn follow(self: &Arc<Self>, partition: &Arc<Partition>, from: i64, behind: i64, bytes_max: usize) {
        if !partition.trail().follow(from, behind) {
            return;
        }
        let Ok(permit) = Arc::clone(&self.ahead).try_acquire_owned() else { return partition.trail().done() };
        let (reader, ahead) = (Arc::clone(self), Ahead { partition: Arc::clone(partition), _permit: permit });
        tokio::spawn(async move {
            if let Err(error) = reader.warm(&ahead.partition, behind, bytes_max).await {
                // Whoever asks for these records meets it again, and is told.
                tracing::debug!(%error, "reading ahead stopped");
            }
        });
    }

    async fn warm(&self, partition: &Partition, offset: i64, bytes_max: usize) -> Result<(), ReadError> {
        let Source::Part(part) = locate(partition, offset, bytes_max, true, &mut Read::default())? else {
            return Ok(());
        };
        let opened = part.segment.open(&*self.objects, &*self.vault, self.cluster).await?;
        let frames = wanted_frames(&opened, partition.id, &part, offset)?;
        let frames = frames.get(..run_of(frames, bytes_max)).unwrap_or_default();
        if frames.iter().any(|frame| frame.place.sealed_len > FRAME_BYTES_MAX) {
            return Ok(());
        }
        self.open_frames(partition.id, &part.segment, &opened, frames).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_that_goes_on_where_one_ended_is_followed_and_a_jump_is_not() {
        let mut trail = Trail::default();
        assert!(!trail.follow(0, 10), "the first read of all says nothing about the next");
        assert!(trail.follow(10, 20));
        assert!(!trail.follow(20, 30), "one task at a time");
        trail.done();
        assert!(!trail.follow(500, 510));
        assert!(trail.follow(30, 40));
    }

    #[test]
    fn as_many_consumers_as_are_remembered_are_told_apart() {
        let mut trail = Trail::default();
        let places: Vec<i64> = (1..=ENDS as i64).map(|n| n * 1000).collect();
        for place in &places {
            assert!(!trail.follow(*place, place + 10));
        }
        for place in &places {
            assert!(trail.follow(place + 10, place + 20));
            trail.done();
        }
    }
}
