//! Promises of sessions: epochs, caches, time, masks, listings, explanations, and sets that are refused.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use schloss_authz::organisation::Organisation;
use schloss_authz::policy::{Library, Miss};
use schloss_authz::{
    Action, BindError, CertificateFacts, Engine, Keys, RequestContext, ResourceKind, ResourceRef, Session, can,
};

const NOW: i64 = 1_800_000_000_000;

fn set(policy: &str) -> BTreeMap<String, String> {
    let tenant = "account = \"111111111111\"\nkms_key = \"local:a\"\nhosts = [\"A.example\"]\n[cluster]\nname = \"a\"\nuuid = \"u-1\"\nregion = \"r\"\n";
    [
        ("tenants/a/tenant.toml", tenant),
        ("tenants/a/users/ann.toml", "groups = [\"team\"]\n[tags]\nteam = \"red\"\n"),
        ("tenants/a/groups/team.toml", "policies = [\"p\"]\n"),
        ("tenants/a/certificates.toml", "[[certificate]]\ncommon_name = \"ann\"\nuser = \"ann\"\n"),
        ("tenants/a/policies/p.json", policy),
    ]
    .into_iter()
    .map(|(path, text)| (path.to_owned(), text.to_owned()))
    .collect()
}

fn load(files: &BTreeMap<String, String>) -> Organisation {
    Organisation::load(files, &mut Library::default()).unwrap_or_else(|f| panic!("{f:?}"))
}

fn statement(effect: &str, action: &str, resource: &str, condition: &str) -> String {
    format!(
        r#"{{"Effect": "{effect}", "Action": "kafka-cluster:{action}", "Resource": "arn:aws:kafka:*:111111111111:{resource}", "Condition": {{{condition}}}}}"#
    )
}

fn policy(statements: &[String]) -> String {
    format!(r#"{{"Version": "2012-10-17", "Statement": [{}]}}"#, statements.join(","))
}

fn session(engine: &Engine) -> Session {
    let organisation = engine.organisation();
    let ann = organisation.tenant_by_host("a.EXAMPLE").unwrap().user("ann").unwrap();
    engine.bind(&ann).unwrap()
}

fn engine(statements: &[String]) -> Engine {
    Engine::new(load(&set(&policy(statements)))).unwrap()
}

fn context() -> RequestContext {
    RequestContext::connection(Keys::new(), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), NOW)
}

#[test]
fn a_changed_policy_makes_sessions_outdated_and_a_new_binding_follows_it() {
    let engine = engine(&[statement("Allow", "ReadData", "topic/*", "")]);
    let before = session(&engine);
    assert!(before.decide(Action::ReadData, ResourceRef::topic("t"), &context()).is_allowed());
    let epoch = engine.apply(load(&set(&policy(&[statement("Allow", "WriteData", "topic/*", "")]))));
    assert!(!before.is_current());
    let after = engine.rebind(&before).unwrap();
    assert_eq!(after.epoch(), epoch);
    assert!(after.is_current());
    assert!(!after.decide(Action::ReadData, ResourceRef::topic("t"), &context()).is_allowed());
}

#[test]
fn a_user_that_is_gone_cannot_be_bound_anew() {
    let engine = engine(&[statement("Allow", "ReadData", "topic/*", "")]);
    let before = session(&engine);
    let mut files = set(&policy(&[statement("Allow", "ReadData", "topic/*", "")]));
    files.remove("tenants/a/users/ann.toml");
    files.remove("tenants/a/certificates.toml");
    engine.apply(load(&files));
    assert_eq!(engine.rebind(&before).unwrap_err(), BindError::UnknownPrincipal);
}

#[test]
fn a_decision_that_depends_on_time_is_not_cached_past_its_moment() {
    let before = r#""DateLessThan": {"aws:CurrentTime": "2027-01-15T08:00:10Z"}"#; // NOW + 10 s
    let engine = engine(&[statement("Allow", "ReadData", "topic/*", before)]);
    let session = session(&engine);
    let (topic, context) = (ResourceRef::topic("t"), context());
    let decision = session.decide(Action::ReadData, topic, &context);
    assert!(decision.is_allowed());
    assert_eq!(decision.valid_until_ms, Some(NOW + 10_000));
    assert!(session.decide(Action::ReadData, topic, &context.at(NOW + 9_999)).is_allowed());
    assert!(!session.decide(Action::ReadData, topic, &context.at(NOW + 10_000)).is_allowed());
    assert!(session.decide(Action::ReadData, topic, &context.at(NOW)).is_allowed());
}

#[test]
fn a_cached_decision_holds_for_its_connection_keys_only() {
    let engine = engine(&[statement("Allow", "ReadData", "topic/*", r#""IpAddress": {"aws:SourceIp": "10.0.0.0/8"}"#)]);
    let session = session(&engine);
    let elsewhere = RequestContext::connection(Keys::new(), IpAddr::V4(Ipv4Addr::new(11, 0, 0, 1)), NOW);
    assert!(session.decide(Action::ReadData, ResourceRef::topic("t"), &context()).is_allowed());
    assert!(!session.decide(Action::ReadData, ResourceRef::topic("t"), &elsewhere).is_allowed());
}

#[test]
fn thousands_of_names_are_judged_right_though_the_cache_is_bounded() {
    let engine = engine(&[statement("Allow", "ReadData", "topic/a/*/even-*", "")]);
    let (session, context) = (session(&engine), context());
    for round in 0..2 {
        for number in 0..10_000 {
            let name = if number % 2 == 0 { format!("even-{number}") } else { format!("odd-{number}") };
            let allowed = session.decide(Action::ReadData, ResourceRef::topic(&name), &context).is_allowed();
            assert_eq!(allowed, number % 2 == 0, "{round} {name}");
        }
    }
}

#[test]
fn a_permit_tells_what_it_permits_and_a_refusal_gives_none() {
    let engine = engine(&[statement("Allow", "ReadData", "topic/a/*/t", "")]);
    let session = session(&engine);
    let permit = session.authorize(can::ReadData, ResourceRef::topic("t"), &context()).unwrap();
    assert_eq!((permit.action(), permit.kind(), permit.name()), (Action::ReadData, ResourceKind::Topic, "t"));
    assert!(session.authorize(can::WriteData, ResourceRef::topic("t"), &context()).is_err());
}

#[test]
fn the_mask_of_operations_is_kafkas() {
    let engine =
        engine(&[statement("Allow", "*Topic", "topic/*", ""), statement("Deny", "DeleteTopic", "topic/*", "")]);
    let mask = session(&engine).operations_mask(ResourceRef::topic("t"), &context());
    assert_eq!(mask, (1 << 5) | (1 << 7) | (1 << 8));
}

#[test]
fn any_resource_is_yes_when_some_name_would_be_allowed() {
    let write = |resource: &str| engine(&[statement("Allow", "WriteData", resource, "")]);
    assert!(session(&write("topic/a/*/orders-*")).any_resource(Action::WriteData, &context()));
    assert!(session(&write("topic/*")).any_resource(Action::WriteData, &context()));
    assert!(session(&write("topic/a/u-1/${aws:username}")).any_resource(Action::WriteData, &context()));
    assert!(!session(&write("topic/other/*")).any_resource(Action::WriteData, &context()));
    assert!(!session(&write("topic/*")).any_resource(Action::ReadData, &context()));
    let denied = engine(&[statement("Allow", "WriteData", "topic/a/*/x", ""), statement("Deny", "*", "topic/*", "")]);
    assert!(!session(&denied).any_resource(Action::WriteData, &context()));
}

#[test]
fn listings_keep_what_is_allowed_and_nothing_else() {
    let engine = engine(&[
        statement("Allow", "DescribeTopic", "topic/a/*/red-*", ""),
        statement("Deny", "*", "topic/a/*/red-x", ""),
    ]);
    let kept = session(&engine).filter(
        Action::DescribeTopic,
        ResourceKind::Topic,
        ["red-a", "blue", "red-x"],
        |n| n,
        &context(),
    );
    assert_eq!(kept, ["red-a"]);
}

#[test]
fn an_explanation_names_the_nearest_statement_and_what_failed() {
    let red = r#""StringEquals": {"aws:PrincipalTag/team": "blue"}"#;
    let engine = engine(&[
        statement("Allow", "ReadData", "topic/a/*/x", ""),
        statement("Allow", "ReadData", "topic/a/*/t", red),
    ]);
    let explanation = session(&engine).explain(Action::ReadData, ResourceRef::topic("t"), &context());
    assert!(!explanation.decision.is_allowed());
    let nearest = &explanation.nearest[0];
    assert_eq!((&*nearest.statement.policy, nearest.statement.index), ("p", 1));
    assert!(
        matches!(&nearest.miss, Miss::Condition { key, value, .. } if &**key == "aws:PrincipalTag/team" && value.as_deref() == Some("red"))
    );
    assert!(matches!(explanation.nearest[1].miss, Miss::Resource { part: "resource name" }));
}

#[test]
fn who_can_names_everybody_who_can() {
    let engine = engine(&[statement("Allow", "ReadData", "topic/a/*/t", "")]);
    let arn = |topic: &str| format!("arn:aws:kafka:r:111111111111:topic/a/u-1/{topic}");
    assert_eq!(engine.who_can(Action::ReadData, &arn("t"), &context()).unwrap().len(), 1);
    assert_eq!(engine.who_can(Action::ReadData, &arn("u"), &context()).unwrap().len(), 0);
}

#[test]
fn a_certificate_belongs_to_whom_the_rules_say_or_to_nobody() {
    let engine = engine(&[statement("Allow", "ReadData", "topic/*", "")]);
    let organisation = engine.organisation();
    let tenant = organisation.tenants().next().unwrap();
    let facts = CertificateFacts { common_name: Some("ann"), subject: "CN=ann", ..CertificateFacts::default() };
    assert_eq!(tenant.identify(&facts).unwrap().arn(), "arn:aws:iam::111111111111:user/ann");
    let stranger = CertificateFacts { common_name: Some("bob"), ..CertificateFacts::default() };
    assert!(tenant.identify(&stranger).is_err());
}

#[test]
fn a_set_with_mistakes_is_refused_whole_and_every_mistake_is_named() {
    let mut files = set("{\"Statement\": [{\"Effect\": \"Allow\",\n \"Action\": \"x\", \"Resource\": \"*\"}]}");
    files.insert("tenants/a/users/bob.toml".into(), "policies = [\"absent\"]\ncolour = \"red\"\n".into());
    files.insert("tenants/a/polices/p.json".into(), "{}".into());
    files.insert("tenants/b/tenant.toml".into(), "account = \"1\"\nhosts = [\"a.example\"]\n".into());
    let findings = Organisation::load(&files, &mut Library::default()).unwrap_err();
    let text: Vec<String> = findings.iter().map(ToString::to_string).collect();
    let names = |part: &str| text.iter().any(|line| line.contains(part));
    assert!(names("tenants/a/policies/p.json:2:12: error: the action `x`"), "{text:#?}");
    assert!(names("tenants/a/users/bob.toml:1:13: error: there is no policy `absent`"), "{text:#?}");
    assert!(names("tenants/a/users/bob.toml:2:1: error: `colour` is not known here"), "{text:#?}");
    assert!(names("tenants/a/polices/p.json:1:1"), "{text:#?}");
    assert!(names("tenants/b/tenant.toml:1:11: error: `1` is no account"), "{text:#?}");
    assert!(names("`kms_key` is missing"), "{text:#?}");
}

#[test]
fn lint_warns_of_what_was_probably_not_meant() {
    let never = r#""StringEquals": {"s3:prefix": "x"}"#;
    let engine = engine(&[
        statement("Allow", "ReadData", "topic/*", never),
        statement("Allow", "WriteDataIdempotently", "topic/*", ""),
        statement("Deny", "ReadData", "topic/*", ""),
    ]);
    let organisation = engine.organisation();
    let text: Vec<String> = organisation.warnings().iter().map(ToString::to_string).collect();
    for part in ["DescribeTopic", "s3:prefix", "applies to resources of type `cluster`", "can never allow"] {
        assert!(text.iter().any(|line| line.contains(part)), "{part}: {text:#?}");
    }
}

#[test]
fn a_shadow_version_is_judged_beside_and_never_in_force() {
    let mut files = set(&policy(&[statement("Allow", "ReadData", "topic/*", "")]));
    let shadow = policy(&[statement("Allow", "WriteData", "topic/*", "")]);
    files.insert("tenants/a/policies/p.shadow.json".to_owned(), shadow);
    let session = session(&Engine::new(load(&files)).unwrap());
    for _from_cache in 0..2 {
        let read = session.decide(Action::ReadData, ResourceRef::topic("t"), &context());
        assert!(read.is_allowed() && read.shadow.is_some_and(|other| !other.is_allowed()));
        let write = session.decide(Action::WriteData, ResourceRef::topic("t"), &context());
        assert!(!write.is_allowed() && write.shadow.is_some_and(|other| other.is_allowed()));
        let neither = session.decide(Action::DeleteTopic, ResourceRef::topic("t"), &context());
        assert!(neither.shadow.is_none());
    }
}

#[test]
fn a_shadow_version_of_nothing_is_refused() {
    let mut files = set(&policy(&[statement("Allow", "ReadData", "topic/*", "")]));
    files.insert("tenants/a/policies/q.shadow.json".to_owned(), policy(&[statement("Allow", "ReadData", "*", "")]));
    assert!(Organisation::load(&files, &mut Library::default()).is_err());
}

#[test]
fn principals_are_found_by_their_arns() {
    let organisation = load(&set(&policy(&[statement("Allow", "ReadData", "topic/*", "")])));
    let found = |arn: &str| organisation.principal_by_arn(arn).map(|principal| principal.arn());
    assert_eq!(found("arn:aws:iam::111111111111:user/ann").as_deref(), Some("arn:aws:iam::111111111111:user/ann"));
    assert_eq!(found("arn:aws:iam::111111111111:user/bob"), None);
    assert_eq!(found("arn:aws:iam::222222222222:user/ann"), None);
    assert_eq!(found("arn:aws:sts::111111111111:assumed-role/ann/s"), None);
}

#[test]
fn who_can_tells_the_conditions_that_stand_in_the_way() {
    let engine = engine(&[statement("Allow", "ReadData", "topic/*", r#""IpAddress": {"aws:SourceIp": "10.0.0.0/8"}"#)]);
    let arn = "arn:aws:kafka:r:111111111111:topic/a/u-1/t";
    let here = engine.who_can(Action::ReadData, arn, &context()).unwrap();
    assert!(here.len() == 1 && here[0].decision.is_allowed() && here[0].only_if.is_empty());
    let elsewhere = RequestContext::connection(Keys::new(), "192.0.2.1".parse().unwrap(), NOW);
    let there = engine.who_can(Action::ReadData, arn, &elsewhere).unwrap();
    assert!(!there[0].decision.is_allowed());
    assert!(matches!(&there[0].only_if[0].miss, Miss::Condition { operator, .. } if &**operator == "IpAddress"));
}

#[test]
fn mounts_name_topics_of_other_tenants_only() {
    let mut files = set(&policy(&[statement("Allow", "ReadData", "topic/*", "")]));
    let mount = |topic: &str| format!("[[mount]]\nname = \"news\"\ntopic = \"{topic}\"\n");
    files.insert("tenants/a/mounts.toml".to_owned(), mount("arn:aws:kafka:r:222222222222:topic/b/u-2/news"));
    let session = session(&Engine::new(load(&files)).unwrap());
    assert_eq!(session.mounts().get("news").map(|topic| topic.owner.to_string()).as_deref(), Some("222222222222"));
    for wrong in
        ["arn:aws:kafka:r:111111111111:topic/a/u-1/news", "arn:aws:kafka:r:222222222222:group/b/u-2/news", "news"]
    {
        files.insert("tenants/a/mounts.toml".to_owned(), mount(wrong));
        assert!(Organisation::load(&files, &mut Library::default()).is_err(), "{wrong}");
    }
}

#[test]
fn a_break_glass_grant_holds_for_its_time_only() {
    let mut files = set(&policy(&[statement("Allow", "ReadData", "topic/*", "")]));
    let grant = |until: &str| {
        format!(
            "operator = \"olga\"\nreason = \"ticket 1\"\nfrom = \"2027-01-15T08:00:00Z\"\nuntil = \"{until}\"\npolicies = [\"p\"]\n"
        )
    };
    files.insert("tenants/a/break-glass/t1.toml".to_owned(), grant("2027-01-15T09:00:00Z"));
    let engine = Engine::new(load(&files)).unwrap();
    let organisation = engine.organisation();
    let tenant = organisation.tenants().next().unwrap();
    assert_eq!(&*tenant.break_glass()[0].operator, "olga");
    let session = engine.bind(&tenant.role("break-glass.t1", "olga").unwrap()).unwrap();
    // 2027-01-15T08:00:00Z is NOW.
    let at = |ms: i64| session.decide(Action::ReadData, ResourceRef::topic("t"), &context().at(ms)).is_allowed();
    assert!(!at(NOW - 1) && at(NOW) && at(NOW + 3_599_999) && !at(NOW + 3_600_000));
    for wrong in ["2027-01-15T08:00:00Z", "2027-01-16T08:00:01Z", "tomorrow"] {
        files.insert("tenants/a/break-glass/t1.toml".to_owned(), grant(wrong));
        assert!(Organisation::load(&files, &mut Library::default()).is_err(), "{wrong}");
    }
}
