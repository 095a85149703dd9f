//! Break-glass grants: an operator's access to one tenant, for a reason, from one moment to another.
//!
//! `tenants/<alias>/break-glass/<id>.toml` makes the role `break-glass.<id>`. It has the policies named, and one more that
//! denies everything outside its time. Nobody can assume it by STS, because it has no trust policy; the operator named
//! gets a session of it from the broker's operator door.

use super::tables::Table;
use crate::finding::Problem;
use crate::policy::parse_date;

/// One grant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BreakGlass {
    /// The file's name.
    pub id: Box<str>,
    /// The common name of the operator's certificate.
    pub operator: Box<str>,
    /// Why, in the operator's words. The tenant can read it.
    pub reason: Box<str>,
    /// Begins (milliseconds since 1970).
    pub from_ms: i64,
    /// Ends.
    pub until_ms: i64,
}

impl BreakGlass {
    /// The role's name.
    #[must_use]
    pub fn role(&self) -> String {
        format!("{ROLE_PREFIX}{}", self.id)
    }

    /// Whether it holds at a moment.
    #[must_use]
    pub fn holds(&self, now_ms: i64) -> bool {
        self.from_ms <= now_ms && now_ms < self.until_ms
    }
}

/// What a file says, and the moments as written.
pub(super) struct Read {
    pub grant: BreakGlass,
    pub from: Box<str>,
    pub until: Box<str>,
}

pub(super) fn read(table: &mut Table<'_, '_, '_>, id: &str) -> Option<Read> {
    let operator = table.required("operator").map(|(_, text)| text);
    let reason = table.required("reason").map(|(_, text)| text);
    let mut moment = |key: &'static str| {
        let (at, text) = table.required(key)?;
        let moment = parse_date(text);
        if moment.is_none() {
            table.findings.add(at, Problem::BadValue { value: text.into(), expected: "moment (2026-11-25T10:00:00Z)" });
        }
        Some((at, text, moment?))
    };
    let (from, until) = (moment("from"), moment("until"));
    let ((_, from, from_ms), (at, until, until_ms)) = (from?, until?);
    let length = until_ms.saturating_sub(from_ms);
    if !(1..=LENGTH_MS_MAX).contains(&length) {
        let expected = "moment after `from` and within 24 hours of it";
        table.findings.add(at, Problem::BadValue { value: until.into(), expected });
    }
    let grant = BreakGlass { id: id.into(), operator: operator?.into(), reason: reason?.into(), from_ms, until_ms };
    Some(Read { grant, from: from.into(), until: until.into() })
}

/// Denies everything before, after, and when no time is known.
pub(super) fn time_box(from: &str, until: &str) -> String {
    let deny = |sid: &str, condition: serde_json::Value| serde_json::json!({ "Sid": sid, "Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition });
    serde_json::json!({ "Version": "2012-10-17", "Statement": [
        deny("NotYet", serde_json::json!({ "DateLessThan": { "aws:CurrentTime": from } })),
        deny("Over", serde_json::json!({ "DateGreaterThanEquals": { "aws:CurrentTime": until } })),
        deny("NoTime", serde_json::json!({ "Null": { "aws:CurrentTime": "true" } })),
    ]})
    .to_string()
}

/// The names of these roles begin so; others may not.
pub(super) const ROLE_PREFIX: &str = "break-glass.";
/// A grant is for an emergency; a longer one is a role.
const LENGTH_MS_MAX: i64 = 24 * 60 * 60 * 1_000;
