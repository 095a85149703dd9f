//! The embedded store: one SQLite file, one thread that owns the connection.
//!
//! WAL mode, `synchronous=FULL`, `secure_delete=ON`, exclusive lock: a second process is refused while this one lives.
//!
//! A file that is there is opened as it is. [`SqliteMetadata::prove`] compares it with the sums sealed when it was written and keeps
//! them from then on; [`SqliteMetadata::accept`] seals what is there, for a new file and for one that an operator looked at.

mod proofs;
mod rows;
mod scan;
mod sums;
mod verbs;

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;

use rusqlite::{Connection, ErrorCode, Transaction, params};
use schloss_core::TenantId;
use schloss_crypto::IntegrityKey;
use tokio::sync::oneshot;

use crate::{Doubt, MetadataError};
use proofs::{Keeper, Keeping};

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
///
/// A file of an older format has no sums and is brought to the newest only when it is accepted. A migration after the third changes
/// rows that are under sums: it belongs behind their comparison, in one transaction with the sealing of what it made.
const MIGRATIONS: [&str; 2] = [
    "
CREATE TABLE sealed (
    tenant INTEGER NOT NULL, kind TEXT NOT NULL, key_index BLOB NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (tenant, kind, key_index)) WITHOUT ROWID;
",
    "
CREATE TABLE proofs (tenant BLOB PRIMARY KEY, sealed BLOB NOT NULL) WITHOUT ROWID;
DROP INDEX parts_by_object;
ALTER TABLE segment_parts RENAME TO older_parts;
CREATE TABLE segment_parts (
    topic_id BLOB NOT NULL, idx INTEGER NOT NULL, tenant INTEGER NOT NULL, first_offset INTEGER NOT NULL, next_offset INTEGER NOT NULL,
    object_id BLOB NOT NULL, bytes INTEGER NOT NULL, max_timestamp INTEGER NOT NULL, appended_ms INTEGER NOT NULL,
    PRIMARY KEY (topic_id, idx, first_offset)) WITHOUT ROWID;
INSERT INTO segment_parts (topic_id, idx, tenant, first_offset, next_offset, object_id, bytes, max_timestamp, appended_ms)
    SELECT o.topic_id, o.idx, coalesce(p.tenant, 0), o.first_offset, o.next_offset, o.object_id, o.bytes, o.max_timestamp, o.appended_ms
    FROM older_parts o LEFT JOIN partitions p ON p.topic_id = o.topic_id AND p.idx = o.idx;
DROP TABLE older_parts;
CREATE INDEX parts_by_object ON segment_parts (object_id);
CREATE TABLE aside (
    shard INTEGER NOT NULL, tenant INTEGER NOT NULL, first_epoch INTEGER NOT NULL, first_seq INTEGER NOT NULL,
    last_epoch INTEGER NOT NULL, last_seq INTEGER NOT NULL, object_id BLOB NOT NULL, size INTEGER NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (shard, tenant, first_epoch, first_seq)) WITHOUT ROWID;
",
];

/// The connection, and who keeps its sums.
struct Store {
    connection: Connection,
    keeping: Keeping,
}

type Job = Box<dyn FnOnce(&mut Store) + Send>;

/// The embedded store.
pub struct SqliteMetadata {
    /// `None` only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
    keeping: Keeping,
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
        let keeping = Keeping::default();
        let mut store = Store { connection, keeping: keeping.clone() };
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = thread::Builder::new()
            .name("metadata".to_owned())
            .spawn(move || {
                for job in queue {
                    job(&mut store);
                }
            })
            .map_err(|error| MetadataError::Sql(error.to_string()))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), keeping })
    }

    /// Whether nothing was ever kept in it: no row but the installation's id and the installation's own keys, and no sums. A start that
    /// breaks off between making the file and sealing its first sums leaves it so.
    ///
    /// # Errors
    /// SQLite's own.
    pub async fn is_blank(&self) -> Result<bool, MetadataError> {
        self.on_connection(|store| is_blank(&store.connection)).await
    }

    /// Whether the tables, indexes and triggers are those of the file's format, and no others.
    ///
    /// # Errors
    /// SQLite's own.
    pub async fn has_known_tables(&self) -> Result<bool, MetadataError> {
        self.on_connection(|store| scan::has_our_schema(&store.connection)).await
    }

    /// Whether it is of a release that kept no sums.
    ///
    /// # Errors
    /// SQLite's own.
    pub async fn is_of_earlier_format(&self) -> Result<bool, MetadataError> {
        self.on_connection(|store| Ok(format_of(&store.connection)? < FORMAT)).await
    }

    /// Compares every row with the sums sealed under `key`. Writes nothing. One pass over all rows.
    ///
    /// # Errors
    /// SQLite's own.
    pub async fn examine(&self, key: Arc<IntegrityKey>) -> Result<Vec<Doubt>, MetadataError> {
        self.on_connection(move |store| Ok(scan::examine(&store.connection, &key)?.doubts)).await
    }

    /// [`SqliteMetadata::examine`], and from then on the sums are kept: unless the installation's own rows are in doubt, with which
    /// nothing can be done. Rows of tenants in doubt stay in doubt.
    ///
    /// # Errors
    /// SQLite's own.
    pub async fn prove(&self, key: Arc<IntegrityKey>) -> Result<Vec<Doubt>, MetadataError> {
        self.on_connection(move |store| {
            let scan::Examined { doubts, stored } = scan::examine(&store.connection, &key)?;
            if doubts.iter().all(|doubt| doubt.tenant.is_some()) {
                proofs::watch(&store.connection, &store.keeping)?;
                *store.keeping.lock() = Some(Keeper::new(key, stored));
            }
            Ok(doubts)
        })
        .await
    }

    /// Seals the sums of all rows as they are, of an older format after bringing it to the newest, and keeps them from then on.
    ///
    /// # Errors
    /// [`MetadataError::Foreign`] when the tables are not those of the format; SQLite's own.
    pub async fn accept(&self, key: Arc<IntegrityKey>) -> Result<(), MetadataError> {
        self.on_connection(move |store| {
            if !scan::has_our_schema(&store.connection)? {
                return Err(MetadataError::Foreign);
            }
            // An index that does not agree with its table is made anew of it.
            store.connection.execute_batch("REINDEX").map_err(translate)?;
            let keeper = unkept(&mut store.connection, |sql| {
                lay_out(sql, FORMAT)?;
                Keeper::accept(sql, key)
            })?;
            proofs::watch(&store.connection, &store.keeping)?;
            *store.keeping.lock() = Some(keeper);
            Ok(())
        })
        .await
    }

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

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Transaction<'_>) -> Result<T, MetadataError> + Send + 'static,
    ) -> Result<T, MetadataError> {
        // The asker may be gone; the change stands all the same.
        self.on_connection(move |store| in_transaction(store, job)).await
    }

    /// For what is no transaction of its own: SQLite does some things outside of transactions only.
    async fn on_connection<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Store) -> Result<T, MetadataError> + Send + 'static,
    ) -> Result<T, MetadataError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |store| drop(reply.send(job(store))));
        self.jobs.as_ref().ok_or(MetadataError::Closed)?.send(job).map_err(|_| MetadataError::Closed)?;
        answer.await.map_err(|_| MetadataError::Closed)?
    }

    /// In a transaction: forgets that the rows of `tenant`, which are destroyed, were ever in doubt.
    fn renew(keeping: &Keeping, sql: &Transaction<'_>, tenant: TenantId) -> Result<(), MetadataError> {
        keeping.lock().as_mut().map_or(Ok(()), |keeper| keeper.renew(sql, tenant.to_bytes()))
    }
}

/// One transaction, with the sums of what it changes.
fn in_transaction<T>(
    store: &mut Store,
    job: impl FnOnce(&Transaction<'_>) -> Result<T, MetadataError>,
) -> Result<T, MetadataError> {
    let keeping = store.keeping.clone();
    let done = unkept(&mut store.connection, |sql| {
        let value = job(sql)?;
        keeping.lock().as_mut().map_or(Ok(()), |keeper| keeper.seal(sql))?;
        Ok(value)
    });
    if let Some(keeper) = keeping.lock().as_mut() {
        if done.is_ok() { keeper.committed() } else { keeper.rolled_back() }
    }
    done
}

fn unkept<T>(
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
    let format = format_of(connection)?;
    if tables > 0 && application != APPLICATION_ID {
        return Err(MetadataError::Foreign);
    }
    if format > FORMAT {
        return Err(MetadataError::NewerFormat { found: format, known: FORMAT });
    }
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;").map_err(translate)?;
    if tables == 0 {
        unkept(connection, |sql| {
            lay_out(sql, FORMAT)?;
            sql.execute("INSERT INTO cluster (id) VALUES (?1)", params![schloss_core::ClusterId::random().to_bytes()])
                .map(drop)
                .map_err(translate)
        })?;
    }
    Ok(())
}

fn format_of(sql: &Connection) -> Result<i64, MetadataError> {
    sql.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(translate)
}

/// Brings the tables to `format`, from wherever they are.
fn lay_out(sql: &Connection, format: i64) -> Result<(), MetadataError> {
    let from = format_of(sql)?;
    if from == 0 && format > 0 {
        sql.execute_batch(&format!("{SCHEMA} PRAGMA application_id = {APPLICATION_ID};")).map_err(translate)?;
    }
    let steps = |format: i64| usize::try_from(format.saturating_sub(1)).unwrap_or(0);
    for migration in MIGRATIONS.iter().take(steps(format)).skip(steps(from)) {
        sql.execute_batch(migration).map_err(translate)?;
    }
    sql.execute_batch(&format!("PRAGMA user_version = {format};")).map_err(translate)
}

fn is_blank(sql: &Connection) -> Result<bool, MetadataError> {
    if format_of(sql)? != FORMAT || !scan::has_our_schema(sql)? {
        return Ok(false);
    }
    let mut tables = scan::tables(sql)?.into_iter().map(|table| table.name.to_string()).collect::<Vec<_>>();
    tables.push(scan::PROOFS.to_owned());
    for table in tables.iter().filter(|table| *table != "cluster") {
        let own = if table == "keys" { "WHERE tenant <> zeroblob(16)" } else { "" };
        let any: bool = sql
            .query_row(&format!("SELECT EXISTS (SELECT 1 FROM \"{table}\" {own})"), [], |row| row.get(0))
            .map_err(translate)?;
        if any {
            return Ok(false);
        }
    }
    Ok(true)
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
mod proofs_tests;
#[cfg(test)]
mod tests;
