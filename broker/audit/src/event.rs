//! One audit event and its JSON body, after the classes of OCSF 1.5.
//!
//! Field names are OCSF's where it has one; ours stand under `unmapped`. Everything a client can choose is capped in length and written as
//! ASCII JSON: newlines, terminal escapes and direction marks arrive as `\u` escapes wherever the line is shown.

use schloss_core::TenantId;
use serde_json::{Map, Value, json};

/// A client-chosen text is cut here; how long it was is said.
const TEXT_BYTES_MAX: usize = 1024;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A login, done or failed. OCSF Authentication.
    Authentication,
    /// A refused action on data. OCSF Datastore Activity.
    Refusal,
    /// An administrative action. OCSF API Activity.
    Administration,
    /// A KMS key was used. OCSF API Activity.
    KeyUse,
    /// Allowed data-plane actions of one minute, counted. OCSF Datastore Activity.
    DataSummary,
    /// The log about itself, start and stop. OCSF API Activity.
    System,
}

impl Class {
    /// Our word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authentication => "authentication",
            Self::Refusal => "refusal",
            Self::Administration => "administration",
            Self::KeyUse => "key_use",
            Self::DataSummary => "data_summary",
            Self::System => "system",
        }
    }

    const fn ocsf(self) -> (u32, &'static str, u32) {
        match self {
            Self::Authentication => (3002, "Authentication", 3),
            Self::Refusal | Self::DataSummary => (6005, "Datastore Activity", 6),
            Self::Administration | Self::KeyUse | Self::System => (6003, "API Activity", 6),
        }
    }
}

/// How it was judged, or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Allowed, done.
    Allowed,
    /// Refused.
    Denied,
    /// Allowed, but failed.
    Failed,
}

impl Verdict {
    /// Our word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// One event. Build with [`Event::new`] and fill what is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whose stream; `None` is the installation's.
    pub tenant: Option<TenantId>,
    /// What kind.
    pub class: Class,
    /// How it ended.
    pub verdict: Verdict,
    /// Who: an ARN, or what the peer claimed to be.
    pub principal: Option<String>,
    /// What: for example `kafka-cluster:ReadData`.
    pub action: String,
    /// On what: an ARN or a name.
    pub resource: Option<String>,
    /// By which API, for example `Fetch`.
    pub api: Option<String>,
    /// Why it was judged so.
    pub reason: Option<String>,
    /// Which policy statement decided.
    pub statement: Option<String>,
    /// The request, to match with logs.
    pub request_id: Option<String>,
    /// Where from.
    pub source: Option<std::net::SocketAddr>,
    /// What the client calls itself.
    pub client_id: Option<String>,
    /// How often, for summaries.
    pub count: u64,
    /// When it happened, ms since 1970; `None` is when it is recorded.
    pub time_ms: Option<i64>,
    /// More facts, for example old and new values of a setting. Keys are ours, values may be a client's.
    pub details: Vec<(&'static str, String)>,
}

impl Event {
    /// An event with only what every event has.
    #[must_use]
    pub fn new(tenant: Option<TenantId>, class: Class, verdict: Verdict, action: impl Into<String>) -> Self {
        Self {
            tenant,
            class,
            verdict,
            principal: None,
            action: action.into(),
            resource: None,
            api: None,
            reason: None,
            statement: None,
            request_id: None,
            source: None,
            client_id: None,
            count: 1,
            time_ms: None,
            details: Vec::new(),
        }
    }

    /// The body as one line of ASCII JSON.
    #[must_use]
    pub fn body(&self, now_ms: i64) -> String {
        let (class_uid, class_name, category_uid) = self.class.ocsf();
        let (status_id, status) = match self.verdict {
            Verdict::Allowed => (1, "Success"),
            Verdict::Denied | Verdict::Failed => (2, "Failure"),
        };
        let mut unmapped = Map::new();
        let mut put = |key: &str, value: &Option<String>| {
            if let Some(value) = value {
                unmapped.insert(key.to_owned(), Value::String(capped(value)));
            }
        };
        put("reason", &self.reason);
        put("statement", &self.statement);
        put("client_id", &self.client_id);
        for (key, value) in &self.details {
            put(key, &Some(value.clone()));
        }
        unmapped.insert("class".into(), self.class.name().into());
        unmapped.insert("verdict".into(), self.verdict.name().into());
        unmapped.insert("action".into(), capped(&self.action).into());
        let mut body = json!({
            "class_uid": class_uid,
            "class_name": class_name,
            "category_uid": category_uid,
            "severity_id": if self.verdict == Verdict::Allowed { 1 } else { 2 },
            "status_id": status_id,
            "status": status,
            "time": self.time_ms.unwrap_or(now_ms),
            "count": self.count,
            "metadata": {
                "version": "1.5.0",
                "product": { "name": "Schloss", "vendor_name": "Schloss" },
                "tenant_uid": self.tenant.map(|tenant| tenant.to_string()),
            },
            "unmapped": unmapped,
        });
        if let Some(fields) = body.as_object_mut() {
            self.add_ocsf_objects(fields);
        }
        ascii_json(&body)
    }

    fn add_ocsf_objects(&self, fields: &mut Map<String, Value>) {
        if let Some(principal) = &self.principal {
            fields.insert("actor".into(), json!({ "user": { "uid": capped(principal) } }));
        }
        if let Some(resource) = &self.resource {
            fields.insert("resources".into(), json!([{ "uid": capped(resource) }]));
        }
        if self.api.is_some() || self.request_id.is_some() {
            let request = self.request_id.as_deref().map(|id| json!({ "uid": capped(id) }));
            let operation = self.api.as_deref().map(capped);
            fields.insert("api".into(), json!({ "operation": operation, "request": request }));
        }
        if let Some(source) = self.source {
            fields.insert("src_endpoint".into(), json!({ "ip": source.ip().to_string(), "port": source.port() }));
        }
    }
}

/// JSON on one line with nothing but printable ASCII in it.
#[must_use]
pub(crate) fn ascii_json(value: &Value) -> String {
    let text = value.to_string();
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() && c != '\u{7f}' {
            out.push(c);
        } else {
            // Non-ASCII stands only inside JSON strings.
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

fn capped(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    format!("{}... ({} bytes)", text.get(..end).unwrap_or_default(), text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_give_one_line_of_printable_ascii_that_parses_back() {
        let names = ["a\nb", "\u{1b}[31mred", "\u{202e}gnp.exe", "\u{7f}\u{9b}", "\0", "\"}{\"", &"x".repeat(30_000)];
        for name in names {
            let mut event = Event::new(None, Class::Refusal, Verdict::Denied, "kafka-cluster:ReadData");
            event.resource = Some(name.to_owned());
            event.client_id = Some(name.to_owned());
            let body = event.body(1);
            assert!(body.bytes().all(|b| (0x20..0x7f).contains(&b)));
            assert!(body.len() < 4096);
            let parsed: Value = serde_json::from_str(&body).unwrap();
            let shown = parsed["resources"][0]["uid"].as_str().unwrap();
            assert!(shown == name || shown.ends_with("... (30000 bytes)"));
        }
    }

    #[test]
    fn body_has_this_form() {
        let mut event = Event::new(TenantId::new(7), Class::Authentication, Verdict::Denied, "login");
        event.principal = Some("p".into());
        event.source = Some(([127, 0, 0, 1], 9).into());
        let expected = r#"{"actor":{"user":{"uid":"p"}},"category_uid":3,"class_name":"Authentication","class_uid":3002,"count":1,"metadata":{"product":{"name":"Schloss","vendor_name":"Schloss"},"tenant_uid":"000000000007","version":"1.5.0"},"severity_id":2,"src_endpoint":{"ip":"127.0.0.1","port":9},"status":"Failure","status_id":2,"time":5,"unmapped":{"action":"login","class":"authentication","verdict":"denied"}}"#;
        let parsed: Value = serde_json::from_str(&event.body(5)).unwrap();
        assert_eq!(parsed, serde_json::from_str::<Value>(expected).unwrap());
    }
}
