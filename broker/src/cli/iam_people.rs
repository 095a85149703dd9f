//! `schloss iam user|group|role`: principals are files of the organisation's folder; these commands write them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::door::{self, DoorPlace};
use super::folder::{self, Applied};
use super::{Failure, Number, Output, Place, audit};

/// The three kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    User,
    Group,
    Role,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
            Self::Role => "role",
        }
    }

    fn path(self, tenant: &str, name: &str) -> String {
        format!("tenants/{tenant}/{}s/{name}.toml", self.word())
    }
}

/// Which one.
#[derive(Debug, Args)]
pub struct Named {
    /// Its name.
    name: String,
    /// Alias of its tenant.
    #[arg(long, value_name = "ALIAS")]
    tenant: String,
    #[command(flatten)]
    place: Place,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// All of a tenant.
#[derive(Debug, Args)]
pub struct OfTenant {
    /// Alias of the tenant.
    #[arg(long, value_name = "ALIAS")]
    tenant: String,
    #[command(flatten)]
    place: Place,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What a principal may.
#[derive(Debug, Default, Args)]
pub struct Rights {
    /// A policy of the tenant, or `managed/<name>`; may be repeated.
    #[arg(long = "policy", value_name = "NAME")]
    policies: Vec<String>,
    /// The permission boundary: a policy that limits what the others allow.
    #[arg(long, value_name = "NAME")]
    boundary: Option<String>,
    /// A tag, `key=value`; may be repeated.
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum UserVerb {
    /// Write a user's file.
    #[command(after_help = "Example:
  schloss iam user create ann --tenant acme --group auditors --policy managed/consumer")]
    Create {
        #[command(flatten)]
        named: Named,
        #[command(flatten)]
        rights: Rights,
        /// A group of the tenant; may be repeated.
        #[arg(long = "group", value_name = "NAME")]
        groups: Vec<String>,
    },
    /// Names of a tenant's users.
    List(OfTenant),
    /// One user's file.
    Show(Named),
    /// Remove a user's file. Its connections are cut; delete its access keys and passwords, too.
    Delete(Named),
}

#[derive(Debug, Subcommand)]
pub enum GroupVerb {
    /// Write a group's file.
    #[command(after_help = "Example:
  schloss iam group create readers --tenant acme --policy managed/consumer")]
    Create {
        #[command(flatten)]
        named: Named,
        /// A policy of the tenant, or `managed/<name>`; may be repeated.
        #[arg(long = "policy", value_name = "NAME")]
        policies: Vec<String>,
    },
    /// Names of a tenant's groups.
    List(OfTenant),
    /// One group's file.
    Show(Named),
    /// Remove a group's file; refused while users name it.
    Delete(Named),
}

#[derive(Debug, Subcommand)]
pub enum RoleVerb {
    /// Write a role's file and its trust policy.
    #[command(after_help = "Example:
  schloss iam role create reader --tenant acme --policy managed/consumer --trust trust.json")]
    Create {
        #[command(flatten)]
        named: Named,
        #[command(flatten)]
        rights: Rights,
        /// The trust policy: who may assume the role. Nobody may without.
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
        /// The longest session, in seconds (3600 to 43200).
        #[arg(long, value_name = "SECONDS")]
        max_session_duration: Option<u32>,
    },
    /// Names of a tenant's roles.
    List(OfTenant),
    /// One role's file.
    Show(Named),
    /// Remove a role's file and its trust policy. Its connections are cut.
    Delete(Named),
    /// End every session of a role that was made until now.
    #[command(after_help = "Example:
  schloss iam role revoke-sessions reader --tenant acme")]
    RevokeSessions {
        /// The role.
        name: String,
        /// Alias or account of its tenant.
        #[arg(long, value_name = "ALIAS")]
        tenant: String,
        #[command(flatten)]
        place: DoorPlace,
        /// Form of the answer.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

impl UserVerb {
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Create { named, rights, groups } => {
                let mut file = rights.lines()?;
                file.insert(0, list("groups", &groups));
                create(Kind::User, &named, file, None)
            }
            Self::List(of) => names(Kind::User, &of),
            Self::Show(named) => show(Kind::User, &named),
            Self::Delete(named) => delete(Kind::User, &named),
        }
    }
}

impl GroupVerb {
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Create { named, policies } => create(Kind::Group, &named, vec![list("policies", &policies)], None),
            Self::List(of) => names(Kind::Group, &of),
            Self::Show(named) => show(Kind::Group, &named),
            Self::Delete(named) => delete(Kind::Group, &named),
        }
    }
}

impl RoleVerb {
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Create { named, rights, trust, max_session_duration } => {
                let mut file = Vec::new();
                let trust = trust.map(|path| read(&path)).transpose()?;
                if trust.is_some() {
                    file.push(format!("trust = {}", quoted(&named.name)));
                }
                file.extend(max_session_duration.map(|seconds| format!("max_session_duration = {seconds}")));
                file.extend(rights.lines()?);
                create(Kind::Role, &named, file, trust)
            }
            Self::List(of) => names(Kind::Role, &of),
            Self::Show(named) => show(Kind::Role, &named),
            Self::Delete(named) => delete(Kind::Role, &named),
            Self::RevokeSessions { name, tenant, place, output } => {
                let body = json!({ "tenant": tenant, "role": name });
                let done = door::call(&place, "role", "revoke-sessions", &body)?;
                tell(output, &done, || format!("sessions of `{name}` made before {} are ended", done["RevokedBefore"]));
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

impl Rights {
    /// Lines of the file; the table of tags last, as TOML wants it.
    fn lines(&self) -> Result<Vec<String>, Failure> {
        let mut lines = vec![list("policies", &self.policies)];
        lines.extend(self.boundary.as_ref().map(|name| format!("boundary = {}", quoted(name))));
        if !self.tags.is_empty() {
            lines.push("\n[tags]".to_owned());
        }
        for tag in &self.tags {
            let (key, value) = tag.split_once('=').ok_or_else(|| {
                Failure::new(Number::Usage, format!("`--tag {tag}` has no `=`"), "write --tag key=value")
            })?;
            lines.push(format!("{} = {}", quoted(key), quoted(value)));
        }
        Ok(lines)
    }
}

/// A text as TOML writes it; JSON's escapes are a part of TOML's.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn list(key: &str, values: &[String]) -> String {
    format!("{key} = [{}]", values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", "))
}

fn read(path: &std::path::Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::new(Number::File, format!("`{}`: {error}", path.display()), "name a file that can be read")
    })
}

/// A name becomes a part of a path: nothing that leads out of the folder.
fn checked(text: &str) -> Result<&str, Failure> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
    if (1..=64).contains(&text.len()) && text.bytes().all(fits) && !text.starts_with('.') {
        Ok(text)
    } else {
        Err(Failure::new(Number::Usage, "a name is 1 to 64 of letters, digits and `+=,.@_-`", "choose another name"))
    }
}

/// The file, and whether it is there.
fn find(kind: Kind, named: &Named) -> Result<(crate::config::Config, BTreeMap<String, String>, String), Failure> {
    let config = audit::config(&named.place)?;
    let path = kind.path(checked(&named.tenant)?, checked(&named.name)?);
    let files = folder::files(&config)?;
    if !files.contains_key(&format!("tenants/{}/tenant.toml", named.tenant)) {
        let what = format!("there is no tenant `{}`", named.tenant);
        return Err(Failure::new(Number::Usage, what, "`schloss tenant list` tells them"));
    }
    Ok((config, files, path))
}

fn create(kind: Kind, named: &Named, lines: Vec<String>, trust: Option<String>) -> Result<ExitCode, Failure> {
    let (config, files, path) = find(kind, named)?;
    if files.contains_key(&path) {
        let what = format!("the {} `{}` exists already", kind.word(), named.name);
        return Err(Failure::new(Number::Usage, what, format!("edit `{path}`, or delete it first")));
    }
    let mut edit = Vec::new();
    edit.extend(trust.map(|text| (format!("tenants/{}/trust/{}.json", named.tenant, named.name), Some(text))));
    edit.push((path.clone(), Some(format!("{}\n", lines.join("\n")))));
    report(kind, named, &path, "created", folder::change(&config, edit)?)
}

fn delete(kind: Kind, named: &Named) -> Result<ExitCode, Failure> {
    let (config, files, path) = find(kind, named)?;
    if !files.contains_key(&path) {
        return Err(absent(kind, named));
    }
    let mut edit = vec![(path.clone(), None)];
    let trust = format!("tenants/{}/trust/{}.json", named.tenant, named.name);
    if kind == Kind::Role && files.contains_key(&trust) {
        edit.push((trust, None));
    }
    report(kind, named, &path, "deleted", folder::change(&config, edit)?)
}

fn report(kind: Kind, named: &Named, path: &str, done: &str, applied: Applied) -> Result<ExitCode, Failure> {
    let in_force = applied == Applied::InForce;
    let told = json!({ "kind": kind.word(), "name": named.name, "tenant": named.tenant, "file": path, "done": done, "in_force": in_force });
    tell(named.output, &told, || {
        let state = if in_force { "in force" } else { "written; a running broker takes it over within a second" };
        format!("{} `{}` {done} ({path}), {state}", kind.word(), named.name)
    });
    Ok(ExitCode::SUCCESS)
}

fn absent(kind: Kind, named: &Named) -> Failure {
    let what = format!("the tenant `{}` has no {} `{}`", named.tenant, kind.word(), named.name);
    Failure::new(
        Number::Usage,
        what,
        format!("`schloss iam {} list --tenant {}` tells them", kind.word(), named.tenant),
    )
}

fn names(kind: Kind, of: &OfTenant) -> Result<ExitCode, Failure> {
    let config = audit::config(&of.place)?;
    let folder = format!("tenants/{}/{}s/", checked(&of.tenant)?, kind.word());
    let files = folder::files(&config)?;
    let names: Vec<&str> = files.keys().filter_map(|path| path.strip_prefix(&folder)?.strip_suffix(".toml")).collect();
    tell(of.output, &json!({ format!("{}s", kind.word()): names }), || names.join("\n"));
    Ok(ExitCode::SUCCESS)
}

fn show(kind: Kind, named: &Named) -> Result<ExitCode, Failure> {
    let (_, files, path) = find(kind, named)?;
    let text = files.get(&path).ok_or_else(|| absent(kind, named))?;
    let trust = files.get(&format!("tenants/{}/trust/{}.json", named.tenant, named.name));
    let trust = trust.filter(|_| kind == Kind::Role);
    let told = json!({
        "kind": kind.word(), "name": named.name, "tenant": named.tenant, "file": path, "text": text,
        "trust": trust.and_then(|text| serde_json::from_str::<Value>(text).ok()),
    });
    tell(named.output, &told, || format!("# {path}\n{text}{}", trust.map(String::as_str).unwrap_or_default()));
    Ok(ExitCode::SUCCESS)
}

/// Writes an answer in the form that was asked for.
pub fn tell(output: Output, value: &Value, text: impl FnOnce() -> String) {
    match output {
        Output::Json => println!("{value}"),
        Output::Text => println!("{}", text()),
    }
}
