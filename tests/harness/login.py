"""Real clients behind one door: `open_session(client, broker, login)` logs in, then `describe`, `produce`, `consume`, `close`.

In: a `Login` (what a person would put into a client's properties). Out: a session, or `Refused` with the client's own words.
Java, Go and Node are programs of tests/clients that serve many logins in one process; Python's clients run in this process.
Must not: know anything of Schloss.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import logging
import os
import select
import subprocess
import threading
import time
import uuid
from pathlib import Path

import confluent_kafka
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from . import env

REGION = "eu-central-1"
SCRAM_CLIENTS = ("java", "franz-go", "librdkafka", "kafkajs", "kafka-python", "aiokafka")
IAM_CLIENTS = ("java", "franz-go", "kafkajs", "kafka-python")
SIGNER_CLIENTS = ("java", "kafkajs", "librdkafka", "aiokafka")
TOKEN_CLIENTS = ("franz-go", "librdkafka", "kafkajs", "kafka-python", "aiokafka")


class Refused(Exception):
    """The client could not log in; its text is what it told."""


@dataclasses.dataclass(frozen=True)
class Key:
    """An access key as AWS's tools know it."""
    access_key: str
    secret_key: str
    session_token: str | None = None

    def plain(self):
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclasses.dataclass(frozen=True)
class Login:
    mechanism: str | None
    key: Key | None = None              # AWS_MSK_IAM, and OAUTHBEARER through the MSK IAM signers
    username: str | None = None         # SCRAM
    password: str | None = None
    delegation_token: bool = False      # SCRAM with tokenauth=true
    token: str | None = None            # OAUTHBEARER with a token in hand
    oidc: dict | None = None            # OAUTHBEARER by client credentials: url, client_id, client_secret, ca
    region: str = REGION
    properties: dict = dataclasses.field(default_factory=dict)  # more of the client's own properties

    def fields(self):
        """The members that the line programs read."""
        out = dict(self.key.plain() if self.key else {}, region=self.region, delegation_token=self.delegation_token)
        out.update({k: v for k, v in dict(username=self.username, password=self.password, token=self.token).items() if v is not None})
        return out


def iam(key, **more):
    return Login("AWS_MSK_IAM", key=key, **more)


def signed_url(key, **more):
    return Login("OAUTHBEARER", key=key, **more)


def scram(username, password, mechanism="SCRAM-SHA-512", **more):
    return Login(mechanism, username=username, password=password, **more)


def bearer(token, **more):
    return Login("OAUTHBEARER", token=token, **more)


# --- the line programs ---

class Program:
    """A process that answers one JSON line for each JSON line."""

    def __init__(self, argv, environment, log: Path):
        self._err = open(log, "ab")
        self.child = subprocess.Popen([str(a) for a in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._err, text=True, bufsize=1,
                                      env={**{k: v for k, v in os.environ.items() if not k.startswith("AWS_")}, **environment})
        self.numbers, self.lock = itertools.count(), threading.Lock()

    def call(self, verb, timeout=60, **fields):
        with self.lock:
            self.child.stdin.write(json.dumps({"verb": verb, **fields}) + "\n")
            self.child.stdin.flush()
            ready, _, _ = select.select([self.child.stdout], [], [], timeout)
            line = self.child.stdout.readline() if ready else ""
        assert line, f"no answer to {verb} in {timeout} s"
        return json.loads(line)

    def end(self):
        self.child.stdin.close()
        try:
            self.child.wait(3)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self._err.close()


class Programs:
    """The programs of one broker, each started when first wanted. `roots`: further CA files they trust (a token endpoint's)."""

    def __init__(self, folder: Path, ca: Path, sts=None, roots=()):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.running = folder, {}
        self.bundle = folder / "roots.pem"
        self.bundle.write_bytes(b"".join(Path(p).read_bytes() for p in (ca, *roots)))
        self.environment = {"AWS_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true", "AWS_CA_BUNDLE": str(self.bundle),
                            "NODE_EXTRA_CA_CERTS": str(self.bundle), "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
                            "AWS_CONFIG_FILE": str(folder / "config")}
        if sts:
            self.environment["AWS_ENDPOINT_URL_STS"] = sts

    def get(self, client) -> Program:
        if client not in self.running:
            self.running[client] = Program(self._command(client), self.environment, self.folder / f"{client}.log")
        return self.running[client]

    def _command(self, client):
        if client == "franz-go":
            return [env.GOLOGIN]
        if client == "kafkajs":
            return [env.NODE, env.NODE_LOGIN / "login.mjs"]
        store = self.folder / "trust.p12"
        certificates = x509.load_pem_x509_certificates(self.bundle.read_bytes())
        store.write_bytes(pkcs12.serialize_java_truststore(
            [pkcs12.PKCS12Certificate(c, b"root%d" % i) for i, c in enumerate(certificates)], serialization.BestAvailableEncryption(b"changeit")))
        return [os.environ.get("SCHLOSS_TEST_JAVA", "java"), "-Xmx192m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", f"-Djavax.net.ssl.trustStore={store}", "-Djavax.net.ssl.trustStorePassword=changeit",
                "-cp", f"{env.JAVA_LOGIN}/classes:{env.JAVA_LOGIN}/*", "Login"]

    def end(self):
        for p in self.running.values():
            p.end()
        self.running.clear()


def java_properties(broker, login: Login):
    """What the documentation tells a Java user to write."""
    p = {"bootstrap.servers": broker.sasl_bootstrap, "security.protocol": "SASL_SSL", "ssl.truststore.type": "PEM",
         "ssl.truststore.location": str(broker.client().ca), "sasl.mechanism": login.mechanism}
    if login.mechanism == "AWS_MSK_IAM":
        p["sasl.jaas.config"] = "software.amazon.msk.auth.iam.IAMLoginModule required;"
        p["sasl.client.callback.handler.class"] = "software.amazon.msk.auth.iam.IAMClientCallbackHandler"
    elif login.mechanism.startswith("SCRAM"):
        p["sasl.jaas.config"] = ("org.apache.kafka.common.security.scram.ScramLoginModule required "
                                 f'username="{login.username}" password="{login.password}"{" tokenauth=true" if login.delegation_token else ""};')
    elif login.oidc:
        p["sasl.jaas.config"] = ("org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "
                                 f'clientId="{login.oidc["client_id"]}" clientSecret="{login.oidc["client_secret"]}";')
        p["sasl.login.callback.handler.class"] = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler"
        p["sasl.oauthbearer.token.endpoint.url"] = login.oidc["url"]
    else:
        p["sasl.jaas.config"] = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;"
        for who in ("login", "client"):
            p[f"sasl.{who}.callback.handler.class"] = "software.amazon.msk.auth.iam.IAMOAuthBearerLoginCallbackHandler"
    return {**p, **login.properties}


def java_system(login: Login):
    """System properties: where the AWS SDK looks for keys first, and the token endpoints that Kafka's client may ask."""
    key = login.key
    return {"aws.accessKeyId": key and key.access_key, "aws.secretAccessKey": key and key.secret_key, "aws.sessionToken": key and key.session_token,
            "aws.region": login.region, "org.apache.kafka.sasl.oauthbearer.allowed.urls": (login.oidc or {}).get("url")}


class LineSession:
    """A login held by a line program."""

    def __init__(self, programs, client, broker, login):
        self.program = programs.get(client)
        self.handle = f"h{next(self.program.numbers)}"
        if client == "java":
            fields = {"properties": java_properties(broker, login), "system": java_system(login)}
        else:
            fields = {"bootstrap": broker.sasl_bootstrap, "ca": str(broker.client().ca), "mechanism": login.mechanism, "login": login.fields(), **login.properties}
        answer = self.program.call("open", handle=self.handle, **fields)
        if not answer["ok"]:
            raise Refused(answer["error"])

    def _call(self, verb, **fields):
        answer = self.program.call(verb, handle=self.handle, **fields)
        if not answer.pop("ok"):
            raise Refused(answer["error"])
        return answer

    def describe(self):
        return self._call("describe")

    def produce(self, topic, value):
        return self._call("produce", topic=topic, value=value)["offset"]

    def consume(self, topic, count):
        return self._call("consume", topic=topic, count=count)["values"]

    def measures(self):
        """Java only: what the client counts of its logins."""
        return self._call("measures")["measures"]

    def close(self):
        self.program.call("close", handle=self.handle)


# --- librdkafka ---

def signer_token(key: Key, region):
    """A token by the official Python signer, and when it ends (milliseconds)."""
    from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
    from botocore.credentials import CredentialProvider, Credentials

    class Given(CredentialProvider):
        def load(self):
            return Credentials(key.access_key, key.secret_key, key.session_token)

    return MSKAuthTokenProvider.generate_auth_token_from_credentials_provider(region, Given())


class LibrdkafkaSession:
    def __init__(self, broker, login):
        self.errors, self.has_token = [], True
        self.conf = {"bootstrap.servers": broker.sasl_bootstrap, "security.protocol": "sasl_ssl", "ssl.ca.location": str(broker.client().ca),
                     "sasl.mechanism": login.mechanism, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "log_level": 0,
                     "error_cb": self.errors.append, "message.timeout.ms": 15000}
        if login.username is not None:
            self.conf.update({"sasl.username": login.username, "sasl.password": login.password})
        if login.oidc:
            self.conf.update({"sasl.oauthbearer.method": "oidc", "sasl.oauthbearer.token.endpoint.url": login.oidc["url"],
                              "sasl.oauthbearer.client.id": login.oidc["client_id"], "sasl.oauthbearer.client.secret": login.oidc["client_secret"],
                              "https.ca.location": str(login.oidc["ca"])})
        elif login.token is not None:
            self.conf["oauth_cb"] = self._told(lambda: (login.token, time.time() + 3600))
        elif login.key is not None:
            def signed():
                token, ends = signer_token(login.key, login.region)
                return token, ends / 1000
            self.conf["oauth_cb"] = self._told(signed)
        self.conf.update(login.properties)
        self.producer = confluent_kafka.Producer(self.conf)
        self.describe()

    def _told(self, make):
        self.has_token = False

        def callback(_):
            self.has_token = True
            return make()
        return callback

    def describe(self, timeout=15):
        deadline = time.monotonic() + timeout
        while True:
            self.producer.poll(0.05)
            if not self.has_token and time.monotonic() < deadline:
                continue  # poll is where the token callback runs
            for e in self.errors:
                if e.code() in (confluent_kafka.KafkaError._AUTHENTICATION, confluent_kafka.KafkaError.SASL_AUTHENTICATION_FAILED):
                    raise Refused(str(e))
            try:
                seen = self.producer.list_topics(timeout=1)
                return {"cluster": seen.cluster_id, "nodes": len(seen.brokers)}
            except confluent_kafka.KafkaException as e:
                if time.monotonic() > deadline:
                    raise Refused(f"{e}; errors told: {self.errors}") from e

    def produce(self, topic, value):
        got = []
        self.producer.produce(topic, key="k", value=value, on_delivery=lambda e, m: got.append((e, m)))
        self.producer.flush(20)
        (error, message), = got
        if error:
            raise Refused(str(error))
        return message.offset()

    def consume(self, topic, count):
        c = confluent_kafka.Consumer({**{k: v for k, v in self.conf.items() if k != "message.timeout.ms"}, "group.id": "unused", "enable.auto.commit": False})
        try:
            c.poll(0.1)
            parts = c.list_topics(topic, timeout=15).topics[topic].partitions
            c.assign([confluent_kafka.TopicPartition(topic, p, confluent_kafka.OFFSET_BEGINNING) for p in parts])
            values, deadline = [], time.monotonic() + 20
            while len(values) < count:
                assert time.monotonic() < deadline, f"{len(values)} of {count}"
                values += [m.value().decode() for m in c.consume(100, 0.2) if not m.error()]
            return values
        finally:
            c.close()

    def close(self):
        self.producer = None


# --- Python's own clients ---

@contextlib.contextmanager
def aws_environment(key: Key, region):
    """botocore's chain looks here first."""
    wanted = {"AWS_ACCESS_KEY_ID": key.access_key, "AWS_SECRET_ACCESS_KEY": key.secret_key, "AWS_SESSION_TOKEN": key.session_token,
              "AWS_DEFAULT_REGION": region, "AWS_EC2_METADATA_DISABLED": "true"}
    before = {k: os.environ.get(k) for k in wanted}
    try:
        for k, v in wanted.items():
            os.environ.pop(k, None) if v is None else os.environ.__setitem__(k, v)
        yield
    finally:
        for k, v in before.items():
            os.environ.pop(k, None) if v is None else os.environ.__setitem__(k, v)


class Words(logging.Handler):
    """kafka-python and aiokafka log why a login failed and raise something else."""

    def __init__(self, *names):
        super().__init__(logging.WARNING)
        self.said, self.names = [], names

    def emit(self, record):
        self.said.append(record.getMessage())

    def __enter__(self):
        for n in self.names:
            logging.getLogger(n).addHandler(self)
        return self

    def __exit__(self, *_):
        for n in self.names:
            logging.getLogger(n).removeHandler(self)

    def of(self, error):
        return Refused(f"{error!r}; logged: {' | '.join(self.said[-6:])}")


class KafkaPythonSession:
    def __init__(self, broker, login):
        import kafka
        from kafka.net.sasl.oauth import AbstractTokenProvider

        class Given(AbstractTokenProvider):
            def token(self):
                return login.token

        self.kafka, self.stack = kafka, contextlib.ExitStack()
        if login.mechanism == "AWS_MSK_IAM":
            self.stack.enter_context(aws_environment(login.key, login.region))
        self.conf = {"bootstrap_servers": broker.sasl_bootstrap, "security_protocol": "SASL_SSL", "ssl_cafile": str(broker.client().ca),
                     "sasl_mechanism": login.mechanism, "reconnect_backoff_ms": 20}
        if login.username is not None:
            self.conf.update(sasl_plain_username=login.username, sasl_plain_password=login.password)
        if login.token is not None:
            self.conf["sasl_oauth_token_provider"] = Given()
        self.conf.update(login.properties)
        self.producer = None
        with Words("kafka") as words:
            try:
                self.producer = kafka.KafkaProducer(**self.conf, max_block_ms=15000, bootstrap_timeout_ms=2000, acks="all")
                self.admin = kafka.KafkaAdminClient(**self.conf, bootstrap_timeout_ms=2000)
                self.describe()
            except (kafka.errors.KafkaError, Refused) as e:
                self.close()
                raise words.of(e) from e

    def describe(self):
        try:
            return self.admin.describe_cluster()
        except self.kafka.errors.KafkaError as e:
            raise Refused(repr(e)) from e

    def produce(self, topic, value):
        try:
            return self.producer.send(topic, key=b"k", value=value.encode()).get(15).offset
        except self.kafka.errors.KafkaError as e:
            raise Refused(repr(e)) from e

    def consume(self, topic, count):
        c = self.kafka.KafkaConsumer(topic, **self.conf, auto_offset_reset="earliest", group_id=None, consumer_timeout_ms=20000)
        try:
            return [m.value.decode() for m in itertools.islice(c, count)]
        finally:
            c.close()

    def close(self):
        for c in (self.producer, getattr(self, "admin", None)):
            if c is not None:
                c.close()
        self.stack.close()


class AiokafkaSession:
    def __init__(self, broker, login):
        import aiokafka
        import aiokafka.errors
        from aiokafka.abc import AbstractTokenProvider

        class Given(AbstractTokenProvider):
            async def token(self):
                return login.token if login.token is not None else signer_token(login.key, login.region)[0]

        self.aiokafka = aiokafka
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

        async def conf():
            out = dict(bootstrap_servers=broker.sasl_bootstrap, security_protocol="SASL_SSL", ssl_context=broker.client().tls(certificate=False),
                       sasl_mechanism=login.mechanism, retry_backoff_ms=50)
            if login.username is not None:
                out.update(sasl_plain_username=login.username, sasl_plain_password=login.password)
            elif login.mechanism == "OAUTHBEARER":
                out["sasl_oauth_token_provider"] = Given()
            return out

        self.conf = self._run(conf())
        with Words("aiokafka") as words:
            try:
                self.producer = self._run(self._start(aiokafka.AIOKafkaProducer, acks="all"))
                if not self.producer.client.cluster.brokers():  # it takes any answer to its first question for a success
                    raise Refused("no brokers in the metadata")
            except Refused as e:
                self.close()
                raise words.of(e) from e

    async def _start(self, kind, *arguments, **more):
        c = kind(*arguments, **self.conf, **more)
        try:
            await c.start()
        except BaseException:
            await c.stop()
            raise
        return c

    def _run(self, coroutine, timeout=30):
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)
        except self.aiokafka.errors.KafkaError as e:
            raise Refused(repr(e)) from e

    def describe(self):
        return self._run(self.producer.client.force_metadata_update())

    def produce(self, topic, value):
        return self._run(self.producer.send_and_wait(topic, value.encode(), b"k")).offset

    def consume(self, topic, count):
        async def read():
            c = await self._start(self.aiokafka.AIOKafkaConsumer, topic, auto_offset_reset="earliest", group_id=None)
            try:
                return [(await asyncio.wait_for(c.getone(), 20)).value.decode() for _ in range(count)]
            finally:
                await c.stop()
        return self._run(read())

    def close(self):
        if getattr(self, "producer", None):
            self._run(self.producer.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)


IN_PROCESS = {"librdkafka": LibrdkafkaSession, "kafka-python": KafkaPythonSession, "aiokafka": AiokafkaSession}


@contextlib.contextmanager
def open_session(client, broker, login: Login):
    session = IN_PROCESS[client](broker, login) if client in IN_PROCESS else LineSession(broker.programs, client, broker, login)
    try:
        yield session
    finally:
        session.close()


def refusal(client, broker, login: Login) -> str:
    """The words with which the client tells that it was refused; it is an error when it was let in."""
    try:
        with open_session(client, broker, login):
            pass
    except Refused as e:
        return str(e)
    raise AssertionError(f"{client} was let in")


def round_trip(client, broker, login: Login, topic):
    """Logs in, produces one record and reads it back, all as one principal."""
    value = uuid.uuid4().hex
    with open_session(client, broker, login) as s:
        s.produce(topic, value)
        offset = s.produce(topic, value)
        assert s.consume(topic, offset + 1)[-1] == value
