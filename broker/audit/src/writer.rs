//! Seals, chains and signs batches of events. Blocking; owned by one task at a time.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schloss_crypto::signing::SigningKey;
use schloss_crypto::{DataKey, WrappedKey, seal_value};

use crate::event::{Class, Event, Verdict};
use crate::line::{Body, FORMAT, Head, Line, certificate_message, checkpoint_message, event_binding};
use crate::stream::{AuditError, Stream};
use crate::{CLUSTER_STREAM, RecordError, newest, stream_name};

/// Streams held open at once; one file each.
const OPEN_STREAMS_MAX: usize = 256;

pub(crate) struct Writer {
    pub(crate) folder: PathBuf,
    pub(crate) key: Arc<DataKey>,
    pub(crate) key_text: String,
    pub(crate) signing: SigningKey,
    pub(crate) checkpoint_events: u64,
    pub(crate) file_bytes_max: u64,
    pub(crate) streams: HashMap<String, Stream>,
    /// Newest lines not yet named by a cluster checkpoint.
    pub(crate) moved: BTreeMap<String, Head>,
    pub(crate) totals: Totals,
}

/// What was written since start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) events: u64,
    pub(crate) commits: u64,
    pub(crate) bytes: u64,
    pub(crate) failures: u64,
}

impl Writer {
    /// Opens all streams that exist, so that a damaged one is found at start. Says what was torn.
    pub(crate) fn open_existing(&mut self) -> Result<Vec<Event>, AuditError> {
        let mut events = Vec::new();
        let key = self.signing.verifying_key();
        let names = crate::stream::streams(&self.folder)?;
        let mut expected = self.newest_checkpoint(&names)?;
        for name in &names {
            let stream = Stream::open(&self.folder.join(name), name, &key, expected.remove(name).as_ref())?;
            // The cluster's stream comes first and names lines of the others.
            if name == CLUSTER_STREAM {
                expected.extend(stream.named.clone());
            }
            if stream.torn_bytes > 0 {
                let tenant = name.parse().ok();
                let mut event = Event::new(tenant, Class::System, Verdict::Allowed, "schloss:AuditLogRecovered");
                event.reason = Some("a torn end that was never acknowledged was dropped".into());
                event.details.push(("bytes", stream.torn_bytes.to_string()));
                events.push(event);
            }
            // A crash may have come between signing a stream and naming it: all are named once after a start.
            if name != CLUSTER_STREAM {
                self.moved.extend(stream.head().map(|head| (name.clone(), head)));
            }
            if name == CLUSTER_STREAM || !stream.is_signed() || self.streams.len() < OPEN_STREAMS_MAX {
                self.streams.insert(name.clone(), stream);
            }
        }
        // SECURITY: to go on after a stream was taken away would make that look like our own doing.
        match expected.into_iter().next() {
            Some((stream, head)) => Err(AuditError::CutOff { path: self.folder.join(stream), expected: head.seq }),
            None => Ok(events),
        }
    }

    /// The lines that must be there by the copy of the newest checkpoint. It is made before the first tenant has a stream.
    fn newest_checkpoint(&self, names: &[String]) -> Result<BTreeMap<String, Head>, AuditError> {
        let path = newest::path(&self.folder);
        match newest::read(&self.folder, &self.signing.verifying_key())? {
            Some(Ok(newest)) => {
                let mut expected = newest.named;
                expected.insert(CLUSTER_STREAM.to_owned(), newest.head);
                Ok(expected)
            }
            Some(Err(_)) => Err(AuditError::Broken { path, line: 1 }),
            None if names.iter().any(|name| name != CLUSTER_STREAM) => {
                Err(AuditError::Io { path, source: std::io::ErrorKind::NotFound.into() })
            }
            None => Ok(BTreeMap::new()),
        }
    }

    /// Makes all events durable; one answer per event, in order.
    pub(crate) fn record(&mut self, events: &[Event], now_ms: i64) -> Vec<Result<(), RecordError>> {
        let names: Vec<String> = events.iter().map(|event| stream_name(event.tenant)).collect();
        let mut outcomes: HashMap<&str, Result<(), RecordError>> = HashMap::new();
        for (event, name) in events.iter().zip(&names) {
            if matches!(outcomes.get(name.as_str()), Some(Err(_))) {
                continue;
            }
            outcomes.insert(name, self.stage(event, name, now_ms));
        }
        for (name, outcome) in &mut outcomes {
            if outcome.is_ok() {
                let full = self.streams.get(*name).is_some_and(|s| s.events_unsigned() >= self.checkpoint_events);
                if full {
                    self.stage_checkpoint(name, now_ms, BTreeMap::new(), false);
                }
                *outcome = self.commit(name);
            }
        }
        let answer = |name: &String| outcomes.get(name.as_str()).copied().unwrap_or(Err(RecordError::Closed));
        let answers: Vec<_> = names.iter().map(answer).collect();
        self.totals.events += answers.iter().filter(|answer| answer.is_ok()).count() as u64;
        answers
    }

    /// Signs every stream that moved, then the cluster's with their newest lines, also when nothing happened.
    pub(crate) fn checkpoint(&mut self, now_ms: i64, closed: bool) -> Result<(), RecordError> {
        let unsigned: Vec<String> = self
            .streams
            .iter()
            .filter(|(name, stream)| *name != CLUSTER_STREAM && !stream.is_signed())
            .map(|(name, _)| name.clone())
            .collect();
        let mut result = Ok(());
        for name in unsigned {
            self.stage_checkpoint(&name, now_ms, BTreeMap::new(), closed);
            result = result.and(self.commit(&name));
        }
        let moved = self.moved.clone();
        self.open_stream(CLUSTER_STREAM)?;
        self.stage_checkpoint(CLUSTER_STREAM, now_ms, moved, closed);
        self.commit(CLUSTER_STREAM)?;
        self.moved.clear();
        self.close_some();
        let line = self.streams.get(CLUSTER_STREAM).map(Stream::checkpoint_line).unwrap_or_default();
        result.and(newest::write(&self.folder, line).map_err(|error| RecordError::NotDurable(error.kind())))
    }

    fn stage(&mut self, event: &Event, name: &str, now_ms: i64) -> Result<(), RecordError> {
        self.open_stream(name)?;
        self.stage_open(name, now_ms);
        let Some(stream) = self.streams.get_mut(name) else { return Err(RecordError::Closed) };
        let binding = event_binding(name, stream.seq_next());
        let sealed = BASE64.encode(seal_value(&self.key, &binding, event.body(now_ms).as_bytes()));
        stream.stage(now_ms, Body::Event { sealed });
        Ok(())
    }

    /// Chains a signed statement; durable when it returns. The line is the certificate.
    pub(crate) fn certify(&mut self, name: &str, statement: String, now_ms: i64) -> Result<String, RecordError> {
        self.open_stream(name)?;
        self.stage_open(name, now_ms);
        let Some(stream) = self.streams.get_mut(name) else { return Err(RecordError::Closed) };
        let (seq, prev) = (stream.seq_next(), stream.prev().to_owned());
        let message = certificate_message(name, (seq, now_ms, &prev), &statement);
        let body = Body::Certificate { statement, signature: BASE64.encode(self.signing.sign(&message)) };
        let (line, _) = Line { seq, time: now_ms, prev, body: body.clone() }.render();
        stream.stage(now_ms, body);
        self.commit(name)?;
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn stage_open(&mut self, name: &str, now_ms: i64) {
        let Some(stream) = self.streams.get_mut(name) else { return };
        let begins_file = stream.begins_file(self.file_bytes_max);
        if stream.wants_key(self.file_bytes_max) {
            let body = Body::Open { format: FORMAT, stream: name.to_owned(), key: self.key_text.clone() };
            stream.stage(now_ms, body);
        }
        if begins_file {
            self.sign(name, now_ms, BTreeMap::new(), false);
        }
    }

    fn stage_checkpoint(&mut self, name: &str, now_ms: i64, streams: BTreeMap<String, Head>, closed: bool) {
        // A full file is followed by the next one, and every file begins with its key.
        self.stage_open(name, now_ms);
        self.sign(name, now_ms, streams, closed);
    }

    fn sign(&mut self, name: &str, now_ms: i64, streams: BTreeMap<String, Head>, closed: bool) {
        let Some(stream) = self.streams.get_mut(name) else { return };
        let events = stream.events();
        let place = (stream.seq_next(), now_ms, stream.prev());
        let signature = self.signing.sign(&checkpoint_message(name, place, events, &streams, closed));
        stream.stage(now_ms, Body::Checkpoint { events, streams, closed, signature: BASE64.encode(signature) });
    }

    fn commit(&mut self, name: &str) -> Result<(), RecordError> {
        let Some(stream) = self.streams.get_mut(name) else { return Err(RecordError::Closed) };
        match stream.commit(self.file_bytes_max) {
            Ok(bytes) => {
                self.totals.commits += 1;
                self.totals.bytes += bytes;
                if name != CLUSTER_STREAM {
                    self.moved.extend(stream.head().map(|head| (name.to_owned(), head)));
                }
                Ok(())
            }
            Err(error) => {
                self.totals.failures += 1;
                Err(RecordError::NotDurable(error.kind()))
            }
        }
    }

    fn open_stream(&mut self, name: &str) -> Result<(), RecordError> {
        if !self.streams.contains_key(name) {
            let stream = Stream::open(&self.folder.join(name), name, &self.signing.verifying_key(), None)
                .map_err(|_| RecordError::Damaged)?;
            self.streams.insert(name.to_owned(), stream);
        }
        Ok(())
    }

    /// Only signed streams are closed, so a reopened one needs nothing but its files.
    fn close_some(&mut self) {
        let surplus = self.streams.len().saturating_sub(OPEN_STREAMS_MAX);
        let names: Vec<String> = self
            .streams
            .iter()
            .filter(|(name, stream)| *name != CLUSTER_STREAM && stream.is_signed())
            .map(|(name, _)| name.clone())
            .take(surplus)
            .collect();
        for name in names {
            self.streams.remove(&name);
        }
    }
}

/// The wrapped key as it stands in `open` lines.
pub(crate) fn key_text(wrapped: &WrappedKey) -> Option<String> {
    wrapped.to_bytes().ok().map(|bytes| BASE64.encode(bytes))
}
