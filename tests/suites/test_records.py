"""What a record may be: headers, nulls, timestamps, sizes; and what is refused."""

import time

import confluent_kafka
import pytest
from confluent_kafka import TopicPartition, OFFSET_BEGINNING

from harness import clients
from harness.clients import librdkafka_conf


def read_raw(broker, topic, count, timeout=20):
    c = confluent_kafka.Consumer(librdkafka_conf(broker, group_id="unused", enable_auto_commit=False, check_crcs=True,
                                                 fetch_message_max_bytes=50_000_000, receive_message_max_bytes=200_000_000))
    c.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    got, end = [], time.monotonic() + timeout
    while len(got) < count and time.monotonic() < end:
        m = c.poll(0.2)
        if m is not None:
            assert m.error() is None, m.error()
            got.append(m)
    c.close()
    assert len(got) == count
    return got


def produce(broker, topic, timestamp=None, wait=20, **kw):
    """Returns the acknowledged message or raises its error."""
    conf = kw.pop("conf", {})
    p = confluent_kafka.Producer(librdkafka_conf(broker, message_max_bytes=100_000_000, message_timeout_ms=15000, **conf))
    result = []
    extra = {} if timestamp is None else {"timestamp": timestamp}
    p.produce(topic, on_delivery=lambda e, m: result.append((e, m)), **extra, **kw)
    p.flush(wait)
    error, message = result[0]
    if error:
        raise confluent_kafka.KafkaException(error)
    return message


def test_headers_keep_order_duplicates_nulls_and_bytes(broker, name):
    topic = clients.create_topic(broker, name("headers"))
    headers = [("a", b"1"), ("b", None), ("a", b"2"), ("leer", b""), ("bytes", bytes(range(256)))]
    produce(broker, topic, key=b"k", value=b"v", headers=headers)
    assert read_raw(broker, topic, 1)[0].headers() == headers


def test_null_and_empty_keys_and_values_stay_apart(broker, name):
    topic = clients.create_topic(broker, name("nulls"))
    for key, value in [(None, None), (b"", b""), (None, b""), (b"", None)]:
        produce(broker, topic, key=key, value=value)
    assert [(m.key(), m.value()) for m in read_raw(broker, topic, 4)] == [(None, None), (b"", b""), (None, b""), (b"", None)]


def test_create_time_is_the_producers(broker, name):
    topic = clients.create_topic(broker, name("create-time"))
    at = int(time.time() * 1000) - 3_600_000
    produce(broker, topic, value=b"v", timestamp=at)
    assert read_raw(broker, topic, 1)[0].timestamp() == (confluent_kafka.TIMESTAMP_CREATE_TIME, at)


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_log_append_time_is_the_brokers(broker, name, codec):
    topic = clients.create_topic(broker, name("append-time"), config={"message.timestamp.type": "LogAppendTime"})
    before = int(time.time() * 1000)
    produce(broker, topic, value=b"v" * 100, timestamp=1000, conf={"compression_type": codec})
    kind, at = read_raw(broker, topic, 1)[0].timestamp()
    assert kind == confluent_kafka.TIMESTAMP_LOG_APPEND_TIME and before - 1000 <= at <= int(time.time() * 1000) + 1000


@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_message_of_nearly_a_mebibyte_passes_with_default_limits(broker, name, codec):
    import os
    topic = clients.create_topic(broker, name("big"))
    value = os.urandom(1_040_000)
    produce(broker, topic, value=value, conf={"compression_type": codec})
    assert read_raw(broker, topic, 1)[0].value() == value


def test_message_above_the_limit_is_refused_as_too_large(broker, name):
    import os
    topic = clients.create_topic(broker, name("too-big"))
    with pytest.raises(confluent_kafka.KafkaException) as refused:
        produce(broker, topic, value=os.urandom(1_100_000))
    assert refused.value.args[0].code() == confluent_kafka.KafkaError.MSG_SIZE_TOO_LARGE
    produce(broker, topic, value=b"small")
    assert [m.value() for m in read_raw(broker, topic, 1)] == [b"small"]


def test_topic_limit_raised_lets_a_ten_megabyte_message_pass(broker, name):
    import os
    topic = clients.create_topic(broker, name("raised"), config={"max.message.bytes": "12000000"})
    value = os.urandom(10_000_000)
    produce(broker, topic, value=value)
    assert read_raw(broker, topic, 1)[0].value() == value


def test_consumer_with_small_fetch_limits_still_gets_a_big_message(broker, name):
    topic = clients.create_topic(broker, name("small-fetch"))
    value = b"z" * 900_000
    produce(broker, topic, value=value)
    c = confluent_kafka.Consumer(librdkafka_conf(broker, group_id="unused", fetch_message_max_bytes=1000, fetch_max_bytes=1000,
                                                 message_max_bytes=1000))
    c.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    m = c.poll(15)
    c.close()
    assert m is not None and m.error() is None and m.value() == value


@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_every_acks_setting_is_served(broker, name, acks):
    topic = clients.create_topic(broker, name("acks"))
    produce(broker, topic, value=b"v", conf={"acks": acks})
    assert read_raw(broker, topic, 1)[0].value() == b"v"
