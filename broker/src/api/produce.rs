//! Produce (0): batches in, offsets out. Durable before it is acknowledged, whatever `acks` says.
//!
//! Judging, validating and handing to the log happen in the order of requests; waiting for durability does not hold up
//! the requests behind.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use kafka_protocol::messages::produce_request::PartitionProduceData;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use schloss_authz::ResourceRef;
use schloss_authz::can;
use schloss_core::{ErrorCode, TopicId};
use schloss_storage::{AppendError, Appended};
use schloss_wire::batch::{self, BatchHeader, BatchRules, Budget, Codec, KeyRule, TimeRule, ValidBatch};

use super::wire_text;
use crate::authorize::Call;
use crate::catalog::Topic;
use crate::dispatch::{self, Answer};

/// What a compressed batch may unfold to: far beyond any honest one, far below what hurts.
const UNFOLDED_BYTES_MAX: usize = 512 * 1024 * 1024;
/// And how many times its size.
const UNFOLDED_RATIO_MAX: usize = 1_000;

/// A partition's outcome, now or when its batches are durable.
enum Pending {
    Failed { index: i32, code: ErrorCode, why: Option<String> },
    Submitted { index: i32, done: BoxFuture<'static, Result<Appended, AppendError>> },
}

struct PendingTopic {
    name: kafka_protocol::messages::TopicName,
    id: uuid::Uuid,
    partitions: Vec<Pending>,
}

/// Begins one request; its answer comes when everything in it is durable or refused.
pub async fn handle(call: Arc<Call>, request: ProduceRequest) -> Answer {
    let acks = request.acks;
    let whole = whole_refusal(&call, &request);
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for data in request.topic_data {
        let topic = match whole {
            Some(code) => Err(code),
            None if call.header.api_version >= 13 => {
                call.topic_by_id(can::WriteData, TopicId::from_bytes(*data.topic_id.as_bytes()))
            }
            None => call.topic(can::WriteData, &data.name),
        };
        let mut pending = PendingTopic {
            name: data.name,
            id: data.topic_id,
            partitions: Vec::with_capacity(data.partition_data.len()),
        };
        for partition in data.partition_data {
            pending.partitions.push(match &topic {
                Ok(topic) => begin(&call, topic, partition),
                Err(code) => Pending::Failed { index: partition.index, code: *code, why: None },
            });
        }
        topics.push(pending);
    }
    Answer::Later(Box::pin(async move {
        let response = finish(topics).await;
        let answer = dispatch::finish(&call, response.into()).await;
        if acks == 0 { None } else { answer }
    }))
}

fn whole_refusal(call: &Call, request: &ProduceRequest) -> Option<ErrorCode> {
    if !matches!(request.acks, -1..=1) {
        return Some(ErrorCode::INVALID_REQUIRED_ACKS);
    }
    let id = request.transactional_id.as_ref()?;
    match call.allow(can::AlterTransactionalId, ResourceRef::transactional_id(id)) {
        // Transactions are not served in this release, so none can be open.
        Ok(_permit) => Some(ErrorCode::INVALID_TXN_STATE),
        Err(_) => Some(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
    }
}

fn begin(call: &Call, topic: &Topic, data: PartitionProduceData) -> Pending {
    let index = data.index;
    let failed = |code: ErrorCode, why: Option<String>| Pending::Failed { index, code, why };
    if !topic.has(index) {
        return failed(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, None);
    }
    if let Err(code) = call.session.tenant.check_key() {
        return failed(code, Some("the tenant's key is refused by its key service".to_owned()));
    }
    let Some(records) = data.records.filter(|records| !records.is_empty()) else {
        return failed(ErrorCode::INVALID_RECORD, Some("no record batch".to_owned()));
    };
    let batch = match validate(call, topic, records) {
        Ok(batch) => batch,
        Err(error) => return failed(ErrorCode::from(&error), Some(error.to_string())),
    };
    if batch.facts().is_transactional {
        return failed(ErrorCode::INVALID_TXN_STATE, None);
    }
    if let Some(producer) = batch.facts().producer
        && let Err(code) = call.session.tenant.producers.check(&call.session.principal, producer.id, producer.epoch)
    {
        return failed(code, None);
    }
    let done = call.broker.engine.submit(topic.partition(index), batch, topic.limits.log_append_time);
    Pending::Submitted { index, done: Box::pin(done) }
}

fn validate(call: &Call, topic: &Topic, records: Bytes) -> Result<ValidBatch, batch::BatchError> {
    let limits = &topic.limits;
    let time = if limits.log_append_time {
        TimeRule::LogAppendTime
    } else {
        TimeRule::CreateTime {
            before_ms_max: limits.timestamp_before_max_ms,
            after_ms_max: limits.timestamp_after_max_ms,
        }
    };
    let rules = BatchRules {
        message_bytes_max: limits.message_bytes_max,
        budget: Budget { bytes_max: UNFOLDED_BYTES_MAX, ratio_max: UNFOLDED_RATIO_MAX },
        time,
        now_ms: call.broker.clock.now_ms(),
        key: if limits.compacted { KeyRule::Required } else { KeyRule::Optional },
        produce_version: call.header.api_version,
    };
    let plain = BatchHeader::read(&records).is_none_or(|header| header.codec() == Some(Codec::None));
    // Looking into a compressed batch takes a while: this thread's other tasks are handed over first.
    if plain {
        batch::validate(records, &rules)
    } else {
        tokio::task::block_in_place(|| batch::validate(records, &rules))
    }
}

async fn finish(topics: Vec<PendingTopic>) -> ProduceResponse {
    let mut response = ProduceResponse::default();
    for topic in topics {
        let mut result = TopicProduceResponse::default();
        result.name = topic.name;
        result.topic_id = topic.id;
        for pending in topic.partitions {
            result.partition_responses.push(match pending {
                Pending::Failed { index, code, why } => refused(index, code, why.as_deref()),
                Pending::Submitted { index, done } => match done.await {
                    Ok(appended) => accepted(index, &appended),
                    Err(error) => refused(index, error.code(), Some(&error.to_string())),
                },
            });
        }
        response.responses.push(result);
    }
    response
}

fn accepted(index: i32, appended: &Appended) -> PartitionProduceResponse {
    let mut answer = PartitionProduceResponse::default();
    answer.index = index;
    answer.base_offset = appended.base_offset;
    answer.log_append_time_ms = appended.log_append_time_ms.unwrap_or(-1);
    answer.log_start_offset = appended.log_start_offset;
    answer
}

fn refused(index: i32, code: ErrorCode, why: Option<&str>) -> PartitionProduceResponse {
    let mut answer = PartitionProduceResponse::default();
    answer.index = index;
    answer.error_code = code.code();
    answer.error_message = why.map(wire_text);
    answer.base_offset = -1;
    answer.log_append_time_ms = -1;
    answer.log_start_offset = -1;
    answer
}
