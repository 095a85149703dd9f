"""KIP-368: a session ends when its credential does; a client that proves itself again in time goes on, as the same principal only."""

import contextlib
import time

import pytest

from harness import env, login, sasl, sigv4
from harness.sasl import FAILED, OK

PASSWORD = "again and again"
CANNOT_CHANGE = "Cannot change principals during re-authentication"  # Kafka goes on to name both
BOUND = 2.0  # seconds from a revocation until every connection it concerns is cut; the manual promises this
POLICY_BOUND = 1.0  # the same for what policies and the state of a key say


@pytest.fixture(scope="module")
def user(short_door):
    return short_door.scram_user("reauth-user", PASSWORD)


def test_the_lifetime_told_is_at_most_the_configured_maximum(short_door, user):
    with sasl.Sasl(short_door.broker) as s:
        assert 0 < s.scram(user, PASSWORD).lifetime_ms <= short_door.reauthentication_ms


def test_a_login_again_on_the_live_connection_starts_a_new_lifetime(short_door, user):
    with sasl.Sasl(short_door.broker) as s:
        end = time.monotonic() + 1.5 * short_door.reauthentication_ms / 1000
        while time.monotonic() < end:
            answer = s.scram(user, PASSWORD)
            assert answer.code == OK and answer.lifetime_ms > 0 and s.is_let_in()
            time.sleep(0.4 * short_door.reauthentication_ms / 1000)


def test_a_request_after_the_lifetime_is_not_served(short_door, user):
    with sasl.Sasl(short_door.broker) as s:
        told = s.scram(user, PASSWORD).lifetime_ms
        time.sleep(told / 1000 + 0.3)
        with pytest.raises((sasl.wire.Closed, ConnectionError)):
            s.is_let_in()


@pytest.mark.schloss_only
def test_a_silent_connection_is_cut_after_its_lifetime_as_well(short_door, user):
    with sasl.Sasl(short_door.broker) as s:
        told = s.scram(user, PASSWORD).lifetime_ms / 1000
        assert seconds_until_cut(s, told + BOUND) < told + BOUND


def test_the_mechanism_cannot_change(short_door, user):
    with sasl.Sasl(short_door.broker) as s:
        assert s.scram(user, PASSWORD, "SCRAM-SHA-512").code == OK
        try:
            if s.handshake("SCRAM-SHA-256")[0] == OK:
                assert s.authenticate(sasl.Scram(user, PASSWORD, "SCRAM-SHA-256").first).code != OK
        except sasl.wire.Closed:
            return
        assert s.is_closed()


def test_the_principal_cannot_change(short_door, user):
    other = short_door.scram_user("reauth-other", PASSWORD)
    with sasl.Sasl(short_door.broker) as s:
        assert s.scram(user, PASSWORD).code == OK
        answer = s.scram(other, PASSWORD)
        assert answer.code == FAILED and sasl.words(answer.message).startswith(CANNOT_CHANGE) and s.is_closed()


def test_a_wrong_password_the_second_time_ends_the_connection(short_door, user):
    with sasl.Sasl(short_door.broker) as s:
        assert s.scram(user, PASSWORD).code == OK
        assert s.scram(user, "wrong").code == FAILED and s.is_closed()


def test_requests_between_the_messages_of_a_second_login_are_served_or_refused_but_never_mixed_up(short_door, user):
    """Answers in flight before the second handshake come first, in order."""
    with sasl.Sasl(short_door.broker) as s:
        assert s.scram(user, PASSWORD).code == OK
        sent = s.send_request(sasl.wire.build("metadata", 12, topics=None))
        handshake = s.send_request(sasl.wire.build("sasl_handshake", 1, mechanism="SCRAM-SHA-512"))
        seen = [int.from_bytes(s.receive()[:4], "big") for _ in range(2)]
        assert seen == [sent, handshake]


def go_on(door, sessions):
    """Every session goes on producing until the Java client counts two logins on a live connection; none may fail."""
    began, sent = time.monotonic(), 0
    while True:
        for name, s in sessions.items():
            s.produce(door.topic, f"{name}-{sent}")
        sent += 1
        told = sessions["java"].measures()
        assert told["failed-reauthentication-total"] == told["failed-authentication-total"] == 0, told
        if told["successful-reauthentication-total"] >= 2 and time.monotonic() - began > 2 * door.reauthentication_ms / 1000:
            return
        assert time.monotonic() - began < 8 * door.reauthentication_ms / 1000, told
        time.sleep(0.05)


def test_real_clients_go_on_over_several_lifetimes_without_an_error(short_door, user):
    """At once, to save the minutes: the Java client, franz-go and librdkafka."""
    with contextlib.ExitStack() as stack:
        how = login.scram(user, PASSWORD)
        sessions = {c: stack.enter_context(login.open_session(c, short_door.broker, how)) for c in ("java", "franz-go", "librdkafka")}
        go_on(short_door, sessions)
        assert not sessions["librdkafka"].errors, sessions["librdkafka"].errors


@pytest.mark.schloss_only
def test_the_official_java_library_and_kafkajs_prove_themselves_again_with_iam(short_door):
    with contextlib.ExitStack() as stack:
        node = login.iam(short_door.key, properties={"reauthentication_threshold": 1200})
        go_on(short_door, {"java": stack.enter_context(login.open_session("java", short_door.broker, login.iam(short_door.key))),
                           "kafkajs": stack.enter_context(login.open_session("kafkajs", short_door.broker, node))})


@pytest.mark.schloss_only
def test_another_session_of_the_same_role_may_go_on(short_door):
    """What MSK cuts and users complain about: the session's name changed, the role did not."""
    with sasl.Sasl(short_door.broker) as s:
        assert s.iam(sigv4.payload(short_door.role_key("session-one"))).code == OK
        assert s.iam(sigv4.payload(short_door.role_key("session-two"))).code == OK and s.is_let_in()


@pytest.mark.schloss_only
def test_a_session_of_another_role_or_the_user_itself_may_not(short_door):
    for other in (short_door.role_key("another", role="other-role"), short_door.key):
        with sasl.Sasl(short_door.broker) as s:
            assert s.iam(sigv4.payload(short_door.role_key("session-one"))).code == OK
            answer = s.iam(sigv4.payload(other))
            assert answer.code == FAILED and s.is_closed()


# --- cut in the middle ---

def seconds_until_cut(s, timeout):
    began = time.monotonic()
    assert s.is_closed(timeout), f"still open after {timeout} s"
    return time.monotonic() - began


def cut_after(door, s, what, revoke, record_property, bound=BOUND):
    """Revokes while the connection is idle, and while it is busy the next request must not be served either."""
    revoke()
    took = seconds_until_cut(s, bound)
    record_property("seconds_until_cut", round(took, 3))
    print(f"{what}: cut after {took:.3f} s")
    assert took < bound


@pytest.mark.schloss_only
def test_a_deleted_access_key_cuts_its_connections(door, record_property):
    key = door.key_of("acme", door.user("cut-key"), fresh=True)
    with sasl.Sasl(door.broker) as s:
        assert s.iam(sigv4.payload(key)).code == OK and s.is_let_in()
        cut_after(door, s, "deleted access key", lambda: door.update_key(key, "delete"), record_property)


@pytest.mark.schloss_only
def test_a_deactivated_access_key_cuts_its_connections(door, record_property):
    key = door.key_of("acme", door.user("cut-inactive"), fresh=True)
    with sasl.Sasl(door.broker) as s:
        assert s.iam(sigv4.payload(key)).code == OK and s.is_let_in()
        cut_after(door, s, "deactivated access key", lambda: door.update_key(key, "deactivate"), record_property, bound=POLICY_BOUND)


@pytest.mark.schloss_only
def test_a_deleted_scram_credential_cuts_its_connections(door, record_property):
    who = door.scram_user("cut-scram", PASSWORD)
    with sasl.Sasl(door.broker) as s:
        assert s.scram(who, PASSWORD).code == OK and s.is_let_in()
        cut_after(door, s, "deleted SCRAM credential", lambda: door.delete_scram_user(who), record_property)


@pytest.mark.schloss_only
def test_a_changed_password_cuts_connections_of_the_old_one(door, record_property):
    who = door.scram_user("cut-password", PASSWORD)
    with sasl.Sasl(door.broker) as s:
        assert s.scram(who, PASSWORD).code == OK and s.is_let_in()
        cut_after(door, s, "changed password", lambda: door.scram_user(who, "another"), record_property)


@pytest.mark.schloss_only
def test_a_deleted_user_cuts_its_connections(door, record_property):
    key = door.key_of("acme", door.user("cut-user"), fresh=True)
    with sasl.Sasl(door.broker) as s:
        assert s.iam(sigv4.payload(key)).code == OK and s.is_let_in()
        cut_after(door, s, "deleted user", lambda: door.delete_user("cut-user"), record_property, bound=POLICY_BOUND)


@pytest.mark.schloss_only
def test_revoked_sessions_of_a_role_are_cut_and_newer_ones_open(door, record_property):
    old = door.role_key("revoked-session")
    with sasl.Sasl(door.broker) as s:
        assert s.iam(sigv4.payload(old)).code == OK and s.is_let_in()
        time.sleep(1.1)  # sessions are told apart by the second they were issued in
        cut_after(door, s, "revoked role sessions", lambda: door.revoke_sessions("acme", "app"), record_property)
    with sasl.Sasl(door.broker) as s:
        assert s.iam(sigv4.payload(old)).code == FAILED
    time.sleep(1.1)
    with sasl.Sasl(door.broker) as s:
        assert s.iam(sigv4.payload(door.role_key("newer", fresh=True))).code == OK


@pytest.mark.schloss_only
def test_a_suspended_tenant_is_cut_and_refused_and_the_other_is_not(door, record_property):
    """By every kind of login at once; `suspended = true` in its file."""
    context = door.broker.client("globex").tls(certificate=False)
    who = door.scram_user("cut-suspended", PASSWORD, tenant="globex")
    bystander = door.scram_user("not-suspended", PASSWORD)
    path = door.tenant_folder("globex") / "tenant.toml"
    before = path.read_text()
    with sasl.Sasl(door.broker, server_name="globex.localhost", context=context) as by_password, sasl.Sasl(door.broker) as other, \
            sasl.Sasl(door.broker, server_name="globex.localhost", context=context) as by_key, \
            sasl.wire.Raw(door.broker, "globex") as by_certificate:
        assert by_password.scram(who, PASSWORD).code == OK and other.scram(bystander, PASSWORD).code == OK
        assert by_key.iam(sigv4.payload(door.key_of("globex"), host="globex.localhost")).code == OK
        assert sasl.is_served(by_certificate)
        door.write("globex", "tenant.toml", "suspended = true\n" + before)
        try:
            began = time.monotonic()
            for s in (by_password, by_key):
                assert s.is_closed(BOUND)
            by_certificate.socket.settimeout(BOUND)
            with pytest.raises((sasl.wire.Closed, ConnectionError)):
                by_certificate.receive()
            record_property("seconds_until_cut", round(time.monotonic() - began, 3))
            assert time.monotonic() - began < BOUND and other.is_let_in()
            with sasl.Sasl(door.broker, server_name="globex.localhost", context=context) as s:
                assert s.scram(who, PASSWORD).code == FAILED
        finally:
            door.write("globex", "tenant.toml", before)

    def back():
        with sasl.Sasl(door.broker, server_name="globex.localhost", context=context) as s:
            return s.scram(who, PASSWORD).code == OK
    env.eventually(back, timeout=10, what="the tenant back")


@pytest.mark.schloss_only
def test_an_identity_provider_taken_away_cuts_its_connections(door, record_property):
    path = door.tenant_folder("acme") / "issuers" / "corporate.toml"
    before = path.read_text()
    with sasl.Sasl(door.broker) as s:
        assert s.bearer(door.issuer.token(door.web_subject)).code == OK
        try:
            cut_after(door, s, "issuer taken away", path.unlink, record_property)
        finally:
            door.write("acme", "issuers/corporate.toml", before)

    def back():
        with sasl.Sasl(door.broker) as s:
            return s.bearer(door.issuer.token(door.web_subject)).code == OK
    env.eventually(back, timeout=10, what="the issuer back")


@pytest.mark.schloss_only
def test_a_user_that_may_no_longer_connect_is_cut(door, record_property):
    key = door.key_of("acme", door.user("cut-connect"), fresh=True)
    with sasl.Sasl(door.broker) as s:
        assert s.iam(sigv4.payload(key)).code == OK
        cut_after(door, s, "Connect taken away", lambda: door.user("cut-connect", policies=[]), record_property, bound=POLICY_BOUND)


@pytest.mark.schloss_only
def test_a_token_that_ends_cuts_its_connection_even_when_it_is_silent(door, record_property):
    with sasl.Sasl(door.broker) as s:
        answer = s.bearer(door.issuer.token(door.web_subject, seconds=2))
        assert answer.code == OK and 0 < answer.lifetime_ms <= 2_000
        took = seconds_until_cut(s, 2 + BOUND)
        record_property("seconds_until_cut", round(took, 3))


@pytest.mark.schloss_only
def test_a_connection_that_waits_in_a_fetch_is_cut_as_well(door, record_property):
    key = door.key_of("acme", door.user("cut-fetch"), fresh=True)
    with sasl.Sasl(door.broker) as s:
        assert s.iam(sigv4.payload(key)).code == OK
        s.send_request(sasl.wire.build("fetch", 12, replica_id=-1, max_wait=60000, min_bytes=1 << 20, max_bytes=1 << 20, session_epoch=-1,
                                       topics=[dict(topic=door.topic, partitions=[dict(partition=0, fetch_offset=0, partition_max_bytes=1 << 20)])]))
        cut_after(door, s, "waiting fetch", lambda: door.update_key(key, "delete"), record_property)


@pytest.mark.schloss_only
def test_a_real_client_whose_key_is_deleted_stops_within_the_bound(door):
    key = door.key_of("acme", door.user("cut-java"), fresh=True)
    impatient = {"delivery.timeout.ms": "5000", "request.timeout.ms": "4000"}
    with login.open_session("java", door.broker, login.iam(key, properties=impatient)) as s:
        s.produce(door.topic, "before")
        door.update_key(key, "delete")
        began = time.monotonic()
        with pytest.raises(login.Refused):  # a producer that knows its topic tells it as a timeout
            while True:
                sent = time.monotonic()  # a busy machine may bring the client's answer late; what counts is what was still taken
                s.produce(door.topic, "after")
                assert sent < began + BOUND, "records are still taken"
                time.sleep(0.05)
    assert "Access denied" in login.refusal("java", door.broker, login.iam(key))
