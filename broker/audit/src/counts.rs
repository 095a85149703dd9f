//! Allowed data-plane actions, counted until they are written.

use std::collections::HashMap;

use schloss_core::TenantId;

use crate::event::{Class, Event, Verdict};

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CountKey {
    /// Whose stream.
    pub tenant: TenantId,
    /// Who.
    pub principal: String,
    /// What, for example `kafka-cluster:WriteData`.
    pub action: String,
    /// On what.
    pub resource: String,
    /// Why it was allowed: the statement.
    pub statement: Option<String>,
}

#[derive(Clone, Copy)]
struct Tally {
    count: u64,
    first_ms: i64,
    last_ms: i64,
}

impl Tally {
    fn add(&mut self, times: u64, now_ms: i64) {
        self.count = self.count.saturating_add(times);
        self.last_ms = now_ms;
    }
}

/// At most `distinct_max` counters; beyond that, one per tenant and action, so that nothing is dropped and nothing grows.
pub(crate) struct Counts {
    distinct_max: usize,
    by_key: HashMap<CountKey, Tally>,
    overflow: HashMap<(TenantId, String), Tally>,
}

impl Counts {
    pub(crate) fn new(distinct_max: usize) -> Self {
        Self { distinct_max, by_key: HashMap::new(), overflow: HashMap::new() }
    }

    /// Adds; true when the counters are full and should be written now.
    pub(crate) fn add(&mut self, key: &CountKey, times: u64, now_ms: i64) -> bool {
        let fresh = Tally { count: 0, first_ms: now_ms, last_ms: now_ms };
        if let Some(tally) = self.by_key.get_mut(key) {
            tally.add(times, now_ms);
        } else if self.by_key.len() < self.distinct_max {
            self.by_key.entry(key.clone()).or_insert(fresh).add(times, now_ms);
        } else {
            self.overflow.entry((key.tenant, key.action.clone())).or_insert(fresh).add(times, now_ms);
        }
        self.by_key.len() >= self.distinct_max
    }

    /// Empties the counters into events.
    pub(crate) fn take(&mut self) -> Vec<Event> {
        let by_key = std::mem::take(&mut self.by_key).into_iter().map(|(key, tally)| {
            let mut event = summary(key.tenant, key.action, tally);
            event.principal = Some(key.principal);
            event.resource = Some(key.resource);
            event.statement = key.statement;
            event
        });
        let overflow = std::mem::take(&mut self.overflow).into_iter().map(|((tenant, action), tally)| {
            let mut event = summary(tenant, action, tally);
            event.reason = Some("too many different principals and resources in one interval; counted together".into());
            event
        });
        by_key.chain(overflow).collect()
    }
}

fn summary(tenant: TenantId, action: String, tally: Tally) -> Event {
    let mut event = Event::new(Some(tenant), Class::DataSummary, Verdict::Allowed, action);
    event.count = tally.count;
    event.time_ms = Some(tally.first_ms);
    event.details.push(("last_time", tally.last_ms.to_string()));
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_beyond_the_bound_are_kept_together_and_none_is_lost() {
        let mut counts = Counts::new(3);
        for n in 0..10 {
            let key = CountKey {
                tenant: TenantId::new(1).unwrap(),
                principal: format!("p{n}"),
                action: "a".into(),
                resource: "r".into(),
                statement: None,
            };
            assert_eq!(counts.add(&key, 2, n), n >= 2);
        }
        let events = counts.take();
        assert_eq!(events.len(), 4);
        assert_eq!(events.iter().map(|event| event.count).sum::<u64>(), 20);
        assert!(counts.take().is_empty());
    }
}
