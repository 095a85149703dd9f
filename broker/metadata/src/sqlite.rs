//! The embedded store: one SQLite file, one thread that owns the connection.
//!
//! WAL mode, `synchronous=FULL`, `secure_delete=ON`, exclusive lock: a second process is refused while this one lives.

mod rows;
mod verbs;

use std::path::Path;
use std::sync::mpsc;
use std::thread;

use rusqlite::{Connection, ErrorCode, Transaction, params};
use tokio::sync::oneshot;

use crate::MetadataError;

/// `application_id` of our files: "SCHL".
const APPLICATION_ID: i64 = 0x5343_484c;
/// `user_version`: the format; the first plus its migrations.
const FORMAT: i64 = 1 + MIGRATIONS.len() as i64;

const SCHEMA: &str = "
CREATE TABLE cluster (id BLOB NOT NULL);
CREATE TABLE topics (
    topic_id BLOB PRIMARY KEY, tenant INTEGER NOT NULL, name_index BLOB NOT NULL, sealed BLOB NOT NULL,
    partitions INTEGER NOT NULL, created_ms INTEGER NOT NULL, UNIQUE (tenant, name_index)) WITHOUT ROWID;
CREATE TABLE partitions (
    topic_id BLOB NOT NULL, idx INTEGER NOT NULL, tenant INTEGER NOT NULL, shard INTEGER NOT NULL,
    log_start INTEGER NOT NULL, PRIMARY KEY (topic_id, idx)) WITHOUT ROWID;
CREATE TABLE keys (
    tenant BLOB NOT NULL, purpose TEXT NOT NULL, generation INTEGER NOT NULL, wrapped BLOB NOT NULL,
    PRIMARY KEY (tenant, purpose, generation)) WITHOUT ROWID;
CREATE TABLE shards (
    shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, writer BLOB NOT NULL,
    checkpoint_epoch INTEGER NOT NULL, checkpoint_seq INTEGER NOT NULL, opened INTEGER NOT NULL);
CREATE TABLE epochs (shard INTEGER NOT NULL, epoch INTEGER NOT NULL, end_seq INTEGER NOT NULL, PRIMARY KEY (shard, epoch)) WITHOUT ROWID;
CREATE TABLE segments (
    object_id BLOB PRIMARY KEY, segment BLOB NOT NULL, tenant INTEGER NOT NULL, wrapped BLOB NOT NULL, born_ms INTEGER NOT NULL,
    size INTEGER NOT NULL, frame_count INTEGER NOT NULL, footer_position INTEGER NOT NULL, footer_tag BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE segment_parts (
    topic_id BLOB NOT NULL, idx INTEGER NOT NULL, first_offset INTEGER NOT NULL, next_offset INTEGER NOT NULL,
    object_id BLOB NOT NULL, bytes INTEGER NOT NULL, max_timestamp INTEGER NOT NULL, appended_ms INTEGER NOT NULL,
    PRIMARY KEY (topic_id, idx, first_offset)) WITHOUT ROWID;
CREATE INDEX parts_by_object ON segment_parts (object_id);
CREATE TABLE garbage (object_id BLOB PRIMARY KEY, tenant INTEGER NOT NULL, removed_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE state (
    shard INTEGER NOT NULL, tenant INTEGER NOT NULL, key_index BLOB NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (shard, tenant, key_index)) WITHOUT ROWID;
";

/// What made format n + 2 of format n + 1. A new file takes them all, so there is one way to every format.
const MIGRATIONS: [&str; 2] = ["
CREATE TABLE sealed (
    tenant INTEGER NOT NULL, kind TEXT NOT NULL, key_index BLOB NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (tenant, kind, key_index)) WITHOUT ROWID;
", "
CREATE TABLE aside (
    shard INTEGER NOT NULL, tenant INTEGER NOT NULL, first_epoch INTEGER NOT NULL, first_seq INTEGER NOT NULL,
    last_epoch INTEGER NOT NULL, last_seq INTEGER NOT NULL, object_id BLOB NOT NULL, size INTEGER NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (shard, tenant, first_epoch, first_seq)) WITHOUT ROWID;
"];

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The embedded store.
pub struct SqliteMetadata {
    /// `None` only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for SqliteMetadata {
    /// Waits until the file is closed: a process that ended sooner would leave SQLite's log beside it, and the next start
    /// would write to the file even when it is refused for another reason.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id()) {
            drop(thread.join());
        }
    }
}

impl SqliteMetadata {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// [`MetadataError::Locked`], [`MetadataError::NewerFormat`], [`MetadataError::Foreign`], or SQLite's own.
    pub fn open(path: &Path) -> Result<Self, MetadataError> {
        let mut connection = Connection::open(path).map_err(translate)?;
        prepare(&mut connection)?;
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = thread::Builder::new()
            .name("metadata".to_owned())
            .spawn(move || {
                for job in queue {
                    job(&mut connection);
                }
            })
            .map_err(|error| MetadataError::Sql(error.to_string()))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Transaction<'_>) -> Result<T, MetadataError> + Send + 'static,
    ) -> Result<T, MetadataError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // The asker may be gone; the change stands all the same.
            drop(reply.send(in_transaction(connection, job)));
        });
        self.jobs.as_ref().ok_or(MetadataError::Closed)?.send(job).map_err(|_| MetadataError::Closed)?;
        answer.await.map_err(|_| MetadataError::Closed)?
    }
}

impl SqliteMetadata {
    /// For a manifest that is restored without its logs: everything in it is in segments, and epochs go on above those of before.
    ///
    /// # Errors
    /// SQLite's own.
    pub async fn begin_logs_anew(&self) -> Result<(), MetadataError> {
        self.run(|sql| {
            sql.execute_batch("UPDATE shards SET checkpoint_epoch = 0, checkpoint_seq = 0, opened = 0; DELETE FROM epochs; DELETE FROM garbage;")
                .map_err(translate)
        })
        .await
    }

    /// As `run`, for what SQLite does outside of transactions only.
    async fn run_alone<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, MetadataError> + Send + 'static,
    ) -> Result<T, MetadataError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| drop(reply.send(job(connection))));
        self.jobs.as_ref().ok_or(MetadataError::Closed)?.send(job).map_err(|_| MetadataError::Closed)?;
        answer.await.map_err(|_| MetadataError::Closed)?
    }
}

fn in_transaction<T>(
    connection: &mut Connection,
    job: impl FnOnce(&Transaction<'_>) -> Result<T, MetadataError>,
) -> Result<T, MetadataError> {
    let transaction = connection.transaction().map_err(translate)?;
    let value = job(&transaction)?;
    transaction.commit().map_err(translate)?;
    Ok(value)
}

fn prepare(connection: &mut Connection) -> Result<(), MetadataError> {
    connection.busy_timeout(std::time::Duration::from_millis(0)).map_err(translate)?;
    connection
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA secure_delete = ON; PRAGMA foreign_keys = ON;")
        .map_err(translate)?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).map_err(translate)?;
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(translate)?;
    let format: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(translate)?;
    if tables > 0 && application != APPLICATION_ID {
        return Err(MetadataError::Foreign);
    }
    if format > FORMAT {
        return Err(MetadataError::NewerFormat { found: format, known: FORMAT });
    }
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;").map_err(translate)?;
    if tables == 0 {
        in_transaction(connection, |sql| {
            sql.execute_batch(SCHEMA).map_err(translate)?;
            sql.execute("INSERT INTO cluster (id) VALUES (?1)", params![schloss_core::ClusterId::random().to_bytes()])
                .map_err(translate)?;
            sql.execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;"))
                .map_err(translate)
        })?;
    }
    migrate(connection, format.max(1))
}

/// Brings an older file to [`FORMAT`], in one transaction.
fn migrate(connection: &mut Connection, format: i64) -> Result<(), MetadataError> {
    if format == FORMAT {
        // A start that is refused for another reason must not have written.
        return Ok(());
    }
    in_transaction(connection, |sql| {
        let done = usize::try_from(format.saturating_sub(1)).unwrap_or(0);
        for migration in MIGRATIONS.iter().skip(done) {
            sql.execute_batch(migration).map_err(translate)?;
        }
        sql.execute_batch(&format!("PRAGMA user_version = {FORMAT};")).map_err(translate)
    })
}

fn translate(error: rusqlite::Error) -> MetadataError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => MetadataError::Locked,
        Some(ErrorCode::DiskFull) => MetadataError::Full,
        Some(ErrorCode::NotADatabase) => MetadataError::Foreign,
        Some(ErrorCode::ConstraintViolation) => MetadataError::Exists,
        _ => MetadataError::Sql(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
