"""Ending, starting again, and what is still there."""

import os
import signal

import confluent_kafka

from harness import clients, env
from harness.clients import create_topic


def test_sigterm_ends_cleanly_and_the_next_start_has_everything(fresh, name):
    b = fresh()
    topic, group = create_topic(b, name("kept"), partitions=2, config={"retention.ms": "7200000"}), name("group")
    records = [(str(i), f"value {i}") for i in range(200)]
    clients.produce_librdkafka(b, topic, records)
    c = confluent_kafka.Consumer(clients.librdkafka_conf(b, group_id=group))
    c.commit(offsets=[confluent_kafka.TopicPartition(topic, 0, 7)], asynchronous=False)
    c.close()
    code = b.stop()
    assert code == (0 if b.name == "schloss" else 143), code
    b.start()
    seen = clients.consume_librdkafka(b, topic, 200)
    assert sorted((s.key, s.value) for s in seen) == sorted(records)
    c = confluent_kafka.Consumer(clients.librdkafka_conf(b, group_id=group))
    assert c.committed([confluent_kafka.TopicPartition(topic, 0)], timeout=20)[0].offset == 7
    c.close()
    r = confluent_kafka.admin.ConfigResource(confluent_kafka.admin.ResourceType.TOPIC, topic)
    assert clients.admin(b).describe_configs([r])[r].result()["retention.ms"].value == "7200000"


def test_sigterm_during_load_loses_nothing_acknowledged(fresh, name):
    b = fresh()
    topic, acked, failed = create_topic(b, name("drain")), {}, []
    p = confluent_kafka.Producer(clients.librdkafka_conf(b, enable_idempotence=True, linger_ms=1))

    def done(error, m):
        failed.append(error) if error else acked.__setitem__(m.value().decode(), m.offset())

    n = 0
    while len(acked) < 500:
        p.produce(topic, value=str(n), on_delivery=done)
        n += 1
        p.poll(0.001)
    b.process.child.send_signal(signal.SIGTERM)
    for _ in range(500):
        p.produce(topic, value=str(n), on_delivery=done)
        n += 1
        p.poll(0)
    b.process.child.wait(30)
    b.start()
    assert p.flush(60) == 0 and not failed
    seen = clients.consume_librdkafka(b, topic, n)
    assert [s.value for s in seen] == [str(i) for i in range(n)]
    assert all(acked[s.value] == s.offset for s in seen)


def test_a_member_of_a_group_goes_on_after_a_restart(fresh, name):
    from suites.test_groups import Member
    b = fresh()
    topic, group = create_topic(b, name("restart"), partitions=2), name("group")
    m = Member(b, group, topic)
    env.eventually(lambda: len(m.assigned) == 2, what="assignment")
    clients.produce_librdkafka(b, topic, [(str(i), f"before {i}") for i in range(10)])
    env.eventually(lambda: len(m.seen) == 10, what="records before")
    b.kill()
    b.start()
    clients.produce_librdkafka(b, topic, [(str(i), f"after {i}") for i in range(10)])
    env.eventually(lambda: sum("after" in v for _, _, v in m.seen) == 10, timeout=40, what="records after")
    m.close()
    assert len([v for _, _, v in m.seen]) == len({v for _, _, v in m.seen}), "a committed record was read twice"


def test_ends_on_sigint_too(fresh):
    b = fresh()
    assert b.process.stop(signal.SIGINT) in (0, 130)
    assert not os.path.exists(f"/proc/{b.process.pid}")
