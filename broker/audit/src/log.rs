//! One log as the writer holds it: what is durable, and what is being added.
//!
//! In: bodies and checkpoints. Out: lines on disk.
//!
//! Invariants
//! - `kept` describes bytes that were synced; it moves only after `write` and `sync` both succeeded.
//! - Bytes beyond `kept.len` are cut off before anything is written again, so a failed write leaves no trace in the chain.
//!
//! Must not: answer anybody; the writer does, after `settle`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use schloss_crypto::signing::SigningKey;
use schloss_crypto::{DataKey, seal_value};

use crate::folder::{self, Lines};
use crate::line::{Breach, Chain, Hash, Head, Heads, Kind, Line, Place, Written, body_binding, signed_by};

/// A place in a file of a log that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The file.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: u64,
    /// What is wrong.
    pub breach: Breach,
}

/// Why a log could not be opened.
#[derive(Debug)]
pub enum OpenFault {
    /// The file system.
    Io(io::Error),
    /// It was changed by somebody.
    Broken(Spot),
}

impl From<io::Error> for OpenFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What lines are made with.
pub struct Pen {
    /// The installation.
    pub cluster: String,
    /// Seals bodies.
    pub key: std::sync::Arc<DataKey>,
    /// Signs checkpoints.
    pub signing: SigningKey,
    /// A file at least this long is followed by another.
    pub file_bytes_max: u64,
}

/// How far a log goes.
#[derive(Clone, Debug)]
struct State {
    /// 0 before the first file.
    file_number: u32,
    len: u64,
    next_seq: u64,
    prev: Hash,
    events: u64,
    lines_unsigned: u64,
}

struct Pending {
    state: State,
    bytes: Vec<u8>,
    /// Its newest checkpoint line.
    checkpoint: Option<Vec<u8>>,
}

/// A group of lines that became durable.
#[derive(Debug, Default)]
pub struct Kept {
    /// How many bytes.
    pub bytes: usize,
    /// The newest checkpoint line among them, with its LF.
    pub checkpoint: Option<Vec<u8>>,
}

/// One log.
pub struct Log {
    /// `cluster` or the tenant's account.
    pub name: String,
    folder: PathBuf,
    kept: State,
    pending: Option<Pending>,
    /// The newest file, while open.
    file: Option<(u32, File)>,
    /// Bytes beyond `kept.len` may be in the file.
    torn: bool,
    /// What the checkpoint that begins the next file names.
    first_heads: Heads,
}

/// A log just opened.
pub struct Opened {
    /// It.
    pub log: Log,
    /// Heads of other logs that its checkpoints in the newest file saw.
    pub heads: Heads,
    /// Bytes of a torn last line that were cut off.
    pub cut_bytes: u64,
}

impl Log {
    /// A log without a line.
    #[must_use]
    pub fn new(audit_folder: &Path, name: &str) -> Self {
        let kept = State { file_number: 0, len: 0, next_seq: 0, prev: [0; 32], events: 0, lines_unsigned: 0 };
        Self { name: name.to_owned(), folder: audit_folder.join(name), kept, pending: None, file: None, torn: false, first_heads: Heads::new() }
    }

    /// Opens a log: checks the newest file and cuts off a line that a crash left unfinished.
    /// `expected`: what the newest checkpoint of another log saw of this one.
    ///
    /// # Errors
    /// [`OpenFault`].
    pub fn open(audit_folder: &Path, name: &str, pen: &Pen, expected: Option<Head>) -> Result<Opened, OpenFault> {
        let mut log = Self::new(audit_folder, name);
        let mut numbers = if log.folder.is_dir() { folder::files(&log.folder)?.known } else { Vec::new() };
        let mut opened = loop {
            let Some(number) = numbers.pop() else {
                break Opened { log, heads: Heads::new(), cut_bytes: 0 };
            };
            match log.scan(number, pen, expected)? {
                // A crash came between making the file and writing its first line.
                None => {
                    fs::remove_file(log.path(number))?;
                    folder::sync_folder(&log.folder)?;
                }
                Some((heads, cut_bytes)) => break Opened { log, heads, cut_bytes },
            }
        };
        if let Some(head) = expected.filter(|head| head.seq >= opened.log.kept.next_seq) {
            let file = opened.log.path(opened.log.kept.file_number.max(1));
            return Err(OpenFault::Broken(Spot { file, line: 0, breach: Breach::Cut { seq: head.seq } }));
        }
        if opened.cut_bytes > 0 {
            opened.log.torn = true;
            opened.log.mend()?;
        }
        Ok(opened)
    }

    /// Reads the file `number` as the newest; `None` when it holds no whole line.
    fn scan(&mut self, number: u32, pen: &Pen, expected: Option<Head>) -> Result<Option<(Heads, u64)>, OpenFault> {
        let path = self.path(number);
        let (mut lines, mut count, mut heads) = (Lines::open(&path, 0)?, 0, Heads::new());
        let file_len = fs::metadata(&path)?.len();
        let mut chain = None;
        let mut unsigned = 0;
        while let Some(raw) = lines.next_line()?.filter(|raw| raw.whole) {
            count += 1;
            let broken = |breach| OpenFault::Broken(Spot { file: path.clone(), line: count, breach });
            let chain = match &mut chain {
                Some(chain) => chain,
                none => none.insert(self.first_chain(number, &raw.bytes, pen).map_err(broken)?),
            };
            let line = chain.follow(&raw.bytes).map_err(broken)?;
            if expected.is_some_and(|head| head.seq == line.seq && head.hash != line.hash) {
                return Err(broken(Breach::Forked));
            }
            unsigned += 1;
            if let Kind::Checkpoint { heads: seen, .. } = line.kind {
                if !signed_by(&raw.bytes, &pen.signing.verifying_key()) {
                    return Err(broken(Breach::Signature));
                }
                heads.extend(seen);
                unsigned = 0;
            }
        }
        let Some(chain) = chain else { return Ok(None) };
        self.kept = State {
            file_number: number,
            len: lines.position,
            next_seq: chain.next_seq,
            prev: chain.prev,
            events: chain.events,
            lines_unsigned: unsigned,
        };
        Ok(Some((heads, file_len.saturating_sub(lines.position))))
    }

    fn first_chain(&self, number: u32, raw: &[u8], pen: &Pen) -> Result<Chain, Breach> {
        if number == 1 {
            return Ok(Chain::new(&self.name, Some(&pen.cluster)));
        }
        Chain::before(&self.name, Some(&pen.cluster), &Line::parse(raw)?).ok_or(Breach::NoCheckpoint)
    }

    /// The newest durable line.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        self.kept.next_seq.checked_sub(1).map(|seq| Head { seq, hash: self.kept.prev })
    }

    /// Lines after the newest checkpoint, those not yet durable included.
    #[must_use]
    pub fn lines_unsigned(&self) -> u64 {
        self.pending.as_ref().map_or(&self.kept, |pending| &pending.state).lines_unsigned
    }

    /// Adds an event with this body.
    pub fn event(&mut self, pen: &Pen, body: &[u8], time_ms: i64) {
        self.start(pen, time_ms);
        self.add(time_ms, 1, |place| {
            place.event(&seal_value(&pen.key, &body_binding(&pen.cluster, place.log, place.seq), body))
        });
    }

    /// Adds a checkpoint.
    pub fn checkpoint(&mut self, pen: &Pen, heads: &Heads, time_ms: i64) {
        self.start(pen, time_ms);
        let (events, before) = self.pending.as_ref().map_or((0, 0), |pending| (pending.state.events, pending.bytes.len()));
        self.add(time_ms, 0, |place| place.checkpoint(events, heads, &pen.signing));
        if let Some(pending) = &mut self.pending {
            pending.state.lines_unsigned = 0;
            pending.checkpoint = Some(pending.bytes.get(before..).unwrap_or_default().to_vec());
        }
    }

    /// The heads that the checkpoint at the beginning of the next file shall name.
    pub fn name_first(&mut self, heads: Heads) {
        self.first_heads = heads;
    }

    /// True when the next line goes into a new file, whose first checkpoint should name all heads.
    #[must_use]
    pub fn is_full(&self, pen: &Pen) -> bool {
        self.pending.is_none() && self.kept.file_number > 0 && self.kept.len >= pen.file_bytes_max
    }

    /// Opens a group of lines: in a new file where one is due.
    fn start(&mut self, pen: &Pen, time_ms: i64) {
        if self.pending.is_some() {
            return;
        }
        let full = self.is_full(pen);
        let mut state = self.kept.clone();
        if state.file_number == 0 || full {
            state.file_number += 1;
            state.len = 0;
        }
        self.pending = Some(Pending { state, bytes: Vec::new(), checkpoint: None });
        if self.kept.next_seq == 0 {
            self.add(time_ms, 0, |place| place.begin(&pen.cluster));
        } else if full {
            let heads = std::mem::take(&mut self.first_heads);
            self.checkpoint(pen, &heads, time_ms);
        }
    }

    fn add(&mut self, time_ms: i64, events: u64, make: impl FnOnce(&Place<'_>) -> Written) {
        let Some(Pending { state, bytes, .. }) = &mut self.pending else { return };
        let written = make(&Place { seq: state.next_seq, time_ms, log: &self.name, prev: &state.prev });
        bytes.extend_from_slice(&written.bytes);
        state.next_seq += 1;
        state.prev = written.hash;
        state.events += events;
        state.lines_unsigned += 1;
    }

    /// Writes the group; not yet durable.
    ///
    /// # Errors
    /// Of the file system; then [`Log::settle`] with false.
    pub fn write(&mut self) -> io::Result<()> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let result = self.write_pending(&pending);
        self.pending = Some(pending);
        result
    }

    fn write_pending(&mut self, pending: &Pending) -> io::Result<()> {
        self.mend()?;
        let number = pending.state.file_number;
        if number != self.kept.file_number {
            // Left over from a write that failed: nothing in it was ever acknowledged.
            let file = create(&self.folder, &self.path(number))?;
            self.file = Some((number, file));
        }
        let position = if number == self.kept.file_number { self.kept.len } else { 0 };
        self.torn = true;
        self.opened(number)?.write_all_at(&pending.bytes, position)
    }

    /// Makes the group durable.
    ///
    /// # Errors
    /// Of the file system; then [`Log::settle`] with false.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |(_, file)| file.sync_data())
    }

    /// Ends the group: it is durable, or it never was.
    pub fn settle(&mut self, durable: bool) -> Kept {
        let Some(pending) = self.pending.take() else { return Kept::default() };
        if durable {
            let Pending { mut state, bytes, checkpoint } = pending;
            state.len += bytes.len() as u64;
            self.kept = state;
            self.torn = false;
            return Kept { bytes: bytes.len(), checkpoint };
        }
        if pending.state.file_number != self.kept.file_number {
            // Where this fails, the next attempt empties the file.
            drop(fs::remove_file(self.path(pending.state.file_number)));
        }
        // A failed sync may have dropped pages; the next attempt opens the file anew, cuts and writes them again.
        if let Err(error) = self.mend() {
            tracing::warn!(kind = ?error.kind(), "the tail of an audit file could not be cut yet");
        }
        self.file = None;
        Kept::default()
    }

    /// Lets go of the open file.
    pub fn release(&mut self) {
        self.file = None;
    }

    /// True while a file is open.
    #[must_use]
    pub fn holds_file(&self) -> bool {
        self.file.is_some()
    }

    /// Cuts off what is beyond the durable end.
    fn mend(&mut self) -> io::Result<()> {
        if !self.torn {
            return Ok(());
        }
        if self.kept.file_number > 0 {
            let len = self.kept.len;
            self.file = None;
            let file = self.opened(self.kept.file_number)?;
            file.set_len(len)?;
            file.sync_data()?;
        }
        self.torn = false;
        Ok(())
    }

    fn opened(&mut self, number: u32) -> io::Result<&File> {
        let open = match self.file.take() {
            Some((open, file)) if open == number => file,
            _ => OpenOptions::new().write(true).open(self.path(number))?,
        };
        Ok(&self.file.insert((number, open)).1)
    }

    fn path(&self, number: u32) -> PathBuf {
        self.folder.join(folder::file_name(number))
    }
}

/// A new empty file whose name is durable.
fn create(log_folder: &Path, path: &Path) -> io::Result<File> {
    if !log_folder.is_dir() {
        fs::create_dir_all(log_folder)?;
        log_folder.parent().map_or(Ok(()), folder::sync_folder)?;
    }
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    folder::sync_folder(log_folder)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pen() -> Pen {
        let signing = SigningKey::from_pkcs8(&SigningKey::generate_pkcs8()).unwrap();
        Pen { cluster: "u".to_owned(), key: std::sync::Arc::new(DataKey::generate()), signing, file_bytes_max: 1 << 20 }
    }

    fn keep(log: &mut Log) {
        log.write().unwrap();
        log.sync().unwrap();
        assert!(log.settle(true).bytes > 0);
    }

    #[test]
    fn failed_write_leaves_the_chain_as_it_was_and_the_next_one_succeeds() {
        let (folder, pen) = (tempfile::tempdir().unwrap(), pen());
        let mut log = Log::new(folder.path(), "cluster");
        log.event(&pen, b"one", 1);
        keep(&mut log);
        let (head, path) = (log.head(), log.path(1));
        // A file opened for reading only refuses the write, like a full disk.
        log.file = Some((1, File::open(&path).unwrap()));
        log.event(&pen, b"two", 2);
        log.write().unwrap_err();
        assert_eq!(log.settle(false).bytes, 0);
        assert_eq!(log.head(), head);
        // And what such a write may leave behind:
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"v\":1,\"seq\":2,\"ti");
        fs::write(&path, bytes).unwrap();
        log.torn = true;
        log.event(&pen, b"three", 3);
        keep(&mut log);
        let opened = Log::open(folder.path(), "cluster", &pen, None).map_err(|_| "broken").unwrap();
        assert_eq!((opened.log.head(), opened.cut_bytes), (log.head(), 0));
        assert_eq!(opened.log.kept.events, 2);
    }

    #[test]
    fn new_file_whose_first_write_failed_is_gone() {
        let (folder, mut pen) = (tempfile::tempdir().unwrap(), pen());
        let mut log = Log::new(folder.path(), "cluster");
        log.event(&pen, b"one", 1);
        keep(&mut log);
        pen.file_bytes_max = 1;
        log.event(&pen, b"two", 2);
        log.write().unwrap();
        assert!(log.path(2).exists());
        log.settle(false);
        assert!(!log.path(2).exists());
        log.event(&pen, b"three", 3);
        keep(&mut log);
        let opened = Log::open(folder.path(), "cluster", &pen, None).map_err(|_| "broken").unwrap();
        assert_eq!((opened.log.head(), opened.log.kept.events), (log.head(), 2));
    }

    #[test]
    fn new_file_that_holds_nothing_is_forgotten_at_the_next_start() {
        let (folder, pen) = (tempfile::tempdir().unwrap(), pen());
        let mut log = Log::new(folder.path(), "cluster");
        log.event(&pen, b"one", 1);
        keep(&mut log);
        fs::write(log.path(2), b"{\"v\":1").unwrap();
        let opened = Log::open(folder.path(), "cluster", &pen, None).map_err(|_| "broken").unwrap();
        assert_eq!(opened.log.head(), log.head());
        assert!(!log.path(2).exists());
    }
}
