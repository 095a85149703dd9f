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

pub mod acl;
pub mod action;
pub mod arn;
mod assume;
mod cache;
pub mod context;
pub mod decision;
mod engine;
mod evaluate;
pub mod explain;
pub mod finding;
mod frame;
mod glob;
pub mod json;
pub mod lint;
pub mod matrix;
pub mod organisation;
pub mod policy;
mod session;
pub mod simulate;
pub mod suggest;

pub use action::{Ability, AclOperation, Action, can};
pub use arn::{AccountId, ClusterArn, ResourceKind, ResourceRef};
pub use assume::{AssumeRefused, Assumer, RoleRequest};
pub use context::{KeyValue, Keys, RequestContext};
pub use decision::{Decision, Layer, StatementRef, Verdict};
pub use engine::{BindError, Engine};
pub use evaluate::Layers;
pub use explain::{Able, Explanation, NearMiss};
pub use finding::{Finding, Severity};
pub use frame::FrameError;
pub use organisation::{BreakGlass, CertificateFacts, Organisation, Principal, PrincipalKind, SharedTopic, Tenant};
pub use session::{Denied, Permit, Session, SessionTerms};
