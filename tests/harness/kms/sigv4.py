"""Checks AWS Signature Version 4 of a request, as the server side of it.

In: method, path, query, headers, body, and who is known. Out: the caller, or the error AWS gives. Written from
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html, not with botocore: its mistakes
must not be on both sides.
"""

import datetime
import hashlib
import hmac
import re
import urllib.parse

from .errors import AwsError

SKEW = datetime.timedelta(minutes=5)
AUTHORIZATION = re.compile(r"AWS4-HMAC-SHA256 +Credential=([^, ]+) *, *SignedHeaders=([^, ]+) *, *Signature=([0-9a-f]{64})")
MISMATCH = ("The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
            "and signing method. Consult the service documentation for details.")


def caller(request, identities, region, services, now=None):
    """The identity that signed `request`, whose `headers` have lower-case names. `identities`: {access key id: identity}."""
    headers = request.headers
    if "authorization" not in headers:
        raise AwsError("MissingAuthenticationTokenException", "Missing Authentication Token")
    match = AUTHORIZATION.fullmatch(headers["authorization"].strip())
    if not match:
        raise AwsError("IncompleteSignatureException", "Authorization header is not in the form of Signature Version 4")
    scope, signed, signature = match.groups()
    key_id, _, rest = scope.partition("/")
    names = signed.split(";")
    must = {"host"} | {h for h in headers if h.startswith("x-amz-")}
    if must - set(names) or names != sorted(names) or not all(n in headers for n in names):
        raise AwsError("InvalidSignatureException", MISMATCH)
    identity = identities.get(key_id)
    token = headers.get("x-amz-security-token")
    if identity is None or identity.session_token != token:
        raise AwsError("UnrecognizedClientException", "The security token included in the request is invalid.")
    if identity.expired():
        raise AwsError("ExpiredTokenException", "The security token included in the request is expired")
    stamp = headers.get("x-amz-date", "")
    service = check_scope(rest, stamp, region, services, now)
    expected = hmac.new(signing_key(identity.secret, stamp[:8], region, service),
                        string_to_sign(request, names, stamp, rest).encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, signature):
        raise AwsError("InvalidSignatureException", MISMATCH)
    return identity


def check_scope(scope, stamp, region, services, now):
    parts = scope.split("/")
    if len(parts) != 4 or parts[3] != "aws4_request" or parts[0] != stamp[:8]:
        raise AwsError("InvalidSignatureException", "Credential should be scoped to a valid date, region and service.")
    if parts[1] != region:
        raise AwsError("InvalidSignatureException", f"Credential should be scoped to a valid region, not '{parts[1]}'.")
    if parts[2] not in services:
        raise AwsError("InvalidSignatureException", f"Credential should be scoped to correct service: '{services[0]}'.")
    try:
        signed_at = datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        raise AwsError("IncompleteSignatureException", "Date must be in ISO-8601 'basic format'.") from None
    now = now or datetime.datetime.now(datetime.timezone.utc)
    if abs(now - signed_at) > SKEW:
        raise AwsError("InvalidSignatureException", f"Signature expired or not yet current: {stamp} against {now:%Y%m%dT%H%M%SZ}")
    return parts[2]


def string_to_sign(request, names, stamp, scope):
    canonical = "\n".join([
        request.method,
        urllib.parse.quote(request.path, safe="/-_.~"),
        "&".join(sorted(f"{quoted(k)}={quoted(v)}" for k, v in urllib.parse.parse_qsl(request.query, keep_blank_values=True))),
        *(f"{n}:{' '.join(request.headers[n].split())}" for n in names), "",
        ";".join(names), hashlib.sha256(request.body).hexdigest()])
    return "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])


def quoted(text):
    return urllib.parse.quote(text, safe="-_.~")


def signing_key(secret, day, region, service):
    key = ("AWS4" + secret).encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
