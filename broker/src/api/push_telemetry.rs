//! PushTelemetry (72, KIP-714). Nothing is subscribed, so what comes is checked for size and dropped unread.

use kafka_protocol::messages::{PushTelemetryRequest, PushTelemetryResponse};
use schloss_core::ErrorCode;

use super::get_telemetry_subscriptions::{SUBSCRIPTION_ID, TELEMETRY_BYTES_MAX};

/// Answers one request.
pub fn handle(request: &PushTelemetryRequest) -> PushTelemetryResponse {
    let mut response = PushTelemetryResponse::default();
    let too_large = usize::try_from(TELEMETRY_BYTES_MAX).is_ok_and(|max| request.metrics.len() > max);
    let code = if request.client_instance_id.is_nil() {
        ErrorCode::INVALID_REQUEST
    } else if request.subscription_id != SUBSCRIPTION_ID {
        ErrorCode::UNKNOWN_SUBSCRIPTION_ID
    } else if too_large {
        ErrorCode::TELEMETRY_TOO_LARGE
    } else {
        ErrorCode::NONE
    };
    response.error_code = code.code();
    response
}
