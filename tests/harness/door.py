"""A broker that takes every kind of login, and the few verbs that make people for it.

In: a folder. Out: `broker`, `issuer`, `topic`, and people with passwords, access keys, roles and sessions.
`KafkaDoor` is Apache Kafka with SCRAM and OAUTHBEARER; `SchlossDoor` is the server under test. Suites use only what both have, or
carry the mark `schloss_only`.
"""

import json

import boto3
from confluent_kafka import KafkaException
from confluent_kafka.admin import ScramCredentialInfo, ScramMechanism, UserScramCredentialDeletion, UserScramCredentialUpsertion

from . import clients, env
from .broker import Schloss
from .kafka_peer import SaslKafka
from .login import REGION, Key, Programs
from .oidc import Issuer

MECHANISM = {"SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512}


class Door:
    topic = "login-topic"
    web_subject = "client"

    def scram_user(self, name, password, mechanisms=tuple(MECHANISM), tenant="acme"):
        """By the Kafka API, as `kafka-configs` does it."""
        admin = clients.admin(self.broker, tenant)
        for m in mechanisms:
            change = UserScramCredentialUpsertion(name, ScramCredentialInfo(MECHANISM[m], 8192), password.encode())
            for done in admin.alter_user_scram_credentials([change]).values():
                done.result()
        return name

    def known(self, name):
        """Makes sure that a user of this name may have credentials."""
        return name

    def delete_scram_user(self, name, mechanisms=tuple(MECHANISM), tenant="acme"):
        for m in mechanisms:
            for done in clients.admin(self.broker, tenant).alter_user_scram_credentials([UserScramCredentialDeletion(name, MECHANISM[m])]).values():
                done.result()

    def close(self):
        self.broker.programs.end()
        clients.forget(self.broker)
        if self.broker.running():
            self.broker.kill()
        self.issuer.close()


class KafkaDoor(Door):
    def __init__(self, folder, reauthentication_ms=None):
        self.issuer, self.reauthentication_ms = Issuer(folder / "issuer"), reauthentication_ms
        self.broker = SaslKafka(folder / "broker", issuer=self.issuer, reauthentication_ms=reauthentication_ms)
        self.broker.start()
        self.broker.programs = Programs(folder / "programs", self.broker.client().ca, roots=[self.issuer.ca])
        clients.create_topic(self.broker, self.topic)


def statement(action, resource="*", **more):
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def document(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)}, indent=1)


class SchlossDoor(Door):
    """Two tenants. `acme` has the user `iam-client`, roles of every kind of trust, and an identity provider."""

    regions = (REGION, "us-east-1")
    role_of_web = "web"

    def __init__(self, folder, reauthentication_ms=None, config=None):
        folder.mkdir(exist_ok=True)
        self.issuer, self.reauthentication_ms = Issuer(folder / "issuer"), reauthentication_ms
        self.pods = Issuer(folder / "pods", self.issuer.authority)
        settings = {"sasl.enabled.mechanisms": ["AWS_MSK_IAM", "OAUTHBEARER", *MECHANISM],
                    "sasl.oauthbearer.jwks.allowed.hosts": ["localhost"], "sasl.oauthbearer.jwks.private.hosts": ["localhost"],
                    "sasl.oauthbearer.jwks.ca.file": str(self.issuer.ca),
                    "connection.failed.authentication.delay.ms": 0,  # hundreds of logins are refused here, from one address
                    **(config or {})}
        if reauthentication_ms:
            settings["connections.max.reauth.ms"] = reauthentication_ms
        self.broker = Schloss(folder / "broker", config=settings)
        settings.update(self.settings(self.broker.port))
        self.broker.prepare()
        self._keys, self._sessions = {}, {}
        for alias in self.broker.tenants:
            self._organise(alias)
        self.broker.start()
        self.broker.programs = Programs(folder / "programs", self.broker.client().ca, sts=self.sts, roots=[self.issuer.ca])
        clients.create_topic(self.broker, self.topic)

    def settings(self, port):
        """More keys of the config, for doors of another kind."""
        return {}

    # --- the organisation's files ---

    def tenant_folder(self, alias):
        return self.broker.organisation / "tenants" / alias

    def write(self, alias, name, text):
        path = self.tenant_folder(alias) / name
        path.parent.mkdir(exist_ok=True)
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text(text)
        draft.rename(path)

    def _organise(self, alias):
        account = self.broker.tenants[alias]
        user = f"arn:aws:iam::{account}:user/iam-client"
        self.write(alias, "users/iam-client.toml", 'policies = ["admin"]\n')
        trusts = {
            "app": [{"Effect": "Allow", "Principal": {"AWS": user}, "Action": ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]}],
            "closed": [{"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{account}:user/auditor"}, "Action": "sts:AssumeRole"}],
            "external": [{"Effect": "Allow", "Principal": {"AWS": user}, "Action": "sts:AssumeRole",
                          "Condition": {"StringEquals": {"sts:ExternalId": "the-external-id"}}}],
        }
        trusts["other-role"] = trusts["tagged"] = trusts["app"]
        roles = {"app": "admin", "closed": "admin", "external": "admin", "other-role": "admin", "tagged": "tagged"}
        self.write(alias, "policies/tagged.json", document(statement("kafka-cluster:*", Condition={"StringEquals": {"aws:PrincipalTag/team": "red"}})))
        tenant = self.tenant_folder(alias) / "tenant.toml"
        text = tenant.read_text() + f"\n[authentication]\naws_regions = {json.dumps(list(self.regions))}\n"
        if alias == "acme":
            provider = self.issuer.url.removeprefix("https://")
            trusts["web"] = [{"Effect": "Allow", "Principal": {"Federated": f"arn:aws:iam::{account}:oidc-provider/{provider}"},
                              "Action": "sts:AssumeRoleWithWebIdentity",
                              "Condition": {"StringEquals": {f"{provider}:sub": self.web_subject, f"{provider}:aud": self.issuer.audience}}}]
            roles["web"] = "admin"
            # A second provider, by the preset for Kubernetes; its tokens may name the role, and their claims are condition keys.
            cluster = self.pods.url.removeprefix("https://")
            trusts["pods"] = [{"Effect": "Allow", "Principal": {"Federated": f"arn:aws:iam::{account}:oidc-provider/{cluster}"},
                               "Action": "sts:AssumeRoleWithWebIdentity",
                               "Condition": {"StringLike": {f"{cluster}:sub": "system:serviceaccount:prod:*"}}}]
            trusts["pods-admin"] = trusts["pods"]
            roles.update({"pods": "pods", "pods-admin": "admin"})
            self.write(alias, "policies/pods.json", document(
                statement(["kafka-cluster:Connect", "kafka-cluster:DescribeTopic"]),
                statement("kafka-cluster:WriteData", Condition={"StringEquals": {f"{cluster}:team": "red"}})))
            self.write(alias, "issuers/pods.toml", f'preset = "kubernetes"\nissuer = "{self.pods.url}"\njwks_url = "{self.pods.jwks_url}"\n'
                       f'audiences = ["{self.pods.audience}"]\nrole = "pods"\nrole_claim = "kafka_role"\n')
            self.write(alias, "issuers/corporate.toml", f'issuer = "{self.issuer.url}"\njwks_url = "{self.issuer.jwks_url}"\n'
                       f'audiences = ["{self.issuer.audience}"]\nalgorithms = ["RS256", "ES256"]\n'
                       'clock_skew_seconds = 0\nrole = "web"\n')
        self.write(alias, "tenant.toml", text)
        for name, statements in trusts.items():
            self.write(alias, f"trust/{name}.json", document(*statements))
        for name, policy in roles.items():
            self.write(alias, f"roles/{name}.toml", f'policies = ["{policy}"]\ntrust = "{name}"\n')

    def close(self):
        super().close()
        self.pods.close()

    def user(self, name, policies=("admin",), tenant="acme"):
        """Makes a user by its file; whoever uses it next waits until it is in force."""
        self.write(tenant, f"users/{name}.toml", f"policies = {json.dumps(list(policies))}\n")
        return name

    def known(self, name, tenant="acme"):
        self.scram_user(name, "to be replaced", tenant=tenant)
        self.delete_scram_user(name, tenant=tenant)
        return name

    def delete_user(self, name, tenant="acme"):
        (self.tenant_folder(tenant) / "users" / f"{name}.toml").unlink()

    def role_arn(self, role, tenant="acme"):
        return f"arn:aws:iam::{self.broker.tenants[tenant]}:role/{role}"

    def host_of(self, tenant):
        return f"{tenant}.localhost"

    # --- credentials ---

    def scram_user(self, name, password, mechanisms=tuple(MECHANISM), tenant="acme"):
        if not (self.tenant_folder(tenant) / "users" / f"{name}.toml").exists():
            self.user(name, tenant=tenant)

        def made():
            try:
                return super(SchlossDoor, self).scram_user(name, password, mechanisms, tenant)
            except KafkaException:  # the user is not in force yet
                return None
        return env.eventually(made, timeout=10, every=0.2, what=f"SCRAM credentials of {name}")

    def command(self, *arguments):
        """A `schloss` command about the running broker; its JSON."""
        done = self.broker.run(*arguments, "--dir", self.broker.folder, "--output", "json")
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout) if done.stdout.strip() else None

    def key_of(self, tenant, user="iam-client", fresh=False):
        """A long-term access key, made by `schloss iam access-key create` and kept."""
        if fresh or (tenant, user) not in self._keys:
            def made():  # an error until the user is in force
                return self.command("iam", "access-key", "create", "--tenant", tenant, "--user", user)
            told = env.eventually(made, timeout=10, every=0.2, what=f"an access key of {user}")
            self._keys[tenant, user] = Key(told["AccessKeyId"], told["SecretAccessKey"])
        return self._keys[tenant, user]

    @property
    def key(self):
        return self.key_of("acme")

    def update_key(self, key, status):
        """`activate`, `deactivate` or `delete`."""
        self.command("iam", "access-key", status, key.access_key, "--tenant", "acme")

    def revoke_sessions(self, tenant, role):
        self.command("iam", "role", "revoke-sessions", role, "--tenant", tenant)

    # --- temporary credentials, by boto3 ---

    @property
    def sts(self):
        return f"https://localhost:{self.broker.admin_port}"

    def sts_client(self, key):
        return boto3.client("sts", region_name=REGION, endpoint_url=self.sts, verify=str(self.broker.client().ca),
                            aws_access_key_id=key.access_key, aws_secret_access_key=key.secret_key, aws_session_token=key.session_token)

    def _session(self, name, make, fresh=False):
        if fresh or name not in self._sessions:
            c = make()["Credentials"]
            self._sessions[name] = Key(c["AccessKeyId"], c["SecretAccessKey"], c["SessionToken"])
        return self._sessions[name]

    def temporary_key(self):
        return self._session("own", lambda: self.sts_client(self.key).get_session_token(DurationSeconds=3600))

    def other_temporary_key(self):
        return self._session("other", lambda: self.sts_client(self.key).get_session_token(DurationSeconds=3600))

    def role_key(self, session, role="app", tenant="acme", fresh=False):
        client = self.sts_client(self.key_of(tenant))
        return self._session((tenant, role, session), lambda: client.assume_role(RoleArn=self.role_arn(role, tenant), RoleSessionName=session), fresh)

    # --- audit ---

    def audit(self):
        done = self.broker.run("audit", "query", "--dir", self.broker.folder, "--output", "json")
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if line.strip()]

    def audit_mark(self):
        """What is in the log now; every tenant has a stream of its own."""
        return set(self.audit())

    def audit_after(self, mark, wanted):
        """The first event since `mark` whose text is wanted, waited for."""
        def found():
            return next((line for line in self.audit() if line not in mark and wanted(line)), None)
        return env.eventually(found, timeout=10, every=0.2, what="the audit event")

    def audit_steps(self, numbers):
        """{request id: what its event says besides the common fields} of refusals, all waited for."""
        def found():
            events = (json.loads(line)["event"] for line in self.audit())
            seen = {e["api"]["request"]["uid"]: e["unmapped"] for e in events if (e.get("api") or {}).get("request", {}).get("uid") in numbers}
            return seen if set(seen) == set(numbers) else None
        return env.eventually(found, timeout=15, every=0.3, what="the audit events of all refusals")
