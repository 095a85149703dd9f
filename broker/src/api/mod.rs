//! One file per API key. Each takes a decoded request and a [`Call`], asks `authorize`, and answers in Kafka's terms.

pub mod alter_configs;
pub mod alter_user_scram_credentials;
pub mod api_versions;
pub mod create_acls;
pub mod create_delegation_token;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_acls;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_acls;
pub mod describe_client_quotas;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_delegation_token;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod describe_topic_partitions;
pub mod describe_user_scram_credentials;
pub mod expire_delegation_token;
pub mod fetch;
pub mod find_coordinator;
pub mod get_telemetry_subscriptions;
pub mod heartbeat;
pub mod illegal_sasl_state;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_groups;
pub mod list_offsets;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod push_telemetry;
pub mod renew_delegation_token;
pub mod sasl_authenticate;
pub mod sasl_handshake;
pub mod sync_group;

use kafka_protocol::messages::TopicName as WireTopicName;
use kafka_protocol::protocol::StrBytes;
use schloss_core::{TopicId, TopicName};

/// The authorised-operations field when a client did not ask (Kafka's `Integer.MIN_VALUE`).
pub const OPERATIONS_NOT_ASKED: i32 = i32::MIN;

/// A topic's name for the wire.
#[must_use]
pub fn wire_name(name: &TopicName) -> WireTopicName {
    WireTopicName(StrBytes::from_string(name.as_str().to_owned()))
}

/// A topic's id for the wire.
#[must_use]
pub fn wire_id(id: TopicId) -> uuid::Uuid {
    uuid::Uuid::from_bytes(id.to_bytes())
}

/// A text for the wire.
#[must_use]
pub fn wire_text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
