"""Retention, deletion and rolling really free disk."""

import os

import pytest

from harness import clients, env

pytestmark = [pytest.mark.schloss_only, pytest.mark.timeout(180)]
QUICK = {"storage.flush.ms": 100, "log.retention.check.interval.ms": 100}


def on_disk(b):
    return sum(p.stat().st_size for p in b.data.rglob("*") if p.is_file() and "wal" not in str(p.relative_to(b.data)).lower())


def produce_megabytes(b, topic, n):
    clients.produce_librdkafka(b, topic, [(str(i), os.urandom(250_000).hex()) for i in range(2 * n)])


@pytest.fixture
def b(fresh):
    return fresh(config=QUICK)


def test_deleting_a_topic_frees_its_disk(b, name):
    topic = clients.create_topic(b, name("deleted"))
    before = on_disk(b)
    produce_megabytes(b, topic, 20)
    env.eventually(lambda: on_disk(b) > before + 15_000_000, what="segments on disk")
    clients.admin(b).delete_topics([topic])[topic].result()
    env.eventually(lambda: on_disk(b) < before + 2_000_000, timeout=60, what="free disk")


def test_retention_by_size_keeps_the_newest(b, name):
    topic = clients.create_topic(b, name("sized"), config={"retention.bytes": "5000000", "segment.bytes": "1048576"})
    for _ in range(10):
        produce_megabytes(b, topic, 2)
    begin = env.eventually(lambda: first_offset(b, topic) > 20 and first_offset(b, topic), timeout=60, what="retention")
    seen = clients.consume_librdkafka(b, topic, 40 - begin)
    assert [s.offset for s in seen] == list(range(seen[0].offset, 40))


def test_retention_by_time_empties_an_old_topic(b, name):
    topic = clients.create_topic(b, name("timed"), config={"retention.ms": "1000", "segment.ms": "500"})
    produce_megabytes(b, topic, 4)
    env.eventually(lambda: first_offset(b, topic) == 8, timeout=60, what="retention by time")


def test_deleted_records_free_disk(b, name):
    import confluent_kafka
    topic = clients.create_topic(b, name("cut"), config={"segment.bytes": "1048576"})
    before = on_disk(b)
    produce_megabytes(b, topic, 20)
    env.eventually(lambda: on_disk(b) > before + 15_000_000, what="segments on disk")
    clients.admin(b).delete_records([confluent_kafka.TopicPartition(topic, 0, confluent_kafka.OFFSET_END)])
    env.eventually(lambda: on_disk(b) < before + 2_000_000, timeout=60, what="free disk")


def first_offset(b, topic):
    import confluent_kafka
    from confluent_kafka.admin import OffsetSpec
    got = clients.admin(b).list_offsets({confluent_kafka.TopicPartition(topic, 0): OffsetSpec.earliest()})
    return next(iter(got.values())).result().offset
