//! GetTelemetrySubscriptions (71, KIP-714). Nothing is subscribed: clients are told to push nothing and to ask again
//! in five minutes.

use kafka_protocol::messages::{GetTelemetrySubscriptionsRequest, GetTelemetrySubscriptionsResponse};

/// How long until the client asks again, milliseconds (Kafka's default interval).
const PUSH_INTERVAL_MS: i32 = 300_000;
/// Kafka's `telemetry.max.bytes`.
pub const TELEMETRY_BYTES_MAX: i32 = 1_048_576;
/// The id of the empty subscription.
pub const SUBSCRIPTION_ID: i32 = 1;

/// Answers one request.
pub fn handle(request: &GetTelemetrySubscriptionsRequest) -> GetTelemetrySubscriptionsResponse {
    let mut response = GetTelemetrySubscriptionsResponse::default();
    response.client_instance_id =
        if request.client_instance_id.is_nil() { uuid::Uuid::new_v4() } else { request.client_instance_id };
    response.subscription_id = SUBSCRIPTION_ID;
    response.accepted_compression_types = vec![4, 3, 1, 2];
    response.push_interval_ms = PUSH_INTERVAL_MS;
    response.telemetry_max_bytes = TELEMETRY_BYTES_MAX;
    response.delta_temporality = true;
    response
}
