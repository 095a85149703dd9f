"""Traffic that runs while something else happens: records produced one after the other, and what became of each.

In: a broker, a tenant, a topic. Out: which values were acknowledged and when, and which answers a raw client got meanwhile.
"""

import threading
import time

import confluent_kafka

from . import clients, wire

KAFKA_STORAGE_ERROR = 56


class Producer:
    """An idempotent producer that never gives a record up; `acknowledged` holds (moment, value)."""

    def __init__(self, broker, tenant, topic, every=0.02):
        self.topic, self.tenant, self.every = topic, tenant, every
        self.acknowledged, self.failed, self.sent = [], [], 0
        self.producer = confluent_kafka.Producer(clients.librdkafka_conf(
            broker, tenant=tenant, enable_idempotence=True, linger_ms=5, retry_backoff_ms=50, retry_backoff_max_ms=200, message_timeout_ms=300_000))
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.over.is_set():
            value = f"{self.tenant} {self.sent}"
            try:
                self.producer.produce(self.topic, value=value, on_delivery=lambda e, m: self.delivered(e, m))
                self.sent += 1
            except BufferError:
                pass
            self.producer.poll(self.every)

    def delivered(self, error, message):
        (self.failed if error else self.acknowledged).append((time.monotonic(), error or message.value().decode()))

    def stop(self, timeout=30):
        """Sends what is left; returns the acknowledged values in their order."""
        self.over.set()
        self.thread.join(10)
        left = self.producer.flush(timeout)
        assert not left and not self.failed, f"{self.tenant}: {left} records never acknowledged, failed: {self.failed[:3]}"
        return [v for _, v in self.acknowledged]

    def longest_silence(self, begin, end):
        """The longest time without an acknowledgement between two moments."""
        moments = [begin, *(m for m, _ in list(self.acknowledged) if begin <= m <= end), end]
        return max(b - a for a, b in zip(moments, moments[1:]))


class Asker(threading.Thread):
    """Asks again and again over one raw connection and notes (moment, produce error, fetch error, commit error)."""

    def __init__(self, broker, tenant, topic, every=0.25):
        super().__init__(daemon=True)
        self.broker, self.tenant, self.topic, self.every = broker, tenant, topic, every
        self.answers, self.over = [], threading.Event()
        self.start()

    def run(self):
        raw = None
        while not self.over.wait(self.every):
            try:
                raw = raw or wire.Raw(self.broker, tenant=self.tenant, timeout=20)
                self.answers.append((time.monotonic(), produce(raw, self.topic), fetch(raw, self.topic)[0], commit(raw, self.topic)))
            except (OSError, wire.Closed, AssertionError) as error:
                self.answers.append((time.monotonic(), repr(error), None, None))
                raw = raw and raw.close()

    def end(self):
        self.over.set()
        self.join(30)

    def first(self, fact, after):
        """The first moment after `after` whose answer satisfies `fact(produce, fetch, commit)`; None when there is none yet."""
        return next((m for m, *codes in list(self.answers) if m > after and fact(*codes)), None)

    def between(self, begin, end):
        return [codes for m, *codes in list(self.answers) if begin <= m <= end]


def batch(value: bytes) -> bytes:
    """A record batch of one record with this value, by hand: https://kafka.apache.org/documentation/#recordbatch."""
    import struct

    from .reader import crc32c
    body = b"\0" + varint(0) + varint(0) + varint(-1) + varint(len(value)) + value + varint(0)
    now = int(time.time() * 1000)
    tail = struct.pack(">hiqqqhii", 0, 0, now, now, -1, -1, -1, 1) + varint(len(body)) + body
    return struct.pack(">qiibI", 0, 4 + 1 + 4 + len(tail), -1, 2, crc32c(tail)) + tail


def varint(n):
    n, out = (n << 1) ^ (n >> 63), b""
    while n > 0x7F:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def produce(raw, topic, value=b"asked", partition=0):
    r = raw.call(wire.build("produce", 9, acks=-1, timeout=15_000, topic_data=[dict(name=topic, partition_data=[dict(index=partition, records=batch(value))])]))
    return int(r.responses[0].partition_responses[0].error_code)


def fetch(raw, topic, partition=0, offset=0):
    """(error, records)"""
    r = raw.call(wire.build("fetch", 12, replica_id=-1, max_wait=0, min_bytes=1, max_bytes=1_000_000, session_epoch=-1, topics=[dict(topic=topic, partitions=[
        dict(partition=partition, fetch_offset=offset, current_leader_epoch=-1, last_fetched_epoch=-1, log_start_offset=-1, partition_max_bytes=100_000)])]))
    p = r.responses[0].partitions[0]
    return int(p.error_code), p.records


def commit(raw, topic, group="asker"):
    r = raw.call(wire.build("offset_commit", 8, group_id=group, generation_id_or_member_epoch=-1, topics=[dict(name=topic, partitions=[
        dict(partition_index=0, committed_offset=1, committed_leader_epoch=-1)])]))
    return int(r.topics[0].partitions[0].error_code)
