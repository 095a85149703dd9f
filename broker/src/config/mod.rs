//! The production configuration: one typed TOML file.
//!
//! In: the text of a file. Out: [`Config`], or every mistake in it at once, each with its line and what to do.
//! Dotted TOML keys are Kafka's property names where Kafka has them (`log.retention.ms = 604800000`), so nested
//! tables and dotted keys mean the same. Unknown keys refuse to start.
//!
//! There is no key that turns TLS, authentication, authorisation, encryption or audit off.

mod login;
mod parse;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use login::{ClientAuth, JwksConfig, Listener, LoginConfig};
pub use parse::{ConfigErrors, Mistake};

use crate::topic_config::TopicDefaults;

/// Everything `schloss serve` needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// `node.id`: this broker's number in Metadata.
    pub node_id: i32,
    /// `listeners` with `advertised.listeners`: where Kafka clients connect; TLS always. At least one.
    pub listeners: Vec<Listener>,
    /// How logins are judged and limited.
    pub login: LoginConfig,
    /// `admin.listener`: HTTPS for health and metrics.
    pub admin_listener: SocketAddr,
    /// `data.dir`: WAL, segments, manifest, audit log.
    pub data_dir: PathBuf,
    /// `topic.keys.dir`: a key for each topic; outside of `data.dir`, so that a copy of that opens no shredded topic.
    pub topic_keys_dir: PathBuf,
    /// `organisation.dir`: tenants, users, roles, policies.
    pub organisation_dir: PathBuf,
    /// `tls.certificate.file`: server chain, PEM.
    pub tls_certificate: PathBuf,
    /// `tls.key.file`: server key, PEM.
    pub tls_key: PathBuf,
    /// `tls.client.ca.dir`: one `<tenant alias>.pem` each; a tenant's CA vouches for that tenant only.
    pub client_ca_dir: PathBuf,
    /// `admin.client.ca.file`: the CA of operators' certificates; without it the admin listener takes no commands.
    pub operator_ca: Option<PathBuf>,
    /// `kms.*`: who keeps the keys.
    pub kms: KmsConfig,
    /// `log.*`, `message.*`, `num.partitions`: what a topic has when it says nothing.
    pub topic_defaults: TopicDefaults,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// Limits of connections and requests.
    pub limits: Limits,
    /// Groups.
    pub groups: GroupLimits,
    /// `delegation.token.*`.
    pub delegation_tokens: DelegationTokenLimits,
    /// `storage.*`: the log engine.
    pub storage: StorageConfig,
}

/// Host and port as clients are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// `kms.provider` and what belongs to it.
#[derive(Clone, Debug)]
pub struct KmsConfig {
    /// The key that seals the audit log and cluster facts, never tenant data (`kms.cluster.key`).
    pub cluster_key: String,
    /// `kms.cluster.keys`: former ones, which may open what they wrapped.
    pub cluster_keys: Vec<String>,
    /// `kms.outage.grace.ms`: how long cached keys serve while the KMS gives no answer.
    pub outage_grace: Duration,
    /// `kms.call.timeout.ms`: one call, all tries together.
    pub call_timeout: Duration,
    /// Which provider.
    pub provider: KmsProvider,
}

/// Who keeps the keys.
#[derive(Clone, Debug)]
pub enum KmsProvider {
    /// A file sealed under a key file or passphrase file.
    Local {
        /// `kms.local.keyring.file`.
        keyring: PathBuf,
        /// `kms.local.key.file` or `kms.local.passphrase.file`.
        secret: KeyringSecret,
    },
    /// AWS KMS.
    Aws {
        /// `kms.aws.region`.
        region: String,
        /// `kms.aws.endpoint`: other than AWS's own, for private endpoints and tests.
        endpoint: Option<String>,
        /// `kms.aws.sts.endpoint`: the same for STS, which gives the credentials of tenants' roles.
        sts_endpoint: Option<String>,
        /// `kms.aws.fips`.
        fips: bool,
        /// `kms.aws.credentials` and what belongs to it.
        credentials: AwsCredentialSource,
    },
    /// HashiCorp Vault's or OpenBao's transit engine.
    Vault {
        /// `kms.vault.address`.
        address: String,
        /// `kms.vault.mount`.
        mount: String,
        /// `kms.vault.namespace`.
        namespace: Option<String>,
        /// `kms.vault.token.file`.
        token_file: PathBuf,
        /// `kms.vault.ca.file`.
        ca_file: Option<PathBuf>,
    },
}

/// `kms.aws.credentials`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AwsCredentialSource {
    /// The SDK's usual chain.
    Chain,
    /// The file of `kms.aws.credentials.file`.
    Static(PathBuf),
    /// The profile of `kms.aws.profile`.
    Profile(String),
    /// A web identity token, as EKS gives one.
    WebIdentity,
    /// The instance's role.
    Instance,
}

/// What opens the keyring.
#[derive(Clone, Debug)]
pub enum KeyringSecret {
    /// A file of 32 random bytes in hexadecimal.
    KeyFile(PathBuf),
    /// A file whose first line is the passphrase.
    PassphraseFile(PathBuf),
}

/// Bounds on connections and requests; Kafka's names where Kafka has them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `socket.request.max.bytes`.
    pub request_bytes_max: usize,
    /// `max.connections`.
    pub connections_max: usize,
    /// `max.connections.per.ip`.
    pub connections_per_ip_max: usize,
    /// `connections.max.idle.ms`.
    pub idle: Duration,
    /// `connection.handshake.timeout.ms`: TLS handshake, and the first frame after it.
    pub handshake: Duration,
    /// `connection.write.timeout.ms`: a peer that does not read its answers is cut after this.
    pub write: Duration,
    /// `connection.inflight.max`: requests of one connection under way at once.
    pub inflight_max: usize,
    /// `queued.max.request.bytes`: bytes of requests held by all connections together.
    pub queued_request_bytes_max: usize,
    /// `shutdown.drain.timeout.ms`.
    pub drain: Duration,
    /// `fetch.max.bytes`: most bytes in one fetch answer.
    pub fetch_bytes_max: usize,
    /// `max.topics.per.tenant`.
    pub topics_per_tenant_max: usize,
    /// `max.partitions.per.tenant`.
    pub partitions_per_tenant_max: usize,
}

/// Bounds of consumer groups; Kafka's names.
#[derive(Clone, Debug)]
pub struct GroupLimits {
    /// `group.min.session.timeout.ms`.
    pub session_timeout_min_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub session_timeout_max_ms: i32,
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: i32,
    /// `group.max.size`.
    pub size_max: usize,
    /// `max.groups.per.tenant`.
    pub groups_per_tenant_max: usize,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_bytes_max: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
}

/// How long delegation tokens live; Kafka's names and defaults.
#[derive(Clone, Copy, Debug)]
pub struct DelegationTokenLimits {
    /// `delegation.token.max.lifetime.ms`: no token lives longer, however often it is renewed.
    pub max_lifetime_ms: i64,
    /// `delegation.token.expiry.time.ms`: a token that is not renewed ends after this.
    pub expiry_ms: i64,
}

/// The log engine's own settings.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// `storage.shards`.
    pub shards: u32,
    /// `storage.tail.bytes`: bytes not yet in segments, per shard.
    pub tail_bytes_max: usize,
    /// `storage.flush.bytes`.
    pub flush_bytes: usize,
    /// `storage.flush.ms`.
    pub flush_ms: u64,
    /// `storage.cache.bytes`: opened frames kept for readers.
    pub cache_bytes_max: usize,
    /// `storage.scrub.interval.ms`: every live segment is read and checked this often.
    pub scrub_every: Duration,
    /// `log.retention.check.interval.ms`.
    pub retention_check_ms: u64,
}

impl Config {
    /// Reads and checks the text of a config file. `base` is where relative paths start.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn parse(file: &str, text: &str, base: &std::path::Path) -> Result<Self, ConfigErrors> {
        parse::config(file, text, base)
    }
}
