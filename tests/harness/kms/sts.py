"""The part of STS that leads to a key in another account: AssumeRole with an external id, AssumeRoleWithWebIdentity, GetCallerIdentity.

https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html: AWS Query protocol, form in, XML out.
"""

import secrets
import urllib.parse
from xml.sax.saxutils import escape

SPACE = "https://sts.amazonaws.com/doc/2011-06-15/"


class StsError(Exception):
    def __init__(self, code, message):
        super().__init__(code)
        self.code, self.message = code, message


def form(body):
    return dict(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True))


def is_unsigned(body):
    return form(body).get("Action") == "AssumeRoleWithWebIdentity"


def answer(body, caller, store):
    """(status, XML) for a form. `caller` is None for the unsigned action."""
    asked = form(body)
    action = asked.get("Action", "")
    try:
        if action == "GetCallerIdentity":
            result = f"<UserId>{caller.key_id}</UserId><Account>{caller.account}</Account><Arn>{escape(caller.arn)}</Arn>"
        elif action in ("AssumeRole", "AssumeRoleWithWebIdentity"):
            result = assumed(asked, caller, store)
        else:
            raise StsError("InvalidAction", f"Could not find operation {action}")
    except StsError as error:
        return 403 if error.code == "AccessDenied" else 400, xml(
            f'<ErrorResponse xmlns="{SPACE}"><Error><Type>Sender</Type><Code>{error.code}</Code><Message>{escape(error.message)}</Message></Error>'
            f"<RequestId>{secrets.token_hex(16)}</RequestId></ErrorResponse>")
    return 200, xml(f'<{action}Response xmlns="{SPACE}"><{action}Result>{result}</{action}Result>'
                    f"<ResponseMetadata><RequestId>{secrets.token_hex(16)}</RequestId></ResponseMetadata></{action}Response>")


def assumed(asked, caller, store):
    arn, name = asked.get("RoleArn", ""), asked.get("RoleSessionName", "")
    role = store.roles.get(arn)
    refused = StsError("AccessDenied", f"User: {caller.arn if caller else 'web identity'} is not authorized to perform: sts:{asked['Action']} on resource: {arn}")
    if role is None:
        raise refused
    if caller is None:
        if role.web_identity_token is None or asked.get("WebIdentityToken") != role.web_identity_token:
            raise StsError("InvalidIdentityToken", "No OpenIDConnect provider found in your account")
    elif caller.account not in role.trusted_accounts or (role.external_id is not None and asked.get("ExternalId") != role.external_id):
        raise refused
    session = role.session(name, int(asked.get("DurationSeconds", 3600)))
    store.identities[session.key_id] = session
    store.assumed.append((arn, name, asked.get("ExternalId")))
    return (f"<Credentials><AccessKeyId>{session.key_id}</AccessKeyId><SecretAccessKey>{session.secret}</SecretAccessKey>"
            f"<SessionToken>{session.session_token}</SessionToken><Expiration>{session.expires:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials>"
            f"<AssumedRoleUser><Arn>{escape(session.arn)}</Arn><AssumedRoleId>{session.key_id}:{escape(name)}</AssumedRoleId></AssumedRoleUser>")


def xml(text):
    return ('<?xml version="1.0" encoding="UTF-8"?>' + text).encode()
