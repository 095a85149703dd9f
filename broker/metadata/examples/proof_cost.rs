//! What the sums cost: a start over many rows, and a flush. `cargo run --release -p schloss-metadata --example proof_cost [parts]`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use schloss_core::{PartitionId, ShardId, TenantId, TopicId};
use schloss_crypto::{DataKey, IntegrityKey, random_array};
use schloss_metadata::{
    FlushCommit, Metadata, MetadataError, PartRow, PartitionRow, SegmentRow, ShardGuard, SqliteMetadata, TopicRow,
};

const TENANTS: u64 = 100;
const PARTS_A_FLUSH: usize = 100;
const FLUSHES: u32 = 200;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parts = std::env::args().nth(1).map_or(Ok(200_000), |text| text.parse())?;
    let folder = tempfile::tempdir()?;
    for (what, kept) in [("without sums", false), ("with sums", true)] {
        let path = folder.path().join(what);
        fill(&path, kept, parts).await?;
        let begun = Instant::now();
        let store = SqliteMetadata::open(&path)?;
        if kept && !store.prove(key()).await?.is_empty() {
            return Err("in doubt".into());
        }
        let opened = begun.elapsed();
        println!(
            "{what}: open{} {opened:?} over {parts} parts; flush of one part {:?}",
            if kept { " and prove" } else { "" },
            flushes(&store).await?
        );
    }
    Ok(())
}

fn key() -> Arc<IntegrityKey> {
    Arc::new(IntegrityKey::new(&DataKey::take(&mut [1; 32])))
}

fn tenant(number: u64) -> TenantId {
    TenantId::new(number).unwrap_or_else(|| unreachable!("a small number"))
}

fn partition(number: u64) -> PartitionId {
    PartitionId { topic: TopicId::from_bytes(u128::from(number).to_be_bytes()), index: 0 }
}

async fn guard(store: &SqliteMetadata) -> Result<ShardGuard, MetadataError> {
    let writer = random_array();
    let row = store.acquire(ShardId(0), writer, 0).await?;
    Ok(ShardGuard { shard: ShardId(0), epoch: row.epoch, writer })
}

fn commit(number: u64, first: i64, parts: usize) -> FlushCommit {
    let object_id = random_array();
    let (tenant, partition) = (tenant(number), partition(number));
    let segment = SegmentRow {
        object_id,
        segment: random_array(),
        tenant,
        wrapped: vec![7; 180],
        born_ms: 1,
        size: 10,
        frame_count: 1,
        footer_position: 5,
        footer_tag: random_array(),
    };
    let part = |first_offset| PartRow {
        tenant,
        partition,
        first_offset,
        next_offset: first_offset + 1,
        object_id,
        bytes: 10,
        max_timestamp: 1,
        appended_ms: 1,
    };
    let parts = (first..).take(parts).map(part).collect();
    FlushCommit { segments: vec![segment], parts, state: Vec::new(), checkpoint: (1, 1), ..FlushCommit::default() }
}

async fn fill(path: &Path, kept: bool, parts: usize) -> Result<(), MetadataError> {
    let store = SqliteMetadata::open(path)?;
    if kept {
        store.accept(key()).await?;
    }
    let guard = guard(&store).await?;
    for number in 1..=TENANTS {
        let (tenant, partition) = (tenant(number), partition(number));
        let row = PartitionRow { tenant, partition, shard: ShardId(0), log_start: 0 };
        let topic = TopicRow {
            tenant,
            topic_id: partition.topic,
            name_index: random_array(),
            sealed: vec![7; 200],
            partitions: 1,
            created_ms: 1,
        };
        store.create_topic(topic, vec![row]).await?;
    }
    for batch in 0..parts / PARTS_A_FLUSH {
        let number = batch as u64 % TENANTS + 1;
        let first = (batch as u64 / TENANTS) as i64 * PARTS_A_FLUSH as i64;
        store.flush(guard, commit(number, first, PARTS_A_FLUSH)).await?;
    }
    Ok(())
}

/// The mean of flushes of one segment with one part.
async fn flushes(store: &SqliteMetadata) -> Result<Duration, MetadataError> {
    let guard = guard(store).await?;
    let begun = Instant::now();
    for number in 0..FLUSHES {
        store.flush(guard, commit(1, i64::from(number) + 10_000_000, 1)).await?;
    }
    Ok(begun.elapsed() / FLUSHES)
}
