"""SCRAM credentials by Kafka's own tools and by command: set, told, deleted; bounds and rights as Kafka has them."""

import json
import secrets

import pytest
from confluent_kafka.admin import ScramCredentialInfo, ScramMechanism, UserScramCredentialDeletion, UserScramCredentialUpsertion

from harness import clients, iam, wire

pytestmark = pytest.mark.schloss_only

SHA_256, SHA_512 = ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512


@pytest.fixture(scope="module")
def b(target_class, tmp_path_factory):
    broker = target_class(tmp_path_factory.mktemp("scram") / "broker")
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def user(b, name):
    made = iam.command(b, "user", "create", name("scram"), "--tenant", "acme", "--policy", "consumer")
    assert made["in_force"]
    return made["name"]


def upsert(b, user, mechanism=SHA_512, iterations=4096, principal="admin", tenant="acme"):
    wish = UserScramCredentialUpsertion(user, ScramCredentialInfo(mechanism, iterations), b"a password")
    return clients.admin(b, tenant, principal).alter_user_scram_credentials([wish])[user].result()


def told(b, user, tenant="acme"):
    return sorted((row["Mechanism"], row["Iterations"]) for row in iam.command(b, "scram", "list", "--tenant", tenant)["ScramCredentials"] if row["UserName"] == user)


def test_librdkafkas_admin_client_sets_tells_and_deletes(b, user):
    upsert(b, user, SHA_256, 8192)
    upsert(b, user, SHA_512, 4096)
    described = clients.admin(b).describe_user_scram_credentials([user])[user].result()
    assert sorted((i.mechanism.name, i.iterations) for i in described.scram_credential_infos) == [("SCRAM_SHA_256", 8192), ("SCRAM_SHA_512", 4096)]
    assert told(b, user) == [("SCRAM-SHA-256", 8192), ("SCRAM-SHA-512", 4096)]
    clients.admin(b).alter_user_scram_credentials([UserScramCredentialDeletion(user, SHA_256)])[user].result()
    assert told(b, user) == [("SCRAM-SHA-512", 4096)]


def test_kafka_configs_sets_a_password_and_shows_that_it_is_there(b, user):
    clients.java(b, "kafka.admin.ConfigCommand", "--alter", "--entity-type", "users", "--entity-name", user, "--add-config", "SCRAM-SHA-256=[iterations=8192,password=secret-of-java]")
    assert told(b, user) == [("SCRAM-SHA-256", 8192)]
    shown = clients.java(b, "kafka.admin.ConfigCommand", "--describe", "--entity-type", "users", "--entity-name", user)
    assert "SCRAM-SHA-256=iterations=8192" in str(shown)


def test_the_command_sets_lists_and_deletes(b, user):
    made = iam.command(b, "scram", "set", user, "--tenant", "acme", "--generate")
    assert len(made["Password"]) == 40 and made["Iterations"] == 8192
    assert told(b, user) == [("SCRAM-SHA-512", 8192)]
    iam.command(b, "scram", "set", user, "--tenant", "acme", "--mechanism", "SCRAM-SHA-256", "--password-file", "-", "--iterations", "16384", stdin="typed by hand\n")
    assert told(b, user) == [("SCRAM-SHA-256", 16384), ("SCRAM-SHA-512", 8192)]
    iam.command(b, "scram", "delete", user, "--tenant", "acme")
    assert told(b, user) == [("SCRAM-SHA-256", 16384)]
    assert iam.raw(b, "scram", "set", user, "--tenant", "acme", "--password-file", "-", stdin="short\n").returncode == 1


def alter(b, principal="admin", deletions=(), upsertions=()):
    default = dict(mechanism=2, iterations=4096, salt=b"salt", salted_password=secrets.token_bytes(64))
    request = wire.build("alter_user_scram_credentials", 0, deletions=list(deletions), upsertions=[{**default, **u} for u in upsertions])
    with wire.Raw(b, "acme", principal) as raw:
        return {r.user: int(r.error_code) for r in raw.call(request).results}


@pytest.mark.parametrize("wish, code", [
    (dict(iterations=4095), 93), (dict(iterations=16385), 93), (dict(iterations=-1), 93), (dict(mechanism=3), 33), (dict(mechanism=0), 33),
    (dict(salted_password=b"short"), 93), (dict(mechanism=1), 93), (dict(salt=b""), 93), (dict(salt=bytes(1025)), 93), ({}, 0)])
def test_bounds_hold_as_in_kafka(b, user, wish, code):
    assert alter(b, upsertions=[dict(name=user, **wish)]) == {user: code}
    assert bool(told(b, user)) == (code == 0)


def test_a_user_altered_twice_an_empty_name_and_unknown_users_are_refused(b, user):
    assert alter(b, upsertions=[dict(name=user), dict(name=user)]) == {user: 92}
    assert alter(b, deletions=[dict(name=user, mechanism=2)], upsertions=[dict(name=user)]) == {user: 92}
    assert alter(b, upsertions=[dict(name="")]) == {"": 93}
    assert alter(b, upsertions=[dict(name="nobody-here")]) == {"nobody-here": 93}
    assert alter(b, deletions=[dict(name="nobody-here", mechanism=2)]) == {"nobody-here": 91}
    assert told(b, user) == []


def test_one_wrong_entry_does_not_stop_the_others(b, user):
    assert alter(b, upsertions=[dict(name=user), dict(name="nobody-here")]) == {user: 0, "nobody-here": 93}
    assert told(b, user)


def test_who_may_not_alter_the_cluster_may_not_set_passwords(b, user):
    assert alter(b, "producer", upsertions=[dict(name=user)]) == {user: 31}
    assert told(b, user) == []


def test_who_may_not_describe_the_cluster_is_told_of_no_user(b, user):
    upsert(b, user)
    connect = {"Effect": "Allow", "Action": "kafka-cluster:Connect", "Resource": "*"}
    iam.write(b, "tenants/acme/policies/blind.json", {"Version": "2012-10-17", "Statement": [connect]})
    iam.write(b, "tenants/acme/users/auditor.toml", 'policies = ["blind"]\n')
    iam.settle(b)
    with wire.Raw(b, "acme", "auditor") as raw:
        answer = raw.call(wire.build("describe_user_scram_credentials", 0, users=None))
        assert int(answer.error_code) == 31 and not answer.results


def test_another_tenants_users_are_unknown(b, user):
    upsert(b, user)
    with wire.Raw(b, "globex") as raw:
        answer = raw.call(wire.build("describe_user_scram_credentials", 0, users=[dict(name=user), dict(name="nobody-here"), dict(name="x"), dict(name="x")]))
        assert {r.user: int(r.error_code) for r in answer.results} == {user: 91, "nobody-here": 91, "x": 92}
        answer = raw.call(wire.build("describe_user_scram_credentials", 0, users=None))
        assert not [r for r in answer.results if r.user == user]


def test_passwords_survive_a_restart(fresh):
    b = fresh()
    upsert(b, "consumer", SHA_256, 8192)
    b.kill()
    b.start()
    assert told(b, "consumer") == [("SCRAM-SHA-256", 8192)]
    assert json.dumps(told(b, "consumer"))
