//! Fetch (1): records out, by name or topic id, with incremental sessions (KIP-227) and waiting.
//!
//! At least one batch is granted per request, not per partition: only the first partition that has records may exceed
//! what is left of the bytes.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_request::FetchTopic;
use schloss_authz::can;
use schloss_core::{ErrorCode, PartitionId, TopicId};
use schloss_storage::ReadError;
use schloss_wire::response::{self, FetchAnswer, FetchedPartition, FetchedTopic};

use crate::authorize::Call;
use crate::dispatch::Pieces;
use crate::fetch_session::{self, Key, Plan, Wanted};

/// KIP-74: longest wait a client may ask for; Kafka bounds it by the request time-out.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// One partition's share of the answer.
struct Served {
    key: Key,
    data: FetchedPartition,
}

/// A partition to read, or why not.
struct Target {
    key: Key,
    wanted: Wanted,
    partition: Result<PartitionId, ErrorCode>,
}

/// Answers one request.
pub async fn handle(call: Arc<Call>, request: FetchRequest) -> Option<Pieces> {
    // Judged with each topic below; here only so that records in memory are not served under a key nobody proved lately.
    let _judged_below = call.session.tenant.prove_key().await;
    let answer = match open(&call, &request) {
        Ok((plan, targets)) => serve(&call, &request, plan, targets).await,
        Err(code) => FetchAnswer { error_code: code.code(), ..FetchAnswer::default() },
    };
    call.settle().await.ok()?;
    response::encode_fetch(call.header.api_version, call.header.correlation_id, answer).ok()
}

fn open(call: &Call, request: &FetchRequest) -> Result<(Plan, Vec<Target>), ErrorCode> {
    let by_ids = call.header.api_version >= 13;
    let keys = |topic: &FetchTopic, partition: i32| key(by_ids, topic.topic_id, &topic.topic, partition);
    let mut asked = Vec::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let wanted = Wanted {
                offset: partition.fetch_offset,
                bytes_max: partition.partition_max_bytes,
                current_leader_epoch: partition.current_leader_epoch,
                last_fetched_epoch: partition.last_fetched_epoch,
            };
            asked.push((keys(topic, partition.partition), wanted));
        }
    }
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics_data {
        forgotten
            .extend(topic.partitions.iter().map(|partition| key(by_ids, topic.topic_id, &topic.topic, *partition)));
    }
    let (id, epoch) = if call.header.api_version >= 7 { (request.session_id, request.session_epoch) } else { (0, -1) };
    let mut session = call.session.fetch_session.lock().unwrap_or_else(PoisonError::into_inner);
    let plan =
        fetch_session::plan(&mut session, (id, epoch), by_ids, asked, &forgotten, call.broker.fresh_session_id())?;
    drop(session);
    let targets = plan
        .partitions
        .iter()
        .map(|(key, wanted)| Target { partition: resolve(call, key), key: key.clone(), wanted: *wanted })
        .collect();
    Ok((plan, targets))
}

fn key(by_ids: bool, id: uuid::Uuid, name: &str, partition: i32) -> Key {
    if by_ids {
        Key { topic_id: *id.as_bytes(), topic: String::new(), partition }
    } else {
        Key { topic_id: [0; 16], topic: name.to_owned(), partition }
    }
}

fn resolve(call: &Call, key: &Key) -> Result<PartitionId, ErrorCode> {
    let topic = if key.topic.is_empty() && key.topic_id != [0; 16] {
        call.topic_by_id(can::ReadData, TopicId::from_bytes(key.topic_id))?
    } else {
        call.topic(can::ReadData, &key.topic)?
    };
    call.session.tenant.check_key()?;
    if topic.has(key.partition) {
        Ok(topic.partition(key.partition))
    } else {
        Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
    }
}

async fn serve(call: &Arc<Call>, request: &FetchRequest, plan: Plan, targets: Vec<Target>) -> FetchAnswer {
    let deadline = tokio::time::Instant::now()
        + Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(WAIT_MAX);
    let bytes_min = usize::try_from(request.min_bytes).unwrap_or(0);
    let watched: Vec<PartitionId> = targets.iter().filter_map(|target| target.partition.ok()).collect();
    // Registered before reading, so that nothing that comes between reading and waiting is missed.
    let mut watch = call.broker.engine.watch(&watched);
    let served = loop {
        let served = read_all(call, request, &targets).await;
        let bytes: usize = served.iter().flat_map(|one| &one.data.records).map(Bytes::len).sum();
        let failed = served.iter().any(|one| one.data.error_code != 0 || one.data.diverging_epoch.is_some());
        if failed
            || bytes >= bytes_min
            || watched.is_empty()
            || (plan.session_id != 0 && !plan.incremental && bytes > 0)
        {
            break served;
        }
        if tokio::time::timeout_at(deadline, watch.changed()).await.is_err() {
            break read_all(call, request, &targets).await;
        }
    };
    compose(call, &plan, served)
}

async fn read_all(call: &Arc<Call>, request: &FetchRequest, targets: &[Target]) -> Vec<Served> {
    let limit = usize::try_from(request.max_bytes).unwrap_or(0).min(call.broker.config.limits.fetch_bytes_max);
    let mut left = limit;
    let mut any = false;
    let mut all = Vec::with_capacity(targets.len());
    for target in targets {
        let mut data = FetchedPartition { index: target.key.partition, ..FetchedPartition::default() };
        let outcome = match target.partition {
            Ok(partition) => read(call, partition, &target.wanted, left, !any, &mut data).await,
            Err(code) => Err(code),
        };
        if let Err(code) = outcome {
            data.error_code = code.code();
            data.records.clear();
        }
        let bytes: usize = data.records.iter().map(Bytes::len).sum();
        any |= bytes > 0;
        left = left.saturating_sub(bytes);
        all.push(Served { key: target.key.clone(), data });
    }
    all
}

async fn read(
    call: &Arc<Call>,
    partition: PartitionId,
    wanted: &Wanted,
    left: usize,
    at_least_one: bool,
    data: &mut FetchedPartition,
) -> Result<(), ErrorCode> {
    let engine = &call.broker.engine;
    let offsets = engine.offsets(partition).map_err(|error| error.code())?;
    call.check_leader_epoch(wanted.current_leader_epoch, offsets.leader_epoch)?;
    data.high_watermark = offsets.high_watermark;
    data.last_stable_offset = offsets.high_watermark;
    data.log_start_offset = offsets.log_start;
    data.diverging_epoch = diverging(call, partition, wanted)?;
    if data.diverging_epoch.is_some() {
        return Ok(());
    }
    let bytes_max = usize::try_from(wanted.bytes_max).unwrap_or(0).min(left);
    match engine.read(partition, wanted.offset, bytes_max, at_least_one).await {
        Ok(read) => {
            data.high_watermark = read.high_watermark;
            data.last_stable_offset = read.high_watermark;
            data.log_start_offset = read.log_start_offset;
            data.records = read.records;
            Ok(())
        }
        Err(ReadError::OffsetOutOfRange { .. }) => Err(ErrorCode::OFFSET_OUT_OF_RANGE),
        Err(error) => Err(error.code()),
    }
}

/// KIP-595: the client's last record is of an epoch that ended before it.
fn diverging(call: &Call, partition: PartitionId, wanted: &Wanted) -> Result<Option<(i32, i64)>, ErrorCode> {
    if wanted.last_fetched_epoch < 0 {
        return Ok(None);
    }
    let end =
        call.broker.engine.end_offset_for_epoch(partition, wanted.last_fetched_epoch).map_err(|error| error.code())?;
    Ok(end.filter(|(epoch, offset)| *epoch < wanted.last_fetched_epoch || *offset < wanted.offset))
}

fn compose(call: &Call, plan: &Plan, served: Vec<Served>) -> FetchAnswer {
    let mut answer = FetchAnswer { session_id: plan.session_id, ..FetchAnswer::default() };
    let mut session = call.session.fetch_session.lock().unwrap_or_else(PoisonError::into_inner);
    let mut open = session.as_mut().filter(|open| plan.session_id != 0 && open.id() == plan.session_id);
    for Served { key, data } in served {
        let told = open.as_mut().is_none_or(|open| {
            open.tell(&key, !data.records.is_empty(), data.high_watermark, data.log_start_offset, data.error_code)
        });
        if plan.incremental && !told && data.diverging_epoch.is_none() {
            continue;
        }
        match answer.topics.last_mut().filter(|last| last.id == key.topic_id && last.name == key.topic) {
            Some(topic) => topic.partitions.push(data),
            None => answer.topics.push(FetchedTopic { name: key.topic, id: key.topic_id, partitions: vec![data] }),
        }
    }
    answer
}
