"""One TLS port serves every kind of login; or several listeners serve one kind each, as Amazon MSK's ports do; a tenant may narrow it."""

import ssl

import pytest

from harness import env, sasl, sigv4, wire
from harness.sasl import FAILED, OK, UNSUPPORTED_MECHANISM

pytestmark = pytest.mark.schloss_only

PASSWORD = "by the right gate"


def test_one_port_serves_certificates_and_every_mechanism(door):
    user = door.scram_user("one-port", PASSWORD)
    with wire.Raw(door.broker) as raw:
        assert sasl.metadata(raw).brokers
    for log_in in (lambda s: s.iam(sigv4.payload(door.key)), lambda s: s.bearer(door.issuer.token(door.web_subject)),
                   lambda s: s.bearer(sigv4.token(door.key)), lambda s: s.scram(user, PASSWORD), lambda s: s.scram(user, PASSWORD, "SCRAM-SHA-256")):
        with sasl.Sasl(door.broker) as s:
            assert log_in(s).code == OK and s.is_let_in()


def test_who_shows_a_certificate_and_starts_sasl_is_judged_by_sasl(door):
    user = door.scram_user("with-certificate", PASSWORD)
    before = door.audit_mark()
    with sasl.Sasl(door.broker, certificate=True) as s:
        assert s.scram(user, "wrong").code == FAILED and s.is_closed()
    with sasl.Sasl(door.broker, certificate=True) as s:
        assert s.scram(user, PASSWORD).code == OK and s.is_let_in()
    door.audit_after(before, lambda t: "with-certificate" in t and "SCRAM-SHA-512" in t)


def test_a_certificate_of_one_tenant_and_a_login_of_another_are_refused(door):
    """The certificate says globex, the key says acme."""
    with sasl.Sasl(door.broker, context=door.broker.client("globex").tls(), server_name="localhost") as s:
        try:
            assert s.iam(sigv4.payload(door.key, host="localhost")).code == FAILED
        except wire.Closed:
            pass


@pytest.fixture(scope="module")
def split(door_class, tmp_path_factory):
    ports = {"mtls": None, "scram": env.free_port(), "iam": env.free_port()}

    class Split(door_class):
        def settings(self, port):
            ports["mtls"] = port
            names = {"mtls": "", "scram": "SCRAM-SHA-256,SCRAM-SHA-512", "iam": "AWS_MSK_IAM"}
            out = {"listeners": ",".join(f"{n.upper()}://127.0.0.1:{p}" for n, p in ports.items()),
                   "advertised.listeners": ",".join(f"{n.upper()}://localhost:{p}" for n, p in ports.items()),
                   "sasl.enabled.mechanisms": []}
            for n, mechanisms in names.items():
                out[f"listener.name.{n}.sasl.enabled.mechanisms"] = mechanisms
                out[f"listener.name.{n}.ssl.client.auth"] = "none" if mechanisms else "required"
            return out

    d = Split(tmp_path_factory.mktemp("split"))
    d.ports = ports
    d.scram_user("split-user", PASSWORD)
    yield d
    d.close()


def told(d, listener, mechanism):
    with sasl.Sasl(d.broker, port=d.ports[listener]) as s:
        return s.handshake(mechanism)


def test_each_listener_takes_only_its_own_mechanisms(split):
    assert told(split, "scram", "SCRAM-SHA-512")[0] == OK and told(split, "iam", "AWS_MSK_IAM")[0] == OK
    code, offered = told(split, "scram", "AWS_MSK_IAM")
    assert code == UNSUPPORTED_MECHANISM and set(offered) == {"SCRAM-SHA-256", "SCRAM-SHA-512"}
    code, offered = told(split, "iam", "SCRAM-SHA-512")
    assert code == UNSUPPORTED_MECHANISM and offered == ["AWS_MSK_IAM"]


def test_a_login_at_its_listener_is_sent_on_to_the_same_listener(split):
    with sasl.Sasl(split.broker, port=split.ports["iam"]) as s:
        assert s.iam(sigv4.payload(split.key)).code == OK
        brokers = sasl.metadata(s).brokers
        assert {int(b.port) for b in brokers} == {split.ports["iam"]}


def test_the_certificate_listener_wants_a_certificate_and_takes_no_sasl(split):
    with pytest.raises((ssl.SSLError, wire.Closed, ConnectionError)):
        with sasl.Sasl(split.broker, port=split.ports["mtls"]) as s:
            s.api_versions()
    with sasl.Sasl(split.broker, certificate=True, port=split.ports["mtls"]) as s:
        try:
            assert s.handshake("SCRAM-SHA-512")[0] != OK
        except wire.Closed:
            pass


def test_a_certificate_opens_nothing_at_a_listener_without_certificates(split):
    with sasl.Sasl(split.broker, certificate=True, port=split.ports["scram"]) as s:
        with pytest.raises((wire.Closed, AssertionError, ConnectionError)):
            assert s.is_let_in()


def test_a_tenant_may_take_fewer_kinds_than_its_listener(split):
    user = split.scram_user("narrow", PASSWORD, tenant="globex")

    def answer():
        with sasl.Sasl(split.broker, port=split.ports["scram"], server_name="globex.localhost", context=split.broker.client("globex").tls(certificate=False)) as s:
            code, _ = s.handshake("SCRAM-SHA-512")
            if code != OK:
                return code
            exchange = sasl.Scram(user, PASSWORD)
            first = s.authenticate(exchange.first)
            return first.code or s.authenticate(exchange.final(first.data)).code

    assert answer() == OK
    path = split.tenant_folder("globex") / "tenant.toml"
    split.write("globex", "tenant.toml", path.read_text().replace("[authentication]\n", '[authentication]\nmechanisms = ["mTLS", "AWS_MSK_IAM"]\n'))
    env.eventually(lambda: answer() != OK, timeout=10, what="SCRAM being gone from the tenant")
    with sasl.Sasl(split.broker, port=split.ports["scram"]) as s:
        assert s.scram("split-user", PASSWORD).code == OK, "the other tenant's"


def test_at_a_name_all_tenants_share_a_scram_user_brings_its_tenant_or_is_the_default_ones(door):
    """`sasl.default.tenant` is acme in a quickstart."""
    user, other = door.scram_user("shared-name", PASSWORD), door.scram_user("of-the-other", PASSWORD, tenant="globex")
    for named, right in ((f"acme/{user}", True), (user, True), (f"globex/{user}", False), (f"nobody/{user}", False),
                         (f"globex/{other}", True), (other, False)):
        with sasl.Sasl(door.broker, server_name="localhost") as s:
            assert (s.scram(named, PASSWORD).code == OK) is right, named


def test_a_prefix_of_another_tenant_does_not_leave_the_tenant_dialled(door):
    user = door.scram_user("prefixed", PASSWORD, tenant="globex")
    with sasl.Sasl(door.broker) as s:
        assert s.scram(f"globex/{user}", PASSWORD).code == FAILED


def test_a_tenant_that_refuses_signer_tokens_still_takes_signatures(door):
    """`msk_signer_tokens = false`; its listener takes AWS_MSK_IAM and OAUTHBEARER."""
    path = door.tenant_folder("globex") / "tenant.toml"
    before = path.read_text()
    key = door.key_of("globex")

    def answer(log_in):
        with sasl.Sasl(door.broker, server_name="globex.localhost", context=door.broker.client("globex").tls(certificate=False)) as s:
            return log_in(s).code

    def by_token(s):
        return s.bearer(sigv4.token(key))

    assert answer(by_token) == OK
    door.write("globex", "tenant.toml", before.replace("[authentication]\n", "[authentication]\nmsk_signer_tokens = false\n"))
    try:
        env.eventually(lambda: answer(by_token) == FAILED, timeout=10, what="the switch")
        assert answer(lambda s: s.iam(sigv4.payload(key, host="globex.localhost"))) == OK
    finally:
        door.write("globex", "tenant.toml", before)
        env.eventually(lambda: answer(by_token) == OK, timeout=10, what="the switch back")
