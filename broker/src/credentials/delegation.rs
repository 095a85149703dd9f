//! Delegation tokens (KIP-48, KIP-373): a principal lends its name for a while.
//!
//! A token's secret is 64 random bytes, handed out as `hmac`. Its base64 is the password of a SCRAM login with the
//! extension `tokenauth=true`, whose user name is the token's id.
//!
//! Invariants
//! - A token never outlives its `max_ms`, however often it is renewed.
//! - A token falls with its owner: with the sessions of a revoked role, for example.

use std::num::NonZeroU32;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schloss_authz::PrincipalKind;
use schloss_core::TenantId;
use schloss_crypto::{ScramMechanism, ScramVerifier, SecretText, digest, random_array};
use schloss_metadata::Metadata;
use schloss_storage::TenantKeys;
use serde::{Deserialize, Serialize};

use super::store::{self, CredentialError, Kind};
use super::{CredentialRef, Credentials, Maps};

/// Live tokens of one tenant.
const PER_TENANT_MAX: usize = 10_000;
/// Kafka's least: the secret is random, so that more would only cost.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4_096).unwrap();

/// A token.
#[derive(Debug)]
pub struct DelegationToken {
    /// Its id, also the SCRAM user name.
    pub id: Box<str>,
    /// Whose name it lends.
    pub owner: PrincipalKind,
    /// Who asked for it.
    pub requester: PrincipalKind,
    /// Who besides the owner may renew or expire it, in Kafka's words.
    pub renewers: Vec<Box<str>>,
    /// When it was made.
    pub issued_ms: i64,
    /// When it ends unless it is renewed.
    pub expires_ms: i64,
    /// When it ends for good.
    pub max_ms: i64,
    /// Its secret in base64: the SCRAM password.
    pub password: Arc<SecretText>,
    verifiers: Arc<[ScramVerifier; 2]>,
}

/// What a token is to be.
#[derive(Debug)]
pub struct NewToken {
    /// Whose name it lends.
    pub owner: PrincipalKind,
    /// Who asks for it.
    pub requester: PrincipalKind,
    /// Who besides the owner may renew or expire it.
    pub renewers: Vec<Box<str>>,
    /// When it ends unless it is renewed.
    pub expires_ms: i64,
    /// When it ends for good.
    pub max_ms: i64,
}

#[derive(Serialize, Deserialize)]
struct StoredPrincipal {
    name: Box<str>,
    session: Option<Box<str>>,
    /// A Kafka principal, not a user.
    #[serde(default)]
    kafka: bool,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    id: Box<str>,
    owner: StoredPrincipal,
    requester: StoredPrincipal,
    renewers: Vec<Box<str>>,
    issued_ms: i64,
    expires_ms: i64,
    max_ms: i64,
    password: String,
    salt: String,
    /// Stored and server key per mechanism, in order of [`ScramMechanism::ALL`].
    verifiers: Vec<[String; 2]>,
}

impl Drop for Stored {
    fn drop(&mut self) {
        schloss_crypto::wipe_text(&mut self.password);
        self.verifiers.iter_mut().flatten().for_each(schloss_crypto::wipe_text);
    }
}

impl StoredPrincipal {
    fn new(principal: &PrincipalKind) -> Self {
        match principal {
            PrincipalKind::User { name } => Self { name: name.clone(), session: None, kafka: false },
            PrincipalKind::Role { name, session } => {
                Self { name: name.clone(), session: Some(session.clone()), kafka: false }
            }
            PrincipalKind::Kafka { name } => Self { name: name.clone(), session: None, kafka: true },
        }
    }

    fn kind(&self) -> PrincipalKind {
        match &self.session {
            None if self.kafka => PrincipalKind::Kafka { name: self.name.clone() },
            None => PrincipalKind::User { name: self.name.clone() },
            Some(session) => PrincipalKind::Role { name: self.name.clone(), session: session.clone() },
        }
    }
}

impl DelegationToken {
    /// What its SCRAM proofs are checked by.
    #[must_use]
    pub fn verifier(&self, mechanism: ScramMechanism) -> &ScramVerifier {
        let [sha256, sha512] = &*self.verifiers;
        match mechanism {
            ScramMechanism::Sha256 => sha256,
            ScramMechanism::Sha512 => sha512,
        }
    }

    /// The name of the user or role it lends.
    #[must_use]
    pub fn owner_name(&self) -> &str {
        match &self.owner {
            PrincipalKind::User { name } | PrincipalKind::Role { name, .. } | PrincipalKind::Kafka { name } => name,
        }
    }

    /// Its secret as Kafka's answers carry it.
    #[must_use]
    pub fn hmac(&self) -> Vec<u8> {
        STANDARD.decode(self.password.expose()).unwrap_or_default()
    }

    /// What a connection let in by it remembers.
    #[must_use]
    pub fn reference(&self, tenant: TenantId) -> CredentialRef {
        CredentialRef::DelegationToken { tenant, id: self.id.clone() }
    }

    fn digest(&self) -> [u8; 32] {
        digest::sha256(self.password.expose().as_bytes())
    }

    fn with_expiry(&self, expires_ms: i64) -> Self {
        Self {
            id: self.id.clone(),
            owner: self.owner.clone(),
            requester: self.requester.clone(),
            renewers: self.renewers.clone(),
            issued_ms: self.issued_ms,
            expires_ms: expires_ms.min(self.max_ms),
            max_ms: self.max_ms,
            password: Arc::clone(&self.password),
            verifiers: Arc::clone(&self.verifiers),
        }
    }

    fn stored(&self) -> Stored {
        let keys = |verifier: &ScramVerifier| [store::hex(verifier.stored_key()), store::hex(verifier.server_key())];
        Stored {
            id: self.id.clone(),
            owner: StoredPrincipal::new(&self.owner),
            requester: StoredPrincipal::new(&self.requester),
            renewers: self.renewers.clone(),
            issued_ms: self.issued_ms,
            expires_ms: self.expires_ms,
            max_ms: self.max_ms,
            password: self.password.expose().to_owned(),
            salt: store::hex(self.verifier(ScramMechanism::Sha256).salt()),
            verifiers: self.verifiers.iter().map(keys).collect(),
        }
    }

    fn open(mut row: Stored) -> Option<Self> {
        let salt = store::unhex(&row.salt)?;
        let verifier = |mechanism: ScramMechanism, [stored, server]: &[String; 2]| {
            let (stored, server) = (store::unhex(stored)?, store::unhex(server)?);
            ScramVerifier::from_parts(mechanism, salt.clone(), ITERATIONS.get(), stored, server)
        };
        let verifiers = [
            verifier(ScramMechanism::Sha256, row.verifiers.first()?)?,
            verifier(ScramMechanism::Sha512, row.verifiers.get(1)?)?,
        ];
        Some(Self {
            id: row.id.clone(),
            owner: row.owner.kind(),
            requester: row.requester.kind(),
            renewers: std::mem::take(&mut row.renewers),
            issued_ms: row.issued_ms,
            expires_ms: row.expires_ms,
            max_ms: row.max_ms,
            password: Arc::new(SecretText::new(std::mem::take(&mut row.password))),
            verifiers: Arc::new(verifiers),
        })
    }
}

pub(super) async fn read(
    metadata: &dyn Metadata,
    tenant: TenantId,
    keys: &TenantKeys,
) -> Result<Vec<DelegationToken>, CredentialError> {
    let rows: Vec<Stored> = store::read(metadata, tenant, keys, Kind::DelegationToken).await?;
    let broken = CredentialError::Sealed { what: "delegation-token" };
    rows.into_iter().map(DelegationToken::open).collect::<Option<_>>().ok_or(broken)
}

impl Maps {
    pub(super) fn put_token(&mut self, tenant: TenantId, token: Arc<DelegationToken>) {
        self.token_ids.insert((tenant, token.digest()), token.id.clone());
        self.tokens.insert((tenant, token.id.clone()), token);
    }
}

impl Credentials {
    /// A token that has not ended and whose owner's sessions were not revoked since.
    #[must_use]
    pub fn delegation_token(&self, tenant: TenantId, id: &str) -> Option<Arc<DelegationToken>> {
        let now_ms = self.clock.now_ms();
        let token = self.look(|maps| maps.tokens.get(&(tenant, id.into())).cloned())?;
        let live = now_ms < token.expires_ms && !self.is_revoked(tenant, &token.owner, None, token.issued_ms);
        live.then_some(token)
    }

    /// The token with this secret, ended or not.
    #[must_use]
    pub fn delegation_token_by_hmac(&self, tenant: TenantId, hmac: &[u8]) -> Option<Arc<DelegationToken>> {
        // Found by digest, so that the time of a search tells nothing about a secret.
        let wanted = digest::sha256(STANDARD.encode(hmac).as_bytes());
        self.look(|maps| {
            let id = maps.token_ids.get(&(tenant, wanted))?;
            maps.tokens.get(&(tenant, id.clone())).cloned()
        })
    }

    /// A tenant's tokens, oldest first.
    #[must_use]
    pub fn delegation_tokens(&self, tenant: TenantId) -> Vec<Arc<DelegationToken>> {
        let mut tokens = self.look(|maps| {
            let own = maps.tokens.iter().filter(|((owner, _), _)| *owner == tenant);
            own.map(|(_, token)| Arc::clone(token)).collect::<Vec<_>>()
        });
        tokens.sort_by(|a, b| (a.issued_ms, &a.id).cmp(&(b.issued_ms, &b.id)));
        tokens
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`CredentialError::Quota`] and the store's.
    pub async fn create_delegation_token(
        &self,
        tenant: TenantId,
        wish: NewToken,
    ) -> Result<Arc<DelegationToken>, CredentialError> {
        let password = SecretText::new(STANDARD.encode(random_array::<64>()));
        let salt: [u8; 16] = random_array();
        let verifier = |mechanism| {
            ScramVerifier::from_password(mechanism, password.expose().as_bytes(), salt.to_vec(), ITERATIONS)
        };
        let verifiers = ScramMechanism::ALL.map(verifier);
        let token = DelegationToken {
            id: uuid::Uuid::new_v4().to_string().into(),
            owner: wish.owner,
            requester: wish.requester,
            renewers: wish.renewers,
            issued_ms: self.clock.now_ms(),
            expires_ms: wish.expires_ms.min(wish.max_ms),
            max_ms: wish.max_ms,
            password: Arc::new(password),
            verifiers: Arc::new(verifiers),
        };
        let _one = self.changing.lock().await;
        if self.delegation_tokens(tenant).len() >= PER_TENANT_MAX {
            return Err(CredentialError::Quota { what: "delegation tokens", max: PER_TENANT_MAX });
        }
        self.keep_token(tenant, token).await
    }

    /// Moves a token's end, never past its last one, and tells it.
    ///
    /// # Errors
    /// [`CredentialError::Unknown`] and the store's.
    pub async fn extend_delegation_token(
        &self,
        tenant: TenantId,
        id: &str,
        expires_ms: i64,
    ) -> Result<i64, CredentialError> {
        let _one = self.changing.lock().await;
        let old = self.look(|maps| maps.tokens.get(&(tenant, id.into())).cloned()).ok_or(CredentialError::Unknown)?;
        Ok(self.keep_token(tenant, old.with_expiry(expires_ms)).await?.expires_ms)
    }

    /// Removes a token. Connections that were let in by it are cut.
    ///
    /// # Errors
    /// The store's.
    pub async fn delete_delegation_token(&self, tenant: TenantId, id: &str) -> Result<(), CredentialError> {
        let _one = self.changing.lock().await;
        let row = store::removal(tenant, &self.keys(tenant).await?, Kind::DelegationToken, id);
        self.metadata.put_sealed(vec![row]).await?;
        self.change(|maps| {
            if let Some(token) = maps.tokens.remove(&(tenant, id.into())) {
                maps.token_ids.remove(&(tenant, token.digest()));
            }
        });
        Ok(())
    }

    /// Removes the tokens that ended. Called from time to time.
    ///
    /// # Errors
    /// The store's.
    pub async fn remove_ended_tokens(&self) -> Result<(), CredentialError> {
        let now_ms = self.clock.now_ms();
        let ended: Vec<_> = self.look(|maps| {
            let ended = maps.tokens.iter().filter(|(_, token)| token.expires_ms <= now_ms);
            ended.map(|((tenant, id), _)| (*tenant, id.clone())).collect()
        });
        for (tenant, id) in ended {
            self.delete_delegation_token(tenant, &id).await?;
        }
        Ok(())
    }

    async fn keep_token(
        &self,
        tenant: TenantId,
        token: DelegationToken,
    ) -> Result<Arc<DelegationToken>, CredentialError> {
        let row = store::row(tenant, &self.keys(tenant).await?, Kind::DelegationToken, &token.id, &token.stored())?;
        self.metadata.put_sealed(vec![row]).await?;
        let token = Arc::new(token);
        self.change(|maps| maps.put_token(tenant, Arc::clone(&token)));
        Ok(token)
    }
}
