//! What the embedded store promises beyond the suite.

use std::sync::Arc;

use schloss_core::TenantId;

use super::proofs_tests::key;
use super::*;
use crate::Metadata;

/// A fresh store that keeps its sums.
fn kept(path: &Path) -> SqliteMetadata {
    let accept = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let store = SqliteMetadata::open(path).unwrap();
        runtime.block_on(store.accept(key(1))).unwrap();
        store
    };
    // A runtime within a runtime's thread would be refused.
    thread::scope(|scope| scope.spawn(accept).join().unwrap())
}

#[tokio::test]
async fn sqlite_keeps_every_promise_of_the_suite_and_its_sums() {
    let folder = tempfile::tempdir().unwrap();
    let all = std::sync::Mutex::new(Vec::new());
    crate::suite::run(|| {
        let mut all = all.lock().unwrap();
        let store = Arc::new(kept(&folder.path().join(format!("{}.db", all.len()))));
        all.push(Arc::clone(&store));
        store
    })
    .await
    .unwrap();
    for store in all.into_inner().unwrap() {
        assert_eq!(store.examine(key(1)).await.unwrap(), []);
    }
}

#[test]
fn second_process_is_refused_while_the_first_lives() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifest.db");
    let first = SqliteMetadata::open(&path).unwrap();
    assert!(matches!(SqliteMetadata::open(&path), Err(MetadataError::Locked)));
    drop(first);
}

#[test]
fn newer_format_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifest.db");
    drop(SqliteMetadata::open(&path).unwrap());
    let raw = loop {
        let raw = Connection::open(&path).unwrap();
        if raw.execute_batch("PRAGMA user_version = 99").is_ok() {
            break raw;
        }
    };
    drop(raw);
    assert!(matches!(SqliteMetadata::open(&path), Err(MetadataError::NewerFormat { found: 99, known: FORMAT })));
}

#[tokio::test]
async fn file_of_the_first_format_is_left_alone_until_it_is_accepted_and_keeps_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifest.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(SCHEMA).unwrap();
    old.execute_batch(
        "INSERT INTO cluster (id) VALUES (x'07070707070707070707070707070707');
         INSERT INTO partitions VALUES (zeroblob(16), 0, 1, 0, 3);
         INSERT INTO segment_parts VALUES (zeroblob(16), 0, 3, 9, zeroblob(32), 10, 1, 2);",
    )
    .unwrap();
    old.execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;")).unwrap();
    drop(old);
    let store = SqliteMetadata::open(&path).unwrap();
    assert_eq!(store.cluster_id().await.unwrap(), [7; 16]);
    assert!(store.is_of_earlier_format().await.unwrap() && !store.is_blank().await.unwrap());
    assert_eq!(store.prove(key(1)).await.unwrap(), [Doubt { tenant: None, table: "proofs".to_owned() }]);
    assert!(store.is_of_earlier_format().await.unwrap());
    store.accept(key(1)).await.unwrap();
    let tenant = TenantId::new(1).unwrap();
    assert_eq!(store.sealed(tenant, "x").await.unwrap(), vec![]);
    let parts = store.parts().await.unwrap();
    assert_eq!((parts.len(), parts[0].tenant, parts[0].first_offset, parts[0].next_offset), (1, tenant, 3, 9));
    drop(store);
    assert_eq!(SqliteMetadata::open(&path).unwrap().prove(key(1)).await.unwrap(), []);
}

#[test]
fn database_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifest.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE notes (text TEXT)").unwrap();
    assert!(matches!(SqliteMetadata::open(&path), Err(MetadataError::Foreign)));
}
