//! `schloss quickstart`: everything a first try needs, made once and kept.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use schloss_certs::dev;

use super::layout::Layout;
use super::{Failure, Number, serve};
use crate::quickstart_files;

/// The principals of each tenant in the quickstart organisation.
pub const PRINCIPALS: [&str; 4] = ["admin", "producer", "consumer", "auditor"];

/// Make everything a first try needs and serve it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  schloss quickstart                              in the current folder, port 9094
  schloss quickstart --dir /tmp/s --port 19094    all of it elsewhere

What it makes is kept: the next start serves the same data.")]
pub struct Quickstart {
    /// Folder for all of it (default: certs/dev and data of the current folder).
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Port for Kafka clients.
    #[arg(long, default_value_t = 9094)]
    port: u16,
    /// Port for health and metrics (default: the port above plus one).
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,
    /// Stay in the foreground; this is the default and the only form.
    #[arg(long)]
    foreground: bool,
}

impl Quickstart {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let _ = self.foreground;
        let layout = Layout::new(self.dir.as_deref())
            .map_err(|error| Failure::new(Number::File, error, "change to a folder that exists"))?;
        let admin_port = self.admin_port.unwrap_or_else(|| self.port.checked_add(1).unwrap_or(9095));
        prepare(&layout, self.port, admin_port)?;
        let config = serve::read(&layout.config)?;
        let port = self.port;
        serve::run(config, move |_config| println!("{}", welcome(&layout, port, admin_port)))
    }
}

fn prepare(layout: &Layout, port: u16, admin_port: u16) -> Result<(), Failure> {
    for folder in [&layout.certs, &layout.clients, &layout.keys, &layout.data] {
        std::fs::create_dir_all(folder).map_err(file(folder))?;
    }
    if !layout.organisation.exists() {
        quickstart_files::write(&layout.organisation).map_err(file(&layout.organisation))?;
    }
    let (organisation, _) = crate::tenancy::load(&layout.organisation).map_err(|error| {
        Failure::new(
            Number::Organisation,
            error,
            format!("mend the files under `{}`, or remove the folder for a fresh copy", layout.organisation.display()),
        )
    })?;
    let broken = |error: &dyn std::fmt::Display| {
        Failure::new(
            Number::Certificate,
            error,
            format!("remove `{}` and start again: all certificates are made anew", layout.certs.display()),
        )
    };
    let pki = dev::Pki::open(&layout.certs).map_err(|error| broken(&error))?;
    let mut hosts = vec!["localhost".to_owned()];
    hosts.extend(organisation.tenants().flat_map(|tenant| tenant.hosts().iter().map(ToString::to_string)));
    pki.server(&hosts).map_err(|error| broken(&error))?;
    pki.operator("quickstart", &layout.operator).map_err(|error| broken(&error))?;
    for tenant in organisation.tenants() {
        for principal in PRINCIPALS {
            pki.client(tenant.alias(), principal, &layout.client(tenant.alias(), principal), port)
                .map_err(|error| broken(&error))?;
        }
    }
    let tenants = organisation.tenants().map(|tenant| tenant.kms_key().to_owned());
    crate::keys::prepare_local(&layout.keys, tenants.chain(["local:cluster".to_owned()]))?;
    std::fs::write(&layout.config, config_text(layout, port, admin_port)).map_err(file(&layout.config))
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.to_owned();
    move |error| {
        Failure::new(
            Number::File,
            format!("`{}`: {error}", path.display()),
            "choose a folder you may write, with free space",
        )
    }
}

fn config_text(layout: &Layout, port: u16, admin_port: u16) -> String {
    let path = |path: &Path| format!("{:?}", path.display().to_string());
    format!(
        r#"# Made by `schloss quickstart`, written anew at each start. Copy it to begin a config of your own.
node.id = 1
listeners = "127.0.0.1:{port}"
advertised.listeners = "localhost:{port}"
admin.listener = "127.0.0.1:{admin_port}"
data.dir = {data}
organisation.dir = {organisation}

tls.certificate.file = {certificate}
tls.key.file = {key}
tls.client.ca.dir = {ca}
admin.client.ca.file = {operator_ca}

kms.provider = "local"
kms.cluster.key = "local:cluster"
kms.local.keyring.file = {keyring}
kms.local.key.file = {keyfile}

# Every way to log in on the one port: see the manual, chapter authentication.
ssl.client.auth = "requested"
sasl.enabled.mechanisms = "AWS_MSK_IAM,OAUTHBEARER,SCRAM-SHA-256,SCRAM-SHA-512"
sasl.default.tenant = "acme"

group.initial.rebalance.delay.ms = 0
"#,
        data = path(&layout.data),
        organisation = path(&layout.organisation),
        certificate = path(&layout.certs.join("server/cert.pem")),
        key = path(&layout.certs.join("server/key.pem")),
        ca = path(&layout.certs.join("client-ca")),
        operator_ca = path(&layout.certs.join("operator-ca.pem")),
        keyring = path(&layout.keys.join("keyring")),
        keyfile = path(&layout.keys.join("keyring.key")),
    )
}

fn welcome(layout: &Layout, port: u16, admin_port: u16) -> String {
    let mut text = String::new();
    let mut tenants: Vec<_> = std::fs::read_dir(&layout.clients)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    tenants.sort();
    for tenant in tenants {
        let _ = writeln!(text, "\ntenant {tenant}");
        for principal in PRINCIPALS {
            let folder = layout.client(&tenant, principal);
            let _ = writeln!(text, "  {principal:<9} {}/client.properties", folder.display());
            let _ = writeln!(text, "            {}", try_it(principal, &folder, port));
        }
    }
    let _ = writeln!(text, "\nhealth and metrics   https://localhost:{admin_port}/livez /readyz /metrics");
    let _ =
        writeln!(text, "organisation         {} (a change is in force within a second)", layout.organisation.display());
    let _ = writeln!(text, "a walk through it    schloss demo, in another terminal");
    let _ = write!(text, "\nschloss is ready on localhost:{port}");
    text
}

/// One command to try for each kind of principal.
fn try_it(principal: &str, folder: &Path, port: u16) -> String {
    let folder = folder.display();
    match principal {
        "admin" => format!(
            "kafka-topics.sh --bootstrap-server localhost:{port} --command-config {folder}/client.properties --create --topic orders --partitions 3"
        ),
        "producer" => format!("echo hello | kcat -F {folder}/librdkafka.conf -P -t orders"),
        "consumer" => format!("kcat -F {folder}/librdkafka.conf -C -t orders -e"),
        _ => format!(
            "kafka-topics.sh --bootstrap-server localhost:{port} --command-config {folder}/client.properties --list"
        ),
    }
}
