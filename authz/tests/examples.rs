//! Every example organisation is a test: it loads without a finding, and its golden decisions hold.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use schloss_authz::policy::Library;
use schloss_authz::{Action, Engine, Keys, Organisation, PrincipalKind, RequestContext, ResourceKind, ResourceRef};

fn files(root: &Path, folder: &Path, into: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(root, &path, into);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            into.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
}

fn examples() -> Vec<(String, BTreeMap<String, String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/examples");
    let folders = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
    let read = |folder: std::path::PathBuf| {
        let mut set = BTreeMap::new();
        files(&folder, &folder, &mut set);
        (folder.file_name().unwrap().to_str().unwrap().to_owned(), set)
    };
    folders.map(read).collect()
}

fn resource(text: &str) -> ResourceRef<'_> {
    let (word, name) = text.split_once('/').unwrap_or((text, ""));
    let kind = ResourceKind::ALL.iter().copied().find(|k| k.word() == word).unwrap();
    ResourceRef { kind, name }
}

#[test]
fn every_example_loads_without_error_and_decides_as_its_golden_file_says() {
    let mut checked = 0;
    for (example, set) in examples() {
        let organisation = Organisation::load(&set, &mut Library::default()).unwrap_or_else(|findings| {
            panic!("{example}: {}", findings.iter().map(|f| format!("{f}\n")).collect::<String>())
        });
        let engine = Engine::new(organisation).unwrap();
        let organisation = engine.organisation();
        let context = RequestContext::connection(Keys::new(), IpAddr::V4(Ipv4Addr::LOCALHOST), 1_800_000_000_000);
        for line in set["decisions.jsonl"].lines() {
            let golden: serde_json::Value = serde_json::from_str(line).unwrap();
            let alias = |key: &str| organisation.tenants().find(|t| golden[key] == t.alias());
            let tenant = alias("tenant").unwrap();
            let owner = alias("owner").unwrap_or(tenant);
            let mut principal = tenant.principals().find(|p| golden["principal"] == p.name()).unwrap();
            if let PrincipalKind::Role { session, .. } = &mut principal.kind {
                *session = "test".into();
            }
            let session = engine.bind_with(&principal, owner.account(), &[]).unwrap();
            let action = Action::from_full_name(golden["action"].as_str().unwrap()).unwrap();
            let decision = session.decide(action, resource(golden["resource"].as_str().unwrap()), &context);
            assert_eq!(golden["decision"], decision.verdict.to_string(), "{example}: {line}: {decision:?}");
            checked += 1;
        }
    }
    assert!(checked > 100);
}

#[test]
fn the_quickstart_has_no_warnings() {
    for (example, set) in examples() {
        let organisation = Organisation::load(&set, &mut Library::default()).unwrap();
        if example == "quickstart" {
            assert_eq!(organisation.warnings(), []);
        }
    }
}
