//! What the sums find, and that they follow every change.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rusqlite::types::Value;
use schloss_core::{PartitionId, ShardId, TopicId};
use schloss_crypto::DataKey;

use super::*;
use crate::{
    AsideRow, FlushCommit, KeyRow, Metadata, PartRow, PartitionRow, SealedRow, SegmentRow, ShardGuard, StateRow,
    TopicRow,
};

pub fn key(byte: u8) -> Arc<IntegrityKey> {
    Arc::new(IntegrityKey::new(&DataKey::take(&mut [byte; 32])))
}

fn tenant(account: u64) -> TenantId {
    TenantId::new(account).unwrap()
}

fn id(account: u64, topic: u8) -> PartitionId {
    PartitionId { topic: TopicId::from_bytes([topic.wrapping_add(u8::try_from(account).unwrap() * 64); 16]), index: 0 }
}

fn topic(account: u64, number: u8) -> (TopicRow, Vec<PartitionRow>) {
    let (tenant, partition) = (tenant(account), id(account, number));
    let row = TopicRow {
        tenant,
        topic_id: partition.topic,
        name_index: [number; 32],
        sealed: vec![number],
        partitions: 1,
        created_ms: 5,
    };
    (row, vec![PartitionRow { tenant, partition, shard: ShardId(0), log_start: 0 }])
}

fn segment(account: u64, object: u8) -> SegmentRow {
    SegmentRow {
        object_id: [object; 32],
        segment: [object; 16],
        tenant: tenant(account),
        wrapped: vec![object],
        born_ms: 1,
        size: 10,
        frame_count: 1,
        footer_position: 5,
        footer_tag: [object; 16],
    }
}

fn part(account: u64, number: u8, object: u8, first_offset: i64) -> PartRow {
    PartRow {
        tenant: tenant(account),
        partition: id(account, number),
        first_offset,
        next_offset: first_offset + 5,
        object_id: [object; 32],
        bytes: 10,
        max_timestamp: 1,
        appended_ms: 1,
    }
}

fn wrapped(owner: [u8; 16], wrapped: u8) -> KeyRow {
    KeyRow { tenant: owner, purpose: "metadata".to_owned(), generation: 0, wrapped: vec![wrapped] }
}

fn sealed(account: u64, sealed: &[u8]) -> SealedRow {
    SealedRow { tenant: tenant(account), kind: "scram".to_owned(), key_index: [1; 32], sealed: sealed.to_vec() }
}

fn state(account: u64, sealed: &[u8]) -> StateRow {
    StateRow { tenant: tenant(account), key_index: [2; 32], sealed: sealed.to_vec() }
}

async fn take(store: &SqliteMetadata) -> ShardGuard {
    let row = store.acquire(ShardId(0), [7; 16], 0).await.unwrap();
    ShardGuard { shard: ShardId(0), epoch: row.epoch, writer: [7; 16] }
}

/// A store with rows of two tenants in every table, closed. Objects: 10 and 11 of the first, 20 of the second, 12 garbage.
async fn filled(folder: &Path) -> PathBuf {
    let path = folder.join("manifest.db");
    let store = SqliteMetadata::open(&path).unwrap();
    assert!(store.is_blank().await.unwrap());
    store.accept(key(1)).await.unwrap();
    let guard = take(&store).await;
    store.confirm(guard, vec![(1, 4)]).await.unwrap();
    for account in [1, 2] {
        let (row, partitions) = topic(account, 1);
        store.create_topic(row, partitions).await.unwrap();
        store.add_key(wrapped(tenant(account).to_bytes(), 3)).await.unwrap();
        store.put_sealed(vec![sealed(account, b"x")]).await.unwrap();
    }
    store.add_key(wrapped([0; 16], 3)).await.unwrap();
    let commit = FlushCommit {
        segments: vec![segment(1, 10), segment(1, 11), segment(1, 12), segment(2, 20)],
        parts: vec![part(1, 1, 10, 5), part(1, 1, 11, 10), part(1, 9, 12, 0), part(2, 1, 20, 5)],
        state: vec![state(1, b"s"), state(2, b"s")],
        aside: vec![aside(1, 1), aside(2, 1)],
        checkpoint: (1, 2),
        ..FlushCommit::default()
    };
    store.flush(guard, commit).await.unwrap();
    assert_eq!(store.garbage(i64::MAX, &[]).await.unwrap().len(), 1);
    assert!(!store.is_blank().await.unwrap());
    path
}

fn aside(account: u64, seq: u64) -> AsideRow {
    let (first, last) = ((1, seq), (1, seq));
    AsideRow { shard: ShardId(0), tenant: tenant(account), first, last, object_id: [3; 32], size: 1, digest: [4; 32] }
}

async fn doubts(path: &Path) -> Vec<Doubt> {
    SqliteMetadata::open(path).unwrap().prove(key(1)).await.unwrap()
}

fn doubt(account: Option<u64>, table: &str) -> Doubt {
    Doubt { tenant: account.map(tenant), table: table.to_owned() }
}

fn raw(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}

#[tokio::test]
async fn rows_as_they_were_written_are_proved_by_the_same_key_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path()).await;
    assert_eq!(doubts(&path).await, []);
    assert_eq!(SqliteMetadata::open(&path).unwrap().prove(key(2)).await.unwrap(), [doubt(None, "proofs")]);
}

/// Another value of the same kind that no row has.
fn altered(value: &Value) -> Value {
    match value {
        Value::Integer(number) => Value::Integer(number + 77),
        Value::Text(text) => Value::Text(format!("{text}x")),
        Value::Blob(bytes) => Value::Blob(bytes.iter().map(|byte| byte ^ 0x55).collect()),
        other => panic!("no column holds {other:?}"),
    }
}

fn rows_of(sql: &Connection, table: &scan::Table) -> Vec<Vec<Value>> {
    let mut statement = sql.prepare(&format!("SELECT * FROM {}", table.name)).unwrap();
    let read = |row: &rusqlite::Row<'_>| (0..table.columns.len()).map(|index| row.get(index)).collect();
    statement.query_map([], read).unwrap().collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn every_edit_of_every_column_of_every_row_and_every_row_gone_is_found_and_its_table_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path()).await;
    let whole = std::fs::read(&path).unwrap();
    let tables = scan::tables(&raw(&path)).unwrap();
    assert_eq!(tables.len(), 12);
    for table in &tables {
        let rows = rows_of(&raw(&path), table);
        assert!(!rows.is_empty(), "{} has rows to edit", table.name);
        for row in rows {
            let place: Vec<String> =
                table.columns.iter().enumerate().map(|(n, c)| format!("{c} IS ?{}", n + 1)).collect();
            let place = place.join(" AND ");
            let mut edits = vec![(format!("DELETE FROM {} WHERE {place}", table.name), None)];
            for (column, value) in table.columns.iter().zip(&row) {
                let edit = format!("UPDATE {} SET {column} = ?{} WHERE {place}", table.name, row.len() + 1);
                edits.push((edit, Some(altered(value))));
            }
            for (edit, value) in edits {
                std::fs::write(&path, &whole).unwrap();
                let changed = raw(&path).execute(&edit, rusqlite::params_from_iter(row.iter().cloned().chain(value)));
                assert_eq!(changed.unwrap(), 1, "{edit}");
                let found = doubts(&path).await;
                assert!(found.iter().any(|doubt| *doubt.table == *table.name), "{edit}: {found:?}");
                let owner = table.tenant.map_or(sums::INSTALLATION, |at| sums::owner_of((&row[at]).into()));
                let owner = sums::tenant_of(&owner);
                assert!(found.iter().any(|doubt| doubt.tenant == owner), "{edit}: {found:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_row_more_is_found_also_twice_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path()).await;
    raw(&path).execute_batch("INSERT INTO cluster (id) VALUES (x'09'), (x'09')").unwrap();
    assert_eq!(doubts(&path).await, [doubt(None, "cluster")]);
}

#[tokio::test]
async fn a_row_of_another_time_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path()).await;
    let old: Vec<u8> =
        raw(&path).query_row("SELECT sealed FROM sealed WHERE tenant = 1", [], |row| row.get(0)).unwrap();
    let store = SqliteMetadata::open(&path).unwrap();
    store.prove(key(1)).await.unwrap();
    store.put_sealed(vec![sealed(1, b"newer")]).await.unwrap();
    drop(store);
    assert_eq!(doubts(&path).await, []);
    raw(&path).execute("UPDATE sealed SET sealed = ?1 WHERE tenant = 1", [old]).unwrap();
    assert_eq!(doubts(&path).await, [doubt(Some(1), "sealed")]);
}

#[tokio::test]
async fn rows_of_a_tenant_put_back_together_with_their_older_sums_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path()).await;
    let read = |query: &str| raw(&path).query_row(query, [], |row| row.get::<_, Vec<u8>>(0)).unwrap();
    let proof = format!("x'{}'", tenant(1).to_bytes().map(|byte| format!("{byte:02x}")).concat());
    let sums = read(&format!("SELECT sealed FROM proofs WHERE tenant = {proof}"));
    let value = read("SELECT sealed FROM sealed WHERE tenant = 1");
    let store = SqliteMetadata::open(&path).unwrap();
    store.prove(key(1)).await.unwrap();
    store.put_sealed(vec![sealed(1, b"newer")]).await.unwrap();
    drop(store);
    raw(&path).execute("UPDATE sealed SET sealed = ?1 WHERE tenant = 1", [value]).unwrap();
    raw(&path).execute(&format!("UPDATE proofs SET sealed = ?1 WHERE tenant = {proof}"), [sums]).unwrap();
    assert_eq!(doubts(&path).await, [doubt(None, "proofs")]);
}

#[tokio::test]
async fn sums_that_are_gone_altered_or_of_an_earlier_format_prove_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path()).await;
    let whole = std::fs::read(&path).unwrap();
    for edit in [
        "DELETE FROM proofs",
        "DELETE FROM proofs WHERE tenant = zeroblob(16)",
        "UPDATE proofs SET sealed = x'00' WHERE tenant = zeroblob(16)",
        "UPDATE proofs SET sealed = (SELECT sealed FROM proofs WHERE tenant = zeroblob(16))",
        "DELETE FROM proofs WHERE tenant <> zeroblob(16)",
        "INSERT INTO proofs (tenant, sealed) VALUES (x'0102', x'03')",
        "PRAGMA user_version = 2",
    ] {
        std::fs::write(&path, &whole).unwrap();
        raw(&path).execute_batch(edit).unwrap();
        assert!(doubts(&path).await.contains(&doubt(None, "proofs")), "{edit}");
    }
}

#[tokio::test]
async fn a_trigger_a_view_or_another_index_is_found_and_not_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path()).await;
    let whole = std::fs::read(&path).unwrap();
    for edit in [
        "CREATE TRIGGER ours AFTER INSERT ON state BEGIN DELETE FROM segment_parts; END",
        "CREATE VIEW ours AS SELECT * FROM topics",
        "DROP INDEX parts_by_object",
        "CREATE INDEX ours ON topics (created_ms) WHERE created_ms > 9",
    ] {
        std::fs::write(&path, &whole).unwrap();
        raw(&path).execute_batch(edit).unwrap();
        assert_eq!(doubts(&path).await, [doubt(None, "sqlite_schema")], "{edit}");
        assert!(matches!(SqliteMetadata::open(&path).unwrap().accept(key(1)).await, Err(MetadataError::Foreign)));
    }
}

#[tokio::test]
async fn an_index_that_leaves_a_row_out_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path()).await;
    let steps = [
        "PRAGMA writable_schema = ON; CREATE TEMP TABLE kept AS SELECT * FROM sqlite_master WHERE name = 'parts_by_object';
         CREATE TEMP TABLE part AS SELECT * FROM segment_parts WHERE object_id = zeroblob(0) OR tenant = 1 LIMIT 1;
         DELETE FROM segment_parts WHERE (topic_id, first_offset) IN (SELECT topic_id, first_offset FROM part);
         DELETE FROM sqlite_master WHERE name = 'parts_by_object'; PRAGMA writable_schema = RESET;",
        "INSERT INTO segment_parts SELECT * FROM part;
         PRAGMA writable_schema = ON; INSERT INTO sqlite_master SELECT * FROM kept; PRAGMA writable_schema = RESET;",
    ];
    let sql = raw(&path);
    for step in steps {
        sql.execute_batch(step).unwrap();
    }
    drop(sql);
    assert_eq!(doubts(&path).await, [doubt(None, "indexes")]);
}

#[tokio::test]
async fn a_tenant_in_doubt_stays_so_whatever_is_written_until_it_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path()).await;
    raw(&path).execute_batch("UPDATE partitions SET log_start = 10 WHERE tenant = 1").unwrap();
    for _ in 0..2 {
        let store = SqliteMetadata::open(&path).unwrap();
        assert_eq!(store.prove(key(1)).await.unwrap(), [doubt(Some(1), "partitions")]);
        let (row, partitions) = topic(1, 2);
        store.create_topic(row.clone(), partitions).await.unwrap();
        store.delete_topic(row.topic_id, 1).await.unwrap();
        store.put_sealed(vec![sealed(1, b"y"), sealed(2, b"y")]).await.unwrap();
    }
    let store = SqliteMetadata::open(&path).unwrap();
    store.accept(key(1)).await.unwrap();
    store.put_sealed(vec![sealed(1, b"z")]).await.unwrap();
    drop(store);
    assert_eq!(doubts(&path).await, []);
}

#[tokio::test]
async fn a_tenant_in_doubt_is_out_of_it_when_it_was_shredded() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path()).await;
    raw(&path).execute_batch("DELETE FROM topics WHERE tenant = 1").unwrap();
    let store = SqliteMetadata::open(&path).unwrap();
    assert_eq!(store.prove(key(1)).await.unwrap(), [doubt(Some(1), "topics")]);
    store.shred_tenant(tenant(1), 9).await.unwrap();
    assert_eq!(store.garbage(i64::MAX, &[tenant(1)]).await.unwrap(), []);
    let garbage = store.garbage(i64::MAX, &[]).await.unwrap();
    assert_eq!(store.examine(key(1)).await.unwrap(), []);
    store.forget_garbage(garbage.into_iter().map(|row| row.object_id).collect()).await.unwrap();
    drop(store);
    assert_eq!(doubts(&path).await, []);
    let owners: i64 = raw(&path).query_row("SELECT count(*) FROM proofs", [], |row| row.get(0)).unwrap();
    assert_eq!(owners, 2, "the other tenant and the installation");
}

#[tokio::test]
async fn a_snapshot_is_proved_and_so_is_what_is_made_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path()).await;
    let (copy, store) = (folder.path().join("copy.db"), SqliteMetadata::open(&path).unwrap());
    store.prove(key(1)).await.unwrap();
    store.snapshot(copy.clone()).await.unwrap();
    let restored = SqliteMetadata::open(&copy).unwrap();
    assert_eq!(restored.prove(key(1)).await.unwrap(), []);
    restored.begin_logs_anew().await.unwrap();
    drop(restored);
    assert_eq!(doubts(&copy).await, []);
}

#[tokio::test]
async fn a_process_that_dies_at_any_byte_leaves_a_proved_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path()).await;
    let store = SqliteMetadata::open(&path).unwrap();
    store.prove(key(1)).await.unwrap();
    let guard = take(&store).await;
    for n in 0..20_u8 {
        let (row, partitions) = topic(1, 20 + n % 3);
        store.create_topic(row.clone(), partitions).await.unwrap();
        store.put_sealed(vec![sealed(1, &[n]), sealed(2, &[n])]).await.unwrap();
        store
            .flush(
                guard,
                FlushCommit { state: vec![state(2, &[n])], checkpoint: (2, n.into()), ..FlushCommit::default() },
            )
            .await
            .unwrap();
        store.delete_topic(row.topic_id, 1).await.unwrap();
    }
    let (main, log) = (std::fs::read(&path).unwrap(), std::fs::read(path.with_extension("db-wal")).unwrap());
    assert!(log.len() > 100_000);
    let died = folder.path().join("died.db");
    for step in 0..60 {
        std::fs::write(&died, &main).unwrap();
        std::fs::write(died.with_extension("db-wal"), &log[..log.len() * step / 59]).unwrap();
        assert_eq!(doubts(&died).await, [], "{step}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Create(u64, u8),
    Update(u64, u8),
    Delete(u64, u8),
    Key(u64, u8),
    Rewrap(u64, u8),
    Put(u64, Vec<u8>),
    Flush(u64, u8, u8, i64, Vec<u8>),
    Stale,
    Start(u64, u8, i64),
    RewrapSegment(u8),
    Replace(u64, u8, u8),
    Shred(u64),
    Acquire,
    Forget,
    Anew,
}

fn step() -> impl Strategy<Value = Step> {
    let (account, topic, object) = (1..3_u64, 0..3_u8, 0..6_u8);
    let bytes = proptest::collection::vec(any::<u8>(), 0..3);
    prop_oneof![
        (account.clone(), topic.clone()).prop_map(|(a, t)| Step::Create(a, t)),
        (account.clone(), topic.clone()).prop_map(|(a, t)| Step::Create(a, t)),
        (account.clone(), topic.clone()).prop_map(|(a, t)| Step::Update(a, t)),
        (account.clone(), topic.clone()).prop_map(|(a, t)| Step::Delete(a, t)),
        (account.clone(), any::<u8>()).prop_map(|(a, w)| Step::Key(a, w)),
        (account.clone(), any::<u8>()).prop_map(|(a, w)| Step::Rewrap(a, w)),
        (account.clone(), bytes.clone()).prop_map(|(a, b)| Step::Put(a, b)),
        (account.clone(), topic.clone(), object.clone(), 0..20_i64, bytes.clone())
            .prop_map(|(a, t, o, f, b)| Step::Flush(a, t, o, f, b)),
        (account.clone(), topic.clone(), object.clone(), 0..20_i64, bytes)
            .prop_map(|(a, t, o, f, b)| Step::Flush(a, t, o, f, b)),
        Just(Step::Stale),
        (account.clone(), topic, 0..25_i64).prop_map(|(a, t, s)| Step::Start(a, t, s)),
        object.clone().prop_map(Step::RewrapSegment),
        (account.clone(), object.clone(), object).prop_map(|(a, o, n)| Step::Replace(a, o, n)),
        account.prop_map(Step::Shred),
        Just(Step::Acquire),
        Just(Step::Forget),
        Just(Step::Anew),
    ]
}

/// Runs one step; refusals are part of it.
async fn run(store: &SqliteMetadata, guard: &mut ShardGuard, step: Step) {
    let done = match step {
        Step::Create(account, number) => {
            let (row, partitions) = topic(account, number);
            store.create_topic(row, partitions).await
        }
        Step::Update(account, number) => {
            let (row, mut added) = topic(account, number);
            added[0].partition.index = 1;
            store.update_topic(TopicRow { sealed: vec![9], partitions: 2, ..row }, added).await
        }
        Step::Delete(account, number) => store.delete_topic(id(account, number).topic, 3).await,
        Step::Key(account, byte) => store.add_key(wrapped(tenant(account).to_bytes(), byte)).await,
        Step::Rewrap(account, byte) => store.rewrap_key(wrapped(tenant(account).to_bytes(), byte)).await,
        Step::Put(account, bytes) => store.put_sealed(vec![sealed(account, &bytes), sealed(account, &bytes)]).await,
        Step::Flush(account, number, object, first, bytes) => {
            let commit = FlushCommit {
                segments: vec![segment(account, object)],
                parts: vec![part(account, number, object, first)],
                state: vec![state(account, &bytes)],
                aside: bytes.first().map(|seq| aside(account, u64::from(*seq))).into_iter().collect(),
                caught_up: if bytes.is_empty() { vec![tenant(account)] } else { vec![] },
                checkpoint: (guard.epoch, 3),
            };
            store.flush(*guard, commit).await
        }
        Step::Stale => store.flush(ShardGuard { epoch: 0, ..*guard }, FlushCommit::default()).await,
        Step::Start(account, number, start) => {
            store.set_log_starts(*guard, vec![(id(account, number), start)], 4).await
        }
        Step::RewrapSegment(object) => store.rewrap_segments(vec![([object; 32], vec![7, 7])]).await,
        Step::Replace(account, old, new) => store.replace_segment(*guard, [old; 32], segment(account, new), 5).await,
        Step::Shred(account) => store.shred_tenant(tenant(account), 6).await,
        Step::Acquire => {
            *guard = take(store).await;
            store.confirm(*guard, vec![(guard.epoch, 2), (1, 9)]).await
        }
        Step::Forget => {
            let garbage = store.garbage(i64::MAX, &[]).await.unwrap();
            store.forget_garbage(garbage.into_iter().map(|row| row.object_id).collect()).await
        }
        Step::Anew => store.begin_logs_anew().await,
    };
    assert!(matches!(done, Ok(()) | Err(MetadataError::Exists | MetadataError::Fenced)), "{done:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn sums_agree_with_a_full_scan_after_any_verbs(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("manifest.db");
            let store = SqliteMetadata::open(&path).unwrap();
            store.accept(key(1)).await.unwrap();
            let mut guard = take(&store).await;
            for step in steps {
                let told = format!("{step:?}");
                run(&store, &mut guard, step).await;
                assert_eq!(store.examine(key(1)).await.unwrap(), [], "after {told}");
            }
            drop(store);
            assert_eq!(doubts(&path).await, []);
        });
    }
}
