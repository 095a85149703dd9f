//! `schloss iam lint`: what AWS allows and what was probably not meant.

use std::path::Path;
use std::process::ExitCode;

use clap::ValueEnum;
use schloss_authz::policy::DocumentKind;
use schloss_authz::{Finding, Severity, lint};
use serde_json::json;

use super::super::{Failure, Number, Output};
use crate::tenancy::{self, LoadError};

/// What a single file is meant for.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Meant {
    /// For users, groups or roles.
    #[default]
    Identity,
    /// A permission boundary.
    Boundary,
    /// A cluster's resource policy.
    Resource,
    /// A guardrail (service control policy).
    Guardrail,
    /// A resource control policy.
    ResourceControl,
    /// Who may assume a role.
    Trust,
    /// A session policy.
    Session,
}

impl Meant {
    const fn kind(self) -> DocumentKind {
        match self {
            Self::Identity => DocumentKind::Identity,
            Self::Boundary => DocumentKind::Boundary,
            Self::Resource => DocumentKind::Resource,
            Self::Guardrail => DocumentKind::Guardrail,
            Self::ResourceControl => DocumentKind::ResourceControl,
            Self::Trust => DocumentKind::Trust,
            Self::Session => DocumentKind::Session,
        }
    }
}

/// Prints every finding. Errors and, with `strict`, warnings make it fail.
pub fn run(path: &Path, meant: Meant, strict: bool, output: Output) -> Result<ExitCode, Failure> {
    let findings = findings(path, meant)?;
    for finding in &findings {
        match output {
            Output::Text => println!("{finding}"),
            Output::Json => println!(
                "{}",
                json!({
                    "file": &*finding.file, "line": finding.at.line, "column": finding.at.column,
                    "severity": if finding.severity() == Severity::Error { "error" } else { "warning" },
                    "problem": finding.problem.to_string(), "advice": finding.advice(),
                })
            ),
        }
    }
    let errors = findings.iter().filter(|finding| finding.severity() == Severity::Error).count();
    eprintln!("{errors} errors, {} warnings", findings.len().saturating_sub(errors));
    Ok(if errors > 0 || (strict && !findings.is_empty()) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn findings(path: &Path, meant: Meant) -> Result<Vec<Finding>, Failure> {
    if path.is_dir() {
        return match tenancy::load(path) {
            Ok((organisation, _)) => Ok(organisation.warnings().to_vec()),
            Err(LoadError::Wrong(findings)) => Ok(findings),
            Err(error) => Err(super::wrong(error)),
        };
    }
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(Number::File, format!("`{}`: {error}", path.display()), "name a policy file or a folder")
    })?;
    Ok(lint::policy(meant.kind(), &path.display().to_string(), &text))
}
