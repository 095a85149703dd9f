"""Access keys and principals by command: two per user, shown once, sealed at rest, gone when deleted."""

import json
import re
import stat

import pytest

from harness import env, iam

pytestmark = pytest.mark.schloss_only


@pytest.fixture(scope="module")
def b(target_class, tmp_path_factory):
    broker = target_class(tmp_path_factory.mktemp("keys") / "broker")
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def user(b, name):
    """A user nobody else has, in force."""
    made = iam.command(b, "user", "create", name("user"), "--tenant", "acme", "--policy", "consumer", "--tag", "team=blue")
    assert made["in_force"], made
    return made["name"]


def test_a_new_user_gets_a_key_that_signs_for_it(b, user):
    key = iam.access_key(b, user)
    assert re.fullmatch("AKIA[A-Z2-7]{16}", key[0]) and len(key[1]) == 40
    assert iam.sts(b, key).get_caller_identity()["Arn"] == iam.user_arn(b, user)


def test_a_third_key_is_refused_and_a_deleted_one_makes_room(b, user):
    first, _second = iam.access_key(b, user), iam.access_key(b, user)
    refused = iam.raw(b, "access-key", "create", "--tenant", "acme", "--user", user)
    assert refused.returncode == 1 and "LimitExceeded" in refused.stderr, refused.stderr
    iam.command(b, "access-key", "delete", first[0], "--tenant", "acme")
    iam.access_key(b, user)


def test_a_listing_tells_ids_and_last_use_and_never_a_secret(b, user):
    key = iam.access_key(b, user)
    listed = iam.raw(b, "access-key", "list", "--tenant", "acme", "--user", user)
    assert key[1] not in listed.stdout
    (row,) = json.loads(listed.stdout)["AccessKeyMetadata"]
    assert (row["AccessKeyId"], row["Status"], row["LastUsedDate"]) == (key[0], "Active", None)
    iam.sts(b, key).get_caller_identity()
    (row,) = iam.command(b, "access-key", "list", "--tenant", "acme", "--user", user)["AccessKeyMetadata"]
    assert row["LastUsedDate"]


def test_a_rotation_gives_a_new_key_and_ends_the_old_one(b, user):
    old = iam.access_key(b, user)
    new = iam.command(b, "access-key", "rotate", old[0], "--tenant", "acme")
    assert iam.refusal(iam.sts(b, old).get_caller_identity) == ("InvalidClientTokenId", 403)
    assert iam.sts(b, (new["AccessKeyId"], new["SecretAccessKey"])).get_caller_identity()["Arn"] == iam.user_arn(b, user)
    iam.command(b, "access-key", "activate", old[0], "--tenant", "acme")
    iam.sts(b, old).get_caller_identity()


@pytest.mark.parametrize("verb", ["deactivate", "delete"])
def test_a_key_that_is_taken_away_is_refused_at_once(b, user, verb):
    key = iam.access_key(b, user)
    iam.command(b, "access-key", verb, key[0], "--tenant", "acme")
    assert iam.refusal(iam.sts(b, key).get_caller_identity) == ("InvalidClientTokenId", 403)


def test_another_tenants_key_is_as_unknown_as_one_nobody_has(b, user):
    key = iam.access_key(b, user)
    said = [iam.raw(b, "access-key", "delete", wanted, "--tenant", "globex") for wanted in (key[0], "AKIA" + "A" * 16)]
    assert {done.returncode for done in said} == {1}
    assert said[0].stderr == said[1].stderr
    iam.sts(b, key).get_caller_identity()


def test_a_key_for_a_user_that_does_not_exist_is_refused(b):
    refused = iam.raw(b, "access-key", "create", "--tenant", "acme", "--user", "nobody-here")
    assert refused.returncode == 1 and "NoSuchUser" in refused.stderr


def test_a_removed_users_key_is_refused_and_told_as_drift(b, user):
    key = iam.access_key(b, user)
    assert iam.command(b, "user", "delete", user, "--tenant", "acme")["in_force"]
    assert iam.refusal(iam.sts(b, key).get_caller_identity) == ("InvalidClientTokenId", 403)
    planned = json.loads(b.run("iam", "plan", b.organisation, "--dir", b.folder, "--output", "json").stdout)
    assert {"tenant": "acme", "user": user, "access_key": key[0]} in planned["credentials_without_user"]
    iam.command(b, "access-key", "delete", key[0], "--tenant", "acme")


def test_a_plan_names_files_that_would_change(b, tmp_path, name):
    import shutil
    shutil.copytree(b.organisation, tmp_path / "next")
    (tmp_path / "next/tenants/acme/users/new.toml").write_text('policies = ["consumer"]\n')
    (tmp_path / "next/tenants/acme/users/admin.toml").write_text('policies = ["consumer"]\n')
    (tmp_path / "next/tenants/globex/groups/auditors.toml").write_text('policies = []\n')
    done = b.run("iam", "plan", tmp_path / "next", "--dir", b.folder, "--output", "json")
    planned = json.loads(done.stdout)
    assert done.returncode == 1
    assert planned["added"] == ["tenants/acme/users/new.toml"]
    assert planned["changed"] == ["tenants/acme/users/admin.toml", "tenants/globex/groups/auditors.toml"]
    assert planned["removed"] == []


def test_a_change_that_would_make_the_set_unsound_writes_nothing(b, name):
    before = sorted(str(path) for path in b.organisation.rglob("*"))
    refused = iam.raw(b, "user", "create", name("u"), "--tenant", "acme", "--policy", "no-such-policy")
    assert refused.returncode == 1 and "no-such-policy" in refused.stderr, refused.stderr
    refused = iam.raw(b, "user", "delete", "admin", "--tenant", "acme")
    assert refused.returncode == 1 and "certificates.toml" in refused.stderr, refused.stderr
    assert iam.raw(b, "user", "create", "../../x", "--tenant", "acme").returncode == 2
    assert sorted(str(path) for path in b.organisation.rglob("*")) == before


def test_groups_and_roles_are_made_shown_and_deleted(b, name, tmp_path):
    group, role = name("group"), name("role")
    (tmp_path / "trust.json").write_text(json.dumps(iam.trust(iam.trusting({"AWS": b.tenants["acme"]}))))
    iam.command(b, "group", "create", group, "--tenant", "acme", "--policy", "consumer")
    iam.command(b, "role", "create", role, "--tenant", "acme", "--policy", "consumer", "--trust", tmp_path / "trust.json", "--max-session-duration", "7200")
    assert group in iam.command(b, "group", "list", "--tenant", "acme")["groups"]
    shown = iam.command(b, "role", "show", role, "--tenant", "acme")
    assert "max_session_duration = 7200" in shown["text"] and shown["trust"]["Statement"]
    iam.command(b, "role", "delete", role, "--tenant", "acme")
    iam.command(b, "group", "delete", group, "--tenant", "acme")
    assert role not in iam.command(b, "role", "list", "--tenant", "acme")["roles"]
    assert not list(b.organisation.rglob(f"{role}*"))


def test_a_first_administrator_redeems_a_one_time_token_once(b, tmp_path, user):
    token = tmp_path / "first.token"
    made = b.run("iam", "bootstrap-token", "create", "--tenant", "acme", "--user", user, "--dir", b.folder, "--out", token)
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE(token.stat().st_mode) == 0o600 and token.read_text().strip() not in made.stdout
    redeem = ("iam", "bootstrap-token", "redeem", "--token-file", token, "--admin", f"localhost:{b.admin_port}", "--ca", b.client().ca, "--output", "json")
    done = b.run(*redeem)
    key = json.loads(done.stdout)
    assert iam.sts(b, (key["AccessKeyId"], key["SecretAccessKey"])).get_caller_identity()["Arn"] == iam.user_arn(b, user)
    again = b.run(*redeem)
    assert again.returncode == 1 and "InvalidToken" in again.stderr
    token.write_text("schloss-bootstrap-guessed\n")
    assert b.run(*redeem).stderr == again.stderr


def test_keys_survive_kill_9_and_stand_in_no_file(fresh, name):
    b = fresh()
    key = iam.access_key(b, "producer")
    iam.sts(b, key).get_caller_identity()
    b.kill()
    markers = [text.encode() for text in key]
    held = [str(path) for path in b.data.rglob("*") if path.is_file() and any(marker in path.read_bytes() for marker in markers[1:])]
    assert not held, held
    assert markers[1] not in b.log.read_bytes()
    b.start()
    env.eventually(lambda: iam.sts(b, key).get_caller_identity()["Arn"] == iam.user_arn(b, "producer"), what="the key after the restart")
