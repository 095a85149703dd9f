"""Key policies: parsed strictly, evaluated deny first.

https://docs.aws.amazon.com/kms/latest/developerguide/policy-evaluation.html: an explicit deny ends it; within the key's
account an Allow of the key policy for the principal is enough, or one for the account together with the caller's own
permissions; from another account both are needed.
"""

import json
import re

from .errors import AwsError

OPERATORS = {
    "StringEquals": lambda have, want: have in want,
    "StringNotEquals": lambda have, want: have not in want,
    "StringLike": lambda have, want: any(like(w, have) for w in want),
    "StringNotLike": lambda have, want: not any(like(w, have) for w in want),
    "StringEqualsIgnoreCase": lambda have, want: have.lower() in [w.lower() for w in want],
    "Bool": lambda have, want: have.lower() in [w.lower() for w in want],
    "Null": None,
}
STATEMENT = {"Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"}
NEGATED = ("StringNotEquals", "StringNotLike")


def default_policy(account):
    """What CreateKey gives a key: its account decides by its own policies."""
    return json.dumps({"Version": "2012-10-17", "Id": "key-default-1", "Statement": [
        {"Sid": "Enable IAM User Permissions", "Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{account}:root"},
         "Action": "kms:*", "Resource": "*"}]})


def parse(text):
    """The statements of a policy document, or MalformedPolicyDocumentException."""
    try:
        document = json.loads(text)
        statements = many(document["Statement"])
        assert document.get("Version", "2012-10-17") in ("2012-10-17", "2008-10-17") and statements
        for s in statements:
            assert isinstance(s, dict) and not set(s) - STATEMENT and s.get("Effect") in ("Allow", "Deny")
            assert ("Principal" in s) != ("NotPrincipal" in s) and ("Action" in s) != ("NotAction" in s)
            assert ("Resource" in s) != ("NotResource" in s)
            for operator, tests in s.get("Condition", {}).items():
                assert operator.removesuffix("IfExists") in OPERATORS and isinstance(tests, dict)
    except (ValueError, KeyError, TypeError, AssertionError):
        raise AwsError("MalformedPolicyDocumentException", "The policy document is malformed.") from None
    return statements


def allowed(statements, key, identity, action, context):
    """True when `identity` may do `action` ("kms:Decrypt") on the key under these condition keys."""
    facts = {**identity.facts(), **{f"kms:EncryptionContext:{k}": v for k, v in context.items()},
             "kms:EncryptionContextKeys": list(context)}
    hit = [s for s in statements if matches(s, key, identity, action, facts)]
    if any(s["Effect"] == "Deny" for s in hit) or identity.denies(action, key.arn):
        return False
    own = identity.account == key.account
    if own and any(names_itself(s, identity) for s in hit):
        return True
    return any(names_account(s, identity) or names_itself(s, identity) for s in hit) and identity.allows(action, key.arn)


def matches(statement, key, identity, action, facts):
    if not any_like(statement, "Action", action, ignore_case=True) or not any_like(statement, "Resource", key.arn):
        return False
    if "Principal" in statement:
        if not (names_account(statement, identity) or names_itself(statement, identity)):
            return False
    elif identity.arn in many(statement["NotPrincipal"].get("AWS", [])):
        return False
    return all(condition(op, name, many(want), facts) for op, tests in statement.get("Condition", {}).items() for name, want in tests.items())


def any_like(statement, what, text, ignore_case=False):
    patterns = many(statement.get(what, statement.get("Not" + what)))
    fold = str.lower if ignore_case else str
    return any(like(fold(p), fold(text)) for p in patterns) == (what in statement)


def names_itself(statement, identity):
    given = principals(statement)
    return "*" in given or identity.arn in given


def names_account(statement, identity):
    return bool({identity.account, f"arn:aws:iam::{identity.account}:root"} & set(principals(statement)))


def principals(statement):
    given = statement.get("Principal", {})
    return [given] if isinstance(given, str) else many(given.get("AWS", []))


def condition(operator, name, want, facts):
    optional, operator = operator.endswith("IfExists"), operator.removesuffix("IfExists")
    have = next((v for k, v in facts.items() if k.lower() == name.lower()), None)
    if operator == "Null":
        return str(have is None).lower() in [str(w).lower() for w in want]
    if have is None:
        return optional or operator in NEGATED
    every = all if operator in NEGATED else any
    return every(OPERATORS[operator](str(h), [str(w) for w in want]) for h in many(have))


def like(pattern, text):
    return re.fullmatch("".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern), text, re.S) is not None


def many(value):
    return value if isinstance(value, list) else [value]
