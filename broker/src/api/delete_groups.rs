//! DeleteGroups (42).

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_coordinator::Reply;
use schloss_core::{ErrorCode, GroupId};

use crate::authorize::Call;

/// Answers one request.
pub async fn handle(call: &Call, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut response = DeleteGroupsResponse::default();
    for id in request.groups_names {
        let mut result = DeletableGroupResult::default();
        let code = match delete(call, &id).await {
            Ok(code) | Err(code) => code,
        };
        result.group_id = id;
        result.error_code = code.code();
        response.results.push(result);
    }
    response
}

async fn delete(call: &Call, id: &str) -> Result<ErrorCode, ErrorCode> {
    let _permit = call
        .administer(can::DeleteGroup, ResourceRef::group(id))
        .await
        .map_err(|_| ErrorCode::GROUP_AUTHORIZATION_FAILED)?;
    let group = GroupId::new(id).map_err(|_| ErrorCode::INVALID_GROUP_ID)?;
    match call
        .session
        .tenant
        .groups
        .ask(|table, token, now| table.delete_groups(std::slice::from_ref(&group), token, now))
        .await?
    {
        Reply::DeleteGroups(codes) => Ok(codes.first().copied().unwrap_or(ErrorCode::UNKNOWN_SERVER_ERROR)),
        _ => Err(ErrorCode::UNKNOWN_SERVER_ERROR),
    }
}
