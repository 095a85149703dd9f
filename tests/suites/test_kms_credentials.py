"""Whose credentials the broker calls AWS KMS with: every kind, a role per tenant, and what a refusal of them means."""

import datetime

import pytest

from harness import clients, env
from harness.kms import Kms
from harness.kms_broker import KmsSchloss

pytestmark = [pytest.mark.schloss_only, pytest.mark.timeout(180)]
NONE = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}


@pytest.fixture(scope="module")
def kms():
    with Kms() as k:
        yield k


@pytest.fixture
def start(kms, tmp_path):
    """Starts a broker with this config and environment, has it write and read, and returns who called the KMS."""
    made = []

    def go(config=None, environment=None, prepare=None, **more):
        b = KmsSchloss(tmp_path / "broker", kms, config=config, environment=environment, **more)
        made.append(b)
        b.prepare()
        if prepare:
            prepare(b)
        mark = len(kms.calls)
        b.start()
        topic = clients.create_topic(b, "one")
        clients.produce_librdkafka(b, topic, [("k", "v")])
        assert len(clients.consume_librdkafka(b, topic, 1)) == 1
        return b, [c for c in kms.calls.since(mark) if c.caller]

    yield go
    for b in made:
        if b.running():
            b.kill()
        clients.forget(b)


def test_credentials_come_from_a_named_profile(kms, start, tmp_path):
    who = kms.identity(f"arn:aws:iam::{kms.account}:user/profile", kms.account)
    (tmp_path / "aws").write_text(f"[default]\naws_access_key_id = AKIAWRONG\naws_secret_access_key = wrong\n"
                                  f"[broker]\naws_access_key_id = {who.key_id}\naws_secret_access_key = {who.secret}\n")
    _, calls = start({"kms.aws.credentials": "profile", "kms.aws.profile": "broker"}, {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "aws"), **NONE})
    assert {c.caller for c in calls} == {who.arn}


def test_an_instance_lends_its_role(kms, start):
    kms.imds.role = kms.role(f"arn:aws:iam::{kms.account}:role/instance")
    _, calls = start({"kms.aws.credentials": "instance"}, {"AWS_EC2_METADATA_SERVICE_ENDPOINT": kms.url, "AWS_EC2_METADATA_DISABLED": "false", **NONE})
    assert {c.caller.split("/")[1] for c in calls} == {"instance"}


def test_a_tenants_key_in_its_own_account_is_reached_by_its_role_and_external_id(kms, start):
    """The tenant's account trusts the broker's, with the external id agreed upon; nobody else's calls use that role."""
    account, external = "777788889999", "agreed-7f3a"
    role = kms.role(f"arn:aws:iam::{account}:role/schloss", external_id=external)
    own = kms.create_key("acme's own", account=account)

    def point(b):
        b.keys["acme"] = own
        f = b.tenant_file("acme")
        f.write_text("\n".join(f'kms_key = "{own}"\nkms_role = "{role.arn}"\nkms_external_id = "{external}"' if l.startswith("kms_key") else l for l in f.read_text().splitlines()) + "\n")

    b, calls = start({"kms.aws.sts.endpoint": kms.url}, prepare=point)
    of_acme = {c.caller for c in calls if own in c.keys}
    assert of_acme and all(c.startswith(f"arn:aws:sts::{account}:assumed-role/schloss/") for c in of_acme), of_acme
    assert {c.caller for c in calls if own not in c.keys} == {kms.root.arn}
    assert {(arn, x) for arn, _, x in kms.assumed if arn == role.arn} == {(role.arn, external)}


def web_identity(kms, tmp_path):
    """A role for the holders of a token, and the environment EKS gives such a process."""
    role = kms.role(f"arn:aws:iam::{kms.account}:role/pod", web_identity_token="a token of the cluster")
    (tmp_path / "token").write_text("a token of the cluster")
    return role, {"AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"), "AWS_ROLE_ARN": role.arn, **NONE}


@pytest.mark.parametrize("source", ["web-identity", "chain"])
def test_a_web_identitys_credentials_come_from_the_sts_endpoint_of_the_config(kms, start, tmp_path, source):
    _, environment = web_identity(kms, tmp_path)
    _, calls = start({"kms.aws.credentials": source, "kms.aws.sts.endpoint": kms.url}, environment)
    assert {c.caller.split("/")[1] for c in calls} == {"pod"}


@pytest.mark.parametrize("source", ["profile", "chain"])
def test_a_profiles_role_is_assumed_at_the_sts_endpoint_of_the_config(kms, start, tmp_path, source):
    role = kms.role(f"arn:aws:iam::{kms.account}:role/of-profile", external_id="agreed")
    (tmp_path / "aws").write_text(f"[people]\naws_access_key_id = {kms.root.key_id}\naws_secret_access_key = {kms.root.secret}\n")
    (tmp_path / "config").write_text(f"[profile broker]\nrole_arn = {role.arn}\nexternal_id = agreed\nsource_profile = people\n")
    which = {"kms.aws.credentials": "profile", "kms.aws.profile": "broker"} if source == "profile" else {}
    _, calls = start({"kms.aws.sts.endpoint": kms.url, **which}, {
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "aws"), "AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_PROFILE": "broker", **NONE})
    assert {c.caller.split("/")[1] for c in calls} == {"of-profile"}
    assert {(arn, x) for arn, _, x in kms.assumed if arn == role.arn} == {(role.arn, "agreed")}


def test_a_tenants_role_is_assumed_with_a_web_identitys_credentials_at_the_same_endpoint(kms, start, tmp_path):
    _, environment = web_identity(kms, tmp_path)
    role = kms.role("arn:aws:iam::777788889999:role/of-acme")
    own = kms.create_key("acme's own", account="777788889999")

    def point(b):
        b.keys["acme"] = own
        f = b.tenant_file("acme")
        f.write_text("\n".join(f'kms_key = "{own}"\nkms_role = "{role.arn}"' if l.startswith("kms_key") else l for l in f.read_text().splitlines()) + "\n")

    _, calls = start({"kms.aws.credentials": "web-identity", "kms.aws.sts.endpoint": kms.url}, environment, prepare=point)
    assert {c.caller.split("/")[1] for c in calls if own in c.keys} == {"of-acme"}
    assert {c.caller.split("/")[1] for c in calls if own not in c.keys} == {"pod"}


@pytest.mark.parametrize("trouble", ["expired", "unknown"])
def test_trouble_with_the_brokers_own_credentials_is_an_outage_and_stops_nobody(kms, start, trouble):
    """Credentials say nothing about the tenant's key: cached keys serve on, through flushes that would need new ones."""
    b, _ = start({"storage.flush.ms": 100})
    root, mark = kms.root, len(kms.calls)
    if trouble == "expired":
        root.expires = datetime.datetime.now(datetime.timezone.utc)
    else:
        del kms.identities[root.key_id]
    try:
        clients.produce_librdkafka(b, "one", [("k", "during")])
        env.eventually(lambda: [c for c in kms.calls.since(mark) if c.outcome in ("ExpiredTokenException", "UnrecognizedClientException")],
                       timeout=40, what="a refused call")
        clients.produce_librdkafka(b, "one", [("k", "during")])
        assert [s.value for s in clients.consume_librdkafka(b, "one", 3)] == ["v", "during", "during"]
    finally:
        root.expires = None
        kms.identities[root.key_id] = root
