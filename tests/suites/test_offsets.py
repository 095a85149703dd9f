"""Where a log begins and ends, and what stood in it at a time."""

import time

import confluent_kafka
from confluent_kafka import TopicPartition
from confluent_kafka.admin import OffsetSpec

from harness import clients, wire
from harness.clients import admin, create_topic, java, librdkafka_conf


def produce_at(broker, topic, stamps):
    p = confluent_kafka.Producer(librdkafka_conf(broker, linger_ms=0))
    for t in stamps:
        p.produce(topic, value=b"v", timestamp=t)
        assert p.flush(10) == 0


def listed(broker, topic, spec):
    got = admin(broker).list_offsets({TopicPartition(topic, 0): spec})
    r = next(iter(got.values())).result()
    return r.offset, r.timestamp


def test_earliest_latest_max_timestamp_and_by_time(broker, name):
    topic = create_topic(broker, name("offsets"))
    now = int(time.time() * 1000)
    stamps = [now - 5000, now - 3000, now - 1000, now - 2000]
    produce_at(broker, topic, stamps)
    assert listed(broker, topic, OffsetSpec.earliest())[0] == 0
    assert listed(broker, topic, OffsetSpec.latest())[0] == 4
    assert listed(broker, topic, OffsetSpec.max_timestamp()) == (2, now - 1000)
    assert listed(broker, topic, OffsetSpec.for_timestamp(now - 9000)) == (0, now - 5000)
    assert listed(broker, topic, OffsetSpec.for_timestamp(now - 4000)) == (1, now - 3000)
    assert listed(broker, topic, OffsetSpec.for_timestamp(now - 1500)) == (2, now - 1000)
    assert listed(broker, topic, OffsetSpec.for_timestamp(now + 60_000))[0] == -1


def test_java_offset_shell_prints_the_special_offsets(broker, name):
    topic = create_topic(broker, name("shell"))
    produce_at(broker, topic, [int(time.time() * 1000)] * 3)
    for at, expected in [("-1", 3), ("-2", 0), ("-4", 0)]:
        out = java(broker, "org.apache.kafka.tools.GetOffsetShell", "--topic", topic, "--time", at)
        assert out.strip() == f"{topic}:0:{expected}", at


def test_delete_records_moves_the_log_start(broker, name):
    topic = create_topic(broker, name("delete-records"))
    produce_at(broker, topic, [int(time.time() * 1000)] * 10)
    deleted = admin(broker).delete_records([TopicPartition(topic, 0, 6)])
    assert next(iter(deleted.values())).result().low_watermark == 6
    assert listed(broker, topic, OffsetSpec.earliest())[0] == 6
    seen = clients.consume_librdkafka(broker, topic, 4)
    assert [s.offset for s in seen] == [6, 7, 8, 9]


def test_fetch_out_of_range_says_so(broker, name):
    topic = create_topic(broker, name("out-of-range"))
    produce_at(broker, topic, [int(time.time() * 1000)])
    c = confluent_kafka.Consumer(librdkafka_conf(broker, group_id="unused", auto_offset_reset="error"))
    c.assign([TopicPartition(topic, 0, 77)])
    m = c.poll(15)
    c.close()
    assert m is not None and m.error() is not None
    assert "OFFSET_OUT_OF_RANGE" in str(m.error()) or m.error().code() == confluent_kafka.KafkaError._AUTO_OFFSET_RESET


def test_offset_for_leader_epoch_answers_the_end_of_the_current_epoch(broker, name):
    topic = create_topic(broker, name("epochs"))
    produce_at(broker, topic, [int(time.time() * 1000)] * 2)
    from kio.schema.offset_for_leader_epoch.v4.request import OffsetForLeaderPartition, OffsetForLeaderTopic
    with wire.Raw(broker) as raw:
        m = raw.request("metadata", 12, topics=(metadata_topic(topic),), allow_auto_topic_creation=False, include_topic_authorized_operations=False)
        epoch = m.topics[0].partitions[0].leader_epoch
        assert epoch >= 0
        r = raw.request("offset_for_leader_epoch", 4, replica_id=-1, topics=(OffsetForLeaderTopic(
            topic=topic, partitions=(OffsetForLeaderPartition(partition=0, current_leader_epoch=epoch, leader_epoch=epoch),)),))
        assert (r.topics[0].partitions[0].error_code, r.topics[0].partitions[0].end_offset) == (0, 2)


def metadata_topic(name):
    from kio.schema.metadata.v12.request import MetadataRequestTopic
    return MetadataRequestTopic(topic_id=None, name=name)
