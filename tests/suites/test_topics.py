"""Topic administration through Kafka's own tools, librdkafka and franz-go."""

import json

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ConfigSource, NewPartitions, NewTopic, ResourceType

from harness import clients
from harness.clients import admin, create_topic, java

TOPICS = "org.apache.kafka.tools.TopicCommand"


def configs(broker, topic):
    r = ConfigResource(ResourceType.TOPIC, topic)
    return admin(broker).describe_configs([r], request_timeout=15)[r].result()


def error_of(future):
    with pytest.raises(KafkaException) as refused:
        future.result()
    return refused.value.args[0].code()


def test_java_topic_tool_creates_lists_describes_alters_deletes(broker, name):
    topic = name("tool")
    java(broker, TOPICS, "--create", "--topic", topic, "--partitions", 3, "--replication-factor", 1, "--config", "retention.ms=7200000")
    assert topic in java(broker, TOPICS, "--list").split()
    described = java(broker, TOPICS, "--describe", "--topic", topic)
    assert "PartitionCount: 3" in described and "retention.ms=7200000" in described and "TopicId:" in described
    java(broker, TOPICS, "--alter", "--topic", topic, "--partitions", 5)
    assert "PartitionCount: 5" in java(broker, TOPICS, "--describe", "--topic", topic)
    java(broker, TOPICS, "--delete", "--topic", topic)
    clients.env.eventually(lambda: topic not in java(broker, TOPICS, "--list").split(), what="deletion")


def test_java_config_tool_alters_and_describes(broker, name):
    topic = create_topic(broker, name("config-tool"))
    java(broker, "kafka.admin.ConfigCommand", "--alter", "--topic", topic, "--add-config", "max.message.bytes=2000000,retention.bytes=123456")
    out = java(broker, "kafka.admin.ConfigCommand", "--describe", "--topic", topic)
    assert "max.message.bytes=2000000" in out and "retention.bytes=123456" in out
    java(broker, "kafka.admin.ConfigCommand", "--alter", "--topic", topic, "--delete-config", "retention.bytes")
    assert "retention.bytes=123456" not in java(broker, "kafka.admin.ConfigCommand", "--describe", "--topic", topic)


def test_java_log_dirs_tool_reports_the_size(broker, name):
    topic = create_topic(broker, name("log-dirs"))
    clients.produce_librdkafka(broker, topic, [("k", "v" * 1000)] * 20)
    out = java(broker, "org.apache.kafka.tools.LogDirsCommand", "--describe", "--topic-list", topic)
    report = json.loads(next(l for l in out.splitlines() if l.startswith("{")))
    sizes = [p["size"] for b in report["brokers"] for d in b["logDirs"] for p in d["partitions"] if p["partition"] == f"{topic}-0"]
    assert len(sizes) == 1 and sizes[0] >= 20_000


def test_java_delete_records_tool(broker, name, tmp_path):
    topic = create_topic(broker, name("delete-tool"))
    clients.produce_librdkafka(broker, topic, [("k", str(i)) for i in range(5)])
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"version": 1, "partitions": [{"topic": topic, "partition": 0, "offset": 3}]}))
    assert "low_watermark: 3" in java(broker, "org.apache.kafka.tools.DeleteRecordsCommand", "--offset-json-file", plan)


def test_franz_go_administers(broker, name):
    seen = json.loads(clients.gokafka(broker, "admin", "-topic", name("kadm")))
    assert seen == {"partitions": 3, "records": 9, "retention": "3600000"}


def test_broker_api_versions_tool_understands_every_row(broker):
    out = java(broker, "org.apache.kafka.tools.BrokerApiVersionsCommand")
    assert "Produce(0): 0 to " in out and "Fetch(1): 4 to " in out and "ApiVersions(18): 0 to " in out


def test_creating_twice_is_refused_and_changes_nothing(broker, name):
    topic = create_topic(broker, name("twice"), partitions=2)
    assert error_of(admin(broker).create_topics([NewTopic(topic, 5, 1)])[topic]) == KafkaError.TOPIC_ALREADY_EXISTS
    assert len(admin(broker).list_topics(topic, timeout=10).topics[topic].partitions) == 2


@pytest.mark.parametrize("bad, code", [
    (dict(topic="a b"), KafkaError.TOPIC_EXCEPTION),
    (dict(topic="x" * 250), KafkaError.TOPIC_EXCEPTION),
    (dict(topic=".."), KafkaError.TOPIC_EXCEPTION),
    (dict(topic="zero-partitions", num_partitions=0), KafkaError.INVALID_PARTITIONS),
    (dict(topic="three-replicas", replication_factor=3), KafkaError.INVALID_REPLICATION_FACTOR),
    (dict(topic="bad-config", config={"retention.ms": "soon"}), KafkaError.INVALID_CONFIG),
    (dict(topic="unknown-config", config={"no.such.config": "1"}), KafkaError.INVALID_CONFIG),
])
def test_wrong_topics_are_refused_with_kafkas_code(broker, bad, code):
    spec = dict(num_partitions=1, replication_factor=1)
    spec.update(bad)
    topic = spec.pop("topic")
    assert error_of(admin(broker).create_topics([NewTopic(topic, **spec)])[topic]) == code
    assert topic not in admin(broker).list_topics(timeout=10).topics


def test_validate_only_creates_nothing(broker, name):
    topic = name("validate")
    admin(broker).create_topics([NewTopic(topic, 1, 1)], validate_only=True)[topic].result()
    assert topic not in admin(broker).list_topics(timeout=10).topics


def test_partitions_cannot_shrink(broker, name):
    topic = create_topic(broker, name("shrink"), partitions=3)
    assert error_of(admin(broker).create_partitions([NewPartitions(topic, 2)])[topic]) == KafkaError.INVALID_PARTITIONS


def test_defaults_are_kafkas(broker, name):
    found = configs(broker, create_topic(broker, name("defaults")))
    expected = {"cleanup.policy": "delete", "compression.type": "producer", "max.message.bytes": "1048588", "message.timestamp.type": "CreateTime",
                "retention.ms": "604800000", "retention.bytes": "-1", "segment.bytes": "1073741824", "min.insync.replicas": "1"}
    assert {k: found[k].value for k in expected} == expected
    assert not [k for k in expected if found[k].source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value]


def test_incremental_alter_sets_and_deletes_one_config(broker, name):
    topic = create_topic(broker, name("incremental"), config={"retention.bytes": "5000000"})
    r = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[ConfigEntry("retention.ms", "60000", incremental_operation=AlterConfigOpType.SET)])
    admin(broker).incremental_alter_configs([r])[r].result()
    found = clients.env.eventually(lambda: (lambda c: c if c["retention.ms"].value == "60000" else None)(configs(broker, topic)), what="config")
    assert found["retention.bytes"].value == "5000000" and not found["retention.ms"].is_default
    r = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[ConfigEntry("retention.ms", None, incremental_operation=AlterConfigOpType.DELETE)])
    admin(broker).incremental_alter_configs([r])[r].result()
    clients.env.eventually(lambda: configs(broker, topic)["retention.ms"].value == "604800000", what="default again")


def test_wrong_config_value_is_refused_and_the_old_stays(broker, name):
    topic = create_topic(broker, name("wrong-config"), config={"retention.ms": "60000"})
    r = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[ConfigEntry("retention.ms", "-7", incremental_operation=AlterConfigOpType.SET)])
    assert error_of(admin(broker).incremental_alter_configs([r])[r]) == KafkaError.INVALID_CONFIG
    assert configs(broker, topic)["retention.ms"].value == "60000"


def test_deleting_an_absent_topic_says_unknown(broker, name):
    topic = name("absent")
    assert error_of(admin(broker).delete_topics([topic])[topic]) == KafkaError.UNKNOWN_TOPIC_OR_PART


def test_a_topic_recreated_under_the_same_name_is_empty_and_has_a_new_id(broker, name):
    topic = create_topic(broker, name("again"))
    clients.produce_librdkafka(broker, topic, [("k", "old")])
    first = admin(broker).describe_topics(confluent_kafka.TopicCollection([topic]))[topic].result().topic_id
    admin(broker).delete_topics([topic])[topic].result()
    clients.env.eventually(lambda: topic not in admin(broker).list_topics(timeout=10).topics, what="deletion")
    create_topic(broker, topic)
    assert str(admin(broker).describe_topics(confluent_kafka.TopicCollection([topic]))[topic].result().topic_id) != str(first)
    clients.produce_librdkafka(broker, topic, [("k", "new")])
    assert [(s.offset, s.value) for s in clients.consume_librdkafka(broker, topic, 1)] == [(0, "new")]


def test_a_producer_makes_a_missing_topic_when_it_may(broker, name):
    topic = name("auto")
    clients.produce_kcat(broker, topic, [("k", "v")])
    assert [s.value for s in clients.consume_kcat(broker, topic, 1)] == ["v"]


def test_describe_cluster_names_one_node_and_its_address(broker):
    c = admin(broker).describe_cluster().result()
    assert len(c.nodes) == 1 and c.nodes[0].host == "localhost" and c.nodes[0].port == broker.port and c.cluster_id
