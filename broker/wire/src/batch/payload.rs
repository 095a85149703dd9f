//! Decompression under a budget, as a stream.
//!
//! In: a batch's compressed records. Out: readers that end with `QuotaExceeded` when the budget is spent.
//!
//! Invariants
//! - No buffer grows with a claimed size: Snappy's claim is held against the budget and against the best ratio the
//!   format can reach, Zstandard's window is at most 8 MiB, LZ4's block at most the format's 8 MiB (legacy frames).
//!
//! Must not: keep more than one block decompressed.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// How much one batch may become when decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes in any case.
    pub bytes_max: usize,
    /// Times the compressed size, where that is above [`Budget::FREE_BYTES`].
    pub ratio_max: usize,
}

impl Budget {
    /// Up to here no ratio counts: a megabyte of zeros in 60 bytes is a fair message.
    pub const FREE_BYTES: usize = 8 * 1024 * 1024;

    fn for_input(self, input_bytes: usize) -> usize {
        let by_ratio = input_bytes.saturating_mul(self.ratio_max).max(Self::FREE_BYTES);
        self.bytes_max.min(by_ratio)
    }
}

impl Default for Budget {
    /// 128 MiB and 1,024 times.
    fn default() -> Self {
        Self { bytes_max: 128 * 1024 * 1024, ratio_max: 1024 }
    }
}

/// Zstandard's window is two to this power at most: 8 MiB, what RFC 8878 asks every decoder to take.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// What is decompressed ahead of the walk.
const BUFFER_BYTES: usize = 32 * 1024;
/// A Snappy copy makes at most 64 bytes out of 3; rounded up.
const SNAPPY_RATIO_MAX: usize = 24;
/// A block that is only its own length and one tag may say so much more.
const SNAPPY_SLACK_BYTES: usize = 64;
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
/// Magic, version and lowest compatible version.
const XERIAL_HEADER_BYTES: usize = 16;

pub(super) type Metered<R> = BufReader<Meter<R>>;

pub(super) fn gzip(input: &[u8], budget: Budget) -> Metered<MultiGzDecoder<&[u8]>> {
    metered(MultiGzDecoder::new(input), input.len(), budget)
}

pub(super) fn snappy(input: &[u8], budget: Budget) -> Metered<Snappy<'_>> {
    let block_bytes_max = budget.for_input(input.len());
    metered(Snappy::new(input, block_bytes_max), input.len(), budget)
}

pub(super) fn lz4(input: &[u8], budget: Budget) -> Metered<lz4_flex::frame::FrameDecoder<&[u8]>> {
    metered(lz4_flex::frame::FrameDecoder::new(input), input.len(), budget)
}

pub(super) fn zstd(input: &[u8], budget: Budget) -> io::Result<Metered<zstd::stream::read::Decoder<'static, &[u8]>>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(metered(decoder, input.len(), budget))
}

fn metered<R: Read>(inner: R, input_bytes: usize, budget: Budget) -> Metered<R> {
    BufReader::with_capacity(BUFFER_BYTES, Meter { inner, left: budget.for_input(input_bytes) })
}

/// Counts what comes out and stops at the budget.
pub(super) struct Meter<R> {
    inner: R,
    left: usize,
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(count) {
            Some(left) => self.left = left,
            None => return Err(io::ErrorKind::QuotaExceeded.into()),
        }
        Ok(count)
    }
}

/// Raw Snappy, or blocks of it in the framing of xerial's `snappy-java`, which Java clients send.
pub(super) struct Snappy<'a> {
    input: &'a [u8],
    framed: bool,
    block: Vec<u8>,
    at: usize,
    block_bytes_max: usize,
}

impl<'a> Snappy<'a> {
    fn new(input: &'a [u8], block_bytes_max: usize) -> Self {
        Self { input, framed: input.starts_with(&XERIAL_MAGIC), block: Vec::new(), at: 0, block_bytes_max }
    }

    /// The next raw block, or `None` at the end.
    fn next_block(&mut self) -> io::Result<Option<&'a [u8]>> {
        if !self.framed {
            return Ok(Some(std::mem::take(&mut self.input)).filter(|block| !block.is_empty()));
        }
        // A framed stream may be followed by another one.
        while self.input.starts_with(&XERIAL_MAGIC) {
            self.input = self.input.get(XERIAL_HEADER_BYTES..).ok_or(io::ErrorKind::UnexpectedEof)?;
        }
        if self.input.is_empty() {
            return Ok(None);
        }
        let (length, rest) = self.input.split_first_chunk::<4>().ok_or(io::ErrorKind::UnexpectedEof)?;
        let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| io::ErrorKind::InvalidData)?;
        let (block, rest) = rest.split_at_checked(length).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.input = rest;
        Ok(Some(block))
    }

    fn fill(&mut self, block: &[u8]) -> io::Result<()> {
        let claimed = snap::raw::decompress_len(block).map_err(|_| io::ErrorKind::InvalidData)?;
        let possible = block.len().saturating_mul(SNAPPY_RATIO_MAX).saturating_add(SNAPPY_SLACK_BYTES);
        if claimed > possible {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if claimed > self.block_bytes_max {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        self.block.clear();
        self.block.resize(claimed, 0);
        let count =
            snap::raw::Decoder::new().decompress(block, &mut self.block).map_err(|_| io::ErrorKind::InvalidData)?;
        self.block.truncate(count);
        self.at = 0;
        Ok(())
    }
}

impl Read for Snappy<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.block.get(self.at..).unwrap_or_default();
            if !ready.is_empty() || buffer.is_empty() {
                let count = ready.read(buffer)?;
                self.at = self.at.saturating_add(count);
                return Ok(count);
            }
            match self.next_block()? {
                None => return Ok(0),
                Some(block) => self.fill(block)?,
            }
        }
    }
}
