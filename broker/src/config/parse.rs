//! Reads the TOML text key by key, so that every mistake is told at once with its line.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml_edit::{Document, Item, Value};

use super::{
    AwsCredentialSource, Config, DelegationTokenLimits, GroupLimits, KeyringSecret, KmsConfig, KmsProvider, Limits,
    StorageConfig, login,
};
use crate::topic_config::{self, TopicDefaults};

/// One thing wrong with the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line, from 1; 0 when the mistake is an absence.
    pub line: usize,
    /// What is wrong and what to do.
    pub what: String,
}

/// All things wrong with the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file's name as given.
    pub file: String,
    /// In order of lines.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, mistake) in self.mistakes.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            if mistake.line > 0 {
                write!(f, "{}:{}: {}", self.file, mistake.line, mistake.what)?;
            } else {
                write!(f, "{}: {}", self.file, mistake.what)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Every key of the file, flattened to dotted names, with its line.
pub(super) struct Keys {
    values: BTreeMap<String, (Value, usize)>,
    mistakes: Vec<Mistake>,
}

impl Keys {
    pub(super) fn take(&mut self, name: &str) -> Option<(Value, usize)> {
        self.values.remove(name)
    }

    pub(super) fn mistake(&mut self, line: usize, what: impl Into<String>) {
        self.mistakes.push(Mistake { line, what: what.into() });
    }

    pub(super) fn text(&mut self, name: &str) -> Option<(String, usize)> {
        let (value, line) = self.take(name)?;
        match value {
            Value::String(text) if !text.value().is_empty() => Some((text.into_value(), line)),
            _ => {
                self.mistake(line, format!("`{name}` must be a text in quotes, and not empty"));
                None
            }
        }
    }

    fn required(&mut self, name: &str, example: &str) -> Option<(String, usize)> {
        if !self.values.contains_key(name) {
            self.mistake(0, format!("`{name}` is missing; add for instance `{name} = \"{example}\"`"));
            return None;
        }
        self.text(name)
    }

    pub(super) fn number(&mut self, name: &str, default: i64, least: i64, most: i64) -> i64 {
        let Some((value, line)) = self.take(name) else { return default };
        match value.as_integer() {
            Some(number) if (least..=most).contains(&number) => number,
            _ => {
                self.mistake(
                    line,
                    format!("`{name}` must be a whole number from {least} to {most} (default {default})"),
                );
                default
            }
        }
    }

    pub(super) fn size(&mut self, name: &str, default: usize, least: usize, most: usize) -> usize {
        let as_i64 = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        usize::try_from(self.number(name, as_i64(default), as_i64(least), as_i64(most))).unwrap_or(default)
    }

    pub(super) fn millis(&mut self, name: &str, default: u64, least: u64) -> Duration {
        let as_i64 = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Duration::from_millis(
            u64::try_from(self.number(name, as_i64(default), as_i64(least), 86_400_000)).unwrap_or(default),
        )
    }

    pub(super) fn boolean(&mut self, name: &str, default: bool) -> bool {
        let Some((value, line)) = self.take(name) else { return default };
        value.as_bool().unwrap_or_else(|| {
            self.mistake(line, format!("`{name}` must be true or false (default {default})"));
            default
        })
    }

    fn address(&mut self, name: &str, default: &str) -> SocketAddr {
        let (text, line) = self.text(name).unwrap_or_else(|| (default.to_owned(), 0));
        let bare = text.rsplit_once("://").map_or(text.as_str(), |(_, rest)| rest);
        if let Some((scheme, _)) = text.split_once("://")
            && !matches!(scheme, "SSL" | "SASL_SSL" | "https")
        {
            self.mistake(line, format!("`{name}`: there is no `{scheme}` listener, all are TLS; write `{bare}`"));
        }
        bare.replace("localhost", "127.0.0.1").parse().unwrap_or_else(|_| {
            self.mistake(line, format!("`{name}` must be `address:port`, for instance `{default}`"));
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }

    fn path(&mut self, name: &str, example: &str, base: &Path) -> PathBuf {
        self.required(name, example).map_or_else(PathBuf::new, |(text, _)| base.join(text))
    }
}

pub(super) fn config(file: &str, text: &str, base: &Path) -> Result<Config, ConfigErrors> {
    let mut keys = Keys { values: BTreeMap::new(), mistakes: Vec::new() };
    let document = well_formed(text, &mut keys);
    flatten(document.as_table(), "", document.raw(), &mut keys);

    let listeners = login::listeners(&mut keys);
    let data_dir = keys.path("data.dir", "/var/lib/schloss", base);
    let topic_keys_dir = topic_keys_dir(&mut keys, base, &data_dir);
    let config = Config {
        node_id: i32::try_from(keys.number("node.id", 1, 0, i64::from(i32::MAX))).unwrap_or(1),
        listeners,
        login: login::login(&mut keys, base),
        admin_listener: keys.address("admin.listener", "127.0.0.1:9095"),
        data_dir,
        topic_keys_dir,
        organisation_dir: keys.path("organisation.dir", "/etc/schloss/organisation", base),
        tls_certificate: keys.path("tls.certificate.file", "/etc/schloss/server.pem", base),
        tls_key: keys.path("tls.key.file", "/etc/schloss/server.key", base),
        client_ca_dir: keys.path("tls.client.ca.dir", "/etc/schloss/client-ca", base),
        operator_ca: keys.text("admin.client.ca.file").map(|(text, _)| base.join(text)),
        kms: kms(&mut keys, base),
        auto_create_topics: keys.boolean("auto.create.topics.enable", true),
        topic_defaults: topic_defaults(&mut keys),
        limits: limits(&mut keys),
        groups: groups(&mut keys),
        delegation_tokens: delegation_tokens(&mut keys),
        storage: storage(&mut keys),
    };
    let unknown: Vec<_> = keys.values.iter().map(|(name, (_, line))| (name.clone(), *line)).collect();
    for (name, line) in unknown {
        keys.mistake(line, format!("`{name}` is no key of this file{}", suggestion(&name)));
    }
    if keys.mistakes.is_empty() {
        Ok(config)
    } else {
        keys.mistakes.sort_by_key(|mistake| (mistake.line == 0, mistake.line));
        Err(ConfigErrors { file: file.to_owned(), mistakes: keys.mistakes })
    }
}

/// A dotted key is one name: Kafka has names that others begin with (`max.connections`, `max.connections.per.ip`), which
/// TOML would take for a value and a table of the same name.
fn one_name(line: &str) -> String {
    let key = line.split_once('=').map_or("", |(key, _)| key.trim());
    let bare = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if bare && key.contains('.') { line.replacen(key, &format!("\"{key}\""), 1) } else { line.to_owned() }
}

/// The lines that are TOML. One that is not is told and left out, so that the others are still read and judged.
fn well_formed(text: &str, keys: &mut Keys) -> Document<String> {
    let text: Vec<String> = text.split('\n').map(one_name).collect();
    let mut lines: Vec<&str> = text.iter().map(String::as_str).collect();
    loop {
        match Document::parse(lines.join("\n")) {
            Ok(document) => return document,
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(&lines.join("\n"), span.start));
                let Some(wrong) =
                    line.checked_sub(1).and_then(|at| lines.get_mut(at)).filter(|wrong| !wrong.is_empty())
                else {
                    keys.mistake(line, error.message().to_owned());
                    return Document::parse(String::new()).unwrap_or_else(|_| unreachable!("no text is well formed"));
                };
                let key = wrong.split('=').next().unwrap_or_default().trim().to_owned();
                *wrong = "";
                keys.mistake(line, format!("`{key}`: {}", error.message()));
            }
        }
    }
}

/// Beside the data folder, never in it: the point is that a copy of the one does not hold the other.
fn topic_keys_dir(keys: &mut Keys, base: &Path, data_dir: &Path) -> PathBuf {
    let Some((text, line)) = keys.text("topic.keys.dir") else {
        let name = data_dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        return data_dir.with_file_name(format!("{name}-topic-keys"));
    };
    let folder = base.join(text);
    if folder.starts_with(data_dir) {
        keys.mistake(line, "`topic.keys.dir` must not lie in `data.dir`: a copy of that must open no shredded topic");
    }
    folder
}

fn kms(keys: &mut Keys, base: &Path) -> KmsConfig {
    let cluster_key = keys.required("kms.cluster.key", "local:cluster").map_or_else(String::new, |(text, _)| text);
    let former = keys.text("kms.cluster.keys").map(|(text, _)| text).unwrap_or_default();
    let cluster_keys = former.split(',').map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()).collect();
    let (name, line) = keys.required("kms.provider", "local").unwrap_or_default();
    let provider = match name.as_str() {
        "aws" => aws_kms(keys, base),
        "vault" => KmsProvider::Vault {
            address: keys
                .required("kms.vault.address", "https://vault.example:8200")
                .map_or_else(String::new, |(text, _)| text),
            mount: keys.text("kms.vault.mount").map_or_else(|| "transit".to_owned(), |(text, _)| text),
            namespace: keys.text("kms.vault.namespace").map(|(text, _)| text),
            token_file: keys.path("kms.vault.token.file", "/run/schloss/vault-token", base),
            ca_file: keys.text("kms.vault.ca.file").map(|(text, _)| base.join(text)),
        },
        _ => {
            if name != "local" && !name.is_empty() {
                keys.mistake(line, format!("`kms.provider` is `local`, `aws` or `vault`, not `{name}`"));
            }
            let keyring = keys.path("kms.local.keyring.file", "/etc/schloss/keyring", base);
            let key_file = keys.text("kms.local.key.file").map(|(text, _)| base.join(text));
            let passphrase = keys.text("kms.local.passphrase.file").map(|(text, _)| base.join(text));
            let secret = match (key_file, passphrase) {
                (Some(path), None) => KeyringSecret::KeyFile(path),
                (None, Some(path)) => KeyringSecret::PassphraseFile(path),
                _ => {
                    keys.mistake(
                        0,
                        "say either `kms.local.key.file` or `kms.local.passphrase.file`: what opens the keyring",
                    );
                    KeyringSecret::KeyFile(PathBuf::new())
                }
            };
            KmsProvider::Local { keyring, secret }
        }
    };
    let outage_grace = keys.millis("kms.outage.grace.ms", 900_000, 0);
    let call_timeout = keys.millis("kms.call.timeout.ms", 10_000, 100);
    KmsConfig { cluster_key, cluster_keys, outage_grace, call_timeout, provider }
}

fn aws_kms(keys: &mut Keys, base: &Path) -> KmsProvider {
    let (source, line) = keys.text("kms.aws.credentials").unwrap_or_else(|| ("chain".to_owned(), 0));
    let credentials = match source.as_str() {
        "static" => {
            AwsCredentialSource::Static(keys.path("kms.aws.credentials.file", "/etc/schloss/aws-credentials", base))
        }
        "profile" => AwsCredentialSource::Profile(
            keys.text("kms.aws.profile").map_or_else(|| "default".to_owned(), |(text, _)| text),
        ),
        "web-identity" => AwsCredentialSource::WebIdentity,
        "instance" => AwsCredentialSource::Instance,
        other => {
            if other != "chain" {
                let words = "`chain`, `static`, `profile`, `web-identity` or `instance`";
                keys.mistake(line, format!("`kms.aws.credentials` is {words}, not `{other}`"));
            }
            AwsCredentialSource::Chain
        }
    };
    KmsProvider::Aws {
        region: keys.required("kms.aws.region", "eu-central-1").map_or_else(String::new, |(text, _)| text),
        endpoint: url(keys, "kms.aws.endpoint"),
        sts_endpoint: url(keys, "kms.aws.sts.endpoint"),
        fips: keys.boolean("kms.aws.fips", false),
        credentials,
    }
}

fn url(keys: &mut Keys, name: &str) -> Option<String> {
    let (text, line) = keys.text(name)?;
    let whole = text.starts_with("https://") || text.starts_with("http://");
    if !whole || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        keys.mistake(line, format!("`{name}` must be an address like `https://host:port`"));
    }
    Some(text)
}

/// Broker-wide defaults of topic settings, under Kafka's broker names (`log.retention.ms` for `retention.ms`).
fn topic_defaults(keys: &mut Keys) -> TopicDefaults {
    let mut defaults = TopicDefaults::kafka();
    defaults.partitions = i32::try_from(keys.number("num.partitions", 1, 1, 10_000)).unwrap_or(1);
    for definition in topic_config::DEFINITIONS {
        let Some(broker_name) = definition.broker_name else { continue };
        let Some((value, line)) = keys.take(broker_name) else { continue };
        let text = match &value {
            Value::String(text) => text.value().clone(),
            Value::Integer(number) => number.value().to_string(),
            Value::Boolean(truth) => truth.value().to_string(),
            Value::Float(number) => number.value().to_string(),
            _ => String::new(),
        };
        match definition.check(&text) {
            Ok(()) => {
                defaults.values.insert(definition.name, text);
            }
            Err(why) => keys.mistake(line, format!("`{broker_name}`: {why}")),
        }
    }
    for (name, factor) in [("log.retention.minutes", 60_000_i64), ("log.retention.hours", 3_600_000)] {
        if let Some((value, line)) = keys.take(name) {
            match value.as_integer() {
                Some(-1) => drop(defaults.values.insert("retention.ms", "-1".to_owned())),
                Some(number) if (0..=i64::from(i32::MAX)).contains(&number) => {
                    defaults.values.insert("retention.ms", number.saturating_mul(factor).to_string());
                }
                _ => keys.mistake(line, format!("`{name}` must be a whole number, or -1 for no limit")),
            }
        }
    }
    defaults
}

fn limits(keys: &mut Keys) -> Limits {
    const MIB: usize = 1024 * 1024;
    let limits = Limits {
        request_bytes_max: keys.size("socket.request.max.bytes", 100 * MIB, 64 * 1024, 1024 * MIB),
        connections_max: keys.size("max.connections", 10_000, 1, 1_000_000),
        connections_per_ip_max: keys.size("max.connections.per.ip", 2_000, 1, 1_000_000),
        idle: keys.millis("connections.max.idle.ms", 600_000, 1_000),
        handshake: keys.millis("connection.handshake.timeout.ms", 10_000, 100),
        write: keys.millis("connection.write.timeout.ms", 30_000, 100),
        inflight_max: keys.size("connection.inflight.max", 64, 1, 10_000),
        queued_request_bytes_max: keys.size("queued.max.request.bytes", 512 * MIB, MIB, 1024 * 1024 * MIB),
        drain: keys.millis("shutdown.drain.timeout.ms", 10_000, 0),
        fetch_bytes_max: keys.size("fetch.max.bytes", 55 * MIB, 1024, 1024 * MIB),
        topics_per_tenant_max: keys.size("max.topics.per.tenant", 10_000, 1, 10_000_000),
        partitions_per_tenant_max: keys.size("max.partitions.per.tenant", 20_000, 1, 10_000_000),
    };
    if limits.queued_request_bytes_max < limits.request_bytes_max {
        // A request of the size allowed would wait for ever for memory it can never have.
        keys.mistake(0, "`queued.max.request.bytes` must be at least `socket.request.max.bytes`");
    }
    limits
}

fn groups(keys: &mut Keys) -> GroupLimits {
    let number = |keys: &mut Keys, name, default: i32| {
        i32::try_from(keys.number(name, i64::from(default), 0, i64::from(i32::MAX))).unwrap_or(default)
    };
    GroupLimits {
        session_timeout_min_ms: number(keys, "group.min.session.timeout.ms", 6_000),
        session_timeout_max_ms: number(keys, "group.max.session.timeout.ms", 1_800_000),
        initial_rebalance_delay_ms: number(keys, "group.initial.rebalance.delay.ms", 3_000),
        size_max: keys.size("group.max.size", 10_000, 1, 1_000_000),
        groups_per_tenant_max: keys.size("max.groups.per.tenant", 10_000, 1, 10_000_000),
        offset_metadata_bytes_max: keys.size("offset.metadata.max.bytes", 4096, 0, 65_536),
        offsets_retention_ms: keys.number("offsets.retention.minutes", 10_080, 1, 5_256_000).saturating_mul(60_000),
    }
}

fn delegation_tokens(keys: &mut Keys) -> DelegationTokenLimits {
    const DAY_MS: i64 = 86_400_000;
    DelegationTokenLimits {
        max_lifetime_ms: keys.number("delegation.token.max.lifetime.ms", 7 * DAY_MS, 1_000, 3_650 * DAY_MS),
        expiry_ms: keys.number("delegation.token.expiry.time.ms", DAY_MS, 1_000, 3_650 * DAY_MS),
    }
}

fn storage(keys: &mut Keys) -> StorageConfig {
    const MIB: usize = 1024 * 1024;
    StorageConfig {
        shards: u32::try_from(keys.number("storage.shards", 2, 1, 256)).unwrap_or(2),
        tail_bytes_max: keys.size("storage.tail.bytes", 128 * MIB, 16 * MIB, 4096 * MIB),
        flush_bytes: keys.size("storage.flush.bytes", 32 * MIB, 64 * 1024, 1024 * MIB),
        flush_ms: u64::try_from(keys.number("storage.flush.ms", 60_000, 10, 86_400_000)).unwrap_or(60_000),
        cache_bytes_max: keys.size("storage.cache.bytes", 64 * MIB, MIB, 64 * 1024 * MIB),
        scrub_every: Duration::from_millis(
            u64::try_from(keys.number("storage.scrub.interval.ms", 604_800_000, 1_000, 31_536_000_000))
                .unwrap_or(604_800_000),
        ),
        retention_check_ms: u64::try_from(keys.number("log.retention.check.interval.ms", 300_000, 10, 86_400_000))
            .unwrap_or(300_000),
    }
}

fn flatten(table: &dyn toml_edit::TableLike, prefix: &str, text: &str, keys: &mut Keys) {
    for (key, item) in table.iter() {
        let name = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
        let line = item.span().map_or(0, |span| line_of(text, span.start));
        match item {
            Item::Value(Value::InlineTable(inner)) => flatten(inner, &name, text, keys),
            Item::Value(value) => drop(keys.values.insert(name, (value.clone(), line))),
            Item::Table(inner) => flatten(inner, &name, text, keys),
            Item::ArrayOfTables(_) => keys.mistake(line, format!("`{name}` cannot be a list of tables")),
            Item::None => {}
        }
    }
}

fn line_of(text: &str, position: usize) -> usize {
    text.as_bytes().iter().take(position).filter(|byte| **byte == b'\n').count().saturating_add(1)
}

/// What people bring over from a Kafka file, and where it went.
fn suggestion(name: &str) -> String {
    match name {
        "log.dirs" | "log.dir" => "; here it is `data.dir`".to_owned(),
        "security.inter.broker.protocol"
        | "listener.security.protocol.map"
        | "allow.everyone.if.no.acl.found"
        | "authorizer.class.name" => {
            "; TLS, authentication and authorisation are always on, take the line out".to_owned()
        }
        "default.replication.factor" | "offsets.topic.replication.factor" | "min.insync.replicas" => {
            "; there is no replication to configure, the store is durable before every acknowledgement".to_owned()
        }
        _ => "; take it out or see the manual, chapter operations".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
data.dir = "data"
organisation.dir = "organisation"
tls.certificate.file = "server.pem"
tls.key.file = "server.key"
tls.client.ca.dir = "ca"
kms.provider = "local"
kms.cluster.key = "local:cluster"
kms.local.keyring.file = "keyring"
kms.local.key.file = "keyring.key"
"#;

    fn parse(text: &str) -> Result<Config, ConfigErrors> {
        config("schloss.toml", text, Path::new("/base"))
    }

    #[test]
    fn least_file_takes_safe_defaults_and_relative_paths_start_at_the_file() {
        let config = parse(WHOLE).unwrap();
        assert_eq!(config.data_dir, Path::new("/base/data"));
        assert_eq!(config.topic_defaults.get("retention.ms"), "604800000");
        assert_eq!(config.limits.request_bytes_max, 104_857_600);
        assert_eq!(config.listeners[0].advertised.port, 9094);
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_line() {
        let text = format!("{WHOLE}log.retention.ms = \"soon\"\nnode.id = -5\nlog.dirs = \"/x\"\n");
        let errors = parse(&text).unwrap_err();
        let lines: Vec<_> = errors.mistakes.iter().map(|mistake| mistake.line).collect();
        assert_eq!(lines, [11, 12, 13], "{errors}");
        assert!(
            errors.to_string().contains("schloss.toml:13: `log.dirs` is no key of this file; here it is `data.dir`")
        );
    }

    #[test]
    fn absent_required_keys_are_all_named() {
        let errors = parse("").unwrap_err().to_string();
        for name in ["data.dir", "organisation.dir", "tls.key.file", "kms.provider", "kms.cluster.key"] {
            assert!(errors.contains(&format!("`{name}` is missing")), "{name}: {errors}");
        }
    }

    #[test]
    fn requests_that_could_never_be_held_are_refused_with_the_file() {
        let errors = parse(&format!("{WHOLE}queued.max.request.bytes = 2000000\n")).unwrap_err();
        assert!(errors.to_string().contains("`queued.max.request.bytes` must be at least"), "{errors}");
    }

    #[test]
    fn plaintext_listener_is_refused() {
        let errors = parse(&format!("{WHOLE}listeners = \"PLAINTEXT://0.0.0.0:9092\"\n")).unwrap_err();
        assert!(errors.to_string().contains("there is no `PLAINTEXT` listener"), "{errors}");
    }

    #[test]
    fn key_that_is_the_beginning_of_another_may_stand_beside_it() {
        let config = parse(&format!("{WHOLE}max.connections = 50\nmax.connections.per.ip = 5\n")).unwrap();
        assert_eq!((config.limits.connections_max, config.limits.connections_per_ip_max), (50, 5));
    }

    #[test]
    fn address_of_aws_with_a_blank_or_without_a_scheme_is_refused() {
        for wrong in ["sts.internal:443", "https://sts.internal/\\nsts"] {
            let aws = WHOLE.replace("\"local\"", "\"aws\"");
            let text = format!("{aws}kms.aws.region = \"eu-central-1\"\nkms.aws.sts.endpoint = \"{wrong}\"\n");
            let errors = parse(&text).unwrap_err().to_string();
            assert!(errors.contains("`kms.aws.sts.endpoint` must be an address like"), "{errors}");
        }
    }

    #[test]
    fn nested_tables_mean_the_same_as_dotted_keys() {
        let config = parse(&format!("{WHOLE}[log.retention]\nhours = 1\n")).unwrap();
        assert_eq!(config.topic_defaults.get("retention.ms"), "3600000");
    }
}
