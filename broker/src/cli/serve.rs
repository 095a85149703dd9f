//! `schloss serve`: the production form.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Failure, Number};
use crate::broker::{Broker, Listeners};
use crate::config::Config;

/// Serve as a config file says.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  schloss serve --config /etc/schloss/schloss.toml

SIGTERM and SIGINT drain and end cleanly.")]
pub struct Serve {
    /// The config file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only read and check the config, then end.
    #[arg(long)]
    check: bool,
}

impl Serve {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let config = read(&self.config)?;
        if self.check {
            println!("{}: the config is well formed", self.config.display());
            return Ok(ExitCode::SUCCESS);
        }
        run(config, |config| {
            let told: Vec<String> = config
                .listeners
                .iter()
                .map(|listener| format!("{}:{}", listener.advertised.host, listener.advertised.port))
                .collect();
            println!(
                "schloss is ready on {}, health and metrics on https://{}",
                told.join(", "),
                config.admin_listener
            );
        })
    }
}

/// Reads and checks a config file.
pub fn read(path: &Path) -> Result<Config, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(
            Number::File,
            format!("`{}`: {error}", path.display()),
            "name a config file that can be read; `schloss quickstart --dir DIR` writes one to copy from",
        )
    })?;
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let base = whole.parent().unwrap_or(Path::new("."));
    Config::parse(&path.display().to_string(), &text, base).map_err(|errors| {
        Failure::new(Number::Config, errors, "mend the lines above; the manual, chapter operations, lists every key")
    })
}

/// Runs a broker until a signal.
pub fn run(config: Config, ready: impl FnOnce(&Config)) -> Result<ExitCode, Failure> {
    no_core_dumps();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        Failure::new(
            Number::Listener,
            format!("the runtime could not start: {error}"),
            "check the limits of threads and open files",
        )
    })?;
    let done = runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let mut terminate =
            signal(SignalKind::terminate()).map_err(|error| Failure::new(Number::Listener, error, "report this"))?;
        let mut interrupt =
            signal(SignalKind::interrupt()).map_err(|error| Failure::new(Number::Listener, error, "report this"))?;
        let listeners = Listeners::bind(&config).await?;
        // A signal ends a start that waits for the key service, too.
        let broker = tokio::select! {
            opened = Broker::open(config, &listeners) => opened?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("draining");
            stop.send_replace(true);
        });
        let announced = std::sync::Arc::clone(&broker);
        broker.serve(listeners, stopped, move || ready(&announced.config)).await;
        Ok(())
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    done.map(|()| ExitCode::SUCCESS)
}

/// SECURITY: a core dump would hold plain keys and records.
fn no_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps could not be switched off");
    }
}
