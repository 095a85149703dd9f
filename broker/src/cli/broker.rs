//! `schloss broker`: the running broker itself.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::door::{self, DoorPlace};
use super::{Failure, Output};

#[derive(Debug, Subcommand)]
pub enum BrokerVerb {
    /// Version, readiness, number of tenants and the policies in force.
    #[command(after_help = "Example:
  schloss broker show --output json")]
    Show {
        #[command(flatten)]
        place: DoorPlace,
        /// Form of the answer.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

impl BrokerVerb {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let Self::Show { place, output } = self;
        let shown = door::call(&place, "broker", "show", &serde_json::json!({}))?;
        match output {
            Output::Json => println!("{shown}"),
            Output::Text => {
                let word = |pointer: &str| shown.pointer(pointer).map(Value::to_string).unwrap_or_default();
                println!("schloss {} node {}", word("/version").trim_matches('"'), word("/node"));
                println!("ready        {}", word("/ready"));
                println!("tenants      {}", word("/tenants"));
                println!(
                    "organisation version {}, sha256 {}",
                    word("/organisation/epoch"),
                    word("/organisation/sha256").trim_matches('"')
                );
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
