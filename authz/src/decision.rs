//! Decisions and the statements that made them.

use std::fmt;
use std::sync::Arc;

/// Where a policy stands in the order of evaluation. Levels count from the root, 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// The caller's own, its groups', its role's.
    Identity,
    /// The caller's permission boundary.
    Boundary,
    /// Given when the session began.
    Session,
    /// A guardrail of the caller's organisation (service control policy).
    Guardrail(u16),
    /// A guardrail of the resource's organisation (resource control policy).
    ResourceControl(u16),
    /// Attached to the resource.
    Resource,
}

impl Layer {
    /// AWS's short word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Boundary => "boundary",
            Self::Session => "session",
            Self::Guardrail(_) => "scp",
            Self::ResourceControl(_) => "rcp",
            Self::Resource => "resource",
        }
    }

    /// The level of a guardrail.
    #[must_use]
    pub const fn level(self) -> Option<u16> {
        match self {
            Self::Guardrail(level) | Self::ResourceControl(level) => Some(level),
            _ => None,
        }
    }
}

/// AWS's three answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Everything that must allow does, nothing denies.
    Allowed,
    /// Something that must allow does not.
    ImplicitlyDenied,
    /// A statement denies.
    ExplicitlyDenied,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One statement of one policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StatementRef {
    /// The policy's layer.
    pub layer: Layer,
    /// The policy's name.
    pub policy: Arc<str>,
    /// The statement's Sid.
    pub sid: Option<Box<str>>,
    /// The statement's place in the policy, from 0.
    pub index: u32,
}

impl fmt::Display for StatementRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}#{}", self.layer.word(), self.policy, self.index)?;
        match &self.sid {
            Some(sid) => write!(f, "({sid})"),
            None => Ok(()),
        }
    }
}

/// The answer to one question. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub verdict: Verdict,
    /// Allowed: one allowing statement per layer that had to. Explicitly denied: every denying one. Else none.
    pub decisive: Arc<[StatementRef]>,
    /// Implicitly denied: the first layer that had to allow and did not.
    pub lacking: Option<Layer>,
    /// The answer may be another from this moment on (milliseconds since 1970), when it depends on time.
    pub valid_until_ms: Option<i64>,
    /// What would have been decided with the shadow versions of policies, when that is another answer.
    pub shadow: Option<Arc<Decision>>,
}

impl Decision {
    /// The statement to name when only one can be: of the principal's or resource's own rather than of a guardrail.
    #[must_use]
    pub fn leading(&self) -> Option<&StatementRef> {
        let own = self.decisive.iter().find(|statement| statement.layer.level().is_none());
        own.or_else(|| self.decisive.first())
    }

    /// Whether the answer is yes.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allowed
    }
}
