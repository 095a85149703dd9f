//! The verbs in SQL, each one transaction.

use rusqlite::{OptionalExtension, params};
use schloss_core::{PartitionId, ShardId, TenantId, TopicId};

use super::rows::{
    collect_unneeded, column, flush_aside, flush_parts, flush_state, guard, insert_partitions, insert_segment, list,
    read_aside, read_part, read_segment, read_topic, signed, tenant_number, tenant_of, unsigned,
};
use super::{SqliteMetadata, translate};
use crate::{
    AsideRow, FlushCommit, GarbageRow, KeyRow, Metadata, MetadataError, PartRow, PartitionRow, SealedRow, SegmentRow,
    ShardGuard, ShardRow, StateRow, TopicRow,
};

#[async_trait::async_trait]
impl Metadata for SqliteMetadata {
    async fn cluster_id(&self) -> Result<[u8; 16], MetadataError> {
        self.run(|sql| {
            sql.query_row("SELECT id FROM cluster", [], |row| row.get(0)).map_err(|error| match error {
                rusqlite::Error::QueryReturnedNoRows
                | rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..) => MetadataError::Malformed { table: "cluster" },
                error => translate(error),
            })
        })
        .await
    }

    async fn topics(&self, tenant: TenantId) -> Result<Vec<TopicRow>, MetadataError> {
        self.run(move |sql| {
            list(
                sql,
                "SELECT topic_id, tenant, name_index, sealed, partitions, created_ms FROM topics WHERE tenant = ?1",
                &[&tenant_number(tenant)],
                read_topic,
            )
        })
        .await
    }

    async fn create_topic(&self, topic: TopicRow, partitions: Vec<PartitionRow>) -> Result<(), MetadataError> {
        self.run(move |sql| {
            sql.execute(
                "INSERT INTO topics (topic_id, tenant, name_index, sealed, partitions, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![topic.topic_id.to_bytes(), tenant_number(topic.tenant), topic.name_index, topic.sealed, topic.partitions, topic.created_ms],
            )
            .map_err(translate)?;
            insert_partitions(sql, &partitions)
        })
        .await
    }

    async fn update_topic(&self, topic: TopicRow, added: Vec<PartitionRow>) -> Result<(), MetadataError> {
        self.run(move |sql| {
            sql.execute(
                "UPDATE topics SET sealed = ?3, partitions = ?4 WHERE topic_id = ?1 AND tenant = ?2",
                params![topic.topic_id.to_bytes(), tenant_number(topic.tenant), topic.sealed, topic.partitions],
            )
            .map_err(translate)?;
            insert_partitions(sql, &added)
        })
        .await
    }

    async fn delete_topic(&self, topic: TopicId, now_ms: i64) -> Result<(), MetadataError> {
        self.run(move |sql| {
            let id = topic.to_bytes();
            let objects =
                list(sql, "SELECT DISTINCT object_id FROM segment_parts WHERE topic_id = ?1", &[&id], |row| {
                    column(row, 0)
                })?;
            for table in ["segment_parts", "partitions", "topics"] {
                sql.execute(&format!("DELETE FROM {table} WHERE topic_id = ?1"), params![id]).map_err(translate)?;
            }
            collect_unneeded(sql, &objects, now_ms)
        })
        .await
    }

    async fn keys(&self, tenant: [u8; 16], purpose: &str) -> Result<Vec<KeyRow>, MetadataError> {
        let purpose = purpose.to_owned();
        self.run(move |sql| {
            list(
                sql,
                "SELECT generation, wrapped FROM keys WHERE tenant = ?1 AND purpose = ?2 ORDER BY generation",
                &[&tenant, &purpose],
                |row| {
                    Ok(KeyRow {
                        tenant,
                        purpose: purpose.clone(),
                        generation: column(row, 0)?,
                        wrapped: column(row, 1)?,
                    })
                },
            )
        })
        .await
    }

    async fn add_key(&self, key: KeyRow) -> Result<(), MetadataError> {
        self.run(move |sql| {
            sql.execute(
                "INSERT INTO keys (tenant, purpose, generation, wrapped) VALUES (?1, ?2, ?3, ?4)",
                params![key.tenant, key.purpose, key.generation, key.wrapped],
            )
            .map(drop)
            .map_err(translate)
        })
        .await
    }

    async fn sealed(&self, tenant: TenantId, kind: &str) -> Result<Vec<SealedRow>, MetadataError> {
        let kind = kind.to_owned();
        self.run(move |sql| {
            list(
                sql,
                "SELECT key_index, sealed FROM sealed WHERE tenant = ?1 AND kind = ?2",
                &[&tenant_number(tenant), &kind],
                |row| Ok(SealedRow { tenant, kind: kind.clone(), key_index: column(row, 0)?, sealed: column(row, 1)? }),
            )
        })
        .await
    }

    async fn put_sealed(&self, rows: Vec<SealedRow>) -> Result<(), MetadataError> {
        self.run(move |sql| {
            for row in rows {
                let tenant = tenant_number(row.tenant);
                if row.sealed.is_empty() {
                    sql.execute(
                        "DELETE FROM sealed WHERE tenant = ?1 AND kind = ?2 AND key_index = ?3",
                        params![tenant, row.kind, row.key_index],
                    )
                } else {
                    sql.execute(
                        "INSERT OR REPLACE INTO sealed (tenant, kind, key_index, sealed) VALUES (?1, ?2, ?3, ?4)",
                        params![tenant, row.kind, row.key_index, row.sealed],
                    )
                }
                .map_err(translate)?;
            }
            Ok(())
        })
        .await
    }

    async fn all_keys(&self, tenant: [u8; 16]) -> Result<Vec<KeyRow>, MetadataError> {
        self.run(move |sql| {
            list(
                sql,
                "SELECT purpose, generation, wrapped FROM keys WHERE tenant = ?1 ORDER BY purpose, generation",
                &[&tenant],
                |row| {
                    Ok(KeyRow {
                        tenant,
                        purpose: column(row, 0)?,
                        generation: column(row, 1)?,
                        wrapped: column(row, 2)?,
                    })
                },
            )
        })
        .await
    }

    async fn rewrap_key(&self, key: KeyRow) -> Result<(), MetadataError> {
        self.run(move |sql| {
            sql.execute(
                "UPDATE keys SET wrapped = ?4 WHERE tenant = ?1 AND purpose = ?2 AND generation = ?3",
                params![key.tenant, key.purpose, key.generation, key.wrapped],
            )
            .map(drop)
            .map_err(translate)
        })
        .await
    }

    async fn rewrap_segments(&self, wrapped: Vec<([u8; 32], Vec<u8>)>) -> Result<(), MetadataError> {
        self.run(move |sql| {
            let mut statement =
                sql.prepare_cached("UPDATE segments SET wrapped = ?2 WHERE object_id = ?1").map_err(translate)?;
            for (object, wrapped) in wrapped {
                statement.execute(params![object, wrapped]).map_err(translate)?;
            }
            Ok(())
        })
        .await
    }

    async fn replace_segment(
        &self,
        held: ShardGuard,
        old: [u8; 32],
        new: SegmentRow,
        now_ms: i64,
    ) -> Result<(), MetadataError> {
        self.run(move |sql| {
            guard(sql, held)?;
            let moved = sql
                .execute("UPDATE segment_parts SET object_id = ?2 WHERE object_id = ?1", params![old, new.object_id])
                .map_err(translate)?;
            if moved == 0 {
                return Err(MetadataError::Fenced);
            }
            insert_segment(sql, &new)?;
            collect_unneeded(sql, &[old.to_vec()], now_ms)
        })
        .await
    }

    async fn shred_tenant(&self, tenant: TenantId, now_ms: i64) -> Result<(), MetadataError> {
        let keeping = self.keeping.clone();
        self.run(move |sql| {
            let number = tenant_number(tenant);
            sql.execute(
                "INSERT OR IGNORE INTO garbage (object_id, tenant, removed_ms) SELECT object_id, tenant, ?2 FROM segments WHERE tenant = ?1",
                params![number, now_ms],
            )
            .map_err(translate)?;
            for table in ["segment_parts", "segments", "partitions", "state", "topics", "sealed", "aside"] {
                sql.execute(&format!("DELETE FROM {table} WHERE tenant = ?1"), params![number]).map_err(translate)?;
            }
            sql.execute("DELETE FROM keys WHERE tenant = ?1", params![tenant.to_bytes()]).map_err(translate)?;
            Self::renew(&keeping, sql, tenant)
        })
        .await
    }

    async fn scrub_deleted(&self) -> Result<(), MetadataError> {
        // Pages are overwritten by secure_delete; the write-ahead log still has older ones until it is truncated.
        self.on_connection(|store| {
            store.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(translate)
        })
        .await
    }

    async fn snapshot(&self, to: std::path::PathBuf) -> Result<(), MetadataError> {
        self.on_connection(move |store| {
            store.connection.execute("VACUUM INTO ?1", params![to.to_string_lossy()]).map(drop).map_err(translate)
        })
        .await
    }

    async fn acquire(&self, shard: ShardId, writer: [u8; 16], at_least: u64) -> Result<ShardRow, MetadataError> {
        self.run(move |sql| {
            let row: Option<(i64, i64, i64, i64)> = sql
                .query_row("SELECT epoch, checkpoint_epoch, checkpoint_seq, opened FROM shards WHERE shard = ?1", params![shard.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
                .optional()
                .map_err(translate)?;
            let (old, checkpoint_epoch, checkpoint_seq, opened) = row.unwrap_or((0, 0, 0, 0));
            let epoch = unsigned(old, "shards")?.max(at_least).saturating_add(1);
            sql.execute(
                "INSERT INTO shards (shard, epoch, writer, checkpoint_epoch, checkpoint_seq, opened) VALUES (?1, ?2, ?3, 0, 0, 0)
                 ON CONFLICT (shard) DO UPDATE SET epoch = ?2, writer = ?3",
                params![shard.0, signed(epoch), writer],
            )
            .map_err(translate)?;
            let checkpoint = (unsigned(checkpoint_epoch, "shards")?, unsigned(checkpoint_seq, "shards")?);
            Ok(ShardRow { epoch, checkpoint, opened: unsigned(opened, "shards")? })
        })
        .await
    }

    async fn confirm(&self, held: ShardGuard, sealed: Vec<(u64, u64)>) -> Result<(), MetadataError> {
        self.run(move |sql| {
            guard(sql, held)?;
            for (epoch, end) in sealed {
                sql.execute(
                    "INSERT OR REPLACE INTO epochs (shard, epoch, end_seq) VALUES (?1, ?2, ?3)",
                    params![held.shard.0, signed(epoch), signed(end)],
                )
                .map_err(translate)?;
            }
            sql.execute("UPDATE shards SET opened = epoch WHERE shard = ?1", params![held.shard.0])
                .map(drop)
                .map_err(translate)
        })
        .await
    }

    async fn checkpoints(&self) -> Result<Vec<(ShardId, (u64, u64))>, MetadataError> {
        self.run(|sql| {
            list(sql, "SELECT shard, checkpoint_epoch, checkpoint_seq FROM shards ORDER BY shard", &[], |row| {
                let checkpoint = (unsigned(column(row, 1)?, "shards")?, unsigned(column(row, 2)?, "shards")?);
                Ok((ShardId(column(row, 0)?), checkpoint))
            })
        })
        .await
    }

    async fn sealed_epochs(&self, shard: ShardId) -> Result<Vec<(u64, u64)>, MetadataError> {
        self.run(move |sql| {
            list(sql, "SELECT epoch, end_seq FROM epochs WHERE shard = ?1 ORDER BY epoch", &[&shard.0], |row| {
                Ok((unsigned(column(row, 0)?, "epochs")?, unsigned(column(row, 1)?, "epochs")?))
            })
        })
        .await
    }

    async fn partitions(&self) -> Result<Vec<PartitionRow>, MetadataError> {
        self.run(|sql| {
            list(sql, "SELECT topic_id, idx, tenant, shard, log_start FROM partitions", &[], |row| {
                Ok(PartitionRow {
                    partition: PartitionId { topic: TopicId::from_bytes(column(row, 0)?), index: column(row, 1)? },
                    tenant: tenant_of(column(row, 2)?, "partitions")?,
                    shard: ShardId(column(row, 3)?),
                    log_start: column(row, 4)?,
                })
            })
        })
        .await
    }

    async fn parts(&self) -> Result<Vec<PartRow>, MetadataError> {
        self.run(|sql| {
            list(sql, "SELECT topic_id, idx, tenant, first_offset, next_offset, object_id, bytes, max_timestamp, appended_ms FROM segment_parts ORDER BY topic_id, idx, first_offset", &[], read_part)
        })
        .await
    }

    async fn segments(&self) -> Result<Vec<SegmentRow>, MetadataError> {
        self.run(|sql| list(sql, "SELECT object_id, segment, tenant, wrapped, born_ms, size, frame_count, footer_position, footer_tag FROM segments", &[], read_segment)).await
    }

    async fn state(&self, shard: ShardId) -> Result<Vec<StateRow>, MetadataError> {
        self.run(move |sql| {
            list(sql, "SELECT tenant, key_index, sealed FROM state WHERE shard = ?1", &[&shard.0], |row| {
                Ok(StateRow {
                    tenant: tenant_of(column(row, 0)?, "state")?,
                    key_index: column(row, 1)?,
                    sealed: column(row, 2)?,
                })
            })
        })
        .await
    }

    async fn aside(&self) -> Result<Vec<AsideRow>, MetadataError> {
        self.run(|sql| {
            list(
                sql,
                "SELECT shard, tenant, first_epoch, first_seq, last_epoch, last_seq, object_id, size, digest FROM aside
                 ORDER BY shard, tenant, first_epoch, first_seq",
                &[],
                read_aside,
            )
        })
        .await
    }

    async fn flush(&self, held: ShardGuard, commit: FlushCommit) -> Result<(), MetadataError> {
        self.run(move |sql| {
            guard(sql, held)?;
            for row in &commit.segments {
                insert_segment(sql, row)?;
            }
            let born_ms = commit.segments.iter().map(|row| row.born_ms).max().unwrap_or(0);
            flush_parts(sql, &commit.parts, born_ms)?;
            flush_state(sql, held.shard, &commit.state)?;
            flush_aside(sql, held.shard, &commit)?;
            let (epoch, seq) = commit.checkpoint;
            sql.execute(
                "UPDATE shards SET checkpoint_epoch = ?2, checkpoint_seq = ?3 WHERE shard = ?1",
                params![held.shard.0, signed(epoch), signed(seq)],
            )
            .map(drop)
            .map_err(translate)
        })
        .await
    }

    async fn set_log_starts(
        &self,
        held: ShardGuard,
        starts: Vec<(PartitionId, i64)>,
        now_ms: i64,
    ) -> Result<(), MetadataError> {
        self.run(move |sql| {
            guard(sql, held)?;
            for (partition, start) in starts {
                let id = partition.topic.to_bytes();
                sql.execute(
                    "UPDATE partitions SET log_start = max(log_start, ?3) WHERE topic_id = ?1 AND idx = ?2",
                    params![id, partition.index, start],
                )
                .map_err(translate)?;
                let objects = list(
                    sql,
                    "SELECT object_id FROM segment_parts WHERE topic_id = ?1 AND idx = ?2 AND next_offset <= ?3",
                    &[&id, &partition.index, &start],
                    |row| column(row, 0),
                )?;
                sql.execute(
                    "DELETE FROM segment_parts WHERE topic_id = ?1 AND idx = ?2 AND next_offset <= ?3",
                    params![id, partition.index, start],
                )
                .map_err(translate)?;
                collect_unneeded(sql, &objects, now_ms)?;
            }
            Ok(())
        })
        .await
    }

    async fn garbage(&self, before_ms: i64, except: &[TenantId]) -> Result<Vec<GarbageRow>, MetadataError> {
        // Numbers, so that there is nothing to escape.
        let except: Vec<String> = except.iter().map(|tenant| tenant_number(*tenant).to_string()).collect();
        let query = format!(
            "SELECT object_id, tenant FROM garbage WHERE removed_ms <= ?1 AND tenant NOT IN ({}) LIMIT 1000",
            except.join(", ")
        );
        self.run(move |sql| {
            list(sql, &query, &[&before_ms], |row| {
                Ok(GarbageRow { object_id: column(row, 0)?, tenant: tenant_of(column(row, 1)?, "garbage")? })
            })
        })
        .await
    }

    async fn forget_garbage(&self, objects: Vec<[u8; 32]>) -> Result<(), MetadataError> {
        self.run(move |sql| {
            for object in objects {
                sql.execute("DELETE FROM garbage WHERE object_id = ?1", params![object]).map_err(translate)?;
            }
            Ok(())
        })
        .await
    }
}
