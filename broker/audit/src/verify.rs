//! Judges a log with nothing but the public key.
//!
//! Found: a line altered, deleted, inserted, swapped; a file missing, doubled or of another stream; a chain rewritten without the signing
//! key, or signed by another; a stream cut back behind, or forked from, a line that the cluster's checkpoints or the caller's
//! own copies name. The copy of the newest checkpoint is read first, then the cluster's stream, then the others: what vouches is
//! always older than what it vouches for, so a log that is written meanwhile verifies too.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use schloss_core::TenantId;
use schloss_crypto::signing::VerifyingKey;

use crate::line::{Body, FORMAT, Head, Line, genesis, is_certified_by, is_signed_by};
use crate::stream::{AuditError, files, streams};
use crate::{CLUSTER_STREAM, newest, stream};

/// No line we write is longer: an event's texts are capped, a checkpoint names at most every stream.
const LINE_BYTES_MAX: u64 = 16 << 20;
/// How often, and how long each time, the end of a line that is just being written is waited for.
const TORN_WAITS: u32 = 20;
const TORN_WAIT: Duration = Duration::from_millis(10);

/// A line known from elsewhere to have been in the log: a checkpoint somebody kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedHead {
    /// The stream.
    pub stream: String,
    /// The line.
    pub head: Head,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultKind {
    /// The line's bytes are not what its hash says, or no line at all.
    #[error("the line was altered, or is none")]
    Altered,
    /// The line does not follow the one before.
    #[error(
        "the line does not follow the one before: lines were deleted, inserted or swapped (number {expected} expected)"
    )]
    BrokenChain {
        /// The number that should stand here.
        expected: u64,
    },
    /// A file that does not begin as one.
    #[error("the file does not begin as a file of this stream")]
    NotAFile,
    /// A number is missing among the files.
    #[error("the file is missing")]
    MissingFile,
    /// The signature is not this key's.
    #[error("the checkpoint is not signed by the log's key: something since line {since} was rewritten")]
    BadSignature {
        /// The last line known to be good.
        since: u64,
    },
    /// A certificate that is not this key's.
    #[error("the certificate is not signed by the log's key")]
    BadCertificate,
    /// The checkpoint's count is not the number of events.
    #[error("the checkpoint counts {stated} events, {found} are there")]
    WrongCount {
        /// What it says.
        stated: u64,
        /// What is there.
        found: u64,
    },
    /// A line named by a signed checkpoint elsewhere is not there.
    #[error("the stream ends before line {expected}, which a signed checkpoint names: its end was cut off")]
    CutOff {
        /// The line's number.
        expected: u64,
    },
    /// Another line stands where a signed checkpoint names one.
    #[error("another line {seq} was signed elsewhere: the stream was forked")]
    Forked {
        /// The line's number.
        seq: u64,
    },
}

/// The first thing wrong in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// In which file.
    pub file: PathBuf,
    /// On which line of it, from 1; 0 is the file as a whole.
    pub line: u64,
    /// The number of the line in the stream.
    pub seq: u64,
    /// What.
    pub kind: FaultKind,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} line {} (number {}): {}", self.file.display(), self.line, self.seq, self.kind)
    }
}

/// What was found in one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamReport {
    /// Its name.
    pub stream: String,
    /// Good lines from the beginning.
    pub lines: u64,
    /// Events among them.
    pub events: u64,
    /// Statements of its certificates, all signed by the log's key.
    pub certificates: Vec<String>,
    /// The newest checkpoint whose signature held. Keep it elsewhere.
    pub last_checkpoint: Option<Head>,
    /// Lines after it: chained, but not signed yet.
    pub unsigned_lines: u64,
    /// The first thing wrong.
    pub fault: Option<Fault>,
}

/// What was found in a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Stream by stream, `cluster` first.
    pub streams: Vec<StreamReport>,
}

impl Report {
    /// True when nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.streams.iter().all(|stream| stream.fault.is_none())
    }

    /// The first thing wrong.
    #[must_use]
    pub fn first_fault(&self) -> Option<&Fault> {
        self.streams.iter().find_map(|stream| stream.fault.as_ref())
    }
}

/// Judges the whole log in `folder`. `trusted` are checkpoints kept elsewhere; none is allowed.
///
/// # Errors
/// [`AuditError::Io`] when files cannot be read. What is wrong in them stands in the report.
pub fn verify(folder: &Path, key: &VerifyingKey, trusted: &[TrustedHead]) -> Result<Report, AuditError> {
    let newest = newest::read(folder, key)?;
    let mut names = streams(folder)?;
    let mut anchors: BTreeMap<String, BTreeMap<u64, String>> = BTreeMap::new();
    let copy_fault = |line, kind| Fault { file: newest::path(folder), line, seq: 0, kind };
    let (mut fault_of_copy, mut checkpoints_without_copy) = (None, u64::MAX);
    match newest {
        Some(Ok(newest)) => {
            for (stream, head) in newest.named.into_iter().chain([(CLUSTER_STREAM.to_owned(), newest.head)]) {
                anchors.entry(stream).or_default().insert(head.seq, head.hash);
            }
        }
        Some(Err(kind)) => fault_of_copy = Some(copy_fault(1, kind)),
        // The very first start may have ended between the first checkpoint and its copy.
        None => checkpoints_without_copy = 1,
    }
    for TrustedHead { stream, head } in trusted {
        anchors.entry(stream.clone()).or_default().insert(head.seq, head.hash.clone());
    }
    let mut report = Report::default();
    // The cluster's stream first (it sorts so): it names lines of the others.
    if !names.iter().any(|name| name == CLUSTER_STREAM) {
        names.insert(0, CLUSTER_STREAM.to_owned());
    }
    let mut judged = 0;
    while let Some(name) = names.get(judged).cloned() {
        let mut walk = Walk::new(folder, &name, *key, anchors.remove(&name).unwrap_or_default());
        let mut fault = walk.run()?;
        if name == CLUSTER_STREAM {
            if walk.checkpoints > checkpoints_without_copy {
                fault_of_copy = Some(copy_fault(0, FaultKind::MissingFile));
            }
            fault = fault.or(fault_of_copy.take());
        }
        for (stream, head) in walk.named {
            // SECURITY: a stream that is gone as a whole is still judged, and found cut off.
            if !names.contains(&stream) {
                names.push(stream.clone());
            }
            anchors.entry(stream).or_default().insert(head.seq, head.hash);
        }
        if judged == 0 {
            names.extend(anchors.keys().filter(|stream| !names.contains(stream)).cloned().collect::<Vec<_>>());
        }
        let unsigned_lines = walk.seq - walk.last_checkpoint.as_ref().map_or(0, |head| head.seq + 1);
        report.streams.push(StreamReport {
            stream: name,
            lines: walk.seq,
            events: walk.events,
            certificates: walk.certificates,
            last_checkpoint: walk.last_checkpoint,
            unsigned_lines,
            fault,
        });
        judged += 1;
    }
    Ok(report)
}

/// A walk along one stream.
struct Walk {
    stream: String,
    folder: PathBuf,
    key: VerifyingKey,
    /// Lines that must be there.
    anchors: BTreeMap<u64, String>,
    /// Lines of other streams named here.
    named: Vec<(String, Head)>,
    seq: u64,
    prev: String,
    events: u64,
    checkpoints: u64,
    certificates: Vec<String>,
    last_checkpoint: Option<Head>,
}

impl Walk {
    fn new(folder: &Path, name: &str, key: VerifyingKey, anchors: BTreeMap<u64, String>) -> Self {
        Self {
            stream: name.to_owned(),
            folder: folder.join(name),
            key,
            anchors,
            named: Vec::new(),
            seq: 0,
            prev: genesis(name),
            events: 0,
            checkpoints: 0,
            certificates: Vec::new(),
            last_checkpoint: None,
        }
    }

    /// Walks to the end or the first fault.
    fn run(&mut self) -> Result<Option<Fault>, AuditError> {
        let mut path = self.folder.join(stream::file_name(1));
        let files = files(&self.folder)?;
        let last = files.len() as u64;
        for (expected, (number, found)) in (1..).zip(files) {
            path = self.folder.join(stream::file_name(expected));
            if number != expected || found != path {
                return Ok(Some(self.fault(path, 0, FaultKind::MissingFile)));
            }
            if let Some((line, kind)) = self.file(&path, expected == last)? {
                return Ok(Some(self.fault(path, line, kind)));
            }
        }
        // A tenant's stream that no checkpoint names yet may be about to begin.
        let may_begin = self.stream.parse::<TenantId>().is_ok();
        if self.seq == 0 && self.anchors.is_empty() && !may_begin {
            return Ok(Some(self.fault(path, 0, FaultKind::MissingFile)));
        }
        let expected = self.anchors.last_key_value().map(|(seq, _)| *seq).filter(|seq| *seq >= self.seq);
        Ok(expected.map(|expected| self.fault(path, 0, FaultKind::CutOff { expected })))
    }

    fn file(&mut self, path: &Path, is_last: bool) -> Result<Option<(u64, FaultKind)>, AuditError> {
        let io = |source| AuditError::Io { path: path.into(), source };
        if !is_last && fs::metadata(path).map_err(io)?.len() == 0 {
            return Ok(Some((0, FaultKind::NotAFile)));
        }
        let mut reader = BufReader::new(File::open(path).map_err(io)?);
        let mut raw = Vec::new();
        for at in 1.. {
            read_line(&mut reader, &mut raw, if is_last { TORN_WAITS } else { 0 }).map_err(io)?;
            if raw.is_empty() {
                break;
            }
            if let Some(kind) = self.line(at, &raw) {
                return Ok(Some((at, kind)));
            }
        }
        Ok(None)
    }

    fn line(&mut self, at: u64, raw: &[u8]) -> Option<FaultKind> {
        let Some((line, hash)) = raw.strip_suffix(b"\n").and_then(Line::parse) else {
            return Some(FaultKind::Altered);
        };
        let begins = matches!(&line.body, Body::Open { format: FORMAT, stream, .. } if *stream == self.stream);
        if at == 1 && !begins {
            return Some(FaultKind::NotAFile);
        }
        if line.seq != self.seq || line.prev != self.prev {
            return Some(FaultKind::BrokenChain { expected: self.seq });
        }
        if self.anchors.get(&line.seq).is_some_and(|anchor| *anchor != hash) {
            return Some(FaultKind::Forked { seq: line.seq });
        }
        match &line.body {
            Body::Open { .. } if begins => {}
            Body::Open { .. } => return Some(FaultKind::NotAFile),
            Body::Event { .. } => self.events += 1,
            Body::Certificate { .. } if !is_certified_by(&line, &self.stream, &self.key) => {
                return Some(FaultKind::BadCertificate);
            }
            Body::Certificate { statement, .. } => self.certificates.push(statement.clone()),
            Body::Checkpoint { .. } => {
                if let Some(kind) = self.checkpoint(&line) {
                    return Some(kind);
                }
                self.checkpoints += 1;
                self.last_checkpoint = Some(Head { seq: line.seq, hash: hash.clone() });
            }
        }
        self.seq += 1;
        self.prev = hash;
        None
    }

    fn checkpoint(&mut self, line: &Line) -> Option<FaultKind> {
        let Body::Checkpoint { events, streams, .. } = &line.body else { return None };
        if !is_signed_by(line, &self.stream, &self.key) {
            let since = self.last_checkpoint.as_ref().map_or(0, |head| head.seq);
            return Some(FaultKind::BadSignature { since });
        }
        if *events != self.events {
            return Some(FaultKind::WrongCount { stated: *events, found: self.events });
        }
        if self.stream == CLUSTER_STREAM {
            self.named.extend(streams.iter().map(|(name, head)| (name.clone(), head.clone())));
        }
        None
    }

    fn fault(&self, file: PathBuf, line: u64, kind: FaultKind) -> Fault {
        Fault { file, line, seq: self.seq, kind }
    }
}

/// The next line with its newline, or what there is of it after some waiting.
fn read_line(reader: &mut BufReader<File>, raw: &mut Vec<u8>, waits: u32) -> io::Result<()> {
    raw.clear();
    for wait in 0..=waits {
        // Goes on behind what was read before: a file that grows gives the rest.
        reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', raw)?;
        if raw.is_empty() || raw.ends_with(b"\n") || wait == waits {
            break;
        }
        std::thread::sleep(TORN_WAIT);
    }
    Ok(())
}
