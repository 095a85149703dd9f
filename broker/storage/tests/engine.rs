//! Promises of the engine over a real folder: order, durability, recovery, retention, space.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use schloss_core::{ClusterId, ManualClock, PartitionId, TenantId, TopicId};
use schloss_crypto::testing::TestVault;
use schloss_crypto::{DataKey, IntegrityKey};
use schloss_metadata::{Doubt, Metadata, SqliteMetadata, TopicRow};
use schloss_storage::{
    AppendError, Engine, EngineConfig, Foundation, LocalStore, LogConfig, OpenError, ReadError, StateRecord,
};
use schloss_wire::batch::{self, BatchHeader, BatchRules, Budget, KeyRule, TimeRule, ValidBatch};

const NOW_MS: i64 = 1_700_000_000_000;

fn tenant() -> TenantId {
    TenantId::new(111_111_111_111).unwrap()
}

fn varint(out: &mut BytesMut, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.put_u8((zigzag as u8) | 0x80);
        zigzag >>= 7;
    }
    out.put_u8(zigzag as u8);
}

/// A batch of uncompressed records without keys, as a producer sends it.
fn batch(values: &[&[u8]], producer: Option<(i64, i16, i32)>, timestamp: i64) -> ValidBatch {
    let mut records = BytesMut::new();
    for (n, value) in values.iter().enumerate() {
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
    checked.put_i32(values.len() as i32 - 1);
    checked.put_i64(timestamp);
    checked.put_i64(timestamp);
    checked.put_i64(id);
    checked.put_i16(epoch);
    checked.put_i32(sequence);
    checked.put_i32(values.len() as i32);
    checked.put_slice(&records);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &checked) as u32;
    let mut whole = BytesMut::new();
    whole.put_i64(0);
    whole.put_i32(9 + checked.len() as i32);
    whole.put_i32(-1);
    whole.put_u8(2);
    whole.put_u32(crc);
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

struct World {
    folder: tempfile::TempDir,
    vault: Arc<TestVault>,
    clock: Arc<ManualClock>,
    /// What a start finds in doubt, besides what it does.
    doubts: Vec<Doubt>,
}

impl World {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            vault: TestVault::new(),
            clock: Arc::new(ManualClock::at(NOW_MS)),
            doubts: Vec::new(),
        }
    }

    fn config(&self) -> EngineConfig {
        EngineConfig {
            wal_file_bytes: 256 * 1024,
            shards: 1,
            topic_keys_folder: Some(self.folder.path().join("topic-keys")),
            ..EngineConfig::in_folder(self.folder.path().join("wal"))
        }
    }

    async fn open(&self) -> Arc<Engine> {
        self.try_open(self.config()).await.unwrap()
    }

    async fn try_open(&self, config: EngineConfig) -> Result<Arc<Engine>, OpenError> {
        let metadata = loop {
            // The one before lets go of the file when its last user is gone.
            match SqliteMetadata::open(&self.folder.path().join("manifest.db")) {
                Ok(metadata) => break metadata,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let key = Arc::new(IntegrityKey::new(&DataKey::take(&mut [9; 32])));
        let doubts = if metadata.is_blank().await.unwrap() {
            metadata.accept(key.clone()).await.unwrap();
            Vec::new()
        } else {
            metadata.prove(key.clone()).await.unwrap()
        };
        assert_eq!(doubts, [], "whatever the engine did, the manifest is proved");
        let metadata: Arc<dyn Metadata> = Arc::new(metadata);
        let objects = self.folder.path().join("objects");
        std::fs::create_dir_all(&objects).unwrap();
        let cluster = ClusterId::from_bytes(metadata.cluster_id().await.unwrap());
        let objects = Arc::new(LocalStore::open(&objects).unwrap());
        let foundation = Foundation {
            cluster,
            metadata,
            objects,
            vault: self.vault.clone(),
            integrity: key,
            doubts: self.doubts.clone(),
            clock: self.clock.clone(),
        };
        Engine::open(config, foundation).await
    }

    /// The manifest's file is whole: its last user is gone.
    async fn settled(&self) {
        while self.folder.path().join("manifest.db-wal").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn object_bytes(&self) -> u64 {
        self.bytes_of("seg")
    }

    /// Of a folder of the objects.
    fn bytes_of(&self, folder: &str) -> u64 {
        fn walk(path: &Path) -> u64 {
            std::fs::read_dir(path)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| {
                    if entry.path().is_dir() {
                        walk(&entry.path())
                    } else {
                        entry.metadata().map_or(0, |meta| meta.len())
                    }
                })
                .sum()
        }
        walk(&self.folder.path().join("objects").join(folder))
    }
}

async fn topic(engine: &Engine, config: LogConfig) -> PartitionId {
    let id = TopicId::random();
    let row = TopicRow {
        tenant: tenant(),
        topic_id: id,
        name_index: schloss_crypto::digest::sha256(&id.to_bytes()),
        sealed: vec![1],
        partitions: 1,
        created_ms: 1,
    };
    engine.create_topic(row, config).await.unwrap();
    PartitionId { topic: id, index: 0 }
}

async fn put(engine: &Engine, partition: PartitionId, values: &[&[u8]]) -> i64 {
    engine.submit(partition, batch(values, None, NOW_MS), false).await.unwrap().base_offset
}

/// All values from an offset on, each with its offset.
async fn values(engine: &Engine, partition: PartitionId, from: i64) -> Vec<(i64, Vec<u8>)> {
    let mut all = Vec::new();
    let mut next = from;
    loop {
        let read = engine.read(partition, next, 64 * 1024, true).await.unwrap();
        let bytes: Bytes = read.records.concat().into();
        if bytes.is_empty() {
            return all;
        }
        for stored in batch::split(bytes) {
            let stored = stored.unwrap();
            next = stored.header.last_offset() + 1;
            all.extend(unpack(&stored.header, &stored.bytes).into_iter().filter(|(offset, _)| *offset >= from));
        }
    }
}

fn unpack(header: &BatchHeader, bytes: &[u8]) -> Vec<(i64, Vec<u8>)> {
    let mut rest = &bytes[61..];
    let take = |rest: &mut &[u8]| {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let byte = rest[0];
            *rest = &rest[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
            shift += 7;
        }
        ((value >> 1) as i64) ^ -((value & 1) as i64)
    };
    (0..header.record_count)
        .map(|_| {
            take(&mut rest);
            rest = &rest[1..];
            take(&mut rest);
            let delta = take(&mut rest);
            take(&mut rest);
            let length = take(&mut rest) as usize;
            let value = rest[..length].to_vec();
            rest = &rest[length..];
            take(&mut rest);
            (header.base_offset + delta, value)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_back_in_order_from_tail_and_from_segments() {
    let world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, LogConfig::default()).await;
    assert_eq!(put(&engine, partition, &[b"a", b"b"]).await, 0);
    assert_eq!(put(&engine, partition, &[&[7; 200_000]]).await, 2);
    engine.flush().await.unwrap();
    assert_eq!(put(&engine, partition, &[b"c"]).await, 3);
    let expected = vec![(0, b"a".to_vec()), (1, b"b".to_vec()), (2, vec![7; 200_000]), (3, b"c".to_vec())];
    assert_eq!(values(&engine, partition, 0).await, expected);
    assert_eq!(values(&engine, partition, 1).await, expected[1..]);
    assert_eq!(engine.stats().segments, 1);
    assert!(matches!(engine.read(partition, 5, 100, true).await, Err(ReadError::OffsetOutOfRange { .. })));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_that_catches_up_finds_its_next_records_opened_and_one_that_jumps_costs_nothing_more() {
    let world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, LogConfig::default()).await;
    for n in 0..30_u8 {
        put(&engine, partition, &[&[n; 60_000]]).await;
    }
    engine.flush().await.unwrap();
    // Three frames go into an answer; a fourth is opened to see that it does not.
    let read = async |offset: i64| {
        assert!(!engine.read(partition, offset, 200_000, true).await.unwrap().records.is_empty());
        engine.stats()
    };
    read(0).await;
    assert_eq!(read(20).await.cache_misses, 8);
    read(23).await;
    while engine.stats().cache_misses < 13 {
        tokio::task::yield_now().await;
    }
    let before = engine.stats();
    let after = read(26).await;
    assert!(after.cache_hits >= before.cache_hits + 3, "26 to 28 were opened before they were asked for");
    assert_eq!(after.cache_misses, 14, "nothing was read that was not asked for or next");
    assert_eq!(values(&engine, partition, 0).await.len(), 30);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_acknowledged_is_there_after_a_start_without_a_close() {
    let world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, LogConfig::default()).await;
    for n in 0..50_u8 {
        put(&engine, partition, &[&[n; 3000]]).await;
        if n == 20 {
            engine.flush().await.unwrap();
        }
    }
    engine
        .put_state(
            tenant(),
            vec![StateRecord { key: Bytes::from_static(b"gkey"), value: Some(Bytes::from_static(b"value")) }],
        )
        .await
        .unwrap();
    // Without a close: what a crash leaves.
    drop(engine);
    let engine = world.open().await;
    let read = values(&engine, partition, 0).await;
    assert_eq!(read.len(), 50);
    assert!(read.iter().enumerate().all(|(n, (offset, value))| *offset == n as i64 && value[0] == n as u8));
    assert_eq!(engine.state(tenant()), vec![(Bytes::from_static(b"gkey"), Bytes::from_static(b"value"))]);
    assert_eq!(put(&engine, partition, &[b"next"]).await, 50);
    assert_eq!(engine.offsets(partition).unwrap().leader_epoch, 2);
    assert_eq!(engine.end_offset_for_epoch(partition, 1).unwrap(), Some((1, 50)));
    engine.flush().await.unwrap();
    engine.close().await;
    drop(engine);
    let engine = world.open().await;
    assert_eq!(values(&engine, partition, 0).await.len(), 51);
    assert_eq!(engine.state(tenant()).len(), 1);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_batch_is_stored_once_over_flush_and_restart() {
    let world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, LogConfig::default()).await;
    let send = async |engine: &Engine, sequence: i32| {
        engine.submit(partition, batch(&[b"x", b"y"], Some((77, 0, sequence)), NOW_MS), false).await
    };
    assert_eq!(send(&engine, 0).await.unwrap().base_offset, 0);
    assert_eq!(send(&engine, 2).await.unwrap().base_offset, 2);
    assert_eq!(send(&engine, 0).await.unwrap().base_offset, 0);
    assert_eq!(send(&engine, 6).await, Err(AppendError::OutOfOrderSequence));
    drop(engine);
    let engine = world.open().await;
    assert_eq!(send(&engine, 2).await.unwrap().base_offset, 2);
    engine.flush().await.unwrap();
    engine.close().await;
    drop(engine);
    let engine = world.open().await;
    assert_eq!(send(&engine, 2).await.unwrap().base_offset, 2);
    assert_eq!(send(&engine, 4).await.unwrap().base_offset, 4);
    assert_eq!(values(&engine, partition, 0).await.len(), 6);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_by_age_and_deletion_of_a_topic_free_the_disk() {
    let world = World::new();
    let engine = world.open().await;
    let (old, other) = (
        topic(&engine, LogConfig { retention_ms: 1_000, ..LogConfig::default() }).await,
        topic(&engine, LogConfig::default()).await,
    );
    put(&engine, old, &[&[1; 50_000]]).await;
    put(&engine, other, &[&[2; 50_000]]).await;
    engine.flush().await.unwrap();
    put(&engine, old, &[b"still in the tail"]).await;
    world.clock.advance(Duration::from_secs(10));
    engine.apply_retention().await;
    let offsets = engine.offsets(old).unwrap();
    assert_eq!((offsets.log_start, offsets.high_watermark), (2, 2));
    assert_eq!(values(&engine, other, 0).await.len(), 1, "the other partition of the object stays");
    assert!(world.object_bytes() > 50_000);
    engine.delete_topic(other.topic, 1).await.unwrap();
    assert_eq!(engine.read(other, 0, 100, true).await.unwrap_err(), ReadError::UnknownPartition);
    world.clock.advance(Duration::from_secs(10));
    tokio::time::timeout(Duration::from_secs(20), async {
        while world.object_bytes() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    engine.close().await;
    drop(engine);
    let engine = world.open().await;
    assert_eq!(engine.offsets(old).unwrap().log_start, 2);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_found_by_time_in_segments_and_tail() {
    let world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, LogConfig::default()).await;
    for n in 0..10 {
        engine.submit(partition, batch(&[b"v"], None, NOW_MS + n * 100), false).await.unwrap();
        if n == 5 {
            engine.flush().await.unwrap();
        }
    }
    assert_eq!(engine.offset_for_time(partition, NOW_MS + 250).await.unwrap(), Some((3, NOW_MS + 300)));
    assert_eq!(engine.offset_for_time(partition, NOW_MS + 850).await.unwrap(), Some((9, NOW_MS + 900)));
    assert_eq!(engine.offset_for_time(partition, NOW_MS + 901).await.unwrap(), None);
    assert_eq!(engine.max_timestamp(partition).await.unwrap(), Some((9, NOW_MS + 900)));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_byte_of_a_segment_is_refused_and_never_served() {
    let world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, LogConfig::default()).await;
    put(&engine, partition, &[b"the truth"]).await;
    engine.flush().await.unwrap();
    engine.close().await;
    drop(engine);
    let mut files = Vec::new();
    let mut folders = vec![world.folder.path().join("objects/seg")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let whole = std::fs::read(&files[0]).unwrap();
    let mut refused = 0;
    for at in (0..whole.len()).step_by(if cfg!(debug_assertions) { 97 } else { 1 }) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&files[0], &flipped).unwrap();
        let engine = world.open().await;
        match engine.read(partition, 0, 1 << 20, true).await {
            Ok(read) => assert!(read.records.concat().windows(9).any(|window| window == b"the truth"), "byte {at}"),
            Err(ReadError::Damaged(_)) => refused += 1,
            Err(error) => panic!("byte {at}: {error}"),
        }
        engine.close().await;
        drop(engine);
    }
    assert!(refused > 3, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_log_entry_of_a_closed_broker_refuses_the_start() {
    let world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, LogConfig::default()).await;
    put(&engine, partition, &[&[1; 500]]).await;
    engine.close().await;
    drop(engine);
    let wal = std::fs::read_dir(world.folder.path().join("wal/0000")).unwrap().next().unwrap().unwrap().path();
    let mut content = std::fs::read(&wal).unwrap();
    content[124 + 124 + 300] ^= 1;
    std::fs::write(&wal, content).unwrap();
    assert!(matches!(world.try_open(world.config()).await, Err(OpenError::Damaged { .. })));
}

/// The one log file of the first shard.
fn log_file(world: &World) -> std::path::PathBuf {
    std::fs::read_dir(world.folder.path().join("wal/0000")).unwrap().next().unwrap().unwrap().path()
}

#[tokio::test(flavor = "multi_thread")]
async fn log_cut_before_its_checkpoint_refuses_the_start() {
    let world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, LogConfig::default()).await;
    put(&engine, partition, &[&[1; 500]]).await;
    engine.flush().await.unwrap();
    put(&engine, partition, &[b"acknowledged"]).await;
    drop(engine);
    let mut content = std::fs::read(log_file(&world)).unwrap();
    content[124..].fill(0);
    std::fs::write(log_file(&world), content).unwrap();
    let outcome = world.try_open(world.config()).await;
    assert!(
        matches!(outcome, Err(OpenError::Damaged { what: "the log ends before its checkpoint", .. })),
        "{:?}",
        outcome.err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn log_of_before_proofs_refuses_the_start_and_nothing_is_written() {
    let world = World::new();
    let engine = world.open().await;
    engine.close().await;
    drop(engine);
    let mut content = std::fs::read(log_file(&world)).unwrap();
    content[7] = b'1';
    std::fs::write(log_file(&world), &content).unwrap();
    assert!(matches!(world.try_open(world.config()).await, Err(OpenError::UnprovedLog)));
    assert_eq!(std::fs::read_dir(world.folder.path().join("wal/0000")).unwrap().count(), 1);
    assert_eq!(std::fs::read(log_file(&world)).unwrap(), content);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_below_a_deleted_offset_are_gone_also_after_a_restart() {
    let world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, LogConfig::default()).await;
    for _ in 0..5 {
        put(&engine, partition, &[b"v"]).await;
    }
    assert_eq!(engine.delete_records(partition, 3).await.unwrap(), 3);
    assert!(matches!(
        engine.read(partition, 2, 100, true).await,
        Err(ReadError::OffsetOutOfRange { log_start: 3, .. })
    ));
    drop(engine);
    let engine = world.open().await;
    assert_eq!(engine.offsets(partition).unwrap().log_start, 3);
    assert_eq!(values(&engine, partition, 3).await.len(), 2);
    assert_eq!(
        engine.stats().tail_bytes as usize,
        values(&engine, partition, 3).await.len() * batch(&[b"v"], None, NOW_MS).total_bytes()
    );
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_reader_is_woken_by_an_append() {
    let world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, LogConfig::default()).await;
    let mut watch = engine.watch(&[partition]);
    put(&engine, partition, &[b"v"]).await;
    tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.unwrap();
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broker_killed_again_and_again_keeps_few_log_files_and_every_record() {
    let world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, LogConfig::default()).await;
    put(&engine, partition, &[b"v"]).await;
    drop(engine);
    for kill in 1..30 {
        // Dropped without being closed, as a kill leaves it.
        let engine = world.open().await;
        put(&engine, partition, &[b"v"]).await;
        assert_eq!(values(&engine, partition, 0).await.len(), kill + 1);
        drop(engine);
        let files = std::fs::read_dir(world.folder.path().join("wal/0000")).unwrap().count();
        assert!(files <= 16, "{files} log files after {kill} kills");
    }
}

fn other_tenant() -> TenantId {
    TenantId::new(222_222_222_222).unwrap()
}

async fn topic_of(engine: &Engine, tenant: TenantId) -> PartitionId {
    let id = TopicId::random();
    let name_index = schloss_crypto::digest::sha256(&id.to_bytes());
    let row = TopicRow { tenant, topic_id: id, name_index, sealed: vec![1], partitions: 1, created_ms: 1 };
    engine.create_topic(row, LogConfig::default()).await.unwrap();
    PartitionId { topic: id, index: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_whose_key_is_denied_at_start_loses_nothing_and_the_others_are_served() {
    let world = World::new();
    let engine = world.open().await;
    let (ours, theirs) = (topic_of(&engine, tenant()).await, topic_of(&engine, other_tenant()).await);
    put(&engine, ours, &[b"in a segment"]).await;
    let state = StateRecord { key: Bytes::from_static(b"\x05group"), value: Some(Bytes::from_static(b"offset")) };
    engine.put_state(tenant(), vec![state.clone()]).await.unwrap();
    engine.flush().await.unwrap();
    put(&engine, ours, &[b"in the log"]).await;
    put(&engine, theirs, &[b"theirs"]).await;
    drop(engine);
    world.vault.set_denied(tenant().to_bytes(), true);
    let engine = world.open().await;
    assert_eq!(engine.locked_tenants().len(), 1);
    assert_eq!(values(&engine, theirs, 0).await.len(), 1);
    put(&engine, theirs, &[b"more"]).await;
    // Flushes, and retention, and another start must not touch what stays sealed.
    engine.flush().await.unwrap();
    engine.apply_retention().await;
    assert!(engine.unlock(tenant()).await.is_err());
    drop(engine);
    let engine = world.open().await;
    engine.flush().await.unwrap();
    world.vault.set_denied(tenant().to_bytes(), false);
    engine.unlock(tenant()).await.unwrap();
    assert!(engine.locked_tenants().is_empty());
    let expected = vec![(0, b"in a segment".to_vec()), (1, b"in the log".to_vec())];
    assert_eq!(values(&engine, ours, 0).await, expected);
    assert_eq!(engine.state(tenant()), [(state.key, state.value.unwrap())]);
    assert_eq!(put(&engine, ours, &[b"after"]).await, 2);
    engine.flush().await.unwrap();
    drop(engine);
    let engine = world.open().await;
    assert_eq!(values(&engine, ours, 0).await.len(), 3);
    assert_eq!(values(&engine, theirs, 0).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_whose_rows_are_in_doubt_stays_as_it_is_and_the_others_are_served() {
    let mut world = World::new();
    let engine = world.open().await;
    let (ours, gone) = (topic_of(&engine, tenant()).await, topic_of(&engine, tenant()).await);
    let theirs = topic_of(&engine, other_tenant()).await;
    put(&engine, ours, &[b"in a segment"]).await;
    engine.flush().await.unwrap();
    put(&engine, gone, &[b"garbage"]).await;
    engine.flush().await.unwrap();
    engine.delete_topic(gone.topic, 1).await.unwrap();
    put(&engine, ours, &[b"in the log"]).await;
    put(&engine, theirs, &[b"theirs"]).await;
    drop(engine);
    let orphan = world.folder.path().join("objects/seg").join(tenant().to_string()).join("ab".repeat(32));
    std::fs::write(&orphan, b"its row may have been taken away").unwrap();
    let before = world.bytes_of("seg");
    world.doubts = vec![Doubt { tenant: Some(tenant()), table: "partitions".to_owned() }];
    let engine = world.open().await;
    assert_eq!(engine.in_doubt(tenant()).map(|doubt| doubt.tables.clone()), Some(vec!["partitions".to_owned()]));
    assert_eq!(engine.stats().integrity_failures, 1);
    assert!(engine.read(ours, 0, 1024, true).await.is_err() && engine.unlock(tenant()).await.is_err());
    assert_eq!(values(&engine, theirs, 0).await.len(), 1);
    put(&engine, theirs, &[b"more"]).await;
    engine.flush().await.unwrap();
    engine.apply_retention().await;
    // Erases all garbage at once, but for theirs in doubt.
    assert!(engine.shred_tenant(other_tenant()).await.unwrap().log_purged, "what stays sealed is set aside");
    drop(engine);
    assert_eq!(world.bytes_of("seg"), before, "nothing of the tenant in doubt was erased or swept");
    assert!(world.bytes_of("aside") > 0);
    world.doubts.clear();
    let engine = world.open().await;
    let expected = vec![(0, b"in a segment".to_vec()), (1, b"in the log".to_vec())];
    assert_eq!(values(&engine, ours, 0).await, expected);
    assert!(!orphan.exists(), "a start without doubt sweeps");
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoint_of_a_shard_that_the_manifest_does_not_know_is_refused_and_nothing_is_swept() {
    let world = World::new();
    let engine = world.open().await;
    let ours = topic_of(&engine, tenant()).await;
    put(&engine, ours, &[b"one"]).await;
    engine.flush().await.unwrap();
    engine.close().await;
    drop(engine);
    let (objects, before) = (world.folder.path().join("objects"), world.object_bytes());
    std::fs::copy(objects.join("checkpoint/0000"), objects.join("checkpoint/0007")).unwrap();
    let refused = world.try_open(world.config()).await.map(drop).unwrap_err();
    assert!(matches!(refused, OpenError::UnknownShard { shard: 7 }), "{refused}");
    assert_eq!(world.object_bytes(), before);
    std::fs::remove_file(objects.join("checkpoint/0007")).unwrap();
    assert_eq!(values(&*world.open().await, ours, 0).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_tenant_is_neither_written_nor_read_from_segments_and_is_whole_afterwards() {
    let world = World::new();
    let engine = world.open().await;
    let ours = topic_of(&engine, tenant()).await;
    put(&engine, ours, &[b"one"]).await;
    engine.flush().await.unwrap();
    assert_eq!(values(&engine, ours, 0).await.len(), 1);
    world.vault.set_denied(tenant().to_bytes(), true);
    engine.forget_keys(tenant());
    assert!(engine.read(ours, 0, 1024, true).await.is_err(), "neither the index nor the cache outlives the key");
    let refused = engine.submit(ours, batch(&[b"two"], None, NOW_MS), false).await;
    assert_eq!(refused.unwrap_err(), AppendError::Key);
    world.vault.set_denied(tenant().to_bytes(), false);
    assert_eq!(put(&engine, ours, &[b"two"]).await, 1);
    assert_eq!(values(&engine, ours, 0).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rewritten_records_read_the_same_from_new_objects_and_after_a_restart() {
    let world = World::new();
    let engine = world.open().await;
    let (one, two) = (topic_of(&engine, tenant()).await, topic_of(&engine, tenant()).await);
    for n in 0..20_u8 {
        put(&engine, one, &[&[n; 300]]).await;
        put(&engine, two, &[&[n; 30]]).await;
        if n % 7 == 0 {
            engine.flush().await.unwrap();
        }
    }
    engine.flush().await.unwrap();
    let before = (values(&engine, one, 0).await, values(&engine, two, 0).await);
    let progress = tokio::sync::watch::Sender::new((0, 0));
    let done = engine.rewrite(tenant(), None, u64::MAX / 2, &progress).await.unwrap();
    assert_eq!(done.segments, 4);
    assert_eq!((values(&engine, one, 0).await, values(&engine, two, 0).await), before);
    drop(engine);
    let engine = world.open().await;
    assert_eq!((values(&engine, one, 0).await, values(&engine, two, 0).await), before);
    let found = engine.scrub(None, u64::MAX / 2, &progress).await;
    assert_eq!((found.good, found.damaged.len(), found.unread.len()), (4, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn shredded_topic_opens_from_no_copy_of_the_data_folder_and_its_neighbour_is_whole() {
    let world = World::new();
    let engine = world.open().await;
    let (doomed, kept) = (topic_of(&engine, tenant()).await, topic_of(&engine, tenant()).await);
    put(&engine, doomed, &[b"doomed"]).await;
    put(&engine, kept, &[b"kept"]).await;
    engine.flush().await.unwrap();
    engine.close().await;
    drop(engine);
    world.settled().await;
    let copy = tempfile::tempdir().unwrap();
    copy_folder(world.folder.path(), copy.path());
    let engine = world.open().await;
    let done = engine.shred_topic(tenant(), doomed.topic, 1).await.unwrap();
    assert_eq!((done.objects, done.topic_keys, done.log_purged), (1, 1, true));
    assert_eq!(values(&engine, kept, 0).await, [(0, b"kept".to_vec())]);
    engine.close().await;
    drop(engine);
    world.settled().await;
    // The whole data folder as it was, manifest and all; the topic keys as they are.
    for name in ["objects", "wal"] {
        std::fs::remove_dir_all(world.folder.path().join(name)).unwrap();
        copy_folder(&copy.path().join(name), &world.folder.path().join(name));
    }
    std::fs::copy(copy.path().join("manifest.db"), world.folder.path().join("manifest.db")).unwrap();
    let engine = world.open().await;
    assert!(matches!(engine.read(doomed, 0, 1024, true).await, Err(ReadError::Damaged(_))));
    assert_eq!(values(&engine, kept, 0).await, [(0, b"kept".to_vec())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn older_manifest_over_newer_objects_is_refused_and_nothing_is_swept() {
    let world = World::new();
    let engine = world.open().await;
    let ours = topic_of(&engine, tenant()).await;
    put(&engine, ours, &[b"one"]).await;
    engine.flush().await.unwrap();
    engine.close().await;
    drop(engine);
    world.settled().await;
    let manifest = world.folder.path().join("manifest.db");
    let older = std::fs::read(&manifest).unwrap();
    let engine = world.open().await;
    put(&engine, ours, &[b"two"]).await;
    engine.flush().await.unwrap();
    engine.close().await;
    drop(engine);
    world.settled().await;
    let objects = world.object_bytes();
    let newer = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, older).unwrap();
    let refused = world.try_open(world.config()).await.map(drop).unwrap_err();
    assert!(matches!(refused, OpenError::OlderManifest { .. }), "{refused}");
    assert_eq!(world.object_bytes(), objects);
    std::fs::write(&manifest, newer).unwrap();
    assert_eq!(values(&*world.open().await, ours, 0).await.len(), 2);
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}
