//! A write-ahead log in a folder of preallocated, recycled files; one thread does all of its blocking work.
//!
//! File `<number>.wal`: a header block, then entries, each on a block boundary so that a torn write never touches an
//! acknowledged one. Header: `SLWF`, format u16, zero u16, shard u32, number u64, first epoch u64, first sequence u64,
//! cluster \[16\], CRC-32C of the bytes before.
//!
//! Reading stops at the first position that holds no entry newer than the last: in a recycled file older ones follow.
//! Only the last entry of the log can be torn, because each is synced before the next is written; an unreadable one
//! with newer ones behind it is damage, and refused.
//!
//! Invariants
//! - Names only grow, so what is older than the last read entry is left over from a file's former life.
//! - After a failed write or sync nothing more is written: a second sync could claim what the first lost.
//!
//! Must not: run on an executor's thread.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use schloss_crypto::EntryId;
use tokio::sync::oneshot;

use super::disk::{Disk, DiskFile};
use super::entry::{Entry, HEADER_BYTES, read_head};
use super::{Created, SealJob, WalStore};
use crate::error::WalError;
use crate::producers::take;

const BLOCK: usize = 4096;
const FILE_MAGIC: [u8; 4] = *b"SLWF";
const FILE_FORMAT: u16 = 1;
const FILE_HEADER_BYTES: usize = 56;
/// Files kept ready; more are removed.
const SPARES_MAX: usize = 2;

/// Whose log, and how long its files are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalWalConfig {
    pub shard: u32,
    pub cluster: [u8; 16],
    pub file_bytes: u64,
}

type Job = Box<dyn FnOnce(&mut Files) + Send>;

/// The log of one shard in one folder.
pub(crate) struct LocalWal {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    room: Arc<AtomicUsize>,
}

impl LocalWal {
    /// Reads what the folder holds. Blocks.
    pub(crate) fn open(disk: Arc<dyn Disk>, config: LocalWalConfig) -> Result<Self, WalError> {
        let room = Arc::new(AtomicUsize::new(0));
        let mut files = Files::scan(disk, config, Arc::clone(&room))?;
        let (jobs, inbox): (Sender<Job>, Receiver<Job>) = channel();
        let thread = thread::Builder::new()
            .name(format!("wal-{}", config.shard))
            .spawn(move || {
                while let Ok(job) = inbox.recv() {
                    job(&mut files);
                }
            })
            .map_err(|_| WalError::Closed)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), room })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Files) -> Result<T, WalError> + Send + 'static,
    ) -> Result<T, WalError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |files| {
            let _ = answer.send(work(files));
        });
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or(WalError::Closed)?;
        answered.await.map_err(|_| WalError::Closed)?
    }
}

impl Drop for LocalWal {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl WalStore for LocalWal {
    async fn highest_epoch(&self) -> Result<u64, WalError> {
        self.run(|files| Ok(files.last.map_or(0, |name| name.epoch))).await
    }

    async fn continues_behind(&self, name: EntryId) -> Result<bool, WalError> {
        self.run(move |files| Ok(files.last.is_some_and(|last| last > name))).await
    }

    async fn read(&self, name: EntryId) -> Result<Option<Bytes>, WalError> {
        self.run(move |files| files.read(name)).await
    }

    async fn reserve(&self, bytes: usize) -> Result<(), WalError> {
        self.run(move |files| files.reserve(bytes)).await
    }

    fn room(&self) -> usize {
        self.room.load(Ordering::Acquire)
    }

    async fn create(&self, name: EntryId, seal: SealJob) -> Result<Created, WalError> {
        self.run(move |files| files.create(name, seal)).await
    }

    fn collect(&self, name: EntryId) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(Box::new(move |files| files.collect(name)));
        }
    }
}

/// A file with live entries.
struct LiveFile {
    handle: Box<dyn DiskFile>,
    /// The first entry's name, as its header says.
    first: EntryId,
    len: u64,
}

/// Where a scanned entry stands.
#[derive(Clone, Copy)]
struct Place {
    file: u64,
    position: u64,
    length: usize,
}

struct Files {
    disk: Arc<dyn Disk>,
    config: LocalWalConfig,
    live: BTreeMap<u64, LiveFile>,
    /// Entries found at start; those written since are never read back.
    places: BTreeMap<EntryId, Place>,
    last: Option<EntryId>,
    /// Where the next entry goes in the newest file.
    position: u64,
    spares: Arc<Mutex<Vec<String>>>,
    spare_maker: Option<JoinHandle<()>>,
    next_number: u64,
    buffer: Vec<u8>,
    room: Arc<AtomicUsize>,
    /// Set by a failed write or sync.
    dead: Option<io::ErrorKind>,
}

fn file_name(number: u64) -> String {
    format!("{number:020}.wal")
}

fn io_error(file: &str) -> impl FnOnce(io::Error) -> WalError {
    let file = file.to_owned();
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => WalError::NoSpace,
        kind => WalError::Io { file, kind },
    }
}

fn padded(length: usize) -> u64 {
    length.next_multiple_of(BLOCK) as u64
}

fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or(0)
}

impl Drop for Files {
    /// The folder's lock is given back when nobody works in it any more.
    fn drop(&mut self) {
        self.join_spare_maker();
    }
}

impl Files {
    fn scan(disk: Arc<dyn Disk>, config: LocalWalConfig, room: Arc<AtomicUsize>) -> Result<Self, WalError> {
        let mut files = Self {
            disk,
            config,
            live: BTreeMap::new(),
            places: BTreeMap::new(),
            last: None,
            position: 0,
            spares: Arc::default(),
            spare_maker: None,
            next_number: 1,
            buffer: Vec::new(),
            room,
            dead: None,
        };
        let (numbers, spares) = files.listed()?;
        files.next_number = numbers.last().map_or(1, |number| number + 1);
        for number in numbers {
            files.scan_file(number)?;
        }
        files.drop_torn_end()?;
        files.tidy(spares);
        files.publish_room();
        Ok(files)
    }

    fn listed(&self) -> Result<(Vec<u64>, Vec<String>), WalError> {
        let (mut numbers, mut spares) = (Vec::new(), Vec::new());
        for name in self.disk.list().map_err(io_error("."))? {
            match name.strip_suffix(".wal").map(str::parse) {
                Some(Ok(number)) => numbers.push(number),
                _ if name.starts_with("spare-") => spares.push(name),
                // The lock, and what a person put there.
                _ => {}
            }
        }
        numbers.sort_unstable();
        Ok((numbers, spares))
    }

    fn scan_file(&mut self, number: u64) -> Result<(), WalError> {
        let name = file_name(number);
        let handle = self.disk.open(&name).map_err(io_error(&name))?;
        let len = handle.len().map_err(io_error(&name))?;
        let Some(first) = self.file_header(&*handle, len, number)? else {
            // Renamed but not yet begun when the power went.
            return Ok(());
        };
        // A file begins where the one before it ended.
        if let Some(last) = self.last
            && !(follows(last, first))
        {
            return Err(WalError::Damaged { epoch: last.epoch, seq: last.seq + 1 });
        }
        let mut position = BLOCK as u64;
        let mut found = false;
        while let Some(head) = self.head_at(&*handle, position, len)? {
            if head.head.name.shard != self.config.shard || self.last.is_some_and(|last| head.head.name <= last) {
                break;
            }
            if !found && head.head.name != first {
                break;
            }
            found = true;
            self.last = Some(head.head.name);
            self.places.insert(head.head.name, Place { file: number, position, length: head.length });
            position += padded(head.length);
        }
        self.refuse_newer_behind(&*handle, position, len, first)?;
        self.position = position;
        self.live.insert(number, LiveFile { handle, first, len });
        Ok(())
    }

    /// `None` when the file was never begun under this number.
    fn file_header(&self, handle: &dyn DiskFile, len: u64, number: u64) -> Result<Option<EntryId>, WalError> {
        let name = file_name(number);
        if len < 2 * BLOCK as u64 {
            return Ok(None);
        }
        let mut header = [0; FILE_HEADER_BYTES];
        handle.read_at(&mut header, 0).map_err(io_error(&name))?;
        self.read_file_header(&header, &name, number)
    }

    fn read_file_header(&self, header: &[u8], name: &str, number: u64) -> Result<Option<EntryId>, WalError> {
        let not_ours = || WalError::NotOurs { file: name.to_owned() };
        let mut fields = header;
        let mut parse = || {
            let magic: [u8; 4] = take(&mut fields)?;
            let format = u16::from_be_bytes(take(&mut fields)?);
            let _: [u8; 2] = take(&mut fields)?;
            let shard = u32::from_be_bytes(take(&mut fields)?);
            let stated = u64::from_be_bytes(take(&mut fields)?);
            let first = EntryId {
                shard,
                epoch: u64::from_be_bytes(take(&mut fields)?),
                seq: u64::from_be_bytes(take(&mut fields)?),
            };
            let cluster: [u8; 16] = take(&mut fields)?;
            Some((magic, format, stated, first, cluster))
        };
        let (magic, format, stated, first, cluster) = parse().ok_or_else(not_ours)?;
        let (body, crc) = header.split_at(FILE_HEADER_BYTES - 4);
        let intact = magic == FILE_MAGIC && crc == crc32c(body).to_be_bytes();
        if !intact || stated != number {
            return Ok(None);
        }
        if format > FILE_FORMAT {
            return Err(WalError::NewerFormat { file: name.to_owned(), found: format });
        }
        if first.shard != self.config.shard || cluster != self.config.cluster {
            return Err(not_ours());
        }
        Ok(Some(first))
    }

    fn head_at(
        &self,
        handle: &dyn DiskFile,
        position: u64,
        len: u64,
    ) -> Result<Option<super::entry::ReadHead>, WalError> {
        if position + HEADER_BYTES as u64 > len {
            return Ok(None);
        }
        let mut header = [0; HEADER_BYTES];
        handle.read_at(&mut header, position).map_err(io_error("entry"))?;
        Ok(read_head(&header).filter(|head| position + head.length as u64 <= len))
    }

    /// SECURITY: a damaged entry with newer ones behind it must not pass for the torn end of the log.
    fn refuse_newer_behind(
        &self,
        handle: &dyn DiskFile,
        position: u64,
        len: u64,
        first: EntryId,
    ) -> Result<(), WalError> {
        let mut at = position;
        while at + (HEADER_BYTES as u64) <= len {
            if let Some(head) = self.head_at(handle, at, len)? {
                let name = head.head.name;
                let newer = self.last.map_or(name >= first, |last| name > last);
                if name.shard == self.config.shard && newer {
                    let missing = self.last.map_or(first, |last| EntryId { seq: last.seq + 1, ..last });
                    return Err(WalError::Damaged { epoch: missing.epoch, seq: missing.seq });
                }
            }
            at += BLOCK as u64;
        }
        Ok(())
    }

    /// The last entry may be torn: nobody was told of it. It is forgotten, and its place written again.
    fn drop_torn_end(&mut self) -> Result<(), WalError> {
        let Some((&name, &place)) = self.places.last_key_value() else { return Ok(()) };
        if self.read_place(place)?.is_some_and(|bytes| Entry::read(&bytes).is_some()) {
            return Ok(());
        }
        if self.live.last_key_value().is_some_and(|(&newest, _)| newest != place.file) {
            // The next file was begun, so this entry had been synced.
            return Err(WalError::Damaged { epoch: name.epoch, seq: name.seq });
        }
        self.places.pop_last();
        self.last = self.places.last_key_value().map(|(&last, _)| last);
        self.position = place.position;
        tracing::info!(shard = name.shard, epoch = name.epoch, seq = name.seq, "torn unacknowledged entry dropped");
        Ok(())
    }

    /// Files without entries become spares; too many spares go.
    fn tidy(&mut self, mut spares: Vec<String>) {
        let newest = self.live.last_key_value().map(|(&number, _)| number);
        if let Ok((numbers, _)) = self.listed() {
            for number in numbers.into_iter().filter(|number| !self.live.contains_key(number)) {
                let spare = format!("spare-{number:020}");
                if newest.is_none_or(|newest| number > newest) && self.disk.rename(&file_name(number), &spare).is_ok() {
                    spares.push(spare);
                }
            }
        }
        for spare in spares.drain(SPARES_MAX.min(spares.len())..) {
            let _ = self.disk.remove(&spare);
        }
        *self.spares.lock().unwrap_or_else(PoisonError::into_inner) = spares;
    }

    fn read_place(&self, place: Place) -> Result<Option<Bytes>, WalError> {
        let Some(file) = self.live.get(&place.file) else { return Ok(None) };
        let mut bytes = vec![0; place.length];
        file.handle.read_at(&mut bytes, place.position).map_err(io_error(&file_name(place.file)))?;
        Ok(Some(bytes.into()))
    }

    fn read(&self, name: EntryId) -> Result<Option<Bytes>, WalError> {
        self.places.get(&name).map_or(Ok(None), |&place| self.read_place(place))
    }

    fn publish_room(&self) {
        let len = self.live.last_key_value().map_or(0, |(_, file)| file.len);
        let left = len.saturating_sub(self.position);
        self.room.store(usize::try_from(left).unwrap_or(0), Ordering::Release);
    }

    fn reserve(&mut self, bytes: usize) -> Result<(), WalError> {
        if padded(bytes) + BLOCK as u64 > self.config.file_bytes {
            return Err(WalError::TooLarge { bytes });
        }
        let len = self.live.last_key_value().map_or(0, |(_, file)| file.len);
        if self.position + padded(bytes) > len {
            self.rotate()?;
        }
        Ok(())
    }

    /// Puts a spare, or a new file, behind the newest one. Its header is written with its first entry.
    fn rotate(&mut self) -> Result<(), WalError> {
        let spare = self.spares.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let number = self.next_number;
        let name = file_name(number);
        let handle = match spare {
            Some(spare) => {
                self.disk.rename(&spare, &name).map_err(io_error(&spare))?;
                self.disk.open(&name).map_err(io_error(&name))?
            }
            None => self.disk.create(&name, self.config.file_bytes).map_err(io_error(&name))?,
        };
        let len = handle.len().map_err(io_error(&name))?;
        self.next_number += 1;
        let first = EntryId { shard: self.config.shard, epoch: u64::MAX, seq: u64::MAX };
        self.live.insert(number, LiveFile { handle, first, len });
        self.position = BLOCK as u64;
        self.publish_room();
        self.prepare_spare();
        Ok(())
    }

    /// Makes the next file ahead of need, so that no produce waits for it. Failing is no harm: rotation tries again.
    fn prepare_spare(&mut self) {
        self.join_spare_maker();
        let spares = Arc::clone(&self.spares);
        if !spares.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return;
        }
        let (disk, len) = (Arc::clone(&self.disk), self.config.file_bytes);
        let name = format!("spare-{:020}", self.next_number);
        let make = move || {
            if disk.create(&name, len).is_ok() {
                spares.lock().unwrap_or_else(PoisonError::into_inner).push(name);
            }
        };
        self.spare_maker = thread::Builder::new().name("wal-spare".into()).spawn(make).ok();
    }

    fn join_spare_maker(&mut self) {
        if let Some(maker) = self.spare_maker.take() {
            let _ = maker.join();
        }
    }

    fn create(&mut self, name: EntryId, seal: SealJob) -> Result<Created, WalError> {
        if let Some(kind) = self.dead {
            return Err(WalError::Unsynced { kind });
        }
        let sealed = seal(std::mem::take(&mut self.buffer))?;
        let mut bytes = sealed.bytes;
        let written = bytes.len();
        self.reserve(written)?;
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        let synced = self.write(name, &bytes);
        self.buffer = bytes;
        match synced {
            Ok(sync_us) => {
                self.position += self.buffer.len() as u64;
                self.last = Some(name);
                self.publish_room();
                Ok(Created { digest: sealed.digest, bytes: written, sync_us })
            }
            Err(error) => {
                self.dead = Some(error.kind());
                Err(WalError::Unsynced { kind: error.kind() })
            }
        }
    }

    fn write(&mut self, name: EntryId, bytes: &[u8]) -> io::Result<u64> {
        let config = self.config;
        let position = self.position;
        let Some((&number, file)) = self.live.iter_mut().next_back() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if position == BLOCK as u64 {
            file.first = name;
            file.handle.write_at(&file_header(config, number, name), 0)?;
        }
        file.handle.write_at(bytes, position)?;
        let before = Instant::now();
        file.handle.sync()?;
        Ok(u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn collect(&mut self, behind: EntryId) {
        self.places = self.places.split_off(&behind);
        while let Some((&number, _)) = self.live.first_key_value() {
            // A file is done when the next one begins no later than right behind the checkpoint.
            let next_first = self.live.values().nth(1).map(|file| file.first);
            let next_name = EntryId { seq: behind.seq.saturating_add(1), ..behind };
            if next_first.is_none_or(|first| first > next_name) {
                break;
            }
            let spare = format!("spare-{number:020}");
            let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
            let recycled = if spares.len() < SPARES_MAX {
                self.disk.rename(&file_name(number), &spare).map(|()| spares.push(spare))
            } else {
                self.disk.remove(&file_name(number))
            };
            drop(spares);
            if recycled.is_err() {
                break;
            }
            self.live.pop_first();
        }
    }
}

/// True when `next` may stand right behind `name`.
fn follows(name: EntryId, next: EntryId) -> bool {
    (next.epoch == name.epoch && next.seq == name.seq + 1) || (next.epoch > name.epoch && next.seq == 1)
}

fn file_header(config: LocalWalConfig, number: u64, first: EntryId) -> Vec<u8> {
    let mut header = Vec::with_capacity(BLOCK);
    header.extend_from_slice(&FILE_MAGIC);
    header.extend_from_slice(&FILE_FORMAT.to_be_bytes());
    header.extend_from_slice(&[0; 2]);
    header.extend_from_slice(&config.shard.to_be_bytes());
    header.extend_from_slice(&number.to_be_bytes());
    header.extend_from_slice(&first.epoch.to_be_bytes());
    header.extend_from_slice(&first.seq.to_be_bytes());
    header.extend_from_slice(&config.cluster);
    let crc = crc32c(&header);
    header.extend_from_slice(&crc.to_be_bytes());
    header
}
