//! What a principal needs, from what it did: a least-privilege policy, and what it was granted and never used.
//!
//! In: uses as the audit log counted them. Out: a policy document, and granted actions without a use.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::action::Action;
use crate::decision::StatementRef;
use crate::session::Session;

/// One thing done: an action on a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// The action.
    pub action: Action,
    /// The resource's whole name.
    pub resource: String,
}

/// An action that is granted and was not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unused {
    /// The action.
    pub action: Action,
    /// The statements that grant it.
    pub statements: Vec<StatementRef>,
}

/// The smallest policy that allows these uses and nothing else: one statement per set of actions, resources by name.
/// A name is written so that none of its characters acts as a wildcard or a variable.
#[must_use]
pub fn policy(uses: &[Use]) -> Value {
    let mut by_resource: BTreeMap<&str, BTreeSet<Action>> = BTreeMap::new();
    for used in uses {
        by_resource.entry(&used.resource).or_default().insert(used.action);
    }
    let mut by_actions: BTreeMap<BTreeSet<Action>, Vec<String>> = BTreeMap::new();
    for (resource, actions) in by_resource {
        by_actions.entry(actions).or_default().push(literal(resource));
    }
    let statements = by_actions.into_iter().map(|(actions, resources)| {
        let actions: Vec<&str> = actions.into_iter().map(Action::full_name).collect();
        json!({ "Effect": "Allow", "Action": actions, "Resource": resources })
    });
    json!({ "Version": "2012-10-17", "Statement": statements.collect::<Vec<_>>() })
}

/// Granted actions that no use is of.
#[must_use]
pub fn unused(session: &Session, uses: &[Use]) -> Vec<Unused> {
    let used: BTreeSet<Action> = uses.iter().map(|u| u.action).collect();
    let granted = Action::ALL.iter().filter(|action| !used.contains(action));
    let granted = granted.map(|&action| Unused { action, statements: session.statements_allowing(action) });
    granted.filter(|unused| !unused.statements.is_empty()).collect()
}

fn literal(resource: &str) -> String {
    let mut text = String::with_capacity(resource.len());
    for c in resource.chars() {
        match c {
            '*' | '?' | '$' => text.extend(["${", c.encode_utf8(&mut [0; 4]), "}"]),
            _ => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(action: Action, resource: &str) -> Use {
        Use { action, resource: resource.to_owned() }
    }

    #[test]
    fn resources_with_the_same_actions_share_a_statement() {
        let suggested = policy(&[
            used(Action::ReadData, "arn:aws:kafka:r:1:topic/a/u/x"),
            used(Action::DescribeTopic, "arn:aws:kafka:r:1:topic/a/u/x"),
            used(Action::ReadData, "arn:aws:kafka:r:1:topic/a/u/y"),
            used(Action::DescribeTopic, "arn:aws:kafka:r:1:topic/a/u/y"),
            used(Action::AlterGroup, "arn:aws:kafka:r:1:group/a/u/g*"),
        ]);
        let wanted = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": ["kafka-cluster:DescribeTopic", "kafka-cluster:ReadData"],
             "Resource": ["arn:aws:kafka:r:1:topic/a/u/x", "arn:aws:kafka:r:1:topic/a/u/y"]},
            {"Effect": "Allow", "Action": ["kafka-cluster:AlterGroup"], "Resource": ["arn:aws:kafka:r:1:group/a/u/g${*}"]}]});
        assert_eq!(suggested, wanted);
    }
}
