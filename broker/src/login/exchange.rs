//! One connection's SASL dialogue: which mechanism, which message is due, what came of it.
//!
//! In: tokens as they come, bare or in SaslAuthenticate. Out: [`Step`].

use std::sync::Arc;

use schloss_authn::MESSAGE_BYTES_MAX;
use schloss_authn::sasl::{Dialogue, Mechanism};

use super::door::Door;
use super::scram::ScramStage;
use super::{Failed, Proved, Told, iam, oauth, scram};
use crate::broker::Broker;

/// Where the exchange of a connection stands.
pub struct Exchange {
    /// Which message may come.
    pub dialogue: Dialogue,
    stage: Stage,
}

enum Stage {
    /// The first message is due.
    First,
    /// SCRAM's final message is due.
    Scram(Box<ScramStage>),
    /// RFC 7628: the client acknowledges the error.
    BearerRefused(Box<Failed>),
}

/// What a message led to.
pub enum Step {
    /// The server's next message; the exchange goes on.
    Challenge(Vec<u8>),
    /// The mechanism is content. The answer is sent only if the login is admitted.
    Proved(Vec<u8>, Box<Proved>),
    /// The exchange is over.
    Failed(Failed),
}

impl Exchange {
    /// Nothing said yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { dialogue: Dialogue::new(), stage: Stage::First }
    }

    /// Takes one message of the mechanism that was chosen.
    pub async fn message(
        &mut self,
        broker: &Arc<Broker>,
        door: &Door,
        mechanism: Mechanism,
        request_id: &str,
        message: &[u8],
    ) -> Step {
        if message.len() > MESSAGE_BYTES_MAX {
            return Step::Failed(Failed::at("message", "the message is longer than its bound", Told::AccessDenied));
        }
        let stage = std::mem::replace(&mut self.stage, Stage::First);
        match (mechanism, stage) {
            (Mechanism::AwsMskIam, _) => iam::login(broker, door, request_id, message),
            (Mechanism::ScramSha256 | Mechanism::ScramSha512, Stage::Scram(stage)) => {
                scram::finish(broker, *stage, message)
            }
            (Mechanism::ScramSha256 | Mechanism::ScramSha512, _) => {
                match scram::begin(broker, door, mechanism, message) {
                    Ok((challenge, stage)) => {
                        self.stage = Stage::Scram(Box::new(stage));
                        Step::Challenge(challenge)
                    }
                    Err(failed) => Step::Failed(failed),
                }
            }
            (Mechanism::OauthBearer, Stage::BearerRefused(failed)) => Step::Failed(*failed),
            (Mechanism::OauthBearer, _) => match oauth::login(broker, door, message).await {
                Ok(proved) => Step::Proved(Vec::new(), Box::new(proved)),
                Err(failed) if failed.told == Told::InvalidToken => {
                    self.stage = Stage::BearerRefused(Box::new(failed));
                    Step::Challenge(schloss_authn::oauth::INVALID_TOKEN.to_vec())
                }
                Err(failed) => Step::Failed(failed),
            },
        }
    }
}

impl Default for Exchange {
    fn default() -> Self {
        Self::new()
    }
}
