"""Crypto-shredding: after it nothing decrypts, from no copy, and the certificate says so in a chain anybody can verify."""

import json
import shutil

import pytest

from harness import clients, env, reader, traffic, wire
from harness.broker import NotReady
from harness.kms import Kms
from harness.kms_broker import KmsSchloss

pytestmark = [pytest.mark.schloss_only, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def kms():
    with Kms() as k:
        yield k


@pytest.fixture(scope="module")
def shredded(kms, tmp_path_factory):
    """A broker whose topic `doomed` was shredded; what was asked and answered is in `refusal`, `before`, `done`. It runs."""
    for b in grow(kms, tmp_path_factory.mktemp("topic")):
        b.refusal = b.run("keys", "shred-topic", "acme", "doomed", "--dir", b.folder)
        b.still = values(b, "doomed")
        b.before = topic_key_files(b, "acme")
        b.done = b.operate("keys", "shred-topic", "acme", "doomed", "--yes")
        yield b


@pytest.fixture(scope="module")
def gone(kms, tmp_path_factory):
    """A broker whose tenant acme was shredded."""
    for b in grow(kms, tmp_path_factory.mktemp("tenant")):
        b.wrapped = {reader.Segment(p.read_bytes()).wrapped_key().blob for p in b.objects("acme")}
        b.operate("keys", "shred-tenant", "acme", "--yes")
        yield b


def grow(kms, tmp_path):
    """A broker with two topics of acme and one of globex, in segments and in the log; `copies` of the data from before."""
    b = KmsSchloss(tmp_path / "broker", kms, config={"storage.flush.ms": 50})
    b.start()
    for tenant, topic in (("acme", "doomed"), ("acme", "kept"), ("globex", "theirs")):
        clients.create_topic(b, topic, tenant=tenant)
        clients.produce_librdkafka(b, topic, [("k", f"{topic} {i}") for i in range(20)], tenant=tenant)
    env.eventually(lambda: len(b.objects("acme")) >= 1 and len(b.objects("globex")) >= 1, what="segments")
    b.copy = tmp_path / "copy"
    assert b.stop() == 0
    shutil.copytree(b.data, b.copy)
    b.start()
    yield b
    if b.running():
        b.kill()
    clients.forget(b)


def values(b, topic, tenant="acme"):
    from suites.test_kms_revocation import everything
    with wire.Raw(b, tenant=tenant, timeout=30) as raw:
        return everything(raw, topic)


def topic_key_files(b, tenant):
    folder = b.folder / "data-topic-keys" / b.tenants[tenant]
    return {p.name: p.read_bytes() for p in folder.iterdir()} if folder.exists() else {}


def everywhere(b, needle):
    return [p for p in b.folder.rglob("*") if p.is_file() and needle in p.read_bytes()]


def test_shredding_asks_before_it_does_anything(shredded):
    assert shredded.refusal.returncode != 0 and "--yes" in shredded.refusal.stderr + shredded.refusal.stdout
    assert shredded.still == [f"doomed {i}" for i in range(20)]


def test_a_shredded_topic_is_gone_and_the_others_are_served(shredded):
    b = shredded
    assert clients.admin(b).list_topics(timeout=10).topics.keys() & {"doomed", "kept"} == {"kept"}
    assert values(b, "kept") == [f"kept {i}" for i in range(20)]
    assert values(b, "theirs", "globex") == [f"theirs {i}" for i in range(20)]


def test_the_key_of_a_shredded_topic_is_nowhere_in_the_installation(shredded):
    b = shredded
    gone = set(b.before) - set(topic_key_files(b, "acme"))
    assert len(b.before) == 2 and len(gone) == 1
    assert not everywhere(b, b.before[gone.pop()][65:])


def test_the_certificate_stands_in_the_audit_log_and_verify_checks_it(shredded):
    b = shredded
    assert "certificate" in json.dumps(b.done)
    verified = b.run("audit", "verify", "--dir", b.folder)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "certificate" in verified.stdout.lower() or "shred" in verified.stdout.lower(), verified.stdout
    assert any("shred" in line.lower() for line in b.audit_query())


@pytest.mark.parametrize("what", ["the manifest", "the whole data folder"])
def test_an_older_copy_put_back_does_not_bring_a_shredded_topic_back(shredded, what):
    """Somebody kept a copy, and may still ask the KMS. The topic's key is what he has not."""
    b = shredded
    if b.running():
        assert b.stop() == 0
    after = b.copy.with_name("after")
    if not after.exists():
        shutil.copytree(b.data, after)
    shutil.rmtree(b.data)
    shutil.copytree(b.copy if what == "the whole data folder" else after, b.data)
    if what == "the manifest":
        for name in ("manifest.db", "manifest.db-wal", "manifest.db-shm"):
            (b.data / name).unlink(missing_ok=True)
            if (b.copy / name).exists():
                shutil.copyfile(b.copy / name, b.data / name)
    try:
        b.start(timeout=30)
    except NotReady as refused:
        assert "SCH-" in str(refused)
        return
    with wire.Raw(b, timeout=30) as raw:
        code, records = traffic.fetch(raw, "doomed")
        assert code and not records, (code, records)
        if what == "the whole data folder":
            assert b"kept 0" in traffic.fetch(raw, "kept")[1]


def test_a_shredded_tenant_is_gone_and_others_are_served(gone):
    b = gone
    with pytest.raises((AssertionError, OSError, wire.Closed)):
        assert values(b, "kept") == []
    assert values(b, "theirs", "globex") == [f"theirs {i}" for i in range(20)]


def test_no_object_of_a_shredded_tenant_and_none_of_its_wrapped_keys_is_left(gone):
    b = gone
    assert b.wrapped
    left = lambda: [p for w in b.wrapped for p in everywhere(b, w)]  # noqa: E731
    env.eventually(lambda: not left() and not b.objects("acme"), timeout=60, what="no copy of a wrapped key")
    assert not topic_key_files(b, "acme")


def test_a_copied_data_folder_does_not_open_a_shredded_tenant_once_its_key_is_gone(gone, kms):
    """Copies of wrapped keys outside our reach die with the tenant's KMS key, whose deletion is offered."""
    b = gone
    kms.schedule_deletion(b.keys["acme"])
    assert b.stop() == 0
    shutil.rmtree(b.data)
    shutil.copytree(b.copy, b.data)
    try:
        b.start(timeout=30)
    except NotReady:
        return
    with pytest.raises((AssertionError, OSError, wire.Closed)):
        values(b, "doomed")
