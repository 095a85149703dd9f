//! One batch on its way into an entry: its sequence is checked, its offset given, and what a failed write gives back is noted.

use std::sync::Arc;

use bytes::Bytes;
use schloss_wire::batch::ValidBatch;
use tokio::sync::oneshot;

use crate::error::AppendError;
use crate::partition::{Partition, TailBatch};
use crate::producer::{Check, Numbered};
use crate::shard::{Appended, Publish, Undo};
use crate::shared::{OWN_STATE, STATE_EPOCHS, ShardShared, StateRecord};
use crate::wal::entry;

impl ShardShared {
    #[expect(clippy::too_many_arguments, reason = "one batch on its way from request to entry")]
    pub fn append(
        &self,
        body: &mut Vec<u8>,
        partition: Arc<Partition>,
        batch: ValidBatch,
        log_append_ms: Option<i64>,
        now_ms: i64,
        reply: oneshot::Sender<Result<Appended, AppendError>>,
        publish: &mut Vec<Publish>,
        undo: &mut Vec<Undo>,
    ) {
        if partition.is_removed() {
            return drop(reply.send(Err(AppendError::UnknownPartition)));
        }
        let facts = *batch.facts();
        let numbered = numbered(&batch);
        let mut writer = partition.writer();
        if let Some(numbered) = &numbered {
            match writer.producers.check(numbered) {
                Ok(Check::Append) => {}
                Ok(Check::Duplicate(old)) => {
                    let appended = Appended {
                        base_offset: old.base_offset,
                        log_append_time_ms: log_append_ms.map(|_| old.appended_ms),
                        log_start_offset: partition.read().log_start,
                    };
                    return publish.push(Publish::Repeated { reply, appended });
                }
                Err(error) => return drop(reply.send(Err(error))),
            }
        }
        let base_offset = writer.next_offset;
        let last_offset = base_offset.saturating_add(i64::from(facts.last_offset_delta));
        let was_listed = writer.epoch_listed;
        let producer =
            numbered.map(|numbered| (numbered.producer_id, writer.producers.append(&numbered, base_offset, now_ms)));
        writer.producers_dirty |= producer.is_some();
        writer.next_offset = last_offset.saturating_add(1);
        writer.epoch_listed = true;
        drop(writer);
        undo.push(Undo {
            partition: Arc::clone(&partition),
            next_offset: base_offset,
            numbered,
            producer,
            epoch_listed: was_listed,
        });
        if !was_listed {
            let record = self.list_epoch(&partition, base_offset);
            entry::put_state(body, &record.key, record.value.as_deref());
            publish.push(Publish::State { tenant: partition.tenant, records: vec![record], reply: None });
        }
        let head = Bytes::copy_from_slice(&batch.assign_head(base_offset, self.leader_epoch(), log_append_ms));
        let payload = batch.payload();
        entry::put_batch(body, partition.id.topic.to_bytes(), partition.id.index, now_ms, &head, &payload);
        let max_timestamp = log_append_ms.unwrap_or(facts.max_timestamp);
        let tail = TailBatch { base_offset, last_offset, max_timestamp, appended_ms: now_ms, head, payload };
        let appended = Appended { base_offset, log_append_time_ms: log_append_ms, log_start_offset: 0 };
        publish.push(Publish::Append { partition, batch: tail, reply, appended });
    }

    /// The partition's epoch list with this epoch in it.
    fn list_epoch(&self, partition: &Partition, first_offset: i64) -> StateRecord {
        let epoch = self.leader_epoch();
        let mut inner = partition.write();
        inner.epochs.retain(|(known, _)| *known < epoch);
        inner.epochs.push((epoch, first_offset));
        let value: Vec<u8> = inner
            .epochs
            .iter()
            .flat_map(|(epoch, offset)| [epoch.to_be_bytes().to_vec(), offset.to_be_bytes().to_vec()].concat())
            .collect();
        StateRecord { key: own_key(STATE_EPOCHS, partition), value: Some(value.into()) }
    }
}

/// Key of the engine's own state of a partition.
pub fn own_key(kind: u8, partition: &Partition) -> Bytes {
    [&[OWN_STATE, kind][..], &partition.id.topic.to_bytes(), &partition.id.index.to_be_bytes()].concat().into()
}

pub fn numbered(batch: &ValidBatch) -> Option<Numbered> {
    let facts = batch.facts();
    facts.producer.map(|producer| Numbered {
        producer_id: producer.id,
        epoch: producer.epoch,
        base_sequence: producer.base_sequence,
        last_offset_delta: facts.last_offset_delta,
    })
}
