"""What somebody with the disks can do: read and edit the manifest of a stopped broker, exchange its objects, cut frames.

Knows the tables of `metadata::sqlite` and the byte tables of segments; keys it has none.
"""

import sqlite3
from contextlib import closing


class Manifest:
    def __init__(self, broker):
        self.path, self.objects = broker.data / "manifest.db", broker.data / "objects"

    def query(self, sql, *values):
        with closing(sqlite3.connect(self.path)) as db:
            return db.execute(sql, values).fetchall()

    def edit(self, sql, values=()):
        """Runs one change; it must touch a row. `values` as sqlite3 takes them, by place or by name."""
        with closing(sqlite3.connect(self.path)) as db, db:
            assert db.execute(sql, values).rowcount > 0, f"nothing to change: {sql}"

    def script(self, text):
        """Runs statements that report no rows."""
        with closing(sqlite3.connect(self.path)) as db:
            db.executescript(text)

    def columns(self):
        """{table: [columns]} of all of it."""
        tables = [n for (n,) in self.query("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {t: [c[1] for c in self.query(f"PRAGMA table_info({t})")] for t in tables}

    def object_ids(self, topic_id):
        """The objects of a topic by partition and offset."""
        return [o for (o,) in self.query("SELECT object_id FROM segment_parts WHERE topic_id = ? ORDER BY idx, first_offset", topic_id)]

    def path_of(self, object_id):
        found, = self.objects.rglob(object_id.hex())
        return found


def frames_of(raw):
    """[(start, end)] of the frames of an object, by their lengths alone."""
    footer_at = len(raw) - 16 - 16 - int.from_bytes(raw[-16:-12], "big")
    out, at = [], 4096
    while at < footer_at:
        end = at + 5 + int.from_bytes(raw[at:at + 4], "big") + 16
        out.append((at, end))
        at = end
    assert at == footer_at
    return out
