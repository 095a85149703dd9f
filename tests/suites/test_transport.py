"""TLS and nothing else: which versions, suites, certificates and names open the door."""

import json
import socket
import ssl

import pytest

from harness import clients, wire
from harness.kafka_peer import Authority, common_name

pytestmark = pytest.mark.schloss_only


@pytest.fixture(scope="module")
def scan(broker):
    return json.loads(clients.gokafka(broker, "scan"))


def test_tls_13_and_12_are_accepted_older_refused(scan):
    assert scan["TLS 1.3"]["ok"] and scan["TLS 1.2"]["ok"]
    assert not scan["TLS 1.0"]["ok"] and not scan["TLS 1.1"]["ok"]


def test_only_aead_suites_with_forward_secrecy_are_accepted_in_tls_12(scan):
    accepted = {k for k, v in scan.items() if k.startswith("TLS_") and v["ok"]}
    assert accepted, "no TLS 1.2 suite at all"
    assert all(s.startswith("TLS_ECDHE_") and ("_GCM_" in s or "CHACHA20" in s) for s in accepted), accepted


def test_post_quantum_hybrid_key_exchange_is_taken_when_offered(scan):
    assert scan["default"]["ok"] and scan["default"]["group"] == "X25519MLKEM768"
    assert scan["group:X25519MLKEM768"]["ok"] and scan["group:X25519"]["ok"]


@pytest.mark.parametrize("opening", [
    b"\0\0\0\x13\0\x12\0\0\0\0\0\x01\0\x09anonymous",  # ApiVersions in the clear
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\0\x05hello", bytes(64), b"\xff" * 64,
])
def test_plaintext_gets_no_plaintext_answer(broker, opening):
    for port in (broker.port, broker.admin_port):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as s:
            s.sendall(opening)
            s.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while part := s.recv(4096):
                    answer += part
            except ConnectionError:
                pass
        assert answer == b"" or answer[0] == 0x15, f"not a TLS alert: {answer[:40]!r}"


def refused(broker, context, server_name="localhost"):
    """True when the connection cannot be used: TLS 1.3 tells a refused client certificate only after the handshake."""
    try:
        with wire.Raw(broker, context=context, timeout=15, server_name=server_name) as raw:
            raw.api_versions()
        return False
    except (ssl.SSLError, wire.Closed, ConnectionError):
        return True


def context_of(creds, trust):
    c = ssl.create_default_context(cafile=str(trust))
    c.load_cert_chain(str(creds.cert), str(creds.key))
    return c


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_client_certificate_no_entry(broker, version):
    context = broker.client().tls(certificate=False)
    context.minimum_version = context.maximum_version = version
    with wire.Raw(broker, context=context, timeout=15) as raw:
        raw.api_versions()  # told to everyone, so that clients can begin SASL
        answer = raw.request("list_groups", 4, states_filter=())
        assert (int(answer.error_code), answer.groups) == (34, ()), "ILLEGAL_SASL_STATE and nothing else"
        with pytest.raises((wire.Closed, ConnectionError, ssl.SSLError)):
            raw.api_versions()


def test_where_only_certificates_open_none_means_no_handshake(fresh):
    b = fresh(config={"sasl.enabled.mechanisms": None, "sasl.default.tenant": None, "ssl.client.auth": "required"})
    assert not refused(b, b.client().tls())
    assert refused(b, b.client().tls(certificate=False))


def test_a_foreign_cas_certificate_is_refused_even_with_a_known_subject(broker, tmp_path):
    from cryptography import x509
    own = x509.load_pem_x509_certificate(broker.client().cert.read_bytes())
    creds = Authority().issue(tmp_path / "foreign", own.subject)
    assert refused(broker, context_of(creds, broker.client().ca))


def test_a_self_signed_certificate_is_refused(broker, tmp_path):
    creds = Authority("self").issue(tmp_path / "self", common_name("self"))
    assert refused(broker, context_of(creds, broker.client().ca))


def test_a_certificate_does_not_open_the_other_tenants_host_name(broker):
    assert not refused(broker, broker.client("acme").tls(), "localhost")
    assert refused(broker, broker.client("globex").tls(), "acme.localhost")


def test_the_tenants_own_host_name_is_served(broker):
    assert not refused(broker, broker.client("acme").tls(), "acme.localhost")


def test_unknown_and_other_tenants_server_names_fail_alike(broker):
    def failure(server_name):
        context = broker.client("globex").tls()
        context.check_hostname = False
        try:
            with wire.Raw(broker, context=context, timeout=15, server_name=server_name) as raw:
                raw.api_versions()
            return "served"
        except (ssl.SSLError, wire.Closed, ConnectionError) as error:
            return type(error).__name__, getattr(error, "reason", None)
    unknown = failure("nobody.localhost")
    assert unknown != "served" and failure("also-nobody.localhost") == unknown


def test_a_renewed_server_certificate_is_served_without_a_restart(fresh):
    from cryptography import x509
    from harness import env
    b = fresh()

    def serial():
        return x509.load_pem_x509_certificate(ssl.get_server_certificate(("localhost", b.admin_port)).encode()).serial_number

    before, pid = serial(), b.process.pid
    cert, key = b.folder / "certs/server/cert.pem", b.folder / "certs/server/key.pem"
    ca = Authority("next CA")
    creds = ca.issue(b.folder / "next", common_name("localhost"), server=True)
    cert.write_bytes(creds.cert.read_bytes())
    key.write_bytes(creds.key.read_bytes())
    env.eventually(lambda: serial() != before, timeout=30, what="the new certificate")
    assert b.running() and b.process.pid == pid
