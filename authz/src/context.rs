//! What is known about a request besides who, what and on what: the condition keys.
//!
//! In: facts of the connection and of the moment, given by the caller. Out: values by key, for conditions and variables.
//!
//! Invariants
//! - Key names compare without case. A key is absent, has one value, or is a list; a list of one stays a list.
//! - Time comes from the caller. Which moment would change a decision is noted while it is made, in [`Facts::valid_until`].

use std::borrow::Cow;
use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A condition key's value in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyValue {
    /// A single-valued key.
    One(Box<str>),
    /// A multi-valued key.
    Many(Box<[Box<str>]>),
}

/// Condition keys with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(Vec<(Box<str>, KeyValue)>);

impl Keys {
    /// No keys.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Sets a single-valued key.
    pub fn set(&mut self, key: &str, value: impl Into<Box<str>>) -> &mut Self {
        self.put(key, KeyValue::One(value.into()))
    }

    /// Sets a key.
    pub fn put(&mut self, key: &str, value: KeyValue) -> &mut Self {
        let key = key.to_ascii_lowercase().into_boxed_str();
        match self.0.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(at) => {
                if let Some(entry) = self.0.get_mut(at) {
                    entry.1 = value;
                }
            }
            Err(at) => self.0.insert(at, (key, value)),
        }
        self
    }

    /// Sets every key of `others`.
    pub fn put_all(&mut self, others: &Self) -> &mut Self {
        for (key, value) in &others.0 {
            self.put(key, value.clone());
        }
        self
    }

    /// The value of a key whose name is lower case already.
    #[must_use]
    pub fn value(&self, lower: &str) -> Option<&KeyValue> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(lower)).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    /// All keys, lower case, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &KeyValue)> {
        self.0.iter().map(|(k, v)| (&**k, v))
    }
}

/// Everything of a request that is not principal, action or resource. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Now, in milliseconds since 1970. `None` when `aws:CurrentTime` and `aws:EpochTime` are to be absent or among the keys.
    pub now_ms: Option<i64>,
    /// The connection's keys. Share one `Arc` per connection: the decision cache holds for one set of keys only.
    pub keys: Arc<Keys>,
}

impl RequestContext {
    /// A request on a TLS connection from `source`. More keys may be set by [`Keys::set`] before.
    #[must_use]
    pub fn connection(mut keys: Keys, source: IpAddr, now_ms: i64) -> Self {
        keys.set("aws:SourceIp", source.to_canonical().to_string());
        keys.set("aws:SecureTransport", "true");
        Self { now_ms: Some(now_ms), keys: Arc::new(keys) }
    }

    /// The same connection at another time.
    #[must_use]
    pub fn at(&self, now_ms: i64) -> Self {
        Self { now_ms: Some(now_ms), keys: Arc::clone(&self.keys) }
    }
}

/// A value found.
#[derive(Clone, Debug)]
pub(crate) enum Found<'a> {
    One(Cow<'a, str>),
    Many(&'a [Box<str>]),
}

/// All keys of one decision: the request's and the principal's.
pub(crate) struct Facts<'a> {
    pub principal: &'a Keys,
    pub request: &'a RequestContext,
    valid_until: Cell<i64>,
}

impl<'a> Facts<'a> {
    pub fn new(principal: &'a Keys, request: &'a RequestContext) -> Self {
        Self { principal, request, valid_until: Cell::new(i64::MAX) }
    }

    /// Looks a key up by its lower-case name. The principal's own keys cannot be overridden by the request.
    pub fn value(&self, lower: &str) -> Option<Found<'a>> {
        let found = self.principal.value(lower).or_else(|| self.request.keys.value(lower));
        match found {
            Some(KeyValue::One(text)) => return Some(Found::One(Cow::Borrowed(text))),
            Some(KeyValue::Many(texts)) => return Some(Found::Many(texts)),
            None => {}
        }
        let now = self.request.now_ms?;
        match lower {
            CURRENT_TIME => {
                let nanos = i128::from(now).saturating_mul(1_000_000);
                let text = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?.format(&Rfc3339).ok()?;
                Some(Found::One(Cow::Owned(text)))
            }
            EPOCH_TIME => Some(Found::One(Cow::Owned(now.div_euclid(1_000).to_string()))),
            _ => None,
        }
    }

    /// Notes that a key of time was compared with a moment: until that moment comes, the answer stays.
    pub fn touched_time(&self, threshold_ms: Option<i64>) {
        let Some(now) = self.request.now_ms else {
            return;
        };
        let holds_until = match threshold_ms {
            Some(threshold) if threshold > now => threshold,
            // Long past: nothing will change. A second is the coarsest unit a time key has.
            Some(threshold) if threshold.saturating_add(1_000) < now => return,
            _ => now,
        };
        self.valid_until.set(self.valid_until.get().min(holds_until));
    }

    /// The moment from which the decision must be made anew, when it depends on time.
    pub fn valid_until(&self) -> Option<i64> {
        let until = self.valid_until.get();
        (until != i64::MAX).then_some(until)
    }
}

/// Whether a key (lower case) changes while a connection lives.
pub(crate) fn is_time_key(lower: &str) -> bool {
    matches!(lower, CURRENT_TIME | EPOCH_TIME | MFA_AGE)
}

pub(crate) const CURRENT_TIME: &str = "aws:currenttime";
pub(crate) const EPOCH_TIME: &str = "aws:epochtime";
const MFA_AGE: &str = "aws:multifactorauthage";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_names_compare_without_case() {
        let mut keys = Keys::new();
        keys.set("aws:SourceIp", "10.0.0.1");
        assert_eq!(keys.value("aws:sourceip"), Some(&KeyValue::One("10.0.0.1".into())));
    }

    #[test]
    fn the_clock_keys_follow_the_time_given() {
        let request = RequestContext { now_ms: Some(1_700_000_000_123), keys: Arc::new(Keys::new()) };
        let none = Keys::new();
        let facts = Facts::new(&none, &request);
        assert!(matches!(facts.value("aws:epochtime"), Some(Found::One(t)) if t == "1700000000"));
        assert!(matches!(facts.value("aws:currenttime"), Some(Found::One(t)) if t == "2023-11-14T22:13:20.123Z"));
    }

    #[test]
    fn a_request_cannot_override_what_is_known_of_the_principal() {
        let mut own = Keys::new();
        own.set("aws:PrincipalAccount", "111111111111");
        let mut claimed = Keys::new();
        claimed.set("aws:principalaccount", "222222222222");
        let request = RequestContext { now_ms: None, keys: Arc::new(claimed) };
        let facts = Facts::new(&own, &request);
        assert!(matches!(facts.value("aws:principalaccount"), Some(Found::One(t)) if t == "111111111111"));
    }
}
