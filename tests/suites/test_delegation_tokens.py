"""Delegation tokens with Kafka's semantics: made, told, renewed and ended by those who may, and by nobody else."""

import datetime
import struct

import pytest

from harness import clients, wire

pytestmark = pytest.mark.schloss_only

DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def b(target_class, tmp_path_factory):
    broker = target_class(tmp_path_factory.mktemp("tokens") / "broker")
    broker.start()
    yield broker
    broker.kill()


def call(b, principal, api, version, tenant="acme", **fields):
    with wire.Raw(b, tenant, principal) as raw:
        return raw.call(wire.build(api, version, **fields))


def create(b, principal="producer", renewers=(), max_lifetime=-1, **fields):
    return call(b, principal, "create_delegation_token", 3, renewers=[dict(principal_type="User", principal_name=r) for r in renewers], max_lifetime=max_lifetime, **fields)


def renew(b, hmac, principal="producer", period=-1, tenant="acme"):
    return call(b, principal, "renew_delegation_token", 2, tenant, hmac=hmac, renew_period=period)


def expire(b, hmac, principal="producer", period=-1, tenant="acme"):
    return call(b, principal, "expire_delegation_token", 2, tenant, hmac=hmac, expiry_time_period=period)


def end(b, hmac, principal="producer"):
    """Ends a token at once; the code. Kafka answers the moment -1 then, which is no time to kio."""
    with wire.Raw(b, "acme", principal) as raw:
        answer = raw.call_raw(wire.build("expire_delegation_token", 2, hmac=hmac, expiry_time_period=-1))
    code, moment = struct.unpack(">hq", answer[1:11])
    assert moment == (-1 if code == 0 else 0)
    return code


def tokens(b, principal="producer", owners=None, tenant="acme"):
    owners = None if owners is None else [dict(principal_type="User", principal_name=o) for o in owners]
    answer = call(b, principal, "describe_delegation_token", 3, tenant, owners=owners)
    assert int(answer.error_code) == 0
    return {t.token_id: t for t in answer.tokens}


def ms(moment):
    return round(moment.timestamp() * 1000)


def test_a_token_is_made_told_and_ended_by_its_owner(b):
    made = create(b, renewers=["consumer"])
    assert int(made.error_code) == 0 and (made.principal_type, made.principal_name) == ("User", "producer") and len(made.hmac) == 64
    assert ms(made.max_timestamp) - ms(made.issue_timestamp) in range(7 * DAY_MS - 1000, 7 * DAY_MS + 1000)
    assert ms(made.expiry_timestamp) - ms(made.issue_timestamp) in range(DAY_MS - 1000, DAY_MS + 1000)
    told = tokens(b)[made.token_id]
    assert told.hmac == made.hmac and [r.principal_name for r in told.renewers] == ["consumer"]
    assert end(b, made.hmac) == 0
    assert made.token_id not in tokens(b)
    assert int(renew(b, made.hmac).error_code) == 62


def test_kafkas_own_tool_makes_describes_renews_and_expires(b):
    tool = "org.apache.kafka.tools.DelegationTokenCommand"
    said = clients.java(b, tool, "--create", "--max-life-time-period", "-1", "--renewer-principal", "User:consumer")
    hmac = next(word for line in said.splitlines() if "User:" in line for word in line.split() if len(word) == 88)
    assert hmac in clients.java(b, tool, "--describe", "--owner-principal", "User:admin")
    clients.java(b, tool, "--renew", "--renew-time-period", "-1", "--hmac", hmac)
    clients.java(b, tool, "--expire", "--expiry-time-period", "-1", "--hmac", hmac)
    assert hmac not in clients.java(b, tool, "--describe", "--owner-principal", "User:admin")


def test_a_renewer_may_renew_and_a_stranger_may_not(b):
    made = create(b, renewers=["consumer"])
    assert int(renew(b, made.hmac, "consumer").error_code) == 0
    assert int(renew(b, made.hmac, "auditor").error_code) == 63
    assert int(expire(b, made.hmac, "auditor").error_code) == 63
    assert made.token_id in tokens(b, "consumer") and made.token_id not in tokens(b, "auditor")
    assert end(b, made.hmac, "consumer") == 0


def test_no_renewal_moves_a_token_past_its_last_moment(b):
    made = create(b, max_lifetime=60_000)
    assert ms(made.max_timestamp) - ms(made.issue_timestamp) in range(59_000, 61_000)
    assert renew(b, made.hmac).expiry_timestamp == made.max_timestamp
    assert expire(b, made.hmac, period=DAY_MS).expiry_timestamp == made.max_timestamp
    assert renew(b, made.hmac, period=1000).expiry_timestamp < made.max_timestamp


def test_an_ended_token_is_expired_and_then_unseen(b):
    from harness import env
    made = create(b, max_lifetime=1500)
    env.eventually(lambda: int(renew(b, made.hmac, period=100).error_code) in (66, 62), timeout=10, what="the token's end")
    assert made.token_id not in tokens(b)


def test_another_tenants_token_is_as_unknown_as_one_nobody_has(b):
    made = create(b)
    for ask in (renew, expire):
        assert int(ask(b, made.hmac, "admin", tenant="globex").error_code) == int(ask(b, bytes(64), "admin", tenant="globex").error_code) == 62
    assert not tokens(b, "admin", tenant="globex")
    assert made.token_id in tokens(b)


def test_a_token_for_somebody_else_needs_the_right_to_make_it(b):
    assert int(create(b, "producer", owner_principal_type="User", owner_principal_name="admin").error_code) == 65
    made = create(b, "admin", owner_principal_type="User", owner_principal_name="producer")
    assert int(made.error_code) == 0 and (made.principal_name, made.token_requester_principal_name) == ("producer", "admin")
    assert made.token_id in tokens(b, "producer")
    assert int(create(b, "admin", owner_principal_type="User", owner_principal_name="nobody-here").error_code) == 65
    assert int(create(b, "admin", owner_principal_type="Group", owner_principal_name="producer").error_code) == 67


def test_an_admin_may_describe_by_policy_and_owners_filter(b):
    made = create(b, "consumer")
    assert made.token_id in tokens(b, "admin") and made.token_id in tokens(b, "admin", owners=["consumer"])
    assert made.token_id not in tokens(b, "admin", owners=["producer"]) and not tokens(b, "admin", owners=[])


def test_renewers_of_another_type_and_too_many_are_refused(b):
    answer = call(b, "producer", "create_delegation_token", 3, renewers=[dict(principal_type="Group", principal_name="x")], max_lifetime=-1)
    assert int(answer.error_code) == 67
    assert int(create(b, renewers=[f"r{n}" for n in range(101)]).error_code) == 42


def test_tokens_survive_a_restart_and_their_secrets_stand_in_no_file(fresh):
    import base64
    b = fresh()
    made = create(b)
    b.kill()
    secrets = (made.hmac, base64.b64encode(made.hmac), made.hmac.hex().encode())
    assert not [p for p in b.data.rglob("*") if p.is_file() and any(s in p.read_bytes() for s in secrets)]
    b.start()
    assert tokens(b)[made.token_id].hmac == made.hmac
    assert isinstance(made.issue_timestamp, datetime.datetime)


def test_a_users_own_key_makes_tokens_and_temporary_credentials_do_not(fresh):
    """A token would outlive the session and lose its limits."""
    from harness import iam, login, sasl, sigv4
    b = fresh()
    iam.write(b, "tenants/acme/trust/maker.json", iam.trust(iam.trusting({"AWS": iam.user_arn(b, "producer")})))
    iam.write(b, "tenants/acme/roles/maker.toml", 'policies = ["producer"]\ntrust = "maker"\n')
    iam.settle(b)
    own = iam.access_key(b, "producer")
    role = iam.sts(b, own).assume_role(RoleArn=iam.role_arn(b, "maker"), RoleSessionName="s1")["Credentials"]
    user = iam.sts(b, own).get_session_token()["Credentials"]
    temporary = [login.Key(c["AccessKeyId"], c["SecretAccessKey"], c["SessionToken"]) for c in (role, user)]
    for key, code in [(login.Key(*own), 0)] + [(key, 64) for key in temporary]:
        with sasl.Sasl(b) as s:
            assert s.iam(sigv4.payload(key)).code == sasl.OK
            raw = s.call_raw(wire.build("create_delegation_token", 3, renewers=[], max_lifetime=60_000))
            assert struct.unpack(">h", raw[1:3])[0] == code
