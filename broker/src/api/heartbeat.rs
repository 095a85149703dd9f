//! Heartbeat (12).

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_coordinator::{MemberRef, Reply};
use schloss_core::{ErrorCode, GroupId};

use crate::authorize::Call;

/// Answers one request.
pub async fn handle(call: &Call, request: HeartbeatRequest) -> HeartbeatResponse {
    let mut response = HeartbeatResponse::default();
    let code = match beat(call, &request).await {
        Ok(code) | Err(code) => code,
    };
    response.error_code = code.code();
    response
}

async fn beat(call: &Call, request: &HeartbeatRequest) -> Result<ErrorCode, ErrorCode> {
    let _permit = call
        .allow(can::AlterGroup, ResourceRef::group(&request.group_id))
        .map_err(|_| ErrorCode::GROUP_AUTHORIZATION_FAILED)?;
    let group = GroupId::new(&request.group_id).map_err(|_| ErrorCode::INVALID_GROUP_ID)?;
    let member = MemberRef {
        generation: request.generation_id,
        member_id: request.member_id.as_str().into(),
        instance_id: request.group_instance_id.as_ref().map(|id| id.as_str().into()),
    };
    match call.session.tenant.groups.ask(|table, token, now| table.heartbeat(&group, &member, token, now)).await? {
        Reply::Heartbeat(code) => Ok(code),
        _ => Err(ErrorCode::UNKNOWN_SERVER_ERROR),
    }
}
