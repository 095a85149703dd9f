"""What the KMS is asked, counted at the KMS: money and rate limits are per call.

The budget (manual): 0.2 calls a minute for each tenant in use, besides data keys of segments and the probe that notices a
refused key. Sizes come from the environment: SCHLOSS_COST_TENANTS (1000), SCHLOSS_COST_SECONDS (15).
"""

import collections
import concurrent.futures
import os
import time

import pytest

from harness import clients, env, traffic, wire
from harness.kms import Kms
from harness.kms_broker import KmsSchloss

TENANTS = int(os.environ.get("SCHLOSS_COST_TENANTS", "1000"))
SECONDS = int(os.environ.get("SCHLOSS_COST_SECONDS", "15"))
pytestmark = [pytest.mark.schloss_only, pytest.mark.timeout(300 + SECONDS)]
PARTITIONS = 10_000
CALLS_PER_TENANT_MINUTE = 0.2
PROBE_SECONDS = 15
SHARDS = 2  # the default
RENEWAL_SECONDS = 300 * SHARDS  # manual, chapter keys
FIRST_TOUCH_SECONDS = 120  # the fixture's, at most


@pytest.fixture(scope="module")
def kms():
    with Kms() as k:
        yield k


@pytest.fixture(scope="module")
def crowd(kms, tmp_path_factory):
    """A broker with TENANTS tenants in use, each with a connection and a topic it wrote to."""
    aliases = [f"t{n:04}" for n in range(TENANTS - 2)]
    b = KmsSchloss(tmp_path_factory.mktemp("cost") / "broker", kms, extra=aliases, config={
        "storage.flush.ms": 3_600_000, "max.connections.per.ip": 2 * TENANTS + 100})
    mark = len(kms.calls)
    b.start(timeout=120)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        raws = list(pool.map(lambda t: first_touch(b, t), b.tenants))
    yield b, raws, kms.calls.since(mark)
    for raw in raws:
        raw.close()
    if b.running():
        b.kill()
    clients.forget(b)


def first_touch(b, tenant):
    raw = wire.Raw(b, tenant=tenant, timeout=60)
    made = raw.call(wire.build("create_topics", 5, topics=[dict(name="one", num_partitions=1, replication_factor=1)], timeout=30_000))
    assert int(made.topics[0].error_code) in (0, 36), made
    assert traffic.produce(raw, "one") == 0
    return raw


def purposes(calls):
    """{purpose: calls}; calls without a context (a key's state asked) count as `probe`."""
    return collections.Counter(c.context.get("schloss:purpose", "probe") for c in calls)


def test_the_first_touch_of_a_tenant_costs_a_handful_of_calls(crowd):
    b, _, calls = crowd
    by = purposes(calls)
    print(f"{TENANTS} tenants touched for the first time: {dict(by)}")
    assert calls and {c.outcome for c in calls} == {"ok"}
    for purpose in ("metadata", "index", "wal"):
        assert by[purpose] <= TENANTS, f"{purpose}: {by[purpose]}"
    assert by["segment"] == 0


def test_a_thousand_tenants_in_use_stay_within_the_budget(crowd, kms):
    """Between two renewals of its epoch key a tenant in use asks for nothing; each renewal is one call. A short run sees none, so it
    demands none: how often they come is the unit test's (`epoch_keys`), and a run longer than RENEWAL_SECONDS counts them."""
    b, raws, _ = crowd
    mark, begun, rounds = len(kms.calls), time.monotonic(), 0
    while time.monotonic() < begun + SECONDS:
        for raw in raws:
            assert traffic.produce(raw, "one") == 0
        rounds += 1
    seconds = time.monotonic() - begun
    by = purposes(kms.calls.since(mark))
    probes, segments, wal = by.pop("probe", 0), by.pop("segment", 0), by.pop("wal", 0)
    # The first keys were made before the mark, at most a fixture's length ago: as many renewals as whole periods, or one more.
    renewals = int(seconds // RENEWAL_SECONDS)
    print(f"{rounds} rounds of {len(raws)} tenants in {seconds / 60:.2f} min: {wal} renewals, {probes} probes, {segments} segments, others "
          f"{dict(by)}; {wal / TENANTS / seconds * 60:.3f} a tenant and minute; {probes / TENANTS / seconds * 60:.2f} probes a tenant and minute")
    assert rounds >= 1 and not by, by
    assert 60 / RENEWAL_SECONDS * SHARDS <= CALLS_PER_TENANT_MINUTE
    if seconds < RENEWAL_SECONDS - FIRST_TOUCH_SECONDS:
        assert wal == 0
    else:
        assert renewals * TENANTS <= wal <= (renewals + 1) * TENANTS
    assert probes <= TENANTS * (seconds / PROBE_SECONDS + 1)


def test_a_start_asks_for_each_key_once_and_is_not_held_by_one_that_hangs(crowd, kms):
    """The crowd's broker again: all its records are in the log, so every tenant's keys are needed at once."""
    b, raws, _ = crowd
    for raw in raws:
        raw.close()
    assert b.stop() == 0
    mark = len(kms.calls)
    healthy = b.start(timeout=120)
    asked = collections.Counter(c.asked["CiphertextBlob"] for c in kms.calls.since(mark).of("Decrypt"))
    print(f"{TENANTS} tenants: ready after {healthy:.1f} s and {len(asked)} keys opened, {sum(asked.values())} calls")
    assert max(asked.values()) == 1 and len(asked) >= 3 * TENANTS
    assert b.stop() == 0
    with kms.fault("hang", keys=[b.keys["t0007"]]):
        hanging = b.start(timeout=120)
        print(f"with a key that hangs: ready after {hanging:.1f} s")
        with wire.Raw(b, tenant="t0008", timeout=30) as raw:
            assert traffic.produce(raw, "one") == 0
    assert hanging <= healthy * 1.5 + 2


@pytest.fixture(scope="module")
def wide(kms, tmp_path_factory):
    """A broker that flushes often."""
    b = KmsSchloss(tmp_path_factory.mktemp("wide") / "broker", kms, config={"storage.flush.ms": 1000, "max.partitions.per.tenant": 2 * PARTITIONS})
    b.start()
    yield b
    if b.running():
        b.kill()
    clients.forget(b)


def test_the_data_path_makes_no_call_per_batch(wide, kms, name):
    topic = clients.create_topic(wide, name("batches"))
    clients.produce_librdkafka(wide, topic, [("k", "warm")])
    mark, begun = len(kms.calls), time.monotonic()
    with wire.Raw(wide) as raw:
        for _ in range(300):
            assert traffic.produce(raw, topic) == 0
    took = time.monotonic() - begun
    by = purposes(kms.calls.since(mark).of(key=wide.keys["acme"]))
    assert by["segment"] <= took + 2, by  # one flush a second, one shard has the topic
    assert sum(by.values()) - by["segment"] - by["probe"] <= 2, by


def test_ten_thousand_partitions_rolling_cost_a_call_per_segment_not_per_partition(wide, kms, name):
    topic = clients.create_topic(wide, name("wide"), partitions=PARTITIONS)
    mark, begun = len(kms.calls), time.monotonic()
    with wire.Raw(wide, timeout=60) as raw:
        for first in range(0, PARTITIONS, 1000):
            r = raw.call(wire.build("produce", 9, acks=-1, timeout=60_000, topic_data=[dict(name=topic, partition_data=[
                dict(index=p, records=traffic.batch(b"one of many")) for p in range(first, first + 1000)])]))
            assert {int(p.error_code) for p in r.responses[0].partition_responses} == {0}
    at_rest = lambda: all_flushed(wide)  # noqa: E731
    env.eventually(at_rest, timeout=60, every=0.3, what="every partition in a segment")
    took = time.monotonic() - begun
    made = purposes(kms.calls.since(mark).of("GenerateDataKey", key=wide.keys["acme"]))
    print(f"{PARTITIONS} partitions in segments after {took:.1f} s: {dict(made)}")
    # Two shards, a flush a second, one tenant: that many data keys, and no more for any number of partitions.
    assert 1 <= made["segment"] <= 2 * (took + 2)
    assert sum(made.values()) - made["segment"] <= 4


def all_flushed(b):
    """No bytes wait for a flush any more, as the metric tells."""
    import re
    found = re.search(r"(?m)^schloss_\w*tail_bytes\S* ([0-9.]+)", b.admin_get("/metrics")[1])
    return float(found.group(1)) == 0


def test_one_unwrap_is_in_flight_for_a_key_however_many_ask(wide, kms, name):
    topic = clients.create_topic(wide, name("herd"))
    clients.produce_librdkafka(wide, topic, [("k", "v")] * 10)
    env.eventually(lambda: all_flushed(wide), timeout=30, what="the segment")
    assert wide.stop() == 0
    wide.start()
    mark = len(kms.calls)
    with kms.fault("latency", operations=["Decrypt"], keys=[wide.keys["acme"]], seconds=1), concurrent.futures.ThreadPoolExecutor(24) as pool:
        def ask(_):
            with wire.Raw(wide, timeout=30) as raw:
                return traffic.fetch(raw, topic)
        answers = list(pool.map(ask, range(24)))
    assert {code for code, _ in answers} == {0} and all(records for _, records in answers)
    opened = kms.calls.since(mark).of("Decrypt", key=wide.keys["acme"])
    at_once = opened.most_at_once(lambda c: c.asked["CiphertextBlob"])
    assert at_once and max(at_once.values()) == 1, at_once
    assert len([c for c in opened if c.context["schloss:purpose"] == "segment"]) == 1
