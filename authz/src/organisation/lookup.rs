//! Principals by the ARNs that logs and people name them by.

use super::{Organisation, Principal, PrincipalKind, Tenant};
use crate::arn::ResourceName;

impl Organisation {
    /// The principal of an ARN: `…:user/NAME`, `…:role/NAME` (the role without a session) or
    /// `…:assumed-role/ROLE/SESSION`. `None` when no tenant has it.
    #[must_use]
    pub fn principal_by_arn(&self, arn: &str) -> Option<Principal> {
        let name = ResourceName::split(arn);
        let tenant = self.tenant(name.account.parse().ok()?)?;
        match (name.service, name.rest.split_once('/')?) {
            ("iam", ("user", user)) => tenant.user(user),
            ("iam", ("role", role)) => tenant.role(role, ""),
            ("iam", ("kafka-user", name)) => tenant.has_kafka_user(name).then(|| tenant.kafka_user(name)),
            ("sts", ("assumed-role", session)) => {
                let (role, session) = session.split_once('/')?;
                tenant.role(role, session)
            }
            _ => None,
        }
    }

    /// The tenant whose virtual cluster a resource's ARN is of.
    #[must_use]
    pub fn owner_of(&self, resource: &str) -> Option<&Tenant> {
        let name = ResourceName::split(resource);
        self.tenant(name.account.parse().ok()?)
    }
}

impl Tenant {
    /// The Kafka principal `User:NAME`.
    #[must_use]
    pub fn kafka_user(&self, name: &str) -> Principal {
        let kind = PrincipalKind::Kafka { name: name.into() };
        Principal { account: self.account, partition: self.cluster.partition.clone(), kind }
    }

    /// Whether the files say who `User:NAME` is: a name with a SCRAM password, or a certificate.
    #[must_use]
    pub fn has_kafka_user(&self, name: &str) -> bool {
        let mapped = |rule: &super::people::CertificateRule| rule.kafka_user.as_deref() == Some(name);
        self.kafka_users.contains(name) || self.certificates.iter().any(mapped)
    }

    /// Whom a SCRAM name stands for: an IAM user, or one of `kafka_users`.
    #[must_use]
    pub fn scram_principal(&self, name: &str) -> Option<Principal> {
        let kafka = || self.kafka_users.contains(name).then(|| self.kafka_user(name));
        self.user(name).or_else(kafka)
    }
}
