"""The client properties that the manual shows, read from the manual, log in."""

import re

import confluent_kafka
import pytest

from harness import env, login

pytestmark = pytest.mark.schloss_only

PAGE = (env.TREE / "broker" / "manual" / "clients.md").read_text()
BLOCKS = {name: dict(line.split("=", 1) for line in body.strip().splitlines())
          for name, body in re.findall(r"```(?:properties|conf) ([a-z-]+)\n(.*?)```", PAGE, re.S)}


def block(door, name):
    """With the page's stand-ins replaced by what this run has."""
    door.scram_user("alice", "alice-secret")
    admin = door.broker.client()
    password = re.search(r"ssl.keystore.password=(\S+)", admin.java.read_text())[1]
    stand_ins = {"changeit": password, "ca.pem": admin.ca, "client.p12": admin.p12, "cert.pem": admin.cert, "key.pem": admin.key,
                 "https://login.example.com/token": f"{door.issuer.url}/token"}
    return {k: str(stand_ins.get(v, v)) for k, v in BLOCKS[name].items()}


def test_the_page_has_blocks_of_both_clients():
    assert {n.split("-")[0] for n in BLOCKS} == {"java", "librdkafka"} and len(BLOCKS) >= 9


@pytest.mark.parametrize("name", [n for n in BLOCKS if n.startswith("java")])
def test_the_java_properties_log_in(door, name):
    properties = block(door, name)
    how = login.Login(properties.get("sasl.mechanism", ""), key=door.key if "iam" in name else None, username="", password="",
                      oidc=door.issuer.client_credentials() if "oidc" in name else None)
    program = door.broker.programs.get("java")
    system = login.java_system(how)
    answer = program.call("open", handle=name, properties={"bootstrap.servers": door.broker.sasl_bootstrap, **properties}, system=system)
    program.call("close", handle=name)
    assert answer["ok"], answer


@pytest.mark.parametrize("name", [n for n in BLOCKS if n.startswith("librdkafka")])
def test_the_librdkafka_properties_log_in(door, name):
    conf = {"bootstrap.servers": door.broker.sasl_bootstrap, "log_level": 0, **block(door, name)}
    if "oidc" in name:
        conf["https.ca.location"] = str(door.issuer.ca)  # the page's provider has a certificate that the world knows
    p = confluent_kafka.Producer(conf)
    p.poll(0.1)
    assert len(p.list_topics(timeout=20).brokers) == 1
