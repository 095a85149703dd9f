//! DescribeClientQuotas (48, KIP-546): which quotas were set. None can be set yet, so there are none; `kafka-configs --describe`
//! of users asks this before it asks for SCRAM credentials.

use kafka_protocol::messages::{DescribeClientQuotasRequest, DescribeClientQuotasResponse};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_core::ErrorCode;

use crate::authorize::Call;

/// Answers one request.
pub fn handle(call: &Call, _filter: &DescribeClientQuotasRequest) -> DescribeClientQuotasResponse {
    if call.allow(can::DescribeClusterDynamicConfiguration, ResourceRef::CLUSTER).is_err() {
        let code = ErrorCode::CLUSTER_AUTHORIZATION_FAILED.code();
        return DescribeClientQuotasResponse::default().with_error_code(code).with_entries(None);
    }
    DescribeClientQuotasResponse::default().with_entries(Some(Vec::new()))
}
