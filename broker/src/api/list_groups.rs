//! ListGroups (16): the groups the principal may describe; all of them with DescribeCluster.

use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{ListGroupsRequest, ListGroupsResponse};
use schloss_authz::Action;
use schloss_authz::ResourceRef;

use super::wire_text;
use crate::authorize::Call;

/// The one kind of group served.
const CLASSIC: &str = "classic";

/// Answers one request.
pub fn handle(call: &Call, request: &ListGroupsRequest) -> ListGroupsResponse {
    let mut response = ListGroupsResponse::default();
    let all = call.may(Action::DescribeCluster, ResourceRef::CLUSTER);
    let wanted = |filter: &[kafka_protocol::protocol::StrBytes], word: &str| {
        filter.is_empty() || filter.iter().any(|one| one.eq_ignore_ascii_case(word))
    };
    let listed = call.session.tenant.groups.look(|table| table.list().collect::<Vec<_>>());
    for group in listed {
        let seen = all || call.may(Action::DescribeGroup, ResourceRef::group(group.id.as_str()));
        if !seen || !wanted(&request.states_filter, group.state.name()) || !wanted(&request.types_filter, CLASSIC) {
            continue;
        }
        let mut entry = ListedGroup::default();
        entry.group_id = wire_text(group.id.as_str()).into();
        entry.protocol_type = wire_text(&group.protocol_type);
        entry.group_state = wire_text(group.state.name());
        entry.group_type = wire_text(CLASSIC);
        response.groups.push(entry);
    }
    response
}
