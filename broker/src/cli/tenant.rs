//! `schloss tenant`: tenants and their KMS keys, in the organisation's folder and in the running broker.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::folder::{self, Applied};
use super::keys::Asked;
use super::layout::Layout;
use super::{Failure, Number, Output, Place, serve};
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub enum Tenant {
    /// Add a tenant to the organisation's folder.
    #[command(after_help = "Example:
  schloss tenant create initech --account 333333333333 \\
      --kms-key arn:aws:kms:eu-central-1:333333333333:key/…

It has no users and no policies yet: `schloss iam` makes them. Its clients' CA goes into `tls.client.ca.dir` as <alias>.pem.")]
    Create(Create),
    /// Make a KMS key the tenant's current one; the old one may still open what it wrapped.
    #[command(after_help = "Example:
  schloss tenant set-key acme --kms-key arn:aws:kms:eu-central-1:111111111111:key/…
  schloss keys rewrap acme")]
    SetKey(Change),
    /// Take an old KMS key away, after a re-wrap.
    DropKey(Change),
    /// Keys, their states, and what is wrapped by which.
    #[command(after_help = "Example:
  schloss tenant show acme --output json")]
    Show {
        /// Alias or account; all without one.
        tenant: Option<String>,
        #[command(flatten)]
        door: Asked,
    },
}

#[derive(Debug, Args)]
pub struct Create {
    /// Short name, also its folder's.
    alias: String,
    /// Account: twelve digits.
    #[arg(long)]
    account: String,
    /// The KMS key that wraps its data keys.
    #[arg(long, value_name = "KEY")]
    kms_key: String,
    /// A role to assume for its keys (AWS).
    #[arg(long, value_name = "ARN")]
    kms_role: Option<String>,
    /// Sent when the role is assumed.
    #[arg(long, value_name = "ID")]
    kms_external_id: Option<String>,
    /// Region in its cluster's ARN.
    #[arg(long, default_value = "eu-central-1")]
    region: String,
    /// A host name its clients dial; may be repeated.
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    #[command(flatten)]
    place: Place,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
pub struct Change {
    /// Alias of the tenant.
    alias: String,
    /// The KMS key.
    #[arg(long, value_name = "KEY")]
    kms_key: String,
    #[command(flatten)]
    place: Place,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Tenant {
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Create(create) => create.run(),
            Self::SetKey(change) => change.run(set_key),
            Self::DropKey(change) => change.run(drop_key),
            Self::Show { tenant, door } => {
                door.ask("tenant", "show", &json!({ "tenant": tenant }))?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn config(place: &Place) -> Result<Config, Failure> {
    let no_folder = |error: std::io::Error| Failure::new(Number::File, error, "change to a folder that exists");
    let layout = Layout::new(place.dir.as_deref()).map_err(no_folder)?;
    serve::read(place.config.as_deref().unwrap_or(&layout.config))
}

fn file_of(alias: &str) -> String {
    format!("tenants/{alias}/tenant.toml")
}

fn tell(output: Output, alias: &str, key: &str, applied: Applied) {
    let in_force = applied == Applied::InForce;
    match output {
        Output::Json => println!("{}", json!({ "tenant": alias, "kms_key": key, "in_force": in_force })),
        Output::Text if in_force => println!("{alias}: in force"),
        Output::Text => println!("{alias}: written; no running broker has reported it yet"),
    }
}

impl Create {
    fn run(self) -> Result<ExitCode, Failure> {
        let config = config(&self.place)?;
        let file = file_of(&self.alias);
        if folder::files(&config)?.contains_key(&file) {
            return Err(Failure::new(
                Number::Organisation,
                format!("there is a tenant `{}` already", self.alias),
                "choose another alias, or change its key with `schloss tenant set-key`",
            ));
        }
        let mut tenant = toml_edit::DocumentMut::new();
        let mut put = |key: &str, value: toml_edit::Value| drop(tenant.insert(key, toml_edit::Item::Value(value)));
        put("account", self.account.into());
        put("alias", self.alias.as_str().into());
        put("kms_key", self.kms_key.as_str().into());
        if let Some(role) = self.kms_role {
            put("kms_role", role.into());
        }
        if let Some(id) = self.kms_external_id {
            put("kms_external_id", id.into());
        }
        if !self.hosts.is_empty() {
            put("hosts", self.hosts.into_iter().collect::<toml_edit::Array>().into());
        }
        let mut cluster = toml_edit::Table::new();
        let mut put = |key: &str, value: String| drop(cluster.insert(key, toml_edit::value(value)));
        put("name", self.alias.clone());
        put("uuid", format!("{}-1", uuid::Uuid::new_v4()));
        put("region", self.region);
        tenant.insert("cluster", toml_edit::Item::Table(cluster));
        let applied = folder::change(&config, vec![(file, Some(tenant.to_string()))])?;
        tell(self.output, &self.alias, &self.kms_key, applied);
        Ok(ExitCode::SUCCESS)
    }
}

impl Change {
    fn run(
        self,
        edit: impl Fn(&mut toml_edit::DocumentMut, &str) -> Result<(), &'static str>,
    ) -> Result<ExitCode, Failure> {
        let config = config(&self.place)?;
        let file = file_of(&self.alias);
        let files = folder::files(&config)?;
        let refused = |why: &str| {
            Failure::new(
                Number::Organisation,
                format!("tenant `{}`: {why}", self.alias),
                "`schloss tenant show` tells its keys; nothing was changed",
            )
        };
        let text = files.get(&file).ok_or_else(|| refused("there is no such tenant"))?;
        let mut tenant: toml_edit::DocumentMut = text.parse().map_err(|_| refused("its file is not TOML"))?;
        edit(&mut tenant, &self.kms_key).map_err(refused)?;
        let applied = folder::change(&config, vec![(file, Some(tenant.to_string()))])?;
        tell(self.output, &self.alias, &self.kms_key, applied);
        Ok(ExitCode::SUCCESS)
    }
}

fn others(tenant: &toml_edit::DocumentMut) -> Vec<String> {
    let listed = tenant.get("kms_keys").and_then(toml_edit::Item::as_array);
    listed.into_iter().flatten().filter_map(|key| key.as_str().map(str::to_owned)).collect()
}

fn put_others(tenant: &mut toml_edit::DocumentMut, keys: Vec<String>) {
    if keys.is_empty() {
        tenant.remove("kms_keys");
    } else {
        tenant["kms_keys"] = toml_edit::value(keys.into_iter().collect::<toml_edit::Array>());
    }
}

fn set_key(tenant: &mut toml_edit::DocumentMut, key: &str) -> Result<(), &'static str> {
    let old = tenant.get("kms_key").and_then(toml_edit::Item::as_str).ok_or("its file names no key")?.to_owned();
    if old == key {
        return Err("this is its current key already");
    }
    let mut keys: Vec<String> = others(tenant).into_iter().filter(|other| other != key).collect();
    keys.push(old);
    tenant["kms_key"] = toml_edit::value(key);
    put_others(tenant, keys);
    Ok(())
}

fn drop_key(tenant: &mut toml_edit::DocumentMut, key: &str) -> Result<(), &'static str> {
    let keys = others(tenant);
    if !keys.iter().any(|other| other == key) {
        return Err("this is none of its other keys");
    }
    put_others(tenant, keys.into_iter().filter(|other| other != key).collect());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_key_stays_until_it_is_dropped_and_comments_survive() {
        let mut tenant: toml_edit::DocumentMut = "# ours\nkms_key = \"a\" # first\n".parse().unwrap();
        set_key(&mut tenant, "b").unwrap();
        set_key(&mut tenant, "c").unwrap();
        assert_eq!((tenant["kms_key"].as_str(), others(&tenant)), (Some("c"), vec!["a".into(), "b".into()]));
        assert!(tenant.to_string().starts_with("# ours\n"));
        assert!(set_key(&mut tenant, "c").is_err() && drop_key(&mut tenant, "c").is_err());
        drop_key(&mut tenant, "a").unwrap();
        drop_key(&mut tenant, "b").unwrap();
        assert!(!tenant.to_string().contains("kms_keys"));
    }
}
