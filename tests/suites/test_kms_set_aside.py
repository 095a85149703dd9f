"""One tenant's key refused while the others write on: what it could not flush is set aside, and the log does not grow.

All three tenants share one shard. The log's files are 32 MiB; what the others write meanwhile fills several.
"""

import os
import shutil

import pytest

from harness import clients, env, traffic, wire
from harness.kms import Kms
from harness.kms_broker import KmsSchloss
from harness.traffic import Producer

pytestmark = [pytest.mark.schloss_only, pytest.mark.timeout(300)]
BOUND = 30
FILE = 32 << 20
# One being written, one behind it, and three kept for recycling.
LOG_BYTES_MAX = 5 * FILE + (1 << 20)


def grow(kms, folder):
    """A broker with what tenant `away` was acknowledged in `b.acknowledged`; its key is refused, and something is set aside."""
    b = KmsSchloss(folder / "broker", kms, extra=["away"], config={"storage.flush.ms": 700, "storage.shards": 1, "kms.call.timeout.ms": 2000})
    b.start()
    for t in b.tenants:
        clients.create_topic(b, "kept", tenant=t)
        with wire.Raw(b, tenant=t) as raw:
            assert traffic.produce(raw, "kept", f"{t} first".encode()) == 0
    b.acknowledged = ["away first"]
    env.eventually(lambda: b.objects("away"), what="a segment of the first records")
    kms.disable(b.keys["away"])
    # Under the epoch key in use, until the next flush meets the refusal.
    with wire.Raw(b, tenant="away") as raw:
        while True:
            value = f"away {len(b.acknowledged)}"
            if traffic.produce(raw, "kept", value.encode()) != 0:
                break
            b.acknowledged.append(value)
    assert len(b.acknowledged) > 1
    # A flush that began behind the last of them has ended.
    for _ in range(3):
        flushed = len(b.objects("globex"))
        write(b, 1)
        env.eventually(lambda: len(b.objects("globex")) > flushed, what="a flush")
    assert aside(b) and b.metric("schloss_log_bytes_set_aside") == sum(p.stat().st_size for p in aside(b))
    return b


@pytest.fixture
def b(tmp_path):
    with Kms() as kms:
        b = grow(kms, tmp_path)
        yield b
        if b.running():
            b.kill()
        clients.forget(b)


def aside(b):
    """Objects of entries set aside."""
    return sorted(p for p in (b.data / "objects" / "aside").rglob("*") if p.is_file())


def log_bytes(b):
    return sum(p.stat().st_size for p in (b.data / "wal").rglob("*") if p.is_file())


def write(b, megabytes, tenant="globex"):
    with wire.Raw(b, tenant=tenant, timeout=30) as raw:
        for _ in range(megabytes):
            assert traffic.produce(raw, "kept", os.urandom(500_000).hex().encode()) == 0


def values(b, tenant):
    with wire.Raw(b, tenant=tenant, timeout=10) as raw:
        return traffic.everything(raw, "kept")


def test_the_log_stays_bounded_over_flushes_and_restarts_and_every_record_is_back_with_the_key(b):
    highest, before = 0, aside(b)
    for ending in ("kill", "stop", None):
        for _ in range(2):
            write(b, 40)
            env.eventually(lambda: log_bytes(b) <= LOG_BYTES_MAX, timeout=BOUND, what="the log's files being collected")
            highest = max(highest, log_bytes(b))
        assert b.metric("schloss_log_bytes_set_aside") > 0
        assert aside(b) == before, "nothing came since"
        if ending:
            getattr(b, ending)()
            b.start()
            with pytest.raises((OSError, wire.Closed, AssertionError)):
                values(b, "away")
    print(f"240 MB written by another tenant, the log at most {highest >> 20} MiB")
    b.kms.enable(b.keys["away"])
    assert env.eventually(lambda: values(b, "away"), timeout=BOUND, what="the tenant being served") == b.acknowledged
    env.eventually(lambda: not aside(b) and b.metric("schloss_log_bytes_set_aside") == 0, timeout=BOUND, what="what was set aside being flushed")
    assert values(b, "away") == b.acknowledged
    b.kill()
    b.start()
    assert values(b, "away") == b.acknowledged
    with wire.Raw(b, tenant="away") as raw:
        assert traffic.produce(raw, "kept", b"after") == 0
    assert values(b, "away") == [*b.acknowledged, "after"]


def test_a_key_that_comes_back_without_a_restart_finds_every_record_in_order(b):
    write(b, 5)
    p = Producer(b, "away", "kept", every=0.1)
    b.kms.enable(b.keys["away"])
    env.eventually(lambda: len(p.acknowledged) > 5, timeout=BOUND, what="the tenant writing again")
    later = p.stop()
    assert values(b, "away") == [*b.acknowledged, *later]
    env.eventually(lambda: not aside(b), timeout=BOUND, what="what was set aside being flushed")
    assert values(b, "away") == [*b.acknowledged, *later]


def test_shredding_another_tenant_meanwhile_empties_the_log(b):
    with wire.Raw(b, tenant="acme") as raw:
        assert traffic.produce(raw, "kept", b"to be shredded") == 0
    done = b.operate("keys", "shred-tenant", "acme", "--yes")
    assert done["statement"]["log_purged"] is True, done
    b.kms.enable(b.keys["away"])
    assert env.eventually(lambda: values(b, "away"), timeout=BOUND, what="the tenant being served") == b.acknowledged


def test_shredding_the_tenant_itself_leaves_nothing_set_aside(b):
    done = b.operate("keys", "shred-tenant", "away", "--yes")
    assert done["statement"]["log_purged"] is True, done
    assert aside(b) == []
    assert b.metric("schloss_log_bytes_set_aside") == 0


def altered(path):
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def missing(path):
    path.unlink()


def emptied(path):
    """Its head with nothing behind it, as a whole object of no entries has."""
    path.write_bytes(path.read_bytes()[:28])


@pytest.mark.parametrize("change", [altered, cut, missing, emptied])
def test_a_changed_object_is_refused_and_told_and_only_its_tenant_waits(b, change):
    b.kill()
    path = aside(b)[0]
    kept = path.read_bytes()
    change(path)
    b.kms.enable(b.keys["away"])
    b.start()
    assert values(b, "globex")[0] == "globex first"
    with pytest.raises((OSError, wire.Closed, AssertionError)):
        values(b, "away")
    told = env.eventually(lambda: [l for l in b.audit_query() if "IntegrityFailure" in l], what="the audit log telling")
    assert len(told) == 1 and path.name in told[0], told
    b.stop()
    path.write_bytes(kept)
    b.start()
    assert values(b, "away") == b.acknowledged


def test_a_backup_made_meanwhile_holds_what_is_set_aside(b, tmp_path):
    backup = tmp_path / "backup"
    b.operate("backup", "create", backup)
    assert sorted(p.name for p in (backup / "objects" / "aside").rglob("*") if p.is_file()) == sorted(p.name for p in aside(b))
    b.kill()
    shutil.rmtree(b.data)
    done = b.run("backup", "restore", backup, "--to", b.data, "--config", b.own_config, environment=b.environment)
    assert done.returncode == 0, done.stderr
    b.start()
    with pytest.raises((OSError, wire.Closed, AssertionError)):
        values(b, "away")
    b.kms.enable(b.keys["away"])
    assert env.eventually(lambda: values(b, "away"), timeout=BOUND, what="the tenant being served") == b.acknowledged
