//! The parameters of the operations, checked as AWS's API reference bounds them.

use std::collections::BTreeMap;

use schloss_authz::AccountId;

use super::answer::{Code, Refusal};
use super::query::Query;
use crate::credentials;

/// AWS's bounds.
const TAGS_MAX: usize = 50;
const TAG_KEY_CHARS_MAX: usize = 128;
const TAG_VALUE_CHARS_MAX: usize = 256;
const POLICY_ARNS_MAX: usize = 10;
const POLICY_CHARS_MAX: usize = 2_048;
const SESSION_SECONDS_MIN: i64 = 900;

type Tags = BTreeMap<Box<str>, Box<str>>;

/// A parameter that is out of form.
pub(super) fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::ValidationError, "parameters", message)
}

/// A role's ARN: partition, account, name. Roles have no path here.
#[derive(Debug)]
pub(super) struct RoleArn<'q> {
    pub account: AccountId,
    pub name: &'q str,
    pub arn: &'q str,
}

impl<'q> RoleArn<'q> {
    pub fn of(query: &'q Query) -> Result<Self, Refusal> {
        let arn = query.value("RoleArn").ok_or_else(|| invalid("RoleArn is missing"))?;
        let mut parts = arn.splitn(6, ':');
        let (Some("arn"), Some(_partition), Some("iam"), Some(""), Some(account), Some(rest)) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid("RoleArn is not the ARN of a role"));
        };
        let account = account.parse().map_err(|_| invalid("RoleArn has no account of 12 digits"))?;
        let name = rest.strip_prefix("role/").filter(|name| is_word(name, 1, 64));
        Ok(Self { account, name: name.ok_or_else(|| invalid("RoleArn is not the ARN of a role"))?, arn })
    }
}

/// `[\w+=,.@-]` between two lengths.
fn is_word(text: &str, least: usize, most: usize) -> bool {
    (least..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b))
}

pub(super) fn session_name(query: &Query) -> Result<&str, Refusal> {
    let name = query.value("RoleSessionName").ok_or_else(|| invalid("RoleSessionName is missing"))?;
    if is_word(name, 2, 64) {
        Ok(name)
    } else {
        Err(invalid("RoleSessionName must be 2 to 64 of letters, digits and `_+=,.@-`"))
    }
}

pub(super) fn source_identity(query: &Query) -> Result<Option<&str>, Refusal> {
    match query.value("SourceIdentity") {
        Some(identity) if !is_word(identity, 2, 64) => {
            Err(invalid("SourceIdentity must be 2 to 64 of letters, digits and `_+=,.@-`"))
        }
        identity => Ok(identity),
    }
}

pub(super) fn external_id(query: &Query) -> Result<Option<&str>, Refusal> {
    let fits = |id: &str| {
        (2..=1_224).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@:/\\-".contains(&b))
    };
    match query.value("ExternalId") {
        Some(id) if !fits(id) => Err(invalid("ExternalId must be 2 to 1224 of letters, digits and `_+=,.@:/\\-`")),
        id => Ok(id),
    }
}

/// Multi-factor devices are not known here; a request that names one must not pass as if it had been checked.
pub(super) fn no_second_factor(query: &Query) -> Result<(), Refusal> {
    if query.value("SerialNumber").is_some() || query.value("TokenCode").is_some() {
        return Err(invalid("SerialNumber and TokenCode are not supported: there are no MFA devices"));
    }
    Ok(())
}

pub(super) fn duration(query: &Query, default: i64, most: i64) -> Result<i64, Refusal> {
    let Some(text) = query.value("DurationSeconds") else { return Ok(default) };
    let seconds = text.parse::<i64>().ok().filter(|seconds| (SESSION_SECONDS_MIN..=most).contains(seconds));
    seconds.ok_or_else(|| invalid(format!("DurationSeconds must be {SESSION_SECONDS_MIN} to {most}")))
}

/// Session policies: at most one in line, and names of the account's policies by ARN.
#[derive(Debug, Default)]
pub(super) struct Policies {
    pub inline: Vec<Box<str>>,
    pub named: Vec<Box<str>>,
}

pub(super) fn policies(query: &Query, account: AccountId) -> Result<Policies, Refusal> {
    let mut policies = Policies::default();
    if let Some(text) = query.value("Policy") {
        let malformed = || {
            Refusal::new(
                Code::MalformedPolicyDocument,
                "session policy",
                "The session policy is not a well-formed policy",
            )
        };
        if text.chars().count() > POLICY_CHARS_MAX {
            return Err(malformed().because("longer than 2048 characters"));
        }
        credentials::compile(text).ok_or_else(malformed)?;
        let minified = serde_json::from_str::<serde_json::Value>(text).map_err(|_| malformed())?;
        policies.inline.push(minified.to_string().into());
    }
    let own = format!(":iam::{account}:policy/");
    for arn in query.list("PolicyArns", "arn") {
        let name = match arn.split_once(":iam::aws:policy/") {
            Some(("arn:aws", name)) => Some(format!("managed/{name}")),
            _ => arn.strip_prefix("arn:aws").and_then(|rest| rest.strip_prefix(&own)).map(str::to_owned),
        };
        let name = name.ok_or_else(|| invalid("PolicyArns must be policies of the role's account"))?;
        policies.named.push(name.into());
    }
    if policies.named.len() > POLICY_ARNS_MAX {
        return Err(invalid("PolicyArns may have 10 elements"));
    }
    Ok(policies)
}

/// Session tags, and which of them the next role in a chain inherits.
#[derive(Debug, Default)]
pub(super) struct SessionTags {
    pub tags: Tags,
    pub transitive: Vec<Box<str>>,
}

pub(super) fn tags(query: &Query) -> Result<SessionTags, Refusal> {
    let mut found = SessionTags::default();
    let values: Vec<&str> = query.list("Tags", "Value").collect();
    for (at, key) in query.list("Tags", "Key").enumerate() {
        let value = values.get(at).ok_or_else(|| invalid("a tag has a Key and a Value"))?;
        if at >= TAGS_MAX {
            return Err(invalid("Tags may have 50 elements"));
        }
        let fits = |text: &str, least: usize, most: usize| {
            (least..=most).contains(&text.chars().count())
                && text.chars().all(|c| c.is_alphanumeric() || c == ' ' || "_.:/=+@-".contains(c))
        };
        if !fits(key, 1, TAG_KEY_CHARS_MAX) || !fits(value, 0, TAG_VALUE_CHARS_MAX) || key.starts_with("aws:") {
            return Err(invalid("a tag's key or value is out of form"));
        }
        if found.tags.keys().any(|other| other.eq_ignore_ascii_case(key)) {
            return Err(invalid("a tag's key is given twice"));
        }
        found.tags.insert(key.into(), (*value).into());
    }
    for key in query.list("TransitiveTagKeys", "") {
        if !found.tags.contains_key(key) {
            return Err(invalid("TransitiveTagKeys names a tag that is not among Tags"));
        }
        found.transitive.push(key.into());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(body: &str) -> Query {
        Query::parse(body.as_bytes()).unwrap()
    }

    #[test]
    fn role_arns_are_taken_apart_and_others_refused() {
        let good = query("RoleArn=arn:aws:iam::111111111111:role/reader");
        assert_eq!(RoleArn::of(&good).unwrap().name, "reader");
        for arn in [
            "",
            "arn:aws:iam::111111111111:user/reader",
            "arn:aws:iam::1:role/reader",
            "arn:aws:iam::111111111111:role/",
            "arn:aws:iam::111111111111:role/a/b",
            "arn:aws:iam:eu:111111111111:role/a",
            "arn:aws:sts::111111111111:assumed-role/a/b",
        ] {
            assert!(RoleArn::of(&query(&format!("RoleArn={arn}"))).is_err(), "{arn}");
        }
    }

    #[test]
    fn bounds_of_aws_hold() {
        assert!(session_name(&query("RoleSessionName=a")).is_err());
        assert!(session_name(&query("RoleSessionName=a%2Fb")).is_err());
        assert!(duration(&query("DurationSeconds=899"), 3_600, 43_200).is_err());
        assert!(duration(&query("DurationSeconds=43201"), 3_600, 43_200).is_err());
        assert_eq!(duration(&query(""), 3_600, 43_200).unwrap(), 3_600);
        assert!(no_second_factor(&query("TokenCode=1")).is_err());
        assert!(external_id(&query("ExternalId=%20%20")).is_err());
        assert!(
            tags(&query("Tags.member.1.Key=a&Tags.member.1.Value=1&Tags.member.2.Key=A&Tags.member.2.Value=2"))
                .is_err()
        );
        assert!(tags(&query("Tags.member.1.Key=aws:a&Tags.member.1.Value=1")).is_err());
        assert!(tags(&query("TransitiveTagKeys.member.1=a")).is_err());
        let many: String = (1..=51).map(|n| format!("Tags.member.{n}.Key=k{n}&Tags.member.{n}.Value=v&")).collect();
        assert!(tags(&query(&many)).is_err());
    }

    #[test]
    fn policies_of_other_accounts_and_malformed_ones_are_refused() {
        let account = "111111111111".parse().unwrap();
        let arns = |arn: &str| policies(&query(&format!("PolicyArns.member.1.arn={arn}")), account);
        assert_eq!(&*arns("arn:aws:iam::111111111111:policy/p").unwrap().named[0], "p");
        assert_eq!(&*arns("arn:aws:iam::aws:policy/consumer").unwrap().named[0], "managed/consumer");
        assert!(arns("arn:aws:iam::222222222222:policy/p").is_err());
        let refused = policies(&query("Policy=%7B%22Statement%22%3A1%7D"), account).unwrap_err();
        assert_eq!(refused.code, Code::MalformedPolicyDocument);
    }
}
