"""A broker that takes every kind of login, and the few verbs that make people for it.

`KafkaDoor` is Apache Kafka with SCRAM and OAUTHBEARER; `SchlossDoor` is the server under test. Suites use only what both have, or
carry the mark `schloss_only`.
"""

from confluent_kafka.admin import ScramCredentialInfo, ScramMechanism, UserScramCredentialDeletion, UserScramCredentialUpsertion

from . import clients
from .kafka_peer import SaslKafka
from .login import Programs
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
