//! The coordinator of one tenant: consumer groups, their committed offsets, and producer ids.
//!
//! In: decoded and authorised requests, the time, and random bytes. Out: [`Effects`] (state records to make durable, and
//! replies that wait for them), direct answers, and the time of the next [`GroupTable::tick`].
//!
//! Invariants
//! - Nothing here does I/O, reads a clock, draws randomness, blocks or spawns: one history of calls gives one history of
//!   effects.
//! - Each record holds its whole subject (a group, an offset, an id), so a later record always mends a lost earlier one.
//! - Every parked request is answered: by the call that completes it or by the tick of its deadline.
//!
//! The caller must
//! - make the records of one [`Effects`] durable before it releases the replies of it, and release in the order of calls,
//!   so that no client acts on a generation that a crash could take back;
//! - call `tick` at [`GroupTable::next_deadline_ms`].
//!
//! Must not: know topic names beyond those a caller passes in, decode requests, or hold state of more than one tenant.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod api;
mod clean;
mod group;
mod join;
mod layout;
mod limits;
mod offsets;
pub mod producer_ids;
mod rebalance;
mod subscription;
mod table;

#[cfg(test)]
mod histories;
#[cfg(test)]
mod properties;

pub use api::{
    CommitRequest, CommittedOffset, Effects, FetchedOffset, GroupDescription, GroupLimits, GroupListing, HeartbeatRequest,
    JoinMember, JoinReply, JoinRequest, LoadError, MemberDescription, MemberIdentity, OffsetToCommit, Reply, ReplyToken,
    StateRecord, SyncReply, SyncRequest,
};
pub use table::GroupTable;
