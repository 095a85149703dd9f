//! The audit log: what was allowed and refused, in a form that cannot be changed unseen.
//!
//! In: [`Event`]s of the broker. Out: one log per tenant and one of the cluster, in files that anyone with the public
//! key can [`verify`] and only the holder of the audit key can [read](query).
//!
//! Invariants
//! - [`AuditLog::record`] returns only when the event is on disk; not recorded, not done.
//! - A log is only ever appended to; every line carries the hash of the line before it.
//! - No body, name or address is readable in a file; only times, sizes and numbers of events are.
//! - Memory is bounded: a bounded queue, and at most [`COUNT_KEYS_MAX`] counted keys.
//!
//! Must not: decide anything, call a KMS, know how a tenant or a policy is made.
//!
//! # The folder
//! ```text
//! public-key.pem            Ed25519, SubjectPublicKeyInfo; give this to the verifier by another way than the folder
//! signing-key.sealed        its private half, sealed under the audit key
//! newest-checkpoint.json    a copy of the newest checkpoint line of the cluster's log
//! lock                      held by the broker that writes
//! cluster/00000001.jsonl    the log of the cluster, then 00000002.jsonl, …
//! 111122223333/00000001.jsonl   the log of a tenant
//! ```
//!
//! # A line, byte for byte
//! UTF-8 without blanks, members in exactly this order, ended by one LF (0x0a). Three kinds:
//! ```text
//! {"v":1,"seq":N,"time":T,"log":"L","prev":"P","kind":"begin","cluster":"U","hash":"H"}
//! {"v":1,"seq":N,"time":T,"log":"L","prev":"P","kind":"event","body":"B","hash":"H"}
//! {"v":1,"seq":N,"time":T,"log":"L","prev":"P","kind":"checkpoint","events":E,"heads":{"L":[N,"H"],…},"signature":"S","hash":"H"}
//! ```
//! - `N`: place in the log, 0 for its first line and one more for each that follows, through all files. `T`: milliseconds since 1970.
//! - `L`: `cluster` or the tenant's 12 digits, equal to the folder's name. `U`: the installation's id, the same in every log.
//! - `H`: SHA-256, 64 lower-case hex digits, of the line's bytes from its `{` up to and without `,"hash":"`.
//!   The last 76 bytes of a line are therefore `,"hash":"`, 64 digits, `"}`, LF.
//! - `P`: the `H` of the line before, through all files; 64 zeros in the first line.
//! - `S`: Ed25519 signature, base64 (RFC 4648, padded, 88 characters), over the ASCII bytes `schloss audit checkpoint v1`, LF, and then
//!   the line's bytes from its `{` up to and without `,"signature":"`.
//! - `E`: event lines of this log before the checkpoint. `heads`: in the cluster's log the newest durable place of other
//!   logs, of all of them in the first line of a file, else of those that moved since; `{}` in a tenant's log.
//! - `B`: the sealed body, base64: a sealed value (see the crypto room's `value`) bound to `schloss audit body v1`, LF, `U`, LF, `L`, LF, `N`.
//!
//! The first line of a log is `begin`, nowhere else. The first line of each later file is a checkpoint. Files are numbered from 1 without gap.
//!
//! # To verify
//! Walk every log: hashes, `N`, `P`, `L`, `U`, `E`, signatures. Then every head named by a checkpoint of the cluster's log
//! must be that line of that log, and `newest-checkpoint.json` that line of the cluster's log: so a log that lost its tail,
//! was replaced by an older copy or is gone is found.
//!
//! # What cannot be seen
//! Whoever puts back the *whole* folder as it was at an earlier time leaves nothing to compare with. Keep the head that
//! `verify` prints somewhere else. Events after the newest checkpoint are chained but not yet signed; `verify` tells their number.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod audit_log;
mod counts;
mod event;
mod folder;
mod line;
mod log;
pub mod query;
#[cfg(test)]
mod tests;
pub mod verify;
mod writer;

pub use audit_log::{AuditConfig, AuditError, AuditLog, AuditStats};
pub use counts::COUNT_KEYS_MAX;
pub use event::{Event, EventClass, FIELD_BYTES_MAX, Verdict};
pub use folder::{PUBLIC_KEY_FILE, snapshot};
pub use line::Breach;
