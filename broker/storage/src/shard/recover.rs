//! Taking a shard: acquire, fence and read, open, confirm (CLUSTER.md, section 3). Then each tenant is rebuilt.
//!
//! Invariants
//! - An epoch is never continued: a start raises it, so no name and no nonce is used twice.
//! - The old log ends at its first missing entry, and a seal stands there before anything is trusted.

use std::collections::HashMap;
use std::sync::Arc;

use schloss_core::{ShardId, TenantId};
use schloss_crypto::{EntryId, random_array};
use schloss_metadata::{Acquired, PartitionRow, SegmentRow, ShardLease, StateRow};

use super::replay::{self, TenantReplay, Unusable};
use super::{Owned, ShardStart};
use crate::config::LogConfig;
use crate::engine::Shared;
use crate::error::{OpenError, WalError};
use crate::log::PartitionLog;
use crate::producers::Producers;
use crate::wal::entry::{EntryHead, SealedSection, seal};
use crate::wal::{Entry, Kind, WalStore};

/// What the old log holds.
struct OldLog {
    sections: Vec<SealedSection>,
    ended: Vec<(u64, u64)>,
    previous: [u8; 32],
}

/// Takes and recovers a shard. Its partitions are in `shared` afterwards.
pub(crate) async fn open_shard(
    shared: &Arc<Shared>,
    id: ShardId,
    wal: Arc<dyn WalStore>,
) -> Result<ShardStart, OpenError> {
    let failed = |error: WalError| OpenError::Wal { shard: id, error };
    let writer: [u8; 16] = random_array();
    let listed = wal.highest_epoch().await.map_err(failed)?;
    let acquired = shared.metadata.acquire_shard(id, writer, listed).await?;
    let lease = ShardLease { shard: id, epoch: acquired.epoch, writer };
    let old = fence(&*wal, lease, &acquired).await.map_err(failed)?;
    let opening = EntryId { shard: id.0, epoch: lease.epoch, seq: 1 };
    let previous = put_mark(&*wal, Kind::Opening, opening, writer, old.previous).await.map_err(failed)?;
    shared.metadata.confirm_shard(lease, old.ended).await?;
    let mut start = ShardStart {
        lease,
        wal,
        next: EntryId { seq: 2, ..opening },
        previous,
        partitions: HashMap::new(),
        recovered: Vec::new(),
        locked: HashMap::new(),
    };
    for replay in tenants(shared, id, lease.epoch, old.sections).await? {
        for (_, log) in &replay.partitions {
            let owned = Owned { log: Arc::clone(log), producers: Producers::default(), next_offset: 0 };
            start.partitions.insert(log.id, owned);
        }
        match replay::recover(shared, &replay).await {
            Ok(recovered) => start.recovered.push(recovered),
            Err(Unusable::Key) => {
                tracing::warn!(tenant = %replay.tenant, "key not available: the tenant is not served until it is");
                start.locked.insert(replay.tenant, Arc::new(replay));
            }
            Err(Unusable::Damaged(error)) => {
                return Err(OpenError::Sealed { shard: id, tenant: replay.tenant, error });
            }
        }
    }
    Ok(start)
}

/// Reads every epoch from the checkpoint on; puts a seal at the first missing entry of each.
async fn fence(wal: &dyn WalStore, lease: ShardLease, acquired: &Acquired) -> Result<OldLog, WalError> {
    let mut old = OldLog { sections: Vec::new(), ended: Vec::new(), previous: [0; 32] };
    let checkpoint = acquired.checkpoint;
    let mut chained = false;
    for epoch in checkpoint.epoch.max(1)..lease.epoch {
        let from = if epoch == checkpoint.epoch { checkpoint.seq + 1 } else { 1 };
        let mut name = EntryId { shard: lease.shard.0, epoch, seq: from };
        loop {
            let damaged = WalError::Damaged { epoch, seq: name.seq };
            let Some(bytes) = wal.read(name).await? else {
                // A later name proves that this one was written.
                if wal.continues_behind(name).await? {
                    return Err(damaged);
                }
                old.previous = put_mark(wal, Kind::Seal, name, lease.writer, old.previous).await?;
                chained = true;
                old.ended.push((epoch, name.seq));
                break;
            };
            let entry = Entry::read(&bytes).filter(|entry| entry.head.name == name).ok_or(damaged.clone())?;
            // The entry before the first one read may be collected, so there is nothing to compare it with.
            if chained && entry.head.previous != old.previous {
                return Err(damaged);
            }
            chained = true;
            old.previous = entry.digest;
            old.sections.extend(entry.sections);
            if entry.head.kind == Kind::Seal {
                old.ended.push((epoch, name.seq));
                break;
            }
            name.seq += 1;
        }
    }
    Ok(old)
}

async fn put_mark(
    wal: &dyn WalStore,
    kind: Kind,
    name: EntryId,
    writer: [u8; 16],
    previous: [u8; 32],
) -> Result<[u8; 32], WalError> {
    wal.reserve(4096).await?;
    let head = EntryHead { kind, name, writer, previous };
    Ok(wal.create(name, Box::new(move |buffer| seal(&head, &[], buffer))).await?.digest)
}

/// Sorts rows and sections by tenant, and makes the tenants' partitions known, locked for now.
async fn tenants(
    shared: &Arc<Shared>,
    id: ShardId,
    epoch: u64,
    sections: Vec<SealedSection>,
) -> Result<Vec<TenantReplay>, OpenError> {
    let partitions = shared.metadata.partitions(id).await?;
    let segments = shared.metadata.segments(id).await?;
    let state = shared.metadata.state(id).await?;
    let mut replays: HashMap<TenantId, TenantReplay> = HashMap::new();
    let mut of = |tenant: TenantId, add: Row| {
        let replay = replays.entry(tenant).or_insert_with(|| TenantReplay {
            tenant,
            shard: id,
            partitions: Vec::new(),
            segments: Vec::new(),
            state: Vec::new(),
            sections: Vec::new(),
        });
        match add {
            Row::Partition(row, log) => replay.partitions.push((row, log)),
            Row::Segment(row) => replay.segments.push(row),
            Row::State(row) => replay.state.push(row),
            Row::Section(section) => replay.sections.push(section),
        }
    };
    for row in partitions {
        let leader_epoch = leader_epoch(row.epoch_base, epoch);
        let log = PartitionLog::new(row.facts.partition, row.tenant, id, leader_epoch, LogConfig::UNSET);
        log.write().locked = true;
        let log = Arc::new(log);
        shared.insert_partitions([Arc::clone(&log)]);
        of(row.tenant, Row::Partition(row, log));
    }
    segments.into_iter().for_each(|row| of(row.tenant, Row::Segment(row)));
    state.into_iter().for_each(|row| of(row.tenant, Row::State(row)));
    sections.into_iter().for_each(|section| of(section.tenant, Row::Section(section)));
    Ok(replays.into_values().collect())
}

enum Row {
    Partition(PartitionRow, Arc<PartitionLog>),
    Segment(SegmentRow),
    State(StateRow),
    Section(SealedSection),
}

/// SPEC: Kafka's leader epoch has 31 bits; two thousand million restarts are out of reach.
pub(crate) fn leader_epoch(base: i32, epoch: u64) -> i32 {
    base.saturating_add(i32::try_from(epoch).unwrap_or(i32::MAX))
}
