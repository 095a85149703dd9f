//! What is known of a tenant's KMS key, and what that allows.

use std::time::Duration;

use schloss_crypto::{Denial, Outage, Standing};
use tokio::time::Instant;

/// How a tenant's KMS key was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantKeyState {
    /// Never asked since start, or forgotten.
    Unproved,
    /// The last call succeeded.
    Proved,
    /// The last call was refused: the tenant is stopped.
    Denied(Denial),
    /// The last call got no answer: the tenant lives on cached keys.
    Unreachable(Outage),
}

impl TenantKeyState {
    /// One word and a reason, for people and logs.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::Unproved => "unproved".to_owned(),
            Self::Proved => "enabled".to_owned(),
            Self::Denied(why) => format!("denied: {why:?}"),
            Self::Unreachable(why) => format!("unreachable: {why:?}"),
        }
    }
}

/// One KMS key of one tenant.
#[derive(Clone)]
pub(crate) struct Seen {
    pub(crate) state: TenantKeyState,
    /// When `state` was learnt, and since when it is what it is.
    pub(crate) learnt: Instant,
    pub(crate) since: Instant,
    /// The last call that succeeded was begun then.
    pub(crate) proved: Option<Instant>,
    pub(crate) used: Instant,
    /// A wrapped key that seals nothing, to ask with.
    pub(crate) probe: Option<Vec<u8>>,
    /// Its opened keys were wiped since the last success.
    pub(crate) wiped: bool,
}

impl Seen {
    pub(crate) fn new(now: Instant) -> Self {
        let state = TenantKeyState::Unproved;
        Self { state, learnt: now, since: now, proved: None, used: now, probe: None, wiped: false }
    }

    /// What may be done with keys it opened.
    pub(crate) fn standing(&self, now: Instant, proof_age_max: Duration, grace: Duration) -> Standing {
        let within = |age: Duration| self.proved.is_some_and(|proved| now.saturating_duration_since(proved) <= age);
        match self.state {
            TenantKeyState::Denied(_) => Standing::Stopped,
            TenantKeyState::Proved if within(proof_age_max) => Standing::Usable,
            TenantKeyState::Proved | TenantKeyState::Unproved => Standing::Stale,
            TenantKeyState::Unreachable(_) if !grace.is_zero() && within(grace) => Standing::Usable,
            TenantKeyState::Unreachable(_) => Standing::Stopped,
        }
    }
}
