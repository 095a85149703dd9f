"""Each managed policy against every kind of call: what it permits passes, everything else is denied with Kafka's code.

A row of CALLS is one request, the actions it needs, how its code is read, and the code of a denial (policies/api-matrix.json).
Which actions a policy permits is read from its file. The rows go over the wire as they are; below, real clients do their
whole flows.
"""

import fnmatch
import json
import uuid

import confluent_kafka
import pytest
from confluent_kafka import KafkaError

from harness import clients, env, wire
from suites.test_tenants import P1

pytestmark = pytest.mark.schloss_only

MANAGED = sorted(path.stem for path in (env.TREE / "policies/managed").glob("*.json"))
ACTIONS = {check["action"] for api in json.loads((env.TREE / "policies/api-matrix.json").read_text()) for check in api["checks"] if check["action"]}
TOPIC, GROUP, CLUSTER, TXN = 29, 30, 31, 53


def permitted(policy):
    statements = json.loads((env.TREE / f"policies/managed/{policy}.json").read_text())["Statement"]
    named = {"Allow": set(), "Deny": set()}
    for statement in statements if isinstance(statements, list) else [statements]:
        patterns = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        named[statement["Effect"]] |= {a for a in ACTIONS if any(fnmatch.fnmatch(f"kafka-cluster:{a}".lower(), p.lower()) for p in patterns)}
    return named["Allow"] - named["Deny"]


def batch():
    from suites.test_idempotence import batch as make
    return make([b"v"], -1, -1, -1)


ENTRY = dict(resource_type=2, resource_name="acl-of-nobody", resource_pattern_type=3, principal="User:nobody", host="*", operation=3, permission_type=3)
ANY = dict(resource_type_filter=2, resource_name_filter="acl-of-nobody", pattern_type_filter=3, operation=1, permission_type=1)
CALLS = {
    "produce": (["WriteData"], TOPIC, lambda t: wire.build("produce", 9, acks=-1, timeout=5000, topic_data=[dict(name=t, partition_data=[dict(index=0, records=batch())])]), lambda r: r.responses[0].partition_responses[0].error_code),
    "produce in a transaction": (["AlterTransactionalId"], TXN, lambda t: wire.build("produce", 9, transactional_id="txn", acks=-1, timeout=5000, topic_data=[dict(name=t, partition_data=[dict(index=0, records=batch())])]), lambda r: r.responses[0].partition_responses[0].error_code),
    "fetch": (["ReadData"], TOPIC, lambda t: wire.build("fetch", 12, replica_id=-1, max_wait=0, max_bytes=100000, session_epoch=-1, topics=[dict(topic=t, partitions=[P1])]), lambda r: r.responses[0].partitions[0].error_code),
    "list offsets": (["DescribeTopic"], TOPIC, lambda t: wire.build("list_offsets", 7, replica_id=-1, topics=[dict(name=t, partitions=[dict(partition_index=0, current_leader_epoch=-1, timestamp=-2)])]), lambda r: r.topics[0].partitions[0].error_code),
    "metadata": (["DescribeTopic"], TOPIC, lambda t: wire.build("metadata", 12, allow_auto_topic_creation=False, topics=[dict(topic_id=uuid.UUID(int=0), name=t)]), lambda r: r.topics[0].error_code),
    "describe topic partitions": (["DescribeTopic"], TOPIC, lambda t: wire.build("describe_topic_partitions", 0, topics=[dict(name=t)], response_partition_limit=10), lambda r: r.topics[0].error_code),
    "offset for leader epoch": (["DescribeTopic"], TOPIC, lambda t: wire.build("offset_for_leader_epoch", 4, replica_id=-1, topics=[dict(topic=t, partitions=[dict(partition=0, current_leader_epoch=-1, leader_epoch=0)])]), lambda r: r.topics[0].partitions[0].error_code),
    "offset commit, group": (["AlterGroup"], GROUP, lambda t: wire.build("offset_commit", 8, group_id="g", generation_id_or_member_epoch=-1, topics=[dict(name="no-such-topic", partitions=[dict(partition_index=0, committed_offset=1, committed_leader_epoch=-1)])]), lambda r: r.topics[0].partitions[0].error_code),
    "offset fetch": (["DescribeGroup"], GROUP, lambda t: wire.build("offset_fetch", 8, groups=[dict(group_id="g", topics=None)]), lambda r: r.groups[0].error_code),
    "find a group's coordinator": (["DescribeGroup"], GROUP, lambda t: wire.build("find_coordinator", 4, key_type=0, coordinator_keys=["g"]), lambda r: r.coordinators[0].error_code),
    "join group": (["AlterGroup"], GROUP, lambda t: wire.build("join_group", 9, group_id="g", session_timeout=6000, rebalance_timeout=6000, member_id="", protocol_type="consumer", protocols=[dict(name="range", metadata=b"")]), lambda r: r.error_code),
    "heartbeat": (["AlterGroup"], GROUP, lambda t: wire.build("heartbeat", 4, group_id="g", generation_id=1, member_id="m"), lambda r: r.error_code),
    "sync group": (["AlterGroup"], GROUP, lambda t: wire.build("sync_group", 5, group_id="g", generation_id=1, member_id="m"), lambda r: r.error_code),
    "leave group": (["AlterGroup"], GROUP, lambda t: wire.build("leave_group", 5, group_id="g", members=[dict(member_id="m")]), lambda r: r.error_code),
    "describe group": (["DescribeGroup"], GROUP, lambda t: wire.build("describe_groups", 5, groups=["g"]), lambda r: r.groups[0].error_code),
    "delete group": (["DeleteGroup"], GROUP, lambda t: wire.build("delete_groups", 2, groups_names=["no-such-group"]), lambda r: r.results[0].error_code),
    "offset delete": (["DeleteGroup"], GROUP, lambda t: wire.build("offset_delete", 0, group_id="no-such-group", topics=[dict(name=t, partitions=[dict(partition_index=0)])]), lambda r: r.error_code),
    "create topic": (["CreateTopic"], TOPIC, lambda t: wire.build("create_topics", 5, timeout=5000, validate_only=True, topics=[dict(name="new-topic", num_partitions=1, replication_factor=1)]), lambda r: r.topics[0].error_code),
    "delete topic": (["DeleteTopic"], TOPIC, lambda t: wire.build("delete_topics", 5, timeout=5000, topic_names=["no-such-topic"]), lambda r: r.responses[0].error_code),
    "delete records": (["DeleteTopic"], TOPIC, lambda t: wire.build("delete_records", 2, timeout=5000, topics=[dict(name=t, partitions=[dict(partition_index=0, offset=0)])]), lambda r: r.topics[0].partitions[0].error_code),
    "create partitions": (["AlterTopic"], TOPIC, lambda t: wire.build("create_partitions", 3, timeout=5000, validate_only=True, topics=[dict(name=t, count=5, assignments=None)]), lambda r: r.results[0].error_code),
    "describe topic configs": (["DescribeTopicDynamicConfiguration"], TOPIC, lambda t: wire.build("describe_configs", 4, resources=[dict(resource_type=2, resource_name=t, configuration_keys=["retention.ms"])]), lambda r: r.results[0].error_code),
    "describe broker configs": (["DescribeClusterDynamicConfiguration"], CLUSTER, lambda t: wire.build("describe_configs", 4, resources=[dict(resource_type=4, resource_name="0", configuration_keys=[])]), lambda r: r.results[0].error_code),
    "alter topic configs": (["AlterTopicDynamicConfiguration"], TOPIC, lambda t: wire.build("incremental_alter_configs", 1, validate_only=True, resources=[dict(resource_type=2, resource_name=t, configs=[dict(name="retention.ms", config_operation=0, value="1000000")])]), lambda r: r.responses[0].error_code),
    "alter topic configs, old": (["AlterTopicDynamicConfiguration"], TOPIC, lambda t: wire.build("alter_configs", 2, validate_only=True, resources=[dict(resource_type=2, resource_name=t, configs=[dict(name="retention.ms", value="1000000")])]), lambda r: r.responses[0].error_code),
    "describe log dirs": (["DescribeCluster"], CLUSTER, lambda t: wire.build("describe_log_dirs", 4, topics=None), lambda r: r.error_code),
    "describe acls": (["DescribeCluster"], CLUSTER, lambda t: wire.build("describe_acls", 3, **ANY), lambda r: r.error_code),
    "create acls": (["AlterCluster"], CLUSTER, lambda t: wire.build("create_acls", 3, creations=[ENTRY]), lambda r: r.results[0].error_code),
    "delete acls": (["AlterCluster"], CLUSTER, lambda t: wire.build("delete_acls", 3, filters=[ANY]), lambda r: r.filter_results[0].error_code),
    "describe quotas": (["DescribeClusterDynamicConfiguration"], CLUSTER, lambda t: wire.build("describe_client_quotas", 1, components=[], strict=False), lambda r: r.error_code),
    "describe scram users": (["DescribeCluster"], CLUSTER, lambda t: wire.build("describe_user_scram_credentials", 0, users=None), lambda r: r.error_code),
    "alter scram users": (["AlterCluster"], CLUSTER, lambda t: wire.build("alter_user_scram_credentials", 0, deletions=[dict(name="nobody", mechanism=1)]), lambda r: r.results[0].error_code),
    "init producer id": (["WriteDataIdempotently", "WriteData"], CLUSTER, lambda t: wire.build("init_producer_id", 4, transactional_id=None, transaction_timeout=60000, producer_id=-1, producer_epoch=-1), lambda r: r.error_code),
}


@pytest.fixture(scope="module", params=MANAGED)
def holder(request, target_class, tmp_path_factory):
    """A broker whose user `producer` has nothing but the managed policy."""
    b = target_class(tmp_path_factory.mktemp("managed") / "broker")
    b.start()
    b.topic = clients.create_topic(b, "managed-topic")
    clients.produce_librdkafka(b, b.topic, [("k", "there")])
    b.policy = request.param
    (b.organisation / "tenants/acme/users/producer.toml").write_text(f'policies = ["managed/{b.policy}"]\n')
    assert b.run("iam", "apply", "--dir", b.folder).returncode == 0
    b.permitted = permitted(b.policy)
    yield b
    b.kill()
    clients.forget(b)


@pytest.mark.parametrize("call", list(CALLS))
def test_each_call_passes_or_is_denied_with_kafkas_code(holder, call):
    needs, denied, request, code_of = CALLS[call]
    with wire.Raw(holder, "acme", "producer") as raw:
        code = int(code_of(raw.call(request(holder.topic))))
    if holder.permitted & set(needs):
        assert code not in (TOPIC, GROUP, CLUSTER, TXN), f"{holder.policy}: {call} is denied"
    else:
        assert code == denied, f"{holder.policy}: {call}"


def outcome(holder, idempotent):
    errors = []
    p = confluent_kafka.Producer(clients.librdkafka_conf(holder, principal="producer", enable_idempotence=idempotent, message_timeout_ms=8000,
                                                         error_cb=lambda e: errors.append(e.code())))
    try:
        p.produce(holder.topic, b"v", on_delivery=lambda e, m: errors.append(e.code() if e else None))
    except confluent_kafka.KafkaException as e:
        return e.args[0].code()
    try:
        p.flush(10)
    except confluent_kafka.KafkaException as e:  # an idempotent producer that is refused its id is at an end
        errors.append(e.args[0].code())
    except SystemError:  # the same, while its callback runs
        errors.append(KafkaError._FATAL)
    return None if None in errors else next((e for e in errors if e), errors)


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_real_producer_produces_only_with_the_rights(holder, idempotent):
    may = {"WriteData", "DescribeTopic"} <= holder.permitted
    got = outcome(holder, idempotent)
    if may:
        assert got is None, f"{holder.policy}: {got}"
    else:
        # A client that is refused its producer id is at an end and gives up what it holds.
        refusals = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError._FATAL, KafkaError._PURGE_QUEUE)
        assert got in refusals, f"{holder.policy}: {got}"


def test_a_real_consumer_group_consumes_only_with_the_rights(holder):
    may = {"DescribeTopic", "ReadData", "DescribeGroup", "AlterGroup"} <= holder.permitted
    errors = []
    c = confluent_kafka.Consumer(clients.librdkafka_conf(holder, principal="producer", group_id=f"g-{uuid.uuid4().hex[:6]}", auto_offset_reset="earliest",
                                                         error_cb=lambda e: errors.append(e.code())))
    c.subscribe([holder.topic])
    try:
        def settled():
            for m in c.consume(10, 0.2):
                if m.error() is None:
                    return "records"
                errors.append(m.error().code())
            return next((e for e in errors if e in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED)), None)
        got = env.eventually(settled, timeout=30, what="records or a refusal")
        assert (got == "records") == may, f"{holder.policy}: {got}"
    finally:
        c.close()


def test_real_administration_only_with_the_rights(holder):
    new = f"by-{holder.policy}"
    a = clients.admin(holder, principal="producer")
    future = a.create_topics([confluent_kafka.admin.NewTopic(new, 1, 1)], request_timeout=20)[new]
    if "CreateTopic" in holder.permitted:
        future.result()
    else:
        with pytest.raises(confluent_kafka.KafkaException) as refused:
            future.result()
        assert refused.value.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
