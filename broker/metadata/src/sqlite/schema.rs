//! Opening the file: ours or not, which format, alone or not; and the tables of format 1.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use schloss_core::ClusterId;

use crate::MetadataError;

/// `Schl`, so that `file` and we know whose it is.
const APPLICATION_ID: i64 = 0x5363_686c;
/// The newest format known here.
pub(super) const FORMAT: i64 = 1;

const TABLES: &str = "
CREATE TABLE installation (cluster BLOB NOT NULL);
CREATE TABLE tenants (tenant INTEGER PRIMARY KEY, sealed BLOB NOT NULL, created_ms INTEGER NOT NULL);
CREATE TABLE keys (tenant INTEGER NOT NULL, purpose TEXT NOT NULL, generation INTEGER NOT NULL, wrapped BLOB NOT NULL,
    PRIMARY KEY (tenant, purpose, generation)) WITHOUT ROWID;
CREATE TABLE topics (topic BLOB PRIMARY KEY, tenant INTEGER NOT NULL, name_index BLOB NOT NULL, sealed BLOB NOT NULL,
    created_ms INTEGER NOT NULL, UNIQUE (tenant, name_index)) WITHOUT ROWID;
CREATE TABLE partitions (topic BLOB NOT NULL, idx INTEGER NOT NULL, tenant INTEGER NOT NULL, shard INTEGER NOT NULL,
    epoch_base INTEGER NOT NULL, log_start INTEGER NOT NULL, next_offset INTEGER NOT NULL, epochs BLOB NOT NULL,
    producers BLOB NOT NULL, PRIMARY KEY (topic, idx)) WITHOUT ROWID;
CREATE INDEX partitions_by_shard ON partitions (shard);
CREATE TABLE shards (shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, writer BLOB NOT NULL,
    checkpoint_epoch INTEGER NOT NULL, checkpoint_seq INTEGER NOT NULL, opened INTEGER NOT NULL);
CREATE TABLE epochs (shard INTEGER NOT NULL, epoch INTEGER NOT NULL, end_seq INTEGER NOT NULL,
    PRIMARY KEY (shard, epoch)) WITHOUT ROWID;
CREATE TABLE segments (segment BLOB PRIMARY KEY, tenant INTEGER NOT NULL, shard INTEGER NOT NULL,
    object_id BLOB NOT NULL, born_ms INTEGER NOT NULL, size INTEGER NOT NULL, footer_position INTEGER NOT NULL,
    frame_count INTEGER NOT NULL, footer_tag BLOB NOT NULL, wrapped BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX segments_by_shard ON segments (shard);
CREATE TABLE segment_parts (topic BLOB NOT NULL, idx INTEGER NOT NULL, first_offset INTEGER NOT NULL,
    next_offset INTEGER NOT NULL, max_timestamp INTEGER NOT NULL, bytes INTEGER NOT NULL, segment BLOB NOT NULL,
    PRIMARY KEY (topic, idx, first_offset)) WITHOUT ROWID;
CREATE INDEX parts_by_segment ON segment_parts (segment);
CREATE TABLE garbage (segment BLOB PRIMARY KEY, tenant INTEGER NOT NULL, removed_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE state (shard INTEGER NOT NULL, tenant INTEGER NOT NULL, row_key BLOB NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (shard, tenant, row_key)) WITHOUT ROWID;
CREATE TABLE changes (number INTEGER PRIMARY KEY AUTOINCREMENT, tenant INTEGER NOT NULL, topic BLOB NOT NULL);
";

pub(super) fn open(path: &Path) -> Result<Connection, MetadataError> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(|error| at_path(&error, path))?;
    prepare(connection, path).map_err(|error| match error {
        Opening::Sqlite(error) => at_path(&error, path),
        Opening::Refused(error) => error,
    })
}

pub(super) fn in_memory() -> Result<Connection, MetadataError> {
    let connection = Connection::open_in_memory().map_err(|error| from_sqlite(&error))?;
    prepare(connection, Path::new(":memory:")).map_err(|error| match error {
        Opening::Sqlite(error) => from_sqlite(&error),
        Opening::Refused(error) => error,
    })
}

enum Opening {
    Sqlite(rusqlite::Error),
    Refused(MetadataError),
}

impl From<rusqlite::Error> for Opening {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn prepare(mut connection: Connection, path: &Path) -> Result<Connection, Opening> {
    // The lock first: nothing is read, let alone written, beside another process.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.busy_timeout(std::time::Duration::ZERO)?;
    refuse_foreign(&connection, path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "foreign_keys", "OFF")?;
    connection.set_prepared_statement_cache_capacity(64);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    if transaction.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))? == 0 {
        transaction.execute_batch(TABLES)?;
        transaction.execute("INSERT INTO installation VALUES (?1)", [ClusterId::random().to_bytes()])?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
    }
    transaction.commit()?;
    Ok(connection)
}

fn refuse_foreign(connection: &Connection, path: &Path) -> Result<(), Opening> {
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let format: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let empty = application == 0 && format == 0 && tables == 0;
    if !empty && application != APPLICATION_ID {
        return Err(Opening::Refused(MetadataError::NotOurs { path: path.into() }));
    }
    if format > FORMAT {
        return Err(Opening::Refused(MetadataError::NewerFormat { path: path.into(), found: format, known: FORMAT }));
    }
    Ok(())
}

pub(super) fn in_transaction<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, MetadataError>,
) -> Result<T, MetadataError> {
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|error| from_sqlite(&error))?;
    // An error drops the transaction, which rolls back.
    let answer = work(&transaction)?;
    transaction.commit().map_err(|error| from_sqlite(&error))?;
    Ok(answer)
}

fn at_path(error: &rusqlite::Error, path: &Path) -> MetadataError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => MetadataError::Locked { path: path.into() },
        Some(ErrorCode::NotADatabase) => MetadataError::NotOurs { path: path.into() },
        _ => from_sqlite(error),
    }
}

pub(super) fn from_sqlite(error: &rusqlite::Error) -> MetadataError {
    match (error.sqlite_error_code(), error.sqlite_error()) {
        (Some(ErrorCode::DiskFull), _) => MetadataError::Full,
        (Some(ErrorCode::DatabaseCorrupt), _) => MetadataError::Corrupt { what: "file" },
        (_, Some(inner)) => MetadataError::Failed { code: inner.extended_code },
        // A column of another type or length than we wrote.
        _ => MetadataError::Corrupt { what: "row" },
    }
}

impl From<rusqlite::Error> for MetadataError {
    fn from(error: rusqlite::Error) -> Self {
        from_sqlite(&error)
    }
}
