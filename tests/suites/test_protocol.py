"""The wire itself: versions, shapes of answers, fetch rules that clients rely on."""

import struct
import threading
import time

import pytest

from harness import clients, wire
from suites.test_idempotence import batch, produce_raw

APIS = sorted(wire.NAME_OF[k] for k in (0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 23, 29, 30, 31, 32, 33, 35, 37, 38, 39, 40, 41, 42, 44, 47, 48, 50, 51, 60, 75))
# The newest version each API's current clients negotiate; a broker offering less would make them step down.
# One below that, because kafka-protocol 0.18 goes no further: ListOffsets, OffsetCommit, OffsetFetch, DescribeLogDirs.
NEWEST = {"produce": 13, "fetch": 18, "list_offsets": 10, "metadata": 13, "offset_commit": 9, "offset_fetch": 9, "find_coordinator": 6, "join_group": 9,
          "heartbeat": 4, "leave_group": 5, "sync_group": 5, "describe_groups": 6, "list_groups": 5, "create_topics": 7, "delete_topics": 6,
          "delete_records": 2, "init_producer_id": 5, "offset_for_leader_epoch": 4, "describe_configs": 4, "describe_log_dirs": 4, "create_partitions": 3,
          "delete_groups": 2, "incremental_alter_configs": 1, "offset_delete": 0, "describe_cluster": 2, "describe_topic_partitions": 0}


@pytest.fixture(scope="module")
def advertised(broker):
    with wire.Raw(broker) as raw:
        return raw.api_versions()


@pytest.mark.parametrize("api", sorted(NEWEST))
def test_the_version_current_clients_speak_is_offered(advertised, api):
    lo, hi = advertised[wire.KEY_OF[api]]
    assert lo <= NEWEST[api] <= hi


def test_produce_is_advertised_from_zero_for_librdkafka(advertised):
    assert advertised[0][0] == 0


@pytest.mark.schloss_only
def test_nothing_beyond_the_promise_is_advertised(advertised):
    # Telemetry, and SASL, which a connection that came in by certificate has no use for.
    promised = {wire.KEY_OF[a] for a in APIS} | {71, 72} | {17, 36}
    assert set(advertised) == promised


@pytest.mark.parametrize("api", APIS)
def test_every_advertised_version_answers_in_its_own_form(broker, advertised, api):
    """An empty request of each version; the answer must decode by Kafka's own definition, to the last byte."""
    lo, hi = advertised[wire.KEY_OF[api]]
    versions = [v for v in wire.supported(api) if lo <= v <= hi]
    assert versions and versions[-1] == min(hi, wire.supported(api)[-1])
    for v in versions:
        fields = {"acks": -1} if api == "produce" else {"replica_id": -1} if api == "list_offsets" or (api == "offset_for_leader_epoch" and v >= 3) else {}
        if api == "fetch":
            fields = {"session_epoch": -1, "max_bytes": 1000} if v >= 7 else {"max_bytes": 1000}
            fields |= {"replica_id": -1} if v < 15 else {}
        with wire.Raw(broker) as raw:
            raw.call(wire.build(api, v, **fields))


def fetch(raw, topic, offsets, max_wait=0, min_bytes=1, max_bytes=10_000_000, partition_max=10_000_000, session_id=0, session_epoch=-1, forgotten=()):
    return raw.call(wire.build("fetch", 12, replica_id=-1, max_wait=max_wait, min_bytes=min_bytes, max_bytes=max_bytes, session_id=session_id,
                               session_epoch=session_epoch, forgotten_topics_data=list(forgotten), topics=[dict(topic=topic, partitions=[
                                   dict(partition=p, current_leader_epoch=-1, fetch_offset=o, last_fetched_epoch=-1, log_start_offset=-1, partition_max_bytes=partition_max)
                                   for p, o in offsets.items()])] if offsets else []))


def bases(records):
    """Base offsets of the batches in a fetch answer's bytes."""
    out, at = [], 0
    while records and at + 12 <= len(records):
        base, length = struct.unpack(">qi", records[at:at + 12])
        if at + 12 + length > len(records):
            break
        out.append(base)
        at += 12 + length
    return out


def sealed(values):
    return batch([v.encode() for v in values], -1, -1, -1)


def test_a_fetch_that_starts_inside_a_batch_gets_the_whole_batch(broker, name):
    topic = clients.create_topic(broker, name("inside"))
    with wire.Raw(broker) as raw:
        produce_raw(raw, topic, sealed("abc")), produce_raw(raw, topic, sealed("defg"))
        p = fetch(raw, topic, {0: 4}).responses[0].partitions[0]
        assert bases(p.records) == [3] and p.high_watermark == 7


def test_at_least_one_batch_is_granted_once_per_request_not_per_partition(broker, name):
    topic = clients.create_topic(broker, name("one-batch"), partitions=5)
    with wire.Raw(broker) as raw:
        for p in range(5):
            r = raw.call(wire.build("produce", 9, acks=-1, timeout=5000, topic_data=[dict(name=topic, partition_data=[dict(index=p, records=sealed(["x" * 5000]))])]))
            assert int(r.responses[0].partition_responses[0].error_code) == 0
        got = fetch(raw, topic, {p: 0 for p in range(5)}, max_bytes=1)
        assert sum(len(bases(p.records)) for t in got.responses for p in t.partitions) == 1


def test_an_empty_fetch_waits_its_time_and_no_longer(broker, name):
    topic = clients.create_topic(broker, name("wait"))
    with wire.Raw(broker) as raw:
        begun = time.monotonic()
        got = fetch(raw, topic, {0: 0}, max_wait=600)
        assert 0.55 <= time.monotonic() - begun < 3 and not got.responses[0].partitions[0].records


def test_a_waiting_fetch_is_answered_as_soon_as_a_record_comes(broker, name):
    topic, answered = clients.create_topic(broker, name("wake")), []
    with wire.Raw(broker, timeout=30) as waiting, wire.Raw(broker) as writer:
        begun = time.monotonic()
        t = threading.Thread(target=lambda: answered.append(bases(fetch(waiting, topic, {0: 0}, max_wait=20_000).responses[0].partitions[0].records)))
        t.start()
        assert produce_raw(writer, topic, sealed("a"))[0] == 0
        t.join(15)
        assert answered == [[0]] and time.monotonic() - begun < 10


def test_min_bytes_holds_a_fetch_back_until_there_are_enough(broker, name):
    topic = clients.create_topic(broker, name("min-bytes"))
    with wire.Raw(broker) as raw:
        produce_raw(raw, topic, sealed("a"))
        begun = time.monotonic()
        assert bases(fetch(raw, topic, {0: 0}, max_wait=500, min_bytes=1_000_000).responses[0].partitions[0].records) == [0]
        assert time.monotonic() - begun >= 0.45


def test_a_fetch_session_sends_only_what_changed(broker, name):
    topic = clients.create_topic(broker, name("session"), partitions=2)
    with wire.Raw(broker) as raw:
        opened = fetch(raw, topic, {0: 0, 1: 0}, session_epoch=0)
        assert int(opened.error_code) == 0 and opened.session_id != 0 and len(opened.responses[0].partitions) == 2
        quiet = fetch(raw, topic, {}, session_id=int(opened.session_id), session_epoch=1)
        assert int(quiet.error_code) == 0 and not quiet.responses
        produce_raw(raw, topic, sealed("a"))
        changed = fetch(raw, topic, {}, session_id=int(opened.session_id), session_epoch=2)
        assert [p.partition_index for p in changed.responses[0].partitions] == [0] and bases(changed.responses[0].partitions[0].records) == [0]
        assert int(fetch(raw, topic, {}, session_id=int(opened.session_id), session_epoch=9).error_code) == 71  # INVALID_FETCH_SESSION_EPOCH
        assert int(fetch(raw, topic, {}, session_id=123456, session_epoch=1).error_code) == 70  # FETCH_SESSION_ID_NOT_FOUND


def test_an_unknown_topic_id_and_an_unknown_partition_are_told_apart(broker, name):
    import uuid
    topic = clients.create_topic(broker, name("unknown"))
    with wire.Raw(broker) as raw:
        assert int(fetch(raw, topic, {7: 0}).responses[0].partitions[0].error_code) == 3
        r = raw.call(wire.build("fetch", 16, max_bytes=1000, session_epoch=-1, topics=[dict(topic_id=uuid.uuid4(), partitions=[
            dict(partition=0, current_leader_epoch=-1, last_fetched_epoch=-1, log_start_offset=-1, partition_max_bytes=1000)])]))
        assert int(r.responses[0].partitions[0].error_code) == 100  # UNKNOWN_TOPIC_ID


def test_a_fetch_of_a_newer_leader_epoch_is_fenced(broker, name):
    topic = clients.create_topic(broker, name("fenced"))
    with wire.Raw(broker) as raw:
        r = raw.call(wire.build("fetch", 12, replica_id=-1, max_bytes=1000, session_epoch=-1, topics=[dict(topic=topic, partitions=[
            dict(partition=0, current_leader_epoch=1_000_000, last_fetched_epoch=-1, log_start_offset=-1, partition_max_bytes=1000)])]))
        assert int(r.responses[0].partitions[0].error_code) == 75  # UNKNOWN_LEADER_EPOCH


@pytest.mark.parametrize("spoil, code", [
    (lambda b: b[:16] + b"\x01" + b[17:], None),  # magic 1
    (lambda b: resealed(b, 21, b"\x00\x20"), 87),  # the control bit
    (lambda b: resealed(b, 23, struct.pack(">i", 7)), None),  # last offset delta that lies
    (lambda b: resealed(b, 57, struct.pack(">i", 1000)), None),  # a record count that lies
    (lambda b: resealed(b, 21, b"\x00\x07"), None),  # no such codec
    (lambda b: b[:-3], None),  # cut
])
def test_a_malformed_batch_is_refused_and_the_next_good_one_taken(broker, name, spoil, code):
    topic = clients.create_topic(broker, name("malformed"))
    with wire.Raw(broker) as raw:
        try:
            got = produce_raw(raw, topic, spoil(sealed("abc")))[0]
            assert got != 0 and code in (None, got), got
        except (wire.Closed, ConnectionError):
            pass
    with wire.Raw(broker) as raw:
        assert produce_raw(raw, topic, sealed("d")) == (0, 0)


def resealed(b, at, value):
    """The batch with bytes replaced and its CRC made right again."""
    import crc32c
    b = bytearray(b)
    b[at:at + len(value)] = value
    b[17:21] = struct.pack(">I", crc32c.crc32c(bytes(b[21:])))
    return bytes(b)


def test_topic_ids_are_real_and_stable(broker, name):
    import uuid
    topic = clients.create_topic(broker, name("ids"))
    with wire.Raw(broker) as raw:
        ask = lambda **t: raw.call(wire.build("metadata", 12, allow_auto_topic_creation=False, topics=[dict(topic_id=t.get("id", uuid.UUID(int=0)), name=t.get("name"))])).topics[0]
        first = ask(name=topic)
        assert first.topic_id and first.topic_id != uuid.UUID(int=0) and ask(name=topic).topic_id == first.topic_id
        assert ask(id=first.topic_id).name == topic


def test_bytes_behind_a_request_are_ignored_as_kafka_ignores_them(broker):
    """librdkafka asks for all topics with three bytes too many in Metadata 9 and later."""
    with wire.Raw(broker) as raw:
        for version in (9, 13):
            raw.send(wire.header(3, version, version, "x", True) + bytes(4) + bytes(3 if version > 10 else 4))
            assert struct.unpack(">i", raw.receive()[:4])[0] == version


def test_librdkafka_lists_all_topics(broker, name):
    topic = clients.create_topic(broker, name("all"))
    assert topic in clients.admin(broker).list_topics(timeout=10).topics
