//! Consumer groups and producer ids as pure state machines.
//!
//! In: events, the time, and random bytes, all given by the caller. Out: [`Effects`]: records to make durable, replies
//! to send once they are.
//!
//! Invariants
//! - Nothing here waits, asks a clock, draws chance or does I/O; the same events give the same effects.
//! - A reply in an [`Effects`] may only be sent after the records of the same [`Effects`] are durable. Effects are made
//!   durable in the order they came. When that fails, the caller answers what it still owes with
//!   `COORDINATOR_NOT_AVAILABLE`, drops the table and loads it again.
//! - Every parked reply has a deadline, and [`GroupTable::tick`] at that time answers it.
//!
//! Must not: know connections, names of other tenants, or the wire's encoding.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod config;
mod effects;
mod group;
mod offsets;
pub mod producer_ids;
mod record;
mod table;

pub use config::GroupConfig;
pub use effects::{Effects, JoinReply, JoinedMember, Now, Reply, ReplyToken, StateRecord, SyncReply};
pub use group::join::{Join, Protocol};
pub use group::member::LeavingMember;
pub use group::sync::{MemberRef, Sync};
pub use group::{GroupDescription, GroupState, MemberDescription};
pub use offsets::{Commit, CommittedOffset, OffsetToDelete, PartitionCommit};
pub use record::LoadError;
pub use table::{GroupListing, GroupTable};

#[cfg(test)]
mod history_tests;
