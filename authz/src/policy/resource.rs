//! `Resource` and `NotResource`: patterns of ARNs.
//!
//! Invariants (AWS's rules)
//! - Five parts are compared each by itself; a wildcard in one never reaches into the next.
//! - In the last part the word before the first `/` or `:` must be equal, wildcards there match nothing.
//! - Behind it `*` runs over `/` and `:`; variables may stand only there.

use super::template::{Reading, Template, VariableError};
use crate::arn::{ClusterArn, ResourceKind, ResourceName};
use crate::context::Facts;
use crate::glob::{Glob, GlobBuilder};

/// One element of `Resource`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ResourcePattern {
    /// `*`
    Every,
    /// An ARN.
    Arn(Box<ArnPattern>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ArnPattern {
    /// `partition:service:region:account`, patterns as written. One text for four patterns: most documents are small,
    /// and there may be very many.
    head: Box<str>,
    /// The word with its separator, compared as it stands.
    product: Box<str>,
    id: Template,
}

/// What is wrong with a resource of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArnError {
    /// Neither `*` nor `arn:…`.
    #[error("it is neither `*` nor an ARN (`arn:partition:service:region:account:resource`)")]
    NoArn,
    /// Fewer than six parts and no `*` at the end.
    #[error("it has fewer than the six parts of an ARN")]
    Short,
    /// A variable before the last part.
    #[error("a variable stands before the resource part")]
    VariableTooEarly,
    /// A bad variable.
    #[error(transparent)]
    Variable(#[from] VariableError),
}

impl ResourcePattern {
    pub fn parse(text: &str, variables: bool) -> Result<Self, ArnError> {
        if text == "*" {
            return Ok(Self::Every);
        }
        let parts = split_outside_variables(text, variables);
        let mut part = parts.iter().copied();
        if part.next() != Some("arn") || parts.len() < 2 {
            return Err(ArnError::NoArn);
        }
        let short = parts.len() < 6;
        if short && !text.ends_with('*') {
            return Err(ArnError::Short);
        }
        if variables && parts.iter().take(5).any(|p| p.contains("${")) {
            return Err(ArnError::VariableTooEarly);
        }
        let mut next = || part.next().unwrap_or("*");
        let (partition, service, region, account, rest) = (next(), next(), next(), next(), next());
        let head = [partition, service, region, account].join(":").into();
        // S3 names are global and have no type word: the whole part is the id.
        let plain_id = (service, region, account) == ("s3", "", "");
        let word_end = if plain_id { None } else { separator(rest, variables) };
        let (product, id) = match word_end {
            Some(end) => rest.split_at(end),
            None => ("", rest),
        };
        let id = Template::parse(id, Reading { wildcards: true, variables })?;
        let product = product.into();
        let arn = ArnPattern { head, product, id };
        Ok(Self::Arn(Box::new(arn)))
    }

    /// One resource of a virtual cluster, or with `prefix` every one whose name begins so.
    pub fn of(cluster: &ClusterArn, kind: ResourceKind, name: &str, prefix: bool) -> Self {
        let mut id = GlobBuilder::default();
        id.literal(&format!("{}/{}", cluster.name, cluster.uuid));
        if kind != ResourceKind::Cluster {
            id.literal("/");
            id.literal(name);
        }
        if prefix {
            id.pattern("*");
        }
        Self::Arn(Box::new(ArnPattern {
            head: format!("{}:kafka:{}:{}", cluster.partition, cluster.region, cluster.account).into(),
            product: format!("{}/", kind.word()).into(),
            id: Template::Fixed(id.finish()),
        }))
    }

    /// The name, or prefix of names, of a type of a cluster's resources that this stands for; `None` when it stands for
    /// none of them or for something else. An empty prefix is every name.
    pub fn names(&self, cluster: &ClusterArn, kind: ResourceKind) -> Option<(String, bool)> {
        let arn = match self {
            Self::Every => return Some((String::new(), true)),
            Self::Arn(arn) => arn,
        };
        let account = cluster.account.to_string();
        let heads = [&*cluster.partition, "kafka", &*cluster.region, &*account];
        if !arn.head.split(':').zip(heads).all(|(pattern, part)| part_matches(pattern, part)) {
            return None;
        }
        let Template::Fixed(id) = &arn.id else { return None };
        if arn.product.is_empty() {
            return id.is_any().then(|| (String::new(), true));
        }
        if arn.type_word() != Some(kind.word()) {
            return None;
        }
        let own = format!("{}/{}", cluster.name, cluster.uuid);
        if kind == ResourceKind::Cluster {
            return id.matches(&own).then(|| (String::new(), false));
        }
        if let Some(exact) = id.exact() {
            // A star here is a star of the name, and Kafka's entries have no way to write `*` for itself.
            let name = exact.strip_prefix(&own)?.strip_prefix('/')?;
            return (name != "*").then(|| (name.to_owned(), false));
        }
        let text = id.text();
        // `cluster/uuid/name` with wildcards in the first two at most, and one `*` at the end of the third.
        let mut parts = text.splitn(3, '/');
        let (name, uuid) = (parts.next()?, parts.next());
        let Some(uuid) = uuid else {
            return (name == "*").then(|| (String::new(), true));
        };
        let ours = part_matches(name, &cluster.name) && part_matches(uuid, &cluster.uuid);
        match parts.next() {
            Some(name) if ours => match name.strip_suffix('*') {
                Some(prefix) => (!prefix.contains(['*', '?'])).then(|| (prefix.to_owned(), true)),
                None => (!name.contains(['*', '?'])).then(|| (name.to_owned(), false)),
            },
            None if ours && uuid == "*" => Some((String::new(), true)),
            _ => None,
        }
    }

    /// Whether the resource is one of these; `None` when that hangs on a variable without value.
    pub fn matches(&self, facts: &Facts<'_>, resource: ResourceName<'_>) -> Option<bool> {
        match self {
            Self::Every => Some(true),
            Self::Arn(arn) => arn.matches(facts, resource),
        }
    }
}

impl ArnPattern {
    /// The name first: it is what differs most often.
    fn matches(&self, facts: &Facts<'_>, resource: ResourceName<'_>) -> Option<bool> {
        let Some(id) = resource.rest.strip_prefix(&*self.product).filter(|_| resource.is_arn) else {
            return Some(false);
        };
        let id = self.id.matches(facts, id, false);
        if id == Some(false) {
            return id;
        }
        let heads = [resource.partition, resource.service, resource.region, resource.account];
        if self.head.split(':').zip(heads).all(|(pattern, part)| part_matches(pattern, part)) {
            id
        } else {
            Some(false)
        }
    }

    /// The first part that differs, `None` when it matches.
    pub fn mismatch(&self, facts: &Facts<'_>, resource: ResourceName<'_>) -> Option<&'static str> {
        if !resource.is_arn {
            return Some("the resource is no ARN");
        }
        let parts = [
            (resource.partition, "partition"),
            (resource.service, "service"),
            (resource.region, "region"),
            (resource.account, "account"),
        ];
        for (pattern, (part, name)) in self.head.split(':').zip(parts) {
            if !part_matches(pattern, part) {
                return Some(name);
            }
        }
        match resource.rest.strip_prefix(&*self.product) {
            None => Some("resource type"),
            Some(id) => match self.id.matches(facts, id, false) {
                Some(true) => None,
                Some(false) => Some("resource name"),
                None => Some("a variable has no value"),
            },
        }
    }

    /// The resource type word, when it is written out.
    pub fn type_word(&self) -> Option<&str> {
        self.product.strip_suffix(['/', ':'])
    }

    /// The pattern behind the type word, when it has no variables.
    pub fn id(&self) -> &Template {
        &self.id
    }

    /// Whether resources of this service can match.
    pub fn covers_service(&self, service: &str) -> bool {
        self.head.split(':').nth(1).is_some_and(|pattern| part_matches(pattern, service))
    }
}

/// Most parts have no wildcard, or are one.
fn part_matches(pattern: &str, part: &str) -> bool {
    pattern == "*" || pattern == part || (pattern.contains(['*', '?']) && Glob::new(pattern).matches(part))
}

/// Splits at the first five colons that are not inside `${…}`.
pub(crate) fn split_outside_variables(text: &str, variables: bool) -> Vec<&str> {
    let mut parts = Vec::with_capacity(6);
    let mut rest = text;
    while parts.len() < 5 {
        let Some(at) = find_outside(rest, variables, |c| c == ':') else {
            break;
        };
        let (part, behind) = rest.split_at(at);
        parts.push(part);
        rest = behind.strip_prefix(':').unwrap_or(behind);
    }
    parts.push(rest);
    parts
}

/// The end of the type word, separator included.
fn separator(rest: &str, variables: bool) -> Option<usize> {
    find_outside(rest, variables, |c| c == '/' || c == ':').map(|at| at.saturating_add(1))
}

fn find_outside(text: &str, variables: bool, wanted: impl Fn(char) -> bool) -> Option<usize> {
    let mut inside = false;
    let mut before = '\0';
    for (at, c) in text.char_indices() {
        match c {
            '{' if variables && before == '$' => inside = true,
            '}' if inside => inside = false,
            _ if !inside && wanted(c) => return Some(at),
            _ => {}
        }
        before = c;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Keys, RequestContext};
    use std::sync::Arc;

    fn matches(pattern: &str, arn: &str) -> bool {
        let mut keys = Keys::new();
        keys.set("aws:username", "ann");
        let request = RequestContext { now_ms: None, keys: Arc::new(Keys::new()) };
        let facts = Facts::new(&keys, &request);
        ResourcePattern::parse(pattern, true).unwrap().matches(&facts, ResourceName::split(arn)) == Some(true)
    }

    const TOPIC: &str = "arn:aws:kafka:eu-central-1:111111111111:topic/acme/6a7b-1/orders.eu";

    #[test]
    fn a_star_crosses_slashes_but_not_the_five_colons() {
        assert!(matches("arn:aws:kafka:eu-central-1:111111111111:topic/*", TOPIC));
        assert!(matches("arn:aws:kafka:*:111111111111:topic/acme/*/orders.*", TOPIC));
        assert!(!matches("arn:aws:kafka:*:topic/acme/*/orders.*:*", TOPIC));
        assert!(!matches("arn:aws:kafka:eu-central-1*:topic/*:*", TOPIC));
    }

    #[test]
    fn a_wildcard_in_the_resource_type_matches_nothing() {
        assert!(!matches("arn:aws:kafka:*:*:top*/acme/*/orders.eu", TOPIC));
        assert!(!matches("arn:aws:kafka:*:*:*/acme/6a7b-1/orders.eu", TOPIC));
        assert!(matches("arn:aws:kafka:*:*:*", TOPIC));
    }

    #[test]
    fn a_variable_in_a_resource_takes_the_callers_value() {
        assert!(matches("arn:aws:kafka:*:*:topic/*/*/${aws:username}-*", "arn:aws:kafka:r:1:topic/a/b/ann-1"));
        assert!(!matches("arn:aws:kafka:*:*:topic/*/*/${aws:username}-*", "arn:aws:kafka:r:1:topic/a/b/bob-1"));
        assert!(matches("arn:aws:sns:*:*:${aws:username}-news", "arn:aws:sns:r:1:ann-news"));
    }

    #[test]
    fn colons_of_a_group_id_are_matched_by_a_star() {
        assert!(matches("arn:aws:kafka:*:*:group/acme/*/team:*", "arn:aws:kafka:r:1:group/acme/u/team:a/b:c"));
    }

    #[test]
    fn resources_aws_refuses_are_refused() {
        assert_eq!(ResourcePattern::parse("topic/orders", true), Err(ArnError::NoArn));
        assert_eq!(ResourcePattern::parse("arn:aws:kafka", true), Err(ArnError::Short));
        assert_eq!(
            ResourcePattern::parse("arn:aws:kafka:${aws:region}:1:topic/*", true),
            Err(ArnError::VariableTooEarly)
        );
    }
}
