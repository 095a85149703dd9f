"""Whoever can write the log's files, and makes every checksum and the chain right again: the start is refused, and the audit log tells.

Both tenants' records are in the log only. Every mutation starts from the same files.
"""

import copy
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import clients, log_entries, traffic, wire
from harness.broker import NotReady, Schloss

pytestmark = [pytest.mark.schloss_only, pytest.mark.timeout(300)]
RECORDS = 12


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A killed broker whose two tenants' records are in the log; `kept` is its data folder."""
    b = Schloss(tmp_path_factory.mktemp("log") / "broker", config={"storage.flush.ms": 3_600_000})
    b.start()
    raws = {t: wire.Raw(b, tenant=t) for t in b.tenants}
    for t in raws:
        clients.create_topic(b, "logged", tenant=t)
    for i in range(RECORDS):
        for t, raw in raws.items():
            assert traffic.produce(raw, "logged", f"{t} {i:03}".encode()) == 0
    for raw in raws.values():
        raw.close()
    b.kill()
    b.kept = b.folder.parent / "kept"
    shutil.copytree(b.data, b.kept)
    yield b
    clients.forget(b)
    shutil.rmtree(b.folder, ignore_errors=True)
    shutil.rmtree(b.kept, ignore_errors=True)


def logs(b):
    """{file: its entries} of the files that hold records, most first."""
    found = {p: log_entries.parse(p.read_bytes()) for p in (b.data / "wal").rglob("*.wal")}
    return dict(sorted(found.items(), key=lambda kv: -len(with_records(kv[1]))))


def with_records(entries):
    return [n for n, e in enumerate(entries) if e.kind == log_entries.DATA and e.sections]


def places(entries, tenant=None):
    """Numbers of entries in the middle of what is written, of one tenant if wanted."""
    at = [n for n in with_records(entries) if tenant is None or entries[n].sections[0].tenant == tenant]
    return at[len(at) // 3:]


def exchanged(e):
    a, b = places(e)[:2]
    e[a], e[b] = e[b], e[a]


def cut_out(e):
    del e[places(e)[0]]


def doubled(e):
    at = places(e)[0]
    e.insert(at, copy.deepcopy(e[at]))


def sections_exchanged(e):
    a, b = places(e)[:2]
    e[a].sections, e[b].sections = e[b].sections, e[a].sections


def section_doubled(e):
    at = places(e)[0]
    e[at].sections.append(copy.deepcopy(e[at].sections[0]))


def given_away(e):
    owner = e[places(e)[0]].sections[0].tenant
    other = next(t for t in (int(account).to_bytes(16, "big") for account in Schloss.tenants.values()) if t != owner)
    e[places(e, owner)[0]].sections[0].tenant = other


def other_generation(e):
    e[places(e)[0]].sections[0].generation += 1


def other_key(e):
    at, after = places(e)[:2]
    e[at].sections[0].wrapped = bytes(len(e[after].sections[0].wrapped))


def other_writer(e):
    for entry in e[places(e)[0]:]:
        entry.writer = bytes(16)


def emptied(e):
    e[places(e)[0]].sections = []


def last_emptied(e):
    e[with_records(e)[-1]].sections = []


def all_emptied(e):
    for n in with_records(e):
        e[n].sections = []


def sealed_early(e):
    at = places(e)[0]
    e[at].kind = 3
    del e[at + 1:]


def other_shard(e):
    for entry in e:
        entry.shard += 2


def other_epoch(e):
    for entry in e:
        entry.epoch += 1


REWRITTEN = [exchanged, cut_out, doubled, sections_exchanged, section_doubled, given_away, other_generation, other_key, other_writer,
             emptied, last_emptied, all_emptied, sealed_early, other_shard, other_epoch]


def judge(b):
    """`refused`, or what was served that is not the truth; empty when all is right."""
    try:
        b.start(timeout=30)
    except NotReady as refused:
        if b.running():
            b.kill()
        assert "SCH-" in str(refused) and "next:" in str(refused), refused
        return "refused"
    wrong = []
    try:
        for t in b.tenants:
            try:
                with wire.Raw(b, tenant=t) as raw:
                    for i in range(RECORDS):
                        code, records = traffic.fetch(raw, "logged", offset=i)
                        if not code and f"{t} {i:03}".encode() not in (records or b""):
                            wrong.append((t, i, code, records))
            except (OSError, wire.Closed):
                continue  # the tenant is locked: nothing of it is served
        return wrong
    finally:
        b.kill()


def told(b):
    """Damage in the audit log, by the object it names."""
    done = b.run("audit", "query", "--config", b.own_config, "--output", "json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines() if line.strip().startswith("{")]
    return [e for e in events if "IntegrityFailure" in json.dumps(e)]


def refused_and_told(b, word="write-ahead log"):
    before = len(told(b))
    assert judge(b) == "refused"
    news = told(b)[before:]
    assert len(news) == 1 and word in json.dumps(news[0]), news


def restore(b):
    shutil.rmtree(b.data)
    shutil.copytree(b.kept, b.data)


@pytest.mark.parametrize("change", REWRITTEN, ids=[c.__name__.replace("_", " ") for c in REWRITTEN])
def test_a_log_rewritten_with_right_checksums_is_refused_and_told(ground, change):
    restore(ground)
    path, entries = next(iter(logs(ground).items()))
    assert len(with_records(entries)) >= RECORDS, "too little in one file to spoil anything"
    change(entries)
    log_entries.rewrite(path, entries)
    refused_and_told(ground)


def test_logs_of_two_shards_exchanged_with_their_headers_rewritten_are_refused_and_told(ground):
    restore(ground)
    changed = {}
    for path, entries in logs(ground).items():
        other = 1 - int(path.parent.name)
        for e in entries:
            e.shard = other
        changed[path.parent.parent / f"{other:04}" / path.name] = entries
    assert changed.keys() == logs(ground).keys(), "both shards have files of the same names"
    for path, entries in changed.items():
        log_entries.rewrite(path, entries)
    refused_and_told(ground)


def test_all_epochs_numbered_anew_are_refused_and_told(ground):
    restore(ground)
    for path, entries in sorted(logs(ground).items(), reverse=True):
        for e in entries:
            e.epoch += 1
        epoch, first = path.stem.split("-")
        log_entries.rewrite(path, entries)
        path.rename(path.with_name(f"{int(epoch, 16) + 1:016x}-{first}.wal"))
    refused_and_told(ground)


def test_the_newest_epoch_taken_away_is_refused_and_told(ground):
    restore(ground)
    newest = max(logs(ground), key=lambda p: p.stem)
    newest.unlink()
    refused_and_told(ground)


@pytest.mark.parametrize("cut", [1, 2, 5], ids=["the seal", "the seal and an entry", "more"])
def test_entries_cut_off_the_end_after_a_clean_stop_are_refused_and_told(ground, cut):
    restore(ground)
    ground.start()
    for i in range(RECORDS):
        for t in ground.tenants:
            with wire.Raw(ground, tenant=t) as raw:
                assert traffic.produce(raw, "logged", b"later") == 0
    assert ground.stop() == 0
    path = max(logs(ground), key=lambda p: p.stem)
    entries = log_entries.parse(path.read_bytes())
    assert entries[-1].kind == 3 and len(with_records(entries)) >= RECORDS
    log_entries.rewrite(path, entries[:-cut])
    refused_and_told(ground)


def test_a_section_dropped_from_an_entry_of_two_tenants_is_refused_and_told(tmp_path):
    b = Schloss(tmp_path / "broker", config={"storage.flush.ms": 3_600_000, "storage.shards": 1})
    b.start()
    try:
        for t in b.tenants:
            clients.create_topic(b, "logged", tenant=t)

        def produce(tenant):
            with wire.Raw(b, tenant=tenant) as raw:
                for i in range(50):
                    assert traffic.produce(raw, "logged", f"{tenant} {i:03}".encode()) == 0
        with ThreadPoolExecutor(8) as pool:
            for running in [pool.submit(produce, t) for t in list(b.tenants) * 4]:
                running.result()
        b.kill()
        path, entries = next(iter(logs(b).items()))
        shared = [e for e in entries if len(e.sections) == 2]
        assert shared, "no entry has two tenants' sections"
        del shared[len(shared) // 2].sections[0]
        log_entries.rewrite(path, entries)
        refused_and_told(b)
    finally:
        if b.running():
            b.kill()
        clients.forget(b)


def test_a_log_of_the_earlier_format_is_refused_with_the_way_and_nothing_is_changed(ground):
    restore(ground)
    for path in logs(ground):
        raw = bytearray(path.read_bytes())
        raw[7:8] = b"1"
        path.write_bytes(raw)
    before = {p: p.read_bytes() for p in ground.data.rglob("*") if p.is_file()}
    code, said = ground.start_refused()
    assert code == 1 and "SCH-207" in said and "backup create" in said and "backup restore" in said, said
    assert {p: p.read_bytes() for p in ground.data.rglob("*") if p.is_file()} == before


def test_a_log_taken_away_is_refused_and_told(ground):
    restore(ground)
    next(iter(logs(ground))).unlink()
    refused_and_told(ground)


def test_the_rewriting_itself_changes_nothing(ground):
    """Taken apart and put together unchanged: served whole, so that a refusal above is due to the change."""
    restore(ground)
    path, entries = next(iter(logs(ground).items()))
    before = path.read_bytes()
    log_entries.rewrite(path, entries)
    assert path.read_bytes() == before
    assert judge(ground) == []
