"""The STS by unmodified boto3: who may become whom, for how long, with what limits; and what everybody else is told."""

import datetime
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from unittest import mock

import pytest

from harness import env, iam

pytestmark = pytest.mark.schloss_only

DENIED = ("AccessDenied", 403)
POLICY = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kafka-cluster:*", "Resource": "*"}]})


class Castle:
    """A broker with roles for every promise, and keys of its users."""

    def __init__(self, b):
        self.b = b
        producer = {"AWS": iam.user_arn(b, "producer")}
        roles = {
            "reader": iam.trusting(producer, ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]),
            "next": iam.trusting({"AWS": iam.role_arn(b, "reader")}, "sts:*"),
            "external": iam.trusting(producer, Condition={"StringEquals": {"sts:ExternalId": "42"}}),
            "tagless": iam.trusting(producer),
            "delegated": iam.trusting({"AWS": b.tenants["acme"]}),
            "across": iam.trusting({"AWS": iam.user_arn(b, "consumer", "globex")}),
        }
        for role, statement in roles.items():
            iam.write(b, f"tenants/acme/trust/{role}.json", iam.trust(statement))
            iam.write(b, f"tenants/acme/roles/{role}.toml", f'policies = ["consumer"]\ntrust = "{role}"\n')
        iam.write(b, "tenants/acme/roles/untrusting.toml", 'policies = ["consumer"]\n')
        iam.write(b, "tenants/acme/policies/may-assume.json", {"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}]})
        iam.write(b, "tenants/globex/policies/may-assume.json", {"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": iam.role_arn(b, "across")}]})
        iam.write(b, "tenants/acme/users/admin.toml", 'policies = ["admin", "may-assume"]\n')
        iam.write(b, "tenants/globex/users/consumer.toml", 'policies = ["consumer", "may-assume"]\n')
        iam.settle(b)
        self.keys = {user: iam.access_key(b, user) for user in ("admin", "producer", "consumer", "auditor")}
        self.keys["globex"] = iam.access_key(b, "consumer", "globex")
        self.keys["globex-admin"] = iam.access_key(b, "admin", "globex")

    def sts(self, who):
        return iam.sts(self.b, self.keys[who])

    def role(self, role):
        return iam.role_arn(self.b, role)

    def assume(self, role="reader", who="producer", session="s1", **more):
        return self.sts(who).assume_role(RoleArn=self.role(role), RoleSessionName=session, **more)

    def refused(self, role="reader", who="producer", session="s1", **more):
        return iam.refusal(self.sts(who).assume_role, RoleArn=self.role(role), RoleSessionName=session, **more)


@pytest.fixture(scope="module")
def castle(target_class, tmp_path_factory):
    b = target_class(tmp_path_factory.mktemp("sts") / "broker")
    b.start()
    yield Castle(b)
    b.kill()


def test_a_trusted_user_becomes_the_role(castle):
    answer = castle.assume()
    arn = f"arn:aws:sts::{castle.b.tenants['acme']}:assumed-role/reader/s1"
    assert answer["AssumedRoleUser"]["Arn"] == arn
    left = answer["Credentials"]["Expiration"] - datetime.datetime.now(datetime.timezone.utc)
    assert 3500 < left.total_seconds() <= 3600
    assert answer["Credentials"]["AccessKeyId"].startswith("ASIA")
    identity = iam.session(castle.b, answer["Credentials"]).get_caller_identity()
    assert identity["Arn"] == arn and identity["Account"] == castle.b.tenants["acme"]


def test_the_sdk_needs_nothing_but_environment_variables(castle):
    key = castle.keys["producer"]
    code = f"""import boto3; c = boto3.client("sts"); print(c.assume_role(RoleArn="{castle.role('reader')}", RoleSessionName="env")["AssumedRoleUser"]["Arn"])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={
        **os.environ, "AWS_ENDPOINT_URL_STS": f"https://localhost:{castle.b.admin_port}", "AWS_CA_BUNDLE": str(castle.b.client().ca),
        "AWS_ACCESS_KEY_ID": key[0], "AWS_SECRET_ACCESS_KEY": key[1], "AWS_DEFAULT_REGION": "us-west-2"})
    assert done.stdout.strip().endswith(":assumed-role/reader/env"), done.stderr


@pytest.mark.parametrize("role, who", [
    ("untrusting", "producer"), ("untrusting", "admin"), ("reader", "consumer"), ("reader", "admin"), ("delegated", "producer"),
    ("across", "globex-admin"), ("reader", "globex"), ("next", "producer"), ("no-such-role", "admin"), ("no-such-role", "globex")])
def test_whoever_is_not_trusted_is_denied(castle, role, who):
    assert castle.refused(role, who) == DENIED


def test_a_role_that_is_absent_and_one_that_refuses_are_told_alike(castle):
    def told(role):
        with pytest.raises(Exception) as error:
            castle.assume(role, who="globex-admin")
        return error.value.response["Error"]["Message"].replace(role, "ROLE")
    assert told("reader") == told("no-such-role")


def test_trust_in_the_account_lets_the_users_own_policies_decide(castle):
    assert castle.assume("delegated", "admin")


def test_another_tenants_user_needs_both_sides(castle):
    answer = castle.assume("across", "globex")
    assert f"::{castle.b.tenants['acme']}:assumed-role/across/" in answer["AssumedRoleUser"]["Arn"]


def test_an_external_id_must_match(castle):
    assert castle.assume("external", ExternalId="42")
    assert castle.refused("external", ExternalId="43") == DENIED
    assert castle.refused("external") == DENIED


def test_tags_and_source_identity_need_the_roles_consent(castle):
    assert castle.refused("tagless", Tags=[{"Key": "team", "Value": "blue"}]) == DENIED
    assert castle.refused("tagless", SourceIdentity="ann") == DENIED
    answer = castle.assume(Tags=[{"Key": "team", "Value": "blue"}], SourceIdentity="ann")
    assert answer["SourceIdentity"] == "ann" and 0 < answer["PackedPolicySize"] <= 100


def test_a_chain_of_roles_inherits_identity_and_tags_and_lasts_an_hour(castle):
    first = castle.assume(Tags=[{"Key": "team", "Value": "blue"}], TransitiveTagKeys=["team"], SourceIdentity="ann")
    sts = iam.session(castle.b, first["Credentials"])
    wish = dict(RoleArn=castle.role("next"), RoleSessionName="chained")
    assert sts.assume_role(**wish)["SourceIdentity"] == "ann"
    assert iam.refusal(sts.assume_role, **wish, SourceIdentity="eve") == DENIED
    assert iam.refusal(sts.assume_role, **wish, Tags=[{"Key": "Team", "Value": "red"}]) == ("ValidationError", 400)
    iam.write(castle.b, "tenants/acme/roles/next.toml", 'policies = ["consumer"]\ntrust = "next"\nmax_session_duration = 7200\n')
    iam.settle(castle.b)
    assert iam.refusal(sts.assume_role, **wish, DurationSeconds=7200) == ("ValidationError", 400)


@pytest.mark.parametrize("wish, code", [
    (dict(DurationSeconds=3601), "ValidationError"), (dict(DurationSeconds=43201), "ValidationError"), (dict(DurationSeconds=899), "ValidationError"),
    (dict(Policy="{}"), "MalformedPolicyDocument"), (dict(Policy="x" * 2049), "MalformedPolicyDocument"),
    (dict(Policy=POLICY.replace("Allow", "Alow")), "MalformedPolicyDocument"),
    (dict(PolicyArns=[{"arn": "arn:aws:iam::222222222222:policy/consumer"}]), "ValidationError"),
    (dict(PolicyArns=[{"arn": "arn:aws:iam::111111111111:policy/absent"}]), "ValidationError"),
    (dict(SerialNumber="arn:aws:iam::111111111111:mfa/x", TokenCode="123456"), "ValidationError"),
    (dict(Tags=[{"Key": f"k{n}", "Value": "v" * 256} for n in range(50)]), "PackedPolicyTooLarge")])
def test_parameters_out_of_bounds_are_refused_in_awss_words(castle, wish, code):
    sts = iam.sts(castle.b, castle.keys["producer"], parameter_validation=False)
    assert iam.refusal(sts.assume_role, RoleArn=castle.role("reader"), RoleSessionName="s1", **wish) == (code, 400)


def test_session_policies_in_line_and_by_arn_are_taken(castle):
    account = castle.b.tenants["acme"]
    assert castle.assume(Policy=POLICY, PolicyArns=[{"arn": f"arn:aws:iam::{account}:policy/consumer"}, {"arn": "arn:aws:iam::aws:policy/consumer"}])


def test_wrong_secrets_unknown_keys_and_foreign_tokens_are_refused(castle):
    key = castle.keys["producer"]
    assert iam.refusal(iam.sts(castle.b, (key[0], "x" * 40)).get_caller_identity) == ("SignatureDoesNotMatch", 403)
    assert iam.refusal(iam.sts(castle.b, ("AKIA" + "A" * 16, key[1])).get_caller_identity) == ("InvalidClientTokenId", 403)
    one, two = (castle.assume(session=s)["Credentials"] for s in ("one", "two"))
    wrong = {"SessionToken": two["SessionToken"]}, {"SessionToken": one["SessionToken"][:-8] + "AAAAAAA="}, {"SessionToken": "AA=="}, {"AccessKeyId": two["AccessKeyId"]}
    for change in wrong:
        assert iam.refusal(iam.session(castle.b, {**one, **change}).get_caller_identity) == ("InvalidClientTokenId", 403), change
    assert iam.refusal(iam.session(castle.b, {**one, "SecretAccessKey": two["SecretAccessKey"]}).get_caller_identity) == ("SignatureDoesNotMatch", 403)
    assert iam.refusal(iam.sts(castle.b, (one["AccessKeyId"], one["SecretAccessKey"])).get_caller_identity) == ("InvalidClientTokenId", 403)


def post(b, body, headers=()):
    request = urllib.request.Request(f"https://localhost:{b.admin_port}/", data=body, method="POST", headers={
        "Content-Type": "application/x-www-form-urlencoded", **dict(headers)})
    try:
        with urllib.request.urlopen(request, context=b.client().tls(certificate=False), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("body, headers, status, code", [
    (b"Action=GetCallerIdentity&Version=2011-06-15", {}, 403, "MissingAuthenticationToken"),
    (b"Action=GetCallerIdentity&Version=2011-06-15", {"Authorization": "AWS4-HMAC-SHA256 nonsense"}, 400, "IncompleteSignature"),
    (b"Action=GetCallerIdentity&Action=AssumeRole", {}, 400, "ValidationError"),
    (b"Action=DecodeAuthorizationMessage", {}, 400, "InvalidAction"), (b"", {}, 400, "InvalidAction"), (b"Action=%ff", {}, 400, "ValidationError"),
    (b"&".join(b"a%d=1" % n for n in range(5000)), {}, 400, "ValidationError")])
def test_requests_that_are_no_requests_get_an_error_sdks_can_read(castle, body, headers, status, code):
    got, text = post(castle.b, body, headers)
    assert got == status and f"<Code>{code}</Code>" in text and "<RequestId>" in text, text


def test_a_body_beyond_the_bound_is_answered_before_it_is_read_to_its_claimed_end(castle):
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", castle.b.admin_port), timeout=10) as plain:
        with castle.b.client().tls(certificate=False).wrap_socket(plain, server_hostname="localhost") as stream:
            stream.sendall(head + b"a" * (192 * 1024 + 1))
            assert stream.recv(64).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("minutes", [-16, 16])
def test_a_signature_of_another_quarter_of_an_hour_is_refused(castle, minutes):
    shifted = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None) + datetime.timedelta(minutes=minutes)
    with mock.patch("botocore.auth.get_current_datetime", lambda *a, **k: shifted):
        assert iam.refusal(castle.sts("producer").get_caller_identity) == ("SignatureDoesNotMatch", 403)


def test_a_session_token_for_a_user_lives_as_long_as_its_key(castle):
    key = iam.access_key(castle.b, "auditor")
    credentials = iam.sts(castle.b, key).get_session_token(DurationSeconds=900)["Credentials"]
    sts = iam.session(castle.b, credentials)
    assert sts.get_caller_identity()["Arn"] == iam.user_arn(castle.b, "auditor")
    assert iam.refusal(sts.get_session_token) == DENIED
    iam.command(castle.b, "access-key", "deactivate", key[0], "--tenant", "acme")
    assert iam.refusal(sts.get_caller_identity) == ("InvalidClientTokenId", 403)


def test_revoked_sessions_of_a_role_are_refused_and_new_ones_are_not(castle):
    old, other = castle.assume("tagless")["Credentials"], castle.assume()["Credentials"]
    iam.command(castle.b, "role", "revoke-sessions", "tagless", "--tenant", "acme")
    assert iam.refusal(iam.session(castle.b, old).get_caller_identity) == ("InvalidClientTokenId", 403)
    iam.session(castle.b, other).get_caller_identity()
    iam.session(castle.b, castle.assume("tagless")["Credentials"]).get_caller_identity()


def test_a_session_survives_a_restart_and_falls_with_its_role(fresh):
    b = fresh()
    iam.write(b, "tenants/acme/trust/gone.json", iam.trust(iam.trusting({"AWS": iam.user_arn(b, "producer")})))
    iam.write(b, "tenants/acme/roles/gone.toml", 'policies = []\ntrust = "gone"\n')
    iam.settle(b)
    key = iam.access_key(b, "producer")
    credentials = iam.sts(b, key).assume_role(RoleArn=iam.role_arn(b, "gone"), RoleSessionName="s1")["Credentials"]
    b.kill()
    b.start()
    iam.session(b, credentials).get_caller_identity()
    iam.command(b, "role", "delete", "gone", "--tenant", "acme")
    assert iam.refusal(iam.session(b, credentials).get_caller_identity) == ("InvalidClientTokenId", 403)


def test_a_suspended_tenants_keys_sign_nothing_and_its_roles_are_nobodys(fresh):
    b = fresh()
    for tenant in ("acme", "globex"):
        iam.write(b, f"tenants/{tenant}/policies/may-assume.json", {"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}]})
        iam.write(b, f"tenants/{tenant}/users/producer.toml", 'policies = ["producer", "may-assume"]\n')
    iam.write(b, "tenants/globex/trust/r.json", iam.trust(iam.trusting({"AWS": iam.user_arn(b, "producer")})))
    iam.write(b, "tenants/globex/roles/r.toml", 'policies = []\ntrust = "r"\n')
    iam.settle(b)
    own, other = iam.access_key(b, "producer"), iam.access_key(b, "producer", "globex")
    wish = dict(RoleArn=iam.role_arn(b, "r", "globex"), RoleSessionName="s1")
    session = iam.session(b, iam.sts(b, own).assume_role(**wish)["Credentials"])
    iam.sts(b, other).get_caller_identity()
    file = b.organisation / "tenants/globex/tenant.toml"
    iam.write(b, "tenants/globex/tenant.toml", "suspended = true\n" + file.read_text())
    iam.settle(b)
    assert iam.refusal(iam.sts(b, other).get_caller_identity) == ("InvalidClientTokenId", 403)
    assert iam.refusal(session.get_caller_identity) == ("InvalidClientTokenId", 403)
    assert iam.refusal(iam.sts(b, own).assume_role, **wish) == DENIED
    iam.sts(b, own).get_caller_identity()


def test_each_refusal_is_an_event_that_names_the_step_and_each_session_one_too(castle):
    issued = castle.assume("reader", session="in-the-log")["Credentials"]
    castle.refused("untrusting", session="not-in-the-log")
    iam.refusal(iam.sts(castle.b, (castle.keys["producer"][0], "x" * 40)).get_caller_identity)
    def events():
        done = castle.b.run("audit", "query", "--dir", castle.b.folder, "--output", "json")
        return [line for line in done.stdout.splitlines() if "sts:" in line]
    def told(*words):
        return any(all(word in line for word in words) for line in events())
    env.eventually(lambda: told("sts:AssumeRole", "in-the-log", "allowed", issued["AccessKeyId"]), what="the session's event")
    env.eventually(lambda: told("not-in-the-log", "denied", "trust policy: the role has no trust policy"), what="the refusal's event")
    env.eventually(lambda: told("denied", "signature: ", castle.keys["producer"][0]), what="the forged signature's event")
    secrets = [key[1] for key in castle.keys.values()] + [issued["SecretAccessKey"], issued["SessionToken"]]
    assert not any(secret in line for secret in secrets for line in events())


def test_a_flood_from_one_address_is_throttled_and_told(fresh):
    b = fresh()
    answers = [post(b, b"Action=GetCallerIdentity") for _ in range(300)]
    assert any("<Code>Throttling</Code>" in text for _, text in answers)
    assert "<Code>MissingAuthenticationToken</Code>" in answers[0][1]
    key = iam.access_key(b, "producer")
    env.eventually(lambda: iam.sts(b, key).get_caller_identity(), timeout=15, what="the limit's refill")
