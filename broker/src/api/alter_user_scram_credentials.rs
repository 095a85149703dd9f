//! AlterUserScramCredentials (51, KIP-554): sets and deletes SCRAM passwords. The client sends the password salted and
//! hashed; what is kept is a verifier, from which neither can be had.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use kafka_protocol::messages::alter_user_scram_credentials_request::{
    ScramCredentialDeletion, ScramCredentialUpsertion,
};
use kafka_protocol::messages::alter_user_scram_credentials_response::AlterUserScramCredentialsResult;
use kafka_protocol::messages::{AlterUserScramCredentialsRequest, AlterUserScramCredentialsResponse};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_core::ErrorCode;
use schloss_crypto::{ScramMechanism, ScramVerifier};

use super::wire_text;
use crate::authorize::Call;
use crate::credentials::{CredentialError, ITERATIONS, ScramChange};

/// Bytes of a salt a client may choose.
const SALT_BYTES_MAX: usize = 1_024;

type Why = (ErrorCode, &'static str);

/// Answers one request.
pub async fn handle(call: &Call, request: AlterUserScramCredentialsRequest) -> AlterUserScramCredentialsResponse {
    let mut response = AlterUserScramCredentialsResponse::default();
    let deletions = request.deletions.iter().map(|deletion| (deletion.name.to_string(), delete(call, deletion)));
    let upserts = request.upsertions.iter().map(|upsertion| (upsertion.name.to_string(), upsert(call, upsertion)));
    let mut changes: BTreeMap<String, Result<ScramChange, Why>> = BTreeMap::new();
    if call.administer(can::AlterCluster, ResourceRef::CLUSTER).await.is_err() {
        const DENIED: Why = (ErrorCode::CLUSTER_AUTHORIZATION_FAILED, "Cluster authorization failed.");
        let users = request.deletions.iter().map(|one| &one.name).chain(request.upsertions.iter().map(|one| &one.name));
        changes.extend(users.map(|user| (user.to_string(), Err(DENIED))));
    } else {
        for (user, change) in deletions.chain(upserts) {
            const TWICE: Why =
                (ErrorCode::DUPLICATE_RESOURCE, "A user credential cannot be altered twice in the same request");
            changes.entry(user).and_modify(|known| *known = Err(TWICE)).or_insert(change);
        }
    }
    for (user, change) in changes {
        let mut result = AlterUserScramCredentialsResult::default().with_user(wire_text(&user));
        let done = match change {
            Ok(change) => make(call, change).await,
            Err(why) => Err(why),
        };
        if let Err((code, why)) = done {
            result.error_code = code.code();
            result.error_message = Some(wire_text(why));
        }
        response.results.push(result);
    }
    response
}

fn mechanism(user: &str, number: i8) -> Result<ScramMechanism, Why> {
    if user.is_empty() {
        return Err((ErrorCode::UNACCEPTABLE_CREDENTIAL, "Username must not be empty"));
    }
    ScramMechanism::from_number(number).ok_or((ErrorCode::UNSUPPORTED_SASL_MECHANISM, "Unknown SCRAM mechanism"))
}

fn delete(call: &Call, deletion: &ScramCredentialDeletion) -> Result<ScramChange, Why> {
    let mechanism = mechanism(&deletion.name, deletion.mechanism)?;
    let user: Box<str> = (&*deletion.name).into();
    match call.broker.credentials.scram(call.session.tenant.id, mechanism, &user) {
        Some(_) => Ok(ScramChange::Delete { user, mechanism }),
        None => Err((ErrorCode::RESOURCE_NOT_FOUND, "Attempt to delete a user credential that does not exist")),
    }
}

fn upsert(call: &Call, upsertion: &ScramCredentialUpsertion) -> Result<ScramChange, Why> {
    const UNACCEPTABLE: ErrorCode = ErrorCode::UNACCEPTABLE_CREDENTIAL;
    let mechanism = mechanism(&upsertion.name, upsertion.mechanism)?;
    let iterations = u32::try_from(upsertion.iterations).unwrap_or(0);
    if iterations < *ITERATIONS.start() {
        return Err((UNACCEPTABLE, "Too few iterations"));
    }
    if iterations > *ITERATIONS.end() {
        return Err((UNACCEPTABLE, "Too many iterations"));
    }
    if upsertion.salt.is_empty() || upsertion.salt.len() > SALT_BYTES_MAX {
        return Err((UNACCEPTABLE, "The salt must have 1 to 1024 bytes"));
    }
    let organisation = call.broker.tenancy.policies().organisation();
    let tenant = organisation.tenants().find(|entry| crate::tenancy::tenant_id(entry) == Some(call.session.tenant.id));
    // A password for nobody would wait for whoever gets that name later.
    if tenant.and_then(|tenant| tenant.scram_principal(&upsertion.name)).is_none() {
        return Err((UNACCEPTABLE, "The tenant has no user of this name; create the user first"));
    }
    let (salt, salted) = (upsertion.salt.to_vec(), &upsertion.salted_password);
    let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
    let verifier = ScramVerifier::from_salted_password(mechanism, salted, salt, iterations)
        .ok_or((UNACCEPTABLE, "The salted password has another length than the mechanism's digest"))?;
    Ok(ScramChange::Upsert { user: (&*upsertion.name).into(), verifier })
}

async fn make(call: &Call, change: ScramChange) -> Result<(), Why> {
    let made = call.broker.credentials.change_scram(call.session.tenant.id, vec![change]).await;
    made.map_err(|error| match error {
        CredentialError::Unknown => {
            (ErrorCode::RESOURCE_NOT_FOUND, "Attempt to delete a user credential that does not exist")
        }
        CredentialError::Quota { .. } | CredentialError::TooManyAccessKeys { .. } => {
            (ErrorCode::POLICY_VIOLATION, "The tenant's limit of SCRAM credentials is reached; delete some")
        }
        CredentialError::UnknownTenant | CredentialError::Metadata(_) | CredentialError::Sealed { .. } => {
            (ErrorCode::KAFKA_STORAGE_ERROR, "The credential store did not take the change; try again")
        }
    })
}
