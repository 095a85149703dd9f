//! The engine: shards, their partitions, and the public verbs.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use schloss_core::{Clock, ClusterId, PartitionId, ShardId, TenantId, TopicId};
use schloss_crypto::{IntegrityKey, KeyVault};
use schloss_metadata::{Doubt, Metadata, PartitionRow, TopicRow};
use schloss_wire::batch::ValidBatch;
use tokio::sync::{Semaphore, oneshot};

use crate::early_keys::EarlyKeys;
use crate::error::{AppendError, LogError, OpenError, ReadError};
use crate::flush::Flusher;
use crate::integrity::{Integrity, IntegritySink};
use crate::keys::{RowKeys, TenantKeys};
use crate::locked::InDoubt;
use crate::maintenance;
use crate::partition::{LogConfig, Offsets, Part, Partition, Watch};
use crate::read::{Read, Reader, frame_cache};
use crate::read_ahead;
use crate::recovery::Recovery;
use crate::segment::Segment;
use crate::shard::{self, Appended, Command, Shard, ShardLimits};
use crate::shared::{OWN_STATE, STATE_EPOCHS, STATE_PRODUCERS, ShardShared, StateRecord};
use crate::stats::{Counters, EngineStats};
use crate::topic_keys::TopicKeys;
use crate::wal::WalStore;
use crate::wal::file::{FILE_BYTES, FileWal, holds_unproved_entries};

/// Erased this long after the last partition let go of a segment, so that running reads end first.
const ERASE_GRACE_MS: i64 = 2_000;
const ERASE_EVERY: Duration = Duration::from_millis(1_000);
/// Epochs replayed at a start that may wait for a flush in the background; each keeps at least one log file.
const EPOCHS_BEHIND_MAX: usize = 8;

/// The engine's settings.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Where the write-ahead logs are; a folder per shard.
    pub wal_folder: PathBuf,
    /// Number of shards. More may be added later, never fewer.
    pub shards: u32,
    /// Most bytes not yet in segments, per shard.
    pub tail_bytes_max: usize,
    /// A flush is due at this many bytes of tail.
    pub flush_bytes: usize,
    /// A flush is due when the oldest unflushed entry is this old.
    pub flush_every: Duration,
    /// Bytes of opened frames kept for readers.
    pub cache_bytes_max: usize,
    /// How often retention looks.
    pub retention_every: Duration,
    /// How often every live segment is read and checked.
    pub scrub_every: Duration,
    /// Size of a write-ahead log file.
    pub wal_file_bytes: u64,
    /// Where topics' own keys are, outside the data folder; without it topics have none.
    pub topic_keys_folder: Option<PathBuf>,
}

impl EngineConfig {
    /// Defaults for a folder.
    #[must_use]
    pub fn in_folder(wal_folder: PathBuf) -> Self {
        Self {
            wal_folder,
            shards: 2,
            tail_bytes_max: 128 << 20,
            flush_bytes: 32 << 20,
            flush_every: Duration::from_secs(600),
            cache_bytes_max: 64 << 20,
            retention_every: Duration::from_secs(300),
            scrub_every: Duration::from_secs(7 * 24 * 3600),
            wal_file_bytes: FILE_BYTES,
            topic_keys_folder: None,
        }
    }
}

/// What the engine stands on.
#[derive(Clone)]
pub struct Foundation {
    /// The installation.
    pub cluster: ClusterId,
    /// The slow facts.
    pub metadata: Arc<dyn Metadata>,
    /// Where segments are.
    pub objects: Arc<dyn ObjectStore>,
    /// Tenants' keys.
    pub vault: Arc<dyn KeyVault>,
    /// Proves log entries.
    pub integrity: Arc<IntegrityKey>,
    /// Rows of tenants that are not what was written: nothing of these tenants is opened, moved or erased.
    pub doubts: Vec<Doubt>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

pub(crate) struct ShardHandle {
    pub(crate) shared: Arc<ShardShared>,
    pub(crate) commands: Sender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The log of all tenants.
pub struct Engine {
    pub(crate) shards: Vec<ShardHandle>,
    pub(crate) partitions: RwLock<HashMap<PartitionId, Arc<Partition>>>,
    pub(crate) metadata: Arc<dyn Metadata>,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) reader: Arc<Reader>,
    pub(crate) row_keys: Arc<RowKeys>,
    pub(crate) topic_keys: Arc<TopicKeys>,
    pub(crate) counters: Arc<Counters>,
    /// Tenants whose rows of the manifest are not what was written.
    pub(crate) in_doubt: BTreeMap<TenantId, InDoubt>,
    maintenance: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

impl Engine {
    /// Recovers every shard and starts it.
    ///
    /// # Errors
    /// [`OpenError`]; a shard that cannot be proved whole keeps the engine from starting.
    pub async fn open(config: EngineConfig, foundation: Foundation) -> Result<Arc<Self>, OpenError> {
        refuse_unproved_log(&config.wal_folder)?;
        let (folder, file_bytes) = (config.wal_folder.clone(), config.wal_file_bytes);
        let logs = move |shard: u32| {
            let wal = FileWal::new(&folder.join(format!("{shard:04}")), shard, file_bytes)?;
            Ok(Box::new(wal) as Box<dyn WalStore>)
        };
        Self::open_on(config, foundation, &logs).await
    }

    /// The same over other logs; for tests with faults.
    pub(crate) async fn open_on(
        config: EngineConfig,
        foundation: Foundation,
        logs: &(dyn Fn(u32) -> std::io::Result<Box<dyn WalStore>> + Sync),
    ) -> Result<Arc<Self>, OpenError> {
        let Foundation { cluster, metadata, objects, vault, integrity, clock, doubts } = foundation;
        let counters = Arc::new(Counters::default());
        Counters::add(&counters.integrity_failures, doubts.len() as u64);
        let in_doubt = by_tenant(doubts);
        let row_keys = Arc::new(RowKeys::new(Arc::clone(&metadata), Arc::clone(&vault), cluster));
        let topic_keys = TopicKeys::open(config.topic_keys_folder.clone(), Arc::clone(&row_keys))
            .map_err(|source| OpenError::Io { what: "the folder of topic keys cannot be made", source })?;
        let topic_keys = Arc::new(topic_keys);
        let flusher = Arc::new(Flusher {
            objects: Arc::clone(&objects),
            vault: Arc::clone(&vault),
            metadata: Arc::clone(&metadata),
            cluster,
            rows: Arc::clone(&row_keys),
            topic_keys: Arc::clone(&topic_keys),
            integrity: Arc::clone(&integrity),
            spare: Mutex::default(),
        });
        crate::anchor::check(&*metadata, &*objects).await?;
        if in_doubt.is_empty() {
            let swept = maintenance::sweep_orphans(&*metadata, &objects).await?;
            if swept > 0 {
                tracing::info!(swept, "objects of unfinished flushes were deleted");
            }
        } else {
            tracing::warn!("objects that no row names are kept: rows may have been taken away");
        }
        let partitions = load_partitions(&*metadata, &in_doubt).await?;
        let mut highest = partitions.values().map(|partition| partition.shard.0.saturating_add(1)).max().unwrap_or(0);
        if !in_doubt.is_empty() {
            // Their partitions were not read; the shards they are in have rows.
            let shards = metadata.checkpoints().await?;
            highest = shards.iter().map(|(shard, _)| shard.0.saturating_add(1)).max().unwrap_or(0).max(highest);
        }
        let (mut shards, early) = (Vec::new(), EarlyKeys::default());
        let mut epochs_behind = 0_usize;
        let count = config.shards.max(highest).max(1);
        for number in 0..count {
            let recovery = Recovery {
                shard: ShardId(number),
                cluster,
                metadata: &*metadata,
                vault: &vault,
                integrity: &integrity,
                early: &early,
                flusher: &flusher,
                partitions: &partitions,
                in_doubt: &in_doubt,
            };
            let mut wal = logs(number)
                .map_err(|source| OpenError::Io { what: "the write-ahead log's folder cannot be made", source })?;
            let recovered = recovery.run(&mut *wal).await?;
            epochs_behind = epochs_behind.max(recovered.epochs_behind);
            let own: HashMap<_, _> = partitions
                .iter()
                .filter(|(_, partition)| partition.shard.0 == number)
                .map(|(id, partition)| (*id, Arc::clone(partition)))
                .collect();
            let shared = Arc::new(ShardShared {
                id: ShardId(number),
                epoch: recovered.guard.epoch,
                guard: recovered.guard,
                states: Mutex::new(recovered.states),
                partitions: Mutex::new(own),
                stopped: AtomicBool::new(false),
                abandoned: AtomicBool::new(false),
                tail_bytes: AtomicUsize::new(recovered.tail_bytes),
                oldest: Mutex::new(recovered.oldest),
                aside: Mutex::new(recovered.aside),
                log_held: AtomicBool::new(!recovered.locked.is_empty()),
                locked: Mutex::new(recovered.locked),
            });
            let (commands, receiver) = mpsc::channel();
            let shard = Shard {
                shared: Arc::clone(&shared),
                shards: count,
                cluster,
                wal,
                limits: ShardLimits {
                    tail_bytes_max: config.tail_bytes_max,
                    flush_bytes: config.flush_bytes,
                    flush_every: config.flush_every,
                },
                clock: Arc::clone(&clock),
                vault: Arc::clone(&vault),
                integrity: Arc::clone(&integrity),
                flusher: Arc::clone(&flusher),
                counters: Arc::clone(&counters),
                runtime: tokio::runtime::Handle::current(),
                commands: receiver,
                sender: commands.clone(),
                last: recovered.last,
            };
            let thread = std::thread::Builder::new()
                .name(format!("shard-{number}"))
                .spawn(move || shard::run(shard))
                .map_err(|source| OpenError::Io { what: "a shard's thread cannot start", source })?;
            shards.push(ShardHandle { shared, commands, thread: Mutex::new(Some(thread)) });
        }
        let cache = frame_cache(config.cache_bytes_max);
        let reader = Arc::new(Reader {
            objects: Arc::clone(&objects),
            vault,
            cluster,
            cache,
            counters: Arc::clone(&counters),
            integrity: Integrity::default(),
            topic_keys: Arc::clone(&topic_keys),
            ahead: Arc::new(Semaphore::new(read_ahead::AT_ONCE)),
        });
        let engine = Arc::new(Self {
            shards,
            partitions: RwLock::new(partitions),
            metadata,
            objects,
            clock,
            reader,
            row_keys,
            topic_keys,
            counters,
            in_doubt,
            maintenance: Mutex::default(),
        });
        engine.start_maintenance(config.retention_every, config.scrub_every);
        engine.leave_old_epochs(epochs_behind).await;
        Ok(engine)
    }

    /// Flushes what was replayed, so that the files of old epochs can go. In the background as a rule; before serving when
    /// kills came faster than that, else a broker that is killed again and again would fill its disk and start ever slower.
    async fn leave_old_epochs(self: &Arc<Self>, epochs_behind: usize) {
        if epochs_behind > EPOCHS_BEHIND_MAX {
            if let Err(error) = self.flush().await {
                tracing::warn!(%error, epochs_behind, "the epochs before this start could not be flushed");
            }
        } else if epochs_behind > 0 {
            let commands: Vec<_> = self.shards.iter().map(|handle| handle.commands.clone()).collect();
            for shard in commands {
                // Nobody waits for the answer; a shard that has stopped says so elsewhere.
                let (reply, _answer) = oneshot::channel();
                drop(shard.send(Command::FlushNow(reply)));
            }
        }
    }

    /// Says who records stored bytes that are not what was written; the first call counts.
    pub fn attach_integrity_sink(&self, sink: Arc<dyn IntegritySink>) {
        self.reader.integrity.attach(sink);
    }

    fn start_maintenance(self: &Arc<Self>, retention_every: Duration, scrub_every: Duration) {
        let retention = Arc::downgrade(self);
        let retention = tokio::spawn(async move {
            loop {
                tokio::time::sleep(retention_every).await;
                let Some(engine) = retention.upgrade() else { return };
                engine.apply_retention().await;
            }
        });
        let eraser = Arc::downgrade(self);
        let eraser = tokio::spawn(async move {
            loop {
                tokio::time::sleep(ERASE_EVERY).await;
                let Some(engine) = eraser.upgrade() else { return };
                engine.erase().await;
            }
        });
        self.maintenance.lock().unwrap_or_else(PoisonError::into_inner).extend([
            retention,
            eraser,
            crate::scrub::in_background(Arc::downgrade(self), scrub_every),
        ]);
    }

    async fn erase(&self) {
        let before = self.clock.now_ms().saturating_sub(ERASE_GRACE_MS);
        if let Err(error) = maintenance::erase_garbage(&*self.metadata, &*self.objects, before, &self.in_doubt).await {
            tracing::warn!(%error, "garbage could not be erased");
        }
    }

    /// Applies retention to every partition once.
    pub async fn apply_retention(&self) {
        let now_ms = self.clock.now_ms();
        let all: Vec<Arc<Partition>> =
            self.partitions.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for handle in &self.shards {
            let starts: Vec<_> = all
                .iter()
                .filter(|partition| partition.shard == handle.shared.id)
                .filter_map(|partition| {
                    maintenance::retained_from(&partition.read(), now_ms).map(|start| (partition.id, start))
                })
                .collect();
            if starts.is_empty() {
                continue;
            }
            if let Err(error) = self.move_starts(handle, starts).await {
                tracing::warn!(%error, "retention could not be applied and is tried again");
            }
        }
    }

    async fn move_starts(&self, handle: &ShardHandle, starts: Vec<(PartitionId, i64)>) -> Result<(), LogError> {
        self.metadata.set_log_starts(handle.shared.guard, starts.clone(), self.clock.now_ms()).await?;
        for (id, start) in starts {
            if let Some(partition) = self.partition(id) {
                handle.shared.left_tail(maintenance::apply_start(&partition, start));
                partition.wake();
            }
        }
        Ok(())
    }

    pub(crate) fn partition(&self, id: PartitionId) -> Option<Arc<Partition>> {
        self.partitions.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn shard_of(&self, tenant: TenantId) -> Option<&ShardHandle> {
        let count = u64::try_from(self.shards.len()).ok()?;
        let index = tenant.account().checked_rem(count)?;
        self.shards.get(usize::try_from(index).ok()?)
    }

    fn handle(&self, shard: ShardId) -> Option<&ShardHandle> {
        self.shards.get(usize::try_from(shard.0).ok()?)
    }

    /// Stores a new topic and opens its partitions.
    ///
    /// # Errors
    /// [`LogError::Metadata`], with `Exists` when the tenant has the name.
    pub async fn create_topic(&self, row: TopicRow, config: LogConfig) -> Result<(), LogError> {
        let rows = self.partition_rows(&row, 0..row.partitions);
        let (tenant, id) = (row.tenant, row.topic_id);
        self.topic_keys.create(tenant, id).await?;
        self.metadata.create_topic(row, rows.clone()).await?;
        tracing::debug!(%tenant, topic = %id, "topic created");
        self.add(&rows, config);
        Ok(())
    }

    /// Stores a topic's new row and opens the partitions it has more than before.
    ///
    /// # Errors
    /// [`LogError::Metadata`].
    pub async fn update_topic(&self, row: TopicRow, added: Range<i32>, config: LogConfig) -> Result<(), LogError> {
        let rows = self.partition_rows(&row, added);
        let (topic, partitions) = (row.topic_id, row.partitions);
        self.metadata.update_topic(row, rows.clone()).await?;
        self.add(&rows, config);
        self.set_log_config(topic, partitions, config);
        Ok(())
    }

    fn partition_rows(&self, row: &TopicRow, indexes: Range<i32>) -> Vec<PartitionRow> {
        let shard = self.shard_of(row.tenant).map_or(ShardId(0), |handle| handle.shared.id);
        indexes
            .map(|index| PartitionRow {
                tenant: row.tenant,
                partition: PartitionId { topic: row.topic_id, index },
                shard,
                log_start: 0,
            })
            .collect()
    }

    fn add(&self, rows: &[PartitionRow], config: LogConfig) {
        for row in rows {
            let partition = Arc::new(Partition::new(row.partition, row.tenant, row.shard, row.log_start, config));
            if let Some(handle) = self.handle(row.shard) {
                handle
                    .shared
                    .partitions
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(row.partition, Arc::clone(&partition));
            }
            self.partitions.write().unwrap_or_else(PoisonError::into_inner).insert(row.partition, partition);
        }
    }

    /// Deletes a topic; its segments are erased shortly after.
    ///
    /// # Errors
    /// [`LogError::Metadata`].
    pub async fn delete_topic(&self, topic: TopicId, partitions: i32) -> Result<(), LogError> {
        if let Some(partition) = self.partition(PartitionId { topic, index: 0 }) {
            // Before the rows: a deletion that breaks off between is begun anew, and nothing of it can be read any more.
            self.topic_keys.destroy(partition.tenant, topic).map_err(crate::topic_keys::TopicKeyError::from)?;
        }
        self.metadata.delete_topic(topic, self.clock.now_ms()).await?;
        for index in 0..partitions {
            let id = PartitionId { topic, index };
            let Some(partition) = self.partitions.write().unwrap_or_else(PoisonError::into_inner).remove(&id) else {
                continue;
            };
            partition.remove();
            if let Some(handle) = self.handle(partition.shard) {
                handle.shared.partitions.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                let dropped = partition.write().drop_tail_below(i64::MAX);
                handle.shared.left_tail(dropped);
                let mut states = handle.shared.states();
                for kind in [STATE_EPOCHS, STATE_PRODUCERS] {
                    let record = StateRecord { key: crate::append::own_key(kind, &partition), value: None };
                    states.apply(partition.tenant, &record);
                }
            }
        }
        Ok(())
    }

    /// Changes the settings of a topic's partitions.
    pub fn set_log_config(&self, topic: TopicId, partitions: i32, config: LogConfig) {
        for index in 0..partitions {
            if let Some(partition) = self.partition(PartitionId { topic, index }) {
                partition.write().config = config;
            }
        }
    }

    /// Says which KMS key a topic's records are sealed under from now on; none is the tenant's current one.
    pub fn set_key_ref(&self, topic: TopicId, partitions: i32, key_ref: Option<Arc<str>>) {
        for index in 0..partitions {
            if let Some(partition) = self.partition(PartitionId { topic, index }) {
                partition.write().key_ref.clone_from(&key_ref);
            }
        }
    }

    /// Hands a batch to the log. Its place in the order of the partition is fixed when this returns; the future waits
    /// until it is durable.
    pub fn submit(
        &self,
        id: PartitionId,
        batch: ValidBatch,
        log_append_time: bool,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let sent = match (self.partition(id), self.partition(id).and_then(|partition| self.handle(partition.shard))) {
            (Some(partition), Some(handle)) => handle
                .commands
                .send(Command::Append { partition, batch, log_append_time, reply })
                .map_err(|_| AppendError::Stopped),
            _ => Err(AppendError::UnknownPartition),
        };
        async move {
            sent?;
            answer.await.unwrap_or(Err(AppendError::Stopped))
        }
    }

    /// Stores state of a tenant, all records in one entry. Their order among calls is fixed when this returns.
    pub fn put_state(
        &self,
        tenant: TenantId,
        records: Vec<StateRecord>,
    ) -> impl Future<Output = Result<(), AppendError>> + Send + use<> {
        debug_assert!(records.iter().all(|record| record.key.first().is_some_and(|kind| *kind != OWN_STATE)));
        let (reply, answer) = oneshot::channel();
        let sent = match self.shard_of(tenant) {
            Some(handle) => {
                handle.commands.send(Command::State { tenant, records, reply }).map_err(|_| AppendError::Stopped)
            }
            None => Err(AppendError::Stopped),
        };
        async move {
            sent?;
            answer.await.unwrap_or(Err(AppendError::Stopped))
        }
    }

    /// All durable state of a tenant that is not the engine's own.
    #[must_use]
    pub fn state(&self, tenant: TenantId) -> Vec<(Bytes, Bytes)> {
        let Some(handle) = self.shard_of(tenant) else { return Vec::new() };
        let states = handle.shared.states();
        let live = states.live.get(&tenant).into_iter().flatten();
        live.filter(|(key, _)| key.first() != Some(&OWN_STATE))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// Reads whole batches from the one that holds `offset`: at most `bytes_max` bytes, or one batch when `at_least_one`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(
        &self,
        id: PartitionId,
        offset: i64,
        bytes_max: usize,
        at_least_one: bool,
    ) -> Result<Read, ReadError> {
        let partition = self.partition(id).ok_or(ReadError::UnknownPartition)?;
        self.reader.read(&partition, offset, bytes_max, at_least_one).await
    }

    /// A watch over several partitions. Make it before reading.
    #[must_use]
    pub fn watch(&self, ids: &[PartitionId]) -> Watch {
        let partitions: Vec<_> = ids.iter().filter_map(|id| self.partition(*id)).collect();
        Watch::new(partitions.iter())
    }

    /// A partition's ends.
    ///
    /// # Errors
    /// [`ReadError::UnknownPartition`].
    pub fn offsets(&self, id: PartitionId) -> Result<Offsets, ReadError> {
        let partition = self.partition(id).ok_or(ReadError::UnknownPartition)?;
        let leader_epoch = self.handle(partition.shard).map_or(0, |handle| handle.shared.leader_epoch());
        let inner = partition.read();
        Ok(Offsets { log_start: inner.log_start, high_watermark: inner.high_watermark, leader_epoch })
    }

    /// The epoch of the shard that leads a partition.
    #[must_use]
    pub fn leader_epoch(&self, id: PartitionId) -> Option<i32> {
        let partition = self.partition(id)?;
        self.handle(partition.shard).map(|handle| handle.shared.leader_epoch())
    }

    /// Where a leader epoch ended: the largest epoch not above the one asked for, and the offset behind its last record.
    ///
    /// # Errors
    /// [`ReadError::UnknownPartition`].
    pub fn end_offset_for_epoch(&self, id: PartitionId, epoch: i32) -> Result<Option<(i32, i64)>, ReadError> {
        let partition = self.partition(id).ok_or(ReadError::UnknownPartition)?;
        let current = self.handle(partition.shard).map_or(0, |handle| handle.shared.leader_epoch());
        let inner = partition.read();
        if epoch > current {
            return Ok(None);
        }
        if epoch == current {
            return Ok(Some((current, inner.high_watermark)));
        }
        let at = inner.epochs.partition_point(|(known, _)| *known <= epoch);
        let end = inner.epochs.get(at).map_or(inner.high_watermark, |(_, first)| *first);
        Ok(match at.checked_sub(1).and_then(|at| inner.epochs.get(at)) {
            Some((known, _)) => Some((*known, end)),
            None => Some((epoch, inner.log_start)),
        })
    }

    /// Moves a partition's log start forward; returns where it is then.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn delete_records(&self, id: PartitionId, before: i64) -> Result<i64, LogError> {
        let partition = self.partition(id).ok_or(LogError::UnknownPartition)?;
        let (log_start, high_watermark) = {
            let inner = partition.read();
            (inner.log_start, inner.high_watermark)
        };
        if before > high_watermark {
            return Err(LogError::OffsetOutOfRange);
        }
        if before > log_start
            && let Some(handle) = self.handle(partition.shard)
        {
            self.move_starts(handle, vec![(id, before)]).await?;
        }
        let inner = partition.read();
        Ok(inner.log_start)
    }

    /// Bytes of a partition's batches.
    #[must_use]
    pub fn size_of(&self, id: PartitionId) -> Option<u64> {
        self.partition(id).map(|partition| partition.read().size())
    }

    /// Where rooms that seal rows of their own get a tenant's keys.
    #[must_use]
    pub fn key_source(&self) -> Arc<dyn crate::KeySource> {
        Arc::clone(&self.row_keys) as _
    }

    /// A tenant's keys for rows in the manifest.
    ///
    /// # Errors
    /// [`crate::KeyTrouble`].
    pub async fn tenant_keys(&self, tenant: TenantId) -> Result<TenantKeys, crate::keys::KeyTrouble> {
        self.row_keys.get(tenant).await
    }

    /// Flushes every shard now.
    ///
    /// # Errors
    /// When a flush fails; nothing is lost.
    pub async fn flush(&self) -> Result<(), AppendError> {
        for handle in &self.shards {
            let (reply, answer) = oneshot::channel();
            handle.commands.send(Command::FlushNow(reply)).map_err(|_| AppendError::Stopped)?;
            answer.await.unwrap_or(Err(AppendError::Stopped))?;
        }
        Ok(())
    }

    /// Whether every shard takes writes.
    ///
    /// # Errors
    /// [`AppendError::Stopped`].
    pub fn health(&self) -> Result<(), AppendError> {
        let stopped = self.shards.iter().any(|handle| handle.shared.stopped.load(Ordering::Acquire));
        if stopped { Err(AppendError::Stopped) } else { Ok(()) }
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let counters = &self.counters;
        let mut segments: HashMap<[u8; 32], u64> = HashMap::new();
        for partition in self.partitions.read().unwrap_or_else(PoisonError::into_inner).values() {
            for part in &partition.read().parts {
                segments.insert(part.row.object_id, part.segment.row.size);
            }
        }
        EngineStats {
            wal_entries: Counters::read(&counters.wal_entries),
            wal_bytes: Counters::read(&counters.wal_bytes),
            wal_sync_nanos: Counters::read(&counters.wal_sync_nanos),
            tail_bytes: self.shards.iter().map(|handle| handle.shared.tail_bytes() as u64).sum(),
            log_bytes_set_aside: self
                .shards
                .iter()
                .flat_map(|handle| handle.shared.aside().values().map(|aside| aside.bytes).collect::<Vec<_>>())
                .sum(),
            segments: segments.len() as u64,
            segment_bytes: segments.values().sum(),
            flush_failures: Counters::read(&counters.flush_failures),
            cache_hits: Counters::read(&counters.cache_hits),
            cache_misses: Counters::read(&counters.cache_misses),
            keys_rewrapped: Counters::read(&counters.keys_rewrapped),
            segments_rewritten: Counters::read(&counters.segments_rewritten),
            segments_scrubbed: Counters::read(&counters.segments_scrubbed),
            integrity_failures: Counters::read(&counters.integrity_failures),
        }
    }

    /// Writes what was submitted, seals the logs and stops. What is not in segments is replayed at the next start.
    pub async fn close(&self) {
        for task in self.maintenance.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        for handle in &self.shards {
            let (reply, answer) = oneshot::channel();
            // A shard that stopped before has nothing to close.
            if handle.commands.send(Command::Close(reply)).is_ok()
                && let Ok(Some(seal)) = answer.await
            {
                // What is cut off the end from now on, the seal included, is missed at the next start.
                let guard = handle.shared.guard;
                if let Err(error) = self.metadata.confirm(guard, vec![(guard.epoch, seal)]).await {
                    tracing::warn!(%error, "where the log was sealed could not be noted");
                }
            }
            let thread = handle.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(thread) = thread
                && tokio::task::spawn_blocking(move || thread.join()).await.is_err()
            {
                tracing::error!("a shard's thread could not be joined");
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for task in self.maintenance.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        for handle in &self.shards {
            handle.shared.abandoned.store(true, Ordering::Release);
        }
    }
}

/// Refuses a log that an earlier release wrote, whose entries have no proofs. Reads only: call it before anything is opened, so that the
/// earlier release still finds everything as it left it.
///
/// # Errors
/// [`OpenError::UnprovedLog`], or I/O.
pub fn refuse_unproved_log(wal_folder: &Path) -> Result<(), OpenError> {
    let what = "the write-ahead log's folder cannot be read";
    match holds_unproved_entries(wal_folder).map_err(|source| OpenError::Io { what, source })? {
        true => Err(OpenError::UnprovedLog),
        false => Ok(()),
    }
}

fn by_tenant(doubts: Vec<Doubt>) -> BTreeMap<TenantId, InDoubt> {
    let mut all: BTreeMap<TenantId, InDoubt> = BTreeMap::new();
    for Doubt { tenant, table } in doubts {
        if let Some(tenant) = tenant {
            all.entry(tenant).or_insert_with(|| InDoubt { tables: Vec::new() }).tables.push(table);
        }
    }
    all
}

/// Partitions with their parts, as the manifest has them; of tenants in doubt none.
async fn load_partitions(
    metadata: &dyn Metadata,
    in_doubt: &BTreeMap<TenantId, InDoubt>,
) -> Result<HashMap<PartitionId, Arc<Partition>>, OpenError> {
    let mut partitions = HashMap::new();
    for row in metadata.partitions().await?.into_iter().filter(|row| !in_doubt.contains_key(&row.tenant)) {
        // Until the tenant's settings are read nothing of it may expire: they may never be, while its key is away.
        let config = LogConfig { retention_ms: -1, retention_bytes: -1, ..LogConfig::default() };
        partitions.insert(
            row.partition,
            Arc::new(Partition::new(row.partition, row.tenant, row.shard, row.log_start, config)),
        );
    }
    let segments: HashMap<[u8; 32], Arc<Segment>> =
        metadata.segments().await?.into_iter().map(|row| (row.object_id, Arc::new(Segment::new(row)))).collect();
    for row in metadata.parts().await? {
        let (Some(partition), Some(segment)) = (partitions.get(&row.partition), segments.get(&row.object_id)) else {
            continue;
        };
        let mut inner = partition.write();
        inner.high_watermark = inner.high_watermark.max(row.next_offset);
        inner.parts.push_back(Part { row, segment: Arc::clone(segment) });
        let next = inner.high_watermark;
        drop(inner);
        partition.writer().next_offset = next;
    }
    Ok(partitions)
}
