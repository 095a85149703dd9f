"""The instance's metadata service, version 2 only: a token by PUT, then the role's credentials.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
"""

import datetime
import json
import secrets

CREDENTIALS = "/latest/meta-data/iam/security-credentials/"


class Imds:
    def __init__(self, store):
        self.store, self.role, self.tokens, self.seconds = store, None, set(), 3600

    def answer(self, request):
        """(status, body) for a request below /latest/. Without a token: 401, as with version 1 switched off."""
        if request.method == "PUT" and request.path == "/latest/api/token":
            self.tokens.add(token := secrets.token_urlsafe(30))
            return 200, token
        if request.headers.get("x-aws-ec2-metadata-token") not in self.tokens:
            return 401, ""
        if self.role is None or not request.path.startswith(CREDENTIALS):
            return 404, ""
        name = self.role.arn.rpartition("/")[2]
        if request.path == CREDENTIALS:
            return 200, name
        if request.path != CREDENTIALS + name:
            return 404, ""
        lent = self.role.session("i-0123456789abcdef0", self.seconds)
        self.store.identities[lent.key_id] = lent
        now = datetime.datetime.now(datetime.timezone.utc)
        return 200, json.dumps({"Code": "Success", "LastUpdated": f"{now:%Y-%m-%dT%H:%M:%SZ}", "Type": "AWS-HMAC", "AccessKeyId": lent.key_id,
                                "SecretAccessKey": lent.secret, "Token": lent.session_token, "Expiration": f"{lent.expires:%Y-%m-%dT%H:%M:%SZ}"})
