//! `schloss audit`: verify, query, tail.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use schloss_audit::{Class, Filter, Found, Report, Verdict, public_key_from_pem};
use schloss_core::ClusterId;
use schloss_kms::{KeyUse, KeyUseSink, NotRecorded};

use super::layout::Layout;
use super::{Failure, Number, Output, Place, serve};
use crate::config::Config;
use crate::keys;

/// How often `tail --follow` looks.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Check the whole log with nothing but its public key.
    #[command(after_help = "Examples:
  schloss audit verify
  schloss audit verify --folder copy/audit --public-key auditors-copy.pem")]
    Verify(Verify),
    /// Print matching events.
    #[command(after_help = "Example:
  schloss audit query --verdict denied --action kafka-cluster:DeleteTopic --output json")]
    Query(Query),
    /// Print the newest events, and go on with --follow.
    #[command(after_help = "Example:
  schloss audit tail --lines 20 --follow")]
    Tail(Tail),
}

impl Audit {
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Verify(verify) => verify.run(),
            Self::Query(query) => runtime()?.block_on(query.run()),
            Self::Tail(tail) => runtime()?.block_on(tail.run()),
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Number::File, error, "report this"))
}

/// Offline: needs no broker, no config, no secret.
#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    place: Place,
    /// The audit folder itself, for instance of a copy.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["dir", "config"])]
    folder: Option<PathBuf>,
    /// The public key, if not the one in the folder. An outsider brings a copy of his own.
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    /// How to print the report.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Verify {
    fn run(self) -> Result<ExitCode, Failure> {
        let folder = match &self.folder {
            Some(folder) => folder.clone(),
            None => audit_folder(&config(&self.place)?),
        };
        let report = verify_with(&folder, self.public_key.as_deref())?;
        match self.output {
            Output::Text => print_report(&report),
            Output::Json => println!("{}", report_json(&report)),
        }
        match report.first_fault() {
            None => Ok(ExitCode::SUCCESS),
            Some(fault) => Err(Failure::new(
                Number::AuditBroken,
                format!("the audit log does not verify: {fault}"),
                "treat it as evidence: copy the folder before anything else",
            )),
        }
    }
}

fn print_report(report: &Report) {
    for stream in &report.streams {
        let state = stream.fault.as_ref().map_or_else(|| "good".to_owned(), |fault| format!("BROKEN at {fault}"));
        println!(
            "{:<14} {:>8} events {:>8} lines, {} not yet signed: {state}",
            stream.stream, stream.events, stream.lines, stream.unsigned_lines
        );
        for statement in &stream.certificates {
            println!("  certificate, its signature is good: {statement}");
        }
    }
}

fn report_json(report: &Report) -> serde_json::Value {
    let streams = report.streams.iter().map(|stream| {
        serde_json::json!({
            "stream": stream.stream, "lines": stream.lines, "events": stream.events, "unsigned_lines": stream.unsigned_lines,
            "certificates": stream.certificates,
            "last_checkpoint": stream.last_checkpoint.as_ref().map(|head| serde_json::json!({ "seq": head.seq, "hash": head.hash })),
            "fault": stream.fault.as_ref().map(|fault| serde_json::json!({ "file": fault.file, "line": fault.line, "seq": fault.seq, "what": fault.kind.to_string() })),
        })
    });
    serde_json::json!({ "good": report.is_good(), "streams": streams.collect::<Vec<_>>() })
}

/// Verifies a folder with the public key in it.
pub fn verify_folder(folder: &Path) -> Result<Report, Failure> {
    verify_with(folder, None)
}

fn verify_with(folder: &Path, public_key: Option<&Path>) -> Result<Report, Failure> {
    let path = public_key.map_or_else(|| folder.join("public-key.pem"), Path::to_owned);
    let unreadable = |error: &dyn std::fmt::Display| {
        Failure::new(
            Number::AuditUnreadable,
            format!("`{}`: {error}", path.display()),
            "name the audit folder with --folder, or the key with --public-key",
        )
    };
    let pem = std::fs::read_to_string(&path).map_err(|error| unreadable(&error))?;
    let key = public_key_from_pem(&pem).ok_or_else(|| unreadable(&"is no Ed25519 public key in PEM"))?;
    schloss_audit::verify(folder, &key, &[])
        .map_err(|error| Failure::new(Number::AuditUnreadable, error, "check the folder and its rights"))
}

/// What to look for.
#[derive(Debug, Args)]
pub struct Wanted {
    /// Only this tenant (12 digits), or `cluster`.
    #[arg(long)]
    tenant: Option<String>,
    /// Only this class.
    #[arg(long, value_parser = ["authentication", "refusal", "administration", "key-use", "data", "system"])]
    class: Option<String>,
    /// Only this verdict.
    #[arg(long, value_parser = ["allowed", "denied", "failed"])]
    verdict: Option<String>,
    /// Only this principal's ARN.
    #[arg(long)]
    principal: Option<String>,
    /// Only this action, for instance kafka-cluster:DeleteTopic.
    #[arg(long)]
    action: Option<String>,
    /// Only this resource's ARN.
    #[arg(long)]
    resource: Option<String>,
}

impl Wanted {
    fn filter(&self) -> Filter {
        let class = self.class.as_deref().map(|word| match word {
            "authentication" => Class::Authentication,
            "refusal" => Class::Refusal,
            "administration" => Class::Administration,
            "key-use" => Class::KeyUse,
            "data" => Class::DataSummary,
            _ => Class::System,
        });
        let verdict = self.verdict.as_deref().map(|word| match word {
            "allowed" => Verdict::Allowed,
            "denied" => Verdict::Denied,
            _ => Verdict::Failed,
        });
        Filter {
            stream: self.tenant.clone(),
            class,
            verdict,
            principal: self.principal.clone(),
            action: self.action.clone(),
            resource: self.resource.clone(),
            ..Filter::default()
        }
    }
}

/// Reads sealed events: needs the installation's config and its key service.
#[derive(Debug, Args)]
pub struct Query {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    wanted: Wanted,
    /// How to print events.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Query {
    async fn run(self) -> Result<ExitCode, Failure> {
        let reader = Reader::open(&config(&self.place)?).await?;
        let output = self.output;
        reader
            .each(&self.wanted.filter(), &mut |found| {
                print_event(&found, output);
                ControlFlow::Continue(())
            })
            .await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The newest events.
#[derive(Debug, Args)]
pub struct Tail {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    wanted: Wanted,
    /// How many.
    #[arg(long, default_value_t = 10)]
    lines: usize,
    /// Go on with what comes, until interrupted.
    #[arg(long)]
    follow: bool,
    /// How to print events.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Tail {
    async fn run(self) -> Result<ExitCode, Failure> {
        let reader = Reader::open(&config(&self.place)?).await?;
        let filter = self.wanted.filter();
        let mut seen: HashMap<String, u64> = HashMap::new();
        let newest = schloss_audit::tail(&reader.folder, reader.cluster, &*reader.vault, &filter, self.lines)
            .await
            .map_err(unreadable)?;
        for found in &newest {
            print_event(found, self.output);
            let newest = seen.entry(found.stream.clone()).or_default();
            *newest = found.seq.max(*newest);
        }
        if !self.follow {
            return Ok(ExitCode::SUCCESS);
        }
        loop {
            tokio::time::sleep(FOLLOW_EVERY).await;
            let output = self.output;
            reader
                .each(&filter, &mut |found| {
                    let newest = seen.entry(found.stream.clone()).or_default();
                    if found.seq > *newest {
                        *newest = found.seq;
                        print_event(&found, output);
                    }
                    ControlFlow::Continue(())
                })
                .await?;
        }
    }
}

fn print_event(found: &Found, output: Output) {
    if output == Output::Json {
        println!("{}", found.to_json());
        return;
    }
    println!("{} {} {}", found.stream, found.seq, found.body);
}

fn unreadable(error: impl std::fmt::Display) -> Failure {
    Failure::new(Number::AuditUnreadable, error, "run `schloss audit verify`")
}

/// The config of an installation, from its file or its quickstart folder.
pub fn config(place: &Place) -> Result<Config, Failure> {
    match &place.config {
        Some(path) => serve::read(path),
        None => {
            let layout = Layout::new(place.dir.as_deref())
                .map_err(|error| Failure::new(Number::File, error, "change to a folder that exists"))?;
            serve::read(&layout.config)
        }
    }
}

fn audit_folder(config: &Config) -> PathBuf {
    config.data_dir.join("audit")
}

/// Reading the log is not recorded in it: the reader has the installation's secrets and no broker is asked.
pub struct Unrecorded;

#[async_trait::async_trait]
impl KeyUseSink for Unrecorded {
    async fn key_used(&self, _used: KeyUse) -> Result<(), NotRecorded> {
        Ok(())
    }
}

struct Reader {
    folder: PathBuf,
    cluster: ClusterId,
    vault: std::sync::Arc<schloss_kms::Vault>,
}

impl Reader {
    async fn open(config: &Config) -> Result<Self, Failure> {
        let (organisation, _) = crate::tenancy::load(&config.organisation_dir)
            .map_err(|error| Failure::new(Number::Organisation, error, "mend the organisation's files"))?;
        let vault = keys::open(config, &organisation).await?.vault;
        vault.attach_sink(std::sync::Arc::new(Unrecorded));
        let folder = audit_folder(config);
        let cluster = crate::cluster_id::read(&config.data_dir)
            .ok_or_else(|| unreadable("the data folder does not say which installation it is of"))?;
        Ok(Self { folder, cluster, vault })
    }

    async fn each(
        &self,
        filter: &Filter,
        found: &mut (dyn FnMut(Found) -> ControlFlow<()> + Send),
    ) -> Result<(), Failure> {
        schloss_audit::query(&self.folder, self.cluster, &*self.vault, filter, found).await.map_err(unreadable)
    }
}

/// What `take` keeps of every matching event, read offline.
pub fn collect<T: Send>(
    place: &Place,
    filter: &Filter,
    take: &mut (dyn FnMut(Found) -> Option<T> + Send),
) -> Result<Vec<T>, Failure> {
    let config = config(place)?;
    runtime()?.block_on(async {
        let reader = Reader::open(&config).await?;
        let mut kept = Vec::new();
        reader
            .each(filter, &mut |found| {
                kept.extend(take(found));
                ControlFlow::Continue(())
            })
            .await?;
        Ok(kept)
    })
}

/// The newest refusal about a topic, for the demo.
pub async fn newest_denial(layout: &Layout, topic: &str) -> Result<Option<serde_json::Value>, Failure> {
    let reader = Reader::open(&serve::read(&layout.config)?).await?;
    let filter = Filter { class: Some(Class::Refusal), ..Filter::default() };
    let mut newest = None;
    reader
        .each(&filter, &mut |found| {
            if found.body.to_string().contains(topic) {
                newest = Some(found.body);
            }
            ControlFlow::Continue(())
        })
        .await?;
    Ok(newest)
}

/// Copies the log; returns the files of events.
pub fn copy_log(layout: &Layout, copy: &Path) -> Result<Vec<PathBuf>, Failure> {
    let from = audit_folder(&serve::read(&layout.config)?);
    let failed = |error: std::io::Error| Failure::new(Number::File, error, "check rights and free space");
    let mut files = Vec::new();
    let mut folders = vec![(from, copy.to_owned())];
    while let Some((from, to)) = folders.pop() {
        std::fs::create_dir_all(&to).map_err(failed)?;
        for entry in std::fs::read_dir(&from).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let target = to.join(path.file_name().unwrap_or_default());
            if path.is_dir() {
                folders.push((path, target));
                continue;
            }
            std::fs::copy(&path, &target).map_err(failed)?;
            if target.extension().is_some_and(|extension| extension == "jsonl") {
                files.push(target);
            }
        }
    }
    Ok(files)
}
