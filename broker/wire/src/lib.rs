//! The wire: frames, request and response bodies, record batches. The first room a peer's bytes enter.
//!
//! In: bytes of a connection. Out: [`request::Request`], [`batch::ValidBatch`]; and back, response frames.
//!
//! Invariants
//! - No request body reaches a decoder of `kafka-protocol` before [`request::parse`] has walked it: every claimed count
//!   and length was checked against the bytes left.
//! - Only this room calls those decoders on requests.
//! - Record batches stay opaque bytes: their headers are patched, they are never decoded and encoded again.
//!
//! Must not: do I/O, ask the time, know tenants, topics or permissions.
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

pub mod batch;
pub mod frame;
// As its generator writes it.
#[rustfmt::skip]
mod layout_table;
mod newer;
pub mod request;
pub mod response;
pub mod versions;
mod walk;

/// The message types, so that rooms above need no second way to them.
pub use kafka_protocol::messages;
/// The protocol's strings.
pub use kafka_protocol::protocol::StrBytes;
