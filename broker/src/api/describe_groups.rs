//! DescribeGroups (15).

use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse};
use schloss_authz::can;
use schloss_authz::{ResourceKind, ResourceRef};
use schloss_core::{ErrorCode, GroupId};

use super::{OPERATIONS_NOT_ASKED, wire_text};
use crate::authorize::Call;

/// From this version an absent group is an error; before, it is "Dead".
const ABSENT_IS_ERROR: i16 = 6;

/// Answers one request.
pub fn handle(call: &Call, request: &DescribeGroupsRequest) -> DescribeGroupsResponse {
    let mut response = DescribeGroupsResponse::default();
    response.groups =
        request.groups.iter().map(|id| describe(call, id, request.include_authorized_operations)).collect();
    response
}

fn describe(call: &Call, id: &kafka_protocol::messages::GroupId, masks: bool) -> DescribedGroup {
    let mut group = DescribedGroup::default();
    group.group_id = id.clone();
    group.authorized_operations = OPERATIONS_NOT_ASKED;
    if call.allow(can::DescribeGroup, ResourceRef::group(id)).is_err() {
        group.error_code = ErrorCode::GROUP_AUTHORIZATION_FAILED.code();
        return group;
    }
    if masks {
        group.authorized_operations = call.operations(ResourceKind::Group, id);
    }
    let described = GroupId::new(id).ok().and_then(|id| call.session.tenant.groups.look(|table| table.describe(&id)));
    let Some(described) = described else {
        group.group_state = wire_text("Dead");
        if call.header.api_version >= ABSENT_IS_ERROR {
            group.error_code = ErrorCode::GROUP_ID_NOT_FOUND.code();
            group.error_message = Some(wire_text("The group does not exist."));
        }
        return group;
    };
    group.group_state = wire_text(described.state.name());
    group.protocol_type = wire_text(&described.protocol_type);
    group.protocol_data = wire_text(&described.protocol);
    group.members = described
        .members
        .into_iter()
        .map(|described| {
            let mut member = DescribedGroupMember::default();
            member.member_id = wire_text(&described.member_id);
            member.group_instance_id = described.instance_id.map(|id| wire_text(&id));
            member.client_id = wire_text(&described.client_id);
            member.client_host = wire_text(&described.client_host);
            member.member_metadata = described.metadata;
            member.member_assignment = described.assignment;
            member
        })
        .collect();
    group
}
