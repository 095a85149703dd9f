//! DescribeUserScramCredentials (50, KIP-554): which users have which mechanisms; never a key or a salt.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::describe_user_scram_credentials_response::{
    CredentialInfo, DescribeUserScramCredentialsResult,
};
use kafka_protocol::messages::{DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_core::ErrorCode;

use super::wire_text;
use crate::authorize::Call;
use crate::credentials::ScramFacts;

/// Answers one request.
pub fn handle(call: &Call, request: &DescribeUserScramCredentialsRequest) -> DescribeUserScramCredentialsResponse {
    let mut response = DescribeUserScramCredentialsResponse::default();
    if call.allow(can::DescribeCluster, ResourceRef::CLUSTER).is_err() {
        response.error_code = ErrorCode::CLUSTER_AUTHORIZATION_FAILED.code();
        return response;
    }
    let mut known: BTreeMap<Box<str>, Vec<ScramFacts>> = BTreeMap::new();
    for facts in call.broker.credentials.scram_users(call.session.tenant.id) {
        known.entry(facts.user.clone()).or_default().push(facts);
    }
    let asked = request.users.as_ref().filter(|users| !users.is_empty());
    response.results = match asked {
        None => known.iter().map(|(user, facts)| told(user, facts)).collect(),
        Some(users) => {
            let (mut seen, mut twice) = (BTreeSet::new(), BTreeSet::new());
            for user in users {
                if !seen.insert(&*user.name) {
                    twice.insert(&*user.name);
                }
            }
            let answer = |user: &str| match known.get(user) {
                _ if twice.contains(user) => refused(user, ErrorCode::DUPLICATE_RESOURCE, "a user is asked for twice"),
                None => refused(user, ErrorCode::RESOURCE_NOT_FOUND, "the user has no SCRAM credential"),
                Some(facts) => told(user, facts),
            };
            seen.iter().map(|user| answer(user)).collect()
        }
    };
    response
}

fn told(user: &str, facts: &[ScramFacts]) -> DescribeUserScramCredentialsResult {
    let info = |facts: &ScramFacts| {
        CredentialInfo::default()
            .with_mechanism(facts.number)
            .with_iterations(i32::try_from(facts.iterations).unwrap_or(i32::MAX))
    };
    DescribeUserScramCredentialsResult::default()
        .with_user(wire_text(user))
        .with_credential_infos(facts.iter().map(info).collect())
}

fn refused(user: &str, code: ErrorCode, why: &str) -> DescribeUserScramCredentialsResult {
    DescribeUserScramCredentialsResult::default()
        .with_user(wire_text(user))
        .with_error_code(code.code())
        .with_error_message(Some(wire_text(why)))
}
