//! The log engine: shards with write-ahead logs, tails in memory, sealed segments, recovery.
//!
//! In: validated batches and state of a tenant ([`Engine::submit`], [`Engine::put_state`]). Out: durable offsets; whole
//! batches back ([`Engine::read`]).
//!
//! The way of a batch: submitted → gathered with others into an entry → sealed per tenant → written and synced →
//! in the tail, readable, acknowledged → flushed into a segment → the log's files are recycled.
//!
//! Invariants
//! - Acknowledged means synced. Nothing is shown to a reader before that.
//! - Every byte written is sealed under a key of its own tenant.
//! - One entry is in flight per shard, so what is assigned is exactly what is durable when the next one is gathered.
//! - After a failed sync the shard stops; only a restart, which reads what the disk really has, goes on.
//!
//! Must not: decode records, know names of topics, ask the metadata store in the path of a produce or a fetch.

mod batch;
mod config;
mod engine;
mod error;
mod keyring;
mod log;
mod producers;
mod segment;
mod shard;
mod stats;
mod wal;

pub use batch::{Batch, split_batches};
pub use config::{EngineConfig, LogConfig};
pub use engine::{Engine, PartitionSpec, Read, StateRecord, TimeHit, Watch};
pub use error::{AppendError, OpenError, ReadError, WalError};
pub use keyring::{Keyring, KeyringError, TenantKeys};
pub use log::Offsets;
pub use shard::{Append, Appended};
pub use stats::{EngineStats, SYNC_BUCKETS_US};
pub use wal::disk::{Disk, DiskFile};

#[cfg(test)]
mod tests;
