"""The stand-in as a test uses it: keys, faults, log; and how one request goes through.

A request: its signature is checked, then a fault that strikes has the word, then the operation. Everything it did is in
`calls`, everything it handed out in `handed_out` (so that a test can look for it where it must not be).
"""

import base64
import json

from . import sigv4, sts
from .calls import ERRORS, Call, Calls, Fault
from .errors import AwsError
from .http import Server
from .imds import Imds
from .identities import Identity, Role
from .keys import id_in
from .operations import Operations
from .policy import default_policy

REGION, ACCOUNT = "eu-central-1", "123456789012"
PREFIX = "TrentService."
ALLOW_ALL_BUT = '{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::{account}:root"}},"Action":"kms:*","Resource":"*"}},' \
                '{{"Effect":"Deny","Principal":"*","Action":{actions},"Resource":"*"}}]}}'
USES = ("kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*", "kms:DescribeKey")


class Kms:
    def __init__(self, region=REGION, account=ACCOUNT):
        self.region, self.account = region, account
        self.keys, self.aliases, self.roles, self.assumed = {}, {}, {}, []
        self.calls, self.faults, self.handed_out = Calls(), [], []
        self.identities = {}
        self.root = self.identity(f"arn:aws:iam::{account}:user/schloss", account)
        self.operations = Operations(self)
        self.imds = Imds(self)
        self.server = Server(self.serve)

    # What a test does

    def start(self):
        self.server.start()
        return self

    def end(self):
        for fault in list(self.faults):
            fault.end()
        self.server.end()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.end()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.port}"

    def identity(self, arn, account):
        made = Identity(account, arn)
        self.identities[made.key_id] = made
        return made

    def role(self, arn, trusted_accounts=(ACCOUNT,), external_id=None, web_identity_token=None):
        self.roles[arn] = Role(arn, tuple(trusted_accounts), external_id, web_identity_token)
        return self.roles[arn]

    def boto(self, identity=None, service="kms", **config):
        """A boto3 client of this server."""
        import boto3
        from botocore.config import Config
        who = identity or self.root
        return boto3.client(service, region_name=self.region, endpoint_url=self.url, aws_access_key_id=who.key_id, aws_secret_access_key=who.secret,
                            aws_session_token=who.session_token, config=Config(retries={"total_max_attempts": 1}, read_timeout=5, **config))

    def create_key(self, description="", account=None, policy=""):
        owner = Identity(account or self.account, f"arn:aws:iam::{account or self.account}:root")
        return self.operations.CreateKey({"Description": description, "Policy": policy}, owner)["KeyMetadata"]["Arn"]

    def key(self, arn):
        return self.keys[arn.rpartition("/")[2]]

    def disable(self, arn):
        self.key(arn).state = "Disabled"

    def enable(self, arn):
        self.key(arn).state = "Enabled"

    def schedule_deletion(self, arn):
        self.key(arn).state = "PendingDeletion"

    def deny(self, arn, actions=USES):
        """Puts a key policy that forbids these actions to everybody."""
        self.key(arn).set_policy(ALLOW_ALL_BUT.format(account=self.key(arn).account, actions=json.dumps(list(actions))))

    def allow(self, arn):
        """Puts the policy a new key has."""
        self.key(arn).set_policy(default_policy(self.key(arn).account))

    def forget_key(self, arn):
        """As after the waiting time of a deletion: there never was such a key."""
        del self.keys[arn.rpartition("/")[2]]

    def fault(self, kind, operations=None, keys=None, seconds=0.0, times=None):
        return Fault(kind, self.faults, operations, keys, seconds, times)

    def down(self):
        """Nobody listens. `up` ends it."""
        self.server.close()

    def up(self):
        self.server.listen()

    def hand_out(self, key, context, plaintext):
        self.handed_out.append((key.arn, dict(context), plaintext))

    # How a request goes

    def serve(self, request, connection):
        if request.path.startswith("/latest/"):
            status, body = self.imds.answer(request)
            return connection.answer(status, body.encode(), "text/plain", X_Aws_Ec2_Metadata_Token_Ttl_Seconds=21600)
        try:
            if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
                return self.serve_sts(request, connection)
            identity = sigv4.caller(request, self.identities, self.region, ("kms",))
            call = self.noted(request, identity)
        except AwsError as error:
            self.calls.append(refused := Call(request.headers.get("x-amz-target", "").removeprefix(PREFIX), {}))
            return self.refuse(refused, connection, error)
        fault = next((f for f in list(self.faults) if f.strikes(call)), None)
        if fault is None:
            return self.perform(call, identity, connection)
        self.go_wrong(fault, call, identity, connection)

    def noted(self, request, identity):
        operation = request.headers.get("x-amz-target", "")
        try:
            asked = json.loads(request.body or b"{}")
        except ValueError:
            raise AwsError("SerializationException", "the body is not JSON") from None
        if not isinstance(asked, dict):
            raise AwsError("SerializationException", "the body is no JSON object")
        call = Call(operation.removeprefix(PREFIX), asked, self.named(asked, identity), identity.arn)
        self.calls.append(call)
        return call

    def named(self, asked, identity):
        """ARNs of the keys a request is about: named, or having made its ciphertext."""
        found = []
        for field in ("KeyId", "SourceKeyId", "DestinationKeyId", "TargetKeyId"):
            try:
                found += [self.operations.find(asked[field], identity).arn] if asked.get(field) else []
            except AwsError:
                found.append(str(asked[field]))
        if not asked.get("KeyId") and not asked.get("SourceKeyId") and asked.get("CiphertextBlob"):
            try:
                maker = self.keys.get(id_in(base64.b64decode(asked["CiphertextBlob"])))
            except (TypeError, ValueError):
                maker = None
            found += [maker.arn] if maker else []
        return tuple(dict.fromkeys(found))

    def perform(self, call, identity, connection):
        try:
            operation = self.operations.table.get(call.operation)
            if operation is None:
                raise AwsError("UnknownOperationException", call.operation)
            answer = operation(call.asked, identity)
        except AwsError as error:
            return self.refuse(call, connection, error)
        except Exception as error:  # our own mistake must show as one, not as a hang
            call.end(repr(error))
            return connection.answer(500, json.dumps({"__type": "StandInBroken", "message": repr(error)}).encode())
        call.end("ok")
        connection.answer(200, json.dumps(answer).encode() if answer is not None else b"")

    def go_wrong(self, fault, call, identity, connection):
        if fault.kind == "latency":
            self.server.loop.call_later(fault.seconds, self.perform, call, identity, connection)
        elif fault.kind == "hang":
            fault.hung.append(lambda: self.server.loop.call_soon_threadsafe(connection.reset))
        elif fault.kind == "reset":
            call.end("reset")
            connection.reset()
        elif fault.kind == "garbage":
            call.end("garbage")
            connection.answer(200, b"<html>not what you asked for</html>", "text/html")
        else:
            self.refuse(call, connection, AwsError(ERRORS[fault.kind], "ordered by the test"))

    def refuse(self, call, connection, error):
        call.end(error.name)
        body = {"__type": error.name, **({"message": error.message} if error.message else {})}
        connection.answer(error.status, json.dumps(body).encode())

    def serve_sts(self, request, connection):
        identity = None if sts.is_unsigned(request.body) else sigv4.caller(request, self.identities, self.region, ("sts",))
        status, body = sts.answer(request.body, identity, self)
        connection.answer(status, body, "text/xml")
