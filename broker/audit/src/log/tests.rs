//! The log's promises: durable, bounded, sealed, and every change to it found.

use std::path::Path;

use schloss_core::{ManualClock, TenantId};
use schloss_crypto::testing::TestVault;

use super::*;
use crate::verify::{Fault, FaultKind, Report, TrustedHead, verify};
use crate::{Filter, Head, query, tail};

const MARKER: &str = "MARKER-of-32-bytes-MARKER-MARKER";

struct World {
    folder: tempfile::TempDir,
    vault: Arc<TestVault>,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, vault: TestVault::new(), clock: Arc::new(ManualClock::at(1_000_000)) }
    }

    fn config(&self) -> AuditConfig {
        AuditConfig::new(self.folder.path().to_owned(), ClusterId::from_bytes([7; 16]))
    }

    async fn try_open(&self, config: AuditConfig) -> Result<Arc<AuditLog>, AuditError> {
        AuditLog::open(config, self.vault.as_ref(), Arc::clone(&self.clock) as _).await
    }

    async fn open(&self) -> Arc<AuditLog> {
        self.try_open(self.config()).await.unwrap()
    }

    /// A closed log with a few events of two tenants.
    async fn closed_log(&self) -> VerifyingKey {
        let log = self.open().await;
        for n in 0..5 {
            log.record(refusal(1, &format!("topic-{n}"))).await.unwrap();
            log.record(refusal(2, &format!("topic-{n}"))).await.unwrap();
        }
        log.checkpoint().await.unwrap();
        for n in 5..8 {
            log.record(refusal(1, &format!("topic-{n}"))).await.unwrap();
        }
        log.close().await.unwrap();
        log.public_key()
    }

    fn file(&self, stream: &str) -> PathBuf {
        self.folder.path().join(stream).join("00000001.jsonl")
    }

    fn judge(&self, key: &VerifyingKey) -> Report {
        verify(self.folder.path(), key, &[]).unwrap()
    }

    /// Changes the lines of tenant 1's file and tells what the verifier finds first.
    fn fault_after(&self, key: &VerifyingKey, change: impl FnOnce(&mut Vec<String>)) -> Fault {
        let path = self.file("000000000001");
        let text = fs::read_to_string(&path).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        change(&mut lines);
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        let report = self.judge(key);
        fs::write(&path, text).unwrap();
        report.first_fault().expect("a fault").clone()
    }
}

fn refusal(tenant: u64, resource: &str) -> Event {
    let mut event = Event::new(TenantId::new(tenant), Class::Refusal, Verdict::Denied, "kafka-cluster:ReadData");
    event.principal = Some("User:eve".into());
    event.resource = Some(resource.to_owned());
    event
}

async fn all(world: &World, filter: Filter) -> Vec<crate::Found> {
    tail(world.folder.path(), world.config().cluster, world.vault.as_ref(), &filter, 10_000).await.unwrap()
}

/// Writes the chain anew after a change, as an attacker without the signing key would.
fn rechain(lines: &mut [String]) {
    let mut prev = crate::line::genesis("000000000001");
    for (seq, line) in (0..).zip(lines.iter_mut()) {
        let mut parsed: crate::line::Line = serde_json::from_str(line).unwrap();
        (parsed.seq, parsed.prev) = (seq, prev);
        let (bytes, hash) = parsed.render();
        *line = String::from_utf8(bytes).unwrap().trim_end().to_owned();
        prev = hash;
    }
}

#[tokio::test]
async fn what_was_recorded_is_found_again_by_its_facts() {
    let world = World::new();
    let key = world.closed_log().await;
    assert!(world.judge(&key).is_good(), "{:?}", world.judge(&key));
    let filter = Filter { stream: Some("000000000001".into()), ..Filter::default() };
    assert_eq!(all(&world, filter.clone()).await.len(), 8);
    let one = Filter { resource: Some("topic-3".into()), verdict: Some(Verdict::Denied), ..filter };
    let found = all(&world, one).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].body["actor"]["user"]["uid"], "User:eve");
    let key_use = all(&world, Filter { class: Some(Class::KeyUse), ..Filter::default() }).await;
    assert_eq!(key_use.len(), 1, "the log records the use of its own key");
}

#[tokio::test]
async fn names_are_in_no_file() {
    let world = World::new();
    let log = world.open().await;
    log.record(refusal(1, MARKER)).await.unwrap();
    log.count(&count_key(MARKER), 1);
    log.close().await.unwrap();
    let mut files = 0;
    for stream in ["cluster", "000000000001"] {
        let text = fs::read_to_string(world.file(stream)).unwrap();
        assert!(!text.contains(MARKER) && !text.contains("User:eve"));
        files += 1;
    }
    assert_eq!(files, 2);
}

#[tokio::test]
async fn every_flipped_byte_of_a_stream_is_found_on_its_line() {
    let world = World::new();
    let log = world.open().await;
    log.record(refusal(2, "topic")).await.unwrap();
    log.close().await.unwrap();
    let key = log.public_key();
    let path = world.file("000000000002");
    let good = fs::read(&path).unwrap();
    let mut line = 1;
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        let report = world.judge(&key);
        let fault = report.first_fault().unwrap_or_else(|| panic!("byte {at}"));
        assert_eq!((fault.line, &fault.kind), (line, &FaultKind::Altered), "byte {at}");
        line += u64::from(good[at] == b'\n');
    }
}

#[tokio::test]
async fn deleted_inserted_and_swapped_lines_are_named() {
    let world = World::new();
    let key = world.closed_log().await;
    let deleted = world.fault_after(&key, |lines| drop(lines.remove(3)));
    assert_eq!((deleted.line, deleted.seq, deleted.kind), (4, 3, FaultKind::BrokenChain { expected: 3 }));
    let doubled = world.fault_after(&key, |lines| lines.insert(3, lines[2].clone()));
    assert_eq!((doubled.line, doubled.kind), (4, FaultKind::BrokenChain { expected: 3 }));
    let swapped = world.fault_after(&key, |lines| lines.swap(2, 3));
    assert_eq!((swapped.line, swapped.kind), (3, FaultKind::BrokenChain { expected: 2 }));
}

#[tokio::test]
async fn chain_written_anew_fails_at_the_next_checkpoint() {
    let world = World::new();
    let key = world.closed_log().await;
    let fault = world.fault_after(&key, |lines| {
        lines.remove(3);
        rechain(lines);
    });
    assert_eq!((fault.line, fault.kind), (6, FaultKind::BadSignature { since: 0 }));
}

#[tokio::test]
async fn log_signed_by_another_key_is_refused() {
    let world = World::new();
    world.closed_log().await;
    let other = World::new().closed_log().await;
    let report = world.judge(&other);
    assert!(matches!(report.first_fault().unwrap().kind, FaultKind::BadSignature { .. }));
}

#[tokio::test]
async fn cut_tail_is_found_by_the_clusters_checkpoint_and_a_vanished_stream_too() {
    let world = World::new();
    let key = world.closed_log().await;
    let lines = fs::read_to_string(world.file("000000000001")).unwrap().lines().count() as u64;
    let cut = world.fault_after(&key, |lines| drop(lines.pop()));
    assert_eq!(cut.kind, FaultKind::CutOff { expected: lines - 1 });
    fs::remove_dir_all(world.folder.path().join("000000000001")).unwrap();
    let gone = world.judge(&key);
    assert!(matches!(gone.first_fault().unwrap().kind, FaultKind::CutOff { .. }));
}

#[tokio::test]
async fn cluster_stream_cut_back_or_forked_contradicts_a_checkpoint_kept_elsewhere() {
    let world = World::new();
    let key = world.closed_log().await;
    let kept = world.judge(&key).streams[0].last_checkpoint.clone().unwrap();
    let trusted = |head: Head| [TrustedHead { stream: CLUSTER_STREAM.into(), head }];
    assert!(verify(world.folder.path(), &key, &trusted(kept.clone())).unwrap().is_good());
    let forked = Head { hash: "0".repeat(64), ..kept.clone() };
    let report = verify(world.folder.path(), &key, &trusted(forked)).unwrap();
    assert_eq!(report.first_fault().unwrap().kind, FaultKind::Forked { seq: kept.seq });
    let path = world.file(CLUSTER_STREAM);
    let text = fs::read_to_string(&path).unwrap();
    let at = text.trim_end().rfind('\n').unwrap();
    fs::write(&path, &text[..=at]).unwrap();
    let report = verify(world.folder.path(), &key, &trusted(kept.clone())).unwrap();
    assert_eq!(report.first_fault().unwrap().kind, FaultKind::CutOff { expected: kept.seq });
}

#[tokio::test]
async fn cluster_stream_cut_emptied_or_gone_contradicts_the_copy_of_its_checkpoint() {
    let world = World::new();
    let key = world.closed_log().await;
    let path = world.file(CLUSTER_STREAM);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for kept in 0..lines.len() {
        fs::write(&path, lines[..kept].concat()).unwrap();
        let fault = world.judge(&key).first_fault().unwrap_or_else(|| panic!("{kept} lines kept")).clone();
        assert_eq!((fault.file, fault.kind), (path.clone(), FaultKind::CutOff { expected: lines.len() as u64 - 1 }));
        assert!(world.try_open(world.config()).await.is_err(), "{kept} lines kept");
    }
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    assert!(matches!(world.judge(&key).first_fault().unwrap().kind, FaultKind::CutOff { .. }));
    assert!(matches!(world.try_open(world.config()).await.unwrap_err(), AuditError::CutOff { .. }));
}

#[tokio::test]
async fn copy_of_the_newest_checkpoint_altered_or_gone_is_named() {
    let world = World::new();
    let key = world.closed_log().await;
    let path = world.folder.path().join("newest-checkpoint.json");
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        let report = world.judge(&key);
        assert_eq!(report.first_fault().map(|fault| &fault.file), Some(&path), "byte {at}");
    }
    assert!(matches!(world.try_open(world.config()).await.unwrap_err(), AuditError::Broken { .. }));
    fs::remove_file(&path).unwrap();
    assert_eq!(world.judge(&key).first_fault().unwrap().kind, FaultKind::MissingFile);
    assert!(world.try_open(world.config()).await.is_err());
}

#[tokio::test]
async fn chain_written_anew_without_the_key_is_not_signed_at_the_next_start() {
    let world = World::new();
    world.closed_log().await;
    let path = world.file("000000000001");
    let mut lines: Vec<String> = fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
    lines.swap(2, 3);
    // With its checkpoints, and without them.
    for keep_checkpoints in [true, false] {
        let mut lines = lines.clone();
        if !keep_checkpoints {
            for line in lines.iter_mut().filter(|line| line.contains("checkpoint")) {
                *line = line.split_once("\"kind\"").unwrap().0.to_owned() + "\"kind\":\"event\",\"sealed\":\"AAAA\"}";
            }
        }
        rechain(&mut lines);
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        assert!(matches!(world.try_open(world.config()).await.unwrap_err(), AuditError::Broken { .. }));
    }
}

#[tokio::test]
async fn log_killed_after_every_line_counts_its_events_right() {
    let world = World::new();
    let config = AuditConfig { file_bytes_max: 3000, checkpoint_events: 1000, ..world.config() };
    let log = world.try_open(config.clone()).await.unwrap();
    let key = log.public_key();
    for n in 0..12 {
        log.record(refusal(1, &format!("topic-{n}"))).await.unwrap();
        // What a kill here would leave behind.
        let killed = World {
            folder: tempfile::tempdir().unwrap(),
            vault: Arc::clone(&world.vault),
            clock: Arc::clone(&world.clock),
        };
        copy(world.folder.path(), killed.folder.path());
        let again =
            killed.try_open(AuditConfig { folder: killed.folder.path().to_owned(), ..config.clone() }).await.unwrap();
        again.close().await.unwrap();
        assert!(killed.judge(&key).is_good(), "after {n}: {:?}", killed.judge(&key).first_fault());
    }
    assert!(crate::stream::files(&world.folder.path().join("000000000001")).unwrap().len() > 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_that_is_being_written_verifies() {
    let world = World::new();
    let log =
        world.try_open(AuditConfig { checkpoint_events: 3, file_bytes_max: 20_000, ..world.config() }).await.unwrap();
    let key = log.public_key();
    let writer = tokio::spawn({
        let log = Arc::clone(&log);
        async move {
            for n in 0..200 {
                log.record(refusal(n % 5, "topic")).await.unwrap();
                if n % 10 == 0 {
                    log.checkpoint().await.unwrap();
                }
            }
        }
    });
    while !writer.is_finished() {
        assert!(world.judge(&key).is_good(), "{:?}", world.judge(&key).first_fault());
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn files_are_rotated_and_chained_and_a_missing_one_is_named() {
    let world = World::new();
    let config = AuditConfig { file_bytes_max: 2000, ..world.config() };
    let log = world.try_open(config.clone()).await.unwrap();
    for n in 0..20 {
        log.record(refusal(1, &format!("topic-{n}"))).await.unwrap();
    }
    log.close().await.unwrap();
    let key = log.public_key();
    drop(log);
    let log = world.try_open(config).await.unwrap();
    log.record(refusal(1, "after")).await.unwrap();
    log.close().await.unwrap();
    let folder = world.folder.path().join("000000000001");
    assert!(crate::stream::files(&folder).unwrap().len() > 3);
    assert!(world.judge(&key).is_good(), "{:?}", world.judge(&key).first_fault());
    assert_eq!(all(&world, Filter { stream: Some("000000000001".into()), ..Filter::default() }).await.len(), 21);
    fs::remove_file(folder.join("00000002.jsonl")).unwrap();
    let report = world.judge(&key);
    let fault = report.first_fault().unwrap();
    assert_eq!((fault.file.clone(), &fault.kind), (folder.join("00000002.jsonl"), &FaultKind::MissingFile));
}

#[tokio::test]
async fn torn_end_is_dropped_at_opening_and_said_so() {
    let world = World::new();
    let key = world.closed_log().await;
    let path = world.file("000000000001");
    for torn in [&b"{\"seq\":99,\"time\""[..], &[0; 500], b"{\"seq\"\0\0\0\n{}\n"] {
        append(&path, torn);
        let log = world.open().await;
        log.close().await.unwrap();
        assert!(world.judge(&key).is_good());
    }
    let recovered = Filter { action: Some("schloss:AuditLogRecovered".into()), ..Filter::default() };
    assert_eq!(all(&world, recovered).await.len(), 3);
}

#[tokio::test]
async fn log_with_a_foreign_or_altered_line_does_not_open_and_is_left_as_it_is() {
    let world = World::new();
    world.closed_log().await;
    let path = world.file("000000000001");
    append(&path, b"{\"seq\":99}\n");
    let before = fs::read(&path).unwrap();
    let error = world.try_open(world.config()).await.unwrap_err();
    assert!(matches!(error, AuditError::Broken { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn log_with_a_cut_stream_does_not_open() {
    let world = World::new();
    world.closed_log().await;
    let path = world.file("000000000001");
    let text = fs::read_to_string(&path).unwrap();
    let at = text.trim_end().rfind('\n').unwrap();
    fs::write(&path, &text[..=at]).unwrap();
    let error = world.try_open(world.config()).await.unwrap_err();
    assert!(matches!(error, AuditError::CutOff { .. }), "{error}");
    fs::remove_dir_all(world.folder.path().join("000000000001")).unwrap();
    assert!(matches!(world.try_open(world.config()).await.unwrap_err(), AuditError::CutOff { .. }));
}

#[tokio::test]
async fn log_that_was_killed_opens_and_every_stream_is_signed_and_named_again() {
    let world = World::new();
    let log = world.open().await;
    log.record(refusal(1, "acknowledged")).await.unwrap();
    let killed = World {
        folder: tempfile::tempdir().unwrap(),
        vault: Arc::clone(&world.vault),
        clock: Arc::clone(&world.clock),
    };
    for entry in ["cluster", "000000000001"] {
        fs::create_dir(killed.folder.path().join(entry)).unwrap();
        fs::copy(world.file(entry), killed.file(entry)).unwrap();
    }
    for entry in ["signing-key.json", "public-key.pem", "newest-checkpoint.json"] {
        fs::copy(world.folder.path().join(entry), killed.folder.path().join(entry)).unwrap();
    }
    let again = killed.open().await;
    again.checkpoint().await.unwrap();
    let report = killed.judge(&again.public_key());
    assert!(report.is_good() && report.streams.iter().all(|stream| stream.unsigned_lines == 0), "{report:?}");
    assert_eq!(all(&killed, Filter { stream: Some("000000000001".into()), ..Filter::default() }).await.len(), 1);
}

#[tokio::test]
async fn second_process_on_one_log_is_refused() {
    let world = World::new();
    let _log = world.open().await;
    let error = world.try_open(world.config()).await.unwrap_err();
    assert!(matches!(error, AuditError::Locked { .. }), "{error}");
}

#[tokio::test]
async fn lost_signing_key_is_not_replaced_silently() {
    let world = World::new();
    world.closed_log().await;
    fs::remove_file(world.folder.path().join("signing-key.json")).unwrap();
    let error = world.try_open(world.config()).await.unwrap_err();
    assert!(matches!(error, AuditError::PublicKeyMismatch { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn empty_minutes_are_signed_and_counts_are_written_each_minute() {
    let world = World::new();
    let log = world.open().await;
    let before = world.judge(&log.public_key()).streams[0].lines;
    for _ in 0..3 {
        log.count(&count_key("topic"), 5);
    }
    let mut lines = before;
    while lines < before + 3 {
        tokio::time::sleep(Duration::from_secs(30)).await;
        lines = world.judge(&log.public_key()).streams[0].lines;
    }
    let found = all(&world, Filter { class: Some(Class::DataSummary), ..Filter::default() }).await;
    assert_eq!(found.iter().map(|event| event.body["count"].as_u64().unwrap()).collect::<Vec<_>>(), [15]);
    log.close().await.unwrap();
}

#[tokio::test]
async fn many_at_once_share_commits_and_all_are_there() {
    let world = World::new();
    let log = world.open().await;
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.record(refusal(1, &format!("t{n}"))).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert!(log.stats().commits < 100, "{:?}", log.stats());
    log.close().await.unwrap();
    assert_eq!(all(&world, Filter { stream: Some("000000000001".into()), ..Filter::default() }).await.len(), 200);
    assert_eq!(log.record(refusal(1, "late")).await, Err(RecordError::Closed));
}

#[tokio::test]
async fn unwritable_stream_refuses_its_events_and_recovers_by_itself() {
    let world = World::new();
    let log = world.open().await;
    // A file where the stream's folder should be.
    let obstacle = world.folder.path().join("000000000001");
    fs::write(&obstacle, "").unwrap();
    assert!(log.record(refusal(1, "lost")).await.is_err());
    assert!(log.record(refusal(2, "other tenant")).await.is_ok());
    log.count(&count_key("topic"), 3);
    assert!(log.write_counts().await.is_err());
    fs::remove_file(&obstacle).unwrap();
    log.record(refusal(1, "kept")).await.unwrap();
    log.close().await.unwrap();
    let found = all(&world, Filter { stream: Some("000000000001".into()), ..Filter::default() }).await;
    let counts: Vec<_> = found.iter().map(|event| event.body["count"].as_u64().unwrap()).collect();
    assert_eq!(counts, [1, 3], "the refused event is not there, the counts are");
    assert!(world.judge(&log.public_key()).is_good());
}

#[tokio::test]
async fn query_stops_when_told_and_follows_from_a_place() {
    let world = World::new();
    world.closed_log().await;
    let mut seen = Vec::new();
    let filter = Filter { stream: Some("000000000001".into()), seq_from: 3, ..Filter::default() };
    let mut stop_after_two = |event: crate::Found| {
        seen.push(event.seq);
        if seen.len() == 2 { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
    };
    let cluster = world.config().cluster;
    query(world.folder.path(), cluster, world.vault.as_ref(), &filter, &mut stop_after_two).await.unwrap();
    assert_eq!(seen, [3, 4]);
}

fn count_key(resource: &str) -> CountKey {
    CountKey {
        tenant: TenantId::new(1).unwrap(),
        principal: "User:eve".into(),
        action: "kafka-cluster:WriteData".into(),
        resource: resource.into(),
        statement: None,
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, &target).map(drop).unwrap() }
    }
}

fn append(path: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}
