//! The promises of a metadata store. Each back end runs every one against a fresh store.
//!
//! A promise panics when it is broken; it is a test body, called from the back end's tests.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use schloss_core::{PartitionId, ShardId, TenantId, TopicId};

use crate::{
    Acquired, Checkpoint, CreateOutcome, FlushCommit, KeyRow, Metadata, MetadataError, NewPartition, NewTopic, PartRow,
    PartitionFacts, Removal, SegmentRow, ShardLease, StateRow,
};

const SHARD: ShardId = ShardId(3);
const WRITER: [u8; 16] = [7; 16];

fn tenant(account: u64) -> TenantId {
    TenantId::new(account).unwrap()
}

fn topic(byte: u8) -> TopicId {
    TopicId::from_bytes([byte; 16])
}

fn partition(byte: u8) -> PartitionId {
    PartitionId { topic: topic(byte), index: 0 }
}

fn new_topic(byte: u8, name: u8) -> NewTopic {
    NewTopic {
        topic: topic(byte),
        name_index: [name; 32],
        sealed: vec![byte],
        partitions: vec![NewPartition { index: 0, shard: SHARD }],
        created_ms: 5,
    }
}

fn segment(byte: u8, parts: &[(u8, i64, i64)]) -> SegmentRow {
    SegmentRow {
        segment: [byte; 16],
        tenant: tenant(1),
        object_id: [byte; 32],
        born_ms: 1,
        size: 10,
        footer_position: 8,
        frame_count: 1,
        footer_tag: [byte; 16],
        wrapped: vec![byte],
        parts: parts
            .iter()
            .map(|&(topic, first_offset, next_offset)| PartRow {
                partition: partition(topic),
                first_offset,
                next_offset,
                max_timestamp: 9,
                bytes: 100,
            })
            .collect(),
    }
}

async fn lease(store: &dyn Metadata) -> ShardLease {
    let acquired = store.acquire_shard(SHARD, WRITER, 0).await.unwrap();
    ShardLease { shard: SHARD, epoch: acquired.epoch, writer: WRITER }
}

/// A topic name is unique within its tenant and free in every other.
pub async fn topic_name_is_unique_within_its_tenant_only(store: &dyn Metadata) {
    let first = store.create_topics(tenant(1), vec![new_topic(1, 1)]).await.unwrap();
    let again = store.create_topics(tenant(1), vec![new_topic(2, 1), new_topic(3, 3)]).await.unwrap();
    let other = store.create_topics(tenant(2), vec![new_topic(4, 1)]).await.unwrap();
    assert_eq!(first, [CreateOutcome::Created]);
    assert_eq!(again, [CreateOutcome::Exists(topic(1)), CreateOutcome::Created]);
    assert_eq!(other, [CreateOutcome::Created]);
    assert_eq!(store.topics(Some(tenant(1))).await.unwrap().len(), 2);
    assert_eq!(store.topics(None).await.unwrap().len(), 3);
    assert_eq!(store.changes(0).await.unwrap().len(), 3);
}

/// Another tenant's topic id is absent for deletion and change.
pub async fn topic_of_another_tenant_is_absent(store: &dyn Metadata) {
    store.create_topics(tenant(1), vec![new_topic(1, 1)]).await.unwrap();
    assert!(store.delete_topics(tenant(2), vec![topic(1)], 0).await.unwrap().is_empty());
    assert!(store.seal_topics(tenant(2), vec![(topic(1), vec![9])]).await.unwrap().is_empty());
    let more = vec![NewPartition { index: 1, shard: SHARD }];
    assert!(!store.add_partitions(tenant(2), topic(1), more.clone()).await.unwrap());
    assert!(store.add_partitions(tenant(1), topic(1), more).await.unwrap());
    assert_eq!(store.topics(None).await.unwrap()[0].partitions, 2);
    assert_eq!(store.topics(None).await.unwrap()[0].sealed, [1]);
}

/// Taking a shard raises its epoch above its own and above every listed one; the former owner commits nothing more.
pub async fn former_owner_of_a_shard_is_fenced(store: &dyn Metadata) {
    let old = lease(store).await;
    store.confirm_shard(old, vec![]).await.unwrap();
    let Acquired { epoch, .. } = store.acquire_shard(SHARD, [8; 16], 40).await.unwrap();
    assert_eq!(epoch, 41);
    let fenced = Err(MetadataError::Fenced { shard: SHARD });
    assert_eq!(store.confirm_shard(old, vec![]).await, fenced);
    assert_eq!(store.commit_flush(old, FlushCommit::default()).await, fenced);
    assert_eq!(store.remove_parts(old, Removal::default()).await, fenced);
    // Same epoch, other writer: as after a restore of the database.
    assert_eq!(store.confirm_shard(ShardLease { epoch, ..old }, vec![]).await, fenced);
    let new = ShardLease { shard: SHARD, epoch, writer: [8; 16] };
    store.confirm_shard(new, vec![(1, 17)]).await.unwrap();
    assert_eq!(store.acquire_shard(SHARD, WRITER, 0).await.unwrap().ended, [(1, 17)]);
}

/// A flush brings segments, facts, state and checkpoint together; the checkpoint never goes back.
pub async fn flush_is_one_transaction(store: &dyn Metadata) {
    store.create_topics(tenant(1), vec![new_topic(1, 1)]).await.unwrap();
    let lease = lease(store).await;
    let facts = PartitionFacts {
        partition: partition(1),
        log_start: 2,
        next_offset: 10,
        epochs: vec![(1, 0), (4, 7)],
        producers: vec![1, 2],
    };
    let state = StateRow { tenant: tenant(1), row_key: [1; 32], sealed: Some(vec![5]) };
    let checkpoint = Checkpoint { epoch: 1, seq: 9 };
    let flush = FlushCommit {
        segments: vec![segment(1, &[(1, 0, 10)])],
        facts: vec![facts.clone()],
        state: vec![state.clone()],
        checkpoint,
        now_ms: 1,
    };
    store.commit_flush(lease, flush.clone()).await.unwrap();
    // The same segment twice fails, and with it everything else of that flush.
    let doubled = FlushCommit { checkpoint: Checkpoint { epoch: 1, seq: 50 }, ..flush };
    store.commit_flush(lease, doubled).await.unwrap_err();
    assert_eq!(store.segments(SHARD).await.unwrap(), [segment(1, &[(1, 0, 10)])]);
    assert_eq!(store.segment_ids().await.unwrap(), [[1; 16]]);
    assert_eq!(store.shard_count().await.unwrap(), SHARD.0 + 1);
    assert_eq!(store.partitions(SHARD).await.unwrap()[0].facts, facts);
    assert_eq!(store.state(SHARD).await.unwrap(), [state.clone()]);
    let back = FlushCommit { checkpoint: Checkpoint { epoch: 1, seq: 3 }, ..FlushCommit::default() };
    store.commit_flush(lease, back).await.unwrap();
    let removed = FlushCommit { state: vec![StateRow { sealed: None, ..state }], ..FlushCommit::default() };
    store.commit_flush(lease, removed).await.unwrap();
    assert!(store.state(SHARD).await.unwrap().is_empty());
    assert_eq!(store.acquire_shard(SHARD, WRITER, 0).await.unwrap().checkpoint, checkpoint);
}

/// A segment becomes garbage with its last part, whether retention or deletion took it.
pub async fn segment_without_parts_becomes_garbage(store: &dyn Metadata) {
    store.create_topics(tenant(1), vec![new_topic(1, 1), new_topic(2, 2)]).await.unwrap();
    let lease = lease(store).await;
    let segments = vec![segment(1, &[(1, 0, 5), (2, 0, 5)]), segment(2, &[(2, 5, 9)])];
    store.commit_flush(lease, FlushCommit { segments, ..FlushCommit::default() }).await.unwrap();
    let removal =
        Removal { parts: vec![(partition(1), 0)], log_starts: vec![(partition(1), 5)], now_ms: 70 };
    store.remove_parts(lease, removal).await.unwrap();
    assert!(store.garbage(100).await.unwrap().is_empty());
    assert_eq!(store.partitions_of(vec![topic(1)]).await.unwrap()[0].facts.log_start, 5);
    assert_eq!(store.delete_topics(tenant(1), vec![topic(2)], 80).await.unwrap(), [topic(2)]);
    assert!(store.garbage(79).await.unwrap().is_empty());
    assert_eq!(store.garbage(80).await.unwrap().len(), 2);
    assert!(store.segments(SHARD).await.unwrap().is_empty());
    store.erased(vec![[1; 16], [2; 16]]).await.unwrap();
    assert!(store.garbage(80).await.unwrap().is_empty());
}

/// A flush that meets a deleted topic adds no part for it, and its segment is garbage at once.
pub async fn flush_of_a_deleted_topic_is_garbage(store: &dyn Metadata) {
    let lease = lease(store).await;
    let flush = FlushCommit { segments: vec![segment(1, &[(1, 0, 5)])], now_ms: 3, ..FlushCommit::default() };
    store.commit_flush(lease, flush).await.unwrap();
    assert!(store.segments(SHARD).await.unwrap().is_empty());
    assert_eq!(store.garbage(3).await.unwrap().len(), 1);
}

/// The first wrapped key of a purpose and generation stays, whoever else comes.
pub async fn first_wrapped_key_is_kept(store: &dyn Metadata) {
    let row = |byte| KeyRow { tenant: tenant(1), purpose: "metadata".into(), generation: 0, wrapped: vec![byte] };
    assert_eq!(store.put_key(row(1)).await.unwrap(), row(1));
    assert_eq!(store.put_key(row(2)).await.unwrap(), row(1));
    store.rewrap_keys(vec![row(3)]).await.unwrap();
    assert_eq!(store.keys(tenant(1)).await.unwrap(), [row(3)]);
    assert!(store.keys(tenant(2)).await.unwrap().is_empty());
}

/// Names every promise of the suite once; a back end calls it with a maker of fresh stores.
#[macro_export]
macro_rules! metadata_suite {
    ($fresh:expr) => {
        $crate::metadata_suite!(@each $fresh,
            topic_name_is_unique_within_its_tenant_only,
            topic_of_another_tenant_is_absent,
            former_owner_of_a_shard_is_fenced,
            flush_is_one_transaction,
            segment_without_parts_becomes_garbage,
            flush_of_a_deleted_topic_is_garbage,
            first_wrapped_key_is_kept,
        );
    };
    (@each $fresh:expr, $($promise:ident,)*) => {
        $(#[tokio::test]
        async fn $promise() {
            let store = $fresh;
            $crate::suite::$promise(&store).await;
        })*
    };
}
