//! A shard's write-ahead log: names, entries, and where they are kept.
//!
//! In: sealed entries under names (epoch, sequence) that are used once. Out: durable entries, read back in order.
//!
//! Invariants
//! - `create` answers only when the entry survives a power cut.
//! - A name has one content for ever; a log is read up to its first missing name, and a seal is put there before
//!   anything behind it is trusted (CLUSTER.md, section 3).
//!
//! Must not: know what a section holds.

pub mod disk;
pub(crate) mod entry;
pub(crate) mod item;
mod local;
#[cfg(test)]
pub(crate) mod mem_disk;

use async_trait::async_trait;
use bytes::Bytes;
use schloss_crypto::EntryId;

pub(crate) use entry::{Entry, Kind, SealedEntry};
pub(crate) use local::{LocalWal, LocalWalConfig};

use crate::error::WalError;

/// Makes an entry's final bytes in a recycled buffer; runs once, where the store writes.
pub(crate) type SealJob = Box<dyn FnOnce(Vec<u8>) -> Result<SealedEntry, WalError> + Send>;

/// Where one shard's entries are kept. A folder of files now; an object store has the same shape.
#[async_trait]
pub(crate) trait WalStore: Send + Sync {
    /// The highest epoch with an entry, or 0.
    async fn highest_epoch(&self) -> Result<u64, WalError>;
    /// True when an entry stands behind `name`.
    async fn continues_behind(&self, name: EntryId) -> Result<bool, WalError>;
    /// An entry's bytes; `None` when nobody finished writing it.
    async fn read(&self, name: EntryId) -> Result<Option<Bytes>, WalError>;
    /// Makes sure that an entry of `bytes` fits, before it gets a name. [`WalError::NoSpace`] changes nothing.
    async fn reserve(&self, bytes: usize) -> Result<(), WalError>;
    /// Bytes that surely fit without [`WalStore::reserve`].
    fn room(&self) -> usize;
    /// Seals and writes the next entry; answers its digest and length when it is durable.
    async fn create(&self, name: EntryId, seal: SealJob) -> Result<Created, WalError>;
    /// Frees what stands wholly at or behind `name`.
    fn collect(&self, name: EntryId);
}

/// A durable entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Created {
    /// The next entry states it.
    pub digest: [u8; 32],
    /// Bytes written.
    pub bytes: usize,
    /// Microseconds of the sync alone.
    pub sync_us: u64,
}
