//! Who asks, and `Principal` / `NotPrincipal` of resource policies.
//!
//! Invariants
//! - A wildcard stands alone (`*`), never inside a name.
//! - A grant to an account only lets that account's own policies decide; it grants nothing by itself.

use crate::arn::{AccountId, ResourceName};
use crate::json::{Node, Position, Value};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The ARN, of a role's session the session's; a service's name; empty when anonymous.
    pub arn: Box<str>,
    /// The account it belongs to.
    pub account: Option<Box<str>>,
    /// `arn:…:role/NAME` behind a session, as far as the session's ARN tells.
    role: Option<RoleOfSession>,
    /// `arn:…:user/NAME` behind a federated user's session (AWS: GetFederationToken).
    federated_by: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct RoleOfSession {
    partition: Box<str>,
    name: Box<str>,
}

impl Caller {
    /// From the text a request names its principal by.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let name = ResourceName::split(text);
        let account = match text.parse::<AccountId>() {
            Ok(account) => Some(account.to_string().into_boxed_str()),
            Err(_) => Some(name.account).filter(|a| !a.is_empty()).map(Into::into),
        };
        let session = name.rest.strip_prefix("assumed-role/").filter(|_| name.service == "sts");
        let role = session
            .and_then(|s| s.split('/').next())
            .map(|role| RoleOfSession { partition: name.partition.into(), name: role.into() });
        let federated = name.rest.strip_prefix("federated-user/").filter(|_| name.service == "sts");
        let federated_by =
            federated.map(|user| format!("arn:{}:iam::{}:user/{user}", name.partition, name.account).into());
        let anonymous = matches!(text, "*" | "anonymous" | "Anonymous");
        Self { arn: if anonymous { "".into() } else { text.into() }, account, role, federated_by }
    }

    /// Whether nobody is known.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.arn.is_empty()
    }

    /// Whether this is a service (`kafka.amazonaws.com`), which has no account.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.account.is_none() && !self.is_anonymous()
    }

    /// Whether this is a session of a role.
    #[must_use]
    pub fn is_role_session(&self) -> bool {
        self.role.is_some()
    }

    fn is_role(&self) -> bool {
        let name = ResourceName::split(&self.arn);
        name.service == "iam" && name.rest.starts_with("role/")
    }

    fn is_session_of(&self, role_arn: &str) -> bool {
        let Some(role) = &self.role else { return false };
        let name = ResourceName::split(role_arn);
        let last = name.rest.strip_prefix("role/").and_then(|path| path.rsplit('/').next());
        name.service == "iam"
            && name.partition == &*role.partition
            && Some(name.account) == self.account.as_deref()
            && last.is_some_and(|last| last.eq_ignore_ascii_case(&role.name))
    }
}

/// How a statement's `Principal` fits the caller, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    /// Names the caller's account.
    Account,
    /// Names the role, or the federating user, of which the caller is a session.
    Role,
    /// Names the role itself, while the caller is that role without a session.
    RoleItself,
    /// Names the caller, the session, or everybody.
    Direct,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PrincipalPattern {
    Everybody,
    Account(Box<str>),
    Arn(Box<str>),
    /// A service, a federated provider or a canonical user: compared as text.
    Other(Box<str>),
}

/// `Principal` or `NotPrincipal`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PrincipalSet {
    pub negated: bool,
    pub patterns: Vec<PrincipalPattern>,
}

impl PrincipalSet {
    pub fn fit(&self, caller: &Caller) -> Option<Fit> {
        let best = self.patterns.iter().filter_map(|p| p.fit(caller)).max();
        match (self.negated, best) {
            (false, fit) => fit,
            (true, Some(_)) => None,
            (true, None) => Some(Fit::Direct),
        }
    }
}

impl PrincipalPattern {
    fn fit(&self, caller: &Caller) -> Option<Fit> {
        match self {
            Self::Everybody => Some(Fit::Direct),
            _ if caller.is_anonymous() => None,
            Self::Account(account) => (caller.account.as_deref() == Some(account)).then_some(Fit::Account),
            Self::Arn(arn) if caller.is_session_of(arn) => Some(Fit::Role),
            Self::Arn(arn) if caller.federated_by.as_deref() == Some(arn) => Some(Fit::Role),
            Self::Arn(arn) if **arn == *caller.arn && caller.is_role() => Some(Fit::RoleItself),
            Self::Arn(arn) | Self::Other(arn) => (**arn == *caller.arn).then_some(Fit::Direct),
        }
    }
}

/// What is wrong with a principal of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// Not `*`, an account or an ARN.
    #[error("it is neither `*`, nor an account, nor an ARN of `iam` or `sts`")]
    BadAws,
    /// `AWS`, `Service`, `Federated`, `CanonicalUser` are all there are.
    #[error("principals of this kind do not exist")]
    UnknownKind,
    /// Neither a string nor an object of strings.
    #[error("it is neither `\"*\"` nor an object of kinds and names")]
    BadForm,
    /// A name without its kind.
    #[error("a name stands without its kind")]
    Bare,
    /// A list without elements.
    #[error("it names nobody")]
    Empty,
}

/// Reads the element; mistakes go to `wrong` with place and text.
pub(crate) fn parse(node: &Node, negated: bool, wrong: &mut dyn FnMut(Position, &str, PrincipalError)) -> PrincipalSet {
    let mut patterns = Vec::new();
    match &node.value {
        Value::Text(text) if &**text == "*" => patterns.push(PrincipalPattern::Everybody),
        Value::Object(members) if members.is_empty() => wrong(node.at, "", PrincipalError::Empty),
        Value::Object(members) => {
            for member in members {
                if member.node.elements().is_empty() {
                    wrong(member.node.at, &member.name, PrincipalError::Empty);
                }
                for element in member.node.elements() {
                    let Some(text) = element.text() else {
                        wrong(element.at, &member.name, PrincipalError::BadForm);
                        continue;
                    };
                    match one(&member.name, text) {
                        Ok(pattern) => patterns.push(pattern),
                        Err(why) => wrong(element.at, text, why),
                    }
                }
            }
        }
        Value::Text(text) => {
            // Refused in a set; a simulation reads it as AWS once did.
            match one("AWS", text) {
                Ok(pattern) => {
                    wrong(node.at, text, PrincipalError::Bare);
                    patterns.push(pattern);
                }
                Err(why) => wrong(node.at, text, why),
            }
        }
        _ => wrong(node.at, "", PrincipalError::BadForm),
    }
    PrincipalSet { negated, patterns }
}

fn one(kind: &str, text: &str) -> Result<PrincipalPattern, PrincipalError> {
    match kind {
        "AWS" if text == "*" => Ok(PrincipalPattern::Everybody),
        "AWS" if text.parse::<AccountId>().is_ok() => Ok(PrincipalPattern::Account(text.into())),
        "AWS" => {
            let name = ResourceName::split(text);
            let known = name.is_arn && matches!(name.service, "iam" | "sts");
            if !known || name.rest.contains(['*', '?']) {
                Err(PrincipalError::BadAws)
            } else if name.rest == "root" {
                Ok(PrincipalPattern::Account(name.account.into()))
            } else {
                Ok(PrincipalPattern::Arn(text.into()))
            }
        }
        "Service" | "Federated" | "CanonicalUser" => Ok(PrincipalPattern::Other(text.into())),
        _ => Err(PrincipalError::UnknownKind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(principal: &str, caller: &str) -> Option<Fit> {
        let node = crate::json::read(principal).unwrap();
        let mut wrong = 0;
        let set = parse(&node, false, &mut |_, _, _| wrong += 1);
        assert_eq!(wrong, 0);
        set.fit(&Caller::parse(caller))
    }

    #[test]
    fn a_grant_to_an_account_is_weaker_than_one_to_its_user() {
        let user = "arn:aws:iam::111111111111:user/ann";
        assert_eq!(fit(r#"{"AWS": "111111111111"}"#, user), Some(Fit::Account));
        assert_eq!(fit(r#"{"AWS": "arn:aws:iam::111111111111:root"}"#, user), Some(Fit::Account));
        assert_eq!(fit(r#"{"AWS": "arn:aws:iam::111111111111:user/ann"}"#, user), Some(Fit::Direct));
        assert_eq!(fit(r#"{"AWS": "222222222222"}"#, user), None);
    }

    #[test]
    fn a_session_fits_its_role_whatever_the_roles_path() {
        let session = "arn:aws:sts::111111111111:assumed-role/reader/s1";
        assert_eq!(fit(r#"{"AWS": "arn:aws:iam::111111111111:role/team/reader"}"#, session), Some(Fit::Role));
        assert_eq!(fit(r#"{"AWS": "arn:aws:iam::222222222222:role/reader"}"#, session), None);
        assert_eq!(fit(r#"{"AWS": "arn:aws:sts::111111111111:assumed-role/reader/s1"}"#, session), Some(Fit::Direct));
    }

    #[test]
    fn a_wildcard_inside_a_principal_is_refused() {
        assert_eq!(one("AWS", "arn:aws:iam::111111111111:user/*"), Err(PrincipalError::BadAws));
        assert_eq!(one("Person", "x"), Err(PrincipalError::UnknownKind));
    }
}
