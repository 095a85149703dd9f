//! Each managed policy permits exactly the actions listed here, on its own tenant's resources, and nothing of another's.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use schloss_authz::policy::Library;
use schloss_authz::{Action, Engine, Keys, Organisation, RequestContext, ResourceRef};

const CONNECT: &[&str] = &["Connect", "DescribeCluster"];
const SEE: &[&str] = &[
    "DescribeTopic",
    "DescribeTopicDynamicConfiguration",
    "DescribeGroup",
    "DescribeGroupDynamicConfiguration",
    "DescribeTransactionalId",
    "DescribeClusterDynamicConfiguration",
];
const PRODUCE: &[&str] = &["DescribeTopic", "WriteData"];
const TRANSACTIONS: &[&str] = &["DescribeTransactionalId", "AlterTransactionalId"];
const APPLICATION: &[&str] = &[
    "WriteDataIdempotently",
    "CreateTopic",
    "DescribeTopicDynamicConfiguration",
    "AlterTopicDynamicConfiguration",
    "ReadData",
    "DescribeGroup",
    "AlterGroup",
    "DeleteGroup",
];

fn expected(policy: &str) -> Vec<&'static str> {
    let parts: &[&[&str]] = match policy {
        "read-only" | "auditor" => &[CONNECT, SEE],
        "producer" => &[CONNECT, PRODUCE],
        "idempotent-producer" => &[CONNECT, PRODUCE, &["WriteDataIdempotently"]],
        "transactional-producer" => &[CONNECT, PRODUCE, &["WriteDataIdempotently"], TRANSACTIONS],
        "consumer" => &[CONNECT, &["DescribeTopic", "ReadData", "DescribeGroup", "AlterGroup"]],
        "streams-application" => &[CONNECT, PRODUCE, TRANSACTIONS, APPLICATION, &["AlterTopic", "DeleteTopic"]],
        "connect-worker" => &[CONNECT, PRODUCE, TRANSACTIONS, APPLICATION],
        _ => return Action::ALL.iter().map(|a| a.name()).collect(),
    };
    parts.concat()
}

fn organisation(policy: &str) -> Organisation {
    let tenant = |account: &str, name: &str| {
        format!(
            "account = \"{account}\"\nkms_key = \"k\"\n[cluster]\nname = \"{name}\"\nuuid = \"u-1\"\nregion = \"r\"\n"
        )
    };
    let files: BTreeMap<String, String> = [
        ("tenants/a/tenant.toml".to_owned(), tenant("111111111111", "a")),
        ("tenants/b/tenant.toml".to_owned(), tenant("222222222222", "b")),
        ("tenants/a/users/ann.toml".to_owned(), format!("policies = [\"managed/{policy}\"]")),
    ]
    .into();
    Organisation::load(&files, &mut Library::default()).unwrap_or_else(|f| panic!("{policy}: {f:?}"))
}

#[test]
fn managed_policies_permit_what_they_are_for_and_nothing_else() {
    let context = RequestContext::connection(Keys::new(), IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    for (policy, _) in schloss_authz::organisation::MANAGED {
        let engine = Engine::new(organisation(policy)).unwrap();
        let organisation = engine.organisation();
        let ann = organisation.tenants().next().unwrap().user("ann").unwrap();
        let other = organisation.tenants().last().unwrap().account();
        let (own, foreign) = (engine.bind(&ann).unwrap(), engine.bind_with(&ann, other, &[]).unwrap());
        let expected = expected(policy);
        for action in Action::ALL {
            let resource = ResourceRef { kind: action.resource(), name: "x" };
            let allowed = own.decide(*action, resource, &context).is_allowed();
            assert_eq!(allowed, expected.contains(&action.name()), "{policy}: {action}");
            assert!(!foreign.decide(*action, resource, &context).is_allowed(), "{policy}: {action} of another tenant");
        }
    }
}
