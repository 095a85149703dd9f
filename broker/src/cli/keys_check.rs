//! `schloss keys check`: asks the configured KMS everything that the broker will ask of it, with the broker's own credentials.
//!
//! In: the config, the organisation, the KMS. Out: one line for each question. Needs no broker, writes nothing, wraps nothing that is
//! kept. What it asks of the KMS is in the KMS's own log only.

use std::process::ExitCode;

use clap::Args;
use futures::StreamExt;
use schloss_kms::promises::{self, Answer, Outcome, Promise, Questions};
use schloss_kms::{KeyOperation, Kms};
use serde_json::{Value, json};

use super::{Failure, Number, Output, Place, audit};
use crate::config::Config;
use crate::keys::{self, CLUSTER};
use crate::tenancy;
use schloss_crypto::{Denial, KeyError, Outage};

/// Keys asked about at once.
const AT_ONCE: usize = 8;

/// Ask the KMS everything that the broker asks of it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  schloss keys check --config schloss.toml         the cluster's key and all tenants'
  schloss keys check acme --config schloss.toml    one tenant's

Run it as the broker is run: same user, same environment. The broker need not run; nothing is
written. A line that is not `ok` says what to grant or mend; then the command ends with 1.")]
pub struct Check {
    /// Alias or account of a tenant; without it the cluster's key and all tenants' are asked about.
    tenant: Option<String>,
    #[command(flatten)]
    place: Place,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// One key of one owner.
struct Subject {
    owner: String,
    tenant: [u8; 16],
    key: String,
    current: bool,
    /// Where a re-wrap would lead: the owner's current key; for that one, a former key.
    other: Option<String>,
}

impl Check {
    /// Asks and prints.
    pub fn run(self) -> Result<ExitCode, Failure> {
        let config = audit::config(&self.place)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Number::File, error, "report this"))?;
        runtime.block_on(self.ask(&config))
    }

    async fn ask(self, config: &Config) -> Result<ExitCode, Failure> {
        let (organisation, _) = tenancy::load(&config.organisation_dir)
            .map_err(|error| Failure::new(Number::Organisation, error, "mend the organisation's files"))?;
        let subjects = self.subjects(config, &organisation)?;
        let (kms, _aws) = keys::provider(config, &organisation).await?;
        // A key policy may ask for the installation's id. Before the first start there is none.
        let cluster = crate::cluster_id::read(&config.data_dir).map(|id| id.to_bytes()).unwrap_or_default();
        let kms = &*kms;
        let asked = subjects.iter().map(|subject| async move {
            let unknown = unknown_key(kms.provider(), &subject.key);
            let questions = Questions {
                key: &subject.key,
                other: subject.other.as_deref(),
                unknown: Some(&unknown),
                cluster,
                tenant: subject.tenant,
                call_timeout: config.kms.call_timeout,
            };
            (subject, promises::ask(kms, &questions).await)
        });
        let mut asked = futures::stream::iter(asked).buffered(AT_ONCE);
        let (mut all, mut failed, mut report) = (0_usize, 0_usize, Vec::new());
        while let Some((subject, answers)) = asked.next().await {
            all = all.saturating_add(answers.len());
            failed = failed.saturating_add(answers.iter().filter(|answer| !is_good(answer)).count());
            match self.output {
                Output::Text => print(kms, subject, &answers),
                Output::Json => report.push(as_json(kms, subject, &answers)),
            }
        }
        if self.output == Output::Json {
            println!("{}", json!({ "provider": kms.provider(), "ok": failed == 0, "keys": report }));
        }
        if failed == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        Err(Failure::new(
            Number::Kms,
            format!("{failed} of {all} questions to the KMS were not answered as the broker needs it"),
            "grant or mend what the lines above name, then ask again",
        ))
    }

    fn subjects(&self, config: &Config, organisation: &schloss_authz::Organisation) -> Result<Vec<Subject>, Failure> {
        let mut subjects = Vec::new();
        let mut add = |owner: &str, tenant, current: &str, former: &[&str]| {
            let subject = |key: &str, is_current, other: Option<&str>| Subject {
                owner: owner.to_owned(),
                tenant,
                key: key.to_owned(),
                current: is_current,
                other: other.map(str::to_owned),
            };
            subjects.push(subject(current, true, former.first().copied()));
            subjects.extend(former.iter().map(|key| subject(key, false, Some(current))));
        };
        if self.tenant.is_none() {
            let former: Vec<&str> = config.kms.cluster_keys.iter().map(String::as_str).collect();
            add("the cluster", CLUSTER, &config.kms.cluster_key, &former);
        }
        for tenant in organisation.tenants() {
            let account = tenant.account().to_string();
            if self.tenant.as_ref().is_some_and(|wanted| *wanted != tenant.alias() && *wanted != account) {
                continue;
            }
            let Some(id) = tenancy::tenant_id(tenant) else { continue };
            let former: Vec<&str> = tenant.kms().keys.iter().map(|key| &**key).collect();
            add(tenant.alias(), id.to_bytes(), &tenant.kms().key, &former);
        }
        if subjects.is_empty() {
            let wanted = self.tenant.as_deref().unwrap_or_default();
            return Err(Failure::new(
                Number::Usage,
                format!("there is no tenant `{wanted}`"),
                "name one by its alias or account; without a name all are asked about",
            ));
        }
        Ok(subjects)
    }
}

const fn is_good(answer: &Answer) -> bool {
    matches!(answer.outcome, Outcome::Kept | Outcome::KeptByPolicy | Outcome::NotNeeded)
}

fn print(kms: &dyn Kms, subject: &Subject, answers: &[Answer]) {
    let role = if subject.current { "current" } else { "former or a topic's" };
    println!("{}, {} ({role})", subject.owner, subject.key);
    for answer in answers {
        let asked = verb(kms.provider(), answer.promise.operation());
        println!("  {:<10} {asked:<19} {}{}", word(answer), answer.promise.text(), end_of_line(kms, subject, answer));
    }
}

fn end_of_line(kms: &dyn Kms, subject: &Subject, answer: &Answer) -> String {
    let mut text = why(answer).map(|why| format!(": {why}")).unwrap_or_default();
    if let Some(next) = next(kms.provider(), subject, answer) {
        text.push_str("; ");
        text.push_str(&next);
    }
    text
}

fn as_json(kms: &dyn Kms, subject: &Subject, answers: &[Answer]) -> Value {
    let lines: Vec<Value> = answers
        .iter()
        .map(|answer| {
            json!({
                "check": answer.promise.name(),
                "asked": verb(kms.provider(), answer.promise.operation()),
                "outcome": word(answer),
                "why": why(answer),
                "next": next(kms.provider(), subject, answer),
            })
        })
        .collect();
    json!({ "owner": subject.owner, "key": subject.key, "current": subject.current, "other": subject.other, "checks": lines })
}

const fn word(answer: &Answer) -> &'static str {
    match answer.outcome {
        Outcome::Kept | Outcome::KeptByPolicy => "ok",
        Outcome::NotNeeded => "not needed",
        Outcome::Refused(KeyError::Unreachable { .. }) => "no answer",
        Outcome::Refused(_) => "refused",
        Outcome::Broken(_) => "broken",
        Outcome::NotAsked => "not asked",
    }
}

fn why(answer: &Answer) -> Option<String> {
    match &answer.outcome {
        Outcome::Kept => None,
        Outcome::KeptByPolicy => Some("a policy says so before the key does".to_owned()),
        Outcome::NotNeeded => Some("it is not allowed, and the broker does without".to_owned()),
        Outcome::Refused(error) => Some(error.to_string()),
        Outcome::Broken(what) => Some((*what).to_owned()),
        Outcome::NotAsked => Some("an answer above is missing".to_owned()),
    }
}

/// What to do about an answer that is not good.
fn next(provider: &str, subject: &Subject, answer: &Answer) -> Option<String> {
    let error = match &answer.outcome {
        Outcome::Kept | Outcome::KeptByPolicy | Outcome::NotNeeded | Outcome::NotAsked => return None,
        Outcome::Broken(_) => {
            return Some("do not use this key service: it does not keep what the broker relies on".to_owned());
        }
        Outcome::Refused(error) => error,
    };
    let text = match error {
        KeyError::Denied { why: Denial::Disabled, .. } => "enable the key".to_owned(),
        KeyError::Denied { why: Denial::PendingDeletion, .. } => "cancel the key's deletion and enable it".to_owned(),
        KeyError::Denied { why: Denial::NotFound, .. } => match provider {
            "aws" => "correct the ARN in `kms_key`, or the region".to_owned(),
            "local" => "correct `kms_key`; the keyring has no key of that name".to_owned(),
            _ => "correct `kms_key` or `kms.vault.mount`, or create the key".to_owned(),
        },
        KeyError::Denied { why: Denial::AccessDenied | Denial::NoKeyConfigured, .. } => {
            grant(provider, subject, answer)
        }
        KeyError::Unreachable { why: Outage::Throttled, .. } => "ask again later, or for a higher quota".to_owned(),
        KeyError::Unreachable { why: Outage::NoAnswer | Outage::NotRecorded, .. } => {
            "check the address in the config, and the way there".to_owned()
        }
        KeyError::Unreachable { why: Outage::Failing, .. } => match provider {
            "aws" => "check the broker's own credentials (`kms.aws.credentials`), then the service".to_owned(),
            _ => "check the broker's own token (`kms.vault.token.file`), then whether the service is sealed".to_owned(),
        },
        KeyError::Corrupt { .. } | KeyError::ContextMismatch => {
            "the key service does not open what it wrapped: do not use it".to_owned()
        }
    };
    Some(text)
}

/// The permission that is missing.
fn grant(provider: &str, subject: &Subject, answer: &Answer) -> String {
    let Subject { key, other, .. } = subject;
    let other = other.as_deref().unwrap_or_default();
    // The last questions are about the other key.
    let (key, other) = match answer.promise {
        Promise::OtherKey => (other, key.as_str()),
        _ => (key.as_str(), other),
    };
    match (provider, answer.promise.operation()) {
        ("aws", KeyOperation::ReEncrypt) => {
            format!("grant kms:ReEncryptFrom on {key}, and kms:ReEncryptTo and kms:Decrypt on {other}")
        }
        ("aws", operation) => {
            format!("grant kms:{} on {key}, in its key policy and the broker's IAM policy", operation.name())
        }
        ("vault", KeyOperation::Describe) => format!("grant `read` on transit/keys/{key}"),
        ("vault", KeyOperation::GenerateDataKey) => format!("grant `update` on transit/encrypt/{key}"),
        ("vault", KeyOperation::Decrypt) => format!("grant `update` on transit/decrypt/{key}"),
        ("vault", KeyOperation::ReEncrypt) => {
            format!("grant `update` on transit/decrypt/{key}, transit/encrypt/{other} and transit/decrypt/{other}")
        }
        _ => "allow the key's use".to_owned(),
    }
}

/// The provider's own word for what is asked.
fn verb(provider: &str, operation: KeyOperation) -> &'static str {
    match (provider, operation) {
        ("vault", KeyOperation::Describe) => "read keys",
        ("vault", KeyOperation::GenerateDataKey) => "encrypt",
        ("vault", KeyOperation::Decrypt) => "decrypt",
        ("vault", KeyOperation::ReEncrypt) => "decrypt, encrypt",
        (_, operation) => operation.name(),
    }
}

/// A name like the key's that no key has.
fn unknown_key(provider: &str, key: &str) -> String {
    const NOBODYS: &str = "00000000-0000-0000-0000-000000000000";
    if provider != "aws" {
        return "schloss-no-such-key".to_owned();
    }
    let parts: Vec<&str> = key.splitn(6, ':').collect();
    match parts.as_slice() {
        ["arn", partition, "kms", region, account, _] => {
            format!("arn:{partition}:kms:{region}:{account}:key/{NOBODYS}")
        }
        _ => NOBODYS.to_owned(),
    }
}
