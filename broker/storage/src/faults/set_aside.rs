//! Tenants whose keys are away across flushes, kills and restarts: the log does not grow, and all is back with the key.

use object_store::ObjectStoreExt;
use object_store::path::Path;
use schloss_metadata::AsideRow;

use super::*;
use crate::integrity::{Finding, IntegritySink};

const AWAY: u64 = 1;
const OTHER: u64 = 2;

impl World {
    fn deny(&self, denied: bool) {
        self.vault.set_denied(tenant(AWAY).to_bytes(), denied);
    }

    async fn rows(&self) -> Vec<AsideRow> {
        self.metadata.aside().await.unwrap()
    }

    async fn aside_objects(&self) -> Vec<Path> {
        use futures::TryStreamExt;
        let listed: Vec<_> = self.objects.list(Some(&Path::from("aside"))).try_collect().await.unwrap();
        listed.into_iter().map(|meta| meta.location).collect()
    }

    fn log_entries(&self) -> usize {
        self.wal.log().entries.len()
    }
}

async fn put_all(engine: &Engine, partition: PartitionId, values: &[&[u8]]) {
    for value in values {
        put(engine, partition, batch(1, value, None)).await.unwrap();
    }
}

async fn payloads(engine: &Engine, partition: PartitionId) -> Vec<Bytes> {
    stored(engine, partition).await.into_iter().map(|(_, payload)| payload).collect()
}

fn expected(values: &[&[u8]]) -> Vec<Bytes> {
    values.iter().map(|value| payload(&batch(1, value, None))).collect()
}

/// A flush behind all that was acknowledged, also when another was under way.
async fn flush_twice(engine: &Engine) {
    for _ in 0..2 {
        drop(engine.flush().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_tenants_entries_are_set_aside_through_kills_and_restarts_and_back_in_order() {
    let mut world = World::new();
    let mut engine = world.open().await;
    let (away, other) = (topic(&engine, tenant(AWAY), 1).await, topic(&engine, tenant(OTHER), 2).await);
    put_all(&engine, away, &[b"one", b"two"]).await;
    let state = StateRecord { key: Bytes::from_static(b"\x07key"), value: Some(Bytes::from_static(b"value")) };
    engine.put_state(tenant(AWAY), vec![state.clone()]).await.unwrap();
    put_all(&engine, away, &[b"three"]).await;
    world.deny(true);
    for round in 0..6 {
        put_all(&engine, other, &[b"meanwhile"]).await;
        flush_twice(&engine).await;
        assert_eq!(world.log_entries(), 1, "round {round}: nothing but the last entry");
        assert_eq!(world.rows().await.len(), 1, "round {round}: nothing came since");
        assert_eq!(world.aside_objects().await.len(), 1);
        assert!(engine.stats().log_bytes_set_aside > 0);
        if round % 2 == 1 {
            if round == 3 {
                engine.close().await;
            }
            engine = world.crash(engine).await;
            assert_eq!(engine.locked_tenants().len(), 1);
            assert!(engine.unlock(tenant(AWAY)).await.unwrap_err().key_is_away());
        }
    }
    world.deny(false);
    engine.unlock(tenant(AWAY)).await.unwrap();
    assert_eq!(payloads(&engine, away).await, expected(&[b"one", b"two", b"three"]));
    assert_eq!(engine.state(tenant(AWAY)), vec![(state.key.clone(), state.value.clone().unwrap())]);
    put_all(&engine, away, &[b"four"]).await;
    // Not flushed since: the next start reads what is set aside, and the log behind it.
    engine = world.crash(engine).await;
    assert_eq!(payloads(&engine, away).await, expected(&[b"one", b"two", b"three", b"four"]));
    flush_twice(&engine).await;
    assert_eq!((world.rows().await, world.aside_objects().await), (vec![], vec![]), "given up with the flush");
    assert_eq!(engine.stats().log_bytes_set_aside, 0);
    engine = world.crash(engine).await;
    assert_eq!(payloads(&engine, away).await, expected(&[b"one", b"two", b"three", b"four"]));
    assert_eq!(engine.state(tenant(AWAY)), vec![(state.key, state.value.unwrap())]);
    assert_eq!(payloads(&engine, other).await, expected(&[b"meanwhile".as_slice(); 6]));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_a_key_cannot_be_reached_is_set_aside_object_by_object() {
    let mut world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, tenant(AWAY), 1).await;
    put_all(&engine, partition, &[b"one"]).await;
    world.vault.set_unreachable(true);
    for (n, value) in [(1, b"two"), (2, b"six")] {
        flush_twice(&engine).await;
        assert_eq!(world.rows().await.len(), n);
        // Under the epoch key in use, which is young.
        put_all(&engine, partition, &[value]).await;
    }
    flush_twice(&engine).await;
    let rows = world.rows().await;
    assert!(rows.len() == 3 && rows.windows(2).all(|pair| pair[0].last < pair[1].first), "{rows:?}");
    assert_eq!(world.log_entries(), 1);
    let engine = world.crash(engine).await;
    assert_eq!(engine.locked_tenants().len(), 1);
    world.vault.set_unreachable(false);
    let engine = world.crash(engine).await;
    assert_eq!(payloads(&engine, partition).await, expected(&[b"one", b"two", b"six"]));
    flush_twice(&engine).await;
    assert!(world.rows().await.is_empty());
    assert_eq!(payloads(&engine, partition).await, expected(&[b"one", b"two", b"six"]));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_set_aside_of_a_tenant_are_bounded_although_state_takes_no_tail() {
    let world = World::new();
    let engine = world.try_open(|config| config.tail_bytes_max = 40_000).await.unwrap();
    let record = |n: u32| StateRecord {
        key: Bytes::from_static(b"\x07key"),
        value: Some([&n.to_be_bytes()[..], &[0; 1000]].concat().into()),
    };
    engine.put_state(tenant(AWAY), vec![record(0)]).await.unwrap();
    world.vault.set_unreachable(true);
    flush_twice(&engine).await;
    let mut taken = 1;
    while engine.put_state(tenant(AWAY), vec![record(taken)]).await.is_ok() {
        taken += 1;
        assert!(taken < 100, "never refused");
        if taken % 5 == 0 {
            flush_twice(&engine).await;
        }
    }
    flush_twice(&engine).await;
    let bytes = engine.stats().log_bytes_set_aside;
    assert!((15_000..25_000).contains(&bytes), "{bytes} with half a tail of 40,000");
    world.vault.set_unreachable(false);
    flush_twice(&engine).await;
    engine.put_state(tenant(AWAY), vec![record(taken)]).await.unwrap();
    assert_eq!(engine.stats().log_bytes_set_aside, 0);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_that_does_not_read_back_holds_what_it_has_and_nothing_is_set_aside() {
    let world = World::new();
    let engine = world.open().await;
    let partition = topic(&engine, tenant(AWAY), 1).await;
    put_all(&engine, partition, &[b"one", b"two"]).await;
    world.deny(true);
    let whole = world.wal.log().entries.clone();
    let last = *whole.keys().next_back().unwrap();
    world.wal.log().entries.insert(last, forged(&whole[&last], |_, body| body.clear()));
    flush_twice(&engine).await;
    assert!(world.rows().await.is_empty() && world.aside_objects().await.is_empty());
    assert_eq!(engine.flush_or_set_aside().await, Err(AppendError::Full), "a backup would lack it");
    assert!(world.log_entries() >= 2, "the log keeps it");
    world.wal.log().entries = whole;
    flush_twice(&engine).await;
    assert_eq!((world.rows().await.len(), world.log_entries()), (1, 1));
    engine.close().await;
}

#[derive(Default)]
struct Told(Mutex<Vec<Finding>>);

impl IntegritySink for Told {
    fn damaged(&self, finding: Finding) {
        self.0.lock().unwrap().push(finding);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_missing_cut_or_exchanged_object_is_that_tenants_damage_and_never_skipped() {
    for damage in 0..4 {
        let mut world = World::new();
        let engine = world.open().await;
        let (away, other) = (topic(&engine, tenant(AWAY), 1).await, topic(&engine, tenant(OTHER), 2).await);
        put_all(&engine, away, &[b"one"]).await;
        world.vault.set_unreachable(true);
        flush_twice(&engine).await;
        put_all(&engine, away, &[b"two"]).await;
        flush_twice(&engine).await;
        world.vault.set_unreachable(false);
        world.deny(true);
        put_all(&engine, other, &[b"served"]).await;
        drop(engine.flush().await);
        let objects: Vec<Path> = world.rows().await.iter().map(crate::aside::path).collect();
        assert_eq!(objects.len(), 2);
        let content = |path: Path| {
            let store = world.objects.clone();
            async move { store.get(&path).await.unwrap().bytes().await.unwrap() }
        };
        let (first, second) = (content(objects[0].clone()).await, content(objects[1].clone()).await);
        match damage {
            0 => {
                let mut altered = first.to_vec();
                *altered.last_mut().unwrap() ^= 1;
                world.objects.put(&objects[0], altered.into()).await.unwrap();
            }
            1 => world.objects.delete(&objects[0]).await.unwrap(),
            2 => drop(world.objects.put(&objects[0], first.slice(..first.len() - 1).into()).await.unwrap()),
            _ => {
                world.objects.put(&objects[0], second.into()).await.unwrap();
                world.objects.put(&objects[1], first.into()).await.unwrap();
            }
        }
        world.deny(false);
        let engine = world.crash(engine).await;
        let told = Arc::new(Told::default());
        engine.attach_integrity_sink(told.clone());
        assert_eq!(payloads(&engine, other).await, expected(&[b"served"]), "the others are served");
        let (locked, why) = engine.locked_tenants().pop().unwrap();
        assert!(locked == tenant(AWAY) && why.contains("set aside"), "{why}");
        for _ in 0..2 {
            let error = engine.unlock(tenant(AWAY)).await.unwrap_err();
            assert!(error.is_one_tenants() && !error.key_is_away(), "{error}");
        }
        let findings = told.0.lock().unwrap().clone();
        assert!(findings.len() == 1 && findings[0].tenant == tenant(AWAY), "{findings:?}");
        assert!(objects.iter().any(|object| findings[0].object == object.to_string()), "{findings:?}");
        let scrubbed = engine.scrub(None, u64::MAX, &tokio::sync::watch::Sender::new((0, 0))).await;
        assert!(!scrubbed.damaged.is_empty(), "change {damage}");
        assert!(stored_nothing(&engine, away));
        flush_twice(&engine).await;
        assert_eq!(world.rows().await.len(), 2, "kept for whoever puts the objects back");
        engine.close().await;
    }
}

fn stored_nothing(engine: &Engine, partition: PartitionId) -> bool {
    engine.offsets(partition).unwrap().high_watermark == 0
}

#[tokio::test(flavor = "multi_thread")]
async fn shredding_another_empties_the_log_and_shredding_its_own_takes_what_is_set_aside() {
    let world = World::new();
    let engine = world.open().await;
    let (away, other) = (topic(&engine, tenant(AWAY), 1).await, topic(&engine, tenant(OTHER), 2).await);
    put_all(&engine, away, &[b"kept"]).await;
    put_all(&engine, other, &[b"gone"]).await;
    world.deny(true);
    let done = engine.shred_tenant(tenant(OTHER)).await.unwrap();
    assert!(done.log_purged, "one tenant's key does not hold another's entries");
    assert_eq!(world.rows().await.len(), 1);
    world.deny(false);
    assert_eq!(payloads(&engine, away).await, expected(&[b"kept"]));
    world.deny(true);
    let done = engine.shred_tenant(tenant(AWAY)).await.unwrap();
    assert!(done.log_purged);
    assert_eq!((world.rows().await, world.aside_objects().await), (vec![], vec![]));
    assert_eq!(engine.stats().log_bytes_set_aside, 0);
    flush_twice(&engine).await;
    assert_eq!((world.rows().await, world.aside_objects().await), (vec![], vec![]));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shredding_a_topic_says_while_its_tenants_entries_are_set_aside_and_they_go_with_the_key() {
    let world = World::new();
    let engine = world.open().await;
    let (doomed, kept) = (topic(&engine, tenant(AWAY), 1).await, topic(&engine, tenant(AWAY), 2).await);
    put_all(&engine, doomed, &[b"doomed"]).await;
    put_all(&engine, kept, &[b"kept"]).await;
    world.vault.set_unreachable(true);
    flush_twice(&engine).await;
    let done = engine.shred_topic(tenant(AWAY), doomed.topic, 1).await.unwrap();
    assert!(!done.log_purged, "its entries are set aside");
    world.vault.set_unreachable(false);
    flush_twice(&engine).await;
    assert_eq!((world.rows().await, world.aside_objects().await), (vec![], vec![]));
    assert_eq!(payloads(&engine, kept).await, expected(&[b"kept"]));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn object_set_aside_that_no_row_names_is_swept_at_the_next_start() {
    let mut world = World::new();
    let engine = world.open().await;
    let orphan = Path::from("aside/0000/000000000001/00");
    world.objects.put(&orphan, vec![1].into()).await.unwrap();
    let engine = world.crash(engine).await;
    assert!(world.aside_objects().await.is_empty());
    engine.close().await;
}

/// How the keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    There,
    /// The first tenant's.
    Denied,
    /// Everybody's.
    Unreachable,
}

#[derive(Clone, Debug)]
enum Move {
    Put { of: usize, batches: usize, bytes: usize },
    State { key: u8, value: u8 },
    Flush,
    Keys(Keys),
    Crash,
    Restart,
}

fn a_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        6 => (0_usize..2, 1_usize..4, 1_usize..2000).prop_map(|(of, batches, bytes)| Move::Put { of, batches, bytes }),
        2 => (0_u8..4, any::<u8>()).prop_map(|(key, value)| Move::State { key, value }),
        3 => Just(Move::Flush),
        3 => prop_oneof![2 => Just(Keys::There), 2 => Just(Keys::Denied), 1 => Just(Keys::Unreachable)].prop_map(Move::Keys),
        2 => Just(Move::Crash),
        1 => Just(Move::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn nothing_acknowledged_is_lost_doubled_or_reordered_while_keys_come_and_go(moves in prop::collection::vec(a_move(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let ended = runtime.block_on(async { tokio::time::timeout(std::time::Duration::from_secs(30), history(moves)).await });
        assert!(ended.is_ok(), "somebody was never answered");
    }
}

/// Two tenants with what their clients know of each.
struct Both {
    partitions: [PartitionId; 2],
    truths: [Truth; 2],
    /// Not looked at since the last start.
    unsettled: [bool; 2],
}

impl Both {
    fn locked(engine: &Engine, of: usize) -> bool {
        engine.locked_tenants().iter().any(|(locked, _)| *locked == tenant(of as u64 + 1))
    }

    /// Opens who can be opened, and holds what is there against what was acknowledged.
    async fn look(&mut self, engine: &Engine, keys: Keys) {
        for of in 0..2 {
            if keys == Keys::Unreachable || (keys == Keys::Denied && of == 0) {
                continue;
            }
            engine.unlock(tenant(of as u64 + 1)).await.unwrap();
            if std::mem::take(&mut self.unsettled[of]) {
                self.truths[of].settle(engine, self.partitions[of]).await;
            }
            self.truths[of].check(engine, self.partitions[of]).await;
        }
    }
}

async fn history(moves: Vec<Move>) {
    let mut world = World::new();
    let mut engine = world.open().await;
    let partitions = [topic(&engine, tenant(AWAY), 1).await, topic(&engine, tenant(OTHER), 2).await];
    let mut both = Both { partitions, truths: [Truth::default(), Truth::default()], unsettled: [false; 2] };
    let mut keys = Keys::There;
    for one in moves {
        match one {
            Move::Put { of, batches, bytes } if !both.unsettled[of] && !Both::locked(&engine, of) => {
                both.truths[of].put(&engine, partitions[of], batches, 1, bytes).await;
            }
            Move::State { key, value } if !both.unsettled[0] && !Both::locked(&engine, 0) => {
                both.truths[0].set(&engine, key, value).await;
            }
            Move::Put { .. } | Move::State { .. } => {}
            Move::Flush => {
                flush_twice(&engine).await;
                assert_eq!(world.log_entries(), 1, "the log does not grow");
            }
            Move::Keys(now) => {
                keys = now;
                world.deny(keys == Keys::Denied);
                world.vault.set_unreachable(keys == Keys::Unreachable);
            }
            Move::Crash | Move::Restart => {
                if matches!(one, Move::Restart) {
                    engine.close().await;
                }
                engine = world.crash(engine).await;
                both.unsettled = [true; 2];
            }
        }
        both.look(&engine, keys).await;
    }
    world.deny(false);
    world.vault.set_unreachable(false);
    engine = world.crash(engine).await;
    both.unsettled = [true; 2];
    both.look(&engine, Keys::There).await;
    flush_twice(&engine).await;
    assert!(world.rows().await.is_empty());
    both.look(&engine, Keys::There).await;
    // What a crash left of a flush is swept at a start.
    engine.close().await;
    engine = world.crash(engine).await;
    assert!(world.aside_objects().await.is_empty());
    both.look(&engine, Keys::There).await;
    engine.close().await;
}
