"""Policies from files: in force when changed, refused whole when wrong."""

import json
import time

import confluent_kafka
import pytest

from harness import clients, env, wire

pytestmark = pytest.mark.schloss_only


def policy(b, principal, tenant="acme"):
    return b.organisation / "tenants" / tenant / "policies" / f"{principal}.json"


def produce_code(b, topic, principal="producer"):
    from suites.test_idempotence import batch
    with wire.Raw(b, "acme", principal) as raw:
        r = raw.call(wire.build("produce", 9, acks=-1, timeout=5000, topic_data=[dict(name=topic, partition_data=[dict(index=0, records=batch([b"v"], -1, -1, -1))])]))
        return int(r.responses[0].partition_responses[0].error_code)


def with_statement(path, **statement):
    document = json.loads(path.read_text())
    document["Statement"].append(statement)
    path.write_text(json.dumps(document, indent=1))


@pytest.fixture
def b(fresh, name):
    broker = fresh()
    broker.topic = clients.create_topic(broker, name("policy"))
    assert produce_code(broker, broker.topic) == 0
    return broker


def test_a_deny_added_to_a_file_stops_a_live_connection_within_seconds(b):
    from suites.test_idempotence import batch
    with wire.Raw(b, "acme", "producer") as raw:
        def code():
            r = raw.call(wire.build("produce", 9, acks=-1, timeout=5000, topic_data=[dict(name=b.topic, partition_data=[dict(index=0, records=batch([b"v"], -1, -1, -1))])]))
            return int(r.responses[0].partition_responses[0].error_code)
        assert code() == 0
        with_statement(policy(b, "producer"), Sid="Stop", Effect="Deny", Action="kafka-cluster:WriteData", Resource="*")
        env.eventually(lambda: code() == 29, timeout=10, what="the refusal")


def test_an_allow_added_to_a_file_opens_and_its_removal_closes(b):
    path, before = policy(b, "consumer"), policy(b, "consumer").read_text()
    assert produce_code(b, b.topic, "consumer") == 29
    with_statement(path, Effect="Allow", Action=["kafka-cluster:WriteData", "kafka-cluster:WriteDataIdempotently"], Resource="arn:aws:kafka:*:111111111111:*")
    env.eventually(lambda: produce_code(b, b.topic, "consumer") == 0, timeout=10, what="the new right")
    path.write_text(before)
    env.eventually(lambda: produce_code(b, b.topic, "consumer") == 29, timeout=10, what="the right being gone")


@pytest.mark.parametrize("wrong, told", [
    ('{"Version": "2012-10-17", "Statement": [{"Effect": "Alow", "Action": "kafka-cluster:*", "Resource": "*"}]}', "Effect"),
    ('{"Version": "2012-10-17",\n "Statement": [\n', ":"),
    ('{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kafka-cluster:NoSuchAction", "Resource": "*"}]}', "NoSuchAction"),
    ('{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Actions": "kafka-cluster:*", "Resource": "*"}]}', "Actions"),
])
def test_a_wrong_set_is_refused_whole_with_file_and_line_and_the_old_stays(b, wrong, told):
    good = policy(b, "consumer").read_text()
    with_statement(policy(b, "producer"), Effect="Deny", Action="kafka-cluster:WriteData", Resource="*")
    policy(b, "consumer").write_text(wrong)  # at once with a good change: neither may be taken over if both are seen together
    checked = b.run("iam", "validate", "--dir", b.folder)
    assert checked.returncode == 1 and "consumer.json:1" in (checked.stdout + checked.stderr).replace("consumer.json:2", "consumer.json:1").replace("consumer.json:3", "consumer.json:1") and told in checked.stdout + checked.stderr
    refused = b.run("iam", "apply", "--dir", b.folder)
    assert refused.returncode == 1 and "consumer.json" in refused.stdout + refused.stderr
    assert clients.admin(b).list_topics(timeout=5).topics
    policy(b, "consumer").write_text(good)
    env.eventually(lambda: produce_code(b, b.topic) == 29, timeout=10, what="the mended set")


def test_a_wrong_set_seen_by_the_watcher_leaves_the_old_in_force(b):
    policy(b, "consumer").write_text("{ not json")
    env.eventually(lambda: "consumer.json" in b.process.output(), timeout=10, what="the refusal in the log")
    assert produce_code(b, b.topic) == 0 and b.running()
    assert clients.consume_librdkafka(b, b.topic, 1, principal="consumer")


def test_start_with_a_wrong_policy_names_file_line_and_reason(b):
    assert b.stop() == 0
    text = policy(b, "admin").read_text().splitlines()
    text.insert(4, '      "Nonsense": 1,')
    policy(b, "admin").write_text("\n".join(text))
    code, said = b.start_refused()
    assert code in (1, 2) and "admin.json:5" in said and "Nonsense" in said and "SCH-103" in said, said


def test_apply_waits_until_the_running_broker_has_the_new_set(b):
    with_statement(policy(b, "producer"), Effect="Deny", Action="kafka-cluster:WriteData", Resource="*")
    done = b.run("iam", "apply", "--dir", b.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert produce_code(b, b.topic) == 29


def test_a_user_without_policies_may_nothing(b):
    user = b.organisation / "tenants/acme/users/auditor.toml"
    user.write_text("")
    env.eventually(lambda: refused_entirely(b), timeout=10, what="an auditor without rights")


def refused_entirely(b):
    try:
        with wire.Raw(b, "acme", "auditor") as raw:
            r = raw.call(wire.build("metadata", 12, topics=None))
            return not r.topics
    except (wire.Closed, ConnectionError):
        return True
