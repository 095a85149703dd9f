//! Why: the same decision with everything that led to it, and who else could.
//!
//! In: a session and a question. Out: the decision, and of every statement about the action that did not match the
//! first element that failed, the closest ones first.

use std::sync::Arc;

use crate::action::Action;
use crate::arn::{ResourceName, ResourceRef};
use crate::context::RequestContext;
use crate::decision::{Decision, StatementRef};
use crate::engine::{BindError, Engine};
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

impl Session {
    /// Judges once more, past the cache, and tells why.
    #[must_use]
    pub fn explain(&self, action: Action, resource: ResourceRef<'_>, context: &RequestContext) -> Explanation {
        let asked = self.asked(action, resource, context);
        let mut nearest = Vec::new();
        asked.with_question(|question, _| {
            for candidate in &self.bound.set.candidates {
                let Some(statement) = candidate.statement().filter(|s| s.effect == Effect::Allow) else {
                    continue;
                };
                if let Some(miss) = statement.miss(question) {
                    nearest.push(NearMiss { statement: candidate.reference(), miss });
                }
            }
        });
        nearest.sort_by_key(|near| distance(&near.miss));
        nearest.truncate(NEAREST_MAX);
        let keys = self.bound.keys.iter().chain(context.keys.iter());
        let text = |value: &crate::KeyValue| match value {
            crate::KeyValue::One(text) => text.to_string(),
            crate::KeyValue::Many(texts) => texts.join(", "),
        };
        Explanation {
            context: keys.map(|(key, value)| (key.to_owned(), text(value))).collect(),
            resource: asked.resource.to_string(),
            decision: self.frame.decide(self.asked(action, resource, context)),
            nearest,
        }
    }

    /// The statements that could ever allow the action, whatever the resource.
    #[must_use]
    pub fn statements_allowing(&self, action: Action) -> Vec<StatementRef> {
        self.bound.set.rows(Effect::Allow, Some(action)).map(|(_, candidate, _)| candidate.reference()).collect()
    }
}

impl Engine {
    /// Every principal of every tenant that the compiled policies let do this, under these circumstances.
    /// `resource` is an ARN of a virtual cluster's resource.
    ///
    /// # Errors
    /// [`BindError::UnknownTenant`] when the ARN is of no tenant's cluster.
    pub fn who_can(
        &self,
        action: Action,
        resource: &str,
        context: &RequestContext,
    ) -> Result<Vec<(Principal, Decision)>, BindError> {
        let organisation = self.organisation();
        let name = ResourceName::split(resource);
        let owner = organisation.tenants().find(|t| t.account().to_string() == name.account);
        let owner = owner.ok_or(BindError::UnknownTenant)?;
        let mut found = Vec::new();
        for mut principal in organisation.tenants().flat_map(|t| t.principals().collect::<Vec<_>>()) {
            if let PrincipalKind::Role { session, .. } = &mut principal.kind {
                *session = ANY_SESSION.into();
            }
            let session = self.bind_with(&principal, owner.account(), &[])?;
            if session.bound.set.rows(Effect::Allow, Some(action)).next().is_none() {
                continue;
            }
            let full = format!("{}:{}", crate::action::SERVICE, action.lower_name());
            let bound = Arc::clone(&session.bound);
            let asked = crate::frame::Asked::new(bound, full.into(), resource.into(), context.clone());
            let decision = session.frame.decide(asked);
            if decision.is_allowed() {
                found.push((principal, decision));
            }
        }
        Ok(found)
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
