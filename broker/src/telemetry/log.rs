//! The process log on standard error: `RUST_LOG` chooses the level, JSON when not a terminal.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts the log. Called once by `main`; a second call does nothing.
///
/// SECURITY: the libraries below speak of host names, SQL and keys at TRACE; they are held at WARN whatever
/// `RUST_LOG` says, so that no level prints a tenant's bytes.
pub fn start_log() {
    let asked = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
    let ours = [
        "schloss",
        "schloss_audit",
        "schloss_authn",
        "schloss_authz",
        "schloss_certs",
        "schloss_coordinator",
        "schloss_crypto",
        "schloss_kms",
        "schloss_metadata",
        "schloss_storage",
        "schloss_wire",
    ];
    let level = match asked.rsplit('=').next().unwrap_or("info").trim().to_ascii_lowercase().as_str() {
        "trace" => "trace",
        "debug" => "debug",
        "warn" => "warn",
        "error" => "error",
        "off" => "off",
        _ => "info",
    };
    let directives = ours.iter().fold("warn".to_owned(), |text, target| format!("{text},{target}={level}"));
    let builder = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(directives)).with_writer(std::io::stderr);
    let started =
        if std::io::stderr().is_terminal() { builder.compact().try_init() } else { builder.json().try_init() };
    drop(started);
}
