//! A tenant's Kafka ACLs: a table in the metadata store, and in force in the policy engine.
//!
//! In: entries and filters as Kafka's requests bring them. Out: entries, Kafka's codes.
//!
//! Invariants
//! - An entry is in force only after its row is durable; a removed one stays in force until its row is gone.
//! - Rows are sealed under the tenant's metadata key and found by an HMAC: neither names nor principals rest readable.
//! - At most [`ENTRIES_MAX`] entries a tenant.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use schloss_authz::acl::{AclEntry, AclError, CLUSTER_NAME, PatternType};
use schloss_authz::{AccountId, AclOperation, Engine as Policies, ResourceKind};
use schloss_core::{ErrorCode, TenantId};
use schloss_metadata::{Metadata, MetadataError, SealedRow};
use schloss_storage::{KeySource, KeyTrouble, TenantKeys};

/// A table of more is a mistake, and every session of a Kafka principal is bound from it.
pub const ENTRIES_MAX: usize = 10_000;
/// Kind of the rows in the metadata store.
const KIND: &str = "acl";
/// Keeps the HMACs of entries apart from those of names and credentials.
const INDEX_KIND: u8 = 0x20;

/// Why the table was not changed.
#[derive(Debug, thiserror::Error)]
pub enum AclsError {
    /// What the client asked for is no entry.
    #[error(transparent)]
    Entry(#[from] AclError),
    /// A number on the wire that means nothing here.
    #[error("the {what} is unknown or not one that an entry can have")]
    Unknown {
        /// Which field.
        what: &'static str,
    },
    /// The tenant's table is full.
    #[error("the tenant's limit of ACL entries ({ENTRIES_MAX}) is reached; delete some")]
    Full,
    /// The metadata store.
    #[error("the metadata store did not take the change")]
    Metadata(#[from] MetadataError),
    /// The tenant's keys cannot be had now.
    #[error("the tenant's key cannot be used now")]
    Key(#[from] KeyTrouble),
    /// A stored entry could not be opened.
    #[error("a stored ACL entry could not be opened: the metadata was altered or its key is wrong")]
    Sealed,
}

impl AclsError {
    /// Kafka's code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Entry(_) | Self::Unknown { .. } => ErrorCode::INVALID_REQUEST,
            Self::Full => ErrorCode::POLICY_VIOLATION,
            Self::Metadata(_) | Self::Key(_) | Self::Sealed => ErrorCode::KAFKA_STORAGE_ERROR,
        }
    }
}

/// An entry as it rests.
#[derive(serde::Serialize, serde::Deserialize)]
struct Stored {
    resource: i8,
    name: String,
    pattern: i8,
    principal: String,
    host: String,
    operation: i8,
    permission: i8,
}

/// One tenant's table.
pub struct Acls {
    tenant: TenantId,
    account: AccountId,
    metadata: Arc<dyn Metadata>,
    keys: Arc<dyn KeySource>,
    entries: Mutex<BTreeSet<AclEntry>>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
}

impl Acls {
    /// Reads the table and puts it in force.
    ///
    /// # Errors
    /// [`AclsError`]: a table that cannot be read stops its tenant, it is never taken as empty.
    pub async fn open(
        tenant: TenantId,
        account: AccountId,
        metadata: Arc<dyn Metadata>,
        keys: Arc<dyn KeySource>,
        policies: &Policies,
    ) -> Result<Self, AclsError> {
        let mut entries = BTreeSet::new();
        let opened = keys.tenant_keys(tenant).await?;
        for row in metadata.sealed(tenant, KIND).await? {
            let plain = schloss_crypto::open_value(&opened.metadata, &binding(tenant, row.key_index), &row.sealed);
            let stored: Stored =
                plain.ok().and_then(|plain| serde_json::from_slice(&plain).ok()).ok_or(AclsError::Sealed)?;
            entries.insert(stored.entry().map_err(|_| AclsError::Sealed)?);
        }
        let acls = Self {
            tenant,
            account,
            metadata,
            keys,
            entries: Mutex::new(entries),
            changing: tokio::sync::Mutex::default(),
        };
        acls.put_in_force(policies);
        Ok(acls)
    }

    /// Every entry, in order.
    #[must_use]
    pub fn entries(&self) -> Vec<AclEntry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Adds entries, all or none; those that are there already change nothing.
    ///
    /// # Errors
    /// [`AclsError`].
    pub async fn add(&self, new: Vec<AclEntry>, policies: &Policies) -> Result<(), AclsError> {
        let _changing = self.changing.lock().await;
        let mut rows = Vec::with_capacity(new.len());
        let keys = self.keys.tenant_keys(self.tenant).await?;
        for entry in &new {
            rows.push(self.row(&keys, entry)?);
        }
        let after = {
            let mut after = self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone();
            after.extend(new);
            after
        };
        if after.len() > ENTRIES_MAX {
            return Err(AclsError::Full);
        }
        self.metadata.put_sealed(rows).await?;
        *self.entries.lock().unwrap_or_else(PoisonError::into_inner) = after;
        self.put_in_force(policies);
        Ok(())
    }

    /// Removes entries, all or none.
    ///
    /// # Errors
    /// [`AclsError`].
    pub async fn remove(&self, gone: &BTreeSet<AclEntry>, policies: &Policies) -> Result<(), AclsError> {
        let _changing = self.changing.lock().await;
        let mut rows = Vec::with_capacity(gone.len());
        let keys = self.keys.tenant_keys(self.tenant).await?;
        for entry in gone {
            rows.push(SealedRow { sealed: Vec::new(), ..self.row(&keys, entry)? });
        }
        self.metadata.put_sealed(rows).await?;
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).retain(|entry| !gone.contains(entry));
        self.put_in_force(policies);
        Ok(())
    }

    fn put_in_force(&self, policies: &Policies) {
        policies.set_acls(self.account, self.entries().into());
    }

    fn row(&self, keys: &TenantKeys, entry: &AclEntry) -> Result<SealedRow, AclsError> {
        let plain = serde_json::to_vec(&Stored::of(entry)).map_err(|_| AclsError::Sealed)?;
        let key_index = keys.index.bytes_index(INDEX_KIND, &plain);
        let sealed = schloss_crypto::seal_value(&keys.metadata, &binding(self.tenant, key_index), &plain);
        Ok(SealedRow { tenant: self.tenant, kind: KIND.to_owned(), key_index, sealed })
    }
}

fn binding(tenant: TenantId, key_index: [u8; 32]) -> Vec<u8> {
    [b"schloss/acl/".as_slice(), &tenant.to_bytes(), &key_index].concat()
}

impl Stored {
    fn of(entry: &AclEntry) -> Self {
        Self {
            resource: resource_code(entry.kind),
            name: entry.name.clone(),
            pattern: pattern_code(entry.pattern),
            principal: entry.principal.clone(),
            host: entry.host.clone(),
            operation: operation_code(entry.operation),
            permission: permission_code(entry.denies),
        }
    }

    fn entry(self) -> Result<AclEntry, AclsError> {
        entry((self.resource, self.name), self.pattern, (self.principal, self.host), (self.operation, self.permission))
    }
}

/// An entry of the numbers and texts of the wire, checked.
///
/// # Errors
/// [`AclsError`].
pub fn entry(
    (resource, name): (i8, String),
    pattern: i8,
    (principal, host): (String, String),
    (operation, permission): (i8, i8),
) -> Result<AclEntry, AclsError> {
    let entry = AclEntry {
        kind: resource_kind(resource).ok_or(AclsError::Unknown { what: "resource type" })?,
        name,
        pattern: match pattern {
            LITERAL => PatternType::Literal,
            PREFIXED => PatternType::Prefixed,
            _ => return Err(AclsError::Unknown { what: "pattern type" }),
        },
        principal,
        host,
        operation: match operation {
            ALL => None,
            code => Some(operation_of(code).ok_or(AclsError::Unknown { what: "operation" })?),
        },
        denies: match permission {
            DENY => true,
            ALLOW => false,
            _ => return Err(AclsError::Unknown { what: "permission type" }),
        },
    };
    entry.check()?;
    Ok(entry)
}

/// What entries are looked for. `None` fits every one.
#[derive(Clone, Debug)]
pub struct AclFilter {
    kind: Option<ResourceKind>,
    name: Option<String>,
    pattern: PatternFilter,
    principal: Option<String>,
    host: Option<String>,
    /// `Some(None)` is the operation ALL itself.
    operation: Option<Option<AclOperation>>,
    denies: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PatternFilter {
    Any,
    /// Every entry that holds for the name: its own, its prefixes, `*`.
    Match,
    Exactly(PatternType),
}

impl AclFilter {
    /// Reads the numbers and texts of the wire.
    ///
    /// # Errors
    /// [`AclsError::Unknown`].
    pub fn of_wire(
        (resource, name): (i8, Option<&str>),
        pattern: i8,
        (principal, host): (Option<&str>, Option<&str>),
        (operation, permission): (i8, i8),
    ) -> Result<Self, AclsError> {
        let unknown = |what| AclsError::Unknown { what };
        Ok(Self {
            kind: match resource {
                ANY => None,
                code => Some(resource_kind(code).ok_or(unknown("resource type"))?),
            },
            name: name.map(str::to_owned),
            pattern: match pattern {
                ANY => PatternFilter::Any,
                MATCH => PatternFilter::Match,
                LITERAL => PatternFilter::Exactly(PatternType::Literal),
                PREFIXED => PatternFilter::Exactly(PatternType::Prefixed),
                _ => return Err(unknown("pattern type")),
            },
            principal: principal.map(str::to_owned),
            host: host.map(str::to_owned),
            operation: match operation {
                ANY => None,
                ALL => Some(None),
                code => Some(Some(operation_of(code).ok_or(unknown("operation"))?)),
            },
            denies: match permission {
                ANY => None,
                DENY => Some(true),
                ALLOW => Some(false),
                _ => return Err(unknown("permission type")),
            },
        })
    }

    /// Whether an entry is looked for.
    #[must_use]
    pub fn fits(&self, entry: &AclEntry) -> bool {
        self.kind.is_none_or(|kind| kind == entry.kind)
            && self.names(entry)
            && self.principal.as_ref().is_none_or(|principal| *principal == entry.principal)
            && self.host.as_ref().is_none_or(|host| *host == entry.host)
            && self.operation.is_none_or(|operation| operation == entry.operation)
            && self.denies.is_none_or(|denies| denies == entry.denies)
    }

    /// SPEC: KIP-290, ResourcePatternFilter.
    fn names(&self, entry: &AclEntry) -> bool {
        if let PatternFilter::Exactly(pattern) = self.pattern
            && pattern != entry.pattern
        {
            return false;
        }
        let Some(name) = &self.name else { return true };
        match (self.pattern, entry.pattern) {
            (PatternFilter::Match, PatternType::Literal) => *name == entry.name || entry.name == "*",
            (PatternFilter::Match, PatternType::Prefixed) => name.starts_with(&entry.name),
            _ => *name == entry.name,
        }
    }

    /// Whether entries of IAM principals can fit.
    #[must_use]
    pub fn wants_policies(&self) -> bool {
        self.principal.as_ref().is_none_or(|principal| principal.starts_with("IAM:"))
    }
}

fn resource_kind(code: i8) -> Option<ResourceKind> {
    ResourceKind::ALL.iter().copied().find(|kind| resource_code(*kind) == code)
}

/// Kafka's number of a resource type.
#[must_use]
pub const fn resource_code(kind: ResourceKind) -> i8 {
    match kind {
        ResourceKind::Topic => 2,
        ResourceKind::Group => 3,
        ResourceKind::Cluster => 4,
        ResourceKind::TransactionalId => 5,
        ResourceKind::Principal => 7,
    }
}

/// Kafka's number of a pattern type.
#[must_use]
pub const fn pattern_code(pattern: PatternType) -> i8 {
    match pattern {
        PatternType::Literal => LITERAL,
        PatternType::Prefixed => PREFIXED,
    }
}

fn operation_of(code: i8) -> Option<AclOperation> {
    AclOperation::ALL.iter().copied().find(|operation| operation_code(Some(*operation)) == code)
}

/// Kafka's number of an operation; `None` is ALL.
#[must_use]
pub const fn operation_code(operation: Option<AclOperation>) -> i8 {
    match operation {
        None => ALL,
        Some(operation) => operation as i8,
    }
}

/// Kafka's number of a permission.
#[must_use]
pub const fn permission_code(denies: bool) -> i8 {
    if denies { DENY } else { ALLOW }
}

/// In words, for the audit log.
#[must_use]
pub fn describe(entry: &AclEntry) -> String {
    let AclEntry { kind, name, pattern, principal, host, operation, denies } = entry;
    let word = if *denies { "DENY" } else { "ALLOW" };
    let operation = operation.map_or_else(|| "All".to_owned(), |operation| format!("{operation:?}"));
    let name = if *kind == ResourceKind::Cluster { CLUSTER_NAME } else { name };
    format!("{word} {principal} {operation} {} {pattern:?} {name} from {host}", kind.word())
}

const ANY: i8 = 1;
const ALL: i8 = 2;
const MATCH: i8 = 2;
const LITERAL: i8 = 3;
const PREFIXED: i8 = 4;
const DENY: i8 = 2;
const ALLOW: i8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str, pattern: i8) -> AclEntry {
        entry((2, name.to_owned()), pattern, ("User:ann".to_owned(), "*".to_owned()), (3, ALLOW)).unwrap()
    }

    fn filter(name: Option<&str>, pattern: i8) -> AclFilter {
        AclFilter::of_wire((ANY, name), pattern, (None, None), (ANY, ANY)).unwrap()
    }

    #[test]
    fn match_finds_the_name_its_prefixes_and_the_wildcard() {
        let found = |entry: &AclEntry| filter(Some("orders-eu"), MATCH).fits(entry);
        assert!(
            found(&topic("orders-eu", LITERAL)) && found(&topic("orders", PREFIXED)) && found(&topic("*", LITERAL))
        );
        assert!(!found(&topic("orders", LITERAL)) && !found(&topic("news", PREFIXED)));
    }

    #[test]
    fn a_literal_filter_finds_the_name_as_written() {
        assert!(filter(Some("*"), LITERAL).fits(&topic("*", LITERAL)));
        assert!(!filter(Some("orders"), LITERAL).fits(&topic("*", LITERAL)));
        assert!(!filter(Some("orders"), LITERAL).fits(&topic("orders", PREFIXED)));
        assert!(filter(None, ANY).fits(&topic("orders", PREFIXED)));
    }

    #[test]
    fn numbers_that_no_entry_has_are_refused() {
        let with = |resource, pattern, operation, permission| {
            entry((resource, "x".into()), pattern, ("User:a".into(), "*".into()), (operation, permission)).is_err()
        };
        assert!(with(0, LITERAL, 3, ALLOW) && with(1, LITERAL, 3, ALLOW) && with(2, MATCH, 3, ALLOW));
        assert!(with(2, LITERAL, 1, ALLOW) && with(2, LITERAL, 99, ALLOW) && with(2, LITERAL, 3, 1));
        assert!(!with(2, LITERAL, ALL, DENY));
    }

    #[test]
    fn an_entry_survives_its_stored_form() {
        let entry = topic("orders", PREFIXED);
        assert_eq!(Stored::of(&entry).entry().unwrap(), entry);
    }
}
