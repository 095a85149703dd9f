//! One stream on disk: numbered files of lines, appended and synced.
//!
//! Invariants
//! - What [`Stream::commit`] acknowledged is on disk and is never taken back.
//! - After a failed commit the file ends where the last good one ended, and so does the chain.
//! - Every file after the first begins with its key and a checkpoint, so that the newest file alone tells the number of events.
//! - At opening, only a torn end is dropped (no newline, or zeros where a crash left a hole). Anything else that does not chain refuses.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use schloss_crypto::KeyError;
use schloss_crypto::signing::VerifyingKey;

use crate::line::{Body, FORMAT, Head, Line, genesis, is_signed_by};

/// Why the log was not opened. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Reading or writing failed.
    #[error("`{path}`: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it.
    #[error("the audit log `{path}` is in use by another process; stop it first")]
    Locked {
        /// Where.
        path: PathBuf,
    },
    /// A file was changed or damaged.
    #[error(
        "the audit log was changed or damaged: `{path}` line {line}; keep a copy, run `schloss audit verify`, and restore the folder from your backup"
    )]
    Broken {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
    },
    /// A signed checkpoint names a line that is gone.
    #[error(
        "the audit log `{path}` ends before line {expected}, which a signed checkpoint names; keep a copy, run `schloss audit verify`, and restore the folder from your backup"
    )]
    CutOff {
        /// The stream.
        path: PathBuf,
        /// The line's number.
        expected: u64,
    },
    /// A file of ours that cannot be read.
    #[error("`{path}` cannot be understood; restore it from your backup")]
    Malformed {
        /// Where.
        path: PathBuf,
    },
    /// The public key is not the signing key's.
    #[error("`{path}` does not belong to the log's signing key; restore both from your backup")]
    PublicKeyMismatch {
        /// Where.
        path: PathBuf,
    },
    /// The vault gave no key.
    #[error("the key of the audit log: {0}")]
    Key(#[from] KeyError),
}

/// Where the chain stands.
#[derive(Clone, Debug)]
struct Position {
    seq_next: u64,
    hash: String,
    events: u64,
    events_unsigned: u64,
    /// Bytes of the newest file.
    file_len: u64,
    /// False until this run wrote its `open` line in the newest file.
    key_written: bool,
    /// True when the last line is a checkpoint.
    signed: bool,
}

/// A stream, ready to be appended to.
pub(crate) struct Stream {
    name: String,
    folder: PathBuf,
    file: Option<File>,
    file_number: u64,
    durable: Position,
    staged: Position,
    bytes: Vec<u8>,
    /// Bytes of a torn end dropped at opening.
    pub(crate) torn_bytes: u64,
    /// Newest lines of other streams, as checkpoints in the newest file name them.
    pub(crate) named: BTreeMap<String, Head>,
    /// The newest checkpoint line staged, with its newline.
    checkpoint_line: Vec<u8>,
}

impl Stream {
    /// Opens `folder`, or prepares a new stream there (made at the first commit). Checkpoints must be signed by `key`, and
    /// the line `expected`, which a signed checkpoint elsewhere names, must be there.
    pub(crate) fn open(
        folder: &Path,
        name: &str,
        key: &VerifyingKey,
        expected: Option<&Head>,
    ) -> Result<Self, AuditError> {
        let start = Position {
            seq_next: 0,
            hash: genesis(name),
            events: 0,
            events_unsigned: 0,
            file_len: 0,
            key_written: false,
            signed: true,
        };
        let mut stream = Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            file: None,
            file_number: 0,
            durable: start.clone(),
            staged: start,
            bytes: Vec::new(),
            torn_bytes: 0,
            named: BTreeMap::new(),
            checkpoint_line: Vec::new(),
        };
        match (files(folder)?.pop(), expected) {
            (Some((number, path)), _) => stream.recover(number, &path, key, expected)?,
            (None, Some(head)) => return Err(AuditError::CutOff { path: folder.into(), expected: head.seq }),
            (None, None) => {}
        }
        Ok(stream)
    }

    /// Reads the newest file and stands at its end. Older files are [`crate::verify`]'s.
    fn recover(
        &mut self,
        number: u64,
        path: &Path,
        key: &VerifyingKey,
        expected: Option<&Head>,
    ) -> Result<(), AuditError> {
        let io = |source| AuditError::Io { path: path.into(), source };
        let text = fs::read(path).map_err(io)?;
        let mut position = self.durable.clone();
        let mut good = 0_usize;
        for (at, raw) in (1..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
            let broken = || AuditError::Broken { path: path.into(), line: at };
            let parsed = raw.strip_suffix(b"\n").and_then(Line::parse);
            let Some((line, hash)) = parsed else {
                let rest = text.get(good..).unwrap_or_default();
                // SECURITY: whole lines without a zero byte that do not parse were written by somebody else.
                if raw.ends_with(b"\n") && !rest.contains(&0) {
                    return Err(broken());
                }
                break;
            };
            if at == 1 {
                // The link to older files is for `verify`; here the file says where it begins.
                let Body::Open { format: FORMAT, stream, .. } = &line.body else { return Err(broken()) };
                if *stream != self.name || (number == 1 && (line.seq != 0 || line.prev != position.hash)) {
                    return Err(broken());
                }
                position.seq_next = line.seq;
                position.hash.clone_from(&line.prev);
            }
            if line.seq != position.seq_next || line.prev != position.hash {
                return Err(broken());
            }
            // SECURITY: a chain written anew without the signing key must not be signed by us.
            let unsigned = matches!(line.body, Body::Checkpoint { .. }) && !is_signed_by(&line, &self.name, key);
            if unsigned || expected.is_some_and(|head| head.seq == line.seq && head.hash != hash) {
                return Err(broken());
            }
            position.step(&line.body, hash);
            if let Body::Checkpoint { streams, .. } = line.body {
                self.named.extend(streams);
            }
            good += raw.len();
        }
        // SECURITY: nothing is dropped that a signed checkpoint names.
        if let Some(head) = expected.filter(|head| head.seq >= position.seq_next && (good > 0 || number == 1)) {
            return Err(AuditError::CutOff { path: path.into(), expected: head.seq });
        }
        let file = OpenOptions::new().write(true).open(path).map_err(io)?;
        position.file_len = good as u64;
        position.key_written = false;
        self.torn_bytes = (text.len() - good) as u64;
        if self.torn_bytes > 0 {
            file.set_len(position.file_len).and_then(|()| file.sync_all()).map_err(io)?;
        }
        if good == 0 && number > 1 {
            // Not even the first line survived: the file is unborn. The one before holds the end of the chain.
            fs::remove_file(path).map_err(io)?;
            let torn = self.torn_bytes;
            let before = self.folder.join(file_name(number - 1));
            self.recover(number - 1, &before, key, expected)?;
            self.torn_bytes = torn;
            return Ok(());
        }
        self.file = Some(file);
        self.file_number = number;
        self.durable = position.clone();
        self.staged = position;
        Ok(())
    }

    /// The number the next line will have.
    pub(crate) fn seq_next(&self) -> u64 {
        self.staged.seq_next
    }

    /// True when this run's `open` line must come before the next event.
    pub(crate) fn wants_key(&self, file_bytes_max: u64) -> bool {
        !self.staged.key_written || (self.bytes.is_empty() && self.durable.file_len >= file_bytes_max)
    }

    /// True when the next line is the first of a file after the first.
    pub(crate) fn begins_file(&self, file_bytes_max: u64) -> bool {
        let Position { seq_next, file_len, .. } = self.durable;
        self.bytes.is_empty() && seq_next > 0 && (file_len == 0 || file_len >= file_bytes_max)
    }

    /// The newest checkpoint line staged, with its newline.
    pub(crate) fn checkpoint_line(&self) -> &[u8] {
        &self.checkpoint_line
    }

    pub(crate) fn events(&self) -> u64 {
        self.staged.events
    }

    pub(crate) fn events_unsigned(&self) -> u64 {
        self.staged.events_unsigned
    }

    /// True when the newest line is a checkpoint (or there is no line).
    pub(crate) fn is_signed(&self) -> bool {
        self.staged.signed
    }

    pub(crate) fn prev(&self) -> &str {
        &self.staged.hash
    }

    /// The newest durable line.
    pub(crate) fn head(&self) -> Option<Head> {
        let seq = self.durable.seq_next.checked_sub(1)?;
        Some(Head { seq, hash: self.durable.hash.clone() })
    }

    /// Adds a line to the next commit.
    pub(crate) fn stage(&mut self, time: i64, body: Body) {
        let line = Line { seq: self.staged.seq_next, time, prev: self.staged.hash.clone(), body };
        let (bytes, hash) = line.render();
        if matches!(line.body, Body::Checkpoint { .. }) {
            self.checkpoint_line.clone_from(&bytes);
        }
        self.bytes.extend_from_slice(&bytes);
        self.staged.step(&line.body, hash);
    }

    /// Writes and syncs all staged lines; begins a new file when the newest is full. Returns the bytes written.
    pub(crate) fn commit(&mut self, file_bytes_max: u64) -> io::Result<u64> {
        if self.bytes.is_empty() {
            return Ok(0);
        }
        let result = self.write(file_bytes_max);
        let len = self.bytes.len() as u64;
        self.bytes.clear();
        match result {
            Ok(()) => {
                self.durable = self.staged.clone();
                Ok(len)
            }
            Err(error) => {
                self.staged = self.durable.clone();
                if let Some(file) = &self.file {
                    // If this fails too, the next write still begins at the durable end and overwrites.
                    let _ = file.set_len(self.durable.file_len);
                }
                Err(error)
            }
        }
    }

    fn write(&mut self, file_bytes_max: u64) -> io::Result<()> {
        let mut at = self.durable.file_len;
        if self.file.is_none() || at >= file_bytes_max {
            self.file = Some(self.next_file()?);
            self.file_number += 1;
            self.durable.file_len = 0;
            // Should this commit fail, the next one begins the new file, with its key.
            self.durable.key_written = false;
            at = 0;
        }
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&self.bytes)?;
        let end = at + self.bytes.len() as u64;
        file.set_len(end)?;
        file.sync_data()?;
        self.staged.file_len = end;
        Ok(())
    }

    fn next_file(&self) -> io::Result<File> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(file_name(self.file_number + 1));
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        for folder in [Some(self.folder.as_path()), self.folder.parent()].into_iter().flatten() {
            File::open(folder)?.sync_all()?;
        }
        Ok(file)
    }
}

impl Position {
    fn step(&mut self, body: &Body, hash: String) {
        self.seq_next += 1;
        self.hash = hash;
        self.signed = false;
        match body {
            Body::Open { .. } => self.key_written = true,
            Body::Certificate { .. } => {}
            Body::Event { .. } => {
                self.events += 1;
                self.events_unsigned += 1;
            }
            Body::Checkpoint { events, .. } => {
                self.events = *events;
                self.events_unsigned = 0;
                self.signed = true;
            }
        }
    }
}

/// The stream's files by number.
pub(crate) fn files(folder: &Path) -> Result<Vec<(u64, PathBuf)>, AuditError> {
    let io = |source| AuditError::Io { path: folder.into(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io(source)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        let number = path.extension().filter(|extension| *extension == "jsonl").and(path.file_stem());
        if let Some(number) = number.and_then(|stem| stem.to_str()?.parse().ok()) {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files)
}

/// The names of all streams in a log's folder, `cluster` first.
pub(crate) fn streams(folder: &Path) -> Result<Vec<String>, AuditError> {
    let io = |source| AuditError::Io { path: folder.into(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.file_type().map_err(io)?.is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort_by_key(|name| (name != crate::CLUSTER_STREAM, name.clone()));
    Ok(names)
}

pub(crate) fn file_name(number: u64) -> String {
    format!("{number:08}.jsonl")
}
