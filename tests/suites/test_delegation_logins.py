"""Delegation tokens (KIP-48): a principal lends its name for a while; whoever holds the token logs in by SCRAM with tokenauth."""

import re
import time

import pytest

from harness import clients, env, login, sasl
from harness.sasl import FAILED, OK

MECHANISM = "SCRAM-SHA-256"


def tool(door, *arguments, principal="admin"):
    return clients.java(door.broker, "org.apache.kafka.tools.DelegationTokenCommand", *arguments, principal=principal)


def create(door, lifetime_ms=600_000, *more):
    """By kafka-delegation-tokens; (token id, hmac)."""
    told = tool(door, "--create", "--max-life-time-period", lifetime_ms, *more)
    row = next(line.split() for line in told.splitlines() if re.match(r"^\S+\s+\S{80,}\s", line))
    return row[0], row[1]


def logs_in(door, token, hmac):
    with sasl.Sasl(door.broker) as s:
        return s.scram(token, hmac, MECHANISM, tokenauth=True).code == OK


@pytest.fixture(scope="module")
def token(door):
    made = create(door)
    env.eventually(lambda: logs_in(door, *made), timeout=10, what="the token")
    return made


@pytest.mark.parametrize("client", ("java", "franz-go"))
def test_a_client_logs_in_with_a_token_produces_and_consumes(door, token, client):
    login.round_trip(client, door.broker, login.scram(*token, MECHANISM, delegation_token=True), door.topic)


def test_a_token_serves_sha_512_as_well(door, token):
    with sasl.Sasl(door.broker) as s:
        assert s.scram(*token, "SCRAM-SHA-512", tokenauth=True).code == OK and s.is_let_in()


@pytest.mark.parametrize("what", ("a wrong hmac", "an unknown token", "no tokenauth", "a user's name with tokenauth"))
def test_a_token_does_not_open_with(door, token, what):
    name, hmac, tokenauth = {"a wrong hmac": (token[0], "x" * 88, True), "an unknown token": ("a" * 22, token[1], True),
                             "no tokenauth": (*token, False), "a user's name with tokenauth": ("admin", token[1], True)}[what]
    with sasl.Sasl(door.broker) as s:
        answer = s.scram(name, hmac, MECHANISM, tokenauth=tokenauth)
        assert answer.code == FAILED and "invalid credentials" in answer.message and s.is_closed()


def test_its_session_does_not_outlive_the_token(door):
    made = create(door, 60_000)
    env.eventually(lambda: logs_in(door, *made), timeout=10, what="the token")
    with sasl.Sasl(door.broker) as s:
        told = s.scram(*made, MECHANISM, tokenauth=True)
        assert told.code == OK and 0 < told.lifetime_ms <= 60_000


def described(door, principal):
    """All tokens this principal may see (the tool can only name owners)."""
    with sasl.wire.Raw(door.broker, "acme", principal) as raw:
        return {t.token_id for t in raw.call(sasl.wire.build("describe_delegation_token", 3, owners=None)).tokens}


def test_the_owner_sees_its_token_and_another_principal_does_not(door, token):
    assert token[0] in described(door, "admin")
    if door.broker.name != "kafka":  # there everyone may see everything, as that node has no ACLs
        assert token[0] not in described(door, "producer")


def test_a_renewed_token_goes_on_and_an_expired_one_ends(door):
    made = create(door)
    env.eventually(lambda: logs_in(door, *made), timeout=10, what="the token")
    tool(door, "--renew", "--renew-time-period", 300_000, "--hmac", made[1])
    assert logs_in(door, *made)
    tool(door, "--expire", "--expiry-time-period", -1, "--hmac", made[1])
    env.eventually(lambda: not logs_in(door, *made), timeout=10, what="the end of the token")


def test_a_connection_that_a_token_opened_may_not_make_tokens(door, token):
    with sasl.Sasl(door.broker) as s:
        assert s.scram(*token, MECHANISM, tokenauth=True).code == OK
        raw = s.call_raw(sasl.wire.build("create_delegation_token", 3, renewers=[], max_lifetime=60_000))
        assert int.from_bytes(raw[1:3], "big") == 64  # DELEGATION_TOKEN_REQUEST_NOT_ALLOWED, behind the header's empty tags


@pytest.mark.schloss_only
def test_an_expired_token_cuts_the_connections_it_opened(door, record_property):
    made = create(door)
    with sasl.Sasl(door.broker) as s:
        assert s.scram(*made, MECHANISM, tokenauth=True).code == OK and s.is_let_in()
        tool(door, "--expire", "--expiry-time-period", -1, "--hmac", made[1])
        began = time.monotonic()
        assert s.is_closed(5)
        record_property("seconds_until_cut", round(time.monotonic() - began, 3))
