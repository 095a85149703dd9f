"""Policies asked, explained, tried before they bite: `schloss iam lint | simulate | who-can | explain | suggest | shadow`."""

import json
import re
import time

import pytest

from harness import clients, env, wire

pytestmark = pytest.mark.schloss_only

ACCOUNT = "111111111111"


def user(name):
    return f"arn:aws:iam::{ACCOUNT}:user/{name}"


def topic_arn(b, topic):
    tenant = (b.organisation / "tenants/acme/tenant.toml").read_text()
    uuid = re.search(r'uuid = "([^"]+)"', tenant).group(1)
    region = re.search(r'region = "([^"]+)"', tenant).group(1)
    return f"arn:aws:kafka:{region}:{ACCOUNT}:topic/acme/{uuid}/{topic}"


def produce_code(raw, topic):
    from suites.test_idempotence import batch
    r = raw.call(wire.build("produce", 9, acks=-1, timeout=5000, topic_data=[dict(name=topic, partition_data=[dict(index=0, records=batch([b"v"], -1, -1, -1))])]))
    return int(r.responses[0].partition_responses[0].error_code)


@pytest.fixture
def b(fresh, name):
    broker = fresh()
    broker.topic = clients.create_topic(broker, name("iam"))
    return broker


def iam(b, *arguments, code=0):
    done = b.run("iam", *arguments)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def asked(b, *arguments, code=0):
    return json.loads(iam(b, *arguments, "--dir", b.folder, "--output", "json", code=code).stdout)


def test_simulate_names_the_statement_that_allows_and_the_nearest_misses_of_a_denial(b):
    arn = topic_arn(b, b.topic)
    yes = asked(b, "simulate", "--principal", user("producer"), "--action", "WriteData", "--resource", arn)
    assert yes["decision"]["verdict"] == "Allowed" and {
        "layer": "identity", "level": None, "policy": "producer", "sid": "Produce", "statement": 1} in yes["decision"]["decisive"]
    no = asked(b, "simulate", "--principal", user("producer"), "--action", "ReadData", "--resource", arn, code=1)
    assert no["decision"]["verdict"] == "ImplicitlyDenied" and no["decision"]["lacking"] == "identity"
    assert {near["statement"]["sid"] for near in no["nearest"]} == {"Connect", "Produce"}


def test_simulate_takes_the_circumstances_it_is_given(b):
    policy = b.organisation / "tenants/acme/policies/consumer.json"
    document = json.loads(policy.read_text())
    document["Statement"].append({"Sid": "Office", "Effect": "Deny", "Action": "kafka-cluster:ReadData", "Resource": "*",
                                  "Condition": {"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}})
    policy.write_text(json.dumps(document))
    question = ("simulate", "--principal", user("consumer"), "--action", "kafka-cluster:ReadData", "--resource", topic_arn(b, b.topic))
    assert asked(b, *question, "--context", "aws:SourceIp=10.1.2.3")["decision"]["verdict"] == "Allowed"
    no = asked(b, *question, "--context", "aws:SourceIp=192.0.2.1", code=1)
    assert no["decision"]["verdict"] == "ExplicitlyDenied" and no["decision"]["decisive"][0]["sid"] == "Office"


def test_who_can_lists_exactly_those_who_can(b):
    done = iam(b, "who-can", "WriteData", topic_arn(b, b.topic), "--dir", b.folder, "--output", "json")
    can = {json.loads(line)["principal"] for line in done.stdout.splitlines()}
    assert can == {user("admin"), user("producer")}
    for principal in ("admin", "producer", "consumer", "auditor"):
        with wire.Raw(b, "acme", principal) as raw:
            assert (produce_code(raw, b.topic) == 0) == (user(principal) in can), principal


def test_a_question_about_nobody_and_nothing_is_a_wrong_call(b):
    for wrong in (("simulate", "--principal", "arn:aws:iam::999999999999:user/x", "--action", "ReadData", "--resource", topic_arn(b, "t")),
                  ("simulate", "--principal", user("admin"), "--action", "ReedData", "--resource", topic_arn(b, "t")),
                  ("who-can", "ReadData", "arn:aws:kafka:r:999999999999:topic/a/b/c")):
        assert "SCH-602" in iam(b, *wrong, "--dir", b.folder, code=2).stderr


def test_explain_finds_a_refused_request_by_its_id_and_names_what_was_missing(b):
    with wire.Raw(b, "acme", "consumer") as raw:
        assert produce_code(raw, b.topic) == 29
    done = b.run("audit", "query", "--dir", b.folder, "--verdict", "denied", "--principal", user("consumer"), "--output", "json")
    event = json.loads(done.stdout.splitlines()[-1])["event"]
    told = json.loads(iam(b, "explain", event["api"]["request"]["uid"], "--dir", b.folder, "--output", "json").stdout)
    assert told["recorded"]["verdict"] == "denied" and told["recorded"]["api"] == "Produce"
    assert told["now"]["action"] == "kafka-cluster:WriteData" and told["now"]["resource"] == topic_arn(b, b.topic)
    assert told["now"]["decision"]["verdict"] == "ImplicitlyDenied" and told["now"]["nearest"]
    assert told["now"]["context"]["aws:sourceip"] in ("127.0.0.1", "::1")


def test_explain_of_an_unknown_id_says_what_to_do(b):
    assert "audit query" in iam(b, "explain", "no-such-request-1", "--dir", b.folder, code=2).stderr


def test_lint_tells_warnings_with_places_and_fails_on_errors(b, tmp_path):
    policy = tmp_path / "p.json"
    policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "kafka-cluster:ReadData", "Resource": "arn:aws:kafka:*:*:topic/*"},
        {"Effect": "Allow", "Action": "kafka-cluster:WriteDataIdempotently", "Resource": "arn:aws:kafka:*:*:topic/*"},
        {"Effect": "Allow", "Action": "kafka-cluster:WriteData", "Resource": "arn:aws:kafka:*:*:top*/a/*/x", "Condition": {"StringEquals": {"ec2:Vpc": "v"}}},
        {"Effect": "Allow", "Action": "kafka-cluster:DeleteTopic", "Resource": "*"},
        {"Effect": "Deny", "Action": "kafka-cluster:Delete*", "Resource": "*"}]}, indent=1))
    done = iam(b, "lint", policy)
    for told in ("`kafka-cluster:ReadData` is allowed, but `kafka-cluster:DescribeTopic` is not", "applies to resources of type `cluster`",
                 "ec2:vpc", "a wildcard stands in the resource type", "statement 4 denies all of it"):
        assert told in done.stdout, told
    assert re.search(r"p\.json:\d+:\d+: warning", done.stdout)
    iam(b, "lint", policy, "--strict", code=1)
    policy.write_text('{"Statement": [{"Effect": "Allow", "Action": "ReadData", "Resource": "*"}]}')
    assert "error" in iam(b, "lint", policy, code=1).stdout


def test_the_quickstart_has_nothing_to_lint(b):
    assert iam(b, "lint", "--dir", b.folder, "--strict").stdout == ""


def test_batch_answers_line_by_line_in_the_stated_form(b):
    full = {"Version": "2012-10-17", "Statement": [{"Sid": "All", "Effect": "Allow", "Action": "*", "Resource": "*"}]}
    question = {"principal": user("ann"), "context": {}, "action": "kafka-cluster:ReadData", "resource": topic_arn(b, "t"), "resourceAccount": ACCOUNT,
                "policies": {"identity": [full], "boundary": [], "scp": [], "rcp": [], "resource": [], "session": []}}
    lines = [json.dumps({"id": str(n), **question}) for n in range(5000)]
    begun = time.monotonic()
    done = b.run("iam", "simulate", "--batch", "-", stdin="\n".join(lines))
    took = time.monotonic() - begun
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["id"] for a in answers] == [str(n) for n in range(5000)]
    assert all(a["decision"] == "allow" and a["verdict"] == "Allowed" and a["decisive"][0]["sid"] == "All" for a in answers)
    assert took < 5, f"{5000 / took:.0f} a second"


def test_suggest_gives_the_policy_that_would_have_been_enough(b):
    clients.produce_librdkafka(b, b.topic, [("k", "v")], principal="producer")
    assert b.stop() == 0  # counts of the running minute are written
    told = asked(b, "suggest", user("producer"), "--days", "1")
    allowed = {(action, resource) for s in told["policy"]["Statement"] for action in s["Action"] for resource in s["Resource"]}
    assert ("kafka-cluster:WriteData", topic_arn(b, b.topic)) in allowed
    assert ("kafka-cluster:DescribeTopic", topic_arn(b, b.topic)) in allowed
    assert all(resource.split(":")[4] == ACCOUNT and "*" not in resource for _, resource in allowed)
    assert "kafka-cluster:DescribeCluster" in {u["action"] for u in told["unused"]} | {a for a, _ in allowed}
    # The suggestion is a policy, and with it in place of the old one the same producer still works.
    policy = b.organisation / "tenants/acme/policies/producer.json"
    policy.write_text(json.dumps(told["policy"]))
    b.start()
    clients.produce_librdkafka(b, b.topic, [("k", "v2")], principal="producer")


def shadow_metric(b):
    _, text = b.admin_get("/metrics")
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("schloss_shadow_differences_total{"))


def test_a_shadow_policy_is_counted_logged_and_bites_only_when_promoted(b):
    policy = b.organisation / "tenants/acme/policies/producer.json"
    tighter = json.loads(policy.read_text())
    tighter["Statement"].append({"Sid": "Tighter", "Effect": "Deny", "Action": "kafka-cluster:WriteData", "Resource": "*"})
    with wire.Raw(b, "acme", "producer") as raw:
        assert produce_code(raw, b.topic) == 0
        before = shadow_metric(b)
        policy.with_name("producer.shadow.json").write_text(json.dumps(tighter))

        def counted():
            assert produce_code(raw, b.topic) == 0, "a shadow version is in force"
            return shadow_metric(b) > before
        env.eventually(counted, timeout=10, what="a difference in the metric")
        done = iam(b, "shadow", "--promote", "tenants/acme/policies/producer", "--dir", b.folder)
        assert "in force" in done.stdout
        assert produce_code(raw, b.topic) == 29
    assert b.stop() == 0
    told = iam(b, "shadow", "--dir", b.folder).stdout
    assert user("producer") in told and "Tighter" in told
    iam(b, "shadow", "--promote", "../../etc/x", "--dir", b.folder, code=2)


@pytest.mark.parametrize("change", ["policy", "detached", "user removed"])
def test_a_change_is_effective_on_a_live_connection_within_a_second(b, change):
    with wire.Raw(b, "acme", "producer") as raw:
        assert produce_code(raw, b.topic) == 0
        tenant = b.organisation / "tenants/acme"
        begun = time.monotonic()
        if change == "policy":
            policy = tenant / "policies/producer.json"
            document = json.loads(policy.read_text())
            document["Statement"].append({"Effect": "Deny", "Action": "kafka-cluster:WriteData", "Resource": "*"})
            policy.write_text(json.dumps(document))
        elif change == "detached":
            (tenant / "users/producer.toml").write_text("policies = [\"consumer\"]\n")
        else:
            certificates = tenant / "certificates.toml"
            certificates.write_text(certificates.read_text().replace('common_name = "producer"\nuser = "producer"', 'common_name = "gone"\nuser = "producer"'))

        def stopped():
            try:
                return produce_code(raw, b.topic) == 29
            except (wire.Closed, ConnectionError):
                return True
        env.eventually(stopped, timeout=10, every=0.01, what="the change")
        took = time.monotonic() - begun
    assert took < 1.0, f"effective after {took:.2f} s"


def test_break_glass_is_told_to_the_tenant_and_opened_by_its_operator_only(b):
    granted = ("break-glass", "grant", "ticket-1", "--tenant", "acme", "--policy", "managed/auditor", "--reason", "lag that does not end", "--dir", b.folder)
    iam(b, *granted, "--to", "somebody-else")
    refused = b.run("iam", "break-glass", "open", "ticket-1", "--tenant", "acme", "--dir", b.folder)
    assert refused.returncode == 1 and "no grant" in refused.stdout + refused.stderr
    operator = operator_name(b)
    iam(b, *granted, "--to", operator)
    opened = json.loads(b.run("iam", "break-glass", "open", "ticket-1", "--tenant", "acme", "--dir", b.folder).stdout)
    assert opened["role"] == "break-glass.ticket-1" and opened["session_token"]
    assert "holds" in iam(b, "break-glass", "list", "--dir", b.folder).stdout
    iam(b, "break-glass", "revoke", "ticket-1", "--tenant", "acme", "--dir", b.folder)
    assert b.run("iam", "break-glass", "open", "ticket-1", "--tenant", "acme", "--dir", b.folder).returncode == 1
    for action in ("Granted", "Opened", "Withdrawn"):
        done = b.run("audit", "query", "--dir", b.folder, "--tenant", ACCOUNT, "--action", f"schloss:BreakGlass{action}", "--output", "json")
        assert f"operator:{operator}" in done.stdout and "lag that does not end" in done.stdout, action


def operator_name(b):
    from cryptography import x509
    certificate = x509.load_pem_x509_certificate((b.folder / "operator/cert.pem").read_bytes())
    return certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value


def test_a_break_glass_grant_ends_by_itself_on_a_live_connection(b):
    import datetime
    now = datetime.datetime.now(datetime.timezone.utc)
    until = now + datetime.timedelta(seconds=4)
    tenant = b.organisation / "tenants/acme"
    (tenant / "break-glass").mkdir()
    (tenant / "break-glass/t.toml").write_text(f'operator = "olga"\nreason = "r"\nfrom = "{now:%Y-%m-%dT%H:%M:%SZ}"\nuntil = "{until:%Y-%m-%dT%H:%M:%SZ}"\npolicies = ["managed/administrator"]\n')
    rules = tenant / "certificates.toml"
    rules.write_text(rules.read_text().replace('user = "auditor"', 'role = "break-glass.t"'))

    def code():
        with wire.Raw(b, "acme", "auditor") as raw:
            return produce_code(raw, b.topic)
    env.eventually(lambda: code() == 0, timeout=3, what="the grant")
    with wire.Raw(b, "acme", "auditor") as raw:
        assert produce_code(raw, b.topic) == 0
        env.eventually(lambda: produce_code(raw, b.topic) == 29, timeout=10, what="its end")
