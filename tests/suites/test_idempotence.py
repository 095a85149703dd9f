"""An idempotent producer whose connections are cut again and again: each record once, in order."""

import subprocess
import threading
import time

import confluent_kafka

from harness import clients, env, wire
from harness.clients import create_topic, librdkafka_conf


def cut_connections(broker, stop, every=0.15):
    cuts = 0
    while not stop.wait(every):
        subprocess.run(["ss", "-K", "dst", "127.0.0.1", "dport", "=", str(broker.port)], capture_output=True)
        cuts += 1
    return cuts


def test_records_arrive_once_and_in_order_through_connection_kills(broker, name):
    topic, total = create_topic(broker, name("idempotent"), partitions=2), 4000
    stop = threading.Event()
    killer = threading.Thread(target=cut_connections, args=(broker, stop), daemon=True)
    p = confluent_kafka.Producer(librdkafka_conf(broker, enable_idempotence=True, linger_ms=1, batch_num_messages=20, retry_backoff_ms=20,
                                                 topic_metadata_refresh_interval_ms=1000))
    acked, failed = {}, []

    def done(error, m):
        failed.append(error) if error else acked.__setitem__(m.value(), (m.partition(), m.offset()))

    killer.start()
    for i in range(total):
        p.produce(topic, value=str(i), partition=i % 2, on_delivery=done)
        p.poll(0)
        if i % 40 == 0:
            time.sleep(0.02)  # paces the load so that the cuts fall into it; nothing is awaited here
    left = p.flush(60)
    stop.set()
    killer.join()
    assert left == 0 and not failed, (left, failed[:3])
    seen = clients.consume_librdkafka(broker, topic, total)
    assert len(seen) == total
    for partition in (0, 1):
        assert [int(s.value) for s in seen if s.partition == partition] == list(range(partition, total, 2))
    assert all(acked[s.value.encode()] == (s.partition, s.offset) for s in seen)


def batch(values, producer_id, epoch, sequence):
    """A v2 record batch as bytes, written here from the format's definition."""
    import struct
    import crc32c

    def varint(n):
        n = (n << 1) ^ (n >> 63)
        out = b""
        while True:
            n, low = n >> 7, n & 0x7F
            if n == 0:
                return out + bytes([low])
            out += bytes([low | 0x80])

    now = int(time.time() * 1000)
    records = b""
    for i, v in enumerate(values):
        r = b"\0" + varint(0) + varint(i) + varint(-1) + varint(len(v)) + v + varint(0)
        records += varint(len(r)) + r
    body = struct.pack(">hiqqqhii", 0, len(values) - 1, now, now, producer_id, epoch, sequence, len(values)) + records
    tail = struct.pack(">ibI", -1, 2, crc32c.crc32c(body)) + body
    return struct.pack(">qi", 0, len(tail)) + tail


def produce_raw(raw, topic, records):
    from datetime import timedelta
    from kio.schema.produce.v9.request import PartitionProduceData, TopicProduceData
    r = raw.request("produce", 9, transactional_id=None, acks=-1, timeout=timedelta(seconds=10), topic_data=(
        TopicProduceData(name=topic, partition_data=(PartitionProduceData(index=0, records=records),)),))
    p = r.responses[0].partition_responses[0]
    return int(p.error_code), p.base_offset


def producer_id(raw):
    from datetime import timedelta

    def ask():
        r = raw.request("init_producer_id", 4, transactional_id=None, transaction_timeout=timedelta(seconds=60), producer_id=-1, producer_epoch=-1)
        assert int(r.error_code) in (0, 14), r.error_code  # 14: Kafka is still loading just after its start
        return (int(r.producer_id), int(r.producer_epoch)) if int(r.error_code) == 0 else None

    return env.eventually(ask, what="a producer id")


def test_a_batch_sent_twice_is_answered_with_its_first_offset(broker, name):
    topic = create_topic(broker, name("twice"))
    with wire.Raw(broker) as raw:
        pid, epoch = producer_id(raw)
        assert produce_raw(raw, topic, batch([b"a", b"b"], pid, epoch, 0)) == (0, 0)
        assert produce_raw(raw, topic, batch([b"c"], pid, epoch, 2)) == (0, 2)
        assert produce_raw(raw, topic, batch([b"a", b"b"], pid, epoch, 0)) == (0, 0)
        assert produce_raw(raw, topic, batch([b"d"], pid, epoch, 3)) == (0, 3)
    assert [s.value for s in clients.consume_librdkafka(broker, topic, 4)] == ["a", "b", "c", "d"]


def test_a_gap_in_the_sequence_is_refused(broker, name):
    topic = create_topic(broker, name("gap"))
    with wire.Raw(broker) as raw:
        pid, epoch = producer_id(raw)
        assert produce_raw(raw, topic, batch([b"a"], pid, epoch, 0)) == (0, 0)
        assert produce_raw(raw, topic, batch([b"x"], pid, epoch, 7))[0] == 45  # OUT_OF_ORDER_SEQUENCE_NUMBER
        assert produce_raw(raw, topic, batch([b"b"], pid, epoch, 1)) == (0, 1)


def test_a_batch_with_a_wrong_checksum_is_refused(broker, name):
    topic = create_topic(broker, name("crc"))
    with wire.Raw(broker) as raw:
        good = batch([b"a" * 100], -1, -1, -1)
        bad = good[:-5] + bytes([good[-5] ^ 1]) + good[-4:]
        assert produce_raw(raw, topic, bad)[0] == 2  # CORRUPT_MESSAGE
        assert produce_raw(raw, topic, good) == (0, 0)


def test_sequences_are_remembered_over_a_restart(fresh, name):
    b = fresh()
    topic = create_topic(b, name("restart"))
    with wire.Raw(b) as raw:
        pid, epoch = producer_id(raw)
        assert produce_raw(raw, topic, batch([b"a"], pid, epoch, 0)) == (0, 0)
        assert produce_raw(raw, topic, batch([b"b"], pid, epoch, 1)) == (0, 1)
    b.kill()
    b.start()
    env.eventually(lambda: clients.admin(b).list_topics(topic, timeout=2).topics[topic].partitions[0].leader >= 0, what="leader")
    with wire.Raw(b) as raw:
        assert produce_raw(raw, topic, batch([b"b"], pid, epoch, 1)) == (0, 1)
        assert produce_raw(raw, topic, batch([b"z"], pid, epoch, 9))[0] == 45
        assert produce_raw(raw, topic, batch([b"c"], pid, epoch, 2)) == (0, 2)
    assert [s.value for s in clients.consume_librdkafka(b, topic, 3)] == ["a", "b", "c"]
