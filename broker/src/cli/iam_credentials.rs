//! `schloss iam access-key|scram|bootstrap-token`: secrets of the running broker, through the operator door.
//!
//! A secret is written once, by the command that made it; with `--out FILE` to a file that only its owner may read.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::door::{self, DoorPlace};
use super::iam_people::tell;
use super::{Failure, Number, Output};

/// Which tenant, which broker, which form.
#[derive(Debug, Args)]
pub struct At {
    /// Alias or account of the tenant.
    #[arg(long, value_name = "ALIAS")]
    tenant: String,
    #[command(flatten)]
    place: DoorPlace,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Subcommand)]
pub enum AccessKeyVerb {
    /// Make an access key for a user; at most two each. The secret is shown once.
    #[command(after_help = "Example:
  schloss iam access-key create --tenant acme --user ann --output json")]
    Create {
        /// The user.
        #[arg(long, value_name = "NAME")]
        user: String,
        #[command(flatten)]
        at: At,
        /// Write the key to this new file, readable by its owner only, instead of showing it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Keys of a tenant or of one user, with their last use.
    List {
        /// Only of this user.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        #[command(flatten)]
        at: At,
    },
    /// Make a new key for the user of an old one, and make the old one inactive.
    Rotate {
        /// The old key's id.
        id: String,
        #[command(flatten)]
        at: At,
        /// Write the new key to this new file, readable by its owner only, instead of showing it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Make an inactive key active again.
    Activate {
        /// Its id.
        id: String,
        #[command(flatten)]
        at: At,
    },
    /// Make a key inactive; connections that use it are cut.
    Deactivate {
        /// Its id.
        id: String,
        #[command(flatten)]
        at: At,
    },
    /// Delete a key for ever; connections that use it are cut.
    Delete {
        /// Its id.
        id: String,
        #[command(flatten)]
        at: At,
    },
}

#[derive(Debug, Subcommand)]
pub enum ScramVerb {
    /// Set a user's password for SCRAM-SHA-256 or SCRAM-SHA-512.
    #[command(after_help = "Examples:
  schloss iam scram set ann --tenant acme --generate
  schloss iam scram set ann --tenant acme --password-file password.txt --mechanism SCRAM-SHA-256")]
    Set {
        /// The user.
        user: String,
        #[command(flatten)]
        at: At,
        /// The mechanism.
        #[arg(long, value_name = "NAME", default_value = "SCRAM-SHA-512")]
        mechanism: String,
        /// File whose first line is the password; `-` is standard input. Never on the command line.
        #[arg(long, value_name = "FILE", conflicts_with = "generate", required_unless_present = "generate")]
        password_file: Option<PathBuf>,
        /// Make a password of 40 characters and show it once.
        #[arg(long)]
        generate: bool,
        /// Iterations of the derivation (4096 to 16384).
        #[arg(long, value_name = "COUNT")]
        iterations: Option<u32>,
    },
    /// Users of a tenant that have a password.
    List {
        #[command(flatten)]
        at: At,
    },
    /// Delete a user's password; connections that use it are cut.
    Delete {
        /// The user.
        user: String,
        #[command(flatten)]
        at: At,
        /// The mechanism.
        #[arg(long, value_name = "NAME", default_value = "SCRAM-SHA-512")]
        mechanism: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum BootstrapVerb {
    /// Make a one-time token for a tenant's first administrator.
    #[command(after_help = "Example:
  schloss iam bootstrap-token create --tenant acme --user admin --out acme-admin.token")]
    Create {
        /// The user who gets the access key.
        #[arg(long, value_name = "NAME")]
        user: String,
        #[command(flatten)]
        at: At,
        /// How long it may be redeemed (at most a week).
        #[arg(long, value_name = "MINUTES", default_value_t = 60)]
        minutes: u64,
        /// Write the token to this new file, readable by its owner only, instead of showing it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Turn a one-time token into an access key. Needs no certificate but the server's.
    #[command(after_help = "Example:
  schloss iam bootstrap-token redeem --token-file acme-admin.token --admin localhost:9095 --ca ca.pem")]
    Redeem {
        /// File that holds the token.
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
        /// The broker's admin listener.
        #[arg(long, value_name = "HOST:PORT")]
        admin: String,
        /// The CA of the broker's certificate.
        #[arg(long, value_name = "FILE")]
        ca: PathBuf,
        /// Form of the answer.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

impl At {
    fn call(&self, noun: &str, verb: &str, mut body: Value) -> Result<Value, Failure> {
        body["tenant"] = json!(self.tenant);
        door::call(&self.place, noun, verb, &body)
    }
}

impl AccessKeyVerb {
    pub fn run(self) -> Result<ExitCode, Failure> {
        const NOUN: &str = "access-key";
        match self {
            Self::Create { user, at, out } => {
                let key = at.call(NOUN, "create", json!({ "user": user }))?;
                secret(at.output, &key, out.as_deref(), key_lines)
            }
            Self::Rotate { id, at, out } => {
                let key = at.call(NOUN, "rotate", json!({ "id": id }))?;
                secret(at.output, &key, out.as_deref(), key_lines)
            }
            Self::List { user, at } => {
                let keys = at.call(NOUN, "list", json!({ "user": user }))?;
                tell(at.output, &keys, || {
                    let rows = keys["AccessKeyMetadata"].as_array().map(Vec::as_slice).unwrap_or_default();
                    table(rows, &["AccessKeyId", "UserName", "Status", "CreateDate", "LastUsedDate"])
                });
                Ok(ExitCode::SUCCESS)
            }
            Self::Activate { id, at } => state(&at, "activate", &id),
            Self::Deactivate { id, at } => state(&at, "deactivate", &id),
            Self::Delete { id, at } => state(&at, "delete", &id),
        }
    }
}

fn state(at: &At, verb: &str, id: &str) -> Result<ExitCode, Failure> {
    let done = at.call("access-key", verb, json!({ "id": id }))?;
    tell(at.output, &done, || format!("{id} {}", word(&done, "Status").to_lowercase()));
    Ok(ExitCode::SUCCESS)
}

impl ScramVerb {
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Set { user, at, mechanism, password_file, generate, iterations } => {
                let made = generate.then(schloss_crypto::SecretText::generate);
                let password = match (&made, password_file) {
                    (Some(made), _) => made.expose().to_owned(),
                    (None, Some(path)) => first_line(&path)?,
                    (None, None) => String::new(),
                };
                let mut body = json!({ "user": user, "mechanism": mechanism, "password": password });
                if let Some(iterations) = iterations {
                    body["iterations"] = json!(iterations);
                }
                let mut done = at.call("scram", "set", body)?;
                if let Some(made) = made {
                    done["Password"] = json!(made.expose());
                }
                tell(at.output, &done, || match done["Password"].as_str() {
                    Some(password) => format!("UserName  {user}\nMechanism {mechanism}\nPassword  {password}"),
                    None => format!("the password of `{user}` for {mechanism} is set"),
                });
            }
            Self::List { at } => {
                let done = at.call("scram", "list", json!({}))?;
                tell(at.output, &done, || {
                    let rows = done["ScramCredentials"].as_array().map(Vec::as_slice).unwrap_or_default();
                    table(rows, &["UserName", "Mechanism", "Iterations"])
                });
            }
            Self::Delete { user, at, mechanism } => {
                let done = at.call("scram", "delete", json!({ "user": user, "mechanism": mechanism }))?;
                tell(at.output, &done, || format!("the password of `{user}` for {mechanism} is deleted"));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl BootstrapVerb {
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Create { user, at, minutes, out } => {
                let made = at.call("bootstrap-token", "create", json!({ "user": user, "minutes": minutes }))?;
                secret(at.output, &made, out.as_deref(), |made| word(made, "Token").to_owned())
            }
            Self::Redeem { token_file, admin, ca, output } => {
                let ca = std::fs::read(&ca).map_err(|error| unreadable(&ca, &error))?;
                let body = json!({ "token": first_line(&token_file)? });
                let key = door::post_unsigned(&admin, &ca, "/v1/bootstrap-token/redeem", &body)?;
                tell(output, &key, || key_lines(&key));
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn word<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn key_lines(key: &Value) -> String {
    format!(
        "UserName        {}\nAccessKeyId     {}\nSecretAccessKey {}",
        word(key, "UserName"),
        word(key, "AccessKeyId"),
        word(key, "SecretAccessKey")
    )
}

/// Shows a secret, or writes it where only its owner may read.
fn secret(output: Output, made: &Value, out: Option<&Path>, lines: fn(&Value) -> String) -> Result<ExitCode, Failure> {
    let Some(path) = out else {
        tell(output, made, || lines(made));
        return Ok(ExitCode::SUCCESS);
    };
    let text = if output == Output::Json { made.to_string() } else { lines(made) };
    write_private(path, &text).map_err(|error| {
        // The secret exists and nobody has it: say so rather than hide it.
        let what = format!("`{}`: {error}; what was made cannot be shown again", path.display());
        Failure::new(Number::File, what, "delete it, and make another with a file that does not exist yet")
    })?;
    println!("written to `{}`, readable by its owner only", path.display());
    Ok(ExitCode::SUCCESS)
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Number::File, format!("`{}`: {error}", path.display()), "name a file that can be read")
}

fn first_line(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| unreadable(path, &error))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Rows under their headings, columns aligned.
fn table(rows: &[Value], columns: &[&str]) -> String {
    let cell = |row: &Value, column: &str| match row.get(column) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    let lines = std::iter::once(columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>())
        .chain(rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()));
    let lines: Vec<Vec<String>> = lines.collect();
    let width = |at: usize| lines.iter().filter_map(|line| line.get(at)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let draw = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(draw).collect::<Vec<_>>().join("\n")
}
