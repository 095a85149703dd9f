//! Who is this connection: every way to prove it, as pure steps.
//!
//! In: bytes of a peer, credentials found by the caller, the time. Out: the next step (what to look up, what to answer,
//! who it is) or a refusal that names the step which failed.
//!
//! | way | room | standard |
//! |---|---|---|
//! | SASL framing | [`sasl`] | KIP-43, KIP-152, KIP-368 |
//! | SCRAM-SHA-256, -512, delegation tokens | [`scram`] | RFC 5802, RFC 7677, KIP-48, KIP-84 |
//! | AWS_MSK_IAM | [`msk_iam`], [`sigv4`], [`replay`] | AWS Signature Version 4, query form |
//! | OAUTHBEARER | [`oauth`] | RFC 7628, RFC 7519, the token of the MSK IAM signers |
//! | signed requests to the STS | [`signed_request`] | AWS Signature Version 4, header form |
//! | client certificates | [`mapping`], [`spiffe`] | KIP-371, SPIFFE-ID |
//!
//! Invariants
//! - A refusal says to the audit log which step failed; nothing of it is meant for the peer.
//! - An unknown name costs what a known one costs, and is answered alike.
//! - Every input has a bound that is checked before anything is parsed or reserved.
//!
//! Must not: do I/O, look at a clock, wait, log, keep a secret longer than the step that needs it (the bounded cache of
//! signing keys in [`sigv4`] is the one exception, and is wiped).
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

pub mod mapping;
pub mod msk_iam;
pub mod oauth;
pub mod replay;
pub mod sasl;
pub mod scram;
pub mod signed_request;
pub mod sigv4;
pub mod spiffe;

/// Bytes of one SASL message at most. Tokens of identity providers with many groups reach 16 KiB; the frame bound
/// before authentication is 64 KiB.
pub const MESSAGE_BYTES_MAX: usize = 48 * 1024;
