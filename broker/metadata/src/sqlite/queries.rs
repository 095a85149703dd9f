//! Tenants, keys, topics and the list of changes.

use rusqlite::{OptionalExtension, Row, Transaction, params};
use schloss_core::{ClusterId, TenantId, TopicId};

use super::shards::bury_unreferenced;
use crate::{Change, CreateOutcome, KeyRow, MetadataError, NewPartition, NewTopic, TenantRow, TopicRow};

/// One answer never holds more changes.
const CHANGES_MAX: i64 = 1000;

pub(super) fn account(tenant: TenantId) -> i64 {
    // At most 12 digits.
    i64::try_from(tenant.account()).unwrap_or(i64::MAX)
}

pub(super) fn tenant_at(row: &Row<'_>, column: usize) -> Result<TenantId, MetadataError> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).ok().and_then(TenantId::new).ok_or(MetadataError::Corrupt { what: "tenant" })
}

pub(super) fn collect<T>(
    mut rows: rusqlite::Rows<'_>,
    mut read: impl FnMut(&Row<'_>) -> Result<T, MetadataError>,
) -> Result<Vec<T>, MetadataError> {
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(read(row)?);
    }
    Ok(all)
}

pub(super) fn cluster_id(tx: &Transaction<'_>) -> Result<ClusterId, MetadataError> {
    Ok(tx.query_row("SELECT cluster FROM installation", [], |row| row.get(0)).map(ClusterId::from_bytes)?)
}

pub(super) fn put_tenants(tx: &Transaction<'_>, rows: &[TenantRow]) -> Result<(), MetadataError> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO tenants VALUES (?1, ?2, ?3) ON CONFLICT (tenant) DO UPDATE SET sealed = excluded.sealed",
    )?;
    for row in rows {
        insert.execute(params![account(row.tenant), row.sealed, row.created_ms])?;
    }
    Ok(())
}

pub(super) fn tenants(tx: &Transaction<'_>) -> Result<Vec<TenantRow>, MetadataError> {
    let mut select = tx.prepare_cached("SELECT tenant, sealed, created_ms FROM tenants ORDER BY tenant")?;
    collect(select.query([])?, |row| {
        Ok(TenantRow { tenant: tenant_at(row, 0)?, sealed: row.get(1)?, created_ms: row.get(2)? })
    })
}

pub(super) fn put_key(tx: &Transaction<'_>, row: KeyRow) -> Result<KeyRow, MetadataError> {
    tx.prepare_cached("INSERT INTO keys VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?.execute(params![
        account(row.tenant),
        row.purpose,
        row.generation,
        row.wrapped
    ])?;
    let wrapped = tx
        .prepare_cached("SELECT wrapped FROM keys WHERE tenant = ?1 AND purpose = ?2 AND generation = ?3")?
        .query_row(params![account(row.tenant), row.purpose, row.generation], |found| found.get(0))?;
    Ok(KeyRow { wrapped, ..row })
}

pub(super) fn keys(tx: &Transaction<'_>, tenant: TenantId) -> Result<Vec<KeyRow>, MetadataError> {
    let mut select = tx.prepare_cached(
        "SELECT purpose, generation, wrapped FROM keys WHERE tenant = ?1 ORDER BY purpose, generation",
    )?;
    collect(select.query([account(tenant)])?, |row| {
        Ok(KeyRow { tenant, purpose: row.get(0)?, generation: row.get(1)?, wrapped: row.get(2)? })
    })
}

pub(super) fn rewrap_keys(tx: &Transaction<'_>, rows: &[KeyRow]) -> Result<(), MetadataError> {
    let mut update = tx
        .prepare_cached("UPDATE keys SET wrapped = ?4 WHERE tenant = ?1 AND purpose = ?2 AND generation = ?3")?;
    for row in rows {
        update.execute(params![account(row.tenant), row.purpose, row.generation, row.wrapped])?;
    }
    Ok(())
}

pub(super) fn create_topics(
    tx: &Transaction<'_>,
    tenant: TenantId,
    topics: &[NewTopic],
) -> Result<Vec<CreateOutcome>, MetadataError> {
    let mut find = tx.prepare_cached("SELECT topic FROM topics WHERE tenant = ?1 AND name_index = ?2")?;
    let mut insert = tx.prepare_cached("INSERT INTO topics VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let mut outcomes = Vec::with_capacity(topics.len());
    for topic in topics {
        let found: Option<[u8; 16]> =
            find.query_row(params![account(tenant), topic.name_index], |row| row.get(0)).optional()?;
        if let Some(existing) = found {
            outcomes.push(CreateOutcome::Exists(TopicId::from_bytes(existing)));
            continue;
        }
        insert.execute(params![
            topic.topic.to_bytes(),
            account(tenant),
            topic.name_index,
            topic.sealed,
            topic.created_ms
        ])?;
        insert_partitions(tx, tenant, topic.topic, &topic.partitions)?;
        note_change(tx, tenant, topic.topic)?;
        outcomes.push(CreateOutcome::Created);
    }
    Ok(outcomes)
}

fn insert_partitions(
    tx: &Transaction<'_>,
    tenant: TenantId,
    topic: TopicId,
    partitions: &[NewPartition],
) -> Result<(), MetadataError> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO partitions VALUES (?1, ?2, ?3, ?4, 0, 0, 0, x'', x'') ON CONFLICT DO NOTHING",
    )?;
    for partition in partitions {
        insert.execute(params![topic.to_bytes(), partition.index, account(tenant), partition.shard.0])?;
    }
    Ok(())
}

fn note_change(tx: &Transaction<'_>, tenant: TenantId, topic: TopicId) -> Result<(), MetadataError> {
    tx.prepare_cached("INSERT INTO changes (tenant, topic) VALUES (?1, ?2)")?
        .execute(params![account(tenant), topic.to_bytes()])?;
    Ok(())
}

pub(super) fn delete_topics(
    tx: &Transaction<'_>,
    tenant: TenantId,
    topics: &[TopicId],
    now_ms: i64,
) -> Result<Vec<TopicId>, MetadataError> {
    let mut gone = Vec::new();
    for &topic in topics {
        let id = topic.to_bytes();
        // The tenant stands in the condition: an id of another tenant is as absent.
        let removed = tx
            .prepare_cached("DELETE FROM topics WHERE topic = ?1 AND tenant = ?2")?
            .execute(params![id, account(tenant)])?;
        if removed == 0 {
            continue;
        }
        let mut touched = tx.prepare_cached("SELECT DISTINCT segment FROM segment_parts WHERE topic = ?1")?;
        let touched: Vec<[u8; 16]> = collect(touched.query([id])?, |row| Ok(row.get(0)?))?;
        tx.prepare_cached("DELETE FROM segment_parts WHERE topic = ?1")?.execute([id])?;
        tx.prepare_cached("DELETE FROM partitions WHERE topic = ?1")?.execute([id])?;
        bury_unreferenced(tx, &touched, now_ms)?;
        note_change(tx, tenant, topic)?;
        gone.push(topic);
    }
    Ok(gone)
}

pub(super) fn seal_topics(
    tx: &Transaction<'_>,
    tenant: TenantId,
    topics: &[(TopicId, Vec<u8>)],
) -> Result<Vec<TopicId>, MetadataError> {
    let mut update = tx.prepare_cached("UPDATE topics SET sealed = ?3 WHERE topic = ?1 AND tenant = ?2")?;
    let mut done = Vec::new();
    for (topic, sealed) in topics {
        if update.execute(params![topic.to_bytes(), account(tenant), sealed])? == 1 {
            note_change(tx, tenant, *topic)?;
            done.push(*topic);
        }
    }
    Ok(done)
}

pub(super) fn add_partitions(
    tx: &Transaction<'_>,
    tenant: TenantId,
    topic: TopicId,
    partitions: &[NewPartition],
) -> Result<bool, MetadataError> {
    let exists = tx
        .prepare_cached("SELECT 1 FROM topics WHERE topic = ?1 AND tenant = ?2")?
        .exists(params![topic.to_bytes(), account(tenant)])?;
    if exists {
        insert_partitions(tx, tenant, topic, partitions)?;
        note_change(tx, tenant, topic)?;
    }
    Ok(exists)
}

pub(super) fn topics(tx: &Transaction<'_>, tenant: Option<TenantId>) -> Result<Vec<TopicRow>, MetadataError> {
    let mut select = tx.prepare_cached(
        "SELECT topic, tenant, name_index, sealed, created_ms,
            (SELECT count(*) FROM partitions p WHERE p.topic = t.topic)
         FROM topics t WHERE ?1 IS NULL OR tenant = ?1 ORDER BY topic",
    )?;
    collect(select.query([tenant.map(account)])?, |row| {
        Ok(TopicRow {
            topic: TopicId::from_bytes(row.get(0)?),
            tenant: tenant_at(row, 1)?,
            name_index: row.get(2)?,
            sealed: row.get(3)?,
            created_ms: row.get(4)?,
            partitions: row.get(5)?,
        })
    })
}

pub(super) fn changes(tx: &Transaction<'_>, number: i64) -> Result<Vec<Change>, MetadataError> {
    let mut select = tx.prepare_cached(
        "SELECT number, tenant, topic FROM changes WHERE number > ?1 ORDER BY number LIMIT ?2",
    )?;
    collect(select.query([number, CHANGES_MAX])?, |row| {
        Ok(Change { number: row.get(0)?, tenant: tenant_at(row, 1)?, topic: TopicId::from_bytes(row.get(2)?) })
    })
}
