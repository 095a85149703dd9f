//! Which checks each Kafka API makes: the matrix, as facts of Apache Kafka and Amazon MSK.
//!
//! `policies/api-matrix.json` is the reviewed golden file; a test holds this table against it, row by row. An API key
//! without a row may not be served.

use crate::action::{AclOperation as Op, Action as A};

use AclResource as On;

/// The checks of one API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    /// The key on the wire.
    pub key: i16,
    /// Kafka's name.
    pub name: &'static str,
    /// In the order Kafka makes them; none where authentication alone is asked for, or nothing.
    pub checks: &'static [Check],
}

/// One check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// The ACL operation Kafka asks for.
    pub operation: Op,
    /// The resource type Kafka asks it on.
    pub on: AclResource,
    /// The action that grants it; `None` for what no tenant can be granted (CLUSTER_ACTION).
    pub action: Option<A>,
    /// When it is made.
    pub when: &'static str,
    /// Kafka's error code on a denial; `None` where the denied thing is left out, a bit stays 0, or the next check decides.
    pub on_deny: Option<i16>,
}

/// Kafka's ACL resource types; the discriminant is the number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AclResource {
    Topic = 2,
    Group = 3,
    Cluster = 4,
    TransactionalId = 5,
    DelegationToken = 6,
    User = 7,
}

/// The row of an API key.
#[must_use]
pub fn api(key: i16) -> Option<&'static Api> {
    MATRIX.binary_search_by_key(&key, |api| api.key).ok().and_then(|at| MATRIX.get(at))
}

const fn row(key: i16, name: &'static str, checks: &'static [Check]) -> Api {
    Api { key, name, checks }
}

const fn check(operation: Op, on: On, action: Option<A>, when: &'static str, on_deny: Option<i16>) -> Check {
    Check { operation, on, action, when, on_deny }
}

/// Every client-facing API of Kafka 4.2, by key.
#[rustfmt::skip]
pub const MATRIX: &[Api] = &[
    row(0, "Produce", &[
        check(Op::Write, On::TransactionalId, Some(A::AlterTransactionalId), "only if transactional", Some(53)),
        check(Op::Write, On::Topic, Some(A::WriteData), "per topic", Some(29)),
    ]),
    row(1, "Fetch", &[
        check(Op::Read, On::Topic, Some(A::ReadData), "consumer", Some(29)),
        check(Op::ClusterAction, On::Cluster, None, "replica id >=0", Some(29)),
    ]),
    row(2, "ListOffsets", &[
        check(Op::Describe, On::Topic, Some(A::DescribeTopic), "per topic", Some(29)),
    ]),
    row(3, "Metadata", &[
        check(Op::Describe, On::Topic, Some(A::DescribeTopic), "per topic", Some(29)),
        check(Op::Create, On::Topic, Some(A::CreateTopic), "auto-create only (CREATE CLUSTER tried first)", Some(29)),
        check(Op::Describe, On::Cluster, Some(A::DescribeCluster), "v8-10 clusterAuthorizedOperations", None),
    ]),
    row(8, "OffsetCommit", &[
        check(Op::Read, On::Group, Some(A::AlterGroup), "always", Some(30)),
        check(Op::Read, On::Topic, Some(A::ReadData), "per topic", Some(29)),
    ]),
    row(9, "OffsetFetch", &[
        check(Op::Describe, On::Group, Some(A::DescribeGroup), "per group", Some(30)),
        check(Op::Describe, On::Topic, Some(A::DescribeTopic), "per topic; all-offsets request filters silently", Some(29)),
    ]),
    row(10, "FindCoordinator", &[
        check(Op::Describe, On::Group, Some(A::DescribeGroup), "key type group", Some(30)),
        check(Op::Describe, On::TransactionalId, Some(A::DescribeTransactionalId), "key type transaction", Some(53)),
        check(Op::ClusterAction, On::Cluster, None, "key type share", Some(31)),
    ]),
    row(11, "JoinGroup", &[
        check(Op::Read, On::Group, Some(A::AlterGroup), "always", Some(30)),
    ]),
    row(12, "Heartbeat", &[
        check(Op::Read, On::Group, Some(A::AlterGroup), "always", Some(30)),
    ]),
    row(13, "LeaveGroup", &[
        check(Op::Read, On::Group, Some(A::AlterGroup), "always", Some(30)),
    ]),
    row(14, "SyncGroup", &[
        check(Op::Read, On::Group, Some(A::AlterGroup), "always", Some(30)),
    ]),
    row(15, "DescribeGroups", &[
        check(Op::Describe, On::Group, Some(A::DescribeGroup), "per group", Some(30)),
    ]),
    row(16, "ListGroups", &[
        check(Op::Describe, On::Cluster, Some(A::DescribeCluster), "grants all", None),
        check(Op::Describe, On::Group, Some(A::DescribeGroup), "else filter per group", None),
    ]),
    row(17, "SaslHandshake", &[]),
    row(18, "ApiVersions", &[]),
    row(19, "CreateTopics", &[
        check(Op::Create, On::Cluster, Some(A::CreateTopic), "tried first", None),
        check(Op::Create, On::Topic, Some(A::CreateTopic), "else per topic", Some(29)),
        check(Op::DescribeConfigs, On::Topic, Some(A::DescribeTopicDynamicConfiguration), "v5+ config echo", Some(29)),
    ]),
    row(20, "DeleteTopics", &[
        check(Op::Delete, On::Cluster, Some(A::DeleteTopic), "tried first", None),
        check(Op::Describe, On::Topic, Some(A::DescribeTopic), "by id without DESCRIBE", Some(29)),
        check(Op::Delete, On::Topic, Some(A::DeleteTopic), "per topic", Some(29)),
    ]),
    row(21, "DeleteRecords", &[
        check(Op::Delete, On::Topic, Some(A::DeleteTopic), "per topic", Some(29)),
    ]),
    row(22, "InitProducerId", &[
        check(Op::Write, On::TransactionalId, Some(A::AlterTransactionalId), "transactional", Some(53)),
        check(Op::TwoPhaseCommit, On::TransactionalId, Some(A::TwoPhaseCommit), "enable2Pc", Some(53)),
        check(Op::IdempotentWrite, On::Cluster, Some(A::WriteDataIdempotently), "not transactional; OR WRITE on ANY topic (authorizeByResourceType)", Some(31)),
    ]),
    row(23, "OffsetForLeaderEpoch", &[
        check(Op::Describe, On::Topic, Some(A::DescribeTopic), "per topic (CLUSTER_ACTION grants all)", Some(29)),
    ]),
    row(24, "AddPartitionsToTxn", &[
        check(Op::Write, On::TransactionalId, Some(A::AlterTransactionalId), "v0-3", Some(53)),
        check(Op::Write, On::Topic, Some(A::WriteData), "per topic", Some(29)),
        check(Op::ClusterAction, On::Cluster, None, "v4+ (broker to broker)", Some(31)),
    ]),
    row(25, "AddOffsetsToTxn", &[
        check(Op::Write, On::TransactionalId, Some(A::AlterTransactionalId), "always", Some(53)),
        check(Op::Read, On::Group, Some(A::AlterGroup), "always", Some(30)),
    ]),
    row(26, "EndTxn", &[
        check(Op::Write, On::TransactionalId, Some(A::AlterTransactionalId), "always", Some(53)),
    ]),
    row(27, "WriteTxnMarkers", &[
        check(Op::Alter, On::Cluster, Some(A::AlterCluster), "tried first (KIP-1037, 3.8+)", None),
        check(Op::ClusterAction, On::Cluster, None, "else", Some(31)),
    ]),
    row(28, "TxnOffsetCommit", &[
        check(Op::Write, On::TransactionalId, Some(A::AlterTransactionalId), "always", Some(53)),
        check(Op::Read, On::Group, Some(A::AlterGroup), "always", Some(30)),
        check(Op::Read, On::Topic, Some(A::ReadData), "per topic", Some(29)),
    ]),
    row(29, "DescribeAcls", &[
        check(Op::Describe, On::Cluster, Some(A::DescribeCluster), "always", Some(31)),
    ]),
    row(30, "CreateAcls", &[
        check(Op::Alter, On::Cluster, Some(A::AlterCluster), "always", Some(31)),
    ]),
    row(31, "DeleteAcls", &[
        check(Op::Alter, On::Cluster, Some(A::AlterCluster), "always", Some(31)),
    ]),
    row(32, "DescribeConfigs", &[
        check(Op::DescribeConfigs, On::Topic, Some(A::DescribeTopicDynamicConfiguration), "type TOPIC", Some(29)),
        check(Op::DescribeConfigs, On::Cluster, Some(A::DescribeClusterDynamicConfiguration), "types BROKER, BROKER_LOGGER, CLIENT_METRICS", Some(31)),
        check(Op::DescribeConfigs, On::Group, Some(A::DescribeGroupDynamicConfiguration), "type GROUP", Some(30)),
    ]),
    row(33, "AlterConfigs", &[
        check(Op::AlterConfigs, On::Topic, Some(A::AlterTopicDynamicConfiguration), "type TOPIC", Some(29)),
        check(Op::AlterConfigs, On::Cluster, Some(A::AlterClusterDynamicConfiguration), "BROKER, BROKER_LOGGER, CLIENT_METRICS", Some(31)),
        check(Op::AlterConfigs, On::Group, Some(A::AlterGroupDynamicConfiguration), "type GROUP", Some(30)),
    ]),
    row(34, "AlterReplicaLogDirs", &[
        check(Op::Alter, On::Cluster, Some(A::AlterCluster), "always", Some(31)),
    ]),
    row(35, "DescribeLogDirs", &[
        check(Op::Describe, On::Cluster, Some(A::DescribeCluster), "always", Some(31)),
    ]),
    row(36, "SaslAuthenticate", &[]),
    row(37, "CreatePartitions", &[
        check(Op::Alter, On::Topic, Some(A::AlterTopic), "per topic", Some(29)),
    ]),
    row(38, "CreateDelegationToken", &[
        check(Op::CreateTokens, On::User, Some(A::CreateDelegationToken), "only when owner != requester", Some(65)),
    ]),
    row(39, "RenewDelegationToken", &[]),
    row(40, "ExpireDelegationToken", &[]),
    row(41, "DescribeDelegationToken", &[
        check(Op::Describe, On::DelegationToken, Some(A::DescribeDelegationToken), "per token not owned", None),
        check(Op::DescribeTokens, On::User, Some(A::DescribeDelegationToken), "per owner asked for", None),
    ]),
    row(42, "DeleteGroups", &[
        check(Op::Delete, On::Group, Some(A::DeleteGroup), "per group", Some(30)),
    ]),
    row(43, "ElectLeaders", &[
        check(Op::Alter, On::Cluster, Some(A::AlterCluster), "always", Some(31)),
    ]),
    row(44, "IncrementalAlterConfigs", &[
        check(Op::AlterConfigs, On::Topic, Some(A::AlterTopicDynamicConfiguration), "type TOPIC", Some(29)),
        check(Op::AlterConfigs, On::Cluster, Some(A::AlterClusterDynamicConfiguration), "BROKER, BROKER_LOGGER, CLIENT_METRICS", Some(31)),
        check(Op::AlterConfigs, On::Group, Some(A::AlterGroupDynamicConfiguration), "type GROUP", Some(30)),
    ]),
    row(45, "AlterPartitionReassignments", &[
        check(Op::Alter, On::Cluster, Some(A::AlterCluster), "always", Some(31)),
    ]),
    row(46, "ListPartitionReassignments", &[
        check(Op::Describe, On::Cluster, Some(A::DescribeCluster), "always", Some(31)),
    ]),
    row(47, "OffsetDelete", &[
        check(Op::Delete, On::Group, Some(A::DeleteGroup), "always", Some(30)),
        check(Op::Read, On::Topic, Some(A::ReadData), "per topic", Some(29)),
    ]),
    row(48, "DescribeClientQuotas", &[
        check(Op::DescribeConfigs, On::Cluster, Some(A::DescribeClusterDynamicConfiguration), "always", Some(31)),
    ]),
    row(49, "AlterClientQuotas", &[
        check(Op::AlterConfigs, On::Cluster, Some(A::AlterClusterDynamicConfiguration), "always", Some(31)),
    ]),
    row(50, "DescribeUserScramCredentials", &[
        check(Op::Describe, On::Cluster, Some(A::DescribeCluster), "always", Some(31)),
    ]),
    row(51, "AlterUserScramCredentials", &[
        check(Op::Alter, On::Cluster, Some(A::AlterCluster), "always", Some(31)),
    ]),
    row(55, "DescribeQuorum", &[
        check(Op::Describe, On::Cluster, Some(A::DescribeCluster), "always", Some(31)),
    ]),
    row(57, "UpdateFeatures", &[
        check(Op::Alter, On::Cluster, Some(A::AlterCluster), "always", Some(31)),
    ]),
    row(60, "DescribeCluster", &[
        check(Op::Describe, On::Cluster, Some(A::DescribeCluster), "broker: only for the authorizedOperations bitfield", None),
    ]),
    row(61, "DescribeProducers", &[
        check(Op::Read, On::Topic, Some(A::ReadData), "per topic", Some(29)),
    ]),
    row(64, "UnregisterBroker", &[
        check(Op::Alter, On::Cluster, Some(A::AlterCluster), "always", Some(31)),
    ]),
    row(65, "DescribeTransactions", &[
        check(Op::Describe, On::TransactionalId, Some(A::DescribeTransactionalId), "per id", Some(53)),
        check(Op::Describe, On::Topic, Some(A::DescribeTopic), "per topic in the result", None),
    ]),
    row(66, "ListTransactions", &[
        check(Op::Describe, On::TransactionalId, Some(A::DescribeTransactionalId), "per id", None),
    ]),
    row(68, "ConsumerGroupHeartbeat", &[
        check(Op::Read, On::Group, Some(A::AlterGroup), "always", Some(30)),
        check(Op::Describe, On::Topic, Some(A::DescribeTopic), "every subscribed name", Some(29)),
    ]),
    row(69, "ConsumerGroupDescribe", &[
        check(Op::Describe, On::Group, Some(A::DescribeGroup), "per group", Some(30)),
        check(Op::Describe, On::Topic, Some(A::DescribeTopic), "every topic in the assignment", Some(29)),
    ]),
    row(71, "GetTelemetrySubscriptions", &[]),
    row(72, "PushTelemetry", &[]),
    row(74, "ListConfigResources", &[
        check(Op::DescribeConfigs, On::Cluster, Some(A::DescribeClusterDynamicConfiguration), "always", Some(31)),
    ]),
    row(75, "DescribeTopicPartitions", &[
        check(Op::Describe, On::Topic, Some(A::DescribeTopic), "per topic", Some(29)),
    ]),
    row(76, "ShareGroupHeartbeat", &[
        check(Op::Read, On::Group, Some(A::AlterGroup), "always", Some(30)),
        check(Op::Describe, On::Topic, Some(A::DescribeTopic), "every subscribed name", Some(29)),
    ]),
    row(77, "ShareGroupDescribe", &[
        check(Op::Describe, On::Group, Some(A::DescribeGroup), "per group", Some(30)),
        check(Op::Describe, On::Topic, Some(A::DescribeTopic), "every topic in the assignment", Some(29)),
    ]),
    row(78, "ShareFetch", &[
        check(Op::Read, On::Group, Some(A::AlterGroup), "always", Some(30)),
        check(Op::Read, On::Topic, Some(A::ReadData), "per topic", Some(29)),
    ]),
    row(79, "ShareAcknowledge", &[
        check(Op::Read, On::Group, Some(A::AlterGroup), "always", Some(30)),
        check(Op::Read, On::Topic, Some(A::ReadData), "per topic", Some(29)),
    ]),
    row(80, "AddRaftVoter", &[
        check(Op::Alter, On::Cluster, Some(A::AlterCluster), "always", Some(31)),
    ]),
    row(81, "RemoveRaftVoter", &[
        check(Op::Alter, On::Cluster, Some(A::AlterCluster), "always", Some(31)),
    ]),
    row(83, "InitializeShareGroupState", &[
        check(Op::ClusterAction, On::Cluster, None, "always", Some(31)),
    ]),
    row(84, "ReadShareGroupState", &[
        check(Op::ClusterAction, On::Cluster, None, "always", Some(31)),
    ]),
    row(85, "WriteShareGroupState", &[
        check(Op::ClusterAction, On::Cluster, None, "always", Some(31)),
    ]),
    row(86, "DeleteShareGroupState", &[
        check(Op::ClusterAction, On::Cluster, None, "always", Some(31)),
    ]),
    row(87, "ReadShareGroupStateSummary", &[
        check(Op::ClusterAction, On::Cluster, None, "always", Some(31)),
    ]),
    row(88, "StreamsGroupHeartbeat", &[
        check(Op::Read, On::Group, Some(A::AlterGroup), "always", Some(30)),
        check(Op::Describe, On::Topic, Some(A::DescribeTopic), "source and other required topics", Some(29)),
        check(Op::Create, On::Topic, Some(A::CreateTopic), "internal topics to create (CREATE CLUSTER tried first)", None),
    ]),
    row(89, "StreamsGroupDescribe", &[
        check(Op::Describe, On::Group, Some(A::DescribeGroup), "per group", Some(30)),
        check(Op::Describe, On::Topic, Some(A::DescribeTopic), "every topic", Some(29)),
    ]),
    row(90, "DescribeShareGroupOffsets", &[
        check(Op::Describe, On::Group, Some(A::DescribeGroup), "per group", Some(30)),
        check(Op::Describe, On::Topic, Some(A::DescribeTopic), "per topic; all-topics filters", Some(29)),
    ]),
    row(91, "AlterShareGroupOffsets", &[
        check(Op::Read, On::Group, Some(A::AlterGroup), "always", Some(30)),
        check(Op::Read, On::Topic, Some(A::ReadData), "per topic", Some(29)),
    ]),
    row(92, "DeleteShareGroupOffsets", &[
        check(Op::Delete, On::Group, Some(A::DeleteGroup), "always", Some(30)),
        check(Op::Read, On::Topic, Some(A::ReadData), "per topic", Some(29)),
    ]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_golden_file() {
        let golden: serde_json::Value = serde_json::from_str(include_str!("../../policies/api-matrix.json")).unwrap();
        let golden = golden.as_array().unwrap();
        assert_eq!(golden.len(), MATRIX.len());
        for (wanted, api) in golden.iter().zip(MATRIX) {
            assert_eq!((&wanted["key"], &wanted["name"]), (&api.key.into(), &api.name.into()));
            let checks = wanted["checks"].as_array().unwrap();
            assert_eq!(checks.len(), api.checks.len(), "{}", api.name);
            for (wanted, check) in checks.iter().zip(api.checks) {
                let plain = |name: &str| name.replace('_', "").to_lowercase();
                assert_eq!(
                    plain(wanted["operation"].as_str().unwrap()),
                    format!("{:?}", check.operation).to_lowercase()
                );
                assert_eq!(plain(wanted["resource"].as_str().unwrap()), format!("{:?}", check.on).to_lowercase());
                assert_eq!(wanted["action"].as_str(), check.action.map(A::name));
                assert_eq!(wanted["when"], check.when);
                assert_eq!(wanted["on_deny"].as_i64(), check.on_deny.map(i64::from));
            }
        }
    }

    #[test]
    fn keys_rise_and_are_found() {
        assert!(MATRIX.windows(2).all(|pair| pair[0].key < pair[1].key));
        assert_eq!(api(1).map(|a| a.name), Some("Fetch"));
        assert_eq!(api(4), None);
    }

    #[test]
    fn only_cluster_action_has_no_action() {
        for check in MATRIX.iter().flat_map(|api| api.checks) {
            assert_eq!(check.action.is_none(), check.operation == Op::ClusterAction);
        }
    }

    #[test]
    fn every_action_but_connect_is_asked_for_by_some_api() {
        for action in A::ALL.iter().filter(|a| **a != A::Connect) {
            assert!(MATRIX.iter().flat_map(|api| api.checks).any(|c| c.action == Some(*action)), "{action}");
        }
    }
}
