//! SCRAM users and delegation tokens.
//!
//! Whose user it is: the tenant of the certificate or of the host name dialled; else the part before the first `/` of the
//! user's name, when that is a tenant's alias; else `sasl.default.tenant`. A delegation token's id needs none of these.

use std::sync::Arc;

use schloss_authn::sasl::Mechanism;
use schloss_authn::scram::{self, Challenge, ClientFirst};
use schloss_authz::{PrincipalKind, SessionTerms};
use schloss_core::TenantId;
use schloss_crypto::{ScramMechanism, ScramVerifier};

use super::door::Door;
use super::exchange::Step;
use super::identity::Proof;
use super::{Failed, Proved, Told};
use crate::broker::Broker;
use crate::credentials::{DelegationToken, StoredScram};
use crate::tenancy::tenant_id;

/// The exchange between the two messages of the client.
pub(super) struct ScramStage {
    challenge: Challenge,
    by: By,
    mechanism: Mechanism,
    tenant: Option<TenantId>,
    claimed: String,
}

enum By {
    User(Arc<StoredScram>),
    Token(Arc<DelegationToken>, ScramMechanism),
    Nobody(ScramVerifier),
}

impl By {
    fn verifier(&self) -> &ScramVerifier {
        match self {
            Self::User(stored) => &stored.verifier,
            Self::Token(token, mechanism) => token.verifier(*mechanism),
            Self::Nobody(verifier) => verifier,
        }
    }
}

/// Answers the client's first message, whoever it is.
pub(super) fn begin(
    broker: &Broker,
    door: &Door,
    mechanism: Mechanism,
    message: &[u8],
) -> Result<(Vec<u8>, ScramStage), Failed> {
    let malformed = |why: &dyn std::fmt::Display| Failed::at("message", why, Told::InvalidCredentials);
    let first = ClientFirst::read(message).map_err(|why| malformed(&why))?;
    let scram = mechanism.scram().ok_or_else(|| malformed(&"no SCRAM mechanism"))?;
    let (mut tenant, user) = whose(broker, door, &first.user);
    if first.is_token && tenant.is_none() {
        // A token's id is unique over all tenants, and its owner's tenant is what it lends.
        let has =
            |tenant: &Arc<crate::tenancy::Tenant>| broker.credentials.delegation_token(tenant.id, &user).is_some();
        tenant = broker.tenancy.tenants().iter().find(|tenant| has(tenant)).map(|tenant| tenant.id);
    }
    let found = tenant.and_then(|tenant| {
        if first.is_token {
            broker.credentials.delegation_token(tenant, &user).map(|token| By::Token(token, scram))
        } else {
            broker.credentials.scram(tenant, scram, &user).map(By::User)
        }
    });
    // Made for known names as well, so that it costs them the same.
    let look = if first.is_token {
        broker.credentials.look_of_no_token(tenant, scram, &first.user)
    } else {
        broker.credentials.look_of_nobody(tenant, scram, &first.user)
    };
    let by = match found {
        Some(by) => by,
        None => {
            let verifier = scram::nobody(scram, look.salt, look.iterations);
            By::Nobody(verifier.ok_or_else(|| malformed(&"no SCRAM mechanism"))?)
        }
    };
    let challenge = Challenge::new(&first, by.verifier());
    let answer = challenge.message().to_vec();
    Ok((answer, ScramStage { challenge, by, mechanism, tenant, claimed: user }))
}

/// Judges the client's final message.
pub(super) fn finish(broker: &Broker, stage: ScramStage, message: &[u8]) -> Step {
    let ScramStage { challenge, by, mechanism, tenant, claimed } = stage;
    let failed = |step, why: &dyn std::fmt::Display| {
        let failed = Failed::at(step, why, Told::InvalidCredentials).claimed(&*claimed);
        match tenant {
            Some(tenant) => failed.of(tenant),
            None => failed,
        }
    };
    let answer = match challenge.finish(by.verifier(), message) {
        Ok(answer) => answer,
        Err(why) => {
            let step = if matches!(by, By::Nobody(_)) { "user" } else { "proof" };
            return Step::Failed(failed(step, &why));
        }
    };
    let Some(tenant) = tenant else { return Step::Failed(failed("user", &"no tenant has this user")) };
    let (kind, proof, until_ms, detail) = match &by {
        By::User(stored) => {
            let kind = PrincipalKind::User { name: stored.user.clone() };
            (kind, Proof::Stored(stored.reference(tenant)), None, ("scram_user", stored.user.to_string()))
        }
        By::Token(token, _) => {
            let proof = Proof::Stored(token.reference(tenant));
            (token.owner.clone(), proof, Some(token.expires_ms), ("delegation_token", token.id.to_string()))
        }
        By::Nobody(_) => return Step::Failed(failed("user", &"nobody has this name")),
    };
    let organisation = broker.tenancy.policies().organisation();
    let entry = organisation.tenants().find(|entry| tenant_id(entry) == Some(tenant));
    // A name of `kafka_users` is Kafka's own principal `User:NAME`, judged by the tenant's ACLs.
    let found = entry.and_then(|entry| match &by {
        By::User(stored) => entry.scram_principal(&stored.user),
        By::Token(..) | By::Nobody(_) => entry.principal(&kind),
    });
    let Some(principal) = found else {
        return Step::Failed(failed("principal", &"the tenant has no IAM user of this name"));
    };
    let proved = Proved {
        tenant,
        principal,
        terms: SessionTerms::default(),
        proof,
        mechanism: mechanism.name(),
        until_ms,
        details: vec![detail],
    };
    Step::Proved(answer, Box::new(proved))
}

/// The tenant a name belongs to, and the name inside it.
fn whose(broker: &Broker, door: &Door, name: &str) -> (Option<TenantId>, String) {
    let organisation = broker.tenancy.policies().organisation();
    let by_alias = |alias: &str| organisation.tenants().find(|tenant| tenant.alias() == alias).and_then(tenant_id);
    let prefixed = name.split_once('/').and_then(|(alias, user)| Some((by_alias(alias)?, user)));
    match (door.tenant_named(), prefixed) {
        // The prefix may be said beside the host name; they must agree, else it is nobody's name.
        (Some(named), Some((prefix, user))) if named == prefix => (Some(named), user.to_owned()),
        (Some(named), _) => (Some(named), name.to_owned()),
        (None, Some((prefix, user))) => (Some(prefix), user.to_owned()),
        (None, None) => (broker.config.login.default_tenant.as_deref().and_then(by_alias), name.to_owned()),
    }
}
