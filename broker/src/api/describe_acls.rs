//! DescribeAcls (29): the tenant's ACL entries, and its IAM policies as far as entries can say the same.

use std::collections::BTreeMap;

use kafka_protocol::messages::describe_acls_response::{AclDescription, DescribeAclsResource};
use kafka_protocol::messages::{DescribeAclsRequest, DescribeAclsResponse};
use schloss_authz::acl::{self, AclEntry};
use schloss_authz::{ResourceRef, can};
use schloss_core::ErrorCode;

use super::wire_text;
use crate::acls::{self, AclFilter};
use crate::authorize::Call;

/// Answers one request.
pub fn handle(call: &Call, request: &DescribeAclsRequest) -> DescribeAclsResponse {
    let mut response = DescribeAclsResponse::default();
    if call.allow(can::DescribeCluster, ResourceRef::CLUSTER).is_err() {
        response.error_code = ErrorCode::CLUSTER_AUTHORIZATION_FAILED.code();
        response.error_message = Some(wire_text("Authorization failed."));
        return response;
    }
    let filter = AclFilter::of_wire(
        (request.resource_type_filter, request.resource_name_filter.as_deref()),
        request.pattern_type_filter,
        (request.principal_filter.as_deref(), request.host_filter.as_deref()),
        (request.operation, request.permission_type),
    );
    match filter {
        Ok(filter) => response.resources = told(found(call, &filter)),
        Err(error) => {
            response.error_code = error.code().code();
            response.error_message = Some(wire_text(&error.to_string()));
        }
    }
    response
}

fn found(call: &Call, filter: &AclFilter) -> Vec<AclEntry> {
    let mut found = call.session.tenant.acls.entries();
    found.retain(|entry| filter.fits(entry));
    if filter.wants_policies() {
        let policies = call.broker.tenancy.policies();
        let organisation = policies.organisation();
        let own = organisation.tenant(call.session.tenant.cluster.account);
        for principal in own.into_iter().flat_map(schloss_authz::Tenant::principals) {
            if found.len() >= acls::ENTRIES_MAX {
                break;
            }
            if let Ok(session) = policies.bind(&principal) {
                found.extend(acl::of_policies(&session).into_iter().filter(|entry| filter.fits(entry)));
            }
        }
    }
    found.truncate(acls::ENTRIES_MAX);
    found
}

/// Entries by resource, as the wire wants them.
fn told(entries: Vec<AclEntry>) -> Vec<DescribeAclsResource> {
    let mut resources: BTreeMap<(i8, String, i8), Vec<AclDescription>> = BTreeMap::new();
    for entry in entries {
        let mut description = AclDescription::default();
        description.principal = wire_text(&entry.principal);
        description.host = wire_text(&entry.host);
        description.operation = acls::operation_code(entry.operation);
        description.permission_type = acls::permission_code(entry.denies);
        let key = (acls::resource_code(entry.kind), entry.name, acls::pattern_code(entry.pattern));
        resources.entry(key).or_default().push(description);
    }
    let told = resources.into_iter().map(|((kind, name, pattern), descriptions)| {
        let mut resource = DescribeAclsResource::default();
        resource.resource_type = kind;
        resource.resource_name = wire_text(&name);
        resource.pattern_type = pattern;
        resource.acls = descriptions;
        resource
    });
    told.collect()
}
