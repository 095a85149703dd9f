//! The STS's HTTP side: `POST /` for AWS SDKs, and the one-time tokens of first administrators.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use schloss_audit::{Class, Event, Verdict};
use schloss_authn::signed_request::HttpRequest;
use serde_json::json;

use super::Source;
use crate::broker::Broker;
use crate::login::request_name;
use crate::sts;

/// Where a one-time token is redeemed.
const REDEEM: &str = "/v1/bootstrap-token/redeem";

pub(super) fn routes() -> Router<Arc<Broker>> {
    Router::new().route("/", post(query)).route(REDEEM, post(redeem)).layer(DefaultBodyLimit::max(sts::BODY_BYTES_MAX))
}

async fn query(
    State(broker): State<Arc<Broker>>,
    Extension(Source(source)): Extension<Source>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    // A value that is no text is left out; if it was signed, the signature cannot match.
    let headers: Vec<(&str, &str)> =
        headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect();
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    let request = HttpRequest { method: method.as_str(), path, query, headers: &headers, body: &body };
    let reply = sts::answer(&broker, &request, source).await;
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/xml".to_owned()),
        (header::CACHE_CONTROL.as_str(), "no-store".to_owned()),
        ("x-amzn-requestid", reply.request_id),
    ];
    (status, headers, reply.body).into_response()
}

/// Turns a one-time token into an access key. Every failure is answered alike; why is in the audit log.
async fn redeem(
    State(broker): State<Arc<Broker>>,
    Extension(Source(source)): Extension<Source>,
    Json(body): Json<serde_json::Value>,
) -> Response {
    let request_id = request_name();
    let refused = |status: StatusCode, code: &str, message: &str| {
        (status, Json(json!({ "error": { "code": code, "message": message }, "request_id": request_id })))
            .into_response()
    };
    if !broker.sts_limits.admits(source, broker.clock.monotonic()) {
        return refused(StatusCode::TOO_MANY_REQUESTS, "Throttling", "rate exceeded");
    }
    let token = body.get("token").and_then(serde_json::Value::as_str).unwrap_or_default();
    let redeemed = broker.credentials.redeem(token).await;
    let (tenant, verdict) = match &redeemed {
        Ok((tenant, _, _)) => (Some(*tenant), Verdict::Allowed),
        Err(_) => (None, Verdict::Denied),
    };
    let mut event = Event::new(tenant, Class::Authentication, verdict, "schloss:RedeemBootstrapToken");
    event.request_id = Some(request_id.clone());
    event.source = Some(source);
    match &redeemed {
        Ok((_, user, key)) => {
            event.principal = Some(user.to_string());
            event.details.push(("access_key_id", key.id.to_string()));
        }
        Err(error) => event.reason = Some(error.to_string()),
    }
    if broker.audit.record(event).await.is_err() {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "NotRecorded", "the request could not be processed");
    }
    match redeemed {
        Ok((_, user, key)) => Json(crate::operate::credentials::shown_once(&user, &key)).into_response(),
        Err(_) => refused(StatusCode::FORBIDDEN, "InvalidToken", "the token is unknown, redeemed or expired"),
    }
}
