//! May you: IAM policies, exactly, fast and explained.
//!
//! In: an organisation (a set of files, already read) and questions (who, which action, on what, under which
//! circumstances). Out: a [`Decision`](decision::Decision) that names the statements that made it, and
//! [`Permit`](session::Permit)s that nothing else can make.
//!
//! Must not: read files, look at a clock, wait, know of any other room. There is no "authoriser absent": the empty
//! set of policies denies.

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

pub mod action;
pub mod arn;
pub mod context;
pub mod finding;
mod glob;
pub mod json;
pub mod policy;
