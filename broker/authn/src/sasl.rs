//! The SASL dialogue of one connection, without what the mechanisms say inside it.
//!
//! In: what the peer asks for (handshake, token, anything else). Out: what may be done with it now.
//!
//! SPEC: KIP-43 (SaslHandshake), KIP-152 (SaslAuthenticate), KIP-368 (re-authentication). After a handshake of version 0
//! tokens come as bare frames; after version 1 inside SaslAuthenticate requests.
//!
//! Invariants
//! - A token is taken only after a handshake that named a mechanism, and only in the form that handshake announced.
//! - A re-authentication keeps the mechanism of the first one.
//! - A failed exchange is never continued: the dialogue is over.

use std::fmt;

use schloss_crypto::ScramMechanism;

/// The SASL mechanisms there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mechanism {
    /// `AWS_MSK_IAM`: a Signature Version 4 over the wish to connect.
    AwsMskIam,
    /// `OAUTHBEARER` (RFC 7628): an OIDC token, or the signed URL of the MSK IAM signers.
    OauthBearer,
    /// `SCRAM-SHA-256` (RFC 7677).
    ScramSha256,
    /// `SCRAM-SHA-512`.
    ScramSha512,
}

impl Mechanism {
    /// All, in the order they are told to peers.
    pub const ALL: [Self; 4] = [Self::AwsMskIam, Self::OauthBearer, Self::ScramSha256, Self::ScramSha512];

    /// The registered name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AwsMskIam => "AWS_MSK_IAM",
            Self::OauthBearer => "OAUTHBEARER",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }

    /// The mechanism of this name, which compares with case as Kafka's does.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| mechanism.name() == name)
    }

    /// Which SCRAM it is, if one.
    #[must_use]
    pub const fn scram(self) -> Option<ScramMechanism> {
        match self {
            Self::ScramSha256 => Some(ScramMechanism::Sha256),
            Self::ScramSha512 => Some(ScramMechanism::Sha512),
            Self::AwsMskIam | Self::OauthBearer => None,
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How tokens travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Bare frames (handshake version 0).
    Bare,
    /// Inside SaslAuthenticate requests (handshake version 1).
    Requests,
}

/// Where the dialogue stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No handshake yet, or the last exchange was completed.
    Idle,
    /// A mechanism was chosen; a token is due.
    Chosen(Mechanism, Framing),
    /// Failed: nothing more is taken.
    Over,
}

/// Why a step was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A mechanism nobody knows or that is not allowed here.
    #[error("the mechanism is not enabled on this listener")]
    UnsupportedMechanism,
    /// A handshake in the middle of an exchange, a token without a handshake, another request during an exchange.
    #[error("the request is out of order in the SASL exchange")]
    IllegalState,
    /// KIP-368: a re-authentication with another mechanism.
    #[error("the mechanism changes at re-authentication")]
    MechanismChanged,
}

/// The dialogue.
#[derive(Clone, Debug)]
pub struct Dialogue {
    state: State,
    /// The mechanism of the first completed exchange.
    fixed: Option<Mechanism>,
}

impl Dialogue {
    /// Nothing said yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: State::Idle, fixed: None }
    }

    /// A SaslHandshake request.
    ///
    /// # Errors
    /// [`Refusal`]; the peer is told and the connection ends.
    pub fn handshake(&mut self, name: &str, version: i16, enabled: &[Mechanism]) -> Result<Mechanism, Refusal> {
        if self.state != State::Idle {
            return self.over(Refusal::IllegalState);
        }
        let Some(mechanism) = Mechanism::from_name(name).filter(|mechanism| enabled.contains(mechanism)) else {
            return self.over(Refusal::UnsupportedMechanism);
        };
        if self.fixed.is_some_and(|fixed| fixed != mechanism) {
            return self.over(Refusal::MechanismChanged);
        }
        // A bare frame cannot be told from a request on a connection that serves requests.
        if version < 1 && self.fixed.is_some() {
            return self.over(Refusal::IllegalState);
        }
        let framing = if version < 1 { Framing::Bare } else { Framing::Requests };
        self.state = State::Chosen(mechanism, framing);
        Ok(mechanism)
    }

    /// A token in this form.
    ///
    /// # Errors
    /// [`Refusal::IllegalState`] without a handshake that announced this form.
    pub fn token(&mut self, framing: Framing) -> Result<Mechanism, Refusal> {
        match self.state {
            State::Chosen(mechanism, announced) if announced == framing => Ok(mechanism),
            _ => self.over(Refusal::IllegalState),
        }
    }

    /// Whether the next frame is a bare token.
    #[must_use]
    pub fn expects_bare_token(&self) -> bool {
        matches!(self.state, State::Chosen(_, Framing::Bare))
    }

    /// Whether an exchange is under way: nothing but tokens may come.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        matches!(self.state, State::Chosen(..))
    }

    /// The exchange was completed by the mechanism.
    pub fn completed(&mut self) {
        if let State::Chosen(mechanism, _) = self.state {
            self.fixed = Some(mechanism);
            self.state = State::Idle;
        }
    }

    /// The exchange failed.
    pub fn failed(&mut self) {
        self.state = State::Over;
    }

    fn over<T>(&mut self, refusal: Refusal) -> Result<T, Refusal> {
        self.state = State::Over;
        Err(refusal)
    }
}

impl Default for Dialogue {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Mechanism] = &Mechanism::ALL;

    #[test]
    fn token_without_a_handshake_is_refused_and_ends_the_dialogue() {
        let mut dialogue = Dialogue::new();
        assert_eq!(dialogue.token(Framing::Requests), Err(Refusal::IllegalState));
        assert_eq!(dialogue.handshake("AWS_MSK_IAM", 1, ALL), Err(Refusal::IllegalState));
    }

    #[test]
    fn mechanism_that_is_not_enabled_is_refused_even_when_it_exists() {
        let enabled = [Mechanism::AwsMskIam];
        assert_eq!(Dialogue::new().handshake("SCRAM-SHA-512", 1, &enabled), Err(Refusal::UnsupportedMechanism));
        assert_eq!(Dialogue::new().handshake("PLAIN", 1, ALL), Err(Refusal::UnsupportedMechanism));
        assert_eq!(Dialogue::new().handshake("aws_msk_iam", 1, ALL), Err(Refusal::UnsupportedMechanism));
    }

    #[test]
    fn second_handshake_in_an_exchange_is_refused() {
        let mut dialogue = Dialogue::new();
        dialogue.handshake("SCRAM-SHA-256", 1, ALL).unwrap();
        assert_eq!(dialogue.handshake("SCRAM-SHA-256", 1, ALL), Err(Refusal::IllegalState));
    }

    #[test]
    fn tokens_come_only_in_the_form_the_handshake_announced() {
        let mut dialogue = Dialogue::new();
        dialogue.handshake("SCRAM-SHA-256", 0, ALL).unwrap();
        assert!(dialogue.expects_bare_token());
        assert_eq!(dialogue.clone().token(Framing::Requests), Err(Refusal::IllegalState));
        assert_eq!(dialogue.token(Framing::Bare), Ok(Mechanism::ScramSha256));
    }

    #[test]
    fn mechanism_is_fixed_by_the_first_completed_exchange() {
        let mut dialogue = Dialogue::new();
        dialogue.handshake("SCRAM-SHA-256", 1, ALL).unwrap();
        dialogue.token(Framing::Requests).unwrap();
        dialogue.completed();
        assert_eq!(dialogue.clone().handshake("SCRAM-SHA-512", 1, ALL), Err(Refusal::MechanismChanged));
        assert_eq!(dialogue.handshake("SCRAM-SHA-256", 1, ALL), Ok(Mechanism::ScramSha256));
    }
}
