//! The operator door: commands that need the running broker, over the admin listener.
//!
//! In: `POST /operator/v1/<noun>/<verb>` with a JSON body, from a peer that proved an operator's client certificate. Out: JSON Lines,
//! any number of `{"progress": {"done": n, "of": m}}` and one last `{"result": …}` or `{"error": {"code", "message", "next"}}`.
//!
//! Invariants
//! - Nobody without a certificate of the CA in `admin.client.ca.file` gets further than [`call`].
//! - Every call is an Administration event, durable before the verb runs; its end is a second one when it failed.
//!
//! Must not: hand out a tenant's records, or a secret that was not made by this very call.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use schloss_audit::{Class, Event, Verdict};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::broker::Broker;
use crate::login::request_name;
use crate::operate::{OperatorCall, OperatorRefusal, verbs};

/// A command's body; the largest carry a policy document.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Lines of progress waiting for a slow reader; the work waits with them.
const LINES_WAITING_MAX: usize = 64;

/// Who is at the other end of an admin connection: the common name of an operator's certificate, if one was proved.
#[derive(Clone, Debug)]
pub(super) struct Peer(pub Option<Arc<str>>);

pub(super) fn routes() -> Router<Arc<Broker>> {
    Router::new()
        .route("/operator/v1/{noun}/{verb}", post(call))
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
}

async fn call(
    State(broker): State<Arc<Broker>>,
    Extension(peer): Extension<Peer>,
    Path((noun, verb)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    let Some(operator) = peer.0 else {
        return refused(StatusCode::UNAUTHORIZED, "NotAnOperator", "this needs an operator's client certificate");
    };
    let Some(verb) = verbs::find(&noun, &verb) else {
        return refused(StatusCode::NOT_FOUND, "NoSuchCommand", "this broker knows no such command");
    };
    let body = if body.is_empty() { Ok(json!({})) } else { serde_json::from_slice(&body) };
    let Ok(body) = body else {
        return refused(StatusCode::BAD_REQUEST, "MalformedBody", "the body is not JSON");
    };
    let (lines, mut waiting) = mpsc::channel(LINES_WAITING_MAX);
    let call = OperatorCall::new(broker, operator, request_name(), body, lines);
    // Detached: a command that was begun is ended, whether or not its operator still listens.
    tokio::spawn(run(call, verb));
    let lines = futures::stream::poll_fn(move |context| {
        waiting.poll_recv(context).map(|line| line.map(Ok::<_, std::io::Error>))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

async fn run(call: OperatorCall, verb: &'static verbs::Verb) {
    let answer = match record(&call, verb, Verdict::Allowed, None).await {
        Ok(()) => (verb.run)(&call).await,
        Err(refusal) => Err(refusal),
    };
    let last = match answer {
        Ok(result) => json!({ "result": result, "request_id": call.request_id }),
        Err(refusal) => {
            if let Err(unrecorded) = record(&call, verb, Verdict::Failed, Some(refusal.code)).await {
                tracing::error!(
                    request_id = call.request_id,
                    code = unrecorded.code,
                    "a failed command could not be recorded"
                );
            }
            json!({ "error": { "code": refusal.code, "message": refusal.message, "next": refusal.next }, "request_id": call.request_id })
        }
    };
    call.end(&last).await;
}

/// Not recorded, not done.
async fn record(
    call: &OperatorCall,
    verb: &verbs::Verb,
    verdict: Verdict,
    reason: Option<&str>,
) -> Result<(), OperatorRefusal> {
    let tenant = call.tenant().ok();
    let mut event = Event::new(tenant, Class::Administration, verdict, format!("schloss:{}:{}", verb.noun, verb.verb));
    event.principal = Some(format!("operator:{}", call.operator));
    event.request_id = Some(call.request_id.clone());
    event.reason = reason.map(str::to_owned);
    for key in verbs::TOLD {
        if let Some(value) = call.body.get(key).and_then(Value::as_str) {
            event.details.push((key, value.to_owned()));
        }
    }
    call.broker.audit.record(event).await.map_err(|error| {
        OperatorRefusal::new("NotRecorded", error, "the audit log takes no event, so nothing is done; free its disk")
    })
}

fn refused(status: StatusCode, code: &'static str, message: &'static str) -> Response {
    (status, Json(json!({ "error": { "code": code, "message": message } }))).into_response()
}
