//! ApiVersions (18): what this broker speaks.
//!
//! SPEC: KIP-511: a version this broker does not know is answered in version 0 with UNSUPPORTED_VERSION and the range.

use kafka_protocol::messages::ApiVersionsResponse;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use schloss_core::ErrorCode;
use schloss_wire::versions;

/// The client's software must name itself in Kafka's pattern, when it does so at all (version 3 and up).
fn is_software_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.bytes().all(inner) && ends(text.as_bytes().first()) && ends(text.as_bytes().last())
}

/// Answers one request.
#[must_use]
pub fn handle(version: i16, software_name: &str, software_version: &str) -> ApiVersionsResponse {
    let mut response = ApiVersionsResponse::default();
    if version >= 3 && !(is_software_name(software_name) && is_software_name(software_version)) {
        response.error_code = ErrorCode::INVALID_REQUEST.code();
        return response;
    }
    response.api_keys = versions::advertised().iter().map(|range| api(range.key, range.min, range.max)).collect();
    response.finalized_features_epoch = -1;
    response
}

fn api(key: i16, min: i16, max: i16) -> ApiVersion {
    let mut api = ApiVersion::default();
    api.api_key = key;
    api.min_version = min;
    api.max_version = max;
    api
}
