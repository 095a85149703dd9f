//! A disk in memory that can lose power: unsynced writes survive whole, in part, or not at all, by seed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use super::disk::{Disk, DiskFile};

/// Blocks reach the disk one by one, in any order.
const SECTOR: usize = 4096;

#[derive(Default)]
struct State {
    files: BTreeMap<String, Arc<Mutex<Content>>>,
    /// Operations left before the power goes.
    steps_left: Option<u64>,
    space_left: u64,
    fail_sync: bool,
}

#[derive(Default, Clone)]
struct Content {
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl Content {
    fn now(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        self.unsynced.iter().for_each(|(at, written)| bytes[*at..at + written.len()].copy_from_slice(written));
        bytes
    }
}

/// The disk. Clones are handles of the same one.
#[derive(Clone)]
pub(crate) struct MemDisk(Arc<Mutex<State>>);

impl MemDisk {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { space_left: u64::MAX, ..State::default() })))
    }

    /// The power goes after `steps` more operations: every later one fails.
    pub(crate) fn cut_after(&self, steps: u64) {
        self.0.lock().unwrap().steps_left = Some(steps);
    }

    pub(crate) fn set_space(&self, bytes: u64) {
        self.0.lock().unwrap().space_left = bytes;
    }

    pub(crate) fn fail_sync(&self, fail: bool) {
        self.0.lock().unwrap().fail_sync = fail;
    }

    /// The disk as it is found after the power is back: of each unsynced write some blocks are there, by `seed`.
    pub(crate) fn after_power_cut(&self, mut seed: u64) -> Self {
        let state = self.0.lock().unwrap();
        let mut files = BTreeMap::new();
        for (name, content) in &state.files {
            let content = content.lock().unwrap();
            let mut durable = content.durable.clone();
            for (at, written) in &content.unsynced {
                for (number, sector) in written.chunks(SECTOR).enumerate() {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    if seed >> 63 == 1 {
                        let from = at + number * SECTOR;
                        durable[from..from + sector.len()].copy_from_slice(sector);
                    }
                }
            }
            files.insert(name.clone(), Arc::new(Mutex::new(Content { durable, unsynced: Vec::new() })));
        }
        Self(Arc::new(Mutex::new(State { files, space_left: u64::MAX, ..State::default() })))
    }

    /// Flips a bit of every byte in `range` of a file, as a bad disk would.
    pub(crate) fn damage(&self, name: &str, range: std::ops::Range<usize>) {
        let file = Arc::clone(&self.0.lock().unwrap().files[name]);
        file.lock().unwrap().durable[range].iter_mut().for_each(|byte| *byte ^= 1);
    }

    /// All durable bytes of all files.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().files.values().flat_map(|file| file.lock().unwrap().now()).collect()
    }

    fn step(&self) -> io::Result<()> {
        match &mut self.0.lock().unwrap().steps_left {
            Some(0) => Err(io::ErrorKind::BrokenPipe.into()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Disk for MemDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().files.keys().cloned().collect())
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn DiskFile>> {
        self.step()?;
        let mut state = self.0.lock().unwrap();
        if len > state.space_left {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.space_left -= len;
        let content = Content { durable: vec![0; len as usize], unsynced: Vec::new() };
        state.files.insert(name.into(), Arc::new(Mutex::new(content)));
        drop(state);
        self.open(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let content = self.0.lock().unwrap().files.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(MemFile { disk: self.clone(), content }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.step()?;
        let mut state = self.0.lock().unwrap();
        let content = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.into(), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.step()?;
        let mut state = self.0.lock().unwrap();
        let gone = state.files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.space_left = state.space_left.saturating_add(gone.lock().unwrap().durable.len() as u64);
        Ok(())
    }
}

struct MemFile {
    disk: MemDisk,
    content: Arc<Mutex<Content>>,
}

impl DiskFile for MemFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().unwrap().durable.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let position = position as usize;
        let content = self.content.lock().unwrap();
        if content.unsynced.is_empty() {
            buffer.copy_from_slice(&content.durable[position..position + buffer.len()]);
        } else {
            buffer.copy_from_slice(&content.now()[position..position + buffer.len()]);
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let cut = self.disk.step();
        // Even the write at which the power goes may have reached the disk.
        self.content.lock().unwrap().unsynced.push((position as usize, bytes.to_vec()));
        cut
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.step()?;
        if self.disk.0.lock().unwrap().fail_sync {
            return Err(io::Error::other("sync failed"));
        }
        let mut content = self.content.lock().unwrap();
        content.durable = content.now();
        content.unsynced.clear();
        Ok(())
    }
}
