//! How often somebody may ask: a bucket of tokens per name, refilled by time.
//!
//! Invariant: at most `NAMES_MAX` names are remembered. When there are more, the full buckets are forgotten first, which
//! changes nothing; if all are in use, strangers share one bucket rather than grow the table.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const NAMES_MAX: usize = 10_000;

/// A limit of requests per name.
#[derive(Debug)]
pub struct Limit<N> {
    per_second: u32,
    burst: u32,
    buckets: Mutex<Buckets<N>>,
}

#[derive(Debug)]
struct Buckets<N> {
    named: HashMap<N, Bucket>,
    shared: Bucket,
}

/// Thousandths of a request left, and when that was so.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: u64,
    at: Duration,
}

impl<N: Eq + Hash> Limit<N> {
    /// `per_second` on average, `burst` at once.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let full = Bucket { left: u64::from(burst) * 1_000, at: Duration::ZERO };
        Self { per_second, burst, buckets: Mutex::new(Buckets { named: HashMap::new(), shared: full }) }
    }

    /// Takes one request out of a name's bucket; false when it is empty. `now` is monotonic.
    pub fn take(&self, name: N, now: Duration) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Buckets { named, shared } = &mut *buckets;
        if named.len() >= NAMES_MAX && !named.contains_key(&name) {
            named.retain(|_, bucket| self.refilled(*bucket, now).left < self.full());
            if named.len() >= NAMES_MAX {
                return self.take_from(shared, now);
            }
        }
        self.take_from(named.entry(name).or_insert(Bucket { left: self.full(), at: now }), now)
    }

    fn full(&self) -> u64 {
        u64::from(self.burst) * 1_000
    }

    fn refilled(&self, bucket: Bucket, now: Duration) -> Bucket {
        let passed = u64::try_from(now.saturating_sub(bucket.at).as_millis()).unwrap_or(u64::MAX);
        let more = passed.saturating_mul(u64::from(self.per_second));
        Bucket { left: bucket.left.saturating_add(more).min(self.full()), at: now }
    }

    fn take_from(&self, bucket: &mut Bucket, now: Duration) -> bool {
        *bucket = self.refilled(*bucket, now);
        let enough = bucket.left >= 1_000;
        if enough {
            bucket.left -= 1_000;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_passes_then_the_rate_holds_per_name() {
        let limit = Limit::new(2, 3);
        let at = Duration::from_millis;
        assert_eq!([0, 0, 0, 0].map(|ms| limit.take("a", at(ms))), [true, true, true, false]);
        assert!(limit.take("b", at(0)), "another name has its own");
        assert!(!limit.take("a", at(499)));
        assert!(limit.take("a", at(500)));
        assert!(!limit.take("a", at(500)));
    }

    #[test]
    fn more_names_than_are_remembered_share_a_bucket() {
        let limit = Limit::new(1, 2);
        for name in 0..NAMES_MAX {
            assert!(limit.take(name, Duration::ZERO));
        }
        let taken = (NAMES_MAX..NAMES_MAX + 10).filter(|name| limit.take(*name, Duration::ZERO)).count();
        assert_eq!(taken, 2);
        assert_eq!(limit.buckets.lock().unwrap().named.len(), NAMES_MAX);
        assert!(limit.take(NAMES_MAX, Duration::from_secs(60)), "full buckets make room");
    }
}
