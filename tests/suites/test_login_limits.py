"""Limits of logins: who tries too much is slowed and told so; everyone else does not notice."""

import contextlib
import itertools
import re
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import env, login, sasl, sigv4
from harness.sasl import FAILED, OK

pytestmark = pytest.mark.schloss_only

TOO_MANY = re.compile(r"\[[0-9A-Za-z-]{8,}\]: Too many connects")
PASSWORD = "within limits"
DELAY_MS = 100
PER_PRINCIPAL, RATE_PER_PRINCIPAL, RATE_PER_TENANT = 6, 2, 40


@pytest.fixture(scope="module")
def tight(door_class, tmp_path_factory):
    d = door_class(tmp_path_factory.mktemp("tight"), config={
        "connection.failed.authentication.delay.ms": DELAY_MS, "max.connections.per.principal": PER_PRINCIPAL,
        "max.login.rate.per.principal": RATE_PER_PRINCIPAL, "max.login.rate.per.tenant": RATE_PER_TENANT})
    for n in range(4):
        d.scram_user(f"limited-{n}", PASSWORD)
    yield d
    d.close()


def addresses(start):
    """Loopback addresses nobody used yet, so that what one test earns does not fall on the next."""
    return (f"127.{start}.{n // 250}.{n % 250 + 1}" for n in range(60_000))


def storm(door, user, count, start):
    """`count` right logins, eight at a time, each from an address of its own; their answers."""
    def one(source):
        with sasl.Sasl(door.broker, source=source, timeout=30) as s:
            return s.scram(user, PASSWORD)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, itertools.islice(addresses(start), count)))


def let_in(door, user, source, tenant="acme"):
    with sasl.Sasl(door.broker, source=source, server_name=door.host_of(tenant), context=door.broker.client(tenant).tls(certificate=False)) as s:
        return s.scram(user, PASSWORD).code == OK


def test_logins_of_one_principal_beyond_its_rate_are_told_too_many_connects(tight):
    answers = storm(tight, "limited-0", 40, 10)
    refused = [a for a in answers if a.code != OK]
    assert refused and all(a.code == FAILED and TOO_MANY.fullmatch(a.message) for a in refused), refused[:3]
    assert sum(a.code == OK for a in answers) >= RATE_PER_PRINCIPAL
    assert let_in(tight, "limited-1", "127.11.0.1"), "another principal of the tenant"
    env.eventually(lambda: let_in(tight, "limited-0", "127.11.0.2"), timeout=10, every=0.5, what="the principal let in again")


def test_a_real_client_is_told_too_many_connects(tight):
    ended = threading.Event()

    def go_on():
        for n in range(60):
            if not ended.is_set():
                storm(tight, "limited-1", 8, 30 + n)

    raging = threading.Thread(target=go_on)
    raging.start()
    try:
        def told_so():
            try:
                with login.open_session("java", tight.broker, login.scram("limited-1", PASSWORD)):
                    return None  # one of those that the rate lets in
            except login.Refused as refused:
                return str(refused)

        told = env.eventually(told_so, timeout=30, what="the client's turn to be refused")
    finally:
        ended.set()
        raging.join()
    assert "Too many connects" in told, told


def test_connections_of_one_principal_are_bounded_and_a_closed_one_makes_room(tight):
    with contextlib.ExitStack() as held:
        open_now, source, deadline = [], addresses(13), time.monotonic() + 20
        while len(open_now) < PER_PRINCIPAL and time.monotonic() < deadline:  # the rate of logins is bounded as well
            s = sasl.Sasl(tight.broker, source=next(source))
            if s.scram("limited-2", PASSWORD).code == OK:
                open_now.append(held.enter_context(s))
            else:
                s.close()
                time.sleep(0.2)
        assert len(open_now) == PER_PRINCIPAL and all(s.is_let_in() for s in open_now)
        time.sleep(2)  # so that the rate is not what refuses
        with sasl.Sasl(tight.broker, source=next(source)) as one_more:
            answer = one_more.scram("limited-2", PASSWORD)
            assert answer.code == FAILED and TOO_MANY.fullmatch(answer.message)
        assert all(s.is_let_in() for s in open_now), "an open connection was hurt"
        open_now[0].close()
        env.eventually(lambda: let_in(tight, "limited-2", next(source)), timeout=10, every=0.5, what="room for one")


def test_a_storm_of_one_tenant_leaves_the_other_alone(tight):
    tight.scram_user("bystander", PASSWORD, tenant="globex")
    with ThreadPoolExecutor(1) as pool:
        raging = pool.submit(storm, tight, "limited-3", 60, 14)
        seconds = []
        while not raging.done():
            began = time.monotonic()
            assert let_in(tight, "bystander", f"127.15.0.{len(seconds) + 1}", "globex")
            seconds.append(time.monotonic() - began)
            time.sleep(1 / RATE_PER_PRINCIPAL)
        assert any(a.code != OK for a in raging.result())
    assert seconds and max(seconds) < 3, seconds


def failure_seconds(door, source, user="limited-0"):
    with sasl.Sasl(door.broker, source=source, timeout=30) as s:
        s.handshake("SCRAM-SHA-512")
        exchange = sasl.Scram(user, "wrong")
        final = exchange.final(s.authenticate(exchange.first).data)
        began = time.monotonic()
        assert s.authenticate(final).code == FAILED
        return time.monotonic() - began


def test_each_further_failure_of_an_address_waits_longer_and_other_addresses_do_not(tight):
    first = failure_seconds(tight, "127.20.0.1")
    assert first >= DELAY_MS / 1000
    later = [failure_seconds(tight, "127.20.0.1") for _ in range(4)]
    assert later[-1] >= 4 * DELAY_MS / 1000, f"the wait did not grow: {first:.3f} then {later}"
    fresh = min(failure_seconds(tight, f"127.21.0.{n}") for n in range(1, 4))
    assert fresh < later[-1] / 2, "another address waits as well"


def test_an_unknown_user_waits_as_long_as_a_known_one(tight):
    known = statistics.median(failure_seconds(tight, f"127.22.0.{n}") for n in range(1, 10))
    unknown = statistics.median(failure_seconds(tight, f"127.23.0.{n}", "nobody-here") for n in range(1, 10))
    assert abs(known - unknown) < 0.05


def test_too_many_connects_is_in_the_audit_log(tight):
    before = tight.audit_mark()
    storm(tight, "limited-3", 30, 16)
    tight.audit_after(before, lambda t: "limited-3" in t and re.search("rate|too many|limit", t, re.I))


def test_iam_logins_are_bounded_alike(tight):
    key = tight.key

    def one(_):  # all from one address: the signatures of one second are equal, and from another address a replay
        with sasl.Sasl(tight.broker, source="127.17.0.1", timeout=30) as s:
            return s.iam(sigv4.payload(key))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(24)))
    refused = [a for a in answers if a.code != OK]
    assert refused and all(TOO_MANY.fullmatch(a.message) for a in refused), refused[:3]
