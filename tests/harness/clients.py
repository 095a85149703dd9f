"""Four unmodified clients behind two verbs: produce `(key, value)` texts, consume everything of a topic.

Each function runs the real client (kcat, librdkafka through confluent-kafka, Kafka's console tools, franz-go).
Out: a list of `Seen(partition, offset, key, value)`.
"""

import subprocess
import time
from collections import namedtuple

import confluent_kafka
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from . import env
from .kafka_peer import java_command

Seen = namedtuple("Seen", "partition offset key value")
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
CLIENTS = ("kcat", "librdkafka", "java", "franz-go")


def run(argv, text=None, timeout=60):
    done = subprocess.run([str(a) for a in argv], input=text, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{argv[0]} ended with {done.returncode}\n{' '.join(map(str, argv))}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def lines_of(records):
    return "".join(f"{k}\t{v}\n" for k, v in records)


def librdkafka_conf(broker, tenant="acme", principal="admin", **extra):
    conf = broker.client(tenant, principal).librdkafka_dict()
    conf.update({"bootstrap.servers": broker.bootstrap, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200,
                 "topic.metadata.refresh.interval.ms": 5000, "log_level": 0})
    conf.update({k if k.endswith("_cb") else k.replace("_", "."): v for k, v in extra.items()})
    return conf


_admins = {}


def admin(broker, tenant="acme", principal="admin"):
    """One admin client per broker and principal, kept: librdkafka drops the futures of a collected client."""
    key = (str(broker.folder), broker.port, tenant, principal)
    if key not in _admins:
        _admins[key] = AdminClient(librdkafka_conf(broker, tenant, principal))
    return _admins[key]


def forget(broker):
    """Ends the kept admin clients of a broker that is gone."""
    for key in [k for k in _admins if k[0] == str(broker.folder)]:
        del _admins[key]


def create_topic(broker, name, partitions=1, config=None, tenant="acme", principal="admin"):
    a = admin(broker, tenant, principal)
    a.create_topics([NewTopic(name, partitions, 1, config=config or {})], request_timeout=30)[name].result()
    if broker.name == "kafka":  # there a topic is known before its partitions are led; here the answer means it is there
        spec = {TopicPartition(name, p): OffsetSpec.latest() for p in range(partitions)}
        env.eventually(lambda: all(f.result().offset == 0 for f in a.list_offsets(spec).values()), what=f"topic {name}")
    return name


def java(broker, main_class, *arguments, tenant="acme", principal="admin", text=None, timeout=60, config_flag="--command-config"):
    return run(java_command(main_class, "--bootstrap-server", broker.bootstrap, config_flag,
                            broker.client(tenant, principal).java, *arguments), text, timeout)


def kcat(broker, *arguments, tenant="acme", principal="admin", text=None, timeout=60):
    return run([env.KCAT, "-b", broker.bootstrap, "-F", broker.client(tenant, principal).librdkafka, *arguments], text, timeout)


def gokafka(broker, command, *arguments, tenant="acme", principal="admin", text=None, timeout=60):
    return run([env.GOKAFKA, command, "-bootstrap", broker.bootstrap, "-creds", broker.client(tenant, principal).folder,
                "-timeout", f"{timeout}s", *arguments], text, timeout + 5)


def produce_kcat(broker, topic, records, codec="none", **who):
    kcat(broker, "-P", "-t", topic, "-K", "\t", "-z", codec, "-X", "message.max.bytes=100000000", text=lines_of(records), **who)


def produce_librdkafka(broker, topic, records, codec="none", **who):
    p = confluent_kafka.Producer(librdkafka_conf(broker, **who, compression_type=codec, enable_idempotence=True,
                                                 linger_ms=5, message_max_bytes=100_000_000))
    failures = []
    for k, v in records:
        p.produce(topic, key=k, value=v, on_delivery=lambda e, m: failures.append(e) if e else None)
        p.poll(0)
    assert p.flush(30) == 0 and not failures, failures[:3]


def produce_java(broker, topic, records, codec="none", **who):
    java(broker, "org.apache.kafka.tools.ConsoleProducer", "--topic", topic, "--reader-property", "parse.key=true",
         "--reader-property", "key.separator=\t", "--compression-codec", codec, "--max-memory-bytes", 200_000_000,
         "--command-property", "max.request.size=100000000", text=lines_of(records), **who)


def produce_go(broker, topic, records, codec="none", **who):
    gokafka(broker, "produce", "-topic", topic, "-codec", codec, text=lines_of(records), **who)


def consume_kcat(broker, topic, count, **who):
    out = kcat(broker, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%p\t%o\t%k\t%s\n", "-X", "fetch.message.max.bytes=100000000", **who)
    return parse(out)


def consume_librdkafka(broker, topic, count, timeout=30, group="-", **who):
    """Reads all partitions from the start without joining a group, until `count` records were seen."""
    c = confluent_kafka.Consumer(librdkafka_conf(broker, **who, group_id="unused", auto_offset_reset="earliest",
                                                 enable_auto_commit=False, fetch_wait_max_ms=100, fetch_message_max_bytes=100_000_000,
                                                 receive_message_max_bytes=200_000_000, check_crcs=True))
    try:
        parts = c.list_topics(topic, timeout=10).topics[topic].partitions
        c.assign([confluent_kafka.TopicPartition(topic, p, confluent_kafka.OFFSET_BEGINNING) for p in parts])
        seen, deadline = [], time.monotonic() + timeout
        while len(seen) < count:
            assert time.monotonic() < deadline, f"{len(seen)} of {count} records of {topic} in {timeout} s"
            for m in c.consume(1000, 0.2):
                if m.error():
                    raise AssertionError(str(m.error()))
                seen.append(Seen(m.partition(), m.offset(), text_of(m.key()), text_of(m.value())))
        return seen
    finally:
        c.close()


def consume_java(broker, topic, count, **who):
    out = java(broker, "org.apache.kafka.tools.consumer.ConsoleConsumer", "--topic", topic, "--from-beginning", "--max-messages", count,
               "--timeout-ms", 30000, "--formatter-property", "print.partition=true", "--formatter-property", "print.offset=true",
               "--formatter-property", "print.key=true", "--formatter-property", "key.separator=\t", **who)
    seen = []
    for line in out.splitlines():
        p, o, k, v = line.split("\t", 3)
        seen.append(Seen(int(p.removeprefix("Partition:")), int(o.removeprefix("Offset:")), k, v))
    return seen


def consume_go(broker, topic, count, **who):
    return parse(gokafka(broker, "consume", "-topic", topic, "-count", count, **who))


def parse(out):
    seen = []
    for line in out.splitlines():
        p, o, k, v = line.split("\t", 3)
        seen.append(Seen(int(p), int(o), k, v))
    return seen


def text_of(raw):
    return None if raw is None else raw.decode()


PRODUCE = {"kcat": produce_kcat, "librdkafka": produce_librdkafka, "java": produce_java, "franz-go": produce_go}
CONSUME = {"kcat": consume_kcat, "librdkafka": consume_librdkafka, "java": consume_java, "franz-go": consume_go}


def offsets_are_dense(seen):
    """Every partition's offsets are 0..n-1 in the order they were handed out."""
    by = {}
    for s in seen:
        by.setdefault(s.partition, []).append(s.offset)
    return all(o == list(range(len(o))) for o in by.values())
