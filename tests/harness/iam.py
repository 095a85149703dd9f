"""`schloss iam` as an operator calls it, and boto3 pointed at the broker's STS.

Out: parsed JSON of commands; STS clients that check the server's certificate and never retry.
"""

import json
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from . import env

REGION = "eu-central-1"


def command(b, *arguments, stdin=None):
    """A command's JSON; it must succeed."""
    done = raw(b, *arguments, stdin=stdin)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return json.loads(done.stdout)


def raw(b, *arguments, stdin=None):
    return b.run("iam", *arguments, "--dir", b.folder, "--output", "json", stdin=stdin)


def access_key(b, user, tenant="acme"):
    key = command(b, "access-key", "create", "--tenant", tenant, "--user", user)
    return key["AccessKeyId"], key["SecretAccessKey"]


def write(b, path, text):
    """A file of the organisation; a mapping is written as JSON."""
    target = Path(b.organisation) / path
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}")
    draft.write_text(text if isinstance(text, str) else json.dumps(text))
    draft.rename(target)


def settle(b):
    """Waits until the broker has the organisation's folder in force as it is now."""
    def clean():
        planned = json.loads(b.run("iam", "plan", b.organisation, "--dir", b.folder, "--output", "json").stdout)
        return not planned["added"] + planned["changed"] + planned["removed"]
    env.eventually(clean, timeout=20, what="the files being in force")


def trust(*statements):
    return {"Version": "2012-10-17", "Statement": list(statements)}


def trusting(principal, action="sts:AssumeRole", **more):
    return {"Effect": "Allow", "Principal": principal, "Action": action, **more}


def user_arn(b, user, tenant="acme"):
    return f"arn:aws:iam::{b.tenants[tenant]}:user/{user}"


def role_arn(b, role, tenant="acme"):
    return f"arn:aws:iam::{b.tenants[tenant]}:role/{role}"


def sts(b, key=(None, None), token=None, **config):
    return boto3.client("sts", region_name=REGION, endpoint_url=f"https://localhost:{b.admin_port}", verify=str(b.client().ca),
                        aws_access_key_id=key[0], aws_secret_access_key=key[1], aws_session_token=token,
                        config=Config(retries={"total_max_attempts": 1}, **config))


def session(b, credentials):
    """An STS client by what an operation answered."""
    return sts(b, (credentials["AccessKeyId"], credentials["SecretAccessKey"]), credentials["SessionToken"])


def refusal(call, **arguments):
    """The AWS code and HTTP status of a refused call."""
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["ResponseMetadata"]["RequestId"], "no request id"
        return error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
    raise AssertionError("it was allowed")
