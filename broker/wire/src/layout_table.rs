//! Where counts, lengths and nulls stand in every request body: facts of the protocol.
//!
//! Written by `layout/generate.py`; change that, not this.

use super::walk::{Field, Layout, NEVER, Shape, Tagged};

static PRODUCE_PARTITION_PRODUCE_DATA: Layout = Layout {
    flexible_since: 9,
    fields: &[
        Field { since: 3, until: 13, shape: Shape::Fixed(4) }, // index
        Field { since: 3, until: 13, shape: Shape::Blob { nullable: true } }, // records
    ],
    tagged: &[
    ],
};

static PRODUCE: Layout = Layout {
    flexible_since: 9,
    fields: &[
        Field { since: 3, until: 13, shape: Shape::Text { nullable: true } }, // transactional_id
        Field { since: 3, until: 13, shape: Shape::Fixed(2) }, // acks
        Field { since: 3, until: 13, shape: Shape::Fixed(4) }, // timeout_ms
        Field { since: 3, until: 13, shape: Shape::Array { nullable: false, element: &Shape::Struct(&PRODUCE_TOPIC_PRODUCE_DATA) } }, // topic_data
    ],
    tagged: &[
    ],
};

static PRODUCE_TOPIC_PRODUCE_DATA: Layout = Layout {
    flexible_since: 9,
    fields: &[
        Field { since: 3, until: 12, shape: Shape::Text { nullable: false } }, // name
        Field { since: 13, until: 13, shape: Shape::Fixed(16) }, // topic_id
        Field { since: 3, until: 13, shape: Shape::Array { nullable: false, element: &Shape::Struct(&PRODUCE_PARTITION_PRODUCE_DATA) } }, // partition_data
    ],
    tagged: &[
    ],
};

static FETCH_FETCH_PARTITION: Layout = Layout {
    flexible_since: 12,
    fields: &[
        Field { since: 4, until: 18, shape: Shape::Fixed(4) }, // partition
        Field { since: 9, until: 18, shape: Shape::Fixed(4) }, // current_leader_epoch
        Field { since: 4, until: 18, shape: Shape::Fixed(8) }, // fetch_offset
        Field { since: 12, until: 18, shape: Shape::Fixed(4) }, // last_fetched_epoch
        Field { since: 5, until: 18, shape: Shape::Fixed(8) }, // log_start_offset
        Field { since: 4, until: 18, shape: Shape::Fixed(4) }, // partition_max_bytes
    ],
    tagged: &[
        Tagged { tag: 0, since: 17, until: 18, shape: Shape::Fixed(16) }, // replica_directory_id
        Tagged { tag: 1, since: 18, until: 18, shape: Shape::Fixed(8) }, // high_watermark
    ],
};

static FETCH: Layout = Layout {
    flexible_since: 12,
    fields: &[
        Field { since: 4, until: 14, shape: Shape::Fixed(4) }, // replica_id
        Field { since: 4, until: 18, shape: Shape::Fixed(4) }, // max_wait_ms
        Field { since: 4, until: 18, shape: Shape::Fixed(4) }, // min_bytes
        Field { since: 4, until: 18, shape: Shape::Fixed(4) }, // max_bytes
        Field { since: 4, until: 18, shape: Shape::Fixed(1) }, // isolation_level
        Field { since: 7, until: 18, shape: Shape::Fixed(4) }, // session_id
        Field { since: 7, until: 18, shape: Shape::Fixed(4) }, // session_epoch
        Field { since: 4, until: 18, shape: Shape::Array { nullable: false, element: &Shape::Struct(&FETCH_FETCH_TOPIC) } }, // topics
        Field { since: 7, until: 18, shape: Shape::Array { nullable: false, element: &Shape::Struct(&FETCH_FORGOTTEN_TOPIC) } }, // forgotten_topics_data
        Field { since: 11, until: 18, shape: Shape::Text { nullable: false } }, // rack_id
    ],
    tagged: &[
        Tagged { tag: 0, since: 4, until: 18, shape: Shape::Text { nullable: true } }, // cluster_id
        Tagged { tag: 1, since: 15, until: 18, shape: Shape::Struct(&FETCH_REPLICA_STATE) }, // replica_state
    ],
};

static FETCH_FETCH_TOPIC: Layout = Layout {
    flexible_since: 12,
    fields: &[
        Field { since: 4, until: 12, shape: Shape::Text { nullable: false } }, // topic
        Field { since: 13, until: 18, shape: Shape::Fixed(16) }, // topic_id
        Field { since: 4, until: 18, shape: Shape::Array { nullable: false, element: &Shape::Struct(&FETCH_FETCH_PARTITION) } }, // partitions
    ],
    tagged: &[
    ],
};

static FETCH_FORGOTTEN_TOPIC: Layout = Layout {
    flexible_since: 12,
    fields: &[
        Field { since: 7, until: 12, shape: Shape::Text { nullable: false } }, // topic
        Field { since: 13, until: 18, shape: Shape::Fixed(16) }, // topic_id
        Field { since: 7, until: 18, shape: Shape::Array { nullable: false, element: &Shape::Fixed(4) } }, // partitions
    ],
    tagged: &[
    ],
};

static FETCH_REPLICA_STATE: Layout = Layout {
    flexible_since: 12,
    fields: &[
        Field { since: 15, until: 18, shape: Shape::Fixed(4) }, // replica_id
        Field { since: 15, until: 18, shape: Shape::Fixed(8) }, // replica_epoch
    ],
    tagged: &[
    ],
};

static LIST_OFFSETS_LIST_OFFSETS_PARTITION: Layout = Layout {
    flexible_since: 6,
    fields: &[
        Field { since: 1, until: 11, shape: Shape::Fixed(4) }, // partition_index
        Field { since: 4, until: 11, shape: Shape::Fixed(4) }, // current_leader_epoch
        Field { since: 1, until: 11, shape: Shape::Fixed(8) }, // timestamp
    ],
    tagged: &[
    ],
};

static LIST_OFFSETS: Layout = Layout {
    flexible_since: 6,
    fields: &[
        Field { since: 1, until: 11, shape: Shape::Fixed(4) }, // replica_id
        Field { since: 2, until: 11, shape: Shape::Fixed(1) }, // isolation_level
        Field { since: 1, until: 11, shape: Shape::Array { nullable: false, element: &Shape::Struct(&LIST_OFFSETS_LIST_OFFSETS_TOPIC) } }, // topics
        Field { since: 10, until: 11, shape: Shape::Fixed(4) }, // timeout_ms
    ],
    tagged: &[
    ],
};

static LIST_OFFSETS_LIST_OFFSETS_TOPIC: Layout = Layout {
    flexible_since: 6,
    fields: &[
        Field { since: 1, until: 11, shape: Shape::Text { nullable: false } }, // name
        Field { since: 1, until: 11, shape: Shape::Array { nullable: false, element: &Shape::Struct(&LIST_OFFSETS_LIST_OFFSETS_PARTITION) } }, // partitions
    ],
    tagged: &[
    ],
};

static METADATA: Layout = Layout {
    flexible_since: 9,
    fields: &[
        Field { since: 0, until: 13, shape: Shape::Array { nullable: true, element: &Shape::Struct(&METADATA_METADATA_REQUEST_TOPIC) } }, // topics
        Field { since: 4, until: 13, shape: Shape::Fixed(1) }, // allow_auto_topic_creation
        Field { since: 8, until: 10, shape: Shape::Fixed(1) }, // include_cluster_authorized_operations
        Field { since: 8, until: 13, shape: Shape::Fixed(1) }, // include_topic_authorized_operations
    ],
    tagged: &[
    ],
};

static METADATA_METADATA_REQUEST_TOPIC: Layout = Layout {
    flexible_since: 9,
    fields: &[
        Field { since: 10, until: 13, shape: Shape::Fixed(16) }, // topic_id
        Field { since: 0, until: 13, shape: Shape::Text { nullable: true } }, // name
    ],
    tagged: &[
    ],
};

static OFFSET_COMMIT: Layout = Layout {
    flexible_since: 8,
    fields: &[
        Field { since: 2, until: 10, shape: Shape::Text { nullable: false } }, // group_id
        Field { since: 2, until: 10, shape: Shape::Fixed(4) }, // generation_id_or_member_epoch
        Field { since: 2, until: 10, shape: Shape::Text { nullable: false } }, // member_id
        Field { since: 7, until: 10, shape: Shape::Text { nullable: true } }, // group_instance_id
        Field { since: 2, until: 4, shape: Shape::Fixed(8) }, // retention_time_ms
        Field { since: 2, until: 10, shape: Shape::Array { nullable: false, element: &Shape::Struct(&OFFSET_COMMIT_OFFSET_COMMIT_REQUEST_TOPIC) } }, // topics
    ],
    tagged: &[
    ],
};

static OFFSET_COMMIT_OFFSET_COMMIT_REQUEST_PARTITION: Layout = Layout {
    flexible_since: 8,
    fields: &[
        Field { since: 2, until: 10, shape: Shape::Fixed(4) }, // partition_index
        Field { since: 2, until: 10, shape: Shape::Fixed(8) }, // committed_offset
        Field { since: 6, until: 10, shape: Shape::Fixed(4) }, // committed_leader_epoch
        Field { since: 2, until: 10, shape: Shape::Text { nullable: true } }, // committed_metadata
    ],
    tagged: &[
    ],
};

static OFFSET_COMMIT_OFFSET_COMMIT_REQUEST_TOPIC: Layout = Layout {
    flexible_since: 8,
    fields: &[
        Field { since: 2, until: 9, shape: Shape::Text { nullable: false } }, // name
        Field { since: 10, until: 10, shape: Shape::Fixed(16) }, // topic_id
        Field { since: 2, until: 10, shape: Shape::Array { nullable: false, element: &Shape::Struct(&OFFSET_COMMIT_OFFSET_COMMIT_REQUEST_PARTITION) } }, // partitions
    ],
    tagged: &[
    ],
};

static OFFSET_FETCH: Layout = Layout {
    flexible_since: 6,
    fields: &[
        Field { since: 1, until: 7, shape: Shape::Text { nullable: false } }, // group_id
        Field { since: 1, until: 7, shape: Shape::Array { nullable: true, element: &Shape::Struct(&OFFSET_FETCH_OFFSET_FETCH_REQUEST_TOPIC) } }, // topics
        Field { since: 8, until: 10, shape: Shape::Array { nullable: false, element: &Shape::Struct(&OFFSET_FETCH_OFFSET_FETCH_REQUEST_GROUP) } }, // groups
        Field { since: 7, until: 10, shape: Shape::Fixed(1) }, // require_stable
    ],
    tagged: &[
    ],
};

static OFFSET_FETCH_OFFSET_FETCH_REQUEST_GROUP: Layout = Layout {
    flexible_since: 6,
    fields: &[
        Field { since: 8, until: 10, shape: Shape::Text { nullable: false } }, // group_id
        Field { since: 9, until: 10, shape: Shape::Text { nullable: true } }, // member_id
        Field { since: 9, until: 10, shape: Shape::Fixed(4) }, // member_epoch
        Field { since: 8, until: 10, shape: Shape::Array { nullable: true, element: &Shape::Struct(&OFFSET_FETCH_OFFSET_FETCH_REQUEST_TOPICS) } }, // topics
    ],
    tagged: &[
    ],
};

static OFFSET_FETCH_OFFSET_FETCH_REQUEST_TOPIC: Layout = Layout {
    flexible_since: 6,
    fields: &[
        Field { since: 1, until: 7, shape: Shape::Text { nullable: false } }, // name
        Field { since: 1, until: 7, shape: Shape::Array { nullable: false, element: &Shape::Fixed(4) } }, // partition_indexes
    ],
    tagged: &[
    ],
};

static OFFSET_FETCH_OFFSET_FETCH_REQUEST_TOPICS: Layout = Layout {
    flexible_since: 6,
    fields: &[
        Field { since: 8, until: 9, shape: Shape::Text { nullable: false } }, // name
        Field { since: 10, until: 10, shape: Shape::Fixed(16) }, // topic_id
        Field { since: 8, until: 10, shape: Shape::Array { nullable: false, element: &Shape::Fixed(4) } }, // partition_indexes
    ],
    tagged: &[
    ],
};

static FIND_COORDINATOR: Layout = Layout {
    flexible_since: 3,
    fields: &[
        Field { since: 0, until: 3, shape: Shape::Text { nullable: false } }, // key
        Field { since: 1, until: 6, shape: Shape::Fixed(1) }, // key_type
        Field { since: 4, until: 6, shape: Shape::Array { nullable: false, element: &Shape::Text { nullable: false } } }, // coordinator_keys
    ],
    tagged: &[
    ],
};

static JOIN_GROUP: Layout = Layout {
    flexible_since: 6,
    fields: &[
        Field { since: 0, until: 9, shape: Shape::Text { nullable: false } }, // group_id
        Field { since: 0, until: 9, shape: Shape::Fixed(4) }, // session_timeout_ms
        Field { since: 1, until: 9, shape: Shape::Fixed(4) }, // rebalance_timeout_ms
        Field { since: 0, until: 9, shape: Shape::Text { nullable: false } }, // member_id
        Field { since: 5, until: 9, shape: Shape::Text { nullable: true } }, // group_instance_id
        Field { since: 0, until: 9, shape: Shape::Text { nullable: false } }, // protocol_type
        Field { since: 0, until: 9, shape: Shape::Array { nullable: false, element: &Shape::Struct(&JOIN_GROUP_JOIN_GROUP_REQUEST_PROTOCOL) } }, // protocols
        Field { since: 8, until: 9, shape: Shape::Text { nullable: true } }, // reason
    ],
    tagged: &[
    ],
};

static JOIN_GROUP_JOIN_GROUP_REQUEST_PROTOCOL: Layout = Layout {
    flexible_since: 6,
    fields: &[
        Field { since: 0, until: 9, shape: Shape::Text { nullable: false } }, // name
        Field { since: 0, until: 9, shape: Shape::Blob { nullable: false } }, // metadata
    ],
    tagged: &[
    ],
};

static HEARTBEAT: Layout = Layout {
    flexible_since: 4,
    fields: &[
        Field { since: 0, until: 4, shape: Shape::Text { nullable: false } }, // group_id
        Field { since: 0, until: 4, shape: Shape::Fixed(4) }, // generation_id
        Field { since: 0, until: 4, shape: Shape::Text { nullable: false } }, // member_id
        Field { since: 3, until: 4, shape: Shape::Text { nullable: true } }, // group_instance_id
    ],
    tagged: &[
    ],
};

static LEAVE_GROUP: Layout = Layout {
    flexible_since: 4,
    fields: &[
        Field { since: 0, until: 5, shape: Shape::Text { nullable: false } }, // group_id
        Field { since: 0, until: 2, shape: Shape::Text { nullable: false } }, // member_id
        Field { since: 3, until: 5, shape: Shape::Array { nullable: false, element: &Shape::Struct(&LEAVE_GROUP_MEMBER_IDENTITY) } }, // members
    ],
    tagged: &[
    ],
};

static LEAVE_GROUP_MEMBER_IDENTITY: Layout = Layout {
    flexible_since: 4,
    fields: &[
        Field { since: 3, until: 5, shape: Shape::Text { nullable: false } }, // member_id
        Field { since: 3, until: 5, shape: Shape::Text { nullable: true } }, // group_instance_id
        Field { since: 5, until: 5, shape: Shape::Text { nullable: true } }, // reason
    ],
    tagged: &[
    ],
};

static SYNC_GROUP: Layout = Layout {
    flexible_since: 4,
    fields: &[
        Field { since: 0, until: 5, shape: Shape::Text { nullable: false } }, // group_id
        Field { since: 0, until: 5, shape: Shape::Fixed(4) }, // generation_id
        Field { since: 0, until: 5, shape: Shape::Text { nullable: false } }, // member_id
        Field { since: 3, until: 5, shape: Shape::Text { nullable: true } }, // group_instance_id
        Field { since: 5, until: 5, shape: Shape::Text { nullable: true } }, // protocol_type
        Field { since: 5, until: 5, shape: Shape::Text { nullable: true } }, // protocol_name
        Field { since: 0, until: 5, shape: Shape::Array { nullable: false, element: &Shape::Struct(&SYNC_GROUP_SYNC_GROUP_REQUEST_ASSIGNMENT) } }, // assignments
    ],
    tagged: &[
    ],
};

static SYNC_GROUP_SYNC_GROUP_REQUEST_ASSIGNMENT: Layout = Layout {
    flexible_since: 4,
    fields: &[
        Field { since: 0, until: 5, shape: Shape::Text { nullable: false } }, // member_id
        Field { since: 0, until: 5, shape: Shape::Blob { nullable: false } }, // assignment
    ],
    tagged: &[
    ],
};

static DESCRIBE_GROUPS: Layout = Layout {
    flexible_since: 5,
    fields: &[
        Field { since: 0, until: 6, shape: Shape::Array { nullable: false, element: &Shape::Text { nullable: false } } }, // groups
        Field { since: 3, until: 6, shape: Shape::Fixed(1) }, // include_authorized_operations
    ],
    tagged: &[
    ],
};

static LIST_GROUPS: Layout = Layout {
    flexible_since: 3,
    fields: &[
        Field { since: 4, until: 5, shape: Shape::Array { nullable: false, element: &Shape::Text { nullable: false } } }, // states_filter
        Field { since: 5, until: 5, shape: Shape::Array { nullable: false, element: &Shape::Text { nullable: false } } }, // types_filter
    ],
    tagged: &[
    ],
};

static SASL_HANDSHAKE: Layout = Layout {
    flexible_since: NEVER,
    fields: &[
        Field { since: 0, until: 1, shape: Shape::Text { nullable: false } }, // mechanism
    ],
    tagged: &[
    ],
};

static API_VERSIONS: Layout = Layout {
    flexible_since: 3,
    fields: &[
        Field { since: 3, until: 4, shape: Shape::Text { nullable: false } }, // client_software_name
        Field { since: 3, until: 4, shape: Shape::Text { nullable: false } }, // client_software_version
    ],
    tagged: &[
    ],
};

static CREATE_TOPICS_CREATABLE_REPLICA_ASSIGNMENT: Layout = Layout {
    flexible_since: 5,
    fields: &[
        Field { since: 2, until: 7, shape: Shape::Fixed(4) }, // partition_index
        Field { since: 2, until: 7, shape: Shape::Array { nullable: false, element: &Shape::Fixed(4) } }, // broker_ids
    ],
    tagged: &[
    ],
};

static CREATE_TOPICS_CREATABLE_TOPIC: Layout = Layout {
    flexible_since: 5,
    fields: &[
        Field { since: 2, until: 7, shape: Shape::Text { nullable: false } }, // name
        Field { since: 2, until: 7, shape: Shape::Fixed(4) }, // num_partitions
        Field { since: 2, until: 7, shape: Shape::Fixed(2) }, // replication_factor
        Field { since: 2, until: 7, shape: Shape::Array { nullable: false, element: &Shape::Struct(&CREATE_TOPICS_CREATABLE_REPLICA_ASSIGNMENT) } }, // assignments
        Field { since: 2, until: 7, shape: Shape::Array { nullable: false, element: &Shape::Struct(&CREATE_TOPICS_CREATABLE_TOPIC_CONFIG) } }, // configs
    ],
    tagged: &[
    ],
};

static CREATE_TOPICS_CREATABLE_TOPIC_CONFIG: Layout = Layout {
    flexible_since: 5,
    fields: &[
        Field { since: 2, until: 7, shape: Shape::Text { nullable: false } }, // name
        Field { since: 2, until: 7, shape: Shape::Text { nullable: true } }, // value
    ],
    tagged: &[
    ],
};

static CREATE_TOPICS: Layout = Layout {
    flexible_since: 5,
    fields: &[
        Field { since: 2, until: 7, shape: Shape::Array { nullable: false, element: &Shape::Struct(&CREATE_TOPICS_CREATABLE_TOPIC) } }, // topics
        Field { since: 2, until: 7, shape: Shape::Fixed(4) }, // timeout_ms
        Field { since: 2, until: 7, shape: Shape::Fixed(1) }, // validate_only
    ],
    tagged: &[
    ],
};

static DELETE_TOPICS_DELETE_TOPIC_STATE: Layout = Layout {
    flexible_since: 4,
    fields: &[
        Field { since: 6, until: 6, shape: Shape::Text { nullable: true } }, // name
        Field { since: 6, until: 6, shape: Shape::Fixed(16) }, // topic_id
    ],
    tagged: &[
    ],
};

static DELETE_TOPICS: Layout = Layout {
    flexible_since: 4,
    fields: &[
        Field { since: 6, until: 6, shape: Shape::Array { nullable: false, element: &Shape::Struct(&DELETE_TOPICS_DELETE_TOPIC_STATE) } }, // topics
        Field { since: 1, until: 5, shape: Shape::Array { nullable: false, element: &Shape::Text { nullable: false } } }, // topic_names
        Field { since: 1, until: 6, shape: Shape::Fixed(4) }, // timeout_ms
    ],
    tagged: &[
    ],
};

static DELETE_RECORDS_DELETE_RECORDS_PARTITION: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 0, until: 2, shape: Shape::Fixed(4) }, // partition_index
        Field { since: 0, until: 2, shape: Shape::Fixed(8) }, // offset
    ],
    tagged: &[
    ],
};

static DELETE_RECORDS: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 0, until: 2, shape: Shape::Array { nullable: false, element: &Shape::Struct(&DELETE_RECORDS_DELETE_RECORDS_TOPIC) } }, // topics
        Field { since: 0, until: 2, shape: Shape::Fixed(4) }, // timeout_ms
    ],
    tagged: &[
    ],
};

static DELETE_RECORDS_DELETE_RECORDS_TOPIC: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 0, until: 2, shape: Shape::Text { nullable: false } }, // name
        Field { since: 0, until: 2, shape: Shape::Array { nullable: false, element: &Shape::Struct(&DELETE_RECORDS_DELETE_RECORDS_PARTITION) } }, // partitions
    ],
    tagged: &[
    ],
};

static INIT_PRODUCER_ID: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 0, until: 5, shape: Shape::Text { nullable: true } }, // transactional_id
        Field { since: 0, until: 5, shape: Shape::Fixed(4) }, // transaction_timeout_ms
        Field { since: 3, until: 5, shape: Shape::Fixed(8) }, // producer_id
        Field { since: 3, until: 5, shape: Shape::Fixed(2) }, // producer_epoch
    ],
    tagged: &[
    ],
};

static OFFSET_FOR_LEADER_EPOCH: Layout = Layout {
    flexible_since: 4,
    fields: &[
        Field { since: 3, until: 4, shape: Shape::Fixed(4) }, // replica_id
        Field { since: 2, until: 4, shape: Shape::Array { nullable: false, element: &Shape::Struct(&OFFSET_FOR_LEADER_EPOCH_OFFSET_FOR_LEADER_TOPIC) } }, // topics
    ],
    tagged: &[
    ],
};

static OFFSET_FOR_LEADER_EPOCH_OFFSET_FOR_LEADER_PARTITION: Layout = Layout {
    flexible_since: 4,
    fields: &[
        Field { since: 2, until: 4, shape: Shape::Fixed(4) }, // partition
        Field { since: 2, until: 4, shape: Shape::Fixed(4) }, // current_leader_epoch
        Field { since: 2, until: 4, shape: Shape::Fixed(4) }, // leader_epoch
    ],
    tagged: &[
    ],
};

static OFFSET_FOR_LEADER_EPOCH_OFFSET_FOR_LEADER_TOPIC: Layout = Layout {
    flexible_since: 4,
    fields: &[
        Field { since: 2, until: 4, shape: Shape::Text { nullable: false } }, // topic
        Field { since: 2, until: 4, shape: Shape::Array { nullable: false, element: &Shape::Struct(&OFFSET_FOR_LEADER_EPOCH_OFFSET_FOR_LEADER_PARTITION) } }, // partitions
    ],
    tagged: &[
    ],
};

static DESCRIBE_CONFIGS: Layout = Layout {
    flexible_since: 4,
    fields: &[
        Field { since: 1, until: 4, shape: Shape::Array { nullable: false, element: &Shape::Struct(&DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_RESOURCE) } }, // resources
        Field { since: 1, until: 4, shape: Shape::Fixed(1) }, // include_synonyms
        Field { since: 3, until: 4, shape: Shape::Fixed(1) }, // include_documentation
    ],
    tagged: &[
    ],
};

static DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_RESOURCE: Layout = Layout {
    flexible_since: 4,
    fields: &[
        Field { since: 1, until: 4, shape: Shape::Fixed(1) }, // resource_type
        Field { since: 1, until: 4, shape: Shape::Text { nullable: false } }, // resource_name
        Field { since: 1, until: 4, shape: Shape::Array { nullable: true, element: &Shape::Text { nullable: false } } }, // configuration_keys
    ],
    tagged: &[
    ],
};

static ALTER_CONFIGS: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 0, until: 2, shape: Shape::Array { nullable: false, element: &Shape::Struct(&ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE) } }, // resources
        Field { since: 0, until: 2, shape: Shape::Fixed(1) }, // validate_only
    ],
    tagged: &[
    ],
};

static ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 0, until: 2, shape: Shape::Fixed(1) }, // resource_type
        Field { since: 0, until: 2, shape: Shape::Text { nullable: false } }, // resource_name
        Field { since: 0, until: 2, shape: Shape::Array { nullable: false, element: &Shape::Struct(&ALTER_CONFIGS_ALTERABLE_CONFIG) } }, // configs
    ],
    tagged: &[
    ],
};

static ALTER_CONFIGS_ALTERABLE_CONFIG: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 0, until: 2, shape: Shape::Text { nullable: false } }, // name
        Field { since: 0, until: 2, shape: Shape::Text { nullable: true } }, // value
    ],
    tagged: &[
    ],
};

static DESCRIBE_LOG_DIRS_DESCRIBABLE_LOG_DIR_TOPIC: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 1, until: 5, shape: Shape::Text { nullable: false } }, // topic
        Field { since: 1, until: 5, shape: Shape::Array { nullable: false, element: &Shape::Fixed(4) } }, // partitions
    ],
    tagged: &[
    ],
};

static DESCRIBE_LOG_DIRS: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 1, until: 5, shape: Shape::Array { nullable: true, element: &Shape::Struct(&DESCRIBE_LOG_DIRS_DESCRIBABLE_LOG_DIR_TOPIC) } }, // topics
    ],
    tagged: &[
    ],
};

static SASL_AUTHENTICATE: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 0, until: 2, shape: Shape::Blob { nullable: false } }, // auth_bytes
    ],
    tagged: &[
    ],
};

static CREATE_PARTITIONS_CREATE_PARTITIONS_ASSIGNMENT: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 0, until: 3, shape: Shape::Array { nullable: false, element: &Shape::Fixed(4) } }, // broker_ids
    ],
    tagged: &[
    ],
};

static CREATE_PARTITIONS: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 0, until: 3, shape: Shape::Array { nullable: false, element: &Shape::Struct(&CREATE_PARTITIONS_CREATE_PARTITIONS_TOPIC) } }, // topics
        Field { since: 0, until: 3, shape: Shape::Fixed(4) }, // timeout_ms
        Field { since: 0, until: 3, shape: Shape::Fixed(1) }, // validate_only
    ],
    tagged: &[
    ],
};

static CREATE_PARTITIONS_CREATE_PARTITIONS_TOPIC: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 0, until: 3, shape: Shape::Text { nullable: false } }, // name
        Field { since: 0, until: 3, shape: Shape::Fixed(4) }, // count
        Field { since: 0, until: 3, shape: Shape::Array { nullable: true, element: &Shape::Struct(&CREATE_PARTITIONS_CREATE_PARTITIONS_ASSIGNMENT) } }, // assignments
    ],
    tagged: &[
    ],
};

static DELETE_GROUPS: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 0, until: 2, shape: Shape::Array { nullable: false, element: &Shape::Text { nullable: false } } }, // groups_names
    ],
    tagged: &[
    ],
};

static INCREMENTAL_ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE: Layout = Layout {
    flexible_since: 1,
    fields: &[
        Field { since: 0, until: 1, shape: Shape::Fixed(1) }, // resource_type
        Field { since: 0, until: 1, shape: Shape::Text { nullable: false } }, // resource_name
        Field { since: 0, until: 1, shape: Shape::Array { nullable: false, element: &Shape::Struct(&INCREMENTAL_ALTER_CONFIGS_ALTERABLE_CONFIG) } }, // configs
    ],
    tagged: &[
    ],
};

static INCREMENTAL_ALTER_CONFIGS_ALTERABLE_CONFIG: Layout = Layout {
    flexible_since: 1,
    fields: &[
        Field { since: 0, until: 1, shape: Shape::Text { nullable: false } }, // name
        Field { since: 0, until: 1, shape: Shape::Fixed(1) }, // config_operation
        Field { since: 0, until: 1, shape: Shape::Text { nullable: true } }, // value
    ],
    tagged: &[
    ],
};

static INCREMENTAL_ALTER_CONFIGS: Layout = Layout {
    flexible_since: 1,
    fields: &[
        Field { since: 0, until: 1, shape: Shape::Array { nullable: false, element: &Shape::Struct(&INCREMENTAL_ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE) } }, // resources
        Field { since: 0, until: 1, shape: Shape::Fixed(1) }, // validate_only
    ],
    tagged: &[
    ],
};

static OFFSET_DELETE: Layout = Layout {
    flexible_since: NEVER,
    fields: &[
        Field { since: 0, until: 0, shape: Shape::Text { nullable: false } }, // group_id
        Field { since: 0, until: 0, shape: Shape::Array { nullable: false, element: &Shape::Struct(&OFFSET_DELETE_OFFSET_DELETE_REQUEST_TOPIC) } }, // topics
    ],
    tagged: &[
    ],
};

static OFFSET_DELETE_OFFSET_DELETE_REQUEST_PARTITION: Layout = Layout {
    flexible_since: NEVER,
    fields: &[
        Field { since: 0, until: 0, shape: Shape::Fixed(4) }, // partition_index
    ],
    tagged: &[
    ],
};

static OFFSET_DELETE_OFFSET_DELETE_REQUEST_TOPIC: Layout = Layout {
    flexible_since: NEVER,
    fields: &[
        Field { since: 0, until: 0, shape: Shape::Text { nullable: false } }, // name
        Field { since: 0, until: 0, shape: Shape::Array { nullable: false, element: &Shape::Struct(&OFFSET_DELETE_OFFSET_DELETE_REQUEST_PARTITION) } }, // partitions
    ],
    tagged: &[
    ],
};

static DESCRIBE_CLUSTER: Layout = Layout {
    flexible_since: 0,
    fields: &[
        Field { since: 0, until: 2, shape: Shape::Fixed(1) }, // include_cluster_authorized_operations
        Field { since: 1, until: 2, shape: Shape::Fixed(1) }, // endpoint_type
        Field { since: 2, until: 2, shape: Shape::Fixed(1) }, // include_fenced_brokers
    ],
    tagged: &[
    ],
};

static GET_TELEMETRY_SUBSCRIPTIONS: Layout = Layout {
    flexible_since: 0,
    fields: &[
        Field { since: 0, until: 0, shape: Shape::Fixed(16) }, // client_instance_id
    ],
    tagged: &[
    ],
};

static PUSH_TELEMETRY: Layout = Layout {
    flexible_since: 0,
    fields: &[
        Field { since: 0, until: 0, shape: Shape::Fixed(16) }, // client_instance_id
        Field { since: 0, until: 0, shape: Shape::Fixed(4) }, // subscription_id
        Field { since: 0, until: 0, shape: Shape::Fixed(1) }, // terminating
        Field { since: 0, until: 0, shape: Shape::Fixed(1) }, // compression_type
        Field { since: 0, until: 0, shape: Shape::Blob { nullable: false } }, // metrics
    ],
    tagged: &[
    ],
};

static DESCRIBE_TOPIC_PARTITIONS_CURSOR: Layout = Layout {
    flexible_since: 0,
    fields: &[
        Field { since: 0, until: 0, shape: Shape::Text { nullable: false } }, // topic_name
        Field { since: 0, until: 0, shape: Shape::Fixed(4) }, // partition_index
    ],
    tagged: &[
    ],
};

static DESCRIBE_TOPIC_PARTITIONS: Layout = Layout {
    flexible_since: 0,
    fields: &[
        Field { since: 0, until: 0, shape: Shape::Array { nullable: false, element: &Shape::Struct(&DESCRIBE_TOPIC_PARTITIONS_TOPIC_REQUEST) } }, // topics
        Field { since: 0, until: 0, shape: Shape::Fixed(4) }, // response_partition_limit
        Field { since: 0, until: 0, shape: Shape::Option(&DESCRIBE_TOPIC_PARTITIONS_CURSOR) }, // cursor
    ],
    tagged: &[
    ],
};

static DESCRIBE_TOPIC_PARTITIONS_TOPIC_REQUEST: Layout = Layout {
    flexible_since: 0,
    fields: &[
        Field { since: 0, until: 0, shape: Shape::Text { nullable: false } }, // name
    ],
    tagged: &[
    ],
};

static CREATE_DELEGATION_TOKEN_CREATABLE_RENEWERS: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 1, until: 3, shape: Shape::Text { nullable: false } }, // principal_type
        Field { since: 1, until: 3, shape: Shape::Text { nullable: false } }, // principal_name
    ],
    tagged: &[
    ],
};

static CREATE_DELEGATION_TOKEN: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 3, until: 3, shape: Shape::Text { nullable: true } }, // owner_principal_type
        Field { since: 3, until: 3, shape: Shape::Text { nullable: true } }, // owner_principal_name
        Field { since: 1, until: 3, shape: Shape::Array { nullable: false, element: &Shape::Struct(&CREATE_DELEGATION_TOKEN_CREATABLE_RENEWERS) } }, // renewers
        Field { since: 1, until: 3, shape: Shape::Fixed(8) }, // max_lifetime_ms
    ],
    tagged: &[
    ],
};

static RENEW_DELEGATION_TOKEN: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 1, until: 2, shape: Shape::Blob { nullable: false } }, // hmac
        Field { since: 1, until: 2, shape: Shape::Fixed(8) }, // renew_period_ms
    ],
    tagged: &[
    ],
};

static EXPIRE_DELEGATION_TOKEN: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 1, until: 2, shape: Shape::Blob { nullable: false } }, // hmac
        Field { since: 1, until: 2, shape: Shape::Fixed(8) }, // expiry_time_period_ms
    ],
    tagged: &[
    ],
};

static DESCRIBE_DELEGATION_TOKEN_DESCRIBE_DELEGATION_TOKEN_OWNER: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 1, until: 3, shape: Shape::Text { nullable: false } }, // principal_type
        Field { since: 1, until: 3, shape: Shape::Text { nullable: false } }, // principal_name
    ],
    tagged: &[
    ],
};

static DESCRIBE_DELEGATION_TOKEN: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 1, until: 3, shape: Shape::Array { nullable: true, element: &Shape::Struct(&DESCRIBE_DELEGATION_TOKEN_DESCRIBE_DELEGATION_TOKEN_OWNER) } }, // owners
    ],
    tagged: &[
    ],
};

static DESCRIBE_ACLS: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 1, until: 3, shape: Shape::Fixed(1) }, // resource_type_filter
        Field { since: 1, until: 3, shape: Shape::Text { nullable: true } }, // resource_name_filter
        Field { since: 1, until: 3, shape: Shape::Fixed(1) }, // pattern_type_filter
        Field { since: 1, until: 3, shape: Shape::Text { nullable: true } }, // principal_filter
        Field { since: 1, until: 3, shape: Shape::Text { nullable: true } }, // host_filter
        Field { since: 1, until: 3, shape: Shape::Fixed(1) }, // operation
        Field { since: 1, until: 3, shape: Shape::Fixed(1) }, // permission_type
    ],
    tagged: &[
    ],
};

static CREATE_ACLS_ACL_CREATION: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 1, until: 3, shape: Shape::Fixed(1) }, // resource_type
        Field { since: 1, until: 3, shape: Shape::Text { nullable: false } }, // resource_name
        Field { since: 1, until: 3, shape: Shape::Fixed(1) }, // resource_pattern_type
        Field { since: 1, until: 3, shape: Shape::Text { nullable: false } }, // principal
        Field { since: 1, until: 3, shape: Shape::Text { nullable: false } }, // host
        Field { since: 1, until: 3, shape: Shape::Fixed(1) }, // operation
        Field { since: 1, until: 3, shape: Shape::Fixed(1) }, // permission_type
    ],
    tagged: &[
    ],
};

static CREATE_ACLS: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 1, until: 3, shape: Shape::Array { nullable: false, element: &Shape::Struct(&CREATE_ACLS_ACL_CREATION) } }, // creations
    ],
    tagged: &[
    ],
};

static DELETE_ACLS_DELETE_ACLS_FILTER: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 1, until: 3, shape: Shape::Fixed(1) }, // resource_type_filter
        Field { since: 1, until: 3, shape: Shape::Text { nullable: true } }, // resource_name_filter
        Field { since: 1, until: 3, shape: Shape::Fixed(1) }, // pattern_type_filter
        Field { since: 1, until: 3, shape: Shape::Text { nullable: true } }, // principal_filter
        Field { since: 1, until: 3, shape: Shape::Text { nullable: true } }, // host_filter
        Field { since: 1, until: 3, shape: Shape::Fixed(1) }, // operation
        Field { since: 1, until: 3, shape: Shape::Fixed(1) }, // permission_type
    ],
    tagged: &[
    ],
};

static DELETE_ACLS: Layout = Layout {
    flexible_since: 2,
    fields: &[
        Field { since: 1, until: 3, shape: Shape::Array { nullable: false, element: &Shape::Struct(&DELETE_ACLS_DELETE_ACLS_FILTER) } }, // filters
    ],
    tagged: &[
    ],
};

static DESCRIBE_CLIENT_QUOTAS_COMPONENT_DATA: Layout = Layout {
    flexible_since: 1,
    fields: &[
        Field { since: 0, until: 1, shape: Shape::Text { nullable: false } }, // entity_type
        Field { since: 0, until: 1, shape: Shape::Fixed(1) }, // match_type
        Field { since: 0, until: 1, shape: Shape::Text { nullable: true } }, // _match
    ],
    tagged: &[
    ],
};

static DESCRIBE_CLIENT_QUOTAS: Layout = Layout {
    flexible_since: 1,
    fields: &[
        Field { since: 0, until: 1, shape: Shape::Array { nullable: false, element: &Shape::Struct(&DESCRIBE_CLIENT_QUOTAS_COMPONENT_DATA) } }, // components
        Field { since: 0, until: 1, shape: Shape::Fixed(1) }, // strict
    ],
    tagged: &[
    ],
};

static DESCRIBE_USER_SCRAM_CREDENTIALS: Layout = Layout {
    flexible_since: 0,
    fields: &[
        Field { since: 0, until: 0, shape: Shape::Array { nullable: true, element: &Shape::Struct(&DESCRIBE_USER_SCRAM_CREDENTIALS_USER_NAME) } }, // users
    ],
    tagged: &[
    ],
};

static DESCRIBE_USER_SCRAM_CREDENTIALS_USER_NAME: Layout = Layout {
    flexible_since: 0,
    fields: &[
        Field { since: 0, until: 0, shape: Shape::Text { nullable: false } }, // name
    ],
    tagged: &[
    ],
};

static ALTER_USER_SCRAM_CREDENTIALS: Layout = Layout {
    flexible_since: 0,
    fields: &[
        Field { since: 0, until: 0, shape: Shape::Array { nullable: false, element: &Shape::Struct(&ALTER_USER_SCRAM_CREDENTIALS_SCRAM_CREDENTIAL_DELETION) } }, // deletions
        Field { since: 0, until: 0, shape: Shape::Array { nullable: false, element: &Shape::Struct(&ALTER_USER_SCRAM_CREDENTIALS_SCRAM_CREDENTIAL_UPSERTION) } }, // upsertions
    ],
    tagged: &[
    ],
};

static ALTER_USER_SCRAM_CREDENTIALS_SCRAM_CREDENTIAL_DELETION: Layout = Layout {
    flexible_since: 0,
    fields: &[
        Field { since: 0, until: 0, shape: Shape::Text { nullable: false } }, // name
        Field { since: 0, until: 0, shape: Shape::Fixed(1) }, // mechanism
    ],
    tagged: &[
    ],
};

static ALTER_USER_SCRAM_CREDENTIALS_SCRAM_CREDENTIAL_UPSERTION: Layout = Layout {
    flexible_since: 0,
    fields: &[
        Field { since: 0, until: 0, shape: Shape::Text { nullable: false } }, // name
        Field { since: 0, until: 0, shape: Shape::Fixed(1) }, // mechanism
        Field { since: 0, until: 0, shape: Shape::Fixed(4) }, // iterations
        Field { since: 0, until: 0, shape: Shape::Blob { nullable: false } }, // salt
        Field { since: 0, until: 0, shape: Shape::Blob { nullable: false } }, // salted_password
    ],
    tagged: &[
    ],
};

/// The layout of the request with this key, if it is one of ours.
pub(super) fn of_request(api_key: i16) -> Option<&'static Layout> {
    match api_key {
        0 => Some(&PRODUCE),
        1 => Some(&FETCH),
        2 => Some(&LIST_OFFSETS),
        3 => Some(&METADATA),
        8 => Some(&OFFSET_COMMIT),
        9 => Some(&OFFSET_FETCH),
        10 => Some(&FIND_COORDINATOR),
        11 => Some(&JOIN_GROUP),
        12 => Some(&HEARTBEAT),
        13 => Some(&LEAVE_GROUP),
        14 => Some(&SYNC_GROUP),
        15 => Some(&DESCRIBE_GROUPS),
        16 => Some(&LIST_GROUPS),
        17 => Some(&SASL_HANDSHAKE),
        18 => Some(&API_VERSIONS),
        19 => Some(&CREATE_TOPICS),
        20 => Some(&DELETE_TOPICS),
        21 => Some(&DELETE_RECORDS),
        22 => Some(&INIT_PRODUCER_ID),
        23 => Some(&OFFSET_FOR_LEADER_EPOCH),
        29 => Some(&DESCRIBE_ACLS),
        30 => Some(&CREATE_ACLS),
        31 => Some(&DELETE_ACLS),
        32 => Some(&DESCRIBE_CONFIGS),
        33 => Some(&ALTER_CONFIGS),
        35 => Some(&DESCRIBE_LOG_DIRS),
        36 => Some(&SASL_AUTHENTICATE),
        37 => Some(&CREATE_PARTITIONS),
        38 => Some(&CREATE_DELEGATION_TOKEN),
        39 => Some(&RENEW_DELEGATION_TOKEN),
        40 => Some(&EXPIRE_DELEGATION_TOKEN),
        41 => Some(&DESCRIBE_DELEGATION_TOKEN),
        42 => Some(&DELETE_GROUPS),
        44 => Some(&INCREMENTAL_ALTER_CONFIGS),
        47 => Some(&OFFSET_DELETE),
        48 => Some(&DESCRIBE_CLIENT_QUOTAS),
        50 => Some(&DESCRIBE_USER_SCRAM_CREDENTIALS),
        51 => Some(&ALTER_USER_SCRAM_CREDENTIALS),
        60 => Some(&DESCRIBE_CLUSTER),
        71 => Some(&GET_TELEMETRY_SUBSCRIPTIONS),
        72 => Some(&PUSH_TELEMETRY),
        75 => Some(&DESCRIBE_TOPIC_PARTITIONS),
        _ => None,
    }
}
