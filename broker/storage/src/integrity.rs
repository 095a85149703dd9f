//! Stored bytes that are not what was written: told once, counted always, never served.
//!
//! In: what a read found wrong with a segment. Out: a finding to whoever records it, and a counter.
//!
//! Must not: hold record bytes, keys or names; wait for the recorder.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use schloss_core::TenantId;

use crate::error::ReadError;
use crate::partition::Partition;
use crate::segment::Segment;
use crate::stats::Counters;

/// Findings remembered so that a client's retries do not repeat them. Beyond this each is told again.
const REMEMBERED_MAX: usize = 10_000;

/// What is wrong with a stored object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Damage {
    /// The manifest names it and it is not there.
    Missing,
    /// It is shorter or longer than the manifest says.
    Size,
    /// The wrapped key in the manifest's row is damaged or was made for something else.
    WrappedKey,
    /// The manifest's row names a KMS key that is not the tenant's.
    ForeignKey,
    /// The topic's own key is gone or was altered.
    TopicKey,
    /// The header does not verify, or is another object's.
    Header,
    /// The footer does not verify, or is not the one the manifest knows.
    Footer,
    /// The index inside the footer is malformed.
    Index,
    /// A frame does not verify: altered, moved, or of another place.
    Frame,
    /// A verified frame holds something else than whole batches.
    Batches,
    /// Entries set aside for a tenant are not those that were written.
    SetAside,
    /// Records between a partition's ends are in no segment and not in the log.
    Gap,
    /// Rows of the manifest are not what was written.
    Manifest,
}

impl Damage {
    /// Our word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing object",
            Self::Size => "wrong size",
            Self::WrappedKey => "wrapped key",
            Self::ForeignKey => "foreign key",
            Self::TopicKey => "topic key",
            Self::Header => "header",
            Self::Footer => "footer",
            Self::Index => "index",
            Self::Frame => "frame",
            Self::Batches => "batches",
            Self::SetAside => "set-aside entries",
            Self::Gap => "missing records",
            Self::Manifest => "manifest rows",
        }
    }
}

/// One object found damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whose.
    pub tenant: TenantId,
    /// The object's path in the store, or the partition.
    pub object: String,
    /// What is wrong.
    pub damage: Damage,
}

/// Records findings. Called once for each object and kind of damage.
pub trait IntegritySink: Send + Sync {
    /// Must not block.
    fn damaged(&self, finding: Finding);
}

/// Where findings go.
#[derive(Default)]
pub struct Integrity {
    sink: OnceLock<Arc<dyn IntegritySink>>,
    told: Mutex<HashSet<([u8; 32], Damage)>>,
}

impl Integrity {
    /// Says who records findings; the first call counts.
    pub fn attach(&self, sink: Arc<dyn IntegritySink>) {
        if self.sink.set(sink).is_err() {
            tracing::debug!("findings are recorded already");
        }
    }

    /// Counts, and tells what was not told before. Errors that say nothing about stored bytes pass.
    pub fn report(&self, counters: &Counters, segment: &Segment, error: &ReadError) {
        let object = || segment.path.to_string();
        self.tell(counters, segment.row.tenant, segment.row.object_id, object, error);
    }

    /// The same for records of a partition that are nowhere.
    pub fn report_gap(&self, counters: &Counters, partition: &Partition, error: &ReadError) {
        let mut place = [0; 32];
        let name = [&partition.id.topic.to_bytes()[..], &partition.id.index.to_be_bytes()].concat();
        for (to, from) in place.iter_mut().zip(name) {
            *to = from;
        }
        let object = || format!("partition {} {}", partition.id.topic, partition.id.index);
        self.tell(counters, partition.tenant, place, object, error);
    }

    /// The same for an object of entries set aside.
    pub fn report_aside(&self, counters: &Counters, tenant: TenantId, object: &str, damage: Damage) {
        let place = schloss_crypto::digest::sha256(object.as_bytes());
        self.tell(counters, tenant, place, || object.to_owned(), &ReadError::Damaged(damage));
    }

    fn tell(
        &self,
        counters: &Counters,
        tenant: TenantId,
        place: [u8; 32],
        object: impl FnOnce() -> String,
        error: &ReadError,
    ) {
        let ReadError::Damaged(damage) = *error else { return };
        Counters::add(&counters.integrity_failures, 1);
        let news = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.len() >= REMEMBERED_MAX || told.insert((place, damage))
        };
        if !news {
            return;
        }
        let finding = Finding { tenant, object: object(), damage };
        tracing::error!(tenant = %finding.tenant, object = finding.object, damage = damage.word(), "stored bytes are not what was written; they are not served");
        if let Some(sink) = self.sink.get() {
            sink.damaged(finding);
        }
    }
}
