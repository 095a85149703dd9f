//! Warnings: what AWS allows and what was probably not meant.

use crate::action::Action;
use crate::finding::{Finding, Findings, Problem};
use std::sync::Arc;

use crate::policy::{Document, DocumentKind, Effect, Library, Quantifier, ResourcePattern, Statement};

/// Everything there is to say about one policy's text: what AWS refuses, and what it only warns of.
#[must_use]
pub fn policy(kind: DocumentKind, file: &str, text: &str) -> Vec<Finding> {
    let mut list = Vec::new();
    let file: Arc<str> = file.into();
    if let Some(compiled) = Library::default().compile(kind, &file, text, &mut list) {
        document(&compiled, kind, &mut Findings { file, list: &mut list });
    }
    list
}

/// Looks over one document.
pub(crate) fn document(document: &Document, kind: DocumentKind, findings: &mut Findings<'_>) {
    for statement in document.statements() {
        one(statement, kind, findings);
    }
    shadowed(document, findings);
    if kind == DocumentKind::Identity {
        missing_companions(document, findings);
    }
}

fn one(statement: &Statement, kind: DocumentKind, findings: &mut Findings<'_>) {
    let at = statement.at;
    let allows = statement.effect == Effect::Allow;
    if allows && statement.not_action && kind == DocumentKind::Identity {
        findings.add(at, Problem::NotActionAllow);
    }
    if allows && statement.principals.as_ref().is_some_and(|p| p.negated) {
        findings.add(at, Problem::NotPrincipalAllow);
    }
    for condition in &statement.conditions {
        if allows && condition.quantifier == Some(Quantifier::ForAllValues) {
            findings.add(at, Problem::ForAllValuesAllow);
        }
        for key in std::iter::once(&*condition.lower).chain(condition.variables()) {
            if !may_be_present(key) {
                findings.add(at, Problem::KeyNeverPresent { key: key.into() });
            }
        }
    }
    for pattern in statement.resources.iter().flatten() {
        if let ResourcePattern::Arn(arn) = pattern
            && arn.type_word().is_some_and(|word| word.contains(['*', '?']))
        {
            findings.add(at, Problem::WildcardInType);
        }
    }
    if !statement.not_resource && !statement.not_action {
        wrong_resource_types(statement, findings);
    }
}

/// Actions named (not by a wildcard over all) of which no resource of the statement is of their type.
fn wrong_resource_types(statement: &Statement, findings: &mut Findings<'_>) {
    let Some(resources) = &statement.resources else {
        return;
    };
    if statement.mask.count_ones() > 6 {
        return;
    }
    for action in Action::ALL.iter().filter(|a| statement.mask & a.bit() != 0) {
        let word = action.resource().word();
        let covers = resources.iter().any(|pattern| match pattern {
            ResourcePattern::Every => true,
            ResourcePattern::Arn(arn) => arn.covers_service("kafka") && arn.type_word().is_none_or(|w| w == word),
        });
        if !covers {
            findings.add(statement.at, Problem::WrongResourceType { action: action.full_name(), applies: word });
        }
    }
}

/// Allows that an unconditional Deny of the same document takes back in full.
fn shadowed(document: &Document, findings: &mut Findings<'_>) {
    for allow in document.statements().iter().filter(|s| s.effect == Effect::Allow && s.mask != 0) {
        let by = (0..).zip(document.statements()).find(|(_, deny)| {
            deny.effect == Effect::Deny
                && deny.conditions.is_empty()
                && deny.principals.is_none()
                && allow.mask & !deny.mask == 0
                && !deny.not_resource
                && !allow.not_resource
                && covers(deny, allow)
        });
        if let Some((by, _)) = by {
            findings.add(allow.at, Problem::Shadowed { by });
        }
    }
}

fn covers(deny: &Statement, allow: &Statement) -> bool {
    let (Some(denied), Some(allowed)) = (&deny.resources, &allow.resources) else {
        return false;
    };
    denied.contains(&ResourcePattern::Every) || allowed.iter().all(|pattern| denied.contains(pattern))
}

/// Actions whose use always meets another one in the same client flow.
fn missing_companions(document: &Document, findings: &mut Findings<'_>) {
    let allowed = document.statements().iter().filter(|s| s.effect == Effect::Allow);
    let mask = allowed.clone().fold(0, |mask, s| mask | s.mask);
    for (action, needed) in COMPANIONS {
        if mask & action.bit() != 0
            && mask & needed.bit() == 0
            && let Some(statement) = allowed.clone().find(|s| s.mask & action.bit() != 0)
        {
            let problem = Problem::NeedsAsWell { action: action.full_name(), needed: needed.full_name() };
            findings.add(statement.at, problem);
        }
    }
}

fn may_be_present(lower: &str) -> bool {
    KEYS.contains(&lower) || PREFIXES.iter().any(|prefix| lower.starts_with(prefix))
}

const COMPANIONS: &[(Action, Action)] = &[
    (Action::ReadData, Action::DescribeTopic),
    (Action::WriteData, Action::DescribeTopic),
    (Action::AlterGroup, Action::DescribeGroup),
    (Action::AlterTransactionalId, Action::DescribeTransactionalId),
    (Action::AlterTopic, Action::DescribeTopic),
    (Action::DeleteTopic, Action::DescribeTopic),
];

/// Keys a connection can have, lower case.
const KEYS: &[&str] = &[
    "aws:sourceip",
    "aws:currenttime",
    "aws:epochtime",
    "aws:securetransport",
    "aws:principalarn",
    "aws:principalaccount",
    "aws:principaltype",
    "aws:principalorgid",
    "aws:principalorgpaths",
    "aws:userid",
    "aws:username",
    "aws:tokenissuetime",
    "aws:multifactorauthpresent",
    "aws:multifactorauthage",
    "aws:sourceidentity",
    "aws:requestedregion",
    "aws:resourceaccount",
    "aws:sourcevpc",
    "aws:sourcevpce",
    "aws:vpcsourceip",
    "aws:useragent",
    "aws:viaawsservice",
    "aws:principalisawsservice",
    "schloss:mechanism",
    "schloss:clientid",
    "schloss:tlsversion",
    "schloss:certificatefingerprint",
    "schloss:tenantid",
];
const PREFIXES: &[&str] = &["aws:principaltag/", "aws:resourcetag/"];
