//! `schloss iam shadow`: versions of policies that are tried beside the ones in force.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use schloss_audit::Filter;
use serde_json::{Value, json};

use super::super::folder;
use super::super::{Failure, Number, Output, Place, audit};
use crate::authorize::SHADOW_ACTION;

const ENDING: &str = ".shadow.json";

/// Lists shadow versions, and every pair of answers the audit log has of them.
pub fn list(place: &Place, output: Output) -> Result<ExitCode, Failure> {
    let folder = audit::config(place)?.organisation_dir;
    let mut files = Vec::new();
    find(&folder, &mut files).map_err(|error| unusable(&folder, error))?;
    for file in &files {
        let name = file.strip_prefix(&folder).unwrap_or(file).display().to_string();
        match output {
            Output::Text => println!("{}", name.trim_end_matches(ENDING)),
            Output::Json => println!("{}", json!({ "shadow": name.trim_end_matches(ENDING) })),
        }
    }
    let filter = Filter { action: Some(SHADOW_ACTION.to_owned()), ..Filter::default() };
    let mut differences: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    let seen = audit::collect(place, &filter, &mut |found| {
        let text = |pointer: &str| found.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let count = found.body.get("count").and_then(Value::as_u64).unwrap_or(1);
        Some(((text("/actor/user/uid"), text("/resources/0/uid"), text("/unmapped/statement")), count))
    })?;
    for (what, count) in seen {
        let sum = differences.entry(what).or_default();
        *sum = sum.saturating_add(count);
    }
    for ((principal, resource, pair), count) in differences {
        match output {
            Output::Text => println!("  {count:>6} times  {principal}  {resource}\n         {pair}"),
            Output::Json => println!(
                "{}",
                json!({ "principal": principal, "resource": resource, "difference": pair, "count": count })
            ),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Puts a shadow version in the place of its policy and waits until the broker has taken it over.
pub fn promote(place: &Place, policy: &str) -> Result<ExitCode, Failure> {
    let config = audit::config(place)?;
    let policy = policy.trim_end_matches(ENDING).trim_end_matches(".json");
    let (shadow, base) = (format!("{policy}{ENDING}"), format!("{policy}.json"));
    // The names are those of the set's own files, so that no path leads out of the folder.
    let Some(text) = folder::files(&config)?.remove(&shadow) else {
        return Err(Failure::new(
            Number::Usage,
            format!("there is no shadow version `{policy}`"),
            "list them with `schloss iam shadow`",
        ));
    };
    match folder::change(&config, vec![(base, Some(text)), (shadow, None)])? {
        folder::Applied::InForce => println!("in force"),
        folder::Applied::Written => println!("written; no running broker reported it in force"),
    }
    Ok(ExitCode::SUCCESS)
}

fn unusable(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(
        Number::File,
        format!("`{}`: {error}", path.display()),
        "check the rights of the organisation's folder",
    )
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.to_string_lossy().ends_with(ENDING) {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}
