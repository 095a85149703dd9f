"""AWS_MSK_IAM: the official Java library, franz-go, kafkajs and kafka-python log in; a signature that is wrong anywhere does not."""

import json
import re

import pytest

from harness import env, login, sasl, sigv4
from harness.sasl import FAILED, OK

pytestmark = pytest.mark.schloss_only

REFUSAL = re.compile(r"\[(?P<id>[0-9A-Za-z-]{8,})\]: Access denied")


def judged(door, payload, server_name=None, source=None):
    """The answer of one login by hand; what was let in is served, what was not is cut."""
    with sasl.Sasl(door.broker, server_name=server_name, source=source) as s:
        answer = s.iam(payload)
        if answer.code == OK:
            assert s.is_let_in()
        else:
            assert s.is_closed()
        return answer


@pytest.mark.parametrize("client", login.IAM_CLIENTS)
def test_every_client_logs_in_with_a_long_term_key_produces_and_consumes(door, client):
    login.round_trip(client, door.broker, login.iam(door.key), door.topic)


@pytest.mark.parametrize("client", login.IAM_CLIENTS)
def test_every_client_logs_in_with_temporary_credentials_produces_and_consumes(door, client):
    login.round_trip(client, door.broker, login.iam(door.temporary_key()), door.topic)


@pytest.mark.parametrize("client", login.IAM_CLIENTS)
def test_every_client_understands_a_wrong_secret_as_a_failed_login(door, client):
    told = login.refusal(client, door.broker, login.iam(login.Key(door.key.access_key, "x" * 40)))
    assert "Access denied" in told or client == "kafka-python", told


def test_the_java_library_understands_a_foreign_region_as_a_failed_login(door):
    told = login.refusal("java", door.broker, login.iam(door.key, region="us-gov-west-1"))
    assert "Access denied" in told, told


def test_the_answer_has_exactly_the_two_members_that_the_java_library_takes(door):
    answer = judged(door, sigv4.payload(door.key))
    told = json.loads(answer.data)
    assert set(told) == {"version", "request-id"} and told["version"] == "2020_10_22" and told["request-id"]
    assert answer.code == OK and answer.message == ""


def test_every_region_of_the_tenants_set_opens(door):
    for region in door.regions:
        assert judged(door, sigv4.payload(door.key, region=region)).code == OK


def test_the_signature_is_taken_for_every_expiry_up_to_900_seconds(door):
    for expires in (300, 900, "612.25"):  # franz-go; Java; the JavaScript signer with credentials that end soon
        assert judged(door, sigv4.payload(door.key, expires=expires)).code == OK


def test_a_clock_that_is_a_little_off_opens(door):
    for at in (-240, 240):
        assert judged(door, sigv4.payload(door.key, at=at)).code == OK


def without(member):
    def change(d):
        p = sigv4.payload(d.key)
        del p[member]
        return p
    return change


def replaced(**members):
    return lambda d: {**sigv4.payload(d.key), **{k.replace("_", "-"): v for k, v in members.items()}}


def text(change):
    return lambda d: change(json.dumps(sigv4.payload(d.key))).encode()


WRONG = {
    "with a wrong secret": lambda d: sigv4.payload(login.Key(d.key.access_key, "x" * 40)),
    "with an unknown key": lambda d: sigv4.payload(login.Key("AKIA" + "Q" * 16, d.key.secret_key)),
    "with a key id that is no key id": lambda d: sigv4.payload(login.Key("a/b", d.key.secret_key)),
    "with the secret of another key": lambda d: sigv4.payload(login.Key(d.key.access_key, d.key_of("globex").secret_key)),
    "for another host": lambda d: sigv4.payload(d.key, host="b-1.other-cluster.example"),
    "for a host whose name ends like ours": lambda d: sigv4.payload(d.key, host="evil-acme.localhost"),
    "for the other tenant's host": lambda d: sigv4.payload(d.key, host="globex.localhost"),
    "for no host": lambda d: sigv4.payload(d.key, host=""),
    "for a foreign region": lambda d: sigv4.payload(d.key, region="us-gov-west-1"),
    "for another service": lambda d: sigv4.payload(d.key, service="sts"),
    "for another action": lambda d: sigv4.payload(d.key, action="kafka-cluster:DescribeCluster"),
    "too long ago": lambda d: sigv4.payload(d.key, at=-1000),
    "in the future": lambda d: sigv4.payload(d.key, at=1000),
    "with an expiry that has passed": lambda d: sigv4.payload(d.key, at=-60, expires=10),
    "for longer than 900 seconds": lambda d: sigv4.payload(d.key, expires=901),
    "for a day": lambda d: sigv4.payload(d.key, expires=86400),
    "for no time": lambda d: sigv4.payload(d.key, expires=0),
    "for a negative time": lambda d: sigv4.payload(d.key, expires=-900),
    "with a session token it does not belong to": lambda d: sigv4.payload(login.Key(d.key.access_key, d.key.secret_key, "AAAA")),
    "with a temporary key and no session token": lambda d: sigv4.payload(login.Key(d.temporary_key().access_key, d.temporary_key().secret_key)),
    "with a temporary key and another one's token": lambda d: sigv4.payload(
        login.Key(d.temporary_key().access_key, d.temporary_key().secret_key, d.other_temporary_key().session_token)),
    "with its host changed": replaced(host="other.example"),
    "with its date changed": replaced(x_amz_date="20200101T000000Z"),
    "with its signature changed": replaced(x_amz_signature="0" * 64),
    "with a short signature": replaced(x_amz_signature="0"),
    "with another algorithm": replaced(x_amz_algorithm="AWS4-HMAC-SHA1"),
    "with more signed headers": replaced(x_amz_signedheaders="host;x-evil"),
    "with an unknown version": replaced(version="2030_01_01"),
    "with a member that is a number": replaced(x_amz_expires=900),
    "with a member that is null": replaced(host=None),
    "with a member too many": replaced(evil="1"),
    "with a session token added": replaced(x_amz_security_token="AAAA"),
    "with a member twice": text(lambda t: t[:-1] + ', "host": "acme.localhost"}'),
    "with members in capitals": text(lambda t: t.replace('"host"', '"Host"')),
    "with something behind it": text(lambda t: t + "{}"),
    "as a list": text(lambda t: f"[{t}]"),
    "cut": text(lambda t: t[:-10]),
    "as nothing": lambda d: b"",
    "as no UTF-8": lambda d: b"\xff\xfe{}",
    "deeply nested": lambda d: b"[" * 20_000,
    "very long": text(lambda t: t[:-1] + ', "user-agent-2": "' + "a" * 40_000 + '"}'),
    **{f"without {m}": without(m) for m in ("version", "host", "action", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires",
                                             "x-amz-signedheaders", "x-amz-signature")},
}


@pytest.mark.parametrize("what", list(WRONG))
def test_a_message_is_refused_when_it_was_signed(door, what):
    answer = judged(door, WRONG[what](door))
    assert answer.code == FAILED and answer.data == b"" and REFUSAL.fullmatch(answer.message), answer


def test_a_key_of_another_tenant_is_refused_at_a_tenants_own_door(door):
    assert judged(door, sigv4.payload(door.key)).code == OK
    answer = judged(door, sigv4.payload(door.key_of("globex")))
    assert answer.code == FAILED and REFUSAL.fullmatch(answer.message)


def test_at_the_name_all_tenants_share_the_key_tells_whose_it_is(door):
    """Dialled as `localhost`, which is no tenant's: the cluster id tells which tenant answered."""
    seen = set()
    for key in (door.key, door.key_of("globex")):
        with sasl.Sasl(door.broker, server_name="localhost") as s:
            assert s.iam(sigv4.payload(key, host="localhost")).code == OK
            seen.add(sasl.metadata(s).cluster_id)
    assert len(seen) == 2


def test_a_signature_for_one_tenants_door_does_not_open_the_other(door):
    answer = judged(door, sigv4.payload(door.key, host=door.host_of("acme")), server_name=door.host_of("globex"))
    assert answer.code == FAILED and REFUSAL.fullmatch(answer.message)


def test_a_signature_seen_from_one_address_does_not_open_from_another(door):
    payload = sigv4.payload(door.key)
    assert judged(door, payload, source="127.0.0.1").code == OK
    assert judged(door, payload, source="127.0.0.2").code == FAILED
    assert judged(door, payload, source="127.0.0.1").code == OK, "an honest client that opens two connections in one second"


def test_a_second_message_after_the_login_is_not_another_login(door):
    with sasl.Sasl(door.broker) as s:
        assert s.iam(sigv4.payload(door.key)).code == OK
        try:
            assert s.authenticate(json.dumps(sigv4.payload(door.key_of("globex"))).encode()).code != OK
        except sasl.wire.Closed:
            pass


def test_a_user_whose_policies_do_not_allow_to_connect_is_refused(door):
    key = door.key_of("acme", door.user("no-connect", policies=[]))
    before = door.audit_mark()
    answer = judged(door, sigv4.payload(key))
    assert answer.code == FAILED and REFUSAL.fullmatch(answer.message)
    door.audit_after(before, lambda t: "no-connect" in t and "Connect" in t)


STEPS = {  # what the audit log says where the answer says nothing; all others fail at `message`
    "signature": ("with a wrong secret", "with the secret of another key", "with its signature changed"),
    "credential": ("with an unknown key", "with a session token it does not belong to", "with a temporary key and no session token",
                   "with a temporary key and another one's token", "with a session token added"),
    "host": ("for another host", "for a host whose name ends like ours", "for the other tenant's host", "for no host", "with its host changed"),
    "region": ("for a foreign region",),
    "time": ("too long ago", "in the future", "with an expiry that has passed"),
}


def test_the_audit_log_says_which_step_failed_under_the_request_id_of_the_answer(door):
    """So that each of these was refused for what is wrong with it, and not for something else."""
    wanted = {what: step for step, whats in STEPS.items() for what in whats}
    numbers = {what: REFUSAL.fullmatch(judged(door, WRONG[what](door)).message)["id"] for what in WRONG}
    events = door.audit_steps(set(numbers.values()))
    assert {what: events[n]["step"] for what, n in numbers.items()} == {what: wanted.get(what, "message") for what in WRONG}
    assert all(events[n]["mechanism"] == "AWS_MSK_IAM" and events[n]["reason"] for n in numbers.values())
    assert door.key.secret_key not in json.dumps(events)


def test_two_refusals_differ_in_their_request_id_only(door):
    a, b = (judged(door, WRONG[w](door)) for w in ("with a wrong secret", "with an unknown key"))
    assert a.message != b.message and REFUSAL.sub("", a.message) == REFUSAL.sub("", b.message) == ""


def test_the_principal_in_the_audit_log_is_the_users_arn(door):
    before = door.audit_mark()
    assert judged(door, sigv4.payload(door.key)).code == OK
    event = door.audit_after(before, lambda t: "AWS_MSK_IAM" in t and ":user/" in t)
    assert f"arn:aws:iam::{door.broker.tenants['acme']}:user/" in event


def test_no_secret_key_is_readable_on_disk(door):
    secrets = [door.key.secret_key.encode(), door.temporary_key().secret_key.encode()]
    for path in [*door.broker.data.rglob("*"), door.broker.log]:
        if path.is_file():
            raw = path.read_bytes()
            assert not any(s in raw for s in secrets), path


def test_a_deleted_key_is_refused_and_a_deactivated_one_until_it_is_active_again(door):
    key = door.key_of("acme", door.user("key-life"), fresh=True)
    assert judged(door, sigv4.payload(key)).code == OK
    door.update_key(key, "deactivate")
    env.eventually(lambda: judged(door, sigv4.payload(key)).code == FAILED, timeout=5, what="the inactive key")
    door.update_key(key, "activate")
    env.eventually(lambda: judged(door, sigv4.payload(key)).code == OK, timeout=5, what="the active key")
    door.update_key(key, "delete")
    env.eventually(lambda: judged(door, sigv4.payload(key)).code == FAILED, timeout=5, what="the deleted key")
