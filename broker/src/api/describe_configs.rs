//! DescribeConfigs (32): settings of topics, of the broker and of groups, each with where its value comes from.

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_core::ErrorCode;

use super::wire_text;
use crate::authorize::Call;
use crate::broker_config;
use crate::catalog::Topic;
use crate::topic_config::{self, Definition, TopicDefaults};

/// Kafka's resource types (`ConfigResource.Type`).
pub mod resource_type {
    /// A topic.
    pub const TOPIC: i8 = 2;
    /// A broker, or all of them with an empty name.
    pub const BROKER: i8 = 4;
    /// Log levels of a broker.
    pub const BROKER_LOGGER: i8 = 8;
    /// KIP-714 subscriptions.
    pub const CLIENT_METRICS: i8 = 16;
    /// A group.
    pub const GROUP: i8 = 32;
}

/// Shown with every topic, read-only.
const KEY_STATE: &str = "schloss.kms.key.state";

/// Kafka's `ConfigSource` numbers.
mod config_source {
    pub const TOPIC: i8 = 1;
    pub const STATIC_BROKER: i8 = 4;
    pub const DEFAULT: i8 = 5;
}

/// Answers one request.
pub fn handle(call: &Call, request: &DescribeConfigsRequest) -> DescribeConfigsResponse {
    let mut response = DescribeConfigsResponse::default();
    response.results = request.resources.iter().map(|resource| describe(call, request, resource)).collect();
    response
}

fn describe(
    call: &Call,
    request: &DescribeConfigsRequest,
    resource: &DescribeConfigsResource,
) -> DescribeConfigsResult {
    let mut result = DescribeConfigsResult::default();
    result.resource_type = resource.resource_type;
    result.resource_name = resource.resource_name.clone();
    let outcome = match resource.resource_type {
        resource_type::TOPIC => call
            .topic(can::DescribeTopicDynamicConfiguration, &resource.resource_name)
            .map(|topic| topic_entries(call, request, resource, &topic)),
        resource_type::BROKER => call
            .allow(can::DescribeClusterDynamicConfiguration, ResourceRef::CLUSTER)
            .map_err(|_| ErrorCode::CLUSTER_AUTHORIZATION_FAILED)
            .and_then(|_permit| broker_entries(call, resource)),
        resource_type::BROKER_LOGGER | resource_type::CLIENT_METRICS => call
            .allow(can::DescribeClusterDynamicConfiguration, ResourceRef::CLUSTER)
            .map_err(|_| ErrorCode::CLUSTER_AUTHORIZATION_FAILED)
            .map(|_permit| Vec::new()),
        resource_type::GROUP => call
            .allow(can::DescribeGroupDynamicConfiguration, ResourceRef::group(&resource.resource_name))
            .map_err(|_| ErrorCode::GROUP_AUTHORIZATION_FAILED)
            .map(|_permit| Vec::new()),
        _ => Err(ErrorCode::INVALID_REQUEST),
    };
    match outcome {
        Ok(configs) => result.configs = configs,
        Err(code) => {
            result.error_code = code.code();
            result.error_message = Some(wire_text(code.name()));
        }
    }
    result
}

fn wanted(resource: &DescribeConfigsResource, name: &str) -> bool {
    resource
        .configuration_keys
        .as_ref()
        .is_none_or(|keys| keys.is_empty() || keys.iter().any(|key| key.as_str() == name))
}

fn topic_entries(
    call: &Call,
    request: &DescribeConfigsRequest,
    resource: &DescribeConfigsResource,
    topic: &Topic,
) -> Vec<DescribeConfigsResourceResult> {
    let defaults = &call.broker.config.topic_defaults;
    let state = wanted(resource, KEY_STATE).then(|| {
        let state = call.session.tenant.vault.tenant_state(call.session.tenant.id.to_bytes());
        let mut entry = entry(KEY_STATE, &state.text(), topic_config::Kind::String as i8);
        entry.read_only = true;
        if request.include_documentation {
            entry.documentation = Some(wire_text("How the tenant's KMS key was last seen. Not a setting."));
        }
        entry
    });
    topic_config::DEFINITIONS
        .iter()
        .filter(|definition| wanted(resource, definition.name))
        .map(|definition| {
            let mut entry = entry(
                definition.name,
                topic_config::effective(&topic.overrides, defaults, definition.name),
                definition.kind as i8,
            );
            entry.config_source = source(topic, defaults, definition.name);
            if request.include_synonyms {
                entry.synonyms = synonyms(topic, defaults, definition);
            }
            if request.include_documentation {
                entry.documentation = Some(wire_text(definition.documentation));
            }
            entry
        })
        .chain(state)
        .collect()
}

fn synonyms(topic: &Topic, defaults: &TopicDefaults, definition: &Definition) -> Vec<DescribeConfigsSynonym> {
    let synonym = |name: &str, value: &str, source: i8| {
        let mut synonym = DescribeConfigsSynonym::default();
        synonym.name = wire_text(name);
        synonym.value = Some(wire_text(value));
        synonym.source = source;
        synonym
    };
    let own = topic.overrides.get(definition.name).map(|value| synonym(definition.name, value, config_source::TOPIC));
    let broker_name = definition.broker_name.unwrap_or(definition.name);
    let broker =
        defaults.values.get(definition.name).map(|value| synonym(broker_name, value, config_source::STATIC_BROKER));
    let default = synonym(broker_name, definition.default, config_source::DEFAULT);
    own.into_iter().chain(broker).chain([default]).collect()
}

/// Where a topic's value comes from, as Kafka numbers it.
#[must_use]
pub fn source(topic: &Topic, defaults: &TopicDefaults, name: &str) -> i8 {
    if topic.overrides.contains_key(name) {
        config_source::TOPIC
    } else if defaults.values.contains_key(name) {
        config_source::STATIC_BROKER
    } else {
        config_source::DEFAULT
    }
}

fn broker_entries(
    call: &Call,
    resource: &DescribeConfigsResource,
) -> Result<Vec<DescribeConfigsResourceResult>, ErrorCode> {
    if resource.resource_name.is_empty() {
        // Cluster-wide dynamic defaults: there are none.
        return Ok(Vec::new());
    }
    if resource.resource_name.parse() != Ok(call.broker.config.node_id) {
        return Err(ErrorCode::INVALID_REQUEST);
    }
    let entries =
        broker_config::visible(&call.broker.config).into_iter().filter(|setting| wanted(resource, setting.name));
    let entries = entries.map(|setting| {
        let mut entry = entry(setting.name, &setting.value, setting.kind as i8);
        entry.read_only = true;
        entry.config_source = config_source::STATIC_BROKER;
        entry
    });
    Ok(entries.collect())
}

fn entry(name: &str, value: &str, kind: i8) -> DescribeConfigsResourceResult {
    let mut entry = DescribeConfigsResourceResult::default();
    entry.name = wire_text(name);
    entry.value = Some(wire_text(value));
    entry.config_type = kind;
    entry.config_source = config_source::DEFAULT;
    entry
}
