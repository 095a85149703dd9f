//! Names of resources: ARNs, accounts, the resources of a virtual cluster.
//!
//! In: text of policies, names as clients sent them. Out: [`ResourceName`], which a compiled policy is matched against.
//!
//! Invariants
//! - An ARN is split at its first five colons only: group and transactional ids may hold `:`, `/`, `*`, `?` and blanks.
//! - A name a client chose is only ever matched as text, never read as a pattern.

use std::fmt;
use std::str::FromStr;

/// An AWS-style account of 12 decimal digits. One per tenant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(u64);

impl AccountId {
    /// The number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// From a number; `None` above 12 digits.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        if number <= 999_999_999_999 { Some(Self(number)) } else { None }
    }
}

impl FromStr for AccountId {
    type Err = NotAnAccount;

    fn from_str(text: &str) -> Result<Self, NotAnAccount> {
        if text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()) {
            text.parse().ok().and_then(Self::new).ok_or(NotAnAccount)
        } else {
            Err(NotAnAccount)
        }
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012}", self.0)
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountId({self})")
    }
}

/// Not 12 decimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an account id is 12 decimal digits")]
pub struct NotAnAccount;

/// The types of resource of a virtual cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ResourceKind {
    /// The cluster itself.
    Cluster,
    /// A topic.
    Topic,
    /// A consumer group, of any protocol.
    Group,
    /// A transactional id.
    TransactionalId,
    /// A principal, as owner of delegation tokens. Schloss's own.
    Principal,
}

impl ResourceKind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[Self::Cluster, Self::Topic, Self::Group, Self::TransactionalId, Self::Principal];

    /// The word in an ARN.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Topic => "topic",
            Self::Group => "group",
            Self::TransactionalId => "transactional-id",
            Self::Principal => "principal",
        }
    }
}

/// One resource of the caller's virtual cluster, by the name the client used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResourceRef<'a> {
    /// What it is.
    pub kind: ResourceKind,
    /// Its name; empty for the cluster.
    pub name: &'a str,
}

impl<'a> ResourceRef<'a> {
    /// The cluster itself.
    pub const CLUSTER: ResourceRef<'static> = ResourceRef { kind: ResourceKind::Cluster, name: "" };

    /// A topic.
    #[must_use]
    pub const fn topic(name: &'a str) -> Self {
        Self { kind: ResourceKind::Topic, name }
    }

    /// A group.
    #[must_use]
    pub const fn group(name: &'a str) -> Self {
        Self { kind: ResourceKind::Group, name }
    }

    /// A transactional id.
    #[must_use]
    pub const fn transactional_id(name: &'a str) -> Self {
        Self { kind: ResourceKind::TransactionalId, name }
    }
}

/// A virtual cluster's name in full.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterArn {
    /// `aws`, unless the tenant says otherwise.
    pub partition: Box<str>,
    /// The region its clients sign for.
    pub region: Box<str>,
    /// The tenant.
    pub account: AccountId,
    /// The cluster's name.
    pub name: Box<str>,
    /// Its UUID with the `-N` suffix.
    pub uuid: Box<str>,
}

impl ClusterArn {
    /// The part of a resource's ARN behind the fifth colon.
    #[must_use]
    pub fn resource_part(&self, resource: ResourceRef<'_>) -> String {
        let (word, name, uuid) = (resource.kind.word(), &self.name, &self.uuid);
        match resource.kind {
            ResourceKind::Cluster => format!("{word}/{name}/{uuid}"),
            _ => format!("{word}/{name}/{uuid}/{}", resource.name),
        }
    }

    /// A resource's whole ARN.
    #[must_use]
    pub fn arn_of(&self, resource: ResourceRef<'_>) -> String {
        let part = self.resource_part(resource);
        format!("arn:{}:kafka:{}:{}:{part}", self.partition, self.region, self.account)
    }
}

impl fmt::Display for ClusterArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.arn_of(ResourceRef::CLUSTER))
    }
}

/// An ARN as asked for, split. All parts empty but the last one when the text was no ARN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceName<'a> {
    /// `aws`, `aws-cn`, …
    pub partition: &'a str,
    /// `kafka`, `s3`, …
    pub service: &'a str,
    /// The region, empty for global services.
    pub region: &'a str,
    /// The account, empty for S3.
    pub account: &'a str,
    /// All the rest.
    pub rest: &'a str,
    /// Whether the text had an ARN's form.
    pub is_arn: bool,
}

impl<'a> ResourceName<'a> {
    /// Splits a text.
    #[must_use]
    pub fn split(text: &'a str) -> Self {
        let mut parts = text.splitn(6, ':');
        let mut next = || parts.next();
        match (next(), next(), next(), next(), next(), next()) {
            (Some("arn"), Some(partition), Some(service), Some(region), Some(account), Some(rest)) => {
                Self { partition, service, region, account, rest, is_arn: true }
            }
            _ => Self { partition: "", service: "", region: "", account: "", rest: text, is_arn: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterArn {
        ClusterArn {
            partition: "aws".into(),
            region: "eu-central-1".into(),
            account: "111111111111".parse().unwrap(),
            name: "acme".into(),
            uuid: "6a7b-1".into(),
        }
    }

    #[test]
    fn arns_of_a_cluster_have_msks_form() {
        assert_eq!(cluster().to_string(), "arn:aws:kafka:eu-central-1:111111111111:cluster/acme/6a7b-1");
        assert_eq!(
            cluster().arn_of(ResourceRef::topic("orders")),
            "arn:aws:kafka:eu-central-1:111111111111:topic/acme/6a7b-1/orders"
        );
    }

    #[test]
    fn colons_and_slashes_of_a_group_id_stay_in_its_name() {
        let arn = cluster().arn_of(ResourceRef::group("a:b/c:d"));
        assert_eq!(ResourceName::split(&arn).rest, "group/acme/6a7b-1/a:b/c:d");
    }

    #[test]
    fn an_account_of_eleven_digits_is_refused() {
        assert_eq!("11111111111".parse::<AccountId>(), Err(NotAnAccount));
        assert_eq!("+11111111111".parse::<AccountId>(), Err(NotAnAccount));
    }
}
