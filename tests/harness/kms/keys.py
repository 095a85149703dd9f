"""The keys themselves: states, backing material, and ciphertexts that only their key opens, in their context only."""

import datetime
import secrets
import struct
import time
import uuid
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from . import policy
from .errors import AwsError

MAGIC = b"\x01\x02\x02\x00kmsdouble"
DAY = datetime.timedelta(days=1)


@dataclass
class Key:
    """One symmetric KMS key."""

    account: str
    region: str
    description: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    state: str = "Enabled"
    created: float = field(default_factory=time.time)
    deletion: float | None = None
    policy_text: str = ""

    def __post_init__(self):
        self._aead = AESGCM(secrets.token_bytes(32))
        self.set_policy(self.policy_text or policy.default_policy(self.account))

    @property
    def arn(self):
        return f"arn:aws:kms:{self.region}:{self.account}:key/{self.id}"

    def set_policy(self, text):
        self.statements = policy.parse(text)
        self.policy_text = text

    def must_be_usable(self):
        """What every use of the key needs, asked after the policy was."""
        if self.state == "Disabled":
            raise AwsError("DisabledException", f"{self.arn} is disabled.")
        self.must_not_be_dying()

    def must_not_be_dying(self):
        if self.state == "PendingDeletion":
            raise AwsError("KMSInvalidStateException", f"{self.arn} is pending deletion.")

    def encrypt(self, plaintext, context):
        nonce = secrets.token_bytes(12)
        return MAGIC + uuid.UUID(self.id).bytes + nonce + self._aead.encrypt(nonce, plaintext, canonical(context))

    def decrypt(self, blob, context):
        nonce, text = blob[len(MAGIC) + 16:][:12], blob[len(MAGIC) + 28:]
        try:
            return self._aead.decrypt(nonce, text, canonical(context))
        except (InvalidTag, ValueError):
            raise AwsError("InvalidCiphertextException") from None

    def metadata(self):
        """KeyMetadata as CreateKey and DescribeKey tell it."""
        return {
            "AWSAccountId": self.account, "KeyId": self.id, "Arn": self.arn, "CreationDate": self.created, "Enabled": self.state == "Enabled",
            "Description": self.description, "KeyUsage": "ENCRYPT_DECRYPT", "KeyState": self.state, "Origin": "AWS_KMS", "KeyManager": "CUSTOMER",
            "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT", "KeySpec": "SYMMETRIC_DEFAULT", "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
            "MultiRegion": False, **({"DeletionDate": self.deletion} if self.deletion else {}),
        }


def id_in(blob):
    """The id of the key that made a ciphertext; None when it is none of ours."""
    if not blob.startswith(MAGIC) or len(blob) < len(MAGIC) + 16 + 12 + 16:
        return None
    return str(uuid.UUID(bytes=blob[len(MAGIC):len(MAGIC) + 16]))


def canonical(context):
    """Encryption contexts are equal when their pairs are, in any order, upper and lower case told apart."""
    out = b""
    for pair in sorted(context.items()):
        for part in pair:
            out += struct.pack(">I", len(part.encode())) + part.encode()
    return out
