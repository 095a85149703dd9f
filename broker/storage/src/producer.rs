//! Sequence numbers of idempotent producers, per partition (KIP-98, KIP-360).
//!
//! The last five batches of each producer are remembered: a repetition of one is answered with its offset.

use std::collections::{HashMap, VecDeque};

use crate::error::AppendError;

/// Batches remembered per producer; clients have at most five in flight.
const REMEMBERED: usize = 5;
/// Producers remembered per partition; the one unused for longest goes first.
pub const PRODUCERS_MAX: usize = 10_000;

/// One remembered batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    pub base_sequence: i32,
    pub last_sequence: i32,
    pub base_offset: i64,
    pub appended_ms: i64,
}

/// One producer's state in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    pub epoch: i16,
    pub batches: VecDeque<Remembered>,
    /// Without a batch: the sequence number that was refused and must come first. Not stored; a start forgets it, and
    /// with it every connection that had later batches on their way.
    pub awaited: Option<i32>,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Follows: append it.
    Append,
    /// Was appended before, here.
    Duplicate(Remembered),
}

/// A batch as its producer numbered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbered {
    pub producer_id: i64,
    pub epoch: i16,
    pub base_sequence: i32,
    pub last_offset_delta: i32,
}

impl Numbered {
    fn last_sequence(&self) -> i32 {
        add_sequence(self.base_sequence, self.last_offset_delta)
    }
}

/// All producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    by_id: HashMap<i64, Producer>,
}

impl Producers {
    /// Judges a numbered batch against what is remembered.
    ///
    /// # Errors
    /// [`AppendError`] as Kafka's `ProducerAppendInfo` judges.
    pub fn check(&self, batch: &Numbered) -> Result<Check, AppendError> {
        let Some(producer) = self.by_id.get(&batch.producer_id) else {
            // A producer whose state was dropped with old records may go on; Kafka takes any sequence there.
            return Ok(Check::Append);
        };
        if batch.epoch < producer.epoch {
            return Err(AppendError::ProducerFenced);
        }
        if batch.epoch > producer.epoch {
            return if batch.base_sequence == 0 { Ok(Check::Append) } else { Err(AppendError::OutOfOrderSequence) };
        }
        let same =
            |old: &&Remembered| old.base_sequence == batch.base_sequence && old.last_sequence == batch.last_sequence();
        if let Some(old) = producer.batches.iter().find(same) {
            return Ok(Check::Duplicate(*old));
        }
        match producer.batches.back() {
            None if producer.awaited.is_none_or(|awaited| awaited == batch.base_sequence) => Ok(Check::Append),
            None => Err(AppendError::OutOfOrderSequence),
            Some(last) if add_sequence(last.last_sequence, 1) == batch.base_sequence => Ok(Check::Append),
            Some(last)
                if batch.last_sequence() <= last.last_sequence
                    && producer.batches.front().is_some_and(|first| batch.last_sequence() < first.base_sequence) =>
            {
                Err(AppendError::DuplicateSequence)
            }
            Some(_) => Err(AppendError::OutOfOrderSequence),
        }
    }

    /// Whether a producer's batch at this offset, or a later one, is remembered.
    pub fn knows(&self, producer_id: i64, base_offset: i64) -> bool {
        let last = self.by_id.get(&producer_id).and_then(|producer| producer.batches.back());
        last.is_some_and(|last| last.base_offset >= base_offset)
    }

    /// Remembers an appended batch; gives back what was there, to undo.
    pub fn append(&mut self, batch: &Numbered, base_offset: i64, appended_ms: i64) -> Option<Producer> {
        let old = self.by_id.get(&batch.producer_id).cloned();
        if old.is_none() && self.by_id.len() >= PRODUCERS_MAX {
            let oldest = self
                .by_id
                .iter()
                .min_by_key(|(_, producer)| producer.batches.back().map_or(0, |last| last.appended_ms))
                .map(|(id, _)| *id);
            if let Some(id) = oldest {
                self.by_id.remove(&id);
            }
        }
        let producer = self.by_id.entry(batch.producer_id).or_insert_with(|| Producer {
            epoch: batch.epoch,
            batches: VecDeque::new(),
            awaited: None,
        });
        producer.awaited = None;
        if producer.epoch != batch.epoch {
            producer.epoch = batch.epoch;
            producer.batches.clear();
        }
        producer.batches.push_back(Remembered {
            base_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence(),
            base_offset,
            appended_ms,
        });
        while producer.batches.len() > REMEMBERED {
            producer.batches.pop_front();
        }
        old
    }

    /// A batch was refused for a passing reason: a producer of which nothing is known must begin with it.
    pub fn expect(&mut self, batch: &Numbered) {
        if self.by_id.len() < PRODUCERS_MAX {
            let fresh =
                || Producer { epoch: batch.epoch, batches: VecDeque::new(), awaited: Some(batch.base_sequence) };
            self.by_id.entry(batch.producer_id).or_insert_with(fresh);
        }
    }

    /// The same for batches taken back from the newest to the oldest: the oldest one counts.
    pub fn expect_again(&mut self, batch: &Numbered) {
        match self.by_id.get_mut(&batch.producer_id) {
            Some(producer) if producer.batches.is_empty() => producer.awaited = Some(batch.base_sequence),
            Some(_) => {}
            None => self.expect(batch),
        }
    }

    /// Puts back what [`Producers::append`] gave.
    pub fn undo(&mut self, producer_id: i64, old: Option<Producer>) {
        match old {
            Some(producer) => drop(self.by_id.insert(producer_id, producer)),
            None => drop(self.by_id.remove(&producer_id)),
        }
    }

    /// Version 1: count u32, then per producer: id i64 | epoch i16 | batches u8 | per batch base sequence i32, last
    /// sequence i32, base offset i64, appended i64.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![1];
        let mut ids: Vec<_> =
            self.by_id.iter().filter(|(_, producer)| !producer.batches.is_empty()).map(|(id, _)| *id).collect();
        bytes.extend_from_slice(&u32::try_from(ids.len()).unwrap_or(u32::MAX).to_be_bytes());
        ids.sort_unstable();
        for id in ids {
            let Some(producer) = self.by_id.get(&id) else { continue };
            bytes.extend_from_slice(&id.to_be_bytes());
            bytes.extend_from_slice(&producer.epoch.to_be_bytes());
            bytes.push(u8::try_from(producer.batches.len()).unwrap_or(u8::MAX));
            for batch in &producer.batches {
                bytes.extend_from_slice(&batch.base_sequence.to_be_bytes());
                bytes.extend_from_slice(&batch.last_sequence.to_be_bytes());
                bytes.extend_from_slice(&batch.base_offset.to_be_bytes());
                bytes.extend_from_slice(&batch.appended_ms.to_be_bytes());
            }
        }
        bytes
    }

    /// The inverse; `None` when malformed.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(bytes);
        if cursor.take::<1>()? != [1] {
            return None;
        }
        let count = u32::from_be_bytes(cursor.take()?);
        let mut by_id = HashMap::new();
        for _ in 0..count {
            let id = i64::from_be_bytes(cursor.take()?);
            let epoch = i16::from_be_bytes(cursor.take()?);
            let [batches] = cursor.take::<1>()?;
            let mut remembered = VecDeque::new();
            for _ in 0..batches {
                remembered.push_back(Remembered {
                    base_sequence: i32::from_be_bytes(cursor.take()?),
                    last_sequence: i32::from_be_bytes(cursor.take()?),
                    base_offset: i64::from_be_bytes(cursor.take()?),
                    appended_ms: i64::from_be_bytes(cursor.take()?),
                });
            }
            by_id.insert(id, Producer { epoch, batches: remembered, awaited: None });
        }
        cursor.0.is_empty().then_some(Self { by_id })
    }
}

/// Sequence numbers wrap from the largest i32 to 0 (KIP-98).
pub fn add_sequence(sequence: i32, by: i32) -> i32 {
    let sum = i64::from(sequence).saturating_add(i64::from(by));
    let wrapped =
        if sum > i64::from(i32::MAX) { sum.saturating_sub(i64::from(i32::MAX)).saturating_sub(1) } else { sum };
    i32::try_from(wrapped).unwrap_or(0)
}

/// Reads fixed fields from the front of bytes.
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    /// The next `N` bytes.
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_at_checked(N)?;
        self.0 = rest;
        head.try_into().ok()
    }

    /// The next `length` bytes.
    pub fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(epoch: i16, base_sequence: i32) -> Numbered {
        Numbered { producer_id: 9, epoch, base_sequence, last_offset_delta: 1 }
    }

    fn with(sequences: &[i32]) -> Producers {
        let mut producers = Producers::default();
        for (n, sequence) in sequences.iter().enumerate() {
            producers.append(&numbered(0, *sequence), 10 * n as i64, 0);
        }
        producers
    }

    #[test]
    fn sequence_wraps_to_zero_behind_the_largest() {
        assert_eq!(add_sequence(i32::MAX, 1), 0);
        assert_eq!(add_sequence(i32::MAX - 1, 3), 1);
        assert_eq!(add_sequence(5, 2), 7);
    }

    #[test]
    fn repeated_batch_is_answered_with_its_offset() {
        let producers = with(&[0, 2, 4]);
        assert!(matches!(producers.check(&numbered(0, 2)), Ok(Check::Duplicate(old)) if old.base_offset == 10));
    }

    #[test]
    fn gap_is_refused_and_the_next_is_taken() {
        let producers = with(&[0, 2]);
        assert_eq!(producers.check(&numbered(0, 6)), Err(AppendError::OutOfOrderSequence));
        assert_eq!(producers.check(&numbered(0, 4)), Ok(Check::Append));
    }

    #[test]
    fn repetition_older_than_five_batches_is_told_as_duplicate() {
        let producers = with(&[0, 2, 4, 6, 8, 10, 12]);
        assert_eq!(producers.check(&numbered(0, 0)), Err(AppendError::DuplicateSequence));
    }

    #[test]
    fn lower_epoch_is_fenced_and_higher_begins_at_zero() {
        let mut producers = Producers::default();
        producers.append(&numbered(3, 0), 0, 0);
        assert_eq!(producers.check(&numbered(2, 2)), Err(AppendError::ProducerFenced));
        assert_eq!(producers.check(&numbered(4, 2)), Err(AppendError::OutOfOrderSequence));
        assert_eq!(producers.check(&numbered(4, 0)), Ok(Check::Append));
    }

    #[test]
    fn undo_restores_what_was() {
        let mut producers = with(&[0, 2]);
        let before = producers.clone();
        let old = producers.append(&numbered(0, 4), 99, 1);
        producers.undo(9, old);
        assert_eq!(producers, before);
    }

    #[test]
    fn bytes_round_trip_and_cut_bytes_are_refused() {
        let producers = with(&[0, 2, 4]);
        let bytes = producers.to_bytes();
        assert_eq!(Producers::from_bytes(&bytes), Some(producers));
        for cut in 0..bytes.len() {
            assert_eq!(Producers::from_bytes(&bytes[..cut]), None);
        }
    }
}
