//! An organisation: tenants, their users, roles, groups, certificates and policies, from a set of files.
//!
//! In: `path -> text` of a folder, already read. Out: an [`Organisation`], or every mistake at once.
//!
//! ```text
//! organisation.toml                         id, guardrails (levels of names), resource_controls
//! guardrails/<name>.json                    service control policies
//! resource-controls/<name>.json             resource control policies
//! tenants/<alias>/tenant.toml               account, [cluster], hosts, kms_key and what belongs to it, client_ca,
//!                                           kafka_users,
//!                                           suspended, [authentication] (see `authentication`)
//! tenants/<alias>/issuers/<name>.toml       identity providers whose tokens are taken
//! tenants/<alias>/users/<name>.toml         groups, policies, boundary, [tags]
//! tenants/<alias>/roles/<name>.toml         policies, boundary, trust, max_session_duration, [tags]
//! tenants/<alias>/groups/<name>.toml        policies
//! tenants/<alias>/certificates.toml         [[certificate]] common_name|subject|uri|dns|email -> user|role|kafka_user
//! tenants/<alias>/break-glass/<id>.toml     operator, reason, from, until, policies
//! tenants/<alias>/mounts.toml               [[mount]] name, topic: another tenant's topic under a name of one's own
//! tenants/<alias>/policies/<name>.json      identity policies and boundaries
//! tenants/<alias>/trust/<name>.json         trust policies
//! tenants/<alias>/cluster-policies/<name>.json   resource policies of the cluster
//! ```
//! A policy `<name>.shadow.json` is judged beside `<name>.json` and never in force.
//! `managed/<name>` names one of the policies that come with Schloss. Files of other endings are left alone.
//!
//! Invariants
//! - A set with one error does not exist; nothing is half in force.
//! - Accounts, aliases, host names and client CAs are unique over all tenants.

mod authentication;
mod break_glass;
mod load;
mod lookup;
mod managed;
mod people;
mod tables;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use casbin::{DefaultRoleManager, RoleManager};

pub use authentication::{Authentication, Issuer, MECHANISMS};
pub use break_glass::BreakGlass;
pub use managed::MANAGED;
pub use people::{CertificateFacts, IdentifyError, Principal, PrincipalKind};

use crate::arn::{AccountId, ClusterArn, ResourceName};
use crate::context::Keys;
use crate::engine::BindError;
use crate::evaluate::Layers;
use crate::finding::Finding;
use crate::policy::{Attached, Library};
use people::CertificateRule;

/// A set of files that was found sound.
pub struct Organisation {
    id: Option<Box<str>>,
    tenants: BTreeMap<AccountId, Tenant>,
    hosts: HashMap<Box<str>, AccountId>,
    client_cas: HashMap<[u8; 32], AccountId>,
    guardrails: Vec<Vec<Attached>>,
    resource_controls: Vec<Vec<Attached>>,
    graph: DefaultRoleManager,
    warnings: Vec<Finding>,
}

/// One tenant.
#[derive(Debug)]
pub struct Tenant {
    account: AccountId,
    alias: Box<str>,
    cluster: ClusterArn,
    hosts: Vec<Box<str>>,
    kms: TenantKms,
    client_ca: Option<Box<str>>,
    users: BTreeMap<Box<str>, Identity>,
    roles: BTreeMap<Box<str>, Identity>,
    policies: BTreeMap<Box<str>, Attached>,
    cluster_policies: Vec<Attached>,
    certificates: Vec<CertificateRule>,
    mounts: Arc<BTreeMap<Box<str>, SharedTopic>>,
    break_glass: Vec<BreakGlass>,
    kafka_users: BTreeSet<Box<str>>,
    suspended: bool,
    authentication: Authentication,
    issuers: Vec<Issuer>,
}

/// A topic of another tenant, by its ARN. What may be done with it, both tenants' policies say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedTopic {
    /// The tenant it belongs to.
    pub owner: AccountId,
    /// Its name there.
    pub name: Box<str>,
    /// The whole ARN, as written.
    pub arn: Box<str>,
}

impl SharedTopic {
    /// Reads `arn:P:kafka:REGION:ACCOUNT:topic/CLUSTER/UUID/NAME`.
    #[must_use]
    pub fn parse(arn: &str) -> Option<Self> {
        let split = ResourceName::split(arn);
        let mut parts = split.rest.splitn(4, '/');
        let is_topic = split.is_arn && split.service == "kafka" && parts.next() == Some("topic");
        let name = parts.nth(2).filter(|name| is_topic && !name.is_empty())?;
        Some(Self { owner: split.account.parse().ok()?, name: name.into(), arn: arn.into() })
    }
}

/// A tenant's KMS keys, as its file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantKms {
    /// `kms_key`: wraps what is new.
    pub key: Box<str>,
    /// `kms_keys`: may open what they wrapped, and wrap for topics that name them.
    pub keys: Vec<Box<str>>,
    /// `kms_outage_grace_seconds`: instead of the broker's own grace.
    pub outage_grace_seconds: Option<u64>,
    /// `kms_role`: assumed to use the keys (AWS).
    pub role: Option<Box<str>>,
    /// `kms_external_id`: sent when the role is assumed.
    pub external_id: Option<Box<str>>,
}

/// What a user or role has besides its policies.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    pub boundary: Option<Attached>,
    pub tags: Vec<(Box<str>, Box<str>)>,
    /// Who may assume the role; nobody may assume one without.
    pub trust: Option<Attached>,
    /// The longest session of the role, in seconds.
    pub session_seconds_max: i64,
}

impl Tenant {
    /// The tenant's account.
    #[must_use]
    pub fn account(&self) -> AccountId {
        self.account
    }

    /// The tenant's short name, also its folder's.
    #[must_use]
    pub fn alias(&self) -> &str {
        &self.alias
    }

    /// The tenant's virtual cluster.
    #[must_use]
    pub fn cluster(&self) -> &ClusterArn {
        &self.cluster
    }

    /// The host names its clients may dial (SNI), lower case.
    #[must_use]
    pub fn hosts(&self) -> &[Box<str>] {
        &self.hosts
    }

    /// The KMS key its data keys are wrapped by.
    #[must_use]
    pub fn kms_key(&self) -> &str {
        &self.kms.key
    }

    /// Everything said about its KMS keys.
    #[must_use]
    pub fn kms(&self) -> &TenantKms {
        &self.kms
    }

    /// The file of the CA that vouches for its clients, as written.
    #[must_use]
    pub fn client_ca(&self) -> Option<&str> {
        self.client_ca.as_deref()
    }

    /// Whether nobody of it may be connected now.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// How its connections may log in.
    #[must_use]
    pub fn authentication(&self) -> &Authentication {
        &self.authentication
    }

    /// The identity providers whose tokens it takes.
    #[must_use]
    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// The policies attached to its cluster.
    #[must_use]
    pub fn cluster_policies(&self) -> &[Attached] {
        &self.cluster_policies
    }

    /// Operators' time-boxed access to it, past and future grants included while their files are there.
    #[must_use]
    pub fn break_glass(&self) -> &[BreakGlass] {
        &self.break_glass
    }

    /// Topics of other tenants under names that look like its own.
    #[must_use]
    pub fn mounts(&self) -> &Arc<BTreeMap<Box<str>, SharedTopic>> {
        &self.mounts
    }

    /// All its users and roles; roles with an empty session name.
    pub fn principals(&self) -> impl Iterator<Item = Principal> {
        let users = self.users.keys().map(|name| PrincipalKind::User { name: name.clone() });
        let roles = self.roles.keys().map(|name| PrincipalKind::Role { name: name.clone(), session: "".into() });
        users.chain(roles).map(|kind| Principal {
            account: self.account,
            partition: self.cluster.partition.clone(),
            kind,
        })
    }

    /// A user of this name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<Principal> {
        let (name, _) = self.users.get_key_value(name)?;
        let kind = PrincipalKind::User { name: name.clone() };
        Some(Principal { account: self.account, partition: self.cluster.partition.clone(), kind })
    }

    /// A session of a role of this name; an empty session name is the role itself.
    #[must_use]
    pub fn role(&self, name: &str, session: &str) -> Option<Principal> {
        let (name, _) = self.roles.get_key_value(name)?;
        let kind = PrincipalKind::Role { name: name.clone(), session: session.into() };
        Some(Principal { account: self.account, partition: self.cluster.partition.clone(), kind })
    }

    /// The principal of this kind, while the tenant has it.
    #[must_use]
    pub fn principal(&self, kind: &PrincipalKind) -> Option<Principal> {
        match kind {
            PrincipalKind::User { name } => self.user(name),
            PrincipalKind::Role { name, session } => self.role(name, session),
            PrincipalKind::Kafka { name } => self.has_kafka_user(name).then(|| self.kafka_user(name)),
        }
    }

    /// A role's `MaxSessionDuration` in seconds.
    #[must_use]
    pub fn session_seconds_max(&self, role: &str) -> Option<i64> {
        self.roles.get(role).map(|role| role.session_seconds_max)
    }

    /// Whether the tenant has a policy under this name; policies that come with Schloss are `managed/<name>`.
    #[must_use]
    pub fn has_policy(&self, name: &str) -> bool {
        self.policies.contains_key(name)
    }

    /// A role's trust policy.
    pub(crate) fn trust(&self, role: &str) -> Option<&Attached> {
        self.roles.get(role)?.trust.as_ref()
    }

    /// A policy by the name it is attached by.
    pub(crate) fn policy(&self, name: &str) -> Option<&Attached> {
        self.policies.get(name)
    }

    /// Which principal a certificate, vouched for by this tenant's CA, belongs to. The first rule that fits decides.
    ///
    /// # Errors
    /// [`IdentifyError`] when none fits: the connection must be refused.
    pub fn identify(&self, facts: &CertificateFacts<'_>) -> Result<Principal, IdentifyError> {
        let rule = self.certificates.iter().find(|rule| rule.fits(facts)).ok_or(IdentifyError::NoRule)?;
        let kind = rule.principal(facts);
        Ok(Principal { account: self.account, partition: self.cluster.partition.clone(), kind })
    }
}

impl Organisation {
    /// Reads a set of files.
    ///
    /// # Errors
    /// Every finding, warnings included, when at least one is an error.
    pub fn load(files: &BTreeMap<String, String>, library: &mut Library) -> Result<Self, Vec<Finding>> {
        load::load(files, library)
    }

    /// All tenants, by account.
    pub fn tenants(&self) -> impl Iterator<Item = &Tenant> {
        self.tenants.values()
    }

    /// One tenant.
    #[must_use]
    pub fn tenant(&self, account: AccountId) -> Option<&Tenant> {
        self.tenants.get(&account)
    }

    /// The tenant of a host name (SNI), case aside.
    #[must_use]
    pub fn tenant_by_host(&self, host: &str) -> Option<&Tenant> {
        self.tenant(*self.hosts.get(&*host.to_ascii_lowercase())?)
    }

    /// The tenant whose file names this SHA-256 of a client CA.
    #[must_use]
    pub fn tenant_by_client_ca(&self, sha256: &[u8; 32]) -> Option<&Tenant> {
        self.tenant(*self.client_cas.get(sha256)?)
    }

    /// What is allowed and probably not meant.
    #[must_use]
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    /// The policies and the keys of a principal. The role graph tells which documents bind to it in its tenant.
    pub(crate) fn binding(&self, principal: &Principal) -> Result<(Layers, Keys), BindError> {
        let tenant = self.tenant(principal.account).ok_or(BindError::UnknownTenant)?;
        let nobodys = Identity::default();
        let identity = match &principal.kind {
            PrincipalKind::User { name } => tenant.users.get(name),
            PrincipalKind::Role { name, .. } => tenant.roles.get(name),
            // Whether it exists is for its credentials to say; what it may do, for the ACLs.
            PrincipalKind::Kafka { .. } => Some(&nobodys),
        };
        let identity = identity.ok_or(BindError::UnknownPrincipal)?;
        let names = self.policies_of(&principal.node(), &principal.account.to_string());
        let layers = Layers {
            identity: names.iter().filter_map(|name| tenant.policies.get(&**name).cloned()).collect(),
            boundary: identity.boundary.iter().cloned().collect(),
            guardrails: self.guardrails.clone(),
            resource_controls: self.resource_controls.clone(),
            ..Layers::default()
        };
        let mut keys = principal.keys();
        if let Some(id) = &self.id {
            keys.set("aws:PrincipalOrgID", id.clone());
        }
        for (tag, value) in &identity.tags {
            keys.set(&format!("aws:PrincipalTag/{tag}"), value.clone());
        }
        Ok((layers, keys))
    }

    /// The organisation's resource control policies.
    pub(crate) fn resource_controls(&self) -> &[Vec<Attached>] {
        &self.resource_controls
    }

    /// Walks the role graph from a node; sorted, each once.
    fn policies_of(&self, node: &str, domain: &str) -> Vec<String> {
        let mut waiting = vec![node.to_owned()];
        let mut seen = std::collections::BTreeSet::new();
        while let Some(node) = waiting.pop() {
            for next in self.graph.get_roles(&node, Some(domain)) {
                if seen.insert(next.clone()) {
                    waiting.push(next);
                }
            }
        }
        seen.into_iter().filter_map(|node| node.strip_prefix(POLICY_NODE).map(str::to_owned)).collect()
    }
}

impl fmt::Debug for Organisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Organisation({} tenants)", self.tenants.len())
    }
}

const POLICY_NODE: &str = "policy:";
