//! `schloss manifest`: whether its rows are what was written, and an operator's word that they are right as they are. Without a broker.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use schloss_audit::{AuditConfig, AuditLog, Class, Event, Verdict};
use schloss_core::{Clock, ClusterId, SystemClock};
use schloss_kms::Vault;
use schloss_metadata::{Doubt, Metadata as _, SqliteMetadata};
use serde_json::{Value, json};

use super::audit::Unrecorded;
use super::backup::{block_on, vault};
use super::{Failure, Number, Output, serve};
use crate::config::Config;
use crate::keys::Recorder;
use crate::manifest::{self, NoKey};

#[derive(Debug, Subcommand)]
pub enum Manifest {
    /// Check that every row of a stopped broker's manifest is what was written.
    #[command(after_help = "Example:
  schloss manifest verify --config /etc/schloss/schloss.toml

Needs the cluster's KMS key. Changes nothing. Exit status 1 when something is not as it was written.")]
    Verify(Which),
    /// Take the rows as they are, after you have looked: what was in doubt is served again.
    #[command(after_help = "Example:
  schloss manifest accept --config /etc/schloss/schloss.toml --yes

Rows that were taken away do not come back; what every object must be is still checked. It is in the audit log as
schloss:AcceptManifest.")]
    Accept {
        #[command(flatten)]
        which: Which,
        /// Yes, take them as they are.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub struct Which {
    /// The config: where the data folder is, and who keeps the cluster's key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Manifest {
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Verify(which) => block_on(verify(serve::read(&which.config)?, which.output)),
            Self::Accept { which, yes } => block_on(accept(serve::read(&which.config)?, which.output, yes)),
        }
    }
}

/// A stopped broker's manifest and what it needs.
struct Opened {
    metadata: SqliteMetadata,
    cluster: ClusterId,
    vault: Arc<Vault>,
}

async fn open(config: &Config) -> Result<Opened, Failure> {
    let data = &config.data_dir;
    if manifest::is_missing(data) {
        return Err(manifest::missing(data));
    }
    let metadata =
        SqliteMetadata::open(&data.join(manifest::MANIFEST)).map_err(|error| manifest::failed(data, error))?;
    let cluster = metadata.cluster_id().await.map_err(|error| manifest::failed(data, error))?;
    Ok(Opened { metadata, cluster: ClusterId::from_bytes(cluster), vault: vault(config).await? })
}

fn no_key(error: NoKey) -> Failure {
    Failure::new(
        Number::Kms,
        format!("the key of proofs: {error}"),
        "check the cluster's KMS key: `kms.*` in the config",
    )
}

impl Opened {
    async fn doubts(&self, config: &Config) -> Result<Vec<Doubt>, Failure> {
        let failed = |error| manifest::failed(&config.data_dir, error);
        match manifest::its_key(&self.metadata, &*self.vault, self.cluster).await.map_err(no_key)? {
            Some(key) => self.metadata.examine(key).await.map_err(failed),
            None => Ok(vec![Doubt { tenant: None, table: "keys".to_owned() }]),
        }
    }
}

fn of(doubt: &Doubt) -> String {
    doubt.tenant.map_or_else(|| "installation".to_owned(), |tenant| tenant.to_string())
}

fn listed(doubts: &[Doubt]) -> Vec<Value> {
    let tenant = |doubt: &Doubt| doubt.tenant.map(|tenant| tenant.to_string());
    doubts.iter().map(|doubt| json!({ "tenant": tenant(doubt), "table": doubt.table })).collect()
}

async fn verify(config: Config, output: Output) -> Result<ExitCode, Failure> {
    let opened = open(&config).await?;
    opened.vault.attach_sink(Arc::new(Unrecorded));
    let doubts = opened.doubts(&config).await?;
    match output {
        Output::Json => println!("{}", json!({ "good": doubts.is_empty(), "doubts": listed(&doubts) })),
        Output::Text if doubts.is_empty() => println!("good: every row is what was written"),
        Output::Text => {
            for doubt in &doubts {
                println!("{}  {}: not what was written", of(doubt), doubt.table);
            }
        }
    }
    Ok(if doubts.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn accept(config: Config, output: Output, yes: bool) -> Result<ExitCode, Failure> {
    let opened = open(&config).await?;
    let data = &config.data_dir;
    let failed = |error| manifest::failed(data, error);
    if !opened.metadata.has_known_tables().await.map_err(failed)? {
        return Err(Failure::new(
            Number::Manifest,
            "the manifest has tables, indexes or triggers that are not ours",
            "restore it from a backup: it cannot be taken as it is; nothing was changed",
        ));
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let audit = AuditConfig::new(data.join("audit"), opened.cluster);
    if !yes {
        opened.vault.attach_sink(Arc::new(Unrecorded));
        let doubts = opened.doubts(&config).await?;
        let told: Vec<String> = doubts.iter().map(|doubt| format!("{} {}", of(doubt), doubt.table)).collect();
        return Err(Failure::new(
            Number::Manifest,
            format!("not what was written: {}", if told.is_empty() { "nothing".to_owned() } else { told.join(", ") }),
            "look at the rows; say --yes to take them as they are; nothing was changed",
        ));
    }
    let audit = AuditLog::open(audit, &*opened.vault, clock).await.map_err(crate::broker::audit_log)?;
    opened.vault.attach_sink(Arc::new(Recorder(Arc::clone(&audit))));
    let doubts = opened.doubts(&config).await?;
    // Recorded before the effect.
    for doubt in &doubts {
        let mut event = Event::new(doubt.tenant, Class::Administration, Verdict::Allowed, "schloss:AcceptManifest");
        event.resource = Some(format!("manifest table {}", doubt.table));
        record(&audit, event).await?;
    }
    let mut event = Event::new(None, Class::Administration, Verdict::Allowed, "schloss:AcceptManifest");
    event.resource = Some(manifest::MANIFEST.to_owned());
    record(&audit, event).await?;
    let key = match manifest::its_key(&opened.metadata, &*opened.vault, opened.cluster).await.map_err(no_key)? {
        Some(key) => key,
        None => manifest::new_key(&opened.metadata, &*opened.vault, opened.cluster).await.map_err(no_key)?,
    };
    opened.metadata.accept(key).await.map_err(failed)?;
    audit.close().await.map_err(|error| unrecorded(&error))?;
    match output {
        Output::Json => println!("{}", json!({ "accepted": listed(&doubts) })),
        Output::Text => println!("the rows are taken as they are; {} tables were in doubt", doubts.len()),
    }
    Ok(ExitCode::SUCCESS)
}

async fn record(audit: &AuditLog, event: Event) -> Result<(), Failure> {
    audit.record(event).await.map_err(|error| unrecorded(&error))
}

fn unrecorded(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        Number::AuditUnreadable,
        format!("the audit log: {error}"),
        "run `schloss audit verify`; what is not recorded is not done",
    )
}
