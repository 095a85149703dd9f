"""The operations of KMS: what is asked, what is answered, in AWS's words.

https://docs.aws.amazon.com/kms/latest/APIReference/API_Operations.html. Order of the checks, as AWS does them: the
request's form, then whether the key is there, then permission, then the key's state, then the ciphertext.
"""

import base64
import binascii
import re
import secrets
import time

from . import keys, policy
from .errors import AwsError

PLAINTEXT_MAX = 4096
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}")


class Operations:
    """`store` has `keys` {id: Key}, `aliases` {(account, name): key id}, `region`, `handed_out`."""

    def __init__(self, store):
        self.store = store
        self.table = {n: getattr(self, n) for n in dir(type(self)) if n[0].isupper()}

    def find(self, key_id, identity):
        """A key by id, ARN, alias or alias ARN; keys of other accounts by ARN only."""
        if not isinstance(key_id, str) or not 1 <= len(key_id) <= 2048:
            raise AwsError("ValidationException", "KeyId must have length between 1 and 2048")
        account, name = identity.account, key_id
        if key_id.startswith("arn:"):
            parts = key_id.split(":", 5)
            if len(parts) != 6 or parts[2] != "kms" or not parts[5].startswith(("key/", "alias/")):
                raise AwsError("InvalidArnException", f"Invalid arn {key_id}")
            if parts[3] != self.store.region:
                raise AwsError("NotFoundException", f"Invalid arn {parts[3]}")
            account, name = parts[4], parts[5].removeprefix("key/")
        if name.startswith("alias/"):
            found = self.store.keys.get(self.store.aliases.get((account, name)))
            missing = f"Alias arn:aws:kms:{self.store.region}:{account}:{name} is not found."
        elif not UUID.fullmatch(name):
            raise AwsError("NotFoundException", f"Invalid keyId '{name}'")
        else:
            found = self.store.keys.get(name)
            missing = f"Key 'arn:aws:kms:{self.store.region}:{account}:key/{name}' does not exist"
        if found is None or found.account != account:
            raise AwsError("NotFoundException", missing)
        return found

    def permitted(self, key, identity, action, context=()):
        if not policy.allowed(key.statements, key, identity, action, dict(context)):
            raise AwsError("AccessDeniedException", f"User: {identity.arn} is not authorized to perform: {action} on resource: {key.arn} "
                           "because no resource-based policy allows the action, or one denies it")
        return key

    def usable(self, asked, identity, action, key_field="KeyId"):
        key = self.permitted(self.find(asked.get(key_field), identity), identity, action, context_of(asked))
        key.must_be_usable()
        return key

    # Keys

    def CreateKey(self, asked, identity):
        if asked.get("KeySpec", "SYMMETRIC_DEFAULT") != "SYMMETRIC_DEFAULT" or asked.get("KeyUsage", "ENCRYPT_DECRYPT") != "ENCRYPT_DECRYPT":
            raise AwsError("UnsupportedOperationException", "only symmetric keys for encryption are kept here")
        key = keys.Key(identity.account, self.store.region, asked.get("Description", ""), policy_text=asked.get("Policy", ""))
        self.store.keys[key.id] = key
        return {"KeyMetadata": key.metadata()}

    def DescribeKey(self, asked, identity):
        return {"KeyMetadata": self.permitted(self.find(asked.get("KeyId"), identity), identity, "kms:DescribeKey").metadata()}

    def ListKeys(self, asked, identity):
        own = [k for k in self.store.keys.values() if k.account == identity.account]
        return {"Keys": [{"KeyId": k.id, "KeyArn": k.arn} for k in own], "Truncated": False}

    def CreateAlias(self, asked, identity):
        name = asked.get("AliasName", "")
        if not re.fullmatch(r"alias/[a-zA-Z0-9/_-]+", name) or name.startswith("alias/aws/"):
            raise AwsError("InvalidAliasNameException", name)
        key = self.permitted(self.find(asked.get("TargetKeyId"), identity), identity, "kms:CreateAlias")
        key.must_not_be_dying()
        if (identity.account, name) in self.store.aliases:
            raise AwsError("AlreadyExistsException", f"An alias with the name {name} already exists")
        self.store.aliases[identity.account, name] = key.id

    def EnableKey(self, asked, identity):
        self.change(asked, identity, "kms:EnableKey").state = "Enabled"

    def DisableKey(self, asked, identity):
        self.change(asked, identity, "kms:DisableKey").state = "Disabled"

    def change(self, asked, identity, action):
        key = self.permitted(self.find(asked.get("KeyId"), identity), identity, action)
        key.must_not_be_dying()
        return key

    def ScheduleKeyDeletion(self, asked, identity):
        days = asked.get("PendingWindowInDays", 30)
        if not isinstance(days, int) or not 7 <= days <= 30:
            raise AwsError("ValidationException", "PendingWindowInDays must be between 7 and 30")
        key = self.change(asked, identity, "kms:ScheduleKeyDeletion")
        key.state, key.deletion = "PendingDeletion", time.time() + days * keys.DAY.total_seconds()
        return {"KeyId": key.arn, "DeletionDate": key.deletion, "KeyState": key.state, "PendingWindowInDays": days}

    def CancelKeyDeletion(self, asked, identity):
        key = self.permitted(self.find(asked.get("KeyId"), identity), identity, "kms:CancelKeyDeletion")
        if key.state != "PendingDeletion":
            raise AwsError("KMSInvalidStateException", f"{key.arn} is not pending deletion.")
        key.state, key.deletion = "Disabled", None
        return {"KeyId": key.arn}

    # Policies

    def PutKeyPolicy(self, asked, identity):
        key = self.policy_key(asked, identity, "kms:PutKeyPolicy")
        if not isinstance(asked.get("Policy"), str) or not 1 <= len(asked["Policy"]) <= 131_072:
            raise AwsError("ValidationException", "Policy must have length between 1 and 131072")
        statements = policy.parse(asked["Policy"])
        if not asked.get("BypassPolicyLockoutSafetyCheck") and not policy.allowed(statements, key, identity, "kms:PutKeyPolicy", {}):
            raise AwsError("MalformedPolicyDocumentException", "The new key policy will not allow you to update the key policy in the future.")
        key.set_policy(asked["Policy"])

    def GetKeyPolicy(self, asked, identity):
        return {"Policy": self.policy_key(asked, identity, "kms:GetKeyPolicy").policy_text, "PolicyName": "default"}

    def policy_key(self, asked, identity, action):
        key = self.permitted(self.find(asked.get("KeyId"), identity), identity, action)
        if asked.get("PolicyName", "default") != "default":
            raise AwsError("NotFoundException", "No such policy exists")
        return key

    # Data

    def GenerateDataKey(self, asked, identity, plaintext=True):
        spec, number = asked.get("KeySpec"), asked.get("NumberOfBytes")
        if (spec is None) == (number is None):
            raise AwsError("ValidationException", "Please specify either number of bytes or key spec.")
        size = {"AES_256": 32, "AES_128": 16}.get(spec) if spec else number
        if not isinstance(size, int) or not 1 <= size <= 1024:
            raise AwsError("ValidationException", "KeySpec is AES_256 or AES_128, NumberOfBytes from 1 to 1024")
        action = "kms:GenerateDataKey" if plaintext else "kms:GenerateDataKeyWithoutPlaintext"
        key, context = self.usable(asked, identity, action), context_of(asked)
        secret = secrets.token_bytes(size)
        self.store.hand_out(key, context, secret)
        answer = {"KeyId": key.arn, "CiphertextBlob": b64(key.encrypt(secret, context))}
        return {**answer, "Plaintext": b64(secret)} if plaintext else answer

    def GenerateDataKeyWithoutPlaintext(self, asked, identity):
        return self.GenerateDataKey(asked, identity, plaintext=False)

    def Encrypt(self, asked, identity):
        plaintext = blob_of(asked, "Plaintext", PLAINTEXT_MAX)
        key = self.usable(asked, identity, "kms:Encrypt")
        return {"KeyId": key.arn, "CiphertextBlob": b64(key.encrypt(plaintext, context_of(asked))), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}

    def Decrypt(self, asked, identity):
        key, plaintext = self.opened(asked, identity, "kms:Decrypt", "KeyId", "EncryptionContext")
        self.store.hand_out(key, context_of(asked), plaintext)
        return {"KeyId": key.arn, "Plaintext": b64(plaintext), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}

    def ReEncrypt(self, asked, identity):
        source, plaintext = self.opened(asked, identity, "kms:ReEncryptFrom", "SourceKeyId", "SourceEncryptionContext")
        context = context_of(asked, "DestinationEncryptionContext")
        target = self.permitted(self.find(asked.get("DestinationKeyId"), identity), identity, "kms:ReEncryptTo", context)
        target.must_be_usable()
        return {"KeyId": target.arn, "SourceKeyId": source.arn, "CiphertextBlob": b64(target.encrypt(plaintext, context)),
                "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT", "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT"}

    def opened(self, asked, identity, action, key_field, context_field):
        blob, context = blob_of(asked, "CiphertextBlob", 6144), context_of(asked, context_field)
        made_by = self.store.keys.get(keys.id_in(blob))
        if made_by is None:
            raise AwsError("InvalidCiphertextException")
        if asked.get(key_field) is not None and self.find(asked[key_field], identity) is not made_by:
            raise AwsError("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")
        self.permitted(made_by, identity, action, context).must_be_usable()
        return made_by, made_by.decrypt(blob, context)


def context_of(asked, name="EncryptionContext"):
    context = asked.get(name) or {}
    if not isinstance(context, dict) or not all(isinstance(p, str) for kv in context.items() for p in kv):
        raise AwsError("SerializationException", "an encryption context is a map of texts")
    return context


def blob_of(asked, name, most):
    try:
        blob = base64.b64decode(asked[name], validate=True)
    except KeyError:
        raise AwsError("ValidationException", f"{name} must not be null") from None
    except (TypeError, ValueError, binascii.Error):
        raise AwsError("SerializationException", f"{name} is not base64") from None
    if not 1 <= len(blob) <= most:
        raise AwsError("ValidationException", f"{name} must have length between 1 and {most}")
    return blob


def b64(raw):
    return base64.b64encode(raw).decode()
