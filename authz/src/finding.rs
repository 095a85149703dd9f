//! What is wrong with a file, where, and what to do about it.
//!
//! Every mistake of a set of files is found in one run; each [`Finding`] names file, line, column, reason and advice.

use std::fmt;
use std::sync::Arc;

use crate::action::ActionError;
use crate::json::{JsonError, Position};
use crate::policy::{ArnError, ConditionError, PrincipalError};

/// Whether a set with this finding can come into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Refused; the old set stays in force.
    Error,
    /// Allowed, and probably not meant.
    Warning,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, relative to the organisation's folder.
    pub file: Arc<str>,
    /// Where in it.
    pub at: Position,
    /// What is wrong.
    pub problem: Problem,
}

impl Finding {
    /// How bad it is.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.problem.severity()
    }

    /// What to do next.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        self.problem.advice()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity() {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{}:{}: {word}: {}; {}", self.file, self.at, self.problem, self.advice())
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Problem {
    #[error("not valid JSON: {0}")]
    Json(JsonError),
    #[error("not valid TOML: {message}")]
    Toml { message: Box<str> },
    #[error("`{element}` must be {expected}")]
    WrongType { element: Box<str>, expected: &'static str },
    #[error("`{name}` is not known here")]
    Unknown { name: Box<str> },
    #[error("`{name}` stands here twice")]
    Repeated { name: Box<str> },
    #[error("`{name}` is missing")]
    Missing { name: &'static str },
    #[error("`{first}` and `{second}` exclude each other")]
    Both { first: &'static str, second: &'static str },
    #[error("neither `{first}` nor `{second}` is given")]
    Neither { first: &'static str, second: &'static str },
    #[error("`{element}` is empty")]
    Empty { element: Box<str> },
    #[error("the version `{version}` does not exist")]
    BadVersion { version: Box<str> },
    #[error("the effect `{effect}` does not exist")]
    BadEffect { effect: Box<str> },
    #[error("the Sid `{sid}` has a character other than letters and digits")]
    BadSid { sid: Box<str> },
    #[error("the Sid `{sid}` is used by an earlier statement")]
    RepeatedSid { sid: Box<str> },
    #[error("the action `{action}` is refused: {why}")]
    BadAction { action: Box<str>, why: ActionError },
    #[error("the resource `{resource}` is refused: {why}")]
    BadResource { resource: Box<str>, why: ArnError },
    #[error("the principal `{principal}` is refused: {why}")]
    BadPrincipal { principal: Box<str>, why: PrincipalError },
    #[error("the condition `{operator}` on `{key}` is refused: {why}")]
    BadCondition { operator: Box<str>, key: Box<str>, why: ConditionError },
    #[error("`Principal` has no place in a policy of this type")]
    PrincipalNotAllowed,
    #[error("the effect `Allow` has no place in a resource control policy")]
    AllowNotAllowed,
    #[error("the policy has {characters} characters without blanks, {max} are allowed")]
    TooLong { characters: usize, max: usize },
    #[error("`{value}` is no {expected}")]
    BadValue { value: Box<str>, expected: &'static str },
    #[error("there is no {kind} `{name}`")]
    Dangling { kind: &'static str, name: Box<str> },
    #[error("{kind} `{name}` exists already in `{other}`")]
    Duplicate { kind: &'static str, name: Box<str>, other: Box<str> },
    #[error("{count} managed policies are attached, {max} are allowed")]
    TooManyPolicies { count: usize, max: usize },
    #[error("the action `{action}` names no action of `kafka-cluster`")]
    NoSuchAction { action: Box<str> },
    #[error("`{action}` is allowed, but `{needed}` is not, and clients need both")]
    NeedsAsWell { action: &'static str, needed: &'static str },
    #[error("`{action}` applies to resources of type `{applies}`, and none of this statement's resources is one")]
    WrongResourceType { action: &'static str, applies: &'static str },
    #[error("the key `{key}` is never present on a Kafka connection")]
    KeyNeverPresent { key: Box<str> },
    #[error("the statement can never allow anything, because statement {by} denies all of it")]
    Shadowed { by: u32 },
    #[error("a wildcard stands in the resource type, where it matches nothing")]
    WildcardInType,
    #[error("`NotPrincipal` with `Allow` lets in everybody else, strangers included")]
    NotPrincipalAllow,
    #[error("`NotAction` with `Allow` allows every action that will ever exist")]
    NotActionAllow,
    #[error("`ForAllValues` with `Allow` also passes when the key is absent")]
    ForAllValuesAllow,
}

impl Problem {
    /// How bad it is.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::NoSuchAction { .. }
            | Self::NeedsAsWell { .. }
            | Self::WrongResourceType { .. }
            | Self::KeyNeverPresent { .. }
            | Self::Shadowed { .. }
            | Self::WildcardInType
            | Self::NotPrincipalAllow
            | Self::NotActionAllow
            | Self::ForAllValuesAllow => Severity::Warning,
            _ => Severity::Error,
        }
    }

    /// What to do next.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::Json(_) | Self::Toml { .. } => "correct the text at this place",
            Self::WrongType { .. } => "write it in the form the manual shows",
            Self::Unknown { .. } => "remove it or correct its spelling",
            Self::Repeated { .. } | Self::RepeatedSid { .. } => "keep one of them",
            Self::Missing { .. } | Self::Neither { .. } => "add it",
            Self::Both { .. } => "keep one of the two",
            Self::Empty { .. } => "list at least one element, or remove it",
            Self::BadVersion { .. } => "write \"2012-10-17\"",
            Self::BadEffect { .. } => "write \"Allow\" or \"Deny\"",
            Self::BadSid { .. } => "use letters and digits only",
            Self::BadAction { .. } => "write it as `kafka-cluster:Action`, wildcards behind the colon only",
            Self::BadResource { .. } => "write it as `arn:aws:kafka:region:account:type/cluster/uuid/name`",
            Self::BadPrincipal { .. } => "write `*`, {\"AWS\": \"<account or ARN>\"}, or another kind with its name",
            Self::BadCondition { .. } => "see the list of operators and their values in the manual",
            Self::PrincipalNotAllowed => "remove it: the policy holds for whoever it is attached to",
            Self::AllowNotAllowed => "turn it round into a Deny; full access is the default",
            Self::TooLong { .. } => "split it, or use wildcards",
            Self::BadValue { .. } => "correct the value",
            Self::Dangling { .. } => "add the file or correct the name",
            Self::Duplicate { .. } => "give one of them another value",
            Self::TooManyPolicies { .. } => "join some of them, or use a group",
            Self::NoSuchAction { .. } => "correct its spelling; as it stands it does nothing",
            Self::NeedsAsWell { .. } => "allow that as well",
            Self::WrongResourceType { .. } => "name a resource of that type, or take the action out",
            Self::KeyNeverPresent { .. } => "use another key; see which are present in the manual",
            Self::Shadowed { .. } => "narrow the Deny or remove this statement",
            Self::WildcardInType => "write the type out (`topic/…`, `group/…`), one resource for each",
            Self::NotPrincipalAllow => "use `Principal`, or Deny with a condition on aws:PrincipalArn",
            Self::NotActionAllow => "list what is allowed in `Action`",
            Self::ForAllValuesAllow => "add a Null condition that requires the key",
        }
    }
}

/// Collects findings of one file.
#[derive(Debug)]
pub(crate) struct Findings<'a> {
    pub file: Arc<str>,
    pub list: &'a mut Vec<Finding>,
}

impl Findings<'_> {
    pub fn add(&mut self, at: Position, problem: Problem) {
        self.list.push(Finding { file: Arc::clone(&self.file), at, problem });
    }
}
