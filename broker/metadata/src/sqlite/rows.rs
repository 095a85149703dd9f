//! Rows to and from SQL, and the steps that more than one verb takes.

use rusqlite::{OptionalExtension, Transaction, params};
use schloss_core::{PartitionId, ShardId, TenantId, TopicId};

use super::translate;
use crate::{AsideRow, FlushCommit, MetadataError, PartRow, PartitionRow, SegmentRow, ShardGuard, StateRow, TopicRow};

pub fn tenant_number(tenant: TenantId) -> i64 {
    i64::try_from(tenant.account()).unwrap_or(i64::MAX)
}

pub fn tenant_of(number: i64, table: &'static str) -> Result<TenantId, MetadataError> {
    u64::try_from(number).ok().and_then(TenantId::new).ok_or(MetadataError::Malformed { table })
}

pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub fn unsigned(number: i64, table: &'static str) -> Result<u64, MetadataError> {
    u64::try_from(number).map_err(|_| MetadataError::Malformed { table })
}

/// Rule 5: nothing of a shard changes but by its present writer.
pub fn guard(sql: &Transaction<'_>, guard: ShardGuard) -> Result<(), MetadataError> {
    let held = sql
        .query_row(
            "SELECT 1 FROM shards WHERE shard = ?1 AND epoch = ?2 AND writer = ?3",
            params![guard.shard.0, signed(guard.epoch), guard.writer],
            |_| Ok(()),
        )
        .optional()
        .map_err(translate)?;
    held.ok_or(MetadataError::Fenced)
}

pub fn insert_partitions(sql: &Transaction<'_>, rows: &[PartitionRow]) -> Result<(), MetadataError> {
    let mut statement = sql
        .prepare_cached("INSERT INTO partitions (topic_id, idx, tenant, shard, log_start) VALUES (?1, ?2, ?3, ?4, ?5)")
        .map_err(translate)?;
    for row in rows {
        statement
            .execute(params![
                row.partition.topic.to_bytes(),
                row.partition.index,
                tenant_number(row.tenant),
                row.shard.0,
                row.log_start
            ])
            .map_err(translate)?;
    }
    Ok(())
}

pub fn insert_segment(sql: &Transaction<'_>, row: &SegmentRow) -> Result<(), MetadataError> {
    sql.execute(
        "INSERT INTO segments (object_id, segment, tenant, wrapped, born_ms, size, frame_count, footer_position, footer_tag) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![row.object_id, row.segment, tenant_number(row.tenant), row.wrapped, row.born_ms, signed(row.size), row.frame_count, signed(row.footer_position), row.footer_tag],
    )
    .map(drop)
    .map_err(translate)
}

/// Segments that no part names become garbage.
pub fn collect_unneeded(sql: &Transaction<'_>, objects: &[Vec<u8>], now_ms: i64) -> Result<(), MetadataError> {
    for object in objects {
        sql.execute(
            "INSERT OR IGNORE INTO garbage (object_id, tenant, removed_ms) SELECT object_id, tenant, ?2 FROM segments
             WHERE object_id = ?1 AND NOT EXISTS (SELECT 1 FROM segment_parts WHERE object_id = ?1)",
            params![object, now_ms],
        )
        .map_err(translate)?;
        sql.execute("DELETE FROM segments WHERE object_id = ?1 AND NOT EXISTS (SELECT 1 FROM segment_parts WHERE object_id = ?1)", params![object]).map_err(translate)?;
    }
    Ok(())
}

pub fn column<T: rusqlite::types::FromSql>(row: &rusqlite::Row<'_>, index: usize) -> Result<T, MetadataError> {
    row.get(index).map_err(translate)
}

/// Runs a query and reads each row.
pub fn list<T>(
    sql: &Transaction<'_>,
    query: &str,
    values: &[&dyn rusqlite::ToSql],
    read: impl Fn(&rusqlite::Row<'_>) -> Result<T, MetadataError>,
) -> Result<Vec<T>, MetadataError> {
    let mut statement = sql.prepare_cached(query).map_err(translate)?;
    let mut rows = statement.query(values).map_err(translate)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next().map_err(translate)? {
        all.push(read(row)?);
    }
    Ok(all)
}

pub fn read_topic(row: &rusqlite::Row<'_>) -> Result<TopicRow, MetadataError> {
    Ok(TopicRow {
        topic_id: TopicId::from_bytes(column(row, 0)?),
        tenant: tenant_of(column(row, 1)?, "topics")?,
        name_index: column(row, 2)?,
        sealed: column(row, 3)?,
        partitions: column(row, 4)?,
        created_ms: column(row, 5)?,
    })
}

pub fn read_part(row: &rusqlite::Row<'_>) -> Result<PartRow, MetadataError> {
    Ok(PartRow {
        partition: PartitionId { topic: TopicId::from_bytes(column(row, 0)?), index: column(row, 1)? },
        tenant: tenant_of(column(row, 2)?, "segment_parts")?,
        first_offset: column(row, 3)?,
        next_offset: column(row, 4)?,
        object_id: column(row, 5)?,
        bytes: unsigned(column(row, 6)?, "segment_parts")?,
        max_timestamp: column(row, 7)?,
        appended_ms: column(row, 8)?,
    })
}

pub fn read_segment(row: &rusqlite::Row<'_>) -> Result<SegmentRow, MetadataError> {
    Ok(SegmentRow {
        object_id: column(row, 0)?,
        segment: column(row, 1)?,
        tenant: tenant_of(column(row, 2)?, "segments")?,
        wrapped: column(row, 3)?,
        born_ms: column(row, 4)?,
        size: unsigned(column(row, 5)?, "segments")?,
        frame_count: column(row, 6)?,
        footer_position: unsigned(column(row, 7)?, "segments")?,
        footer_tag: column(row, 8)?,
    })
}

pub fn read_aside(row: &rusqlite::Row<'_>) -> Result<AsideRow, MetadataError> {
    let number = |at| unsigned(column(row, at)?, "aside");
    Ok(AsideRow {
        shard: ShardId(column(row, 0)?),
        tenant: tenant_of(column(row, 1)?, "aside")?,
        first: (number(2)?, number(3)?),
        last: (number(4)?, number(5)?),
        object_id: column(row, 6)?,
        size: number(7)?,
        digest: column(row, 8)?,
    })
}

/// Parts of a topic that was deleted meanwhile, or wholly below a log start that moved meanwhile, are left out; their segment
/// becomes garbage when nothing else is in it.
pub fn flush_parts(sql: &Transaction<'_>, parts: &[PartRow], now_ms: i64) -> Result<(), MetadataError> {
    let mut statement = sql
        .prepare_cached(
            "INSERT INTO segment_parts (topic_id, idx, tenant, first_offset, next_offset, object_id, bytes, max_timestamp, appended_ms)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 WHERE EXISTS
                (SELECT 1 FROM partitions WHERE topic_id = ?1 AND idx = ?2 AND tenant = ?3 AND log_start < ?5)",
        )
        .map_err(translate)?;
    let mut left_out = Vec::new();
    for part in parts {
        let added = statement
            .execute(params![
                part.partition.topic.to_bytes(),
                part.partition.index,
                tenant_number(part.tenant),
                part.first_offset,
                part.next_offset,
                part.object_id,
                signed(part.bytes),
                part.max_timestamp,
                part.appended_ms
            ])
            .map_err(translate)?;
        if added == 0 {
            left_out.push(part.object_id.to_vec());
        }
    }
    collect_unneeded(sql, &left_out, now_ms)
}

pub fn flush_state(sql: &Transaction<'_>, shard: ShardId, rows: &[StateRow]) -> Result<(), MetadataError> {
    let mut put = sql
        .prepare_cached("INSERT OR REPLACE INTO state (shard, tenant, key_index, sealed) VALUES (?1, ?2, ?3, ?4)")
        .map_err(translate)?;
    let mut take = sql
        .prepare_cached("DELETE FROM state WHERE shard = ?1 AND tenant = ?2 AND key_index = ?3")
        .map_err(translate)?;
    for row in rows {
        if row.sealed.is_empty() {
            take.execute(params![shard.0, tenant_number(row.tenant), row.key_index]).map_err(translate)?;
        } else {
            put.execute(params![shard.0, tenant_number(row.tenant), row.key_index, row.sealed]).map_err(translate)?;
        }
    }
    Ok(())
}

pub fn flush_aside(sql: &Transaction<'_>, shard: ShardId, commit: &FlushCommit) -> Result<(), MetadataError> {
    for tenant in &commit.caught_up {
        sql.execute("DELETE FROM aside WHERE shard = ?1 AND tenant = ?2", params![shard.0, tenant_number(*tenant)])
            .map_err(translate)?;
    }
    for row in &commit.aside {
        let ((first_epoch, first_seq), (last_epoch, last_seq)) = (row.first, row.last);
        sql.execute(
            "INSERT INTO aside (shard, tenant, first_epoch, first_seq, last_epoch, last_seq, object_id, size, digest)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                shard.0,
                tenant_number(row.tenant),
                signed(first_epoch),
                signed(first_seq),
                signed(last_epoch),
                signed(last_seq),
                row.object_id,
                signed(row.size),
                row.digest
            ],
        )
        .map_err(translate)?;
    }
    Ok(())
}
