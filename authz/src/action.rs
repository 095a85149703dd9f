//! The actions of `kafka-cluster` and how policies name actions.
//!
//! In: words of a policy (`kafka-cluster:Read*`). Out: [`Action`] bits for our own actions, patterns for everybody's.
//!
//! Invariants
//! - Every action of AWS's service reference is here, with the resource type it applies to, and Schloss's extensions.
//! - Names compare without regard to case, as AWS compares them.

use std::fmt;

use crate::arn::ResourceKind;
use crate::glob::Glob;

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident $kind:ident $origin:ident $operation:expr;)*) => {
        /// An action of the service `kafka-cluster`. Judged by a bit each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Action { $($(#[$doc])* $name,)* }

        impl Action {
            /// Every action, in the order of their bits.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name after the colon, as AWS spells it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The full name, `kafka-cluster:ReadData`.
            #[must_use]
            pub const fn full_name(self) -> &'static str {
                match self { $(Self::$name => concat!("kafka-cluster:", stringify!($name)),)* }
            }

            /// The type of resource it applies to.
            #[must_use]
            pub const fn resource(self) -> ResourceKind {
                match self { $(Self::$name => ResourceKind::$kind,)* }
            }

            /// Whether AWS does not know it.
            #[must_use]
            pub const fn is_extension(self) -> bool {
                match self { $(Self::$name => matches!(Origin::$origin, Origin::Schloss),)* }
            }

            /// The Kafka ACL operation it equals.
            #[must_use]
            pub const fn operation(self) -> Option<AclOperation> {
                match self { $(Self::$name => $operation,)* }
            }
        }

        /// One type per action, so that a permit for one cannot serve as a permit for another.
        pub mod can {
            use super::{Ability, Action};
            $(
                $(#[$doc])*
                #[derive(Clone, Copy, Debug)]
                pub struct $name;
                impl Ability for $name { const ACTION: Action = Action::$name; }
            )*
        }
    };
}

enum Origin {
    Aws,
    Schloss,
}

/// A type that stands for one action in a [`crate::Permit`].
pub trait Ability {
    /// The action.
    const ACTION: Action;
}

use AclOperation as Op;

actions! {
    /// Opens a connection. Judged once, when authentication completes.
    Connect Cluster Aws None;
    /// Describes the cluster, its brokers and log folders.
    DescribeCluster Cluster Aws Some(Op::Describe);
    /// Alters the cluster: ACLs, SCRAM users, features.
    AlterCluster Cluster Aws Some(Op::Alter);
    /// Reads broker configuration and quotas.
    DescribeClusterDynamicConfiguration Cluster Aws Some(Op::DescribeConfigs);
    /// Changes broker configuration and quotas.
    AlterClusterDynamicConfiguration Cluster Aws Some(Op::AlterConfigs);
    /// Writes with a producer id. Its resource is the cluster.
    WriteDataIdempotently Cluster Aws Some(Op::IdempotentWrite);
    /// Creates a topic.
    CreateTopic Topic Aws Some(Op::Create);
    /// Sees a topic and its partitions.
    DescribeTopic Topic Aws Some(Op::Describe);
    /// Adds partitions.
    AlterTopic Topic Aws Some(Op::Alter);
    /// Deletes a topic or its records.
    DeleteTopic Topic Aws Some(Op::Delete);
    /// Reads a topic's configuration.
    DescribeTopicDynamicConfiguration Topic Aws Some(Op::DescribeConfigs);
    /// Changes a topic's configuration.
    AlterTopicDynamicConfiguration Topic Aws Some(Op::AlterConfigs);
    /// Fetches records.
    ReadData Topic Aws Some(Op::Read);
    /// Produces records.
    WriteData Topic Aws Some(Op::Write);
    /// Sees a group, its members and offsets.
    DescribeGroup Group Aws Some(Op::Describe);
    /// Joins a group and commits offsets: Kafka's READ on the group.
    AlterGroup Group Aws Some(Op::Read);
    /// Deletes a group or its offsets.
    DeleteGroup Group Aws Some(Op::Delete);
    /// Sees a transactional id.
    DescribeTransactionalId TransactionalId Aws Some(Op::Describe);
    /// Writes in transactions.
    AlterTransactionalId TransactionalId Aws Some(Op::Write);
    /// Reads a group's configuration.
    DescribeGroupDynamicConfiguration Group Schloss Some(Op::DescribeConfigs);
    /// Changes a group's configuration.
    AlterGroupDynamicConfiguration Group Schloss Some(Op::AlterConfigs);
    /// Prepares transactions of two phases.
    TwoPhaseCommit TransactionalId Schloss Some(Op::TwoPhaseCommit);
    /// Creates delegation tokens for others.
    CreateDelegationToken Principal Schloss Some(Op::CreateTokens);
    /// Sees delegation tokens of others.
    DescribeDelegationToken Principal Schloss Some(Op::DescribeTokens);
}

impl Action {
    /// This action's bit.
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << (self as u8)
    }

    /// This action's place in [`Action::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name after the colon, lower case.
    #[must_use]
    pub fn lower_name(self) -> &'static str {
        static LOWER: std::sync::LazyLock<Vec<String>> =
            std::sync::LazyLock::new(|| Action::ALL.iter().map(|a| a.name().to_ascii_lowercase()).collect());
        LOWER.get(self.index()).map_or("", String::as_str)
    }

    /// The action of a full name, case aside.
    #[must_use]
    pub fn from_full_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|a| a.full_name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.full_name())
    }
}

/// Kafka's ACL operations; the discriminant is the number on the wire and the bit of `authorizedOperations`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum AclOperation {
    Read = 3,
    Write = 4,
    Create = 5,
    Delete = 6,
    Alter = 7,
    Describe = 8,
    ClusterAction = 9,
    DescribeConfigs = 10,
    AlterConfigs = 11,
    IdempotentWrite = 12,
    CreateTokens = 13,
    DescribeTokens = 14,
    TwoPhaseCommit = 15,
}

impl AclOperation {
    /// Every operation.
    pub const ALL: &'static [Self] = &[
        Self::Read,
        Self::Write,
        Self::Create,
        Self::Delete,
        Self::Alter,
        Self::Describe,
        Self::ClusterAction,
        Self::DescribeConfigs,
        Self::AlterConfigs,
        Self::IdempotentWrite,
        Self::CreateTokens,
        Self::DescribeTokens,
        Self::TwoPhaseCommit,
    ];

    /// Its bit in Kafka's `authorizedOperations`.
    #[must_use]
    pub const fn bit(self) -> i32 {
        1 << (self as u8)
    }
}

/// An action as asked for: of any service, lower case, split at its colon.
#[derive(Clone, Copy, Debug)]
pub struct ActionName<'a> {
    /// The service prefix, lower case.
    pub service: &'a str,
    /// The name, lower case.
    pub name: &'a str,
    /// Ours, when it is one.
    pub known: Option<Action>,
}

impl<'a> ActionName<'a> {
    /// Splits a full name that is lower case already. `None` without a colon.
    #[must_use]
    pub fn from_lower(full: &'a str) -> Option<Self> {
        let (service, name) = full.split_once(':')?;
        Some(Self { service, name, known: Action::from_full_name(full) })
    }
}

/// What is wrong with an action in a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    /// No `service:` in front.
    #[error("it has no service prefix, as in `kafka-cluster:ReadData`")]
    NoPrefix,
    /// A service prefix of other than letters, digits and `-`.
    #[error("its service prefix is not one word of letters, digits and `-`")]
    BadPrefix,
    /// Nothing, or a blank or colon, after the prefix.
    #[error("its name is empty or has a blank or colon")]
    BadName,
}

/// One element of `Action` or `NotAction`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionPattern {
    /// `*`
    Every,
    /// `service:pattern`, both lower case.
    Of {
        /// The service prefix; `None` is ours.
        service: Option<Box<str>>,
        /// The pattern of the name.
        name: Glob,
    },
}

impl ActionPattern {
    /// Reads one element.
    ///
    /// # Errors
    /// [`ActionError`] when AWS would refuse it.
    pub fn parse(text: &str) -> Result<Self, ActionError> {
        if text == "*" || text == "*:*" {
            return Ok(Self::Every);
        }
        let (service, name) = text.split_once(':').ok_or(ActionError::NoPrefix)?;
        if service.is_empty() || !service.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(ActionError::BadPrefix);
        }
        if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c == ':') {
            return Err(ActionError::BadName);
        }
        Ok(Self::Of { service: foreign(service), name: Glob::new(&name.to_ascii_lowercase()) })
    }

    /// A pattern for a name that no action has; for simulations of what AWS stores but never matches.
    pub(crate) fn never(text: &str) -> Option<Self> {
        let (service, name) = text.split_once(':')?;
        Some(Self::Of { service: foreign(service), name: Glob::literal(name) })
    }

    /// Whether it names the action.
    #[must_use]
    pub fn matches(&self, action: ActionName<'_>) -> bool {
        match self {
            Self::Every => true,
            Self::Of { service, name } => {
                service.as_deref().unwrap_or(SERVICE) == action.service && name.matches(action.name)
            }
        }
    }

    /// The bits of our actions it names.
    #[must_use]
    pub fn mask(&self) -> u32 {
        match self {
            Self::Every => ALL_BITS,
            Self::Of { service: None, name } => Action::ALL
                .iter()
                .filter(|a| name.matches(&a.name().to_ascii_lowercase()))
                .fold(0, |mask, a| mask | a.bit()),
            Self::Of { .. } => 0,
        }
    }
}

/// The prefix in lower case; `None` when it is ours.
fn foreign(service: &str) -> Option<Box<str>> {
    (!service.eq_ignore_ascii_case(SERVICE)).then(|| service.to_ascii_lowercase().into())
}

/// The service prefix of our actions.
pub const SERVICE: &str = "kafka-cluster";
/// How many actions there are.
pub const COUNT: usize = Action::ALL.len();
/// The bits of all of them.
pub const ALL_BITS: u32 = u32::MAX >> (u32::BITS - COUNT as u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_nineteen_actions_of_aws_and_five_of_ours_exist() {
        assert_eq!(Action::ALL.iter().filter(|a| !a.is_extension()).count(), 19);
        assert_eq!(COUNT, 24);
        assert_eq!(ALL_BITS.count_ones(), 24);
    }

    #[test]
    fn action_names_compare_without_case() {
        let pattern = ActionPattern::parse("Kafka-Cluster:READ*").unwrap();
        assert_eq!(pattern.mask(), Action::ReadData.bit());
        assert_eq!(Action::from_full_name("KAFKA-CLUSTER:readdata"), Some(Action::ReadData));
    }

    #[test]
    fn a_wildcard_in_the_service_prefix_is_refused() {
        assert_eq!(ActionPattern::parse("kafka*:ReadData"), Err(ActionError::BadPrefix));
        assert_eq!(ActionPattern::parse("ReadData"), Err(ActionError::NoPrefix));
        assert_eq!(ActionPattern::parse("kafka-cluster: ReadData"), Err(ActionError::BadName));
        assert_eq!(ActionPattern::parse("kafka-cluster:*").map(|p| p.mask()), Ok(ALL_BITS));
    }
}
