"""Policies from files: in force when changed, refused whole when wrong."""

import json
import re
import shutil

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
    ('{"Version": "2012-10-17", "Statement": [{"Effect": "Alow", "Action": "kafka-cluster:*", "Resource": "*"}]}', "Alow"),
    ('{"Version": "2012-10-17",\n "Statement": [\n', ":"),
    ('{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Actions": "kafka-cluster:*", "Resource": "*"}]}', "Actions"),
])
def test_a_wrong_set_is_refused_whole_with_file_and_line_and_the_old_stays(b, wrong, told):
    draft = Draft(b)
    with_statement(draft.policy("producer"), Effect="Deny", Action="kafka-cluster:WriteData", Resource="*")  # a good change beside the wrong one
    draft.policy("consumer").write_text(wrong)
    for call in (["iam", "validate", draft.folder], ["iam", "apply", draft.folder, "--dir", b.folder]):
        done = b.run(*call)
        said = done.stdout + done.stderr
        assert done.returncode == 1 and re.search(r"consumer\.json:\d+", said) and told in said and "SCH-103" in said, said
    assert produce_code(b, b.topic) == 0, "a part of a refused set is in force"


class Draft:
    """A copy of an installation's organisation to be changed and applied."""

    def __init__(self, b):
        self.folder = b.folder.parent / "draft"
        shutil.copytree(b.organisation, self.folder)

    def policy(self, principal, tenant="acme"):
        return self.folder / "tenants" / tenant / "policies" / f"{principal}.json"


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
    draft = Draft(b)
    with_statement(draft.policy("producer"), Effect="Deny", Action="kafka-cluster:WriteData", Resource="*")
    done = b.run("iam", "apply", draft.folder, "--dir", b.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert produce_code(b, b.topic) == 29


def test_an_action_that_does_not_exist_is_warned_of(b):
    """IAM accepts it, so it is no mistake; but it is hardly what was meant."""
    draft = Draft(b)
    with_statement(draft.policy("consumer"), Effect="Allow", Action="kafka-cluster:NoSuchAction", Resource="*")
    done = b.run("iam", "validate", draft.folder)
    assert done.returncode == 0 and "NoSuchAction" in done.stderr and "consumer.json" in done.stderr


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
