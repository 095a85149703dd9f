//! The commands: `schloss <noun> <verb>`. Data goes to standard output, talk to standard error.
//!
//! Exit status: 0 done, 1 refused or failed, 2 wrongly called.

mod audit;
mod backup;
mod broker;
mod client;
mod demo;
mod door;
mod folder;
mod iam;
mod iam_credentials;
mod iam_people;
mod iam_plan;
mod keys;
mod keys_check;
mod layout;
mod manifest;
mod quickstart;
mod segment;
mod serve;
mod tenant;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use crate::failure::{Failure, Number};

/// Kafka for tenants who trust neither each other, nor the network, nor the disks.
#[derive(Debug, Parser)]
#[command(
    name = "schloss",
    version,
    about,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = "Examples:
  schloss quickstart                      two tenants on localhost:9094, with certificates and policies
  schloss demo                            a walk through it, with real requests
  schloss serve --config schloss.toml     the production form
  schloss audit verify --dir data         check the audit log with nothing but its public key"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make everything a first try needs and serve it.
    Quickstart(quickstart::Quickstart),
    /// Walk through a running quickstart: produce, consume, a denial, ciphertext, the audit log.
    Demo(demo::Demo),
    /// Serve as a config file says.
    Serve(serve::Serve),
    /// Verify and read the audit log.
    Audit {
        #[command(subcommand)]
        verb: audit::Audit,
    },
    /// Look at the running broker.
    Broker {
        #[command(subcommand)]
        verb: broker::BrokerVerb,
    },
    /// Principals, credentials and policies.
    Iam {
        #[command(subcommand)]
        verb: iam::Iam,
    },
    /// Tenants and their KMS keys.
    Tenant {
        #[command(subcommand)]
        verb: tenant::Tenant,
    },
    /// Check keys, wrap them anew, rewrite records, shred.
    Keys {
        #[command(subcommand)]
        verb: keys::Keys,
    },
    /// Look at a segment object, check them all.
    Segment {
        #[command(subcommand)]
        verb: segment::Segment,
    },
    /// Check a stopped broker's manifest; take it as it is.
    Manifest {
        #[command(subcommand)]
        verb: manifest::Manifest,
    },
    /// Back up, restore, verify a backup.
    Backup {
        #[command(subcommand)]
        verb: backup::Backup,
    },
}

/// How data is written to standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON value, or one a line.
    Json,
}

/// Where an installation is: its quickstart folder or its config file.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// Folder of a quickstart (default: the current folder's).
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub dir: Option<PathBuf>,
    /// Config file of a `schloss serve`.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    crate::telemetry::start_log();
    let outcome = match cli.command {
        Command::Quickstart(command) => command.run(),
        Command::Demo(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::Audit { verb } => verb.run(),
        Command::Broker { verb } => verb.run(),
        Command::Iam { verb } => verb.run(),
        Command::Tenant { verb } => verb.run(),
        Command::Keys { verb } => verb.run(),
        Command::Segment { verb } => verb.run(),
        Command::Manifest { verb } => verb.run(),
        Command::Backup { verb } => verb.run(),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.exit())
        }
    }
}
