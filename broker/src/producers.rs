//! A tenant's producer ids: given durably, bound to their principal.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use schloss_coordinator::producer_ids::{InitProducer, Owner, ProducerEpoch, ProducerIds};
use schloss_core::{Clock, ErrorCode, TenantId};
use schloss_crypto::{digest, random_array};
use schloss_storage::{Engine, StateRecord};

/// Producer ids of one tenant, at most: a claimed id must be looked up, so their number needs a bound.
const IDS_MAX: usize = 100_000;
/// Kafka's default of `transactional.id.expiration.ms`: an id unused for so long is forgotten.
const RETENTION_MS: i64 = 7 * 24 * 3_600_000;

/// One tenant's producer ids.
pub struct Producers {
    tenant: TenantId,
    engine: Arc<Engine>,
    clock: Arc<dyn Clock>,
    ids: Mutex<ProducerIds>,
}

impl Producers {
    /// From the tenant's durable state.
    ///
    /// # Errors
    /// State of another release.
    pub fn open(
        tenant: TenantId,
        engine: Arc<Engine>,
        clock: Arc<dyn Clock>,
        state: &[(Bytes, Bytes)],
    ) -> Result<Self, schloss_coordinator::LoadError> {
        let ids = ProducerIds::load(IDS_MAX, state.iter().map(|(key, value)| (key, value)))?;
        Ok(Self { tenant, engine, clock, ids: Mutex::new(ids) })
    }

    /// Gives an id, or the next epoch of one the principal has; durable when it returns.
    ///
    /// # Errors
    /// Kafka's codes.
    pub async fn init(&self, principal: &str, id: i64, epoch: i16) -> Result<(i64, i16), ErrorCode> {
        let current = (id >= 0).then_some(ProducerEpoch { id, epoch });
        let request =
            InitProducer { owner: owner(principal), current, fresh: random_array(), now_wall_ms: self.clock.now_ms() };
        let (given, stored) = {
            let mut ids = self.ids();
            let expired = ids.expire(RETENTION_MS, request.now_wall_ms);
            let (given, records) = ids.init(&request)?;
            let records = expired.into_iter().chain(records).map(record).collect();
            (given, self.engine.put_state(self.tenant, records))
        };
        stored.await.map_err(|error| error.code())?;
        Ok((given.id, given.epoch))
    }

    /// Whether the principal may write under an id and epoch.
    ///
    /// # Errors
    /// INVALID_PRODUCER_ID_MAPPING for an id of another principal; epochs are judged by the log, per partition.
    pub fn check(&self, principal: &str, id: i64, epoch: i16) -> Result<(), ErrorCode> {
        let seen = self.ids().check(ProducerEpoch { id, epoch }, owner(principal), self.clock.now_ms())?;
        if let Some(seen) = seen {
            // Only keeps the id from ageing out; submitted in order, not waited for.
            drop(self.engine.put_state(self.tenant, vec![record(seen)]));
        }
        Ok(())
    }

    fn ids(&self) -> std::sync::MutexGuard<'_, ProducerIds> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn owner(principal: &str) -> Owner {
    Owner(digest::sha256(principal.as_bytes()))
}

/// The coordinator's record in the engine's words.
pub fn record(record: schloss_coordinator::StateRecord) -> StateRecord {
    StateRecord { key: record.key, value: record.value }
}
