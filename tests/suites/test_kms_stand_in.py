"""The KMS stand-in of these suites: it agrees with moto where moto is right, and with AWS's documentation where moto is not.

One script of boto3 calls runs against both. What must differ is listed with what AWS documents.
"""

import concurrent.futures
import datetime
import json
import time
import urllib.error
import urllib.request

import botocore.exceptions
import pytest

from harness.kms import Kms
from harness.kms.errors import STATUS
from harness.moto import Moto

pytestmark = [pytest.mark.schloss_only, pytest.mark.timeout(180)]
CONTEXT, OTHER = {"tenant": "111111111111", "purpose": "segment"}, {"tenant": "222222222222", "purpose": "segment"}
DENY = json.dumps({"Version": "2012-10-17", "Statement": [
    {"Sid": "all", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::123456789012:root"}, "Action": "kms:*", "Resource": "*"},
    {"Sid": "none", "Effect": "Deny", "Principal": "*", "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": "*"}]})
DENY_TENANT = json.dumps({"Version": "2012-10-17", "Statement": [
    {"Sid": "all", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::123456789012:root"}, "Action": "kms:*", "Resource": "*"},
    {"Sid": "one", "Effect": "Deny", "Principal": {"AWS": "*"}, "Action": "kms:*", "Resource": "*",
     "Condition": {"StringEquals": {"kms:EncryptionContext:tenant": "222222222222"}}}]})


@pytest.fixture(scope="module")
def kms():
    with Kms() as k:
        yield k


@pytest.fixture(scope="module")
def moto(tmp_path_factory):
    m = Moto(tmp_path_factory.mktemp("moto")).wait()
    yield m
    m.end()


def script(c):
    """{step: what came of it}, steps in order; `c` is a boto3 KMS client."""
    seen = {}

    def step(name, call, *keep, **asked):
        try:
            answer = call(**asked)
        except botocore.exceptions.ClientError as error:
            seen[name] = (error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"])
            return None
        seen[name] = {k: answer.get(k) for k in keep} | {"fields": sorted(set(answer) - {"ResponseMetadata", "KeyMaterialId"})}
        return answer

    one = c.create_key(Description="one")["KeyMetadata"]
    two = c.create_key()["KeyMetadata"]
    a, b = one["Arn"], two["Arn"]
    seen["create"] = {k: one.get(k) for k in ("AWSAccountId", "Enabled", "Description", "KeyState", "KeyUsage", "KeySpec", "Origin", "KeyManager")}
    described = c.describe_key(KeyId=one["KeyId"])["KeyMetadata"]
    seen["describe by id"] = {k: described[k] == one[k] for k in ("Arn", "KeyId", "CreationDate", "KeyState")}
    step("describe nothing", c.describe_key, KeyId="00000000-0000-0000-0000-000000000000")
    step("describe nothing by arn", c.describe_key, KeyId=a.rpartition("/")[0] + "/00000000-0000-0000-0000-000000000000")
    c.create_alias(AliasName="alias/one", TargetKeyId=a)
    step("alias taken", c.create_alias, AliasName="alias/one", TargetKeyId=b)
    step("data key by alias", c.generate_data_key, "KeyId", KeyId="alias/one", KeySpec="AES_256")
    step("alias unknown", c.generate_data_key, KeyId="alias/none", KeySpec="AES_256")
    seen["data key by alias"]["KeyId"] = seen["data key by alias"]["KeyId"] == a

    made = step("data key", c.generate_data_key, KeyId=a, KeySpec="AES_256", EncryptionContext=CONTEXT)
    seen["data key length"] = len(made["Plaintext"])
    blind = step("data key without plaintext", c.generate_data_key_without_plaintext, KeyId=a, KeySpec="AES_256", EncryptionContext=CONTEXT)
    step("neither size nor spec", c.generate_data_key, KeyId=a)
    step("both size and spec", c.generate_data_key, KeyId=a, KeySpec="AES_256", NumberOfBytes=32)
    step("too many bytes", c.generate_data_key, KeyId=a, NumberOfBytes=1025)
    opened = step("decrypt", c.decrypt, "EncryptionAlgorithm", KeyId=a, CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)
    seen["decrypt gives the key"] = opened["Plaintext"] == made["Plaintext"]
    turned = dict(reversed(CONTEXT.items()))
    seen["order of the context is free"] = c.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=turned)["Plaintext"] == made["Plaintext"]
    seen["blind key opens"] = len(c.decrypt(CiphertextBlob=blind["CiphertextBlob"], EncryptionContext=CONTEXT)["Plaintext"])
    step("decrypt, other context", c.decrypt, CiphertextBlob=made["CiphertextBlob"], EncryptionContext=OTHER)
    step("decrypt, context in capitals", c.decrypt, CiphertextBlob=made["CiphertextBlob"], EncryptionContext={k.upper(): v for k, v in CONTEXT.items()})
    step("decrypt, no context", c.decrypt, CiphertextBlob=made["CiphertextBlob"])
    spoiled = made["CiphertextBlob"][:-1] + bytes([made["CiphertextBlob"][-1] ^ 1])
    step("decrypt, spoiled", c.decrypt, CiphertextBlob=spoiled, EncryptionContext=CONTEXT)
    step("decrypt, other key", c.decrypt, KeyId=b, CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)

    sealed = step("encrypt", c.encrypt, "EncryptionAlgorithm", KeyId=a, Plaintext=b"text", EncryptionContext=CONTEXT)
    seen["encrypt opens"] = c.decrypt(CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext=CONTEXT)["Plaintext"]
    step("encrypt too much", c.encrypt, KeyId=a, Plaintext=bytes(4097))
    moved = step("re-encrypt", c.re_encrypt, "SourceEncryptionAlgorithm", "DestinationEncryptionAlgorithm", CiphertextBlob=made["CiphertextBlob"],
                 SourceKeyId=a, DestinationKeyId=b, SourceEncryptionContext=CONTEXT, DestinationEncryptionContext=OTHER)
    seen["re-encrypted opens"] = c.decrypt(KeyId=b, CiphertextBlob=moved["CiphertextBlob"], EncryptionContext=OTHER)["Plaintext"] == made["Plaintext"]
    step("re-encrypt, other context", c.re_encrypt, CiphertextBlob=made["CiphertextBlob"], DestinationKeyId=b, SourceEncryptionContext=OTHER)
    step("re-encrypt to nothing", c.re_encrypt, CiphertextBlob=made["CiphertextBlob"], SourceEncryptionContext=CONTEXT,
         DestinationKeyId="00000000-0000-0000-0000-000000000000")

    c.disable_key(KeyId=one["KeyId"])
    seen["disabled"] = {k: c.describe_key(KeyId=a)["KeyMetadata"][k] for k in ("KeyState", "Enabled")}
    step("data key of a disabled key", c.generate_data_key, KeyId=a, KeySpec="AES_256", EncryptionContext=CONTEXT)
    step("decrypt with a disabled key", c.decrypt, CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)
    step("re-encrypt from a disabled key", c.re_encrypt, CiphertextBlob=made["CiphertextBlob"], SourceEncryptionContext=CONTEXT, DestinationKeyId=b)
    c.enable_key(KeyId=one["KeyId"])
    seen["enabled"] = {k: c.describe_key(KeyId=a)["KeyMetadata"][k] for k in ("KeyState", "Enabled")}
    seen["opens again"] = c.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)["Plaintext"] == made["Plaintext"]

    step("deletion in a day", c.schedule_key_deletion, KeyId=one["KeyId"], PendingWindowInDays=1)
    gone = step("deletion", c.schedule_key_deletion, KeyId=one["KeyId"], PendingWindowInDays=7)
    seen["deletion date"] = round((gone["DeletionDate"] - datetime.datetime.now(datetime.timezone.utc)).total_seconds() / 86400)
    seen["pending"] = {k: c.describe_key(KeyId=a)["KeyMetadata"][k] for k in ("KeyState", "Enabled")}
    step("data key of a dying key", c.generate_data_key, KeyId=a, KeySpec="AES_256", EncryptionContext=CONTEXT)
    step("enabling a dying key", c.enable_key, KeyId=one["KeyId"])
    c.cancel_key_deletion(KeyId=one["KeyId"])
    seen["deletion cancelled"] = {k: c.describe_key(KeyId=a)["KeyMetadata"][k] for k in ("KeyState", "Enabled")}
    step("cancelling what was not scheduled", c.cancel_key_deletion, KeyId=one["KeyId"])
    c.enable_key(KeyId=one["KeyId"])

    c.put_key_policy(KeyId=a, PolicyName="default", Policy=DENY)
    seen["policy kept"] = json.loads(c.get_key_policy(KeyId=a, PolicyName="default")["Policy"]) == json.loads(DENY)
    step("decrypt against a denying policy", c.decrypt, CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)
    step("describe with a policy denying decrypt", c.describe_key, KeyId=a)
    c.put_key_policy(KeyId=a, PolicyName="default", Policy=DENY_TENANT)
    step("data key in the denied context", c.generate_data_key, KeyId=a, KeySpec="AES_256", EncryptionContext=OTHER)
    step("data key in another context", c.generate_data_key, KeyId=a, KeySpec="AES_256", EncryptionContext=CONTEXT)
    step("policy that is none", c.put_key_policy, KeyId=a, PolicyName="default", Policy="{}")
    return seen


# What AWS documents where moto 5.2.5 differs: states and policies it does not enforce, names it does not use.
DISABLED, DYING, DENIED = ("DisabledException", 400), ("KMSInvalidStateException", 400), ("AccessDeniedException", 400)
MOTO_IS_WRONG = {
    "data key of a disabled key": DISABLED, "decrypt with a disabled key": DISABLED, "re-encrypt from a disabled key": DISABLED,
    "data key of a dying key": DYING, "enabling a dying key": DYING, "cancelling what was not scheduled": DYING,
    "decrypt against a denying policy": DENIED, "data key in the denied context": DENIED,
    "decrypt, other key": ("IncorrectKeyException", 400),
    "deletion in a day": ("ValidationException", 400),
    "deletion cancelled": {"KeyState": "Disabled", "Enabled": False},
    "policy that is none": ("MalformedPolicyDocumentException", 400),
}


def agrees(ours, theirs):
    """Equal, but for fields that moto leaves out of an answer."""
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return ours == theirs
    told = {k: v for k, v in theirs.items() if v is not None and k != "fields"}
    return set(theirs.get("fields", ())) <= set(ours.get("fields", ())) and told == {k: ours[k] for k in told}


def test_one_script_gives_the_same_here_and_on_moto_but_for_what_moto_does_not_enforce(kms, moto):
    ours, theirs = script(kms.boto()), script(moto.client("kms"))
    assert list(ours) == list(theirs) and len(ours) > 45
    differing = {name: (ours[name], theirs[name]) for name in ours if not agrees(ours[name], theirs[name])}
    assert set(differing) == set(MOTO_IS_WRONG), {n: d for n, d in differing.items() if n not in MOTO_IS_WRONG} or "moto has learnt something"
    assert {name: ours[name] for name in MOTO_IS_WRONG} == MOTO_IS_WRONG


def code_of(call, **asked):
    """`ok`, or the error's name."""
    try:
        call(**asked)
        return "ok"
    except botocore.exceptions.ClientError as error:
        code = error.response["Error"]["Code"]
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == STATUS[code]
        return code


def test_every_refusal_of_an_operation_is_one_that_the_service_model_of_aws_lists_for_it():
    with Kms() as kms:
        script(kms.boto())
        model = kms.boto().meta.service_model
    common = {"ValidationException", "AccessDeniedException"}
    for call in kms.calls.of():
        if call.outcome not in ("ok", *common) and call.caller:
            listed = {s.name for s in model.operation_model(call.operation).error_shapes}
            assert call.outcome in listed, f"{call.operation} does not answer {call.outcome}"


@pytest.mark.parametrize("spoil, error", [
    ("secret", "InvalidSignatureException"), ("key id", "UnrecognizedClientException"), ("token", "UnrecognizedClientException"),
    ("region", "InvalidSignatureException"), ("body", "InvalidSignatureException"), ("target", "InvalidSignatureException"),
    ("old", "InvalidSignatureException"), ("future", "InvalidSignatureException"), ("no signature", "MissingAuthenticationTokenException"),
    ("bearer", "IncompleteSignatureException"), (None, None)])
def test_a_request_is_served_only_with_a_right_signature(kms, spoil, error):
    import botocore.auth
    import botocore.awsrequest
    import botocore.credentials
    arn, who = kms.create_key(), kms.root
    credentials = botocore.credentials.Credentials("AKIAWRONG" if spoil == "key id" else who.key_id, "wrong" if spoil == "secret" else who.secret,
                                                   "token" if spoil == "token" else None)
    signed = botocore.awsrequest.AWSRequest("POST", kms.url + "/", data=json.dumps({"KeyId": arn}).encode(), headers={
        "X-Amz-Target": "TrentService.DescribeKey", "Content-Type": "application/x-amz-json-1.1"})
    signer = botocore.auth.SigV4Auth(credentials, "kms", "us-east-1" if spoil == "region" else kms.region)
    if spoil in ("old", "future"):
        shift = datetime.timedelta(minutes=-6 if spoil == "old" else 6)
        shifted = (datetime.datetime.now(datetime.timezone.utc) + shift).strftime("%Y%m%dT%H%M%SZ")
        signer._modify_request_before_signing = lambda request: request.headers.__setitem__("X-Amz-Date", shifted)
        signed.context["timestamp"] = shifted
        request = signed
        signer._modify_request_before_signing(request)
        request.headers["Authorization"] = "AWS4-HMAC-SHA256 Credential=%s, SignedHeaders=%s, Signature=%s" % (
            signer.scope(request), signer.signed_headers(signer.headers_to_sign(request)),
            signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request))
    else:
        signer.add_auth(signed)
    headers, body = dict(signed.headers), signed.body
    if spoil == "body":
        body = body.replace(b"}", b" }")
    if spoil == "target":
        headers["X-Amz-Target"] = "TrentService.DisableKey"
    if spoil == "no signature":
        del headers["Authorization"]
    if spoil == "bearer":
        headers["Authorization"] = "Bearer abc"
    try:
        answer = urllib.request.urlopen(urllib.request.Request(kms.url + "/", body, headers))
        assert error is None and json.load(answer)["KeyMetadata"]["Arn"] == arn
    except urllib.error.HTTPError as refused:
        assert (json.load(refused)["__type"], refused.code) == (error, 400)
    assert kms.key(arn).state == "Enabled"


def test_a_key_of_another_account_needs_both_sides(kms):
    """https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-modifying-external-accounts.html"""
    arn = kms.create_key("theirs", account="444455556666")
    use = dict(KeyId=arn, KeySpec="AES_256")
    assert code_of(kms.boto().generate_data_key, **use) == "AccessDeniedException"
    both = json.loads(kms.key(arn).policy_text)
    both["Statement"].append({"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{kms.account}:root"}, "Action": ["kms:GenerateDataKey", "kms:Decrypt"], "Resource": "*"})
    kms.key(arn).set_policy(json.dumps(both))
    assert code_of(kms.boto().generate_data_key, **use) == "ok"
    assert code_of(kms.boto().describe_key, KeyId=arn) == "AccessDeniedException"
    kms.root.denied.add(("kms:GenerateDataKey", arn))
    assert code_of(kms.boto().generate_data_key, **use) == "AccessDeniedException"
    kms.root.denied.clear()


def test_a_policy_that_locks_everybody_out_is_refused_unless_asked_for(kms):
    arn, lock = kms.create_key(), json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "kms:*", "Resource": "*"}]})
    assert code_of(kms.boto().put_key_policy, KeyId=arn, Policy=lock) == "MalformedPolicyDocumentException"
    assert code_of(kms.boto().put_key_policy, KeyId=arn, Policy=lock, BypassPolicyLockoutSafetyCheck=True) == "ok"
    assert code_of(kms.boto().get_key_policy, KeyId=arn) == "AccessDeniedException"


def test_a_role_is_lent_to_its_trusted_account_with_its_external_id_only(kms):
    arn = "arn:aws:iam::444455556666:role/schloss"
    kms.role(arn, external_id="right")
    sts, key = kms.boto(service="sts"), kms.create_key(account="444455556666")
    assert sts.get_caller_identity()["Account"] == kms.account
    for wrong in ({}, {"ExternalId": "wrong"}):
        with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
            sts.assume_role(RoleArn=arn, RoleSessionName="schloss", **wrong)
    lent = sts.assume_role(RoleArn=arn, RoleSessionName="schloss", ExternalId="right")["Credentials"]
    session = kms.identities[lent["AccessKeyId"]]
    assert code_of(kms.boto(session).generate_data_key, KeyId=key, KeySpec="AES_256") == "ok"
    session.expires = datetime.datetime.now(datetime.timezone.utc)
    assert code_of(kms.boto(session).generate_data_key, KeyId=key, KeySpec="AES_256") == "ExpiredTokenException"


def test_an_instance_gets_its_roles_credentials_with_a_token_only(kms):
    import botocore.utils
    kms.imds.role = kms.role(f"arn:aws:iam::{kms.account}:role/instance")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(kms.url + "/latest/meta-data/iam/security-credentials/")
    got = botocore.utils.InstanceMetadataFetcher(base_url=kms.url + "/").retrieve_iam_role_credentials()
    session = kms.identities[got["access_key"]]
    assert got["role_name"] == "instance" and got["token"] == session.session_token
    assert code_of(kms.boto(session).generate_data_key, KeyId=kms.create_key(), KeySpec="AES_256") == "ok"


def test_faults_strike_their_operation_and_key_only_and_are_counted(kms):
    one, two, c = kms.create_key(), kms.create_key(), kms.boto()
    made = c.generate_data_key(KeyId=one, KeySpec="AES_256")["CiphertextBlob"]
    with kms.fault("throttle", operations=["Decrypt"], keys=[one], times=2) as fault:
        assert [code_of(c.decrypt, CiphertextBlob=made) for _ in range(3)] == ["ThrottlingException"] * 2 + ["ok"]
        assert fault.hits == 2
    with kms.fault("internal", keys=[one]):
        assert code_of(c.describe_key, KeyId=one) == "KMSInternalException"
        assert code_of(c.describe_key, KeyId=two) == "ok"
    with kms.fault("unavailable"):
        assert code_of(c.describe_key, KeyId=two) == "ServiceUnavailableException"
    with kms.fault("reset", keys=[two]), pytest.raises(botocore.exceptions.ConnectionClosedError):
        c.describe_key(KeyId=two)
    with kms.fault("garbage", keys=[two]):
        assert "KeyMetadata" not in c.describe_key(KeyId=two)
    with kms.fault("latency", keys=[two], seconds=0.3):
        begun = time.monotonic()
        assert code_of(c.describe_key, KeyId=two) == "ok" and time.monotonic() - begun >= 0.3
    kms.down()
    with pytest.raises(botocore.exceptions.EndpointConnectionError):
        c.describe_key(KeyId=two)
    kms.up()
    assert code_of(c.describe_key, KeyId=two) == "ok"


def test_what_hangs_is_never_answered_and_cut_when_the_fault_ends(kms):
    arn, c = kms.create_key(), kms.boto()
    fault = kms.fault("hang", keys=[arn])
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(c.describe_key, KeyId=arn)
        with pytest.raises(concurrent.futures.TimeoutError):
            waiting.result(0.5)
        fault.end()
        assert isinstance(waiting.exception(5), botocore.exceptions.ConnectionClosedError)
    assert kms.calls[-1].outcome is None
    assert code_of(c.describe_key, KeyId=arn) == "ok"


def test_thousands_of_calls_at_once_are_counted_one_by_one(kms):
    arns, c, mark = [kms.create_key() for _ in range(4)], kms.boto(max_pool_connections=8), len(kms.calls)

    def use(arn):
        made = c.generate_data_key(KeyId=arn, KeySpec="AES_256", EncryptionContext=CONTEXT)
        assert c.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)["Plaintext"] == made["Plaintext"]

    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(use, arns * 125))
    took = time.monotonic() - begun
    calls = kms.calls.since(mark)
    print(f"{len(calls)} calls in {took:.1f} s, boto3's own work included")
    assert calls.by_operation() == {"GenerateDataKey": 500, "Decrypt": 500}
    assert all(calls.count("Decrypt", arn, "ok") == 125 for arn in arns)
    assert max(calls.most_at_once(lambda call: call.keys).values()) <= 8
    assert len({plain for _, _, plain in kms.handed_out[-1000:]}) == 500
