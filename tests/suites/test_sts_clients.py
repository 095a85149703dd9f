"""The STS: unmodified AWS SDKs pointed at it by AWS_ENDPOINT_URL_STS get credentials, and these open Kafka connections."""

import json
import time

import boto3
import botocore.config
import botocore.exceptions
import pytest

from harness import env, login, sasl, sigv4
from harness.login import REGION, Key
from harness.sasl import FAILED, OK

pytestmark = pytest.mark.schloss_only

SDKS = ("boto3", "java", "franz-go", "kafkajs")  # AWS SDK for Python, Java v2, Go v2, JavaScript v3


class Failed(Exception):
    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


def call(door, sdk, operation, key=None, **parameters):
    """One STS call by one SDK; `key` None: unsigned."""
    if sdk == "boto3":
        return by_boto3(door, operation, key, parameters)
    answer = door.broker.programs.get(sdk).call("sts", operation=operation, credentials=key and key.plain(), region=REGION, parameters=parameters)
    if not answer.pop("ok"):
        raise Failed(answer.get("code"), answer["error"])
    return answer


def client_of(door, key):
    return boto3.client("sts", region_name=REGION, endpoint_url=door.sts, verify=str(door.broker.client().ca),
                        aws_access_key_id=key and key.access_key, aws_secret_access_key=key and key.secret_key, aws_session_token=key and key.session_token,
                        config=botocore.config.Config(retries={"total_max_attempts": 1}, signature_version=None if key else botocore.UNSIGNED))


def by_boto3(door, operation, key, parameters):
    try:
        answer = client_of(door, key)._make_api_call(operation, parameters)
    except botocore.exceptions.ClientError as e:
        raise Failed(e.response["Error"]["Code"], e.response["Error"]["Message"]) from e
    answer.pop("ResponseMetadata")
    return answer


def key_in(answer):
    c = answer["Credentials"]
    return Key(c["AccessKeyId"], c["SecretAccessKey"], c["SessionToken"])


def opens(door, key):
    with sasl.Sasl(door.broker) as s:
        return s.iam(sigv4.payload(key)).code == OK and s.is_let_in()


def web_identity(door, token=None, **more):
    return dict(RoleArn=door.role_arn("web"), RoleSessionName="web-session", WebIdentityToken=token or door.issuer.token(door.web_subject), **more)


# --- every SDK, every operation ---

@pytest.mark.parametrize("sdk", SDKS)
def test_get_caller_identity_tells_the_user(door, sdk):
    told = call(door, sdk, "GetCallerIdentity", door.key)
    account = door.broker.tenants["acme"]
    assert told["Account"] == account and told["Arn"].startswith(f"arn:aws:iam::{account}:user/") and told["UserId"]


@pytest.mark.parametrize("sdk", SDKS)
def test_assume_role_gives_credentials_that_open_a_connection(door, sdk):
    told = call(door, sdk, "AssumeRole", door.key, RoleArn=door.role_arn("app"), RoleSessionName="by-sdk")
    assert told["AssumedRoleUser"]["Arn"] == f"arn:aws:sts::{door.broker.tenants['acme']}:assumed-role/app/by-sdk"
    assert opens(door, key_in(told))
    who = call(door, sdk, "GetCallerIdentity", key_in(told))
    assert who["Arn"] == told["AssumedRoleUser"]["Arn"]


@pytest.mark.parametrize("sdk", SDKS)
def test_a_web_identity_gives_credentials_that_open_a_connection(door, sdk):
    told = call(door, sdk, "AssumeRoleWithWebIdentity", None, **web_identity(door))
    assert told["SubjectFromWebIdentityToken"] == door.web_subject and told["Audience"] == door.issuer.audience
    assert told["Provider"] and opens(door, key_in(told))


@pytest.mark.parametrize("sdk", SDKS)
def test_a_session_token_of_a_user_opens_a_connection(door, sdk):
    told = call(door, sdk, "GetSessionToken", door.key, DurationSeconds=900)
    assert told["Credentials"]["AccessKeyId"].startswith("ASIA") and opens(door, key_in(told))


@pytest.mark.parametrize("sdk, client", [("java", "java"), ("franz-go", "franz-go"), ("kafkajs", "kafkajs"), ("boto3", "kafka-python")])
def test_credentials_of_an_sdk_serve_the_kafka_client_of_its_language(door, sdk, client):
    told = call(door, sdk, "AssumeRole", door.key, RoleArn=door.role_arn("app"), RoleSessionName="same-language")
    login.round_trip(client, door.broker, login.iam(key_in(told)), door.topic)


def test_the_java_kafka_library_assumes_a_role_by_itself(door):
    """`awsRoleArn` in sasl.jaas.config: the library calls the STS with the user's key before it signs."""
    jaas = f'software.amazon.msk.auth.iam.IAMLoginModule required awsRoleArn="{door.role_arn("app")}" awsRoleSessionName="by-library" awsStsRegion="{REGION}";'
    before = door.audit_mark()
    login.round_trip("java", door.broker, login.iam(door.key, properties={"sasl.jaas.config": jaas}), door.topic)
    door.audit_after(before, lambda t: "assumed-role/app/by-library" in t and "AWS_MSK_IAM" in t)


def test_boto3_with_nothing_but_its_environment_gets_a_web_identity(door, monkeypatch, tmp_path):
    """AWS_ROLE_ARN, AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ENDPOINT_URL_STS: as on Kubernetes, no line of code."""
    (tmp_path / "token").write_text(door.issuer.token(door.web_subject))
    for k, v in {"AWS_ROLE_ARN": door.role_arn("web"), "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"), "AWS_ENDPOINT_URL_STS": door.sts,
                 "AWS_CA_BUNDLE": str(door.broker.client().ca), "AWS_REGION": REGION}.items():
        monkeypatch.setenv(k, v)
    for k in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(k, raising=False)
    got = boto3.session.Session().get_credentials().get_frozen_credentials()
    assert opens(door, Key(got.access_key, got.secret_key, got.token))


# --- what is refused, in AWS's words ---

def refused(door, code, operation, key=None, sdk="boto3", **parameters):
    with pytest.raises(Failed) as e:
        call(door, sdk, operation, key, **parameters)
    assert e.value.code == code, e.value
    return e.value


@pytest.mark.parametrize("sdk", SDKS)
def test_a_wrong_secret_is_told_by_every_sdk(door, sdk):
    refused(door, "SignatureDoesNotMatch", "GetCallerIdentity", Key(door.key.access_key, "x" * 40), sdk=sdk)


@pytest.mark.parametrize("sdk", SDKS)
def test_an_unknown_key_is_told_by_every_sdk(door, sdk):
    refused(door, "InvalidClientTokenId", "GetCallerIdentity", Key("AKIA" + "Q" * 16, "x" * 40), sdk=sdk)


@pytest.mark.parametrize("sdk", SDKS)
def test_a_role_that_does_not_trust_is_access_denied_for_every_sdk(door, sdk):
    refused(door, "AccessDenied", "AssumeRole", door.key, sdk=sdk, RoleArn=door.role_arn("closed"), RoleSessionName="abc")


def test_an_absent_role_and_one_of_another_tenant_are_refused_in_the_same_words(door):
    words = set()
    for role in (door.role_arn("absent"), door.role_arn("app", "globex"), "arn:aws:iam::999999999999:role/app"):
        words.add(refused(door, "AccessDenied", "AssumeRole", door.key, RoleArn=role, RoleSessionName="abc").message.replace(role, "ROLE"))
    assert len(words) == 1, words


def test_a_tampered_session_token_is_refused(door):
    key = door.temporary_key()
    for token in (key.session_token[:-8] + "AAAAAAA=", "AAAA", door.other_temporary_key().session_token):
        refused(door, "InvalidClientTokenId", "GetCallerIdentity", Key(key.access_key, key.secret_key, token))


ASSUME = {
    "a session name with a blank": (dict(RoleSessionName="a b"), "ValidationError"),
    "a session of a minute": (dict(DurationSeconds=60), "ValidationError"),
    "a session longer than the role allows": (dict(DurationSeconds=43200), "ValidationError"),
    "a policy that is no policy": (dict(Policy="{}"), "MalformedPolicyDocument"),
    "a policy that is too long": (dict(Policy=json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "kafka-cluster:Connect", "Resource": f"arn:aws:kafka:*:*:cluster/{n}/*"} for n in range(60)]})), None),
}


@pytest.mark.parametrize("what", list(ASSUME))
def test_assume_role_refuses(door, what):
    parameters, code = ASSUME[what]
    client = client_of(door, door.key)
    # The SDK would refuse some of these itself; the question is what the server says.
    client.meta.events.register("before-parameter-build", lambda **_: None)
    with pytest.raises((botocore.exceptions.ClientError, botocore.exceptions.ParamValidationError)) as e:
        client.assume_role(**{"RoleArn": door.role_arn("app"), "RoleSessionName": "abc", **parameters})
    if isinstance(e.value, botocore.exceptions.ClientError):
        told = e.value.response["Error"]["Code"]
        assert told == code or (code is None and told in ("PackedPolicyTooLarge", "ValidationError", "MalformedPolicyDocument")), told


def test_an_external_id_that_the_trust_policy_asks_for_must_be_right(door):
    of = dict(RoleArn=door.role_arn("external"), RoleSessionName="abc")
    refused(door, "AccessDenied", "AssumeRole", door.key, **of)
    refused(door, "AccessDenied", "AssumeRole", door.key, ExternalId="wrong", **of)
    assert opens(door, key_in(call(door, "boto3", "AssumeRole", door.key, ExternalId="the-external-id", **of)))


WEB = {
    "expired": (lambda d: d.issuer.token(d.web_subject, seconds=-600), "ExpiredTokenException"),
    "of another audience": (lambda d: d.issuer.token(d.web_subject, aud="another"), "InvalidIdentityToken"),
    "of another issuer": (lambda d: d.issuer.token(d.web_subject, iss="https://evil.example"), "InvalidIdentityToken"),
    "unsigned": (lambda d: d.issuer.unsigned(d.web_subject), "InvalidIdentityToken"),
    "of a stranger": (lambda d: d.issuer.token("a-stranger"), "AccessDenied"),
    "no token": (lambda d: "not-a-token", "InvalidIdentityToken"),
}


@pytest.mark.parametrize("what", list(WEB))
def test_a_web_identity_token_is_refused_when_it_is(door, what):
    make, code = WEB[what]
    refused(door, code, "AssumeRoleWithWebIdentity", None, **web_identity(door, make(door)))


def test_a_refusal_carries_a_request_id_that_the_audit_log_knows_with_the_step(door):
    before = door.audit_mark()
    with pytest.raises(botocore.exceptions.ClientError) as e:
        client_of(door, Key(door.key.access_key, "x" * 40)).get_caller_identity()
    number = e.value.response["ResponseMetadata"]["RequestId"]
    event = door.audit_after(before, lambda t: number in t)
    assert "ignature" in event


# --- what the credentials may do ---

def test_a_session_policy_takes_rights_away(door):
    only_connect = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["kafka-cluster:Connect"], "Resource": "*"}]})
    narrow = key_in(call(door, "boto3", "AssumeRole", door.key, RoleArn=door.role_arn("app"), RoleSessionName="narrow", Policy=only_connect))
    wide = key_in(call(door, "boto3", "AssumeRole", door.key, RoleArn=door.role_arn("app"), RoleSessionName="wide"))
    assert produced(door, wide) == 0 and produced(door, narrow) == 29


def produced(door, key):
    from suites.test_idempotence import batch
    with sasl.Sasl(door.broker) as s:
        assert s.iam(sigv4.payload(key)).code == OK
        r = s.call(sasl.wire.build("produce", 9, acks=-1, timeout=5000, topic_data=[dict(name=door.topic, partition_data=[dict(index=0, records=batch([b"v"], -1, -1, -1))])]))
        return int(r.responses[0].partition_responses[0].error_code)


def test_session_tags_are_condition_keys(door):
    """The role `tagged` may connect only with the tag team=red."""
    of = dict(RoleArn=door.role_arn("tagged"), RoleSessionName="abc")
    red = key_in(call(door, "boto3", "AssumeRole", door.key, Tags=[{"Key": "team", "Value": "red"}], **of))
    blue = key_in(call(door, "boto3", "AssumeRole", door.key, Tags=[{"Key": "team", "Value": "blue"}], **of))
    assert opens(door, red) and not opens(door, blue)


def test_the_source_identity_is_in_the_answer_and_in_the_audit_log(door):
    before = door.audit_mark()
    told = call(door, "boto3", "AssumeRole", door.key, RoleArn=door.role_arn("app"), RoleSessionName="abc", SourceIdentity="jane.doe")
    assert told["SourceIdentity"] == "jane.doe"
    door.audit_after(before, lambda t: "jane.doe" in t and "AssumeRole" in t)


def test_a_role_session_may_not_ask_for_a_session_token(door):
    refused(door, "AccessDenied", "GetSessionToken", door.role_key("chained"))


def test_sessions_issued_before_a_revocation_are_refused_by_sts_and_by_kafka(door):
    old = door.role_key("to-be-revoked", fresh=True)
    assert opens(door, old)
    time.sleep(1.1)
    door.revoke_sessions("acme", "app")
    env.eventually(lambda: not opens(door, old), timeout=5, what="the revocation")
    with pytest.raises(Failed):
        call(door, "boto3", "GetCallerIdentity", old)


def test_credentials_of_one_tenant_do_not_open_the_others_door(door):
    key = door.role_key("cross", fresh=True)
    host = door.host_of("globex")
    with sasl.Sasl(door.broker, server_name=host, context=door.broker.client("globex").tls(certificate=False)) as s:
        assert s.iam(sigv4.payload(key, host=host)).code == FAILED
