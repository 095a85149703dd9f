//! The suite on SQLite, and what only a file can get wrong.

use super::*;

crate::metadata_suite!(SqliteMetadata::in_memory().unwrap());

#[tokio::test]
async fn second_process_is_refused_while_the_first_holds_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.db");
    let first = SqliteMetadata::open(&path).unwrap();
    let cluster = first.cluster_id().await.unwrap();
    assert_eq!(SqliteMetadata::open(&path).unwrap_err(), MetadataError::Locked { path: path.clone() });
    assert_eq!(first.cluster_id().await.unwrap(), cluster);
}

#[test]
fn newer_format_is_refused_and_left_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.db");
    let connection = schema::open(&path).unwrap();
    connection.pragma_update(None, "user_version", schema::FORMAT + 1).unwrap();
    drop(connection);
    let before = std::fs::read(&path).unwrap();
    let known = schema::FORMAT;
    assert_eq!(
        SqliteMetadata::open(&path).unwrap_err(),
        MetadataError::NewerFormat { path: path.clone(), found: known + 1, known }
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn file_of_another_program_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "not a database at all, but long enough to be read as one".repeat(30)).unwrap();
    assert_eq!(SqliteMetadata::open(&text).unwrap_err(), MetadataError::NotOurs { path: text });
    let foreign = folder.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert_eq!(SqliteMetadata::open(&foreign).unwrap_err(), MetadataError::NotOurs { path: foreign });
}
