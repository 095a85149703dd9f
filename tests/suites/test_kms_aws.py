"""Tenants' keys in AWS KMS (moto behind a door that counts and refuses)."""

import re

import confluent_kafka
import pytest

from harness import clients, env
from harness.kms_door import Door, Moto

pytestmark = [pytest.mark.schloss_only, pytest.mark.timeout(180)]
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture(scope="module")
def moto(tmp_path_factory):
    m = Moto(tmp_path_factory.mktemp("moto"))
    m.wait()
    yield m
    m.end()


@pytest.fixture
def aws(moto, fresh):
    """A broker whose two tenants and cluster each have a KMS key; (broker, door, {who: key arn})."""
    door = Door(moto.port)
    keys = {who: moto.client("kms").create_key(Description=who)["KeyMetadata"]["Arn"] for who in ("acme", "globex", "cluster")}
    b = fresh(start=False, environment=CREDENTIALS, config={
        "kms.provider": "aws", "kms.aws.region": "eu-central-1", "kms.aws.endpoint": f"http://127.0.0.1:{door.port}",
        "kms.cluster.key": keys["cluster"], "kms.local.keyring.file": None, "kms.local.key.file": None})
    b.prepare()
    for tenant in ("acme", "globex"):
        for f in (b.organisation / "tenants" / tenant).glob("tenant.toml"):
            f.write_text(re.sub(r'(?m)^(kms[\w.]*)\s*=\s*".*"', lambda m: f'{m.group(1)} = "{keys[tenant]}"', f.read_text()))
    import shutil
    shutil.rmtree(b.data)  # what quickstart wrote under the local keyring
    b.data.mkdir()
    b.start()
    yield b, door, keys
    if b.running():
        b.kill()
    door.end()


def test_records_survive_a_restart_under_kms_keys(aws, name):
    b, door, keys = aws
    topic = clients.create_topic(b, name("kms"))
    clients.produce_librdkafka(b, topic, [("k", f"value {i}") for i in range(50)])
    assert b.stop() == 0
    b.start()
    assert len(clients.consume_librdkafka(b, topic, 50)) == 50
    assert {op for op, _ in door.calls} >= {"GenerateDataKey", "Decrypt"}


def test_every_call_names_its_tenant_and_purpose_in_the_encryption_context(aws, name):
    b, door, keys = aws
    for tenant in ("acme", "globex"):
        clients.produce_librdkafka(b, clients.create_topic(b, name("ctx"), tenant=tenant), [("k", "v")], tenant=tenant)
    of = {keys[t]: {str(sorted(asked["EncryptionContext"].items())) for op, asked in door.calls if asked.get("KeyId") == keys[t] and op in ("GenerateDataKey", "Decrypt")}
          for t in ("acme", "globex")}
    assert all(of.values()), "a tenant's key was never used"
    assert not of[keys["acme"]] & of[keys["globex"]], "two tenants share an encryption context"
    assert all("purpose" in c and "tenant" in c for contexts in of.values() for c in contexts)


def test_the_data_path_makes_no_call_per_batch(aws, name):
    b, door, keys = aws
    topic = clients.create_topic(b, name("budget"))
    clients.produce_librdkafka(b, topic, [("k", "warm")])
    before = len(door.calls)
    for i in range(20):
        clients.produce_librdkafka(b, topic, [("k", f"{i} {j}") for j in range(20)])
    assert len(door.calls) - before <= 4


def produce_error(b, topic, tenant, seconds=4):
    """None when a record is acknowledged within the time, else the error."""
    out = []
    p = confluent_kafka.Producer(clients.librdkafka_conf(b, tenant=tenant, message_timeout_ms=seconds * 1000))
    p.produce(topic, value=b"v", on_delivery=lambda e, m: out.append(e))
    p.flush(seconds + 5)
    return out[0] if out else "no answer"


def test_a_disabled_key_stops_its_tenant_only_and_enabling_brings_it_back(aws, name):
    b, door, keys = aws
    topics = {t: clients.create_topic(b, name("revoked"), tenant=t) for t in ("acme", "globex")}
    for t in topics:
        clients.produce_librdkafka(b, topics[t], [("k", "before")], tenant=t)
    door.refuse[keys["acme"].rpartition("/")[2]] = "DisabledException"
    env.eventually(lambda: produce_error(b, topics["acme"], "acme", 2), timeout=60, what="acme being stopped")
    assert produce_error(b, topics["globex"], "globex") is None
    door.refuse.clear()
    env.eventually(lambda: produce_error(b, topics["acme"], "acme", 5) is None, timeout=60, what="acme being served again")
    assert [s.value for s in clients.consume_librdkafka(b, topics["acme"], 2, tenant="acme")][0] == "before"


def test_an_outage_of_the_kms_does_not_stop_what_has_its_keys(aws, name):
    b, door, keys = aws
    topic = clients.create_topic(b, name("outage"))
    clients.produce_librdkafka(b, topic, [("k", "before")])
    door.down = True
    clients.produce_librdkafka(b, topic, [("k", "during")])
    assert [s.value for s in clients.consume_librdkafka(b, topic, 2)] == ["before", "during"]


def test_start_without_the_kms_serves_nothing_in_the_clear_and_says_why(aws):
    b, door, keys = aws
    assert b.stop() == 0
    door.down = True
    try:
        b.start(timeout=40)
        status = env.eventually(lambda: readyz(b), timeout=20, what="the admin listener")
        assert status == 503 or produce_error(b, "none", "acme")
    except AssertionError as error:
        assert "kms" in str(error).lower() or "key" in str(error).lower(), error


def readyz(b):
    import urllib.error
    try:
        return b.admin_get("/readyz")[0]
    except urllib.error.HTTPError as error:
        return error.code
