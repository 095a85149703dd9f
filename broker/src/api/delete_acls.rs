//! DeleteAcls (31): removes every entry that a filter fits. Rendered IAM policies are no entries and stay.

use std::collections::BTreeSet;

use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::delete_acls_response::{DeleteAclsFilterResult, DeleteAclsMatchingAcl};
use kafka_protocol::messages::{DeleteAclsRequest, DeleteAclsResponse};
use schloss_authz::acl::AclEntry;
use schloss_authz::{ResourceRef, can};
use schloss_core::ErrorCode;

use super::wire_text;
use crate::acls::{self, AclFilter, AclsError};
use crate::authorize::Call;

/// Answers one request.
pub async fn handle(call: &Call, request: DeleteAclsRequest) -> DeleteAclsResponse {
    let mut response = DeleteAclsResponse::default();
    let known = call.session.tenant.acls.entries();
    let found: Vec<Result<Vec<AclEntry>, AclsError>> =
        request.filters.iter().map(|filter| Ok(fitting(&known, &read(filter)?))).collect();
    let gone: BTreeSet<AclEntry> = found.iter().flatten().flatten().cloned().collect();
    let details = gone.iter().map(|entry| ("acl", acls::describe(entry))).collect();
    let changed = match call.administer_about(can::AlterCluster, ResourceRef::CLUSTER, details).await {
        Err(_) => Err((ErrorCode::CLUSTER_AUTHORIZATION_FAILED, "Authorization failed.".to_owned())),
        Ok(_permit) => call
            .session
            .tenant
            .acls
            .remove(&gone, call.broker.tenancy.policies())
            .await
            .map_err(|error| (error.code(), error.to_string())),
    };
    response.filter_results = found.iter().map(|one| result(one, &changed)).collect();
    response
}

fn read(filter: &DeleteAclsFilter) -> Result<AclFilter, AclsError> {
    AclFilter::of_wire(
        (filter.resource_type_filter, filter.resource_name_filter.as_deref()),
        filter.pattern_type_filter,
        (filter.principal_filter.as_deref(), filter.host_filter.as_deref()),
        (filter.operation, filter.permission_type),
    )
}

fn fitting(known: &[AclEntry], filter: &AclFilter) -> Vec<AclEntry> {
    known.iter().filter(|entry| filter.fits(entry)).cloned().collect()
}

fn result(one: &Result<Vec<AclEntry>, AclsError>, changed: &Result<(), (ErrorCode, String)>) -> DeleteAclsFilterResult {
    let mut result = DeleteAclsFilterResult::default();
    // SECURITY: without the permission nothing of the table is told, not even how many entries would fit.
    match (changed, one) {
        (Err((code, why)), _) => {
            result.error_code = code.code();
            result.error_message = Some(wire_text(why));
        }
        (Ok(()), Err(error)) => {
            result.error_code = error.code().code();
            result.error_message = Some(wire_text(&error.to_string()));
        }
        (Ok(()), Ok(entries)) => result.matching_acls = entries.iter().map(told).collect(),
    }
    result
}

fn told(entry: &AclEntry) -> DeleteAclsMatchingAcl {
    let mut told = DeleteAclsMatchingAcl::default();
    told.resource_type = acls::resource_code(entry.kind);
    told.resource_name = wire_text(&entry.name);
    told.pattern_type = acls::pattern_code(entry.pattern);
    told.principal = wire_text(&entry.principal);
    told.host = wire_text(&entry.host);
    told.operation = acls::operation_code(entry.operation);
    told.permission_type = acls::permission_code(entry.denies);
    told
}
