//! The one door to every tenant object: asks the policy engine, counts and records the verdict.
//!
//! In: an action and a resource of the connection's own tenant. Out: a [`Permit`] that nothing else can make, or a refusal.
//!
//! Invariants
//! - Refusals and administrative actions are durable in the audit log before they are answered or done: refusals are
//!   gathered here and recorded by [`Call::settle`] before the answer leaves, administration by [`Call::administer`]
//!   before its permit is handed out.
//! - Allowed data-plane actions are counted per principal, action, resource and minute.
//! - The organisation in force when a request began judges all of it.

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::try_join_all;
use schloss_audit::{Class, CountKey, Event, Verdict};
use schloss_authz::Decision;
use schloss_authz::RequestContext;
use schloss_authz::{Ability, Action};
use schloss_authz::{Permit, Session as Policies};
use schloss_authz::{ResourceKind, ResourceRef};
use schloss_core::{ErrorCode, TopicId};
use schloss_wire::request::RequestHeader;

use crate::broker::Broker;
use crate::catalog::Topic;
use crate::login::identity::Identity;
use crate::session::Session;
use crate::telemetry::DecisionLabel;

/// Refusals of one request recorded one by one; the rest of the same request in one event with their number.
const REFUSALS_RECORDED_MAX: usize = 200;

/// The principal may not; the code depends on the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied;

/// The audit log could not take the event, so the thing is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRecorded;

/// One request under way.
pub struct Call {
    /// The broker.
    pub broker: Arc<Broker>,
    /// The connection it came by.
    pub session: Arc<Session>,
    /// Its header.
    pub header: RequestHeader,
    /// Kafka's name of its API.
    pub api: &'static str,
    /// Unique; in the audit log and in no answer.
    pub request_id: String,
    identity: Arc<Identity>,
    policies: Arc<Policies>,
    context: RequestContext,
    refusals: Mutex<Refusals>,
}

#[derive(Default)]
struct Refusals {
    events: Vec<Event>,
    left_out: usize,
}

impl Call {
    /// Begins a request under the policies in force now.
    #[must_use]
    pub fn new(
        broker: Arc<Broker>,
        session: Arc<Session>,
        header: RequestHeader,
        api: &'static str,
        number: u64,
    ) -> Self {
        let policies = session.policies();
        let identity = session.identity();
        let context = identity.context.at(broker.clock.now_ms());
        let request_id = format!("{}-{number}", session.id);
        Self { broker, session, header, api, request_id, identity, policies, context, refusals: Mutex::default() }
    }

    /// Asks without leaving a trace but the decision counter: for listings, which leave out what may not be seen.
    #[must_use]
    pub fn may(&self, action: Action, resource: ResourceRef<'_>) -> bool {
        self.policies.decide(action, resource, &self.context).is_allowed()
    }

    /// Asks for a data-plane action.
    ///
    /// # Errors
    /// [`Denied`]; the refusal is recorded before this request's answer leaves.
    pub fn allow<A: Ability>(&self, ability: A, resource: ResourceRef<'_>) -> Result<Permit<A>, Denied> {
        match self.policies.authorize(ability, resource, &self.context) {
            Ok(permit) => {
                self.count(true);
                self.broker.audit.count(
                    &CountKey {
                        tenant: self.session.tenant.id,
                        principal: self.identity.arn.to_string(),
                        action: A::ACTION.full_name().to_owned(),
                        resource: self.session.tenant.cluster.arn_of(resource),
                        statement: permit.decision().decisive.first().map(ToString::to_string),
                    },
                    1,
                );
                Ok(permit)
            }
            Err(denied) => {
                self.refuse(A::ACTION, resource, &denied.decision);
                Err(Denied)
            }
        }
    }

    /// Asks for an administrative action and records it before handing out the permit.
    ///
    /// # Errors
    /// [`Denied`]; also when the event could not be recorded.
    pub async fn administer<A: Ability>(&self, ability: A, resource: ResourceRef<'_>) -> Result<Permit<A>, Denied> {
        match self.policies.authorize(ability, resource, &self.context) {
            Ok(permit) => {
                self.count(true);
                let event = self.event(Class::Administration, A::ACTION, resource, Verdict::Allowed, permit.decision());
                self.broker.audit.record(event).await.map_err(|_| Denied)?;
                Ok(permit)
            }
            Err(denied) => {
                self.refuse(A::ACTION, resource, &denied.decision);
                Err(Denied)
            }
        }
    }

    /// A topic by name, if the action is allowed on it and it exists.
    ///
    /// # Errors
    /// TOPIC_AUTHORIZATION_FAILED without looking whether it exists, else UNKNOWN_TOPIC_OR_PARTITION.
    pub fn topic<A: Ability>(&self, ability: A, name: &str) -> Result<Arc<Topic>, ErrorCode> {
        let permit =
            self.allow(ability, ResourceRef::topic(name)).map_err(|Denied| ErrorCode::TOPIC_AUTHORIZATION_FAILED)?;
        self.session.tenant.catalog.permitted(&permit).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
    }

    /// A topic by id, if it exists and the action is allowed on it: the name that policies speak of is known only then.
    /// Another tenant's id is as unknown as one that nobody has.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC_ID, else TOPIC_AUTHORIZATION_FAILED.
    pub fn topic_by_id<A: Ability>(&self, ability: A, id: TopicId) -> Result<Arc<Topic>, ErrorCode> {
        let known = self.session.tenant.catalog.by_id(id).ok_or(ErrorCode::UNKNOWN_TOPIC_ID)?;
        match self.topic(ability, known.name.as_str()) {
            // Deleted in between; the name may have gone to another topic.
            Ok(found) if found.id != id => Err(ErrorCode::UNKNOWN_TOPIC_ID),
            Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => Err(ErrorCode::UNKNOWN_TOPIC_ID),
            found => found,
        }
    }

    /// Whether the action is allowed on any topic at all (KIP-679).
    #[must_use]
    pub fn allows_any(&self, action: Action) -> bool {
        self.policies.any_resource(action, &self.context)
    }

    /// Kafka's bit field of operations allowed on a resource (KIP-430).
    #[must_use]
    pub fn operations(&self, kind: ResourceKind, name: &str) -> i32 {
        self.policies.operations_mask(ResourceRef { kind, name }, &self.context)
    }

    /// The bit field for the cluster: 0 for those who may not describe it.
    #[must_use]
    pub fn cluster_operations(&self, needed: Action) -> i32 {
        if self.may(needed, ResourceRef::CLUSTER) { self.operations(ResourceKind::Cluster, "") } else { 0 }
    }

    /// KIP-320: the leader epoch a client names against the one in force.
    ///
    /// # Errors
    /// FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH.
    pub fn check_leader_epoch(&self, claimed: i32, current: i32) -> Result<(), ErrorCode> {
        match claimed {
            claimed if claimed < 0 || claimed == current => Ok(()),
            claimed if claimed < current => Err(ErrorCode::FENCED_LEADER_EPOCH),
            _ => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
        }
    }

    /// Records this request's refusals; the answer may leave only after this.
    ///
    /// # Errors
    /// [`NotRecorded`]; the connection is closed instead of answered.
    pub async fn settle(&self) -> Result<(), NotRecorded> {
        let refusals = std::mem::take(&mut *self.refusals.lock().unwrap_or_else(PoisonError::into_inner));
        if refusals.events.is_empty() {
            return Ok(());
        }
        let mut events = refusals.events;
        if refusals.left_out > 0
            && let Some(last) = events.last_mut()
        {
            last.count = last.count.saturating_add(u64::try_from(refusals.left_out).unwrap_or(u64::MAX));
        }
        try_join_all(events.into_iter().map(|event| self.broker.audit.record(event)))
            .await
            .map(drop)
            .map_err(|_| NotRecorded)
    }

    fn refuse(&self, action: Action, resource: ResourceRef<'_>, decision: &Decision) {
        self.count(false);
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.events.len() >= REFUSALS_RECORDED_MAX {
            refusals.left_out = refusals.left_out.saturating_add(1);
            return;
        }
        let event = self.event(Class::Refusal, action, resource, Verdict::Denied, decision);
        refusals.events.push(event);
    }

    fn event(
        &self,
        class: Class,
        action: Action,
        resource: ResourceRef<'_>,
        verdict: Verdict,
        decision: &Decision,
    ) -> Event {
        let mut event = Event::new(Some(self.session.tenant.id), class, verdict, action.full_name());
        event.principal = Some(self.identity.arn.to_string());
        event.resource = Some(self.session.tenant.cluster.arn_of(resource));
        event.api = Some(self.api.to_owned());
        event.request_id = Some(self.request_id.clone());
        event.source = Some(self.session.source);
        event.client_id = self.header.client_id.as_deref().map(str::to_owned);
        event.statement = decision.decisive.first().map(ToString::to_string);
        event.reason = Some(reason(decision));
        event
    }

    fn count(&self, allowed: bool) {
        tracing::trace!(request = self.request_id, api = self.api, allowed, "decision");
        let verdict = if allowed { "allowed" } else { "denied" };
        let label = DecisionLabel { tenant: self.session.tenant.id.to_string(), verdict };
        self.broker.metrics.decisions.get_or_create(&label).inc();
    }
}

/// Why, in words for the audit log.
#[must_use]
pub fn reason(decision: &Decision) -> String {
    match (decision.decisive.first(), decision.lacking) {
        (Some(statement), _) => format!("{} by {statement}", decision.verdict),
        (None, Some(layer)) => format!("{}: no {} policy allows it", decision.verdict, layer.word()),
        (None, None) => decision.verdict.to_string(),
    }
}
