"""Fixtures of all suites: one shared broker per run, a fresh one where a test must kill or spoil it."""

import itertools
import shutil
import sys
import uuid
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import clients  # noqa: E402
from harness.broker import Process, Schloss  # noqa: E402
from harness.kafka_peer import Kafka  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--target", choices=("schloss", "kafka"), default="schloss", help="server under test")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--target") == "kafka":
        gone = [i for i in items if i.get_closest_marker("schloss_only")]
        items[:] = [i for i in items if not i.get_closest_marker("schloss_only")]
        config.hook.pytest_deselected(items=gone)


def pytest_sessionfinish():
    for p in Process.left:
        if p.child.poll() is None:
            p.child.kill()


@pytest.fixture(scope="session")
def target_class(request):
    return {"schloss": Schloss, "kafka": Kafka}[request.config.getoption("--target")]


@pytest.fixture(scope="session")
def broker(target_class, tmp_path_factory):
    """The broker most tests share. A test that finds it dead says so; the next one gets it restarted."""
    b = target_class(tmp_path_factory.mktemp("shared") / "broker")
    b.start()
    yield b
    if b.running():
        assert b.stop() in (0, 143), "the shared broker did not end cleanly"


@pytest.fixture(autouse=True)
def shared_broker_survives(request):
    yield
    if "broker" in request.fixturenames:
        b = request.getfixturevalue("broker")
        if not b.running():
            tail = b.process.output()[-2000:]
            b.start()
            pytest.fail(f"the shared broker died during this test:\n{tail}")


@pytest.fixture
def fresh(target_class, tmp_path):
    """Makes brokers of this test's own; all are ended afterwards."""
    made, numbers = [], itertools.count()

    def make(start=True, **options):
        b = target_class(tmp_path / f"broker{next(numbers)}", **options)
        made.append(b)
        if start:
            b.start()
        return b

    yield make
    for b in made:
        if b.running():
            b.kill()
        clients.forget(b)
        shutil.rmtree(b.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def door_class(request):
    from harness.door import KafkaDoor, SchlossDoor
    return {"schloss": SchlossDoor, "kafka": KafkaDoor}[request.config.getoption("--target")]


@pytest.fixture(scope="session")
def door(door_class, tmp_path_factory):
    """The broker of the login suites: every mechanism, an OIDC issuer, the real login clients."""
    d = door_class(tmp_path_factory.mktemp("door"))
    yield d
    d.close()


@pytest.fixture(scope="session")
def short_door(door_class, tmp_path_factory):
    """The like of `door` with `connections.max.reauth.ms` of a few seconds."""
    d = door_class(tmp_path_factory.mktemp("short-door"), reauthentication_ms=3000)
    yield d
    d.close()


@pytest.fixture
def name():
    """A name no other test uses."""
    return lambda stem: f"{stem}-{uuid.uuid4().hex[:10]}"
