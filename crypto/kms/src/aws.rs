//! AWS KMS, or anything that speaks its protocol.
//!
//! A refusal counts as the tenant's ("denied") only when KMS said so about the key; trouble with our own credentials or the way there
//! is an outage: it must not wipe keys.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_kms::Client;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, KeyState as AwsKeyState};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use schloss_crypto::{DataKey, Denial, EncryptionContext, KeyError, Outage};
use zeroize::Zeroizing;

use crate::provider::{KeyState, Kms};

/// Whose credentials to use.
pub enum AwsCredentials {
    /// The SDK's usual chain: environment, profile, web identity, container, instance.
    Chain,
    /// These.
    Fixed {
        /// `AKIA…` or `ASIA…`.
        access_key_id: String,
        /// The secret.
        secret_access_key: Zeroizing<String>,
        /// For temporary credentials.
        session_token: Option<Zeroizing<String>>,
    },
}

/// Where KMS is.
pub struct AwsKmsConfig {
    /// For example `eu-central-1`.
    pub region: String,
    /// Another address than AWS's own, for example a VPC endpoint or a test server.
    pub endpoint: Option<String>,
    /// Whose credentials.
    pub credentials: AwsCredentials,
    /// Deadline of one call, all tries together.
    pub timeout: Duration,
}

/// AWS KMS behind the [`Kms`] verbs.
#[derive(Clone, Debug)]
pub struct AwsKms {
    client: Client,
}

impl AwsKms {
    /// Prepares a client. Calls nothing.
    pub async fn new(config: AwsKmsConfig) -> Self {
        let http =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build_https();
        let timeouts = TimeoutConfig::builder()
            .operation_timeout(config.timeout)
            .operation_attempt_timeout(config.timeout / 2)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new(config.region))
            .retry_config(RetryConfig::standard().with_max_attempts(3))
            .timeout_config(timeouts);
        if let Some(endpoint) = config.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let AwsCredentials::Fixed { access_key_id, secret_access_key, session_token } = config.credentials {
            loader = loader.credentials_provider(aws_credential_types::Credentials::new(
                access_key_id,
                secret_access_key.as_str(),
                session_token.map(|token| token.to_string()),
                None,
                "schloss",
            ));
        }
        Self { client: Client::new(&loader.load().await) }
    }
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
        let answer = self
            .client
            .generate_data_key()
            .key_id(key_ref)
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(Some(context.pairs().into_iter().collect()))
            .send()
            .await
            .map_err(|error| refusal(key_ref, &error))?;
        let key = plain_key(key_ref, answer.plaintext)?;
        let blob = answer.ciphertext_blob.map(Blob::into_inner).ok_or_else(|| failing(key_ref))?;
        Ok((key, blob))
    }

    async fn decrypt(&self, key_ref: &str, blob: &[u8], context: &EncryptionContext) -> Result<DataKey, KeyError> {
        let answer = self
            .client
            .decrypt()
            // SECURITY: the key is named, so a blob made by another key is refused instead of opened.
            .key_id(key_ref)
            .ciphertext_blob(Blob::new(blob))
            .set_encryption_context(Some(context.pairs().into_iter().collect()))
            .send()
            .await
            .map_err(|error| refusal(key_ref, &error))?;
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
        let answer = self
            .client
            .re_encrypt()
            .source_key_id(from)
            .destination_key_id(to)
            .ciphertext_blob(Blob::new(blob))
            .set_source_encryption_context(Some(pairs.clone()))
            .set_destination_encryption_context(Some(pairs))
            .send()
            .await
            .map_err(|error| refusal(to, &error))?;
        answer.ciphertext_blob.map(Blob::into_inner).ok_or_else(|| failing(to))
    }

    async fn describe(&self, key_ref: &str) -> Result<KeyState, KeyError> {
        let answer =
            self.client.describe_key().key_id(key_ref).send().await.map_err(|error| refusal(key_ref, &error))?;
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

fn refusal<E: ProvideErrorMetadata, R>(key_ref: &str, error: &SdkError<E, R>) -> KeyError {
    match error {
        SdkError::ServiceError(answer) => by_code(key_ref, answer.err().code()),
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) => {
            KeyError::Unreachable { key_ref: key_ref.to_owned(), why: Outage::NoAnswer }
        }
        _ => failing(key_ref),
    }
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

    /// Runs against any KMS server: `SCHLOSS_TEST_KMS_ENDPOINT`, and two of its keys in `SCHLOSS_TEST_KMS_KEYS`, comma between.
    #[tokio::test]
    #[ignore = "needs a KMS server; the black-box suite starts one and runs this"]
    async fn data_key_is_made_opened_and_moved_by_a_real_server() {
        let variable = |name| std::env::var(name).unwrap_or_else(|_| panic!("set {name}"));
        let keys = variable("SCHLOSS_TEST_KMS_KEYS");
        let (first, second) = keys.split_once(',').unwrap();
        let kms = AwsKms::new(AwsKmsConfig {
            region: "eu-central-1".into(),
            endpoint: Some(variable("SCHLOSS_TEST_KMS_ENDPOINT")),
            credentials: AwsCredentials::Fixed {
                access_key_id: "AKIDEXAMPLE".into(),
                secret_access_key: Zeroizing::new("secret".into()),
                session_token: None,
            },
            timeout: Duration::from_secs(10),
        })
        .await;
        let purpose = schloss_crypto::Purpose::Metadata { generation: 0 };
        let context = EncryptionContext { cluster: [1; 16], tenant: [2; 16], purpose };
        let (key, blob) = kms.generate_data_key(first, &context).await.unwrap();
        let sealed = schloss_crypto::seal_value(&key, b"", b"same key");
        let opened = kms.decrypt(first, &blob, &context).await.unwrap();
        assert_eq!(schloss_crypto::open_value(&opened, b"", &sealed).unwrap(), b"same key");
        let other = EncryptionContext { tenant: [3; 16], ..context };
        assert_eq!(kms.decrypt(first, &blob, &other).await.unwrap_err(), KeyError::ContextMismatch);
        let moved = kms.re_encrypt(first, &blob, second, &context).await.unwrap();
        let opened = kms.decrypt(second, &moved, &context).await.unwrap();
        assert_eq!(schloss_crypto::open_value(&opened, b"", &sealed).unwrap(), b"same key");
        assert_eq!(kms.describe(first).await, Ok(KeyState::Enabled));
        let unknown = kms.describe("00000000-0000-0000-0000-000000000000").await.unwrap_err();
        assert!(matches!(unknown, KeyError::Denied { why: Denial::NotFound, .. }), "{unknown}");
    }
}
