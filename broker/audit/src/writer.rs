//! The one thread that writes: gathers what waits, writes it to its logs, syncs once per log, then answers.
//!
//! In: [`Job`]s. Out: durable lines, and an answer to each job after its lines are durable or given up.
//!
//! Invariants
//! - A checkpoint of the cluster's log names only lines that were durable before it was written, so that no crash makes
//!   an honest log look cut.
//! - Summaries that could not be written go back into the counts.
//!
//! Must not: block anyone but itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use schloss_core::Clock;
use tokio::sync::{mpsc, oneshot};

use crate::audit_log::AuditError;
use crate::counts::{Counts, Summary};
use crate::event::Event;
use crate::folder::{self, CLUSTER_LOG, NEWEST_FILE};
use crate::line::Heads;
use crate::log::{Log, Pen};

/// Jobs of one group.
pub const JOBS_MAX: usize = 1024;
/// How often the clock is looked at when nothing comes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often counts become summaries.
const SUMMARISE_EVERY: Duration = Duration::from_secs(60);
/// Every so many rounds of checkpoints the logs in which nothing happened get one too.
const ROUNDS_PER_IDLE_CHECKPOINT: u64 = 60;
/// Files kept open between groups.
const OPEN_FILES_MAX: usize = 256;

/// Told when the job is done.
pub type Done = oneshot::Sender<Result<(), AuditError>>;

/// Something to do.
pub enum Job {
    /// Make these durable.
    Record(Vec<Event>, Done),
    /// Do what is due by the clock.
    Tick(Done),
    /// Look up: summaries are wanted.
    Wake,
    /// Write summaries and checkpoints, and stop.
    Close(Done),
}

/// What the writer did, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Events made durable.
    pub events: AtomicU64,
    /// Bytes made durable.
    pub bytes: AtomicU64,
    /// Syncs of files.
    pub syncs: AtomicU64,
    /// Groups that could not be written.
    pub failures: AtomicU64,
    /// The newest attempt failed.
    pub failing: AtomicBool,
}

/// Everything the thread owns.
pub struct Writer {
    /// The audit folder.
    pub folder: PathBuf,
    /// What lines are made with.
    pub pen: Pen,
    /// Injected time.
    pub clock: Arc<dyn Clock>,
    /// A log with so many unsigned lines gets a checkpoint.
    pub checkpoint_every_events: u64,
    /// Every log with unsigned lines gets one so often, the cluster's always.
    pub checkpoint_every: Duration,
    /// Logs by name.
    pub logs: BTreeMap<String, Log>,
    /// What is being counted.
    pub counts: Arc<Counts>,
    /// For metrics.
    pub counters: Arc<Counters>,
    /// Newest places named by the cluster's checkpoints.
    pub anchored: Heads,
    due: Due,
}

#[derive(Default)]
struct Due {
    summarised: Duration,
    /// Wall clock at that time.
    summarised_ms: i64,
    checked: Duration,
    rounds: u64,
    /// After a failure nothing is tried again before, so that a full disk costs no sealing over and over.
    not_before: Duration,
    /// A line for [`NEWEST_FILE`] that is not there yet.
    newest: Option<Vec<u8>>,
}

type Failures = BTreeMap<String, io::ErrorKind>;

impl Writer {
    /// A writer over these logs.
    #[expect(clippy::too_many_arguments, reason = "called once, each is a part of its own kind")]
    pub fn new(
        folder: PathBuf,
        pen: Pen,
        clock: Arc<dyn Clock>,
        (checkpoint_every_events, checkpoint_every): (u64, Duration),
        logs: BTreeMap<String, Log>,
        counts: Arc<Counts>,
        counters: Arc<Counters>,
        anchored: Heads,
    ) -> Self {
        let now = clock.monotonic();
        let due = Due { summarised: now, summarised_ms: clock.now_ms(), checked: now, ..Due::default() };
        Self { folder, pen, clock, checkpoint_every_events, checkpoint_every, logs, counts, counters, anchored, due }
    }

    /// Works until closed, or until nobody can send any more. Whoever closed may open the folder again: `lock` is let go before.
    pub async fn run(mut self, mut jobs: mpsc::Receiver<Job>, lock: File) {
        let mut group = Vec::with_capacity(JOBS_MAX);
        loop {
            let received = tokio::time::timeout(LOOK_EVERY, jobs.recv_many(&mut group, JOBS_MAX)).await;
            let (mut ticks, mut closing) = (Vec::new(), Vec::new());
            self.record(group.drain(..), &mut ticks, &mut closing);
            if matches!(received, Ok(0)) || !closing.is_empty() {
                let done = self.finish();
                drop(lock);
                closing.into_iter().for_each(|waiting| answer(waiting, &done));
                return;
            }
            let done = self.do_what_is_due(!ticks.is_empty());
            ticks.into_iter().for_each(|waiting| answer(waiting, &done));
        }
    }

    /// Writes the group's events and answers those who wait for them.
    fn record(&mut self, group: impl Iterator<Item = Job>, ticks: &mut Vec<Done>, closing: &mut Vec<Done>) {
        let (mut touched, mut waiting, mut events) = (BTreeSet::new(), Vec::new(), 0);
        for job in group {
            match job {
                Job::Record(recorded, done) => {
                    events += recorded.len() as u64;
                    waiting.push((self.stage(recorded.iter(), &mut touched), done));
                }
                Job::Tick(done) => ticks.push(done),
                Job::Close(done) => closing.push(done),
                Job::Wake => {}
            }
        }
        if touched.is_empty() {
            waiting.into_iter().for_each(|(_, done)| drop(done.send(Ok(()))));
            return;
        }
        let failures = self.commit(touched);
        if failures.is_empty() {
            self.counters.events.fetch_add(events, Ordering::Relaxed);
        }
        for (logs, done) in waiting {
            let failed = logs.iter().find_map(|log| failures.get(log).map(|kind| (log, kind)));
            answer(done, &failed.map_or(Ok(()), |(log, kind)| Err((log.clone(), *kind))));
        }
    }

    /// Adds events to their logs; returns the logs.
    fn stage<'a>(&mut self, events: impl Iterator<Item = &'a Event>, touched: &mut BTreeSet<String>) -> BTreeSet<String> {
        let (mut names, time_ms) = (BTreeSet::new(), self.clock.now_ms());
        for event in events {
            let name = event.log_name();
            if name == CLUSTER_LOG {
                self.prepare_cluster();
            }
            let log = self.logs.entry(name.clone()).or_insert_with(|| Log::new(&self.folder, &name));
            log.event(&self.pen, &event.body(time_ms), time_ms);
            names.insert(name);
        }
        touched.extend(names.iter().cloned());
        names
    }

    /// The first checkpoint of a new file of the cluster's log names every head.
    fn prepare_cluster(&mut self) {
        if self.logs.get(CLUSTER_LOG).is_some_and(|log| log.is_full(&self.pen)) {
            let heads = self.heads(true);
            if let Some(log) = self.logs.get_mut(CLUSTER_LOG) {
                log.name_first(heads);
            }
        }
    }

    /// Durable heads of the tenants' logs: all, or those that moved since the cluster's log named them.
    fn heads(&self, all: bool) -> Heads {
        let head = |log: &Log| log.head().map(|head| (log.name.clone(), head));
        let moved = |(name, head): &(String, _)| all || self.anchored.get(name) != Some(head);
        self.logs.values().filter(|log| log.name != CLUSTER_LOG).filter_map(head).filter(moved).collect()
    }

    /// Makes what was staged durable. Logs that failed are left as they were before.
    fn commit(&mut self, touched: BTreeSet<String>) -> Failures {
        let (mut failures, time_ms) = (Failures::new(), self.clock.now_ms());
        for name in &touched {
            let heads = if name == CLUSTER_LOG { self.heads(false) } else { Heads::new() };
            let Some(log) = self.logs.get_mut(name) else { continue };
            if log.lines_unsigned() >= self.checkpoint_every_events {
                log.checkpoint(&self.pen, &heads, time_ms);
            }
            if let Err(error) = log.write() {
                failures.insert(name.clone(), error.kind());
            }
        }
        for name in &touched {
            let Some(log) = self.logs.get_mut(name) else { continue };
            if !failures.contains_key(name)
                && let Err(error) = log.sync()
            {
                failures.insert(name.clone(), error.kind());
            }
            let kept = log.settle(!failures.contains_key(name));
            self.counters.syncs.fetch_add(1, Ordering::Relaxed);
            self.counters.bytes.fetch_add(kept.bytes as u64, Ordering::Relaxed);
            if name == CLUSTER_LOG && kept.checkpoint.is_some() {
                self.due.newest = kept.checkpoint;
            }
        }
        if self.logs.values().filter(|log| log.holds_file()).count() > OPEN_FILES_MAX {
            self.logs.values_mut().for_each(Log::release);
        }
        self.note(&failures);
        failures
    }

    fn note(&self, failures: &Failures) {
        let failing = !failures.is_empty();
        if failing {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
        }
        match (self.counters.failing.swap(failing, Ordering::Relaxed), failures.values().next()) {
            (false, Some(kind)) => tracing::error!(%kind, "the audit log cannot be written; what must be recorded is refused"),
            (true, None) => tracing::info!("the audit log is written again"),
            _ => {}
        }
    }

    fn do_what_is_due(&mut self, asked: bool) -> Result<(), (String, io::ErrorKind)> {
        let now = self.clock.monotonic();
        let mut done = Ok(());
        if now < self.due.not_before && !asked {
            return done;
        }
        if self.counts.is_wanted() || now.saturating_sub(self.due.summarised) >= SUMMARISE_EVERY {
            done = self.summarise();
        }
        if now.saturating_sub(self.due.checked) >= self.checkpoint_every {
            done = done.and(self.round());
        }
        if done.is_err() {
            self.due.not_before = now + LOOK_EVERY;
        }
        done
    }

    fn finish(&mut self) -> Result<(), (String, io::ErrorKind)> {
        let summarised = self.summarise();
        self.round().and(summarised)
    }

    /// Turns the counts into events.
    fn summarise(&mut self) -> Result<(), (String, io::ErrorKind)> {
        let summaries = self.counts.take(self.due.summarised_ms);
        let events: Vec<Event> = summaries.iter().map(Summary::event).collect();
        let mut touched = BTreeSet::new();
        self.stage(events.iter(), &mut touched);
        let failures = self.commit(touched);
        if failures.is_empty() {
            self.counters.events.fetch_add(events.len() as u64, Ordering::Relaxed);
            self.due.summarised = self.clock.monotonic();
            self.due.summarised_ms = self.clock.now_ms();
            return Ok(());
        }
        let unwritten = summaries.into_iter().zip(&events).filter(|(_, event)| failures.contains_key(&event.log_name()));
        self.counts.give_back(unwritten.map(|(summary, _)| summary).collect());
        first(failures)
    }

    /// Signs every log in which something happened, then the cluster's, which names them, then puts the copy of that line in its place.
    pub fn round(&mut self) -> Result<(), (String, io::ErrorKind)> {
        let (time_ms, idle_too) = (self.clock.now_ms(), self.due.rounds % ROUNDS_PER_IDLE_CHECKPOINT == ROUNDS_PER_IDLE_CHECKPOINT - 1);
        let mut touched = BTreeSet::new();
        for (name, log) in self.logs.iter_mut().filter(|(name, _)| *name != CLUSTER_LOG) {
            if log.lines_unsigned() > 0 || idle_too {
                log.checkpoint(&self.pen, &Heads::new(), time_ms);
                touched.insert(name.clone());
            }
        }
        first(self.commit(touched))?;
        self.prepare_cluster();
        let heads = self.heads(false);
        let cluster = self.logs.entry(CLUSTER_LOG.to_owned()).or_insert_with(|| Log::new(&self.folder, CLUSTER_LOG));
        cluster.checkpoint(&self.pen, &heads, time_ms);
        first(self.commit(BTreeSet::from([CLUSTER_LOG.to_owned()])))?;
        self.anchored.extend(heads);
        self.due.checked = self.clock.monotonic();
        self.due.rounds += 1;
        self.put_newest()
    }

    fn put_newest(&mut self) -> Result<(), (String, io::ErrorKind)> {
        let Some(line) = self.due.newest.take() else { return Ok(()) };
        if let Err(error) = folder::replace(&self.folder.join(NEWEST_FILE), &line, 0o600) {
            self.due.newest = Some(line);
            return Err((NEWEST_FILE.to_owned(), error.kind()));
        }
        Ok(())
    }
}

fn first(failures: Failures) -> Result<(), (String, io::ErrorKind)> {
    failures.into_iter().next().map_or(Ok(()), Err)
}

/// Nobody waiting any more is no fault.
fn answer(done: Done, result: &Result<(), (String, io::ErrorKind)>) {
    let told = result.as_ref().map_or_else(|(log, kind)| Err(AuditError::NotWritten { log: log.clone(), kind: *kind }), |()| Ok(()));
    drop(done.send(told));
}
