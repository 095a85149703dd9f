//! The operator's commands about credentials: access keys, SCRAM passwords, sessions, one-time tokens.
//!
//! Names follow AWS (`AccessKeyId`, `SecretAccessKey`). A secret leaves in the answer to the call that made it, and never
//! again.

use std::num::NonZeroU32;

use schloss_core::TenantId;
use schloss_crypto::ScramMechanism;
use serde_json::{Value, json};

use super::verbs::Verb;
use super::{OperatorCall, OperatorRefusal, Outcome};
use crate::credentials::{CredentialError, ITERATIONS, NewAccessKey, ScramChange, rfc3339};
use crate::tenancy::tenant_id;

/// Iterations of a password set here (THREATS: at least 8192).
const ITERATIONS_DEFAULT: u64 = 8_192;
/// A password has at least this many characters.
const PASSWORD_CHARS_MIN: usize = 8;
/// And at most this many.
const PASSWORD_CHARS_MAX: usize = 1_024;
/// A one-time token's life, unless said otherwise, and at most.
const BOOTSTRAP_MINUTES: u64 = 60;
const BOOTSTRAP_MINUTES_MAX: u64 = 7 * 24 * 60;

/// The rows of this room.
pub static VERBS: [Verb; 13] = [
    Verb { noun: "access-key", verb: "create", run: |call| Box::pin(create(call)) },
    Verb { noun: "access-key", verb: "list", run: |call| Box::pin(list(call)) },
    Verb { noun: "access-key", verb: "rotate", run: |call| Box::pin(rotate(call)) },
    Verb { noun: "access-key", verb: "activate", run: |call| Box::pin(set_active(call, true)) },
    Verb { noun: "access-key", verb: "deactivate", run: |call| Box::pin(set_active(call, false)) },
    Verb { noun: "access-key", verb: "delete", run: |call| Box::pin(delete(call)) },
    Verb { noun: "scram", verb: "set", run: |call| Box::pin(scram_set(call)) },
    Verb { noun: "scram", verb: "list", run: |call| Box::pin(scram_list(call)) },
    Verb { noun: "scram", verb: "delete", run: |call| Box::pin(scram_delete(call)) },
    Verb { noun: "role", verb: "revoke-sessions", run: |call| Box::pin(revoke_sessions(call)) },
    Verb { noun: "bootstrap-token", verb: "create", run: |call| Box::pin(bootstrap(call)) },
    Verb { noun: "organisation", verb: "files", run: |call| Box::pin(files(call)) },
    Verb { noun: "organisation", verb: "credentials", run: |call| Box::pin(holders(call)) },
];

impl From<CredentialError> for OperatorRefusal {
    fn from(error: CredentialError) -> Self {
        let (code, next) = match &error {
            CredentialError::UnknownTenant => ("TenantClosed", "check the tenant's KMS key, then try again"),
            CredentialError::Unknown => ("NoSuchCredential", "the `list` of the same noun tells what there is"),
            CredentialError::TooManyAccessKeys { .. } => {
                ("LimitExceeded", "delete an old one with `schloss iam access-key delete`")
            }
            CredentialError::Quota { .. } => ("LimitExceeded", "delete what is not used any more"),
            CredentialError::Metadata(_) | CredentialError::Sealed { .. } => {
                ("NotStored", "look at the broker's log; nothing was changed")
            }
        };
        Self::new(code, error, next)
    }
}

/// A new key as it is shown once.
pub fn shown_once(user: &str, key: &NewAccessKey) -> Value {
    json!({
        "UserName": user,
        "AccessKeyId": key.id,
        "SecretAccessKey": key.secret.expose(),
        "Status": "Active",
    })
}

/// The user named in the body, who must be in the organisation in force.
fn user(call: &OperatorCall, tenant: TenantId) -> Result<&str, OperatorRefusal> {
    let name = call.text("user")?;
    let organisation = call.broker.tenancy.policies().organisation();
    let entry = organisation.tenants().find(|entry| tenant_id(entry) == Some(tenant));
    match entry.and_then(|entry| entry.user(name)) {
        Some(_) => Ok(name),
        None => Err(OperatorRefusal::new(
            "NoSuchUser",
            format!("the tenant has no user `{name}`"),
            "create it with `schloss iam user create`; a change of files is in force within a second",
        )),
    }
}

async fn create(call: &OperatorCall) -> Outcome {
    let tenant = call.tenant()?;
    let user = user(call, tenant)?;
    Ok(shown_once(user, &call.broker.credentials.create_access_key(tenant, user).await?))
}

async fn list(call: &OperatorCall) -> Outcome {
    let tenant = call.tenant()?;
    let user = call.body.get("user").and_then(Value::as_str);
    let keys = call.broker.credentials.access_keys(tenant, user);
    let told = keys.iter().map(|key| {
        json!({
            "UserName": key.user,
            "AccessKeyId": key.id,
            "Status": if key.active { "Active" } else { "Inactive" },
            "CreateDate": rfc3339(key.created_ms),
            "LastUsedDate": key.last_used_ms.map(rfc3339),
        })
    });
    Ok(json!({ "AccessKeyMetadata": told.collect::<Vec<_>>() }))
}

async fn rotate(call: &OperatorCall) -> Outcome {
    let (tenant, id) = (call.tenant()?, call.text("id")?);
    let keys = call.broker.credentials.access_keys(tenant, None);
    let user = keys.iter().find(|key| &*key.id == id).map(|key| key.user.clone()).ok_or(CredentialError::Unknown)?;
    let key = call.broker.credentials.rotate_access_key(tenant, id).await?;
    let mut told = shown_once(&user, &key);
    told["Replaces"] = json!({ "AccessKeyId": id, "Status": "Inactive" });
    Ok(told)
}

async fn set_active(call: &OperatorCall, active: bool) -> Outcome {
    let (tenant, id) = (call.tenant()?, call.text("id")?);
    call.broker.credentials.set_access_key_active(tenant, id, active).await?;
    Ok(json!({ "AccessKeyId": id, "Status": if active { "Active" } else { "Inactive" } }))
}

async fn delete(call: &OperatorCall) -> Outcome {
    let (tenant, id) = (call.tenant()?, call.text("id")?);
    call.broker.credentials.delete_access_key(tenant, id).await?;
    Ok(json!({ "AccessKeyId": id, "Status": "Deleted" }))
}

fn mechanism(call: &OperatorCall) -> Result<ScramMechanism, OperatorRefusal> {
    ScramMechanism::from_name(call.text("mechanism")?).ok_or_else(|| {
        OperatorRefusal::new("BadValue", "the mechanism is not known", "use SCRAM-SHA-256 or SCRAM-SHA-512")
    })
}

async fn scram_set(call: &OperatorCall) -> Outcome {
    let (tenant, mechanism) = (call.tenant()?, mechanism(call)?);
    let user = user(call, tenant)?;
    let password = call.text("password")?;
    if !(PASSWORD_CHARS_MIN..=PASSWORD_CHARS_MAX).contains(&password.chars().count()) {
        let what = format!("a password has {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters");
        return Err(OperatorRefusal::new("BadValue", what, "choose another, or use --generate"));
    }
    let iterations = call.body.get("iterations").and_then(Value::as_u64).unwrap_or(ITERATIONS_DEFAULT);
    let iterations =
        u32::try_from(iterations).ok().filter(|count| ITERATIONS.contains(count)).and_then(NonZeroU32::new);
    let iterations = iterations.ok_or_else(|| {
        let what = format!("iterations are {} to {}", ITERATIONS.start(), ITERATIONS.end());
        OperatorRefusal::new("BadValue", what, "leave --iterations out for 8192")
    })?;
    call.broker.credentials.set_scram_password(tenant, mechanism, user, password, iterations).await?;
    Ok(json!({ "UserName": user, "Mechanism": mechanism.name(), "Iterations": iterations.get() }))
}

async fn scram_list(call: &OperatorCall) -> Outcome {
    let told =
        call.broker.credentials.scram_users(call.tenant()?).into_iter().map(
            |facts| json!({ "UserName": facts.user, "Mechanism": facts.mechanism, "Iterations": facts.iterations }),
        );
    Ok(json!({ "ScramCredentials": told.collect::<Vec<_>>() }))
}

async fn scram_delete(call: &OperatorCall) -> Outcome {
    let (tenant, mechanism, user) = (call.tenant()?, mechanism(call)?, call.text("user")?);
    let change = ScramChange::Delete { user: user.into(), mechanism };
    call.broker.credentials.change_scram(tenant, vec![change]).await?;
    Ok(json!({ "UserName": user, "Mechanism": mechanism.name(), "Status": "Deleted" }))
}

async fn revoke_sessions(call: &OperatorCall) -> Outcome {
    let (tenant, role) = (call.tenant()?, call.text("role")?);
    let organisation = call.broker.tenancy.policies().organisation();
    let entry = organisation.tenants().find(|entry| tenant_id(entry) == Some(tenant));
    if entry.and_then(|entry| entry.role(role, "")).is_none() {
        let what = format!("the tenant has no role `{role}`");
        return Err(OperatorRefusal::new("NoSuchRole", what, "`schloss iam role list` tells them"));
    }
    let before_ms = call.broker.credentials.revoke_sessions(tenant, role).await?;
    Ok(json!({ "RoleName": role, "RevokedBefore": rfc3339(before_ms), "RevokedBeforeMs": before_ms }))
}

async fn bootstrap(call: &OperatorCall) -> Outcome {
    let tenant = call.tenant()?;
    let user = user(call, tenant)?;
    let minutes = call.body.get("minutes").and_then(Value::as_u64).unwrap_or(BOOTSTRAP_MINUTES);
    let minutes = minutes.clamp(1, BOOTSTRAP_MINUTES_MAX);
    let life_ms = i64::try_from(minutes).unwrap_or(i64::MAX).saturating_mul(60_000);
    let expires_ms = call.broker.clock.now_ms().saturating_add(life_ms);
    let token = call.broker.credentials.create_bootstrap_token(tenant, user, expires_ms).await?;
    Ok(json!({ "UserName": user, "Token": token.expose(), "Expiration": rfc3339(expires_ms) }))
}

/// Digests of the files in force, for `schloss iam plan`.
async fn files(call: &OperatorCall) -> Outcome {
    let (digest, epoch) = call.broker.tenancy.version();
    Ok(json!({ "sha256": digest, "epoch": epoch, "files": call.broker.tenancy.files() }))
}

/// Who holds credentials, tenant by tenant: names without a user in the files are drift.
async fn holders(call: &OperatorCall) -> Outcome {
    let organisation = call.broker.tenancy.policies().organisation();
    let tenants = organisation.tenants().filter_map(|entry| {
        let tenant = tenant_id(entry)?;
        let credentials = &call.broker.credentials;
        let keys = credentials.access_keys(tenant, None).into_iter();
        let keys: Vec<_> = keys.map(|key| json!({ "user": key.user, "access_key": key.id })).collect();
        let scram = credentials.scram_users(tenant).into_iter();
        let scram: Vec<_> = scram.map(|facts| json!({ "user": facts.user, "scram": facts.mechanism })).collect();
        Some((entry.alias().to_owned(), Value::from([keys, scram].concat())))
    });
    Ok(Value::Object(tenants.collect()))
}
