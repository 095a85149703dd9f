"""Whoever can write the disks and the manifest: nothing exchanged, cut, doubled, put back or edited is served, and it is told.

The topics are written once; every mutation has topics of its own, so that one start of the broker judges all that do not
refuse it. A topic's verdict is `right` (all its records), `refused` (a storage error), or what was wrong. Flipped bytes:
test_tampering.py.

Rows of the manifest are proved twice. Any edit of a row is found at the start by the sums under the cluster's key: its tenant is not
served, or the start is refused. What the objects themselves say is still checked after an operator has accepted the rows.
"""

import json
import re
import secrets
import shutil
import sqlite3
import struct
import subprocess
import uuid

import confluent_kafka
import pytest

from harness import clients, env, traffic, wire
from harness.broker import NotReady, Schloss
from harness.manifest import Manifest, frames_of

pytestmark = [pytest.mark.schloss_only, pytest.mark.timeout(300)]
GLOBEX = 222_222_222_222


class Ground:
    """A broker, stopped, and its topics. `kept` is the data folder as it was."""

    def __init__(self, folder):
        self.broker = Schloss(folder, config={"storage.flush.ms": 20})
        self.kept, self.ids, self.values, self.spare = folder.parent / "kept", {}, {}, []
        self.manifest = Manifest(self.broker)

    def topic(self, name, tenant="acme", partitions=1, at_once=False):
        """A topic with two records in each partition: in two segments, or `at_once` as neighbouring frames of one."""
        b = self.broker
        clients.create_topic(b, name, partitions, tenant=tenant)
        with wire.Raw(b, tenant=tenant) as raw:
            for which in ("first", "second"):
                value = f"{which} of {name} of {tenant}"
                records = traffic.batch(value.encode() + (b"." * 70_000 if at_once else b""))
                raw.send_request(wire.build("produce", 9, acks=-1, timeout=15_000, topic_data=[dict(name=name, partition_data=[
                    dict(index=p, records=records) for p in range(partitions)])]))
                if not at_once:
                    raw.receive()
                    self.flushed()
                self.values.setdefault((tenant, name), []).append(value)
            if at_once:
                raw.receive(), raw.receive()
                self.flushed()
        found = clients.admin(b, tenant).describe_topics(confluent_kafka.TopicCollection([name]))[name].result().topic_id
        self.ids[tenant, name] = struct.pack(">qq", found.get_most_significant_bits(), found.get_least_significant_bits())

    def flushed(self):
        pattern = re.compile(r"(?m)^schloss_\w*tail_bytes\S* ([0-9.]+)")
        env.eventually(lambda: float(pattern.search(self.broker.admin_get("/metrics")[1]).group(1)) == 0, every=0.01, what="the flush")

    def wide(self, tenant, count):
        """Names of `count` topics whose two frames came to lie in one segment."""
        good, tries = [], 0
        while len(good) < count:
            tries += 1
            assert tries < 10 * count, "two requests sent at once never reach one segment"
            name = f"wide-{tries}"
            self.topic(name, tenant, at_once=True)
            newest = max(self.broker.data.rglob("objects/seg/*/*"), key=lambda p: p.stat().st_mtime_ns)
            if newest.stat().st_size > 2 * 70_000:  # the manifest is locked while the broker runs
                good.append(name)
        return good

    def restore(self):
        shutil.rmtree(self.broker.data)
        subprocess.run(["cp", "-a", "--sparse=always", self.kept, self.broker.data], check=True)

    def objects(self, name, tenant="acme"):
        return [self.manifest.path_of(o) for o in self.manifest.object_ids(self.ids[tenant, name])]

    def restore_manifest(self):
        for name in ("manifest.db", "manifest.db-wal", "manifest.db-shm"):
            (self.broker.data / name).unlink(missing_ok=True)
            if (self.kept / name).exists():
                shutil.copyfile(self.kept / name, self.broker.data / name)

    def command(self, verb, *more):
        """`schloss manifest`: (exit status, its JSON)."""
        done = self.broker.run("manifest", verb, "--config", self.broker.own_config, "--output", "json", *more)
        assert done.returncode == 0 or verb == "verify" and done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def accept(self):
        assert self.command("accept", "--yes")[0] == 0

    def doubts(self):
        """{(tenant or "installation", table)} that do not match."""
        status, found = self.command("verify")
        assert status == (0 if found["good"] else 1)
        return {(d["tenant"] or "installation", d["table"]) for d in found["doubts"]}

    def events(self, action):
        """{(stream, resource)} of the audit log."""
        done = self.broker.run("audit", "query", "--dir", self.broker.folder, "--output", "json")
        assert done.returncode == 0, done.stderr
        found = [json.loads(l) for l in done.stdout.splitlines() if l.strip()]
        return {(e["stream"], e["event"]["resources"][0]["uid"]) for e in found if e["event"]["unmapped"]["action"] == action}

    def serves(self, tenant):
        """Whether a login of the tenant gets an answer."""
        try:
            with wire.Raw(self.broker, tenant=tenant, timeout=30) as raw:
                traffic.fetch(raw, "untouched" if tenant == "acme" else "theirs")
            return True
        except (OSError, wire.Closed):
            return False

    def judge(self, names, tenant="acme"):
        with wire.Raw(self.broker, tenant=tenant, timeout=30) as raw:
            return {n: self.verdict(raw, n, self.values[tenant, n]) for n in names}

    @staticmethod
    def verdict(raw, name, wanted):
        seen = []
        for offset in range(len(wanted)):
            code, records = traffic.fetch(raw, name, offset=offset)
            if code == traffic.KAFKA_STORAGE_ERROR and not records:
                return "refused"
            if code:
                return f"error {code} at offset {offset}"
            if not records:
                return f"nothing at offset {offset}, and no error"
            if wanted[offset].encode() not in records:
                return f"other bytes at offset {offset}"
            seen.append(wanted[offset])
        return "right"


def swap(one, two):
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b), two.write_bytes(a)


def reframe(path, order):
    """Puts the frames of an object in this order (numbers; bytes are foreign frames)."""
    raw = path.read_bytes()
    frames = frames_of(raw)
    parts = [raw[slice(*frames[f])] if isinstance(f, int) else f for f in order]
    path.write_bytes(raw[:frames[0][0]] + b"".join(parts) + raw[frames[-1][1]:])


def frame(path, number):
    raw = path.read_bytes()
    return raw[slice(*frames_of(raw)[number])]


def last_kind(path):
    raw = bytearray(path.read_bytes())
    raw[frames_of(raw)[-1][0] + 4] ^= 1
    path.write_bytes(raw)


# Objects: name → what is done to the objects of a topic; `o` are its objects, `x` another topic's, `g` another tenant's.
OBJECTS = {
    "its two segments exchanged": lambda o, x, g: swap(o[0], o[1]),
    "another topic's segment in its place": lambda o, x, g: shutil.copyfile(x[0], o[0]),
    "another tenant's segment in its place": lambda o, x, g: shutil.copyfile(g[0], o[0]),
    "a byte cut off": lambda o, x, g: o[0].write_bytes(o[0].read_bytes()[:-1]),
    "the footer cut off": lambda o, x, g: o[0].write_bytes(o[0].read_bytes()[:-40]),
    "half of it cut off": lambda o, x, g: o[0].write_bytes(o[0].read_bytes()[:2000]),
    "emptied": lambda o, x, g: o[0].write_bytes(b""),
    "taken away": lambda o, x, g: o[0].unlink(),
    "the head of another topic's": lambda o, x, g: o[0].write_bytes(x[0].read_bytes()[:4096] + o[0].read_bytes()[4096:]),
    "the footer of another topic's": lambda o, x, g: o[0].write_bytes(o[0].read_bytes()[:-137] + x[0].read_bytes()[-137:]),
    "the same segment in both places": lambda o, x, g: shutil.copyfile(o[0], o[1]),
}
# Frames of one segment: `w` the topic's object, `x` another topic's, `g` another tenant's; all have two frames.
FRAMES = {
    "two frames exchanged": lambda w, x, g: reframe(w, [1, 0]),
    "the first frame doubled in the second's place": lambda w, x, g: reframe(w, [0, 0]),
    "a frame more": lambda w, x, g: reframe(w, [0, 0, 1]),
    "the first frame taken out": lambda w, x, g: reframe(w, [1]),
    "the last frame taken out": lambda w, x, g: reframe(w, [0]),
    "another topic's frame of the same number": lambda w, x, g: reframe(w, [frame(x, 0), 1]),
    "another tenant's frame of the same number": lambda w, x, g: reframe(w, [0, frame(g, 1)]),
    "the last frame called a data frame": lambda w, x, g: last_kind(w),
}


def row(table, **changes):
    """Edits the topic's first row of `table`; a callable gets (ground, topic name)."""
    where = {"segments": "object_id = (SELECT object_id FROM segment_parts WHERE topic_id = :t AND first_offset = 0)",
             "segment_parts": "topic_id = :t AND first_offset = 0"}.get(table, "topic_id = :t")

    def change(g, name):
        values = {"t": g.ids["acme", name], **{f"v_{c}": v(g, name) if callable(v) else v for c, v in changes.items()}}
        sql = f"UPDATE {table} SET {', '.join(f'{c} = :v_{c}' for c in changes)} WHERE {where}"
        g.manifest.edit(sql, values)
    return change


def wrapped_of(tenant, name):
    return lambda g, _: g.manifest.query("SELECT wrapped FROM segments WHERE object_id = ?", g.manifest.object_ids(g.ids[tenant, name])[0])[0][0]


def noise(n):
    return lambda g, name: secrets.token_bytes(n)


def flipped_blob(g, name):
    raw = bytearray(g.manifest.query("SELECT wrapped FROM segments WHERE object_id = ?", g.manifest.object_ids(g.ids["acme", name])[0])[0][0])
    raw[-1] ^= 1
    return bytes(raw)


REFUSED, HARMLESS = "refused", "right"
# Columns of a topic's own rows: (what is expected, the edit).
ROWS = {
    "segments.segment := noise": (REFUSED, row("segments", segment=noise(16))),
    "segments.tenant := globex": (REFUSED, row("segments", tenant=GLOBEX)),
    "segments.wrapped := another segment's": (REFUSED, row("segments", wrapped=wrapped_of("acme", "other"))),
    "segments.wrapped := another tenant's": (REFUSED, row("segments", wrapped=wrapped_of("globex", "theirs"))),
    "segments.wrapped := a bit flipped": (REFUSED, row("segments", wrapped=flipped_blob)),
    "segments.wrapped := noise": (REFUSED, row("segments", wrapped=noise(143))),
    "segments.size := less": (REFUSED, row("segments", size=4000)),
    "segments.size := more": (REFUSED, row("segments", size=99_999)),
    "segments.frame_count := 2": (REFUSED, row("segments", frame_count=2)),
    "segments.frame_count := 0": (REFUSED, row("segments", frame_count=0)),
    "segments.footer_position := earlier": (REFUSED, row("segments", footer_position=4100)),
    "segments.footer_tag := noise": (REFUSED, row("segments", footer_tag=noise(16))),
    "segments.born_ms := 1": (HARMLESS, row("segments", born_ms=1)),
    "segment_parts.object_id := another topic's": (REFUSED, row("segment_parts", object_id=lambda g, n: g.manifest.object_ids(g.ids["acme", "other"])[0])),
    "segment_parts.object_id := another tenant's": (REFUSED, row("segment_parts", object_id=lambda g, n: g.manifest.object_ids(g.ids["globex", "theirs"])[0])),
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    g = Ground(tmp_path_factory.mktemp("mutations") / "broker")
    g.broker.start()
    g.topic("theirs", "globex")
    g.topic("other")
    g.names = {}
    for n, mutation in enumerate([*OBJECTS, *ROWS]):
        g.names[mutation] = f"m{n:02}"
        g.topic(g.names[mutation])
    wide = g.wide("acme", len(FRAMES) + 1)
    g.wide_theirs, = g.wide("globex", 1)
    g.wide_other = wide.pop()
    g.names.update(zip(FRAMES, wide))
    g.topic("untouched")
    assert g.broker.stop() == 0
    subprocess.run(["cp", "-a", "--sparse=always", g.broker.data, g.kept], check=True)
    g.before = {n: g.manifest.object_ids(g.ids["acme", n]) for n in [*g.names.values(), "other", "untouched"]}
    yield g
    clients.forget(g.broker)
    shutil.rmtree(g.broker.folder, ignore_errors=True)
    shutil.rmtree(g.kept, ignore_errors=True)


@pytest.fixture(scope="module")
def judged(ground):
    """{mutation: verdict} of all that leave the start alone, with the metrics and the audit events of that run. The rows were accepted."""
    g = ground
    g.restore()
    for mutation, spoil in OBJECTS.items():
        spoil(g.objects(g.names[mutation]), g.objects("other"), g.objects("theirs", "globex"))
    for mutation, spoil in FRAMES.items():
        spoil(g.objects(g.names[mutation])[0], g.objects(g.wide_other)[0], g.objects(g.wide_theirs, "globex")[0])
    for mutation, (_, edit) in ROWS.items():
        edit(g, g.names[mutation])
    g.accept()
    g.broker.start()
    try:
        verdicts = g.judge([*g.names.values(), "untouched", "other", g.wide_other])
        verdicts.update({f"globex {n}": v for n, v in g.judge(["theirs", g.wide_theirs], "globex").items()})
        metrics = g.broker.admin_get("/metrics")[1]
    finally:
        g.broker.kill()
    done = g.broker.run("audit", "query", "--dir", g.broker.folder, "--output", "json")
    assert done.returncode == 0, done.stderr
    return verdicts, metrics, [json.loads(l) for l in done.stdout.splitlines() if l.strip()]


def test_rows_of_a_tenant_edited_stop_it_until_they_are_accepted(ground):
    """All of ROWS at once, but for the one that is an edit of globex's rows too."""
    g = ground
    g.restore()
    for mutation, (_, edit) in ROWS.items():
        if mutation != "segments.tenant := globex":
            edit(g, g.names[mutation])
    g.broker.start()
    try:
        assert not g.serves("acme") and g.judge(["theirs"], "globex") == {"theirs": "right"}
    finally:
        g.broker.kill()
    assert g.events("schloss:IntegrityFailure") >= {("111111111111", "manifest table segments"), ("111111111111", "manifest table segment_parts")}


@pytest.mark.parametrize("mutation", [*OBJECTS, *FRAMES, *(m for m, (expected, _) in ROWS.items() if expected == REFUSED)])
def test_what_was_altered_is_refused_with_a_retriable_error(ground, judged, mutation):
    assert judged[0][ground.names[mutation]] == "refused"


@pytest.mark.parametrize("mutation", [m for m, (expected, _) in ROWS.items() if expected == HARMLESS])
def test_an_edit_that_says_nothing_about_records_is_harmless(ground, judged, mutation):
    assert judged[0][ground.names[mutation]] == "right"


def test_topics_and_tenants_whose_data_were_left_alone_are_served(ground, judged):
    assert {n: judged[0][n] for n in ("untouched", "other", ground.wide_other, "globex theirs", f"globex {ground.wide_theirs}")} == dict.fromkeys(
        ("untouched", "other", ground.wide_other, "globex theirs", f"globex {ground.wide_theirs}"), "right")


@pytest.mark.parametrize("mutation", [*OBJECTS, *FRAMES, *(m for m, (expected, _) in ROWS.items() if expected == REFUSED)])
def test_what_was_altered_is_in_the_audit_log(ground, judged, mutation):
    """By the object's name: as the row named it before the edit, or after."""
    name = ground.names[mutation]
    names = {o.hex() for o in ground.before[name]} | {o.hex() for o in ground.manifest.object_ids(ground.ids["acme", name])}
    told = [e for e in judged[2] if "IntegrityFailure" in json.dumps(e) and any(n in json.dumps(e) for n in names)]
    assert told, f"{mutation}: no event names the object"


def test_every_altered_object_is_counted_by_the_metric(ground, judged):
    refused = [m for m, n in ground.names.items() if judged[0][n] == "refused"]
    counted = float(re.search(r"(?m)^schloss_integrity_failures\w* ([0-9.]+)", judged[1]).group(1))
    assert len(refused) > 30 and counted >= len(refused)


ACME_KEY, GLOBEX_KEY = (111_111_111_111).to_bytes(16, "big"), GLOBEX.to_bytes(16, "big")


def topic_row(change, *values):
    return lambda g: g.manifest.edit(f"UPDATE topics SET {change} WHERE topic_id = ?", (*[v(g) if callable(v) else v for v in values], g.ids["acme", "other"]))


def sealed_of(g):
    return g.manifest.query("SELECT sealed FROM topics WHERE topic_id = ?", g.ids["acme", "untouched"])[0][0]


def key_of(tenant, purpose):
    return lambda g: g.manifest.query("SELECT wrapped FROM keys WHERE tenant = ? AND purpose = ?", tenant, purpose)[0][0]


def key_row(purpose, wrapped):
    return lambda g: g.manifest.edit("UPDATE keys SET wrapped = ? WHERE tenant = ? AND purpose = ?", (wrapped(g) if callable(wrapped) else wrapped, ACME_KEY, purpose))


def sql(text, *values):
    return lambda g: g.manifest.edit(text, values)


ACME, INSTALLATION = "111111111111", "installation"
OTHER = lambda g: g.ids["acme", "other"]  # noqa: E731


def other(text):
    """An edit of the rows of acme's topic `other`."""
    return lambda g: g.manifest.edit(text, {"t": OTHER(g)})


def forged_garbage(g):
    """Says that the live objects of a topic are needed no more."""
    g.manifest.edit("INSERT INTO garbage (object_id, tenant, removed_ms) SELECT object_id, tenant, 1 FROM segment_parts WHERE topic_id = ?", (OTHER(g),))


# Name → (the edit, whose rows it makes doubtful, in which tables). Each gets a start of its own.
EDITS = {
    "cluster.id := noise": (sql("UPDATE cluster SET id = ?", secrets.token_bytes(16)), {INSTALLATION}, {"cluster"}),
    "the cluster's row taken away": (sql("DELETE FROM cluster"), {INSTALLATION}, {"cluster"}),
    "a cluster row more": (sql("INSERT INTO cluster (id) VALUES (x'01'), (x'01')"), {INSTALLATION}, {"cluster"}),
    "topics.sealed := noise": (topic_row("sealed = ?", secrets.token_bytes(107)), {ACME}, {"topics"}),
    "topics.sealed := another topic's": (topic_row("sealed = ?", sealed_of), {ACME}, {"topics"}),
    "topics.tenant := globex": (topic_row("tenant = ?", GLOBEX), {ACME, str(GLOBEX)}, {"topics"}),
    "topics.topic_id := noise": (topic_row("topic_id = ?", secrets.token_bytes(16)), {ACME}, {"topics"}),
    "topics.partitions := 2": (topic_row("partitions = 2"), {ACME}, {"topics"}),
    "topics.created_ms := 1": (topic_row("created_ms = ?", 1), {ACME}, {"topics"}),
    "topics.name_index := noise": (topic_row("name_index = ?", secrets.token_bytes(32)), {ACME}, {"topics"}),
    "topics row taken away": (other("DELETE FROM topics WHERE topic_id = :t"), {ACME}, {"topics"}),
    "a topic taken away whole": (lambda g: [other(f"DELETE FROM {t} WHERE topic_id = :t")(g) for t in ("topics", "partitions", "segment_parts")], {ACME}, {"topics", "partitions", "segment_parts"}),
    "partitions.log_start := 1": (other("UPDATE partitions SET log_start = 1 WHERE topic_id = :t"), {ACME}, {"partitions"}),
    "partitions.idx := 7": (other("UPDATE partitions SET idx = 7 WHERE topic_id = :t"), {ACME}, {"partitions"}),
    "partitions.topic_id := noise": (other("UPDATE partitions SET topic_id = randomblob(16) WHERE topic_id = :t"), {ACME}, {"partitions"}),
    "partitions.shard := 7": (other("UPDATE partitions SET shard = 7 WHERE topic_id = :t"), {ACME}, {"partitions"}),
    "partitions row taken away": (other("DELETE FROM partitions WHERE topic_id = :t"), {ACME}, {"partitions"}),
    "the last part taken away": (other("DELETE FROM segment_parts WHERE topic_id = :t AND first_offset = 1"), {ACME}, {"segment_parts"}),
    "the last part's next_offset := 1": (other("UPDATE segment_parts SET next_offset = 1 WHERE topic_id = :t AND first_offset = 1"), {ACME}, {"segment_parts"}),
    "the last segment taken away": (other("DELETE FROM segments WHERE object_id = (SELECT object_id FROM segment_parts WHERE topic_id = :t AND first_offset = 1)"), {ACME}, {"segments"}),
    "segment_parts.bytes, max_timestamp, appended_ms := 1": (other("UPDATE segment_parts SET bytes = 1, max_timestamp = 1, appended_ms = 1 WHERE topic_id = :t"), {ACME}, {"segment_parts"}),
    "keys.wrapped := noise": (key_row("index", secrets.token_bytes(143)), {ACME}, {"keys"}),
    "keys.wrapped := the key of another purpose": (key_row("metadata", key_of(ACME_KEY, "index")), {ACME}, {"keys"}),
    "keys.wrapped := another tenant's": (key_row("metadata", key_of(GLOBEX_KEY, "metadata")), {ACME}, {"keys"}),
    "keys.purpose := another": (sql("UPDATE keys SET purpose = 'other' WHERE tenant = ? AND purpose = 'index'", ACME_KEY), {ACME}, {"keys"}),
    "keys.generation := 5": (sql("UPDATE keys SET generation = 5 WHERE tenant = ?", ACME_KEY), {ACME}, {"keys"}),
    "keys.tenant := noise": (sql("UPDATE keys SET tenant = ? WHERE tenant = ?", secrets.token_bytes(16), ACME_KEY), {ACME, INSTALLATION}, {"keys"}),
    "keys gone": (sql("DELETE FROM keys WHERE tenant = ?", ACME_KEY), {ACME}, {"keys"}),
    "the key of proofs gone": (sql("DELETE FROM keys WHERE purpose = 'integrity'"), {INSTALLATION}, {"keys"}),
    "the key of proofs := noise": (sql("UPDATE keys SET wrapped = ? WHERE purpose = 'integrity'", secrets.token_bytes(143)), {INSTALLATION}, {"keys"}),
    "the key of proofs := a tenant's": (lambda g: g.manifest.edit("UPDATE keys SET wrapped = ? WHERE purpose = 'integrity'", (key_of(ACME_KEY, "index")(g),)), {INSTALLATION}, {"keys"}),
    "a secret put there": (sql("INSERT INTO sealed (tenant, kind, key_index, sealed) VALUES (111111111111, 'scram', zeroblob(32), x'00')"), {ACME}, {"sealed"}),
    "live objects called garbage": (forged_garbage, {ACME}, {"garbage"}),
    "state.sealed := noise": (sql("UPDATE state SET sealed = ? WHERE tenant = 111111111111", secrets.token_bytes(119)), {ACME}, {"state"}),
    "state.tenant exchanged": (sql(f"UPDATE state SET tenant = CASE tenant WHEN {GLOBEX} THEN 111111111111 ELSE {GLOBEX} END"), {ACME, str(GLOBEX)}, {"state"}),
    "state gone": (sql("DELETE FROM state WHERE tenant = 111111111111"), {ACME}, {"state"}),
    "shards.checkpoint_epoch := 0": (sql("UPDATE shards SET checkpoint_epoch = 0"), {INSTALLATION}, {"shards"}),
    "shards.epoch := 9": (sql("UPDATE shards SET epoch = 9"), {INSTALLATION}, {"shards"}),
    "shards.writer := noise": (sql("UPDATE shards SET writer = ?", secrets.token_bytes(16)), {INSTALLATION}, {"shards"}),
    "shards.opened := 99": (sql("UPDATE shards SET opened = 99"), {INSTALLATION}, {"shards"}),
    "shards gone": (sql("DELETE FROM shards"), {INSTALLATION}, {"shards"}),
    "epochs.end_seq := 1": (sql("UPDATE epochs SET end_seq = 1"), {INSTALLATION}, {"epochs"}),
    "epochs gone": (sql("DELETE FROM epochs"), {INSTALLATION}, {"epochs"}),
    "sums gone": (sql("DELETE FROM proofs"), {INSTALLATION}, {"proofs"}),
    "a tenant's sums gone": (sql("DELETE FROM proofs WHERE tenant = ?", ACME_KEY), {INSTALLATION}, {"proofs"}),
    "the format called an earlier one": (lambda g: g.manifest.script("PRAGMA user_version = 1"), {INSTALLATION}, {"proofs"}),
    "a trigger": (lambda g: g.manifest.script("CREATE TRIGGER t AFTER INSERT ON state BEGIN DELETE FROM topics; END"), {INSTALLATION}, {"sqlite_schema"}),
}


def fate(g, edit, accepted=False):
    """What a start after the edit serves of acme: `start refused`, or the set of its topics' verdicts; and what it said."""
    g.restore()
    edit(g)
    if accepted:
        g.accept()
    try:
        g.broker.start(timeout=30)
    except NotReady as refused:
        if g.broker.running():
            g.broker.kill()
        return {"start refused"}, str(refused)
    try:
        return set(g.judge(["other", "untouched"]).values()), g.broker.process.output()
    except (OSError, wire.Closed) as refused:
        return {"tenant refused"}, f"{refused}\n{g.broker.process.output()}"
    finally:
        g.broker.kill()


def told(g, owners, tables):
    events = g.events("schloss:IntegrityFailure")
    return all(any((o.replace(INSTALLATION, "cluster"), f"manifest table {t}") in events for t in tables) for o in owners)


@pytest.mark.parametrize("mutation", [m for m, (_, owners, _) in EDITS.items() if INSTALLATION in owners])
def test_an_edit_of_the_installations_rows_refuses_the_start_is_told_and_deletes_nothing(ground, mutation):
    g, (edit, owners, tables) = ground, EDITS[mutation]
    g.restore()
    edit(g)
    objects = {p.relative_to(g.kept / "objects") for p in (g.kept / "objects").rglob("*") if p.is_file()}
    code, said = g.broker.start_refused()
    assert code == 1 and "SCH-206" in said and "next:" in said and all(t in said for t in tables), said
    assert told(g, owners & {INSTALLATION}, tables)
    assert {p.relative_to(g.broker.data / "objects") for p in (g.broker.data / "objects").rglob("*") if p.is_file()} == objects
    assert not g.broker.run("audit", "verify", "--dir", g.broker.folder).returncode


@pytest.mark.parametrize("mutation", [m for m, (_, owners, _) in EDITS.items() if INSTALLATION not in owners])
def test_an_edit_of_a_tenants_rows_stops_that_tenant_only_and_is_told_and_counted(ground, mutation):
    g, (edit, owners, tables) = ground, EDITS[mutation]
    g.restore()
    edit(g)
    g.broker.start()
    try:
        assert not g.serves("acme"), "acme is served"
        assert g.serves("globex") == (str(GLOBEX) not in owners)
        metrics = g.broker.admin_get("/metrics")[1]
        counted = float(re.search(r"(?m)^schloss_integrity_failures\w* ([0-9.]+)", metrics).group(1))
        assert counted == len(owners) * len(tables)
        show = g.broker.run("tenant", "show", "acme", "--dir", g.broker.folder, "--output", "json")
        assert set(tables) <= set(json.loads(show.stdout)["tenants"][0]["in_doubt"]), show.stderr
        for verb in ("rewrap", "rewrite"):
            refused = g.broker.run("keys", verb, "acme", "--dir", g.broker.folder)
            assert refused.returncode == 1 and [*tables][0] in refused.stderr and "manifest verify" in refused.stderr, refused.stderr
    finally:
        g.broker.kill()
    for owner in owners:
        assert told(g, {owner}, tables)
    assert g.doubts() == {(o, t) for o in owners for t in tables}, "it stays in doubt"
    assert all(p.exists() for n in ("other", "untouched") for p in [g.manifest.objects / "seg" / ACME / o.hex() for o in g.before[n]])


@pytest.mark.parametrize("mutation", ["topics.created_ms := 1", "segment_parts.bytes, max_timestamp, appended_ms := 1"])
def test_an_edit_that_changes_nothing_true_is_served_again_once_it_is_accepted(ground, mutation):
    assert fate(ground, EDITS[mutation][0], accepted=True)[0] == {"right"}
    assert (ACME, f"manifest table {[*EDITS[mutation][2]][0]}") in ground.events("schloss:AcceptManifest")
    assert ("cluster", "manifest.db") in ground.events("schloss:AcceptManifest")


@pytest.mark.parametrize("mutation", ["topics.sealed := noise", "topics.sealed := another topic's", "topics.topic_id := noise", "keys.wrapped := noise",
                                      "keys.wrapped := the key of another purpose", "keys.wrapped := another tenant's", "keys gone",
                                      "state.sealed := noise", "state.tenant exchanged", "shards.checkpoint_epoch := 0", "shards gone"])
def test_what_does_not_open_is_refused_with_advice_even_when_it_was_accepted(ground, mutation):
    verdicts, said = fate(ground, EDITS[mutation][0], accepted=True)
    assert verdicts <= {"start refused", "tenant refused", "refused"}, verdicts
    assert "SCH-" in said and "next:" in said if verdicts == {"start refused"} else True, said[-1000:]


def test_every_column_of_every_table_is_proved(ground):
    """Each column of a row edited, and the row taken away; for tables that are empty here, a row put there."""
    g = ground
    g.restore()
    columns = g.manifest.columns()
    assert len(columns) == 13, "a new table: is it filled here?"
    for table, names in columns.items():
        rows = g.manifest.query(f"SELECT {', '.join(names)} FROM {table} LIMIT 1")
        if not rows:
            g.manifest.edit(f"INSERT INTO {table} VALUES ({', '.join('1' * len(names))})")
            assert table in {t for _, t in g.doubts()}, f"a row more in {table}"
            g.restore_manifest()
            continue
        if table == "cluster":
            continue  # under another id no key opens: EDITS
        where = " AND ".join(f"{n} IS ?" for n in names)
        g.manifest.edit(f"DELETE FROM {table} WHERE {where}", rows[0])
        assert table in {t for _, t in g.doubts()}, f"a row of {table} taken away"
        g.restore_manifest()
        for name, value in zip(names, rows[0]):
            other = value + 77 if isinstance(value, int) else value + "x" if isinstance(value, str) else bytes(b ^ 0x55 for b in value)
            g.manifest.edit(f"UPDATE {table} SET {name} = ? WHERE {where}", (other, *rows[0]))
            assert table in {t for _, t in g.doubts()}, f"{table}.{name}"
            g.restore_manifest()
    assert g.doubts() == set()


def test_rows_and_sums_of_an_earlier_time_put_back_refuse_the_start(ground):
    """One tenant's rows and its row of sums, of before a topic was made; the others' are the newest."""
    g = ground
    g.restore()
    g.broker.start()
    clients.create_topic(g.broker, "newer", 1)
    assert g.broker.stop() == 0
    with sqlite3.connect(g.broker.data / "manifest.db") as db:
        db.execute("ATTACH ? AS old", (str(g.kept / "manifest.db"),))
        for table in ("topics", "partitions", "segment_parts", "segments", "state", "sealed", "garbage"):
            db.execute(f"DELETE FROM main.{table} WHERE tenant = {ACME}")
            db.execute(f"INSERT INTO main.{table} SELECT * FROM old.{table} WHERE tenant = {ACME}")
        db.execute("DELETE FROM main.proofs WHERE tenant = ?", (ACME_KEY,))
        db.execute("INSERT INTO main.proofs SELECT * FROM old.proofs WHERE tenant = ?", (ACME_KEY,))
    db.close()
    code, said = g.broker.start_refused()
    assert code == 1 and "SCH-206" in said and "proofs" in said, said
    assert told(g, {INSTALLATION}, {"proofs"})


# What format 3 made of format 2, undone.
EARLIER = """
CREATE TEMP TABLE parts AS SELECT topic_id, idx, first_offset, next_offset, object_id, bytes, max_timestamp, appended_ms FROM segment_parts;
DROP TABLE segment_parts;
CREATE TABLE segment_parts (
    topic_id BLOB NOT NULL, idx INTEGER NOT NULL, first_offset INTEGER NOT NULL, next_offset INTEGER NOT NULL,
    object_id BLOB NOT NULL, bytes INTEGER NOT NULL, max_timestamp INTEGER NOT NULL, appended_ms INTEGER NOT NULL,
    PRIMARY KEY (topic_id, idx, first_offset)) WITHOUT ROWID;
CREATE INDEX parts_by_object ON segment_parts (object_id);
INSERT INTO segment_parts SELECT * FROM parts;
DROP TABLE proofs;
DROP TABLE aside;
PRAGMA user_version = 2;
"""


def test_a_manifest_of_an_earlier_format_is_left_alone_until_it_is_accepted_and_then_serves_everything(ground):
    g = ground
    g.restore()
    g.manifest.script(EARLIER)
    before = g.manifest.path.read_bytes()
    code, said = g.broker.start_refused()
    assert code == 1 and "SCH-206" in said and "schloss manifest accept" in said, said
    assert g.manifest.path.read_bytes() == before
    g.accept()
    assert g.doubts() == set()
    g.broker.start()
    try:
        assert g.judge(["other", "untouched"]) == {"other": "right", "untouched": "right"}
        assert g.judge(["theirs"], "globex") == {"theirs": "right"}
    finally:
        g.broker.kill()


@pytest.mark.parametrize("what", ["taken away", "emptied", "a new one in its place"])
def test_a_lost_manifest_is_told_and_nothing_is_swept(ground, what, tmp_path):
    g = ground
    g.restore()
    if what == "a new one in its place":
        g.manifest.script("".join(f"DELETE FROM {t};" for t in g.manifest.columns() if t not in ("cluster", "keys")) + "DELETE FROM keys WHERE tenant <> zeroblob(16)")
    else:
        for p in g.broker.data.glob("manifest.db*"):
            p.unlink()
        if what == "emptied":
            (g.broker.data / "manifest.db").touch()
    code, said = g.broker.start_refused()
    assert code == 1 and "SCH-206" in said and "manifest.db" in said and "next:" in said, said
    files = lambda d: {p.relative_to(d) for p in (d / "objects").rglob("*") if p.is_file()}  # noqa: E731
    assert files(g.broker.data) == files(g.kept)
    assert what != "taken away" or not (g.broker.data / "manifest.db").exists()
    g.restore_manifest()
    assert ("cluster", "manifest.db") in g.events("schloss:IntegrityFailure")
    g.broker.start()
    try:
        assert g.judge(["other", "untouched"]) == {"other": "right", "untouched": "right"}
    finally:
        g.broker.kill()


def test_a_killed_broker_leaves_a_proved_manifest(ground):
    """Killed between topics that come, go and are written to."""
    g = ground
    g.restore()
    for round in range(3):
        g.broker.start()
        for n in range(4 + round):
            clients.create_topic(g.broker, f"k{round}-{n}", 1)
            with wire.Raw(g.broker) as raw:
                assert traffic.produce(raw, f"k{round}-{n}", b"v") == 0
        clients.admin(g.broker).delete_topics([f"k{round}-0"])
        g.broker.kill()
        assert g.doubts() == set()


# Rows that say where a topic's first record is. The log's next record must not be served in its place.
FIRST = "topic_id = ? AND first_offset = 0"
HOLES = {
    "segment_parts row taken away": f"DELETE FROM segment_parts WHERE {FIRST}",
    "segment_parts.next_offset := 0": f"UPDATE segment_parts SET next_offset = 0 WHERE {FIRST}",
    "segment_parts.idx := 7": f"UPDATE segment_parts SET idx = 7 WHERE {FIRST}",
    "segments row taken away": f"DELETE FROM segments WHERE object_id = (SELECT object_id FROM segment_parts WHERE {FIRST})",
}


@pytest.mark.parametrize("mutation", HOLES)
def test_records_that_a_row_no_longer_leads_to_are_refused_and_not_skipped(ground, mutation):
    verdicts, said = fate(ground, lambda g: g.manifest.edit(HOLES[mutation], (g.ids["acme", "other"],)), accepted=True)
    assert verdicts == {"refused", "right"} and "missing records" in said, f"{verdicts}\n{said[-1500:]}"


def key_file(g, name, tenant="acme"):
    return g.broker.folder / "data-topic-keys" / g.broker.tenants[tenant] / str(uuid.UUID(bytes=g.ids[tenant, name]))


TOPIC_KEYS = {
    "a bit flipped": lambda g, f: f.write_bytes(f.read_bytes()[:-1] + bytes([f.read_bytes()[-1] ^ 1])),
    "cut": lambda g, f: f.write_bytes(f.read_bytes()[:50]),
    "another topic's": lambda g, f: shutil.copyfile(key_file(g, "untouched"), f),
    "another tenant's": lambda g, f: shutil.copyfile(key_file(g, "theirs", "globex"), f),
    "taken away": lambda g, f: f.unlink(),
}


@pytest.mark.parametrize("change", TOPIC_KEYS)
def test_a_topics_key_altered_exchanged_or_gone_opens_nothing_of_that_topic(ground, change):
    g, path = ground, key_file(ground, "other")
    kept = path.read_bytes()
    g.restore()
    TOPIC_KEYS[change](g, path)
    try:
        g.broker.start()
        assert g.judge(["other", "untouched"]) == {"other": "refused", "untouched": "right"}
    finally:
        if g.broker.running():
            g.broker.kill()
        path.write_bytes(kept)


def test_an_older_manifest_over_newer_objects_serves_the_truth_or_nothing(ground):
    """Rolled back to before the second half of the records; log and objects are the newer ones."""
    g = ground
    g.restore()
    g.broker.start()
    with wire.Raw(g.broker) as raw:
        assert traffic.produce(raw, "untouched", b"newer than the manifest") == 0
    g.flushed()
    assert g.broker.stop() == 0
    for name in ("manifest.db", "manifest.db-wal", "manifest.db-shm"):
        (g.broker.data / name).unlink(missing_ok=True)
        if (g.kept / name).exists():
            shutil.copyfile(g.kept / name, g.broker.data / name)
    try:
        g.broker.start(timeout=30)
    except NotReady as refused:
        assert "SCH-" in str(refused) and "next:" in str(refused)
        return
    try:
        with wire.Raw(g.broker) as raw:
            code, records = traffic.fetch(raw, "untouched", offset=2)
            assert code == traffic.KAFKA_STORAGE_ERROR or b"newer than the manifest" in (records or b""), (code, records)
    finally:
        g.broker.kill()
