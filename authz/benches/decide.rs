//! What a decision costs: cached and not, with 10 and 200 statements, alone and among 100,000; plain casbin beside it.
//!
//! `cargo bench -p schloss-authz`. Targets in IAM.md: cached <= 0.1 us, 10 statements <= 5 us, 200 <= 20 us, bind <= 1 ms.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{Criterion, criterion_group, criterion_main};
use schloss_authz::policy::Library;
use schloss_authz::{Action, Engine, Keys, Organisation, RequestContext, ResourceRef, Session};

/// `documents` of 10 statements each; the one that matches comes last, a Deny that does not stands before.
fn policy(number: usize) -> String {
    let mut statements: Vec<String> = (0..8)
        .map(|n| format!(r#"{{"Effect": "Allow", "Action": "kafka-cluster:WriteData", "Resource": "arn:aws:kafka:*:111111111111:topic/a/*/other-{number}-{n}-*"}}"#))
        .collect();
    statements.push(
        r#"{"Effect": "Deny", "Action": "kafka-cluster:*", "Resource": "arn:aws:kafka:*:*:topic/*/secret-*"}"#.into(),
    );
    statements.push(format!(r#"{{"Effect": "Allow", "Action": "kafka-cluster:WriteData", "Resource": "arn:aws:kafka:*:111111111111:topic/a/*/orders-{number}",
        "Condition": {{"IpAddress": {{"aws:SourceIp": "10.0.0.0/8"}}}}}}"#));
    format!(r#"{{"Version": "2012-10-17", "Statement": [{}]}}"#, statements.join(","))
}

fn engine(users: usize, documents_each: usize) -> Engine {
    let mut files = BTreeMap::new();
    let tenant =
        "account = \"111111111111\"\nkms_key = \"k\"\n[cluster]\nname = \"a\"\nuuid = \"u-1\"\nregion = \"r\"\n";
    files.insert("tenants/a/tenant.toml".to_owned(), tenant.to_owned());
    for user in 0..users {
        let names: Vec<String> = (0..documents_each).map(|d| format!("\"p{}\"", user * documents_each + d)).collect();
        files.insert(format!("tenants/a/users/u{user}.toml"), format!("policies = [{}]", names.join(", ")));
        for document in 0..documents_each {
            let number = user * documents_each + document;
            files.insert(format!("tenants/a/policies/p{number}.json"), policy(number));
        }
    }
    Engine::new(Organisation::load(&files, &mut Library::default()).unwrap_or_else(|f| panic!("{f:?}"))).unwrap()
}

fn bind(engine: &Engine) -> Session {
    let organisation = engine.organisation();
    engine.bind(&organisation.tenants().next().unwrap().user("u0").unwrap()).unwrap()
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:").map(str::to_owned)).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn decisions(criterion: &mut Criterion) {
    let context = RequestContext::connection(Keys::new(), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 1_800_000_000_000);
    for (users, documents) in [(1, 1), (1, 20), (10_000, 1)] {
        // The first load leaves freed memory behind, which the second one uses: what remains is what stays.
        let first = engine(users, documents);
        let before = resident_kib();
        let second = engine(users, documents);
        let (all, own) = (users * documents * 10, documents * 10);
        println!("{all} statements: {} KiB resident more", resident_kib().saturating_sub(before));
        drop(first);
        let engine = second;
        let session = bind(&engine);
        let name = format!("orders-{}", documents - 1);
        let topic = ResourceRef::topic(&name);
        assert!(session.decide(Action::WriteData, topic, &context).is_allowed());
        criterion.bench_function(&format!("cached, {own} of {all}"), |b| {
            b.iter(|| black_box(session.decide(Action::WriteData, topic, &context)).is_allowed());
        });
        criterion.bench_function(&format!("uncached, {own} of {all}"), |b| {
            // Another connection's keys empty the cache.
            let contexts =
                [context.clone(), RequestContext::connection(Keys::new(), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 0)];
            let mut turn = 0_usize;
            b.iter(|| {
                turn ^= 1;
                black_box(session.decide(Action::WriteData, topic, &contexts[turn])).is_allowed()
            });
        });
        criterion.bench_function(&format!("bind, {own} of {all}"), |b| b.iter(|| black_box(bind(&engine))));
    }
}

criterion_group! { name = benches; config = Criterion::default().sample_size(20); targets = decisions }
criterion_main!(benches);
