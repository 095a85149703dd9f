//! Joins the key service: providers from the config, tenants' keys from the organisation, key uses into the audit log.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use schloss_audit::{AuditLog, Class, Event, Verdict};
use schloss_authz::organisation::Organisation;
use schloss_core::TenantId;
use schloss_kms::{
    AwsCredentials, AwsKms, AwsKmsConfig, KeyName, KeyOutcome, KeyUse, KeyUseSink, Kms, LocalKeyring, NotRecorded,
    TenantKeys, Unlock, Vault, VaultConfig, write_key_file,
};

use schloss_storage::{Finding, IntegritySink};

use crate::cli::{Failure, Number};
use crate::config::{Config, KeyringSecret, KmsProvider};

/// The installation itself, in the vault's words.
const CLUSTER: [u8; 16] = [0; 16];
const AWS_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens the configured provider and tells the vault whose key is which.
///
/// # Errors
/// [`Number::Keyring`], [`Number::Kms`].
pub async fn open(config: &Config, organisation: &Organisation) -> Result<Arc<Vault>, Failure> {
    let provider: Arc<dyn Kms> = match &config.kms.provider {
        KmsProvider::Local { keyring, secret } => Arc::new(open_keyring(keyring, secret)?),
        KmsProvider::Aws { region, endpoint } => {
            let aws = AwsKmsConfig {
                region: region.clone(),
                endpoint: endpoint.clone(),
                credentials: AwsCredentials::Chain,
                timeout: AWS_TIMEOUT,
            };
            Arc::new(AwsKms::new(aws).await)
        }
    };
    Ok(Vault::new(VaultConfig::default(), vec![provider], tenant_keys(config, organisation)))
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
    };
    let keys = |key_ref: &str| TenantKeys {
        current: KeyName { provider: provider.to_owned(), key_ref: key_ref.to_owned() },
        previous: Vec::new(),
    };
    let tenants = organisation
        .tenants()
        .filter_map(|tenant| Some((TenantId::new(tenant.account().number())?.to_bytes(), keys(tenant.kms_key()))));
    tenants.chain([(CLUSTER, keys(&config.kms.cluster_key))]).collect()
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
