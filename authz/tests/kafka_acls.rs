//! Kafka ACLs decide for Kafka principals as Kafka's StandardAuthorizer does, and for nobody else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schloss_authz::acl::{AclEntry, PatternType, of_policies};
use schloss_authz::policy::Library;
use schloss_authz::{
    AclOperation as Op, Action, Engine, Keys, Organisation, RequestContext, ResourceKind, ResourceRef,
};

const TENANT: &str = "account = \"111111111111\"\nkms_key = \"local:a\"\nhosts = [\"a.example\"]\n[cluster]\nname = \"a\"\nuuid = \"u-1\"\nregion = \"r\"\n";

fn engine(files: &[(&str, &str)]) -> Engine {
    let mut set = BTreeMap::from([("tenants/a/tenant.toml".to_owned(), TENANT.to_owned())]);
    set.extend(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())));
    Engine::new(Organisation::load(&set, &mut Library::default()).unwrap_or_else(|f| panic!("{f:?}"))).unwrap()
}

fn entry(kind: ResourceKind, name: &str, operation: Option<Op>) -> AclEntry {
    AclEntry {
        kind,
        name: name.to_owned(),
        pattern: PatternType::Literal,
        principal: "User:ann".to_owned(),
        host: "*".to_owned(),
        operation,
        denies: false,
    }
}

fn from(address: &str) -> RequestContext {
    RequestContext::connection(Keys::new(), address.parse::<IpAddr>().unwrap(), 1_800_000_000_000)
}

/// Whether `User:ann` may, from 10.0.0.1.
fn may(entries: &[AclEntry], action: Action, resource: ResourceRef<'_>) -> bool {
    may_from("10.0.0.1", entries, action, resource)
}

fn may_from(address: &str, entries: &[AclEntry], action: Action, resource: ResourceRef<'_>) -> bool {
    let engine = engine(&[]);
    engine.set_acls("111111111111".parse().unwrap(), entries.into());
    let organisation = engine.organisation();
    let ann = organisation.tenants().next().unwrap().kafka_user("ann");
    engine.bind(&ann).unwrap().decide(action, resource, &from(address)).is_allowed()
}

#[test]
fn without_entries_a_kafka_principal_may_connect_and_nothing_else() {
    assert!(may(&[], Action::Connect, ResourceRef::CLUSTER));
    for action in Action::ALL.iter().filter(|action| **action != Action::Connect) {
        assert!(!may(&[], *action, ResourceRef { kind: action.resource(), name: "x" }), "{action}");
    }
}

#[test]
fn literal_prefixed_and_wildcard_names_are_told_apart() {
    let read = entry(ResourceKind::Topic, "orders", Some(Op::Read));
    let topic = ResourceRef::topic;
    let literal = [read.clone()];
    assert!(may(&literal, Action::ReadData, topic("orders")));
    assert!(!may(&literal, Action::ReadData, topic("orders-eu")));
    let prefixed = [AclEntry { pattern: PatternType::Prefixed, ..read.clone() }];
    assert!(may(&prefixed, Action::ReadData, topic("orders")) && may(&prefixed, Action::ReadData, topic("orders-eu")));
    assert!(!may(&prefixed, Action::ReadData, topic("order")));
    let every = [AclEntry { name: "*".to_owned(), ..read.clone() }];
    assert!(may(&every, Action::ReadData, topic("anything")));
    assert!(!may(&every, Action::ReadData, ResourceRef::group("orders")));
    // A star that is no wildcard for Kafka is none here.
    let starred = [AclEntry { name: "ord*".to_owned(), ..read }];
    assert!(!may(&starred, Action::ReadData, topic("orders")));
}

#[test]
fn a_group_id_with_slashes_is_one_name() {
    let groups = [entry(ResourceKind::Group, "b", Some(Op::Read))];
    assert!(may(&groups, Action::AlterGroup, ResourceRef::group("b")));
    assert!(!may(&groups, Action::AlterGroup, ResourceRef::group("a/b")));
}

#[test]
fn allowed_operations_imply_describe_and_denied_ones_do_not() {
    let topic = ResourceRef::topic("t");
    for operation in [Op::Read, Op::Write, Op::Delete, Op::Alter] {
        assert!(
            may(&[entry(ResourceKind::Topic, "t", Some(operation))], Action::DescribeTopic, topic),
            "{operation:?}"
        );
    }
    let configs = [entry(ResourceKind::Topic, "t", Some(Op::AlterConfigs))];
    assert!(may(&configs, Action::DescribeTopicDynamicConfiguration, topic));
    assert!(!may(&configs, Action::DescribeTopic, topic));
    let all_but_read = [
        entry(ResourceKind::Topic, "t", None),
        AclEntry { denies: true, ..entry(ResourceKind::Topic, "t", Some(Op::Read)) },
    ];
    assert!(!may(&all_but_read, Action::ReadData, topic));
    assert!(may(&all_but_read, Action::DescribeTopic, topic) && may(&all_but_read, Action::WriteData, topic));
}

#[test]
fn hosts_are_addresses_and_networks() {
    let topic = ResourceRef::topic("t");
    let with = |host: &str| [AclEntry { host: host.to_owned(), ..entry(ResourceKind::Topic, "t", Some(Op::Read)) }];
    assert!(may_from("10.0.0.1", &with("10.0.0.1"), Action::ReadData, topic));
    assert!(!may_from("10.0.0.2", &with("10.0.0.1"), Action::ReadData, topic));
    assert!(may_from("10.9.9.9", &with("10.0.0.0/8"), Action::ReadData, topic));
    assert!(!may_from("11.0.0.1", &with("10.0.0.0/8"), Action::ReadData, topic));
}

#[test]
fn entries_for_everybody_hold_and_entries_for_others_do_not() {
    let read = entry(ResourceKind::Topic, "t", Some(Op::Read));
    let everybody = [AclEntry { principal: "User:*".to_owned(), ..read.clone() }];
    assert!(may(&everybody, Action::ReadData, ResourceRef::topic("t")));
    let others = [AclEntry { principal: "User:anna".to_owned(), ..read }];
    assert!(!may(&others, Action::ReadData, ResourceRef::topic("t")));
}

#[test]
fn create_on_the_cluster_creates_every_topic() {
    let create = [entry(ResourceKind::Cluster, "kafka-cluster", Some(Op::Create))];
    assert!(may(&create, Action::CreateTopic, ResourceRef::topic("any")));
    assert!(!may(&create, Action::DeleteTopic, ResourceRef::topic("any")));
    let idempotent = [entry(ResourceKind::Cluster, "kafka-cluster", Some(Op::IdempotentWrite))];
    assert!(may(&idempotent, Action::WriteDataIdempotently, ResourceRef::CLUSTER));
}

#[test]
fn guardrails_hold_for_kafka_principals_too() {
    let engine = engine(&[
        ("organisation.toml", "guardrails = [[\"managed/full-access\", \"no-reads\"]]\n"),
        (
            "guardrails/no-reads.json",
            r#"{"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "kafka-cluster:ReadData", "Resource": "*"}}"#,
        ),
    ]);
    engine.set_acls("111111111111".parse().unwrap(), [entry(ResourceKind::Topic, "t", None)].into());
    let ann = engine.organisation().tenants().next().unwrap().kafka_user("ann");
    let session = engine.bind(&ann).unwrap();
    assert!(!session.decide(Action::ReadData, ResourceRef::topic("t"), &from("10.0.0.1")).is_allowed());
    assert!(session.decide(Action::WriteData, ResourceRef::topic("t"), &from("10.0.0.1")).is_allowed());
}

#[test]
fn a_changed_table_makes_sessions_outdated_and_users_do_not_feel_it() {
    let engine = engine(&[("tenants/a/users/ann.toml", "")]);
    let organisation = engine.organisation();
    let tenant = organisation.tenants().next().unwrap();
    let (kafka, user) = (engine.bind(&tenant.kafka_user("ann")).unwrap(), tenant.user("ann").unwrap());
    engine.set_acls(tenant.account(), [entry(ResourceKind::Topic, "t", None)].into());
    assert!(!kafka.is_current());
    let kafka = engine.rebind(&kafka).unwrap();
    assert!(kafka.decide(Action::ReadData, ResourceRef::topic("t"), &from("10.0.0.1")).is_allowed());
    let user = engine.bind(&user).unwrap();
    assert!(!user.decide(Action::ReadData, ResourceRef::topic("t"), &from("10.0.0.1")).is_allowed());
}

#[test]
fn policies_are_told_as_entries_where_entries_can_say_it() {
    let policy = r#"{"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "kafka-cluster:ReadData", "Resource": ["arn:aws:kafka:*:*:topic/a/*/orders", "arn:aws:kafka:*:*:topic/a/u-1/team-*"]},
        {"Effect": "Deny", "Action": "kafka-cluster:DeleteGroup", "Resource": "*"},
        {"Effect": "Allow", "Action": "kafka-cluster:WriteData", "Resource": "arn:aws:kafka:*:*:topic/a/*/x?y"},
        {"Effect": "Allow", "Action": "kafka-cluster:WriteData", "Resource": "arn:aws:kafka:*:*:topic/b/*/orders"},
        {"Effect": "Allow", "Action": "kafka-cluster:WriteData", "Resource": "*", "Condition": {"Bool": {"aws:SecureTransport": "true"}}}]}"#;
    let engine = engine(&[("tenants/a/users/ann.toml", "policies = [\"p\"]\n"), ("tenants/a/policies/p.json", policy)]);
    let ann = engine.organisation().tenants().next().unwrap().user("ann").unwrap();
    let told = of_policies(&engine.bind(&ann).unwrap());
    let wanted = |kind, name: &str, pattern, operation, denies| AclEntry {
        pattern,
        principal: "IAM:arn:aws:iam::111111111111:user/ann".to_owned(),
        denies,
        ..entry(kind, name, Some(operation))
    };
    let mut expected = vec![
        wanted(ResourceKind::Topic, "orders", PatternType::Literal, Op::Read, false),
        wanted(ResourceKind::Topic, "team-", PatternType::Prefixed, Op::Read, false),
        wanted(ResourceKind::Group, "*", PatternType::Literal, Op::Delete, true),
    ];
    expected.sort();
    assert_eq!(told, expected);
}

#[test]
fn a_scram_name_is_an_iam_user_or_one_of_the_kafka_users_or_nobody() {
    let tenant = format!("kafka_users = [\"bob\"]\n{TENANT}");
    let set = engine(&[("tenants/a/tenant.toml", &tenant), ("tenants/a/users/ann.toml", "")]);
    let organisation = set.organisation();
    let of = |name: &str| organisation.tenants().next().unwrap().scram_principal(name).map(|found| found.arn());
    assert_eq!(of("ann").as_deref(), Some("arn:aws:iam::111111111111:user/ann"));
    assert_eq!(of("bob").as_deref(), Some("arn:aws:iam::111111111111:kafka-user/bob"));
    assert_eq!(of("eve"), None);
}
