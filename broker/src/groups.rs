//! A tenant's consumer groups: the pure state machines of `coordinator`, made durable and given time.
//!
//! Invariants
//! - The order of changes in memory is the order of their records in the log: both happen under one lock.
//! - A reply leaves after its records are durable. When they cannot be, all who wait are told to look for the coordinator
//!   again, and the table is rebuilt from what is durable.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use schloss_coordinator::{Effects, GroupConfig, GroupTable, LoadError, Now, Reply, ReplyToken};
use schloss_core::{Clock, ErrorCode, TenantId, TopicId};
use schloss_storage::{Engine, LogError};
use tokio::sync::oneshot;

use crate::config::GroupLimits;
use crate::producers::record;

/// How often unused offsets are looked for, milliseconds (Kafka's `offsets.retention.check.interval.ms`).
const EXPIRE_EVERY_MS: u64 = 600_000;
/// Metadata and subscriptions of one member, at most.
const MEMBER_BYTES_MAX: usize = 1024 * 1024;
/// Committed offsets of one group, at most.
const OFFSETS_MAX: usize = 100_000;

struct Inner {
    table: GroupTable,
    waiting: HashMap<u64, oneshot::Sender<Reply>>,
    next_token: u64,
    expired_ms: u64,
    closed: bool,
}

/// One tenant's groups.
pub struct Groups {
    tenant: TenantId,
    engine: Arc<Engine>,
    clock: Arc<dyn Clock>,
    config: GroupConfig,
    inner: Mutex<Inner>,
}

impl Groups {
    /// From the tenant's durable state.
    ///
    /// # Errors
    /// State of another release.
    pub fn open(
        tenant: TenantId,
        engine: Arc<Engine>,
        clock: Arc<dyn Clock>,
        limits: &GroupLimits,
        state: &[(Bytes, Bytes)],
    ) -> Result<Self, LoadError> {
        let config = GroupConfig {
            session_timeout_min_ms: limits.session_timeout_min_ms,
            session_timeout_max_ms: limits.session_timeout_max_ms,
            initial_rebalance_delay_ms: u64::try_from(limits.initial_rebalance_delay_ms).unwrap_or(0),
            members_max: limits.size_max,
            groups_max: limits.groups_per_tenant_max,
            offsets_max: OFFSETS_MAX,
            member_bytes_max: MEMBER_BYTES_MAX,
            offset_metadata_bytes_max: limits.offset_metadata_bytes_max,
            offsets_retention_ms: limits.offsets_retention_ms,
        };
        let now = now(&*clock);
        let table = GroupTable::load(config.clone(), state.iter().map(|(key, value)| (key, value)), now)?;
        let inner =
            Inner { table, waiting: HashMap::new(), next_token: 0, expired_ms: now.monotonic_ms, closed: false };
        Ok(Self { tenant, engine, clock, config, inner: Mutex::new(inner) })
    }

    /// Applies a request at once; the reply comes when it is due and durable.
    ///
    /// # Errors
    /// COORDINATOR_NOT_AVAILABLE when the broker is closing or the records could not be stored.
    pub fn ask<F>(self: &Arc<Self>, request: F) -> impl Future<Output = Result<Reply, ErrorCode>> + Send + use<F>
    where
        F: FnOnce(&mut GroupTable, ReplyToken, Now) -> Effects,
    {
        let mut inner = self.inner();
        let (reply, answer) = oneshot::channel();
        if !inner.closed {
            let token = inner.next_token;
            inner.next_token = token.wrapping_add(1);
            inner.waiting.insert(token, reply);
            let effects = request(&mut inner.table, ReplyToken(token), now(&*self.clock));
            self.carry_out(&mut inner, effects);
        }
        drop(inner);
        async move { answer.await.map_err(|_| ErrorCode::COORDINATOR_NOT_AVAILABLE) }
    }

    /// Reads the table.
    pub fn look<T>(&self, read: impl FnOnce(&GroupTable) -> T) -> T {
        read(&self.inner().table)
    }

    /// Waits until everything applied before is durable, so that what is read next cannot be taken back.
    ///
    /// # Errors
    /// When the log has stopped.
    pub async fn settled(&self) -> Result<(), ErrorCode> {
        self.engine.put_state(self.tenant, Vec::new()).await.map_err(|error| error.code())
    }

    /// Forgets a deleted topic's offsets.
    ///
    /// # Errors
    /// [`LogError`] when that could not be stored.
    pub async fn topic_deleted(self: &Arc<Self>, topic: TopicId) -> Result<(), LogError> {
        {
            let mut inner = self.inner();
            let effects = inner.table.topic_deleted(topic, now(&*self.clock));
            self.carry_out(&mut inner, effects);
        }
        self.engine.put_state(self.tenant, Vec::new()).await?;
        Ok(())
    }

    /// Lets time pass.
    pub fn tick(self: &Arc<Self>) {
        let now = now(&*self.clock);
        let mut inner = self.inner();
        if inner.table.next_deadline_ms().is_some_and(|due| due <= now.monotonic_ms) {
            let effects = inner.table.tick(now);
            self.carry_out(&mut inner, effects);
        }
        if now.monotonic_ms.saturating_sub(inner.expired_ms) >= EXPIRE_EVERY_MS {
            inner.expired_ms = now.monotonic_ms;
            let effects = inner.table.expire_offsets(now);
            self.carry_out(&mut inner, effects);
        }
    }

    /// Sends everyone who waits away: the broker is going down.
    pub fn close(&self) {
        let mut inner = self.inner();
        inner.closed = true;
        inner.waiting.clear();
    }

    fn carry_out(self: &Arc<Self>, inner: &mut Inner, effects: Effects) {
        if effects.records.is_empty() {
            deliver(inner, effects.replies);
            return;
        }
        let records = effects.records.into_iter().map(record).collect();
        let stored = self.engine.put_state(self.tenant, records);
        let (groups, replies) = (Arc::clone(self), effects.replies);
        tokio::spawn(async move {
            match stored.await {
                Ok(()) => deliver(&mut groups.inner(), replies),
                Err(error) => {
                    tracing::warn!(tenant = %groups.tenant, %error, "a change of groups could not be stored; groups go back to what is durable");
                    groups.rebuild();
                }
            }
        });
    }

    fn rebuild(&self) {
        let state = self.engine.state(self.tenant);
        let mut inner = self.inner();
        inner.waiting.clear();
        match GroupTable::load(self.config.clone(), state.iter().map(|(key, value)| (key, value)), now(&*self.clock)) {
            Ok(table) => inner.table = table,
            Err(error) => {
                tracing::error!(%error, "groups could not be rebuilt and are not served");
                inner.closed = true;
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn deliver(inner: &mut Inner, replies: Vec<(ReplyToken, Reply)>) {
    for (token, reply) in replies {
        if let Some(waiting) = inner.waiting.remove(&token.0) {
            // The asker's connection may be gone.
            drop(waiting.send(reply));
        }
    }
}

fn now(clock: &dyn Clock) -> Now {
    Now { monotonic_ms: u64::try_from(clock.monotonic().as_millis()).unwrap_or(u64::MAX), wall_ms: clock.now_ms() }
}
