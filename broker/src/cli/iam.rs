//! `schloss iam`: check, apply and try policies.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Subcommand;
use schloss_authz::simulate::Simulator;

use super::door::DoorPlace;
use super::iam_credentials::{AccessKeyVerb, BootstrapVerb, ScramVerb};
use super::iam_people::{GroupVerb, RoleVerb, UserVerb};
use super::{Failure, Number, Output, Place, audit, iam_plan};
use crate::tenancy;

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
    /// Judge requests against policies without a broker.
    #[command(after_help = "Example:
  schloss iam simulate --batch requests.jsonl")]
    Simulate {
        /// JSON Lines: {id, principal, context, action, resource, resourceAccount, policies}; `-` is standard input.
        #[arg(long, value_name = "FILE")]
        batch: PathBuf,
    },
}

impl Iam {
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Validate { folder: Some(folder), .. } => validate(&folder),
            Self::Validate { folder: None, place } => validate(&audit::config(&place)?.organisation_dir),
            Self::Apply { folder, place } => apply(folder.as_deref(), &place),
            Self::Plan { folder, place, output } => iam_plan::run(&folder, &place, output),
            Self::User { verb } => verb.run(),
            Self::Group { verb } => verb.run(),
            Self::Role { verb } => verb.run(),
            Self::AccessKey { verb } => verb.run(),
            Self::Scram { verb } => verb.run(),
            Self::BootstrapToken { verb } => verb.run(),
            Self::Simulate { batch } => simulate(&batch),
        }
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
