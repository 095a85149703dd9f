//! What a decision costs: Schloss's engine, plain casbin and cedar-policy, on the same policy set.
//!
//! `cargo run --release --manifest-path tests/load/decide/Cargo.toml`. Prints one table.
//!
//! The set: principals with 10 or 200 statements each; all but two of them allow WriteData on other topics, one denies
//! (and does not match), the one that allows comes last and has an IP condition. The question: WriteData on that topic.
//! Time is the thread's CPU time, so that other work on the machine counts less; the best and the median of batches.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use casbin::function_map::OperatorFunction;
use casbin::prelude::*;
use casbin::rhai::Dynamic;
use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression,
};
use schloss_authz::policy::Library;
use schloss_authz::{Action, Engine, Keys, Organisation, RequestContext, ResourceRef};

const BATCHES: usize = 30;

/// Microseconds of thread CPU time a call: best and median of the batches.
fn cost(each: usize, mut call: impl FnMut()) -> (f64, f64) {
    let cpu = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        now.tv_sec as f64 * 1e6 + now.tv_nsec as f64 / 1e3
    };
    (0..each).for_each(|_| call());
    let mut seen: Vec<f64> = (0..BATCHES)
        .map(|_| {
            let begun = cpu();
            (0..each).for_each(|_| call());
            (cpu() - begun) / each as f64
        })
        .collect();
    seen.sort_by(f64::total_cmp);
    (seen[0], seen[BATCHES / 2])
}

/// Ten statements: eight of other topics, a Deny that does not match, the one that allows.
fn document(number: usize) -> String {
    let mut statements = String::new();
    for n in 0..8 {
        write!(statements, r#"{{"Effect": "Allow", "Action": "kafka-cluster:WriteData", "Resource": "arn:aws:kafka:*:111111111111:topic/a/*/other-{number}-{n}-*"}},"#).unwrap();
    }
    format!(
        r#"{{"Version": "2012-10-17", "Statement": [{statements}
        {{"Effect": "Deny", "Action": "kafka-cluster:*", "Resource": "arn:aws:kafka:*:*:topic/*/secret-*"}},
        {{"Effect": "Allow", "Action": "kafka-cluster:WriteData", "Resource": "arn:aws:kafka:*:111111111111:topic/a/*/orders-{number}",
          "Condition": {{"IpAddress": {{"aws:SourceIp": "10.0.0.0/8"}}}}}}]}}"#
    )
}

struct Row {
    engine: &'static str,
    own: usize,
    all: usize,
    what: &'static str,
    cost: (f64, f64),
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:").map(str::to_owned)).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn schloss(users: usize, documents: usize, rows: &mut Vec<Row>) {
    let mut files = BTreeMap::new();
    let tenant =
        "account = \"111111111111\"\nkms_key = \"k\"\n[cluster]\nname = \"a\"\nuuid = \"u-1\"\nregion = \"r\"\n";
    files.insert("tenants/a/tenant.toml".to_owned(), tenant.to_owned());
    for user in 0..users {
        let names: Vec<String> = (0..documents).map(|d| format!("\"p{}\"", user * documents + d)).collect();
        files.insert(format!("tenants/a/users/u{user}.toml"), format!("policies = [{}]", names.join(", ")));
        for number in user * documents..(user + 1) * documents {
            files.insert(format!("tenants/a/policies/p{number}.json"), document(number));
        }
    }
    let load =
        || Engine::new(Organisation::load(&files, &mut Library::default()).expect("sound files")).expect("a frame");
    // The first leaves freed memory behind for the second: what is more then is what one needs.
    let first = load();
    let before = resident_kib();
    let engine = load();
    let grown = resident_kib().saturating_sub(before);
    drop(first);
    let (own, all) = (documents * 10, users * documents * 10);
    if all >= 10_000 {
        println!("schloss: {grown} KiB for {all} statements, {:.2} kB each\n", grown as f64 * 1.024 / all as f64);
    }
    let ann = engine.organisation().tenants().next().expect("a tenant").user("u0").expect("a user");
    let session = engine.bind(&ann).expect("bound");
    let name = format!("orders-{}", documents - 1);
    let topic = ResourceRef::topic(&name);
    let from = |last| RequestContext::connection(Keys::new(), IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), 0);
    let contexts = [from(1), from(2)];
    assert!(session.decide(Action::WriteData, topic, &contexts[0]).is_allowed());
    let mut turn = 0;
    let cached =
        cost(20_000, || assert!(black_box(session.decide(Action::WriteData, topic, &contexts[0])).is_allowed()));
    // Keys of another connection empty the cache.
    let uncached = cost(2_000, || {
        turn ^= 1;
        assert!(black_box(session.decide(Action::WriteData, topic, &contexts[turn])).is_allowed());
    });
    let bind = cost(100, || drop(black_box(engine.bind(&ann))));
    rows.push(Row { engine: "schloss", own, all, what: "cached", cost: cached });
    rows.push(Row { engine: "schloss", own, all, what: "uncached", cost: uncached });
    rows.push(Row { engine: "schloss", own, all, what: "bind a session", cost: bind });
}

const MODEL: &str = "
[request_definition]
r = sub, act, obj, ip

[policy_definition]
p = sub, act, obj, ip, eft

[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))

[matchers]
m = r.sub == p.sub && word(r.act, p.act) && word(r.obj, p.obj) && (p.ip == \"\" || near(r.ip, p.ip))
";

/// `*` at the end or in between; enough for these rows.
fn matches(text: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => text == pattern,
        Some((head, tail)) => text
            .strip_prefix(head)
            .is_some_and(|rest| tail.is_empty() || rest.char_indices().any(|(at, _)| matches(&rest[at..], tail))),
    }
}

fn both(a: Dynamic, b: Dynamic, judge: impl Fn(&str, &str) -> bool) -> Dynamic {
    let (a, b) = (a.into_immutable_string().unwrap_or_default(), b.into_immutable_string().unwrap_or_default());
    judge(&a, &b).into()
}

fn plain_casbin(users: usize, documents: usize, rows: &mut Vec<Row>) {
    let mut lines = Vec::new();
    for user in 0..users {
        let row = |act: &str, obj: String, ip: &str, eft: &str| {
            vec![format!("u{user}"), act.to_owned(), obj, ip.to_owned(), eft.to_owned()]
        };
        for number in user * documents..(user + 1) * documents {
            for n in 0..8 {
                lines.push(row(
                    "WriteData",
                    format!("arn:aws:kafka:*:111111111111:topic/a/*/other-{number}-{n}-*"),
                    "",
                    "allow",
                ));
            }
            lines.push(row("*", "arn:aws:kafka:*:*:topic/*/secret-*".to_owned(), "", "deny"));
            lines.push(row(
                "WriteData",
                format!("arn:aws:kafka:*:111111111111:topic/a/*/orders-{number}"),
                "10.",
                "allow",
            ));
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let enforcer = runtime.block_on(async {
        let model = DefaultModel::from_str(MODEL).await.expect("a model");
        let mut enforcer = Enforcer::new(model, MemoryAdapter::default()).await.expect("an enforcer");
        enforcer.add_function("word", OperatorFunction::Arg2(|a, b| both(a, b, matches)));
        enforcer.add_function("near", OperatorFunction::Arg2(|a, b| both(a, b, |ip, net| ip.starts_with(net))));
        enforcer.add_policies(lines).await.expect("policies");
        enforcer
    });
    let object = format!("arn:aws:kafka:r:111111111111:topic/a/u-1/orders-{}", documents - 1);
    let ask = || enforcer.enforce(("u0", "WriteData", object.as_str(), "10.0.0.1")).expect("an answer");
    assert!(ask());
    let each = if users * documents > 100 { 2 } else { 50 };
    let uncached = cost(each, || assert!(black_box(ask())));
    rows.push(Row {
        engine: "casbin",
        own: documents * 10,
        all: users * documents * 10,
        what: "uncached",
        cost: uncached,
    });
}

fn cedar(users: usize, documents: usize, rows: &mut Vec<Row>) {
    let mut text = String::new();
    for user in 0..users {
        for number in user * documents..(user + 1) * documents {
            for n in 0..8 {
                writeln!(text, r#"permit(principal == User::"u{user}", action == Action::"WriteData", resource) when {{ resource.arn like "arn:aws:kafka:*:111111111111:topic/a/*/other-{number}-{n}-*" }};"#).unwrap();
            }
            writeln!(text, r#"forbid(principal == User::"u{user}", action, resource) when {{ resource.arn like "arn:aws:kafka:*:*:topic/*/secret-*" }};"#).unwrap();
            writeln!(text, r#"permit(principal == User::"u{user}", action == Action::"WriteData", resource) when {{ resource.arn like "arn:aws:kafka:*:111111111111:topic/a/*/orders-{number}" && context.ip.isInRange(ip("10.0.0.0/8")) }};"#).unwrap();
        }
    }
    let policies = PolicySet::from_str(&text).expect("policies");
    let uid = |kind: &str, id: &str| {
        EntityUid::from_type_name_and_id(EntityTypeName::from_str(kind).expect("a type"), EntityId::new(id))
    };
    let object = format!("arn:aws:kafka:r:111111111111:topic/a/u-1/orders-{}", documents - 1);
    let attributes = [("arn".to_owned(), RestrictedExpression::new_string(object))].into_iter().collect();
    let topic = Entity::new(uid("Topic", "t"), attributes, std::collections::HashSet::new()).expect("an entity");
    let entities = Entities::from_entities([topic], None).expect("entities");
    let authorizer = Authorizer::new();
    // As for the others, the request is built for each question.
    let ask = || {
        let context =
            Context::from_pairs([("ip".to_owned(), RestrictedExpression::new_ip("10.0.0.1"))]).expect("a context");
        let request = Request::new(uid("User", "u0"), uid("Action", "WriteData"), uid("Topic", "t"), context, None)
            .expect("a request");
        authorizer.is_authorized(&request, &policies, &entities).decision()
    };
    assert_eq!(ask(), Decision::Allow);
    let each = if users * documents > 100 { 2 } else { 50 };
    let uncached = cost(each, || assert_eq!(black_box(ask()), Decision::Allow));
    rows.push(Row {
        engine: "cedar-policy",
        own: documents * 10,
        all: users * documents * 10,
        what: "uncached",
        cost: uncached,
    });
}

fn main() {
    let mut rows = Vec::new();
    for (users, documents) in [(1, 1), (1, 20), (100, 1), (1_000, 1), (10_000, 1)] {
        schloss(users, documents, &mut rows);
        // Beyond this the others take minutes for nothing new.
        if users <= 1_000 {
            plain_casbin(users, documents, &mut rows);
            cedar(users, documents, &mut rows);
        }
    }
    println!("| engine | what | statements of the principal | in all | best, µs | median, µs |");
    println!("| --- | --- | ---: | ---: | ---: | ---: |");
    for Row { engine, own, all, what, cost: (best, median) } in rows {
        println!("| {engine} | {what} | {own} | {all} | {best:.3} | {median:.3} |");
    }
}
