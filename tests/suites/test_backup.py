"""Backup and restore: on an empty machine that can reach the KMS everything is back; what was spoiled or mixed is noticed."""

import datetime
import shutil

import pytest

from harness import clients, env, traffic, wire
from harness.kms import Kms
from harness.kms_broker import KmsSchloss

pytestmark = [pytest.mark.schloss_only, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def kms():
    with Kms() as k:
        yield k


@pytest.fixture(scope="module")
def ground(kms, tmp_path_factory):
    """A broker with records of two tenants and a committed offset, and its first two backups in `b.backup`."""
    b = KmsSchloss(tmp_path_factory.mktemp("backup") / "broker", kms, config={"storage.flush.ms": 50})
    b.start()
    b.backup = b.folder.parent / "backup"
    for tenant, topic in (("acme", "orders"), ("globex", "theirs")):
        clients.create_topic(b, topic, tenant=tenant)
        clients.produce_librdkafka(b, topic, [("k", f"{topic} {i}") for i in range(30)], tenant=tenant)
    with wire.Raw(b) as raw:
        assert traffic.commit(raw, "orders", "readers") == 0
    b.first = b.operate("backup", "create", b.backup)
    b.objects_after_first = files(b)
    b.between = datetime.datetime.now(datetime.timezone.utc)
    # `--at` means the whole second it names: the second backup must not be of it.
    env.eventually(lambda: datetime.datetime.now(datetime.timezone.utc).second != b.between.second, every=0.02, what="the next second")
    clients.produce_librdkafka(b, "orders", [("k", f"orders {i}") for i in range(30, 60)])
    b.second = b.operate("backup", "create", b.backup)
    yield b
    if b.running():
        b.kill()
    clients.forget(b)


def files(b):
    return {str(p.relative_to(b.backup)): p.stat().st_mtime_ns for p in b.backup.rglob("*") if p.is_file()}


def restored(b, kms, tmp_path, backup=None, *more):
    """An own broker on an empty folder, filled from the backup. It has the config and the organisation, but no data."""
    other = KmsSchloss.__new__(KmsSchloss)
    other.__dict__.update(b.__dict__)
    other.folder = tmp_path / "restored"
    shutil.copytree(b.folder, other.folder, ignore=lambda d, names: ["data"] if str(d) == str(b.folder) else [])
    other.port = env.free_port()
    other.log = tmp_path / "restored.log"
    for f in (other.folder / "schloss.toml", other.own_config):
        text = f.read_text().replace(str(b.folder), str(other.folder)).replace(str(b.port), str(other.port)).replace(str(b.port + 1), str(other.port + 1))
        f.write_text(text)
    done = other.run("backup", "restore", backup or b.backup, "--to", other.data, "--config", other.own_config, *more, environment=b.environment)
    return other, done


def values(b, topic, tenant="acme"):
    with wire.Raw(b, tenant=tenant, timeout=30) as raw:
        return traffic.everything(raw, topic)


def test_everything_is_back_on_an_empty_machine(ground, kms, tmp_path):
    other, done = restored(ground, kms, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    other.start()
    try:
        assert values(other, "orders") == [f"orders {i}" for i in range(60)]
        assert values(other, "theirs", "globex") == [f"theirs {i}" for i in range(30)]
        clients.produce_librdkafka(other, "orders", [("k", "after")])
        assert values(other, "orders")[-1] == "after"
    finally:
        other.kill()
        clients.forget(other)


def test_a_second_backup_copies_only_what_is_new(ground):
    b = ground
    after = files(b)
    objects = [f for f in b.objects_after_first if "seg" in f or "object" in f]
    assert objects and all(after.get(f) == b.objects_after_first[f] for f in objects), "an object was copied again"
    assert len(after) > len(b.objects_after_first)


def test_an_earlier_moment_can_be_restored(ground, kms, tmp_path):
    other, done = restored(ground, kms, tmp_path, None, "--at", ground.between.strftime("%Y-%m-%dT%H:%M:%SZ"))
    assert done.returncode == 0, done.stdout + done.stderr
    other.start()
    try:
        assert values(other, "orders") == [f"orders {i}" for i in range(30)]
    finally:
        other.kill()
        clients.forget(other)


def test_a_backup_verifies_and_shows_no_record_or_name(ground):
    b = ground
    done = b.run("backup", "verify", b.backup, "--config", b.own_config, environment=b.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    for p in b.backup.rglob("*"):
        assert not p.is_file() or not any(m in p.read_bytes() for m in (b"orders", b"theirs", b"readers")), p


@pytest.mark.parametrize("change", ["an object's byte", "an object gone", "the snapshot's byte", "the newest snapshot gone"])
def test_a_spoiled_backup_is_told_by_verify(ground, tmp_path, change):
    b = ground
    copy = tmp_path / "spoiled"
    shutil.copytree(b.backup, copy)
    all_files = sorted((p for p in copy.rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns)
    objects = [p for p in all_files if p.read_bytes()[:8] == b"SCHLSEG1"]
    snapshots = [p for p in all_files if p not in objects]
    assert objects and snapshots
    victim = objects[0] if "object" in change else max(snapshots, key=lambda p: p.stat().st_size)
    if "gone" in change:
        victim.unlink()
    else:
        raw = bytearray(victim.read_bytes())
        raw[len(raw) * 3 // 4] ^= 1
        victim.write_bytes(raw)
    done = b.run("backup", "verify", copy, "--config", b.own_config, environment=b.environment)
    assert done.returncode == 1, done.stdout + done.stderr


def test_a_restore_into_a_folder_with_data_is_refused(ground, kms, tmp_path):
    other, done = restored(ground, kms, tmp_path)
    assert done.returncode == 0
    again = other.run("backup", "restore", ground.backup, "--to", other.data, "--config", other.own_config, environment=ground.environment)
    assert again.returncode == 1 and "SCH-" in again.stderr


def test_without_the_kms_a_backup_opens_nothing(ground, kms, tmp_path):
    with kms.fault("access_denied", keys=[ground.keys["cluster"]]):
        _, done = restored(ground, kms, tmp_path)
    assert done.returncode == 1
