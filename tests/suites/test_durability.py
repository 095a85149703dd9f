"""Acknowledged means synced: seen from outside, at the system calls."""

import re
import signal
import subprocess

import confluent_kafka
import pytest

from harness import clients, env

pytestmark = pytest.mark.schloss_only


@pytest.mark.parametrize("acks", ["1", "all"])
def test_each_acknowledgement_had_its_own_sync(broker, name, tmp_path, acks):
    topic, trace, n = clients.create_topic(broker, name("synced")), tmp_path / "trace", 20
    p = confluent_kafka.Producer(clients.librdkafka_conf(broker, acks=acks, linger_ms=0))
    p.produce(topic, value=b"warm")
    assert p.flush(10) == 0
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-e", "trace=fdatasync,fsync", "-o", str(trace), "-p", str(broker.process.pid)], stderr=subprocess.PIPE, text=True)
    try:
        env.eventually(lambda: all("TracerPid:\t0\n" not in t.read_text() for t in tasks(broker.process.pid)), what="the tracer")
        for i in range(n):
            p.produce(topic, value=str(i))
            assert p.flush(20) == 0
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
    synced = re.findall(r"(?:fdatasync|fsync)(?:\(\d+\)|.*resumed>.*)\s*= 0", trace.read_text())
    assert len(synced) >= n, f"{len(synced)} syncs for {n} acknowledgements one after the other"


def tasks(pid):
    from pathlib import Path
    return [t / "status" for t in Path(f"/proc/{pid}/task").iterdir()]
