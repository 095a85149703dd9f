"""The write-ahead log as somebody with the disk can rewrite it: entries taken apart by their byte table (`storage::wal`) and
put together again with right checksums and a right chain, which need no key. What is sealed stays as it is, and so do the proofs.
"""

import hashlib
import struct
from dataclasses import dataclass, field, replace

import crc32c as fast

HEADER = struct.Struct(">8s B 3x I Q Q 16s 32s I I 32s")
HEADER_BYTES = HEADER.size + 4
MAGIC = b"SCHLWAL2"
DATA = 2


@dataclass
class Section:
    tenant: bytes
    generation: int
    wrapped: bytes
    sealed: bytes

    def to_bytes(self):
        return (self.tenant + struct.pack(">IH", self.generation, len(self.wrapped)) + self.wrapped
                + struct.pack(">I", len(self.sealed)) + self.sealed)


@dataclass
class Entry:
    kind: int
    shard: int
    epoch: int
    seq: int
    writer: bytes
    previous: bytes
    proof: bytes
    sections: list = field(default_factory=list)

    def header(self, body):
        raw = HEADER.pack(MAGIC, self.kind, self.shard, self.epoch, self.seq, self.writer, self.previous, len(body), fast.crc32c(body), self.proof)
        return raw + struct.pack(">I", fast.crc32c(raw))

    def body(self):
        return b"".join(s.to_bytes() for s in self.sections)


def parse(raw):
    """The entries of a file up to the first byte that is none."""
    out, at = [], 0
    while raw[at:at + 8] == MAGIC:
        _, kind, shard, epoch, seq, writer, previous, size, _, proof = HEADER.unpack_from(raw, at)
        body, place, sections = raw[at + HEADER_BYTES:at + HEADER_BYTES + size], 0, []
        while place < len(body):
            tenant = body[place:place + 16]
            generation, n = struct.unpack_from(">IH", body, place + 16)
            wrapped = body[place + 22:place + 22 + n]
            place += 22 + n
            length, = struct.unpack_from(">I", body, place)
            sections.append(Section(tenant, generation, wrapped, body[place + 4:place + 4 + length]))
            place += 4 + length
        out.append(Entry(kind, shard, epoch, seq, writer, previous, proof, sections))
        at += HEADER_BYTES + size
    return out


def rewrite(path, entries):
    """Writes the entries numbered and chained anew, the rest of the file zero as before."""
    size, raw, digest = path.stat().st_size, b"", entries[0].previous if entries else b""
    for n, e in enumerate(entries):
        e = replace(e, seq=entries[0].seq + n, previous=digest)
        body = e.body()
        header = e.header(body)
        digest = hashlib.sha256(header).digest()
        raw += header + body
    path.write_bytes(raw.ljust(size, b"\0"))
