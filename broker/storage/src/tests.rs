//! Promises of the engine: durability through crashes, idempotence, fairness to keys, retention, full disks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use proptest::prelude::*;
use schloss_core::{ManualClock, PartitionId, TenantId, TopicId};
use schloss_crypto::testing::TestVault;
use schloss_metadata::{Metadata, NewPartition, NewTopic, SqliteMetadata};

use crate::batch::testing::batch;
use crate::wal::disk::Disk;
use crate::wal::mem_disk::MemDisk;
use crate::*;

const FILE_BYTES: u64 = 256 * 1024;

/// Everything that outlives a process.
struct World {
    disk: MemDisk,
    metadata: Arc<SqliteMetadata>,
    store: Arc<InMemory>,
    vault: Arc<TestVault>,
    clock: Arc<ManualClock>,
    config: EngineConfig,
}

fn tenant(account: u64) -> TenantId {
    TenantId::new(account).unwrap()
}

fn partition(topic: u8, index: i32) -> PartitionId {
    PartitionId { topic: TopicId::from_bytes([topic; 16]), index }
}

impl World {
    fn new() -> Self {
        let mut config = EngineConfig::new("unused".into());
        config.wal_file_bytes = FILE_BYTES;
        config.frame_bytes = 512;
        Self {
            disk: MemDisk::new(),
            metadata: Arc::new(SqliteMetadata::in_memory().unwrap()),
            store: Arc::new(InMemory::new()),
            vault: TestVault::new(),
            clock: Arc::new(ManualClock::at(1_000_000)),
            config,
        }
    }

    async fn open(&self) -> Arc<Engine> {
        self.try_open().await.unwrap()
    }

    async fn try_open(&self) -> Result<Arc<Engine>, OpenError> {
        Engine::open_on(
            self.config.clone(),
            vec![Arc::new(self.disk.clone()) as Arc<dyn Disk>],
            Arc::clone(&self.metadata) as _,
            Arc::clone(&self.store) as _,
            Arc::clone(&self.vault) as _,
            Arc::clone(&self.clock) as _,
        )
        .await
    }

    /// Creates a topic of two partitions.
    async fn topic(&self, engine: &Engine, account: u64, topic: u8) {
        let shard = engine.shard_for(tenant(account));
        let id = TopicId::from_bytes([topic; 16]);
        let new = NewTopic {
            topic: id,
            name_index: [topic; 32],
            sealed: vec![],
            partitions: (0..2).map(|index| NewPartition { index, shard }).collect(),
            created_ms: 0,
        };
        self.metadata.create_topics(tenant(account), vec![new]).await.unwrap();
        let specs = (0..2).map(|index| PartitionSpec { index, log: LogConfig::default() }).collect();
        engine.add_partitions(tenant(account), id, specs);
    }

    async fn objects(&self) -> usize {
        use futures::TryStreamExt;
        self.store.list(None).try_collect::<Vec<_>>().await.unwrap().len()
    }
}

async fn append(engine: &Engine, account: u64, to: PartitionId, batch: Batch) -> Result<Appended, AppendError> {
    let appends = vec![Append { partition: to, batches: vec![batch] }];
    engine.submit(tenant(account), appends).await.remove(0)
}

fn plain(payload: &[u8]) -> Batch {
    batch(1, (-1, -1, -1), 1_000_000, payload)
}

/// Bodies of all batches of a partition, by single reads of `max_bytes`.
async fn bodies(engine: &Engine, account: u64, of: PartitionId, max_bytes: usize) -> Vec<Bytes> {
    let offsets = engine.offsets(tenant(account), of).unwrap();
    let mut at = offsets.log_start;
    let mut all = Vec::new();
    while at < offsets.high_watermark {
        let read = engine.read(tenant(account), of, at, max_bytes, true).await.unwrap();
        let joined: Vec<u8> = read.records.iter().flatten().copied().collect();
        let batches = split_batches(joined.into()).unwrap();
        for batch in batches.iter().filter(|batch| batch.last_offset() >= at) {
            all.push(batch.pieces()[1].clone());
        }
        let next = batches.last().unwrap().last_offset() + 1;
        assert!(next > at, "a read must go on");
        at = next;
    }
    all
}

#[tokio::test]
async fn acknowledged_batches_and_state_survive_a_crash() {
    let world = World::new();
    let engine = world.open().await;
    world.topic(&engine, 1, 1).await;
    for number in 0..10_u8 {
        let appended = append(&engine, 1, partition(1, 0), plain(&[number])).await.unwrap();
        assert_eq!(appended.base_offset, i64::from(number));
    }
    let set = |value: Option<&'static [u8]>| StateRecord { key: "group".into(), value: value.map(Bytes::from_static) };
    engine.put_state(tenant(1), vec![set(Some(b"one")), set(Some(b"two"))]).await.unwrap();
    drop(engine);
    let again = world.open().await;
    let expected: Vec<Bytes> = (0..10_u8).map(|number| Bytes::from(vec![number])).collect();
    assert_eq!(bodies(&again, 1, partition(1, 0), 100).await, expected);
    assert_eq!(again.state(tenant(1)), [("group".into(), "two".into())]);
    assert_eq!(append(&again, 1, partition(1, 0), plain(b"x")).await.unwrap().base_offset, 10);
    assert_eq!(again.end_offset_for_epoch(tenant(1), partition(1, 0), 1).unwrap(), Some((1, 10)));
}

#[tokio::test]
async fn flushed_batches_and_state_survive_close_and_are_read_from_segments() {
    let world = World::new();
    let engine = world.open().await;
    world.topic(&engine, 1, 1).await;
    let expected: Vec<Bytes> = (0..60_u8).map(|number| Bytes::from(vec![number; 100])).collect();
    for (number, body) in expected.iter().enumerate() {
        append(&engine, 1, partition(1, 0), plain(body)).await.unwrap();
        if number == 20 {
            assert!(engine.flush().await);
        }
    }
    engine.put_state(tenant(1), vec![StateRecord { key: "k".into(), value: Some("v".into()) }]).await.unwrap();
    assert_eq!(bodies(&engine, 1, partition(1, 0), 300).await, expected);
    engine.close().await;
    let again = world.open().await;
    assert_eq!(again.stats().tail_bytes, 0);
    assert_eq!(bodies(&again, 1, partition(1, 0), 300).await, expected);
    assert_eq!(bodies(&again, 1, partition(1, 0), usize::MAX).await, expected);
    assert_eq!(again.state(tenant(1)), [("k".into(), "v".into())]);
    assert!(again.stats().cache_hits > 0);
}

#[tokio::test]
async fn read_inside_a_flushed_batch_gives_the_whole_batch() {
    let world = World::new();
    let engine = world.open().await;
    world.topic(&engine, 1, 1).await;
    for _ in 0..3 {
        append(&engine, 1, partition(1, 0), batch(5, (-1, -1, -1), 7, b"body")).await.unwrap();
    }
    assert!(engine.flush().await);
    let read = engine.read(tenant(1), partition(1, 0), 7, 1, true).await.unwrap();
    let joined: Vec<u8> = read.records.concat();
    let found = split_batches(joined.into()).unwrap();
    assert_eq!(found.iter().map(Batch::base_offset).collect::<Vec<_>>(), [5]);
    assert!(engine.read(tenant(1), partition(1, 0), 7, 1, false).await.unwrap().is_empty());
}

#[tokio::test]
async fn retried_batch_is_not_doubled_even_after_flush_and_restart() {
    let world = World::new();
    let mut engine = world.open().await;
    world.topic(&engine, 1, 1).await;
    let first = batch(2, (7, 0, 0), 5, b"first");
    let second = batch(2, (7, 0, 2), 5, b"second");
    assert_eq!(append(&engine, 1, partition(1, 0), first.clone()).await.unwrap().base_offset, 0);
    assert_eq!(append(&engine, 1, partition(1, 0), second.clone()).await.unwrap().base_offset, 2);
    for _ in 0..2 {
        assert_eq!(append(&engine, 1, partition(1, 0), second.clone()).await.unwrap().base_offset, 2);
        assert_eq!(append(&engine, 1, partition(1, 0), first.clone()).await.unwrap().base_offset, 0);
        let gap = append(&engine, 1, partition(1, 0), batch(1, (7, 0, 9), 5, b"gap")).await;
        assert_eq!(gap, Err(AppendError::OutOfOrderSequence { got: 9, expected: 4 }));
        engine.close().await;
        engine = world.open().await;
    }
    assert_eq!(engine.offsets(tenant(1), partition(1, 0)).unwrap().high_watermark, 4);
}

#[tokio::test]
async fn pipelined_submissions_keep_their_order() {
    let world = World::new();
    let engine = world.open().await;
    world.topic(&engine, 1, 1).await;
    let submitted: Vec<_> = (0..200_u8)
        .map(|number| {
            let batches = vec![batch(1, (3, 0, i32::from(number)), 5, &[number])];
            engine.submit(tenant(1), vec![Append { partition: partition(1, 1), batches }])
        })
        .collect();
    for (number, answer) in (0_i64..).zip(submitted) {
        assert_eq!(answer.await[0].as_ref().unwrap().base_offset, number);
    }
    assert!(engine.stats().wal_entries < 150, "submissions share entries");
}

#[tokio::test]
async fn partition_of_another_tenant_is_absent() {
    let world = World::new();
    let engine = world.open().await;
    world.topic(&engine, 1, 1).await;
    assert_eq!(append(&engine, 2, partition(1, 0), plain(b"x")).await, Err(AppendError::UnknownPartition));
    assert_eq!(append(&engine, 1, partition(9, 0), plain(b"x")).await, Err(AppendError::UnknownPartition));
    assert_eq!(engine.offsets(tenant(2), partition(1, 0)), Err(ReadError::UnknownPartition));
    assert_eq!(engine.delete_records(tenant(2), partition(1, 0), 0).await, Err(AppendError::UnknownPartition));
    let read = engine.read(tenant(2), partition(1, 0), 0, 1, true).await;
    assert_eq!(read.err(), Some(ReadError::UnknownPartition));
}

#[tokio::test]
async fn no_record_or_state_byte_is_readable_on_disk() {
    let world = World::new();
    let engine = world.open().await;
    world.topic(&engine, 1, 1).await;
    let marker = b"a-marker-of-thirty-two-bytes-....";
    append(&engine, 1, partition(1, 0), plain(marker)).await.unwrap();
    let key = Bytes::from_static(marker);
    engine.put_state(tenant(1), vec![StateRecord { key: key.clone(), value: Some(key) }]).await.unwrap();
    assert!(engine.flush().await);
    use futures::TryStreamExt;
    let mut bytes = world.disk.bytes();
    for object in world.store.list(None).try_collect::<Vec<_>>().await.unwrap() {
        use object_store::ObjectStoreExt;
        bytes.extend(world.store.get(&object.location).await.unwrap().bytes().await.unwrap());
    }
    for row in world.metadata.state(engine.shard_for(tenant(1))).await.unwrap() {
        bytes.extend(row.sealed.unwrap());
    }
    assert!(!bytes.windows(marker.len()).any(|window| window == marker));
}

#[tokio::test]
async fn tenant_whose_key_is_denied_holds_up_nobody_and_loses_nothing() {
    let world = World::new();
    let engine = world.open().await;
    world.topic(&engine, 1, 1).await;
    world.topic(&engine, 2, 2).await;
    append(&engine, 1, partition(1, 0), plain(b"kept")).await.unwrap();
    world.vault.set_denied(tenant(1).to_bytes(), true);
    engine.suspend(tenant(1), true);
    assert_eq!(append(&engine, 1, partition(1, 0), plain(b"x")).await, Err(AppendError::KeyDenied));
    assert_eq!(engine.offsets(tenant(1), partition(1, 0)), Err(ReadError::Key));
    append(&engine, 2, partition(2, 0), plain(b"other")).await.unwrap();
    assert!(!engine.flush().await, "one tenant's tail stays");
    drop(engine);

    let again = world.open().await;
    assert_eq!(bodies(&again, 2, partition(2, 0), 100).await, [&b"other"[..]]);
    assert_eq!(again.offsets(tenant(1), partition(1, 0)), Err(ReadError::Key));
    append(&again, 2, partition(2, 0), plain(b"more")).await.unwrap();
    assert!(again.flush().await);
    drop(again);

    world.vault.set_denied(tenant(1).to_bytes(), false);
    let allowed = world.open().await;
    assert_eq!(bodies(&allowed, 1, partition(1, 0), 100).await, [&b"kept"[..]]);
    assert_eq!(bodies(&allowed, 2, partition(2, 0), 100).await, [&b"other"[..], b"more"]);
}

#[tokio::test]
async fn full_disk_refuses_retriably_and_recovers_by_itself() {
    let world = World::new();
    let engine = world.open().await;
    world.topic(&engine, 1, 1).await;
    append(&engine, 1, partition(1, 0), batch(1, (5, 0, 0), 1, b"first")).await.unwrap();
    world.disk.set_space(0);
    let big = vec![1; 60_000];
    let mut written = 1;
    let refused = loop {
        match append(&engine, 1, partition(1, 0), batch(1, (5, 0, written), 1, &big)).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100, "the disk never fills");
    };
    assert_eq!(refused, AppendError::NoSpace);
    assert_eq!(bodies(&engine, 1, partition(1, 0), usize::MAX).await.len() as i32, written);
    world.disk.set_space(u64::MAX);
    append(&engine, 1, partition(1, 0), batch(1, (5, 0, written), 1, b"again")).await.unwrap();
    assert_eq!(engine.offsets(tenant(1), partition(1, 0)).unwrap().high_watermark, i64::from(written) + 1);
}

#[tokio::test]
async fn failed_sync_stops_the_shard_until_it_is_opened_again() {
    let world = World::new();
    let engine = world.open().await;
    world.topic(&engine, 1, 1).await;
    append(&engine, 1, partition(1, 0), plain(b"good")).await.unwrap();
    world.disk.fail_sync(true);
    assert_eq!(append(&engine, 1, partition(1, 0), plain(b"lost")).await, Err(AppendError::Stopped));
    world.disk.fail_sync(false);
    assert_eq!(append(&engine, 1, partition(1, 0), plain(b"later")).await, Err(AppendError::Stopped));
    assert_eq!(engine.offsets(tenant(1), partition(1, 0)).unwrap().high_watermark, 1);
    drop(engine);
    let world = World { disk: world.disk.after_power_cut(1), ..world };
    let again = world.open().await;
    assert_eq!(bodies(&again, 1, partition(1, 0), 100).await[0], &b"good"[..]);
}

#[tokio::test]
async fn damaged_entry_before_the_end_refuses_the_shard() {
    let world = World::new();
    let engine = world.open().await;
    world.topic(&engine, 1, 1).await;
    for _ in 0..4 {
        append(&engine, 1, partition(1, 0), plain(b"body")).await.unwrap();
    }
    drop(engine);
    // Block 0 is the header; then opening, four entries: the second entry's body.
    world.disk.damage("00000000000000000001.wal", 3 * 4096 + 200..3 * 4096 + 201);
    let refused = world.try_open().await.err();
    assert!(matches!(refused, Some(OpenError::Wal { error: WalError::Damaged { epoch: 1, seq: 3 }, .. })), "{refused:?}");
}

#[tokio::test]
async fn retention_and_deletion_free_objects() {
    let world = World::new();
    let engine = world.open().await;
    world.topic(&engine, 1, 1).await;
    world.topic(&engine, 1, 2).await;
    for topic in [1, 2] {
        append(&engine, 1, partition(topic, 0), plain(b"old")).await.unwrap();
        assert!(engine.flush().await);
    }
    append(&engine, 1, partition(1, 0), batch(1, (-1, -1, -1), 9_000_000, b"new")).await.unwrap();
    assert!(engine.flush().await);
    assert_eq!(world.objects().await, 3);
    world.clock.advance(Duration::from_secs(8000));
    let config = LogConfig { retention_ms: 1000, ..LogConfig::default() };
    engine.set_log_config(tenant(1), partition(1, 0).topic, config);
    until(|| engine.offsets(tenant(1), partition(1, 0)).unwrap().log_start == 1).await;
    let refused = engine.read(tenant(1), partition(1, 0), 0, 100, true).await.err();
    assert_eq!(refused, Some(ReadError::OffsetOutOfRange { log_start: 1, high_watermark: 2 }));
    let topic = partition(2, 0).topic;
    world.metadata.delete_topics(tenant(1), vec![topic], 0).await.unwrap();
    engine.remove_topic(tenant(1), topic).await;
    assert_eq!(engine.offsets(tenant(1), partition(2, 0)), Err(ReadError::UnknownPartition));
    assert_eq!(world.objects().await, 1);
}

#[tokio::test]
async fn deleted_records_stay_deleted_over_restarts() {
    let world = World::new();
    let engine = world.open().await;
    world.topic(&engine, 1, 1).await;
    for _ in 0..4 {
        append(&engine, 1, partition(1, 0), plain(b"x")).await.unwrap();
    }
    assert_eq!(engine.delete_records(tenant(1), partition(1, 0), 2).await, Ok(2));
    assert_eq!(engine.delete_records(tenant(1), partition(1, 0), 5).await, Err(AppendError::OffsetOutOfRange));
    drop(engine);
    let crashed = world.open().await;
    assert_eq!(crashed.offsets(tenant(1), partition(1, 0)).unwrap().log_start, 2);
    assert_eq!(crashed.delete_records(tenant(1), partition(1, 0), -1).await, Ok(4));
    crashed.close().await;
    let closed = world.open().await;
    assert_eq!(closed.offsets(tenant(1), partition(1, 0)).unwrap().log_start, 4);
}

#[tokio::test]
async fn offset_is_found_by_time_in_segments_and_tail() {
    let world = World::new();
    let engine = world.open().await;
    world.topic(&engine, 1, 1).await;
    for time_ms in [100, 200, 300, 400] {
        append(&engine, 1, partition(1, 0), batch(2, (-1, -1, -1), time_ms, &[0; 300])).await.unwrap();
        if time_ms == 300 {
            assert!(engine.flush().await);
        }
    }
    let at = async |time_ms| {
        let hit = engine.offset_for_time(tenant(1), partition(1, 0), time_ms).await.unwrap();
        hit.map(|hit| (hit.base_offset, hit.max_timestamp))
    };
    assert_eq!(at(0).await, Some((0, 100)));
    assert_eq!(at(201).await, Some((4, 300)));
    assert_eq!(at(400).await, Some((6, 400)));
    assert_eq!(at(401).await, None);
    let largest = engine.max_timestamp(tenant(1), partition(1, 0)).await.unwrap().unwrap();
    assert_eq!(largest.base_offset, 6);
}

#[tokio::test]
async fn orphan_of_a_cut_flush_is_swept_at_start() {
    let world = World::new();
    let engine = world.open().await;
    world.topic(&engine, 1, 1).await;
    append(&engine, 1, partition(1, 0), plain(b"x")).await.unwrap();
    engine.close().await;
    let orphan = object_store::path::Path::from(format!("seg/{}/{:032x}", tenant(1), 7));
    use object_store::ObjectStoreExt;
    world.store.put(&orphan, "left over".into()).await.unwrap();
    assert_eq!(world.objects().await, 2);
    let again = world.open().await;
    assert_eq!(world.objects().await, 1);
    assert_eq!(bodies(&again, 1, partition(1, 0), 100).await.len(), 1);
}

#[tokio::test]
async fn every_flipped_byte_of_a_segment_serves_no_wrong_byte() {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;
    let world = World::new();
    let engine = world.open().await;
    world.topic(&engine, 1, 1).await;
    append(&engine, 1, partition(1, 0), plain(b"the very records")).await.unwrap();
    engine.close().await;
    let object = world.store.list(None).try_collect::<Vec<_>>().await.unwrap().remove(0).location;
    let good = world.store.get(&object).await.unwrap().bytes().await.unwrap();
    let engine = world.open().await;
    for at in (0..good.len()).filter(|at| *at < 250 || *at >= 4090) {
        let mut bad = good.to_vec();
        bad[at] ^= 1;
        world.store.put(&object, bad.into()).await.unwrap();
        engine.suspend(tenant(1), true);
        engine.suspend(tenant(1), false);
        // The key slot's copy and padding are not what is read; everything else must be refused.
        if let Ok(read) = engine.read(tenant(1), partition(1, 0), 0, 1000, true).await {
            assert!(at < 4096, "byte {at}");
            assert!(read.records.concat().ends_with(b"the very records"), "byte {at}");
        }
    }
    assert!(engine.stats().tamper_refusals > 0);
}

#[tokio::test]
async fn watch_wakes_when_a_batch_is_durable() {
    let world = World::new();
    let engine = world.open().await;
    world.topic(&engine, 1, 1).await;
    let watch = engine.watch(&[partition(1, 0), partition(1, 1)]);
    append(&engine, 1, partition(1, 1), plain(b"x")).await.unwrap();
    watch.changed().await;
    assert_eq!(engine.offsets(tenant(1), partition(1, 1)).unwrap().high_watermark, 1);
}

/// Lets tasks run until a fact holds.
async fn until(fact: impl Fn() -> bool) {
    for _ in 0..2000 {
        if fact() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("it never became true");
}

/// One life of the process: what was acknowledged is checked in all later lives.
async fn life(world: &World, acknowledged: &mut Vec<Vec<u8>>, next: &mut i32, steps: u64, appends: usize, flush: bool) {
    world.disk.cut_after(u64::MAX);
    let engine = world.open().await;
    if world.metadata.topics(None).await.unwrap().is_empty() {
        world.topic(&engine, 1, 1).await;
    }
    let found = bodies(&engine, 1, partition(1, 0), 2000).await;
    // Everything acknowledged, in order; behind it at most what was in flight when the power went.
    assert!(found.len() >= acknowledged.len(), "{} acknowledged, {} found", acknowledged.len(), found.len());
    for (number, body) in acknowledged.iter().enumerate() {
        assert_eq!(found[number], body[..], "record {number}");
    }
    assert!(found.len() <= acknowledged.len() + 3);
    for body in &found[acknowledged.len()..] {
        acknowledged.push(body.to_vec());
    }
    *next = i32::try_from(acknowledged.len()).unwrap();
    world.disk.cut_after(steps);
    for number in 0..appends {
        let submitted: Vec<_> = (0..3)
            .map(|_| {
                let body = vec![u8::try_from(*next % 251).unwrap(); 1 + usize::try_from(*next * 37 % 9000).unwrap()];
                let batches = vec![batch(1, (4, 0, *next), 9, &body)];
                *next += 1;
                (body, engine.submit(tenant(1), vec![Append { partition: partition(1, 0), batches }]))
            })
            .collect();
        for (body, answer) in submitted {
            match &answer.await[0] {
                Ok(appended) => {
                    assert_eq!(appended.base_offset, i64::try_from(acknowledged.len()).unwrap());
                    acknowledged.push(body);
                }
                Err(_) => return,
            }
        }
        if flush && number % 5 == 2 {
            engine.flush().await;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn nothing_acknowledged_is_lost_reordered_or_doubled_by_power_cuts(
        lives in prop::collection::vec((0_u64..60, 1_usize..20, any::<bool>(), any::<u64>()), 1..6)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            let (mut acknowledged, mut next) = (Vec::new(), 0);
            for (steps, appends, flush, seed) in lives {
                life(&world, &mut acknowledged, &mut next, steps, appends, flush).await;
                world.disk = world.disk.after_power_cut(seed);
            }
            life(&world, &mut acknowledged, &mut next, u64::MAX, 1, true).await;
        });
    }
}
