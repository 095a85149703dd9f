//! Joins the key service: providers from the config, tenants' keys from the organisation, key uses into the audit log.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use schloss_audit::{AuditLog, Class, Event, Verdict};
use schloss_authz::organisation::Organisation;
use schloss_core::TenantId;
use schloss_kms::{
    AwsCredentials, AwsKms, AwsKmsConfig, AwsRole, KeyName, KeyOutcome, KeyUse, KeyUseSink, Kms, LocalKeyring,
    NotRecorded, TenantKeys, Transit, TransitConfig, Unlock, Vault, VaultConfig, write_key_file,
};
use schloss_storage::{Finding, IntegritySink, OpenError};
use zeroize::Zeroizing;

use crate::config::{AwsCredentialSource, Config, KeyringSecret, KmsProvider};
use crate::failure::{Failure, Number};

/// The installation itself, in the vault's words.
pub const CLUSTER: [u8; 16] = [0; 16];

/// The key service as the config and the organisation say.
pub struct KeyService {
    /// Gives and opens data keys.
    pub vault: Arc<Vault>,
    /// The provider, when it is AWS: it must know tenants' roles.
    aws: Option<Arc<AwsKms>>,
}

impl KeyService {
    /// A new organisation is in force.
    pub fn set_organisation(&self, config: &Config, organisation: &Organisation) {
        if let Some(aws) = &self.aws {
            aws.set_roles(roles(organisation));
        }
        self.vault.set_tenants(tenant_keys(config, organisation));
    }
}

/// The configured provider, which calls nothing yet; the second is the same when it is AWS.
///
/// # Errors
/// [`Number::Keyring`], [`Number::Kms`].
pub async fn provider(
    config: &Config,
    organisation: &Organisation,
) -> Result<(Arc<dyn Kms>, Option<Arc<AwsKms>>), Failure> {
    let mut aws = None;
    let provider: Arc<dyn Kms> = match &config.kms.provider {
        KmsProvider::Local { keyring, secret } => Arc::new(open_keyring(keyring, secret)?),
        KmsProvider::Aws { region, endpoint, sts_endpoint, fips, credentials } => {
            let kms = AwsKms::new(AwsKmsConfig {
                region: region.clone(),
                endpoint: endpoint.clone(),
                sts_endpoint: sts_endpoint.clone(),
                fips: *fips,
                credentials: aws_credentials(credentials)?,
                timeout: config.kms.call_timeout,
            });
            let kms = Arc::new(kms.await);
            kms.set_roles(roles(organisation));
            aws = Some(Arc::clone(&kms));
            kms
        }
        KmsProvider::Vault { address, mount, namespace, token_file, ca_file } => {
            let transit = Transit::new(TransitConfig {
                address: address.clone(),
                mount: mount.clone(),
                namespace: namespace.clone(),
                token_file: token_file.clone(),
                ca_file: ca_file.clone(),
            });
            Arc::new(transit.map_err(|error| Failure::new(Number::Kms, error, "mend `kms.vault.*` in the config"))?)
        }
    };
    Ok((provider, aws))
}

/// Opens the configured provider and tells the vault whose key is which.
///
/// # Errors
/// [`Number::Keyring`], [`Number::Kms`].
pub async fn open(config: &Config, organisation: &Organisation) -> Result<KeyService, Failure> {
    let (provider, aws) = provider(config, organisation).await?;
    let bounds = VaultConfig {
        outage_grace: config.kms.outage_grace,
        call_timeout: config.kms.call_timeout,
        ..VaultConfig::default()
    };
    Ok(KeyService { vault: Vault::new(bounds, vec![provider], tenant_keys(config, organisation)), aws })
}

fn aws_credentials(source: &AwsCredentialSource) -> Result<AwsCredentials, Failure> {
    let path = match source {
        AwsCredentialSource::Chain => return Ok(AwsCredentials::Chain),
        AwsCredentialSource::Profile(name) => return Ok(AwsCredentials::Profile(name.clone())),
        AwsCredentialSource::WebIdentity => return Ok(AwsCredentials::WebIdentity),
        AwsCredentialSource::Instance => return Ok(AwsCredentials::Instance),
        AwsCredentialSource::Static(path) => path,
    };
    let failed = |why: &dyn std::fmt::Display| {
        Failure::new(
            Number::Kms,
            format!("`{}`: {why}", path.display()),
            "write `access_key_id = ...`, `secret_access_key = ...` and, if temporary, `session_token = ...`, one a line",
        )
    };
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| failed(&error))?);
    let field = |name: &str| {
        let named = text.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| key.trim() == name);
        named.map(|(_, value)| value.trim().trim_matches('"').to_owned())
    };
    match (field("access_key_id"), field("secret_access_key")) {
        (Some(access_key_id), Some(secret)) => Ok(AwsCredentials::Fixed {
            access_key_id,
            secret_access_key: Zeroizing::new(secret),
            session_token: field("session_token").map(Zeroizing::new),
        }),
        _ => Err(failed(&"an access key is not in it")),
    }
}

fn roles(organisation: &Organisation) -> HashMap<String, AwsRole> {
    let mut roles = HashMap::new();
    for kms in organisation.tenants().map(schloss_authz::Tenant::kms) {
        let Some(arn) = &kms.role else { continue };
        let role = AwsRole { arn: arn.to_string(), external_id: kms.external_id.as_deref().map(str::to_owned) };
        for key in std::iter::once(&kms.key).chain(&kms.keys) {
            roles.insert(key.to_string(), role.clone());
        }
    }
    roles
}

fn open_keyring(path: &Path, secret: &KeyringSecret) -> Result<LocalKeyring, Failure> {
    let unlock = match secret {
        KeyringSecret::KeyFile(path) => Unlock::KeyFile(path.clone()),
        KeyringSecret::PassphraseFile(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Failure::new(
                    Number::Keyring,
                    format!("`{}`: {error}", path.display()),
                    "name a passphrase file that the broker may read",
                )
            })?;
            Unlock::Passphrase(text.lines().next().unwrap_or_default().to_owned().into())
        }
    };
    LocalKeyring::open(path, &unlock).map_err(|error| {
        Failure::new(
            Number::Keyring,
            error,
            "give the right key file or passphrase, or restore the keyring from a backup; nothing was changed",
        )
    })
}

/// Which key wraps whose data keys.
#[must_use]
pub fn tenant_keys(config: &Config, organisation: &Organisation) -> HashMap<[u8; 16], TenantKeys> {
    let provider = match config.kms.provider {
        KmsProvider::Local { .. } => "local",
        KmsProvider::Aws { .. } => "aws",
        KmsProvider::Vault { .. } => "vault",
    };
    let name = |key_ref: &str| KeyName { provider: provider.to_owned(), key_ref: key_ref.to_owned() };
    let tenants = organisation.tenants().filter_map(|tenant| {
        let kms = tenant.kms();
        let keys = TenantKeys {
            current: name(&kms.key),
            others: kms.keys.iter().map(|key| name(key)).collect(),
            outage_grace: kms.outage_grace_seconds.map(Duration::from_secs),
        };
        Some((TenantId::new(tenant.account().number())?.to_bytes(), keys))
    });
    let cluster = TenantKeys {
        others: config.kms.cluster_keys.iter().map(|key| name(key)).collect(),
        ..TenantKeys::only(name(&config.kms.cluster_key))
    };
    tenants.chain([(CLUSTER, cluster)]).collect()
}

/// Makes a keyring with its key file, and the named keys in it, unless they are there.
///
/// # Errors
/// [`Number::Keyring`].
pub fn prepare_local(folder: &Path, names: impl IntoIterator<Item = String>) -> Result<(), Failure> {
    let failed = |error: schloss_kms::KeyringError| {
        Failure::new(Number::Keyring, error, "restore the keyring from a backup, or start over in an empty folder")
    };
    let (keyring, key_file) = (folder.join("keyring"), folder.join("keyring.key"));
    let unlock = Unlock::KeyFile(key_file.clone());
    let opened = if keyring.exists() {
        LocalKeyring::open(&keyring, &unlock).map_err(failed)?
    } else {
        if !key_file.exists() {
            write_key_file(&key_file).map_err(failed)?;
        }
        LocalKeyring::create(&keyring, &unlock).map_err(failed)?
    };
    for name in names {
        opened.ensure_key(&name).map_err(failed)?;
    }
    Ok(())
}

/// Key uses as audit events: not recorded, not handed out. Damage to stored bytes as well.
pub struct Recorder(pub Arc<AuditLog>);

/// Records that a start was refused because of stored bytes that are not what was written. The process ends after it: the log is closed,
/// so that the line is signed.
pub async fn record_refused_start(audit: &AuditLog, object: String, why: &OpenError) {
    let mut event = Event::new(None, Class::System, Verdict::Failed, "schloss:IntegrityFailure");
    event.resource = Some(object);
    event.reason = Some(why.to_string());
    // The start is refused whether or not this can be written.
    if let Err(error) = audit.record(event).await {
        tracing::error!(%error, "damage to stored bytes could not be recorded");
    }
    if let Err(error) = audit.close().await {
        tracing::error!(%error, "the audit log could not be closed");
    }
}

impl IntegritySink for Recorder {
    fn damaged(&self, finding: Finding) {
        let mut event = Event::new(Some(finding.tenant), Class::System, Verdict::Failed, "schloss:IntegrityFailure");
        event.resource = Some(finding.object);
        event.reason = Some(finding.damage.word().to_owned());
        let audit = Arc::clone(&self.0);
        // What was read is refused whether or not this can be written.
        tokio::spawn(async move {
            if let Err(error) = audit.record(event).await {
                tracing::error!(%error, "damage to stored bytes could not be recorded");
            }
        });
    }
}

#[async_trait::async_trait]
impl KeyUseSink for Recorder {
    async fn key_used(&self, used: KeyUse) -> Result<(), NotRecorded> {
        let tenant = TenantId::from_bytes(used.tenant).filter(|tenant| tenant.to_bytes() != CLUSTER);
        let verdict = if matches!(used.outcome, KeyOutcome::Done) { Verdict::Allowed } else { Verdict::Denied };
        let mut event = Event::new(tenant, Class::KeyUse, verdict, format!("kms:{:?}", used.operation));
        event.resource = Some(used.key_ref);
        event.reason = Some(format!("{:?}", used.outcome));
        if let Some(purpose) = used.purpose {
            event.details.push(("purpose", purpose.name().to_owned()));
        }
        self.0.record(event).await.map_err(|_| NotRecorded)
    }
}
