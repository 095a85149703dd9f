//! Who a connection is at present, and by what it got in. A re-authentication replaces it as a whole.

use std::sync::Arc;

use schloss_authz::{Principal, RequestContext, SessionTerms};

use crate::credentials::CredentialRef;

/// Who a connection is.
#[derive(Debug)]
pub struct Identity {
    /// The principal; of a role with the session's name.
    pub principal: Principal,
    /// Its ARN, the session's name included.
    pub arn: Arc<str>,
    /// What limits and describes the session: session policies, tags, source identity.
    pub terms: SessionTerms,
    /// The way it logged in: a SASL mechanism's name, or `mTLS`.
    pub mechanism: &'static str,
    /// By what.
    pub proof: Proof,
    /// What policies may ask about this connection.
    pub context: RequestContext,
    /// When it must have proved itself again, at the latest; in milliseconds since 1970.
    pub until_ms: Option<i64>,
}

/// By what a connection got in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The certificate it shows in TLS.
    Certificate,
    /// A credential of the broker's own store.
    Stored(CredentialRef),
    /// A token of an identity provider, by the name of the tenant's file about it.
    Issuer(Box<str>),
}

impl Identity {
    /// The stored credential, if that is what it got in by.
    #[must_use]
    pub fn stored(&self) -> Option<&CredentialRef> {
        match &self.proof {
            Proof::Stored(credential) => Some(credential),
            Proof::Certificate | Proof::Issuer(_) => None,
        }
    }

    /// KIP-368: how long the session lasts from now, as SaslAuthenticate tells it; 0 is for ever.
    #[must_use]
    pub fn lifetime_ms(&self, now_ms: i64) -> i64 {
        self.until_ms.map_or(0, |until| until.saturating_sub(now_ms).max(1))
    }
}
