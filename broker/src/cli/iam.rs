//! `schloss iam`: check, apply and try policies.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use schloss_authz::simulate::Simulator;

use super::door::DoorPlace;
use super::iam_credentials::{AccessKeyVerb, BootstrapVerb, ScramVerb};
use super::iam_people::{GroupVerb, RoleVerb, UserVerb};
use super::{Failure, Number, Output, Place, audit, iam_plan};
use crate::tenancy;

mod ask;
mod break_glass;
mod lint;
mod shadow;
mod suggest;

/// A change is in force within a second; this is when to stop believing it.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Subcommand)]
pub enum Iam {
    /// Read an organisation's folder and tell every mistake in it.
    #[command(after_help = "Example:
  schloss iam validate policies/examples/quickstart
  schloss iam validate --dir my-quickstart")]
    Validate {
        /// The folder (default: the installation's own).
        folder: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
    /// Validate a folder, put it in the place of the one in force, and wait until the broker has taken it over.
    #[command(after_help = "Example:
  schloss iam apply my-organisation --config /etc/schloss/schloss.toml")]
    Apply {
        /// The new folder (default: the installation's own, edited in place).
        folder: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
    /// Show what would change if a folder came into force, and credentials whose user is gone. Status 1 when there is any.
    #[command(after_help = "Example:
  schloss iam plan my-organisation --config /etc/schloss/schloss.toml --operator /etc/schloss/operator")]
    Plan {
        /// The folder.
        folder: PathBuf,
        #[command(flatten)]
        place: DoorPlace,
        /// Form of the answer.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Users of a tenant.
    User {
        #[command(subcommand)]
        verb: UserVerb,
    },
    /// Groups of a tenant's users.
    Group {
        #[command(subcommand)]
        verb: GroupVerb,
    },
    /// Roles of a tenant, and their sessions.
    Role {
        #[command(subcommand)]
        verb: RoleVerb,
    },
    /// Access keys of users.
    AccessKey {
        #[command(subcommand)]
        verb: AccessKeyVerb,
    },
    /// SCRAM passwords of users.
    Scram {
        #[command(subcommand)]
        verb: ScramVerb,
    },
    /// One-time tokens for first administrators.
    BootstrapToken {
        #[command(subcommand)]
        verb: BootstrapVerb,
    },
    /// Judge a request by the organisation's policies, or many with all their policies beside them.
    #[command(after_help = "Examples:
  schloss iam simulate --principal arn:aws:iam::111111111111:user/ann --action ReadData \\
      --resource arn:aws:kafka:eu-central-1:111111111111:topic/acme/6a7b-1/orders --context aws:SourceIp=10.0.0.7
  schloss iam simulate --batch requests.jsonl

Exit status of a single question: 0 allowed, 1 denied.")]
    Simulate {
        /// JSON Lines: {id, principal, context, action, resource, resourceAccount, policies}; `-` is standard input.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["principal", "action", "resource"])]
        batch: Option<PathBuf>,
        /// Who, by ARN.
        #[arg(long, value_name = "ARN", required_unless_present = "batch")]
        principal: Option<String>,
        /// What, as in kafka-cluster:ReadData or ReadData.
        #[arg(long, required_unless_present = "batch")]
        action: Option<String>,
        /// On what, by ARN.
        #[arg(long, value_name = "ARN", required_unless_present = "batch")]
        resource: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Tell why a request was judged as it was: from the audit log, by its id.
    #[command(after_help = "Example:
  schloss iam explain 6f1c9a52b0d3e871-42

Shows what was recorded, and the same question judged anew by the policies in force, with the statements that
decided or the nearest misses. Needs the installation's key service, as `schloss audit query` does.")]
    Explain {
        /// The request id, from `schloss audit query`.
        request_id: String,
        #[command(flatten)]
        place: Place,
        /// How to print.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// List every principal that can do something, by the compiled policies.
    #[command(after_help = "Example:
  schloss iam who-can ReadData arn:aws:kafka:eu-central-1:111111111111:topic/acme/6a7b-1/orders")]
    WhoCan {
        /// What, as in kafka-cluster:ReadData or ReadData.
        action: String,
        /// On what, by ARN.
        resource: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Tell what AWS allows and what was probably not meant.
    #[command(after_help = "Examples:
  schloss iam lint
  schloss iam lint my-policy.json --as resource
  schloss iam lint policies/examples/quickstart --strict

Errors (what AWS refuses) fail; warnings fail only with --strict.")]
    Lint {
        /// An organisation's folder or one policy's file (default: the installation's folder).
        path: Option<PathBuf>,
        /// What a single file is meant for.
        #[arg(long = "as", value_enum, default_value_t)]
        meant: lint::Meant,
        /// Warnings fail too.
        #[arg(long)]
        strict: bool,
        #[command(flatten)]
        place: Place,
        /// How to print.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// From the audit log: the least policy a principal needs, and what it was granted and never used.
    #[command(after_help = "Example:
  schloss iam suggest arn:aws:iam::111111111111:user/ann --days 30")]
    Suggest {
        /// Who, by ARN; a role's ARN stands for all its sessions.
        principal: String,
        /// How far back to look.
        #[arg(long, default_value_t = 90)]
        days: u32,
        #[command(flatten)]
        place: Place,
        /// How to print.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Operators' time-boxed, audited access to a tenant.
    BreakGlass {
        #[command(subcommand)]
        verb: break_glass::BreakGlassVerb,
    },
    /// List shadow policies and how often they would have decided otherwise, or promote one.
    #[command(after_help = "Examples:
  schloss iam shadow
  schloss iam shadow --promote tenants/acme/policies/producer

A file <name>.shadow.json beside <name>.json is judged in parallel and never in force. Where its answer differs, the
metric schloss_shadow_differences_total grows and the tenant's audit log has the pair. Promoting puts it in force.")]
    Shadow {
        /// The policy whose shadow version is to come into force, as its path without `.json`.
        #[arg(long, value_name = "POLICY")]
        promote: Option<String>,
        #[command(flatten)]
        place: Place,
        /// How to print.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

/// Where the policies are, the circumstances, and how to print.
#[derive(Debug, Args)]
pub struct Ask {
    /// An organisation's folder (default: the installation's own).
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["dir", "config"])]
    folder: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    circumstances: ask::Circumstances,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Iam {
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Validate { folder: Some(folder), .. } => validate(&folder),
            Self::Validate { folder: None, place } => validate(&audit::config(&place)?.organisation_dir),
            Self::Apply { folder, place } => apply(folder.as_deref(), &place),
            Self::Simulate { batch: Some(batch), .. } => simulate(&batch),
            Self::Simulate { batch: None, principal, action, resource, ask } => {
                let question = ask::Question {
                    principal: principal.as_deref().unwrap_or_default(),
                    action: action.as_deref().unwrap_or_default(),
                    resource: resource.as_deref().unwrap_or_default(),
                };
                ask::simulate(&ask.engine()?, &question, &ask.circumstances.context()?, ask.output)
            }
            Self::Explain { request_id, place, output } => ask::explain(&place, &request_id, output),
            Self::WhoCan { action, resource, ask } => {
                ask::who_can(&ask.engine()?, &action, &resource, &ask.circumstances.context()?, ask.output)
            }
            Self::Lint { path: Some(path), meant, strict, output, .. } => lint::run(&path, meant, strict, output),
            Self::Lint { path: None, meant, strict, place, output } => {
                lint::run(&audit::config(&place)?.organisation_dir, meant, strict, output)
            }
            Self::Suggest { principal, days, place, output } => suggest::run(&place, &principal, days, output),
            Self::BreakGlass { verb } => verb.run(),
            Self::Shadow { promote: Some(policy), place, .. } => shadow::promote(&place, &policy),
            Self::Shadow { promote: None, place, output } => shadow::list(&place, output),
            Self::Plan { folder, place, output } => iam_plan::run(&folder, &place, output),
            Self::User { verb } => verb.run(),
            Self::Group { verb } => verb.run(),
            Self::Role { verb } => verb.run(),
            Self::AccessKey { verb } => verb.run(),
            Self::Scram { verb } => verb.run(),
            Self::BootstrapToken { verb } => verb.run(),
        }
    }
}

impl Ask {
    fn engine(&self) -> Result<schloss_authz::Engine, Failure> {
        ask::engine(&self.place, self.folder.as_deref())
    }
}

fn wrong(error: tenancy::LoadError) -> Failure {
    Failure::new(Number::Organisation, error, "mend the lines above; nothing was changed")
}

fn validate(folder: &Path) -> Result<ExitCode, Failure> {
    let (organisation, digest) = tenancy::load(folder).map_err(wrong)?;
    for warning in organisation.warnings() {
        eprintln!("{warning}");
    }
    println!("{}: {} tenants, well formed, sha256 {digest}", folder.display(), organisation.tenants().count());
    Ok(ExitCode::SUCCESS)
}

fn apply(folder: Option<&Path>, place: &Place) -> Result<ExitCode, Failure> {
    let config = audit::config(place)?;
    let (_, digest) = tenancy::load(folder.unwrap_or(&config.organisation_dir)).map_err(wrong)?;
    if let Some(folder) = folder {
        take_over(folder, &config)?;
    }
    wait_until_in_force(&config, &digest)
}

fn take_over(folder: &Path, config: &crate::config::Config) -> Result<(), Failure> {
    swap(folder, &config.organisation_dir).map_err(|error| {
        Failure::new(
            Number::File,
            format!("`{}`: {error}", config.organisation_dir.display()),
            "check the rights of the organisation's folder; the old one is in force",
        )
    })
}

fn wait_until_in_force(config: &crate::config::Config, digest: &str) -> Result<ExitCode, Failure> {
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Number::File, error, "report this"))?;
    runtime.block_on(async {
        while begun.elapsed() < PATIENCE {
            if crate::broker::read_organisation_in_force(&config.data_dir).as_deref() == Some(digest) {
                println!("in force after {:.1} s, sha256 {digest}", begun.elapsed().as_secs_f64());
                return Ok(ExitCode::SUCCESS);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(Failure::new(
            Number::Broker,
            "the folder is in place, but no running broker reported it in force",
            "start the broker, or look at its log: it keeps the old set when it cannot take the new one",
        ))
    })
}

/// Copies beside the old folder, then swaps the two by renaming: a reader sees the old set or the new one.
fn swap(from: &Path, to: &Path) -> std::io::Result<()> {
    let (draft, old) = (to.with_extension("draft"), to.with_extension("old"));
    for stale in [&draft, &old] {
        if stale.exists() {
            std::fs::remove_dir_all(stale)?;
        }
    }
    copy(from, &draft)?;
    if to.exists() {
        std::fs::rename(to, &old)?;
    }
    std::fs::rename(&draft, to)?;
    if old.exists() { std::fs::remove_dir_all(&old) } else { Ok(()) }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

fn simulate(batch: &Path) -> Result<ExitCode, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(Number::File, format!("`{}`: {error}", batch.display()), "name a file of JSON lines")
    };
    let input: Box<dyn BufRead> = if batch == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(BufReader::new(std::fs::File::open(batch).map_err(|error| failed(&error))?))
    };
    let simulator = Simulator::new()
        .map_err(|error| Failure::new(Number::Organisation, error, "report this: the policy engine did not start"))?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in input.lines() {
        let line = line.map_err(|error| failed(&error))?;
        if !line.trim().is_empty() {
            writeln!(out, "{}", simulator.judge(&line)).map_err(|error| failed(&error))?;
        }
    }
    out.flush().map_err(|error| failed(&error))?;
    Ok(ExitCode::SUCCESS)
}
