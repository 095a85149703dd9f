//! How a tenant's connections may prove who they are: `[authentication]` of `tenant.toml`, and its identity providers,
//! `issuers/<name>.toml`. Read and checked for form here; what is in them is used by the rooms that know mechanisms.
//!
//! ```toml
//! # tenant.toml
//! [authentication]
//! mechanisms = ["mTLS", "AWS_MSK_IAM", "OAUTHBEARER", "SCRAM-SHA-256", "SCRAM-SHA-512"]   # default: all of the listener
//! aws_regions = ["eu-central-1", "us-east-1"]      # regions a signature may be made for; default: the cluster's
//! msk_signer_tokens = true                         # the signed-URL token of the MSK IAM signers, not bound to a host
//! principal_mapping_rules = "RULE:^CN=(.*?),.*$/$1/, DEFAULT"      # Kafka's ssl.principal.mapping.rules
//! spiffe_mapping_rules = "RULE:^spiffe:\\/\\/acme\\/sa\\/(\\w+)$/$1/"   # the same grammar over the SPIFFE id
//!
//! # issuers/corporate.toml
//! issuer = "https://login.example.com/tenant"
//! jwks_url = "https://login.example.com/tenant/keys"
//! audiences = ["kafka"]
//! algorithms = ["RS256", "ES256"]                  # default RS256
//! clock_skew_seconds = 30
//! role = "reader"                                  # or role_claim = "kafka_role"
//! session_claim = "sub"                            # names the role's session
//! preset = "kubernetes"                            # issuer and jwks_url of the cluster the broker runs in
//! ```

use std::collections::BTreeMap;

use super::tables::Table;
use crate::finding::Problem;
use crate::json::Position;

/// What `[authentication]` says; a tenant without it has the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// The ways that are allowed; `None` is every way the listener allows.
    pub mechanisms: Option<Vec<Box<str>>>,
    /// Regions a signature may be made for, besides the cluster's own.
    pub aws_regions: Vec<Box<str>>,
    /// Whether the signed-URL token of the MSK IAM signers is taken.
    pub msk_signer_tokens: bool,
    /// `ssl.principal.mapping.rules` over the certificate's subject.
    pub principal_mapping_rules: Option<Box<str>>,
    /// The same over its SPIFFE id.
    pub spiffe_mapping_rules: Option<Box<str>>,
}

impl Default for Authentication {
    fn default() -> Self {
        Self {
            mechanisms: None,
            aws_regions: Vec::new(),
            msk_signer_tokens: true,
            principal_mapping_rules: None,
            spiffe_mapping_rules: None,
        }
    }
}

/// An identity provider whose tokens a tenant takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Its file's name.
    pub name: Box<str>,
    /// `iss`, byte by byte.
    pub issuer: Box<str>,
    /// Where its keys are; https only.
    pub jwks_url: Box<str>,
    /// One of these must be in `aud`.
    pub audiences: Vec<Box<str>>,
    /// Signature algorithms by name.
    pub algorithms: Vec<Box<str>>,
    /// How far its clock may be off.
    pub clock_skew_seconds: i64,
    /// The claim that names the role, or a list of them of which the first that exists is taken.
    pub role_claim: Option<Box<str>>,
    /// The role when no claim names one.
    pub role: Option<Box<str>>,
    /// The claim that names the role's session.
    pub session_claim: Box<str>,
}

impl Issuer {
    /// The provider's name in trust policies and condition keys: its URL without the scheme, as AWS writes it.
    #[must_use]
    pub fn provider(&self) -> &str {
        self.issuer.strip_prefix("https://").unwrap_or(&self.issuer)
    }
}

/// The ways there are; what is allowed is chosen among these.
pub const MECHANISMS: [&str; 5] = ["mTLS", "AWS_MSK_IAM", "OAUTHBEARER", "SCRAM-SHA-256", "SCRAM-SHA-512"];
const ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

pub(super) fn read(table: &mut Table<'_, '_, '_>) -> Authentication {
    table.only(&["mechanisms", "aws_regions", "msk_signer_tokens", "principal_mapping_rules", "spiffe_mapping_rules"]);
    let mechanisms = table.has("mechanisms").then(|| {
        known(
            table,
            "mechanisms",
            &MECHANISMS,
            "way to log in (mTLS, AWS_MSK_IAM, OAUTHBEARER, SCRAM-SHA-256, SCRAM-SHA-512)",
        )
    });
    let mut aws_regions = Vec::new();
    for (at, region) in table.texts("aws_regions") {
        if region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            aws_regions.push(region.into());
        } else {
            table.findings.add(at, Problem::BadValue { value: region.into(), expected: "region" });
        }
    }
    Authentication {
        mechanisms,
        aws_regions,
        msk_signer_tokens: table.truth("msk_signer_tokens", true),
        principal_mapping_rules: table.text("principal_mapping_rules").map(|(_, text)| text.into()),
        spiffe_mapping_rules: table.text("spiffe_mapping_rules").map(|(_, text)| text.into()),
    }
}

fn known(table: &mut Table<'_, '_, '_>, key: &'static str, all: &[&str], expected: &'static str) -> Vec<Box<str>> {
    let mut chosen = Vec::new();
    for (at, name) in table.texts(key) {
        if all.contains(&name) {
            chosen.push(name.into());
        } else {
            table.findings.add(at, Problem::BadValue { value: name.into(), expected });
        }
    }
    chosen
}

pub(super) fn read_issuer<T>(
    table: &mut Table<'_, '_, '_>,
    name: &str,
    roles: &BTreeMap<Box<str>, T>,
) -> Option<Issuer> {
    table.only(&[
        "issuer",
        "jwks_url",
        "audiences",
        "algorithms",
        "clock_skew_seconds",
        "role",
        "role_claim",
        "session_claim",
        "preset",
    ]);
    let is_kubernetes = table.text("preset").is_some_and(|(at, preset)| {
        if preset != "kubernetes" {
            table.findings.add(at, Problem::BadValue { value: preset.into(), expected: "preset (kubernetes)" });
        }
        preset == "kubernetes"
    });
    // Where every cluster finds itself from inside; a real one is named by its own issuer.
    let own = |url: &'static str| is_kubernetes.then(|| url.into());
    let issuer = url(table, "issuer", own("https://kubernetes.default.svc.cluster.local"));
    let jwks_url = url(table, "jwks_url", own("https://kubernetes.default.svc/openid/v1/jwks"));
    let audiences: Vec<Box<str>> = table.texts("audiences").into_iter().map(|(_, text)| text.into()).collect();
    if audiences.is_empty() {
        // SECURITY: without an audience a token for any other service of the provider would open the broker.
        table.findings.add(table.at(), Problem::Missing { name: "audiences" });
    }
    let algorithms = known(table, "algorithms", &ALGORITHMS, "signature algorithm with public keys (RS256, ES256, …)");
    let role = table.text("role").map(|(at, role)| {
        if !roles.contains_key(role) {
            table.findings.add(at, Problem::Dangling { kind: "role", name: role.into() });
        }
        role.into()
    });
    let role_claim = table.text("role_claim").map(|(_, claim)| claim.into());
    if !table.has("role") && role_claim.is_none() {
        table.findings.add(table.at(), Problem::Neither { first: "role", second: "role_claim" });
    }
    let session_claim = table.text("session_claim").map_or("sub", |(_, claim)| claim).into();
    let skew = table.whole_number("clock_skew_seconds", 0..=300, "seconds from 0 to 300");
    let clock_skew_seconds = skew.unwrap_or(30);
    Some(Issuer {
        name: name.into(),
        issuer: issuer?,
        jwks_url: jwks_url?,
        audiences,
        algorithms: if algorithms.is_empty() { vec!["RS256".into()] } else { algorithms },
        clock_skew_seconds,
        role_claim,
        role,
        session_claim,
    })
}

fn url(table: &mut Table<'_, '_, '_>, key: &'static str, default: Option<Box<str>>) -> Option<Box<str>> {
    if default.is_some() && !table.has(key) {
        return default;
    }
    let (at, text): (Position, &str) = table.required(key)?;
    let rest = text.strip_prefix("https://").unwrap_or_default();
    let sound = !rest.is_empty() && !rest.contains(['@', '#', '?', ' ']) && rest.is_ascii();
    if !sound {
        table
            .findings
            .add(at, Problem::BadValue { value: text.into(), expected: "https URL without user, query or fragment" });
        return None;
    }
    Some(text.into())
}
