//! The scrub: reads every live segment, and what is set aside, and checks all of it, before a client asks for a record that is not there any more.

use std::sync::Weak;
use std::time::Duration;

use schloss_core::TenantId;
use schloss_crypto::random_array;
use tokio::sync::watch;

use crate::aside;
use crate::engine::Engine;
use crate::error::{OpenError, ReadError};
use crate::integrity::Damage;
use crate::segment::Segment;
use crate::stats::Counters;

/// Of a scrub in the background: what a disk barely notices.
const BACKGROUND_BYTES_PER_SECOND: u64 = 10 << 20;
/// The first one after a start.
const FIRST_AFTER: Duration = Duration::from_secs(3600);

/// Scrubs everything again and again until the engine is gone.
pub fn in_background(engine: Weak<Engine>, every: Duration) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut wait = FIRST_AFTER.min(every);
        loop {
            tokio::time::sleep(wait).await;
            wait = every;
            let Some(engine) = engine.upgrade() else { return };
            let unseen = watch::Sender::new((0, 0));
            let found = engine.scrub(None, BACKGROUND_BYTES_PER_SECOND, &unseen).await;
            let (damaged, unread) = (found.damaged.len(), found.unread.len());
            tracing::info!(good = found.good, damaged, unread, "all live segments were checked");
        }
    })
}

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Objects that are what was written.
    pub good: u64,
    /// Objects that are not, and what is wrong with each.
    pub damaged: Vec<(String, &'static str)>,
    /// Objects that could not be judged now: their key or the store is away.
    pub unread: Vec<(String, String)>,
    /// Bytes read.
    pub bytes: u64,
}

impl Engine {
    /// Checks all live segments, of one tenant or all: header, footer, and every frame opened. Of what is set aside, whose keys are
    /// away, the digest.
    pub async fn scrub(
        &self,
        tenant: Option<TenantId>,
        bytes_per_second: u64,
        progress: &watch::Sender<(u64, u64)>,
    ) -> Scrubbed {
        let tenants = match tenant {
            Some(tenant) => vec![tenant],
            None => self.tenants_with_records(),
        };
        let mut segments: Vec<_> = tenants.into_iter().flat_map(|tenant| self.segments_of(tenant)).collect();
        let of = segments.len() as u64;
        // From a random place on: where starts come often, the last ones would never be read.
        let place = u64::from_be_bytes(random_array()).checked_rem(of).and_then(|place| usize::try_from(place).ok());
        segments.rotate_left(place.unwrap_or(0));
        progress.send_replace((0, of));
        let mut found = Scrubbed::default();
        for ((segment, _), n) in segments.into_iter().zip(1_u64..) {
            match self.check_segment(&segment).await {
                Ok(()) => found.good = found.good.saturating_add(1),
                Err(error) => {
                    self.reader.integrity.report(&self.counters, &segment, &error);
                    match error {
                        ReadError::Damaged(damage) => found.damaged.push((segment.path.to_string(), damage.word())),
                        error => found.unread.push((segment.path.to_string(), error.to_string())),
                    }
                }
            }
            found.bytes = found.bytes.saturating_add(segment.row.size);
            Counters::add(&self.counters.segments_scrubbed, 1);
            progress.send_replace((n, of));
            tokio::time::sleep(Duration::from_secs_f64(segment.row.size as f64 / bytes_per_second.max(1) as f64)).await;
        }
        self.check_set_aside(tenant, &mut found).await;
        found
    }

    async fn check_set_aside(&self, tenant: Option<TenantId>, found: &mut Scrubbed) {
        let rows = match self.metadata.aside().await {
            Ok(rows) => rows,
            Err(error) => return found.unread.push((aside::FOLDER.to_owned(), error.to_string())),
        };
        for row in rows.into_iter().filter(|row| tenant.is_none_or(|tenant| row.tenant == tenant)) {
            found.bytes = found.bytes.saturating_add(row.size);
            match aside::read(&*self.objects, &row).await {
                Ok(_) => found.good = found.good.saturating_add(1),
                Err(OpenError::SetAside { object, damage }) => {
                    // One that was given up since the rows were read is gone rightly.
                    let stands = self.metadata.aside().await.is_ok_and(|rows| rows.contains(&row));
                    if stands {
                        self.reader.integrity.report_aside(&self.counters, row.tenant, &object, damage);
                        found.damaged.push((object, damage.word()));
                    }
                }
                Err(error) => found.unread.push((aside::path(&row).to_string(), error.to_string())),
            }
        }
    }

    fn tenants_with_records(&self) -> Vec<TenantId> {
        let partitions = self.partitions.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut tenants: Vec<TenantId> = partitions.values().map(|partition| partition.tenant).collect();
        tenants.sort_unstable();
        tenants.dedup();
        tenants
    }

    /// From the store, never from what was opened before.
    async fn check_segment(&self, known: &Segment) -> Result<(), ReadError> {
        let segment = Segment::new(known.row.clone());
        segment.set_wrapped(known.wrapped());
        let opened = segment.open(&*self.objects, &*self.reader.vault, self.reader.cluster).await?;
        let object = segment.range(&*self.objects, 0..segment.row.size).await?;
        let mut frames: Vec<_> = opened
            .index
            .iter()
            .flat_map(|(partition, frames)| frames.iter().map(move |frame| (*partition, *frame)))
            .collect();
        frames.sort_by_key(|(_, frame)| frame.place.number);
        for (partition, frame) in frames {
            let topic_key = if frame.keyed {
                match self.reader.topic_keys.find(segment.row.tenant, partition.topic).await {
                    Ok(Some(key)) => Some(key),
                    // A topic deleted since: its frames are dead weight until the object goes.
                    Ok(None) | Err(crate::TopicKeyError::Destroyed) => continue,
                    Err(crate::TopicKeyError::Altered) => return Err(ReadError::Damaged(Damage::TopicKey)),
                    Err(error) => return Err(ReadError::Storage(error.to_string())),
                }
            } else {
                None
            };
            self.reader.check_frame(partition, &opened, &frame, topic_key.as_deref(), &object)?;
            tokio::task::yield_now().await;
        }
        let digest = opened.opener.frame_tags_digest(&object, segment.row.footer_position);
        match digest {
            Ok(digest) if digest == opened.frame_tags_digest => Ok(()),
            _ => Err(ReadError::Damaged(Damage::Frame)),
        }
    }
}
