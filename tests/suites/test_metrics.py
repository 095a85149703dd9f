"""Liveness, readiness and metrics on the HTTPS admin listener."""

import re
import subprocess

import pytest

from harness import clients, env

pytestmark = pytest.mark.schloss_only


def test_live_and_ready_are_answered_over_https(broker):
    assert broker.admin_get("/livez")[0] == 200 and broker.admin_get("/readyz")[0] == 200


def test_promtool_finds_nothing_to_say_about_the_metrics(broker):
    clients.produce_librdkafka(broker, clients.create_topic(broker, "metrics-topic"), [("k", "v")] * 10)
    text = broker.admin_get("/metrics")[1]
    done = subprocess.run([env.PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout.strip() and not done.stderr.strip(), done.stdout + done.stderr


@pytest.mark.parametrize("about", ["request", "authorization", "kms", "wal", "segment", "connection", "received.*bytes|bytes.*received"])
def test_figures_of_each_part_are_there(broker, about):
    assert re.search(rf"(?m)^schloss_\w*({about})\w*[ {{]", broker.admin_get("/metrics")[1])


def value(broker, pattern):
    return sum(float(l.rsplit(" ", 1)[1]) for l in broker.admin_get("/metrics")[1].splitlines() if re.match(pattern, l))


def test_a_produce_moves_the_request_and_wal_figures(broker, name):
    topic = clients.create_topic(broker, name("moved"))
    before = value(broker, r"schloss_requests_total"), value(broker, r"schloss_wal_\w*(syncs|entries)\w*")
    clients.produce_librdkafka(broker, topic, [("k", "v")])
    assert value(broker, r"schloss_requests_total") > before[0]
    assert value(broker, r"schloss_wal_\w*(syncs|entries)\w*") > before[1]


def test_nothing_else_is_served_there(broker):
    import urllib.error
    for path in ("/", "/topics", "/metrics/../../etc/passwd", "/debug/pprof"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            broker.admin_get(path)
        assert refused.value.code in (400, 404, 405)
