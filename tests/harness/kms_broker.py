"""A broker whose cluster and tenants have their keys in the KMS stand-in, with as many tenants as a test wants.

In: a folder and a `Kms`. Out: a `Schloss` with `keys[alias]` and `client(alias)`. Quickstart makes the ground; its data,
written under the local keyring, are thrown away.
"""

import json
import re
import shutil

from cryptography.hazmat.primitives import serialization

from .broker import Schloss, toml
from .kafka_peer import Authority, common_name

EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kafka-cluster:*", "Resource": "arn:aws:kafka:*:*:*"}]}


class _Trusted:
    """A CA as `Authority.issue` wants the one to trust."""

    def __init__(self, pem):
        from cryptography import x509
        self.cert = x509.load_pem_x509_certificate(pem)


class KmsSchloss(Schloss):
    def __init__(self, folder, kms, extra=(), config=None, port=None, environment=None, tenant_settings=None):
        """`extra`: aliases of more tenants than acme and globex; `tenant_settings[alias]`: lines more for its tenant.toml."""
        super().__init__(folder, port, {**kms.root.environment(), **(environment or {})}, {
            "kms.provider": "aws", "kms.aws.region": kms.region, "kms.aws.endpoint": kms.url,
            "kms.local.keyring.file": None, "kms.local.key.file": None, **(config or {})})
        self.kms, self.extra, self.tenant_settings = kms, list(extra), tenant_settings or {}
        first = 300_000_000_000
        self.tenants = {**Schloss.tenants, **{alias: f"{first + n:012}" for n, alias in enumerate(self.extra)}}
        self.keys = {who: kms.create_key(who) for who in ("cluster", *self.tenants)}
        self.config["kms.cluster.key"] = self.keys["cluster"]

    def alias_of(self, arn):
        return next(alias for alias, key in self.keys.items() if key == arn)

    def prepare(self):
        super().prepare()
        shutil.rmtree(self.data)
        self.data.mkdir()
        for alias in Schloss.tenants:
            self.tenant_file(alias).write_text(re.sub(r'(?m)^kms_key = .*$', lambda _: self.key_lines(alias), self.tenant_file(alias).read_text()))
        trusted = _Trusted((self.client("acme").ca).read_bytes())
        for alias in self.extra:
            self.add_tenant(alias, trusted)

    def tenant_file(self, alias):
        return self.organisation / "tenants" / alias / "tenant.toml"

    def key_lines(self, alias):
        return "\n".join([f'kms_key = "{self.keys[alias]}"', *(f"{k} = {toml(v)}" for k, v in self.tenant_settings.get(alias, {}).items())])

    def client_ca_folder(self):
        return self.own_config.parent / re.search(r'(?m)^tls\.client\.ca\.dir = "(.*)"$', self.own_config.read_text()).group(1)

    def add_tenant(self, alias, trusted):
        folder = self.organisation / "tenants" / alias
        for sub in ("users", "policies"):
            (folder / sub).mkdir(parents=True)
        self.tenant_file(alias).write_text(
            f'account = "{self.tenants[alias]}"\nalias = "{alias}"\nhosts = ["{alias}.localhost"]\n{self.key_lines(alias)}\nclient_ca = "{alias}"\n\n'
            f'[cluster]\nname = "{alias}"\nuuid = "3f1c9a52-7d0e-4b6a-9d43-{int(self.tenants[alias]):012x}-1"\nregion = "{self.kms.region}"\n')
        (folder / "users" / "admin.toml").write_text('policies = ["everything"]\n')
        (folder / "policies" / "everything.json").write_text(json.dumps(EVERYTHING))
        (folder / "certificates.toml").write_text('[[certificate]]\ncommon_name = "admin"\nuser = "admin"\n')
        ca = Authority(f"{alias} CA")
        (self.client_ca_folder() / f"{alias}.pem").write_bytes(ca.cert.public_bytes(serialization.Encoding.PEM))
        ca.issue(self.folder / "clients" / alias / "admin", common_name("admin"), trust=trusted, p12=False)

    def operate(self, *arguments, timeout=120):
        """A command, by way of the operator door where it needs the broker; its JSON result."""
        done = self.run(*arguments, "--dir", self.folder, "--output", "json", timeout=timeout)
        assert done.returncode == 0, f"schloss {' '.join(map(str, arguments))} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return json.loads(done.stdout)

    def audit_query(self):
        """The lines of the audit log, opened with the cluster's KMS key."""
        done = self.run("audit", "query", "--config", self.own_config, "--output", "json", environment=self.environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def objects(self, alias):
        """Segment objects of a tenant as they lie on the disk."""
        folder = self.data / "objects" / "seg" / self.tenants[alias]
        return sorted(p for p in folder.rglob("*") if p.is_file()) if folder.exists() else []

    def metric(self, name, **labels):
        """The sum of a metric's samples that carry these labels."""
        total = 0.0
        for line in self.admin_get("/metrics")[1].splitlines():
            head, _, value = line.rpartition(" ")
            if re.match(rf"{re.escape(name)}(\{{|$)", head) and all(f'{k}="{v}"' in head for k, v in labels.items()):
                total += float(value)
        return total
