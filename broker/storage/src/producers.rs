//! What a partition knows of its idempotent producers: epoch and the last five batches of each.
//!
//! In: batch headers, in log order. Out: take it, or it is one we have, or why not.
//!
//! Invariants
//! - A batch that was acknowledged is never appended twice while its producer is remembered.
//! - After a refused first batch no later one of that producer gets in before it.
//!
//! Must not: judge transactions.

use std::collections::{HashMap, VecDeque};

use crate::batch::Batch;
use crate::error::AppendError;

/// Kafka clients keep at most five batches in flight per partition, so a retry is among the last five.
const BATCHES_REMEMBERED: usize = 5;
const BATCH_BYTES: usize = 24;

/// A remembered batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    base_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
    time_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    /// The sequence the next batch must begin with.
    next_sequence: i32,
    last_ms: i64,
    batches: VecDeque<Seen>,
}

/// The producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Producers(HashMap<i64, Producer>);

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Append it.
    New,
    /// It stands at this offset since that time.
    Duplicate { base_offset: i64, time_ms: i64 },
}

impl Producers {
    pub(crate) fn check(&self, batch: &Batch) -> Result<Verdict, AppendError> {
        let Some(producer) = self.0.get(&batch.producer_id()).filter(|_| batch.producer_id() >= 0) else {
            // SPEC: KIP-360: a producer nobody remembers may begin with any sequence.
            return Ok(Verdict::New);
        };
        let (epoch, got) = (batch.producer_epoch(), batch.base_sequence());
        if epoch < producer.epoch {
            return Err(AppendError::InvalidProducerEpoch { got: epoch, current: producer.epoch });
        }
        let expected = if epoch > producer.epoch { 0 } else { producer.next_sequence };
        if epoch == producer.epoch {
            let same = |seen: &&Seen| seen.base_sequence == got && seen.last_sequence == batch.last_sequence();
            if let Some(seen) = producer.batches.iter().find(same) {
                return Ok(Verdict::Duplicate { base_offset: seen.base_offset, time_ms: seen.time_ms });
            }
        }
        if got == expected { Ok(Verdict::New) } else { Err(AppendError::OutOfOrderSequence { got, expected }) }
    }

    /// Notes an appended batch that has its offset.
    pub(crate) fn note(&mut self, batch: &Batch, now_ms: i64, producers_max: usize) {
        if batch.producer_id() < 0 {
            return;
        }
        if self.0.len() >= producers_max && !self.0.contains_key(&batch.producer_id()) {
            self.forget_oldest();
        }
        let producer = self.begin(batch, now_ms);
        if producer.epoch != batch.producer_epoch() {
            producer.epoch = batch.producer_epoch();
            producer.batches.clear();
        }
        if producer.batches.len() == BATCHES_REMEMBERED {
            producer.batches.pop_front();
        }
        producer.batches.push_back(Seen {
            base_sequence: batch.base_sequence(),
            last_sequence: batch.last_sequence(),
            base_offset: batch.base_offset(),
            time_ms: batch.max_timestamp(),
        });
        producer.next_sequence = batch.last_sequence().checked_add(1).unwrap_or(0);
        producer.last_ms = now_ms;
    }

    /// A batch was refused for a passing reason: an unknown producer must begin with it again.
    pub(crate) fn expect(&mut self, batch: &Batch, now_ms: i64, producers_max: usize) {
        if batch.producer_id() >= 0 && self.0.len() < producers_max {
            self.begin(batch, now_ms);
        }
    }

    fn begin(&mut self, batch: &Batch, now_ms: i64) -> &mut Producer {
        self.0.entry(batch.producer_id()).or_insert_with(|| Producer {
            epoch: batch.producer_epoch(),
            next_sequence: batch.base_sequence(),
            last_ms: now_ms,
            batches: VecDeque::new(),
        })
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.0.iter().min_by_key(|(_, producer)| producer.last_ms).map(|(id, _)| *id) {
            self.0.remove(&oldest);
        }
    }

    /// Forgets producers silent since before `limit_ms`.
    pub(crate) fn expire(&mut self, limit_ms: i64) {
        self.0.retain(|_, producer| producer.last_ms >= limit_ms);
    }

    /// For the snapshot: per producer id i64 | epoch i16 | next sequence i32 | last time i64 | count u8 | batches.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (id, producer) in &self.0 {
            bytes.extend_from_slice(&id.to_be_bytes());
            bytes.extend_from_slice(&producer.epoch.to_be_bytes());
            bytes.extend_from_slice(&producer.next_sequence.to_be_bytes());
            bytes.extend_from_slice(&producer.last_ms.to_be_bytes());
            bytes.push(u8::try_from(producer.batches.len()).unwrap_or(0));
            for seen in &producer.batches {
                bytes.extend_from_slice(&seen.base_sequence.to_be_bytes());
                bytes.extend_from_slice(&seen.last_sequence.to_be_bytes());
                bytes.extend_from_slice(&seen.base_offset.to_be_bytes());
                bytes.extend_from_slice(&seen.time_ms.to_be_bytes());
            }
        }
        bytes
    }

    pub(crate) fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let mut all = HashMap::new();
        while !bytes.is_empty() {
            let id = i64::from_be_bytes(take(&mut bytes)?);
            let epoch = i16::from_be_bytes(take(&mut bytes)?);
            let next_sequence = i32::from_be_bytes(take(&mut bytes)?);
            let last_ms = i64::from_be_bytes(take(&mut bytes)?);
            let [count] = take(&mut bytes)?;
            let mut batches = VecDeque::new();
            for _ in 0..count {
                let mut seen: &[u8] = &take::<BATCH_BYTES>(&mut bytes)?;
                batches.push_back(Seen {
                    base_sequence: i32::from_be_bytes(take(&mut seen)?),
                    last_sequence: i32::from_be_bytes(take(&mut seen)?),
                    base_offset: i64::from_be_bytes(take(&mut seen)?),
                    time_ms: i64::from_be_bytes(take(&mut seen)?),
                });
            }
            all.insert(id, Producer { epoch, next_sequence, last_ms, batches });
        }
        Some(Self(all))
    }
}

/// Takes `N` bytes from the front.
pub(crate) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (field, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::testing::batch;

    fn of(sequence: i32, epoch: i16) -> Batch {
        batch(2, (7, epoch, sequence), 50, b"")
    }

    fn after(sequences: &[i32]) -> Producers {
        let mut producers = Producers::default();
        for (number, sequence) in (0_i64..).zip(sequences) {
            producers.note(&of(*sequence, 1).place(number * 2, 0, None), 10, 100);
        }
        producers
    }

    #[test]
    fn retried_batch_among_the_last_five_is_answered_with_its_offset() {
        let producers = after(&[0, 2, 4, 6, 8, 10]);
        assert_eq!(producers.check(&of(2, 1)), Ok(Verdict::Duplicate { base_offset: 2, time_ms: 50 }));
        assert_eq!(producers.check(&of(12, 1)), Ok(Verdict::New));
        assert_eq!(producers.check(&of(0, 1)), Err(AppendError::OutOfOrderSequence { got: 0, expected: 12 }));
        assert_eq!(producers.check(&of(14, 1)), Err(AppendError::OutOfOrderSequence { got: 14, expected: 12 }));
    }

    #[test]
    fn newer_epoch_begins_at_zero_and_fences_the_older() {
        let mut producers = after(&[0]);
        assert_eq!(producers.check(&of(2, 2)), Err(AppendError::OutOfOrderSequence { got: 2, expected: 0 }));
        assert_eq!(producers.check(&of(0, 2)), Ok(Verdict::New));
        producers.note(&of(0, 2), 11, 100);
        assert_eq!(producers.check(&of(2, 1)), Err(AppendError::InvalidProducerEpoch { got: 1, current: 2 }));
    }

    #[test]
    fn later_batch_waits_for_a_refused_first_one() {
        let mut producers = Producers::default();
        producers.expect(&of(4, 1), 10, 100);
        assert!(producers.check(&of(6, 1)).is_err());
        assert_eq!(producers.check(&of(4, 1)), Ok(Verdict::New));
    }

    #[test]
    fn snapshot_gives_the_same_producers() {
        let producers = after(&[0, 2, 4]);
        assert_eq!(Producers::from_bytes(&producers.to_bytes()), Some(producers.clone()));
        let bytes = producers.to_bytes();
        assert_eq!(Producers::from_bytes(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn number_of_producers_is_bounded() {
        let mut producers = Producers::default();
        for id in 0..5 {
            producers.note(&batch(1, (id, 0, 0), 0, b""), id, 3);
        }
        assert_eq!(producers.0.len(), 3);
        producers.expire(4);
        assert_eq!(producers.0.len(), 1);
    }
}
