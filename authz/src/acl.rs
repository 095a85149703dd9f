//! Kafka ACLs, as a second way to write the same statements.
//!
//! In: entries of one tenant's table, as CreateAcls brings them. Out: a [`Document`] for one Kafka principal, and
//! entries back from policies where an entry can say the same.
//!
//! ACLs hold for principals that are not IAM's (`User:…`, from SCRAM, certificates or tokens); users and roles are judged
//! by their policies alone, as on Amazon MSK.
//!
//! SPEC: Apache Kafka's StandardAuthorizer: a Deny that matches wins; an Allow of READ, WRITE, DELETE or ALTER allows
//! DESCRIBE as well, one of ALTER_CONFIGS allows DESCRIBE_CONFIGS; nothing that matches denies.

use std::sync::Arc;

use crate::action::{AclOperation as Op, Action};
use crate::arn::{ClusterArn, ResourceKind};
use crate::json::Position;
use crate::policy::{Attached, Condition, Document, Effect, ResourcePattern, Statement};
use crate::session::Session;

/// How an entry's resource name is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PatternType {
    /// The name itself; `*` alone is every name.
    Literal,
    /// Every name that begins so.
    Prefixed,
}

/// One ACL entry. The same values make the same entry: the table is a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AclEntry {
    /// The type of the resource.
    pub kind: ResourceKind,
    /// Its name; `kafka-cluster` for the cluster, as in Kafka.
    pub name: String,
    /// How the name is read.
    pub pattern: PatternType,
    /// `User:name`, or `User:*` for everybody.
    pub principal: String,
    /// An address, a network in CIDR form, or `*`.
    pub host: String,
    /// `None` is Kafka's ALL.
    pub operation: Option<Op>,
    /// Whether it denies.
    pub denies: bool,
}

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    /// No `Type:name`.
    #[error("the principal is not of the form `User:name`")]
    BadPrincipal,
    /// Neither address nor network nor `*`.
    #[error("the host is neither an IP address, nor a network in CIDR form, nor `*`")]
    BadHost,
    /// An empty name, or another one than Kafka's for the cluster.
    #[error("the resource name does not fit its type")]
    BadName,
    /// The resource type has no such operation.
    #[error("the operation does not apply to the resource type")]
    BadOperation,
}

impl AclEntry {
    /// Whether Kafka would take the entry.
    ///
    /// # Errors
    /// [`AclError`].
    pub fn check(&self) -> Result<(), AclError> {
        if !self.principal.split_once(':').is_some_and(|(kind, name)| kind == "User" && !name.is_empty()) {
            return Err(AclError::BadPrincipal);
        }
        if self.host != "*" && self.condition().is_none() {
            return Err(AclError::BadHost);
        }
        let cluster_name = self.name == CLUSTER_NAME || self.name == "*";
        if self.name.is_empty() || (self.kind == ResourceKind::Cluster && !cluster_name) {
            return Err(AclError::BadName);
        }
        let known = self.operation.is_none_or(|operation| operations(self.kind).contains(&operation));
        if known { Ok(()) } else { Err(AclError::BadOperation) }
    }

    /// Whether it holds for this principal (`User:name`).
    #[must_use]
    pub fn is_for(&self, principal: &str) -> bool {
        self.principal == principal || self.principal == "User:*"
    }

    fn condition(&self) -> Option<Condition> {
        Condition::parse("IpAddress", "aws:SourceIp", &[&self.host], false).ok()
    }

    /// The statements that say the same: one, or one more where CREATE on the cluster stands for every topic.
    fn statements(&self, cluster: &ClusterArn) -> Vec<Statement> {
        let mut statements = Vec::new();
        let mask = mask(self.kind, self.operation, !self.denies);
        let name = if self.kind == ResourceKind::Cluster { Some("") } else { Some(&*self.name) };
        let every = self.kind != ResourceKind::Cluster && self.name == "*" && self.pattern == PatternType::Literal;
        let prefix = every || self.pattern == PatternType::Prefixed;
        let name = if every { Some("") } else { name }.unwrap_or_default();
        if mask != 0 {
            statements.push(self.statement(mask, ResourcePattern::of(cluster, self.kind, name, prefix)));
        }
        let creates = self.kind == ResourceKind::Cluster && self.operation.is_none_or(|op| op == Op::Create);
        if creates {
            let topics = ResourcePattern::of(cluster, ResourceKind::Topic, "", true);
            statements.push(self.statement(Action::CreateTopic.bit(), topics));
        }
        statements
    }

    fn statement(&self, mask: u32, resource: ResourcePattern) -> Statement {
        Statement {
            sid: Some("acl".into()),
            at: Position::START,
            effect: if self.denies { Effect::Deny } else { Effect::Allow },
            mask,
            not_action: false,
            actions: Box::default(),
            not_resource: false,
            resources: Some(Box::new([resource])),
            principals: None,
            conditions: self.condition().filter(|_| self.host != "*").into_iter().collect(),
        }
    }
}

/// The entries that hold for a principal, as a policy. Whoever is authenticated may connect, as in Kafka.
#[must_use]
pub fn document(entries: &[AclEntry], principal: &str, cluster: &ClusterArn) -> Attached {
    let connect = Statement {
        sid: Some("Connect".into()),
        at: Position::START,
        effect: Effect::Allow,
        mask: Action::Connect.bit(),
        not_action: false,
        actions: Box::default(),
        not_resource: false,
        resources: Some(Box::new([ResourcePattern::of(cluster, ResourceKind::Cluster, "", false)])),
        principals: None,
        conditions: Box::default(),
    };
    let fitting = entries.iter().filter(|entry| entry.is_for(principal));
    let statements = std::iter::once(connect).chain(fitting.flat_map(|entry| entry.statements(cluster))).collect();
    Attached { name: "kafka-acls".into(), document: Arc::new(Document { statements, shadow: None }) }
}

/// What the identity policies of a session say, as entries. Statements that no entry can express (conditions, `Not…`,
/// patterns other than a name or a prefix, another cluster) are left out: what is told is true, not complete.
#[must_use]
pub fn of_policies(session: &Session) -> Vec<AclEntry> {
    let principal = format!("IAM:{}", session.principal().policy_arn());
    let mut entries = Vec::new();
    for candidate in session.bound.set.candidates.iter().filter(|c| c.layer == crate::Layer::Identity) {
        let Some(statement) = candidate.statement() else { continue };
        if statement.not_resource || !statement.conditions.is_empty() {
            continue;
        }
        for pattern in statement.resources.iter().flatten() {
            for &kind in
                &[ResourceKind::Cluster, ResourceKind::Topic, ResourceKind::Group, ResourceKind::TransactionalId]
            {
                let Some((name, prefix)) = pattern.names(session.cluster(), kind) else { continue };
                let every = prefix && name.is_empty();
                for action in Action::ALL.iter().filter(|a| a.resource() == kind && statement.mask & a.bit() != 0) {
                    let Some(operation) = action.operation() else { continue };
                    entries.push(AclEntry {
                        kind,
                        name: match kind {
                            ResourceKind::Cluster => CLUSTER_NAME.to_owned(),
                            _ if every => "*".to_owned(),
                            _ => name.clone(),
                        },
                        pattern: if prefix && !every { PatternType::Prefixed } else { PatternType::Literal },
                        principal: principal.clone(),
                        host: "*".to_owned(),
                        operation: Some(operation),
                        denies: statement.effect == Effect::Deny,
                    });
                }
            }
        }
    }
    entries.sort();
    entries.dedup();
    entries
}

/// The bits an operation on a resource type stands for; `implied`: with what an Allow of it allows besides.
fn mask(kind: ResourceKind, operation: Option<Op>, implied: bool) -> u32 {
    let stands_for = |wanted: Op| match operation {
        None => true,
        Some(operation) if operation == wanted => true,
        Some(Op::Read | Op::Write | Op::Delete | Op::Alter) => implied && wanted == Op::Describe,
        Some(Op::AlterConfigs) => implied && wanted == Op::DescribeConfigs,
        Some(_) => false,
    };
    let of_kind = Action::ALL.iter().filter(|action| action.resource() == kind);
    of_kind.filter(|action| action.operation().is_some_and(stands_for)).fold(0, |mask, action| mask | action.bit())
}

/// The operations Kafka takes on a resource type (AclEntry.supportedOperations).
fn operations(kind: ResourceKind) -> &'static [Op] {
    match kind {
        ResourceKind::Topic => &[
            Op::Read,
            Op::Write,
            Op::Create,
            Op::Describe,
            Op::Delete,
            Op::Alter,
            Op::DescribeConfigs,
            Op::AlterConfigs,
        ],
        ResourceKind::Group => &[Op::Read, Op::Describe, Op::Delete, Op::DescribeConfigs, Op::AlterConfigs],
        ResourceKind::Cluster => &[
            Op::Create,
            Op::ClusterAction,
            Op::DescribeConfigs,
            Op::AlterConfigs,
            Op::IdempotentWrite,
            Op::Alter,
            Op::Describe,
        ],
        ResourceKind::TransactionalId => &[Op::Describe, Op::Write, Op::TwoPhaseCommit],
        ResourceKind::Principal => &[Op::CreateTokens, Op::DescribeTokens],
    }
}

/// Kafka's name of the cluster resource.
pub const CLUSTER_NAME: &str = "kafka-cluster";

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: ResourceKind, name: &str, operation: Op) -> AclEntry {
        AclEntry {
            kind,
            name: name.to_owned(),
            pattern: PatternType::Literal,
            principal: "User:ann".to_owned(),
            host: "*".to_owned(),
            operation: Some(operation),
            denies: false,
        }
    }

    #[test]
    fn an_allowed_read_allows_describe_and_a_denied_one_does_not_deny_it() {
        assert_eq!(
            mask(ResourceKind::Topic, Some(Op::Read), true),
            Action::ReadData.bit() | Action::DescribeTopic.bit()
        );
        assert_eq!(mask(ResourceKind::Topic, Some(Op::Read), false), Action::ReadData.bit());
        assert_eq!(mask(ResourceKind::Group, None, false).count_ones(), 5);
    }

    #[test]
    fn entries_kafka_refuses_are_refused() {
        let good = entry(ResourceKind::Topic, "orders", Op::Read);
        assert_eq!(good.check(), Ok(()));
        assert_eq!(AclEntry { principal: "ann".into(), ..good.clone() }.check(), Err(AclError::BadPrincipal));
        assert_eq!(AclEntry { principal: "IAM:ann".into(), ..good.clone() }.check(), Err(AclError::BadPrincipal));
        assert_eq!(AclEntry { host: "example.com".into(), ..good.clone() }.check(), Err(AclError::BadHost));
        assert_eq!(AclEntry { host: "10.0.0.0/8".into(), ..good.clone() }.check(), Ok(()));
        assert_eq!(AclEntry { name: String::new(), ..good.clone() }.check(), Err(AclError::BadName));
        assert_eq!(entry(ResourceKind::Group, "g", Op::Write).check(), Err(AclError::BadOperation));
        assert_eq!(entry(ResourceKind::Cluster, "other", Op::Alter).check(), Err(AclError::BadName));
    }
}
