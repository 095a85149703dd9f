"""Kafka ACLs through Kafka's own tool, for principals that are not IAM's."""

import pytest

from harness import clients, env, wire

pytestmark = pytest.mark.schloss_only

ACLS = "org.apache.kafka.tools.AclCommand"


def acls(b, *arguments, principal="admin"):
    return clients.java(b, ACLS, *arguments, principal=principal, timeout=120)


@pytest.fixture
def b(fresh, name):
    """acme's certificate `producer` is no IAM user here but Kafka's `User:producer`."""
    b = fresh()
    b.topic = clients.create_topic(b, name("acl"))
    rules = b.organisation / "tenants/acme/certificates.toml"
    rules.write_text(rules.read_text().replace('user = "producer"', 'kafka_user = "producer"'))
    env.eventually(lambda: produce(b, b.topic) == 29, timeout=10, what="a Kafka principal without entries")
    return b


def produce(b, topic, principal="producer"):
    from suites.test_idempotence import batch
    with wire.Raw(b, "acme", principal) as raw:
        r = raw.call(wire.build("produce", 9, acks=-1, timeout=5000, topic_data=[dict(name=topic, partition_data=[dict(index=0, records=batch([b"v"], -1, -1, -1))])]))
        return int(r.responses[0].partition_responses[0].error_code)


def test_kafka_acls_adds_lists_and_removes_and_each_bites_at_once(b):
    acls(b, "--add", "--allow-principal", "User:producer", "--operation", "Write", "--topic", b.topic)
    assert produce(b, b.topic) == 0
    assert produce(b, b.topic + "x") == 29
    listed = acls(b, "--list", "--topic", b.topic, "--principal", "User:producer")
    assert "principal=User:producer, host=*, operation=WRITE, permissionType=ALLOW" in listed
    acls(b, "--add", "--deny-principal", "User:producer", "--operation", "Write", "--topic", b.topic)
    assert produce(b, b.topic) == 29
    acls(b, "--remove", "--force", "--deny-principal", "User:producer", "--operation", "Write", "--topic", b.topic)
    assert produce(b, b.topic) == 0
    acls(b, "--remove", "--force", "--topic", b.topic)
    assert produce(b, b.topic) == 29


def test_prefixed_entries_and_the_producer_shortcut(b, name):
    acls(b, "--add", "--allow-principal", "User:producer", "--producer", "--topic", b.topic[:5], "--resource-pattern-type", "prefixed")
    clients.produce_librdkafka(b, b.topic, [("k", "v")], principal="producer")
    assert "patternType=PREFIXED" in acls(b, "--list", "--topic", b.topic, "--resource-pattern-type", "match")


def test_entries_survive_a_restart_and_rest_sealed(b):
    acls(b, "--add", "--allow-principal", "User:producer", "--operation", "Write", "--topic", b.topic)
    assert b.stop() == 0
    for path in b.data.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b.topic.encode() not in content and b"User:producer" not in content, path
    b.start()
    assert produce(b, b.topic) == 0


def test_entries_of_one_tenant_are_unknown_to_the_other(b):
    acls(b, "--add", "--allow-principal", "User:producer", "--operation", "Write", "--topic", b.topic)
    with wire.Raw(b, "globex", "admin") as raw:
        answer = raw.call_raw(wire.build("describe_acls", 3, resource_type_filter=1, pattern_type_filter=1, operation=1, permission_type=1))
    assert b.topic.encode() not in answer and b"User:producer" not in answer and b"111111111111" not in answer


def test_iam_users_are_not_governed_by_entries_and_their_policies_are_told_as_entries(b):
    acls(b, "--add", "--deny-principal", "User:*", "--operation", "All", "--topic", "*")
    assert produce(b, b.topic, "admin") == 0
    listed = acls(b, "--list", "--principal", "IAM:arn:aws:iam::111111111111:user/consumer")
    assert "operation=READ, permissionType=ALLOW" in listed and "principal=IAM:arn:aws:iam::111111111111:user/consumer" in listed


@pytest.mark.parametrize("principal", ["consumer", "auditor", "producer"])
def test_only_those_who_may_alter_the_cluster_change_entries(b, principal):
    entry = dict(resource_type=2, resource_name=b.topic, resource_pattern_type=3, principal="User:producer", host="*", operation=4, permission_type=3)
    with wire.Raw(b, "acme", principal) as raw:
        r = raw.call(wire.build("create_acls", 3, creations=[entry]))
        assert int(r.results[0].error_code) == 31  # CLUSTER_AUTHORIZATION_FAILED
        r = raw.call(wire.build("delete_acls", 3, filters=[dict(resource_type_filter=1, pattern_type_filter=1, operation=1, permission_type=1)]))
        assert int(r.filter_results[0].error_code) == 31 and not r.filter_results[0].matching_acls
    assert produce(b, b.topic) == 29


@pytest.mark.parametrize("wrong", [dict(resource_type=1), dict(resource_pattern_type=2), dict(principal="producer"), dict(host="example.com"),
                                   dict(operation=1), dict(permission_type=1), dict(resource_type=3, operation=4), dict(resource_name="")])
def test_entries_that_kafka_refuses_are_refused_and_the_good_beside_them_is_taken(b, wrong):
    good = dict(resource_type=2, resource_name=b.topic, resource_pattern_type=3, principal="User:producer", host="*", operation=4, permission_type=3)
    with wire.Raw(b, "acme", "admin") as raw:
        r = raw.call(wire.build("create_acls", 3, creations=[good | wrong, good]))
        assert [int(one.error_code) for one in r.results] == [42, 0]  # INVALID_REQUEST
    assert produce(b, b.topic) == 0


def test_every_change_is_in_the_audit_log_with_its_entry(b):
    acls(b, "--add", "--allow-principal", "User:producer", "--operation", "Write", "--topic", b.topic)
    done = b.run("audit", "query", "--dir", b.folder, "--class", "administration", "--action", "kafka-cluster:AlterCluster", "--output", "json")
    assert "ALLOW User:producer Write topic Literal" in done.stdout and b.topic in done.stdout


def test_a_kafka_user_with_a_scram_password_is_judged_by_entries(b):
    import confluent_kafka
    from confluent_kafka.admin import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
    tenant = b.organisation / "tenants/acme/tenant.toml"
    tenant.write_text('kafka_users = ["outsider"]\n' + tenant.read_text())

    def made():
        change = UserScramCredentialUpsertion("outsider", ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 8192), b"open sesame")
        return all(done.result() is None for done in clients.admin(b).alter_user_scram_credentials([change]).values())
    env.eventually(made, timeout=10, what="the password")

    def outcome():
        told = []
        p = confluent_kafka.Producer({"bootstrap.servers": f"acme.localhost:{b.port}", "security.protocol": "sasl_ssl", "sasl.mechanism": "SCRAM-SHA-512",
                                      "sasl.username": "outsider", "sasl.password": "open sesame", "ssl.ca.location": str(b.client().ca), "log_level": 0,
                                      "message.timeout.ms": 8000})
        p.produce(b.topic, b"v", on_delivery=lambda e, m: told.append(e.code() if e else 0))
        p.flush(10)
        return told[0]
    assert outcome() == 29
    acls(b, "--add", "--allow-principal", "User:outsider", "--operation", "Write", "--operation", "Describe", "--topic", b.topic)
    assert outcome() == 0
