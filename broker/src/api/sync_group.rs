//! SyncGroup (14): the leader gives assignments, every member gets its own.

use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_coordinator::{MemberRef, Reply, Sync, SyncReply};
use schloss_core::{ErrorCode, GroupId};

use super::wire_text;
use crate::authorize::Call;

/// Answers one request, when the leader has spoken.
pub async fn handle(call: &Call, request: SyncGroupRequest) -> SyncGroupResponse {
    let mut response = SyncGroupResponse::default();
    match sync(call, request).await {
        Ok(reply) => {
            response.error_code = reply.error.code();
            response.protocol_type = reply.protocol_type.map(|text| wire_text(&text));
            response.protocol_name = reply.protocol.map(|text| wire_text(&text));
            response.assignment = reply.assignment;
        }
        Err(code) => response.error_code = code.code(),
    }
    response
}

async fn sync(call: &Call, request: SyncGroupRequest) -> Result<SyncReply, ErrorCode> {
    let _permit = call
        .allow(can::AlterGroup, ResourceRef::group(&request.group_id))
        .map_err(|_| ErrorCode::GROUP_AUTHORIZATION_FAILED)?;
    let group = GroupId::new(&request.group_id).map_err(|_| ErrorCode::INVALID_GROUP_ID)?;
    let sync = Sync {
        member: MemberRef {
            generation: request.generation_id,
            member_id: request.member_id.as_str().into(),
            instance_id: request.group_instance_id.as_ref().map(|id| id.as_str().into()),
        },
        protocol_type: request.protocol_type.as_ref().map(|text| text.as_str().into()),
        protocol: request.protocol_name.as_ref().map(|text| text.as_str().into()),
        assignments: request
            .assignments
            .into_iter()
            .map(|one| (one.member_id.as_str().into(), one.assignment))
            .collect(),
    };
    match call.session.tenant.groups.ask(|table, token, now| table.sync(&group, sync, token, now)).await? {
        Reply::Sync(reply) => Ok(reply),
        _ => Err(ErrorCode::UNKNOWN_SERVER_ERROR),
    }
}
