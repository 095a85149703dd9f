//! The promises every store keeps. Each back end runs them all.

use std::sync::Arc;

use schloss_core::{PartitionId, ShardId, TenantId, TopicId};

use crate::{
    AsideRow, FlushCommit, KeyRow, Metadata, MetadataError, PartRow, PartitionRow, SealedRow, SegmentRow, ShardGuard,
    StateRow, TopicRow,
};

const SHARD: ShardId = ShardId(0);

fn tenant(account: u64) -> TenantId {
    TenantId::new(account).unwrap_or_else(|| unreachable!("small number"))
}

fn topic(tenant: TenantId, name: u8) -> TopicRow {
    TopicRow {
        tenant,
        topic_id: TopicId::random(),
        name_index: [name; 32],
        sealed: vec![name],
        partitions: 1,
        created_ms: 1,
    }
}

fn partition(topic: &TopicRow) -> PartitionRow {
    PartitionRow {
        tenant: topic.tenant,
        partition: PartitionId { topic: topic.topic_id, index: 0 },
        shard: SHARD,
        log_start: 0,
    }
}

fn segment(tenant: TenantId, id: u8) -> SegmentRow {
    SegmentRow {
        object_id: [id; 32],
        segment: [id; 16],
        tenant,
        wrapped: vec![1],
        born_ms: 1,
        size: 10,
        frame_count: 1,
        footer_position: 5,
        footer_tag: [id; 16],
    }
}

fn part(partition: PartitionId, id: u8, first_offset: i64, next_offset: i64) -> PartRow {
    PartRow {
        tenant: tenant(1),
        partition,
        first_offset,
        next_offset,
        object_id: [id; 32],
        bytes: 10,
        max_timestamp: 1,
        appended_ms: 1,
    }
}

async fn take(store: &dyn Metadata, writer: u8) -> Result<ShardGuard, MetadataError> {
    let row = store.acquire(SHARD, [writer; 16], 0).await?;
    Ok(ShardGuard { shard: SHARD, epoch: row.epoch, writer: [writer; 16] })
}

/// Runs every promise on fresh stores.
///
/// # Panics
/// When a promise is broken.
///
/// # Errors
/// The store's own.
pub async fn run<F>(fresh: F) -> Result<(), MetadataError>
where
    F: Fn() -> Arc<dyn Metadata>,
{
    names_are_unique_within_a_tenant_only(&*fresh()).await?;
    zombie_changes_nothing(&*fresh()).await?;
    epochs_only_grow(&*fresh()).await?;
    opened_epoch_is_told_until_another_is_confirmed(&*fresh()).await?;
    flush_is_seen_whole(&*fresh()).await?;
    set_aside_stays_until_its_tenant_has_caught_up(&*fresh()).await?;
    segment_becomes_garbage_when_its_last_part_goes(&*fresh()).await?;
    flush_of_a_deleted_topic_leaves_no_part(&*fresh()).await?;
    flush_below_a_moved_log_start_leaves_no_part(&*fresh()).await?;
    sealed_values_are_kept_apart_by_tenant_and_kind(&*fresh()).await?;
    keys_are_wrapped_anew_where_they_are(&*fresh()).await?;
    replaced_segment_is_garbage_and_its_parts_name_the_new_one(&*fresh()).await?;
    nothing_of_a_shredded_tenant_is_left_but_garbage(&*fresh()).await?;
    garbage_of_some_tenants_is_left_out_on_demand(&*fresh()).await?;
    Ok(())
}

fn key(account: u64, generation: i64, wrapped: u8) -> KeyRow {
    let purpose = "metadata".to_owned();
    KeyRow { tenant: tenant(account).to_bytes(), purpose, generation, wrapped: vec![wrapped] }
}

async fn keys_are_wrapped_anew_where_they_are(store: &dyn Metadata) -> Result<(), MetadataError> {
    for row in [key(1, 0, 1), key(1, 1, 1), key(2, 0, 1)] {
        store.add_key(row).await?;
    }
    assert!(matches!(store.add_key(key(1, 0, 2)).await, Err(MetadataError::Exists)));
    store.rewrap_key(key(1, 0, 9)).await?;
    store.rewrap_key(key(3, 0, 9)).await?;
    assert_eq!(store.all_keys(tenant(1).to_bytes()).await?, vec![key(1, 0, 9), key(1, 1, 1)]);
    assert_eq!(store.keys(tenant(2).to_bytes(), "metadata").await?, vec![key(2, 0, 1)]);
    assert_eq!(store.all_keys(tenant(3).to_bytes()).await?, vec![]);
    let guard = with_one_segment(store).await?;
    store.rewrap_segments(vec![([1; 32], vec![8]), ([7; 32], vec![8])]).await?;
    assert_eq!(store.segments().await?, vec![SegmentRow { wrapped: vec![8], ..segment(tenant(1), 1) }]);
    assert_eq!(guard.shard, SHARD);
    Ok(())
}

/// One topic of tenant 1 with a part in segment 1.
async fn with_one_segment(store: &dyn Metadata) -> Result<ShardGuard, MetadataError> {
    let guard = take(store, 1).await?;
    let row = topic(tenant(1), 1);
    store.create_topic(row.clone(), vec![partition(&row)]).await?;
    let commit = FlushCommit {
        segments: vec![segment(tenant(1), 1)],
        parts: vec![part(partition(&row).partition, 1, 0, 5)],
        state: vec![StateRow { tenant: tenant(1), key_index: [9; 32], sealed: vec![1] }],
        checkpoint: (1, 2),
        ..FlushCommit::default()
    };
    store.flush(guard, commit).await?;
    Ok(guard)
}

async fn replaced_segment_is_garbage_and_its_parts_name_the_new_one(store: &dyn Metadata) -> Result<(), MetadataError> {
    let guard = with_one_segment(store).await?;
    let new = segment(tenant(1), 2);
    let stale = ShardGuard { epoch: guard.epoch.wrapping_sub(1), ..guard };
    assert!(matches!(store.replace_segment(stale, [1; 32], new.clone(), 3).await, Err(MetadataError::Fenced)));
    assert!(matches!(store.replace_segment(guard, [7; 32], new.clone(), 3).await, Err(MetadataError::Fenced)));
    assert_eq!(store.segments().await?, vec![segment(tenant(1), 1)]);
    store.replace_segment(guard, [1; 32], new.clone(), 3).await?;
    assert_eq!(store.segments().await?, vec![new]);
    assert_eq!(store.parts().await?.first().map(|part| (part.object_id, part.first_offset)), Some(([2; 32], 0)));
    assert_eq!(store.garbage(i64::MAX, &[]).await?.first().map(|row| row.object_id), Some([1; 32]));
    Ok(())
}

async fn nothing_of_a_shredded_tenant_is_left_but_garbage(store: &dyn Metadata) -> Result<(), MetadataError> {
    with_one_segment(store).await?;
    let other = topic(tenant(2), 1);
    store.create_topic(other.clone(), vec![partition(&other)]).await?;
    let sealed =
        |account| SealedRow { tenant: tenant(account), kind: "a".to_owned(), key_index: [1; 32], sealed: vec![1] };
    store.put_sealed(vec![sealed(1), sealed(2)]).await?;
    store.add_key(key(1, 0, 1)).await?;
    store.add_key(key(2, 0, 1)).await?;
    store.shred_tenant(tenant(1), 4).await?;
    store.scrub_deleted().await?;
    assert_eq!(store.topics(tenant(1)).await?, vec![]);
    assert_eq!(store.all_keys(tenant(1).to_bytes()).await?, vec![]);
    assert_eq!(store.sealed(tenant(1), "a").await?, vec![]);
    assert_eq!((store.parts().await?, store.segments().await?, store.state(SHARD).await?), (vec![], vec![], vec![]));
    assert_eq!(store.garbage(i64::MAX, &[]).await?.len(), 1);
    assert_eq!(store.topics(tenant(2)).await?, vec![other.clone()]);
    assert_eq!(store.partitions().await?, vec![partition(&other)]);
    assert_eq!(store.sealed(tenant(2), "a").await?, vec![sealed(2)]);
    assert_eq!(store.all_keys(tenant(2).to_bytes()).await?, vec![key(2, 0, 1)]);
    Ok(())
}

async fn garbage_of_some_tenants_is_left_out_on_demand(store: &dyn Metadata) -> Result<(), MetadataError> {
    with_one_segment(store).await?;
    store.shred_tenant(tenant(1), 4).await?;
    assert_eq!(store.garbage(3, &[]).await?, vec![]);
    assert_eq!(store.garbage(4, &[tenant(2)]).await?.len(), 1);
    assert_eq!(store.garbage(4, &[tenant(2), tenant(1)]).await?, vec![]);
    Ok(())
}

async fn sealed_values_are_kept_apart_by_tenant_and_kind(store: &dyn Metadata) -> Result<(), MetadataError> {
    let row = |account, kind: &str, value: &[u8]| SealedRow {
        tenant: tenant(account),
        kind: kind.to_owned(),
        key_index: [1; 32],
        sealed: value.to_vec(),
    };
    store.put_sealed(vec![row(1, "a", b"x"), row(1, "b", b"y"), row(2, "a", b"z")]).await?;
    store.put_sealed(vec![row(1, "a", b"new")]).await?;
    assert_eq!(store.sealed(tenant(1), "a").await?, vec![row(1, "a", b"new")]);
    assert_eq!(store.sealed(tenant(2), "a").await?, vec![row(2, "a", b"z")]);
    store.put_sealed(vec![row(1, "a", b""), row(1, "a", b"")]).await?;
    assert_eq!(store.sealed(tenant(1), "a").await?, vec![]);
    assert_eq!(store.sealed(tenant(1), "b").await?, vec![row(1, "b", b"y")]);
    Ok(())
}

async fn names_are_unique_within_a_tenant_only(store: &dyn Metadata) -> Result<(), MetadataError> {
    let first = topic(tenant(1), 7);
    store.create_topic(first.clone(), vec![partition(&first)]).await?;
    let second = topic(tenant(1), 7);
    assert!(matches!(store.create_topic(second.clone(), vec![]).await, Err(MetadataError::Exists)));
    let other = topic(tenant(2), 7);
    store.create_topic(other.clone(), vec![partition(&other)]).await?;
    assert_eq!(store.topics(tenant(1)).await?, vec![first]);
    assert_eq!(store.topics(tenant(2)).await?, vec![other]);
    Ok(())
}

async fn zombie_changes_nothing(store: &dyn Metadata) -> Result<(), MetadataError> {
    let old = take(store, 1).await?;
    let new = take(store, 2).await?;
    let commit = FlushCommit { checkpoint: (1, 9), ..FlushCommit::default() };
    assert!(matches!(store.flush(old, commit.clone()).await, Err(MetadataError::Fenced)));
    assert!(matches!(store.confirm(old, vec![]).await, Err(MetadataError::Fenced)));
    assert!(matches!(store.set_log_starts(old, vec![], 1).await, Err(MetadataError::Fenced)));
    store.flush(new, commit).await?;
    assert_eq!(store.acquire(SHARD, [3; 16], 0).await?.checkpoint, (1, 9));
    Ok(())
}

async fn epochs_only_grow(store: &dyn Metadata) -> Result<(), MetadataError> {
    assert_eq!(store.acquire(SHARD, [1; 16], 0).await?.epoch, 1);
    assert_eq!(store.acquire(SHARD, [1; 16], 0).await?.epoch, 2);
    assert_eq!(store.acquire(SHARD, [1; 16], 40).await?.epoch, 41);
    Ok(())
}

async fn opened_epoch_is_told_until_another_is_confirmed(store: &dyn Metadata) -> Result<(), MetadataError> {
    let first = take(store, 1).await?;
    assert_eq!(store.acquire(SHARD, [2; 16], 0).await?.opened, 0, "the first was never confirmed");
    assert!(matches!(store.confirm(first, vec![]).await, Err(MetadataError::Fenced)));
    let third = take(store, 3).await?;
    store.confirm(third, vec![]).await?;
    store.confirm(third, vec![(third.epoch, 9)]).await?;
    assert_eq!(store.acquire(SHARD, [4; 16], 0).await?.opened, third.epoch);
    assert_eq!(store.acquire(SHARD, [5; 16], 0).await?.opened, third.epoch, "taking it does not confirm it");
    assert_eq!(store.sealed_epochs(SHARD).await?, vec![(third.epoch, 9)]);
    Ok(())
}

async fn flush_is_seen_whole(store: &dyn Metadata) -> Result<(), MetadataError> {
    let guard = take(store, 1).await?;
    let row = topic(tenant(1), 1);
    store.create_topic(row.clone(), vec![partition(&row)]).await?;
    let id = partition(&row).partition;
    let state = StateRow { tenant: tenant(1), key_index: [9; 32], sealed: vec![1, 2] };
    let commit = FlushCommit {
        segments: vec![segment(tenant(1), 1)],
        parts: vec![part(id, 1, 0, 5)],
        state: vec![state.clone()],
        checkpoint: (1, 2),
        ..FlushCommit::default()
    };
    store.flush(guard, commit).await?;
    assert_eq!(store.segments().await?, vec![segment(tenant(1), 1)]);
    assert_eq!(store.parts().await?, vec![part(id, 1, 0, 5)]);
    assert_eq!(store.state(SHARD).await?, vec![state.clone()]);
    let gone = StateRow { sealed: vec![], ..state };
    store.flush(guard, FlushCommit { state: vec![gone], checkpoint: (1, 3), ..FlushCommit::default() }).await?;
    assert_eq!(store.state(SHARD).await?, vec![]);
    Ok(())
}

async fn set_aside_stays_until_its_tenant_has_caught_up(store: &dyn Metadata) -> Result<(), MetadataError> {
    let guard = take(store, 1).await?;
    let row = |account, first| AsideRow {
        shard: SHARD,
        tenant: tenant(account),
        first: (1, first),
        last: (1, first + 1),
        object_id: [first as u8; 32],
        size: 10,
        digest: [3; 32],
    };
    let aside = |rows: Vec<AsideRow>, checkpoint| FlushCommit { aside: rows, checkpoint, ..FlushCommit::default() };
    store.flush(guard, aside(vec![row(2, 1), row(1, 1)], (1, 2))).await?;
    store.flush(guard, aside(vec![row(1, 3)], (1, 4))).await?;
    assert_eq!(store.aside().await?, vec![row(1, 1), row(1, 3), row(2, 1)]);
    let caught_up = FlushCommit { caught_up: vec![tenant(1)], ..aside(vec![], (1, 5)) };
    store.flush(guard, caught_up).await?;
    assert_eq!(store.aside().await?, vec![row(2, 1)]);
    store.shred_tenant(tenant(2), 1).await?;
    assert_eq!(store.aside().await?, vec![]);
    Ok(())
}

async fn segment_becomes_garbage_when_its_last_part_goes(store: &dyn Metadata) -> Result<(), MetadataError> {
    let guard = take(store, 1).await?;
    let (one, two) = (topic(tenant(1), 1), topic(tenant(1), 2));
    for row in [&one, &two] {
        store.create_topic(row.clone(), vec![partition(row)]).await?;
    }
    let (first, second) = (partition(&one).partition, partition(&two).partition);
    let commit = FlushCommit {
        segments: vec![segment(tenant(1), 1)],
        parts: vec![part(first, 1, 0, 5), part(second, 1, 0, 5)],
        checkpoint: (1, 2),
        ..FlushCommit::default()
    };
    store.flush(guard, commit).await?;
    store.set_log_starts(guard, vec![(first, 4)], 10).await?;
    assert_eq!(store.parts().await?.len(), 2, "a part not wholly below the start stays");
    store.set_log_starts(guard, vec![(first, 5)], 10).await?;
    assert_eq!(store.garbage(i64::MAX, &[]).await?.len(), 0, "another partition still needs the object");
    store.delete_topic(two.topic_id, 11).await?;
    let garbage = store.garbage(i64::MAX, &[]).await?;
    assert_eq!(garbage.len(), 1);
    assert_eq!(store.segments().await?.len(), 0);
    store.forget_garbage(garbage.into_iter().map(|row| row.object_id).collect()).await?;
    assert_eq!(store.garbage(i64::MAX, &[]).await?.len(), 0);
    Ok(())
}

async fn flush_of_a_deleted_topic_leaves_no_part(store: &dyn Metadata) -> Result<(), MetadataError> {
    let guard = take(store, 1).await?;
    let (gone, live) = (topic(tenant(1), 1), topic(tenant(1), 2));
    store.create_topic(live.clone(), vec![partition(&live)]).await?;
    let (missing, kept) = (partition(&gone).partition, partition(&live).partition);
    let commit = FlushCommit {
        segments: vec![segment(tenant(1), 1), segment(tenant(1), 2)],
        parts: vec![part(missing, 1, 0, 5), part(missing, 2, 5, 6), part(kept, 2, 0, 5)],
        checkpoint: (1, 2),
        ..FlushCommit::default()
    };
    store.flush(guard, commit).await?;
    assert_eq!(store.parts().await?, vec![part(kept, 2, 0, 5)]);
    assert_eq!(store.segments().await?, vec![segment(tenant(1), 2)]);
    Ok(())
}

async fn flush_below_a_moved_log_start_leaves_no_part(store: &dyn Metadata) -> Result<(), MetadataError> {
    let guard = take(store, 1).await?;
    let row = topic(tenant(1), 1);
    store.create_topic(row.clone(), vec![partition(&row)]).await?;
    let id = partition(&row).partition;
    // Records were deleted while the segment that holds them was being made.
    store.set_log_starts(guard, vec![(id, 5)], 1).await?;
    let commit = FlushCommit {
        segments: vec![segment(tenant(1), 1), segment(tenant(1), 2)],
        parts: vec![part(id, 1, 0, 5), part(id, 2, 3, 6)],
        checkpoint: (1, 2),
        ..FlushCommit::default()
    };
    store.flush(guard, commit).await?;
    assert_eq!(store.parts().await?, vec![part(id, 2, 3, 6)]);
    assert_eq!(store.segments().await?, vec![segment(tenant(1), 2)]);
    assert_eq!(store.garbage(i64::MAX, &[]).await?.len(), 1);
    Ok(())
}
