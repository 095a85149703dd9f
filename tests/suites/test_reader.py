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
    env.eventually(lambda: sum(len(read(b, p)) for p in segments(b)) == 6 * 60, timeout=30, what="every record in a segment")
    assert b.stop() == 0
    yield b, produced
    shutil.rmtree(b.folder, ignore_errors=True)


def read(b, path):
    """[(topic id, partition, Record)] of one object, its key unwrapped with the local keyring."""
    s = reader.Segment(path.read_bytes())
    key = keyring(b).unwrap(s.wrapped_key(), s.context())
    return [(topic, partition, r) for topic, partition, batch in s.open(key).batches() for r in reader.records(batch)]


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
        s = reader.Segment(path.read_bytes())
        assert path.name == s.header.object_id.hex()
        key = keyring(b).unwrap(s.wrapped_key(), s.context())
        tenants = {produced[topic][0] for topic, _, _ in s.open(key).batches()}
        assert tenants == {t for t, number in b.tenants.items() if number == reader.account(s.header.tenant)}
        clusters.add(s.header.cluster)
    assert len(clusters) == 1


def test_the_fixed_bytes_in_the_unit_tests_open_by_the_documentation():
    """Reader and writer agree on one object that never changes, so neither can drift with the other."""
    source = (env.TREE / "crypto/src/segment/tests.rs").read_text()
    head, rest = (bytes.fromhex(re.sub(r"[^0-9a-f]", "", re.search(rf'const {n}: &str = "(.*?)"', source, re.S).group(1))) for n in ("HEAD_HEX", "REST_HEX"))
    s = reader.Segment(head.ljust(4096, b"\0") + rest).open(b"\1" * 32)
    assert s.wrapped_key() == reader.Wrapped("local", "k", b"\1\2\3") and s.index == b"the index"
    frames = [reader.Frame(b"\x77" * 16, 0, n, *where, n * 10, n * 10 + 9, 0) for n, where in enumerate([(4096, 32), (4128, 27), (4155, 35)])]
    assert [s.plaintext(f) for f in frames] == [b"first frame", b"second", b"third and last"]


def test_the_reader_is_a_command(written):
    b, _ = written
    path = segments(b)[0]
    folder, = {p.parent for p in b.folder.rglob("keyring.key")}
    done = subprocess.run([sys.executable, reader.__file__, path, "--keyring", folder / "keyring", "--key-file", folder / "keyring.key"], capture_output=True, text=True)
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
    key = keyring(b).unwrap(s.wrapped_key(), s.context())
    rng = random.Random(7)
    places = [*range(180), *rng.sample(range(4096, len(raw)), min(200, len(raw) - 4096)), *range(len(raw) - 32, len(raw))]
    for at in places:
        spoiled = bytearray(raw)
        spoiled[at] ^= 1 << rng.randrange(8)
        with pytest.raises((reader.Refused, cryptography.exceptions.InvalidTag, struct.error)):
            list(reader.Segment(bytes(spoiled)).open(key).batches())
