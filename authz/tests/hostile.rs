//! No text, however broken, makes the readers panic or hang; what they cannot read is refused.

use std::collections::BTreeMap;

use proptest::prelude::*;
use schloss_authz::Organisation;
use schloss_authz::policy::Library;
use schloss_authz::simulate::Simulator;

const LINE: &str = r#"{"id": 1, "principal": "arn:aws:iam::111111111111:user/ann", "context": {"aws:SourceIp": "10.0.0.1", "aws:TagKeys": ["a"]},
 "action": "kafka-cluster:ReadData", "resource": "arn:aws:kafka:r:111111111111:topic/a/u/t", "policies": {"identity": [{"Version": "2012-10-17",
 "Statement": [{"Sid": "A", "Effect": "Allow", "NotAction": ["s3:*"], "Resource": "arn:aws:kafka:*:*:topic/*/${aws:username, 'x'}",
 "Condition": {"ForAnyValue:StringLike": {"aws:TagKeys": ["a*", "${aws:absent}"]}, "DateLessThan": {"aws:CurrentTime": "2026-01-01T00:00:00Z"},
 "IpAddress": {"aws:SourceIp": "10.0.0.0/8"}, "NumericLessThan": {"aws:x": 5}}}]}], "resource": [{"Statement": {"Effect": "Deny",
 "NotPrincipal": {"AWS": ["111111111111", "arn:aws:iam::1:role/a/b"]}, "Action": "*", "Resource": "*"}}], "scp": [[]], "rcp": []}}"#;

const TENANT: &str = "account = \"111111111111\"\nhosts = [\"a.example\"]\nkms_key = \"k\"\nclient_ca_sha256 = []\n[cluster]\nname = \"a\"\nuuid = \"u\"\nregion = \"r\"\n";

/// Replaces, cuts in or takes out pieces at places.
fn broken(text: &str, edits: &[(usize, usize, String)]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (at, gone, put) in edits {
        let at = at % (chars.len() + 1);
        let end = (at + gone).min(chars.len());
        chars.splice(at..end, put.chars());
    }
    chars.into_iter().collect()
}

fn edits() -> impl Strategy<Value = Vec<(usize, usize, String)>> {
    let piece =
        prop_oneof!["[\\[\\]{}\",:*?$/\\\\é\u{0}-]{0,3}", "\\PC{0,4}", Just("${".to_owned()), Just("null".to_owned())];
    prop::collection::vec((any::<usize>(), 0..6_usize, piece), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn a_broken_line_is_always_answered(edits in edits()) {
        let answer = Simulator::new().unwrap().judge(&broken(LINE, &edits));
        prop_assert!(serde_json::from_str::<serde_json::Value>(&answer).is_ok());
    }

    #[test]
    fn a_broken_tenant_is_loaded_or_refused(edits in edits()) {
        let files = BTreeMap::from([("tenants/a/tenant.toml".to_owned(), broken(TENANT, &edits))]);
        if let Err(findings) = Organisation::load(&files, &mut Library::default()) {
            prop_assert!(!findings.is_empty());
        }
    }
}
