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

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::try_join_all;
use schloss_audit::{Class, CountKey, Event, Verdict};
use schloss_authz::Decision;
use schloss_authz::RequestContext;
use schloss_authz::{Ability, Action, SharedTopic, can};
use schloss_authz::{Permit, Session as Policies};
use schloss_authz::{ResourceKind, ResourceRef};
use schloss_core::{ErrorCode, TenantId, TopicId};
use schloss_wire::request::RequestHeader;

use crate::abroad;
use crate::broker::Broker;
use crate::catalog::Topic;
use crate::login::identity::Identity;
use crate::session::Session;
use crate::telemetry::{DecisionLabel, ShadowLabel};

/// The action of audit events about shadow versions of policies.
pub const SHADOW_ACTION: &str = "schloss:ShadowDifference";

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
                let tenant = &self.session.tenant;
                self.count_use(tenant.id, A::ACTION, tenant.cluster.arn_of(resource), permit.decision());
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
        self.administer_about(ability, resource, Vec::new()).await
    }

    /// The same, recorded once for each of the details, and at least once.
    ///
    /// # Errors
    /// [`Denied`]; also when an event could not be recorded.
    pub async fn administer_about<A: Ability>(
        &self,
        ability: A,
        resource: ResourceRef<'_>,
        details: Vec<(&'static str, String)>,
    ) -> Result<Permit<A>, Denied> {
        match self.policies.authorize(ability, resource, &self.context) {
            Ok(permit) => {
                self.count(true);
                let named = self.session.tenant.cluster.arn_of(resource);
                let event =
                    self.event(Class::Administration, A::ACTION, named, Verdict::Allowed, Some(permit.decision()));
                let left_out = details.len().saturating_sub(REFUSALS_RECORDED_MAX);
                let mut events: Vec<Event> = details
                    .into_iter()
                    .take(REFUSALS_RECORDED_MAX)
                    .map(|detail| Event { details: vec![detail], ..event.clone() })
                    .collect();
                match events.last_mut() {
                    Some(last) => last.count = last.count.saturating_add(u64::try_from(left_out).unwrap_or(u64::MAX)),
                    None => events.push(event),
                }
                try_join_all(events.into_iter().map(|event| self.broker.audit.record(event)))
                    .await
                    .map_err(|_| Denied)?;
                Ok(permit)
            }
            Err(denied) => {
                self.refuse(A::ACTION, resource, &denied.decision);
                Err(Denied)
            }
        }
    }

    /// A topic by name, if the action is allowed on it and it exists. The name may be an ARN or a mount of another
    /// tenant's topic.
    ///
    /// # Errors
    /// TOPIC_AUTHORIZATION_FAILED without looking whether it exists, else UNKNOWN_TOPIC_OR_PARTITION.
    pub fn topic<A: Ability>(&self, ability: A, name: &str) -> Result<Arc<Topic>, ErrorCode> {
        if let Some(shared) = abroad::shared(&self.policies, name) {
            return self.topic_abroad(ability, &shared, name);
        }
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
        let name = self.name_of(id).ok_or(ErrorCode::UNKNOWN_TOPIC_ID)?;
        match self.topic(ability, &name) {
            // Deleted in between; the name may have gone to another topic.
            Ok(found) if found.id != id => Err(ErrorCode::UNKNOWN_TOPIC_ID),
            Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => Err(ErrorCode::UNKNOWN_TOPIC_ID),
            found => found,
        }
    }

    /// Whether a name means another tenant's topic.
    #[must_use]
    pub fn is_abroad(&self, name: &str) -> bool {
        abroad::shared(&self.policies, name).is_some()
    }

    /// The name by which this tenant's clients know a topic: its own topics', or another tenant's once met by name.
    #[must_use]
    pub fn name_of(&self, id: TopicId) -> Option<Arc<str>> {
        let tenant = &self.session.tenant;
        let own = tenant.catalog.by_id(id).map(|topic| topic.name.as_str().into());
        own.or_else(|| tenant.met.name(id))
    }

    /// All topics of the tenant and those mounted in it that the principal may describe, by the names they have here, in
    /// order. Leaves no trace but the decision counter.
    #[must_use]
    pub fn visible_topics(&self) -> BTreeMap<Arc<str>, Arc<Topic>> {
        let own = self.session.tenant.catalog.all().into_iter().filter_map(|topic| {
            let name: Arc<str> = topic.name.as_str().into();
            let seen = !self.is_abroad(&name) && self.may(Action::DescribeTopic, ResourceRef::topic(&name));
            seen.then_some((name, topic))
        });
        let mounted = self.policies.mounts().iter();
        let mounted = mounted.filter_map(|(name, shared)| Some((Arc::from(&**name), self.seen_abroad(shared, name)?)));
        own.chain(mounted).collect()
    }

    /// Another tenant's topic, when the principal may describe it.
    fn seen_abroad(&self, shared: &SharedTopic, name: &str) -> Option<Arc<Topic>> {
        let answer =
            abroad::judge(&self.broker, &self.session, &self.policies, can::DescribeTopic, shared, &self.context);
        abroad::found(&self.session.tenant, answer.owner.as_ref()?, &answer.verdict.ok()?, name).ok()
    }

    /// Whether the principal may describe a topic, its tenant's or another's. For listings.
    #[must_use]
    pub fn may_see(&self, name: &str) -> bool {
        match abroad::shared(&self.policies, name) {
            None => self.may(Action::DescribeTopic, ResourceRef::topic(name)),
            Some(shared) => self.seen_abroad(&shared, name).is_some(),
        }
    }

    /// Kafka's bit field of operations allowed on a topic, its tenant's or another's.
    #[must_use]
    pub fn topic_operations(&self, name: &str) -> i32 {
        match abroad::shared(&self.policies, name) {
            None => self.operations(ResourceKind::Topic, name),
            Some(shared) => match self.session.abroad.policies(&self.broker, &self.policies, shared.owner) {
                Some(policies) => policies.operations_mask(ResourceRef::topic(&shared.name), &self.context),
                None => 0,
            },
        }
    }

    fn topic_abroad<A: Ability>(&self, ability: A, shared: &SharedTopic, name: &str) -> Result<Arc<Topic>, ErrorCode> {
        let answer = abroad::judge(&self.broker, &self.session, &self.policies, ability, shared, &self.context);
        let owner = answer.owner.as_ref();
        let sides = std::iter::once(self.session.tenant.id).chain(owner.map(|owner| owner.id));
        match (answer.verdict, owner) {
            (Ok(permit), Some(owner)) => {
                self.count(true);
                for tenant in sides {
                    self.count_use(tenant, A::ACTION, shared.arn.to_string(), permit.decision());
                }
                abroad::found(&self.session.tenant, owner, &permit, name)
            }
            (verdict, _) => {
                let decision = verdict.err().flatten();
                for tenant in sides {
                    self.refuse_on(tenant, A::ACTION, shared.arn.to_string(), decision.as_ref());
                }
                Err(ErrorCode::TOPIC_AUTHORIZATION_FAILED)
            }
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

    /// Counts an allowed data-plane action for a tenant's audit stream.
    fn count_use(&self, tenant: TenantId, action: Action, resource: String, decision: &Decision) {
        let key = CountKey {
            tenant,
            principal: self.identity.arn.to_string(),
            action: action.full_name().to_owned(),
            resource,
            statement: decision.leading().map(ToString::to_string),
        };
        self.broker.audit.count(&key, 1);
        self.tell_shadow(&key, decision);
    }

    /// A shadow version would have decided otherwise: counted, and in the audit log as the pair of answers.
    fn tell_shadow(&self, key: &CountKey, decision: &Decision) {
        let Some(shadow) = decision.shadow.as_deref() else { return };
        let word = |decision: &Decision| if decision.is_allowed() { "allowed" } else { "denied" };
        let label = ShadowLabel { tenant: key.tenant.to_string(), now: word(decision), then: word(shadow) };
        self.broker.metrics.shadow_differences.get_or_create(&label).inc();
        let pair = format!("{}: {} now, {} in shadow", key.action, reason(decision), reason(shadow));
        let key = CountKey { action: SHADOW_ACTION.to_owned(), statement: Some(pair), ..key.clone() };
        self.broker.audit.count(&key, 1);
    }

    fn refuse(&self, action: Action, resource: ResourceRef<'_>, decision: &Decision) {
        let tenant = &self.session.tenant;
        self.refuse_on(tenant.id, action, tenant.cluster.arn_of(resource), Some(decision));
    }

    fn refuse_on(&self, tenant: TenantId, action: Action, resource: String, decision: Option<&Decision>) {
        self.count(false);
        if let Some(decision) = decision.filter(|decision| decision.shadow.is_some()) {
            let key = CountKey {
                tenant,
                principal: self.identity.arn.to_string(),
                action: action.full_name().to_owned(),
                resource: resource.clone(),
                statement: None,
            };
            self.tell_shadow(&key, decision);
        }
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.events.len() >= REFUSALS_RECORDED_MAX {
            refusals.left_out = refusals.left_out.saturating_add(1);
            return;
        }
        let mut event = self.event(Class::Refusal, action, resource, Verdict::Denied, decision);
        event.tenant = Some(tenant);
        refusals.events.push(event);
    }

    fn event(
        &self,
        class: Class,
        action: Action,
        resource: String,
        verdict: Verdict,
        decision: Option<&Decision>,
    ) -> Event {
        let mut event = Event::new(Some(self.session.tenant.id), class, verdict, action.full_name());
        event.principal = Some(self.identity.arn.to_string());
        event.resource = Some(resource);
        event.api = Some(self.api.to_owned());
        event.request_id = Some(self.request_id.clone());
        event.source = Some(self.session.source);
        event.client_id = self.header.client_id.as_deref().map(str::to_owned);
        event.statement = decision.and_then(Decision::leading).map(ToString::to_string);
        event.reason = Some(decision.map_or_else(|| "no tenant shares such a topic".to_owned(), reason));
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
    match (decision.leading(), decision.lacking) {
        (Some(statement), _) => format!("{} by {statement}", decision.verdict),
        (None, Some(layer)) => format!("{}: no {} policy allows it", decision.verdict, layer.word()),
        (None, None) => decision.verdict.to_string(),
    }
}
