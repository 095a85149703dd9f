//! The audit folder: names of files, and reading and replacing them.
//!
//! Must not: know what a line means.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use schloss_core::TenantId;

use crate::line::LINE_BYTES_MAX;

/// The name of the cluster's log and of its folder.
pub const CLUSTER_LOG: &str = "cluster";
/// The public key, PEM.
pub const PUBLIC_KEY_FILE: &str = "public-key.pem";
/// The private key, sealed.
pub const SIGNING_KEY_FILE: &str = "signing-key.sealed";
/// A copy of the newest checkpoint line of the cluster's log.
pub const NEWEST_FILE: &str = "newest-checkpoint.json";
/// Held while a broker writes.
pub const LOCK_FILE: &str = "lock";

/// Ends the name of a file that is not yet in its place.
const UNFINISHED: &str = ".tmp";

/// What a folder holds: what belongs there, sorted, and the rest.
#[derive(Debug, Default)]
pub struct Listing<T> {
    /// Ours.
    pub known: Vec<T>,
    /// Not ours.
    pub strangers: Vec<PathBuf>,
}

/// The logs in the audit folder, the cluster's first.
///
/// # Errors
/// Of the file system.
pub fn logs(folder: &Path) -> io::Result<Listing<String>> {
    let mut listing = list(folder, |name, is_folder| match name {
        PUBLIC_KEY_FILE | SIGNING_KEY_FILE | NEWEST_FILE | LOCK_FILE if !is_folder => Some(None),
        _ if is_folder && is_log(name) => Some(Some(name.to_owned())),
        _ => None,
    })?;
    listing.known.sort_by_key(|name| (name != CLUSTER_LOG, name.clone()));
    Ok(listing)
}

/// The numbers of a log's files.
///
/// # Errors
/// Of the file system.
pub fn files(log_folder: &Path) -> io::Result<Listing<u32>> {
    let mut listing = list(log_folder, |name, is_folder| if is_folder { None } else { file_number(name).map(Some) })?;
    listing.known.sort_unstable();
    Ok(listing)
}

/// `cluster`, or a tenant's account.
pub fn is_log(name: &str) -> bool {
    name == CLUSTER_LOG || name.parse::<TenantId>().is_ok()
}

/// `sort` says of a name: not ours, ours and not listed, or ours and listed.
fn list<T>(folder: &Path, sort: impl Fn(&str, bool) -> Option<Option<T>>) -> io::Result<Listing<T>> {
    let mut listing = Listing { known: Vec::new(), strangers: Vec::new() };
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let sorted = name.to_str().and_then(|name| if name.ends_with(UNFINISHED) { Some(None) } else { sort(name, entry.path().is_dir()) });
        match sorted {
            Some(Some(known)) => listing.known.push(known),
            Some(None) => {}
            None => listing.strangers.push(entry.path()),
        }
    }
    listing.strangers.sort();
    Ok(listing)
}

/// The name of a log's file.
pub fn file_name(number: u32) -> String {
    format!("{number:08}.jsonl")
}

fn file_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".jsonl")?.parse().ok()?;
    (number > 0 && file_name(number) == name).then_some(number)
}

/// Replaces a file so that after a crash either the old or the new one is there, whole.
///
/// # Errors
/// Of the file system.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(UNFINISHED);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Makes names in a folder durable.
///
/// # Errors
/// Of the file system.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The file's bytes, or `None` when there is none.
///
/// # Errors
/// Of the file system; a file longer than a line may be is invalid data.
pub fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(LINE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LINE_BYTES_MAX { Err(io::ErrorKind::InvalidData.into()) } else { Ok(Some(bytes)) }
}

/// A line as it stands in a file.
#[derive(Debug)]
pub struct RawLine {
    /// Without its LF.
    pub bytes: Vec<u8>,
    /// False when the file ends before the LF.
    pub whole: bool,
    /// Where it begins.
    pub position: u64,
}

/// Reads a file's lines.
#[derive(Debug)]
pub struct Lines {
    reader: BufReader<File>,
    /// Where the next line begins.
    pub position: u64,
}

impl Lines {
    /// From `position` on.
    ///
    /// # Errors
    /// Of the file system.
    pub fn open(path: &Path, position: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(position))?;
        Ok(Self { reader: BufReader::with_capacity(64 * 1024, file), position })
    }

    /// The next line; `None` at the present end. After a line that is not whole the same place is read again.
    ///
    /// # Errors
    /// Of the file system.
    pub fn next_line(&mut self) -> io::Result<Option<RawLine>> {
        let mut bytes = Vec::new();
        let read = (&mut self.reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        let position = self.position;
        let whole = bytes.pop_if(|last| *last == b'\n').is_some();
        if whole {
            self.position += read as u64;
        } else {
            self.reader.seek(SeekFrom::Start(position))?;
        }
        Ok(Some(RawLine { bytes, whole, position }))
    }
}

/// Copies a log that may be written to meanwhile, in the order in which a copy verifies: what vouches before what is vouched for.
/// The sealed signing key is left out. Returns the files of lines.
///
/// # Errors
/// Of the file system.
pub fn snapshot(from: &Path, to: &Path) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(to)?;
    for name in [PUBLIC_KEY_FILE, NEWEST_FILE] {
        match fs::copy(from.join(name), to.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let mut copied = Vec::new();
    for log in logs(from)?.known {
        fs::create_dir_all(to.join(&log))?;
        for number in files(&from.join(&log))?.known {
            let target = to.join(&log).join(file_name(number));
            copy_whole_lines(&from.join(&log).join(file_name(number)), &target)?;
            copied.push(target);
        }
    }
    Ok(copied)
}

/// A line that is just being written is left out.
fn copy_whole_lines(from: &Path, to: &Path) -> io::Result<()> {
    let (mut lines, mut target) = (Lines::open(from, 0)?, io::BufWriter::new(File::create(to)?));
    while let Some(line) = lines.next_line()?.filter(|line| line.whole) {
        target.write_all(&line.bytes)?;
        target.write_all(b"\n")?;
    }
    target.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_are_files_of_a_log() {
        assert_eq!(file_number(&file_name(7)), Some(7));
        for name in ["0.jsonl", "00000000.jsonl", "1.jsonl", "+0000001.jsonl", "00000001.jsonl.bak", "00000001"] {
            assert_eq!(file_number(name), None, "{name}");
        }
    }

    #[test]
    fn line_being_written_is_read_again_when_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "one\ntw").unwrap();
        let mut lines = Lines::open(&path, 0).unwrap();
        assert_eq!(lines.next_line().unwrap().unwrap().bytes, b"one");
        assert!(!lines.next_line().unwrap().unwrap().whole);
        fs::write(&path, "one\ntwo\n").unwrap();
        let two = lines.next_line().unwrap().unwrap();
        assert_eq!((two.bytes.as_slice(), two.whole, two.position), (&b"two"[..], true, 4));
        assert!(lines.next_line().unwrap().is_none());
    }
}
