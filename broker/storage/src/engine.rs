//! The engine: shards, the partitions they serve, and what every part of them shares.
//!
//! In: requests of connections and the catalogue. Out: answers, each true on disk.
//!
//! Must not: judge who may ask. A partition of another tenant is as absent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use schloss_core::{Clock, ClusterId, PartitionId, ShardId, TenantId, TopicId};
use schloss_crypto::KeyVault;
use schloss_metadata::{Metadata, SegmentRow};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, oneshot};

use crate::batch::Batch;
use crate::config::{EngineConfig, LogConfig};
use crate::error::{AppendError, OpenError, ReadError, WalError};
use crate::keyring::Keyring;
use crate::log::{Offsets, PartitionLog, Plan, pieces};
use crate::segment::{SegmentMaker, SegmentReader, object_path, segment_of};
use crate::shard::{
    Append, Appended, Command, Gauge, State, Work, WorkKind, leader_epoch, open_shard, state_bytes,
};
use crate::stats::{EngineStats, Stats};
use crate::wal::disk::{Disk, FolderDisk};
use crate::wal::{LocalWal, LocalWalConfig};

/// What all shards share.
pub(crate) struct Shared {
    pub config: EngineConfig,
    pub cluster: ClusterId,
    pub metadata: Arc<dyn Metadata>,
    pub store: Arc<dyn ObjectStore>,
    pub vault: Arc<dyn KeyVault>,
    pub clock: Arc<dyn Clock>,
    pub stats: Arc<Stats>,
    pub keyring: Arc<Keyring>,
    pub reader: SegmentReader,
    pub maker: SegmentMaker,
    partitions: RwLock<HashMap<PartitionId, Arc<PartitionLog>>>,
    state: RwLock<HashMap<TenantId, State>>,
    suspended: RwLock<HashSet<TenantId>>,
}

/// Reads and writes of maps are short and never panic half-way.
macro_rules! locked {
    ($lock:expr, $verb:ident) => {
        $lock.$verb().unwrap_or_else(PoisonError::into_inner)
    };
}

impl Shared {
    pub(crate) fn is_suspended(&self, tenant: TenantId) -> bool {
        locked!(self.suspended, read).contains(&tenant)
    }

    pub(crate) fn insert_partitions(&self, logs: impl IntoIterator<Item = Arc<PartitionLog>>) {
        locked!(self.partitions, write).extend(logs.into_iter().map(|log| (log.id, log)));
    }

    pub(crate) fn has_partition(&self, id: PartitionId) -> bool {
        locked!(self.partitions, read).contains_key(&id)
    }

    fn partition(&self, id: PartitionId) -> Option<Arc<PartitionLog>> {
        locked!(self.partitions, read).get(&id).cloned()
    }

    pub(crate) fn put_state(&self, tenant: TenantId, key: Bytes, value: Option<Bytes>) {
        let mut states = locked!(self.state, write);
        let state = states.entry(tenant).or_default();
        match value {
            Some(value) => state.insert(key, value),
            None => state.remove(&key),
        };
    }

    pub(crate) fn set_state(&self, tenant: TenantId, state: State) {
        locked!(self.state, write).entry(tenant).or_default().extend(state);
    }

    pub(crate) fn state_value(&self, tenant: TenantId, key: &Bytes) -> Option<Bytes> {
        locked!(self.state, read).get(&tenant).and_then(|state| state.get(key).cloned())
    }

    /// Erases objects nobody refers to; what stays is swept at the next start.
    pub(crate) async fn erase(&self, rows: &[SegmentRow]) {
        for row in rows {
            let _ = self.store.delete(&object_path(row.tenant, row.segment)).await;
        }
    }

    /// Erases objects out of the manifest for longer than the grace.
    pub(crate) async fn erase_garbage(&self) {
        let grace_ms = i64::try_from(self.config.erase_grace.as_millis()).unwrap_or(i64::MAX);
        let Ok(rows) = self.metadata.garbage(self.clock.now_ms().saturating_sub(grace_ms)).await else { return };
        let mut erased = Vec::with_capacity(rows.len());
        for row in rows {
            match self.store.delete(&object_path(row.tenant, row.segment)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => erased.push(row.segment),
                Err(error) => tracing::warn!(%error, "segment not erased, tried again later"),
            }
        }
        if !erased.is_empty() {
            Stats::add(&self.stats.segments_erased, erased.len() as u64);
            // If this fails they are erased once more, which changes nothing.
            let _ = self.metadata.erased(erased).await;
        }
    }
}

struct ShardHandle {
    commands: UnboundedSender<Command>,
    gauge: Arc<Gauge>,
    epoch: u64,
}

/// The log engine.
pub struct Engine {
    shared: Arc<Shared>,
    shards: Vec<ShardHandle>,
}

/// A partition the engine is to serve.
#[derive(Clone, Copy, Debug)]
pub struct PartitionSpec {
    /// Its number.
    pub index: i32,
    /// What its log obeys.
    pub log: LogConfig,
}

/// A row of durable state; without a value the key is removed.
#[derive(Clone, Debug)]
pub struct StateRecord {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Option<Bytes>,
}

/// What a read found.
#[derive(Clone, Debug)]
pub struct Read {
    /// Slices of whole batches, to be sent one behind the other. The first may begin before the offset asked for.
    pub records: Vec<Bytes>,
    /// One past the last durable record.
    pub high_watermark: i64,
    /// First readable offset.
    pub log_start_offset: i64,
    /// No transactions yet: the high watermark.
    pub last_stable_offset: i64,
}

impl Read {
    /// Bytes in `records`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }

    /// True when nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// The batch that holds the first record of a time or later.
#[derive(Clone, Debug)]
pub struct TimeHit {
    /// Offset of its first record.
    pub base_offset: i64,
    /// Its largest time.
    pub max_timestamp: i64,
    /// The batch, for whoever wants the very record.
    pub batch: Bytes,
}

/// Wakes when one of its partitions changed. Made before looking, so that nothing is missed.
#[derive(Debug)]
pub struct Watch(Arc<Notify>);

impl Watch {
    /// Waits for a change since the watch was made. A second wait needs a new watch.
    pub async fn changed(&self) {
        self.0.notified().await;
    }
}

impl Engine {
    /// Takes and recovers all shards.
    ///
    /// # Errors
    /// [`OpenError`]; nothing acknowledged was changed.
    pub async fn open(
        config: EngineConfig,
        metadata: Arc<dyn Metadata>,
        store: Arc<dyn ObjectStore>,
        vault: Arc<dyn KeyVault>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, OpenError> {
        let mut disks: Vec<Arc<dyn Disk>> = Vec::new();
        // The number is fixed when a data folder begins: a tenant's state is found by it.
        let shards = match metadata.shard_count().await? {
            0 => config.shards.max(1),
            known => known,
        };
        for shard in 0..shards {
            let folder = config.wal_dir.join(shard.to_string());
            disks.push(Arc::new(FolderDisk::open(&folder).map_err(|error| OpenError::Wal {
                shard: ShardId(shard),
                error: match error.kind() {
                    std::io::ErrorKind::WouldBlock => WalError::Locked { path: folder.clone() },
                    std::io::ErrorKind::StorageFull => WalError::NoSpace,
                    kind => WalError::Io { file: folder.display().to_string(), kind },
                },
            })?));
        }
        Self::open_on(config, disks, metadata, store, vault, clock).await
    }

    /// The same on given disks, one per shard; for tests that cut the power.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn open_on(
        config: EngineConfig,
        disks: Vec<Arc<dyn Disk>>,
        metadata: Arc<dyn Metadata>,
        store: Arc<dyn ObjectStore>,
        vault: Arc<dyn KeyVault>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, OpenError> {
        let cluster = metadata.cluster_id().await?;
        let shared = Arc::new(Shared::new(config, cluster, metadata, store, vault, clock));
        let mut shards = Vec::new();
        for (number, disk) in (0_u32..).zip(disks) {
            let id = ShardId(number);
            let wal_config =
                LocalWalConfig { shard: number, cluster: cluster.to_bytes(), file_bytes: shared.config.wal_file_bytes };
            let wal = tokio::task::spawn_blocking(move || LocalWal::open(disk, wal_config))
                .await
                .unwrap_or(Err(WalError::Closed))
                .map_err(|error| OpenError::Wal { shard: id, error })?;
            let start = open_shard(&shared, id, Arc::new(wal)).await?;
            let (commands, inbox) = unbounded_channel();
            let gauge = Arc::new(Gauge::default());
            let epoch = start.lease.epoch;
            let shard = start.into_shard(Arc::clone(&shared), inbox, commands.downgrade(), Arc::clone(&gauge));
            tokio::spawn(async move {
                // The answer to a close comes after the log's folder is free again.
                if let Some(closed) = shard.run().await {
                    let _ = closed.send(());
                }
            });
            shards.push(ShardHandle { commands, gauge, epoch });
        }
        sweep(&shared).await?;
        shared.erase_garbage().await;
        Ok(Arc::new(Self { shared, shards }))
    }

    /// The keys under which the catalogue seals and finds names.
    #[must_use]
    pub fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.shared.keyring)
    }

    /// The installation.
    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        self.shared.cluster
    }

    /// The shard that keeps new partitions and the state of `tenant`.
    #[must_use]
    pub fn shard_for(&self, tenant: TenantId) -> ShardId {
        let shards = self.shards.len().max(1) as u64;
        ShardId(u32::try_from(tenant.account() % shards).unwrap_or(0))
    }

    fn shard(&self, id: ShardId) -> Option<&ShardHandle> {
        self.shards.get(usize::try_from(id.0).ok()?)
    }

    /// Serves partitions whose rows were just created with [`Engine::shard_for`]. Known ones stay as they are.
    pub fn add_partitions(&self, tenant: TenantId, topic: TopicId, specs: Vec<PartitionSpec>) {
        let id = self.shard_for(tenant);
        let Some(shard) = self.shard(id) else { return };
        let leader_epoch = leader_epoch(0, shard.epoch);
        let fresh: Vec<Arc<PartitionLog>> = specs
            .into_iter()
            .map(|spec| (PartitionId { topic, index: spec.index }, spec.log))
            .filter(|(partition, _)| !self.shared.has_partition(*partition))
            .map(|(partition, log)| Arc::new(PartitionLog::new(partition, tenant, id, leader_epoch, log)))
            .collect();
        // The shard first: whoever sees a partition in the map may append to it.
        let _ = shard.commands.send(Command::Add(fresh.clone()));
        self.shared.insert_partitions(fresh);
    }

    fn partitions_of(&self, tenant: TenantId, topic: TopicId) -> Vec<Arc<PartitionLog>> {
        let all = locked!(self.shared.partitions, read);
        all.values().filter(|log| log.id.topic == topic && log.tenant == tenant).cloned().collect()
    }

    /// Stops serving a topic whose rows were just deleted, and erases what only it used.
    pub async fn remove_topic(&self, tenant: TenantId, topic: TopicId) {
        let logs = self.partitions_of(tenant, topic);
        {
            let mut all = locked!(self.shared.partitions, write);
            logs.iter().for_each(|log| drop(all.remove(&log.id)));
        }
        for log in &logs {
            log.write().removed = true;
            log.wake();
            if let Some(shard) = self.shard(log.shard) {
                let _ = shard.commands.send(Command::Remove(vec![log.id]));
            }
        }
        self.shared.erase_garbage().await;
    }

    /// Sets what a topic's logs obey from now on. To be called for every topic after opening: until then nothing is
    /// removed by time or size.
    pub fn set_log_config(&self, tenant: TenantId, topic: TopicId, config: LogConfig) {
        for log in self.partitions_of(tenant, topic) {
            if let Some(shard) = self.shard(log.shard) {
                let _ = shard.commands.send(Command::Configure(vec![log.id], config));
            }
        }
    }

    /// Takes batches; their order in the log is the order of calls. The answer comes when they are durable, one result
    /// per append, in order.
    pub fn submit(
        &self,
        tenant: TenantId,
        appends: Vec<Append>,
    ) -> impl Future<Output = Vec<Result<Appended, AppendError>>> + Send + 'static {
        let mut results: Vec<Option<Result<Appended, AppendError>>> = vec![None; appends.len()];
        let mut chunks: BTreeMap<u32, Chunk> = BTreeMap::new();
        let mut waiting = Vec::new();
        for (place, append) in appends.into_iter().enumerate() {
            let bytes: usize = append.batches.iter().map(Batch::len).sum();
            match self.admit(tenant, &append, bytes) {
                Ok(shard) => {
                    let chunk = chunks.entry(shard.0).or_default();
                    if chunk.bytes + bytes > CHUNK_BYTES && !chunk.appends.is_empty() {
                        waiting.push(self.send_chunk(tenant, shard, std::mem::take(chunk)));
                    }
                    chunk.bytes += bytes;
                    chunk.appends.push(append);
                    chunk.places.push(place);
                }
                Err(error) => {
                    self.expect(append, &error);
                    if let Some(result) = results.get_mut(place) {
                        *result = Some(Err(error));
                    }
                }
            }
        }
        for (shard, chunk) in chunks {
            if !chunk.appends.is_empty() {
                waiting.push(self.send_chunk(tenant, ShardId(shard), chunk));
            }
        }
        async move {
            for (places, answer) in waiting {
                // A dropped answer: the shard ended.
                let answers = answer.await.unwrap_or_default();
                for (at, place) in places.into_iter().enumerate() {
                    if let Some(result) = results.get_mut(place) {
                        *result = answers.get(at).cloned();
                    }
                }
            }
            results.into_iter().map(|result| result.unwrap_or(Err(AppendError::Stopped))).collect()
        }
    }

    fn admit(&self, tenant: TenantId, append: &Append, bytes: usize) -> Result<ShardId, AppendError> {
        let log = self.shared.partition(append.partition).filter(|log| log.tenant == tenant);
        let log = log.ok_or(AppendError::UnknownPartition)?;
        if append.batches.is_empty() {
            return Err(AppendError::Malformed);
        }
        let file_bytes = usize::try_from(self.shared.config.wal_file_bytes).unwrap_or(usize::MAX);
        if bytes.saturating_add(128 * 1024) > file_bytes {
            return Err(AppendError::TooLarge);
        }
        let queued = self.shard(log.shard).map_or(0, |shard| shard.gauge.queued_bytes.load(Ordering::Relaxed));
        if queued > self.shared.config.queue_bytes_max {
            return Err(AppendError::Overloaded);
        }
        Ok(log.shard)
    }

    /// A batch refused for a passing reason must come first when it comes again.
    fn expect(&self, append: Append, error: &AppendError) {
        let shard = self.shared.partition(append.partition).map(|log| log.shard);
        if let (AppendError::Overloaded, Some(shard)) = (error, shard.and_then(|id| self.shard(id))) {
            let _ = shard.commands.send(Command::Expect(append));
        }
    }

    fn send_chunk(&self, tenant: TenantId, shard: ShardId, chunk: Chunk) -> (Vec<usize>, oneshot::Receiver<Answers>) {
        let (reply, answer) = oneshot::channel();
        self.send_work(shard, tenant, chunk.bytes, WorkKind::Append { appends: chunk.appends, reply });
        (chunk.places, answer)
    }

    fn send_work(&self, shard: ShardId, tenant: TenantId, bytes: usize, kind: WorkKind) {
        let Some(shard) = self.shard(shard) else { return };
        shard.gauge.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let since = self.shared.clock.monotonic();
        if shard.commands.send(Command::Work(Work { tenant, since, bytes, kind })).is_err() {
            shard.gauge.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Waits until the tenant's shard has room for more submissions. A connection asks before it reads the next frame.
    pub async fn ready(&self, tenant: TenantId) {
        let Some(shard) = self.shard(self.shard_for(tenant)) else { return };
        let soft = self.shared.config.queue_bytes_max / 2;
        loop {
            let room = shard.gauge.room.notified();
            if shard.gauge.queued_bytes.load(Ordering::Relaxed) <= soft || shard.commands.is_closed() {
                return;
            }
            room.await;
        }
    }

    /// Whole batches from the one that holds `offset` on, up to `max_bytes`; the first in any case if `min_one`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(
        &self,
        tenant: TenantId,
        partition: PartitionId,
        offset: i64,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<Read, ReadError> {
        let log = self.readable(tenant, partition)?;
        let mut batches: Vec<Batch> = Vec::new();
        let (mut at, mut left) = (offset, max_bytes);
        loop {
            let first = min_one && batches.is_empty();
            let plan = match log.read().plan(at, left, first) {
                // Retention passed by while we were reading; what we have is still whole.
                Err(ReadError::OffsetOutOfRange { .. }) if !batches.is_empty() => break,
                plan => plan?,
            };
            let more = match plan {
                Plan::Nothing => break,
                Plan::Tail(tail) => {
                    batches.extend(tail);
                    break;
                }
                Plan::Part(part) => {
                    match self.shared.reader.read(&part.segment, partition, at, left, first).await {
                        Ok(more) => more,
                        Err(error) => {
                            let moved = log.read().part_at(at).is_none_or(|now| now.first_offset != part.first_offset);
                            if moved {
                                // The manifest changed while we read: look again.
                                continue;
                            }
                            return Err(error);
                        }
                    }
                }
            };
            let Some(last) = more.last() else { break };
            at = last.last_offset() + 1;
            left = left.saturating_sub(more.iter().map(Batch::len).sum());
            batches.extend(more);
        }
        let offsets = log.offsets();
        Ok(Read {
            records: pieces(&batches),
            high_watermark: offsets.high_watermark,
            log_start_offset: offsets.log_start,
            last_stable_offset: offsets.high_watermark,
        })
    }

    /// SECURITY: a partition of another tenant, an absent one and one of a suspended tenant go one way.
    fn readable(&self, tenant: TenantId, partition: PartitionId) -> Result<Arc<PartitionLog>, ReadError> {
        let log = self.shared.partition(partition).filter(|log| log.tenant == tenant);
        let log = log.ok_or(ReadError::UnknownPartition)?;
        if self.shared.is_suspended(tenant) || log.read().locked {
            return Err(ReadError::Key);
        }
        Ok(log)
    }

    /// A watch over partitions. Make it, then read, then wait.
    #[must_use]
    pub fn watch(&self, partitions: &[PartitionId]) -> Watch {
        let notify = Arc::new(Notify::new());
        for id in partitions {
            if let Some(log) = self.shared.partition(*id) {
                log.register(&notify);
            }
        }
        Watch(notify)
    }

    /// Where a partition stands.
    ///
    /// # Errors
    /// [`ReadError::UnknownPartition`] or [`ReadError::Key`].
    pub fn offsets(&self, tenant: TenantId, partition: PartitionId) -> Result<Offsets, ReadError> {
        self.readable(tenant, partition).map(|log| log.offsets())
    }

    /// Bytes of a partition, tail included.
    #[must_use]
    pub fn size_of(&self, tenant: TenantId, partition: PartitionId) -> Option<u64> {
        self.shared.partition(partition).filter(|log| log.tenant == tenant).map(|log| log.read().size())
    }

    /// The largest known leader epoch not above `epoch`, and where it ended (KIP-320).
    ///
    /// # Errors
    /// [`ReadError::UnknownPartition`] or [`ReadError::Key`].
    pub fn end_offset_for_epoch(
        &self,
        tenant: TenantId,
        partition: PartitionId,
        epoch: i32,
    ) -> Result<Option<(i32, i64)>, ReadError> {
        let log = self.readable(tenant, partition)?;
        let inner = log.read();
        if epoch == log.leader_epoch {
            return Ok(Some((epoch, inner.high_watermark)));
        }
        Ok(inner.end_of_epoch(epoch))
    }

    /// The first batch that holds a record of `time_ms` or later.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn offset_for_time(
        &self,
        tenant: TenantId,
        partition: PartitionId,
        time_ms: i64,
    ) -> Result<Option<TimeHit>, ReadError> {
        let log = self.readable(tenant, partition)?;
        let (parts, start) = {
            let inner = log.read();
            (inner.parts.clone(), inner.log_start)
        };
        let due = parts.iter().filter(|part| part.max_timestamp >= time_ms && part.next_offset > start);
        for part in due {
            let frame = self.shared.reader.frame_for_time(&part.segment, partition, time_ms, start).await?;
            let Some(from) = frame else { continue };
            let batches = self.shared.reader.read(&part.segment, partition, from.max(start), FRAME_MAX, true).await?;
            if let Some(hit) = batches.iter().find(|batch| batch.max_timestamp() >= time_ms) {
                return Ok(Some(time_hit(hit)));
            }
        }
        let inner = log.read();
        let found = |batch: &&Batch| batch.max_timestamp() >= time_ms && batch.last_offset() >= inner.log_start;
        Ok(inner.tail.iter().find(found).map(time_hit))
    }

    /// The batch with the largest time (`ListOffsets` -3); the first of equals.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn max_timestamp(
        &self,
        tenant: TenantId,
        partition: PartitionId,
    ) -> Result<Option<TimeHit>, ReadError> {
        let log = self.readable(tenant, partition)?;
        let largest = {
            let inner = log.read();
            let parts = inner.parts.iter().map(|part| part.max_timestamp);
            parts.chain(inner.tail.iter().map(Batch::max_timestamp)).max()
        };
        match largest {
            Some(time_ms) => self.offset_for_time(tenant, partition, time_ms).await,
            None => Ok(None),
        }
    }

    /// Deletes records below `before` (-1: all); answers the new log start when it is durable.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn delete_records(
        &self,
        tenant: TenantId,
        partition: PartitionId,
        before: i64,
    ) -> Result<i64, AppendError> {
        let log = self.shared.partition(partition).filter(|log| log.tenant == tenant);
        let shard = log.ok_or(AppendError::UnknownPartition)?.shard;
        let (reply, answer) = oneshot::channel();
        self.send_work(shard, tenant, 64, WorkKind::DeleteRecords { partition, before, reply });
        answer.await.unwrap_or(Err(AppendError::Stopped))
    }

    /// Sets rows of the tenant's state, all or none; order is the order of calls. Answers when they are durable.
    pub fn put_state(
        &self,
        tenant: TenantId,
        records: Vec<StateRecord>,
    ) -> impl Future<Output = Result<(), AppendError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        let records: Vec<_> = records.into_iter().map(|record| (record.key, record.value)).collect();
        let bytes = records.iter().map(|(key, value)| state_bytes(key, value.as_ref())).sum();
        self.send_work(self.shard_for(tenant), tenant, bytes, WorkKind::State { records, reply });
        async move { answer.await.unwrap_or(Err(AppendError::Stopped)) }
    }

    /// All live state of the tenant, in key order.
    #[must_use]
    pub fn state(&self, tenant: TenantId) -> Vec<(Bytes, Bytes)> {
        let states = locked!(self.shared.state, read);
        let state = states.get(&tenant).map(|state| state.iter());
        state.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Stops or resumes a tenant whose KMS key was denied: its plain keys and cached records go at once.
    pub fn suspend(&self, tenant: TenantId, suspended: bool) {
        {
            let mut all = locked!(self.shared.suspended, write);
            if suspended { all.insert(tenant) } else { all.remove(&tenant) };
        }
        if suspended {
            self.shared.keyring.forget(tenant);
            self.shared.reader.forget(tenant);
            for shard in &self.shards {
                let _ = shard.commands.send(Command::ForgetKey(tenant));
            }
        }
    }

    /// Figures now.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let partitions = locked!(self.shared.partitions, read);
        EngineStats {
            tail_bytes: self.shards.iter().map(|shard| shard.gauge.tail_bytes.load(Ordering::Relaxed) as u64).sum(),
            partitions: partitions.len() as u64,
            log_bytes: partitions.values().map(|log| log.read().size()).sum(),
            ..self.shared.stats.snapshot()
        }
    }

    /// Flushes every shard; true when all tails are in segments.
    pub async fn flush(&self) -> bool {
        let mut all = true;
        for shard in &self.shards {
            let (reply, answer) = oneshot::channel();
            let _ = shard.commands.send(Command::Flush(reply));
            all &= answer.await.unwrap_or(false);
        }
        all
    }

    /// Ends in order: everything taken is durable, tails are flushed, epochs sealed.
    pub async fn close(&self) {
        let mut answers = Vec::new();
        for shard in &self.shards {
            let (reply, answer) = oneshot::channel();
            let _ = shard.commands.send(Command::Close(reply));
            answers.push(answer);
        }
        for answer in answers {
            let _ = answer.await;
        }
    }
}

/// Appends of one submission that share an entry.
#[derive(Default)]
struct Chunk {
    appends: Vec<Append>,
    places: Vec<usize>,
    bytes: usize,
}

type Answers = Vec<Result<Appended, AppendError>>;

/// A submission is split above this, so that no entry is longer than the longest single append.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// Enough for any frame: it ends with the batch that passes the frame size.
const FRAME_MAX: usize = 1024 * 1024;

fn time_hit(batch: &Batch) -> TimeHit {
    let mut bytes = Vec::with_capacity(batch.len());
    batch.write_to(&mut bytes);
    TimeHit { base_offset: batch.base_offset(), max_timestamp: batch.max_timestamp(), batch: bytes.into() }
}

impl Shared {
    fn new(
        config: EngineConfig,
        cluster: ClusterId,
        metadata: Arc<dyn Metadata>,
        store: Arc<dyn ObjectStore>,
        vault: Arc<dyn KeyVault>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let stats = Arc::new(Stats::default());
        Self {
            keyring: Arc::new(Keyring::new(
                cluster,
                Arc::clone(&metadata),
                Arc::clone(&vault),
                Arc::clone(&clock),
            )),
            reader: SegmentReader::new(
                cluster,
                Arc::clone(&vault),
                Arc::clone(&store),
                Arc::clone(&clock),
                Arc::clone(&stats),
                config.cache_bytes,
            ),
            maker: SegmentMaker {
                cluster,
                vault: Arc::clone(&vault),
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                stats: Arc::clone(&stats),
                frame_bytes: config.frame_bytes,
            },
            config,
            cluster,
            metadata,
            store,
            vault,
            clock,
            stats,
            partitions: RwLock::default(),
            state: RwLock::default(),
            suspended: RwLock::default(),
        }
    }
}

/// Erases objects that no row refers to: flushes that were cut off. The list is taken first, the manifest afterwards,
/// and this process alone has the store, so nothing listed can become referred to in between.
async fn sweep(shared: &Shared) -> Result<(), OpenError> {
    let listed: Vec<Path> = shared
        .store
        .list(Some(&Path::from("seg")))
        .map_ok(|object| object.location)
        .try_collect()
        .await
        .map_err(|_| OpenError::Store)?;
    let known: HashSet<[u8; 16]> = shared.metadata.segment_ids().await?.into_iter().collect();
    for path in listed {
        if segment_of(&path).is_some_and(|segment| !known.contains(&segment)) {
            tracing::info!(object = %path, "orphan erased");
            let _ = shared.store.delete(&path).await;
        }
    }
    Ok(())
}
