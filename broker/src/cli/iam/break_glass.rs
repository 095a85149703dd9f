//! `schloss iam break-glass`: operators' time-boxed access to a tenant. Grants are files; opening one needs the broker.

use std::process::ExitCode;

use clap::Subcommand;
use schloss_authz::BreakGlass;
use serde_json::json;

use super::super::door::{self, DoorPlace};
use super::super::folder;
use super::super::{Failure, Number, Output, Place, audit};
use super::{ask, wrong};
use crate::credentials::rfc3339;
use crate::tenancy;

const HOUR_MS: i64 = 60 * 60 * 1_000;

#[derive(Debug, Subcommand)]
pub enum BreakGlassVerb {
    /// Grant an operator access to a tenant for some hours. The tenant's audit log tells it.
    #[command(after_help = "Example:
  schloss iam break-glass grant ticket-4711 --tenant acme --to olga --hours 2 \\
      --policy managed/auditor --reason 'ticket 4711: lag that does not end'")]
    Grant {
        /// A name for the grant, as in a ticket's number.
        id: String,
        /// Alias of the tenant.
        #[arg(long, value_name = "ALIAS")]
        tenant: String,
        /// The operator: the common name of the certificate.
        #[arg(long, value_name = "CN")]
        to: String,
        /// Why; the tenant can read it.
        #[arg(long)]
        reason: String,
        /// How long from now, at most 24.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=24))]
        hours: u8,
        /// What it allows: a policy of the tenant or a managed one; again for more.
        #[arg(long = "policy", value_name = "NAME", required = true)]
        policies: Vec<String>,
        #[command(flatten)]
        place: Place,
    },
    /// List grants and whether they hold now.
    List {
        #[command(flatten)]
        place: Place,
        /// Form of the answer.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// End a grant at once.
    Revoke {
        /// The grant's name.
        id: String,
        /// Alias of the tenant.
        #[arg(long, value_name = "ALIAS")]
        tenant: String,
        #[command(flatten)]
        place: Place,
    },
    /// Get temporary credentials under a grant to yourself: the operator whose certificate is shown.
    #[command(after_help = "Example:
  schloss iam break-glass open ticket-4711 --tenant acme --operator /etc/schloss/operator --output json")]
    Open {
        /// The grant's name.
        id: String,
        /// Alias of the tenant.
        #[arg(long, value_name = "ALIAS")]
        tenant: String,
        #[command(flatten)]
        place: DoorPlace,
    },
}

impl BreakGlassVerb {
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Grant { id, tenant, to, reason, hours, policies, place } => {
                let now = ask::now_ms();
                let until = now.saturating_add(i64::from(hours).saturating_mul(HOUR_MS));
                let text = file(&to, &reason, (now, until), &policies);
                change(&place, &tenant, &id, Some(text))
            }
            Self::Revoke { id, tenant, place } => {
                let config = audit::config(&place)?;
                if !config.organisation_dir.join(path(&tenant, &id)).is_file() {
                    return Err(unknown(&id));
                }
                change(&place, &tenant, &id, None)
            }
            Self::List { place, output } => list(&place, output),
            Self::Open { id, tenant, place } => {
                let body = json!({ "tenant": tenant, "id": id });
                println!("{}", door::call(&place, "break-glass", "open", &body)?);
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn unknown(id: &str) -> Failure {
    Failure::new(Number::Usage, format!("there is no grant `{id}`"), "list them with `schloss iam break-glass list`")
}

fn path(tenant: &str, id: &str) -> String {
    format!("tenants/{tenant}/break-glass/{id}.toml")
}

/// JSON's strings are TOML's.
fn file(operator: &str, reason: &str, (from, until): (i64, i64), policies: &[String]) -> String {
    let policies = json!(policies);
    format!(
        "operator = {}\nreason = {}\nfrom = {}\nuntil = {}\npolicies = {policies}\n",
        json!(operator),
        json!(reason),
        json!(rfc3339(from)),
        json!(rfc3339(until)),
    )
}

fn change(place: &Place, tenant: &str, id: &str, text: Option<String>) -> Result<ExitCode, Failure> {
    // SECURITY: both are names of files, not paths.
    let name = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if !name(tenant) || !name(id) || tenant.starts_with('.') || id.starts_with('.') {
        return Err(Failure::new(
            Number::Usage,
            "a name has a character that no name has",
            "use letters, digits, `-` and `_`",
        ));
    }
    match folder::change(&audit::config(place)?, vec![(path(tenant, id), text)])? {
        folder::Applied::InForce => println!("in force"),
        folder::Applied::Written => println!("written; no running broker reported it in force"),
    }
    Ok(ExitCode::SUCCESS)
}

fn list(place: &Place, output: Output) -> Result<ExitCode, Failure> {
    let (organisation, _) = tenancy::load(&audit::config(place)?.organisation_dir).map_err(wrong)?;
    let now = ask::now_ms();
    for tenant in organisation.tenants() {
        for grant in tenant.break_glass() {
            let BreakGlass { id, operator, reason, from_ms, until_ms } = grant;
            let (from, until, holds) = (rfc3339(*from_ms), rfc3339(*until_ms), grant.holds(now));
            match output {
                Output::Text => {
                    let word = if holds { "holds" } else { "does not hold now" };
                    println!("{} {id}: operator:{operator}, {from} to {until}, {word}: {reason}", tenant.alias());
                }
                Output::Json => println!(
                    "{}",
                    json!({
                        "tenant": tenant.alias(), "id": id, "operator": operator, "reason": reason, "from": from,
                        "until": until, "holds": holds, "role": grant.role(),
                    })
                ),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
