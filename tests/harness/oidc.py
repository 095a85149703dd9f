"""An OIDC issuer in this process: HTTPS, discovery, JWKS that rotates and fails on command, client credentials, tokens of every wrong kind.

Its certificate is from a throw-away CA (`ca`), which the server under test is told to trust for this issuer.
Must not: use a JWT library. A library would refuse to make what an attacker makes.
"""

import base64
import hashlib
import hmac
import http.server
import json
import ssl
import threading
import time
import urllib.parse
import uuid
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from . import env
from .kafka_peer import Authority, common_name


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def number(n, size=None):
    return b64(n.to_bytes(size or (n.bit_length() + 7) // 8, "big"))


class SigningKey:
    """One key of the issuer, RS256 or ES256."""

    def __init__(self, algorithm="RS256"):
        self.algorithm, self.kid = algorithm, uuid.uuid4().hex[:12]
        self.private = rsa.generate_private_key(65537, 2048) if algorithm == "RS256" else ec.generate_private_key(ec.SECP256R1())

    def jwk(self):
        n = self.private.public_key().public_numbers()
        what = ({"kty": "RSA", "n": number(n.n), "e": number(n.e)} if self.algorithm == "RS256"
                else {"kty": "EC", "crv": "P-256", "x": number(n.x, 32), "y": number(n.y, 32)})
        return {**what, "kid": self.kid, "alg": self.algorithm, "use": "sig"}

    def sign(self, raw: bytes) -> bytes:
        if self.algorithm == "RS256":
            return self.private.sign(raw, padding.PKCS1v15(), hashes.SHA256())
        r, s = decode_dss_signature(self.private.sign(raw, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def public_pem(self):
        return self.private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


class Issuer:
    audience = "schloss"

    def __init__(self, folder: Path, authority=None):
        self.authority = authority or Authority("issuer CA")
        credentials = self.authority.issue(folder / "issuer", common_name("localhost"), server=True)
        self.ca = credentials.ca
        self.keys = [SigningKey("RS256"), SigningKey("ES256")]
        self.fetches, self.reachable, self.clients = 0, True, {"client": "client-secret"}
        self.token_seconds = 3600
        self.extra_claims = {}
        self.answer = None  # (status, headers, body) in place of the JWKS
        self.port = env.free_port()
        issuer = self

        class Door(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                issuer.get(self)

            def do_POST(self):
                issuer.post(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Door)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(credentials.cert, credentials.key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    @property
    def url(self):
        return f"https://localhost:{self.port}"

    @property
    def jwks_url(self):
        return f"{self.url}/jwks"

    def client_credentials(self, client_id="client"):
        return {"url": f"{self.url}/token", "client_id": client_id, "client_secret": self.clients[client_id], "ca": self.ca}

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    # --- what it answers ---

    def get(self, request):
        if request.path.startswith("/jwks"):
            self.fetches += 1
        if not self.reachable:
            return reply(request, 503, {"error": "outage"})
        if request.path == "/.well-known/openid-configuration":
            return reply(request, 200, {"issuer": self.url, "jwks_uri": self.jwks_url, "token_endpoint": f"{self.url}/token",
                                        "id_token_signing_alg_values_supported": ["RS256", "ES256"]})
        if request.path.startswith("/jwks"):
            if self.answer is not None:
                return reply(request, *self.answer)
            return reply(request, 200, {"keys": [k.jwk() for k in self.keys]})
        reply(request, 404, {})

    def post(self, request):
        body = urllib.parse.parse_qs(request.rfile.read(int(request.headers.get("content-length", 0))).decode())
        name, secret = body.get("client_id", [""])[0], body.get("client_secret", [""])[0]
        if request.headers.get("authorization", "").startswith("Basic "):
            name, _, secret = base64.b64decode(request.headers["authorization"][6:]).decode().partition(":")
            name, secret = urllib.parse.unquote(name), urllib.parse.unquote(secret)
        if request.path != "/token" or body.get("grant_type") != ["client_credentials"] or self.clients.get(name) != secret:
            return reply(request, 401, {"error": "invalid_client"})
        reply(request, 200, {"access_token": self.token(name), "token_type": "Bearer", "expires_in": self.token_seconds})

    def rotate(self):
        """New keys under new ids; the old ones are gone."""
        self.keys = [SigningKey(k.algorithm) for k in self.keys]

    # --- tokens ---

    def claims(self, subject="client", seconds=None, **claims):
        now = int(time.time())
        out = {"iss": self.url, "aud": self.audience, "sub": subject, "iat": now, "nbf": now - 5, "jti": uuid.uuid4().hex,
               "exp": now + (self.token_seconds if seconds is None else seconds), "scope": "kafka", **self.extra_claims, **claims}
        return {k: v for k, v in out.items() if v is not None}

    def token(self, subject="client", algorithm="RS256", key=None, header=None, seconds=None, **claims):
        """A right token, unless told otherwise; a claim given as None is left out."""
        key = key or next(k for k in self.keys if k.algorithm == algorithm)
        head = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT", **(header or {})}
        text = f"{b64(json.dumps(head).encode())}.{b64(json.dumps(self.claims(subject, seconds, **claims)).encode())}"
        return f"{text}.{b64(key.sign(text.encode()))}"

    def unsigned(self, subject="client", algorithm="none"):
        text = f"{b64(json.dumps({'alg': algorithm, 'kid': self.keys[0].kid}).encode())}.{b64(json.dumps(self.claims(subject)).encode())}"
        return f"{text}."

    def signed_with_the_public_key(self, subject="client"):
        """HS256 with the RSA public key as the secret: the classic confusion."""
        key = self.keys[0]
        text = f"{b64(json.dumps({'alg': 'HS256', 'kid': key.kid}).encode())}.{b64(json.dumps(self.claims(subject)).encode())}"
        return f"{text}.{b64(hmac.new(key.public_pem(), text.encode(), hashlib.sha256).digest())}"

    def signed_by_a_key_it_brings(self, subject="client"):
        """A key of the attacker in the header's `jwk`."""
        own = SigningKey("RS256")
        own.kid = self.keys[0].kid
        return self.token(subject, key=own, header={"jwk": own.jwk()})


def reply(request, status, body, headers=()):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    request.send_response(status)
    for k, v in headers:
        request.send_header(k, v)
    request.send_header("content-type", "application/json")
    request.send_header("content-length", str(len(raw)))
    request.end_headers()
    request.wfile.write(raw)
