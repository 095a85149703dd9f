"""Consumer groups: assignment, rebalance, static members, offsets, administration."""

import threading
import time

import confluent_kafka
import pytest
from confluent_kafka import TopicPartition, ConsumerGroupTopicPartitions

from harness import clients, env
from harness.clients import admin, create_topic, java, librdkafka_conf

GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"


class Member:
    """One librdkafka group member polled by its own thread."""

    def __init__(self, broker, group, topic, **conf):
        self.seen, self.assigned, self.error = [], set(), None
        self._stop = threading.Event()
        self.consumer = confluent_kafka.Consumer(librdkafka_conf(
            broker, group_id=group, auto_offset_reset="earliest", session_timeout_ms=6000, heartbeat_interval_ms=500,
            fetch_wait_max_ms=100, enable_auto_commit=False, **conf))
        self.consumer.subscribe([topic])
        self.thread = threading.Thread(target=self._poll, daemon=True)
        self.thread.start()

    def _poll(self):
        while not self._stop.is_set():
            m = self.consumer.poll(0.1)
            self.assigned = {p.partition for p in self.consumer.assignment()}
            if m is None:
                continue
            if m.error():
                self.error = m.error()
                continue
            self.seen.append((m.partition(), m.offset(), m.value().decode()))
            try:
                self.consumer.commit(m, asynchronous=False)
            except confluent_kafka.KafkaException as error:  # a rebalance took the partition: the next owner reads it again
                self.error = error

    def close(self, leave=True):
        self._stop.set()
        self.thread.join(10)
        self.consumer.close() if leave else None


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_two_members_share_and_the_one_left_takes_all(broker, name, strategy):
    topic, group = create_topic(broker, name("share"), partitions=4), name("group")
    a = Member(broker, group, topic, partition_assignment_strategy=strategy)
    env.eventually(lambda: len(a.assigned) == 4, what="first member's assignment")
    b = Member(broker, group, topic, partition_assignment_strategy=strategy)
    env.eventually(lambda: len(a.assigned) == 2 and len(b.assigned) == 2 and a.assigned | b.assigned == {0, 1, 2, 3}, what="even share")
    clients.produce_librdkafka(broker, topic, [(str(i), str(i)) for i in range(100)])
    env.eventually(lambda: len(a.seen) + len(b.seen) >= 100, what="all records")
    a.close()
    env.eventually(lambda: len(b.assigned) == 4, what="taking over after a leave")
    clients.produce_librdkafka(broker, topic, [(str(i), f"second {i}") for i in range(20)])
    env.eventually(lambda: sum("second" in v for _, _, v in b.seen) == 20, what="records after the rebalance")
    b.close()
    values = [v for _, _, v in a.seen + b.seen]
    assert sorted(set(values)) == sorted({str(i) for i in range(100)} | {f"second {i}" for i in range(20)})


def test_a_static_member_returns_to_its_partitions_without_a_rebalance(broker, name):
    topic, group = create_topic(broker, name("static"), partitions=4), name("group")
    a = Member(broker, group, topic, group_instance_id="one")
    b = Member(broker, group, topic, group_instance_id="two")
    env.eventually(lambda: len(a.assigned) == 2 and len(b.assigned) == 2, what="even share")
    before, others = set(b.assigned), set(a.assigned)
    b.close()
    again = Member(broker, group, topic, group_instance_id="two")
    env.eventually(lambda: again.assigned == before, timeout=20, what="same partitions again")
    assert a.assigned == others
    a.close()
    again.close()


def test_a_silent_member_is_expelled_after_its_session_timeout(broker, name):
    topic, group = create_topic(broker, name("silent"), partitions=2), name("group")
    lost = clients_process(broker, group, topic)
    try:
        env.eventually(lambda: len(members_of(broker, group)) == 1, what="first member")
        a = Member(broker, group, topic)
        env.eventually(lambda: len(a.assigned) == 1, what="share")
    finally:
        lost.kill()
    env.eventually(lambda: len(a.assigned) == 2, timeout=25, what="the lost member's partition")
    a.close()


def clients_process(broker, group, topic):
    import subprocess
    return subprocess.Popen([env.KCAT, "-b", broker.bootstrap, "-F", str(broker.client().librdkafka), "-X", "session.timeout.ms=6000",
                             "-G", group, topic], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def members_of(broker, group):
    return admin(broker).describe_consumer_groups([group])[group].result().members


def test_committed_offsets_are_where_the_next_member_begins(broker, name):
    topic, group = create_topic(broker, name("resume")), name("group")
    clients.produce_librdkafka(broker, topic, [(str(i), str(i)) for i in range(30)])
    first = Member(broker, group, topic)
    env.eventually(lambda: len(first.seen) == 30, what="first read")
    first.close()
    clients.produce_librdkafka(broker, topic, [("k", "after")])
    second = Member(broker, group, topic)
    env.eventually(lambda: second.seen, what="second read")
    second.close()
    assert second.seen == [(0, 30, "after")]


def test_java_console_consumer_joins_a_group_and_commits(broker, name):
    topic, group = create_topic(broker, name("java-group")), name("group")
    clients.produce_librdkafka(broker, topic, [(str(i), str(i)) for i in range(10)])
    out = java(broker, "org.apache.kafka.tools.consumer.ConsoleConsumer", "--topic", topic, "--group", group, "--from-beginning",
               "--max-messages", 10, "--timeout-ms", 20000)
    assert out.split() == [str(i) for i in range(10)]
    described = java(broker, GROUPS, "--describe", "--group", group)
    row = next(l for l in described.splitlines() if topic in l).split()
    assert row[3:6] == ["10", "10", "0"]


def test_franz_go_joins_a_group_and_commits(broker, name):
    topic, group = create_topic(broker, name("go-group")), name("group")
    clients.produce_librdkafka(broker, topic, [(str(i), str(i)) for i in range(10)])
    clients.gokafka(broker, "consume", "-topic", topic, "-count", 10, "-group", group)
    assert committed(broker, group, topic) == {0: 10}


def committed(broker, group, topic):
    r = admin(broker).list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result()
    return {p.partition: p.offset for p in r.topic_partitions if p.topic == topic}


def test_reset_tool_moves_an_empty_groups_offsets(broker, name):
    topic, group = create_topic(broker, name("reset")), name("group")
    clients.produce_librdkafka(broker, topic, [(str(i), str(i)) for i in range(10)])
    java(broker, GROUPS, "--group", group, "--topic", topic, "--reset-offsets", "--to-offset", 4, "--execute")
    assert committed(broker, group, topic) == {0: 4}
    java(broker, GROUPS, "--group", group, "--topic", topic, "--reset-offsets", "--to-latest", "--execute")
    assert committed(broker, group, topic) == {0: 10}


def test_groups_are_listed_described_and_deleted(broker, name):
    topic, group = create_topic(broker, name("listed")), name("group")
    member = Member(broker, group, topic)
    env.eventually(lambda: member.assigned, what="assignment")
    assert group in java(broker, GROUPS, "--list").split()
    described = admin(broker).describe_consumer_groups([group])[group].result()
    assert described.state.name == "STABLE" and described.members[0].assignment.topic_partitions[0].topic == topic
    refused = admin(broker).delete_consumer_groups([group])[group]
    with pytest.raises(confluent_kafka.KafkaException) as error:
        refused.result()
    assert error.value.args[0].code() == confluent_kafka.KafkaError.NON_EMPTY_GROUP
    member.close()
    java(broker, GROUPS, "--delete", "--group", group)
    assert group not in java(broker, GROUPS, "--list").split()


def test_delete_offsets_tool_forgets_one_topics_offsets(broker, name):
    one, two, group = create_topic(broker, name("one")), create_topic(broker, name("two")), name("group")
    c = confluent_kafka.Consumer(librdkafka_conf(broker, group_id=group))
    c.commit(offsets=[TopicPartition(one, 0, 1), TopicPartition(two, 0, 2, "a note")], asynchronous=False)
    c.close()
    java(broker, GROUPS, "--delete-offsets", "--group", group, "--topic", one)
    assert committed(broker, group, one).get(0, -1001) < 0 and committed(broker, group, two) == {0: 2}


def test_commit_metadata_comes_back(broker, name):
    topic, group = create_topic(broker, name("note")), name("group")
    c = confluent_kafka.Consumer(librdkafka_conf(broker, group_id=group))
    c.commit(offsets=[TopicPartition(topic, 0, 3, "a note")], asynchronous=False)
    got = c.committed([TopicPartition(topic, 0)], timeout=10)[0]
    c.close()
    assert (got.offset, got.metadata) == (3, "a note")
