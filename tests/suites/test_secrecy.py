"""A marker produced as value, key, header, topic, group, client id and offset metadata stands in no file and no log, at any log level."""

import base64
import re
import secrets
from pathlib import Path

import confluent_kafka
import pytest

from harness import clients, env
from harness.clients import librdkafka_conf

pytestmark = pytest.mark.schloss_only
PLACES = ("value", "key", "header", "header-name", "topic", "group", "client-id", "metadata", "instance-id", "denied-topic", "compressed", "unproduced-topic")


def patterns(marker: str):
    """The marker as bytes, hexadecimal and base64 at each of its three alignments."""
    raw = marker.encode()
    yield raw
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    yield raw.decode().encode("utf-16-le")
    for shift in range(3):
        yield base64.b64encode(bytes(shift) + raw)[4:-4]


def hits(roots, markers):
    found = []
    for root in roots:
        for path in [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file()):
            data = path.read_bytes()
            found += [f"{place} in {path} at {data.index(p)}" for place, m in markers.items() for p in patterns(m) if p in data]
    return found


def leave_markers_everywhere(b, m):
    topic, group = m["topic"], m["group"]
    clients.create_topic(b, topic)
    p = confluent_kafka.Producer(librdkafka_conf(b, client_id=m["client-id"], enable_idempotence=True))
    p.produce(topic, key=m["key"], value=m["value"], headers=[(m["header-name"], m["header"].encode())])
    assert p.flush(20) == 0
    clients.produce_librdkafka(b, topic, [("k", m["compressed"] * 20)], codec="lz4")
    c = confluent_kafka.Consumer(librdkafka_conf(b, client_id=m["client-id"], group_id=group, group_instance_id=m["instance-id"], auto_offset_reset="earliest"))
    c.subscribe([topic])
    assert c.poll(30) is not None
    c.commit(offsets=[confluent_kafka.TopicPartition(topic, 0, 1, m["metadata"])], asynchronous=False)
    c.close()
    with pytest.raises(AssertionError):  # refused and audited: the auditor may not write
        clients.produce_librdkafka(b, m["denied-topic"], [("k", "v")], principal="auditor", tenant="globex")
    clients.admin(b).list_topics(m["unproduced-topic"], timeout=5)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("flush_ms", [50, 600_000], ids=["in segments", "in the WAL"])
def test_a_marker_is_in_no_file_and_no_log(fresh, flush_ms):
    markers = {place: "MARK" + secrets.token_hex(14) for place in PLACES}
    b = fresh(environment={"RUST_LOG": "trace"}, config={"storage.flush.ms": flush_ms})
    leave_markers_everywhere(b, markers)
    if flush_ms == 50:
        env.eventually(lambda: "0" != segments(b), what="a segment")
    b.admin_get("/metrics")
    roots = [b.folder, b.log]
    assert b.log.stat().st_size > 1000, "the log is empty: the promise about logs would be vacuous"
    assert not hits(roots, markers), "while running"
    b.kill()
    assert not hits(roots, markers), "after a kill"
    b.start()
    clients.consume_librdkafka(b, markers["topic"], 2)
    assert b.stop() == 0
    assert not hits(roots, markers), "after a clean end"


def segments(b):
    """Number of sealed segments as the metrics tell."""
    found = re.search(r"(?m)^schloss_\w*segments\w*(?:\{[^}]*\})? ([0-9.]+)", b.admin_get("/metrics")[1])
    return found.group(1) if found else "0"


def test_metrics_name_no_topic_group_or_principal(broker, name):
    topic = clients.create_topic(broker, name("secretly"))
    clients.produce_librdkafka(broker, topic, [("k", "v")])
    assert topic not in broker.admin_get("/metrics")[1]


def test_core_dumps_are_off_and_key_files_are_private(broker):
    limits = Path(f"/proc/{broker.process.pid}/limits").read_text()
    assert re.search(r"Max core file size\s+0\s+0", limits)
    private = [p for p in broker.folder.rglob("*") if p.is_file() and (p.suffix in (".key", ".p12") or "key" in p.name.lower()) and "public" not in p.name]
    assert private
    open_to_others = [str(p) for p in private if p.stat().st_mode & 0o077]
    assert not open_to_others, open_to_others


def test_the_search_itself_finds_a_marker(tmp_path):
    marker = "MARK" + secrets.token_hex(14)
    for i, p in enumerate(patterns(marker)):
        (tmp_path / str(i)).write_bytes(b"xx" + p + b"yy")
    (tmp_path / "b64").write_bytes(base64.b64encode(b"some text before " + marker.encode() + b" and after"))
    found = hits([tmp_path], {"value": marker})
    assert len({f.split(" at ")[0] for f in found}) == len(list(tmp_path.iterdir()))
