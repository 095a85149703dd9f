//! The log engine: one write-ahead log per shard, a tail in memory, sealed immutable segments, recovery.
//!
//! In: [`ValidBatch`](schloss_wire::batch::ValidBatch)es and state records. Out: offsets once durable, batches as slices.
//!
//! ```text
//! submit → shard thread: check sequences, assign offsets, gather → entry: one section per tenant, sealed → file, fdatasync
//!        → publish: tail, high watermark, watchers → replies        flush: tail → segments → one SQL transaction → checkpoint
//! ```
//!
//! Invariants
//! - Nothing is answered, shown or counted before the entry that holds it is on disk.
//! - Offsets of a partition have no gap and never come twice; a failed write gives back what it had assigned.
//! - Each start takes a new epoch and never appends to an old one, so no entry id is sealed twice.
//! - An entry is read back only when the installation's proof over it holds; a damaged log refuses the start and never passes for an empty one.
//! - The log is collected behind every flush: what a tenant's key keeps from being flushed is set aside, in the same transaction.
//! - A flush adds segments, state and checkpoint in one transaction guarded by epoch and writer.
//!
//! Must not: know names of topics, hold a lock across `.await`, answer from bytes whose tag was not checked.

mod anchor;
mod append;
mod aside;
mod by_time;
mod early_keys;
mod engine;
mod epoch_keys;
mod error;
#[cfg(test)]
mod faults;
mod flush;
mod integrity;
mod key_loss;
mod keys;
mod local_store;
mod locked;
mod maintenance;
mod partition;
mod patience;
mod producer;
mod read;
mod read_ahead;
mod recovery;
mod rewrap;
mod rewrite;
mod scrub;
mod segment;
mod shard;
mod shared;
mod shred;
mod stats;
mod topic_keys;
mod wal;

pub use engine::{Engine, EngineConfig, Foundation, refuse_unproved_log};
pub use error::{AppendError, LogError, OpenError, ReadError};
pub use integrity::{Damage, Finding, IntegritySink};
pub use keys::{KeySource, KeyTrouble, TenantKeys, stored_key};
pub use local_store::LocalStore;
pub use locked::InDoubt;
pub use partition::{LogConfig, Offsets, Watch};
pub use patience::until_quiet;
pub use read::Read;
pub use rewrap::{Progress, RewrapError, Rewrapped};
pub use rewrite::{RewriteError, Rewritten};
pub use scrub::Scrubbed;
pub use shard::Appended;
pub use shared::StateRecord;
pub use shred::{ShredError, Shredded};
pub use stats::EngineStats;
pub use topic_keys::TopicKeyError;
