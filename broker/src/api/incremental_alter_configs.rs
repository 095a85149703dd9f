//! IncrementalAlterConfigs (44, KIP-339): sets, removes, appends to and subtracts from single settings.

use std::collections::HashSet;

use kafka_protocol::messages::incremental_alter_configs_request::AlterableConfig;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};
use schloss_core::ErrorCode;

use super::alter_configs::{Refusal, alter};
use super::wire_text;
use crate::authorize::Call;
use crate::topic_config::{self, Kind, Overrides, TopicDefaults};

/// Answers one request.
pub async fn handle(call: &Call, request: IncrementalAlterConfigsRequest) -> IncrementalAlterConfigsResponse {
    let mut response = IncrementalAlterConfigsResponse::default();
    for resource in &request.resources {
        let defaults = &call.broker.config.topic_defaults;
        let change = |old: &Overrides| apply(old, &resource.configs, defaults);
        let outcome = alter(call, resource.resource_type, &resource.resource_name, request.validate_only, change).await;
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

fn apply(old: &Overrides, changes: &[AlterableConfig], defaults: &TopicDefaults) -> Result<Overrides, Refusal> {
    let refuse = |code: ErrorCode, why: &str| Err((code, why.to_owned()));
    let mut new = old.clone();
    let mut seen = HashSet::new();
    for change in changes {
        if !seen.insert(change.name.as_str()) {
            return refuse(ErrorCode::INVALID_REQUEST, "The same setting is changed twice.");
        }
        let name = change.name.to_string();
        let Some(definition) = topic_config::definition(&name) else {
            return Err((
                ErrorCode::INVALID_CONFIG,
                format!(
                    "Unknown topic config name: {}",
                    name.chars().take(64).flat_map(char::escape_default).collect::<String>()
                ),
            ));
        };
        let operation = Operation::from_wire(change.config_operation)
            .ok_or((ErrorCode::INVALID_REQUEST, "Unknown operation.".to_owned()))?;
        if operation == Operation::Delete {
            new.remove(&name);
            continue;
        }
        let Some(value) = &change.value else {
            return refuse(ErrorCode::INVALID_REQUEST, "Only a removal comes without a value.");
        };
        if operation == Operation::Set {
            new.insert(name, value.to_string());
            continue;
        }
        if definition.kind != Kind::List {
            return refuse(ErrorCode::INVALID_CONFIG, "Append and subtract need a setting that is a list.");
        }
        let present = topic_config::effective(&new, defaults, &name).to_owned();
        let mut words: Vec<&str> = present.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
        for word in value.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            if operation == Operation::Subtract {
                words.retain(|present| *present != word);
            } else if !words.contains(&word) {
                words.push(word);
            }
        }
        let joined = words.join(",");
        new.insert(name, joined);
    }
    Ok(new)
}

/// Kafka's `AlterConfigOp.OpType`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Set,
    Delete,
    Append,
    Subtract,
}

impl Operation {
    const fn from_wire(number: i8) -> Option<Self> {
        match number {
            0 => Some(Self::Set),
            1 => Some(Self::Delete),
            2 => Some(Self::Append),
            3 => Some(Self::Subtract),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &'static str, operation: i8, value: Option<&'static str>) -> AlterableConfig {
        let mut change = AlterableConfig::default();
        change.name = wire_text(name);
        change.config_operation = operation;
        change.value = value.map(wire_text);
        change
    }

    #[test]
    fn append_and_subtract_work_on_lists_from_their_default() {
        let defaults = TopicDefaults::kafka();
        let appended = apply(&Overrides::new(), &[change("cleanup.policy", 2, Some("compact"))], &defaults).unwrap();
        assert_eq!(appended["cleanup.policy"], "delete,compact");
        let subtracted = apply(&appended, &[change("cleanup.policy", 3, Some("delete"))], &defaults).unwrap();
        assert_eq!(subtracted["cleanup.policy"], "compact");
    }

    #[test]
    fn append_to_a_number_is_refused() {
        let (code, _) =
            apply(&Overrides::new(), &[change("retention.ms", 2, Some("1"))], &TopicDefaults::kafka()).unwrap_err();
        assert_eq!(code, ErrorCode::INVALID_CONFIG);
    }

    #[test]
    fn removal_restores_the_default() {
        let old = Overrides::from([("retention.ms".to_owned(), "5".to_owned())]);
        assert!(apply(&old, &[change("retention.ms", 1, None)], &TopicDefaults::kafka()).unwrap().is_empty());
    }
}
