//! Frames: a 32-bit length, then so many bytes.
//!
//! In: bytes as a connection brings them. Out: whole frames without their length.
//!
//! Invariants
//! - A length above the bound, zero or negative is refused when its four bytes are there, before anything is reserved.
//! - [`FrameReader::wanted`] never asks for more than what has already come, or [`STEP_BYTES`]: memory follows what a
//!   peer sends, not what it claims.
//!
//! Must not: do I/O.

use bytes::{Buf, Bytes, BytesMut};

/// Why the bytes are no frame. The connection ends; nothing after it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Zero, negative, or shorter than any request header.
    #[error("a frame claims {claimed} bytes")]
    Length {
        /// What its length says.
        claimed: i32,
    },
    /// Above the bound in force.
    #[error("a frame claims {claimed} bytes, {max} are allowed")]
    TooLarge {
        /// What its length says.
        claimed: usize,
        /// The bound.
        max: usize,
    },
}

/// Bytes of the length itself.
const LENGTH_BYTES: usize = 4;
/// The shortest request header: key, version, correlation id.
const FRAME_BYTES_MIN: i32 = 8;
/// How far ahead of the peer a buffer may grow.
pub const STEP_BYTES: usize = 64 * 1024;

/// Cuts frames out of a connection's bytes.
#[derive(Debug)]
pub struct FrameReader {
    frame_bytes_max: usize,
}

impl FrameReader {
    /// A reader that refuses frames longer than `frame_bytes_max`.
    #[must_use]
    pub fn new(frame_bytes_max: usize) -> Self {
        Self { frame_bytes_max }
    }

    /// Sets another bound, once the peer has authenticated.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// Takes the next whole frame from the front of `buffer`, if it is there.
    ///
    /// # Errors
    /// [`FrameError`] for a length out of bounds.
    pub fn next(&self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.claimed(buffer)? else { return Ok(None) };
        if buffer.len() < length.saturating_add(LENGTH_BYTES) {
            return Ok(None);
        }
        buffer.advance(LENGTH_BYTES);
        Ok(Some(buffer.split_to(length).freeze()))
    }

    /// How many bytes to make room for before the next read.
    ///
    /// # Errors
    /// [`FrameError`] for a length out of bounds.
    pub fn wanted(&self, buffer: &BytesMut) -> Result<usize, FrameError> {
        let missing = match self.claimed(buffer)? {
            None => STEP_BYTES,
            Some(length) => length.saturating_add(LENGTH_BYTES).saturating_sub(buffer.len()),
        };
        Ok(missing.min(buffer.len().max(STEP_BYTES)).max(1))
    }

    fn claimed(&self, buffer: &BytesMut) -> Result<Option<usize>, FrameError> {
        let Some(length) = buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let claimed = i32::from_be_bytes(*length);
        if claimed < FRAME_BYTES_MIN {
            return Err(FrameError::Length { claimed });
        }
        let length = usize::try_from(claimed).map_err(|_| FrameError::Length { claimed })?;
        if length > self.frame_bytes_max {
            return Err(FrameError::TooLarge { claimed: length, max: self.frame_bytes_max });
        }
        Ok(Some(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(body: &[u8]) -> Vec<u8> {
        [&u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
    }

    #[test]
    fn frames_come_out_whole_however_the_bytes_arrive() {
        let stream = [framed(b"12345678"), framed(b"abcdefghij")].concat();
        let reader = FrameReader::new(100);
        let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
        for byte in stream {
            buffer.extend_from_slice(&[byte]);
            frames.extend(reader.next(&mut buffer).unwrap());
        }
        assert_eq!(frames, [&b"12345678"[..], b"abcdefghij"]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn length_above_the_bound_is_refused_at_once() {
        let buffer = BytesMut::from(&101_u32.to_be_bytes()[..]);
        let error = FrameError::TooLarge { claimed: 101, max: 100 };
        assert_eq!(FrameReader::new(100).wanted(&buffer), Err(error));
        assert_eq!(FrameReader::new(100).next(&mut buffer.clone()), Err(error));
    }

    #[test]
    fn zero_short_and_negative_lengths_are_refused() {
        for claimed in [0, 7, -1, i32::MIN] {
            let mut buffer = BytesMut::from(&claimed.to_be_bytes()[..]);
            assert_eq!(FrameReader::new(100).next(&mut buffer), Err(FrameError::Length { claimed }));
        }
    }

    #[test]
    fn room_grows_with_what_came_not_with_what_is_claimed() {
        let mut reader = FrameReader::new(100);
        reader.set_frame_bytes_max(100 << 20);
        let buffer = BytesMut::from(&(100_u32 << 20).to_be_bytes()[..]);
        assert_eq!(reader.wanted(&buffer), Ok(STEP_BYTES));
    }
}
