"""kill -9 at random moments during load: nothing acknowledged is lost, reordered or doubled.

Size: SCHLOSS_KILLS (15 in the ordinary run, 1000 for the long one), half of them with a store that flushes all the time,
so that kills fall into segment writes and checkpoints as well as into WAL appends. SCHLOSS_SEED repeats a history.
"""

import os
import random
import threading
import time

import confluent_kafka
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewTopic

from harness import clients, env
from harness.clients import librdkafka_conf

KILLS = int(os.environ.get("SCHLOSS_KILLS", "15"))
SEED = int(os.environ.get("SCHLOSS_SEED", str(random.SystemRandom().randrange(10**9))))
PARTITIONS = 3


class Writer(threading.Thread):
    """An idempotent producer that numbers its records per partition and remembers what was acknowledged where."""

    def __init__(self, broker, topic, number, **conf):
        super().__init__(daemon=True)
        self.topic, self.number, self.stop = topic, number, threading.Event()
        self.sent = [0] * PARTITIONS
        self.acked = [{} for _ in range(PARTITIONS)]  # number -> offset
        self.errors = []
        self.random = random.Random(SEED + number)
        self.producer = confluent_kafka.Producer(librdkafka_conf(
            broker, enable_idempotence=True, linger_ms=self.random.choice([0, 2, 10]), message_timeout_ms=300_000,
            retry_backoff_ms=20, retry_backoff_max_ms=200, request_timeout_ms=10_000, error_cb=self._error,
            compression_type=["none", "lz4"][number % 2]))

    def _error(self, error):
        if error.fatal():
            self.errors.append(error)

    def _done(self, error, m):
        if error:
            self.errors.append(error)
        else:
            self.acked[m.partition()][int(m.value().split(b":")[1])] = m.offset()

    def run(self):
        while not self.stop.is_set() and not self.errors:
            p = self.random.randrange(PARTITIONS)
            try:
                self.producer.produce(self.topic, partition=p, value=f"{self.number}:{self.sent[p]}:" + "x" * self.random.randrange(600),
                                      on_delivery=self._done)
                self.sent[p] += 1
            except BufferError:
                pass
            self.producer.poll(0.0005)
            if len(self.producer) > 300:
                self.producer.poll(0.01)


class Committer(threading.Thread):
    """Commits growing offsets; remembers the last acknowledged and the last tried."""

    def __init__(self, broker, topic, group):
        super().__init__(daemon=True)
        self.topic, self.stop, self.acked, self.tried = topic, threading.Event(), 0, 0
        self.consumer = confluent_kafka.Consumer(librdkafka_conf(broker, group_id=group))

    def run(self):
        while not self.stop.is_set():
            self.tried += 1
            try:
                self.consumer.commit(offsets=[TopicPartition(self.topic, 0, self.tried, "note")], asynchronous=False)
                self.acked = self.tried
            except confluent_kafka.KafkaException:
                time.sleep(0.02)  # the broker is down: asked again with a higher number


@pytest.mark.long
@pytest.mark.timeout(120 + KILLS * 8)
@pytest.mark.parametrize("flushing", ["default", "always"])
def test_nothing_acknowledged_is_lost_reordered_or_doubled(fresh, name, flushing, request):
    rng = random.Random(SEED)
    print(f"SCHLOSS_SEED={SEED}")
    options = {}
    if request.config.getoption("--target") == "schloss" and flushing == "always":
        options["config"] = {"storage.flush.ms": 20, "storage.flush.bytes": 65536, "log.retention.check.interval.ms": 50}
    b = fresh(**options)
    topic, group, kills = clients.create_topic(b, name("kill"), PARTITIONS), name("group"), (KILLS + 1) // 2
    writers = [Writer(b, topic, i) for i in range(3)]
    committer = Committer(b, topic, group)
    made = []
    for t in [*writers, committer]:
        t.start()
    for kill in range(kills):
        enough = [len(a) for w in writers for a in w.acked]
        env.eventually(lambda: sum(len(a) for w in writers for a in w.acked) > sum(enough) or any(w.errors for w in writers),
                       timeout=60, every=0.005, what=f"progress after restart {kill}")
        if kill % 5 == 0:
            t = f"made-{kill}"
            try:
                clients.admin(b).create_topics([NewTopic(t, 1, 1)], request_timeout=5)[t].result()
                made.append(t)
            except confluent_kafka.KafkaException:
                pass
        time.sleep(rng.random() * 0.5)  # the moment of the kill is the random thing under test
        b.kill()
        b.start()
        assert not any(w.errors for w in writers), [w.errors[:2] for w in writers]
    for t in [*writers, committer]:
        t.stop.set()
    for t in [*writers, committer]:
        t.join(30)
    for w in writers:
        assert w.producer.flush(60) == 0 and not w.errors, w.errors[:3]
    total = sum(sum(w.sent) for w in writers)
    seen = clients.consume_librdkafka(b, topic, total, timeout=120)
    check(writers, seen, total)
    assert committer.acked <= committer.consumer.committed([TopicPartition(topic, 0)], timeout=20)[0].offset <= committer.tried
    gone = [t for t in made if clients.admin(b).list_topics(t, timeout=10).topics[t].error]
    assert not gone, f"acknowledged topics are gone: {gone}"
    print(f"{kills} kills, {total} records, {committer.acked} commits, {len(made)} topics")


def check(writers, seen, total):
    assert len(seen) == total, f"{len(seen)} records for {total} sent: lost or doubled"
    for partition in range(PARTITIONS):
        here = [s for s in seen if s.partition == partition]
        assert [s.offset for s in here] == list(range(len(here))), "offsets are not dense"
        for w in writers:
            mine = [(int(s.value.split(":")[1]), s.offset) for s in here if s.value.startswith(f"{w.number}:")]
            assert [n for n, _ in mine] == list(range(w.sent[partition])), "reordered, lost or doubled"
            stored = dict(mine)
            wrong = [(n, o, stored[n]) for n, o in w.acked[partition].items() if stored[n] != o]
            assert not wrong, f"acknowledged at one offset, found at another: {wrong[:5]}"


@pytest.mark.parametrize("spoil", ["lost", "doubled", "swapped", "moved"])
def test_the_checker_itself_notices(spoil):
    class W:
        number, sent, acked = 0, [3, 0, 0], [{0: 0, 1: 1, 2: 2}, {}, {}]
    seen = [clients.Seen(0, i, None, f"0:{i}:x") for i in range(3)]
    check([W], seen, 3)
    if spoil == "lost":
        seen.pop()
    elif spoil == "doubled":
        seen.append(clients.Seen(0, 3, None, "0:2:x"))
    elif spoil == "swapped":
        seen = [clients.Seen(0, i, None, f"0:{n}:x") for i, n in enumerate([0, 2, 1])]
    else:
        W.acked[0][1] = 0
    with pytest.raises(AssertionError):
        check([W], seen, 3)
