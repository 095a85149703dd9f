"""Data at rest that was altered is refused and reported, never served.

Every byte of a small segment is flipped in turn. Many equal segments are made, one per topic, and one byte of each is
flipped at another place, so that one start of the broker proves as many places as there are topics.
"""

import os
import random
import re
import shutil
import subprocess

import confluent_kafka
import pytest

from harness import clients, env, wire

pytestmark = [pytest.mark.schloss_only, pytest.mark.timeout(600)]
TOPICS = 64
KEY_SLOT = (180, 4096)
VALUE = "value that must come back whole or not at all"


def segment_files(b):
    return {p for p in b.data.rglob("*") if p.is_file() and "seg" in p.relative_to(b.data).as_posix().lower()}


def fetched(b, topic, raw):
    """('right' | 'refused' | a description of what was wrong) for the one record of a topic."""
    r = raw.call(wire.build("fetch", 12, replica_id=-1, max_wait=0, min_bytes=1, max_bytes=1_000_000, session_epoch=-1, topics=[dict(topic=topic, partitions=[
        dict(partition=0, current_leader_epoch=-1, last_fetched_epoch=-1, log_start_offset=-1, partition_max_bytes=1_000_000)])]))
    p = r.responses[0].partitions[0]
    if int(p.error_code) != 0:
        return "refused" if not p.records else f"error {p.error_code} with bytes"
    if not p.records:
        return "nothing, and no error: an altered record was skipped"
    return "right" if VALUE.encode() in p.records and topic.encode() in p.records else "wrong bytes"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A stopped broker with TOPICS topics of one record, each in a segment of its own; {topic: file}."""
    from harness.broker import Schloss
    b = Schloss(tmp_path_factory.mktemp("tamper") / "broker", config={"storage.flush.ms": 20})
    b.start()
    files = {}
    for i in range(TOPICS):
        topic = clients.create_topic(b, f"tamper-{i:03}")
        before = segment_files(b)
        clients.produce_librdkafka(b, topic, [("k", f"{topic} {VALUE}")])
        new = env.eventually(lambda: segment_files(b) - before, timeout=20, every=0.01, what=f"the segment of {topic}")
        files[topic] = sorted(new)[0]
    assert b.stop() == 0
    subprocess.run(["cp", "-a", "--sparse=always", b.data, pristine(b)], check=True)
    yield b, {t: f for t, f in files.items() if f.exists()}
    shutil.rmtree(b.folder, ignore_errors=True)


def pristine(b):
    return b.folder / "pristine"


def restore(b):
    """Puts the data back as it was before any start: what a start leaves behind is no part of the question."""
    shutil.rmtree(b.data)
    subprocess.run(["cp", "-a", "--sparse=always", pristine(b), b.data], check=True)


def serve_and_judge(b, topics):
    b.start()
    try:
        with wire.Raw(b, timeout=30) as raw:
            return {t: fetched(b, t, raw) for t in topics}
    finally:
        b.kill()


def test_every_byte_flipped_in_turn_and_no_wrong_byte_served(sealed):
    b, files = sealed
    assert len(files) > TOPICS // 2, f"only {len(files)} topics have a segment of their own"
    size = min(f.stat().st_size for f in files.values())
    longest = max(f.stat().st_size for f in files.values())
    harmless, refused = [], 0
    for start in range(0, longest, len(files)):
        flipped = {}
        restore(b)
        for n, (topic, path) in enumerate(sorted(files.items())):
            data = bytearray(path.read_bytes())
            if start + n < len(data):
                flipped[topic] = start + n
                data[start + n] ^= 1 << random.randrange(8)
                path.write_bytes(data)
        for topic, verdict in serve_and_judge(b, flipped).items():
            at = flipped[topic]
            assert verdict in ("right", "refused"), f"byte {at} of {size}: {verdict}"
            refused += verdict == "refused"
            harmless += [at] if verdict == "right" else []
    print(f"{longest} bytes flipped: {refused} refused, {len(harmless)} harmless at {ranges(harmless)}")
    # The key slot is a copy for disaster recovery: the manifest's is used, and the header's commitment guards the key.
    assert set(harmless) <= set(range(*KEY_SLOT)), f"flips that went unnoticed: {ranges(set(harmless) - set(range(*KEY_SLOT)))}"
    assert refused == longest - len(harmless) and refused > 400
    restore(b)
    assert set(serve_and_judge(b, files).values()) == {"right"}, "all whole again"


def ranges(numbers):
    out = []
    for n in sorted(numbers):
        if out and out[-1][1] == n - 1:
            out[-1][1] = n
        else:
            out.append([n, n])
    return out


@pytest.mark.parametrize("change", ["swapped", "cut", "emptied", "missing", "other tenant's", "doubled frame"])
def test_segments_swapped_cut_or_gone_are_refused(sealed, change):
    b, files = sealed
    (one, first), (two, second) = sorted(files.items())[:2]
    restore(b)
    kept = {p: p.read_bytes() for p in (first, second)}
    try:
        if change in ("swapped", "other tenant's"):
            first.write_bytes(kept[second]), second.write_bytes(kept[first])
        elif change == "cut":
            first.write_bytes(kept[first][:-40])
        elif change == "emptied":
            first.write_bytes(b"")
        elif change == "doubled frame":
            first.write_bytes(kept[first][: len(kept[first]) // 2] * 2)
        else:
            first.unlink()
        verdicts = serve_and_judge(b, [one])
        assert verdicts[one] == "refused"
    finally:
        for p, data in kept.items():
            p.write_bytes(data)


def test_an_altered_segment_is_reported_in_audit_or_metrics(sealed):
    b, files = sealed
    topic, path = sorted(files.items())[0]
    restore(b)
    kept = path.read_bytes()
    spoiled = bytearray(kept)
    spoiled[KEY_SLOT[1] + 10] ^= 0x40
    path.write_bytes(spoiled)
    try:
        b.start()
        with wire.Raw(b, timeout=30) as raw:
            assert fetched(b, topic, raw) == "refused"
        counted = [l for l in b.admin_get("/metrics")[1].splitlines() if re.match(r"schloss_\w*(unreadable|corrupt|tamper|integrity|read_error|storage_error)", l)]
        assert any(float(l.rsplit(" ", 1)[1]) > 0 for l in counted), counted or "no metric of unreadable data"
    finally:
        if b.running():
            b.kill()
        path.write_bytes(kept)


@pytest.mark.parametrize("seed", range(int(os.environ.get("SCHLOSS_WAL_FLIPS", "12"))))
def test_an_altered_log_is_refused_at_start_or_serves_the_truth(fresh, name, seed):
    """A byte of the WAL in the middle of what is written: the start is refused with advice, or what is served is right."""
    rng = random.Random(seed)
    b = fresh(config={"storage.flush.ms": 600_000})
    topic = clients.create_topic(b, name("wal"))
    p = confluent_kafka.Producer(clients.librdkafka_conf(b, linger_ms=0))
    for i in range(20):
        p.produce(topic, value=f"{topic} {VALUE} {i}")
        assert p.flush(10) == 0
    b.kill()
    logs = [p for p in b.data.rglob("*") if p.is_file() and "wal" in str(p.relative_to(b.data)).lower() and p.suffix not in (".sqlite-wal", ".db-wal") and not p.name.endswith("-wal")]
    path = max(logs, key=lambda p: len(p.read_bytes().rstrip(b"\0")))
    data = bytearray(path.read_bytes())
    used = len(bytes(data).rstrip(b"\0"))
    at = rng.randrange(used * 9 // 10)
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    try:
        b.start(timeout=20)
    except AssertionError as refused:
        assert "SCH-" in str(refused) and str(path.name) or "wal" in str(refused).lower(), refused
        return
    seen = clients.consume_librdkafka(b, topic, 20, timeout=15)
    assert [s.value for s in seen] == [f"{topic} {VALUE} {i}" for i in range(20)], f"byte {at} of {used}"
