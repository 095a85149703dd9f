"""OAUTHBEARER: tokens of OIDC issuers, and the signed URL of the MSK IAM signers. Right ones open, all others are refused alike."""

import base64
import json

import pytest

from harness import env, login, oidc, sasl, sigv4
from harness.sasl import FAILED, OK

REFUSAL, DENIED = '{"status":"invalid_token"}', "Access denied"


def judged(door, token, **more):
    """(code, message) of one login with this token; what was let in is served, what was not is cut."""
    with sasl.Sasl(door.broker) as s:
        answer = s.bearer(token, **more)
        if answer.code == OK:
            assert s.is_let_in()
        else:
            assert s.is_closed()
        return answer.code, sasl.words(answer.message)


# --- OIDC ---

@pytest.mark.parametrize("client", login.TOKEN_CLIENTS)
def test_every_client_logs_in_with_a_token_produces_and_consumes(door, client):
    login.round_trip(client, door.broker, login.bearer(door.issuer.token(door.web_subject)), door.topic)


@pytest.mark.parametrize("client", ("java", "librdkafka"))
def test_clients_that_fetch_their_own_token_log_in(door, client):
    """`sasl.oauthbearer.token.endpoint.url`, and `sasl.oauthbearer.method=oidc`."""
    how = login.Login("OAUTHBEARER", oidc=door.issuer.client_credentials(door.web_subject))
    login.round_trip(client, door.broker, how, door.topic)


@pytest.mark.parametrize("client", login.TOKEN_CLIENTS)
def test_every_client_understands_an_expired_token_as_a_failed_login(door, client):
    login.refusal(client, door.broker, login.bearer(door.issuer.token(door.web_subject, seconds=-600)))


@pytest.mark.parametrize("algorithm", ("RS256", "ES256"))
def test_both_algorithms_open(door, algorithm):
    assert judged(door, door.issuer.token(door.web_subject, algorithm)) == (OK, "")


def forged(change):
    """A right token with its claims changed behind the signature."""
    def make(i, subject):
        head, body, signature = i.token(subject).split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=="))
        claims.update(change)
        return ".".join((head, oidc.b64(json.dumps(claims).encode()), signature))
    return make


def other_signature(i, subject):
    head, body, _ = i.token(subject).split(".")
    return ".".join((head, body, i.token(subject).split(".")[2]))


ATTACKS = {
    "expired": lambda i, s: i.token(s, seconds=-60),
    "without expiry": lambda i, s: i.token(s, exp=None),
    "not valid yet": lambda i, s: i.token(s, nbf=2**31),
    "of another audience": lambda i, s: i.token(s, aud="another"),
    "of no audience": lambda i, s: i.token(s, aud=None),
    "of another issuer": lambda i, s: i.token(s, iss="https://evil.example"),
    "of an issuer that begins like it": lambda i, s: i.token(s, iss=i.url + "/x"),
    "of no issuer": lambda i, s: i.token(s, iss=None),
    "of no subject": lambda i, s: i.token(s, sub=None),
    "unsigned (none)": lambda i, s: i.unsigned(s),
    "unsigned (NONE)": lambda i, s: i.unsigned(s, "NONE"),
    "HS256 with the public key": lambda i, s: i.signed_with_the_public_key(s),
    "signed by a key in its own header": lambda i, s: i.signed_by_a_key_it_brings(s),
    "of a key nobody knows": lambda i, s: i.token(s, key=oidc.SigningKey("RS256")),
    "the other algorithm claimed": lambda i, s: i.token(s, header={"alg": "ES256"}),
    "the claims changed": forged({"sub": "somebody-else"}),
    "the signature of another token": other_signature,
    "the signature cut": lambda i, s: i.token(s)[:-20],
    "without signature": lambda i, s: i.token(s).rsplit(".", 1)[0] + ".",
    "two parts": lambda i, s: i.token(s).rsplit(".", 1)[0],
    "four parts": lambda i, s: i.token(s) + ".AAAA",
    "not base64": lambda i, s: "%%%.%%%.%%%",
    "not JSON": lambda i, s: ".".join((oidc.b64(b"{"), oidc.b64(b"}"), "AAAA")),
    "nothing": lambda i, s: "",
}


@pytest.mark.parametrize("what", list(ATTACKS))
def test_a_token_is_refused_when_it_is(door, what):
    code, message = judged(door, ATTACKS[what](door.issuer, door.web_subject))
    assert code == FAILED
    if what == "of no subject" and door.broker.name != "kafka":
        assert message == DENIED  # a good token of a stranger
    elif what not in ("nothing", "not base64"):  # these break RFC 7628's own form, which has other words
        assert message == REFUSAL, message


@pytest.mark.schloss_only
@pytest.mark.parametrize("what, header", [("a critical extension", {"crit": ["x"], "x": 1}), ("a nested token", {"cty": "JWT", "zip": "DEF"})])
def test_a_header_that_asks_for_more_is_refused(door, what, header):
    if "crit" in header:
        assert judged(door, door.issuer.token(door.web_subject, header=header))[0] == FAILED


MESSAGES = {
    "empty": b"",
    "no scheme": b"n,,\x01auth=%s\x01\x01",
    "another scheme": b"n,,\x01auth=Basic %s\x01\x01",
    "no end": b"n,,\x01auth=Bearer %s",
    "no header": b"auth=Bearer %s\x01\x01",
    "another's name to act for": b"n,a=somebody,\x01auth=Bearer %s\x01\x01",
    "the challenge's answer first": b"\x01",
}


@pytest.mark.parametrize("what", [pytest.param(k, marks=pytest.mark.schloss_only) if k == "another scheme" else k for k in MESSAGES])
def test_a_message_that_is_not_rfc_7628_is_refused(door, what):
    raw = MESSAGES[what].replace(b"%s", door.issuer.token(door.web_subject).encode())
    with sasl.Sasl(door.broker) as s:
        s.handshake("OAUTHBEARER")
        assert s.authenticate(raw).code == FAILED and s.is_closed()


def test_a_refusal_is_a_challenge_first_and_an_error_after_the_clients_answer(door):
    with sasl.Sasl(door.broker) as s:
        s.handshake("OAUTHBEARER")
        first = s.authenticate(sasl.bearer_message(door.issuer.token(door.web_subject, seconds=-60)))
        assert (first.code, json.loads(first.data)["status"]) == (OK, "invalid_token")
        last = s.authenticate(b"\x01")
        assert (last.code, sasl.words(last.message)) == (FAILED, REFUSAL) and s.is_closed()


def test_a_refused_client_that_goes_on_is_not_served(door):
    with sasl.Sasl(door.broker) as s:
        s.handshake("OAUTHBEARER")
        s.authenticate(sasl.bearer_message(door.issuer.token(door.web_subject, seconds=-60)))
        try:
            assert not s.is_let_in()
        except sasl.wire.Closed:
            pass


@pytest.mark.schloss_only  # Apache Kafka 4.3.1 lets it in
def test_a_refused_client_does_not_get_in_by_a_second_token(door):
    with sasl.Sasl(door.broker) as s:
        s.handshake("OAUTHBEARER")
        s.authenticate(sasl.bearer_message(door.issuer.token(door.web_subject, seconds=-60)))
        try:
            assert s.authenticate(sasl.bearer_message(door.issuer.token(door.web_subject))).code == FAILED
        except sasl.wire.Closed:
            pass


def test_the_session_does_not_outlive_the_token(door):
    with sasl.Sasl(door.broker) as s:
        answer = s.bearer(door.issuer.token(door.web_subject, seconds=100))
        assert answer.code == OK and 60_000 < answer.lifetime_ms <= 130_000


@pytest.mark.schloss_only
def test_new_keys_of_the_issuer_are_learned_and_the_old_ones_forgotten(door):
    i = door.issuer
    old = i.token(door.web_subject)
    assert judged(door, old)[0] == OK
    i.rotate()
    env.eventually(lambda: judged(door, i.token(door.web_subject))[0] == OK, timeout=20, every=0.5, what="the new key")
    assert judged(door, old)[0] == FAILED, "a key that the issuer withdrew still opens"


@pytest.mark.schloss_only
def test_an_issuer_that_cannot_be_reached_keeps_known_keys_good_and_unknown_ones_out(door):
    i = door.issuer
    assert judged(door, i.token(door.web_subject))[0] == OK
    i.reachable = False
    try:
        assert judged(door, i.token(door.web_subject))[0] == OK
        assert judged(door, i.token(door.web_subject, key=oidc.SigningKey("RS256"))) == (FAILED, REFUSAL)
    finally:
        i.reachable = True


@pytest.mark.schloss_only
def test_unknown_key_ids_do_not_make_the_broker_ask_the_issuer_each_time(door):
    i, before = door.issuer, door.issuer.fetches
    for _ in range(15):
        assert judged(door, i.token(door.web_subject, key=oidc.SigningKey("ES256")))[0] == FAILED
    assert i.fetches - before <= 3, f"{i.fetches - before} questions for 15 forged tokens"


@pytest.mark.schloss_only
@pytest.mark.parametrize("what", ("a redirect", "a huge answer", "not JSON"))
def test_an_issuer_that_answers_with(door, what):
    """Nothing of it is followed or believed, and the known keys stay good."""
    i = door.issuer
    assert judged(door, i.token(door.web_subject))[0] == OK
    i.answer = {"a redirect": (302, {}, [("location", f"{i.url}/elsewhere")]), "a huge answer": (200, b'{"keys":[' + b" " * 8_000_000 + b"]}"),
                "not JSON": (200, b"<html>")}[what]
    try:
        assert judged(door, i.token(door.web_subject, key=oidc.SigningKey("RS256")))[0] == FAILED
        assert judged(door, i.token(door.web_subject))[0] == OK
    finally:
        i.answer = None


@pytest.mark.schloss_only
def test_a_subject_that_no_trust_policy_names_is_refused(door):
    assert judged(door, door.issuer.token("a-stranger")) == (FAILED, DENIED)


@pytest.mark.schloss_only
def test_a_token_for_one_tenant_does_not_open_the_other(door):
    with sasl.Sasl(door.broker, server_name=door.host_of("globex"), context=door.broker.client("globex").tls(certificate=False)) as s:
        answer = s.bearer(door.issuer.token(door.web_subject))
        assert (answer.code, sasl.words(answer.message)) == (FAILED, REFUSAL)


@pytest.mark.schloss_only
def test_a_refused_token_is_in_the_audit_log_with_the_step_that_failed_and_without_the_token(door):
    token = door.issuer.token(door.web_subject, aud="another")
    with sasl.Sasl(door.broker) as s:
        number = sasl.REQUEST_ID.match(s.bearer(token).message)["id"]
    event = door.audit_after(set(), lambda text: number in text)
    assert "OAUTHBEARER" in event and "audience" in event and '"step"' in event
    assert token.split(".")[2] not in event


# --- several providers, the preset for Kubernetes, claims ---

POD = "system:serviceaccount:prod:orders"


@pytest.mark.schloss_only
def test_a_service_account_token_of_kubernetes_opens_beside_the_other_provider(door):
    assert judged(door, door.pods.token(POD)) == (OK, "") and judged(door, door.issuer.token(door.web_subject)) == (OK, "")


@pytest.mark.schloss_only
def test_a_service_account_of_another_namespace_is_refused(door):
    assert judged(door, door.pods.token("system:serviceaccount:test:orders")) == (FAILED, DENIED)


@pytest.mark.schloss_only
def test_keys_of_one_provider_do_not_sign_for_the_other(door):
    assert judged(door, door.pods.token(POD, iss=door.issuer.url))[0] == FAILED
    assert judged(door, door.issuer.token(POD, iss=door.pods.url))[0] == FAILED


@pytest.mark.schloss_only
def test_an_algorithm_that_the_providers_file_does_not_name_is_refused(door):
    assert judged(door, door.pods.token(POD, "ES256"))[0] == FAILED, "its file says RS256, by default"


def produced(door, token):
    from suites.test_idempotence import batch
    with sasl.Sasl(door.broker) as s:
        assert s.bearer(token).code == OK
        r = s.call(sasl.wire.build("produce", 9, acks=-1, timeout=5000, topic_data=[dict(name=door.topic, partition_data=[dict(index=0, records=batch([b"v"], -1, -1, -1))])]))
        return int(r.responses[0].partition_responses[0].error_code)


@pytest.mark.schloss_only
def test_a_claim_is_a_condition_key_of_policies(door):
    assert produced(door, door.pods.token(POD, team="red")) == 0
    assert produced(door, door.pods.token(POD, team="blue")) == 29 and produced(door, door.pods.token(POD)) == 29


@pytest.mark.schloss_only
def test_a_claim_names_the_role_and_only_roles_that_trust_the_provider(door):
    assert produced(door, door.pods.token(POD, kafka_role="pods-admin")) == 0
    for role in ("app", "web", "no-such-role", "../app", ""):
        assert judged(door, door.pods.token(POD, kafka_role=role))[0] == FAILED, role


# --- the token of the MSK IAM signers ---

@pytest.mark.schloss_only
@pytest.mark.parametrize("client", login.SIGNER_CLIENTS)
def test_every_official_signer_opens(door, client):
    login.round_trip(client, door.broker, login.signed_url(door.key), door.topic)


@pytest.mark.schloss_only
@pytest.mark.parametrize("client", login.SIGNER_CLIENTS)
def test_every_official_signer_opens_with_temporary_credentials(door, client):
    login.round_trip(client, door.broker, login.signed_url(door.temporary_key()), door.topic)


@pytest.mark.schloss_only
@pytest.mark.parametrize("client", login.SIGNER_CLIENTS)
def test_every_signer_client_understands_a_wrong_secret_as_a_failed_login(door, client):
    login.refusal(client, door.broker, login.signed_url(login.Key(door.key.access_key, "x" * 40)))


@pytest.mark.schloss_only
def test_a_token_signed_by_hand_opens(door):
    assert judged(door, sigv4.token(door.key)) == (OK, "")


def url_of(token):
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()


def changed(change):
    return lambda d: base64.urlsafe_b64encode(change(url_of(sigv4.token(d.key))).encode()).decode().rstrip("=")


SIGNED = {
    "expired": lambda d: sigv4.token(d.key, at=-1000),
    "from the future": lambda d: sigv4.token(d.key, at=1000),
    "good for too long": lambda d: sigv4.token(d.key, expires=86400),
    "for a foreign region": lambda d: sigv4.token(d.key, region="us-gov-west-1"),
    "for another host": lambda d: sigv4.token(d.key, host="sts.eu-central-1.amazonaws.com"),
    "for a host of another region": lambda d: sigv4.token(d.key, host="kafka.us-east-1.amazonaws.com"),
    "for another action": lambda d: sigv4.token(d.key, action="kafka-cluster:AlterCluster"),
    "in plain http": lambda d: sigv4.token(d.key, scheme="http"),
    "by an unknown key": lambda d: sigv4.token(login.Key("AKIA" + "Q" * 16, d.key.secret_key)),
    "by a wrong secret": lambda d: sigv4.token(login.Key(d.key.access_key, "x" * 40)),
    "by a key of another tenant, at this tenant's door": lambda d: sigv4.token(d.key_of("globex")),
    "its date changed": changed(lambda u: u.replace("X-Amz-Expires=900", "X-Amz-Expires=899")),
    "a parameter added": changed(lambda u: u + "&X-Amz-Security-Token=abc"),
    "a parameter doubled": changed(lambda u: u + "&Action=kafka-cluster%3AConnect"),
    "its signature cut": changed(lambda u: u.split("&X-Amz-Signature")[0]),
    "a path added": changed(lambda u: u.replace(".com/?", ".com/x?")),
    "a port added": changed(lambda u: u.replace(".com/?", ".com:444/?")),
    "a user in the host": changed(lambda u: u.replace("https://", "https://a@")),
}


@pytest.mark.schloss_only
@pytest.mark.parametrize("what", list(SIGNED))
def test_a_signed_url_is_refused_when_it_is(door, what):
    code, message = judged(door, SIGNED[what](door))
    assert code == FAILED
    assert "signature" not in message.lower() and "expired" not in message.lower(), f"the answer tells the step: {message}"


TOKEN_STEPS = {"issuer": ("of another issuer", "of an issuer that begins like it"), "trust": ("of no subject",), "message": ("not base64", "nothing")}
SIGNED_STEPS = {"time": ("expired", "from the future"), "region": ("for a foreign region",), "credential": ("by an unknown key", "a parameter added"),
                "signature": ("by a wrong secret", "its date changed"), "tenant": ("by a key of another tenant, at this tenant's door",)}


def steps(door, table, make):
    numbers = {}
    for what in table:
        with sasl.Sasl(door.broker) as s:
            numbers[what] = sasl.REQUEST_ID.match(s.bearer(make(table[what])).message)["id"]
    events = door.audit_steps(set(numbers.values()))
    assert all(events[n]["mechanism"] == "OAUTHBEARER" for n in numbers.values())
    return {what: events[n]["step"] for what, n in numbers.items()}


@pytest.mark.schloss_only
@pytest.mark.parametrize("kind", ("token", "signed url"))
def test_the_audit_log_says_which_step_failed(door, kind):
    """So that each of these was refused for what is wrong with it, and not for something else."""
    if kind == "token":
        table, exceptions, otherwise = ATTACKS, TOKEN_STEPS, "token"
        seen = steps(door, table, lambda make: make(door.issuer, door.web_subject))
    else:
        table, exceptions, otherwise = SIGNED, SIGNED_STEPS, "message"
        seen = steps(door, table, lambda make: make(door))
    wanted = {what: step for step, whats in exceptions.items() for what in whats}
    assert seen == {what: wanted.get(what, otherwise) for what in table}
