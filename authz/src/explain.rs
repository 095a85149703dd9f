//! Why: the same decision with everything that led to it, and who else could.
//!
//! In: a session and a question. Out: the decision, and of every statement about the action that did not match the
//! first element that failed, the closest ones first.

use std::sync::Arc;

use crate::action::Action;
use crate::arn::ResourceRef;
use crate::context::{KeyValue, RequestContext};
use crate::decision::{Decision, Layer, StatementRef, Verdict};
use crate::engine::{BindError, Engine};
use crate::frame::Asked;
use crate::organisation::{Principal, PrincipalKind};
use crate::policy::{Effect, Miss};
use crate::session::Session;

/// A decision with its reasons.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The decision, made anew.
    pub decision: Decision,
    /// The resource's whole name.
    pub resource: String,
    /// Allowing statements that did not match, closest first, at most [`NEAREST_MAX`].
    pub nearest: Vec<NearMiss>,
    /// The keys the decision was made with, lower case, lists joined by commas.
    pub context: Vec<(String, String)>,
}

/// A statement that would have allowed.
#[derive(Clone, Debug)]
pub struct NearMiss {
    /// The statement.
    pub statement: StatementRef,
    /// Its first element that failed.
    pub miss: Miss,
}

/// One principal that can, or could.
#[derive(Clone, Debug)]
pub struct Able {
    /// Who; a role stands for all its sessions.
    pub principal: Principal,
    /// The decision under the circumstances given.
    pub decision: Decision,
    /// Empty when allowed. Else the conditions that keep a statement from allowing it: under others it would.
    pub only_if: Vec<NearMiss>,
}

impl Session {
    /// Judges once more, past the cache, and tells why.
    #[must_use]
    pub fn explain(&self, action: Action, resource: ResourceRef<'_>, context: &RequestContext) -> Explanation {
        self.explain_arn(action, &self.cluster.arn_of(resource), context)
    }

    /// The same for a resource by its whole name.
    #[must_use]
    pub fn explain_arn(&self, action: Action, resource: &str, context: &RequestContext) -> Explanation {
        let mut nearest = self.misses(action, resource, context);
        nearest.sort_by_key(|near| distance(&near.miss));
        nearest.truncate(NEAREST_MAX);
        let keys = self.bound.keys.iter().chain(context.keys.iter());
        let text = |value: &KeyValue| match value {
            KeyValue::One(text) => text.to_string(),
            KeyValue::Many(texts) => texts.join(", "),
        };
        Explanation {
            context: keys.map(|(key, value)| (key.to_owned(), text(value))).collect(),
            resource: resource.to_owned(),
            decision: self.frame.decide(self.asked_arn(action, resource, context)),
            nearest,
        }
    }

    /// Every allowing statement that does not match, with its first element that failed.
    fn misses(&self, action: Action, resource: &str, context: &RequestContext) -> Vec<NearMiss> {
        let mut misses = Vec::new();
        self.asked_arn(action, resource, context).with_question(|question, _| {
            for candidate in &self.bound.set.candidates {
                let Some(statement) = candidate.statement().filter(|s| s.effect == Effect::Allow) else {
                    continue;
                };
                if let Some(miss) = statement.miss(question) {
                    misses.push(NearMiss { statement: candidate.reference(), miss });
                }
            }
        });
        misses
    }

    fn asked_arn(&self, action: Action, resource: &str, context: &RequestContext) -> Asked {
        let full = format!("{}:{}", crate::action::SERVICE, action.lower_name());
        Asked::new(Arc::clone(&self.bound), full.into(), resource.into(), context.clone())
    }

    /// The statements that could ever allow the action, whatever the resource.
    #[must_use]
    pub fn statements_allowing(&self, action: Action) -> Vec<StatementRef> {
        self.bound.set.rows(Effect::Allow, Some(action)).map(|(_, candidate, _)| candidate.reference()).collect()
    }
}

impl Engine {
    /// Judges one question of one principal about any tenant's resource and tells why.
    ///
    /// # Errors
    /// [`BindError`] when the principal is nobody's, or the ARN of no tenant's cluster.
    pub fn explain(
        &self,
        principal: &Principal,
        action: Action,
        resource: &str,
        context: &RequestContext,
    ) -> Result<Explanation, BindError> {
        let organisation = self.organisation();
        let owner = organisation.owner_of(resource).ok_or(BindError::UnknownTenant)?.account();
        Ok(self.bind_with(principal, owner, &[])?.explain_arn(action, resource, context))
    }

    /// Every principal of every tenant that the compiled policies let do this: under these circumstances, or under
    /// others. `resource` is an ARN of a virtual cluster's resource. Who has no statement about the action is never
    /// judged.
    ///
    /// # Errors
    /// [`BindError::UnknownTenant`] when the ARN is of no tenant's cluster.
    pub fn who_can(&self, action: Action, resource: &str, context: &RequestContext) -> Result<Vec<Able>, BindError> {
        let organisation = self.organisation();
        let owner = organisation.owner_of(resource).ok_or(BindError::UnknownTenant)?;
        let mut found = Vec::new();
        for mut principal in organisation.tenants().flat_map(|t| t.principals().collect::<Vec<_>>()) {
            if let PrincipalKind::Role { session, .. } = &mut principal.kind {
                *session = ANY_SESSION.into();
            }
            let session = self.bind_with(&principal, owner.account(), &[])?;
            if session.bound.set.rows(Effect::Allow, Some(action)).next().is_none() {
                continue;
            }
            let decision = session.frame.decide(session.asked_arn(action, resource, context));
            let only_if = match decision.verdict {
                Verdict::ImplicitlyDenied => session.missing_conditions(action, resource, context, decision.lacking),
                Verdict::Allowed | Verdict::ExplicitlyDenied => Vec::new(),
            };
            if decision.is_allowed() || !only_if.is_empty() {
                found.push(Able { principal, decision, only_if });
            }
        }
        Ok(found)
    }
}

impl Session {
    /// What keeps the lacking layer from allowing, when it is nothing but conditions.
    fn missing_conditions(
        &self,
        action: Action,
        resource: &str,
        context: &RequestContext,
        lacking: Option<Layer>,
    ) -> Vec<NearMiss> {
        let mut misses = self.misses(action, resource, context);
        misses.retain(|near| {
            matches!(near.miss, Miss::Condition { .. }) && lacking.is_none_or(|layer| near.statement.layer == layer)
        });
        misses
    }
}

/// Conditions fail last, actions first; the later, the closer.
fn distance(miss: &Miss) -> u8 {
    match miss {
        Miss::Condition { .. } => 0,
        Miss::Principal => 1,
        Miss::Resource { part: "resource name" | "a variable has no value" } => 2,
        Miss::Resource { .. } => 3,
        Miss::Action => 4,
    }
}

/// More than this helps nobody.
pub const NEAREST_MAX: usize = 8;
/// The session name roles are tried with.
const ANY_SESSION: &str = "any-session";
