//! The policies in force, and sessions under them.
//!
//! A new organisation replaces the old one as a whole and raises the epoch; sessions compare epochs and bind anew.
//! What cannot be read or compiled never gets here, so the old set stays in force.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::acl::{self, AclEntry};
use crate::arn::AccountId;
use crate::cache::DecisionCache;
use crate::evaluate::{CompiledSet, Layers};
use crate::frame::{Bound, Frame, FrameError};
use crate::organisation::{Organisation, Principal, PrincipalKind};
use crate::policy::{Attached, Caller};
use crate::session::{Session, SessionTerms};

/// The authoriser of a process.
pub struct Engine {
    frame: &'static Frame,
    epoch: Arc<AtomicU64>,
    organisation: RwLock<Arc<Organisation>>,
    acls: RwLock<HashMap<AccountId, Arc<[AclEntry]>>>,
}

/// Why nobody can be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The organisation has no such tenant.
    #[error("the account is no tenant")]
    UnknownTenant,
    /// The tenant has no such user or role.
    #[error("the tenant has no such principal")]
    UnknownPrincipal,
    /// A session was limited by a policy that the tenant no longer has: without it there is no telling what it may do.
    #[error("a policy that limits the session is gone")]
    UnknownPolicy,
}

impl Engine {
    /// With these policies in force.
    ///
    /// # Errors
    /// [`FrameError`] when the frame of decisions cannot be built; there is no engine without it.
    pub fn new(organisation: Organisation) -> Result<Self, FrameError> {
        let organisation = RwLock::new(Arc::new(organisation));
        Ok(Self { frame: Frame::shared()?, epoch: Arc::new(AtomicU64::new(1)), organisation, acls: RwLock::default() })
    }

    /// Puts other policies in force and tells their epoch. Sessions of before stop being current at once.
    pub fn apply(&self, organisation: Organisation) -> u64 {
        let mut slot = self.organisation.write().unwrap_or_else(PoisonError::into_inner);
        *slot = Arc::new(organisation);
        // INVARIANT: the epoch moves while the lock is held, so that `bind` pairs each set with its own epoch.
        self.epoch.fetch_add(1, Ordering::AcqRel).saturating_add(1)
    }

    /// Puts a tenant's Kafka ACLs in force, all of them, and tells the epoch.
    pub fn set_acls(&self, account: AccountId, entries: Arc<[AclEntry]>) -> u64 {
        let mut acls = self.acls.write().unwrap_or_else(PoisonError::into_inner);
        acls.insert(account, entries);
        // INVARIANT: as above, so that no session is current with a table of before.
        self.epoch.fetch_add(1, Ordering::AcqRel).saturating_add(1)
    }

    /// A tenant's Kafka ACLs in force.
    #[must_use]
    pub fn acls(&self, account: AccountId) -> Arc<[AclEntry]> {
        self.acls.read().unwrap_or_else(PoisonError::into_inner).get(&account).cloned().unwrap_or_default()
    }

    pub(crate) fn frame(&self) -> &'static Frame {
        self.frame
    }

    /// The epoch of the policies in force.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The organisation in force.
    #[must_use]
    pub fn organisation(&self) -> Arc<Organisation> {
        Arc::clone(&self.organisation.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Binds a principal to its policies, for its own tenant's virtual cluster.
    ///
    /// # Errors
    /// [`BindError`]: the connection must be refused, or cut when it lives.
    pub fn bind(&self, principal: &Principal) -> Result<Session, BindError> {
        self.bind_with(principal, principal.account, &[])
    }

    /// Binds a principal for the cluster of `owner`, under session policies (none: no session policy).
    ///
    /// # Errors
    /// [`BindError`] as above.
    pub fn bind_with(
        &self,
        principal: &Principal,
        owner: AccountId,
        session_policies: &[Attached],
    ) -> Result<Session, BindError> {
        let terms = SessionTerms { policies: session_policies.to_vec(), ..SessionTerms::default() };
        self.bind_session(principal, owner, &terms)
    }

    /// Binds a principal for the cluster of `owner`, under the terms its session was given with.
    ///
    /// # Errors
    /// [`BindError`] as above.
    pub fn bind_session(
        &self,
        principal: &Principal,
        owner: AccountId,
        terms: &SessionTerms,
    ) -> Result<Session, BindError> {
        let slot = self.organisation.read().unwrap_or_else(PoisonError::into_inner);
        let (organisation, epoch) = (Arc::clone(&slot), self.epoch());
        drop(slot);
        let acls = self.acls(principal.account);
        let tenant = organisation.tenant(owner).ok_or(BindError::UnknownTenant)?;
        let (mut layers, mut keys) = organisation.binding(principal)?;
        if let PrincipalKind::Kafka { name } = &principal.kind {
            let own = organisation.tenant(principal.account).ok_or(BindError::UnknownTenant)?;
            layers.identity = vec![acl::document(&acls, &format!("User:{name}"), own.cluster())];
        }
        layers.resource = tenant.cluster_policies().to_vec();
        layers.session = organisation.session_policies(principal.account, terms)?;
        keys.put_all(&terms.keys);
        keys.set("aws:ResourceAccount", owner.to_string());
        let bound = |layers: &Layers| {
            Arc::new(Bound {
                caller: Caller::parse(&principal.arn()),
                keys: keys.clone(),
                set: CompiledSet::new(layers),
                resource_account: Some(owner.to_string().into()),
            })
        };
        Ok(Session {
            principal: principal.clone(),
            cluster: tenant.cluster().clone(),
            mounts: organisation.tenant(principal.account).map(|own| Arc::clone(own.mounts())).unwrap_or_default(),
            bound: bound(&layers),
            shadow: layers.shadowed().map(|layers| bound(&layers)),
            frame: self.frame,
            terms: terms.clone(),
            epoch,
            current: Arc::clone(&self.epoch),
            cache: Mutex::new(DecisionCache::default()),
        })
    }

    /// Binds the principal of a session, with what limits it, for the cluster of another tenant.
    ///
    /// # Errors
    /// [`BindError`] when there is no such tenant.
    pub fn bind_abroad(&self, session: &Session, owner: AccountId) -> Result<Session, BindError> {
        self.bind_session(&session.principal, owner, &session.terms)
    }

    /// Binds the same principal anew after a change.
    ///
    /// # Errors
    /// [`BindError`] when the principal or tenant is gone: the connection must be cut.
    pub fn rebind(&self, session: &Session) -> Result<Session, BindError> {
        self.bind_session(&session.principal, session.cluster.account, &session.terms)
    }
}
