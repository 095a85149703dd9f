//! From a frame to its answer: decode within bounds, find the API's handler, encode.
//!
//! The match below is the list of what this broker speaks; an API without an arm is not advertised (a test compares).

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use kafka_protocol::messages::{ApiKey, RequestKind, ResponseKind, SaslAuthenticateRequest, SaslHandshakeRequest};
use schloss_authn::sasl::Framing;
use schloss_wire::request::{self, API_VERSIONS, ParseError, Request, RequestHeader};
use schloss_wire::response;

use crate::api;
use crate::authorize::Call;
use crate::broker::Broker;
use crate::session::Session;

/// An answer as the socket takes it: length prefix included, records uncopied.
pub type Pieces = Vec<Bytes>;

/// What becomes of a request.
pub enum Answer {
    /// Nothing is sent (produce with acks=0).
    Silent,
    /// Sent as it is.
    Now(Pieces),
    /// Sent when it is ready; requests behind it are already being worked on.
    Later(BoxFuture<'static, Option<Pieces>>),
    /// Sent, then the connection is closed.
    Last(Pieces),
    /// The connection is closed.
    Close,
}

/// An answer and the API it belongs to.
pub struct Dispatched {
    /// The answer.
    pub answer: Answer,
    /// Kafka's name of the API.
    pub api: &'static str,
}

/// The frame was no request this broker can answer; the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Handles one frame.
///
/// # Errors
/// [`Malformed`].
pub async fn request(broker: &Arc<Broker>, session: &Arc<Session>, frame: Bytes) -> Result<Dispatched, Malformed> {
    let Request { header, body } = match request::parse(frame) {
        Ok(request) => request,
        Err(ParseError::UnsupportedVersion { api_key: API_VERSIONS, correlation_id, .. }) => {
            let answer = response::refuse_api_versions(correlation_id).map_err(|_| Malformed)?;
            return Ok(Dispatched { answer: Answer::Now(vec![answer]), api: "ApiVersions" });
        }
        Err(error) => {
            tracing::debug!(%error, "request refused");
            return Err(Malformed);
        }
    };
    serve(broker, session, Request { header, body }).await
}

/// Handles one request that was parsed.
///
/// # Errors
/// [`Malformed`].
pub async fn serve(
    broker: &Arc<Broker>,
    session: &Arc<Session>,
    Request { header, body }: Request,
) -> Result<Dispatched, Malformed> {
    broker.rebind(session);
    let api = api_name(header.api_key);
    if !is_sasl(&body) && session.identity().until_ms.is_some_and(|until| broker.clock.now_ms() >= until) {
        // KIP-368: a request after the session's lifetime closes the connection.
        return Ok(Dispatched { answer: Answer::Close, api });
    }
    let out_of_order = !is_sasl(&body) && session.exchange.lock().await.dialogue.is_under_way();
    if out_of_order {
        // KIP-368: during a re-authentication nothing but its own requests may come.
        return Ok(Dispatched { answer: out_of_order_answer(&header, &body), api });
    }
    tracing::trace!(connection = %session.id, api, version = header.api_version, correlation = header.correlation_id, "request");
    let call = Call::new(Arc::clone(broker), Arc::clone(session), header, api, broker.next_request());
    let answer = answer(Arc::new(call), body).await?;
    Ok(Dispatched { answer, api })
}

fn is_sasl(body: &RequestKind) -> bool {
    matches!(body, RequestKind::SaslHandshake(_) | RequestKind::SaslAuthenticate(_) | RequestKind::ApiVersions(_))
}

/// ILLEGAL_SASL_STATE in the request's own form, or nothing; then the connection ends.
#[must_use]
pub fn out_of_order_answer(header: &RequestHeader, body: &RequestKind) -> Answer {
    let answer = api::illegal_sasl_state::answer(body);
    let encoded = answer
        .and_then(|answer| response::encode(header.api_key, header.api_version, header.correlation_id, &answer).ok());
    encoded.map_or(Answer::Close, |frame| Answer::Last(vec![frame]))
}

/// Kafka's name of an API, for metrics and the audit log: one of a fixed set.
pub(crate) fn api_name(key: i16) -> &'static str {
    use std::collections::HashMap;
    use std::sync::LazyLock;
    static NAMES: LazyLock<HashMap<i16, &'static str>> = LazyLock::new(|| {
        let name = |key: i16| ApiKey::try_from(key).map_or("Unknown", |api| &*format!("{api:?}").leak());
        schloss_wire::versions::advertised().iter().map(|range| (range.key, name(range.key))).collect()
    });
    NAMES.get(&key).copied().unwrap_or("Unknown")
}

/// Records what was refused, then encodes.
pub async fn finish(call: &Call, answer: ResponseKind) -> Option<Pieces> {
    call.settle().await.ok()?;
    let header: &RequestHeader = &call.header;
    match response::encode(header.api_key, header.api_version, header.correlation_id, &answer) {
        Ok(whole) => Some(vec![whole]),
        Err(error) => {
            // Our own mistake: an answer that its version cannot carry.
            tracing::error!(api = header.api_key, version = header.api_version, %error, "answer could not be encoded");
            None
        }
    }
}

async fn answer(call: Arc<Call>, body: RequestKind) -> Result<Answer, Malformed> {
    macro_rules! now {
        ($answer:expr) => {{
            let answer = $answer;
            finish(&call, answer.into()).await
        }};
    }
    let pieces = match body {
        RequestKind::Produce(request) => return Ok(api::produce::handle(call, request).await),
        RequestKind::Fetch(request) => return Ok(Answer::Later(Box::pin(api::fetch::handle(call, request)))),
        RequestKind::JoinGroup(request) => {
            return Ok(Answer::Later(later(call, |call| async move { api::join_group::handle(&call, request).await })));
        }
        RequestKind::SyncGroup(request) => {
            return Ok(Answer::Later(later(call, |call| async move { api::sync_group::handle(&call, request).await })));
        }
        RequestKind::ApiVersions(request) => now!(api::api_versions::handle(
            call.header.api_version,
            &request.client_software_name,
            &request.client_software_version
        )),
        RequestKind::Metadata(request) => now!(api::metadata::handle(&call, request).await),
        RequestKind::DescribeCluster(request) => now!(api::describe_cluster::handle(&call, &request)),
        RequestKind::DescribeTopicPartitions(request) => now!(api::describe_topic_partitions::handle(&call, &request)),
        RequestKind::ListOffsets(request) => now!(api::list_offsets::handle(&call, request).await),
        RequestKind::OffsetForLeaderEpoch(request) => now!(api::offset_for_leader_epoch::handle(&call, &request)),
        RequestKind::InitProducerId(request) => now!(api::init_producer_id::handle(&call, request).await),
        RequestKind::CreateTopics(request) => now!(api::create_topics::handle(&call, request).await),
        RequestKind::DeleteTopics(request) => now!(api::delete_topics::handle(&call, request).await),
        RequestKind::CreatePartitions(request) => now!(api::create_partitions::handle(&call, request).await),
        RequestKind::DeleteRecords(request) => now!(api::delete_records::handle(&call, request).await),
        RequestKind::DescribeConfigs(request) => now!(api::describe_configs::handle(&call, &request)),
        RequestKind::AlterConfigs(request) => now!(api::alter_configs::handle(&call, request).await),
        RequestKind::IncrementalAlterConfigs(request) => {
            now!(api::incremental_alter_configs::handle(&call, request).await)
        }
        RequestKind::DescribeAcls(request) => now!(api::describe_acls::handle(&call, &request)),
        RequestKind::CreateAcls(request) => now!(api::create_acls::handle(&call, request).await),
        RequestKind::DeleteAcls(request) => now!(api::delete_acls::handle(&call, request).await),
        RequestKind::DescribeLogDirs(request) => now!(api::describe_log_dirs::handle(&call, &request)),
        RequestKind::FindCoordinator(request) => now!(api::find_coordinator::handle(&call, &request)),
        RequestKind::Heartbeat(request) => now!(api::heartbeat::handle(&call, request).await),
        RequestKind::LeaveGroup(request) => now!(api::leave_group::handle(&call, request).await),
        RequestKind::OffsetCommit(request) => now!(api::offset_commit::handle(&call, request).await),
        RequestKind::OffsetFetch(request) => now!(api::offset_fetch::handle(&call, request).await),
        RequestKind::OffsetDelete(request) => now!(api::offset_delete::handle(&call, request).await),
        RequestKind::DescribeGroups(request) => now!(api::describe_groups::handle(&call, &request)),
        RequestKind::ListGroups(request) => now!(api::list_groups::handle(&call, &request)),
        RequestKind::DeleteGroups(request) => now!(api::delete_groups::handle(&call, request).await),
        RequestKind::CreateDelegationToken(request) => {
            now!(api::create_delegation_token::handle(&call, request).await)
        }
        RequestKind::RenewDelegationToken(request) => now!(api::renew_delegation_token::handle(&call, request).await),
        RequestKind::ExpireDelegationToken(request) => now!(api::expire_delegation_token::handle(&call, request).await),
        RequestKind::DescribeDelegationToken(request) => now!(api::describe_delegation_token::handle(&call, &request)),
        RequestKind::DescribeClientQuotas(request) => now!(api::describe_client_quotas::handle(&call, &request)),
        RequestKind::DescribeUserScramCredentials(request) => {
            now!(api::describe_user_scram_credentials::handle(&call, &request))
        }
        RequestKind::AlterUserScramCredentials(request) => {
            now!(api::alter_user_scram_credentials::handle(&call, request).await)
        }
        RequestKind::SaslHandshake(request) => return Ok(handshake(&call, &request).await),
        RequestKind::SaslAuthenticate(request) => return Ok(authenticate(&call, &request).await),
        RequestKind::GetTelemetrySubscriptions(request) => now!(api::get_telemetry_subscriptions::handle(&request)),
        RequestKind::PushTelemetry(request) => now!(api::push_telemetry::handle(&request)),
        _ => None,
    };
    Ok(pieces.map_or(Answer::Close, Answer::Now))
}

/// KIP-368: the first step of a re-authentication on a live connection.
async fn handshake(call: &Call, request: &SaslHandshakeRequest) -> Answer {
    let session = &call.session;
    let enabled = &session.door.listener.mechanisms;
    let mut exchange = session.exchange.lock().await;
    let (answer, goes_on) =
        api::sasl_handshake::handle(&mut exchange, &request.mechanism, call.header.api_version, enabled);
    last_or_now(finish(call, answer.into()).await, goes_on)
}

/// KIP-368: the further steps.
async fn authenticate(call: &Call, request: &SaslAuthenticateRequest) -> Answer {
    use api::sasl_authenticate::{self as sasl, Outcome};
    let session = &call.session;
    let mut exchange = session.exchange.lock().await;
    let message = &request.auth_bytes;
    let outcome =
        sasl::message(&call.broker, &session.door, &mut exchange, Framing::Requests, message, Some(session)).await;
    let version = call.header.api_version;
    let (answer, goes_on) = match outcome {
        Outcome::Challenge(challenge) => (sasl::taken(challenge, 0, version), true),
        Outcome::Renewed(answer) => {
            let lifetime = session.identity().lifetime_ms(call.broker.clock.now_ms());
            (sasl::taken(answer, lifetime, version), true)
        }
        Outcome::Refused(refused, mechanism) => (sasl::refused(&refused, mechanism), false),
        // A live connection opens no second session.
        Outcome::LoggedIn(..) => return Answer::Close,
    };
    last_or_now(finish(call, answer.into()).await, goes_on)
}

fn last_or_now(pieces: Option<Pieces>, goes_on: bool) -> Answer {
    match pieces {
        Some(pieces) if goes_on => Answer::Now(pieces),
        Some(pieces) => Answer::Last(pieces),
        None => Answer::Close,
    }
}

/// Runs a handler to its first wait at once, so that effects keep the order of requests, and the rest when it is due.
fn later<T, F>(call: Arc<Call>, handler: impl FnOnce(Arc<Call>) -> F) -> BoxFuture<'static, Option<Pieces>>
where
    T: Into<ResponseKind> + Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let running = tokio::spawn(handler(Arc::clone(&call)));
    Box::pin(async move {
        let answer = running.await.ok()?;
        finish(&call, answer.into()).await
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SOURCE: &str = include_str!("dispatch.rs");

    fn snake(name: &str) -> String {
        let mut text = String::new();
        for (n, letter) in name.chars().enumerate() {
            if n > 0 && letter.is_ascii_uppercase() {
                text.push('_');
            }
            text.push(letter.to_ascii_lowercase());
        }
        text
    }

    fn advertised() -> impl Iterator<Item = (i16, &'static str)> {
        schloss_wire::versions::advertised().iter().map(|range| (range.key, api_name(range.key)))
    }

    #[test]
    fn every_advertised_api_has_a_handler_and_every_handler_is_advertised() {
        let known: BTreeSet<String> =
            advertised().map(|(_, name)| format!("RequestKind::{name}(request) =>")).collect();
        for arm in &known {
            assert!(SOURCE.contains(arm.as_str()), "{arm}");
        }
        let arms = SOURCE.lines().map(str::trim).filter(|line| line.starts_with("RequestKind::")).count();
        assert_eq!(arms, known.len());
    }

    #[test]
    fn every_handler_asks_for_every_action_of_the_reviewed_matrix() {
        for (key, name) in advertised() {
            let path = format!("{}/src/api/{}.rs", env!("CARGO_MANIFEST_DIR"), snake(name));
            let mut source = std::fs::read_to_string(&path).unwrap();
            if name == "IncrementalAlterConfigs" {
                // Judged by what it shares with AlterConfigs.
                source.push_str(include_str!("api/alter_configs.rs"));
            }
            let api = schloss_authz::matrix::api(key).unwrap_or_else(|| panic!("{name} has no row in the matrix"));
            for action in api.checks.iter().filter_map(|check| check.action) {
                let word = action.name();
                // Two-phase commit belongs to transactions, which are not served.
                if word == "TwoPhaseCommit" {
                    continue;
                }
                assert!(
                    source.contains(&format!("can::{word}")) || source.contains(&format!("Action::{word}")),
                    "{name} never asks for {word}"
                );
            }
        }
    }
}
