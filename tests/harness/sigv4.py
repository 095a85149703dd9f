"""AWS Signature Version 4 as MSK's clients make it, by hand, so that every part can be wrong on purpose.

In: a key and what to sign. Out: an AWS_MSK_IAM payload (dict) or the base64 URL that the MSK IAM signers use as a token.
Source: the AWS General Reference on SigV4, and the classes of aws-msk-iam-auth.
"""

import base64
import datetime
import hashlib
import hmac
from urllib.parse import quote

from .login import REGION, Key

ALGORITHM, SERVICE = "AWS4-HMAC-SHA256", "kafka-cluster"


def now(seconds=0):
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)


def hmac256(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def query_of(parameters):
    return "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in sorted(parameters.items()))


def signature(key: Key, host, parameters, when, region, service=SERVICE, method="GET"):
    date = when.strftime("%Y%m%d")
    canonical = "\n".join([method, "/", query_of(parameters), f"host:{host}", "", "host", hashlib.sha256(b"").hexdigest()])
    scope = f"{date}/{region}/{service}/aws4_request"
    to_sign = "\n".join([ALGORITHM, when.strftime("%Y%m%dT%H%M%SZ"), scope, hashlib.sha256(canonical.encode()).hexdigest()])
    k = hmac256(b"AWS4" + key.secret_key.encode(), date)
    for part in (region, service, "aws4_request"):
        k = hmac256(k, part)
    return hmac.new(k, to_sign.encode(), hashlib.sha256).hexdigest()


def parameters(key: Key, when, region, expires, service=SERVICE, action="kafka-cluster:Connect"):
    p = {"Action": action, "X-Amz-Algorithm": ALGORITHM, "X-Amz-Credential": f"{key.access_key}/{when:%Y%m%d}/{region}/{service}/aws4_request",
         "X-Amz-Date": when.strftime("%Y%m%dT%H%M%SZ"), "X-Amz-Expires": str(expires), "X-Amz-SignedHeaders": "host"}
    if key.session_token:
        p["X-Amz-Security-Token"] = key.session_token
    return p


def payload(key: Key, host="acme.localhost", region=REGION, at=0, expires=900, service=SERVICE, action="kafka-cluster:Connect"):
    """The AWS_MSK_IAM message of a client that signs at now + `at` seconds."""
    when = now(at)
    p = parameters(key, when, region, expires, service, action)
    out = {k.lower(): v for k, v in p.items()}
    out.update({"version": "2020_10_22", "host": host, "user-agent": "by-hand/1", "x-amz-signature": signature(key, host, p, when, region, service)})
    return out


def token(key: Key, region=REGION, at=0, expires=900, host=None, action="kafka-cluster:Connect", scheme="https"):
    """The OAUTHBEARER token of the MSK IAM signers."""
    when = now(at)
    host = host or f"kafka.{region}.amazonaws.com"
    p = parameters(key, when, region, expires, action=action)
    signed = signature(key, host, p, when, region)
    url = f"{scheme}://{host}/?{query_of(p)}&X-Amz-Signature={signed}&User-Agent=by-hand"
    return base64.urlsafe_b64encode(url.encode()).decode().rstrip("=")
