//! The local store: files of preallocated space, appended to and recycled.
//!
//! `<folder>/<epoch>-<first sequence number>.wal`, both in 16 hexadecimal digits. Entries stand one after the other; what
//! follows the last one is zeros or the remains of a recycled file, whose entries have lower names and so are never
//! mistaken. A file is written through before it is used (preallocated with zeros), so that a sync moves data only.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::entry::{BODY_BYTES_MAX, Entry, HEADER_BYTES, Header, MAGIC, MAGIC_UNPROVED};
use super::{Replay, ReplayEnd, WalError, WalReader, WalStore};

/// Size of a file; a larger entry gets a larger file.
pub const FILE_BYTES: u64 = 32 * 1024 * 1024;
/// Files kept for recycling.
const SPARE_MAX: usize = 3;

struct Open {
    file: File,
    position: u64,
    size: u64,
}

/// A shard's log in a folder.
pub struct FileWal {
    folder: PathBuf,
    shard: u32,
    open: Option<(u64, Open)>,
    file_bytes: u64,
}

/// A shard's log as it is read.
struct FileLog {
    folder: PathBuf,
    shard: u32,
}

/// A file by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    epoch: u64,
    first: u64,
    path: PathBuf,
}

impl FileWal {
    /// Opens a folder, making it when it is not there.
    ///
    /// # Errors
    /// I/O.
    pub fn new(folder: &Path, shard: u32, file_bytes: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        sync_folder(folder)?;
        Ok(Self { folder: folder.to_owned(), shard, open: None, file_bytes })
    }

    fn log(&self) -> FileLog {
        FileLog { folder: self.folder.clone(), shard: self.shard }
    }

    fn files(&self) -> io::Result<Vec<Named>> {
        self.log().files()
    }

    fn spares(&self) -> io::Result<Vec<PathBuf>> {
        let mut spares = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "spare") {
                spares.push(path);
            }
        }
        Ok(spares)
    }

    /// A file with room for an entry of `length`, named and durable before it is used.
    fn start_file(&self, epoch: u64, seq: u64, length: u64) -> io::Result<Open> {
        let path = self.folder.join(format!("{epoch:016x}-{seq:016x}.wal"));
        let size = self.file_bytes.max(length);
        if size == self.file_bytes
            && let Some(spare) = self.spares()?.into_iter().next()
        {
            std::fs::rename(&spare, &path)?;
            sync_folder(&self.folder)?;
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            return Ok(Open { file, position: 0, size });
        }
        match self.preallocate(&path, size) {
            Ok(file) => Ok(Open { file, position: 0, size }),
            Err(error) => {
                // Half a file helps nobody and holds space that is missing already.
                drop(std::fs::remove_file(&path));
                Err(error)
            }
        }
    }

    fn preallocate(&self, path: &Path, size: u64) -> io::Result<File> {
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let zeros = vec![0; 1024 * 1024];
        let mut left = size;
        while left > 0 {
            let step = usize::try_from(left).unwrap_or(zeros.len()).min(zeros.len());
            file.write_all(zeros.get(..step).unwrap_or_default())?;
            left = left.saturating_sub(step as u64);
        }
        file.sync_all()?;
        sync_folder(&self.folder)?;
        Ok(file)
    }
}

/// Whether a log below `folder` (one folder per shard) was written before entries had proofs. A folder that is not there holds none.
///
/// # Errors
/// I/O.
pub fn holds_unproved_entries(folder: &Path) -> io::Result<bool> {
    let shards = match std::fs::read_dir(folder) {
        Ok(shards) => shards,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    for shard in shards {
        let path = shard?.path();
        if !path.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(path)? {
            let path = file?.path();
            if path.extension().is_none_or(|extension| extension != "wal") {
                continue;
            }
            let mut start = Vec::new();
            File::open(&path)?.take(MAGIC_UNPROVED.len() as u64).read_to_end(&mut start)?;
            if start == MAGIC_UNPROVED {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl FileLog {
    fn files(&self) -> io::Result<Vec<Named>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let Some((epoch, first)) = name.strip_suffix(".wal").and_then(|stem| stem.split_once('-')) else {
                continue;
            };
            if let (Ok(epoch), Ok(first)) = (u64::from_str_radix(epoch, 16), u64::from_str_radix(first, 16)) {
                files.push(Named { epoch, first, path });
            }
        }
        files.sort();
        Ok(files)
    }
}

impl WalReader for FileLog {
    fn epochs(&self) -> io::Result<Vec<u64>> {
        let mut epochs: Vec<u64> = self.files()?.into_iter().map(|file| file.epoch).collect();
        epochs.dedup();
        Ok(epochs)
    }

    fn replay(&self, epoch: u64, after: u64) -> io::Result<Replay> {
        let files: Vec<_> = self.files()?.into_iter().filter(|file| file.epoch == epoch).collect();
        let mut entries = Vec::new();
        let mut next = None;
        let last = |next: Option<u64>| next.unwrap_or_default().saturating_sub(1);
        for (n, named) in files.iter().enumerate() {
            let expected = *next.get_or_insert(named.first);
            if named.first != expected {
                return Ok(Replay { entries, last: last(next), end: ReplayEnd::Damaged { seq: expected } });
            }
            // The file behind begins above the checkpoint: nothing in this one is wanted.
            if files.get(n.saturating_add(1)).is_some_and(|later| later.first <= after.saturating_add(1)) {
                next = files.get(n.saturating_add(1)).map(|later| later.first);
                continue;
            }
            let mut content = Vec::new();
            File::open(&named.path)?.read_to_end(&mut content)?;
            let content = Bytes::from(content);
            let (end, seq) = read_entries(&content, self.shard, epoch, expected, after, &mut entries);
            next = Some(seq);
            if later_entry_behind(&content, end, self.shard, epoch, seq) {
                return Ok(Replay { entries, last: last(next), end: ReplayEnd::Damaged { seq } });
            }
        }
        Ok(Replay { entries, last: last(next), end: ReplayEnd::Open })
    }
}

impl WalReader for FileWal {
    fn epochs(&self) -> io::Result<Vec<u64>> {
        self.log().epochs()
    }

    fn replay(&self, epoch: u64, after: u64) -> io::Result<Replay> {
        self.log().replay(epoch, after)
    }
}

impl WalStore for FileWal {
    fn reader(&self) -> Arc<dyn WalReader> {
        Arc::new(self.log())
    }

    fn create(&mut self, epoch: u64, seq: u64, bytes: &[u8]) -> Result<(), WalError> {
        let length = bytes.len() as u64;
        let fits = self.open.as_ref().is_some_and(|(open_epoch, open)| {
            *open_epoch == epoch && open.position.saturating_add(length) <= open.size
        });
        if !fits {
            let started = self
                .start_file(epoch, seq, length)
                .map_err(|error| if is_full(&error) { WalError::Full } else { WalError::Failed(error) })?;
            self.open = Some((epoch, started));
        }
        let Some((_, open)) = self.open.as_mut() else {
            return Err(WalError::Failed(io::Error::other("no file is open")));
        };
        open.file.write_all_at(bytes, open.position).map_err(WalError::Failed)?;
        open.file.sync_data().map_err(WalError::Failed)?;
        open.position = open.position.saturating_add(length);
        Ok(())
    }

    fn begin_file(&mut self) {
        self.open = None;
    }

    fn wipe_spares(&mut self) -> io::Result<()> {
        let zeros = vec![0; 1024 * 1024];
        for spare in self.spares()? {
            let mut file = OpenOptions::new().write(true).open(&spare)?;
            let mut left = file.metadata()?.len();
            while left > 0 {
                let step = usize::try_from(left).unwrap_or(zeros.len()).min(zeros.len());
                file.write_all(zeros.get(..step).unwrap_or_default())?;
                left = left.saturating_sub(step as u64);
            }
            file.sync_all()?;
            std::fs::remove_file(&spare)?;
        }
        sync_folder(&self.folder)
    }

    fn collect(&mut self, (epoch, seq): (u64, u64)) -> io::Result<()> {
        let files = self.files()?;
        let mut spares = self.spares()?.len();
        for (n, named) in files.iter().enumerate() {
            let later = files.get(n.saturating_add(1)).filter(|later| later.epoch == named.epoch);
            let being_written =
                later.is_none() && self.open.as_ref().is_some_and(|(open_epoch, _)| *open_epoch == named.epoch);
            // Of an older epoch everything is behind; of the checkpoint's own, a file whose last entry is.
            let behind = named.epoch < epoch
                || (named.epoch == epoch && later.is_some_and(|later| later.first.saturating_sub(1) <= seq));
            if being_written || !behind {
                continue;
            }
            let recyclable = std::fs::metadata(&named.path)?.len() == self.file_bytes && spares < SPARE_MAX;
            if recyclable {
                let spare = self.folder.join(format!("{:016x}-{:016x}.spare", named.epoch, named.first));
                std::fs::rename(&named.path, spare)?;
                spares = spares.saturating_add(1);
            } else {
                std::fs::remove_file(&named.path)?;
            }
        }
        sync_folder(&self.folder)
    }
}

/// Reads whole entries from the start of a file; returns where they end and the sequence number expected next.
fn read_entries(
    content: &Bytes,
    shard: u32,
    epoch: u64,
    first: u64,
    after: u64,
    entries: &mut Vec<Entry<Bytes>>,
) -> (usize, u64) {
    let (mut at, mut seq) = (0_usize, first);
    while let Some((header, body)) = whole_entry(content, at) {
        if header.shard != shard || header.epoch != epoch || header.seq != seq {
            break;
        }
        at = body.end;
        if seq > after {
            entries.push(Entry { header, body: content.slice(body) });
        }
        seq = seq.saturating_add(1);
    }
    (at, seq)
}

fn whole_entry(content: &Bytes, at: usize) -> Option<(Header, std::ops::Range<usize>)> {
    let header = Header::read(content.get(at..)?)?;
    let start = at.checked_add(HEADER_BYTES)?;
    let length = usize::try_from(header.body_bytes).ok().filter(|length| *length <= BODY_BYTES_MAX)?;
    let end = start.checked_add(length)?;
    (super::crc32c(content.get(start..end)?) == header.body_crc).then_some((header, start..end))
}

/// Whether an entry with a higher name stands behind the place where one is missing. Entries go out one at a time, so
/// only the very last can be torn; anything behind it means that bytes were changed.
fn later_entry_behind(content: &Bytes, from: usize, shard: u32, epoch: u64, seq: u64) -> bool {
    let mut at = from;
    while let Some(found) = content.get(at..).and_then(|rest| memchr::memmem::find(rest, &MAGIC)) {
        at = at.saturating_add(found);
        let later = content
            .get(at..)
            .and_then(Header::read)
            .is_some_and(|header| header.shard == shard && header.epoch == epoch && header.seq > seq);
        if later {
            return true;
        }
        at = at.saturating_add(1);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::entry::Kind;
    use super::*;

    fn entry(epoch: u64, seq: u64, body: &[u8]) -> Vec<u8> {
        let header = Header {
            kind: Kind::Data,
            shard: 7,
            epoch,
            seq,
            writer: [1; 16],
            previous: [0; 32],
            body_bytes: body.len() as u32,
            body_crc: super::super::crc32c(body),
            proof: [0; 32],
        };
        [&header.to_bytes()[..], body].concat()
    }

    fn write(wal: &mut FileWal, epoch: u64, range: std::ops::RangeInclusive<u64>) {
        for seq in range {
            wal.create(epoch, seq, &entry(epoch, seq, &[seq as u8; 100])).unwrap();
        }
    }

    fn seqs(replay: &Replay) -> Vec<u64> {
        replay.entries.iter().map(|entry| entry.header.seq).collect()
    }

    #[test]
    fn entries_are_replayed_in_order_behind_the_checkpoint_over_several_files() {
        let folder = tempfile::tempdir().unwrap();
        let mut wal = FileWal::new(folder.path(), 7, 450).unwrap();
        write(&mut wal, 3, 1..=9);
        let replay = wal.replay(3, 4).unwrap();
        assert_eq!(seqs(&replay), [5, 6, 7, 8, 9]);
        assert_eq!(replay.end, ReplayEnd::Open);
        assert_eq!(wal.epochs().unwrap(), [3]);
    }

    #[test]
    fn torn_last_entry_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let mut wal = FileWal::new(folder.path(), 7, 4096).unwrap();
        write(&mut wal, 1, 1..=3);
        let path = wal.files().unwrap()[0].path.clone();
        let mut torn = std::fs::read(&path).unwrap();
        torn[224 * 2 + 150..].fill(0);
        std::fs::write(&path, torn).unwrap();
        let replay = wal.replay(1, 0).unwrap();
        assert_eq!(seqs(&replay), [1, 2]);
        assert_eq!(replay.end, ReplayEnd::Open);
    }

    #[test]
    fn flipped_byte_before_the_last_entry_is_damage_and_not_a_torn_write() {
        let folder = tempfile::tempdir().unwrap();
        let mut wal = FileWal::new(folder.path(), 7, 4096).unwrap();
        write(&mut wal, 1, 1..=3);
        let path = wal.files().unwrap()[0].path.clone();
        let whole = std::fs::read(&path).unwrap();
        for at in 0..224 * 2 {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x40;
            std::fs::write(&path, flipped).unwrap();
            assert!(matches!(wal.replay(1, 0).unwrap().end, ReplayEnd::Damaged { .. }), "byte {at}");
        }
    }

    #[test]
    fn log_of_before_proofs_is_told_by_its_files_and_one_of_now_is_not() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!holds_unproved_entries(&folder.path().join("absent")).unwrap());
        let shard = folder.path().join("0000");
        let mut wal = FileWal::new(&shard, 7, 4096).unwrap();
        write(&mut wal, 1, 1..=3);
        assert!(!holds_unproved_entries(folder.path()).unwrap());
        let mut old = vec![0; 4096];
        old[..8].copy_from_slice(&MAGIC_UNPROVED);
        std::fs::write(shard.join("0000000000000002-0000000000000001.wal"), old).unwrap();
        assert!(holds_unproved_entries(folder.path()).unwrap());
    }

    #[test]
    fn replay_says_how_far_the_log_goes_although_nothing_of_it_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let mut wal = FileWal::new(folder.path(), 7, 450).unwrap();
        write(&mut wal, 3, 1..=9);
        for (after, wanted) in [(0, 9), (8, 1), (20, 0)] {
            let replay = wal.replay(3, after).unwrap();
            assert_eq!((replay.entries.len(), replay.last), (wanted, 9));
        }
        assert_eq!(wal.replay(4, 0).unwrap().last, 0);
    }

    #[test]
    fn missing_file_in_the_middle_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let mut wal = FileWal::new(folder.path(), 7, 450).unwrap();
        write(&mut wal, 1, 1..=6);
        let middle = wal.files().unwrap()[1].path.clone();
        std::fs::remove_file(middle).unwrap();
        assert!(matches!(wal.replay(1, 0).unwrap().end, ReplayEnd::Damaged { seq: 3 }));
    }

    #[test]
    fn recycled_file_shows_none_of_its_old_entries() {
        let folder = tempfile::tempdir().unwrap();
        let mut wal = FileWal::new(folder.path(), 7, 450).unwrap();
        write(&mut wal, 1, 1..=6);
        wal.collect((1, 4)).unwrap();
        assert_eq!(wal.spares().unwrap().len(), 2);
        write(&mut wal, 1, 7..=7);
        let replay = wal.replay(1, 4).unwrap();
        assert_eq!(seqs(&replay), [5, 6, 7]);
        assert_eq!(replay.end, ReplayEnd::Open);
    }

    #[test]
    fn older_epochs_are_collected_whole_and_the_written_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut wal = FileWal::new(folder.path(), 7, 450).unwrap();
        write(&mut wal, 1, 1..=3);
        write(&mut wal, 2, 1..=1);
        wal.collect((2, 1)).unwrap();
        assert_eq!(wal.epochs().unwrap(), [2]);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 64, ..Default::default() })]
        #[test]
        fn torn_write_over_an_old_file_loses_no_synced_entry(
            sizes in proptest::collection::vec(1_usize..3000, 1..12),
            torn in 1_usize..9000,
            seed in proptest::prelude::any::<u64>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut wal = FileWal::new(folder.path(), 7, 64 * 1024).unwrap();
            // A former life of the file, so that what follows the end is not zeros.
            for seq in 1..=20 {
                wal.create(1, seq, &entry(1, seq, &[seq as u8; 3000])).unwrap();
            }
            wal.create(2, 1, &entry(2, 1, &[])).unwrap();
            wal.collect((2, 0)).unwrap();
            let mut wal = FileWal::new(folder.path(), 7, 64 * 1024).unwrap();
            for (seq, size) in (1..).zip(&sizes) {
                wal.create(3, seq, &entry(3, seq, &vec![seq as u8; *size])).unwrap();
            }
            // The power goes during the next write: of its sectors some are there, by seed.
            let path = wal.files().unwrap().pop().unwrap().path;
            let mut content = std::fs::read(&path).unwrap();
            let end: usize = sizes.iter().map(|size| size + HEADER_BYTES).sum();
            let next = entry(3, sizes.len() as u64 + 1, &vec![0xee; torn]);
            let mut dice = seed;
            for (at, byte) in next.iter().enumerate() {
                let place = end + at;
                if place.is_multiple_of(512) || at == 0 {
                    dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                }
                if dice >> 63 == 1 {
                    content[place] = *byte;
                }
            }
            std::fs::write(&path, &content).unwrap();
            let replay = wal.replay(3, 0).unwrap();
            proptest::prop_assert_eq!(replay.end, ReplayEnd::Open);
            let found = seqs(&replay);
            let synced: Vec<u64> = (1..=sizes.len() as u64).collect();
            proptest::prop_assert!(found == synced || (found.len() == synced.len() + 1 && content[end..end + next.len()] == next[..]), "{:?}", found);
        }
    }
}
