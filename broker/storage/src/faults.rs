//! The engine under faults: writes that fail, are torn or lose their answer, full disks, refused keys, failing flushes,
//! and crashes at any of these, by seed.
//!
//! The promise checked: whatever was acknowledged is there, once, in order, at the offset that was told; what was not
//! acknowledged is there at most once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes, BytesMut};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use proptest::prelude::*;
use schloss_core::{ClusterId, ManualClock, PartitionId, TenantId, TopicId};
use schloss_crypto::testing::TestVault;
use schloss_crypto::{DataKey, IntegrityKey};
use schloss_metadata::{Metadata, SqliteMetadata, TopicRow};
use schloss_wire::batch::{self, BatchRules, Budget, KeyRule, TimeRule, ValidBatch};

use crate::wal::entry::{Entry, HEADER_BYTES, Header};
use crate::wal::{Replay, ReplayEnd, WalError, WalReader, WalStore};
use crate::{AppendError, Engine, EngineConfig, Foundation, LogConfig, OpenError, StateRecord};

const NOW_MS: i64 = 1_700_000_000_000;

/// What a log's next write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// No space; nothing is written.
    Full,
    /// The answer is an error, and the entry is not there after the crash.
    Lost,
    /// The answer is an error, and the entry is there after the crash.
    Kept,
}

#[derive(Default)]
struct MemLog {
    entries: BTreeMap<(u64, u64), Vec<u8>>,
    /// Writes left before the fault.
    fault: Option<(u64, Fault)>,
    /// From now on every write finds the disk full.
    full: bool,
    dead: bool,
}

/// A log in memory that outlives its engine.
#[derive(Clone, Default)]
struct MemWal(Arc<Mutex<MemLog>>);

impl MemWal {
    fn log(&self) -> std::sync::MutexGuard<'_, MemLog> {
        self.0.lock().unwrap()
    }

    /// A crash: what was written stays; a new process finds a disk without faults.
    fn crash(&self) -> Self {
        let entries = self.log().entries.clone();
        // The old engine's writes no longer reach anything.
        self.log().dead = true;
        Self(Arc::new(Mutex::new(MemLog { entries, ..MemLog::default() })))
    }
}

impl WalReader for MemWal {
    fn epochs(&self) -> std::io::Result<Vec<u64>> {
        let mut epochs: Vec<u64> = self.log().entries.keys().map(|(epoch, _)| *epoch).collect();
        epochs.dedup();
        Ok(epochs)
    }

    fn replay(&self, epoch: u64, after: u64) -> std::io::Result<Replay> {
        let log = self.log();
        let entries = log.entries.range((epoch, after + 1)..(epoch + 1, 0)).map(|(_, bytes)| Entry {
            header: Header::read(bytes).unwrap(),
            body: Bytes::copy_from_slice(&bytes[HEADER_BYTES..]),
        });
        let last = log.entries.keys().rfind(|name| name.0 == epoch).map_or(0, |name| name.1);
        Ok(Replay { entries: entries.collect(), last, end: ReplayEnd::Open })
    }
}

impl WalStore for MemWal {
    fn reader(&self) -> Arc<dyn WalReader> {
        Arc::new(self.clone())
    }

    fn create(&mut self, epoch: u64, seq: u64, bytes: &[u8]) -> Result<(), WalError> {
        let mut log = self.log();
        let failed = || WalError::Failed(std::io::Error::other("fault"));
        if log.dead {
            return Err(failed());
        }
        let fault = match &mut log.fault {
            Some((0, fault)) => Some(*fault),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        match fault {
            _ if log.full => return Err(WalError::Full),
            Some(Fault::Full) => {
                log.fault = None;
                return Err(WalError::Full);
            }
            Some(Fault::Lost) => return Err(failed()),
            Some(Fault::Kept) => {
                log.entries.insert((epoch, seq), bytes.to_vec());
                return Err(failed());
            }
            None => {}
        }
        assert!(log.entries.insert((epoch, seq), bytes.to_vec()).is_none(), "a name is used once");
        Ok(())
    }

    fn collect(&mut self, checkpoint: (u64, u64)) -> std::io::Result<()> {
        let last = self.log().entries.keys().next_back().copied();
        self.log().entries.retain(|name, _| *name > checkpoint || Some(*name) == last);
        Ok(())
    }
}

/// Everything that outlives a process.
struct World {
    wal: MemWal,
    metadata: Arc<SqliteMetadata>,
    objects: Arc<InMemory>,
    vault: Arc<TestVault>,
    clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

fn tenant(number: u64) -> TenantId {
    TenantId::new(number).unwrap()
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            wal: MemWal::default(),
            metadata: Arc::new(SqliteMetadata::open(&folder.path().join("manifest.db")).unwrap()),
            objects: Arc::new(InMemory::new()),
            vault: TestVault::new(),
            clock: Arc::new(ManualClock::at(NOW_MS)),
            _folder: folder,
        }
    }

    async fn try_open(&self, change: impl FnOnce(&mut EngineConfig)) -> Result<Arc<Engine>, OpenError> {
        let mut config = EngineConfig { shards: 1, ..EngineConfig::in_folder("unused".into()) };
        change(&mut config);
        let cluster = ClusterId::from_bytes(self.metadata.cluster_id().await.unwrap());
        let key = Arc::new(IntegrityKey::new(&DataKey::take(&mut [9; 32])));
        if self.metadata.is_blank().await.unwrap() {
            self.metadata.accept(key.clone()).await.unwrap();
        }
        assert_eq!(self.metadata.examine(key.clone()).await.unwrap(), [], "the manifest is proved after every crash");
        let wal = self.wal.clone();
        let logs = move |_: u32| Ok(Box::new(wal.clone()) as Box<dyn WalStore>);
        let foundation = Foundation {
            cluster,
            metadata: self.metadata.clone(),
            objects: self.objects.clone(),
            vault: self.vault.clone(),
            integrity: key,
            doubts: Vec::new(),
            clock: self.clock.clone(),
        };
        Engine::open_on(config, foundation, &logs).await
    }

    async fn open(&self) -> Arc<Engine> {
        self.try_open(|_| {}).await.unwrap()
    }

    /// The process dies and another starts.
    async fn crash(&mut self, engine: Arc<Engine>) -> Arc<Engine> {
        self.wal = self.wal.crash();
        drop(engine);
        self.open().await
    }

    async fn objects(&self) -> usize {
        use futures::TryStreamExt;
        self.objects.list(Some(&object_store::path::Path::from("seg"))).try_collect::<Vec<_>>().await.unwrap().len()
    }
}

mod set_aside;

async fn topic(engine: &Engine, owner: TenantId, number: u8) -> PartitionId {
    let topic_id = TopicId::from_bytes([number; 16]);
    let row =
        TopicRow { tenant: owner, topic_id, name_index: [number; 32], sealed: vec![1], partitions: 1, created_ms: 1 };
    engine.create_topic(row, LogConfig::default()).await.unwrap();
    PartitionId { topic: topic_id, index: 0 }
}

fn varint(out: &mut BytesMut, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.put_u8((zigzag as u8) | 0x80);
        zigzag >>= 7;
    }
    out.put_u8(zigzag as u8);
}

/// A batch of `count` records of `value`, as a producer sends it.
fn batch(count: usize, value: &[u8], producer: Option<(i64, i16, i32)>) -> ValidBatch {
    let mut records = BytesMut::new();
    for n in 0..count {
        let mut body = BytesMut::new();
        body.put_u8(0);
        varint(&mut body, 0);
        varint(&mut body, n as i64);
        varint(&mut body, -1);
        varint(&mut body, value.len() as i64);
        body.put_slice(value);
        varint(&mut body, 0);
        varint(&mut records, body.len() as i64);
        records.put_slice(&body);
    }
    let (id, epoch, sequence) = producer.unwrap_or((-1, -1, -1));
    let mut checked = BytesMut::new();
    checked.put_i16(0);
    checked.put_i32(count as i32 - 1);
    checked.put_i64(NOW_MS);
    checked.put_i64(NOW_MS);
    checked.put_i64(id);
    checked.put_i16(epoch);
    checked.put_i32(sequence);
    checked.put_i32(count as i32);
    checked.put_slice(&records);
    let mut whole = BytesMut::new();
    whole.put_i64(0);
    whole.put_i32(9 + checked.len() as i32);
    whole.put_i32(-1);
    whole.put_u8(2);
    whole.put_u32(crate::wal::crc32c(&checked));
    whole.put_slice(&checked);
    let rules = BatchRules {
        message_bytes_max: 100 << 20,
        budget: Budget { bytes_max: 1 << 30, ratio_max: 1000 },
        time: TimeRule::CreateTime { before_ms_max: i64::MAX, after_ms_max: i64::MAX },
        now_ms: NOW_MS,
        key: KeyRule::Optional,
        produce_version: 9,
    };
    batch::validate(whole.freeze(), &rules).unwrap()
}

async fn put(engine: &Engine, partition: PartitionId, batch: ValidBatch) -> Result<i64, AppendError> {
    engine.submit(partition, batch, false).await.map(|appended| appended.base_offset)
}

/// (first offset, payload behind the header) of every batch from the log start on.
async fn stored(engine: &Engine, partition: PartitionId) -> Vec<(i64, Bytes)> {
    let offsets = engine.offsets(partition).unwrap();
    let (mut all, mut next) = (Vec::new(), offsets.log_start);
    while next < offsets.high_watermark {
        let read = engine.read(partition, next, 5_000, true).await.unwrap();
        let before = next;
        for stored in batch::split(read.records.concat().into()) {
            let stored = stored.unwrap();
            all.push((stored.header.base_offset, stored.bytes.slice(61..)));
            next = stored.header.last_offset() + 1;
        }
        assert!(next > before, "a read goes on");
    }
    all
}

fn payload(batch: &ValidBatch) -> Bytes {
    batch.payload()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_behind_a_deletion_inside_a_batch_survive_a_crash() {
    let mut world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, tenant(1), 1).await;
    put(&engine, partition, batch(10, b"v", None)).await.unwrap();
    put(&engine, partition, batch(1, b"w", None)).await.unwrap();
    assert_eq!(engine.delete_records(partition, 5).await.unwrap(), 5);
    let engine = world.crash(engine).await;
    let offsets = engine.offsets(partition).unwrap();
    assert_eq!((offsets.log_start, offsets.high_watermark), (5, 11));
    assert_eq!(stored(&engine, partition).await.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0, 10]);
}

#[tokio::test(flavor = "multi_thread")]
async fn producer_whose_last_records_were_deleted_before_they_were_flushed_goes_on_after_a_crash() {
    let mut world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, tenant(1), 1).await;
    put(&engine, partition, batch(1, b"0", Some((9, 0, 0)))).await.unwrap();
    engine.flush().await.unwrap();
    put(&engine, partition, batch(1, b"1", Some((9, 0, 1)))).await.unwrap();
    engine.delete_records(partition, 2).await.unwrap();
    let engine = world.crash(engine).await;
    assert_eq!(put(&engine, partition, batch(1, b"1", Some((9, 0, 1)))).await, Ok(1), "a repetition is told as one");
    assert_eq!(put(&engine, partition, batch(1, b"2", Some((9, 0, 2)))).await, Ok(2));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_behind_a_refused_first_one_waits_for_it() {
    let world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, tenant(1), 1).await;
    world.wal.log().fault = Some((0, Fault::Full));
    assert_eq!(put(&engine, partition, batch(1, b"0", Some((9, 0, 0)))).await, Err(AppendError::Full));
    // Space is back; the client's next batch was on its way already.
    assert_eq!(put(&engine, partition, batch(1, b"1", Some((9, 0, 1)))).await, Err(AppendError::OutOfOrderSequence));
    assert_eq!(put(&engine, partition, batch(1, b"0", Some((9, 0, 0)))).await, Ok(0));
    assert_eq!(put(&engine, partition, batch(1, b"1", Some((9, 0, 1)))).await, Ok(1));

    world.vault.set_denied(tenant(2).to_bytes(), true);
    let other = topic(&engine, tenant(2), 2).await;
    assert_eq!(put(&engine, other, batch(1, b"0", Some((8, 0, 0)))).await, Err(AppendError::Key));
    world.vault.set_denied(tenant(2).to_bytes(), false);
    assert_eq!(put(&engine, other, batch(1, b"1", Some((8, 0, 1)))).await, Err(AppendError::OutOfOrderSequence));
    assert_eq!(put(&engine, other, batch(1, b"0", Some((8, 0, 0)))).await, Ok(0));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_held_by_a_full_tail_keep_their_order() {
    let world = World::new();
    let engine = world.try_open(|config| (config.tail_bytes_max, config.flush_bytes) = (3_000, 2_000)).await.unwrap();
    let partition = topic(&engine, tenant(1), 1).await;
    let mut submitted = Vec::new();
    for n in 0..6_000_u16 {
        submitted.push(engine.submit(
            partition,
            batch(1, &[n.to_be_bytes().as_slice(), &[0; 500]].concat(), None),
            false,
        ));
        // So that batches come while others are held and a flush ends.
        tokio::task::yield_now().await;
    }
    for (n, answer) in (0_i64..).zip(submitted) {
        assert_eq!(answer.await.unwrap().base_offset, n, "offsets follow the order of submission");
    }
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_whose_key_is_denied_stops_nobody_else() {
    let mut world = World::new();
    let engine = world.open().await;
    let (denied, other) = (topic(&engine, tenant(1), 1).await, topic(&engine, tenant(2), 2).await);
    put(&engine, denied, batch(1, b"kept", None)).await.unwrap();
    put(&engine, other, batch(1, b"first", None)).await.unwrap();
    world.vault.set_denied(tenant(1).to_bytes(), true);
    for n in 0..3 {
        // The denied tenant's tail cannot be flushed; the other's is.
        assert_eq!(engine.flush().await, Err(AppendError::Key));
        assert_eq!(world.wal.log().entries.len(), 1, "the log is collected up to its last entry");
        assert_eq!(world.objects().await, n + 1, "one object per flush, none left over");
        put(&engine, other, batch(1, b"more", None)).await.unwrap();
        // Its key in use is still young, but it may not fill the tail that others need.
        assert_eq!(put(&engine, denied, batch(1, b"refused", None)).await, Err(AppendError::Key));
    }
    world.vault.set_denied(tenant(1).to_bytes(), false);
    let engine = world.crash(engine).await;
    assert_eq!(stored(&engine, denied).await.len(), 1);
    assert_eq!(stored(&engine, other).await.len(), 4);
    engine.flush().await.unwrap();
    assert_eq!(engine.stats().tail_bytes, 0);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_topic_with_a_long_tail_frees_its_object_although_others_were_flushed_with_it() {
    let world = World::new();
    let engine = world.open().await;
    let (long, short) = (topic(&engine, tenant(1), 1).await, topic(&engine, tenant(1), 2).await);
    put(&engine, long, batch(1, &vec![1; 5 << 20], None)).await.unwrap();
    put(&engine, short, batch(1, b"v", None)).await.unwrap();
    engine.flush().await.unwrap();
    assert_eq!(world.objects().await, 2);
    engine.delete_topic(long.topic, 1).await.unwrap();
    assert_eq!(world.metadata.garbage(i64::MAX, &[]).await.unwrap().len(), 1);
    assert_eq!(stored(&engine, short).await.len(), 1);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_flush_leaves_no_object_behind() {
    let world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, tenant(1), 1).await;
    put(&engine, partition, batch(1, b"v", None)).await.unwrap();
    // Another writer takes the shard: the flush's transaction is refused.
    world.metadata.acquire(schloss_core::ShardId(0), [9; 16], 0).await.unwrap();
    for _ in 0..3 {
        engine.flush().await.unwrap_err();
    }
    assert_eq!(world.objects().await, 0);
    drop(engine);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_shard_answers_everyone_at_once() {
    let world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, tenant(1), 1).await;
    put(&engine, partition, batch(1, b"v", None)).await.unwrap();
    world.wal.log().fault = Some((0, Fault::Lost));
    assert_eq!(put(&engine, partition, batch(1, b"v", None)).await, Err(AppendError::Stopped));
    assert_eq!(put(&engine, partition, batch(1, b"v", None)).await, Err(AppendError::Stopped));
    let flushed = tokio::time::timeout(std::time::Duration::from_secs(5), engine.flush()).await;
    assert_eq!(flushed.expect("a flush of a stopped shard is answered"), Err(AppendError::Stopped));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_log_is_refused_and_not_taken_for_an_empty_one() {
    let mut world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, tenant(1), 1).await;
    put(&engine, partition, batch(1, b"v", None)).await.unwrap();
    engine.flush().await.unwrap();
    put(&engine, partition, batch(1, b"only in the log", None)).await.unwrap();
    engine.close().await;
    drop(engine);
    world.wal = MemWal::default();
    assert!(matches!(world.try_open(|_| {}).await, Err(OpenError::Damaged { .. })));
}

type Entries = BTreeMap<(u64, u64), Vec<u8>>;

/// A record in a segment and two in the log, closed or killed; then the log is changed, and the next start tried.
async fn start_over_a_changed_log(clean: bool, change: impl FnOnce(&mut Entries)) -> Result<usize, OpenError> {
    let mut world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, tenant(1), 1).await;
    put(&engine, partition, batch(1, b"flushed", None)).await.unwrap();
    engine.flush().await.unwrap();
    for value in [b"first", b"other"] {
        put(&engine, partition, batch(1, value, None)).await.unwrap();
    }
    if clean {
        engine.close().await;
    }
    world.wal = world.wal.crash();
    drop(engine);
    change(&mut world.wal.log().entries);
    let engine = world.try_open(|_| {}).await?;
    Ok(stored(&engine, partition).await.len())
}

/// An entry with another header or body, its checksums right again and its proof as it was.
fn forged(bytes: &[u8], change: impl FnOnce(&mut Header, &mut Vec<u8>)) -> Vec<u8> {
    let (mut header, mut body) = (Header::read(bytes).unwrap(), bytes[HEADER_BYTES..].to_vec());
    change(&mut header, &mut body);
    header.body_bytes = body.len() as u32;
    header.body_crc = crate::wal::crc32c(&body);
    [&header.to_bytes()[..], &body].concat()
}

/// Puts the chain right from an entry on, as whoever knows the format can.
fn chained(entries: &mut Entries) {
    let mut previous = None;
    for bytes in entries.values_mut() {
        *bytes = forged(bytes, |header, _| header.previous = previous.unwrap_or(header.previous));
        previous = Header::read(bytes).map(Header::digest);
    }
}

fn is_damage<T>(outcome: &Result<T, OpenError>) -> bool {
    matches!(outcome, Err(error @ OpenError::Damaged { .. }) if error.damaged().is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn log_put_together_anew_without_a_change_is_served_whole() {
    for clean in [false, true] {
        let count = start_over_a_changed_log(clean, |entries| {
            let before = entries.clone();
            chained(entries);
            assert_eq!(*entries, before);
        });
        assert_eq!(count.await.unwrap(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn emptied_entry_is_refused_although_every_checksum_is_made_anew() {
    for which in [3, 4] {
        let outcome = start_over_a_changed_log(false, |entries| {
            let emptied = forged(&entries[&(1, which)], |_, body| body.clear());
            entries.insert((1, which), emptied);
            chained(entries);
        });
        assert!(is_damage(&outcome.await), "entry {which}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entry_under_another_name_is_refused() {
    let changes: [fn(&mut Header); 4] = [
        |header| header.shard = 1,
        |header| header.writer = [0; 16],
        |header| header.kind = crate::wal::entry::Kind::Seal,
        |header| header.previous = [0; 32],
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let outcome = start_over_a_changed_log(false, |entries| {
            let other = forged(&entries[&(1, 4)], |header, _| change(header));
            entries.insert((1, 4), other);
        });
        assert!(is_damage(&outcome.await), "change {n}");
    }
    let renumbered = start_over_a_changed_log(false, |entries| {
        for name in [(1, 3), (1, 4)] {
            let bytes = forged(&entries[&name], |header, _| header.epoch = 2);
            entries.insert((2, name.1 - 2), forged(&bytes, |header, _| header.seq -= 2));
            entries.remove(&name);
        }
    });
    assert!(is_damage(&renumbered.await));
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_cut_off_the_end_after_a_clean_stop_are_missed() {
    for keep in 2..=4 {
        let outcome = start_over_a_changed_log(true, |entries| {
            assert_eq!(entries.keys().next_back(), Some(&(1, 5)), "opening, three records, seal");
            entries.retain(|name, _| name.1 <= keep);
        });
        assert!(is_damage(&outcome.await), "{keep} kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_without_an_entry_of_an_opened_epoch_is_refused() {
    let mut world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, tenant(1), 1).await;
    engine.flush().await.unwrap();
    let engine = world.crash(engine).await;
    put(&engine, partition, batch(1, b"in the second epoch", None)).await.unwrap();
    world.wal = world.wal.crash();
    drop(engine);
    world.wal.log().entries.retain(|name, _| name.0 < 2);
    assert!(is_damage(&world.try_open(|_| {}).await), "the whole epoch is gone");
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    /// So many batches in flight at once, of one idempotent producer.
    Put {
        batches: usize,
        records: usize,
        bytes: usize,
    },
    /// A row of state.
    State {
        key: u8,
        value: u8,
    },
    Flush,
    Delete {
        percent: u8,
    },
    Fault {
        after: u64,
        fault: Fault,
    },
    FullDisk(bool),
    Denied(bool),
    Crash,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_usize..5, 1_usize..4, 1_usize..3000).prop_map(|(batches, records, bytes)| Step::Put { batches, records, bytes }),
        2 => (0_u8..4, any::<u8>()).prop_map(|(key, value)| Step::State { key, value }),
        2 => Just(Step::Flush),
        1 => (0_u8..=100).prop_map(|percent| Step::Delete { percent }),
        2 => (0_u64..3, prop_oneof![Just(Fault::Full), Just(Fault::Lost), Just(Fault::Kept)]).prop_map(|(after, fault)| Step::Fault { after, fault }),
        1 => any::<bool>().prop_map(Step::FullDisk),
        1 => any::<bool>().prop_map(Step::Denied),
        2 => Just(Step::Crash),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn acknowledged_is_there_once_and_in_order_after_any_history(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let ended = runtime.block_on(async { tokio::time::timeout(std::time::Duration::from_secs(20), history(steps)).await });
        assert!(ended.is_ok(), "somebody was never answered");
    }
}

async fn history(steps: Vec<Step>) {
    let mut world = World::new();
    let mut engine = world.open().await;
    let partition = topic(&engine, tenant(1), 1).await;
    let mut truth = Truth::default();
    let mut denied = false;
    for step in steps {
        match step {
            Step::Put { batches, records, bytes } => truth.put(&engine, partition, batches, records, bytes).await,
            Step::State { key, value } => truth.set(&engine, key, value).await,
            Step::Flush => drop(engine.flush().await),
            Step::Delete { percent } => truth.delete(&engine, partition, percent).await,
            Step::Fault { after, fault } => world.wal.log().fault = Some((after, fault)),
            Step::FullDisk(full) => world.wal.log().full = full,
            Step::Denied(now) => {
                denied = now;
                world.vault.set_denied(tenant(1).to_bytes(), denied);
            }
            Step::Crash => {
                denied = false;
                world.vault.set_denied(tenant(1).to_bytes(), false);
                engine = world.crash(engine).await;
                truth.settle(&engine, partition).await;
            }
            Step::Restart => {
                denied = false;
                world.vault.set_denied(tenant(1).to_bytes(), false);
                engine.close().await;
                engine = world.crash(engine).await;
                truth.settle(&engine, partition).await;
            }
        }
        // While its key is refused nothing of the tenant is read from segments.
        if !denied {
            truth.check(&engine, partition).await;
        }
    }
    world.vault.set_denied(tenant(1).to_bytes(), false);
    engine = world.crash(engine).await;
    truth.settle(&engine, partition).await;
    truth.check(&engine, partition).await;
    truth.put(&engine, partition, 1, 1, 1).await;
    assert!(truth.unsure.is_empty(), "a healthy log takes writes");
    engine.close().await;
}

/// What a client knows.
#[derive(Default)]
struct Truth {
    /// Acknowledged batches: first offset, records, payload.
    acknowledged: Vec<(i64, i64, Bytes)>,
    /// Sent, refused or unanswered, in order: after a crash a prefix of them may be there.
    unsure: Vec<(i64, Bytes)>,
    state: BTreeMap<u8, Vec<Option<u8>>>,
    next_sequence: i32,
    log_start: i64,
    puts: u8,
}

impl Truth {
    async fn put(&mut self, engine: &Engine, partition: PartitionId, batches: usize, records: usize, bytes: usize) {
        if !self.unsure.is_empty() {
            // As a real producer: first the refused ones again, with their old numbers. Here: after a crash only.
            return;
        }
        let mut sent = Vec::new();
        for _ in 0..batches {
            self.puts = self.puts.wrapping_add(1);
            let batch = batch(records, &vec![self.puts; bytes], Some((5, 0, self.next_sequence)));
            self.next_sequence += records as i32;
            sent.push((payload(&batch), engine.submit(partition, batch, false)));
        }
        for (payload, answer) in sent {
            match answer.await {
                Ok(appended) => {
                    assert!(self.unsure.is_empty(), "acknowledged behind one that was refused");
                    let expected = self.acknowledged.last().map_or(0, |(offset, records, _)| offset + records);
                    assert_eq!(appended.base_offset, expected, "no gap and no repetition");
                    self.acknowledged.push((appended.base_offset, records as i64, payload));
                }
                Err(_) => self.unsure.push((records as i64, payload)),
            }
        }
    }

    async fn set(&mut self, engine: &Engine, key: u8, value: u8) {
        let record = StateRecord { key: Bytes::from(vec![7, key]), value: Some(Bytes::from(vec![value])) };
        let may_be = self.state.entry(key).or_insert_with(|| vec![None]);
        match engine.put_state(tenant(1), vec![record]).await {
            Ok(()) => *may_be = vec![Some(value)],
            Err(_) => may_be.push(Some(value)),
        }
    }

    async fn delete(&mut self, engine: &Engine, partition: PartitionId, percent: u8) {
        let offsets = engine.offsets(partition).unwrap();
        let before = offsets.log_start + (offsets.high_watermark - offsets.log_start) * i64::from(percent) / 100;
        if let Ok(start) = engine.delete_records(partition, before).await {
            assert!(start >= before);
            self.log_start = start;
        }
    }

    /// After a crash: what was unsure is there or not, as a prefix; the producer sends the rest no more, and goes on
    /// with a new epoch of sequence numbers by asking what is there.
    async fn settle(&mut self, engine: &Engine, partition: PartitionId) {
        let found = stored(engine, partition).await;
        let mut end = self.acknowledged.last().map_or(0, |(offset, records, _)| offset + records);
        for (records, payload) in std::mem::take(&mut self.unsure) {
            let there = found.iter().find(|(offset, _)| *offset == end);
            match there {
                Some((_, bytes)) => {
                    assert_eq!(*bytes, payload, "only what was sent, in its order");
                    self.acknowledged.push((end, records, payload));
                    end += records;
                }
                None => self.next_sequence -= records as i32,
            }
        }
        assert_eq!(engine.offsets(partition).unwrap().high_watermark, end, "nothing else is there");
    }

    async fn check(&mut self, engine: &Engine, partition: PartitionId) {
        let offsets = engine.offsets(partition).unwrap();
        assert!(offsets.log_start >= self.log_start, "the log start never goes back");
        let expected: Vec<(i64, Bytes)> = self
            .acknowledged
            .iter()
            .filter(|(offset, records, _)| offset + records > offsets.log_start)
            .map(|(offset, _, payload)| (*offset, payload.clone()))
            .collect();
        assert_eq!(stored(engine, partition).await, expected);
        let state: BTreeMap<u8, u8> =
            engine.state(tenant(1)).into_iter().map(|(key, value)| (key[1], value[0])).collect();
        for (key, may_be) in &self.state {
            assert!(may_be.contains(&state.get(key).copied()), "state {key}: {:?} of {may_be:?}", state.get(key));
        }
    }
}
