"""What is wrong with config, certificates, keyring or data folder is told with what to do, and nothing is changed."""

import hashlib
import re
import shutil
import socket
import sqlite3
import subprocess
import time

import confluent_kafka
import pytest

from harness import clients, env
from harness.broker import Schloss
from harness.kafka_peer import Authority, common_name

pytestmark = pytest.mark.schloss_only


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A prepared, stopped installation with some data; tests copy it."""
    b = Schloss(tmp_path_factory.mktemp("made") / "broker", config={})
    b.start()
    clients.create_topic(b, "some-topic")
    clients.produce_librdkafka(b, "some-topic", [("k", "v")])
    assert b.stop() == 0
    clients.forget(b)
    return b


@pytest.fixture
def b(made, tmp_path):
    copy = Schloss(tmp_path / "broker", config={})
    shutil.copytree(made.folder, copy.folder)
    for f in [*copy.folder.rglob("*.toml"), *copy.folder.rglob("*.conf"), *copy.folder.rglob("*.properties")]:
        f.write_text(f.read_text().replace(made.folder.as_posix(), copy.folder.as_posix()).replace(f":{made.port}", f":{copy.port}").replace(f":{made.port + 1}", f":{copy.port + 1}"))
    copy.write_config({})
    yield copy
    if copy.running():
        copy.kill()
    clients.forget(copy)


def prints(folder):
    """Digest of every file, to see that a refused start changed nothing (SQLite's side files may come and go)."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*"))
            if p.is_file() and not p.name.endswith(("-shm", "-wal", ".lock")) and p.name != "LOCK"}


def refused(b, *told, number=None):
    before = prints(b.folder)
    code, said = b.start_refused()
    assert code in (1, 2), f"ended with {code}:\n{said}"
    assert "panicked" not in said and "next:" in said, said
    for t in told:
        assert re.search(t, said, re.I), f"`{t}` is not told:\n{said}"
    if number:
        assert f"SCH-{number}" in said, said
    assert prints(b.folder) == before, "a refused start changed something"
    return said


def test_unknown_keys_and_wrong_values_are_told_all_at_once_with_their_lines(b):
    b.own_config.write_text(b.own_config.read_text() + 'no.such.key = 1\nlog.retention.ms = "soon"\nlisteners.security = "off"\n')
    said = refused(b, r"own\.toml:\d+: .*no\.such\.key", r"own\.toml:\d+: .*log\.retention\.ms", "listeners.security", number=101)
    assert len({m for m in re.findall(r"own\.toml:(\d+)", said)}) == 3


@pytest.mark.parametrize("line", ['listeners = "PLAINTEXT://127.0.0.1:9092"', "tls.enabled = false", "audit.enabled = false", "authorization.enabled = false", "encryption.enabled = false"])
def test_nothing_can_be_turned_off(b, line):
    b.write_config({"listeners": None} if line.startswith("listeners") else {})
    b.own_config.write_text(b.own_config.read_text() + line + "\n")
    refused(b, re.escape(line.split(" = ")[0]))


def test_a_missing_config_file(b):
    b.own_config.unlink()
    code, said = (lambda p: (p.returncode, p.stdout + p.stderr))(b.run("serve", "--config", b.own_config))
    assert code in (1, 2) and "own.toml" in said and "next:" in said


def test_wrong_calls_end_with_two(b):
    for call in (["serve"], ["no-such-noun"], ["quickstart", "--port", "many"], []):
        assert b.run(*call).returncode == 2, call


@pytest.mark.parametrize("file", ["cert.pem", "key.pem"])
@pytest.mark.parametrize("state", ["missing", "empty", "garbage"])
def test_unusable_server_certificates(b, file, state):
    path = b.folder / "certs/server" / file
    path.unlink() if state == "missing" else path.write_text("" if state == "empty" else "-----BEGIN NONSENSE-----\n")
    refused(b, re.escape(file))


def test_a_key_that_does_not_belong_to_the_certificate(b):
    creds = Authority().issue(b.folder.parent / "other", common_name("localhost"), server=True)
    shutil.copy(creds.key, b.folder / "certs/server/key.pem")
    refused(b, "key", number=102)


def test_an_expired_server_certificate(b):
    creds = Authority().issue(b.folder.parent / "old", common_name("localhost"), server=True, days=-1)
    shutil.copy(creds.cert, b.folder / "certs/server/cert.pem")
    shutil.copy(creds.key, b.folder / "certs/server/key.pem")
    refused(b, "expired|not valid|validity", number=102)


def test_a_missing_client_ca(b):
    for p in (b.folder / "certs/client-ca").iterdir():
        p.unlink()
    refused(b, "client-ca|client ca|acme")


def keyring_file(b):
    return b.folder / "keys/keyring"


def test_a_wrong_key_for_the_keyring(b):
    (b.folder / "keys/keyring.key").write_text("ab" * 32 + "\n")
    refused(b, "keyring", number=104)


def test_a_wrong_passphrase_for_the_keyring(b):
    (b.folder / "pass").write_text("wrong horse\n")
    b.write_config({"kms.local.key.file": None, "kms.local.passphrase.file": str(b.folder / "pass")})
    refused(b, "keyring", number=104)


@pytest.mark.parametrize("where", [0.1, 0.5, 0.95])
def test_an_altered_keyring(b, where):
    data = bytearray(keyring_file(b).read_bytes())
    data[int(len(data) * where)] ^= 4
    keyring_file(b).write_bytes(data)
    refused(b, "keyring", number=104)


def test_a_missing_keyring_is_not_made_anew_beside_data(b):
    keyring_file(b).unlink()
    refused(b, "keyring")
    assert not keyring_file(b).exists()


def database(b):
    return next(p for p in b.data.rglob("*") if p.is_file() and p.read_bytes()[:16] == b"SQLite format 3\0")


def test_a_folder_of_a_newer_format(b):
    with sqlite3.connect(database(b)) as db:
        db.execute("PRAGMA user_version = 9999")
    db.close()
    refused(b, "newer", number=203)


def test_a_database_that_is_something_else(b):
    path = database(b)
    for side in path.parent.glob(path.name + "-*"):
        side.unlink()
    path.write_bytes(b"this is not a database" * 1000)
    refused(b, re.escape(path.name))


def test_a_half_written_folder(b):
    """The manifest is gone and the log is there: never a fresh start that hides what was."""
    for p in list(database(b).parent.glob(database(b).name + "*")):
        p.unlink()
    code, said = b.start_refused()
    assert code in (1, 2) and "next:" in said, said


def test_a_folder_in_use(b):
    b.start()
    second = Schloss(b.folder, env.free_port(), config={})
    text = b.own_config.read_text()
    b.own_config.write_text(text.replace(f":{b.port}", f":{second.port}").replace(f":{b.port + 1}", f":{second.port + 1}"))
    second.log = b.folder.parent / "second.log"
    code, said = second.start_refused()
    assert code in (1, 2) and "SCH-202" in said and "next:" in said, said
    assert clients.consume_librdkafka(b, "some-topic", 1)[0].value == "v"


def test_a_port_in_use(b):
    with socket.socket() as s:
        s.bind(("127.0.0.1", b.port))
        s.listen()
        refused(b, str(b.port), number=301)


def test_a_data_folder_that_cannot_be_written(b):
    subprocess.run(["mount", "--bind", str(b.data), str(b.data)], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(b.data)], check=True)
    try:
        refused(b, "read-only|permission|cannot")
    finally:
        subprocess.run(["umount", str(b.data)], check=True)


@pytest.mark.timeout(240)
def test_a_full_disk_stops_produce_retriably_and_space_brings_it_back(tmp_path, name):
    from suites.test_audit import fill
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", str(small)], check=True)
    b = Schloss(small / "broker", config={"storage.flush.ms": 200})
    b.log = tmp_path / "broker.log"
    try:
        b.start()
        topic, acked, errors = clients.create_topic(b, name("full")), [], []
        p = confluent_kafka.Producer(clients.librdkafka_conf(b, enable_idempotence=True, linger_ms=1, message_timeout_ms=4000, retry_backoff_max_ms=300))
        stuck = confluent_kafka.Producer(clients.librdkafka_conf(b, enable_idempotence=True, linger_ms=1, message_timeout_ms=120_000, retry_backoff_max_ms=300))
        done = lambda e, m: errors.append(e) if e else acked.append(m.value())
        p.produce(topic, value=b"first", on_delivery=done)
        assert p.flush(10) == 0 and acked == [b"first"]
        fill(small)
        n = 0
        while not errors and n < 5000:  # what was preallocated may still be filled
            p.produce(topic, value=b"%08d" % n + bytes(200_000), on_delivery=done)
            n += 1
            p.poll(0.02)
        p.flush(20)
        assert errors, "produce went on without space"
        assert b.running(), b.process.output()[-2000:]
        stuck.produce(topic, value=b"waits", on_delivery=done)
        stuck.poll(2)
        (small / "ballast").unlink()
        assert stuck.flush(90) == 0 and b"waits" in acked, "space returned and produce did not"
        seen = [s.value.encode()[:8] for s in clients.consume_librdkafka(b, topic, len(acked), timeout=60)]
        assert [a[:8] for a in acked if a[:8] not in seen] == [], "acknowledged records are missing"
        assert len(seen) == len(set(seen)), "doubled"
        b.kill()
        b.start()
        again = [s.value.encode()[:8] for s in clients.consume_librdkafka(b, topic, len(acked), timeout=60)]
        assert again[: len(seen)] == seen
    finally:
        if b.running():
            b.kill()
        clients.forget(b)
        time.sleep(0)
        subprocess.run(["umount", "-l", str(small)], check=False)
