"""`schloss keys check`: an operator asks his KMS what the broker will ask of it, and is told what to grant.

The questions are those of the providers' own tests; here they go to AWS KMS as the stand-in and as moto speak it, to Vault's transit
engine, and to the local keyring, all through the command.
"""

import hashlib
import json
import re

import pytest

from harness import clients, wire
from harness.broker import Schloss
from harness.kms import Kms
from harness.kms.transit import Transit
from harness.kms_broker import KmsSchloss
from harness.moto import Moto

pytestmark = [pytest.mark.schloss_only, pytest.mark.timeout(120)]
OF_ONE_KEY = ["enabled", "generates", "never-twice", "opens-again", "other-context", "altered-blob", "unknown-key"]
MOTOS_OWN = ("other-key", "leaves-the-old-key")
EVERY = [*OF_ONE_KEY, "other-key", "wraps-anew", "leaves-the-old-key"]


def second_key(b, former, alias="acme"):
    """Gives a tenant a former key beside its own."""
    f = b.organisation / "tenants" / alias / "tenant.toml"
    f.write_text(re.sub(r"(?m)^(kms_key = .*)$", lambda m: f'{m.group(1)}\nkms_keys = ["{former}"]', f.read_text()))


def check(b, *arguments, environment=None):
    """(exit code, {(owner, key): {check: line}}, the talk)."""
    done = b.run("keys", "check", *arguments, "--config", b.own_config, "--output", "json", environment={**b.environment, **(environment or {})})
    answer = json.loads(done.stdout) if done.stdout.strip() else {"keys": []}
    assert answer.get("ok", False) == (done.returncode == 0)
    return done.returncode, {(k["owner"], k["key"]): {c["check"]: c for c in k["checks"]} for k in answer["keys"]}, done.stderr


def outcomes(checks):
    return {name: line["outcome"] for name, line in checks.items()}


def everything_kept(b, current, former, otherwise=()):
    """`otherwise`: checks that this server refuses with AccessDenied where AWS says IncorrectKeyException."""
    code, keys, talk = check(b, "acme")
    assert code == 0, (keys, talk)
    assert list(keys[("acme", current)]) == list(keys[("acme", former)]) == EVERY
    lines = [line for checks in keys.values() for line in checks.values()]
    assert {line["outcome"] for line in lines} == {"ok"}
    assert {line["check"] for line in lines if line["why"]} == set(otherwise), lines
    return keys


@pytest.fixture
def aws(tmp_path):
    """A prepared broker that does not run, acme with a former key, and its KMS."""
    with Kms() as kms:
        b = KmsSchloss(tmp_path / "broker", kms)
        b.prepare()
        b.former = kms.create_key("acme, former")
        second_key(b, b.former)
        yield b, kms
        if b.running():
            b.kill()
        clients.forget(b)


def test_every_promise_is_kept_by_aws_kms_as_the_stand_in_speaks_it(aws):
    b, kms = aws
    everything_kept(b, b.keys["acme"], b.former)
    assert {c.caller for c in kms.calls} == {kms.root.arn}


def test_every_promise_is_kept_by_aws_kms_as_moto_speaks_it(aws, tmp_path):
    b, _ = aws
    moto = Moto(tmp_path).wait()
    try:
        made = [moto.client("kms").create_key()["KeyMetadata"]["Arn"] for _ in range(2)]
        f = b.tenant_file("acme")
        f.write_text(f.read_text().replace(b.keys["acme"], made[0]).replace(b.former, made[1]))
        b.write_config({**b.config, "kms.aws.endpoint": f"http://127.0.0.1:{moto.port}"})
        everything_kept(b, *made, otherwise=MOTOS_OWN)
    finally:
        moto.end()


def test_every_promise_is_kept_by_the_transit_engine(tmp_path):
    with Transit() as engine:
        b = on_transit(tmp_path, engine)
        everything_kept(b, "schloss-acme", "schloss-former")


def on_transit(tmp_path, engine):
    (tmp_path / "token").write_text(engine.token + "\n")
    b = Schloss(tmp_path / "broker", config={
        "kms.provider": "vault", "kms.vault.address": engine.url, "kms.vault.token.file": str(tmp_path / "token"),
        "kms.cluster.key": engine.create_key("schloss-cluster"), "kms.local.keyring.file": None, "kms.local.key.file": None})
    b.prepare()
    for tenant in b.tenants:
        f = b.organisation / "tenants" / tenant / "tenant.toml"
        f.write_text(re.sub(r"(?m)^kms_key = .*$", f'kms_key = "{engine.create_key("schloss-" + tenant)}"', f.read_text()))
    second_key(b, engine.create_key("schloss-former"))
    return b


def on_keyring(tmp_path):
    b = Schloss(tmp_path / "broker", config={})
    b.prepare()
    keys = {t: re.search(r'(?m)^kms_key = "(.*)"$', (b.organisation / "tenants" / t / "tenant.toml").read_text()).group(1) for t in b.tenants}
    second_key(b, keys["globex"])
    return b, keys


def test_every_promise_is_kept_by_the_local_keyring(tmp_path):
    b, keys = on_keyring(tmp_path)
    everything_kept(b, keys["acme"], keys["globex"])


def test_without_a_name_the_clusters_key_and_every_tenants_are_asked(aws):
    b, _ = aws
    code, keys, _ = check(b)
    assert code == 0
    assert {owner for owner, _ in keys} == {"the cluster", "acme", "globex"}
    assert list(keys[("the cluster", b.keys["cluster"])]) == OF_ONE_KEY


def test_nothing_is_written_and_no_broker_is_needed(tmp_path):
    b, _ = on_keyring(tmp_path)

    def tree():
        return {p: (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).digest()) for p in b.folder.rglob("*") if p.is_file()}
    before = tree()
    assert check(b)[0] == 0
    assert tree() == before


def test_people_are_told_line_by_line_and_what_to_grant(aws):
    b, kms = aws
    kms.deny(b.keys["acme"], ["kms:Decrypt"])
    done = b.run("keys", "check", "acme", "--config", b.own_config, environment=b.environment)
    assert done.returncode == 1 and "SCH-105" in done.stderr and "next:" in done.stderr
    lines = done.stdout.splitlines()
    assert any(re.match(r"  ok +GenerateDataKey +a data key is made$", line) for line in lines), done.stdout
    told = next(line for line in lines if re.match(r"  refused +Decrypt +the wrapped data key opens again", line))
    assert f"grant kms:Decrypt on {b.keys['acme']}" in told
    assert any(re.match(r"  not asked +Decrypt", line) for line in lines)


@pytest.mark.parametrize("trouble, wrong, says", [
    (lambda kms, b: kms.disable(b.keys["acme"]), "generates", "enable the key"),
    (lambda kms, b: kms.schedule_deletion(b.keys["acme"]), "generates", "cancel the key's deletion"),
    (lambda kms, b: kms.deny(b.keys["acme"], ["kms:GenerateDataKey"]), "generates", "grant kms:GenerateDataKey"),
    (lambda kms, b: kms.deny(b.keys["acme"], ["kms:Decrypt"]), "opens-again", "grant kms:Decrypt"),
    (lambda kms, b: kms.deny(b.keys["acme"], ["kms:ReEncrypt*"]), "wraps-anew", "grant kms:ReEncryptFrom"),
    (lambda kms, b: kms.keys.pop(b.keys["acme"].rpartition("/")[2]), "generates", "correct the ARN"),
    (lambda kms, b: kms.identities.pop(kms.root.key_id), "generates", "check the broker's own credentials"),
    (lambda kms, b: kms.down(), "generates", "check the address"),
    (lambda kms, b: kms.fault("throttle", operations=["GenerateDataKey"]), "generates", "ask again later"),
], ids=["disabled", "pending-deletion", "no-generate", "no-decrypt", "no-reencrypt", "unknown-key", "wrong-credentials", "kms-down", "throttled"])
def test_what_is_wrong_is_told_with_what_to_do(aws, trouble, wrong, says):
    b, kms = aws
    trouble(kms, b)
    code, keys, talk = check(b, "acme")
    line = keys[("acme", b.keys["acme"])][wrong]
    assert code == 1 and "SCH-105" in talk
    assert line["outcome"] in ("refused", "no answer") and says in line["next"], line


def test_a_wrong_token_is_told_as_the_brokers_own_trouble(tmp_path):
    with Transit() as engine:
        b = on_transit(tmp_path, engine)
        (tmp_path / "token").write_text("hvs.other\n")
        code, keys, _ = check(b, "acme")
        line = keys[("acme", "schloss-acme")]["generates"]
        assert code == 1 and line["outcome"] == "no answer" and "kms.vault.token.file" in line["next"]


def test_a_key_that_the_token_may_not_use_is_told_with_its_path(tmp_path):
    with Transit() as engine:
        b = on_transit(tmp_path, engine)
        engine.forbidden.add("schloss-acme")
        code, keys, _ = check(b, "acme")
        line = keys[("acme", "schloss-acme")]["generates"]
        assert code == 1 and line["outcome"] == "refused" and "transit/encrypt/schloss-acme" in line["next"]


def test_a_policy_that_binds_the_key_to_the_tenants_context_is_good_and_told(aws):
    b, kms = aws
    key = kms.keys[b.keys["acme"].rpartition("/")[2]]
    policy = json.loads(key.policy_text)
    policy["Statement"].append({"Sid": "OnlyOfAcme", "Effect": "Deny", "Principal": {"AWS": "*"}, "Action": "kms:Decrypt", "Resource": "*",
                                "Condition": {"StringNotEquals": {"kms:EncryptionContext:schloss:tenant": b.tenants["acme"]}}})
    key.set_policy(json.dumps(policy))
    code, keys, _ = check(b, "acme")
    line = keys[("acme", b.keys["acme"])]["other-context"]
    assert code == 0 and line["outcome"] == "ok" and "policy" in line["why"], line


def test_what_the_broker_does_without_is_told_and_is_no_failure(aws):
    b, kms = aws
    kms.deny(b.keys["acme"], ["kms:DescribeKey"])
    code, keys, _ = check(b, "acme")
    assert code == 0 and keys[("acme", b.keys["acme"])]["enabled"]["outcome"] == "not needed"
    b.start()
    with wire.Raw(b, tenant="acme") as raw:
        assert raw.call(wire.build("metadata", 12, topics=None))


def test_an_unknown_tenant_is_a_wrong_call(aws):
    b, _ = aws
    code, keys, talk = check(b, "nobody")
    assert code == 2 and not keys and "there is no tenant" in talk
