//! The lines of an audit file: JSON in one exact form, each bound to the one before.
//!
//! ```text
//! {"seq":0,"time":…,"prev":"<hex>","kind":"open","format":1,"stream":"…","key":"<base64>","hash":"<hex>"}
//! {"seq":1,"time":…,"prev":"<hex>","kind":"event","sealed":"<base64>","hash":"<hex>"}
//! {"seq":2,"time":…,"prev":"<hex>","kind":"certificate","statement":"…","signature":"<base64>","hash":"<hex>"}
//! {"seq":3,"time":…,"prev":"<hex>","kind":"checkpoint","events":1,"streams":{…},"closed":false,"signature":"<base64>","hash":"<hex>"}
//! ```
//! `hash` is SHA-256 over all bytes of the line before `,"hash"`. `prev` is the hash of the line before; of the first line it is
//! SHA-256("schloss-audit/1 " ‖ stream). `seq` counts lines from 0 over all files. An `open` line begins every file and every run of
//! the program; its key (wrapped) seals the events after it, each bound to stream and `seq`.
//! A checkpoint's signature (Ed25519) is over [`checkpoint_message`], a certificate's over [`certificate_message`]. A certificate is
//! readable by everybody and holds ids, never names.
//!
//! Invariant: a line is accepted only if writing what was read gives the same bytes; there is one way to write a fact.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schloss_crypto::digest::sha256;
use schloss_crypto::signing::VerifyingKey;
use serde::{Deserialize, Serialize};

/// The format number in `open` lines.
pub const FORMAT: u32 = 1;

/// A place in a stream: a line's number and hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The line's number.
    pub seq: u64,
    /// Its hash in hexadecimal.
    pub hash: String,
}

/// One line, hash excluded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Its number.
    pub seq: u64,
    /// When it was written, ms since 1970.
    pub time: i64,
    /// Hash of the line before.
    pub prev: String,
    /// What it is.
    #[serde(flatten)]
    pub body: Body,
}

/// What a line is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Body {
    /// Begins a file or a run.
    Open {
        /// [`FORMAT`].
        format: u32,
        /// The stream's name.
        stream: String,
        /// The wrapped key of the events that follow, base64.
        key: String,
    },
    /// A sealed event.
    Event {
        /// Base64.
        sealed: String,
    },
    /// Something that was destroyed, in words for everybody.
    Certificate {
        /// What and when, JSON with ids and no names.
        statement: String,
        /// Base64.
        signature: String,
    },
    /// Signs everything before.
    Checkpoint {
        /// Events in the stream so far.
        events: u64,
        /// In the cluster's stream: newest lines of streams that moved.
        streams: BTreeMap<String, Head>,
        /// True when the log was closed in good order here.
        closed: bool,
        /// Base64.
        signature: String,
    },
}

impl Line {
    /// The line's bytes with its newline, and its hash.
    #[must_use]
    pub fn render(&self) -> (Vec<u8>, String) {
        // Strings and numbers only: cannot fail.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.pop();
        let hash = hex(&sha256(&bytes));
        bytes.extend_from_slice(b",\"hash\":\"");
        bytes.extend_from_slice(hash.as_bytes());
        bytes.extend_from_slice(b"\"}\n");
        (bytes, hash)
    }

    /// Reads a line (without its newline) and gives its hash; `None` unless these are exactly the bytes of a line.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<(Self, String)> {
        let line: Self = serde_json::from_slice(bytes).ok()?;
        let (again, hash) = line.render();
        (again.strip_suffix(b"\n") == Some(bytes)).then_some((line, hash))
    }
}

/// `prev` of a stream's first line.
#[must_use]
pub fn genesis(stream: &str) -> String {
    hex(&sha256(format!("schloss-audit/1 {stream}").as_bytes()))
}

/// What a checkpoint's signature is over.
#[must_use]
pub fn checkpoint_message(
    stream: &str,
    (seq, time, prev): (u64, i64, &str),
    events: u64,
    streams: &BTreeMap<String, Head>,
    closed: bool,
) -> Vec<u8> {
    let mut text = format!("schloss-audit/1 checkpoint\n{stream}\n{seq}\n{time}\n{prev}\n{events}\n{closed}\n");
    for (name, head) in streams {
        let _ = writeln!(text, "{name} {} {}", head.seq, head.hash);
    }
    text.into_bytes()
}

/// What a certificate's signature is over.
#[must_use]
pub fn certificate_message(stream: &str, (seq, time, prev): (u64, i64, &str), statement: &str) -> Vec<u8> {
    format!("schloss-audit/1 certificate\n{stream}\n{seq}\n{time}\n{prev}\n{statement}\n").into_bytes()
}

/// True for a certificate line of `stream` that is signed by `key`.
#[must_use]
pub fn is_certified_by(line: &Line, stream: &str, key: &VerifyingKey) -> bool {
    let Body::Certificate { statement, signature } = &line.body else { return false };
    let message = certificate_message(stream, (line.seq, line.time, line.prev.as_str()), statement);
    BASE64.decode(signature).is_ok_and(|signature| key.verify(&message, &signature))
}

/// True for a checkpoint line of `stream` that is signed by `key`.
#[must_use]
pub fn is_signed_by(line: &Line, stream: &str, key: &VerifyingKey) -> bool {
    let Body::Checkpoint { events, streams, closed, signature } = &line.body else { return false };
    let message = checkpoint_message(stream, (line.seq, line.time, line.prev.as_str()), *events, streams, *closed);
    BASE64.decode(signature).is_ok_and(|signature| key.verify(&message, &signature))
}

/// What a sealed event is bound to.
#[must_use]
pub fn event_binding(stream: &str, seq: u64) -> Vec<u8> {
    format!("schloss-audit/1 event\n{stream}\n{seq}").into_bytes()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line { seq: 3, time: 5, prev: genesis("cluster"), body: Body::Event { sealed: "AAAA".into() } }
    }

    #[test]
    fn line_has_this_exact_form() {
        let (bytes, hash) = line().render();
        let text = String::from_utf8(bytes).unwrap();
        let start = format!(
            "{{\"seq\":3,\"time\":5,\"prev\":\"{}\",\"kind\":\"event\",\"sealed\":\"AAAA\"",
            genesis("cluster")
        );
        assert_eq!(text, format!("{start},\"hash\":\"{hash}\"}}\n"));
        assert_eq!(hash, hex(&sha256(start.as_bytes())));
    }

    #[test]
    fn line_written_in_any_other_way_is_not_a_line() {
        let (bytes, _) = line().render();
        let text = std::str::from_utf8(&bytes).unwrap().trim_end();
        assert!(Line::parse(text.as_bytes()).is_some());
        assert!(Line::parse(text.replace(":3", ": 3").as_bytes()).is_none());
        assert!(Line::parse(text.replace("{\"seq\":3", "{\"seq\":9,\"seq\":3").as_bytes()).is_none());
        assert!(Line::parse(text.replace("AAAA", "AAAB").as_bytes()).is_none());
        assert!(Line::parse(b"{}").is_none());
    }
}
