"""The transit engine of HashiCorp Vault and OpenBao, as far as a broker uses it: encrypt and decrypt with associated data,
a key's state, the token about itself. https://developer.hashicorp.com/vault/api-docs/secret/transit

There is no second implementation here to compare it with: error texts are those of the documentation and the source.
"""

import base64
import json
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .calls import Call, Calls
from .http import Server


class Refused(Exception):
    def __init__(self, status, *errors):
        super().__init__(status, *errors)
        self.status, self.errors = status, list(errors)


class Transit:
    """`keys` {name: cipher}; `forbidden`: names the token's policy does not allow; `token`: the one that is good."""

    def __init__(self):
        self.keys, self.forbidden, self.token = {}, set(), "hvs." + secrets.token_urlsafe(20)
        self.calls, self.sealed = Calls(), False
        self.server = Server(self.serve)

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.end()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.port}"

    def create_key(self, name):
        self.keys[name] = AESGCM(secrets.token_bytes(32))
        return name

    def serve(self, request, connection):
        parts = request.path.strip("/").split("/")
        name = parts[-1] if "transit" in parts else None
        self.calls.append(call := Call(parts[2] if len(parts) > 2 else "", {}, (name,)))
        try:
            data = self.answer(request, parts, name, call)
            call.end("ok")
            connection.answer(200, json.dumps({"request_id": secrets.token_hex(8), "lease_id": "", "renewable": False, "data": data}).encode(), "application/json")
        except Refused as refused:
            call.end(str(refused.status))
            connection.answer(refused.status, json.dumps({"errors": refused.errors}).encode(), "application/json")

    def answer(self, request, parts, name, call):
        if self.sealed:
            raise Refused(503, "Vault is sealed")
        if request.headers.get("x-vault-token") != self.token:
            raise Refused(403, "permission denied", "invalid token")
        if parts == ["v1", "auth", "token", "lookup-self"]:
            return {"policies": ["schloss"]}
        if len(parts) != 4 or parts[:2] != ["v1", "transit"]:
            raise Refused(404)
        if name in self.forbidden:
            raise Refused(403, "1 error occurred:\n\t* permission denied\n\n")
        if parts[2] == "keys":
            if name not in self.keys:
                raise Refused(404)
            return {"name": name, "type": "aes256-gcm96", "latest_version": 1, "min_decryption_version": 1}
        if name not in self.keys:
            raise Refused(400, "encryption key not found")
        call.asked = asked = json.loads(request.body)
        bound = base64.b64decode(asked["associated_data"])
        if parts[2] == "encrypt":
            nonce = secrets.token_bytes(12)
            return {"ciphertext": "vault:v1:" + base64.b64encode(nonce + self.keys[name].encrypt(nonce, base64.b64decode(asked["plaintext"]), bound)).decode(), "key_version": 1}
        if parts[2] != "decrypt":
            raise Refused(404)
        try:
            raw = base64.b64decode(asked["ciphertext"].removeprefix("vault:v1:"))
            return {"plaintext": base64.b64encode(self.keys[name].decrypt(raw[:12], raw[12:], bound)).decode()}
        except (InvalidTag, ValueError):
            raise Refused(400, "cipher: message authentication failed") from None
