//! Principals and the certificates they show.

use crate::arn::AccountId;
use crate::context::Keys;

/// A user, a session of a role, or a Kafka principal, of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The tenant.
    pub account: AccountId,
    /// The partition of its ARNs.
    pub(crate) partition: Box<str>,
    /// Which one.
    pub kind: PrincipalKind,
}

/// The kinds of principal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    /// A user.
    User {
        /// Its name.
        name: Box<str>,
    },
    /// A session of a role.
    Role {
        /// The role's name.
        name: Box<str>,
        /// The session's name; empty for the role itself.
        session: Box<str>,
    },
    /// Kafka's own kind (`User:NAME`): judged by the tenant's Kafka ACLs, not by identity policies.
    Kafka {
        /// The name behind `User:`.
        name: Box<str>,
    },
}

impl Principal {
    /// The ARN; of a session the session's (`arn:aws:sts::…:assumed-role/ROLE/SESSION`).
    #[must_use]
    pub fn arn(&self) -> String {
        match &self.kind {
            PrincipalKind::Role { name, session } if !session.is_empty() => {
                format!("arn:{}:sts::{}:assumed-role/{name}/{session}", self.partition, self.account)
            }
            _ => self.policy_arn(),
        }
    }

    /// The ARN policies compare as `aws:PrincipalArn`: the user's or the role's, never the session's.
    #[must_use]
    pub fn policy_arn(&self) -> String {
        let (word, name) = match &self.kind {
            PrincipalKind::User { name } => ("user", name),
            PrincipalKind::Role { name, .. } => ("role", name),
            PrincipalKind::Kafka { name } => ("kafka-user", name),
        };
        format!("arn:{}:iam::{}:{word}/{name}", self.partition, self.account)
    }

    /// The user's or role's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.kind {
            PrincipalKind::User { name } | PrincipalKind::Role { name, .. } | PrincipalKind::Kafka { name } => name,
        }
    }

    pub(crate) fn node(&self) -> String {
        match &self.kind {
            PrincipalKind::User { name } => format!("user:{name}"),
            PrincipalKind::Role { name, .. } => format!("role:{name}"),
            PrincipalKind::Kafka { name } => format!("kafka:{name}"),
        }
    }

    pub(crate) fn keys(&self) -> Keys {
        let mut keys = Keys::new();
        keys.set("aws:PrincipalArn", self.policy_arn());
        keys.set("aws:PrincipalAccount", self.account.to_string());
        keys.set("schloss:TenantId", self.account.to_string());
        match &self.kind {
            PrincipalKind::User { name } => {
                keys.set("aws:PrincipalType", "User");
                keys.set("aws:username", name.clone());
                keys.set("aws:userid", name.clone());
            }
            PrincipalKind::Role { name, session } => {
                keys.set("aws:PrincipalType", "AssumedRole");
                keys.set("aws:userid", format!("{name}:{session}"));
            }
            PrincipalKind::Kafka { name } => {
                keys.set("aws:PrincipalType", "KafkaUser");
                keys.set("aws:userid", name.clone());
            }
        }
        keys
    }
}

/// What a client certificate says, read elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct CertificateFacts<'a> {
    /// The subject in RFC 2253 form.
    pub subject: &'a str,
    /// The subject's common name.
    pub common_name: Option<&'a str>,
    /// URIs among the alternative names (SPIFFE).
    pub uris: &'a [String],
    /// DNS names among them.
    pub dns: &'a [String],
    /// Mail addresses among them.
    pub emails: &'a [String],
}

/// Why a certificate is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    /// No rule of the tenant fits.
    #[error("no rule of the tenant's certificates.toml fits the certificate")]
    NoRule,
}

/// One `[[certificate]]`.
#[derive(Clone, Debug)]
pub(crate) struct CertificateRule {
    pub shows: Shows,
    pub user: Option<Box<str>>,
    pub role: Option<Box<str>>,
    pub kafka_user: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    CommonName(Box<str>),
    Subject(Box<str>),
    Uri(Box<str>),
    Dns(Box<str>),
    Email(Box<str>),
}

impl CertificateRule {
    pub fn fits(&self, facts: &CertificateFacts<'_>) -> bool {
        let among = |list: &[String], wanted: &str| list.iter().any(|item| item == wanted);
        match &self.shows {
            Shows::CommonName(name) => facts.common_name == Some(name),
            Shows::Subject(subject) => facts.subject == &**subject,
            Shows::Uri(uri) => among(facts.uris, uri),
            Shows::Dns(name) => facts.dns.iter().any(|item| item.eq_ignore_ascii_case(name)),
            Shows::Email(address) => among(facts.emails, address),
        }
    }

    pub fn principal(&self, facts: &CertificateFacts<'_>) -> PrincipalKind {
        match (&self.user, &self.kafka_user, &self.role) {
            (Some(name), ..) => PrincipalKind::User { name: name.clone() },
            (None, Some(name), _) => PrincipalKind::Kafka { name: name.clone() },
            (None, None, role) => PrincipalKind::Role {
                name: role.clone().unwrap_or_default(),
                session: session_name(facts.common_name.unwrap_or("certificate")),
            },
        }
    }
}

/// AWS's rule for session names: at most 64 of `[A-Za-z0-9_+=,.@-]`.
fn session_name(text: &str) -> Box<str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    text.chars().take(64).map(|c| if fits(c) { c } else { '-' }).collect::<String>().into_boxed_str()
}
