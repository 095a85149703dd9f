//! From JSON to statements, by AWS's grammar. Every mistake is reported, not only the first.

use super::condition::Condition;
use super::document::{Document, DocumentKind};
use super::principal::{self, PrincipalError, PrincipalSet};
use super::resource::ResourcePattern;
use super::statement::{Effect, Statement};
use crate::action::{self, ActionError, ActionPattern};
use crate::finding::{Findings, Problem};
use crate::json::{Member, Node, Position, Value};

/// Reads a document.
pub(super) fn document(node: &Node, kind: DocumentKind, findings: &mut Findings<'_>) -> Option<Document> {
    let members = object(node, "policy", &["Version", "Id", "Statement"], findings)?;
    let mut sound = true;
    let variables = match find(members, "Version").map(|n| (n, n.text())) {
        None => false,
        Some((_, Some("2012-10-17"))) => true,
        Some((_, Some("2008-10-17"))) => false,
        Some((node, Some(version))) => {
            findings.add(node.at, Problem::BadVersion { version: version.into() });
            sound = false;
            true
        }
        Some((node, None)) => {
            findings.add(node.at, Problem::WrongType { element: "Version".into(), expected: "a string" });
            sound = false;
            true
        }
    };
    if let Some(id) = find(members, "Id").filter(|n| n.text().is_none()) {
        findings.add(id.at, Problem::WrongType { element: "Id".into(), expected: "a string" });
    }
    let Some(list) = find(members, "Statement") else {
        findings.add(node.at, Problem::Missing { name: "Statement" });
        return None;
    };
    if list.elements().is_empty() {
        findings.add(list.at, Problem::Empty { element: "Statement".into() });
    }
    let mut statements: Vec<Statement> = Vec::with_capacity(list.elements().len());
    for element in list.elements() {
        match statement(element, kind, variables, findings) {
            Some(statement) => {
                let sid = statement.sid.as_deref().filter(|sid| !sid.is_empty());
                if let Some(sid) = sid.filter(|sid| statements.iter().any(|s| s.sid() == Some(sid))) {
                    findings.add(statement.at, Problem::RepeatedSid { sid: sid.into() });
                }
                statements.push(statement);
            }
            None => sound = false,
        }
    }
    sound.then(|| Document { statements: statements.into_boxed_slice(), shadow: None })
}

/// The members of an object; foreign and repeated ones are findings.
fn object<'n>(node: &'n Node, element: &str, known: &[&str], findings: &mut Findings<'_>) -> Option<&'n [Member]> {
    let Value::Object(members) = &node.value else {
        findings.add(node.at, Problem::WrongType { element: element.into(), expected: "an object" });
        return None;
    };
    let mut sound = true;
    for (index, member) in members.iter().enumerate() {
        if !known.contains(&&*member.name) {
            findings.add(member.name_at, Problem::Unknown { name: member.name.clone() });
            sound = false;
        } else if members.iter().take(index).any(|m| m.name == member.name) {
            findings.add(member.name_at, Problem::Repeated { name: member.name.clone() });
            sound = false;
        }
    }
    sound.then_some(members)
}

fn find<'n>(members: &'n [Member], name: &str) -> Option<&'n Node> {
    members.iter().find(|m| &*m.name == name).map(|m| &m.node)
}

const ELEMENTS: &[&str] =
    &["Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"];

fn statement(node: &Node, kind: DocumentKind, variables: bool, findings: &mut Findings<'_>) -> Option<Statement> {
    let members = object(node, "Statement", ELEMENTS, findings)?;
    let sid = sid(members, findings);
    let effect = effect(node, members, kind, findings);
    let actions = one_of(node, members, "Action", "NotAction", true, findings);
    let actions = actions.and_then(|(not, n)| Some((not, action_list(n, findings)?)));
    let needs_resource = kind != DocumentKind::Trust;
    let resources = match one_of(node, members, "Resource", "NotResource", needs_resource, findings) {
        Some((not, n)) => resource_list(n, variables, findings).map(|list| Some((not, list))),
        // A trust policy given to a simulation as the resource's.
        None if kind == DocumentKind::Resource && find(members, "Resource").is_none() => Some(None),
        None if needs_resource => None,
        None => Some(None),
    };
    let principals = principals(node, members, kind, findings);
    let conditions = match find(members, "Condition") {
        Some(node) => conditions(node, variables, findings),
        None => Some(Vec::new()),
    };
    let (not_action, actions) = actions?;
    let (not_resource, resources) = match resources? {
        Some((not, list)) => (not, Some(list)),
        None => (false, None),
    };
    let named = actions.iter().fold(0, |mask, pattern| mask | pattern.mask());
    Some(Statement {
        sid,
        at: node.at,
        effect: effect?,
        mask: if not_action { !named & action::ALL_BITS } else { named },
        not_action,
        actions: actions.into_boxed_slice(),
        not_resource,
        resources: resources.map(Vec::into_boxed_slice),
        principals: principals?,
        conditions: conditions?.into_boxed_slice(),
    })
}

fn sid(members: &[Member], findings: &mut Findings<'_>) -> Option<Box<str>> {
    let node = find(members, "Sid")?;
    let Some(text) = node.text() else {
        findings.add(node.at, Problem::WrongType { element: "Sid".into(), expected: "a string" });
        return None;
    };
    if !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        findings.add(node.at, Problem::BadSid { sid: text.into() });
    }
    Some(text.into())
}

fn effect(node: &Node, members: &[Member], kind: DocumentKind, findings: &mut Findings<'_>) -> Option<Effect> {
    let Some(found) = find(members, "Effect") else {
        findings.add(node.at, Problem::Missing { name: "Effect" });
        return None;
    };
    match found.text() {
        Some("Allow") => {
            if kind == DocumentKind::ResourceControl {
                findings.add(found.at, Problem::AllowNotAllowed);
            }
            Some(Effect::Allow)
        }
        Some("Deny") => Some(Effect::Deny),
        other => {
            findings.add(found.at, Problem::BadEffect { effect: other.unwrap_or("?").into() });
            None
        }
    }
}

/// The one of two elements that is there, and whether it is the negated one.
fn one_of<'n>(
    node: &Node,
    members: &'n [Member],
    plain: &'static str,
    negated: &'static str,
    required: bool,
    findings: &mut Findings<'_>,
) -> Option<(bool, &'n Node)> {
    match (find(members, plain), find(members, negated)) {
        (Some(node), None) => Some((false, node)),
        (None, Some(node)) => Some((true, node)),
        (Some(_), Some(second)) => {
            findings.add(second.at, Problem::Both { first: plain, second: negated });
            None
        }
        (None, None) => {
            if required {
                findings.add(node.at, Problem::Neither { first: plain, second: negated });
            }
            None
        }
    }
}

/// Strings of a string or a list of strings, each with its place.
fn texts<'n>(
    node: &'n Node,
    element: &str,
    scalars: bool,
    findings: &mut Findings<'_>,
) -> Option<Vec<(Position, &'n str)>> {
    if node.elements().is_empty() {
        findings.add(node.at, Problem::Empty { element: element.into() });
        return None;
    }
    let mut sound = true;
    let mut list = Vec::with_capacity(node.elements().len());
    for element_node in node.elements() {
        match &element_node.value {
            Value::Text(text) => list.push((element_node.at, &**text)),
            Value::Number(text) if scalars => list.push((element_node.at, &**text)),
            Value::Bool(value) if scalars => list.push((element_node.at, if *value { "true" } else { "false" })),
            _ => {
                findings.add(element_node.at, Problem::WrongType { element: element.into(), expected: "strings" });
                sound = false;
            }
        }
    }
    sound.then_some(list)
}

fn action_list(node: &Node, findings: &mut Findings<'_>) -> Option<Vec<ActionPattern>> {
    let mut sound = true;
    let mut list = Vec::new();
    for (at, text) in texts(node, "Action", false, findings)? {
        match ActionPattern::parse(text) {
            Ok(pattern) => {
                if matches!(&pattern, ActionPattern::Of { service: None, .. }) && pattern.mask() == 0 {
                    findings.add(at, Problem::NoSuchAction { action: text.into() });
                }
                list.push(pattern);
            }
            Err(why) => {
                findings.add(at, Problem::BadAction { action: text.into(), why });
                match ActionPattern::never(text).filter(|_| why == ActionError::BadName) {
                    Some(pattern) => list.push(pattern),
                    None => sound = false,
                }
            }
        }
    }
    sound.then_some(list)
}

fn resource_list(node: &Node, variables: bool, findings: &mut Findings<'_>) -> Option<Vec<ResourcePattern>> {
    let mut sound = true;
    let mut list = Vec::new();
    for (at, text) in texts(node, "Resource", false, findings)? {
        match ResourcePattern::parse(text, variables) {
            Ok(pattern) => list.push(pattern),
            Err(why) => {
                findings.add(at, Problem::BadResource { resource: text.into(), why });
                sound = false;
            }
        }
    }
    sound.then_some(list)
}

/// `Some(None)` when the type of document has none; a misplaced one is a finding and otherwise ignored.
#[allow(clippy::option_option)]
fn principals(
    node: &Node,
    members: &[Member],
    kind: DocumentKind,
    findings: &mut Findings<'_>,
) -> Option<Option<PrincipalSet>> {
    if !kind.has_principals() {
        for name in ["Principal", "NotPrincipal"] {
            if let Some(found) = find(members, name) {
                findings.add(found.at, Problem::PrincipalNotAllowed);
            }
        }
        return Some(None);
    }
    let required = kind != DocumentKind::ResourceControl;
    let Some((negated, found)) = one_of(node, members, "Principal", "NotPrincipal", required, findings) else {
        // Without a principal nobody is meant; both of the pair is no meaning at all.
        let both = find(members, "Principal").is_some();
        let nobody = required.then(|| PrincipalSet { negated: false, patterns: Vec::new() });
        return (!both).then_some(nobody);
    };
    let mut sound = true;
    let set = principal::parse(found, negated, &mut |at, text, why| {
        findings.add(at, Problem::BadPrincipal { principal: text.into(), why });
        sound &= why == PrincipalError::Bare;
    });
    // A resource control policy holds for everybody; AWS takes only `*` there.
    if kind == DocumentKind::ResourceControl {
        return sound.then_some(None);
    }
    sound.then_some(Some(set))
}

fn conditions(node: &Node, variables: bool, findings: &mut Findings<'_>) -> Option<Vec<Condition>> {
    let Value::Object(operators) = &node.value else {
        findings.add(node.at, Problem::WrongType { element: "Condition".into(), expected: "an object" });
        return None;
    };
    let mut sound = true;
    let mut list = Vec::new();
    for (index, operator) in operators.iter().enumerate() {
        if operators.iter().take(index).any(|o| o.name.eq_ignore_ascii_case(&operator.name)) {
            findings.add(operator.name_at, Problem::Repeated { name: operator.name.clone() });
            sound = false;
        }
        let Value::Object(keys) = &operator.node.value else {
            let element = operator.name.clone();
            findings.add(operator.node.at, Problem::WrongType { element, expected: "an object of keys and values" });
            sound = false;
            continue;
        };
        if keys.is_empty() {
            findings.add(operator.node.at, Problem::Empty { element: operator.name.clone() });
            sound = false;
        }
        for (index, key) in keys.iter().enumerate() {
            if keys.iter().take(index).any(|k| k.name.eq_ignore_ascii_case(&key.name)) {
                findings.add(key.name_at, Problem::Repeated { name: key.name.clone() });
                sound = false;
            }
            match condition(&operator.name, key, variables, findings) {
                Some(condition) => list.push(condition),
                None => sound = false,
            }
        }
    }
    sound.then_some(list)
}

fn condition(operator: &str, key: &Member, variables: bool, findings: &mut Findings<'_>) -> Option<Condition> {
    let values = texts(&key.node, &key.name, true, findings)?;
    let texts: Vec<&str> = values.iter().map(|(_, text)| *text).collect();
    match Condition::parse(operator, &key.name, &texts, variables) {
        Ok(condition) => Some(condition),
        Err(why) => {
            let problem = Problem::BadCondition { operator: operator.into(), key: key.name.clone(), why };
            findings.add(key.name_at, problem);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{DocumentKind, Library};
    use crate::finding::{Problem, Severity};
    use crate::json::Position;

    fn problems(kind: DocumentKind, text: &str) -> Vec<(Position, Problem)> {
        let mut list = Vec::new();
        Library::default().compile(kind, &Arc::from("p.json"), text, &mut list);
        list.into_iter().map(|f| (f.at, f.problem)).collect()
    }

    #[test]
    fn a_sound_policy_has_no_findings() {
        let text = r#"{"Version": "2012-10-17", "Id": "x", "Statement": {
            "Sid": "One", "Effect": "Allow", "Action": ["kafka-cluster:*Topic*", "kafka-cluster:WriteData"],
            "Resource": "arn:aws:kafka:*:111111111111:topic/acme/*/${aws:username}-*",
            "Condition": {"Bool": {"aws:SecureTransport": true}, "NumericLessThan": {"aws:MultiFactorAuthAge": 3600}}}}"#;
        assert_eq!(problems(DocumentKind::Identity, text), []);
    }

    #[test]
    fn every_mistake_is_found_at_once_with_its_place() {
        let text = "{\"Version\": \"2013-10-17\",\n \"Statement\": [{\n  \"Effect\": \"Permit\",\n  \"Action\": \"ReadData\",\n  \"Resource\": \"orders\",\n  \"Condition\": {\"StringSame\": {\"aws:x\": \"y\"}}}]}";
        let found = problems(DocumentKind::Identity, text);
        let lines: Vec<u32> = found.iter().map(|(at, _)| at.line).collect();
        assert_eq!(lines, [1, 3, 4, 5, 6]);
        assert_eq!(found[3].0, Position { line: 5, column: 15 });
    }

    #[test]
    fn both_or_neither_of_a_pair_is_refused() {
        let both = r#"{"Statement": [{"Effect": "Allow", "Action": "*", "NotAction": "*", "Resource": "*"}]}"#;
        assert!(matches!(&problems(DocumentKind::Identity, both)[..], [(_, Problem::Both { .. })]));
        let neither = r#"{"Statement": [{"Effect": "Allow", "Action": "*"}]}"#;
        assert!(matches!(&problems(DocumentKind::Identity, neither)[..], [(_, Problem::Neither { .. })]));
    }

    #[test]
    fn principals_stand_in_resource_policies_and_nowhere_else() {
        let with = r#"{"Statement": [{"Effect": "Deny", "Principal": "*", "Action": "*", "Resource": "*"}]}"#;
        let without = r#"{"Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}"#;
        assert_eq!(problems(DocumentKind::Resource, with), []);
        assert!(matches!(&problems(DocumentKind::Resource, without)[..], [(_, Problem::Neither { .. })]));
        assert!(matches!(&problems(DocumentKind::Identity, with)[..], [(_, Problem::PrincipalNotAllowed)]));
    }

    #[test]
    fn unknown_repeated_and_empty_elements_are_refused() {
        let unknown = r#"{"Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*", "Actions": "*"}]}"#;
        assert!(matches!(&problems(DocumentKind::Identity, unknown)[..], [(_, Problem::Unknown { .. })]));
        let repeated = r#"{"Statement": [{"Effect": "Deny", "Effect": "Allow", "Action": "*", "Resource": "*"}]}"#;
        assert!(matches!(&problems(DocumentKind::Identity, repeated)[..], [(_, Problem::Repeated { .. })]));
        let empty = r#"{"Statement": [{"Effect": "Deny", "Action": [], "Resource": "*"}]}"#;
        assert!(matches!(&problems(DocumentKind::Identity, empty)[..], [(_, Problem::Empty { .. })]));
        assert!(matches!(&problems(DocumentKind::Identity, r#"{"Statement": []}"#)[..], [(_, Problem::Empty { .. })]));
    }

    #[test]
    fn a_policy_above_awss_length_is_refused() {
        let long = format!(
            r#"{{"Statement": [{{"Effect": "Deny", "Action": "*", "Resource": "arn:aws:kafka:*:*:topic/{}"}}]}}"#,
            "x".repeat(6_144)
        );
        assert!(matches!(&problems(DocumentKind::Identity, &long)[..], [(_, Problem::TooLong { .. })]));
    }

    #[test]
    fn an_action_that_does_not_exist_is_a_warning() {
        let text = r#"{"Statement": [{"Effect": "Allow", "Action": "kafka-cluster:ReedData", "Resource": "*"}]}"#;
        let found = problems(DocumentKind::Identity, text);
        assert!(matches!(&found[..], [(_, Problem::NoSuchAction { .. })]));
        assert_eq!(found[0].1.severity(), Severity::Warning);
    }
}
