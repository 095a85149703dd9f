//! What a section holds: the things one group commit says about one tenant, in order.
//!
//! Item: kind u8, then
//! 1 batches: topic \[16\], partition i32, length u32, whole batches with their offsets;
//! 2 state: key length u32, value length u32 (all ones: removed), key, value;
//! 3 log start: topic \[16\], partition i32, offset i64.

use bytes::Bytes;
use schloss_core::{PartitionId, TopicId};

use crate::batch::{Batch, split_batches};
use crate::producers::take;

const BATCHES: u8 = 1;
const STATE: u8 = 2;
const LOG_START: u8 = 3;
const REMOVED: u32 = u32::MAX;

/// One thing said.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// Batches appended to a partition.
    Batches { partition: PartitionId, batches: Vec<Batch> },
    /// A row of the tenant's state set, or removed.
    State { key: Bytes, value: Option<Bytes> },
    /// Records below were deleted.
    LogStart { partition: PartitionId, offset: i64 },
}

impl Item {
    /// Bytes of its form.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Batches { batches, .. } => 25 + batches.iter().map(Batch::len).sum::<usize>(),
            Self::State { key, value } => 9 + key.len() + value.as_ref().map_or(0, Bytes::len),
            Self::LogStart { .. } => 29,
        }
    }

    /// Appends its form. The engine bounds lengths far below 4 GiB.
    pub(crate) fn write_to(&self, out: &mut Vec<u8>) {
        let length = |length: usize| u32::try_from(length).unwrap_or(REMOVED - 1).to_be_bytes();
        match self {
            Self::Batches { partition, batches } => {
                out.push(BATCHES);
                write_partition(*partition, out);
                out.extend_from_slice(&length(batches.iter().map(Batch::len).sum()));
                batches.iter().for_each(|batch| batch.write_to(out));
            }
            Self::State { key, value } => {
                out.push(STATE);
                out.extend_from_slice(&length(key.len()));
                out.extend_from_slice(&value.as_ref().map_or(REMOVED.to_be_bytes(), |value| length(value.len())));
                out.extend_from_slice(key);
                out.extend_from_slice(value.as_deref().unwrap_or_default());
            }
            Self::LogStart { partition, offset } => {
                out.push(LOG_START);
                write_partition(*partition, out);
                out.extend_from_slice(&offset.to_be_bytes());
            }
        }
    }

    /// Reads a whole opened section; `None` when it is not one.
    pub(crate) fn read_all(mut bytes: Bytes) -> Option<Vec<Self>> {
        let mut items = Vec::new();
        while !bytes.is_empty() {
            let kind = take_from::<1>(&mut bytes)?;
            items.push(match kind {
                [BATCHES] => {
                    let partition = read_partition(&mut bytes)?;
                    let length = read_length(&mut bytes)?;
                    Self::Batches { partition, batches: split_batches(split(&mut bytes, length)?)? }
                }
                [STATE] => {
                    let key_length = read_length(&mut bytes)?;
                    let value_length = u32::from_be_bytes(take_from(&mut bytes)?);
                    let key = split(&mut bytes, key_length)?;
                    let value = if value_length == REMOVED {
                        None
                    } else {
                        Some(split(&mut bytes, usize::try_from(value_length).ok()?)?)
                    };
                    Self::State { key, value }
                }
                [LOG_START] => Self::LogStart {
                    partition: read_partition(&mut bytes)?,
                    offset: i64::from_be_bytes(take_from(&mut bytes)?),
                },
                _ => return None,
            });
        }
        Some(items)
    }
}

fn write_partition(partition: PartitionId, out: &mut Vec<u8>) {
    out.extend_from_slice(&partition.topic.to_bytes());
    out.extend_from_slice(&partition.index.to_be_bytes());
}

fn read_partition(bytes: &mut Bytes) -> Option<PartitionId> {
    let topic = TopicId::from_bytes(take_from(bytes)?);
    Some(PartitionId { topic, index: i32::from_be_bytes(take_from(bytes)?) })
}

fn read_length(bytes: &mut Bytes) -> Option<usize> {
    usize::try_from(u32::from_be_bytes(take_from(bytes)?)).ok()
}

fn take_from<const N: usize>(bytes: &mut Bytes) -> Option<[u8; N]> {
    take(&mut &*split(bytes, N)?)
}

fn split(bytes: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::testing::batch;

    #[test]
    fn items_read_back_as_written_and_cut_ones_not_at_all() {
        let partition = PartitionId { topic: TopicId::from_bytes([1; 16]), index: 2 };
        let items = [
            Item::Batches { partition, batches: vec![batch(1, (-1, -1, -1), 0, b"x"), batch(2, (1, 1, 1), 3, b"yy")] },
            Item::State { key: Bytes::from_static(b"key"), value: None },
            Item::State { key: Bytes::from_static(b"key"), value: Some(Bytes::from_static(b"")) },
            Item::LogStart { partition, offset: 77 },
        ];
        let mut bytes = Vec::new();
        items.iter().for_each(|item| item.write_to(&mut bytes));
        assert_eq!(bytes.len(), items.iter().map(Item::len).sum::<usize>());
        let mut again = Vec::new();
        Item::read_all(bytes.clone().into()).unwrap().iter().for_each(|item| item.write_to(&mut again));
        assert_eq!(again, bytes);
        assert!(Item::read_all(Bytes::copy_from_slice(&bytes[..bytes.len() - 1])).is_none());
    }
}
