"""Tenant acme shares a topic with a role or user of tenant globex: read by ARN or by a mounted name, audited on both sides, revocable."""

import json
import re
import uuid

import confluent_kafka
import pytest

from harness import clients, env, wire
from suites.test_tenants import P1

pytestmark = pytest.mark.schloss_only


def cluster(b, tenant):
    text = (b.organisation / "tenants" / tenant / "tenant.toml").read_text()
    return {key: re.search(rf'{key} = "([^"]+)"', text).group(1) for key in ("account", "uuid", "region", "name")}


def arn(b, tenant, topic):
    c = cluster(b, tenant)
    return f"arn:aws:kafka:{c['region']}:{c['account']}:topic/{c['name']}/{c['uuid']}/{topic}"


def document(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


READ = ["kafka-cluster:DescribeTopic", "kafka-cluster:ReadData"]


@pytest.fixture
def b(fresh, name):
    """Two tenants; acme's topic `news` is shared with globex's consumer, which has it mounted as `acme.news`."""
    b = fresh()
    b.topic = clients.create_topic(b, "news")
    clients.produce_librdkafka(b, b.topic, [("k", "from acme")])
    b.arn = arn(b, "acme", b.topic)
    acme, globex = b.organisation / "tenants/acme", b.organisation / "tenants/globex"
    b.share = acme / "cluster-policies/share.json"
    b.share.parent.mkdir(exist_ok=True)
    b.share.write_text(document({"Sid": "Share", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::222222222222:user/consumer"},
                                 "Action": READ, "Resource": b.arn}))
    consumer = json.loads((globex / "policies/consumer.json").read_text())
    consumer["Statement"].append({"Sid": "News", "Effect": "Allow", "Action": READ, "Resource": b.arn})
    (globex / "policies/consumer.json").write_text(json.dumps(consumer))
    (globex / "mounts.toml").write_text(f'[[mount]]\nname = "acme.news"\ntopic = "{b.arn}"\n')
    env.eventually(lambda: fetch(b, "acme.news")[0] == 0, timeout=10, what="the grant")
    return b


def fetch(b, topic, principal="consumer", tenant="globex"):
    with wire.Raw(b, tenant, principal) as raw:
        r = raw.call(wire.build("fetch", 12, replica_id=-1, max_wait=0, max_bytes=100000, session_epoch=-1, topics=[dict(topic=topic, partitions=[P1])]))
        part = r.responses[0].partitions[0]
        return int(part.error_code), bytes(part.records or b"")


def describe(b, topic, principal="consumer"):
    with wire.Raw(b, "globex", principal) as raw:
        m = raw.call(wire.build("metadata", 12, allow_auto_topic_creation=False, topics=[dict(topic_id=uuid.UUID(int=0), name=topic)]))
        return int(m.topics[0].error_code)


@pytest.mark.parametrize("client", ["librdkafka", "kcat", "java", "franz-go"])
def test_a_shared_topic_is_read_by_its_mounted_name_with_every_client(b, client):
    assert [s.value for s in clients.CONSUME[client](b, "acme.news", 1, tenant="globex", principal="consumer")] == ["from acme"]


def test_a_shared_topic_is_read_by_its_arn(b):
    assert describe(b, b.arn) == 0
    code, records = fetch(b, b.arn)
    assert code == 0 and b"from acme" in records


def test_a_group_of_the_reading_tenant_commits_offsets_of_the_shared_topic(b, name):
    group = name("readers")
    conf = clients.librdkafka_conf(b, "globex", "consumer", group_id=group, auto_offset_reset="earliest", enable_auto_commit=False)
    c = confluent_kafka.Consumer(conf)
    c.subscribe(["acme.news"])
    seen = env.eventually(lambda: c.consume(1, 1.0), what="a record through a group")
    assert seen[0].value() == b"from acme"
    c.commit(message=seen[0], asynchronous=False)
    assert c.committed([confluent_kafka.TopicPartition("acme.news", 0)])[0].offset == 1
    c.close()


def test_what_is_not_shared_is_refused_with_one_answer_for_all(b):
    clients.create_topic(b, "secrets")
    for principal, topic in [("consumer", arn(b, "acme", "secrets")), ("consumer", arn(b, "acme", "never-was")), ("consumer", arn(b, "acme", "news") + "x"),
                             ("consumer", b.arn.replace("111111111111", "999999999999")), ("admin", b.arn), ("producer", "acme.news")]:
        assert describe(b, topic, principal) == 29, (principal, topic)
        assert fetch(b, topic, principal)[0] == 29, (principal, topic)


def test_a_shared_topic_cannot_be_written_altered_or_deleted(b):
    from suites.test_idempotence import batch
    with wire.Raw(b, "globex", "consumer") as raw:
        r = raw.call(wire.build("produce", 9, acks=-1, timeout=5000, topic_data=[dict(name="acme.news", partition_data=[dict(index=0, records=batch([b"v"], -1, -1, -1))])]))
        assert int(r.responses[0].partition_responses[0].error_code) == 29
    with wire.Raw(b, "globex", "admin") as raw:
        r = raw.call(wire.build("delete_topics", 5, timeout=5000, topic_names=["acme.news", b.arn]))
        assert all(int(one.error_code) != 0 for one in r.responses)
        r = raw.call(wire.build("create_topics", 5, timeout=5000, topics=[dict(name="acme.news", num_partitions=1, replication_factor=1)]))
        assert int(r.topics[0].error_code) == 36  # TOPIC_ALREADY_EXISTS
    assert [s.value for s in clients.consume_librdkafka(b, b.topic, 1)] == ["from acme"]


def test_a_mount_is_listed_for_those_who_may_see_it_only(b):
    for principal, seen in (("consumer", True), ("producer", False)):
        with wire.Raw(b, "globex", principal) as raw:
            names = [str(t.name) for t in raw.call(wire.build("metadata", 12, topics=None)).topics]
            assert ("acme.news" in names) == seen, principal
    with wire.Raw(b, "acme", "admin") as raw:
        assert b"acme.news" not in raw.call_raw(wire.build("metadata", 12, topics=None))


def test_the_grant_is_revoked_on_live_connections_by_either_side(b):
    for path in (b.share, b.organisation / "tenants/globex/policies/consumer.json"):
        before = path.read_text()
        with wire.Raw(b, "globex", "consumer") as raw:
            def code():
                r = raw.call(wire.build("fetch", 12, replica_id=-1, max_wait=0, max_bytes=100000, session_epoch=-1, topics=[dict(topic="acme.news", partitions=[P1])]))
                return int(r.responses[0].partitions[0].error_code)
            assert code() == 0
            document_without = json.loads(before)
            document_without["Statement"] = [s for s in document_without["Statement"] if s.get("Sid") not in ("Share", "News")] or [
                {"Effect": "Allow", "Principal": {"AWS": "111111111111"}, "Action": "kafka-cluster:Connect", "Resource": "*"}]
            path.write_text(json.dumps(document_without))
            env.eventually(lambda: code() == 29, timeout=10, what="the revocation")
            path.write_text(before)
            env.eventually(lambda: code() == 0, timeout=10, what="the grant again")


def test_both_tenants_audit_logs_have_the_reads_and_the_refusals(b):
    assert fetch(b, "acme.news")[0] == 0
    assert fetch(b, b.arn, "producer")[0] == 29
    assert b.stop() == 0
    for tenant in ("111111111111", "222222222222"):
        for verdict, principal in (("allowed", "consumer"), ("denied", "producer")):
            done = b.run("audit", "query", "--dir", b.folder, "--tenant", tenant, "--verdict", verdict, "--resource", b.arn,
                         "--principal", f"arn:aws:iam::222222222222:user/{principal}", "--action", "kafka-cluster:ReadData", "--output", "json")
            assert done.returncode == 0 and done.stdout.strip(), (tenant, verdict, done.stderr)
