"""A tenant changes its KMS key while its clients work: every wrapped key moves, the old key can go, every record still reads."""

import re
import subprocess
import time

import pytest

from harness import clients, env, reader, traffic, wire
from harness.kms import Kms
from harness.kms_broker import KmsSchloss
from harness.traffic import Producer

pytestmark = [pytest.mark.schloss_only, pytest.mark.timeout(180)]
SEGMENTS = 20
BATCH = 8  # wrapped keys that are stored at once


@pytest.fixture(scope="module")
def kms():
    with Kms() as k:
        yield k


@pytest.fixture
def grown(kms, tmp_path):
    """A broker in which acme has SEGMENTS segments, records not flushed yet, and a group's offset."""
    b = KmsSchloss(tmp_path / "broker", kms, config={"storage.flush.ms": 20})
    b.start()
    b.topic = clients.create_topic(b, "old")
    b.values = []
    with wire.Raw(b) as raw:
        for i in range(SEGMENTS):
            b.values.append(f"record {i}")
            assert traffic.produce(raw, b.topic, b.values[-1].encode()) == 0
            env.eventually(lambda: len(b.objects("acme")) > i, every=0.01, what="a segment")
        assert traffic.commit(raw, b.topic, "readers") == 0
    clients.produce_librdkafka(b, clients.create_topic(b, "theirs", tenant="globex"), [("k", "v")], tenant="globex")
    yield b
    if b.running():
        b.kill()
    clients.forget(b)


def read_all(b, topic="old", tenant="acme"):
    with wire.Raw(b, tenant=tenant, timeout=30) as raw:
        return traffic.everything(raw, topic)


def set_key(b, kms, alias="acme"):
    """Makes a new key the tenant's current one and waits until the broker wraps with it; (old, new)."""
    old, new = b.keys[alias], kms.create_key(f"{alias}, second")
    b.keys[alias] = new
    b.operate("tenant", "set-key", alias, "--kms-key", new)
    with wire.Raw(b, tenant=alias) as raw:
        def used():
            traffic.produce(raw, "old" if alias == "acme" else "theirs", b"asked")
            return kms.calls.count("GenerateDataKey", new, "ok")
        env.eventually(used, timeout=30, every=0.2, what="a data key under the new key")
    return old, new


def kinds(kms, mark, key):
    return {c.operation for c in kms.calls.since(mark).of(key=key, outcome="ok")}


def test_after_a_rewrap_the_old_key_can_be_disabled_and_every_record_still_reads(grown, kms):
    b = grown
    traffic_of_acme = Producer(b, "acme", clients.create_topic(b, "running"))
    before = {p.name for p in b.objects("acme")}
    old, new = set_key(b, kms)
    mark = len(kms.calls)
    result = b.operate("keys", "rewrap", "acme")
    moved = kms.calls.since(mark).of("ReEncrypt", key=new, outcome="ok")
    print(f"rewrap said {result}, the KMS saw {len(moved)} ReEncrypt calls")
    assert len(moved) >= SEGMENTS and all(old in c.keys for c in moved)
    assert before <= {p.name for p in b.objects("acme")}, "a rewrap rewrites no data"
    kms.disable(old)
    mark = len(kms.calls)
    acknowledged = traffic_of_acme.stop()
    assert b.stop() == 0
    b.start()
    assert [v for v in read_all(b) if v != "asked"] == b.values
    assert read_all(b, "running") == acknowledged
    assert committed(b, "readers") == 1
    assert not kms.calls.since(mark).of(key=old), "the old key was asked for after the re-wrap"
    b.operate("tenant", "drop-key", "acme", "--kms-key", old)
    assert [v for v in read_all(b) if v != "asked"] == b.values


def committed(b, group):
    import confluent_kafka
    c = confluent_kafka.Consumer(clients.librdkafka_conf(b, group_id=group))
    try:
        return c.committed([confluent_kafka.TopicPartition("old", 0)], timeout=10)[0].offset
    finally:
        c.close()


def test_a_rewrap_cut_by_a_kill_goes_on_where_it_was(grown, kms):
    b = grown
    old, new = set_key(b, kms)
    mark = len(kms.calls)
    with kms.fault("latency", operations=["ReEncrypt"], seconds=0.1):
        running = subprocess.Popen([str(env.schloss_binary()), "keys", "rewrap", "acme", "--dir", str(b.folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        env.eventually(lambda: kms.calls.since(mark).count("ReEncrypt", outcome="ok") >= SEGMENTS - 3, timeout=60, what="most of the re-wrap")
        b.kill()
        running.wait(30)
    first = kms.calls.since(mark).count("ReEncrypt", outcome="ok")
    b.start()
    b.operate("keys", "rewrap", "acme")
    moved = kms.calls.since(mark).of("ReEncrypt", outcome="ok")
    assert first < SEGMENTS, "the kill came too late to show anything"
    again = len(moved) - len({c.asked["CiphertextBlob"] for c in moved})
    print(f"{first} before the kill, {len(moved)} in all, {again} of them twice")
    assert again <= BATCH + 1 < first, "what was done and kept before the kill was done again"
    kms.disable(old)
    assert b.stop() == 0
    b.start()
    assert [v for v in read_all(b) if v != "asked"] == b.values


def test_a_rewrap_keeps_to_its_rate_and_tells_how_far_it_is(grown, kms):
    b = grown
    set_key(b, kms)
    mark, begun = len(kms.calls), time.monotonic()
    running = subprocess.Popen([str(env.schloss_binary()), "keys", "rewrap", "acme", "--rate", "6", "--dir", str(b.folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen = set()

    def over():
        seen.update(re.findall(r"(?m)^schloss_\w*rewrap\w*(?:\{[^}]*\})? ([0-9.]+)", b.admin_get("/metrics")[1]))
        return running.poll() is not None
    env.eventually(over, timeout=60, every=0.2, what="the re-wrap")
    took, calls = time.monotonic() - begun, kms.calls.since(mark).count("ReEncrypt")
    assert running.returncode == 0 and calls >= SEGMENTS
    assert calls / took <= 6 * 1.5, f"{calls} calls in {took:.1f} s"
    assert len(seen) > 2, f"the metric of a re-wrap moved through {seen}"


def test_only_the_tenants_own_keys_are_moved(grown, kms):
    b = grown
    set_key(b, kms)
    mark = len(kms.calls)
    b.operate("keys", "rewrap", "acme")
    assert {c.asked["SourceEncryptionContext"]["schloss:tenant"] for c in kms.calls.since(mark).of("ReEncrypt")} == {b.tenants["acme"]}
    assert not kms.calls.since(mark).of("ReEncrypt", key=b.keys["globex"])


def test_a_new_key_that_refuses_leaves_everything_as_it_was(grown, kms):
    b = grown
    old, new = set_key(b, kms)
    kms.deny(new, ["kms:ReEncrypt*"])
    done = b.run("keys", "rewrap", "acme", "--dir", b.folder, "--output", "json", timeout=120)
    assert done.returncode == 1 and "next" in done.stderr + done.stdout
    kms.allow(new)
    assert [v for v in read_all(b) if v != "asked"] == b.values
    b.operate("keys", "rewrap", "acme")
    kms.disable(old)
    assert b.stop() == 0
    b.start()
    assert [v for v in read_all(b) if v != "asked"] == b.values


def data_keys(b):
    """{commitment of the data key} of every object of acme: one per data key, told by the header in the clear."""
    return {reader.Segment(p.read_bytes()).header.commit for p in b.objects("acme")}


def test_a_rewrite_puts_every_record_into_new_objects_under_new_data_keys(grown, kms):
    b = grown
    running = Producer(b, "acme", clients.create_topic(b, "running"))
    before, keys_before = {p.name for p in b.objects("acme")}, data_keys(b)
    b.operate("keys", "rewrite", "acme")
    acknowledged = running.stop()
    assert read_all(b) == b.values
    env.eventually(lambda: not before & {p.name for p in b.objects("acme")}, timeout=60, what="the old objects being gone")
    assert not keys_before & data_keys(b)
    assert b.stop() == 0
    b.start()
    assert read_all(b) == b.values and read_all(b, "running") == acknowledged
    assert committed(b, "readers") == 1


# The cluster's own key

STARTS = 12  # each makes a key for the events of its run


@pytest.fixture
def installation(kms, tmp_path):
    """A broker that was started STARTS times under its first cluster key, with records and an audit log; it does not run."""
    b = KmsSchloss(tmp_path / "broker", kms)
    for n in range(STARTS):
        b.start()
        clients.produce_librdkafka(b, clients.create_topic(b, f"of start {n}".replace(" ", "-")), [("k", f"record {n}")])
        assert b.stop() == 0
    b.events = set(b.audit_query())
    yield b
    if b.running():
        b.kill()
    clients.forget(b)


def set_cluster_key(b, kms):
    """Makes a new key the cluster's and names the old one beside it; (old, new)."""
    old, new = b.keys["cluster"], kms.create_key("cluster, second")
    b.keys["cluster"] = b.config["kms.cluster.key"] = new
    b.config["kms.cluster.keys"] = old
    b.write_config(b.config)
    return old, new


def test_the_clusters_key_can_be_changed_and_the_old_one_disabled(installation, kms):
    b = installation
    old, new = set_cluster_key(b, kms)
    b.start()
    mark = len(kms.calls)
    done = b.operate("keys", "rewrap", "--cluster")
    moved = kms.calls.since(mark).of("ReEncrypt", key=new, outcome="ok")
    # The signing key's, the key of proofs, one for each earlier run's events; this run's is under the new key already.
    assert done["rewrapped"] == len(moved) == STARTS + 2 and done["kept"] == 1, done
    assert {c.asked["SourceEncryptionContext"]["schloss:tenant"] for c in moved} == {"000000000000"}
    assert b.operate("keys", "rewrap", "--cluster")["rewrapped"] == 0
    assert b.stop() == 0
    kms.disable(old)
    b.config["kms.cluster.keys"] = None
    b.write_config(b.config)
    mark = len(kms.calls)
    b.start()
    assert read_all(b, "of-start-0") == ["record 0"]
    clients.produce_librdkafka(b, clients.create_topic(b, "after"), [("k", "v")])
    after = set(b.audit_query())
    assert b.events <= after and len(after) > len(b.events), "events of before, and of after, are read"
    verified = b.run("audit", "verify", "--dir", b.folder)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert not kms.calls.since(mark).of(key=old), "the old key was asked for after the re-wrap"


def test_a_new_cluster_key_without_the_former_one_named_is_refused_and_says_what_to_do(installation, kms):
    b = installation
    set_cluster_key(b, kms)
    b.config["kms.cluster.keys"] = None
    b.write_config(b.config)
    code, said = b.start_refused()
    assert code == 1 and "`kms.cluster.keys`" in said and "SCH-105" in said, said


def test_a_clusters_rewrap_cut_by_a_kill_goes_on_where_it_was(installation, kms):
    b = installation
    old, new = set_cluster_key(b, kms)
    b.start()
    mark = len(kms.calls)
    with kms.fault("latency", operations=["ReEncrypt"], seconds=0.1):
        running = subprocess.Popen([str(env.schloss_binary()), "keys", "rewrap", "--cluster", "--dir", str(b.folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        env.eventually(lambda: kms.calls.since(mark).count("ReEncrypt", outcome="ok") >= BATCH + 4, timeout=60, what="most of the re-wrap")
        b.kill()
        running.wait(30)
    first = kms.calls.since(mark).count("ReEncrypt", outcome="ok")
    assert first < STARTS + 2, "the kill came too late to show anything"
    b.start()
    b.operate("keys", "rewrap", "--cluster")
    moved = kms.calls.since(mark).of("ReEncrypt", outcome="ok")
    again = len(moved) - len({c.asked["CiphertextBlob"] for c in moved})
    print(f"{first} before the kill, {len(moved)} in all, {again} of them twice")
    assert again <= 4 < first, "what was done and kept before the kill was done again"
    assert b.stop() == 0
    kms.disable(old)
    b.start()
    assert b.events <= set(b.audit_query())


def test_a_new_cluster_key_that_refuses_leaves_everything_as_it_was(installation, kms):
    b = installation
    old, new = set_cluster_key(b, kms)
    b.start()
    kms.deny(new, ["kms:ReEncrypt*"])
    done = b.run("keys", "rewrap", "--cluster", "--dir", b.folder, timeout=120)
    assert done.returncode == 1 and "kms:ReEncryptTo" in done.stderr
    assert b.stop() == 0
    b.start()
    assert b.events <= set(b.audit_query())
    kms.allow(new)
    assert b.operate("keys", "rewrap", "--cluster")["rewrapped"] == STARTS + 2
