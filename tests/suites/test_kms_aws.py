"""Tenants' keys in AWS KMS: what the broker asks of it, as the stand-in sees it."""

import pytest

from harness import clients, env, reader
from harness.kms import Kms
from harness.kms_broker import KmsSchloss

pytestmark = [pytest.mark.schloss_only, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def kms():
    with Kms() as k:
        yield k


@pytest.fixture(scope="module")
def aws(kms, tmp_path_factory):
    """A broker whose cluster and two tenants each have a KMS key."""
    b = KmsSchloss(tmp_path_factory.mktemp("kms") / "broker", kms, config={"storage.flush.ms": 100})
    b.start()
    yield b
    if b.running():
        b.kill()
    clients.forget(b)


def calls_of(aws, tenant):
    return [c for c in aws.kms.calls.of(key=aws.keys[tenant]) if c.outcome == "ok" and c.context]


def test_records_survive_a_restart_under_kms_keys(aws, name):
    topic = clients.create_topic(aws, name("kms"))
    clients.produce_librdkafka(aws, topic, [("k", f"value {i}") for i in range(50)])
    assert aws.stop() == 0
    mark = len(aws.kms.calls)
    aws.start()
    assert len(clients.consume_librdkafka(aws, topic, 50)) == 50
    assert aws.kms.calls.count("GenerateDataKey", outcome="ok") and aws.kms.calls.since(mark).count("Decrypt", outcome="ok")


def test_every_call_is_signed_and_names_its_tenant_and_purpose_in_the_encryption_context(aws, name):
    for tenant in ("acme", "globex"):
        clients.produce_librdkafka(aws, clients.create_topic(aws, name("context"), tenant=tenant), [("k", "v")], tenant=tenant)
        purposes = lambda: {c.context["schloss:purpose"] for c in calls_of(aws, tenant)}  # noqa: E731
        env.eventually(lambda: {"segment", "wal", "metadata", "index"} <= purposes(), what=f"a key of every purpose for {tenant}")
    contexts = {t: [c.context for c in calls_of(aws, t)] for t in ("acme", "globex", "cluster")}
    for tenant in ("acme", "globex"):
        assert {c["schloss:tenant"] for c in contexts[tenant]} == {aws.tenants[tenant]}
    assert {c["schloss:tenant"] for c in contexts["cluster"]} == {"000000000000"}
    assert {c.caller for c in aws.kms.calls} == {aws.kms.root.arn} and not aws.kms.calls.count(outcome="InvalidSignatureException")


def test_a_segment_opens_with_its_keys_from_the_kms_and_the_documentation(aws, name):
    topic = clients.create_topic(aws, name("read"))
    clients.produce_librdkafka(aws, topic, [("k", f"{topic} {i}") for i in range(10)])
    env.eventually(lambda: aws.metric("schloss_tail_bytes") == 0, what="the records in a segment")
    assert aws.stop() == 0
    found, unwrap = [], reader.AwsKms(aws.kms.boto()).unwrap
    for path in aws.objects("acme"):
        s = reader.Segment(path.read_bytes())
        s.open(unwrap(s.wrapped_key(), s.context()), reader.TopicKeys(aws.folder / "data-topic-keys", aws.data / "manifest.db", unwrap).of(s.header))
        found += [r.value.decode() for _, _, batch in s.batches() for r in reader.records(batch)]
    aws.start()
    assert [v for v in found if v.startswith(topic)] == [f"{topic} {i}" for i in range(10)]
