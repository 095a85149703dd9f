//! `schloss keys`: check, wrap anew, rewrite, shred. All but the check ask the running broker.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::door::{self, DoorPlace};
use super::keys_check::Check;
use super::{Failure, Number, Output};

#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Ask the KMS everything that the broker asks of it, and say what is not allowed.
    Check(Check),
    /// Wrap every live key of a tenant, or the cluster's, under the current KMS key; data stays as it is.
    #[command(after_help = "Examples:
  schloss tenant set-key acme --kms-key arn:aws:kms:eu-central-1:111111111111:key/…
  schloss keys rewrap acme

  schloss keys rewrap --cluster        after a start with the new `kms.cluster.key`, the former one in `kms.cluster.keys`

Online, and resumable: run again, it goes on where it was. Afterwards the old KMS key may be disabled.")]
    Rewrap {
        /// Alias or account of the tenant.
        #[arg(required_unless_present = "cluster")]
        tenant: Option<String>,
        /// The installation's own: audit log and manifest.
        #[arg(long, conflicts_with = "tenant")]
        cluster: bool,
        /// KMS calls a second.
        #[arg(long, default_value_t = 50)]
        rate: u64,
        #[command(flatten)]
        door: Asked,
    },
    /// Write a tenant's records into new segments under new data keys: for data keys that may have leaked.
    #[command(after_help = "Example:
  schloss keys rewrite acme --topic payments")]
    Rewrite {
        /// Alias or account of the tenant.
        tenant: String,
        /// Only segments with records of this topic.
        #[arg(long)]
        topic: Option<String>,
        /// MiB a second.
        #[arg(long, default_value_t = 50)]
        rate: u64,
        #[command(flatten)]
        door: Asked,
    },
    /// Destroy a topic's keys and delete it; prints the signed certificate.
    #[command(after_help = "Example:
  schloss keys shred-topic acme payments --yes")]
    ShredTopic {
        /// Alias or account of the tenant.
        tenant: String,
        /// The topic.
        topic: String,
        /// What is shredded never comes back.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        door: Asked,
    },
    /// Destroy every key and record of a tenant; prints the signed certificate.
    #[command(after_help = "Example:
  schloss keys shred-tenant acme --yes

Copies made before open as long as the tenant's KMS key exists: schedule its deletion too. Take the tenant out of the organisation's
folder as well; else it is opened again, empty.")]
    ShredTenant {
        /// Alias or account of the tenant.
        tenant: String,
        /// What is shredded never comes back.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        door: Asked,
    },
}

/// Where the broker is, and the form of the answer.
#[derive(Debug, Args)]
pub struct Asked {
    #[command(flatten)]
    pub place: DoorPlace,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

impl Asked {
    /// Asks, and prints the answer's fields one a line, or as JSON.
    pub fn ask(&self, noun: &str, verb: &str, body: &Value) -> Result<Value, Failure> {
        let answer = door::call(&self.place, noun, verb, body)?;
        match (self.output, answer.as_object()) {
            (Output::Text, Some(fields)) => {
                for (name, value) in fields {
                    println!("{name:<14} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
                }
            }
            _ => println!("{answer}"),
        }
        Ok(answer)
    }
}

impl Keys {
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Check(check) => return check.run(),
            Self::Rewrap { tenant, cluster, rate, door } => {
                door.ask("keys", "rewrap", &json!({ "tenant": tenant, "cluster": cluster, "rate": rate }))?;
            }
            Self::Rewrite { tenant, topic, rate, door } => {
                door.ask("keys", "rewrite", &json!({ "tenant": tenant, "topic": topic, "rate": rate }))?;
            }
            Self::ShredTopic { tenant, topic, yes, door } => {
                confirm(yes)?;
                door.ask("keys", "shred-topic", &json!({ "tenant": tenant, "topic": topic, "yes": yes }))?;
            }
            Self::ShredTenant { tenant, yes, door } => {
                confirm(yes)?;
                door.ask("keys", "shred-tenant", &json!({ "tenant": tenant, "yes": yes }))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn confirm(yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    Err(Failure::new(
        Number::Usage,
        "what is shredded never comes back; nothing was done",
        "say --yes if that is meant",
    ))
}
