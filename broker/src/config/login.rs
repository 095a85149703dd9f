//! How connections may log in: listeners with their allowed ways, and the limits of logins.
//!
//! `listeners` may name several, as Kafka's does: `"MTLS://0.0.0.0:9094,SCRAM://0.0.0.0:9096,IAM://0.0.0.0:9098"`. Kafka's
//! own `listener.name.<name>.` before `sasl.enabled.mechanisms` or `ssl.client.auth` sets them for one listener. Names
//! mean nothing else: each listener is TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schloss_authn::sasl::Mechanism;
use toml_edit::Value;

use super::Advertised;
use super::parse::Keys;

/// One socket for Kafka clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name, upper case; empty when there is one listener without a name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Host and port told to clients that came in here.
    pub advertised: Advertised,
    /// Whether clients show a certificate.
    pub client_auth: ClientAuth,
    /// The SASL mechanisms taken, in the order they are told.
    pub mechanisms: Vec<Mechanism>,
}

/// `ssl.client.auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate is asked for.
    None,
    /// One is asked for; who shows none must use SASL.
    Requested,
    /// Each client must show one.
    Required,
}

/// Everything about logins that is not of one listener.
#[derive(Clone, Debug)]
pub struct LoginConfig {
    /// `connections.max.reauth.ms`: how long any login lasts at most (KIP-368); `None` is no limit of its own.
    pub max_reauth: Option<Duration>,
    /// `connection.failed.authentication.delay.ms`: how long the first refusal is held back; it doubles with each further one.
    pub failure_delay: Duration,
    /// `max.connections.per.tenant`.
    pub connections_per_tenant_max: usize,
    /// `max.connections.per.principal`.
    pub connections_per_principal_max: usize,
    /// `max.connection.creation.rate`: new connections a second, in all.
    pub connection_rate: u32,
    /// `max.connection.creation.rate.per.ip`: from one address.
    pub connection_rate_per_ip: u32,
    /// `max.login.rate.per.tenant`: logins a second.
    pub login_rate_per_tenant: u32,
    /// `max.login.rate.per.principal`.
    pub login_rate_per_principal: u32,
    /// `sasl.default.tenant`: the alias whose SCRAM users need no prefix.
    pub default_tenant: Option<String>,
    /// `sasl.aws.msk.iam.single.use.signatures`: a signature opens one connection, not several from one address.
    pub single_use_signatures: bool,
    /// `sasl.oauthbearer.jwks.*`: where keys of identity providers may be fetched from.
    pub jwks: JwksConfig,
}

/// Fetching of key sets.
#[derive(Clone, Debug)]
pub struct JwksConfig {
    /// `sasl.oauthbearer.jwks.allowed.hosts`: host names; none, and no key set is ever fetched.
    pub allowed_hosts: Vec<String>,
    /// `sasl.oauthbearer.jwks.private.hosts`: those that may have a private or loopback address.
    pub private_hosts: Vec<String>,
    /// `sasl.oauthbearer.jwks.ca.file`: authorities of these hosts, PEM; without it the system's.
    pub ca_file: Option<PathBuf>,
    /// `sasl.oauthbearer.jwks.endpoint.refresh.ms`.
    pub refresh: Duration,
    /// `sasl.oauthbearer.jwks.max.stale.ms`: how long old keys are used while new ones cannot be had.
    pub stale_max: Duration,
}

/// Listeners one broker may have.
const LISTENERS_MAX: usize = 16;

pub(super) fn listeners(keys: &mut Keys) -> Vec<Listener> {
    let (text, line) = keys.text("listeners").unwrap_or_else(|| ("127.0.0.1:9094".to_owned(), 0));
    let advertised = advertised(keys);
    let mechanisms = mechanisms(keys, "sasl.enabled.mechanisms").unwrap_or_default();
    let client_auth = client_auth(keys, "ssl.client.auth");
    let mut listeners: Vec<Listener> = Vec::new();
    for entry in text.split(',').map(str::trim) {
        let (name, address) = entry.split_once("://").unwrap_or(("", entry));
        if matches!(name, "PLAINTEXT" | "SASL_PLAINTEXT") {
            keys.mistake(line, format!("`listeners`: there is no `{name}` listener, all are TLS; write `{address}`"));
            continue;
        }
        let name = name.to_ascii_uppercase();
        let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_name || listeners.iter().any(|other| other.name == name) || listeners.len() >= LISTENERS_MAX {
            keys.mistake(
                line,
                format!(
                    "`listeners`: `{entry}` needs a name of its own (`NAME://address:port`, at most {LISTENERS_MAX})"
                ),
            );
            continue;
        }
        let Ok(address) = address.replace("localhost", "127.0.0.1").parse::<SocketAddr>() else {
            keys.mistake(line, format!("`listeners`: `{entry}` must be `address:port`, for instance `127.0.0.1:9094`"));
            continue;
        };
        let prefix = format!("listener.name.{}.", name.to_ascii_lowercase());
        let own_mechanisms = self::mechanisms(keys, &format!("{prefix}sasl.enabled.mechanisms"));
        let own_auth = self::client_auth(keys, &format!("{prefix}ssl.client.auth"));
        let told =
            advertised.iter().find(|(of, _)| *of == name).or_else(|| advertised.iter().find(|(of, _)| of.is_empty()));
        let told = told.map(|(_, told)| told.clone());
        let listener = Listener {
            advertised: told.unwrap_or_else(|| Advertised { host: "localhost".to_owned(), port: address.port() }),
            name,
            address,
            client_auth: own_auth.or(client_auth).unwrap_or(ClientAuth::Requested),
            mechanisms: own_mechanisms.unwrap_or_else(|| mechanisms.clone()),
        };
        if listener.client_auth == ClientAuth::None && listener.mechanisms.is_empty() {
            keys.mistake(line, format!("`listeners`: nobody could log in at `{entry}`: give it `sasl.enabled.mechanisms`, or let `ssl.client.auth` be `requested`"));
        }
        listeners.push(listener);
    }
    if let Some((name, _)) =
        advertised.iter().find(|(name, _)| !name.is_empty() && listeners.iter().all(|l| l.name != *name))
    {
        keys.mistake(0, format!("`advertised.listeners`: there is no listener `{name}`"));
    }
    listeners
}

fn advertised(keys: &mut Keys) -> Vec<(String, Advertised)> {
    let Some((text, line)) = keys.text("advertised.listeners") else { return Vec::new() };
    let mut all = Vec::new();
    for entry in text.split(',').map(str::trim) {
        let (name, bare) = entry.split_once("://").unwrap_or(("", entry));
        match bare.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
            Some((host, Ok(port))) if !host.is_empty() => {
                let host = host.trim_matches(['[', ']']).to_owned();
                all.push((name.to_ascii_uppercase(), Advertised { host, port }));
            }
            _ => keys.mistake(line, "`advertised.listeners` must be `host:port`, as clients reach this broker"),
        }
    }
    all
}

/// A list in Kafka's form (`"A,B"`) or as a TOML array.
fn list(keys: &mut Keys, name: &str) -> Option<(Vec<String>, usize)> {
    let (value, line) = keys.take(name)?;
    let texts = match &value {
        Value::String(text) => Some(text.value().split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>()),
        Value::Array(array) => array.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    if texts.is_none() {
        keys.mistake(line, format!("`{name}` must be a list of texts, or one text with commas"));
    }
    Some((texts.unwrap_or_default().into_iter().filter(|text| !text.is_empty()).collect(), line))
}

fn mechanisms(keys: &mut Keys, name: &str) -> Option<Vec<Mechanism>> {
    let (texts, line) = list(keys, name)?;
    let mut chosen = Vec::new();
    for text in texts {
        match Mechanism::from_name(&text) {
            Some(mechanism) if !chosen.contains(&mechanism) => chosen.push(mechanism),
            Some(_) => {}
            None => {
                let all = Mechanism::ALL.map(Mechanism::name).join(", ");
                keys.mistake(line, format!("`{name}`: there is no mechanism `{text}` here, only {all}"));
            }
        }
    }
    Some(chosen)
}

fn client_auth(keys: &mut Keys, name: &str) -> Option<ClientAuth> {
    let (text, line) = keys.text(name)?;
    match text.as_str() {
        "none" => Some(ClientAuth::None),
        "requested" => Some(ClientAuth::Requested),
        "required" => Some(ClientAuth::Required),
        _ => {
            keys.mistake(line, format!("`{name}` must be `none`, `requested` or `required` (default requested)"));
            None
        }
    }
}

pub(super) fn login(keys: &mut Keys, base: &Path) -> LoginConfig {
    let rate = |keys: &mut Keys, name: &str, default: i64| {
        u32::try_from(keys.number(name, default, 1, 1_000_000)).unwrap_or(u32::MAX)
    };
    let reauth = keys.millis("connections.max.reauth.ms", 0, 0);
    LoginConfig {
        max_reauth: (!reauth.is_zero()).then_some(reauth),
        failure_delay: keys.millis("connection.failed.authentication.delay.ms", 100, 0),
        connections_per_tenant_max: keys.size("max.connections.per.tenant", 5_000, 1, 1_000_000),
        connections_per_principal_max: keys.size("max.connections.per.principal", 2_000, 1, 1_000_000),
        connection_rate: rate(keys, "max.connection.creation.rate", 2_000),
        connection_rate_per_ip: rate(keys, "max.connection.creation.rate.per.ip", 1_000),
        login_rate_per_tenant: rate(keys, "max.login.rate.per.tenant", 1_000),
        login_rate_per_principal: rate(keys, "max.login.rate.per.principal", 500),
        default_tenant: keys.text("sasl.default.tenant").map(|(text, _)| text),
        single_use_signatures: keys.boolean("sasl.aws.msk.iam.single.use.signatures", false),
        jwks: JwksConfig {
            allowed_hosts: hosts(keys, "sasl.oauthbearer.jwks.allowed.hosts"),
            private_hosts: hosts(keys, "sasl.oauthbearer.jwks.private.hosts"),
            ca_file: keys.text("sasl.oauthbearer.jwks.ca.file").map(|(text, _)| base.join(text)),
            refresh: keys.millis("sasl.oauthbearer.jwks.endpoint.refresh.ms", 3_600_000, 1_000),
            stale_max: keys.millis("sasl.oauthbearer.jwks.max.stale.ms", 86_400_000, 0),
        },
    }
}

fn hosts(keys: &mut Keys, name: &str) -> Vec<String> {
    let (texts, line) = list(keys, name).unwrap_or_default();
    for text in &texts {
        if text.contains(['/', '*', ' ']) {
            keys.mistake(line, format!("`{name}`: `{text}` must be a host name, without scheme, path or wildcard"));
        }
    }
    texts.into_iter().map(|text| text.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    const REST: &str = r#"
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

    fn parse(text: &str) -> Result<Config, super::super::ConfigErrors> {
        Config::parse("schloss.toml", &format!("{REST}{text}"), Path::new("/base"))
    }

    #[test]
    fn without_a_word_only_certificates_open_the_one_listener() {
        let config = parse("").unwrap();
        assert_eq!(config.listeners.len(), 1);
        assert_eq!(config.listeners[0].mechanisms, []);
        assert_eq!(config.listeners[0].client_auth, ClientAuth::Requested);
    }

    #[test]
    fn each_listener_has_its_own_ways() {
        let config = parse(
            r#"listeners = "MTLS://127.0.0.1:9094,SCRAM://127.0.0.1:9096,IAM://127.0.0.1:9098"
advertised.listeners = "MTLS://a.example:1,SCRAM://a.example:2,IAM://a.example:3"
ssl.client.auth = "none"
listener.name.mtls.ssl.client.auth = "required"
listener.name.scram.sasl.enabled.mechanisms = "SCRAM-SHA-256,SCRAM-SHA-512"
listener.name.iam.sasl.enabled.mechanisms = ["AWS_MSK_IAM"]
"#,
        )
        .unwrap();
        let facts: Vec<_> =
            config.listeners.iter().map(|l| (l.advertised.port, l.client_auth, l.mechanisms.len())).collect();
        assert_eq!(facts, [(1, ClientAuth::Required, 0), (2, ClientAuth::None, 2), (3, ClientAuth::None, 1)]);
    }

    #[test]
    fn listener_nobody_could_use_unknown_mechanisms_and_doubles_are_refused() {
        for (text, said) in [
            ("ssl.client.auth = \"none\"", "nobody could log in"),
            ("sasl.enabled.mechanisms = \"PLAIN\"", "there is no mechanism `PLAIN`"),
            ("listeners = \"A://127.0.0.1:1,A://127.0.0.1:2\"", "needs a name of its own"),
            ("listeners = \"SASL_PLAINTEXT://127.0.0.1:1\"", "there is no `SASL_PLAINTEXT` listener"),
            ("listeners = \"A://127.0.0.1:1\"\nadvertised.listeners = \"B://x:1\"", "there is no listener `B`"),
            ("ssl.client.auth = \"maybe\"", "must be `none`, `requested` or `required`"),
            ("sasl.oauthbearer.jwks.allowed.hosts = \"https://x\"", "must be a host name"),
        ] {
            let errors = parse(&format!("{text}\n")).unwrap_err().to_string();
            assert!(errors.contains(said), "{text}: {errors}");
        }
    }
}
