//! JoinGroup (11), classic groups (KIP-345, KIP-394, KIP-814).

use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_coordinator::{Join, JoinReply, Protocol, Reply};
use schloss_core::{ErrorCode, GroupId};
use schloss_crypto::random_array;

use super::wire_text;
use crate::authorize::Call;

/// From this version a member must come back with the id it was given (KIP-394).
const ID_REQUIRED: i16 = 4;
/// From this version a leader can be told to keep the old assignment (KIP-814).
const SKIP_ASSIGNMENT: i16 = 9;

/// Answers one request, when its group has rebalanced.
pub async fn handle(call: &Call, request: JoinGroupRequest) -> JoinGroupResponse {
    let member_id = request.member_id.clone();
    match join(call, request).await {
        Ok(reply) => answer(call, reply),
        Err(code) => {
            let mut response = JoinGroupResponse::default();
            response.error_code = code.code();
            response.generation_id = -1;
            response.member_id = member_id;
            response.protocol_name = Some(wire_text(""));
            response
        }
    }
}

async fn join(call: &Call, request: JoinGroupRequest) -> Result<JoinReply, ErrorCode> {
    let _permit = call
        .allow(can::AlterGroup, ResourceRef::group(&request.group_id))
        .map_err(|_| ErrorCode::GROUP_AUTHORIZATION_FAILED)?;
    let group = GroupId::new(&request.group_id).map_err(|_| ErrorCode::INVALID_GROUP_ID)?;
    let version = call.header.api_version;
    let protocols = request
        .protocols
        .iter()
        .map(|protocol| Protocol { name: protocol.name.as_str().into(), metadata: protocol.metadata.clone() });
    let join = Join {
        member_id: request.member_id.as_str().into(),
        instance_id: request.group_instance_id.as_ref().map(|id| id.as_str().into()),
        client_id: call.header.client_id.as_deref().unwrap_or_default().into(),
        client_host: format!("/{}", call.session.source.ip()).into(),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        protocol_type: request.protocol_type.as_str().into(),
        protocols: protocols.collect(),
        id_required: version >= ID_REQUIRED,
        can_skip_assignment: version >= SKIP_ASSIGNMENT,
        fresh: random_array(),
    };
    match call.session.tenant.groups.ask(|table, token, now| table.join(&group, join, token, now)).await? {
        Reply::Join(reply) => Ok(reply),
        _ => Err(ErrorCode::UNKNOWN_SERVER_ERROR),
    }
}

fn answer(call: &Call, reply: JoinReply) -> JoinGroupResponse {
    let mut response = JoinGroupResponse::default();
    response.error_code = reply.error.code();
    response.generation_id = reply.generation;
    response.protocol_type = reply.protocol_type.map(|text| wire_text(&text));
    // Null is allowed from version 7 on.
    let none = (call.header.api_version < 7).then(|| wire_text(""));
    response.protocol_name = reply.protocol.map(|text| wire_text(&text)).or(none);
    response.leader = wire_text(&reply.leader);
    response.skip_assignment = reply.skip_assignment;
    response.member_id = wire_text(&reply.member_id);
    response.members = reply
        .members
        .into_iter()
        .map(|joined| {
            let mut member = JoinGroupResponseMember::default();
            member.member_id = wire_text(&joined.member_id);
            member.group_instance_id = joined.instance_id.map(|id| wire_text(&id));
            member.metadata = joined.metadata;
            member
        })
        .collect();
    response
}
