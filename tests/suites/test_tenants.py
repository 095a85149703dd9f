"""What one tenant asks about another's things is answered exactly as for things that do not exist, byte for byte.

Each row of MATRIX is one request about a topic (by name or id) or a group. It is sent three times: about the tenant's own,
about the other tenant's, about an absent one. Names have equal length, so the last two answers must be the same bytes once
the name is blanked; the first must differ, which shows that the request is well formed and the row not vacuous.
"""

import uuid

import pytest

from harness import clients, wire

pytestmark = pytest.mark.schloss_only

OWN, OTHER, ABSENT = "own-things-of-globex", "the-secrets-of-acme!".replace("!", "x"), "absent-everywhere-xx"
assert len(OWN) == len(OTHER) == len(ABSENT)


def batch():
    from suites.test_idempotence import batch as make
    return make([b"v"], -1, -1, -1)


P1 = dict(partition=0, current_leader_epoch=-1, fetch_offset=0, last_fetched_epoch=-1, log_start_offset=-1, partition_max_bytes=10000)
MATRIX = {
    "metadata by name": lambda n, i: wire.build("metadata", 12, allow_auto_topic_creation=False, topics=[dict(topic_id=uuid.UUID(int=0), name=n)], include_topic_authorized_operations=True),
    "metadata by id": lambda n, i: wire.build("metadata", 12, allow_auto_topic_creation=False, topics=[dict(topic_id=i, name=None)]),
    "metadata by name, old": lambda n, i: wire.build("metadata", 4, allow_auto_topic_creation=False, topics=[dict(name=n)]),
    "describe topic partitions": lambda n, i: wire.build("describe_topic_partitions", 0, topics=[dict(name=n)], response_partition_limit=100),
    "produce by name": lambda n, i: wire.build("produce", 9, acks=-1, timeout=5000, topic_data=[dict(name=n, partition_data=[dict(index=0, records=batch())])]),
    "produce by id": lambda n, i: wire.build("produce", 13, acks=-1, timeout=5000, topic_data=[dict(topic_id=i, partition_data=[dict(index=0, records=batch())])]),
    "fetch by name": lambda n, i: wire.build("fetch", 12, replica_id=-1, max_wait=0, max_bytes=100000, session_epoch=-1, topics=[dict(topic=n, partitions=[P1])]),
    "fetch by id": lambda n, i: wire.build("fetch", 16, max_wait=0, max_bytes=100000, session_epoch=-1, topics=[dict(topic_id=i, partitions=[P1])]),
    "list offsets": lambda n, i: wire.build("list_offsets", 7, replica_id=-1, topics=[dict(name=n, partitions=[dict(partition_index=0, current_leader_epoch=-1, timestamp=-2)])]),
    "list offsets of a wrong epoch": lambda n, i: wire.build("list_offsets", 7, replica_id=-1, topics=[dict(name=n, partitions=[dict(partition_index=0, current_leader_epoch=0, timestamp=-1)])]),
    "offset for leader epoch": lambda n, i: wire.build("offset_for_leader_epoch", 4, replica_id=-1, topics=[dict(topic=n, partitions=[dict(partition=0, current_leader_epoch=-1, leader_epoch=0)])]),
    "delete records": lambda n, i: wire.build("delete_records", 2, timeout=5000, topics=[dict(name=n, partitions=[dict(partition_index=0, offset=0)])]),
    "create partitions": lambda n, i: wire.build("create_partitions", 3, timeout=5000, validate_only=True, topics=[dict(name=n, count=5, assignments=None)]),
    "describe configs": lambda n, i: wire.build("describe_configs", 4, resources=[dict(resource_type=2, resource_name=n, configuration_keys=["retention.ms"])]),
    "alter configs": lambda n, i: wire.build("alter_configs", 2, validate_only=True, resources=[dict(resource_type=2, resource_name=n, configs=[dict(name="retention.ms", value="1000000")])]),
    "incremental alter configs": lambda n, i: wire.build("incremental_alter_configs", 1, validate_only=True, resources=[dict(resource_type=2, resource_name=n, configs=[dict(name="retention.ms", config_operation=0, value="1000000")])]),
    "describe log dirs": lambda n, i: wire.build("describe_log_dirs", 4, topics=[dict(topic=n, partitions=[0])]),
    "create the same name, only validated": lambda n, i: wire.build("create_topics", 4, timeout=5000, validate_only=True, topics=[dict(name=n, num_partitions=1, replication_factor=1)]),
    "describe group": lambda n, i: wire.build("describe_groups", 5, groups=[n], include_authorized_operations=True),
    "offset fetch": lambda n, i: wire.build("offset_fetch", 8, groups=[dict(group_id=n, topics=[dict(name=OWN, partition_indexes=[0])])]),
    "offset fetch, all topics": lambda n, i: wire.build("offset_fetch", 8, groups=[dict(group_id=n, topics=None)]),
    "offset fetch, own group, topic asked": lambda n, i: wire.build("offset_fetch", 8, groups=[dict(group_id=OWN, topics=[dict(name=n, partition_indexes=[0])])]),
    "offset fetch by id": lambda n, i: wire.build("offset_fetch", 10, groups=[dict(group_id=OWN, member_epoch=-1, topics=[dict(topic_id=i, partition_indexes=[0])])]),
    "offset commit to the topic": lambda n, i: wire.build("offset_commit", 8, group_id=OWN, generation_id_or_member_epoch=-1, topics=[dict(name=n, partitions=[dict(partition_index=0, committed_offset=1, committed_leader_epoch=-1)])]),
    "offset commit to the topic's id": lambda n, i: wire.build("offset_commit", 10, group_id=OWN, generation_id_or_member_epoch=-1, topics=[dict(topic_id=i, partitions=[dict(partition_index=0, committed_offset=1, committed_leader_epoch=-1)])]),
    "offset delete": lambda n, i: wire.build("offset_delete", 0, group_id=n, topics=[dict(name="no-such-topic-at-all", partitions=[dict(partition_index=0)])]),
    "delete topic by id": lambda n, i: wire.build("delete_topics", 6, timeout=5000, topics=[dict(name=None, topic_id=i)]),
    "delete topic by name": lambda n, i: wire.build("delete_topics", 5, timeout=5000, topic_names=[n]),
    "delete group": lambda n, i: wire.build("delete_groups", 2, groups_names=[n]),
}
ACL_FILTER = dict(pattern_type_filter=1, operation=1, permission_type=1)
MATRIX |= {
    "describe acls of the topic": lambda n, i: wire.build("describe_acls", 3, resource_type_filter=2, resource_name_filter=n, **ACL_FILTER),
    "delete acls of the topic": lambda n, i: wire.build("delete_acls", 3, filters=[dict(resource_type_filter=2, resource_name_filter=n, **ACL_FILTER)]),
    "create an acl of the topic": lambda n, i: wire.build("create_acls", 3, creations=[dict(resource_type=2, resource_name=n, resource_pattern_type=3, principal="User:" + n, host="*", operation=3, permission_type=3)]),
    "find a transaction's coordinator": lambda n, i: wire.build("find_coordinator", 4, key_type=1, coordinator_keys=[n]),
    "produce in a transaction": lambda n, i: wire.build("produce", 9, transactional_id=n, acks=-1, timeout=5000, topic_data=[dict(name=OWN, partition_data=[dict(index=0, records=batch())])]),
    "describe scram users": lambda n, i: wire.build("describe_user_scram_credentials", 0, users=[dict(name=n)]),
    "alter scram users": lambda n, i: wire.build("alter_user_scram_credentials", 0, deletions=[dict(name=n, mechanism=1)]),
    "describe delegation tokens": lambda n, i: wire.build("describe_delegation_token", 3, owners=[dict(principal_type="User", principal_name=n)]),
    "expire a delegation token": lambda n, i: wire.build("expire_delegation_token", 2, hmac=n.encode(), expiry_time_period=-1),
    "renew a delegation token": lambda n, i: wire.build("renew_delegation_token", 2, hmac=n.encode(), renew_period=1000),
}
# Rows whose answer rightly tells nothing even about the own thing.
SAME_FOR_OWN = {"describe acls of the topic", "delete acls of the topic", "create an acl of the topic", "find a transaction's coordinator",
                "produce in a transaction", "describe scram users", "alter scram users", "describe delegation tokens",
                "expire a delegation token", "renew a delegation token", "heartbeat", "leave group", "sync group", "find coordinator"}
MATRIX |= {
    "find coordinator": lambda n, i: wire.build("find_coordinator", 4, key_type=0, coordinator_keys=[n]),
    "heartbeat": lambda n, i: wire.build("heartbeat", 4, group_id=n, generation_id=1, member_id="no-such-member"),
    "leave group": lambda n, i: wire.build("leave_group", 5, group_id=n, members=[dict(member_id="no-such-member")]),
    "sync group": lambda n, i: wire.build("sync_group", 5, group_id=n, generation_id=1, member_id="no-such-member"),
}


# APIs that name no thing of a tenant, or have tests of their own: JoinGroup, ListGroups, SaslHandshake, ApiVersions, InitProducerId,
# SaslAuthenticate, CreateDelegationToken, DescribeClientQuotas, DescribeCluster, telemetry.
NAMES_NOTHING = {11, 16, 17, 18, 22, 36, 38, 48, 60, 71, 72}


def test_every_advertised_api_is_in_the_matrix_or_said_to_name_nothing(broker):
    with wire.Raw(broker, "globex") as raw:
        advertised = set(raw.api_versions())
    covered = {int(request(OWN, uuid.UUID(int=1)).__api_key__) for request in MATRIX.values()}
    assert advertised - covered - NAMES_NOTHING == set()


@pytest.fixture(scope="module")
def things(broker):
    """A topic with a record and a group with an offset in each tenant; returns the three topics' ids."""
    import confluent_kafka
    ids = {}
    for tenant, thing in (("globex", OWN), ("acme", OTHER)):
        clients.create_topic(broker, thing, tenant=tenant)
        clients.produce_librdkafka(broker, thing, [("k", f"value of {tenant}")], tenant=tenant)
        c = confluent_kafka.Consumer(clients.librdkafka_conf(broker, tenant=tenant, group_id=thing))
        c.commit(offsets=[confluent_kafka.TopicPartition(thing, 0, 1)], asynchronous=False)
        c.close()
        with wire.Raw(broker, tenant) as raw:
            m = raw.call(wire.build("metadata", 12, allow_auto_topic_creation=False, topics=[dict(topic_id=uuid.UUID(int=0), name=thing)]))
            ids[thing] = m.topics[0].topic_id
    ids[ABSENT] = uuid.uuid4()
    return ids


def ask(broker, row, thing, topic_id, principal="admin"):
    """The answer with the asked name and id blanked."""
    request = MATRIX[row](thing, topic_id)
    with wire.Raw(broker, "globex", principal) as raw:
        if raw.api_versions()[int(request.__api_key__)][1] < int(request.__version__):
            pytest.skip("this version is not offered")
        answer = raw.call_raw(request)
    return answer.replace(thing.encode(), b"?" * len(thing)).replace(topic_id.bytes, b"#" * 16)


@pytest.mark.parametrize("row", [r for r in MATRIX if not r.startswith("delete ") or r == "delete records"])
def test_anothers_thing_answers_as_an_absent_one(broker, things, row):
    absent = ask(broker, row, ABSENT, things[ABSENT])
    assert ask(broker, row, OTHER, things[OTHER]) == absent
    if row not in SAME_FOR_OWN:
        assert ask(broker, row, OWN, things[OWN]) != absent, "the row tells nothing even about the own thing: is it well formed?"


@pytest.mark.parametrize("row", ["delete topic by id", "delete topic by name", "delete group"])
def test_deleting_anothers_thing_answers_as_an_absent_one_and_deletes_nothing(broker, things, row):
    assert ask(broker, row, OTHER, things[OTHER]) == ask(broker, row, ABSENT, things[ABSENT])
    assert [s.value for s in clients.consume_librdkafka(broker, OTHER, 1, tenant="acme")] == ["value of acme"]


@pytest.mark.parametrize("principal", ["producer", "consumer", "auditor"])
@pytest.mark.parametrize("row", list(MATRIX))
def test_lesser_principals_cannot_tell_them_apart_either(broker, things, row, principal):
    assert ask(broker, row, OTHER, things[OTHER], principal) == ask(broker, row, ABSENT, things[ABSENT], principal)


def test_joining_a_group_of_anothers_name_makes_an_own_group(broker, name):
    theirs = name("joined-by-acme")
    clients.gokafka(broker, "consume", "-topic", with_a_record(broker, name("t")), "-count", 1, "-group", theirs)

    def join(group):
        with wire.Raw(broker, "globex") as raw:
            r = raw.call(wire.build("join_group", 9, group_id=group, session_timeout=6000, rebalance_timeout=6000, member_id="",
                                    protocol_type="consumer", protocols=[dict(name="range", metadata=b"")]))
            return int(r.error_code), r.generation_id, r.leader, len(r.members), len(r.member_id)
    assert join(theirs) == join(name("joined-by-acme"))


def with_a_record(broker, topic):
    clients.produce_librdkafka(broker, clients.create_topic(broker, topic), [("k", "v")])
    return topic


def test_listings_name_only_the_own(broker, things):
    with wire.Raw(broker, "globex") as raw:
        for request in (wire.build("metadata", 12, topics=None), wire.build("list_groups", 4), wire.build("describe_log_dirs", 4, topics=None)):
            answer = raw.call_raw(request)
            assert OWN.encode() in answer and OTHER.encode() not in answer, type(request).__name__


def test_both_tenants_may_use_one_name_for_different_things(broker, name):
    topic = name("same")
    for tenant in ("acme", "globex"):
        clients.create_topic(broker, topic, tenant=tenant)
        clients.produce_librdkafka(broker, topic, [("k", tenant)], tenant=tenant)
    for tenant in ("acme", "globex"):
        assert [s.value for s in clients.consume_librdkafka(broker, topic, 1, tenant=tenant)] == [tenant]


def test_a_fetch_session_of_another_connection_and_tenant_is_unknown(broker, things):
    with wire.Raw(broker, "acme") as acme, wire.Raw(broker, "globex") as globex:
        opened = acme.call(wire.build("fetch", 12, replica_id=-1, max_bytes=100000, session_epoch=0, topics=[dict(topic=OTHER, partitions=[P1])]))
        taken = globex.call(wire.build("fetch", 12, replica_id=-1, max_bytes=100000, session_id=int(opened.session_id), session_epoch=1))
        assert int(taken.error_code) in (70, 71) and not taken.responses  # FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH


def test_a_producer_id_of_another_tenant_is_as_unknown_as_one_that_never_was(broker, things):
    from suites.test_idempotence import batch as make, produce_raw, producer_id
    with wire.Raw(broker, "acme") as acme:
        pid, epoch = producer_id(acme)
        assert produce_raw(acme, OTHER, make([b"a"], pid, epoch, 0))[0] == 0
    with wire.Raw(broker, "globex") as globex:
        foreign = produce_raw(globex, OWN, make([b"b"], pid, epoch, 1))[0]
        absent = produce_raw(globex, OWN, make([b"b"], pid ^ 0x5a5a, epoch, 1))[0]
        assert foreign == absent
    with wire.Raw(broker, "acme") as acme:  # and its owner goes on undisturbed
        assert produce_raw(acme, OTHER, make([b"c"], pid, epoch, 1))[0] == 0


class TestRoles:
    """Inside a tenant the quickstart's principals may do what their names say, and nothing else."""

    def test_producer_writes_but_does_not_read(self, broker, things):
        clients.produce_librdkafka(broker, OTHER, [("k", "more")], principal="producer")
        with wire.Raw(broker, "acme", "producer") as raw:
            r = raw.call(wire.build("fetch", 12, replica_id=-1, max_bytes=100000, session_epoch=-1, topics=[dict(topic=OTHER, partitions=[P1])]))
            assert int(r.responses[0].partitions[0].error_code) == 29 and not r.responses[0].partitions[0].records  # TOPIC_AUTHORIZATION_FAILED

    def test_consumer_reads_but_does_not_write(self, broker, things):
        assert clients.consume_librdkafka(broker, OTHER, 1, principal="consumer")[0].value == "value of acme"
        with wire.Raw(broker, "acme", "consumer") as raw:
            r = raw.call(MATRIX["produce by name"](OTHER, None))
            assert int(r.responses[0].partition_responses[0].error_code) == 29

    @pytest.mark.parametrize("principal", ["producer", "consumer", "auditor"])
    def test_only_the_admin_deletes(self, broker, things, principal):
        with wire.Raw(broker, "acme", principal) as raw:
            r = raw.call(wire.build("delete_topics", 5, timeout=5000, topic_names=[OTHER]))
            assert int(r.responses[0].error_code) == 29

    def test_auditor_sees_that_a_topic_exists_but_not_its_records(self, broker, things):
        with wire.Raw(broker, "acme", "auditor") as raw:
            assert int(raw.call(MATRIX["metadata by name"](OTHER, None)).topics[0].error_code) == 0
            r = raw.call(wire.build("fetch", 12, replica_id=-1, max_bytes=100000, session_epoch=-1, topics=[dict(topic=OTHER, partitions=[P1])]))
            assert int(r.responses[0].partitions[0].error_code) == 29
