//! Topics of other tenants: named by ARN or mounted under a name of one's own, used as far as both tenants' policies allow.
//!
//! In: a name as a client sent it. Out: the owner's [`Topic`], or the same refusal as for a topic that is nobody's.
//!
//! Invariants
//! - Only [`ABROAD`] actions pass; everything else about such a name is about one's own tenant.
//! - The owner's policies are asked with the owner's cluster as the resource, the caller's with its own limits: identity
//!   policies, boundary, session policies, guardrails. Both must allow.
//! - Every answer is in both tenants' audit streams.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use schloss_authz::{
    Ability, AccountId, Action, Permit, RequestContext, ResourceRef, Session as Policies, SharedTopic,
};
use schloss_core::{ErrorCode, TenantId, TopicId};

use crate::broker::Broker;
use crate::catalog::Topic;
use crate::session::Session;
use crate::tenancy::Tenant;

/// What may be done with another tenant's topic.
const ABROAD: [Action; 4] =
    [Action::DescribeTopic, Action::ReadData, Action::WriteData, Action::DescribeTopicDynamicConfiguration];
/// Topic ids of others remembered for a tenant; the map begins anew beyond.
const IDS_MAX: usize = 10_000;

/// The names under which a tenant's clients met topics of others, by id: clients go on by id (KIP-516).
#[derive(Default)]
pub struct Met(Mutex<HashMap<TopicId, Arc<str>>>);

impl Met {
    /// The name used for this id, if any.
    #[must_use]
    pub fn name(&self, id: TopicId) -> Option<Arc<str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn remember(&self, id: TopicId, name: &str) {
        let mut met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if met.get(&id).is_some_and(|known| &**known == name) {
            return;
        }
        if met.len() >= IDS_MAX {
            met.clear();
        }
        met.insert(id, name.into());
    }
}

/// A connection's policies in other tenants, bound when first asked for.
#[derive(Default)]
pub struct Abroad(Mutex<HashMap<AccountId, BoundAbroad>>);

struct BoundAbroad {
    /// What they were bound from: a login proved anew has others.
    own: Arc<Policies>,
    there: Arc<Policies>,
}

impl Abroad {
    /// The principal's policies for the cluster of `owner`, under the policies in force now.
    pub fn policies(&self, broker: &Broker, own: &Arc<Policies>, owner: AccountId) -> Option<Arc<Policies>> {
        let mut bound = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = bound.get(&owner).filter(|known| known.there.is_current() && Arc::ptr_eq(&known.own, own));
        if let Some(known) = known {
            return Some(Arc::clone(&known.there));
        }
        let fresh = Arc::new(broker.tenancy.policies().bind_abroad(own, owner).ok()?);
        // Accounts that are no tenants are not kept: their number is the client's to choose.
        bound.insert(owner, BoundAbroad { own: Arc::clone(own), there: Arc::clone(&fresh) });
        Some(fresh)
    }
}

/// Which topic of which other tenant a name means; `None` for one's own.
#[must_use]
pub fn shared(policies: &Policies, name: &str) -> Option<SharedTopic> {
    if name.starts_with("arn:") {
        return SharedTopic::parse(name).filter(|topic| topic.owner != policies.cluster().account);
    }
    policies.mounts().get(name).cloned()
}

/// What the owner's side of a question came to.
pub struct Answer<A> {
    /// The owner, while it is open here.
    pub owner: Option<Arc<Tenant>>,
    /// The permit, or the decision against it (none when there is no such tenant or action).
    pub verdict: Result<Permit<A>, Option<schloss_authz::Decision>>,
}

/// Judges an action on a topic of another tenant.
pub fn judge<A: Ability>(
    broker: &Broker,
    session: &Session,
    own: &Arc<Policies>,
    ability: A,
    topic: &SharedTopic,
    context: &RequestContext,
) -> Answer<A> {
    let owner = TenantId::new(topic.owner.number()).and_then(|id| broker.tenancy.tenant(id));
    let named = |owner: &Arc<Tenant>| owner.cluster.arn_of(ResourceRef::topic(&topic.name)) == *topic.arn;
    // SECURITY: a tenant that shares nothing is as one that is not there: no look, no event in its stream, no time spent.
    let organisation = broker.tenancy.policies().organisation();
    let shares = organisation.tenant(topic.owner).is_some_and(|owner| !owner.cluster_policies().is_empty());
    let owner = owner.filter(|_| shares);
    let Some(owner) = owner.filter(named).filter(|_| ABROAD.contains(&A::ACTION)) else {
        return Answer { owner: None, verdict: Err(None) };
    };
    let verdict = match session.abroad.policies(broker, own, topic.owner) {
        Some(policies) => policies
            .authorize(ability, ResourceRef::topic(&topic.name), context)
            .map_err(|denied| Some(denied.decision)),
        None => Err(None),
    };
    Answer { owner: Some(owner), verdict }
}

/// The topic a permit of [`judge`] speaks of.
///
/// # Errors
/// UNKNOWN_TOPIC_OR_PARTITION; KAFKA_STORAGE_ERROR while the owner's key is refused.
pub fn found<A: Ability>(
    caller: &Tenant,
    owner: &Tenant,
    permit: &Permit<A>,
    name: &str,
) -> Result<Arc<Topic>, ErrorCode> {
    let topic = owner.catalog.permitted(permit).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    owner.check_key()?;
    caller.met.remember(topic.id, name);
    Ok(topic)
}
