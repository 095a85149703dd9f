//! LeaveGroup (13): one member, or several from version 3 on (KIP-345).

use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_coordinator::{LeavingMember, Reply};
use schloss_core::{ErrorCode, GroupId};

use super::wire_text;
use crate::authorize::Call;

/// From this version several members may leave at once.
const SEVERAL: i16 = 3;

/// Answers one request.
pub async fn handle(call: &Call, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let several = call.header.api_version >= SEVERAL;
    let leaving: Vec<LeavingMember> = if several {
        let member = |one: &kafka_protocol::messages::leave_group_request::MemberIdentity| LeavingMember {
            member_id: one.member_id.as_str().into(),
            instance_id: one.group_instance_id.as_ref().map(|id| id.as_str().into()),
        };
        request.members.iter().map(member).collect()
    } else {
        vec![LeavingMember { member_id: request.member_id.as_str().into(), instance_id: None }]
    };
    let mut response = LeaveGroupResponse::default();
    match leave(call, &request, &leaving).await {
        Ok((error, codes)) if several => {
            response.error_code = error.code();
            response.members = leaving
                .iter()
                .zip(codes)
                .map(|(left, code)| {
                    let mut member = MemberResponse::default();
                    member.member_id = wire_text(&left.member_id);
                    member.group_instance_id = left.instance_id.as_ref().map(|id| wire_text(id));
                    member.error_code = code.code();
                    member
                })
                .collect();
        }
        Ok((error, codes)) => {
            let first = codes.first().copied().unwrap_or(ErrorCode::NONE);
            response.error_code = if error.is_none() { first.code() } else { error.code() };
        }
        Err(code) => response.error_code = code.code(),
    }
    response
}

async fn leave(
    call: &Call,
    request: &LeaveGroupRequest,
    leaving: &[LeavingMember],
) -> Result<(ErrorCode, Vec<ErrorCode>), ErrorCode> {
    let _permit = call
        .allow(can::AlterGroup, ResourceRef::group(&request.group_id))
        .map_err(|_| ErrorCode::GROUP_AUTHORIZATION_FAILED)?;
    let group = GroupId::new(&request.group_id).map_err(|_| ErrorCode::INVALID_GROUP_ID)?;
    match call.session.tenant.groups.ask(|table, token, now| table.leave(&group, leaving, token, now)).await? {
        Reply::Leave { error, members } => Ok((error, members)),
        _ => Err(ErrorCode::UNKNOWN_SERVER_ERROR),
    }
}
