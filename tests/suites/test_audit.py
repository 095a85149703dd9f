"""The audit log: what stands in it, and that no change to it goes unseen."""

import json
import shutil

import pytest

from harness import clients, env, wire

pytestmark = pytest.mark.schloss_only


def verify(b, folder=None):
    """Of an installation, or of a copy of the audit folder alone with the first one's public key."""
    if folder is None:
        return b.run("audit", "verify", "--dir", b.folder)
    return b.run("audit", "verify", "--folder", folder, "--public-key", audit_folder(b) / "public-key.pem")


def query(b, *arguments):
    done = b.run("audit", "query", "--dir", b.folder, "--output", "json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(l) for l in done.stdout.splitlines() if l.strip()]


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A stopped broker in whose log stand logins, refusals, administration, key use and data."""
    from harness.broker import Schloss
    b = Schloss(tmp_path_factory.mktemp("audit") / "broker")
    b.start()
    clients.create_topic(b, "audited-topic")
    clients.produce_librdkafka(b, "audited-topic", [("k", "v")] * 5, principal="producer")
    with wire.Raw(b, "acme", "auditor") as raw:
        from suites.test_idempotence import batch, produce_raw
        assert produce_raw(raw, "audited-topic", batch([b"v"], -1, -1, -1))[0] == 29
    with wire.Raw(b, "globex", "consumer") as raw:
        raw.call(wire.build("delete_topics", 5, timeout=5000, topic_names=["evil\n\x1b[31m\u202etopic"]))
    assert b.stop() == 0
    yield b
    shutil.rmtree(b.folder, ignore_errors=True)


def test_an_untouched_log_verifies_running_and_stopped(audited, fresh):
    assert verify(audited).returncode == 0
    b = fresh()
    clients.create_topic(b, "while-running")
    env.eventually(lambda: verify(b).returncode == 0, what="a running log to verify")


def test_verification_needs_nothing_but_the_folder_and_the_public_key(audited, tmp_path):
    shutil.copytree(audit_folder(audited), tmp_path / "copy")
    done = verify(audited, tmp_path / "copy")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("what, needle", [
    ("a denial names principal, action and topic", lambda e: "auditor" in e and "audited-topic" in e and "WriteData" in e and "enied" in e),
    ("an administrative action", lambda e: "CreateTopic" in e and "audited-topic" in e and "admin" in e),
    ("a login", lambda e: "uthentic" in e and "producer" in e),
    ("data access is summarised with a count", lambda e: "WriteData" in e and "audited-topic" in e and "producer" in e and "llowed" in e),
    ("key use", lambda e: "KeyUse" in e or "key_use" in e or "generate" in e.lower()),
])
def test_the_log_tells(audited, what, needle):
    assert [e for e in query(audited) if needle(json.dumps(e))], what


def test_a_name_with_newlines_and_escapes_is_one_line(audited):
    assert [e for e in query(audited) if "evil" in json.dumps(e)]


def test_one_tenants_query_shows_nothing_of_the_other(audited):
    shown = json.dumps(query(audited, "--tenant", audited.tenants["globex"]))
    assert "audited-topic" not in shown and "evil" in shown


def audit_folder(b):
    return b.data / "audit"


def lines_file(b):
    """The longest event file."""
    return max(audit_folder(b).rglob("*.jsonl"), key=lambda p: p.stat().st_size)


def flip(p):
    data = bytearray(p.read_bytes())
    data[len(data) // 2] ^= 1
    p.write_bytes(data)


def edit(change):
    def apply(p):
        lines = p.read_bytes().splitlines(keepends=True)
        p.write_bytes(b"".join(change(lines)))
    return apply


TAMPERING = {
    "a byte flipped": flip,
    "a line deleted": edit(lambda l: l[:2] + l[3:]),
    "two lines swapped": edit(lambda l: l[:1] + [l[2], l[1]] + l[3:]),
    "a line doubled": edit(lambda l: l[:3] + [l[2]] + l[3:]),
    "the tail cut": edit(lambda l: l[: len(l) // 2]),
    "the head cut": edit(lambda l: l[2:]),
    "everything gone": lambda p: p.write_bytes(b""),
    "the file gone": lambda p: p.unlink(),
}


@pytest.mark.parametrize("what", list(TAMPERING))
def test_tampering_is_found_and_its_place_named(audited, tmp_path, what):
    copy = tmp_path / "copy"
    shutil.copytree(audit_folder(audited), copy)
    target = copy / lines_file(audited).relative_to(audit_folder(audited))
    TAMPERING[what](target)
    done = verify(audited, copy)
    assert done.returncode == 1 and "SCH-401" in done.stderr, f"{what} was not found:\n{done.stdout}{done.stderr}"
    assert target.name in done.stdout + done.stderr or target.parent.name in done.stdout + done.stderr
    assert verify(audited).returncode == 0


def test_every_byte_of_the_log_counts(audited, tmp_path):
    """Sampled: forty places over the whole file, each flip alone must be found."""
    import random
    copy = tmp_path / "copy"
    shutil.copytree(audit_folder(audited), copy)
    target = copy / lines_file(audited).relative_to(audit_folder(audited))
    whole, rng = target.read_bytes(), random.Random(5)
    for at in rng.sample(range(len(whole)), 40):
        spoiled = bytearray(whole)
        spoiled[at] ^= 1 << rng.randrange(8)
        target.write_bytes(spoiled)
        done = verify(audited, copy)
        assert done.returncode == 1, f"a flip at byte {at} of {len(whole)} was not found"


def test_a_log_that_cannot_be_written_stops_administration(fresh, name):
    """Not recorded, not done: with the audit folder on a full disk a topic is not created."""
    import subprocess
    b = fresh()
    assert b.stop() == 0
    small = audit_folder(b)
    kept = {p.relative_to(small): p.read_bytes() for p in small.rglob("*") if p.is_file()}
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], check=True)
    try:
        for path, data in kept.items():
            (small / path).parent.mkdir(parents=True, exist_ok=True)
            (small / path).write_bytes(data)
        b.start()
        fill(small)
        topic = name("unrecorded")
        with pytest.raises(Exception):
            for i in range(200):
                clients.create_topic(b, f"{topic}-{i}")
        (small / "ballast").unlink()
        env.eventually(lambda: clients.create_topic(b, name("recorded")), timeout=30, what="administration after space returned")
        b.stop()
        assert verify(b).returncode == 0
    finally:
        if b.running():
            b.kill()
        subprocess.run(["umount", str(small)], check=False)


def fill(folder):
    """Takes every byte that is left in the folder's file system."""
    with open(folder / "ballast", "wb", buffering=0) as f:
        try:
            while True:
                f.write(bytes(4096))
        except OSError:
            pass
