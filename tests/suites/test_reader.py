"""What is written is what the manual says: a reader of another hand, with only the documented formats, gets every record back."""

import json
import random
import re
import secrets
import shutil
import struct
import subprocess
import sys
import uuid

import confluent_kafka
import cryptography.exceptions
import pytest

from harness import clients, env, reader

pytestmark = [pytest.mark.schloss_only, pytest.mark.timeout(180)]


def segments(b):
    """Every file that begins as a segment does, wherever it is."""
    return sorted(p for p in b.data.rglob("*") if p.is_file() and p.open("rb").read(8) == b"SCHLSEG1")


def topic_id(b, topic, tenant):
    found = clients.admin(b, tenant).describe_topics(confluent_kafka.TopicCollection([topic]))[topic].result().topic_id
    return struct.pack(">qq", found.get_most_significant_bits(), found.get_least_significant_bits())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A stopped broker with records of two tenants in segments; {(topic id, partition): {(key, value)}}."""
    from harness.broker import Schloss
    b = Schloss(tmp_path_factory.mktemp("reader") / "broker", config={"storage.flush.ms": 20})
    b.start()
    produced = {}
    for tenant in ("acme", "globex"):
        for n, (codec, size) in enumerate([("none", 20), ("gzip", 200), ("none", 30_000)]):
            topic = clients.create_topic(b, f"read-{n}", partitions=3, tenant=tenant)
            texts = [(f"key {i}", secrets.token_hex(size // 2)) for i in range(60)]
            clients.produce_librdkafka(b, topic, texts, codec=codec, tenant=tenant)
            produced[topic_id(b, topic, tenant)] = (tenant, texts)
    tail = re.compile(r"(?m)^schloss_\w*tail_bytes\S* ([0-9.]+)")
    env.eventually(lambda: float(tail.search(b.admin_get("/metrics")[1]).group(1)) == 0, timeout=30, what="every record in a segment")
    assert b.stop() == 0
    yield b, produced
    shutil.rmtree(b.folder, ignore_errors=True)


def read(b, path):
    """[(topic id, partition, Record)] of one object, its key unwrapped with the local keyring."""
    return [(topic, partition, r) for topic, partition, batch in opened(b, path).batches() for r in reader.records(batch)]


def opened(b, path):
    s = reader.Segment(path.read_bytes())
    return s.open(keyring(b).unwrap(s.wrapped_key(), s.context()), topic_keys(b).of(s.header))


def topic_keys(b):
    return reader.TopicKeys(b.folder / "data-topic-keys", b.data / "manifest.db", keyring(b).unwrap)


def keyring(b):
    found, = {p.parent for p in b.folder.rglob("keyring.key")}
    return reader.LocalKeyring(found / "keyring", found / "keyring.key")


def test_every_record_that_was_produced_is_read_by_the_documentation_alone(written):
    b, produced = written
    got, offsets = {}, {}
    for path in segments(b):
        for topic, partition, r in read(b, path):
            got.setdefault(topic, []).append((r.key.decode(), r.value.decode()))
            offsets.setdefault((topic, partition), []).append(r.offset)
    assert {t: sorted(texts) for t, texts in got.items()} == {t: sorted(texts) for t, (_, texts) in produced.items()}
    assert all(sorted(o) == list(range(len(o))) for o in offsets.values())


def test_a_header_names_tenant_cluster_and_its_own_file(written):
    b, produced = written
    clusters = set()
    for path in segments(b):
        s = opened(b, path)
        assert path.name == s.header.object_id.hex()
        tenants = {produced[topic][0] for topic, _, _ in s.batches()}
        assert tenants == {t for t, number in b.tenants.items() if number == reader.account(s.header.tenant)}
        clusters.add(s.header.cluster)
    assert len(clusters) == 1


def vector(name):
    """The bytes of a vector of the manual's page of formats; the unit tests of `crypto` compare the same ones with the code."""
    text = re.search(rf"```vector {name}\n(.*?)```", (env.TREE / "broker/manual/formats.md").read_text(), re.S).group(1)
    return bytes.fromhex("".join(line for line in text.splitlines() if re.fullmatch(r"[0-9a-f]+", line)))


def test_the_vectors_of_the_manual_open_by_the_manual():
    """Reader and writer agree on bytes that never change, so neither can drift with the other."""
    s = reader.Segment(vector("segment-head").ljust(4096, b"\0") + vector("segment-rest")).open(b"\1" * 32)
    assert s.wrapped_key() == reader.Wrapped("local", "k", b"\1\2\3") and s.index == b"the index"
    frames = [reader.Frame(b"\x77" * 16, 0, 0, n, *where, n * 10, n * 10 + 9, 0) for n, where in enumerate([(4096, 32), (4128, 27), (4155, 35)])]
    assert [s.plaintext(f) for f in frames] == [b"first frame", b"second", b"third and last"]
    s.topic_key, s.frame_count, own = lambda topic: b"\2" * 32, 1, vector("topic-frame")
    s.raw = s.raw[:4096] + own
    assert s.plaintext(reader.Frame(b"\x77" * 16, 0, 1, 0, 4096, len(own), 0, 9, 0)) == b"only frame"
    assert reader.open_value(b"\1" * 32, b"row 1", vector("sealed-value")) == b"orders"
    assert reader.open_value(b"\3" * 32, b"topic-key" + b"\x33" * 16 + b"\x77" * 16, vector("topic-key-file")) == b"\2" * 32


def test_the_reader_is_a_command(written):
    b, _ = written
    path = segments(b)[0]
    folder, = {p.parent for p in b.folder.rglob("keyring.key")}
    done = subprocess.run([sys.executable, reader.__file__, path, "--keyring", folder / "keyring", "--key-file", folder / "keyring.key",
                           "--manifest", b.data / "manifest.db", "--topic-keys", b.folder / "data-topic-keys"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == len(read(b, path))


def test_another_tenants_context_or_key_does_not_open_a_segment(written):
    b, _ = written
    s = reader.Segment(segments(b)[0].read_bytes())
    wrong = {**s.context(), "schloss:tenant": "999999999999"}
    with pytest.raises(cryptography.exceptions.InvalidTag):
        keyring(b).unwrap(s.wrapped_key(), wrong)
    with pytest.raises(reader.Refused, match="commitment"):
        s.open(secrets.token_bytes(32))


def test_the_reader_refuses_every_flipped_bit_it_is_shown(written):
    """The reader must be able to fail: a bit anywhere but in the key slot is refused by it too."""
    b, _ = written
    path = min(segments(b), key=lambda p: p.stat().st_size)
    raw, s = path.read_bytes(), reader.Segment(path.read_bytes())
    key, own = keyring(b).unwrap(s.wrapped_key(), s.context()), topic_keys(b).of(s.header)
    rng = random.Random(7)
    places = [*range(180), *rng.sample(range(4096, len(raw)), min(200, len(raw) - 4096)), *range(len(raw) - 32, len(raw))]
    for at in places:
        spoiled = bytearray(raw)
        spoiled[at] ^= 1 << rng.randrange(8)
        with pytest.raises((reader.Refused, cryptography.exceptions.InvalidTag, struct.error)):
            list(reader.Segment(bytes(spoiled)).open(key, own).batches())
