//! A folder as an object store whose bytes go past the page cache.
//!
//! In: whole objects, ranges wanted. Out: files that are on disk when the put returns, and their bytes. All else is
//! `object_store`'s own folder.
//!
//! A segment is written once, long after its records were served from memory, and read back into a cache of opened frames. The page cache would
//! hold it a second time, and filling that cache costs more CPU than sealing the bytes (broker/manual/benchmark.md). On file systems without `O_DIRECT` the
//! same code goes through the cache.
//!
//! Invariants
//! - An object appears under its name whole and synced, or not at all.
//! - What a crash left half-written bears a name that no listing shows, and is removed at the next opening.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rustix::fs::{FallocateFlags, OFlags, fallocate};

/// What devices ask positions, lengths and addresses to be multiples of.
const ALIGN: usize = 4096;
/// Bytes given to the device at once.
const WRITE_BYTES: usize = 1024 * 1024;
/// `object_store` leaves names with this ending out of its listings.
const STAGED: &str = "#1";

/// See the head of this file.
#[derive(Debug)]
pub struct LocalStore {
    inner: LocalFileSystem,
    /// The buffer of the last put.
    spare: Arc<Mutex<Option<Aligned>>>,
}

impl LocalStore {
    /// Opens a folder that exists, and removes what a crash left half-written. Blocks on the disk.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn open(root: &FilePath) -> Result<Self> {
        let inner = LocalFileSystem::new_with_prefix(root)?.with_fsync(true);
        remove_staged(root).map_err(|error| failed(root, error))?;
        Ok(Self { inner, spare: Arc::default() })
    }
}

impl std::fmt::Display for LocalStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if !matches!(options.mode, PutMode::Overwrite) || !options.attributes.is_empty() {
            return self.inner.put_opts(location, payload, options).await;
        }
        let path = self.inner.path_to_filesystem(location)?;
        let spare = Arc::clone(&self.spare);
        blocking(move || {
            let lock = || spare.lock().unwrap_or_else(PoisonError::into_inner);
            let mut buffer = lock().take().unwrap_or_else(|| Aligned::new(WRITE_BYTES));
            let written = write(&path, &payload, &mut buffer);
            *lock() = Some(buffer);
            written.map_err(|error| failed(&path, error))
        })
        .await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let path = self.inner.path_to_filesystem(location)?;
        let ranges = ranges.to_vec();
        blocking(move || {
            let file = open_direct(&path, OFlags::RDONLY).map_err(|error| failed(&path, error))?;
            let bytes = ranges.into_iter().map(|range| read(&file, range));
            bytes.collect::<io::Result<_>>().map_err(|error| failed(&path, error))
        })
        .await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

fn failed(path: &FilePath, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::NotFound { path: path.display().to_string(), source: error.into() },
        _ => Error::Generic { store: "LocalStore", source: error.into() },
    }
}

/// Memory that begins at a multiple of [`ALIGN`].
#[derive(Debug)]
struct Aligned {
    bytes: Vec<u8>,
    at: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let bytes = vec![0; len.saturating_add(ALIGN)];
        let at = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { bytes, at, len }
    }

    fn memory(&mut self) -> &mut [u8] {
        let end = self.at.saturating_add(self.len);
        self.bytes.get_mut(self.at..end).unwrap_or_default()
    }

    fn into_bytes(self, range: Range<usize>) -> Bytes {
        let (from, until) = (self.at.saturating_add(range.start), self.at.saturating_add(range.end));
        Bytes::from(self.bytes).slice(from..until)
    }
}

fn open_direct(path: &FilePath, flags: OFlags) -> io::Result<File> {
    let mut options = std::fs::OpenOptions::new();
    let writes = flags.contains(OFlags::WRONLY);
    options.read(!writes).write(writes).create_new(writes).mode(0o600);
    let custom = |flags: OFlags| i32::try_from(flags.bits()).unwrap_or(0);
    match options.custom_flags(custom(OFlags::DIRECT)).open(path) {
        // A file system that knows no O_DIRECT. Some make the file before they say so.
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            if writes {
                remove_if_there(path)?;
            }
            options.custom_flags(0).open(path)
        }
        opened => opened,
    }
}

fn remove_if_there(path: &FilePath) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes an object beside its name, syncs it, and gives it its name.
fn write(path: &FilePath, payload: &PutPayload, buffer: &mut Aligned) -> io::Result<()> {
    let folder = path.parent().ok_or(ErrorKind::InvalidInput)?;
    make_folder(folder)?;
    let mut staged = path.as_os_str().to_owned();
    staged.push(STAGED);
    let staged = PathBuf::from(staged);
    remove_if_there(&staged)?;
    let written = write_staged(&staged, payload, buffer).and_then(|()| {
        std::fs::rename(&staged, path)?;
        File::open(folder)?.sync_all()
    });
    if written.is_err()
        && let Err(error) = remove_if_there(&staged)
    {
        tracing::debug!(%error, "a half-written object stays until the next start");
    }
    written
}

fn write_staged(path: &FilePath, payload: &PutPayload, buffer: &mut Aligned) -> io::Result<()> {
    let file = open_direct(path, OFlags::WRONLY)?;
    let size = payload.content_length() as u64;
    // A full disk is met here rather than halfway; not every file system can.
    match fallocate(&file, FallocateFlags::KEEP_SIZE, 0, size.next_multiple_of(ALIGN as u64).max(ALIGN as u64)) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    let (mut filled, mut position) = (0_usize, 0_u64);
    for mut chunk in payload.iter().map(|chunk| &chunk[..]) {
        while !chunk.is_empty() {
            let memory = buffer.memory();
            let free = memory.get_mut(filled..).unwrap_or_default();
            let step = free.len().min(chunk.len());
            let (now, later) = chunk.split_at(step);
            free.get_mut(..step).unwrap_or_default().copy_from_slice(now);
            chunk = later;
            filled = filled.saturating_add(step);
            if filled == memory.len() {
                file.write_all_at(memory, position)?;
                position = position.saturating_add(filled as u64);
                filled = 0;
            }
        }
    }
    if filled > 0 {
        let padded = filled.next_multiple_of(ALIGN);
        let last = buffer.memory().get_mut(..padded).unwrap_or_default();
        last.get_mut(filled..).unwrap_or_default().fill(0);
        file.write_all_at(last, position)?;
    }
    file.set_len(size)?;
    file.sync_all()
}

/// Makes a folder and what is missing above it; each new name is synced.
fn make_folder(folder: &FilePath) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().ok_or(ErrorKind::InvalidInput)?;
    make_folder(above)?;
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => File::open(above)?.sync_all(),
    }
}

/// Reads exactly the range, by way of the aligned one around it.
fn read(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    // SECURITY: a range comes from the manifest, which may have been edited; memory is reserved for bytes that are there.
    if range.end > file.metadata()?.len() {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "the object ends before the range"));
    }
    let align = ALIGN as u64;
    let start = range.start / align * align;
    let whole = range.end.next_multiple_of(align).saturating_sub(start);
    let length = |bytes: u64| usize::try_from(bytes).map_err(io::Error::other);
    let (skip, wanted) = (length(range.start.saturating_sub(start))?, length(range.end.saturating_sub(start))?);
    let mut buffer = Aligned::new(length(whole)?);
    let mut filled = 0_usize;
    while filled < wanted {
        let free = buffer.memory().get_mut(filled..).unwrap_or_default();
        match file.read_at(free, start.saturating_add(filled as u64)) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the object ends before the range")),
            Ok(bytes) => filled = filled.saturating_add(bytes),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(buffer.into_bytes(skip..wanted))
}

fn remove_staged(folder: &FilePath) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_staged(&entry.path())?;
        } else if is_staged(&entry.file_name().to_string_lossy()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Ours, and those that `object_store` stages: a number behind `#`.
fn is_staged(name: &str) -> bool {
    name.split_once('#')
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;

    use super::*;

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect()
    }

    /// Sizes around the alignment and the write buffer.
    const SIZES: [usize; 9] =
        [0, 1, 4095, 4096, 4097, WRITE_BYTES - 1, WRITE_BYTES, WRITE_BYTES + 1, 3 * WRITE_BYTES + 77];

    #[tokio::test]
    async fn object_of_any_size_is_read_back_whole_and_in_any_range() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        for size in SIZES {
            let path = Path::from(format!("seg/1/{size}"));
            let bytes = content(size);
            // In pieces, as a segment may come.
            let pieces: Vec<Bytes> = bytes.chunks(100_000).map(Bytes::copy_from_slice).collect();
            store.put(&path, PutPayload::from_iter(pieces)).await.unwrap();
            assert_eq!(store.head(&path).await.unwrap().size, size as u64);
            assert_eq!(&store.get(&path).await.unwrap().bytes().await.unwrap()[..], &bytes[..]);
            for (from, until) in
                [(0, size), (size / 2, size), (size / 3, size / 3 + size / 7), (size.saturating_sub(1), size)]
            {
                let range = store.get_ranges(&path, std::slice::from_ref(&(from as u64..until as u64))).await.unwrap();
                assert_eq!(&range[0][..], &bytes[from..until], "{size}: {from}..{until}");
            }
        }
    }

    #[tokio::test]
    async fn range_beyond_the_end_and_absent_object_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        let path = Path::from("seg/one");
        store.put(&path, PutPayload::from(content(5000))).await.unwrap();
        assert!(matches!(
            store.get_ranges(&path, std::slice::from_ref(&(4990..5001))).await,
            Err(Error::Generic { .. })
        ));
        let huge = store.get_ranges(&path, std::slice::from_ref(&(0..1 << 60))).await;
        assert!(matches!(huge, Err(Error::Generic { .. })), "nothing was reserved for it");
        let absent = store.get_ranges(&Path::from("seg/two"), std::slice::from_ref(&(0..1))).await;
        assert!(matches!(absent, Err(Error::NotFound { .. })));
    }

    #[tokio::test]
    async fn half_written_object_is_in_no_listing_and_gone_after_the_next_opening() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        store.put(&Path::from("seg/one"), PutPayload::from(content(10))).await.unwrap();
        for left in ["seg/two#1", "seg/three#27"] {
            std::fs::write(folder.path().join(left), b"half").unwrap();
        }
        let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
        assert_eq!(listed.len(), 1);
        LocalStore::open(folder.path()).unwrap();
        let left: Vec<_> =
            std::fs::read_dir(folder.path().join("seg")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["one"]);
    }
}
