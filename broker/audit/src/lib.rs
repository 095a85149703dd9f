//! The audit log: every decision as one event, chained, signed, sealed, verifiable by an outsider.
//!
//! In: [`Event`]s and counts of allowed data-plane actions. Out: files that [`verify`] judges with only the public key, and events
//! read back by [`query`] with the key vault.
//!
//! One stream per tenant and one of the installation (`cluster`), each a folder of numbered files of lines ([`mod@line`]). Events are sealed under
//! the cluster's audit key; what stays readable is that something happened when. Every line carries the hash of the one before; signed
//! checkpoints come every so many events and seconds; the cluster's checkpoints also name the newest line of every stream that moved, so a
//! stream cut short, or taken away whole, contradicts them.
//!
//! Invariants
//! - [`AuditLog::record`] returns after fdatasync, or with an error: not recorded, not done.
//! - Nothing acknowledged is ever removed: recovery drops only a torn end.
//! - Memory is bounded: a queue of `queue_max` events, `distinct_counts_max` counters and one overflow counter per tenant and action.
//!
//! Must not: decide anything, know protocols, write names or other bytes of clients unsealed.
//!
//! A copy of the cluster stream's newest checkpoint line lies beside the streams (`newest-checkpoint.json`) and contradicts the cluster
//! stream being cut, rewritten or taken away; a log without it, or against it, is neither verified nor written on.
//!
//! What it cannot see alone: the whole folder put back to an older state. Keep checkpoints
//! ([`StreamReport::last_checkpoint`]) elsewhere and hand them to [`verify`]. Lines after the newest checkpoint are chained, not yet signed.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod counts;
mod event;
mod keys;
pub mod line;
mod log;
mod newest;
mod query;
mod rewrap;
mod stream;
mod verify;
mod writer;

pub use counts::CountKey;
pub use event::{Class, Event, Verdict};
pub use keys::{public_key_from_pem, public_key_to_pem};
pub use line::Head;
pub use log::{AuditConfig, AuditLog, AuditStats, RecordError};
pub use query::{Filter, Found, QueryError, query, tail};
pub use rewrap::rewrap;
pub use stream::AuditError;
pub use verify::{Fault, FaultKind, Report, StreamReport, TrustedHead, verify};

/// The stream of the installation itself.
pub const CLUSTER_STREAM: &str = "cluster";

/// The stream an event of `tenant` goes to.
#[must_use]
pub fn stream_name(tenant: Option<schloss_core::TenantId>) -> String {
    tenant.map_or_else(|| CLUSTER_STREAM.to_owned(), |tenant| tenant.to_string())
}
