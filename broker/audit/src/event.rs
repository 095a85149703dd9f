//! One audit event, and its body as it is sealed.
//!
//! The body is one flat JSON object. `class_uid` and `class_name` are those of OCSF 1.x: Authentication (3002) for logins,
//! API Activity (6003) for administration and key use, Datastore Activity (6005) for the data plane.
//!
//! Invariant: no field is longer than [`FIELD_BYTES_MAX`] plus its mark, whatever a client sent.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write as _;

use schloss_core::TenantId;
use schloss_crypto::digest::sha256;
use serde_json::{Value, json};

/// A text longer than this is cut, with its length and hash behind it. Kafka's longest topic ARN fits.
pub const FIELD_BYTES_MAX: usize = 1024;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventClass {
    /// A login or its refusal.
    Authentication,
    /// A change of topics, configs, policies, credentials, or of the broker itself.
    Administration,
    /// Reading and writing data.
    Data,
    /// A KMS key was asked for.
    KeyUse,
}

impl EventClass {
    /// OCSF's `class_uid` and `class_name`.
    const fn ocsf(self) -> (u32, &'static str) {
        match self {
            Self::Authentication => (3002, "Authentication"),
            Self::Administration | Self::KeyUse => (6003, "API Activity"),
            Self::Data => (6005, "Datastore Activity"),
        }
    }

    /// Our name of the class, `class` in the body.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authentication => "authentication",
            Self::Administration => "administration",
            Self::Data => "data",
            Self::KeyUse => "key-use",
        }
    }
}

/// How it was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Done.
    Allowed,
    /// Refused.
    Denied,
}

impl Verdict {
    /// `allowed` or `denied`, as in the body.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        }
    }
}

/// One event. Texts may be anything a client sent; they are cut when written.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// What kind.
    pub class: EventClass,
    /// Whose log it goes to; `None` is the cluster's.
    pub tenant: Option<TenantId>,
    /// How it was decided.
    pub verdict: Verdict,
    /// Who.
    pub principal: String,
    /// What, for example `kafka-cluster:ReadData`.
    pub action: String,
    /// On what: an ARN; a plain name in summaries.
    pub resource: String,
    /// By which Kafka API.
    pub api: String,
    /// Names the request in answers and logs.
    pub request_id: String,
    /// From which address.
    pub source: String,
    /// The client's name for itself.
    pub client_id: String,
    /// Why: policy and statement of a decision, or the step that failed.
    pub reason: String,
    /// How many alike this stands for.
    pub count: u64,
    /// First of the time a summary covers, milliseconds since 1970.
    pub since_ms: Option<i64>,
}

impl Event {
    /// One event with empty texts.
    #[must_use]
    pub const fn new(class: EventClass, tenant: Option<TenantId>, verdict: Verdict) -> Self {
        Self {
            class,
            tenant,
            verdict,
            principal: String::new(),
            action: String::new(),
            resource: String::new(),
            api: String::new(),
            request_id: String::new(),
            source: String::new(),
            client_id: String::new(),
            reason: String::new(),
            count: 1,
            since_ms: None,
        }
    }

    /// The log it belongs to.
    pub(crate) fn log_name(&self) -> String {
        self.tenant.map_or_else(|| crate::folder::CLUSTER_LOG.to_owned(), |tenant| tenant.to_string())
    }

    /// The body to be sealed; empty texts are left out.
    pub(crate) fn body(&self, time_ms: i64) -> Vec<u8> {
        let (class_uid, class_name) = self.class.ocsf();
        let mut body = serde_json::Map::new();
        body.insert("time".into(), json!(time_ms));
        body.insert("class_uid".into(), json!(class_uid));
        body.insert("class_name".into(), json!(class_name));
        body.insert("class".into(), json!(self.class.name()));
        body.insert("verdict".into(), json!(self.verdict.name()));
        body.insert("count".into(), json!(self.count));
        if let Some(tenant) = self.tenant {
            body.insert("tenant".into(), json!(tenant.to_string()));
        }
        if let Some(since_ms) = self.since_ms {
            body.insert("since".into(), json!(since_ms));
        }
        for (name, text) in [
            ("principal", &self.principal),
            ("action", &self.action),
            ("resource", &self.resource),
            ("api", &self.api),
            ("request_id", &self.request_id),
            ("source", &self.source),
            ("client_id", &self.client_id),
            ("reason", &self.reason),
        ] {
            if !text.is_empty() {
                body.insert(name.into(), json!(capped(text)));
            }
        }
        Value::Object(body).to_string().into_bytes()
    }
}

// SECURITY: names of tenants never reach a log line by accident; Debug tells only the kind.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({} {}, count {})", self.class.name(), self.verdict.name(), self.count)
    }
}

/// `text`, or its beginning with length and hash of the whole, so that two long names stay two.
pub(crate) fn capped(text: &str) -> Cow<'_, str> {
    if text.len() <= FIELD_BYTES_MAX {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(FIELD_BYTES_MAX);
    let mut cut = text.get(..end).unwrap_or_default().to_owned();
    let hash = crate::line::hex(&sha256(text.as_bytes()));
    // Writing into a String cannot fail.
    let _ = write!(cut, "…[{} bytes, sha256 {hash}]", text.len());
    Cow::Owned(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_at_a_character_and_names_its_length_and_hash() {
        let long = format!("{}ä{}", "a".repeat(FIELD_BYTES_MAX - 1), "b".repeat(30_000));
        let cut = capped(&long);
        assert!(cut.starts_with(&format!("{}…[31025 bytes, sha256 ", "a".repeat(FIELD_BYTES_MAX - 1))), "{cut}");
        assert_ne!(cut, capped(&format!("{long}c")));
        assert_eq!(capped("short"), "short");
    }

    #[test]
    fn body_with_control_characters_is_one_line_of_json_and_keeps_them() {
        let mut event = Event::new(EventClass::Data, TenantId::new(1), Verdict::Denied);
        event.resource = "a\n\u{1b}[31m\u{202e}\"\0".to_owned();
        let body = event.body(5);
        assert!(!body.contains(&b'\n') && !body.contains(&0x1b));
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["resource"], json!(event.resource));
        assert_eq!(value["tenant"], json!("000000000001"));
        assert_eq!(value["class_uid"], json!(6005));
        assert_eq!(value.get("principal"), None);
    }

    #[test]
    fn debug_of_an_event_shows_no_name() {
        let mut event = Event::new(EventClass::KeyUse, None, Verdict::Allowed);
        event.principal = "secret".to_owned();
        assert_eq!(format!("{event:?}"), "Event(key-use allowed, count 1)");
    }
}
