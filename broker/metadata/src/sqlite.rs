//! The embedded store: one SQLite file, one thread that owns the connection.
//!
//! WAL mode, `synchronous=FULL`, `secure_delete=ON`, exclusive lock: a second process is refused while this one lives.

use std::path::Path;
use std::sync::mpsc;
use std::thread;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};
use schloss_core::{PartitionId, ShardId, TenantId, TopicId};
use tokio::sync::oneshot;

use crate::{
    FlushCommit, GarbageRow, KeyRow, Metadata, MetadataError, PartRow, PartitionRow, SealedRow, SegmentRow, ShardGuard,
    ShardRow, StateRow, TopicRow,
};

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
const MIGRATIONS: [&str; 1] = ["
CREATE TABLE sealed (
    tenant INTEGER NOT NULL, kind TEXT NOT NULL, key_index BLOB NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (tenant, kind, key_index)) WITHOUT ROWID;
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

fn tenant_number(tenant: TenantId) -> i64 {
    i64::try_from(tenant.account()).unwrap_or(i64::MAX)
}

fn tenant_of(number: i64, table: &'static str) -> Result<TenantId, MetadataError> {
    u64::try_from(number).ok().and_then(TenantId::new).ok_or(MetadataError::Malformed { table })
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64, table: &'static str) -> Result<u64, MetadataError> {
    u64::try_from(number).map_err(|_| MetadataError::Malformed { table })
}

/// Rule 5: nothing of a shard changes but by its present writer.
fn guard(sql: &Transaction<'_>, guard: ShardGuard) -> Result<(), MetadataError> {
    let held = sql
        .query_row(
            "SELECT 1 FROM shards WHERE shard = ?1 AND epoch = ?2 AND writer = ?3",
            params![guard.shard.0, signed(guard.epoch), guard.writer],
            |_| Ok(()),
        )
        .optional()
        .map_err(translate)?;
    held.ok_or(MetadataError::Fenced)
}

fn insert_partitions(sql: &Transaction<'_>, rows: &[PartitionRow]) -> Result<(), MetadataError> {
    let mut statement = sql
        .prepare_cached("INSERT INTO partitions (topic_id, idx, tenant, shard, log_start) VALUES (?1, ?2, ?3, ?4, ?5)")
        .map_err(translate)?;
    for row in rows {
        statement
            .execute(params![
                row.partition.topic.to_bytes(),
                row.partition.index,
                tenant_number(row.tenant),
                row.shard.0,
                row.log_start
            ])
            .map_err(translate)?;
    }
    Ok(())
}

fn insert_segment(sql: &Transaction<'_>, row: &SegmentRow) -> Result<(), MetadataError> {
    sql.execute(
        "INSERT INTO segments (object_id, segment, tenant, wrapped, born_ms, size, frame_count, footer_position, footer_tag) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![row.object_id, row.segment, tenant_number(row.tenant), row.wrapped, row.born_ms, signed(row.size), row.frame_count, signed(row.footer_position), row.footer_tag],
    )
    .map(drop)
    .map_err(translate)
}

/// Segments that no part names become garbage.
fn collect_unneeded(sql: &Transaction<'_>, objects: &[Vec<u8>], now_ms: i64) -> Result<(), MetadataError> {
    for object in objects {
        sql.execute(
            "INSERT OR IGNORE INTO garbage (object_id, tenant, removed_ms) SELECT object_id, tenant, ?2 FROM segments
             WHERE object_id = ?1 AND NOT EXISTS (SELECT 1 FROM segment_parts WHERE object_id = ?1)",
            params![object, now_ms],
        )
        .map_err(translate)?;
        sql.execute("DELETE FROM segments WHERE object_id = ?1 AND NOT EXISTS (SELECT 1 FROM segment_parts WHERE object_id = ?1)", params![object]).map_err(translate)?;
    }
    Ok(())
}

fn column<T: rusqlite::types::FromSql>(row: &rusqlite::Row<'_>, index: usize) -> Result<T, MetadataError> {
    row.get(index).map_err(translate)
}

/// Runs a query and reads each row.
fn list<T>(
    sql: &Transaction<'_>,
    query: &str,
    values: &[&dyn rusqlite::ToSql],
    read: impl Fn(&rusqlite::Row<'_>) -> Result<T, MetadataError>,
) -> Result<Vec<T>, MetadataError> {
    let mut statement = sql.prepare_cached(query).map_err(translate)?;
    let mut rows = statement.query(values).map_err(translate)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next().map_err(translate)? {
        all.push(read(row)?);
    }
    Ok(all)
}

fn read_topic(row: &rusqlite::Row<'_>) -> Result<TopicRow, MetadataError> {
    Ok(TopicRow {
        topic_id: TopicId::from_bytes(column(row, 0)?),
        tenant: tenant_of(column(row, 1)?, "topics")?,
        name_index: column(row, 2)?,
        sealed: column(row, 3)?,
        partitions: column(row, 4)?,
        created_ms: column(row, 5)?,
    })
}

fn read_part(row: &rusqlite::Row<'_>) -> Result<PartRow, MetadataError> {
    Ok(PartRow {
        partition: PartitionId { topic: TopicId::from_bytes(column(row, 0)?), index: column(row, 1)? },
        first_offset: column(row, 2)?,
        next_offset: column(row, 3)?,
        object_id: column(row, 4)?,
        bytes: unsigned(column(row, 5)?, "segment_parts")?,
        max_timestamp: column(row, 6)?,
        appended_ms: column(row, 7)?,
    })
}

fn read_segment(row: &rusqlite::Row<'_>) -> Result<SegmentRow, MetadataError> {
    Ok(SegmentRow {
        object_id: column(row, 0)?,
        segment: column(row, 1)?,
        tenant: tenant_of(column(row, 2)?, "segments")?,
        wrapped: column(row, 3)?,
        born_ms: column(row, 4)?,
        size: unsigned(column(row, 5)?, "segments")?,
        frame_count: column(row, 6)?,
        footer_position: unsigned(column(row, 7)?, "segments")?,
        footer_tag: column(row, 8)?,
    })
}

#[async_trait::async_trait]
impl Metadata for SqliteMetadata {
    async fn cluster_id(&self) -> Result<[u8; 16], MetadataError> {
        self.run(|sql| sql.query_row("SELECT id FROM cluster", [], |row| row.get(0)).map_err(translate)).await
    }

    async fn topics(&self, tenant: TenantId) -> Result<Vec<TopicRow>, MetadataError> {
        self.run(move |sql| {
            list(
                sql,
                "SELECT topic_id, tenant, name_index, sealed, partitions, created_ms FROM topics WHERE tenant = ?1",
                &[&tenant_number(tenant)],
                read_topic,
            )
        })
        .await
    }

    async fn create_topic(&self, topic: TopicRow, partitions: Vec<PartitionRow>) -> Result<(), MetadataError> {
        self.run(move |sql| {
            sql.execute(
                "INSERT INTO topics (topic_id, tenant, name_index, sealed, partitions, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![topic.topic_id.to_bytes(), tenant_number(topic.tenant), topic.name_index, topic.sealed, topic.partitions, topic.created_ms],
            )
            .map_err(translate)?;
            insert_partitions(sql, &partitions)
        })
        .await
    }

    async fn update_topic(&self, topic: TopicRow, added: Vec<PartitionRow>) -> Result<(), MetadataError> {
        self.run(move |sql| {
            sql.execute(
                "UPDATE topics SET sealed = ?3, partitions = ?4 WHERE topic_id = ?1 AND tenant = ?2",
                params![topic.topic_id.to_bytes(), tenant_number(topic.tenant), topic.sealed, topic.partitions],
            )
            .map_err(translate)?;
            insert_partitions(sql, &added)
        })
        .await
    }

    async fn delete_topic(&self, topic: TopicId, now_ms: i64) -> Result<(), MetadataError> {
        self.run(move |sql| {
            let id = topic.to_bytes();
            let objects =
                list(sql, "SELECT DISTINCT object_id FROM segment_parts WHERE topic_id = ?1", &[&id], |row| {
                    column(row, 0)
                })?;
            for table in ["segment_parts", "partitions", "topics"] {
                sql.execute(&format!("DELETE FROM {table} WHERE topic_id = ?1"), params![id]).map_err(translate)?;
            }
            collect_unneeded(sql, &objects, now_ms)
        })
        .await
    }

    async fn keys(&self, tenant: [u8; 16], purpose: &str) -> Result<Vec<KeyRow>, MetadataError> {
        let purpose = purpose.to_owned();
        self.run(move |sql| {
            list(
                sql,
                "SELECT generation, wrapped FROM keys WHERE tenant = ?1 AND purpose = ?2 ORDER BY generation",
                &[&tenant, &purpose],
                |row| {
                    Ok(KeyRow {
                        tenant,
                        purpose: purpose.clone(),
                        generation: column(row, 0)?,
                        wrapped: column(row, 1)?,
                    })
                },
            )
        })
        .await
    }

    async fn add_key(&self, key: KeyRow) -> Result<(), MetadataError> {
        self.run(move |sql| {
            sql.execute(
                "INSERT INTO keys (tenant, purpose, generation, wrapped) VALUES (?1, ?2, ?3, ?4)",
                params![key.tenant, key.purpose, key.generation, key.wrapped],
            )
            .map(drop)
            .map_err(translate)
        })
        .await
    }

    async fn sealed(&self, tenant: TenantId, kind: &str) -> Result<Vec<SealedRow>, MetadataError> {
        let kind = kind.to_owned();
        self.run(move |sql| {
            list(
                sql,
                "SELECT key_index, sealed FROM sealed WHERE tenant = ?1 AND kind = ?2",
                &[&tenant_number(tenant), &kind],
                |row| Ok(SealedRow { tenant, kind: kind.clone(), key_index: column(row, 0)?, sealed: column(row, 1)? }),
            )
        })
        .await
    }

    async fn put_sealed(&self, rows: Vec<SealedRow>) -> Result<(), MetadataError> {
        self.run(move |sql| {
            for row in rows {
                let tenant = tenant_number(row.tenant);
                if row.sealed.is_empty() {
                    sql.execute(
                        "DELETE FROM sealed WHERE tenant = ?1 AND kind = ?2 AND key_index = ?3",
                        params![tenant, row.kind, row.key_index],
                    )
                } else {
                    sql.execute(
                        "INSERT OR REPLACE INTO sealed (tenant, kind, key_index, sealed) VALUES (?1, ?2, ?3, ?4)",
                        params![tenant, row.kind, row.key_index, row.sealed],
                    )
                }
                .map_err(translate)?;
            }
            Ok(())
        })
        .await
    }

    async fn all_keys(&self, tenant: [u8; 16]) -> Result<Vec<KeyRow>, MetadataError> {
        self.run(move |sql| {
            list(
                sql,
                "SELECT purpose, generation, wrapped FROM keys WHERE tenant = ?1 ORDER BY purpose, generation",
                &[&tenant],
                |row| {
                    Ok(KeyRow {
                        tenant,
                        purpose: column(row, 0)?,
                        generation: column(row, 1)?,
                        wrapped: column(row, 2)?,
                    })
                },
            )
        })
        .await
    }

    async fn rewrap_key(&self, key: KeyRow) -> Result<(), MetadataError> {
        self.run(move |sql| {
            sql.execute(
                "UPDATE keys SET wrapped = ?4 WHERE tenant = ?1 AND purpose = ?2 AND generation = ?3",
                params![key.tenant, key.purpose, key.generation, key.wrapped],
            )
            .map(drop)
            .map_err(translate)
        })
        .await
    }

    async fn rewrap_segments(&self, wrapped: Vec<([u8; 32], Vec<u8>)>) -> Result<(), MetadataError> {
        self.run(move |sql| {
            let mut statement =
                sql.prepare_cached("UPDATE segments SET wrapped = ?2 WHERE object_id = ?1").map_err(translate)?;
            for (object, wrapped) in wrapped {
                statement.execute(params![object, wrapped]).map_err(translate)?;
            }
            Ok(())
        })
        .await
    }

    async fn replace_segment(
        &self,
        held: ShardGuard,
        old: [u8; 32],
        new: SegmentRow,
        now_ms: i64,
    ) -> Result<(), MetadataError> {
        self.run(move |sql| {
            guard(sql, held)?;
            let moved = sql
                .execute("UPDATE segment_parts SET object_id = ?2 WHERE object_id = ?1", params![old, new.object_id])
                .map_err(translate)?;
            if moved == 0 {
                return Err(MetadataError::Fenced);
            }
            insert_segment(sql, &new)?;
            collect_unneeded(sql, &[old.to_vec()], now_ms)
        })
        .await
    }

    async fn shred_tenant(&self, tenant: TenantId, now_ms: i64) -> Result<(), MetadataError> {
        self.run(move |sql| {
            let number = tenant_number(tenant);
            sql.execute(
                "INSERT OR IGNORE INTO garbage (object_id, tenant, removed_ms) SELECT object_id, tenant, ?2 FROM segments WHERE tenant = ?1",
                params![number, now_ms],
            )
            .map_err(translate)?;
            sql.execute(
                "DELETE FROM segment_parts WHERE topic_id IN (SELECT topic_id FROM topics WHERE tenant = ?1)",
                params![number],
            )
            .map_err(translate)?;
            for table in ["segments", "partitions", "state", "topics", "sealed"] {
                sql.execute(&format!("DELETE FROM {table} WHERE tenant = ?1"), params![number]).map_err(translate)?;
            }
            sql.execute("DELETE FROM keys WHERE tenant = ?1", params![tenant.to_bytes()]).map(drop).map_err(translate)
        })
        .await
    }

    async fn scrub_deleted(&self) -> Result<(), MetadataError> {
        // Pages are overwritten by secure_delete; the write-ahead log still has older ones until it is truncated.
        self.run_alone(|sql| sql.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(translate)).await
    }

    async fn snapshot(&self, to: std::path::PathBuf) -> Result<(), MetadataError> {
        self.run_alone(move |sql| {
            sql.execute("VACUUM INTO ?1", params![to.to_string_lossy()]).map(drop).map_err(translate)
        })
        .await
    }

    async fn acquire(&self, shard: ShardId, writer: [u8; 16], at_least: u64) -> Result<ShardRow, MetadataError> {
        self.run(move |sql| {
            let row: Option<(i64, i64, i64, i64)> = sql
                .query_row("SELECT epoch, checkpoint_epoch, checkpoint_seq, opened FROM shards WHERE shard = ?1", params![shard.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
                .optional()
                .map_err(translate)?;
            let (old, checkpoint_epoch, checkpoint_seq, opened) = row.unwrap_or((0, 0, 0, 0));
            let epoch = unsigned(old, "shards")?.max(at_least).saturating_add(1);
            sql.execute(
                "INSERT INTO shards (shard, epoch, writer, checkpoint_epoch, checkpoint_seq, opened) VALUES (?1, ?2, ?3, 0, 0, 0)
                 ON CONFLICT (shard) DO UPDATE SET epoch = ?2, writer = ?3",
                params![shard.0, signed(epoch), writer],
            )
            .map_err(translate)?;
            let checkpoint = (unsigned(checkpoint_epoch, "shards")?, unsigned(checkpoint_seq, "shards")?);
            Ok(ShardRow { epoch, checkpoint, opened: unsigned(opened, "shards")? })
        })
        .await
    }

    async fn confirm(&self, held: ShardGuard, sealed: Vec<(u64, u64)>) -> Result<(), MetadataError> {
        self.run(move |sql| {
            guard(sql, held)?;
            for (epoch, end) in sealed {
                sql.execute(
                    "INSERT OR REPLACE INTO epochs (shard, epoch, end_seq) VALUES (?1, ?2, ?3)",
                    params![held.shard.0, signed(epoch), signed(end)],
                )
                .map_err(translate)?;
            }
            sql.execute("UPDATE shards SET opened = epoch WHERE shard = ?1", params![held.shard.0])
                .map(drop)
                .map_err(translate)
        })
        .await
    }

    async fn checkpoints(&self) -> Result<Vec<(ShardId, (u64, u64))>, MetadataError> {
        self.run(|sql| {
            list(sql, "SELECT shard, checkpoint_epoch, checkpoint_seq FROM shards ORDER BY shard", &[], |row| {
                let checkpoint = (unsigned(column(row, 1)?, "shards")?, unsigned(column(row, 2)?, "shards")?);
                Ok((ShardId(column(row, 0)?), checkpoint))
            })
        })
        .await
    }

    async fn sealed_epochs(&self, shard: ShardId) -> Result<Vec<(u64, u64)>, MetadataError> {
        self.run(move |sql| {
            list(sql, "SELECT epoch, end_seq FROM epochs WHERE shard = ?1 ORDER BY epoch", &[&shard.0], |row| {
                Ok((unsigned(column(row, 0)?, "epochs")?, unsigned(column(row, 1)?, "epochs")?))
            })
        })
        .await
    }

    async fn partitions(&self) -> Result<Vec<PartitionRow>, MetadataError> {
        self.run(|sql| {
            list(sql, "SELECT topic_id, idx, tenant, shard, log_start FROM partitions", &[], |row| {
                Ok(PartitionRow {
                    partition: PartitionId { topic: TopicId::from_bytes(column(row, 0)?), index: column(row, 1)? },
                    tenant: tenant_of(column(row, 2)?, "partitions")?,
                    shard: ShardId(column(row, 3)?),
                    log_start: column(row, 4)?,
                })
            })
        })
        .await
    }

    async fn parts(&self) -> Result<Vec<PartRow>, MetadataError> {
        self.run(|sql| {
            list(sql, "SELECT topic_id, idx, first_offset, next_offset, object_id, bytes, max_timestamp, appended_ms FROM segment_parts ORDER BY topic_id, idx, first_offset", &[], read_part)
        })
        .await
    }

    async fn segments(&self) -> Result<Vec<SegmentRow>, MetadataError> {
        self.run(|sql| list(sql, "SELECT object_id, segment, tenant, wrapped, born_ms, size, frame_count, footer_position, footer_tag FROM segments", &[], read_segment)).await
    }

    async fn state(&self, shard: ShardId) -> Result<Vec<StateRow>, MetadataError> {
        self.run(move |sql| {
            list(sql, "SELECT tenant, key_index, sealed FROM state WHERE shard = ?1", &[&shard.0], |row| {
                Ok(StateRow {
                    tenant: tenant_of(column(row, 0)?, "state")?,
                    key_index: column(row, 1)?,
                    sealed: column(row, 2)?,
                })
            })
        })
        .await
    }

    async fn flush(&self, held: ShardGuard, commit: FlushCommit) -> Result<(), MetadataError> {
        self.run(move |sql| {
            guard(sql, held)?;
            for row in &commit.segments {
                insert_segment(sql, row)?;
            }
            let born_ms = commit.segments.iter().map(|row| row.born_ms).max().unwrap_or(0);
            flush_parts(sql, &commit.parts, born_ms)?;
            flush_state(sql, held.shard, &commit.state)?;
            let (epoch, seq) = commit.checkpoint;
            sql.execute(
                "UPDATE shards SET checkpoint_epoch = ?2, checkpoint_seq = ?3 WHERE shard = ?1",
                params![held.shard.0, signed(epoch), signed(seq)],
            )
            .map(drop)
            .map_err(translate)
        })
        .await
    }

    async fn set_log_starts(
        &self,
        held: ShardGuard,
        starts: Vec<(PartitionId, i64)>,
        now_ms: i64,
    ) -> Result<(), MetadataError> {
        self.run(move |sql| {
            guard(sql, held)?;
            for (partition, start) in starts {
                let id = partition.topic.to_bytes();
                sql.execute(
                    "UPDATE partitions SET log_start = max(log_start, ?3) WHERE topic_id = ?1 AND idx = ?2",
                    params![id, partition.index, start],
                )
                .map_err(translate)?;
                let objects = list(
                    sql,
                    "SELECT object_id FROM segment_parts WHERE topic_id = ?1 AND idx = ?2 AND next_offset <= ?3",
                    &[&id, &partition.index, &start],
                    |row| column(row, 0),
                )?;
                sql.execute(
                    "DELETE FROM segment_parts WHERE topic_id = ?1 AND idx = ?2 AND next_offset <= ?3",
                    params![id, partition.index, start],
                )
                .map_err(translate)?;
                collect_unneeded(sql, &objects, now_ms)?;
            }
            Ok(())
        })
        .await
    }

    async fn garbage(&self, before_ms: i64) -> Result<Vec<GarbageRow>, MetadataError> {
        self.run(move |sql| {
            list(sql, "SELECT object_id, tenant FROM garbage WHERE removed_ms <= ?1 LIMIT 1000", &[&before_ms], |row| {
                Ok(GarbageRow { object_id: column(row, 0)?, tenant: tenant_of(column(row, 1)?, "garbage")? })
            })
        })
        .await
    }

    async fn forget_garbage(&self, objects: Vec<[u8; 32]>) -> Result<(), MetadataError> {
        self.run(move |sql| {
            for object in objects {
                sql.execute("DELETE FROM garbage WHERE object_id = ?1", params![object]).map_err(translate)?;
            }
            Ok(())
        })
        .await
    }
}

/// Parts of a topic that was deleted meanwhile, or wholly below a log start that moved meanwhile, are left out; their segment
/// becomes garbage when nothing else is in it.
fn flush_parts(sql: &Transaction<'_>, parts: &[PartRow], now_ms: i64) -> Result<(), MetadataError> {
    let mut statement = sql
        .prepare_cached(
            "INSERT INTO segment_parts (topic_id, idx, first_offset, next_offset, object_id, bytes, max_timestamp, appended_ms)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 WHERE EXISTS (SELECT 1 FROM partitions WHERE topic_id = ?1 AND idx = ?2 AND log_start < ?4)",
        )
        .map_err(translate)?;
    let mut left_out = Vec::new();
    for part in parts {
        let added = statement
            .execute(params![
                part.partition.topic.to_bytes(),
                part.partition.index,
                part.first_offset,
                part.next_offset,
                part.object_id,
                signed(part.bytes),
                part.max_timestamp,
                part.appended_ms
            ])
            .map_err(translate)?;
        if added == 0 {
            left_out.push(part.object_id.to_vec());
        }
    }
    collect_unneeded(sql, &left_out, now_ms)
}

fn flush_state(sql: &Transaction<'_>, shard: ShardId, rows: &[StateRow]) -> Result<(), MetadataError> {
    let mut put = sql
        .prepare_cached("INSERT OR REPLACE INTO state (shard, tenant, key_index, sealed) VALUES (?1, ?2, ?3, ?4)")
        .map_err(translate)?;
    let mut take = sql
        .prepare_cached("DELETE FROM state WHERE shard = ?1 AND tenant = ?2 AND key_index = ?3")
        .map_err(translate)?;
    for row in rows {
        if row.sealed.is_empty() {
            take.execute(params![shard.0, tenant_number(row.tenant), row.key_index]).map_err(translate)?;
        } else {
            put.execute(params![shard.0, tenant_number(row.tenant), row.key_index, row.sealed]).map_err(translate)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
