"""Whoever can write the log's files, and makes every checksum and the chain right again: the start is refused, or the truth served.

Both tenants' records are in the log only. Every mutation starts from the same files.
"""

import copy
import shutil

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


def tenants_of(e):
    return sorted({e[n].sections[0].tenant for n in with_records(e)})


def given_away(e):
    one, two = tenants_of(e) if len(tenants_of(e)) == 2 else (tenants_of(e)[0], (222222222222).to_bytes(16, "big"))
    at = places(e, one)[0]
    e[at].sections[0].tenant = two


def other_generation(e):
    e[places(e)[0]].sections[0].generation += 1


def other_key(e):
    at, after = places(e)[:2]
    e[at].sections[0].wrapped = bytes(len(e[after].sections[0].wrapped))


def other_writer(e):
    for entry in e[places(e)[0]:]:
        entry.writer = bytes(16)


REWRITTEN = [exchanged, cut_out, doubled, sections_exchanged, section_doubled, given_away, other_generation, other_key, other_writer]


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


def restore(b):
    shutil.rmtree(b.data)
    shutil.copytree(b.kept, b.data)


@pytest.mark.parametrize("change", REWRITTEN, ids=[c.__name__.replace("_", " ") for c in REWRITTEN])
def test_a_log_rewritten_with_right_checksums_is_refused_or_serves_the_truth(ground, change):
    restore(ground)
    path, entries = next(iter(logs(ground).items()))
    assert len(with_records(entries)) >= RECORDS, "too little in one file to spoil anything"
    change(entries)
    log_entries.rewrite(path, entries)
    verdict = judge(ground)
    assert verdict == "refused" or not verdict, verdict[:3]


def test_a_log_taken_away_is_refused(ground):
    restore(ground)
    next(iter(logs(ground))).unlink()
    assert judge(ground) == "refused"


def test_the_rewriting_itself_changes_nothing(ground):
    """Taken apart and put together unchanged: served whole, so that a refusal above is due to the change."""
    restore(ground)
    path, entries = next(iter(logs(ground).items()))
    before = path.read_bytes()
    log_entries.rewrite(path, entries)
    assert path.read_bytes() == before
    assert judge(ground) == []
