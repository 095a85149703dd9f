//! Sessions of the STS: temporary credentials whose token holds everything there is to know about them.
//!
//! A token is base64 of: version `01` | account u64 | sealed value. The sealed value is JSON ([`Claims`]) under the
//! tenant's metadata key, bound to the access key id, so that a token opens only for its own tenant and only beside its
//! own id. Nothing is stored per session; what is stored is, per role, the moment before which its sessions are revoked.
//!
//! Invariants
//! - A token is at most [`TOKEN_CHARS_MAX`] long: it must fit into the first frame of a SASL exchange and into a header.
//! - A token of another tenant, of nobody, and one that was altered are refused by the same path at the same cost.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schloss_authz::policy::{Attached, DocumentKind, Library};
use schloss_authz::{Keys, PrincipalKind, SessionTerms};
use schloss_core::TenantId;
use schloss_crypto::SecretText;
use schloss_metadata::Metadata;
use schloss_storage::TenantKeys;
use serde::{Deserialize, Serialize};

use super::access_keys::fresh_id;
use super::store::{self, CredentialError, Kind};
use super::{CredentialRef, Credentials};

/// Characters of a session token.
pub const TOKEN_CHARS_MAX: usize = 8_192;
/// Bytes of the JSON inside: with the seal and in base64 it stays below [`TOKEN_CHARS_MAX`].
const CLAIMS_BYTES_MAX: usize = 6_000;
const VERSION: u8 = 1;

/// What a session is to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionClaims {
    /// The user, or the role.
    #[serde(rename = "n")]
    pub name: Box<str>,
    /// The name of the role's session; `None` for a session of a user.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Box<str>>,
    /// When it was made.
    #[serde(rename = "i")]
    pub issued_ms: i64,
    /// When it ends.
    #[serde(rename = "e")]
    pub expires_ms: i64,
    /// Policies given in line, as text.
    #[serde(rename = "p", default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Box<str>>,
    /// Names of the tenant's policies given by ARN.
    #[serde(rename = "a", default, skip_serializing_if = "Vec::is_empty")]
    pub named: Vec<Box<str>>,
    /// Session tags.
    #[serde(rename = "t", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<Box<str>, Box<str>>,
    /// Those of them that the next role in a chain inherits.
    #[serde(rename = "c", default, skip_serializing_if = "Vec::is_empty")]
    pub transitive: Vec<Box<str>>,
    /// Who is behind it; never changed along a chain of roles.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub source_identity: Option<Box<str>>,
    /// The long-term key it was made with: its end is the session's.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub made_with: Option<Box<str>>,
    /// Further condition keys: of an identity provider's token, for example.
    #[serde(rename = "f", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<Box<str>, Box<str>>,
}

impl SessionClaims {
    /// A session without anything special.
    #[must_use]
    pub fn new(name: &str, issued_ms: i64, expires_ms: i64) -> Self {
        Self {
            name: name.into(),
            session: None,
            issued_ms,
            expires_ms,
            policies: Vec::new(),
            named: Vec::new(),
            tags: BTreeMap::new(),
            transitive: Vec::new(),
            source_identity: None,
            made_with: None,
            facts: BTreeMap::new(),
        }
    }

    /// Whose session it is.
    #[must_use]
    pub fn principal(&self) -> PrincipalKind {
        match &self.session {
            Some(session) => PrincipalKind::Role { name: self.name.clone(), session: session.clone() },
            None => PrincipalKind::User { name: self.name.clone() },
        }
    }

    /// How much of a token it takes, in percent (AWS: `PackedPolicySize`); above 100 it cannot be had.
    #[must_use]
    pub fn packed_percent(&self) -> usize {
        let bytes = serde_json::to_vec(self).map_or(usize::MAX, |json| json.len());
        bytes.saturating_mul(100).div_ceil(CLAIMS_BYTES_MAX)
    }

    /// The terms it binds its principal under.
    ///
    /// # Errors
    /// [`SessionRefused::Policy`] when a policy in line cannot be read: it could at issue.
    pub fn terms(&self) -> Result<SessionTerms, SessionRefused> {
        let mut keys = Keys::new();
        for (key, value) in &self.facts {
            keys.set(key, value.clone());
        }
        for (tag, value) in &self.tags {
            keys.set(&format!("aws:PrincipalTag/{tag}"), value.clone());
        }
        if let Some(identity) = &self.source_identity {
            keys.set("aws:SourceIdentity", identity.clone());
        }
        keys.set("aws:TokenIssueTime", rfc3339(self.issued_ms));
        let policies = self.policies.iter().map(|text| compile(text).ok_or(SessionRefused::Policy));
        Ok(SessionTerms { policies: policies.collect::<Result<_, _>>()?, named: self.named.clone(), keys })
    }
}

/// A session policy, compiled; `None` when it has a mistake or is longer than AWS allows.
#[must_use]
pub fn compile(text: &str) -> Option<Attached> {
    let name: Arc<str> = "session-policy".into();
    let document = Library::default().compile(DocumentKind::Session, &name, text, &mut Vec::new())?;
    Some(Attached { name, document })
}

/// The moment as AWS writes it.
#[must_use]
pub fn rfc3339(ms: i64) -> String {
    let moment = time::OffsetDateTime::from_unix_timestamp(ms.div_euclid(1_000)).ok();
    moment.and_then(|moment| moment.format(&time::format_description::well_known::Rfc3339).ok()).unwrap_or_default()
}

/// What is inside a token.
#[derive(Serialize, Deserialize)]
struct Sealed {
    #[serde(rename = "x")]
    secret: String,
    #[serde(flatten)]
    claims: SessionClaims,
}

impl Drop for Sealed {
    fn drop(&mut self) {
        schloss_crypto::wipe_text(&mut self.secret);
    }
}

/// A session, to be handed out once.
#[derive(Debug)]
pub struct NewSession {
    /// Its access key id, `ASIA…`.
    pub access_key_id: Box<str>,
    /// Its secret.
    pub secret: SecretText,
    /// Its token.
    pub token: SecretText,
}

/// A session that was shown and is good now.
#[derive(Debug)]
pub struct SessionCredential {
    /// Its access key id.
    pub access_key_id: Box<str>,
    /// Whose it is.
    pub tenant: TenantId,
    /// The user, or the session of a role.
    pub principal: PrincipalKind,
    /// What signatures are checked by.
    pub secret: SecretText,
    /// When it was made.
    pub issued_ms: i64,
    /// When it ends.
    pub expires_ms: i64,
    /// What [`schloss_authz::Engine::bind_session`] binds it under: session policies, tags, source identity.
    pub terms: SessionTerms,
    /// Everything else in its token.
    pub claims: SessionClaims,
}

impl SessionCredential {
    /// What a connection let in by it remembers.
    #[must_use]
    pub fn reference(&self) -> CredentialRef {
        CredentialRef::Session {
            tenant: self.tenant,
            principal: self.principal.clone(),
            made_with: self.claims.made_with.clone(),
            issued_ms: self.issued_ms,
            expires_ms: self.expires_ms,
        }
    }
}

/// Why a session token is refused. For the audit log; a peer is told at most that it expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionRefused {
    /// Not the form of a token.
    #[error("the session token is malformed")]
    Malformed,
    /// Of no tenant, of another access key, or altered.
    #[error("the session token was not made here for this access key id")]
    NotOurs,
    /// Past its end.
    #[error("the session has expired")]
    Expired,
    /// Its role's sessions were revoked, or the key it was made with is gone.
    #[error("the session was revoked")]
    Revoked,
    /// A policy in it cannot be read any more.
    #[error("a policy of the session cannot be read")]
    Policy,
}

/// Per role.
#[derive(Serialize, Deserialize)]
struct Revocation {
    role: Box<str>,
    before_ms: i64,
}

pub(super) async fn read_revocations(
    metadata: &dyn Metadata,
    tenant: TenantId,
    keys: &TenantKeys,
) -> Result<Vec<(Box<str>, i64)>, CredentialError> {
    let rows: Vec<Revocation> = store::read(metadata, tenant, keys, Kind::Revocation).await?;
    Ok(rows.into_iter().map(|row| (row.role, row.before_ms)).collect())
}

fn binding(tenant: TenantId, access_key_id: &str) -> Vec<u8> {
    [b"schloss/session-token/", &tenant.to_bytes()[..], access_key_id.as_bytes()].concat()
}

impl Credentials {
    /// Makes a session.
    ///
    /// # Errors
    /// [`CredentialError::Quota`] when its claims do not fit a token; [`CredentialError::UnknownTenant`].
    pub fn new_session(&self, tenant: TenantId, claims: SessionClaims) -> Result<NewSession, CredentialError> {
        let secrets = self.look(|maps| maps.secrets.get(&tenant).cloned()).ok_or(CredentialError::UnknownTenant)?;
        let access_key_id = fresh_id("ASIA");
        let secret = SecretText::generate();
        let inside = Sealed { secret: secret.expose().to_owned(), claims };
        let too_long = CredentialError::Quota { what: "bytes in a session token", max: CLAIMS_BYTES_MAX };
        let Ok(mut json) = serde_json::to_vec(&inside) else { return Err(too_long) };
        if inside.claims.packed_percent() > 100 {
            return Err(too_long);
        }
        let sealed = schloss_crypto::seal_value(&secrets.session, &binding(tenant, &access_key_id), &json);
        schloss_crypto::wipe(&mut json);
        let bytes = [&[VERSION], &tenant.account().to_be_bytes()[..], &sealed].concat();
        Ok(NewSession { access_key_id, secret, token: SecretText::new(STANDARD.encode(bytes)) })
    }

    /// The session of an access key id and its token, if it is good now.
    ///
    /// # Errors
    /// [`SessionRefused`].
    pub fn session(&self, access_key_id: &str, token: &str, now_ms: i64) -> Result<SessionCredential, SessionRefused> {
        if token.len() > TOKEN_CHARS_MAX {
            return Err(SessionRefused::Malformed);
        }
        let bytes = STANDARD.decode(token).map_err(|_| SessionRefused::Malformed)?;
        let Some((&[VERSION, ref account @ ..], sealed)) = bytes.split_first_chunk::<9>() else {
            return Err(SessionRefused::Malformed);
        };
        let tenant = TenantId::new(u64::from_be_bytes(*account)).ok_or(SessionRefused::Malformed)?;
        let secrets = self.look(|maps| maps.secrets.get(&tenant).cloned());
        // SECURITY: an unknown tenant's token is opened under a key that opens nothing.
        let key = secrets.as_ref().map_or(&self.decoy, |secrets| &*secrets.session);
        let opened = schloss_crypto::open_value(key, &binding(tenant, access_key_id), sealed);
        let mut json = opened.map_err(|_| SessionRefused::NotOurs)?;
        let inside = serde_json::from_slice::<Sealed>(&json);
        schloss_crypto::wipe(&mut json);
        let mut inside = inside.map_err(|_| SessionRefused::NotOurs)?;
        let (secret, claims) = (std::mem::take(&mut inside.secret), inside.claims.clone());
        let principal = claims.principal();
        if now_ms >= claims.expires_ms {
            return Err(SessionRefused::Expired);
        }
        if self.is_revoked(tenant, &principal, claims.made_with.as_deref(), claims.issued_ms) {
            return Err(SessionRefused::Revoked);
        }
        Ok(SessionCredential {
            access_key_id: access_key_id.into(),
            tenant,
            principal,
            secret: SecretText::new(secret),
            issued_ms: claims.issued_ms,
            expires_ms: claims.expires_ms,
            terms: claims.terms()?,
            claims,
        })
    }

    /// Revokes every session of a role that was made before now, its own moment included. Live connections are cut.
    ///
    /// # Errors
    /// The store's.
    pub async fn revoke_sessions(&self, tenant: TenantId, role: &str) -> Result<i64, CredentialError> {
        let _one = self.changing.lock().await;
        // Sessions are stamped in milliseconds: one made in this very millisecond is older than the next.
        let before_ms = self.clock.now_ms().saturating_add(1);
        let revocation = Revocation { role: role.into(), before_ms };
        let row = store::row(tenant, &self.keys(tenant).await?, Kind::Revocation, role, &revocation)?;
        self.metadata.put_sealed(vec![row]).await?;
        self.change(|maps| {
            maps.revoked.insert((tenant, role.into()), before_ms);
        });
        Ok(before_ms)
    }

    pub(super) fn is_revoked(
        &self,
        tenant: TenantId,
        principal: &PrincipalKind,
        made_with: Option<&str>,
        issued_ms: i64,
    ) -> bool {
        let of_role = |name: &str| {
            let before = self.look(|maps| maps.revoked.get(&(tenant, name.into())).copied());
            before.is_some_and(|before| issued_ms < before)
        };
        let role_revoked = matches!(principal, PrincipalKind::Role { name, .. } if of_role(name));
        let key_gone = made_with.is_some_and(|id| self.access_key(id).is_none_or(|key| !key.active));
        role_revoked || key_gone
    }
}
