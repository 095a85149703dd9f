//! Typed ids. Everything inside the broker is keyed by these, never by prefixed names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A tenant: an AWS-style account number of 12 decimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(u64);

impl TenantId {
    /// The largest account number, 999999999999.
    pub const MAX: u64 = 999_999_999_999;

    /// From a number; `None` above 12 digits.
    #[must_use]
    pub const fn new(account: u64) -> Option<Self> {
        if account <= Self::MAX { Some(Self(account)) } else { None }
    }

    /// The account number.
    #[must_use]
    pub const fn account(self) -> u64 {
        self.0
    }

    /// Sixteen bytes, big-endian, as stored in object headers and associated data.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        u128::from(self.0).to_be_bytes()
    }

    /// The inverse of [`TenantId::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        u64::try_from(u128::from_be_bytes(bytes)).ok().and_then(Self::new)
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012}", self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TenantId({self})")
    }
}

impl FromStr for TenantId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()) {
            text.parse().ok().and_then(Self::new).ok_or("an account id is 12 decimal digits")
        } else {
            Err("an account id is 12 decimal digits")
        }
    }
}

impl TryFrom<String> for TenantId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TenantId> for String {
    fn from(id: TenantId) -> Self {
        id.to_string()
    }
}

macro_rules! id16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// From its sixteen bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Its sixteen bytes.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0
            }

            /// All zero: "none" on the wire.
            #[must_use]
            pub fn is_zero(self) -> bool {
                self.0 == [0; 16]
            }
        }

        impl fmt::Display for $name {
            /// The text form of a UUID (RFC 9562).
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                uuid::Uuid::from_bytes(self.0).fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

id16! {
    /// A topic's id, the same for its whole life and never used again (KIP-516). A random UUID.
    TopicId
}
id16! {
    /// This installation. Part of every encryption context, so that data of two installations never mix.
    ClusterId
}

impl TopicId {
    /// A fresh random id from the operating system's randomness.
    #[must_use]
    pub fn random() -> Self {
        Self(*uuid::Uuid::new_v4().as_bytes())
    }
}

impl ClusterId {
    /// A fresh random id from the operating system's randomness.
    #[must_use]
    pub fn random() -> Self {
        Self(*uuid::Uuid::new_v4().as_bytes())
    }
}

/// One partition of one topic. Topic ids are unique over all tenants, so this needs no tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    /// The topic.
    pub topic: TopicId,
    /// The partition's number, from 0.
    pub index: i32,
}

/// The unit of order, durability and ownership; one write-ahead log each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u32);
