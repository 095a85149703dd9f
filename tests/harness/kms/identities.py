"""Who may call: access keys with their account, and roles that STS lends for a while."""

import datetime
import secrets
from dataclasses import dataclass, field


@dataclass
class Identity:
    """One access key. It may do everything its account may, but for `denied`: pairs of action and key ARN, `*` for all."""

    account: str
    arn: str
    key_id: str = field(default_factory=lambda: "AKIA" + secrets.token_hex(8).upper())
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(30), repr=False)
    session_token: str | None = None
    expires: datetime.datetime | None = None
    denied: set = field(default_factory=set)

    def expired(self):
        return self.expires is not None and self.expires <= datetime.datetime.now(datetime.timezone.utc)

    def facts(self):
        """The condition keys every request of this identity has."""
        return {"kms:CallerAccount": self.account, "aws:PrincipalAccount": self.account, "aws:PrincipalArn": self.arn}

    def denies(self, action, arn):
        return any(a in (action, "kms:*") and k in (arn, "*") for a, k in self.denied)

    def allows(self, action, arn):
        return not self.denies(action, arn)

    def environment(self):
        """What an AWS SDK needs in its environment to be this identity."""
        token = {"AWS_SESSION_TOKEN": self.session_token} if self.session_token else {}
        return {"AWS_ACCESS_KEY_ID": self.key_id, "AWS_SECRET_ACCESS_KEY": self.secret, "AWS_EC2_METADATA_DISABLED": "true", **token}


@dataclass
class Role:
    """A role others may assume: these accounts, with this external id; or the holders of this web identity token."""

    arn: str
    trusted_accounts: tuple
    external_id: str | None = None
    web_identity_token: str | None = None

    @property
    def account(self):
        return self.arn.split(":")[4]

    def session(self, name, seconds):
        expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
        arn = f"arn:aws:sts::{self.account}:assumed-role/{self.arn.rpartition('/')[2]}/{name}"
        return Identity(self.account, arn, key_id="ASIA" + secrets.token_hex(8).upper(), session_token=secrets.token_urlsafe(60), expires=expires)
