//! `schloss segment`: look at one object without any key, or have the broker check them all.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use schloss_crypto::segment::{HEAD_BYTES, inspect, read_wrapped_key};
use serde_json::{Value, json};

use super::keys::Asked;
use super::{Failure, Number, Output};

#[derive(Debug, Subcommand)]
pub enum Segment {
    /// Tell what stands in the clear in a segment object. Needs no key and no broker.
    #[command(after_help = "Example:
  schloss segment inspect data/objects/seg/111111111111/0b5c…")]
    Inspect {
        /// The object's file.
        file: PathBuf,
        /// Form of the answer.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Have the running broker read and check every live segment now.
    #[command(after_help = "Example:
  schloss segment verify acme")]
    Verify {
        /// Alias or account; all tenants without one.
        tenant: Option<String>,
        /// MiB a second.
        #[arg(long, default_value_t = 500)]
        rate: u64,
        #[command(flatten)]
        door: Asked,
    },
}

impl Segment {
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Inspect { file, output } => look(&file, output),
            Self::Verify { tenant, rate, door } => {
                let found = door.ask("segment", "verify", &json!({ "tenant": tenant, "rate": rate }))?;
                let count = |key: &str| found.get(key).and_then(Value::as_array).map_or(0, Vec::len);
                match (count("damaged"), count("unread")) {
                    (0, 0) => Ok(ExitCode::SUCCESS),
                    (0, unread) => Err(Failure::new(
                        Number::Kms,
                        format!("{unread} segments could not be judged"),
                        "their key or the store is away: `schloss tenant show` tells; try again then",
                    )),
                    (damaged, _) => Err(Failure::new(
                        Number::Storage,
                        format!("{damaged} segments are not what was written"),
                        "put the objects named above back from a backup; the broker serves nothing of them meanwhile",
                    )),
                }
            }
        }
    }
}

fn look(file: &PathBuf, output: Output) -> Result<ExitCode, Failure> {
    let wrong = |what: &dyn std::fmt::Display| {
        Failure::new(
            Number::Storage,
            format!("`{}`: {what}", file.display()),
            "name a segment object, a file below `objects/seg`",
        )
    };
    let object = std::fs::read(file).map_err(|error| wrong(&error))?;
    let facts = inspect(&object).map_err(|error| wrong(&error))?;
    let slot = read_wrapped_key(object.get(..HEAD_BYTES).unwrap_or_default());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let account = u128::from_be_bytes(facts.header.tenant);
    let shown = json!({
        "object_id": hex(&facts.header.object_id),
        "cluster": hex(&facts.header.cluster),
        "tenant": format!("{account:012}"),
        "segment": hex(&facts.header.segment),
        "writer_epoch": facts.header.writer_epoch,
        "created_ms": facts.header.created_ms,
        "frame_bytes_max": facts.header.frame_bytes_max,
        "size": object.len(),
        "frames": facts.frame_count,
        "footer_position": facts.footer_position,
        "footer_tag": hex(&facts.footer_tag),
        "commitment": hex(&facts.commit),
        "key_slot": match slot {
            Ok(wrapped) => json!({ "provider": wrapped.provider, "key": wrapped.key_ref, "wrapped_bytes": wrapped.blob.len() }),
            Err(_) => json!("damaged"),
        },
    });
    match (output, shown.as_object()) {
        (Output::Text, Some(fields)) => {
            for (name, value) in fields {
                println!("{name:<16} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            }
        }
        _ => println!("{shown}"),
    }
    Ok(ExitCode::SUCCESS)
}
