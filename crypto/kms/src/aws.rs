//! AWS KMS, or anything that speaks its protocol.
//!
//! A refusal counts as the tenant's ("denied") only when KMS said so about the key; trouble with our own credentials or the way there
//! is an outage: it must not wipe keys.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_kms::Client;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, KeyState as AwsKeyState};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use schloss_crypto::{DataKey, Denial, EncryptionContext, KeyError, Outage};

use crate::aws_credentials::{self, AwsCredentials};
use crate::provider::{KeyState, Kms};

/// Clients kept at once: one for each region and role in use.
const CLIENTS_MAX: usize = 4096;

/// Where KMS is.
pub struct AwsKmsConfig {
    /// For example `eu-central-1`; a key named by its ARN is asked in the ARN's own region.
    pub region: String,
    /// Another address than AWS's own, for example a VPC endpoint or a test server.
    pub endpoint: Option<String>,
    /// The same for STS, which gives the credentials of roles: tenants', a profile's, a web identity's.
    pub sts_endpoint: Option<String>,
    /// AWS's FIPS endpoints.
    pub fips: bool,
    /// Whose credentials.
    pub credentials: AwsCredentials,
    /// Deadline of one try.
    pub timeout: Duration,
}

/// A role assumed to use a tenant's key, so that the key may live in the tenant's account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AwsRole {
    /// The role's ARN.
    pub arn: String,
    /// Against the confused deputy: the tenant's trust policy asks for it.
    pub external_id: Option<String>,
}

/// A client is made for a region and a role.
type ClientId = (String, Option<AwsRole>);

/// AWS KMS behind the [`Kms`] verbs.
#[derive(Debug)]
pub struct AwsKms {
    base: SdkConfig,
    region: String,
    endpoint: Option<String>,
    sts_endpoint: Option<String>,
    /// By key reference.
    roles: Mutex<HashMap<String, AwsRole>>,
    clients: Mutex<HashMap<ClientId, Client>>,
}

impl AwsKms {
    /// Prepares clients. Calls nothing.
    pub async fn new(config: AwsKmsConfig) -> Self {
        let http =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build_https();
        let timeouts = TimeoutConfig::builder().operation_timeout(config.timeout).build();
        let region = Region::new(config.region.clone());
        let provider_config = ProviderConfig::without_region()
            .with_region(Some(region.clone()))
            .with_use_fips(Some(config.fips))
            .with_http_client(http.clone());
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .region(region)
            .use_fips(config.fips)
            // Tries are counted and bounded by our own layer, for all keys together.
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .credentials_provider(aws_credentials::own(
                config.credentials,
                &provider_config,
                config.sts_endpoint.as_deref(),
            ));
        Self {
            base: loader.load().await,
            region: config.region,
            endpoint: config.endpoint,
            sts_endpoint: config.sts_endpoint,
            roles: Mutex::default(),
            clients: Mutex::default(),
        }
    }

    /// Says which keys are used under which role; others are used under our own credentials.
    pub fn set_roles(&self, roles: HashMap<String, AwsRole>) {
        *self.roles.lock().unwrap_or_else(PoisonError::into_inner) = roles;
    }

    fn role(&self, key_ref: &str) -> Option<AwsRole> {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner).get(key_ref).cloned()
    }

    async fn client(&self, key_ref: &str) -> Client {
        // arn:aws:kms:<region>:<account>:key/<id>
        let region = key_ref.strip_prefix("arn:").and_then(|arn| arn.split(':').nth(2)).unwrap_or(&self.region);
        let id: ClientId = (region.to_owned(), self.role(key_ref));
        if let Some(client) = self.clients.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return client.clone();
        }
        let mut config = self.base.to_builder().region(Region::new(id.0.clone()));
        if let Some(role) = &id.1 {
            let base = self.base.to_builder().region(Region::new(id.0.clone())).build();
            let provider = aws_credentials::of_role(role, &base, self.sts_endpoint.as_deref()).await;
            config = config.credentials_provider(provider);
        }
        let mut kms = aws_sdk_kms::config::Builder::from(&config.build());
        kms.set_endpoint_url(self.endpoint.clone());
        let client = Client::from_conf(kms.build());
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= CLIENTS_MAX {
            clients.clear();
        }
        clients.insert(id, client.clone());
        client
    }

    fn refusal<E, R>(&self, key_ref: &str, error: &SdkError<E, R>) -> KeyError
    where
        E: ProvideErrorMetadata + Error + 'static,
        R: std::fmt::Debug + 'static,
    {
        match error {
            SdkError::ServiceError(answer) => by_code(key_ref, answer.err().code()),
            // The tenant's role no longer trusts us: that is the tenant's own no.
            _ if self.role(key_ref).is_some() && says(error, "AccessDenied") => {
                KeyError::Denied { key_ref: key_ref.to_owned(), why: Denial::AccessDenied }
            }
            SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) => {
                KeyError::Unreachable { key_ref: key_ref.to_owned(), why: Outage::NoAnswer }
            }
            _ => failing(key_ref),
        }
    }
}

/// Whether an error or one of its causes has the word in it.
fn says(error: &(dyn Error + 'static), word: &str) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if format!("{cause} {cause:?}").contains(word) {
            return true;
        }
        next = cause.source();
    }
    false
}

#[async_trait::async_trait]
impl Kms for AwsKms {
    fn provider(&self) -> &'static str {
        "aws"
    }

    async fn generate_data_key(
        &self,
        key_ref: &str,
        context: &EncryptionContext,
    ) -> Result<(DataKey, Vec<u8>), KeyError> {
        let client = self.client(key_ref).await;
        let answer = client
            .generate_data_key()
            .key_id(key_ref)
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(Some(context.pairs().into_iter().collect()))
            .send()
            .await
            .map_err(|error| self.refusal(key_ref, &error))?;
        let key = plain_key(key_ref, answer.plaintext)?;
        let blob = answer.ciphertext_blob.map(Blob::into_inner).ok_or_else(|| failing(key_ref))?;
        Ok((key, blob))
    }

    async fn decrypt(&self, key_ref: &str, blob: &[u8], context: &EncryptionContext) -> Result<DataKey, KeyError> {
        let client = self.client(key_ref).await;
        let answer = client
            .decrypt()
            // SECURITY: the key is named, so a blob made by another key is refused instead of opened.
            .key_id(key_ref)
            .ciphertext_blob(Blob::new(blob))
            .set_encryption_context(Some(context.pairs().into_iter().collect()))
            .send()
            .await
            .map_err(|error| self.refusal(key_ref, &error))?;
        plain_key(key_ref, answer.plaintext)
    }

    async fn re_encrypt(
        &self,
        from: &str,
        blob: &[u8],
        to: &str,
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, KeyError> {
        let pairs: std::collections::HashMap<_, _> = context.pairs().into_iter().collect();
        let client = self.client(to).await;
        let answer = client
            .re_encrypt()
            .source_key_id(from)
            .destination_key_id(to)
            .ciphertext_blob(Blob::new(blob))
            .set_source_encryption_context(Some(pairs.clone()))
            .set_destination_encryption_context(Some(pairs))
            .send()
            .await
            .map_err(|error| self.refusal(to, &error))?;
        answer.ciphertext_blob.map(Blob::into_inner).ok_or_else(|| failing(to))
    }

    async fn describe(&self, key_ref: &str) -> Result<KeyState, KeyError> {
        let answer = self
            .client(key_ref)
            .await
            .describe_key()
            .key_id(key_ref)
            .send()
            .await
            .map_err(|error| self.refusal(key_ref, &error))?;
        match answer.key_metadata.and_then(|metadata| metadata.key_state) {
            Some(AwsKeyState::Enabled) => Ok(KeyState::Enabled),
            Some(AwsKeyState::Disabled) => Ok(KeyState::Disabled),
            Some(AwsKeyState::PendingDeletion | AwsKeyState::PendingReplicaDeletion) => Ok(KeyState::PendingDeletion),
            _ => Err(failing(key_ref)),
        }
    }
}

fn plain_key(key_ref: &str, plaintext: Option<Blob>) -> Result<DataKey, KeyError> {
    let mut bytes = plaintext.map(Blob::into_inner).unwrap_or_default();
    DataKey::take_slice(&mut bytes).ok_or_else(|| failing(key_ref))
}

fn failing(key_ref: &str) -> KeyError {
    KeyError::Unreachable { key_ref: key_ref.to_owned(), why: Outage::Failing }
}

fn by_code(key_ref: &str, code: Option<&str>) -> KeyError {
    let denied = |why| KeyError::Denied { key_ref: key_ref.to_owned(), why };
    match code.unwrap_or_default() {
        "DisabledException" => denied(Denial::Disabled),
        "KMSInvalidStateException" => denied(Denial::PendingDeletion),
        "AccessDeniedException" => denied(Denial::AccessDenied),
        "NotFoundException" => denied(Denial::NotFound),
        "InvalidCiphertextException" | "IncorrectKeyException" => KeyError::ContextMismatch,
        "ThrottlingException" | "LimitExceededException" => {
            KeyError::Unreachable { key_ref: key_ref.to_owned(), why: Outage::Throttled }
        }
        _ => failing(key_ref),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_about_the_key_are_denials_and_everything_else_is_an_outage() {
        let denied = |code| matches!(by_code("k", Some(code)), KeyError::Denied { .. });
        let unreachable = |code| matches!(by_code("k", Some(code)), KeyError::Unreachable { .. });
        for code in ["DisabledException", "KMSInvalidStateException", "AccessDeniedException", "NotFoundException"] {
            assert!(denied(code), "{code}");
        }
        for code in
            ["ThrottlingException", "KMSInternalException", "ExpiredTokenException", "UnrecognizedClientException"]
        {
            assert!(unreachable(code), "{code}");
        }
        assert_eq!(by_code("k", Some("InvalidCiphertextException")), KeyError::ContextMismatch);
    }
}
