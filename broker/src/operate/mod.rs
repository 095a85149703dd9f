//! What an operator may tell the running broker to do: a table of verbs ([`verbs`]), and a file for each noun that has no other room.
//!
//! In: commands that came through the operators' door ([`crate::http::operator`]), which proved who asks and recorded it. Out: JSON.
//!
//! Must not: hand out a tenant's records, or a secret that was not made by this very call.

mod cluster_keys;
pub mod credentials;
mod keys;
pub mod verbs;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use schloss_core::TenantId;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::broker::Broker;
use crate::tenancy::tenant_id;

/// How often a long command tells how far it is.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// What a command comes to.
pub type Outcome = Result<Value, OperatorRefusal>;

/// One command under way.
pub struct OperatorCall {
    /// The broker.
    pub broker: Arc<Broker>,
    /// The operator's common name.
    pub operator: Arc<str>,
    /// In the audit log and in the answer.
    pub request_id: String,
    /// The command's own words.
    pub body: Value,
    lines: mpsc::Sender<Bytes>,
}

/// Why a command was not done, in words for its operator.
#[derive(Debug)]
pub struct OperatorRefusal {
    /// A stable word, for scripts: for example `NoSuchTenant`.
    pub code: &'static str,
    /// What happened. No secrets, no records.
    pub message: String,
    /// What to do next.
    pub next: String,
}

impl OperatorRefusal {
    /// A refusal.
    pub fn new(code: &'static str, message: impl ToString, next: impl Into<String>) -> Self {
        Self { code, message: message.to_string(), next: next.into() }
    }
}

impl OperatorCall {
    /// A command whose answer goes line by line into `lines`.
    #[must_use]
    pub const fn new(
        broker: Arc<Broker>,
        operator: Arc<str>,
        request_id: String,
        body: Value,
        lines: mpsc::Sender<Bytes>,
    ) -> Self {
        Self { broker, operator, request_id, body, lines }
    }

    /// A text of the body.
    ///
    /// # Errors
    /// `MissingWord`.
    pub fn text(&self, key: &'static str) -> Result<&str, OperatorRefusal> {
        self.body.get(key).and_then(Value::as_str).ok_or_else(|| {
            OperatorRefusal::new("MissingWord", format!("`{key}` is missing"), "say it; `--help` has an example")
        })
    }

    /// The tenant whose alias or account stands under `tenant`.
    ///
    /// # Errors
    /// `MissingWord`, `NoSuchTenant`.
    pub fn tenant(&self) -> Result<TenantId, OperatorRefusal> {
        let wanted = self.text("tenant")?;
        self.broker.tenant_named(wanted).ok_or_else(|| {
            OperatorRefusal::new(
                "NoSuchTenant",
                format!("there is no tenant `{wanted}`"),
                "`schloss tenant list` tells them",
            )
        })
    }

    /// Tells the operator how far it is. Waits while he does not read; goes on when he went away.
    pub async fn progress(&self, done: u64, of: u64) {
        let line = line(&json!({ "progress": { "done": done, "of": of } }));
        if self.lines.send(line).await.is_err() {
            tracing::debug!(request_id = self.request_id, "the operator went away; the command goes on");
        }
    }

    /// The last line.
    pub async fn end(&self, last: &Value) {
        if self.lines.send(line(last)).await.is_err() {
            tracing::info!(request_id = self.request_id, "a command ended with nobody listening");
        }
    }

    /// Tells the operator how far `work` is while it runs.
    pub async fn told<T>(&self, progress: &watch::Sender<(u64, u64)>, work: impl Future<Output = T>) -> T {
        let mut seen = progress.subscribe();
        tokio::pin!(work);
        let mut ticks = tokio::time::interval(TELL_EVERY);
        loop {
            tokio::select! {
                done = &mut work => {
                    let (done_now, of) = *seen.borrow();
                    self.progress(done_now, of).await;
                    return done;
                }
                _ = ticks.tick() => {
                    if seen.has_changed().unwrap_or(false) {
                        let (done_now, of) = *seen.borrow_and_update();
                        self.progress(done_now, of).await;
                    }
                }
            }
        }
    }
}

impl Broker {
    /// The tenant of an alias or account number.
    #[must_use]
    pub fn tenant_named(&self, wanted: &str) -> Option<TenantId> {
        let organisation = self.tenancy.policies().organisation();
        let mut tenants = organisation.tenants();
        tenants.find(|entry| entry.alias() == wanted || entry.account().to_string() == wanted).and_then(tenant_id)
    }
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}
