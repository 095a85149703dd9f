//! SaslAuthenticate (36): one message of the mechanism, and what came of it (KIP-152, KIP-368).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::SaslAuthenticateResponse;
use kafka_protocol::protocol::StrBytes;
use schloss_authn::sasl::Framing;

use crate::broker::Broker;
use crate::login::door::Door;
use crate::login::exchange::{Exchange, Step};
use crate::login::{Failed, Refused, Told, request_name};
use crate::session::Session;

/// How long a client that connects too fast waits for its refusal.
const TOO_MANY_DELAY: Duration = Duration::from_secs(1);

/// What a message led to.
pub enum Outcome {
    /// The exchange goes on with this message.
    Challenge(Vec<u8>),
    /// The first login was admitted: the answer and the session.
    LoggedIn(Vec<u8>, Box<Session>),
    /// The live session was renewed.
    Renewed(Vec<u8>),
    /// Refused; told, then the connection ends.
    Refused(Refused, &'static str),
}

/// Takes one message. `live` is the session that proves itself again.
pub async fn message(
    broker: &Arc<Broker>,
    door: &Arc<Door>,
    exchange: &mut Exchange,
    framing: Framing,
    message: &[u8],
    live: Option<&Session>,
) -> Outcome {
    let id = request_name();
    let mechanism = match exchange.dialogue.token(framing) {
        Ok(mechanism) => mechanism,
        Err(why) => {
            let refused = broker.refuse(door, &id, Failed::at("order", why, Told::OutOfOrder)).await;
            return Outcome::Refused(refused, "");
        }
    };
    let (answer, proved) = match exchange.message(broker, door, mechanism, &id, message).await {
        Step::Challenge(challenge) => return Outcome::Challenge(challenge),
        Step::Proved(answer, proved) => (answer, Ok(*proved)),
        Step::Failed(failed) => (Vec::new(), Err(failed.by(mechanism.name()))),
    };
    let tenant = match &proved {
        Ok(proved) => Some(proved.tenant),
        Err(failed) => failed.tenant,
    };
    let outcome = match live {
        Some(session) => broker.readmit(session, &id, proved).await.map(|()| None),
        None => {
            let begun = std::mem::take(exchange);
            broker.admit(door, &id, proved, begun).await.map(Some)
        }
    };
    match outcome {
        Ok(Some(session)) => {
            session.exchange.lock().await.dialogue.completed();
            Outcome::LoggedIn(answer, Box::new(session))
        }
        Ok(None) => {
            exchange.dialogue.completed();
            Outcome::Renewed(answer)
        }
        Err(refused) => {
            exchange.dialogue.failed();
            let delay = match refused.told {
                Told::TooManyConnects => TOO_MANY_DELAY,
                _ => broker.login.limits.failed(door.source.ip(), tenant, broker.clock.now_ms()),
            };
            tokio::time::sleep(delay).await;
            Outcome::Refused(refused, mechanism.name())
        }
    }
}

/// The response to a message that was taken. Version 0 has no place for the lifetime.
#[must_use]
pub fn taken(answer: Vec<u8>, lifetime_ms: i64, version: i16) -> SaslAuthenticateResponse {
    let mut response = SaslAuthenticateResponse::default();
    response.auth_bytes = Bytes::from(answer);
    if version >= 1 {
        response.session_lifetime_ms = lifetime_ms;
    }
    response
}

/// The response to one that was refused.
#[must_use]
pub fn refused(refused: &Refused, mechanism: &str) -> SaslAuthenticateResponse {
    let mut response = SaslAuthenticateResponse::default();
    response.error_code = refused.code().code();
    response.error_message = Some(StrBytes::from_string(refused.message(mechanism)));
    response
}
