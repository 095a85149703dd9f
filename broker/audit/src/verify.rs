//! Verifies an audit folder with nothing but the public key.
//!
//! In: files that anyone may have changed. Out: a [`Report`]: what stands, and the first bad place of each log.
//!
//! Invariant: reads what vouches before what is vouched for, so that a log that is written meanwhile still verifies.
//!
//! Must not: need the audit key, or change a file.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schloss_core::TenantId;
use schloss_crypto::signing::VerifyingKey;

use crate::folder::{self, CLUSTER_LOG, Lines, NEWEST_FILE, RawLine};
use crate::line::{Breach, Chain, Head, Heads, Kind, Line, hex, signed_by};

const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";
/// How often, and how long each time, the end of a line that is being written is waited for.
const TORN_WAITS: u32 = 20;
const TORN_WAIT: Duration = Duration::from_millis(10);

/// Why nothing could be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The key.
    #[error("not an Ed25519 public key in PEM form")]
    PublicKey,
    /// The folder.
    #[error("audit folder `{folder}`: {source}")]
    Io {
        /// Where.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What stands, as far as it is whole.
    pub logs: Vec<LogReport>,
    /// The first bad place of each log, and what else does not belong.
    pub faults: Vec<Fault>,
}

impl Report {
    /// True when nothing was found.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.faults.is_empty()
    }
}

/// One log, up to its first bad place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogReport {
    /// `cluster` or the tenant's account.
    pub log: String,
    /// The tenant, unless it is the cluster's.
    pub tenant: Option<TenantId>,
    /// Files.
    pub files: usize,
    /// Event lines.
    pub events: u64,
    /// Signed checkpoints.
    pub checkpoints: u64,
    /// When the newest was signed, milliseconds since 1970.
    pub last_checkpoint_ms: Option<i64>,
    /// Events after the newest checkpoint: chained, not yet signed.
    pub events_unsigned: u64,
    /// Number and hash of the newest line. Kept elsewhere, it shows later that the log was not put back.
    pub head: Option<(u64, String)>,
}

/// A bad place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Relative to the folder.
    pub file: PathBuf,
    /// Counted from 1; 0 is the file as a whole.
    pub line: u64,
    /// The number that should stand there, where there is one.
    pub seq: Option<u64>,
    /// What is wrong.
    pub what: Breach,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ", line {}", self.line)?;
        }
        if let Some(seq) = self.seq {
            write!(f, ", seq {seq}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Verifies every log in `folder`.
///
/// # Errors
/// [`VerifyError`] when there is nothing to read or the key is none; what is wrong in the logs is in the report.
pub fn verify(folder: &Path, public_key_pem: &str) -> Result<Report, VerifyError> {
    let key = public_key_from_pem(public_key_pem).ok_or(VerifyError::PublicKey)?;
    let failed = |source| VerifyError::Io { folder: folder.to_owned(), source };
    let mut verifier = Verifier { folder, key, seen: BTreeMap::new(), cluster: None, report: Report::default() };
    let newest = verifier.newest();
    let listing = folder::logs(folder).map_err(failed)?;
    for stranger in listing.strangers {
        verifier.fault(&stranger, 0, None, Breach::Stranger);
    }
    verifier.log(CLUSTER_LOG);
    let checkpoints = verifier.report.logs.first().map_or(0, |log| log.checkpoints);
    // One checkpoint may stand alone: the very first start was cut off between the two.
    if !newest && checkpoints > 1 {
        verifier.fault(&folder.join(NEWEST_FILE), 0, None, Breach::FileMissing);
    }
    let mut tenants: Vec<String> = folder::logs(folder).map_err(failed)?.known;
    tenants.extend(verifier.seen.keys().cloned());
    tenants.sort_unstable();
    tenants.dedup();
    for name in tenants.iter().filter(|name| *name != CLUSTER_LOG) {
        verifier.log(name);
    }
    Ok(verifier.report)
}

struct Verifier<'a> {
    folder: &'a Path,
    key: VerifyingKey,
    /// Places of logs that signed checkpoints saw: hash by number.
    seen: BTreeMap<String, BTreeMap<u64, [u8; 32]>>,
    cluster: Option<String>,
    report: Report,
}

/// A bad place of the log being walked.
struct Bad {
    file: PathBuf,
    line: u64,
    seq: Option<u64>,
    what: Breach,
}

impl Verifier<'_> {
    fn fault(&mut self, path: &Path, line: u64, seq: Option<u64>, what: Breach) {
        let file = path.strip_prefix(self.folder).unwrap_or(path).to_owned();
        self.report.faults.push(Fault { file, line, seq, what });
    }

    /// Reads the copy of the newest checkpoint; false when there is none.
    fn newest(&mut self) -> bool {
        let path = self.folder.join(NEWEST_FILE);
        let bytes = match folder::read_if_there(&path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return false,
            Err(error) => {
                self.fault(&path, 0, None, Breach::Unreadable { kind: error.kind() });
                return true;
            }
        };
        let checked = bytes.strip_suffix(b"\n").ok_or(Breach::Torn).and_then(|raw| {
            let line = Line::parse(raw)?;
            match &line.kind {
                Kind::Checkpoint { .. } if line.log != CLUSTER_LOG => Err(Breach::OtherLog { found: line.log }),
                Kind::Checkpoint { .. } if signed_by(raw, &self.key) => Ok(line),
                Kind::Checkpoint { .. } => Err(Breach::Signature),
                _ => Err(Breach::Malformed),
            }
        });
        match checked {
            Ok(line) => {
                self.seen.entry(CLUSTER_LOG.to_owned()).or_default().insert(line.seq, line.hash);
                if let Kind::Checkpoint { heads, .. } = line.kind {
                    self.note(heads);
                }
            }
            Err(what) => self.fault(&path, 1, None, what),
        }
        true
    }

    /// Notes what a signed checkpoint saw.
    fn note(&mut self, heads: Heads) {
        for (log, Head { seq, hash }) in heads {
            self.seen.entry(log).or_default().entry(seq).or_insert(hash);
        }
    }

    /// Walks one log to its end or first bad place.
    fn log(&mut self, name: &str) {
        let mut report = LogReport {
            log: name.to_owned(),
            tenant: name.parse().ok(),
            files: 0,
            events: 0,
            checkpoints: 0,
            last_checkpoint_ms: None,
            events_unsigned: 0,
            head: None,
        };
        let walked = self.walk(name, &mut report);
        self.report.logs.push(report);
        if let Err(bad) = walked {
            self.fault(&bad.file, bad.line, bad.seq, bad.what);
        }
    }

    fn walk(&mut self, name: &str, report: &mut LogReport) -> Result<(), Bad> {
        let log_folder = self.folder.join(name);
        let path = |number: u32| log_folder.join(folder::file_name(number));
        let whole = |file: PathBuf, what| Bad { file, line: 0, seq: None, what };
        let listing = match folder::files(&log_folder) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(whole(path(1), Breach::FileMissing)),
            Err(error) => return Err(whole(log_folder.clone(), Breach::Unreadable { kind: error.kind() })),
        };
        for stranger in listing.strangers {
            self.fault(&stranger, 0, None, Breach::Stranger);
        }
        let mut chain = Chain::new(name, self.cluster.as_deref());
        let (mut newest, mut lines) = (path(1), 0);
        let last = listing.known.last().copied().unwrap_or(0);
        for (number, expected) in listing.known.iter().zip(1..) {
            if *number != expected {
                return Err(Bad { file: path(expected), line: 0, seq: Some(chain.next_seq), what: Breach::FileMissing });
            }
            report.files += 1;
            newest = path(*number);
            lines = self.file(&newest, *number == last, &mut chain, report)?;
        }
        self.cluster = self.cluster.take().or_else(|| chain.cluster().map(str::to_owned));
        if last == 0 && (name == CLUSTER_LOG || self.seen.contains_key(name)) {
            return Err(whole(path(1), Breach::FileMissing));
        }
        let unseen = self.seen.get(name).and_then(|seen| seen.last_key_value()).filter(|(seq, _)| **seq >= chain.next_seq);
        if let Some((seq, _)) = unseen {
            return Err(Bad { file: newest, line: lines + 1, seq: Some(chain.next_seq), what: Breach::Cut { seq: *seq } });
        }
        // A tenant's log that no checkpoint knows yet may be at its very beginning; the cluster's is signed before anything else is done.
        if chain.next_seq == 0 && name == CLUSTER_LOG {
            return Err(Bad { file: newest, line: 1, seq: Some(0), what: Breach::Beginning });
        }
        Ok(())
    }

    /// Walks one file; returns its number of lines.
    fn file(&mut self, path: &Path, is_last: bool, chain: &mut Chain, report: &mut LogReport) -> Result<u64, Bad> {
        let bad = |line, seq, what| Bad { file: path.to_owned(), line, seq: Some(seq), what };
        let unreadable = |line, seq, error: io::Error| bad(line, seq, Breach::Unreadable { kind: error.kind() });
        let mut lines = Lines::open(path, 0).map_err(|error| unreadable(0, chain.next_seq, error))?;
        let mut count = 0;
        while let Some(raw) = whole_line(&mut lines, is_last).map_err(|error| unreadable(count + 1, chain.next_seq, error))? {
            count += 1;
            let seq = chain.next_seq;
            let line = match chain.follow(&raw.bytes) {
                Ok(line) if raw.whole => line,
                Ok(_) => return Err(bad(count, seq, Breach::Torn)),
                // An altered LF joins two lines; what is not whole at the very end is told as torn.
                Err(_) if !raw.whole => return Err(bad(count, seq, Breach::Torn)),
                Err(what) => return Err(bad(count, seq, what)),
            };
            if matches!(line.kind, Kind::Checkpoint { .. }) && !signed_by(&raw.bytes, &self.key) {
                return Err(bad(count, seq, Breach::Signature));
            }
            if self.seen.get(&line.log).and_then(|seen| seen.get(&seq)).is_some_and(|hash| *hash != line.hash) {
                return Err(bad(count, seq, Breach::Forked));
            }
            if count == 1 && seq > 0 && !matches!(line.kind, Kind::Checkpoint { .. }) {
                return Err(bad(count, seq, Breach::NoCheckpoint));
            }
            self.take(line, report);
        }
        if count == 0 && !is_last {
            return Err(bad(1, chain.next_seq, Breach::NoCheckpoint));
        }
        Ok(count)
    }

    /// Takes a line that is right.
    fn take(&mut self, line: Line, report: &mut LogReport) {
        report.head = Some((line.seq, hex(&line.hash)));
        match line.kind {
            Kind::Begin { .. } => {}
            Kind::Event { .. } => {
                report.events += 1;
                report.events_unsigned += 1;
            }
            Kind::Checkpoint { heads, .. } => {
                report.checkpoints += 1;
                report.last_checkpoint_ms = Some(line.time_ms);
                report.events_unsigned = 0;
                if line.log == CLUSTER_LOG {
                    self.note(heads);
                }
            }
        }
    }
}

/// The next line; the end of a log that is being written is waited for a little.
fn whole_line(lines: &mut Lines, wait: bool) -> io::Result<Option<RawLine>> {
    let mut line = lines.next_line()?;
    for _ in 0..TORN_WAITS {
        if !wait || line.as_ref().is_none_or(|line| line.whole) {
            break;
        }
        std::thread::sleep(TORN_WAIT);
        line = lines.next_line()?;
    }
    Ok(line)
}

/// The PEM form of a public key.
#[must_use]
pub fn public_key_to_pem(key: &VerifyingKey) -> String {
    format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", BASE64.encode(key.to_spki()))
}

/// The inverse of [`public_key_to_pem`]; blanks and line ends do not matter.
#[must_use]
pub fn public_key_from_pem(pem: &str) -> Option<VerifyingKey> {
    let inner = pem.trim().strip_prefix(PEM_BEGIN)?.strip_suffix(PEM_END)?;
    let text: String = inner.split_ascii_whitespace().collect();
    VerifyingKey::from_spki(&BASE64.decode(text).ok()?).ok()
}
