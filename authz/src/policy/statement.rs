//! One statement, compiled, and how it is matched.
//!
//! Invariants
//! - `mask` holds exactly the bits of our actions that `Action` / `NotAction` names, so that the hot path compares no text.
//! - Matching looks at action, resource, principal, condition in this order; the first that fails is the reason.

use super::condition::Condition;
use super::principal::{Caller, Fit, PrincipalSet};
use super::resource::ResourcePattern;
use crate::action::{ActionName, ActionPattern};
use crate::arn::ResourceName;
use crate::context::Facts;
use crate::json::Position;

/// What a statement does when it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Grants, unless something denies.
    Allow,
    /// Refuses, whatever grants.
    Deny,
}

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    pub(crate) sid: Option<Box<str>>,
    pub(crate) at: Position,
    pub(crate) effect: Effect,
    pub(crate) mask: u32,
    pub(crate) not_action: bool,
    pub(crate) actions: Box<[ActionPattern]>,
    pub(crate) not_resource: bool,
    /// `None` in trust policies.
    pub(crate) resources: Option<Box<[ResourcePattern]>>,
    pub(crate) principals: Option<PrincipalSet>,
    pub(crate) conditions: Box<[Condition]>,
}

/// Everything a statement is matched against.
pub(crate) struct Question<'a> {
    pub action: ActionName<'a>,
    pub resource: ResourceName<'a>,
    pub caller: &'a Caller,
    pub facts: &'a Facts<'a>,
    /// A permission boundary is set: `NotPrincipal` with Deny then hits everybody (AWS's documented behaviour).
    pub bounded: bool,
}

/// The first element of a statement that did not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The action is not named (or is, under `NotAction`).
    Action,
    /// No resource matches; `part` is what differs in the closest one.
    Resource {
        /// The part of the ARN.
        part: &'static str,
    },
    /// The caller is not named.
    Principal,
    /// This condition does not hold.
    Condition {
        /// The operator as written.
        operator: Box<str>,
        /// The key as written.
        key: Box<str>,
        /// The request's value, `None` when absent.
        value: Option<Box<str>>,
    },
}

impl Statement {
    /// Its Sid.
    #[must_use]
    pub fn sid(&self) -> Option<&str> {
        self.sid.as_deref()
    }

    /// Its effect.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// Where it stands in its file.
    #[must_use]
    pub fn position(&self) -> Position {
        self.at
    }

    pub(crate) fn names_action(&self, action: ActionName<'_>) -> bool {
        match action.known {
            Some(known) => self.mask & known.bit() != 0,
            None => self.actions.iter().any(|p| p.matches(action)) != self.not_action,
        }
    }

    fn names_resource(&self, question: &Question<'_>) -> bool {
        let Some(resources) = &self.resources else {
            return true;
        };
        let mut matched = resources.iter().map(|p| p.matches(question.facts, question.resource));
        if self.not_resource {
            // A variable without value says nothing about what it leaves out, so the element matches nothing.
            matched.all(|m| m == Some(false))
        } else {
            matched.any(|m| m == Some(true))
        }
    }

    /// How the caller fits; `Some(Direct)` without a `Principal`.
    fn names_caller(&self, question: &Question<'_>) -> Option<Fit> {
        match &self.principals {
            None => Some(Fit::Direct),
            Some(set) if set.negated && question.bounded && self.effect == Effect::Deny => Some(Fit::Direct),
            Some(set) => set.fit(question.caller),
        }
    }

    /// Whether it matches, and how its principal fits.
    pub(crate) fn matches(&self, question: &Question<'_>) -> Option<Fit> {
        if !self.names_action(question.action) || !self.names_resource(question) {
            return None;
        }
        let fit = self.names_caller(question)?;
        self.conditions.iter().all(|c| c.holds(question.facts)).then_some(fit)
    }

    /// Why it does not match; `None` when it does.
    pub(crate) fn miss(&self, question: &Question<'_>) -> Option<Miss> {
        if !self.names_action(question.action) {
            return Some(Miss::Action);
        }
        if !self.names_resource(question) {
            let patterns = self.resources.iter().flatten();
            let part = patterns.filter_map(|p| match p {
                ResourcePattern::Arn(arn) => arn.mismatch(question.facts, question.resource),
                ResourcePattern::Every => None,
            });
            return Some(Miss::Resource {
                part: part.max_by_key(|p| closeness(p)).unwrap_or("excluded by NotResource"),
            });
        }
        if self.names_caller(question).is_none() {
            return Some(Miss::Principal);
        }
        let failed = self.conditions.iter().find(|c| !c.holds(question.facts))?;
        let value = question.facts.value(&failed.lower).map(|found| match found {
            crate::context::Found::One(text) => text.into_owned().into_boxed_str(),
            crate::context::Found::Many(texts) => texts.join(", ").into_boxed_str(),
        });
        Some(Miss::Condition { operator: failed.operator.clone(), key: failed.key.clone(), value })
    }
}

fn closeness(part: &str) -> u8 {
    match part {
        "resource name" | "a variable has no value" => 5,
        "resource type" => 4,
        "partition" => 3,
        "region" => 2,
        "account" => 1,
        _ => 0,
    }
}
