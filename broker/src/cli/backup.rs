//! `schloss backup`: create through the running broker; restore and verify without one.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::audit::Unrecorded;
use super::keys::Asked;
use super::{Failure, Number, Output, serve};
use crate::backup::{BackupError, Repository};
use crate::config::Config;
use crate::keys;

#[derive(Debug, Subcommand)]
pub enum Backup {
    /// Copy what is new into a folder, with a sealed snapshot of the manifest. Online, consistent, incremental.
    #[command(after_help = "Example:
  schloss backup create /mnt/backup/schloss

The folder is on the broker's machine. It needs the cluster's and the tenants' KMS keys to be of any use.")]
    Create {
        /// The backup's folder; made, or added to.
        folder: PathBuf,
        #[command(flatten)]
        door: Asked,
    },
    /// Fill an empty data folder.
    #[command(after_help = "Example:
  schloss backup restore /mnt/backup/schloss --to /var/lib/schloss --config /etc/schloss/schloss.toml
  schloss backup restore … --at 2026-11-25T18:00:00Z

The organisation's folder and the config are yours to keep; the audit log begins anew.")]
    Restore {
        /// The backup's folder.
        folder: PathBuf,
        /// The data folder to fill.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// The config: who keeps the keys, and where topics' own keys go.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The newest snapshot made at or before this moment (RFC 3339).
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
        /// Form of the answer.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Check that every snapshot opens and every object is there and whole.
    #[command(after_help = "Example:
  schloss backup verify /mnt/backup/schloss --config /etc/schloss/schloss.toml")]
    Verify {
        /// The backup's folder.
        folder: PathBuf,
        /// The config: who keeps the cluster's key.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Form of the answer.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

impl Backup {
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Create { folder, door } => {
                let folder = std::path::absolute(&folder).unwrap_or(folder);
                door.ask("backup", "create", &json!({ "folder": folder.display().to_string() }))?;
                Ok(ExitCode::SUCCESS)
            }
            Self::Restore { folder, to, config, at, output } => {
                let config = serve::read(&config)?;
                let at_ms = at.map(|at| moment(&at)).transpose()?;
                block_on(restore(folder, to, config, at_ms, output))
            }
            Self::Verify { folder, config, output } => {
                let config = serve::read(&config)?;
                block_on(verify(folder, config, output))
            }
        }
    }
}

fn moment(text: &str) -> Result<i64, Failure> {
    let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|error| {
        Failure::new(Number::Usage, format!("`{text}` is no moment: {error}"), "write it like 2026-11-25T18:00:00Z")
    })?;
    // A second that was said means all of it.
    Ok(i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX).saturating_add(999))
}

pub fn block_on(work: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Number::File, error, "report this"))?;
    runtime.block_on(work)
}

/// The vault as a config says, for a command that runs without a broker. Who calls says where key uses are recorded.
pub async fn vault(config: &Config) -> Result<std::sync::Arc<schloss_kms::Vault>, Failure> {
    let (organisation, _) = crate::tenancy::load(&config.organisation_dir)
        .map_err(|error| Failure::new(Number::Organisation, error, "mend the organisation's files"))?;
    Ok(keys::open(config, &organisation).await?.vault)
}

fn failed(error: BackupError) -> Failure {
    let next = match &error {
        BackupError::Key(_) => "the cluster's KMS key must be the backup's, and usable: check `kms.*` in the config",
        BackupError::NotEmpty(_) => "name an empty folder; nothing was changed",
        BackupError::NoSnapshot => "name another folder or an earlier moment",
        BackupError::Damaged { .. } => "use another copy of the backup",
        BackupError::Io { .. } | BackupError::Manifest(_) | BackupError::Restless | BackupError::Foreign => {
            "check the folders, their rights and free space"
        }
    };
    let number = if matches!(error, BackupError::Key(_)) { Number::Kms } else { Number::Backup };
    Failure::new(number, error, next)
}

async fn restore(
    folder: PathBuf,
    to: PathBuf,
    config: Config,
    at_ms: Option<i64>,
    output: Output,
) -> Result<ExitCode, Failure> {
    let vault = vault(&config).await?;
    vault.attach_sink(std::sync::Arc::new(Unrecorded));
    let repository = Repository::new(folder, &*vault);
    let (created_ms, objects) = repository.restore(&to, &config.topic_keys_dir, at_ms).await.map_err(failed)?;
    match output {
        Output::Json => println!("{}", json!({ "created_ms": created_ms, "objects": objects })),
        Output::Text => println!("{objects} objects as of {created_ms} ms since 1970 are in {}", to.display()),
    }
    Ok(ExitCode::SUCCESS)
}

async fn verify(folder: PathBuf, config: Config, output: Output) -> Result<ExitCode, Failure> {
    let vault = vault(&config).await?;
    vault.attach_sink(std::sync::Arc::new(Unrecorded));
    let (snapshots, objects, bytes) = Repository::new(folder, &*vault).verify().await.map_err(failed)?;
    match output {
        Output::Json => println!("{}", json!({ "snapshots": snapshots, "objects": objects, "bytes": bytes })),
        Output::Text => println!("good: {snapshots} snapshots, {objects} objects, {bytes} bytes"),
    }
    Ok(ExitCode::SUCCESS)
}
