//! Reads the events of a log, with the audit key.
//!
//! In: the folder, the key, a [`Filter`]. Out: events as JSON, in order of time, and later those that came since.
//!
//! Invariant: an event is shown only where it was written: its body opens under its log and number alone. Whether lines
//! are missing is not looked at here; that is [`crate::verify`].

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schloss_core::TenantId;
use schloss_crypto::{DataKey, SealError, open_value};
use serde_json::{Value, json};

use crate::event::Verdict;
use crate::folder::{self, CLUSTER_LOG, Lines};
use crate::line::{Breach, Kind, Line, body_binding};

/// What to show. Empty shows everything.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this tenant's log.
    pub tenant: Option<TenantId>,
    /// The principal contains this.
    pub principal: Option<String>,
    /// The action contains this.
    pub action: Option<String>,
    /// Decided so.
    pub verdict: Option<Verdict>,
    /// Not before, milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Before, milliseconds since 1970.
    pub until_ms: Option<i64>,
    /// Any text of the event contains this.
    pub text: Option<String>,
}

impl Filter {
    fn takes_time(&self, time_ms: i64) -> bool {
        self.since_ms.is_none_or(|since| time_ms >= since) && self.until_ms.is_none_or(|until| time_ms < until)
    }

    fn takes(&self, event: &Value) -> bool {
        let contains = |value: &Value, part: &str| value.as_str().is_some_and(|text| text.contains(part));
        let member = |name: &str, part: &Option<String>| part.as_ref().is_none_or(|part| contains(&event[name], part));
        let anywhere = |part: &String| event.as_object().is_some_and(|members| members.values().any(|value| contains(value, part)));
        member("principal", &self.principal)
            && member("action", &self.action)
            && self.verdict.is_none_or(|verdict| event["verdict"] == verdict.name())
            && self.text.as_ref().is_none_or(anywhere)
    }
}

/// Why a log or a line could not be read.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The file system.
    #[error("audit log `{path}`: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line that is none.
    #[error("audit log `{path}`, byte {position}: {breach}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Where the line begins.
        position: u64,
        /// What is wrong.
        breach: Breach,
    },
    /// A body that does not open.
    #[error("audit log `{path}`, byte {position}: {source}")]
    Sealed {
        /// The file.
        path: PathBuf,
        /// Where the line begins.
        position: u64,
        /// Why.
        source: SealError,
    },
}

/// Reads all events there are that the filter takes.
///
/// # Errors
/// [`QueryError::Io`] when there is no log to read.
pub fn read(folder: &Path, key: Arc<DataKey>, filter: Filter) -> Result<Reader, QueryError> {
    let mut reader = Reader { folder: folder.to_owned(), key, filter, cluster: String::new(), cursors: Vec::new() };
    reader.cluster = cluster_of(folder)?;
    reader.refresh()?;
    Ok(reader)
}

/// Reads only events that come from now on: `next` gives `None` until there are some.
///
/// # Errors
/// As [`read`].
pub fn tail(folder: &Path, key: Arc<DataKey>, filter: Filter) -> Result<Reader, QueryError> {
    let mut reader = read(folder, key, filter)?;
    for cursor in &mut reader.cursors {
        cursor.skip_to_end()?;
    }
    Ok(reader)
}

/// The installation, from the first line of the cluster's log. Not trusted: a wrong one opens nothing.
fn cluster_of(folder: &Path) -> Result<String, QueryError> {
    let path = folder.join(CLUSTER_LOG).join(folder::file_name(1));
    let failed = |source| QueryError::Io { path: path.clone(), source };
    let broken = |breach| QueryError::Line { path: path.clone(), position: 0, breach };
    let raw = Lines::open(&path, 0).map_err(failed)?.next_line().map_err(failed)?.ok_or_else(|| broken(Breach::Beginning))?;
    match Line::parse(&raw.bytes).map_err(broken)?.kind {
        Kind::Begin { cluster } => Ok(cluster),
        _ => Err(broken(Breach::Beginning)),
    }
}

/// Events in order of time. After `None`, [`Reader::refresh`] and `next` give what was written since.
pub struct Reader {
    folder: PathBuf,
    key: Arc<DataKey>,
    filter: Filter,
    cluster: String,
    cursors: Vec<Cursor>,
}

impl Reader {
    /// Looks for logs that were begun since, so that the next events are seen.
    ///
    /// # Errors
    /// [`QueryError::Io`].
    pub fn refresh(&mut self) -> Result<(), QueryError> {
        let failed = |source| QueryError::Io { path: self.folder.clone(), source };
        let wanted = |name: &String| self.filter.tenant.is_none_or(|tenant| *name == tenant.to_string());
        for name in folder::logs(&self.folder).map_err(failed)?.known.into_iter().filter(wanted) {
            if self.cursors.iter().all(|cursor| cursor.log != name) {
                let log_folder = self.folder.join(&name);
                self.cursors.push(Cursor { log: name, log_folder, number: 1, lines: None, ahead: VecDeque::new() });
            }
        }
        Ok(())
    }
}

impl Iterator for Reader {
    type Item = Result<Value, QueryError>;

    /// The oldest event not yet given. What cannot be read is told once and passed over.
    fn next(&mut self) -> Option<Self::Item> {
        let mut oldest: Option<(i64, usize)> = None;
        for number in 0..self.cursors.len() {
            let cursor = self.cursors.get_mut(number)?;
            match cursor.look_ahead(&self.key, &self.cluster, &self.filter) {
                Ok(Some(time_ms)) if oldest.is_none_or(|(least, _)| time_ms < least) => oldest = Some((time_ms, number)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
        let (_, number) = oldest?;
        self.cursors.get_mut(number)?.ahead.pop_front().map(|(_, event)| Ok(event))
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader({} logs)", self.cursors.len())
    }
}

/// How far one log is read.
struct Cursor {
    log: String,
    log_folder: PathBuf,
    number: u32,
    lines: Option<Lines>,
    ahead: VecDeque<(i64, Value)>,
}

impl Cursor {
    fn path(&self, number: u32) -> PathBuf {
        self.log_folder.join(folder::file_name(number))
    }

    /// The time of the next event that the filter takes; `None` at the present end.
    fn look_ahead(&mut self, key: &DataKey, cluster: &str, filter: &Filter) -> Result<Option<i64>, QueryError> {
        while self.ahead.is_empty() {
            let Some((position, line)) = self.next_line()? else { return Ok(None) };
            let Kind::Event { sealed } = &line.kind else { continue };
            if !filter.takes_time(line.time_ms) {
                continue;
            }
            let body = open_value(key, &body_binding(cluster, &self.log, line.seq), sealed);
            let body = body.map_err(|source| QueryError::Sealed { path: self.path(self.number), position, source })?;
            let malformed = || QueryError::Line { path: self.path(self.number), position, breach: Breach::Malformed };
            let mut event: Value = serde_json::from_slice(&body).map_err(|_| malformed())?;
            if let Some(members) = event.as_object_mut() {
                members.insert("log".to_owned(), json!(self.log));
                members.insert("seq".to_owned(), json!(line.seq));
            }
            if filter.takes(&event) {
                self.ahead.push_back((line.time_ms, event));
            }
        }
        Ok(self.ahead.front().map(|(time_ms, _)| *time_ms))
    }

    /// The next whole line, through all files.
    fn next_line(&mut self) -> Result<Option<(u64, Line)>, QueryError> {
        loop {
            let path = self.path(self.number);
            let failed = |source| QueryError::Io { path: path.clone(), source };
            let lines = match &mut self.lines {
                Some(lines) => lines,
                none => match Lines::open(&path, 0) {
                    Ok(lines) => none.insert(lines),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(failed(error)),
                },
            };
            if let Some(raw) = lines.next_line().map_err(failed)? {
                if !raw.whole {
                    return Ok(None);
                }
                let position = raw.position;
                let line = Line::parse(&raw.bytes);
                return line.map(|line| Some((position, line))).map_err(|breach| QueryError::Line { path, position, breach });
            }
            if !self.path(self.number.saturating_add(1)).exists() {
                return Ok(None);
            }
            self.number += 1;
            self.lines = None;
        }
    }

    /// Passes over what is there.
    fn skip_to_end(&mut self) -> Result<(), QueryError> {
        let failed = |source| QueryError::Io { path: self.log_folder.clone(), source };
        self.number = folder::files(&self.log_folder).map_err(failed)?.known.last().copied().unwrap_or(1);
        self.lines = None;
        while self.next_line()?.is_some() {}
        Ok(())
    }
}

/// An event as one line of JSON that is safe on a terminal: control, direction and invisible characters are written as `\uXXXX`,
/// so that no name a client chose moves the cursor or turns the text round.
#[must_use]
pub fn to_line(event: &Value) -> String {
    let text = event.to_string();
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unsafe(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing into a String cannot fail.
                let _ = write!(line, "\\u{unit:04x}");
            }
        } else {
            line.push(character);
        }
    }
    line
}

const fn is_unsafe(character: char) -> bool {
    matches!(character,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}
