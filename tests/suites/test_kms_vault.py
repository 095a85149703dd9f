"""Tenants' keys in Vault's or OpenBao's transit engine: the same promises through another provider."""

import re
import shutil

import pytest

from harness import clients, env, traffic, wire
from harness.broker import Schloss
from harness.kms.transit import Transit

pytestmark = [pytest.mark.schloss_only, pytest.mark.timeout(180)]


@pytest.fixture
def vault(tmp_path):
    """(broker, engine), stopped; the engine has the broker's three keys."""
    with Transit() as engine:
        (tmp_path / "token").write_text(engine.token + "\n")
        b = Schloss(tmp_path / "broker", config={
            "kms.provider": "vault", "kms.vault.address": engine.url, "kms.vault.token.file": str(tmp_path / "token"),
            "kms.cluster.key": engine.create_key("schloss-cluster"), "kms.local.keyring.file": None, "kms.local.key.file": None, "storage.flush.ms": 100})
        b.prepare()
        shutil.rmtree(b.data)
        b.data.mkdir()
        for tenant in b.tenants:
            f = b.organisation / "tenants" / tenant / "tenant.toml"
            f.write_text(re.sub(r"(?m)^kms_key = .*$", f'kms_key = "{engine.create_key("schloss-" + tenant)}"', f.read_text()))
        yield b, engine
        if b.running():
            b.kill()
        clients.forget(b)


def grow(b):
    b.start()
    for tenant in b.tenants:
        clients.produce_librdkafka(b, clients.create_topic(b, "kept", tenant=tenant), [("k", f"of {tenant}")], tenant=tenant)
    env.eventually(lambda: len(list((b.data / "objects").rglob("*/*/*"))) >= 2, what="segments")


def test_records_survive_a_restart_and_every_key_is_bound_to_its_tenant_and_purpose(vault):
    b, engine = vault
    grow(b)
    assert b.stop() == 0
    b.start()
    for tenant in b.tenants:
        assert [s.value for s in clients.consume_librdkafka(b, "kept", 1, tenant=tenant)] == [f"of {tenant}"]
        bound = {c.asked["associated_data"] for c in engine.calls.of("encrypt", key=f"schloss-{tenant}")}
        assert len(bound) >= 4, "metadata, index, log and segment each have a context of their own"
    assert engine.calls.count("decrypt", outcome="ok")


def test_a_key_the_token_may_not_use_locks_its_tenant_only_and_comes_back(vault):
    b, engine = vault
    grow(b)
    assert b.stop() == 0
    engine.forbidden.add("schloss-acme")
    b.start()
    assert [s.value for s in clients.consume_librdkafka(b, "kept", 1, tenant="globex")] == ["of globex"]
    with pytest.raises((OSError, wire.Closed, AssertionError)), wire.Raw(b) as raw:
        assert traffic.fetch(raw, "kept")[0] == 0
    engine.forbidden.clear()

    def back():
        with wire.Raw(b) as raw:
            return traffic.fetch(raw, "kept")[1]
    assert b"of acme" in env.eventually(back, timeout=30, what="acme being served again")


def test_a_sealed_vault_or_a_lost_token_is_an_outage_and_stops_nobody(vault):
    b, engine = vault
    grow(b)
    good = engine.token
    for trouble in ("sealed", "token"):
        mark = len(engine.calls)
        engine.sealed, engine.token = trouble == "sealed", "other" if trouble == "token" else good
        clients.produce_librdkafka(b, "kept", [("k", trouble)])
        env.eventually(lambda: [c for c in engine.calls.since(mark) if c.outcome in ("403", "503")], timeout=40, what="a call refused")
        clients.produce_librdkafka(b, "kept", [("k", trouble)])
        assert len(clients.consume_librdkafka(b, "kept", 1)) >= 1
        engine.sealed, engine.token = False, good
