//! Promises of the room, on a clock that moves when told.

use std::sync::Arc;
use std::time::Duration;

use schloss_core::{Clock, ManualClock, TenantId};
use schloss_crypto::{DataKey, IndexKey};
use schloss_metadata::SqliteMetadata;
use schloss_storage::TenantKeys;

use super::*;

struct Castle {
    clock: Arc<ManualClock>,
    metadata: Arc<SqliteMetadata>,
    keys: Vec<(TenantId, TenantKeys)>,
    _folder: tempfile::TempDir,
}

struct Fixed(Vec<(TenantId, TenantKeys)>);

#[async_trait::async_trait]
impl schloss_storage::KeySource for Fixed {
    async fn tenant_keys(&self, tenant: TenantId) -> Result<TenantKeys, schloss_storage::KeyTrouble> {
        Ok(self.0.iter().find(|(owner, _)| *owner == tenant).unwrap().1.clone())
    }
}

fn tenant(account: u64) -> TenantId {
    TenantId::new(account).unwrap()
}

impl Castle {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let metadata = Arc::new(SqliteMetadata::open(&folder.path().join("manifest.db")).unwrap());
        let keys = |account| {
            let index = Arc::new(IndexKey::new(&DataKey::generate()));
            (tenant(account), TenantKeys::of(Arc::new(DataKey::generate()), index))
        };
        let clock = Arc::new(ManualClock::at(1_800_000_000_000));
        Self { clock, metadata, keys: vec![keys(1), keys(2)], _folder: folder }
    }

    /// The room as a broker finds it at its start.
    async fn open(&self) -> Credentials {
        let credentials =
            Credentials::new(self.metadata.clone(), self.clock.clone(), Arc::new(Fixed(self.keys.clone())));
        for (tenant, keys) in &self.keys {
            credentials.open_tenant(*tenant, keys.clone()).await.unwrap();
        }
        credentials
    }

    fn claims(&self, life: Duration) -> SessionClaims {
        let now_ms = self.clock.now_ms();
        let mut claims = SessionClaims::new("reader", now_ms, now_ms + i64::try_from(life.as_millis()).unwrap());
        claims.session = Some("s1".into());
        claims
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn session_is_good_until_its_last_millisecond() {
    let castle = Castle::new();
    let credentials = castle.open().await;
    let made = credentials.new_session(tenant(1), castle.claims(HOUR)).unwrap();
    let show = || credentials.session(&made.access_key_id, made.token.expose(), castle.clock.now_ms());
    let shown = show().unwrap();
    assert_eq!(shown.secret.expose(), made.secret.expose());
    assert_eq!(shown.tenant, tenant(1));
    assert!(credentials.still_good(&shown.reference()));
    castle.clock.advance(HOUR - Duration::from_millis(1));
    assert!(show().is_ok());
    castle.clock.advance(Duration::from_millis(1));
    assert_eq!(show().unwrap_err(), SessionRefused::Expired);
    assert!(!credentials.still_good(&shown.reference()));
}

#[tokio::test]
async fn token_opens_beside_its_own_id_only_and_every_changed_character_is_refused() {
    let castle = Castle::new();
    let credentials = castle.open().await;
    let now_ms = castle.clock.now_ms();
    let one = credentials.new_session(tenant(1), castle.claims(HOUR)).unwrap();
    let two = credentials.new_session(tenant(1), castle.claims(HOUR)).unwrap();
    assert_eq!(
        credentials.session(&two.access_key_id, one.token.expose(), now_ms).unwrap_err(),
        SessionRefused::NotOurs
    );
    let token = one.token.expose();
    for at in 0..token.len() {
        let mut changed = token.as_bytes().to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(credentials.session(&one.access_key_id, &changed, now_ms).is_err(), "character {at}");
    }
    for cut in 0..token.len() {
        assert!(credentials.session(&one.access_key_id, &token[..cut], now_ms).is_err(), "cut at {cut}");
    }
}

#[tokio::test]
async fn token_that_names_another_tenant_is_refused_as_one_of_nobody() {
    use base64::Engine as _;
    let castle = Castle::new();
    let credentials = castle.open().await;
    let made = credentials.new_session(tenant(1), castle.claims(HOUR)).unwrap();
    let engine = base64::engine::general_purpose::STANDARD;
    let bytes = engine.decode(made.token.expose()).unwrap();
    for account in [2_u64, 3] {
        let mut other = bytes.clone();
        other[1..9].copy_from_slice(&account.to_be_bytes());
        let shown = credentials.session(&made.access_key_id, &engine.encode(other), castle.clock.now_ms());
        assert_eq!(shown.unwrap_err(), SessionRefused::NotOurs);
    }
}

#[tokio::test]
async fn revocation_ends_what_was_made_before_survives_a_restart_and_spares_other_roles() {
    let castle = Castle::new();
    let credentials = castle.open().await;
    let made = credentials.new_session(tenant(1), castle.claims(HOUR)).unwrap();
    let foreign = credentials.new_session(tenant(2), castle.claims(HOUR)).unwrap();
    credentials.revoke_sessions(tenant(1), "reader").await.unwrap();
    castle.clock.advance(Duration::from_millis(1));
    let later = credentials.new_session(tenant(1), castle.claims(HOUR)).unwrap();
    let restarted = castle.open().await;
    for room in [&credentials, &restarted] {
        let show =
            |made: &NewSession| room.session(&made.access_key_id, made.token.expose(), castle.clock.now_ms()).map(drop);
        assert_eq!(show(&made), Err(SessionRefused::Revoked));
        assert_eq!(show(&later), Ok(()));
        assert_eq!(show(&foreign), Ok(()), "a role of the same name of another tenant");
    }
}

#[tokio::test]
async fn claims_that_do_not_fit_a_token_are_refused_and_the_largest_that_fit_stay_below_its_bound() {
    let castle = Castle::new();
    let credentials = castle.open().await;
    let mut claims = castle.claims(HOUR);
    claims.source_identity = Some("x".into());
    while claims.packed_percent() <= 100 {
        let tag = format!("tag{}", claims.tags.len());
        claims.tags.insert(tag.into(), "v".repeat(50).into());
    }
    assert!(matches!(credentials.new_session(tenant(1), claims.clone()), Err(CredentialError::Quota { .. })));
    let last = claims.tags.keys().next_back().unwrap().clone();
    claims.tags.remove(&last);
    let made = credentials.new_session(tenant(1), claims).unwrap();
    assert!(made.token.expose().len() <= TOKEN_CHARS_MAX, "{}", made.token.expose().len());
    assert!(credentials.session(&made.access_key_id, made.token.expose(), castle.clock.now_ms()).is_ok());
}

#[tokio::test]
async fn session_of_a_user_falls_with_the_key_it_was_made_with() {
    let castle = Castle::new();
    let credentials = castle.open().await;
    let key = credentials.create_access_key(tenant(1), "ann").await.unwrap();
    let mut claims = SessionClaims::new("ann", castle.clock.now_ms(), i64::MAX);
    claims.made_with = Some(key.id.clone());
    let made = credentials.new_session(tenant(1), claims).unwrap();
    let show = || credentials.session(&made.access_key_id, made.token.expose(), castle.clock.now_ms());
    let reference = show().unwrap().reference();
    let changes = credentials.changes();
    credentials.set_access_key_active(tenant(1), &key.id, false).await.unwrap();
    assert!(changes.has_changed().unwrap());
    assert_eq!(show().unwrap_err(), SessionRefused::Revoked);
    assert!(!credentials.still_good(&reference));
}

#[tokio::test]
async fn keys_stay_what_they_are_over_a_restart_and_a_foreign_tenant_cannot_touch_them() {
    let castle = Castle::new();
    let credentials = castle.open().await;
    let key = credentials.create_access_key(tenant(1), "ann").await.unwrap();
    credentials.used(&key.id, castle.clock.now_ms());
    credentials.write_last_used().await.unwrap();
    assert!(matches!(credentials.delete_access_key(tenant(2), &key.id).await, Err(CredentialError::Unknown)));
    let restarted = castle.open().await;
    let found = restarted.access_key(&key.id).unwrap();
    assert_eq!((found.secret.expose(), found.active, found.tenant), (key.secret.expose(), true, tenant(1)));
    let facts = restarted.access_keys(tenant(1), Some("ann"));
    assert_eq!(facts[0].last_used_ms, Some(castle.clock.now_ms()));
    assert!(restarted.access_keys(tenant(2), None).is_empty());
}

#[tokio::test]
async fn new_password_ends_connections_of_the_old_one() {
    let castle = Castle::new();
    let credentials = castle.open().await;
    let iterations = std::num::NonZeroU32::new(4_096).unwrap();
    let set = |password| credentials.set_scram_password(tenant(1), ScramMechanism::Sha256, "ann", password, iterations);
    set("the first").await.unwrap();
    let old = credentials.scram(tenant(1), ScramMechanism::Sha256, "ann").unwrap().reference(tenant(1));
    assert!(credentials.still_good(&old));
    set("the second").await.unwrap();
    assert!(!credentials.still_good(&old));
    assert!(credentials.scram(tenant(2), ScramMechanism::Sha256, "ann").is_none());
    assert!(credentials.scram(tenant(1), ScramMechanism::Sha512, "ann").is_none());
}

#[tokio::test]
async fn delegation_token_ends_at_its_time_and_with_its_owners_role() {
    let castle = Castle::new();
    let credentials = castle.open().await;
    let now_ms = castle.clock.now_ms();
    let owner = PrincipalKind::Role { name: "reader".into(), session: "s1".into() };
    let wish = || NewToken {
        owner: owner.clone(),
        requester: owner.clone(),
        renewers: Vec::new(),
        expires_ms: now_ms + 1_000,
        max_ms: now_ms + 2_000,
    };
    let token = credentials.create_delegation_token(tenant(1), wish()).await.unwrap();
    let found = |room: &Credentials, account| room.delegation_token_by_hmac(tenant(account), &token.hmac()).is_some();
    assert!(found(&credentials, 1) && found(&castle.open().await, 1) && !found(&credentials, 2));
    assert!(credentials.delegation_token_by_hmac(tenant(1), &[0; 64]).is_none());
    assert_eq!(credentials.extend_delegation_token(tenant(1), &token.id, i64::MAX).await.unwrap(), now_ms + 2_000);
    castle.clock.advance(Duration::from_millis(1_999));
    assert!(credentials.delegation_token(tenant(1), &token.id).is_some());
    assert!(credentials.delegation_token(tenant(2), &token.id).is_none());
    castle.clock.advance(Duration::from_millis(1));
    assert!(!credentials.still_good(&token.reference(tenant(1))));
    credentials.remove_ended_tokens().await.unwrap();
    assert!(castle.open().await.delegation_tokens(tenant(1)).is_empty());
    assert!(!found(&credentials, 1));

    let wish = NewToken { expires_ms: i64::MAX, max_ms: i64::MAX, ..wish() };
    let token = credentials.create_delegation_token(tenant(1), wish).await.unwrap();
    assert!(credentials.still_good(&token.reference(tenant(1))));
    credentials.revoke_sessions(tenant(1), "reader").await.unwrap();
    assert!(!credentials.still_good(&token.reference(tenant(1))));
}

#[tokio::test]
async fn one_time_token_is_redeemed_once_in_time_and_never_after() {
    let castle = Castle::new();
    let credentials = castle.open().await;
    let ends_ms = castle.clock.now_ms() + 1_000;
    let token = credentials.create_bootstrap_token(tenant(1), "ann", ends_ms).await.unwrap();
    let (owner, user, _) = castle.open().await.redeem(token.expose()).await.unwrap();
    assert_eq!((owner, &*user), (tenant(1), "ann"));
    assert!(matches!(castle.open().await.redeem(token.expose()).await, Err(BootstrapRefused::Unknown)));
    let late = credentials.create_bootstrap_token(tenant(1), "ann", ends_ms).await.unwrap();
    castle.clock.advance(Duration::from_secs(1));
    assert!(matches!(credentials.redeem(late.expose()).await, Err(BootstrapRefused::Expired)));
}

#[tokio::test]
async fn row_moved_to_another_tenant_or_altered_is_refused_at_the_start() {
    let castle = Castle::new();
    let credentials = castle.open().await;
    credentials.create_access_key(tenant(1), "ann").await.unwrap();
    let mut row = castle.metadata.sealed(tenant(1), "access-key").await.unwrap().remove(0);
    row.tenant = tenant(2);
    castle.metadata.put_sealed(vec![row]).await.unwrap();
    let restarted =
        Credentials::new(castle.metadata.clone(), castle.clock.clone(), Arc::new(Fixed(castle.keys.clone())));
    let (second, keys) = castle.keys[1].clone();
    assert!(matches!(restarted.open_tenant(second, keys).await, Err(CredentialError::Sealed { .. })));
}
