//! A principal with the policies that bind to it, and what it may do.
//!
//! In: an action and a resource of the virtual cluster, under a [`RequestContext`]. Out: a [`Decision`], or a
//! [`Permit`] that proves one.
//!
//! Invariants
//! - A session answers by the policies of one epoch. [`Session::is_current`] tells when to bind anew.
//! - A [`Permit`] is made only by [`Session::authorize`], after an Allow and no Deny.
//!
//! Must not: hold its lock while judging.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::action::{Ability, Action};
use crate::arn::{ClusterArn, ResourceKind, ResourceName, ResourceRef};
use crate::cache::DecisionCache;
use crate::context::{Facts, Keys, RequestContext};
use crate::decision::Decision;
use crate::frame::{Asked, Bound, Frame, judge_directly};
use crate::organisation::{Principal, SharedTopic};
use crate::policy::{Attached, Effect, ResourcePattern};

/// What a session was given besides the policies of its principal (AWS: session policies, session tags, source identity).
#[derive(Clone, Debug, Default)]
pub struct SessionTerms {
    /// Policies given in line. The session may do no more than they allow.
    pub policies: Vec<Attached>,
    /// Names of the tenant's policies given by ARN; they limit as the ones in line do, in their present version.
    pub named: Vec<Box<str>>,
    /// Condition keys: `aws:PrincipalTag/…` (in place of the principal's own), `aws:SourceIdentity`, `aws:TokenIssueTime`.
    pub keys: Keys,
}

/// A bound principal. One per connection; methods may be called from several tasks.
pub struct Session {
    pub(crate) principal: Principal,
    pub(crate) cluster: ClusterArn,
    pub(crate) mounts: Arc<BTreeMap<Box<str>, SharedTopic>>,
    pub(crate) bound: Arc<Bound>,
    /// The same with shadow versions of policies, when there are any.
    pub(crate) shadow: Option<Arc<Bound>>,
    pub(crate) frame: &'static Frame,
    /// Kept, so that binding anew cannot lose what limits the session.
    pub(crate) terms: SessionTerms,
    pub(crate) epoch: u64,
    pub(crate) current: Arc<AtomicU64>,
    pub(crate) cache: Mutex<DecisionCache>,
}

/// Proof that an Allow and no Deny was found for `A` on this resource. Not `Clone`, no public constructor.
#[must_use]
pub struct Permit<A> {
    kind: ResourceKind,
    name: Box<str>,
    decision: Decision,
    ability: PhantomData<A>,
}

/// A refusal, with the decision behind it. What a client is told of it is the API's business.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{action} is refused ({verdict})", verdict = decision.verdict)]
pub struct Denied {
    /// What was asked for.
    pub action: Action,
    /// The answer.
    pub decision: Decision,
}

impl<A: Ability> Permit<A> {
    /// The type of the resource.
    #[must_use]
    pub fn kind(&self) -> ResourceKind {
        self.kind
    }

    /// The name of the resource.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The action.
    #[must_use]
    pub fn action(&self) -> Action {
        A::ACTION
    }

    /// The decision it proves.
    #[must_use]
    pub fn decision(&self) -> &Decision {
        &self.decision
    }
}

impl<A: Ability> fmt::Debug for Permit<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({} on {})", A::ACTION, self.kind.word())
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({}, epoch {})", self.principal.arn(), self.epoch)
    }
}

impl Session {
    /// The terms it was bound under.
    #[must_use]
    pub fn terms(&self) -> &SessionTerms {
        &self.terms
    }

    /// Who it is.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The virtual cluster its names are resolved in.
    #[must_use]
    pub fn cluster(&self) -> &ClusterArn {
        &self.cluster
    }

    /// Topics of other tenants under names of the principal's own tenant.
    #[must_use]
    pub fn mounts(&self) -> &BTreeMap<Box<str>, SharedTopic> {
        &self.mounts
    }

    /// The epoch of the policies it answers by.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether no newer policies are in force. One load: ask it for every request.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.current.load(Ordering::Acquire) == self.epoch
    }

    /// Judges one action on one resource.
    pub fn decide(&self, action: Action, resource: ResourceRef<'_>, context: &RequestContext) -> Decision {
        let known = self.cache.lock().unwrap_or_else(PoisonError::into_inner).look_up(action, resource, context);
        if let Some(decision) = known {
            return decision;
        }
        let mut decision = self.frame.decide(self.asked(action, resource, context));
        if let Some(shadow) = &self.shadow {
            let mut asked = self.asked(action, resource, context);
            asked.bound = Arc::clone(shadow);
            let other = self.frame.decide(asked);
            decision.valid_until_ms = decision.valid_until_ms.into_iter().chain(other.valid_until_ms).min();
            decision.shadow = (other.is_allowed() != decision.is_allowed()).then(|| Arc::new(other));
        }
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).insert(action, resource, context, &decision);
        decision
    }

    /// Judges, and gives the proof.
    ///
    /// # Errors
    /// [`Denied`] with the decision.
    pub fn authorize<A: Ability>(
        &self,
        _ability: A,
        resource: ResourceRef<'_>,
        context: &RequestContext,
    ) -> Result<Permit<A>, Denied> {
        let decision = self.decide(A::ACTION, resource, context);
        if decision.is_allowed() {
            Ok(Permit { kind: resource.kind, name: resource.name.into(), decision, ability: PhantomData })
        } else {
            Err(Denied { action: A::ACTION, decision })
        }
    }

    /// Whether the action is allowed on at least one name of its type, whether or not that exists
    /// (Kafka's `authorizeByResourceType`). Every yes is the yes of a name that was judged.
    pub fn any_resource(&self, action: Action, context: &RequestContext) -> bool {
        self.sample_names(action, context).iter().any(|name| {
            let resource = ResourceRef { kind: action.resource(), name };
            self.frame.decide(self.asked(action, resource, context)).is_allowed()
        })
    }

    /// Kafka's `authorizedOperations` of one resource.
    pub fn operations_mask(&self, resource: ResourceRef<'_>, context: &RequestContext) -> i32 {
        let actions = Action::ALL.iter().filter(|a| a.resource() == resource.kind);
        let allowed = actions.filter(|a| a.operation().is_some() && self.decide(**a, resource, context).is_allowed());
        allowed.filter_map(|a| a.operation()).fold(0, |mask, operation| mask | operation.bit())
    }

    /// Keeps the names on which the action is allowed. For listings: no cache, no frame per name.
    pub fn filter<T>(
        &self,
        action: Action,
        kind: ResourceKind,
        names: impl IntoIterator<Item = T>,
        name_of: impl Fn(&T) -> &str,
        context: &RequestContext,
    ) -> Vec<T> {
        let account = self.cluster.account.to_string();
        let allowed = |item: &T| {
            let rest = self.cluster.resource_part(ResourceRef { kind, name: name_of(item) });
            let resource = ResourceName {
                partition: &self.cluster.partition,
                service: "kafka",
                region: &self.cluster.region,
                account: &account,
                rest: &rest,
                is_arn: true,
            };
            judge_directly(&self.bound, action, resource, context)
        };
        names.into_iter().filter(allowed).collect()
    }

    pub(crate) fn asked(&self, action: Action, resource: ResourceRef<'_>, context: &RequestContext) -> Asked {
        let name = format!("{}:{}", crate::action::SERVICE, action.lower_name());
        let arn = self.cluster.arn_of(resource);
        Asked::new(Arc::clone(&self.bound), name.into(), arn.into(), context.clone())
    }

    /// Names that the allowing statements were written for: their patterns with wildcards filled in.
    fn sample_names(&self, action: Action, context: &RequestContext) -> Vec<String> {
        let facts = Facts::new(&self.bound.keys, context);
        let mut names = vec![SAMPLE.to_owned()];
        for (_, _, statement) in self.bound.set.rows(Effect::Allow, Some(action)) {
            for pattern in statement.resources.iter().flatten() {
                let ResourcePattern::Arn(arn) = pattern else {
                    continue;
                };
                for filler in ["", SAMPLE] {
                    let Some(id) = arn.id().sample(&facts, filler) else {
                        continue;
                    };
                    // `cluster/uuid/name`; fewer parts end in a wildcard that covers any name.
                    let name = id.splitn(3, '/').nth(2).unwrap_or(SAMPLE);
                    names.push(name.to_owned());
                }
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// A name nobody is likely to write a Deny for.
const SAMPLE: &str = "schloss-any-resource";
