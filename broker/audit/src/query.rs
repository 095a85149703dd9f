//! Reads events back. Needs the vault: bodies are sealed.
//!
//! What is read is not judged here beyond its seal; run [`crate::verify`] for that.

use std::collections::VecDeque;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schloss_core::ClusterId;
use schloss_crypto::{DataKey, KeyError, KeyVault, open_value};
use serde_json::Value;

use crate::event::ascii_json;
use crate::line::{Body, Line, event_binding};
use crate::rewrap::Moved;
use crate::stream::{AuditError, files, streams};
use crate::{Class, Verdict, keys};

/// Which events. Empty finds all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this stream (a tenant's id, or `cluster`).
    pub stream: Option<String>,
    /// From this line of the stream on; for following a stream.
    pub seq_from: u64,
    /// Recorded at or after, ms since 1970.
    pub since_ms: Option<i64>,
    /// Recorded before, ms since 1970.
    pub until_ms: Option<i64>,
    /// Of this class.
    pub class: Option<Class>,
    /// Judged so.
    pub verdict: Option<Verdict>,
    /// By this principal.
    pub principal: Option<String>,
    /// This action.
    pub action: Option<String>,
    /// On this resource.
    pub resource: Option<String>,
}

/// One event as found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its stream.
    pub stream: String,
    /// Its line's number.
    pub seq: u64,
    /// When it was recorded, ms since 1970.
    pub time_ms: i64,
    /// Its body.
    pub body: Value,
}

impl Found {
    /// One line of printable ASCII JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let value =
            serde_json::json!({ "stream": self.stream, "seq": self.seq, "time": self.time_ms, "event": self.body });
        ascii_json(&value)
    }
}

/// Why events could not be read.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// Files could not be read.
    #[error(transparent)]
    Log(#[from] AuditError),
    /// The vault gave no key.
    #[error("the key of the audit log: {0}")]
    Key(#[from] KeyError),
    /// A line does not open.
    #[error("`{path}` line {line} was altered; run `schloss audit verify`")]
    Altered {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
    },
}

/// Hands every matching event to `found`, stream by stream and oldest first, until it says stop.
///
/// # Errors
/// [`QueryError`].
pub async fn query(
    folder: &Path,
    cluster: ClusterId,
    vault: &dyn KeyVault,
    filter: &Filter,
    found: &mut (dyn FnMut(Found) -> ControlFlow<()> + Send),
) -> Result<(), QueryError> {
    let moved = Moved::load(folder)?;
    for stream in streams(folder)? {
        if filter.stream.as_ref().is_some_and(|only| *only != stream) {
            continue;
        }
        let mut key: Option<Arc<DataKey>> = None;
        for (_, path) in files(&folder.join(&stream))? {
            let text = fs::read(&path).map_err(|source| AuditError::Io { path: path.clone(), source })?;
            for (at, raw) in (1..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
                // A line still being written has no newline yet.
                let Some(raw) = raw.strip_suffix(b"\n") else { break };
                let altered = || QueryError::Altered { path: path.clone(), line: at };
                let (line, _) = Line::parse(raw).ok_or_else(altered)?;
                match &line.body {
                    Body::Open { key: text, .. } => {
                        let wrapped = moved.newest(text).ok_or_else(altered)?;
                        key = Some(vault.open(&keys::context(cluster), &wrapped).await?);
                    }
                    Body::Event { sealed } if in_time(filter, &line) => {
                        let key = key.as_ref().ok_or_else(altered)?;
                        let event = open_event(key, &stream, line.seq, sealed).ok_or_else(altered)?;
                        let event = Found { stream: stream.clone(), seq: line.seq, time_ms: line.time, body: event };
                        if matches(filter, &event.body) && found(event).is_break() {
                            return Ok(());
                        }
                    }
                    Body::Event { .. } | Body::Certificate { .. } | Body::Checkpoint { .. } => {}
                }
            }
        }
    }
    Ok(())
}

/// The last `events_max` matching events, oldest first.
///
/// # Errors
/// [`QueryError`].
pub async fn tail(
    folder: &Path,
    cluster: ClusterId,
    vault: &dyn KeyVault,
    filter: &Filter,
    events_max: usize,
) -> Result<Vec<Found>, QueryError> {
    let mut last: VecDeque<Found> = VecDeque::new();
    let mut keep = |event: Found| {
        // Streams come one after the other; the newest of all of them count.
        let at = last.partition_point(|other| other.time_ms <= event.time_ms);
        last.insert(at, event);
        if last.len() > events_max {
            last.pop_front();
        }
        ControlFlow::Continue(())
    };
    query(folder, cluster, vault, filter, &mut keep).await?;
    Ok(last.into())
}

fn open_event(key: &DataKey, stream: &str, seq: u64, sealed: &str) -> Option<Value> {
    let sealed = BASE64.decode(sealed).ok()?;
    let body = open_value(key, &event_binding(stream, seq), &sealed).ok()?;
    serde_json::from_slice(&body).ok()
}

fn in_time(filter: &Filter, line: &Line) -> bool {
    line.seq >= filter.seq_from
        && filter.since_ms.is_none_or(|since| line.time >= since)
        && filter.until_ms.is_none_or(|until| line.time < until)
}

fn matches(filter: &Filter, body: &Value) -> bool {
    let is = |pointer: &str, wanted: Option<&str>| {
        wanted.is_none_or(|wanted| body.pointer(pointer).and_then(Value::as_str) == Some(wanted))
    };
    is("/unmapped/class", filter.class.map(Class::name))
        && is("/unmapped/verdict", filter.verdict.map(Verdict::name))
        && is("/unmapped/action", filter.action.as_deref())
        && is("/actor/user/uid", filter.principal.as_deref())
        && is("/resources/0/uid", filter.resource.as_deref())
}
