//! The few file operations a local write-ahead log needs, behind a trait so that tests can cut the power at each.
//!
//! Invariants
//! - `create` answers when the file's blocks are reserved and its name is durable; `rename` and `remove` likewise.
//! - Written bytes are durable only after `sync`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

/// A folder of log files.
pub trait Disk: Send + Sync + 'static {
    /// Names in the folder.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new file of `len` zero bytes.
    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn DiskFile>>;
    /// An existing file.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// An open log file.
pub trait DiskFile: Send {
    /// Its length.
    fn len(&self) -> io::Result<u64>;
    /// Fills `buffer` from `position`, or fails.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `position`.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
}

/// A folder of the operating system, locked while this lives.
#[derive(Debug)]
pub(crate) struct FolderDisk {
    folder: PathBuf,
    handle: File,
    _lock: File,
}

impl FolderDisk {
    /// Makes the folder if need be, and locks it. `WouldBlock` when another process has it.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        if let Some(parent) = folder.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(Self { folder: folder.into(), handle: File::open(folder)?, _lock: lock })
    }
}

/// Zeros are written in pieces of this size.
static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

impl Disk for FolderDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn DiskFile>> {
        let path = self.folder.join(name);
        let made = (|| {
            let mut file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path)?;
            fallocate(&file, FallocateFlags::empty(), 0, len)?;
            // Written blocks sync several times faster than reserved ones.
            let mut left = len;
            while left > 0 {
                let piece = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
                file.write_all(&ZEROS[..piece])?;
                left -= piece as u64;
            }
            file.sync_all()?;
            self.handle.sync_all()?;
            Ok(file)
        })();
        if made.is_err() {
            // A half-made file would keep the space that is short.
            let _ = fs::remove_file(&path);
        }
        made.map(|file| Box::new(OsFile(file)) as Box<dyn DiskFile>)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.folder.join(name))?;
        Ok(Box::new(OsFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.folder.join(from), self.folder.join(to))?;
        self.handle.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.folder.join(name))?;
        self.handle.sync_all()
    }
}

struct OsFile(File);

impl DiskFile for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, position)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
