//! Record batches (magic 2): checked once when they come, opaque ever after.
//!
//! In: the records of one partition of a Produce request, or stored batches. Out: [`ValidBatch`], [`StoredBatch`],
//! answers about times within a batch.
//!
//! Invariants
//! - Only [`validate`] makes a [`ValidBatch`]; holding one means sizes, CRC-32C, counts, attributes, times and each
//!   record's framing were checked, also within compression.
//! - Decompression is streamed and ends at its budget; no record is ever kept in memory decompressed.
//! - [`ValidBatch::assign`] changes header bytes only.
//!
//! Must not: log or return bytes of records.

mod header;
mod payload;
mod records;
mod times;
mod validate;

pub use header::{BatchHeader, Codec, HEADER_BYTES, Split, SplitError, StoredBatch, TimestampType, split};
pub use payload::Budget;
pub use records::RecordError;
pub use times::{TimeAt, find_time, latest_time};
pub use validate::{BatchError, BatchFacts, BatchRules, KeyRule, Producer, TimeRule, ValidBatch, validate};

#[cfg(test)]
pub(crate) mod testing;
