//! Whose credentials AWS KMS is called with.
//!
//! In: the config's choice. Out: a provider for the SDK. Calls nothing before credentials are needed.
//!
//! The SDK's own providers ask STS where the region's public endpoint is, or where `AWS_ENDPOINT_URL_STS` says; they take another
//! address from a profile's `services` section only. So the config's address is laid over the profile as exactly that.

use std::env;

use aws_config::SdkConfig;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
#[expect(deprecated, reason = "the new name lives in a crate that is not ours to depend on for two types")]
use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use zeroize::Zeroizing;

use crate::aws::AwsRole;

/// A profile of ours, in no file.
const OWN_PROFILE: &str = "schloss";

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
    /// A profile of the AWS config files.
    Profile(String),
    /// `AWS_WEB_IDENTITY_TOKEN_FILE` and `AWS_ROLE_ARN`, as EKS sets them; nothing else is tried.
    WebIdentity,
    /// The instance's role; nothing else is tried.
    Instance,
}

/// The broker's own credentials.
pub(crate) fn own(
    credentials: AwsCredentials,
    config: &ProviderConfig,
    sts_endpoint: Option<&str>,
) -> SharedCredentialsProvider {
    match credentials {
        AwsCredentials::Fixed { access_key_id, secret_access_key, session_token } => {
            let token = session_token.map(|token| token.to_string());
            SharedCredentialsProvider::new(Credentials::new(
                access_key_id,
                secret_access_key.as_str(),
                token,
                None,
                "schloss",
            ))
        }
        AwsCredentials::Profile(name) => SharedCredentialsProvider::new(profile(Some(&name), config, sts_endpoint)),
        AwsCredentials::WebIdentity => web_identity(config, sts_endpoint),
        AwsCredentials::Instance => {
            SharedCredentialsProvider::new(ImdsCredentialsProvider::builder().configure(config).build())
        }
        // The SDK's order.
        AwsCredentials::Chain => SharedCredentialsProvider::new(
            CredentialsProviderChain::first_try("Environment", EnvironmentVariableCredentialsProvider::new())
                .or_else("Profile", profile(None, config, sts_endpoint))
                .or_else("WebIdentityToken", web_identity(config, sts_endpoint))
                .or_else("EcsContainer", EcsCredentialsProvider::builder().configure(config).build())
                .or_else("Ec2InstanceMetadata", ImdsCredentialsProvider::builder().configure(config).build()),
        ),
    }
}

/// A tenant's role, assumed with our own credentials.
pub(crate) async fn of_role(role: &AwsRole, base: &SdkConfig, sts_endpoint: Option<&str>) -> SharedCredentialsProvider {
    let mut sts = base.to_builder();
    sts.set_endpoint_url(sts_endpoint.map(str::to_owned));
    let mut provider =
        AssumeRoleProvider::builder(role.arn.clone()).session_name("schloss-kms").configure(&sts.build());
    if let Some(region) = base.region() {
        provider = provider.region(region.clone());
    }
    if let Some(external_id) = &role.external_id {
        provider = provider.external_id(external_id.clone());
    }
    SharedCredentialsProvider::new(provider.build().await)
}

/// The AWS config files' profile: the named one, or the one that `AWS_PROFILE` names, or `default`.
#[expect(deprecated, reason = "see the import")]
fn profile(name: Option<&str>, config: &ProviderConfig, sts_endpoint: Option<&str>) -> ProfileFileCredentialsProvider {
    let mut builder = ProfileFileCredentialsProvider::builder().configure(config);
    if let Some(name) = name {
        builder = builder.profile_name(name);
    }
    if let Some(endpoint) = sts_endpoint {
        let selected =
            name.map_or_else(|| env::var("AWS_PROFILE").unwrap_or_else(|_| "default".to_owned()), str::to_owned);
        let files = ProfileFiles::builder()
            .include_default_config_file(true)
            .include_default_credentials_file(true)
            .with_contents(ProfileFileKind::Config, section(&selected, &[], endpoint));
        builder = builder.profile_files(files.build());
    }
    builder.build()
}

#[expect(deprecated, reason = "see the import")]
fn web_identity(config: &ProviderConfig, sts_endpoint: Option<&str>) -> SharedCredentialsProvider {
    let variable = |name| env::var(name).ok().filter(|value| is_one_line(value));
    let named = (variable("AWS_WEB_IDENTITY_TOKEN_FILE"), variable("AWS_ROLE_ARN"));
    let ((Some(token_file), Some(role)), Some(endpoint)) = (named, sts_endpoint) else {
        // Without the variables this one says which are missing.
        let provider = WebIdentityTokenCredentialsProvider::builder().configure(config).build();
        return SharedCredentialsProvider::new(provider);
    };
    let session = variable("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| "schloss-kms".to_owned());
    let settings = [("role_arn", role), ("web_identity_token_file", token_file), ("role_session_name", session)];
    let files =
        ProfileFiles::builder().with_contents(ProfileFileKind::Config, section(OWN_PROFILE, &settings, endpoint));
    let provider = ProfileFileCredentialsProvider::builder()
        .configure(config)
        .profile_name(OWN_PROFILE)
        .profile_files(files.build());
    SharedCredentialsProvider::new(provider.build())
}

/// A profile with these settings, and STS at `endpoint`.
fn section(profile: &str, settings: &[(&str, String)], endpoint: &str) -> String {
    let head = if profile == "default" { "[default]".to_owned() } else { format!("[profile {profile}]") };
    let mut text = format!("{head}\nservices = schloss-sts\n");
    for (name, value) in settings {
        text.push_str(&format!("{name} = {value}\n"));
    }
    text.push_str(&format!("[services schloss-sts]\nsts =\n  endpoint_url = {endpoint}\n"));
    text
}

/// SECURITY: a line break in a value would be a setting more.
fn is_one_line(value: &str) -> bool {
    !value.is_empty() && !value.chars().any(char::is_control)
}
