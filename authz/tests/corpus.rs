//! Texts that fuzzing and reading AWS's grammar found worth keeping, replayed in every run: what is named `accepted-…` is
//! accepted as an identity policy, what is named `refused-…` is refused with a place, and nothing panics, also as a
//! policy of every other kind or inside a simulation.

use std::sync::Arc;

use schloss_authz::policy::{DocumentKind, Library};
use schloss_authz::simulate::Simulator;

const KINDS: [DocumentKind; 7] = [
    DocumentKind::Identity,
    DocumentKind::Boundary,
    DocumentKind::Session,
    DocumentKind::Guardrail,
    DocumentKind::ResourceControl,
    DocumentKind::Resource,
    DocumentKind::Trust,
];

#[test]
fn every_text_of_the_corpus_is_accepted_or_refused_as_its_name_says() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");
    let simulator = Simulator::new().unwrap();
    let mut seen = [0, 0];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let compile = |kind| {
            let mut findings = Vec::new();
            let document = Library::default().compile(kind, &Arc::from(name.as_str()), &text, &mut findings);
            (document.is_some(), findings)
        };
        let (accepted, findings) = compile(DocumentKind::Identity);
        assert_eq!(accepted, name.starts_with("accepted-"), "{name}: {findings:?}");
        assert!(accepted || findings.iter().all(|finding| finding.at.line >= 1), "{name}");
        assert!(accepted || !findings.is_empty(), "{name} is refused without a reason");
        for kind in KINDS {
            compile(kind);
        }
        let line = format!(
            r#"{{"id": 1, "principal": "arn:aws:iam::1:user/a", "action": "a:b", "resource": "*", "policies": {{"identity": [{text}]}}}}"#
        );
        assert!(
            serde_json::from_str::<serde_json::Value>(&simulator.judge(&line.replace('\n', " "))).is_ok(),
            "{name}"
        );
        seen[usize::from(accepted)] += 1;
    }
    assert!(seen[0] > 20 && seen[1] > 5, "{seen:?}");
}
