//! AlterConfigs (33): replaces all of a topic's own settings.

use std::collections::BTreeMap;

use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};
use kafka_protocol::protocol::StrBytes;
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_core::ErrorCode;

use super::describe_configs::resource_type;
use super::wire_text;
use crate::authorize::Call;
use crate::topic_config::{self, Overrides};

/// A refusal with its text.
pub type Refusal = (ErrorCode, String);

/// Answers one request.
pub async fn handle(call: &Call, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let mut response = AlterConfigsResponse::default();
    for resource in &request.resources {
        let named: Result<Overrides, Refusal> = resource
            .configs
            .iter()
            .map(|config| match &config.value {
                Some(value) => Ok((config.name.to_string(), value.to_string())),
                None => Err((
                    ErrorCode::INVALID_REQUEST,
                    "A null value was given; leave the setting out to restore its default.".to_owned(),
                )),
            })
            .collect();
        let outcome =
            alter(call, resource.resource_type, &resource.resource_name, request.validate_only, move |_old| named)
                .await;
        let mut result = AlterConfigsResourceResponse::default();
        result.resource_type = resource.resource_type;
        result.resource_name = resource.resource_name.clone();
        if let Err((code, why)) = outcome {
            result.error_code = code.code();
            result.error_message = Some(wire_text(&why));
        }
        response.responses.push(result);
    }
    response
}

/// Judges, computes the new settings from the old, checks and stores them. Shared with IncrementalAlterConfigs.
pub async fn alter(
    call: &Call,
    kind: i8,
    name: &StrBytes,
    validate_only: bool,
    change: impl FnOnce(&Overrides) -> Result<Overrides, Refusal>,
) -> Result<(), Refusal> {
    let denied = |code: ErrorCode| (code, "Authorization failed.".to_owned());
    match kind {
        resource_type::TOPIC => {
            let permit = call
                .administer(can::AlterTopicDynamicConfiguration, ResourceRef::topic(name))
                .await
                .map_err(|_| denied(ErrorCode::TOPIC_AUTHORIZATION_FAILED))?;
            let catalog = &call.session.tenant.catalog;
            let old = catalog.by_name(name).map_or_else(BTreeMap::new, |topic| topic.overrides.clone());
            let known = catalog.by_name(name).is_some();
            if !known {
                return Err((
                    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                    "This server does not host this topic-partition.".to_owned(),
                ));
            }
            let new = change(&old)?;
            topic_config::check(&new, &call.broker.config.topic_defaults)
                .map_err(|why| (ErrorCode::INVALID_CONFIG, why))?;
            if validate_only {
                return Ok(());
            }
            catalog.configure(&permit, new).await.map(drop).map_err(|error| (error.code(), error.to_string()))
        }
        resource_type::BROKER | resource_type::BROKER_LOGGER | resource_type::CLIENT_METRICS => {
            let _permit = call
                .administer(can::AlterClusterDynamicConfiguration, ResourceRef::CLUSTER)
                .await
                .map_err(|_| denied(ErrorCode::CLUSTER_AUTHORIZATION_FAILED))?;
            Err((
                ErrorCode::INVALID_REQUEST,
                "The broker's settings belong to its operator and are changed in its config file.".to_owned(),
            ))
        }
        resource_type::GROUP => {
            let _permit = call
                .administer(can::AlterGroupDynamicConfiguration, ResourceRef::group(name))
                .await
                .map_err(|_| denied(ErrorCode::GROUP_AUTHORIZATION_FAILED))?;
            Err((ErrorCode::INVALID_REQUEST, "Groups have no settings of their own in this release.".to_owned()))
        }
        _ => Err((ErrorCode::INVALID_REQUEST, "Unknown resource type.".to_owned())),
    }
}
