//! The promises of the room as a whole: what is acknowledged is there, and every change is named at its first place.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use schloss_core::{ClusterId, ManualClock, TenantId};
use schloss_crypto::DataKey;
use schloss_crypto::digest::sha256;
use schloss_crypto::signing::SigningKey;
use serde_json::Value;

use crate::line::{Heads, Place, hex};
use crate::query::{Filter, read, tail, to_line};
use crate::verify::{Fault, Report, public_key_to_pem, verify};
use crate::{AuditConfig, AuditError, AuditLog, Breach, Event, EventClass, PUBLIC_KEY_FILE, Verdict, snapshot};

const ACME: &str = "000000000007";
const START_MS: i64 = 1_700_000_000_000;

/// A folder, its key and its clock.
struct Fixture {
    folder: tempfile::TempDir,
    key: Arc<DataKey>,
    clock: Arc<ManualClock>,
    config: AuditConfig,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = AuditConfig::new(folder.path().join("audit"), ClusterId::from_bytes([5; 16]));
        Self { folder, key: Arc::new(DataKey::take(&mut [1; 32])), clock: Arc::new(ManualClock::at(START_MS)), config }
    }

    fn open(&self) -> Result<Arc<AuditLog>, AuditError> {
        AuditLog::open(self.config.clone(), Arc::clone(&self.key), Arc::clone(&self.clock) as _)
    }

    fn path(&self) -> &Path {
        &self.config.folder
    }

    fn report(&self) -> Report {
        report(self.path())
    }

    fn events(&self, filter: Filter) -> Vec<Value> {
        read(self.path(), Arc::clone(&self.key), filter).unwrap().map(Result::unwrap).collect()
    }
}

fn report(folder: &Path) -> Report {
    verify(folder, &fs::read_to_string(folder.join(PUBLIC_KEY_FILE)).unwrap()).unwrap()
}

fn acme() -> TenantId {
    ACME.parse().unwrap()
}

fn event(tenant: Option<TenantId>, principal: &str) -> Event {
    let mut event = Event::new(EventClass::Administration, tenant, Verdict::Allowed);
    event.principal = principal.to_owned();
    event.action = "kafka-cluster:CreateTopic".to_owned();
    event
}

/// A log of the tenant: begin, 4 events, a checkpoint, 2 events, a checkpoint, and the cluster's, all closed.
async fn written() -> Fixture {
    let fixture = Fixture::new();
    let log = fixture.open().unwrap();
    for name in ["a", "b", "c", "d"] {
        log.record(event(Some(acme()), name)).await.unwrap();
    }
    log.record(event(None, "operator")).await.unwrap();
    fixture.clock.advance(Duration::from_secs(61));
    log.tick().await.unwrap();
    log.record_all(vec![event(Some(acme()), "e"), event(Some(acme()), "f")]).await.unwrap();
    log.close().await.unwrap();
    fixture
}

fn lines(path: &Path) -> Vec<Vec<u8>> {
    fs::read(path).unwrap().split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

fn only_fault(report: &Report) -> (PathBuf, u64, Breach) {
    let [Fault { file, line, what, .. }] = report.faults.as_slice() else { panic!("{:?}", report.faults) };
    (file.clone(), *line, what.clone())
}

fn acme_file() -> PathBuf {
    Path::new(ACME).join("00000001.jsonl")
}

fn cluster_file() -> PathBuf {
    Path::new("cluster").join("00000001.jsonl")
}

#[tokio::test]
async fn untouched_log_verifies_and_tells_what_stands_in_it() {
    let fixture = written().await;
    let report = fixture.report();
    assert_eq!(report.faults, []);
    let acme = report.logs.iter().find(|log| log.log == ACME).unwrap();
    assert_eq!((acme.tenant, acme.events, acme.checkpoints, acme.events_unsigned), (Some(self::acme()), 6, 2, 0));
    assert_eq!(acme.last_checkpoint_ms, Some(START_MS + 61_000));
    assert_eq!(acme.head.as_ref().map(|(seq, _)| *seq), Some(8));
    assert_eq!(report.logs[0].log, "cluster");
}

#[tokio::test]
async fn every_altered_byte_of_every_file_is_named_at_its_line() {
    let fixture = written().await;
    for file in [acme_file(), cluster_file()] {
        let path = fixture.path().join(&file);
        let whole = fs::read(&path).unwrap();
        let mut line = 1;
        for at in (0..whole.len()).filter(|at| at % 7 == 0 || whole[*at] == b'\n') {
            line = line.max(1 + whole[..at].iter().filter(|byte| **byte == b'\n').count() as u64);
            let mut bad = whole.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            let faults = fixture.report().faults;
            assert_eq!((&faults[0].file, faults[0].line), (&file, line), "byte {at}: {faults:?}");
        }
        fs::write(&path, &whole).unwrap();
    }
    assert!(fixture.report().is_whole());
    let newest = fixture.path().join("newest-checkpoint.json");
    let whole = fs::read(&newest).unwrap();
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 1;
        fs::write(&newest, &bad).unwrap();
        assert!(!fixture.report().is_whole(), "byte {at}");
    }
}

#[tokio::test]
async fn deleted_swapped_inserted_and_cut_lines_are_named_at_their_first_place() {
    let fixture = written().await;
    let path = fixture.path().join(acme_file());
    let whole = lines(&path);
    let order = |expected, found| Breach::Order { expected, found };
    let mut cases: Vec<(&str, Vec<Vec<u8>>, u64, Breach)> = Vec::new();
    let mut changed = |what, line, breach, change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut lines = whole.clone();
        change(&mut lines);
        cases.push((what, lines, line, breach));
    };
    changed("deleted", 3, order(2, 3), &|l| drop(l.remove(2)));
    changed("swapped", 3, order(2, 3), &|l| l.swap(2, 3));
    changed("doubled", 4, order(3, 2), &|l| l.insert(3, l[2].clone()));
    changed("inserted", 4, Breach::Malformed, &|l| l.insert(3, b"{}\n".to_vec()));
    changed("blank line", 4, Breach::Malformed, &|l| l.insert(3, b"\n".to_vec()));
    changed("cut after an event", 8, Breach::Cut { seq: 8 }, &|l| l.truncate(7));
    changed("cut at a checkpoint", 7, Breach::Cut { seq: 8 }, &|l| l.truncate(6));
    changed("last line gone", 9, Breach::Cut { seq: 8 }, &|l| l.truncate(8));
    changed("head cut", 1, order(0, 2), &|l| drop(l.drain(..2)));
    changed("cut within a line", 9, Breach::Torn, &|l| l[8].truncate(40));
    changed("everything gone", 1, Breach::Cut { seq: 8 }, &|l| l.clear());
    for (what, lines, line, breach) in cases {
        fs::write(&path, lines.concat()).unwrap();
        assert_eq!(only_fault(&fixture.report()), (acme_file(), line, breach), "{what}");
    }
}

#[tokio::test]
async fn line_rewritten_with_a_right_hash_is_named_at_the_line_after_and_a_rewritten_chain_at_its_checkpoint() {
    let fixture = written().await;
    let path = fixture.path().join(acme_file());
    let whole = lines(&path);
    // Somebody without a key changes the time of line 3 and hashes it again.
    let rehash = |line: &[u8]| {
        let text = std::str::from_utf8(line).unwrap();
        let hashed = text.split_once(",\"hash\":\"").unwrap().0;
        format!("{hashed},\"hash\":\"{}\"}}\n", hex(&sha256(hashed.as_bytes()))).into_bytes()
    };
    let text = String::from_utf8(whole[2].clone()).unwrap();
    let mut one = whole.clone();
    one[2] = rehash(text.replace(&START_MS.to_string(), "1").as_bytes());
    fs::write(&path, one.concat()).unwrap();
    assert_eq!(only_fault(&fixture.report()), (acme_file(), 4, Breach::Replaced));
    // And goes on to chain every line after it anew.
    for at in 3..one.len() {
        let before = String::from_utf8(one[at - 1].clone()).unwrap();
        let prev = &before[before.len() - 67..before.len() - 3];
        let text = String::from_utf8(one[at].clone()).unwrap();
        let start = text.find("\"prev\":\"").unwrap() + 8;
        one[at] = rehash(format!("{}{prev}{}", &text[..start], &text[start + 64..]).as_bytes());
    }
    fs::write(&path, one.concat()).unwrap();
    assert_eq!(only_fault(&fixture.report()), (acme_file(), 6, Breach::Signature));
}

#[tokio::test]
async fn log_signed_by_another_key_is_refused_at_its_first_checkpoint() {
    let fixture = written().await;
    let other = SigningKey::from_pkcs8(&SigningKey::generate_pkcs8()).unwrap();
    let report = verify(fixture.path(), &public_key_to_pem(&other.verifying_key())).unwrap();
    let first: Vec<_> = report.faults.iter().map(|fault| (fault.line, fault.what.clone())).collect();
    assert!(first.contains(&(6, Breach::Signature)) && first.contains(&(2, Breach::Signature)), "{first:?}");
    // One checkpoint forged in place: right chain, wrong key.
    let path = fixture.path().join(acme_file());
    let mut forged = lines(&path);
    let before = String::from_utf8(forged[4].clone()).unwrap();
    let line = crate::line::Line::parse(before.trim_end().as_bytes()).unwrap();
    forged[5] = Place { seq: 5, time_ms: START_MS, log: ACME, prev: &line.hash }.checkpoint(4, &Heads::new(), &other).bytes;
    fs::write(&path, forged.concat()).unwrap();
    let named = fixture.report().faults;
    assert_eq!((named[0].line, &named[0].what), (6, &Breach::Signature));
}

#[tokio::test]
async fn older_copy_put_back_and_continued_is_a_fork() {
    let fixture = Fixture::new();
    let log = fixture.open().unwrap();
    log.record(event(Some(acme()), "a")).await.unwrap();
    log.close().await.unwrap();
    let old = fs::read(fixture.path().join(acme_file())).unwrap();
    let log = fixture.open().unwrap();
    log.record(event(Some(acme()), "hidden")).await.unwrap();
    log.close().await.unwrap();
    fs::write(fixture.path().join(acme_file()), &old).unwrap();
    let end = old.iter().filter(|byte| **byte == b'\n').count() as u64;
    let (file, line, what) = only_fault(&fixture.report());
    assert_eq!((file, line), (acme_file(), end + 1));
    assert!(matches!(what, Breach::Cut { .. }));
    // The broker does not go on from it either.
    assert!(matches!(fixture.open(), Err(AuditError::Broken { breach: Breach::Cut { .. }, .. })));
}

#[tokio::test]
async fn copy_continued_elsewhere_with_the_same_key_and_put_back_is_a_fork() {
    let fixture = written().await;
    let mut other = Fixture::new();
    other.config.folder = fixture.folder.path().join("elsewhere");
    let open_again = |fixture: &Fixture| {
        snapshot(fixture.path(), &other.config.folder).unwrap();
        fs::copy(fixture.path().join("signing-key.sealed"), other.path().join("signing-key.sealed")).unwrap();
        other.open().unwrap()
    };
    let there = open_again(&fixture);
    let here = fixture.open().unwrap();
    for (log, name) in [(&there, "harmless"), (&here, "telling")] {
        log.record(event(Some(acme()), name)).await.unwrap();
        log.close().await.unwrap();
    }
    assert!(fixture.report().is_whole() && other.report().is_whole());
    fs::copy(other.path().join(acme_file()), fixture.path().join(acme_file())).unwrap();
    let (file, line, what) = only_fault(&fixture.report());
    assert_eq!((file, what), (acme_file(), Breach::Forked));
    assert_eq!(line, lines(&fixture.path().join(acme_file())).len() as u64);
}

#[tokio::test]
async fn missing_and_foreign_files_and_folders_are_named() {
    let mut fixture = Fixture::new();
    fixture.config.file_bytes_max = 1;
    let log = fixture.open().unwrap();
    for name in ["a", "b", "c"] {
        log.record(event(Some(acme()), name)).await.unwrap();
    }
    log.close().await.unwrap();
    assert_eq!(fixture.report().faults, []);
    assert!(fixture.path().join(ACME).join("00000003.jsonl").exists());
    for (gone, found) in [("00000001.jsonl", "00000001.jsonl"), ("00000002.jsonl", "00000002.jsonl"), ("00000004.jsonl", "00000003.jsonl")] {
        let copy = fixture.folder.path().join(format!("without-{gone}"));
        snapshot(fixture.path(), &copy).unwrap();
        fs::remove_file(copy.join(ACME).join(gone)).unwrap();
        let (file, _, what) = only_fault(&report(&copy));
        assert_eq!(file, Path::new(ACME).join(found));
        assert!(matches!(what, Breach::FileMissing | Breach::Cut { .. }), "{what}");
    }
    let copy = fixture.folder.path().join("renamed");
    snapshot(fixture.path(), &copy).unwrap();
    fs::rename(copy.join(ACME), copy.join("000000000008")).unwrap();
    let faults = report(&copy).faults;
    assert_eq!(faults[0].what, Breach::FileMissing);
    assert_eq!((faults[1].line, &faults[1].what), (1, &Breach::OtherLog { found: ACME.to_owned() }));
    fs::rename(copy.join("000000000008"), copy.join("acme")).unwrap();
    assert_eq!(report(&copy).faults.iter().filter(|fault| fault.what == Breach::Stranger).count(), 1);
    fs::remove_dir_all(copy.join("cluster")).unwrap();
    assert!(report(&copy).faults.iter().any(|fault| fault.file.starts_with("cluster") && fault.what == Breach::FileMissing));
}

#[tokio::test]
async fn tail_of_the_clusters_own_log_cannot_be_cut_unseen() {
    let fixture = written().await;
    let path = fixture.path().join(cluster_file());
    let mut cut = lines(&path);
    cut.pop();
    fs::write(&path, cut.concat()).unwrap();
    let (file, line, what) = only_fault(&fixture.report());
    assert_eq!((file, line), (cluster_file(), cut.len() as u64 + 1));
    assert!(matches!(what, Breach::Cut { .. }));
    fs::remove_file(fixture.path().join("newest-checkpoint.json")).unwrap();
    assert_eq!(only_fault(&fixture.report()).2, Breach::FileMissing);
}

#[tokio::test]
async fn line_torn_by_a_crash_is_cut_off_at_the_next_start_and_that_is_recorded() {
    let fixture = written().await;
    let path = fixture.path().join(acme_file());
    let mut torn = fs::read(&path).unwrap();
    torn.extend_from_slice(b"{\"v\":1,\"seq\":9,\"time\":17");
    fs::write(&path, torn).unwrap();
    assert_eq!(only_fault(&fixture.report()).2, Breach::Torn);
    let log = fixture.open().unwrap();
    log.record(event(Some(acme()), "g")).await.unwrap();
    log.close().await.unwrap();
    assert_eq!(fixture.report().faults, []);
    let events = fixture.events(Filter { tenant: Some(acme()), ..Filter::default() });
    assert_eq!(events.len(), 8);
    assert!(events.iter().any(|event| event["action"] == "schloss:MendAuditLog"));
}

#[tokio::test]
async fn changed_log_is_refused_at_start() {
    let fixture = written().await;
    let path = fixture.path().join(acme_file());
    let whole = lines(&path);
    for (change, line) in [(2, 3), (5, 6)] {
        let mut bad = whole.clone();
        bad[change][30] ^= 1;
        fs::write(&path, bad.concat()).unwrap();
        let Err(AuditError::Broken { file, line: named, .. }) = fixture.open() else { panic!("opened") };
        assert_eq!((file, named), (path.clone(), line));
    }
    fs::remove_dir_all(fixture.path().join(ACME)).unwrap();
    assert!(matches!(fixture.open(), Err(AuditError::Broken { breach: Breach::Cut { .. }, .. })));
}

#[tokio::test]
async fn signing_key_gone_or_of_another_audit_key_is_refused() {
    let mut fixture = written().await;
    let key = std::mem::replace(&mut fixture.key, Arc::new(DataKey::take(&mut [2; 32])));
    assert!(matches!(fixture.open(), Err(AuditError::SigningKey { .. })));
    fixture.key = key;
    fs::remove_file(fixture.path().join("signing-key.sealed")).unwrap();
    assert!(matches!(fixture.open(), Err(AuditError::KeyMissing { name: "signing-key.sealed", .. })));
}

#[tokio::test]
async fn folder_is_written_by_one_process_at_a_time() {
    let fixture = Fixture::new();
    let log = fixture.open().unwrap();
    assert!(matches!(fixture.open(), Err(AuditError::Locked { .. })));
    log.close().await.unwrap();
    assert!(matches!(log.record(event(None, "late")).await, Err(AuditError::Closed)));
    log.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_records_of_many_tasks_are_all_durable_with_few_syncs() {
    let fixture = Fixture::new();
    let log = fixture.open().unwrap();
    let before = log.stats().syncs;
    let tasks: Vec<_> = (0..1000)
        .map(|number| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.record(event(Some(acme()), &number.to_string())).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    // Nothing is closed: what was acknowledged is in the file.
    let mut seen: Vec<u32> = fixture.events(Filter::default()).iter().map(|event| event["principal"].as_str().unwrap().parse().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..1000).collect::<Vec<_>>());
    let syncs = log.stats().syncs - before;
    assert!(syncs < 500, "{syncs} syncs");
    log.close().await.unwrap();
    assert_eq!(fixture.report().faults, []);
}

#[tokio::test]
async fn counted_actions_are_written_once_a_minute_and_at_close() {
    let fixture = Fixture::new();
    let log = fixture.open().unwrap();
    for _ in 0..5 {
        log.count(acme(), "User:p", "kafka-cluster:ReadData", "orders");
    }
    log.tick().await.unwrap();
    assert_eq!(fixture.events(Filter::default()).len(), 0);
    fixture.clock.advance(Duration::from_secs(60));
    log.tick().await.unwrap();
    let events = fixture.events(Filter::default());
    assert_eq!((events[0]["count"].as_u64(), events[0]["since"].as_i64(), events[0]["time"].as_i64()), (Some(5), Some(START_MS), Some(START_MS + 60_000)));
    log.count(acme(), "User:p", "kafka-cluster:ReadData", "orders");
    log.close().await.unwrap();
    assert_eq!(fixture.events(Filter::default()).len(), 2);
    assert_eq!(fixture.report().faults, []);
}

#[tokio::test]
async fn idle_log_is_signed_again_too() {
    let fixture = Fixture::new();
    let log = fixture.open().unwrap();
    let first = fixture.report().logs[0].checkpoints;
    fixture.clock.advance(Duration::from_secs(60));
    log.tick().await.unwrap();
    assert_eq!(fixture.report().logs[0].checkpoints, first + 1);
    assert_eq!(fixture.report().logs[0].last_checkpoint_ms, Some(START_MS + 60_000));
    log.close().await.unwrap();
}

#[tokio::test]
async fn record_fails_while_the_folder_cannot_be_written_and_the_chain_stays_whole() {
    let fixture = Fixture::new();
    let log = fixture.open().unwrap();
    // A file stands where the tenant's folder must be.
    fs::write(fixture.path().join(ACME), "").unwrap();
    assert!(matches!(log.record(event(Some(acme()), "lost")).await, Err(AuditError::NotWritten { .. })));
    assert!(log.stats().failing);
    log.count(acme(), "User:p", "a", "r");
    fixture.clock.advance(Duration::from_secs(60));
    log.tick().await.unwrap_err();
    // Other logs go on, and so does this one afterwards; what was counted is not lost.
    log.record(event(None, "operator")).await.unwrap();
    fs::remove_file(fixture.path().join(ACME)).unwrap();
    log.record(event(Some(acme()), "kept")).await.unwrap();
    log.close().await.unwrap();
    assert!(!log.stats().failing);
    assert_eq!(fixture.report().faults, []);
    let events = fixture.events(Filter { tenant: Some(acme()), ..Filter::default() });
    let mut principals: Vec<_> = events.iter().map(|event| event["principal"].as_str().unwrap()).collect();
    principals.sort_unstable();
    assert_eq!(principals, ["User:p", "kept"]);
}

#[tokio::test]
async fn names_of_any_kind_are_one_line_on_disk_and_on_a_terminal_and_are_not_readable_on_disk() {
    let fixture = Fixture::new();
    let log = fixture.open().unwrap();
    let names = ["two\nlines", "\u{1b}[2Jcleared", "\u{202e}turned", "\"quoted\\", "nul\0", &"long".repeat(7_500)];
    for name in names {
        log.record(event(Some(acme()), name)).await.unwrap();
    }
    log.close().await.unwrap();
    let bytes = fs::read(fixture.path().join(acme_file())).unwrap();
    assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1 + names.len() + 1);
    for part in ["lines", "cleared", "CreateTopic", "longlong"] {
        assert!(!bytes.windows(part.len()).any(|window| window == part.as_bytes()), "{part}");
    }
    let events = fixture.events(Filter::default());
    for (event, name) in events.iter().zip(names).take(5) {
        assert_eq!(event["principal"], name);
        let line = to_line(event);
        assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
        assert_eq!(&serde_json::from_str::<Value>(&line).unwrap(), event);
    }
    assert!(events[5]["principal"].as_str().unwrap().len() < 1_200);
}

#[tokio::test]
async fn query_shows_what_the_filter_takes_in_order_of_time_and_tail_what_comes_after() {
    let fixture = Fixture::new();
    let log = fixture.open().unwrap();
    let mut denied = Event::new(EventClass::Data, Some(acme()), Verdict::Denied);
    denied.principal = "User:mallory".to_owned();
    denied.reason = "no statement allows it".to_owned();
    log.record(denied).await.unwrap();
    fixture.clock.advance(Duration::from_secs(1));
    log.record(event(None, "operator")).await.unwrap();
    fixture.clock.advance(Duration::from_secs(1));
    log.record(event(Some(acme()), "User:alice")).await.unwrap();
    let principals = |filter| fixture.events(filter).iter().map(|e| e["principal"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(principals(Filter::default()), ["User:mallory", "operator", "User:alice"]);
    assert_eq!(principals(Filter { tenant: Some(acme()), ..Filter::default() }), ["User:mallory", "User:alice"]);
    assert_eq!(principals(Filter { verdict: Some(Verdict::Denied), ..Filter::default() }), ["User:mallory"]);
    assert_eq!(principals(Filter { since_ms: Some(START_MS + 1_000), until_ms: Some(START_MS + 2_000), ..Filter::default() }), ["operator"]);
    assert_eq!(principals(Filter { text: Some("statement".to_owned()), ..Filter::default() }), ["User:mallory"]);
    assert_eq!(principals(Filter { principal: Some("alice".to_owned()), action: Some("CreateTopic".to_owned()), ..Filter::default() }), ["User:alice"]);
    let mut following = tail(fixture.path(), Arc::clone(&fixture.key), Filter::default()).unwrap();
    assert!(following.next().is_none());
    log.record(event(Some(acme()), "User:bob")).await.unwrap();
    following.refresh().unwrap();
    assert_eq!(following.next().unwrap().unwrap()["principal"], "User:bob");
    assert!(following.next().is_none());
    log.close().await.unwrap();
}

#[tokio::test]
async fn event_moved_to_another_place_does_not_open() {
    let fixture = written().await;
    let path = fixture.path().join(acme_file());
    let mut moved = lines(&path);
    let body = |line: &[u8]| {
        let text = String::from_utf8(line.to_vec()).unwrap();
        text.split_once("\"body\":\"").unwrap().1.split_once('"').unwrap().0.to_owned()
    };
    let (line, sealed) = (String::from_utf8(moved[1].clone()).unwrap(), body(&moved[2]));
    let hashed = line.split_once(",\"hash\":\"").unwrap().0.replace(&body(&moved[1]), &sealed);
    moved[1] = format!("{hashed},\"hash\":\"{}\"}}\n", hex(&sha256(hashed.as_bytes()))).into_bytes();
    fs::write(&path, moved.concat()).unwrap();
    let read: Vec<_> = read(fixture.path(), Arc::clone(&fixture.key), Filter { tenant: Some(acme()), ..Filter::default() }).unwrap().collect();
    assert_eq!(read.iter().filter(|event| event.is_err()).count(), 1);
    assert_eq!(read.len(), 6);
}

#[tokio::test]
async fn rotated_and_reopened_log_verifies_and_continues() {
    let mut fixture = Fixture::new();
    fixture.config.file_bytes_max = 2_000;
    fixture.config.checkpoint_every_events = 3;
    for round in 0..4 {
        let log = fixture.open().unwrap();
        for number in 0..10 {
            log.record(event(Some(acme()), &format!("{round}-{number}"))).await.unwrap();
            log.record(event(None, "operator")).await.unwrap();
        }
        log.close().await.unwrap();
        assert_eq!(fixture.report().faults, []);
    }
    assert_eq!(fixture.events(Filter { tenant: Some(acme()), ..Filter::default() }).len(), 40);
    assert!(fixture.report().logs.iter().all(|log| log.files > 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_being_written_verifies_and_so_does_its_copy() {
    let mut fixture = Fixture::new();
    fixture.config.checkpoint_every_events = 2;
    let log = fixture.open().unwrap();
    let writing = Arc::clone(&log);
    let clock = Arc::clone(&fixture.clock);
    let writer = tokio::spawn(async move {
        for number in 0..300 {
            writing.record(event(Some(acme()), &number.to_string())).await.unwrap();
            if number % 10 == 0 {
                clock.advance(Duration::from_secs(61));
            }
        }
    });
    let mut round = 0;
    while !writer.is_finished() {
        assert_eq!(fixture.report().faults, []);
        let copy = fixture.folder.path().join(format!("copy-{round}"));
        snapshot(fixture.path(), &copy).unwrap();
        assert_eq!(report(&copy).faults, []);
        round += 1;
    }
    writer.await.unwrap();
    log.close().await.unwrap();
}
