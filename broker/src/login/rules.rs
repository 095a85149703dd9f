//! The tenants' own login rules, compiled: mapping rules, regions, identity providers.
//!
//! Files are checked when the organisation is loaded ([`check`]), so that a rule that cannot be run is refused with its
//! place; compiled rules are kept until the organisation changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use schloss_authn::mapping;
use schloss_authn::oauth::jwt;
use schloss_authz::AccountId;
use schloss_authz::finding::{Finding, Problem};
use schloss_authz::json::Position;
use schloss_authz::organisation::{Issuer, Organisation, Tenant as Entry};

/// One tenant's.
#[derive(Debug)]
pub struct Rules {
    /// Over the subject of a certificate.
    pub subject_mapping: Option<mapping::Rules>,
    /// Over its SPIFFE id.
    pub spiffe_mapping: Option<mapping::Rules>,
    /// Identity providers with what their tokens must be.
    pub issuers: Vec<(Issuer, jwt::Rules)>,
}

/// All tenants', as they are asked for.
#[derive(Debug, Default)]
pub struct Compiled(Mutex<(u64, HashMap<AccountId, Arc<Rules>>)>);

impl Compiled {
    /// The rules of a tenant of the organisation of this epoch.
    pub fn of(&self, epoch: u64, entry: &Entry) -> Arc<Rules> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0 != epoch {
            *kept = (epoch, HashMap::new());
        }
        let compiled = kept.1.entry(entry.account()).or_insert_with(|| Arc::new(compile(entry)));
        Arc::clone(compiled)
    }
}

fn compile(entry: &Entry) -> Rules {
    let authentication = entry.authentication();
    // Checked at load: what does not compile cannot be in force, and would be no rule at all.
    let mapping = |text: &Option<Box<str>>| text.as_deref().and_then(|text| mapping::Rules::read(text).ok());
    Rules {
        subject_mapping: mapping(&authentication.principal_mapping_rules),
        spiffe_mapping: mapping(&authentication.spiffe_mapping_rules),
        issuers: entry.issuers().iter().map(|issuer| (issuer.clone(), token_rules(issuer))).collect(),
    }
}

fn token_rules(issuer: &Issuer) -> jwt::Rules {
    jwt::Rules {
        issuer: issuer.issuer.to_string(),
        audiences: issuer.audiences.iter().map(ToString::to_string).collect(),
        algorithms: issuer.algorithms.iter().filter_map(|name| jwt::algorithm(name)).collect(),
        skew_ms: issuer.clock_skew_seconds.saturating_mul(1000),
    }
}

/// Finds rules that cannot be run.
///
/// # Errors
/// Every finding.
pub fn check(organisation: &Organisation, files: &BTreeMap<String, String>) -> Result<(), Vec<Finding>> {
    let mut findings = Vec::new();
    for entry in organisation.tenants() {
        let authentication = entry.authentication();
        let texts = [
            ("principal_mapping_rules", &authentication.principal_mapping_rules),
            ("spiffe_mapping_rules", &authentication.spiffe_mapping_rules),
        ];
        for (key, text) in texts {
            let Some(Err(error)) = text.as_deref().map(mapping::Rules::read) else { continue };
            let file = format!("tenants/{}/tenant.toml", entry.alias());
            let at = files.get(&file).map_or(Position::START, |text| line_of(text, key));
            let message = format!("`{key}`: {error}").into();
            findings.push(Finding { file: file.into(), at, problem: Problem::Toml { message } });
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(findings) }
}

fn line_of(text: &str, key: &str) -> Position {
    let line = text.lines().position(|line| line.trim_start().starts_with(key)).map_or(1, |at| at.saturating_add(1));
    Position { line: u32::try_from(line).unwrap_or(u32::MAX), ..Position::START }
}

/// AWS's rule for session names: 2 to 64 of `[A-Za-z0-9_+=,.@-]`; anything else becomes `-`.
#[must_use]
pub fn session_name(text: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    let name: String = text.chars().take(64).map(|c| if fits(c) { c } else { '-' }).collect();
    if name.is_empty() { "session".to_owned() } else { name }
}
