//! CreateAcls (30): entries for Kafka principals. IAM users and roles are judged by their policies alone.

use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::create_acls_response::AclCreationResult;
use kafka_protocol::messages::{CreateAclsRequest, CreateAclsResponse};
use schloss_authz::acl::AclEntry;
use schloss_authz::{ResourceRef, can};
use schloss_core::ErrorCode;

use super::wire_text;
use crate::acls::{self, AclsError};
use crate::authorize::Call;

/// Answers one request.
pub async fn handle(call: &Call, request: CreateAclsRequest) -> CreateAclsResponse {
    let mut response = CreateAclsResponse::default();
    let asked: Vec<Result<AclEntry, AclsError>> = request.creations.iter().map(read).collect();
    let good: Vec<AclEntry> = asked.iter().filter_map(|one| one.as_ref().ok().cloned()).collect();
    let details = good.iter().map(|entry| ("acl", acls::describe(entry))).collect();
    let changed = match call.administer_about(can::AlterCluster, ResourceRef::CLUSTER, details).await {
        Err(_) => Err((ErrorCode::CLUSTER_AUTHORIZATION_FAILED, "Authorization failed.".to_owned())),
        Ok(_permit) => call
            .session
            .tenant
            .acls
            .add(good, call.broker.tenancy.policies())
            .await
            .map_err(|error| (error.code(), error.to_string())),
    };
    response.results = asked.iter().map(|one| result(one, &changed)).collect();
    response
}

fn read(asked: &AclCreation) -> Result<AclEntry, AclsError> {
    acls::entry(
        (asked.resource_type, asked.resource_name.to_string()),
        asked.resource_pattern_type,
        (asked.principal.to_string(), asked.host.to_string()),
        (asked.operation, asked.permission_type),
    )
}

fn result(one: &Result<AclEntry, AclsError>, changed: &Result<(), (ErrorCode, String)>) -> AclCreationResult {
    let mut result = AclCreationResult::default();
    let failed = match (changed, one) {
        (Err((code, why)), _) => Some((*code, why.clone())),
        (Ok(()), Err(error)) => Some((error.code(), error.to_string())),
        (Ok(()), Ok(_)) => None,
    };
    if let Some((code, why)) = failed {
        result.error_code = code.code();
        result.error_message = Some(wire_text(&why));
    }
    result
}
