"""SASL by hand over one TLS connection: every message can be wrong, early, late, too long or repeated on purpose.

In: a broker. Out: the exact answers of SaslHandshake and SaslAuthenticate, and of the mechanisms inside.
Sources: KIP-43, KIP-152, KIP-368; RFC 5802 and RFC 7677 (SCRAM); RFC 7628 (OAUTHBEARER).
"""

import base64
import hashlib
import hmac
import json
import os
import re
from collections import namedtuple

from . import env, wire

Answer = namedtuple("Answer", "code message data lifetime_ms")
HASHES = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
OK, UNSUPPORTED_MECHANISM, ILLEGAL_STATE, FAILED = 0, 33, 34, 58


REQUEST_ID = re.compile(r"\[(?P<id>[0-9a-f-]{36})\]: ")


def words(message):
    """An error message without the request id, which Apache Kafka's do not have."""
    return REQUEST_ID.sub("", message, count=1)


class Scram:
    """The client's side of one exchange."""

    def __init__(self, username, password, mechanism="SCRAM-SHA-512", gs2="n,,", extensions="", nonce=None):
        self.hash, self.password = HASHES[mechanism], password
        self.nonce = nonce or base64.b64encode(os.urandom(18)).decode()
        self.gs2 = gs2
        escaped = username.replace("=", "=3D").replace(",", "=2C")
        self.bare = f"n={escaped},r={self.nonce}{extensions}"

    @property
    def first(self):
        return (self.gs2 + self.bare).encode()

    def final(self, server_first: bytes) -> bytes:
        text = server_first.decode()
        part = dict(p.split("=", 1) for p in text.split(","))
        self.salt, self.iterations = base64.b64decode(part["s"]), int(part["i"])
        assert part["r"].startswith(self.nonce) and len(part["r"]) > len(self.nonce), "the server added nothing to the nonce"
        salted = hashlib.pbkdf2_hmac(self.hash, self.password.encode(), self.salt, self.iterations)
        without = f"c={base64.b64encode(self.gs2.encode()).decode()},r={part['r']}"
        self.message = f"{self.bare},{text},{without}".encode()
        client_key = hmac.digest(salted, b"Client Key", self.hash)
        signature = hmac.digest(hashlib.new(self.hash, client_key).digest(), self.message, self.hash)
        self.server_key = hmac.digest(salted, b"Server Key", self.hash)
        proof = bytes(a ^ b for a, b in zip(client_key, signature))
        return f"{without},p={base64.b64encode(proof).decode()}".encode()

    def proves_itself(self, server_final: bytes) -> bool:
        wanted = base64.b64encode(hmac.digest(self.server_key, self.message, self.hash)).decode()
        return server_final.decode() == f"v={wanted}"


def bearer_message(token, extensions=None, gs2="n,,"):
    more = "".join(f"{k}={v}\x01" for k, v in (extensions or {}).items())
    return f"{gs2}\x01auth=Bearer {token}\x01{more}\x01".encode()


def metadata(raw):
    return raw.request("metadata", 12, topics=None, allow_auto_topic_creation=False, include_topic_authorized_operations=False)


def is_served(raw):
    return len(metadata(raw).brokers) > 0


class Sasl(wire.Raw):
    """One connection without a client certificate, not logged in yet."""

    def __init__(self, broker, certificate=False, context=None, server_name=None, port=None, **more):
        server_name = server_name or broker.sasl_host
        context = context or broker.client().tls(certificate=certificate)
        super().__init__(broker, context=context, server_name=server_name, port=port or getattr(broker, "sasl_port", broker.port), **more)

    def handshake(self, mechanism, version=1):
        r = self.request("sasl_handshake", version, mechanism=mechanism)
        return int(r.error_code), list(r.mechanisms)

    def authenticate(self, data: bytes, version=2) -> Answer:
        r = self.request("sasl_authenticate", version, auth_bytes=data)
        lifetime = getattr(r, "session_lifetime", None)
        if lifetime is not None and hasattr(lifetime, "total_seconds"):
            lifetime = round(lifetime.total_seconds() * 1000)
        return Answer(int(r.error_code), r.error_message, r.auth_bytes, lifetime)

    def scram(self, username, password, mechanism="SCRAM-SHA-512", tokenauth=False, **more) -> Answer:
        code, _ = self.handshake(mechanism)
        assert code == OK, code
        exchange = Scram(username, password, mechanism, extensions=",tokenauth=true" if tokenauth else "", **more)
        first = self.authenticate(exchange.first)
        if first.code != OK:
            return first
        last = self.authenticate(exchange.final(first.data))
        assert last.code != OK or exchange.proves_itself(last.data), "the server did not prove that it knows the user"
        return last

    def iam(self, payload) -> Answer:
        code, _ = self.handshake("AWS_MSK_IAM")
        assert code == OK, code
        return self.authenticate(payload if isinstance(payload, bytes) else json.dumps(payload).encode())

    def bearer(self, token, **more) -> Answer:
        """RFC 7628: a refusal first comes as a challenge, which the client answers by a lone %x01."""
        code, _ = self.handshake("OAUTHBEARER")
        assert code == OK, code
        answer = self.authenticate(bearer_message(token, **more))
        if answer.code == OK and answer.data:
            self.challenge = json.loads(answer.data)
            return self.authenticate(b"\x01")
        return answer

    def is_let_in(self):
        """Whether the connection serves requests now."""
        return is_served(self)

    def is_closed(self, timeout=5):
        """Whether the server ended the connection, waited for."""
        self.socket.settimeout(timeout)
        try:
            self.receive()
        except wire.Closed:
            return True
        except TimeoutError:
            return False
        return False
