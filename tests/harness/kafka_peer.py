"""Apache Kafka 4.3.1 from Maven Central, one KRaft node, mutual TLS with a throw-away CA.

Two uses: the suites of ordinary Kafka behaviour can be run against it (`--target kafka`), which shows that
a promise is Kafka's and not our invention; and tests/load measures it beside Schloss.
"""

import datetime
import os
import subprocess
import uuid
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from . import env
from .broker import Credentials, Process

PEM, P12_PASSWORD = serialization.Encoding.PEM, "changeit"


class Authority:
    """A certificate authority that lives as long as one test run."""

    def __init__(self, name="throw-away CA"):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.cert = self._build(self.name, self.key, ca=True)

    def _build(self, subject, key, ca=False, server=False, days=2, uris=(), seconds=None):
        now = datetime.datetime.now(datetime.timezone.utc)
        b = (x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
             .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=3))
             .not_valid_after(now + (datetime.timedelta(days=days) if seconds is None else datetime.timedelta(seconds=seconds)))
             .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True))
        if not ca:
            # A Kafka node is also a client of itself.
            uses = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH]
            b = b.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        if uris:
            b = b.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(u) for u in uris]), critical=False)
        if server:
            import ipaddress
            b = b.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        return b.sign(self.key, hashes.SHA256())

    def revocation_list(self, *certificates) -> bytes:
        """A CRL (PEM) that names these certificates."""
        now = datetime.datetime.now(datetime.timezone.utc)
        b = (x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(now - datetime.timedelta(hours=1))
             .next_update(now + datetime.timedelta(days=1)).add_extension(x509.CRLNumber(1), critical=False)
             .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False))
        for c in certificates:
            b = b.add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(c.serial_number).revocation_date(now - datetime.timedelta(minutes=1)).build())
        return b.sign(self.key, hashes.SHA256()).public_bytes(PEM)

    def pem(self) -> bytes:
        return self.cert.public_bytes(PEM)

    def issue(self, folder: Path, subject: x509.Name, server=False, trust=None, days=2, p12=True, **more) -> Credentials:
        """Writes the folder every client of the suites reads. `trust`: the CA the client trusts, if not this one.
        Without `p12` (slow by design) Java cannot use it."""
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        cert = self._build(subject, key, server=server, days=days, **more)
        trusted = (trust or self).cert
        key_pem = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / "ca.pem").write_bytes(trusted.public_bytes(PEM))
        (folder / "cert.pem").write_bytes(cert.public_bytes(PEM))
        (folder / "key.pem").write_bytes(key_pem)
        (folder / "both.pem").write_bytes(key_pem + cert.public_bytes(PEM) + self.cert.public_bytes(PEM))
        if p12:
            (folder / "client.p12").write_bytes(pkcs12.serialize_key_and_certificates(
            b"client", key, cert, [self.cert], serialization.BestAvailableEncryption(P12_PASSWORD.encode())))
        (folder / "client.properties").write_text(
            f"security.protocol=SSL\nssl.keystore.type=PKCS12\nssl.keystore.location={folder}/client.p12\n"
            f"ssl.keystore.password={P12_PASSWORD}\nssl.key.password={P12_PASSWORD}\n"
            f"ssl.truststore.type=PEM\nssl.truststore.location={folder}/ca.pem\n")
        (folder / "librdkafka.conf").write_text(
            f"security.protocol=ssl\nssl.ca.location={folder}/ca.pem\nssl.certificate.location={folder}/cert.pem\n"
            f"ssl.key.location={folder}/key.pem\n")
        return Credentials(folder)


def common_name(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def java_command(main_class, *arguments, heap="256m"):
    """The java command line of one class of the jar folder (CDS on, small heap, quick start)."""
    java = os.environ.get("SCHLOSS_TEST_JAVA", "java")
    return [java, f"-Xmx{heap}", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{env.JAVA_JARS}/*", main_class, *map(str, arguments)]


class Kafka:
    """One KRaft node with the same outside as `broker.Schloss` where Kafka has the like."""

    name = "kafka"
    tenants = {"acme": "-"}
    principals = ("admin", "producer", "consumer", "auditor")
    java_options = ()

    def __init__(self, folder: Path, port=None, overrides=None, heap="1g", java=None):
        self.java = java or os.environ.get("SCHLOSS_TEST_JAVA", "java")
        self.folder, self.port, self.heap = Path(folder), port or env.free_port(), heap
        self.log = self.folder.parent / (self.folder.name + ".log")
        self.overrides = dict(overrides or {})
        self.process = None

    @property
    def bootstrap(self):
        return f"{env.LOCALHOST}:{self.port}"

    def client(self, tenant="acme", principal="admin") -> Credentials:
        return Credentials(self.folder / "clients" / tenant / principal)

    def _prepare(self):
        ca = Authority()
        for p in self.principals:
            ca.issue(self.folder / "clients" / "acme" / p, common_name(p))
        ca.issue(self.folder / "server", common_name("localhost"), server=True)
        supers = ";".join(f"User:CN={p}" for p in self.principals)
        properties = {
            "process.roles": "broker,controller", "node.id": 1,
            "controller.quorum.voters": f"1@localhost:{self.port + 1}", "controller.listener.names": "CONTROLLER",
            "listeners": f"SSL://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.port + 1}",
            "advertised.listeners": f"SSL://localhost:{self.port}",
            "listener.security.protocol.map": "SSL:SSL,CONTROLLER:PLAINTEXT", "inter.broker.listener.name": "SSL",
            "ssl.client.auth": "required", "ssl.keystore.type": "PEM", "ssl.keystore.location": f"{self.folder}/server/both.pem",
            "ssl.truststore.type": "PEM", "ssl.truststore.location": f"{self.folder}/server/ca.pem",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"{supers};User:CN=localhost;User:ANONYMOUS",
            "log.dirs": f"{self.folder}/data", "num.partitions": 1, "group.initial.rebalance.delay.ms": 0,
            "offsets.topic.replication.factor": 1, "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1, "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1, "share.coordinator.state.topic.min.isr": 1,
            **self.overrides,
        }
        conf = self.folder / "server.properties"
        conf.write_text("".join(f"{k}={v}\n" for k, v in properties.items()))
        done = subprocess.run(java_command("kafka.tools.StorageTool", "format", "-t", _kafka_uuid(), "-c", conf), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return conf

    def start(self, timeout=90):
        conf = self.folder / "server.properties"
        if not conf.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._prepare()
        argv = [self.java, f"-Xms{self.heap}", f"-Xmx{self.heap}", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-Djava.awt.headless=true", *self.java_options,
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=info", "-cp", f"{env.JAVA_JARS}/*", "kafka.Kafka", str(conf)]
        self.process = Process(argv, self.log)
        return self.process.wait_for(lambda text: "Kafka Server started" in text, timeout)

    def kill(self):
        import signal
        self.process.stop(signal.SIGKILL)

    def stop(self, timeout=60):
        return self.process.stop(timeout=timeout)

    def running(self):
        return self.process is not None and self.process.child.poll() is None


class SaslKafka(Kafka):
    """The same node with a second listener on which clients log in by SASL."""

    def __init__(self, folder, issuer=None, reauthentication_ms=None, **options):
        super().__init__(folder, **options)
        self.sasl_port, self.programs = env.free_port(), None
        jaas = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        self.overrides = {
            "listeners": f"SSL://127.0.0.1:{self.port},SASL://127.0.0.1:{self.sasl_port},CONTROLLER://127.0.0.1:{self.port + 1}",
            "advertised.listeners": f"SSL://localhost:{self.port},SASL://localhost:{self.sasl_port}",
            "listener.security.protocol.map": "SSL:SSL,SASL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "listener.name.sasl.sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512" + (",OAUTHBEARER" if issuer else ""),
            "listener.name.sasl.ssl.client.auth": "none",
            "listener.name.sasl.scram-sha-256.sasl.jaas.config": jaas, "listener.name.sasl.scram-sha-512.sasl.jaas.config": jaas,
            "allow.everyone.if.no.acl.found": "true", "delegation.token.secret.key": "throw-away", **self.overrides,
        }
        if reauthentication_ms:
            self.overrides["connections.max.reauth.ms"] = reauthentication_ms
        if issuer:
            # Kafka takes the JWKS from a file, so that no trust store is needed; read at start only.
            jwks = self.folder.parent / f"{self.folder.name}-jwks.json"
            import json
            jwks.write_text(json.dumps({"keys": [k.jwk() for k in issuer.keys]}))
            of = "listener.name.sasl.oauthbearer."
            self.overrides.update({
                of + "sasl.jaas.config": "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;",
                of + "sasl.server.callback.handler.class": "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler",
                of + "sasl.oauthbearer.jwks.endpoint.url": jwks.as_uri(), "sasl.oauthbearer.jwks.endpoint.url": jwks.as_uri(),
                "sasl.oauthbearer.expected.audience": issuer.audience, "sasl.oauthbearer.expected.issuer": issuer.url,
            })
            self.java_options = [f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={jwks.as_uri()}"]

    sasl_host = env.LOCALHOST

    @property
    def sasl_bootstrap(self):
        return f"{self.sasl_host}:{self.sasl_port}"


def _kafka_uuid():
    import base64
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A", 1)
