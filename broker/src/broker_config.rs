//! The broker's settings that tenants may see (DescribeConfigs of a broker). Paths, addresses and keys are the
//! operator's and are not among them.

use crate::config::Config;
use crate::topic_config::{self, Kind};

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Kafka's broker-level name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// Its type.
    pub kind: Kind,
}

/// Every visible setting, in order of name.
#[must_use]
pub fn visible(config: &Config) -> Vec<Setting> {
    let setting = |name, value: String, kind| Setting { name, value, kind };
    let mut settings = vec![
        setting("auto.create.topics.enable", config.auto_create_topics.to_string(), Kind::Boolean),
        setting("connections.max.idle.ms", config.limits.idle.as_millis().to_string(), Kind::Long),
        setting("default.replication.factor", "1".to_owned(), Kind::Int),
        setting("fetch.max.bytes", config.limits.fetch_bytes_max.to_string(), Kind::Int),
        setting("group.initial.rebalance.delay.ms", config.groups.initial_rebalance_delay_ms.to_string(), Kind::Int),
        setting("group.max.session.timeout.ms", config.groups.session_timeout_max_ms.to_string(), Kind::Int),
        setting("group.max.size", config.groups.size_max.to_string(), Kind::Int),
        setting("group.min.session.timeout.ms", config.groups.session_timeout_min_ms.to_string(), Kind::Int),
        setting("node.id", config.node_id.to_string(), Kind::Int),
        setting("num.partitions", config.topic_defaults.partitions.to_string(), Kind::Int),
        setting("offset.metadata.max.bytes", config.groups.offset_metadata_bytes_max.to_string(), Kind::Int),
        setting("offsets.retention.minutes", (config.groups.offsets_retention_ms / 60_000).to_string(), Kind::Int),
        setting("socket.request.max.bytes", config.limits.request_bytes_max.to_string(), Kind::Int),
    ];
    for definition in topic_config::DEFINITIONS {
        if let Some(name) = definition.broker_name {
            settings.push(setting(name, config.topic_defaults.get(definition.name).to_owned(), definition.kind));
        }
    }
    settings.sort_by_key(|setting| setting.name);
    settings
}
