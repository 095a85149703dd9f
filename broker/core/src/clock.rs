//! Time, injected: wall clock for record and token times, monotonic clock for deadlines.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where time comes from. Rooms below `broker` ask this and nothing else.
pub trait Clock: Send + Sync + 'static {
    /// Wall clock, milliseconds since 1970-01-01T00:00:00Z. May jump; never used for deadlines.
    fn now_ms(&self) -> i64;
    /// Time since an arbitrary fixed point; never goes back.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic zero is now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that moves only when told to. For tests and simulation.
#[derive(Debug, Default)]
pub struct ManualClock {
    wall_ms: AtomicI64,
    passed_ms: AtomicI64,
}

impl ManualClock {
    /// Starts at `wall_ms` (milliseconds since 1970).
    #[must_use]
    pub fn at(wall_ms: i64) -> Self {
        Self { wall_ms: AtomicI64::new(wall_ms), passed_ms: AtomicI64::new(0) }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.wall_ms.fetch_add(by_ms, Ordering::SeqCst);
        self.passed_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.wall_ms.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.passed_ms.load(Ordering::SeqCst)).unwrap_or(0))
    }
}
