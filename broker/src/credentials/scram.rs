//! SCRAM credentials of a tenant's users (KIP-84, KIP-554): verifiers, never passwords.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::Arc;

use schloss_core::TenantId;
use schloss_crypto::{ScramMechanism, ScramVerifier, random_array};
use schloss_metadata::Metadata;
use schloss_storage::TenantKeys;
use serde::{Deserialize, Serialize};

use super::store::{self, CredentialError, Kind};
use super::{CredentialRef, Credentials};

/// Iterations a verifier may have: Kafka's least and most (`ScramMechanism`).
pub const ITERATIONS: RangeInclusive<u32> = 4_096..=16_384;
/// SCRAM users of one tenant, of both mechanisms together.
const PER_TENANT_MAX: usize = 20_000;

/// A user's verifier.
#[derive(Debug)]
pub struct StoredScram {
    /// The user.
    pub user: Box<str>,
    /// What proofs are checked by.
    pub verifier: ScramVerifier,
    /// Tells this password from the next.
    pub version: u64,
}

/// What DescribeUserScramCredentials tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScramFacts {
    /// The user.
    pub user: Box<str>,
    /// `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: &'static str,
    /// Its number on the wire.
    #[serde(skip)]
    pub number: i8,
    /// Iterations.
    pub iterations: u32,
}

/// One change of AlterUserScramCredentials.
#[derive(Debug)]
pub enum ScramChange {
    /// Takes the place of what the user has for this mechanism.
    Upsert {
        /// The user.
        user: Box<str>,
        /// The new verifier.
        verifier: ScramVerifier,
    },
    /// Removes it.
    Delete {
        /// The user.
        user: Box<str>,
        /// For which mechanism.
        mechanism: ScramMechanism,
    },
}

#[derive(Serialize, Deserialize)]
struct Stored {
    user: String,
    mechanism: i8,
    iterations: u32,
    salt: String,
    stored_key: String,
    server_key: String,
    version: u64,
}

impl Drop for Stored {
    fn drop(&mut self) {
        schloss_crypto::wipe_text(&mut self.stored_key);
        schloss_crypto::wipe_text(&mut self.server_key);
    }
}

pub(super) async fn read(
    metadata: &dyn Metadata,
    tenant: TenantId,
    keys: &TenantKeys,
) -> Result<Vec<StoredScram>, CredentialError> {
    let rows: Vec<Stored> = store::read(metadata, tenant, keys, Kind::Scram).await?;
    let verifier = |row: &Stored| {
        let mechanism = ScramMechanism::from_number(row.mechanism)?;
        let (salt, stored, server) =
            (store::unhex(&row.salt)?, store::unhex(&row.stored_key)?, store::unhex(&row.server_key)?);
        let verifier = ScramVerifier::from_parts(mechanism, salt, row.iterations, stored, server)?;
        Some(StoredScram { user: row.user.as_str().into(), verifier, version: row.version })
    };
    rows.iter().map(|row| verifier(row).ok_or(CredentialError::Sealed { what: "scram" })).collect()
}

impl StoredScram {
    /// Its mechanism.
    #[must_use]
    pub fn mechanism(&self) -> ScramMechanism {
        self.verifier.mechanism()
    }

    /// What a connection let in by it remembers.
    #[must_use]
    pub fn reference(&self, tenant: TenantId) -> CredentialRef {
        let (mechanism, version) = (self.mechanism(), self.version);
        CredentialRef::Scram { tenant, mechanism, user: self.user.clone(), version }
    }

    fn stored(&self) -> Stored {
        Stored {
            user: self.user.to_string(),
            mechanism: self.mechanism().number(),
            iterations: self.verifier.iterations(),
            salt: store::hex(self.verifier.salt()),
            stored_key: store::hex(self.verifier.stored_key()),
            server_key: store::hex(self.verifier.server_key()),
            version: self.version,
        }
    }
}

/// A row's key: one row per user and mechanism.
fn row_key(mechanism: ScramMechanism, user: &str) -> String {
    format!("{}/{user}", mechanism.name())
}

impl Credentials {
    /// A user's verifier for a mechanism.
    #[must_use]
    pub fn scram(&self, tenant: TenantId, mechanism: ScramMechanism, user: &str) -> Option<Arc<StoredScram>> {
        self.look(|maps| maps.scram.get(&(tenant, mechanism, user.into())).cloned())
    }

    /// Every SCRAM credential of a tenant, sorted.
    #[must_use]
    pub fn scram_users(&self, tenant: TenantId) -> Vec<ScramFacts> {
        let mut facts = self.look(|maps| {
            let own = maps.scram.iter().filter(|((owner, _, _), _)| *owner == tenant);
            own.map(|((_, mechanism, user), stored)| ScramFacts {
                user: user.clone(),
                mechanism: mechanism.name(),
                number: mechanism.number(),
                iterations: stored.verifier.iterations(),
            })
            .collect::<Vec<_>>()
        });
        facts.sort_by(|a, b| (&a.user, a.number).cmp(&(&b.user, b.number)));
        facts
    }

    /// Sets a user's password for a mechanism.
    ///
    /// # Errors
    /// As [`Credentials::change_scram`].
    pub async fn set_scram_password(
        &self,
        tenant: TenantId,
        mechanism: ScramMechanism,
        user: &str,
        password: &str,
        iterations: NonZeroU32,
    ) -> Result<(), CredentialError> {
        let salt: [u8; 16] = random_array();
        let verifier = ScramVerifier::from_password(mechanism, password.as_bytes(), salt.to_vec(), iterations);
        self.change_scram(tenant, vec![ScramChange::Upsert { user: user.into(), verifier }]).await
    }

    /// Makes changes, all or none. Connections that were let in by an old password are cut.
    ///
    /// # Errors
    /// [`CredentialError::Unknown`] when one to delete does not exist, [`CredentialError::Quota`], and the store's.
    pub async fn change_scram(&self, tenant: TenantId, changes: Vec<ScramChange>) -> Result<(), CredentialError> {
        let _one = self.changing.lock().await;
        let keys = self.keys(tenant).await?;
        let have = self.look(|maps| maps.scram.keys().filter(|(owner, _, _)| *owner == tenant).count());
        let (mut rows, mut upserts, mut deletions) = (Vec::new(), Vec::new(), Vec::new());
        for change in changes {
            match change {
                ScramChange::Upsert { user, verifier } => {
                    let stored = StoredScram { user, verifier, version: u64::from_be_bytes(random_array()) };
                    let key = row_key(stored.mechanism(), &stored.user);
                    rows.push(store::row(tenant, &keys, Kind::Scram, &key, &stored.stored())?);
                    upserts.push(stored);
                }
                ScramChange::Delete { user, mechanism } => {
                    self.scram(tenant, mechanism, &user).ok_or(CredentialError::Unknown)?;
                    rows.push(store::removal(tenant, &keys, Kind::Scram, &row_key(mechanism, &user)));
                    deletions.push((tenant, mechanism, user));
                }
            }
        }
        if have.saturating_add(upserts.len()) > PER_TENANT_MAX {
            return Err(CredentialError::Quota { what: "SCRAM credentials", max: PER_TENANT_MAX });
        }
        self.metadata.put_sealed(rows).await?;
        self.change(|maps| {
            for key in deletions {
                maps.scram.remove(&key);
            }
            for stored in upserts {
                maps.scram.insert((tenant, stored.mechanism(), stored.user.clone()), Arc::new(stored));
            }
        });
        Ok(())
    }
}
