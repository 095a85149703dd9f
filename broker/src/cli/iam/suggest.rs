//! `schloss iam suggest`: from what the audit log saw of a principal, the policy that would have been enough, and what
//! it was granted and did not use.

use std::collections::BTreeMap;
use std::process::ExitCode;

use schloss_audit::{Filter, Verdict};
use schloss_authz::suggest::{self, Unused, Use};
use schloss_authz::{Action, Principal, PrincipalKind};
use serde_json::{Value, json};

use super::super::{Failure, Output, Place, audit};
use super::ask;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// Looks at the last `days` days.
pub fn run(place: &Place, arn: &str, days: u32, output: Output) -> Result<ExitCode, Failure> {
    let engine = ask::engine(place, None)?;
    let principal = ask::principal(&engine.organisation(), arn)?;
    let since = ask::now_ms().saturating_sub(i64::from(days).saturating_mul(DAY_MS));
    let seen = uses(place, &principal, since)?;
    let uses: Vec<Use> = seen.keys().cloned().collect();
    let session = engine.bind(&principal).map_err(|error| {
        Failure::new(super::super::Number::Organisation, error, "name a principal of the organisation in force")
    })?;
    let unused = suggest::unused(&session, &uses);
    let policy = suggest::policy(&uses);
    match output {
        Output::Json => {
            let used: Vec<Value> = seen
                .iter()
                .map(|(used, count)| json!({ "action": used.action.full_name(), "resource": used.resource, "count": count }))
                .collect();
            let unused: Vec<Value> = unused.iter().map(unused_json).collect();
            println!("{}", json!({ "principal": arn, "days": days, "policy": policy, "used": used, "unused": unused }));
        }
        Output::Text => {
            println!("{}", serde_json::to_string_pretty(&policy).unwrap_or_default());
            eprintln!("{} kinds of use by {arn} in {days} days", uses.len());
            for Unused { action, statements } in &unused {
                let by: Vec<String> = statements.iter().map(ToString::to_string).collect();
                eprintln!("unused for {days} days: {action}, granted by {}", by.join(", "));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn unused_json(unused: &Unused) -> Value {
    let statements: Vec<Value> = unused.statements.iter().map(ask::statement_json).collect();
    json!({ "action": unused.action.full_name(), "granted_by": statements })
}

/// Allowed uses with their counts; those of a role over all its sessions.
fn uses(place: &Place, principal: &Principal, since: i64) -> Result<BTreeMap<Use, u64>, Failure> {
    let arn = principal.arn();
    let sessions = match &principal.kind {
        PrincipalKind::Role { session, .. } if session.is_empty() => {
            Some(format!("{}/", arn.replacen(":iam:", ":sts:", 1).replacen(":role/", ":assumed-role/", 1)))
        }
        _ => None,
    };
    let filter = Filter {
        stream: Some(principal.account.to_string()),
        since_ms: Some(since),
        verdict: Some(Verdict::Allowed),
        ..Filter::default()
    };
    let found = audit::collect(place, &filter, &mut |found| {
        let text = |pointer: &str| found.body.pointer(pointer).and_then(Value::as_str);
        let who = text("/actor/user/uid")?;
        if who != arn && !sessions.as_deref().is_some_and(|prefix| who.starts_with(prefix)) {
            return None;
        }
        let action = Action::from_full_name(text("/unmapped/action")?)?;
        let resource = text("/resources/0/uid").filter(|resource| resource.starts_with("arn:"))?.to_owned();
        let count = found.body.get("count").and_then(Value::as_u64).unwrap_or(1);
        Some((Use { action, resource }, count))
    })?;
    let mut uses: BTreeMap<Use, u64> = BTreeMap::new();
    for (used, count) in found {
        let sum = uses.entry(used).or_default();
        *sum = sum.saturating_add(count);
    }
    Ok(uses)
}
