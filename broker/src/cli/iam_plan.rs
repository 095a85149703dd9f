//! `schloss iam plan`: what would change if a folder came into force, and what drifted from the one that is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::door::{self, DoorPlace};
use super::iam_people::tell;
use super::{Failure, Number, Output};
use crate::tenancy;

/// Compares a folder with what the running broker has in force. Exit status 0 when nothing would change, else 1.
pub fn run(folder: &Path, place: &DoorPlace, output: Output) -> Result<ExitCode, Failure> {
    let wrong = |error| Failure::new(Number::Organisation, error, "mend the lines above; nothing was changed");
    let organisation = tenancy::load(folder).map_err(wrong)?.0;
    let planned = tenancy::digests_of_files(folder).map_err(wrong)?;
    let in_force = door::call(place, "organisation", "files", &json!({}))?;
    let in_force: BTreeMap<String, String> = serde_json::from_value(in_force["files"].clone()).unwrap_or_default();
    let named = |with: fn(Option<&String>, Option<&String>) -> bool| -> Vec<&String> {
        let paths: BTreeSet<&String> = planned.keys().chain(in_force.keys()).collect();
        paths.into_iter().filter(|path| with(planned.get(*path), in_force.get(*path))).collect()
    };
    let added = named(|planned, in_force| planned.is_some() && in_force.is_none());
    let removed = named(|planned, in_force| planned.is_none() && in_force.is_some());
    let changed = named(|planned, in_force| planned.is_some() && in_force.is_some() && planned != in_force);
    let orphans = orphans(&organisation, &door::call(place, "organisation", "credentials", &json!({}))?);
    let clean = added.is_empty() && removed.is_empty() && changed.is_empty() && orphans.is_empty();
    let told = json!({ "added": added, "changed": changed, "removed": removed, "credentials_without_user": orphans });
    tell(output, &told, || {
        let mut lines: Vec<String> = Vec::new();
        for (sign, paths) in [("+", &added), ("~", &changed), ("-", &removed)] {
            lines.extend(paths.iter().map(|path| format!("{sign} {path}")));
        }
        lines.extend(orphans.iter().map(|orphan| format!("! credential without a user: {orphan}")));
        if clean { "no changes".to_owned() } else { lines.join("\n") }
    });
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Credentials whose user the planned files do not have.
fn orphans(organisation: &schloss_authz::Organisation, holders: &Value) -> Vec<Value> {
    let mut orphans = Vec::new();
    for (alias, credentials) in holders.as_object().into_iter().flatten() {
        let tenant = organisation.tenants().find(|tenant| tenant.alias() == alias);
        for credential in credentials.as_array().into_iter().flatten() {
            let user = credential.get("user").and_then(Value::as_str).unwrap_or_default();
            if tenant.and_then(|tenant| tenant.scram_principal(user)).is_none() {
                let mut orphan = credential.clone();
                orphan["tenant"] = json!(alias);
                orphans.push(orphan);
            }
        }
    }
    orphans
}
