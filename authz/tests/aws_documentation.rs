//! Cases that AWS's documentation works through, retold as questions: the order of evaluation, boundaries, sessions,
//! cross-account access, absent keys, sets of values, variables, and its guide's use cases for Kafka clients.

use schloss_authz::simulate::Simulator;
use serde_json::{Value, json};

const USER: &str = "arn:aws:iam::111111111111:user/ann";
const SESSION: &str = "arn:aws:sts::111111111111:assumed-role/app/s1";
const TOPIC: &str = "arn:aws:kafka:eu-central-1:111111111111:topic/acme/u-1/orders";

fn verdict(principal: &str, context: Value, policies: Value) -> String {
    let question = json!({"id": 1, "principal": principal, "context": context, "action": "kafka-cluster:ReadData",
        "resource": TOPIC, "resourceAccount": "111111111111", "policies": policies});
    let answer: Value = serde_json::from_str(&Simulator::new().unwrap().judge(&question.to_string())).unwrap();
    assert!(answer.get("error").is_none(), "{answer}");
    answer["verdict"].as_str().unwrap().to_owned()
}

fn document(statement: Value) -> Value {
    json!({"Version": "2012-10-17", "Statement": statement})
}

fn allow() -> Value {
    document(json!({"Effect": "Allow", "Action": "kafka-cluster:*", "Resource": "*"}))
}

fn unrelated() -> Value {
    document(json!({"Effect": "Allow", "Action": "s3:*", "Resource": "*"}))
}

fn deny() -> Value {
    document(json!({"Effect": "Deny", "Action": "kafka-cluster:ReadData", "Resource": "*"}))
}

fn grant_to(principal: Value) -> Value {
    document(json!({"Effect": "Allow", "Principal": principal, "Action": "kafka-cluster:ReadData", "Resource": "*"}))
}

fn when(condition: Value) -> Value {
    document(json!({"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": condition}))
}

#[test]
fn without_any_policy_everything_is_denied() {
    assert_eq!(verdict(USER, json!({}), json!({})), "ImplicitlyDenied");
}

#[test]
fn an_explicit_deny_in_any_layer_wins_over_every_allow() {
    for layer in ["identity", "boundary", "session", "scp", "rcp"] {
        let mut policies = json!({"identity": [allow()], "resource": [grant_to(json!("*"))]});
        policies[layer] = match layer {
            "identity" => json!([allow(), deny()]),
            "scp" | "rcp" => json!([[allow(), deny()]]),
            _ => json!([allow(), deny()]),
        };
        assert_eq!(verdict(USER, json!({}), policies), "ExplicitlyDenied", "{layer}");
    }
}

#[test]
fn every_level_of_guardrails_must_allow() {
    let policies = |levels: Value| json!({"identity": [allow()], "scp": levels});
    assert_eq!(verdict(USER, json!({}), policies(json!([[allow()], [allow()]]))), "Allowed");
    assert_eq!(verdict(USER, json!({}), policies(json!([[allow()], [unrelated()]]))), "ImplicitlyDenied");
    assert_eq!(verdict(USER, json!({}), json!({"scp": [[allow()]]})), "ImplicitlyDenied");
}

#[test]
fn a_boundary_limits_identity_policies_and_grants_nothing() {
    let with = |boundary: Value| json!({"identity": [allow()], "boundary": [boundary]});
    assert_eq!(verdict(USER, json!({}), with(allow())), "Allowed");
    assert_eq!(verdict(USER, json!({}), with(unrelated())), "ImplicitlyDenied");
    assert_eq!(verdict(USER, json!({}), json!({"boundary": [allow()]})), "ImplicitlyDenied");
}

#[test]
fn a_resource_policy_that_names_the_user_reaches_past_the_boundarys_silence() {
    let with = |principal: Value| json!({"boundary": [unrelated()], "resource": [grant_to(principal)]});
    assert_eq!(verdict(USER, json!({}), with(json!({"AWS": USER}))), "Allowed");
    assert_eq!(verdict(SESSION, json!({}), with(json!({"AWS": SESSION}))), "Allowed");
    let role = "arn:aws:iam::111111111111:role/app";
    assert_eq!(verdict(SESSION, json!({}), with(json!({"AWS": role}))), "ImplicitlyDenied");
}

#[test]
fn a_resource_policy_that_names_the_account_leaves_it_to_identity_policies() {
    let account = grant_to(json!({"AWS": "111111111111"}));
    assert_eq!(verdict(USER, json!({}), json!({"resource": [account.clone()]})), "ImplicitlyDenied");
    assert_eq!(verdict(USER, json!({}), json!({"resource": [account], "identity": [allow()]})), "Allowed");
}

#[test]
fn across_accounts_both_sides_must_allow() {
    let eve = "arn:aws:iam::222222222222:user/eve";
    let grant = grant_to(json!({"AWS": "222222222222"}));
    assert_eq!(verdict(eve, json!({}), json!({"identity": [allow()]})), "ImplicitlyDenied");
    assert_eq!(verdict(eve, json!({}), json!({"resource": [grant.clone()]})), "ImplicitlyDenied");
    assert_eq!(verdict(eve, json!({}), json!({"resource": [grant], "identity": [allow()]})), "Allowed");
}

#[test]
fn a_session_policy_only_narrows() {
    let with = |session: Value| json!({"identity": [allow()], "session": [session]});
    assert_eq!(verdict(SESSION, json!({}), with(allow())), "Allowed");
    assert_eq!(verdict(SESSION, json!({}), with(unrelated())), "ImplicitlyDenied");
}

#[test]
fn not_principal_with_deny_hits_everybody_under_a_boundary() {
    let not_ann = document(json!({"Effect": "Deny", "NotPrincipal": {"AWS": USER}, "Action": "*", "Resource": "*"}));
    let policies = json!({"identity": [allow()], "resource": [not_ann.clone()]});
    assert_eq!(verdict(USER, json!({}), policies), "Allowed");
    let bounded = json!({"identity": [allow()], "boundary": [allow()], "resource": [not_ann]});
    assert_eq!(verdict(USER, json!({}), bounded), "ExplicitlyDenied");
}

#[test]
fn an_absent_key_denies_unless_if_exists_or_null_say_otherwise() {
    let judged = |condition: Value| verdict(USER, json!({}), json!({"identity": [when(condition)]}));
    assert_eq!(judged(json!({"Bool": {"aws:MultiFactorAuthPresent": "true"}})), "ImplicitlyDenied");
    assert_eq!(judged(json!({"BoolIfExists": {"aws:MultiFactorAuthPresent": "true"}})), "Allowed");
    assert_eq!(judged(json!({"Null": {"aws:TokenIssueTime": "true"}})), "Allowed");
    assert_eq!(judged(json!({"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}})), "Allowed");
}

#[test]
fn all_keys_of_a_block_must_hold_and_one_value_of_each() {
    let block = when(json!({
        "StringEquals": {"aws:PrincipalTag/team": ["red", "blue"], "aws:PrincipalTag/stage": "live"},
        "IpAddress": {"aws:SourceIp": ["192.0.2.0/24", "203.0.113.0/24"]}
    }));
    let context =
        |ip: &str| json!({"aws:PrincipalTag/team": "blue", "aws:PrincipalTag/stage": "live", "aws:SourceIp": ip});
    let policies = json!({"identity": [block]});
    assert_eq!(verdict(USER, context("203.0.113.9"), policies.clone()), "Allowed");
    assert_eq!(verdict(USER, context("198.51.100.9"), policies), "ImplicitlyDenied");
}

#[test]
fn sets_of_values_are_compared_as_sets() {
    let tags = |quantifier: &str| {
        let operator = format!("{quantifier}:StringEquals");
        json!({"identity": [when(json!({operator: {"aws:TagKeys": ["environment", "cost-center"]}}))]})
    };
    let with = |keys: Value| json!({"aws:TagKeys": keys});
    assert_eq!(verdict(USER, with(json!(["environment", "owner"])), tags("ForAnyValue")), "Allowed");
    assert_eq!(verdict(USER, with(json!(["environment", "owner"])), tags("ForAllValues")), "ImplicitlyDenied");
    assert_eq!(verdict(USER, json!({}), tags("ForAllValues")), "Allowed");
    assert_eq!(verdict(USER, json!({}), tags("ForAnyValue")), "ImplicitlyDenied");
}

#[test]
fn a_variable_is_the_callers_own_value() {
    let own = document(json!({"Effect": "Allow", "Action": "*",
        "Resource": "arn:aws:kafka:*:*:topic/acme/*/${aws:PrincipalTag/topic, 'none'}"}));
    let policies = json!({"identity": [own]});
    assert_eq!(verdict(USER, json!({"aws:PrincipalTag/topic": "orders"}), policies.clone()), "Allowed");
    assert_eq!(verdict(USER, json!({"aws:PrincipalTag/topic": "*"}), policies.clone()), "ImplicitlyDenied");
    assert_eq!(verdict(USER, json!({}), policies), "ImplicitlyDenied");
}
