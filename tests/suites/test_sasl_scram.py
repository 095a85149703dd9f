"""SCRAM-SHA-256 and -512: every client gets in with the password, nobody without, and nobody learns who exists."""

import base64
import os
import statistics
import time

import pytest
from confluent_kafka.admin import ScramMechanism

from harness import clients, env, login, sasl
from harness.sasl import FAILED, ILLEGAL_STATE, OK, UNSUPPORTED_MECHANISM

REFUSAL = "Authentication failed during authentication due to invalid credentials with SASL mechanism "
MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-512")
PASSWORD = "open, sesame = \u00fc?"


@pytest.fixture(scope="module")
def user(door):
    return door.scram_user("scram-user", PASSWORD)


@pytest.mark.parametrize("client", login.SCRAM_CLIENTS)
def test_every_client_logs_in_produces_and_consumes(door, user, client):
    login.round_trip(client, door.broker, login.scram(user, PASSWORD), door.topic)


@pytest.mark.parametrize("client", ("java", "librdkafka"))
def test_sha_256_serves_as_well(door, user, client):
    login.round_trip(client, door.broker, login.scram(user, PASSWORD, "SCRAM-SHA-256"), door.topic)


@pytest.mark.parametrize("client", login.SCRAM_CLIENTS)
def test_every_client_understands_a_wrong_password_as_a_failed_login(door, user, client):
    told = login.refusal(client, door.broker, login.scram(user, "wrong"))
    assert "invalid credentials with SASL mechanism SCRAM-SHA-5" in told or "58" in told or client == "kafka-python", told


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_server_proves_that_it_knows_the_user(door, user, mechanism):
    with sasl.Sasl(door.broker) as s:
        answer = s.scram(user, PASSWORD, mechanism)  # asserts the server's signature
        assert answer.code == OK and answer.message == "" and s.is_let_in()


@pytest.mark.parametrize("name", ["scram-user", "nobody-of-this-name"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_wrong_password_and_an_unknown_user_get_the_same_words(door, user, mechanism, name):
    with sasl.Sasl(door.broker) as s:
        answer = s.scram(name, "wrong", mechanism)
        assert (answer.code, sasl.words(answer.message), answer.data) == (FAILED, REFUSAL + mechanism, b"")
        assert s.is_closed()


def server_first(door, name, mechanism="SCRAM-SHA-512", nonce=None):
    with sasl.Sasl(door.broker) as s:
        s.handshake(mechanism)
        exchange = sasl.Scram(name, "x", mechanism, nonce=nonce)
        exchange.final(s.authenticate(exchange.first).data)
        return exchange.salt, exchange.iterations


@pytest.mark.schloss_only
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_an_unknown_user_has_a_salt_that_stays_and_looks_like_everyones(door, user, mechanism):
    known = server_first(door, user, mechanism)
    a, again, b = (server_first(door, n, mechanism) for n in ("ghost-a", "ghost-a", "ghost-b"))
    assert a == again, "a second try would show that the user does not exist"
    assert a[0] != b[0] and a[0] != known[0]
    assert len(a[0]) == len(known[0]) and a[1] == b[1] == known[1]


@pytest.mark.schloss_only
def test_the_false_salt_differs_between_tenants(door):
    with sasl.Sasl(door.broker, server_name=door.host_of("globex"), context=door.broker.client("globex").tls(certificate=False)) as s:
        s.handshake("SCRAM-SHA-512")
        exchange = sasl.Scram("ghost-a", "x")
        exchange.final(s.authenticate(exchange.first).data)
    assert exchange.salt != server_first(door, "ghost-a")[0]


@pytest.mark.schloss_only
def test_a_user_of_one_mechanism_is_unknown_to_the_other(door):
    name = door.scram_user("only-256", PASSWORD, mechanisms=("SCRAM-SHA-256",))
    with sasl.Sasl(door.broker) as s:
        answer = s.scram(name, PASSWORD, "SCRAM-SHA-512")
        assert (answer.code, sasl.words(answer.message)) == (FAILED, REFUSAL + "SCRAM-SHA-512")
    salt, again = server_first(door, name)[0], server_first(door, name)[0]
    assert salt == again


@pytest.mark.schloss_only
def test_a_user_of_one_tenant_is_unknown_to_the_other(door, user):
    with sasl.Sasl(door.broker, server_name=door.host_of("globex"), context=door.broker.client("globex").tls(certificate=False)) as s:
        answer = s.scram(user, PASSWORD)
        assert (answer.code, sasl.words(answer.message)) == (FAILED, REFUSAL + "SCRAM-SHA-512")


@pytest.mark.schloss_only
def test_known_and_unknown_users_take_the_same_time(door):
    """Both answers of the exchange, timed in turns, so that load falls on both alike. SCHLOSS_TIMINGS=1000 for a sharp eye."""
    user = door.scram_user("timed", PASSWORD)
    times = {user: [], "nobody-of-this-name": []}
    for n in range(int(os.environ.get("SCHLOSS_TIMINGS", 100))):
        for who in (sorted(times) if n % 2 else sorted(times, reverse=True)):
            with sasl.Sasl(door.broker) as s:
                s.handshake("SCRAM-SHA-512")
                exchange = sasl.Scram(who, "wrong")
                t0 = time.perf_counter()
                first = s.authenticate(exchange.first)
                t1 = time.perf_counter()
                final = exchange.final(first.data)
                t2 = time.perf_counter()
                assert s.authenticate(final).code == FAILED
                times[who].append((t1 - t0, time.perf_counter() - t2))
    for step in (0, 1):
        known, unknown = (sorted(t[step] for t in times[w]) for w in (user, "nobody-of-this-name"))
        assert indistinguishable(known, unknown), (step, statistics.median(known), statistics.median(unknown))


def indistinguishable(a, b):
    """By the ranks: the chance that one of `a` is slower than one of `b` must be near a half (Mann-Whitney, five sigmas)."""
    import bisect
    u = sum((bisect.bisect_left(b, x) + bisect.bisect_right(b, x)) / 2 for x in a)
    n, m = len(a), len(b)
    sigma = (n * m * (n + m + 1) / 12) ** 0.5
    return abs(u - n * m / 2) < 5 * sigma


# --- hostile exchanges ---

def refused(door, first=None, final=None, mechanism="SCRAM-SHA-512", user="scram-user"):
    """Runs an exchange with one message changed; the answer that ended it."""
    with sasl.Sasl(door.broker) as s:
        s.handshake(mechanism)
        exchange = sasl.Scram(user, PASSWORD, mechanism)
        answer = s.authenticate(first(exchange) if first else exchange.first)
        if answer.code == OK:
            raw = exchange.final(answer.data)
            answer = s.authenticate(final(exchange, raw) if final else raw)
        if answer.code != OK:
            assert s.is_closed()
        return answer


def test_the_exchange_itself_is_right_when_nothing_is_changed(door, user):
    assert refused(door).code == OK


FIRSTS = {
    "channel binding asked for": lambda x: b"p=tls-unique,," + x.bare.encode(),
    "no user": lambda x: b"n,,n=,r=abc",
    "no nonce": lambda x: b"n,,n=scram-user",
    "a mandatory extension": lambda x: b"n,,m=x," + x.bare.encode(),
    "empty": lambda x: b"",
    "not UTF-8": lambda x: b"n,,n=\xff\xfe,r=abc",
    "a wrong escape": lambda x: b"n,,n=a=2Zb,r=abc",
    "binary": lambda x: bytes(range(256)),
    "another's name to act for": lambda x: b"n,a=somebody," + x.bare.encode(),
}


def cases(table, ours):
    """`ours`: Kafka answers these otherwise (it takes a mandatory extension, and closes on a short proof)."""
    return [pytest.param(k, marks=pytest.mark.schloss_only) if k in ours else k for k in table]


@pytest.mark.parametrize("what", cases(FIRSTS, {"a mandatory extension"}))
def test_a_wrong_first_message_is_refused(door, user, what):
    answer = refused(door, first=FIRSTS[what])
    assert answer.code == FAILED and answer.data == b""


def without_proof(x, raw):
    return raw.rsplit(b",p=", 1)[0]


def zero_proof(x, raw):
    return without_proof(x, raw) + b",p=" + base64.b64encode(bytes(64))


FINALS = {
    "no proof": without_proof,
    "a proof of zeros": zero_proof,
    "a short proof": lambda x, raw: without_proof(x, raw) + b",p=AAAA",
    "a proof that is not base64": lambda x, raw: without_proof(x, raw) + b",p=***",
    "a changed nonce": lambda x, raw: raw.replace(b",r=", b",r=A", 1),
    "the client's nonce alone": lambda x, raw: b"c=biws,r=" + x.nonce.encode() + b",p=" + raw.rsplit(b",p=", 1)[1],
    "another channel binding": lambda x, raw: raw.replace(b"c=biws", b"c=eSws", 1),
    "empty": lambda x, raw: b"",
    "the first message again": lambda x, raw: x.first,
}


@pytest.mark.parametrize("what", cases(FINALS, {"a short proof"}))
def test_a_wrong_final_message_is_refused(door, user, what):
    answer = refused(door, final=FINALS[what])
    assert answer.code == FAILED and answer.data == b""


def test_a_final_message_of_another_connection_is_refused(door, user):
    with sasl.Sasl(door.broker) as one, sasl.Sasl(door.broker) as two:
        exchange = sasl.Scram(user, PASSWORD, nonce="the-same-nonce")
        for s in (one, two):
            s.handshake("SCRAM-SHA-512")
        final = exchange.final(one.authenticate(exchange.first).data)
        two.authenticate(exchange.first)
        assert two.authenticate(final).code == FAILED and one.authenticate(final).code == OK


# --- the dialogue around it, the same for every mechanism ---

def test_an_unknown_mechanism_is_told_which_there_are(door):
    with sasl.Sasl(door.broker) as s:
        code, told = s.handshake("PLAIN")
        assert code == UNSUPPORTED_MECHANISM and set(MECHANISMS) <= set(told) and "PLAIN" not in told
        assert s.is_closed()


def test_a_token_before_the_handshake_closes(door):
    with sasl.Sasl(door.broker) as s:
        try:
            assert s.authenticate(b"n,,n=a,r=b").code == ILLEGAL_STATE
        except sasl.wire.Closed:
            return
        assert s.is_closed()


def test_a_second_handshake_in_the_exchange_is_an_illegal_state(door):
    with sasl.Sasl(door.broker) as s:
        s.handshake("SCRAM-SHA-256")
        assert s.handshake("SCRAM-SHA-512")[0] == ILLEGAL_STATE
        assert s.is_closed()


def test_a_request_in_the_exchange_is_not_served(door):
    with sasl.Sasl(door.broker) as s:
        s.handshake("SCRAM-SHA-512")
        assert not served(s)


def test_a_request_before_any_login_is_not_served(door):
    with sasl.Sasl(door.broker) as s:
        assert not served(s)


def served(s):
    try:
        return s.is_let_in()
    except (sasl.wire.Closed, TimeoutError):
        return False


def test_api_versions_are_told_before_and_within_the_exchange(door, user):
    with sasl.Sasl(door.broker) as s:
        assert {17, 36} <= set(s.api_versions())
        assert s.scram(user, PASSWORD).code == OK and s.is_let_in()


def test_an_oversized_message_closes_without_answer(door):
    with sasl.Sasl(door.broker) as s:
        s.handshake("SCRAM-SHA-512")
        with pytest.raises((sasl.wire.Closed, OSError)):  # the end may reach the one who is still writing
            s.authenticate(b"n,,n=" + b"a" * 600_000 + b",r=b")


def test_a_truncated_frame_does_not_keep_others_from_logging_in(door, user):
    with sasl.Sasl(door.broker) as half:
        half.send_bytes(b"\0\0\0\x40\0\x24")
        with sasl.Sasl(door.broker) as s:
            assert s.scram(user, PASSWORD).code == OK


def test_tokens_come_as_bare_frames_after_a_handshake_of_version_0(door, user):
    with sasl.Sasl(door.broker) as s:
        assert s.handshake("SCRAM-SHA-512", version=0)[0] == OK
        exchange = sasl.Scram(user, PASSWORD)
        s.send(exchange.first)
        s.send(exchange.final(s.receive()))
        assert exchange.proves_itself(s.receive()) and s.is_let_in()


# --- credentials by the Kafka API ---

def configs(door, *arguments):
    return clients.java(door.broker, "kafka.admin.ConfigCommand", *arguments)


def test_kafka_configs_makes_and_deletes_a_user_and_describe_shows_it_meanwhile(door, name):
    who = door.known(name("by-tool"))
    of = ("--entity-type", "users", "--entity-name", who)
    configs(door, "--alter", "--add-config", "SCRAM-SHA-512=[iterations=8192,password=first]", *of)
    env.eventually(lambda: let_in(door, who, "first"), timeout=10, what="the new user")
    told = clients.admin(door.broker).describe_user_scram_credentials([who])[who].result()
    assert [(c.mechanism, c.iterations) for c in told.scram_credential_infos] == [(ScramMechanism.SCRAM_SHA_512, 8192)]
    configs(door, "--alter", "--delete-config", "SCRAM-SHA-512", *of)
    env.eventually(lambda: not let_in(door, who, "first"), timeout=10, what="the user being gone")


def let_in(door, who, password, mechanism="SCRAM-SHA-512"):
    with sasl.Sasl(door.broker) as s:
        return s.scram(who, password, mechanism).code == OK


def test_a_new_password_takes_the_old_ones_place(door, name):
    who = door.scram_user(name("changed"), "old")
    assert let_in(door, who, "old")
    door.scram_user(who, "new")
    assert let_in(door, who, "new") and not let_in(door, who, "old")


@pytest.mark.schloss_only
def test_no_password_verifier_or_name_is_readable_on_disk(door, name):
    who = door.scram_user(name("marked-user"), "marked-password-5f2a")
    assert let_in(door, who, "marked-password-5f2a")
    salt = server_first(door, who)[0]
    for path in door.broker.data.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            assert who.encode() not in raw and b"marked-password-5f2a" not in raw, path
            assert salt not in raw and base64.b64encode(salt) not in raw, path


@pytest.mark.schloss_only
def test_a_refused_login_is_in_the_audit_log_with_the_step_that_failed(door, user):
    with sasl.Sasl(door.broker) as s:
        number = sasl.REQUEST_ID.match(s.scram(user, "a wrong one").message)["id"]
    event = door.audit_after(set(), lambda text: number in text)
    assert user in event and '"step":"proof"' in event and "SCRAM-SHA-512" in event
    assert PASSWORD not in event and "a wrong one" not in event


@pytest.mark.schloss_only
def test_a_mechanism_nobody_offers_and_a_request_before_the_login_are_in_the_audit_log(door):
    mark = set(door.audit())
    with sasl.Sasl(door.broker) as s:
        assert s.handshake("PLAIN-" + door.topic)[0] == 33
    event = door.audit_after(mark, lambda text: "PLAIN-" + door.topic in text)
    assert '"step":"mechanism"' in event and '"verdict":"denied"' in event
    with sasl.Sasl(door.broker) as s:
        s.request("metadata", 12, topics=None, allow_auto_topic_creation=False, include_topic_authorized_operations=False)
    assert '"step":"order"' in door.audit_after(mark, lambda text: "Metadata before a login" in text)
