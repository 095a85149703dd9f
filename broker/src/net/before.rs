//! A connection before its login: ApiVersions, SaslHandshake and SaslAuthenticate, one at a time, and nothing else.
//!
//! In: frames. Out: a [`Session`], with the request that a login by certificate was for.
//!
//! A peer that showed a certificate and asks for anything else without having begun SASL is logged in by its certificate;
//! so is one that shows a certificate and then says nothing, or sends a frame larger than a stranger may.
//!
//! Invariants
//! - At most [`FRAMES_MAX`] frames of at most 64 KiB, each within the handshake's time-out.
//! - Whoever is refused is told in the form of what it asked, then the connection ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::{RequestKind, ResponseKind};
use schloss_authn::sasl::Framing;
use schloss_core::limits::FRAME_BYTES_BEFORE_AUTHENTICATION_MAX;
use schloss_wire::request::{self, API_VERSIONS, ParseError, Request, RequestHeader};
use schloss_wire::response;
use tokio::io::{AsyncWriteExt, WriteHalf};

use super::connection::{End, Incoming, Tls, write_pieces};
use crate::api;
use crate::api::sasl_authenticate::{self as sasl, Outcome};
use crate::broker::Broker;
use crate::dispatch::{Answer, api_name, out_of_order_answer};
use crate::login::door::Door;
use crate::login::exchange::Exchange;
use crate::login::{Failed, Told, request_name};
use crate::session::Session;

/// Frames of one peer before its login. The longest honest dialogue has five.
const FRAMES_MAX: usize = 16;

/// The request behind a login by certificate.
pub(super) enum Begun {
    /// Parsed already, with the length of its frame.
    Request(Box<Request>, usize),
    /// Its length was read.
    Frame(usize),
}

struct Stranger<'a> {
    broker: &'a Arc<Broker>,
    door: &'a Arc<Door>,
    writer: &'a mut WriteHalf<Tls>,
    exchange: Exchange,
    has_begun_sasl: bool,
}

/// Waits for the login.
pub(super) async fn enter(
    broker: &Arc<Broker>,
    door: &Arc<Door>,
    incoming: &mut Incoming,
    writer: &mut WriteHalf<Tls>,
) -> Result<(Session, Option<Begun>), End> {
    let mut stranger = Stranger { broker, door, writer, exchange: Exchange::new(), has_begun_sasl: false };
    if door.listener.mechanisms.is_empty() {
        // Nothing but the certificate can be the login: judge it before a word is said.
        return Ok((stranger.by_certificate().await?, None));
    }
    let patience = broker.config.limits.handshake;
    for _ in 0..FRAMES_MAX {
        let by_certificate = door.takes_certificates() && !stranger.has_begun_sasl;
        let max =
            if by_certificate { broker.config.limits.request_bytes_max } else { FRAME_BYTES_BEFORE_AUTHENTICATION_MAX };
        let length = match incoming.length(patience, max).await {
            Ok(length) => length,
            Err(End::Idle) if by_certificate => return Ok((stranger.by_certificate().await?, None)),
            Err(end) => return Err(end),
        };
        incoming.first = false;
        if length > FRAME_BYTES_BEFORE_AUTHENTICATION_MAX {
            return Ok((stranger.by_certificate().await?, Some(Begun::Frame(length))));
        }
        let frame = incoming.body(length, patience).await?;
        if let Some(entered) = stranger.frame(frame, length).await? {
            return Ok(entered);
        }
    }
    Err(End::Malformed)
}

type Entered = (Session, Option<Begun>);

impl Stranger<'_> {
    async fn by_certificate(&mut self) -> Result<Session, End> {
        let proved = self.broker.by_certificate(self.door);
        let mut exchange = Exchange::new();
        // Who came in by certificate does not go over to SASL.
        exchange.dialogue.failed();
        let admitted = self.broker.admit(self.door, &request_name(), proved, exchange).await;
        admitted.map_err(|_recorded| End::NotIdentified)
    }

    async fn frame(&mut self, frame: Bytes, length: usize) -> Result<Option<Entered>, End> {
        if self.exchange.dialogue.expects_bare_token() {
            return self.bare_token(&frame).await;
        }
        let request = match request::parse(frame) {
            Ok(request) => request,
            Err(ParseError::UnsupportedVersion { api_key: API_VERSIONS, correlation_id, .. }) => {
                let answer = response::refuse_api_versions(correlation_id).map_err(|_| End::Malformed)?;
                self.write(answer).await?;
                return Ok(None);
            }
            Err(error) => {
                tracing::debug!(%error, "request refused before a login");
                return Err(End::Malformed);
            }
        };
        let header = &request.header;
        match &request.body {
            RequestKind::ApiVersions(body) => {
                let (name, version) = (&body.client_software_name, &body.client_software_version);
                let answer = api::api_versions::handle(header.api_version, name, version);
                self.answer(header, answer.into()).await?;
                Ok(None)
            }
            RequestKind::SaslHandshake(body) => {
                self.has_begun_sasl = true;
                let enabled = &self.door.listener.mechanisms;
                let (answer, goes_on) =
                    api::sasl_handshake::handle(&mut self.exchange, &body.mechanism, header.api_version, enabled);
                let why =
                    format!("the mechanism `{}` is not offered here, or was not asked for in its turn", body.mechanism);
                self.answer(header, answer.into()).await?;
                if goes_on { Ok(None) } else { self.out_of_order("mechanism", why).await }
            }
            RequestKind::SaslAuthenticate(body) => {
                self.has_begun_sasl = true;
                let (header, message) = (header.clone(), body.auth_bytes.clone());
                self.token(&header, &message).await
            }
            _ if self.door.takes_certificates() && !self.has_begun_sasl => {
                Ok(Some((self.by_certificate().await?, Some(Begun::Request(Box::new(request), length)))))
            }
            body => {
                let why = format!("{} before a login", api_name(header.api_key));
                if let Answer::Last(pieces) = out_of_order_answer(header, body) {
                    write_pieces(self.writer, pieces, self.broker.config.limits.write).await?;
                }
                self.out_of_order("order", why).await
            }
        }
    }

    async fn token(&mut self, header: &RequestHeader, message: &[u8]) -> Result<Option<Entered>, End> {
        let outcome = sasl::message(self.broker, self.door, &mut self.exchange, Framing::Requests, message, None).await;
        let version = header.api_version;
        match outcome {
            Outcome::Challenge(challenge) => {
                self.answer(header, sasl::taken(challenge, 0, version).into()).await?;
                Ok(None)
            }
            Outcome::LoggedIn(answer, session) => {
                let lifetime = session.identity().lifetime_ms(self.broker.clock.now_ms());
                self.answer(header, sasl::taken(answer, lifetime, version).into()).await?;
                Ok(Some((*session, None)))
            }
            Outcome::Refused(refused, mechanism) => {
                self.answer(header, sasl::refused(&refused, mechanism).into()).await?;
                self.end().await
            }
            Outcome::Renewed(_) => Err(End::Malformed),
        }
    }

    /// Handshake version 0: tokens without a header, in frames of their own; a refusal is an end without a word.
    async fn bare_token(&mut self, message: &[u8]) -> Result<Option<Entered>, End> {
        let outcome = sasl::message(self.broker, self.door, &mut self.exchange, Framing::Bare, message, None).await;
        match outcome {
            Outcome::Challenge(challenge) => {
                self.write(framed(&challenge)?).await?;
                Ok(None)
            }
            Outcome::LoggedIn(answer, session) => {
                self.write(framed(&answer)?).await?;
                Ok(Some((*session, None)))
            }
            Outcome::Refused(..) | Outcome::Renewed(_) => self.end().await,
        }
    }

    async fn answer(&mut self, header: &RequestHeader, body: ResponseKind) -> Result<(), End> {
        let frame = response::encode(header.api_key, header.api_version, header.correlation_id, &body);
        self.write(frame.map_err(|_| End::Malformed)?).await
    }

    async fn write(&mut self, frame: Bytes) -> Result<(), End> {
        write_pieces(self.writer, vec![frame], self.broker.config.limits.write).await
    }

    /// Records a refusal whose answer has no room for a request id, and ends.
    async fn out_of_order(&mut self, step: &'static str, why: String) -> Result<Option<Entered>, End> {
        self.broker.refuse(self.door, &request_name(), Failed::at(step, why, Told::OutOfOrder)).await;
        self.end().await
    }

    /// Says goodbye in TLS, so that the answer before it is read.
    async fn end(&mut self) -> Result<Option<Entered>, End> {
        let patience: Duration = self.broker.config.limits.write;
        drop(tokio::time::timeout(patience, self.writer.shutdown()).await);
        Err(End::NotIdentified)
    }
}

fn framed(message: &[u8]) -> Result<Bytes, End> {
    let length = i32::try_from(message.len()).map_err(|_| End::Malformed)?;
    Ok(Bytes::from([&length.to_be_bytes()[..], message].concat()))
}
