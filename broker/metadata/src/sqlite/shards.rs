//! Shards, partitions, segments, state and garbage: what the log engine commits.

use rusqlite::{OptionalExtension, Transaction, params};
use schloss_core::{PartitionId, ShardId, TopicId};

use super::queries::{account, collect, tenant_at};
use crate::{
    Acquired, Checkpoint, FlushCommit, GarbageRow, MetadataError, PartRow, PartitionFacts, PartitionRow, Removal,
    SegmentRow, ShardLease, StateRow,
};

const EPOCH_BYTES: usize = 12;

/// SQLite has signed integers only; epochs, numbers and sizes here stay far below 2^63.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> Result<u64, MetadataError> {
    u64::try_from(number).map_err(|_| MetadataError::Corrupt { what: "number" })
}

pub(super) fn acquire(
    tx: &Transaction<'_>,
    shard: ShardId,
    writer: [u8; 16],
    listed_epoch: u64,
) -> Result<Acquired, MetadataError> {
    let row: Option<(i64, i64, i64)> = tx
        .query_row(
            "SELECT epoch, checkpoint_epoch, checkpoint_seq FROM shards WHERE shard = ?1",
            [shard.0],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()?;
    let (stored, checkpoint_epoch, checkpoint_seq) = row.unwrap_or((0, 0, 0));
    let epoch = unsigned(stored)?.max(listed_epoch) + 1;
    tx.execute(
        "INSERT INTO shards VALUES (?1, ?2, ?3, 0, 0, 0)
         ON CONFLICT (shard) DO UPDATE SET epoch = excluded.epoch, writer = excluded.writer, opened = 0",
        params![shard.0, signed(epoch), writer],
    )?;
    let mut select = tx.prepare_cached("SELECT epoch, end_seq FROM epochs WHERE shard = ?1 ORDER BY epoch")?;
    let ended = collect(select.query([shard.0])?, |row| Ok((unsigned(row.get(0)?)?, unsigned(row.get(1)?)?)))?;
    let checkpoint = Checkpoint { epoch: unsigned(checkpoint_epoch)?, seq: unsigned(checkpoint_seq)? };
    Ok(Acquired { epoch, checkpoint, ended })
}

/// INVARIANT: a commit for a shard happens only while its row has the committer's epoch and writer.
fn guard(tx: &Transaction<'_>, lease: ShardLease) -> Result<(), MetadataError> {
    let mine = tx
        .prepare_cached("SELECT 1 FROM shards WHERE shard = ?1 AND epoch = ?2 AND writer = ?3")?
        .exists(params![lease.shard.0, signed(lease.epoch), lease.writer])?;
    if mine { Ok(()) } else { Err(MetadataError::Fenced { shard: lease.shard }) }
}

pub(super) fn confirm(tx: &Transaction<'_>, lease: ShardLease, ended: &[(u64, u64)]) -> Result<(), MetadataError> {
    guard(tx, lease)?;
    for (epoch, end_seq) in ended {
        tx.execute(
            "INSERT INTO epochs VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            params![lease.shard.0, signed(*epoch), signed(*end_seq)],
        )?;
    }
    tx.execute("UPDATE shards SET opened = 1 WHERE shard = ?1", [lease.shard.0])?;
    Ok(())
}

pub(super) fn commit_flush(
    tx: &Transaction<'_>,
    lease: ShardLease,
    flush: &FlushCommit,
) -> Result<(), MetadataError> {
    guard(tx, lease)?;
    for segment in &flush.segments {
        insert_segment(tx, lease.shard, segment)?;
    }
    let ids: Vec<[u8; 16]> = flush.segments.iter().map(|segment| segment.segment).collect();
    bury_unreferenced(tx, &ids, flush.now_ms)?;
    let mut update = tx.prepare_cached(
        "UPDATE partitions SET log_start = max(log_start, ?3), next_offset = ?4, epochs = ?5, producers = ?6
         WHERE topic = ?1 AND idx = ?2",
    )?;
    for facts in &flush.facts {
        update.execute(params![
            facts.partition.topic.to_bytes(),
            facts.partition.index,
            facts.log_start,
            facts.next_offset,
            epochs_to_bytes(&facts.epochs),
            facts.producers
        ])?;
    }
    write_state(tx, lease.shard, &flush.state)?;
    tx.execute(
        "UPDATE shards SET checkpoint_epoch = ?2, checkpoint_seq = ?3
         WHERE shard = ?1 AND (checkpoint_epoch, checkpoint_seq) < (?2, ?3)",
        params![lease.shard.0, signed(flush.checkpoint.epoch), signed(flush.checkpoint.seq)],
    )?;
    Ok(())
}

fn insert_segment(tx: &Transaction<'_>, shard: ShardId, segment: &SegmentRow) -> Result<(), MetadataError> {
    tx.prepare_cached("INSERT INTO segments VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?.execute(params![
        segment.segment,
        account(segment.tenant),
        shard.0,
        segment.object_id,
        segment.born_ms,
        signed(segment.size),
        signed(segment.footer_position),
        segment.frame_count,
        segment.footer_tag,
        segment.wrapped
    ])?;
    // A topic deleted while its segment was written gets no part.
    let mut insert = tx.prepare_cached(
        "INSERT INTO segment_parts SELECT topic, idx, ?3, ?4, ?5, ?6, ?7 FROM partitions WHERE topic = ?1 AND idx = ?2",
    )?;
    for part in &segment.parts {
        insert.execute(params![
            part.partition.topic.to_bytes(),
            part.partition.index,
            part.first_offset,
            part.next_offset,
            part.max_timestamp,
            signed(part.bytes),
            segment.segment
        ])?;
    }
    Ok(())
}

fn write_state(tx: &Transaction<'_>, shard: ShardId, rows: &[StateRow]) -> Result<(), MetadataError> {
    let mut put = tx.prepare_cached(
        "INSERT INTO state VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (shard, tenant, row_key) DO UPDATE SET sealed = excluded.sealed",
    )?;
    let mut remove = tx.prepare_cached("DELETE FROM state WHERE shard = ?1 AND tenant = ?2 AND row_key = ?3")?;
    for row in rows {
        match &row.sealed {
            Some(sealed) => put.execute(params![shard.0, account(row.tenant), row.row_key, sealed])?,
            None => remove.execute(params![shard.0, account(row.tenant), row.row_key])?,
        };
    }
    Ok(())
}

pub(super) fn remove_parts(tx: &Transaction<'_>, lease: ShardLease, removal: &Removal) -> Result<(), MetadataError> {
    guard(tx, lease)?;
    let mut find =
        tx.prepare_cached("SELECT segment FROM segment_parts WHERE topic = ?1 AND idx = ?2 AND first_offset = ?3")?;
    let mut remove =
        tx.prepare_cached("DELETE FROM segment_parts WHERE topic = ?1 AND idx = ?2 AND first_offset = ?3")?;
    let mut touched: Vec<[u8; 16]> = Vec::new();
    for (partition, first_offset) in &removal.parts {
        let key = params![partition.topic.to_bytes(), partition.index, first_offset];
        touched.extend(find.query_row(key, |row| row.get::<_, [u8; 16]>(0)).optional()?);
        remove.execute(key)?;
    }
    let mut start = tx.prepare_cached(
        "UPDATE partitions SET log_start = max(log_start, ?3) WHERE topic = ?1 AND idx = ?2",
    )?;
    for (partition, log_start) in &removal.log_starts {
        start.execute(params![partition.topic.to_bytes(), partition.index, log_start])?;
    }
    bury_unreferenced(tx, &touched, removal.now_ms)
}

/// Moves those of `segments` that no part refers to into the garbage. Their wrapped keys go with the row.
pub(super) fn bury_unreferenced(
    tx: &Transaction<'_>,
    segments: &[[u8; 16]],
    now_ms: i64,
) -> Result<(), MetadataError> {
    let mut bury = tx.prepare_cached(
        "INSERT INTO garbage SELECT segment, tenant, ?2 FROM segments s
         WHERE segment = ?1 AND NOT EXISTS (SELECT 1 FROM segment_parts p WHERE p.segment = s.segment)
         ON CONFLICT DO NOTHING",
    )?;
    let mut remove = tx.prepare_cached(
        "DELETE FROM segments WHERE segment = ?1
         AND NOT EXISTS (SELECT 1 FROM segment_parts p WHERE p.segment = ?1)",
    )?;
    for segment in segments {
        bury.execute(params![segment, now_ms])?;
        remove.execute(params![segment])?;
    }
    Ok(())
}

const PARTITION_COLUMNS: &str =
    "SELECT topic, idx, tenant, shard, epoch_base, log_start, next_offset, epochs, producers FROM partitions";

fn partition_row(row: &rusqlite::Row<'_>) -> Result<PartitionRow, MetadataError> {
    Ok(PartitionRow {
        tenant: tenant_at(row, 2)?,
        shard: ShardId(row.get(3)?),
        epoch_base: row.get(4)?,
        facts: PartitionFacts {
            partition: PartitionId { topic: TopicId::from_bytes(row.get(0)?), index: row.get(1)? },
            log_start: row.get(5)?,
            next_offset: row.get(6)?,
            epochs: epochs_from_bytes(&row.get::<_, Vec<u8>>(7)?)?,
            producers: row.get(8)?,
        },
    })
}

pub(super) fn partitions(tx: &Transaction<'_>, shard: ShardId) -> Result<Vec<PartitionRow>, MetadataError> {
    let mut select = tx.prepare_cached(&format!("{PARTITION_COLUMNS} WHERE shard = ?1 ORDER BY topic, idx"))?;
    collect(select.query([shard.0])?, partition_row)
}

pub(super) fn partitions_of(tx: &Transaction<'_>, topics: &[TopicId]) -> Result<Vec<PartitionRow>, MetadataError> {
    let mut select = tx.prepare_cached(&format!("{PARTITION_COLUMNS} WHERE topic = ?1 ORDER BY idx"))?;
    let mut all = Vec::new();
    for topic in topics {
        all.extend(collect(select.query([topic.to_bytes()])?, partition_row)?);
    }
    Ok(all)
}

pub(super) fn segments(tx: &Transaction<'_>, shard: ShardId) -> Result<Vec<SegmentRow>, MetadataError> {
    let mut parts = tx.prepare_cached(
        "SELECT topic, idx, first_offset, next_offset, max_timestamp, bytes FROM segment_parts
         WHERE segment = ?1 ORDER BY topic, idx, first_offset",
    )?;
    let mut select = tx.prepare_cached(
        "SELECT segment, tenant, object_id, born_ms, size, footer_position, frame_count, footer_tag, wrapped
         FROM segments WHERE shard = ?1 ORDER BY segment",
    )?;
    let mut all = collect(select.query([shard.0])?, |row| {
        Ok(SegmentRow {
            segment: row.get(0)?,
            tenant: tenant_at(row, 1)?,
            object_id: row.get(2)?,
            born_ms: row.get(3)?,
            size: unsigned(row.get(4)?)?,
            footer_position: unsigned(row.get(5)?)?,
            frame_count: row.get(6)?,
            footer_tag: row.get(7)?,
            wrapped: row.get(8)?,
            parts: Vec::new(),
        })
    })?;
    for segment in &mut all {
        segment.parts = collect(parts.query([segment.segment])?, |row| {
            Ok(PartRow {
                partition: PartitionId { topic: TopicId::from_bytes(row.get(0)?), index: row.get(1)? },
                first_offset: row.get(2)?,
                next_offset: row.get(3)?,
                max_timestamp: row.get(4)?,
                bytes: unsigned(row.get(5)?)?,
            })
        })?;
    }
    Ok(all)
}

pub(super) fn segment_ids(tx: &Transaction<'_>) -> Result<Vec<[u8; 16]>, MetadataError> {
    let mut select = tx.prepare_cached("SELECT segment FROM segments")?;
    collect(select.query([])?, |row| Ok(row.get(0)?))
}

pub(super) fn shard_count(tx: &Transaction<'_>) -> Result<u32, MetadataError> {
    Ok(tx.query_row("SELECT coalesce(max(shard) + 1, 0) FROM shards", [], |row| row.get(0))?)
}

pub(super) fn state(tx: &Transaction<'_>, shard: ShardId) -> Result<Vec<StateRow>, MetadataError> {
    let mut select =
        tx.prepare_cached("SELECT tenant, row_key, sealed FROM state WHERE shard = ?1 ORDER BY tenant, row_key")?;
    collect(select.query([shard.0])?, |row| {
        Ok(StateRow { tenant: tenant_at(row, 0)?, row_key: row.get(1)?, sealed: row.get(2)? })
    })
}

pub(super) fn garbage(tx: &Transaction<'_>, removed_ms: i64) -> Result<Vec<GarbageRow>, MetadataError> {
    let mut select = tx.prepare_cached("SELECT segment, tenant, removed_ms FROM garbage WHERE removed_ms <= ?1")?;
    collect(select.query([removed_ms])?, |row| {
        Ok(GarbageRow { segment: row.get(0)?, tenant: tenant_at(row, 1)?, removed_ms: row.get(2)? })
    })
}

pub(super) fn erased(tx: &Transaction<'_>, segments: &[[u8; 16]]) -> Result<(), MetadataError> {
    let mut remove = tx.prepare_cached("DELETE FROM garbage WHERE segment = ?1")?;
    for segment in segments {
        remove.execute(params![segment])?;
    }
    Ok(())
}

fn epochs_to_bytes(epochs: &[(i32, i64)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(epochs.len() * EPOCH_BYTES);
    for (epoch, offset) in epochs {
        bytes.extend_from_slice(&epoch.to_be_bytes());
        bytes.extend_from_slice(&offset.to_be_bytes());
    }
    bytes
}

fn epochs_from_bytes(bytes: &[u8]) -> Result<Vec<(i32, i64)>, MetadataError> {
    let (rows, rest) = bytes.as_chunks::<EPOCH_BYTES>();
    if !rest.is_empty() {
        return Err(MetadataError::Corrupt { what: "epochs" });
    }
    Ok(rows
        .iter()
        .map(|[a, b, c, d, offset @ ..]| (i32::from_be_bytes([*a, *b, *c, *d]), i64::from_be_bytes(*offset)))
        .collect())
}
