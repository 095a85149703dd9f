"""`schloss segment inspect | verify` and the scrub: damage is found before a client asks for the record."""

import json

import pytest

from harness import clients, env, reader, traffic, wire
from harness.kms import Kms
from harness.kms_broker import KmsSchloss

pytestmark = [pytest.mark.schloss_only, pytest.mark.timeout(180)]


@pytest.fixture
def grown(request, tmp_path):
    """A running broker with some segments of both tenants; a parameter is more config."""
    with Kms() as kms:
        b = KmsSchloss(tmp_path / "broker", kms, config={"storage.flush.ms": 20, **getattr(request, "param", {})})
        b.start()
        for tenant in ("acme", "globex"):
            clients.create_topic(b, "one", tenant=tenant)
            with wire.Raw(b, tenant=tenant) as raw:
                for i in range(6):
                    assert traffic.produce(raw, "one", f"{tenant} {i}".encode()) == 0
                    env.eventually(lambda: len(b.objects(tenant)) > i, every=0.01, what="a segment")
        env.eventually(lambda: b.metric("schloss_segments") == 12, what="twelve segments in the manifest")
        yield b
        if b.running():
            b.kill()
        clients.forget(b)


def verify(b, *alias):
    done = b.run("segment", "verify", *alias, "--dir", b.folder, "--output", "json", timeout=120)
    return done.returncode, done.stdout + done.stderr


def spoil(path, at=-200):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def test_inspect_tells_what_is_in_the_clear_and_needs_no_key(grown):
    b = grown
    path = b.objects("acme")[0]
    s = reader.Segment(path.read_bytes())
    done = b.run("segment", "inspect", path, "--output", "json")
    assert done.returncode == 0, done.stderr
    for fact in (s.header.object_id.hex(), s.header.segment.hex(), b.tenants["acme"], b.keys["acme"], str(path.stat().st_size)):
        assert fact in done.stdout, fact
    assert "acme 0" not in done.stdout
    json.loads(done.stdout)


def test_inspect_says_what_is_wrong_with_a_file_that_is_no_segment(grown, tmp_path):
    b = grown
    (tmp_path / "other").write_bytes(b"no segment" * 1000)
    raw = b.objects("acme")[0].read_bytes()
    (tmp_path / "cut").write_bytes(raw[:-5])
    for name in ("other", "cut", "missing"):
        done = b.run("segment", "inspect", tmp_path / name)
        assert done.returncode == 1 and "SCH-" in done.stderr, (name, done.stdout, done.stderr)


def test_verify_reads_every_live_segment_and_finds_nothing_wrong(grown):
    b = grown
    assert b.metric("schloss_segments") == len(b.objects("acme")) + len(b.objects("globex"))
    for alias, count in ((), 12), (("acme",), 6):
        code, said = verify(b, *alias)
        assert code == 0, said
        assert json.loads(said)["good"] == count and json.loads(said)["damaged"] == [], said


@pytest.mark.parametrize("damage", ["a frame's byte", "the footer's byte", "gone", "another's bytes"])
def test_verify_names_the_damaged_object_and_it_is_recorded(grown, damage):
    b = grown
    one, other = b.objects("acme")[:2]
    before = b.metric("schloss_integrity_failures")
    if damage == "gone":
        one.unlink()
    elif damage == "another's bytes":
        one.write_bytes(other.read_bytes())
    else:
        spoil(one, 4096 + 20 if "frame" in damage else -60)
    code, said = verify(b)
    assert code == 1 and one.name in said, said
    assert other.name not in said or damage == "another's bytes"
    assert b.metric("schloss_integrity_failures") > before
    assert any("IntegrityFailure" in l and one.name in l for l in b.audit_query())
    assert verify(b, "globex")[0] == 0


@pytest.mark.parametrize("grown", [{"storage.scrub.interval.ms": 1000}], indirect=True, ids=["every second"])
def test_the_check_in_the_background_finds_damage_before_anybody_asks_for_the_record(grown):
    b = grown
    begun = b.metric("schloss_segments_scrubbed")
    env.eventually(lambda: b.metric("schloss_segments_scrubbed") >= begun + 12, timeout=30, what="a check of all segments")
    assert b.metric("schloss_integrity_failures") == 0
    path = b.objects("globex")[3]
    spoil(path, 4096 + 20)
    env.eventually(lambda: b.metric("schloss_integrity_failures") > 0, timeout=30, what="the damage found")
    env.eventually(lambda: any("IntegrityFailure" in l and path.name in l for l in b.audit_query()), what="the event")
