//! The frame of every decision: casbin's deny-override over two built-in rows.
//!
//! casbin walks every row it has for every request; with rows of policy data a decision would cost as much as the
//! whole organisation. So it has exactly two rows, `deny-scan/deny` and `grant/allow`, and one function that asks the
//! compiled set which the request carries. Numbers, dates and addresses never reach its scripts.
//!
//! Invariants
//! - The frame is built once per process from constants and refuses to exist without its two rows: with none, casbin
//!   would judge by the matcher alone.
//! - The feature `cached` stays off: it compares 64-bit hashes instead of keys.
//! - Any failure of the frame is a refusal.

use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use casbin::function_map::OperatorFunction;
use casbin::rhai::Dynamic;
use casbin::{CoreApi, DefaultModel, EnforceArgs, Enforcer, MemoryAdapter, MgmtApi};

use crate::action::{Action, ActionName};
use crate::arn::ResourceName;
use crate::context::{Facts, Keys, RequestContext};
use crate::decision::{Decision, Layer, StatementRef, Verdict};
use crate::evaluate::{CompiledSet, Delegation, Sides};
use crate::policy::{Caller, Question};

/// Everything about a caller that stays while the policies stay.
#[derive(Debug)]
pub(crate) struct Bound {
    pub caller: Caller,
    pub keys: Keys,
    pub set: CompiledSet,
    pub resource_account: Option<Box<str>>,
}

/// One question with everything needed to answer it; owned, because casbin's values must be.
#[derive(Debug)]
pub(crate) struct Asked {
    pub bound: Arc<Bound>,
    /// The full name, lower case.
    pub action: Box<str>,
    pub resource: Box<str>,
    pub context: RequestContext,
    outcome: Mutex<Outcome>,
}

#[derive(Debug, Default)]
struct Outcome {
    denying: Vec<u32>,
    granting: Option<Result<Vec<u32>, Layer>>,
    valid_until: Option<i64>,
}

/// The frame could not be built: a mistake in this program or its casbin.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// casbin refused.
    #[error("casbin refused the frame")]
    Casbin(#[from] casbin::Error),
    /// casbin waited for something, which nothing in memory needs.
    #[error("casbin did not finish building the frame at once")]
    Waits,
    /// The two rows are not there.
    #[error("the frame has other rows than its two")]
    Rows,
}

/// The one enforcer of this process.
pub(crate) struct Frame(Enforcer);

impl Frame {
    /// The process's frame.
    pub fn shared() -> Result<&'static Self, FrameError> {
        static FRAME: OnceLock<Frame> = OnceLock::new();
        if let Some(frame) = FRAME.get() {
            return Ok(frame);
        }
        let built = Self::build()?;
        Ok(FRAME.get_or_init(|| built))
    }

    fn build() -> Result<Self, FrameError> {
        let rows = ROWS.map(|row| row.map(str::to_owned).to_vec()).to_vec();
        let enforcer = at_once(async {
            let model = DefaultModel::from_str(MODEL).await?;
            let mut enforcer = Enforcer::new(model, MemoryAdapter::default()).await?;
            enforcer.add_function("judge", OperatorFunction::Arg2(judge));
            enforcer.add_policies(rows.clone()).await?;
            Ok::<_, casbin::Error>(enforcer)
        })??;
        if enforcer.get_policy() == rows { Ok(Self(enforcer)) } else { Err(FrameError::Rows) }
    }

    /// Answers one question.
    pub fn decide(&self, asked: Asked) -> Decision {
        let asked = Arc::new(asked);
        let allowed = self.0.enforce(One(Dynamic::from(Arc::clone(&asked))));
        let outcome = std::mem::take(&mut *asked.outcome.lock().unwrap_or_else(PoisonError::into_inner));
        let references = |rows: &[u32]| -> Arc<[StatementRef]> {
            let candidate = |row: &u32| asked.bound.set.candidates.get(usize::try_from(*row).ok()?);
            rows.iter().filter_map(candidate).map(|c| c.reference()).collect()
        };
        let (verdict, decisive, lacking) = match (allowed, outcome.granting) {
            (Ok(true), Some(Ok(rows))) if outcome.denying.is_empty() => (Verdict::Allowed, references(&rows), None),
            _ if !outcome.denying.is_empty() => (Verdict::ExplicitlyDenied, references(&outcome.denying), None),
            (_, Some(Err(layer))) => (Verdict::ImplicitlyDenied, Arc::default(), Some(layer)),
            // SECURITY: casbin failed, or disagrees with what its function found. Nothing is allowed by accident.
            _ => (Verdict::ImplicitlyDenied, Arc::default(), None),
        };
        Decision { verdict, decisive, lacking, valid_until_ms: outcome.valid_until, shadow: None }
    }
}

impl Asked {
    pub fn new(bound: Arc<Bound>, action: Box<str>, resource: Box<str>, context: RequestContext) -> Self {
        Self { bound, action, resource, context, outcome: Mutex::default() }
    }

    /// Looks at the question with borrowed parts; `None` for an action without a colon, which nothing allows.
    pub fn with_question<T>(&self, look: impl FnOnce(&Question<'_>, &Sides<'_>) -> T) -> Option<T> {
        let facts = Facts::new(&self.bound.keys, &self.context);
        let action = ActionName::from_lower(&self.action)?;
        let resource = ResourceName::split(&self.resource);
        let bounded = self.bound.set.has_boundary;
        let question = Question { action, resource, caller: &self.bound.caller, facts: &facts, bounded };
        let sides = Sides {
            resource_account: self.bound.resource_account.as_deref(),
            delegation: Delegation::of(action, resource),
        };
        let answer = look(&question, &sides);
        if let Some(until) = facts.valid_until() {
            let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            outcome.valid_until = Some(outcome.valid_until.map_or(until, |other| other.min(until)));
        }
        Some(answer)
    }

    fn deny_scan(&self) -> bool {
        let denying = self.with_question(|question, _| self.bound.set.denying(question)).unwrap_or_default();
        let denied = !denying.is_empty();
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).denying = denying;
        denied
    }

    fn grant(&self) -> bool {
        let granting = self.with_question(|question, sides| self.bound.set.granting(question, sides));
        let granting = granting.unwrap_or(Err(Layer::Identity));
        let granted = granting.is_ok();
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).granting = Some(granting);
        granted
    }
}

/// Yes or no for one name of a listing: the frame's two questions, asked directly, in its order.
pub(crate) fn judge_directly(
    bound: &Bound,
    action: Action,
    resource: ResourceName<'_>,
    context: &RequestContext,
) -> bool {
    let facts = Facts::new(&bound.keys, context);
    let lower = action.lower_name();
    let action = ActionName { service: crate::action::SERVICE, name: lower, known: Some(action) };
    let bounded = bound.set.has_boundary;
    let question = Question { action, resource, caller: &bound.caller, facts: &facts, bounded };
    let sides = Sides { resource_account: bound.resource_account.as_deref(), delegation: Delegation::Implied };
    bound.set.denying(&question).is_empty() && bound.set.granting(&question, &sides).is_ok()
}

/// The function of the matcher. Anything unexpected is no match, and no match of `grant` is a refusal.
fn judge(question: Dynamic, layer: Dynamic) -> Dynamic {
    let Some(asked) = question.try_cast::<Arc<Asked>>() else {
        return false.into();
    };
    let found = match layer.into_immutable_string() {
        Ok(layer) if layer == DENY_SCAN => asked.deny_scan(),
        Ok(layer) if layer == GRANT => asked.grant(),
        _ => false,
    };
    found.into()
}

struct One(Dynamic);

impl EnforceArgs for One {
    fn try_into_vec(self) -> casbin::Result<Vec<Dynamic>> {
        Ok(vec![self.0])
    }

    fn cache_key(&self) -> u64 {
        0
    }
}

/// Runs a future that has nothing to wait for.
fn at_once<T>(future: impl Future<Output = T>) -> Result<T, FrameError> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Ok(done),
        Poll::Pending => Err(FrameError::Waits),
    }
}

const DENY_SCAN: &str = "deny-scan";
const GRANT: &str = "grant";
const ROWS: [[&str; 2]; 2] = [[DENY_SCAN, "deny"], [GRANT, "allow"]];
const MODEL: &str = "
[request_definition]
r = q

[policy_definition]
p = layer, eft

[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))

[matchers]
m = judge(r.q, p.layer)
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_has_exactly_its_two_rows() {
        let frame = Frame::build().unwrap();
        assert_eq!(frame.0.get_policy().len(), 2);
    }

    #[test]
    fn a_question_of_a_foreign_type_is_refused() {
        let frame = Frame::build().unwrap();
        assert!(!frame.0.enforce(One(Dynamic::from("text"))).unwrap());
    }
}
