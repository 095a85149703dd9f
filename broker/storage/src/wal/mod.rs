//! The write-ahead log: entries named (epoch, sequence number), each written once.
//!
//! An entry is atomic and holds what one group commit gathered: a section per tenant, each under that tenant's epoch key.
//! The store is a trait of few verbs over names, so that an object store is later another store: create a name, read
//! upward from a name, collect behind a checkpoint. The local store is [`file::FileWal`].
//!
//! Entry, big-endian:
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `SCHLWAL2` |
//! | 8 | 1 | kind: 1 opening, 2 entry, 3 seal |
//! | 9 | 3 | zero |
//! | 12 | 4 | shard |
//! | 16 | 8 | epoch |
//! | 24 | 8 | sequence number, from 1 (the opening) |
//! | 32 | 16 | writer, random per taking |
//! | 48 | 32 | SHA-256 of the previous entry's header (zero for an opening of the first epoch) |
//! | 80 | 4 | length of the body |
//! | 84 | 4 | CRC-32C of the body: tells a torn write, not an attack; sections carry their own tags |
//! | 88 | 32 | proof: HMAC under the installation's key ([`schloss_crypto::IntegrityKey`]) of the 88 bytes before, then of each section its head and the last 48 bytes |
//! | 120 | 4 | CRC-32C of the 120 bytes before |
//! | 124 | … | body: sections one after the other |
//!
//! The proof is what says which sections an entry has and which entry follows which; sections' bytes have their own tags. Checksums tell
//! a torn write and nothing else: an entry whose checksums agree and whose proof does not was altered. Format 1 (`SCHLWAL1`) had no
//! proofs and is refused.
//!
//! Section: tenant \[16\] | key generation u32 | wrapped key length u16, bytes | sealed length u32, bytes
//! ([`schloss_crypto::WalKeys`]). Plaintext of a section: items.
//!
//! Item: kind u8, then 1 batch: topic \[16\] | partition i32 | appended ms i64 | length u32 | batch; 2 state: key length u32,
//! key | value length u32 (all ones: removed), value.

pub mod entry;
pub mod file;

use std::sync::Arc;

use bytes::Bytes;

use entry::Entry;

/// What a store says of a write.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// There is no space; nothing was written under the name, it may be tried again with other bytes.
    #[error("the disk is full")]
    Full,
    /// The outcome is unknown or the name is taken: the writer must step down.
    #[error("the log could not be written: {0}")]
    Failed(std::io::Error),
}

/// Entries of one shard as a reader finds them, also while they are written.
pub trait WalReader: Send + Sync {
    /// Epochs that have any entry, ascending.
    fn epochs(&self) -> std::io::Result<Vec<u64>>;
    /// Entries of an epoch with a sequence number above `after`, in order, up to the first that is missing.
    fn replay(&self, epoch: u64, after: u64) -> std::io::Result<Replay>;
}

/// The log as its one writer has it.
pub trait WalStore: WalReader {
    /// A reader for elsewhere. What it reads stays until the next [`WalStore::collect`].
    fn reader(&self) -> Arc<dyn WalReader>;
    /// Creates the next entry of the epoch being written and makes it durable. `bytes` is the whole entry.
    fn create(&mut self, epoch: u64, seq: u64, bytes: &[u8]) -> Result<(), WalError>;
    /// The next entry goes into a new file, so that all before it can be collected whole.
    fn begin_file(&mut self) {}
    /// Overwrites and removes what was collected and kept for recycling.
    fn wipe_spares(&mut self) -> std::io::Result<()> {
        Ok(())
    }
    /// Deletes or recycles entries at and behind the checkpoint. Openings and seals of a local log go with their files:
    /// the manifest's epoch is what keeps a name from being used twice.
    fn collect(&mut self, checkpoint: (u64, u64)) -> std::io::Result<()>;
}

/// What a replay of one epoch found.
#[derive(Debug)]
pub struct Replay {
    /// Whole entries in order.
    pub entries: Vec<Entry<Bytes>>,
    /// Sequence number of the last whole entry, wanted or not; 0 for none.
    pub last: u64,
    /// What follows the last whole entry.
    pub end: ReplayEnd,
}

/// How an epoch's log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayEnd {
    /// Nothing, or a torn write that was never acknowledged.
    Open,
    /// A later entry exists behind one that is missing or does not read: damage, not a torn write.
    Damaged {
        /// The entry that is missing.
        seq: u64,
    },
}

/// CRC-32C (Castagnoli).
pub fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or_default()
}
