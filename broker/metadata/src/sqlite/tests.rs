//! What the embedded store promises beyond the suite.

use std::sync::Arc;

use schloss_core::TenantId;

use super::*;
use crate::Metadata;

#[tokio::test]
async fn sqlite_keeps_every_promise_of_the_suite() {
    let folder = tempfile::tempdir().unwrap();
    let number = std::sync::atomic::AtomicU32::new(0);
    crate::suite::run(|| {
        let n = number.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Arc::new(SqliteMetadata::open(&folder.path().join(format!("{n}.db"))).unwrap())
    })
    .await
    .unwrap();
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
async fn file_of_the_first_format_is_brought_to_the_newest_and_keeps_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifest.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(SCHEMA).unwrap();
    old.execute("INSERT INTO cluster (id) VALUES (?1)", params![[7_u8; 16]]).unwrap();
    old.execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;")).unwrap();
    drop(old);
    let store = SqliteMetadata::open(&path).unwrap();
    assert_eq!(store.cluster_id().await.unwrap(), [7; 16]);
    assert_eq!(store.sealed(TenantId::new(1).unwrap(), "x").await.unwrap(), vec![]);
}

#[test]
fn database_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifest.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE notes (text TEXT)").unwrap();
    assert!(matches!(SqliteMetadata::open(&path), Err(MetadataError::Foreign)));
}
