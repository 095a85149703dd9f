//! The embedded back end: one SQLite file, one thread that owns the connection.
//!
//! In: closures over the connection, one after the other. Out: their answers.
//!
//! Invariants
//! - `synchronous=FULL`: an answer means that the disk has it. `secure_delete=ON`: removed wrapped keys are overwritten.
//! - One process at a time: the file is locked for as long as it is open.
//! - A file of a newer format or another program is never touched.
//!
//! Must not: be used for more than a few transactions per second and shard.

mod queries;
mod schema;
mod shards;

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use async_trait::async_trait;
use rusqlite::Connection;
use schloss_core::{ClusterId, ShardId, TenantId, TopicId};
use tokio::sync::oneshot;

use crate::{
    Acquired, Change, CreateOutcome, FlushCommit, GarbageRow, KeyRow, Metadata, MetadataError, NewPartition, NewTopic,
    PartitionRow, Removal, SegmentRow, ShardLease, StateRow, TenantRow, TopicRow,
};

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Facts in one SQLite file.
#[derive(Debug)]
pub struct SqliteMetadata {
    /// `None` only while it is dropped.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for SqliteMetadata {
    /// Waits for the file's lock to be given back.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it was told to whoever waited.
            let _ = thread.join();
        }
    }
}

impl SqliteMetadata {
    /// Opens or makes the store at `path`. Blocks while it does.
    ///
    /// # Errors
    /// [`MetadataError::Locked`], [`MetadataError::NewerFormat`], [`MetadataError::NotOurs`], or what SQLite says.
    pub fn open(path: &Path) -> Result<Self, MetadataError> {
        Self::on(schema::open(path)?)
    }

    /// A store in memory, for tests.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn in_memory() -> Result<Self, MetadataError> {
        Self::on(schema::in_memory()?)
    }

    fn on(mut connection: Connection) -> Result<Self, MetadataError> {
        let (jobs, inbox) = channel::<Job>();
        let thread = thread::Builder::new()
            .name("metadata".into())
            .spawn(move || {
                while let Ok(job) = inbox.recv() {
                    job(&mut connection);
                }
            })
            .map_err(|_| MetadataError::Closed)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs one transaction on the store's thread.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, MetadataError> + Send + 'static,
    ) -> Result<T, MetadataError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let result = schema::in_transaction(connection, work);
            // Nobody waits any more: the work is done all the same.
            let _ = answer.send(result);
        });
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or(MetadataError::Closed)?;
        answered.await.map_err(|_| MetadataError::Closed)?
    }
}

#[async_trait]
impl Metadata for SqliteMetadata {
    async fn cluster_id(&self) -> Result<ClusterId, MetadataError> {
        self.run(queries::cluster_id).await
    }

    async fn put_tenants(&self, rows: Vec<TenantRow>) -> Result<(), MetadataError> {
        self.run(move |tx| queries::put_tenants(tx, &rows)).await
    }

    async fn tenants(&self) -> Result<Vec<TenantRow>, MetadataError> {
        self.run(queries::tenants).await
    }

    async fn put_key(&self, row: KeyRow) -> Result<KeyRow, MetadataError> {
        self.run(move |tx| queries::put_key(tx, row)).await
    }

    async fn keys(&self, tenant: TenantId) -> Result<Vec<KeyRow>, MetadataError> {
        self.run(move |tx| queries::keys(tx, tenant)).await
    }

    async fn rewrap_keys(&self, rows: Vec<KeyRow>) -> Result<(), MetadataError> {
        self.run(move |tx| queries::rewrap_keys(tx, &rows)).await
    }

    async fn create_topics(
        &self,
        tenant: TenantId,
        topics: Vec<NewTopic>,
    ) -> Result<Vec<CreateOutcome>, MetadataError> {
        self.run(move |tx| queries::create_topics(tx, tenant, &topics)).await
    }

    async fn delete_topics(
        &self,
        tenant: TenantId,
        topics: Vec<TopicId>,
        now_ms: i64,
    ) -> Result<Vec<TopicId>, MetadataError> {
        self.run(move |tx| queries::delete_topics(tx, tenant, &topics, now_ms)).await
    }

    async fn seal_topics(
        &self,
        tenant: TenantId,
        topics: Vec<(TopicId, Vec<u8>)>,
    ) -> Result<Vec<TopicId>, MetadataError> {
        self.run(move |tx| queries::seal_topics(tx, tenant, &topics)).await
    }

    async fn add_partitions(
        &self,
        tenant: TenantId,
        topic: TopicId,
        partitions: Vec<NewPartition>,
    ) -> Result<bool, MetadataError> {
        self.run(move |tx| queries::add_partitions(tx, tenant, topic, &partitions)).await
    }

    async fn topics(&self, tenant: Option<TenantId>) -> Result<Vec<TopicRow>, MetadataError> {
        self.run(move |tx| queries::topics(tx, tenant)).await
    }

    async fn partitions(&self, shard: ShardId) -> Result<Vec<PartitionRow>, MetadataError> {
        self.run(move |tx| shards::partitions(tx, shard)).await
    }

    async fn partitions_of(&self, topics: Vec<TopicId>) -> Result<Vec<PartitionRow>, MetadataError> {
        self.run(move |tx| shards::partitions_of(tx, &topics)).await
    }

    async fn acquire_shard(
        &self,
        shard: ShardId,
        writer: [u8; 16],
        listed_epoch: u64,
    ) -> Result<Acquired, MetadataError> {
        self.run(move |tx| shards::acquire(tx, shard, writer, listed_epoch)).await
    }

    async fn confirm_shard(&self, lease: ShardLease, ended: Vec<(u64, u64)>) -> Result<(), MetadataError> {
        self.run(move |tx| shards::confirm(tx, lease, &ended)).await
    }

    async fn commit_flush(&self, lease: ShardLease, flush: FlushCommit) -> Result<(), MetadataError> {
        self.run(move |tx| shards::commit_flush(tx, lease, &flush)).await
    }

    async fn remove_parts(&self, lease: ShardLease, removal: Removal) -> Result<(), MetadataError> {
        self.run(move |tx| shards::remove_parts(tx, lease, &removal)).await
    }

    async fn segments(&self, shard: ShardId) -> Result<Vec<SegmentRow>, MetadataError> {
        self.run(move |tx| shards::segments(tx, shard)).await
    }

    async fn segment_ids(&self) -> Result<Vec<[u8; 16]>, MetadataError> {
        self.run(shards::segment_ids).await
    }

    async fn shard_count(&self) -> Result<u32, MetadataError> {
        self.run(shards::shard_count).await
    }

    async fn state(&self, shard: ShardId) -> Result<Vec<StateRow>, MetadataError> {
        self.run(move |tx| shards::state(tx, shard)).await
    }

    async fn garbage(&self, removed_ms: i64) -> Result<Vec<GarbageRow>, MetadataError> {
        self.run(move |tx| shards::garbage(tx, removed_ms)).await
    }

    async fn erased(&self, segments: Vec<[u8; 16]>) -> Result<(), MetadataError> {
        self.run(move |tx| shards::erased(tx, &segments)).await
    }

    async fn changes(&self, number: i64) -> Result<Vec<Change>, MetadataError> {
        self.run(move |tx| queries::changes(tx, number)).await
    }
}

#[cfg(test)]
mod tests;
