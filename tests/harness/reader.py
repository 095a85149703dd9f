"""Opens a segment object without Schloss: written from `broker/manual/formats.md` and the byte tables it names alone.

In: the bytes of an object, its data key (or what unwraps it: the local keyring's files, or a KMS) and the keys of topics
that have one of their own. Out: the record batches of every partition, as Kafka's clients sent them. Everything is checked
on the way: commitment, tags, digest of the tags.

    python harness/reader.py OBJECT --keyring FILE --key-file FILE
"""

import base64
import gzip
import hashlib
import json
import sqlite3
import struct
import uuid
from collections import namedtuple
from contextlib import closing
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SUITE, HEAD, TAG = 1, 4096, 16
HEADER = struct.Struct(">8s 4H 32s 16s 16s 16s Q q I 16s 32s 16s")
FIELDS = "magic version suite kind flags object_id cluster tenant segment writer_epoch created_ms frame_bytes_max key_id commit tag"
Header = namedtuple("Header", FIELDS)
Frame = namedtuple("Frame", "topic partition keyed number position length first_offset last_offset max_timestamp")
Wrapped = namedtuple("Wrapped", "provider key_ref blob")
Record = namedtuple("Record", "offset key value headers")


class Refused(Exception):
    """The bytes are not what the format says they must be."""


def must(fact, what):
    if not fact:
        raise Refused(what)


def derive(data_key, salt, label):
    """HKDF-SHA-512, 32 bytes."""
    return HKDF(hashes.SHA512(), 32, salt, b"schloss/1/" + label + struct.pack(">H", SUITE)).derive(data_key)


def nonce(domain, number):
    return struct.pack(">IQ", domain, number)


# Keys


def parse_wrapped(raw) -> Wrapped:
    """version 01 | provider | key reference | blob, each with its length as u16 before it."""
    must(raw[:1] == b"\1", "version of the wrapped key")
    parts, at = [], 1
    for _ in range(3):
        n = int.from_bytes(raw[at:at + 2], "big")
        parts.append(raw[at + 2:at + 2 + n])
        at += 2 + n
    must(at == len(raw), "length of the wrapped key")
    return Wrapped(parts[0].decode(), parts[1].decode(), parts[2])


def account(tenant):
    number = int.from_bytes(tenant, "big")
    return f"{number:012}" if number <= 999_999_999_999 else tenant.hex()


def encryption_context(cluster, tenant, purpose, **more):
    return {"schloss:v": "1", "schloss:cluster": cluster.hex(), "schloss:tenant": account(tenant), "schloss:purpose": purpose,
            **{f"schloss:{k}": str(v) for k, v in more.items()}}


def open_value(key, binding, sealed):
    """A sealed value: version 01 | salt [32] | commitment [32] | ciphertext | tag."""
    must(sealed[:1] == b"\1" and len(sealed) >= 81, "form of a sealed value")
    salt, commit = sealed[1:33], sealed[33:65]
    must(derive(key, salt, b"value-commit") == commit, "commitment of a sealed value")
    return AESGCM(derive(key, salt, b"value")).decrypt(nonce(0, 0), sealed[65:], b"\1" + struct.pack(">H", SUITE) + binding)


class LocalKeyring:
    """Keys of a local keyring file, opened with its key file."""

    def __init__(self, keyring: Path, key_file: Path):
        master = bytes.fromhex(key_file.read_text().strip())
        self.keys = {k["name"]: open_value(master, k["name"].encode(), base64.b64decode(k["wrapped"])) for k in json.loads(keyring.read_text())["keys"]}

    def unwrap(self, wrapped, context):
        binding = b"".join(struct.pack(">Q", len(part.encode())) + part.encode() for pair in sorted(context.items()) for part in pair)
        return open_value(self.keys[wrapped.key_ref], binding, wrapped.blob)


class AwsKms:
    """A KMS by boto3."""

    def __init__(self, client):
        self.client = client

    def unwrap(self, wrapped, context):
        return self.client.decrypt(KeyId=wrapped.key_ref, CiphertextBlob=wrapped.blob, EncryptionContext=context)["Plaintext"]


class TopicKeys:
    """Keys of topics, from their folder: each sealed under its tenant's metadata key, which the manifest holds wrapped.
    `unwrap(wrapped, context)` is a keyring's or a KMS's."""

    def __init__(self, folder: Path, manifest: Path, unwrap):
        self.folder, self.manifest, self.unwrap, self.metadata = folder, manifest, unwrap, {}

    def metadata_key(self, cluster, tenant):
        if tenant not in self.metadata:
            with closing(sqlite3.connect(self.manifest)) as db:
                generation, wrapped = db.execute("SELECT generation, wrapped FROM keys WHERE tenant = ? AND purpose = 'metadata' ORDER BY generation DESC", (tenant,)).fetchone()
            self.metadata[tenant] = self.unwrap(parse_wrapped(wrapped), encryption_context(cluster, tenant, "metadata", generation=generation))
        return self.metadata[tenant]

    def of(self, header):
        """The keys of an object's tenant, as `Segment.open` asks for them."""
        def key(topic):
            path = self.folder / account(header.tenant) / str(uuid.UUID(bytes=topic))
            return open_value(self.metadata_key(header.cluster, header.tenant), b"topic-key" + header.tenant + topic, path.read_bytes()) if path.exists() else None
        return key


# The object


class Segment:
    """An object, its header parsed. Nothing in it is believed before `open` was called."""

    def __init__(self, raw: bytes):
        must(len(raw) > HEAD, "length of the object")
        self.raw, self.header = raw, Header(*HEADER.unpack_from(raw))
        h = self.header
        must((h.magic, h.version, h.suite, h.kind, h.flags) == (b"SCHLSEG1", 1, SUITE, 1, 0), "first fields of the header")

    def wrapped_key(self) -> Wrapped:
        n = int.from_bytes(self.raw[180:184], "big")
        slot, crc = self.raw[184:184 + n], self.raw[184 + n:188 + n]
        must(crc32c(slot) == int.from_bytes(crc, "big"), "checksum of the key slot")
        return parse_wrapped(slot)

    def context(self):
        h = self.header
        return encryption_context(h.cluster, h.tenant, "segment", segment=h.segment.hex())

    def open(self, data_key, topic_key=lambda topic: None):
        """Checks header and footer; `index` is then what the footer holds. `topic_key(topic id)` gives a topic's own key."""
        h, self.data_key, self.topic_key = self.header, data_key, topic_key
        must(derive(data_key, h.object_id, b"commit") == h.commit, "key commitment")
        must(AESGCM(derive(data_key, h.object_id, b"header")).decrypt(nonce(4, 0), h.tag, self.raw[:164]) == b"", "tag of the header")
        footer_len, self.frame_count, magic = struct.unpack(">II8s", self.raw[-16:])
        must(magic == b"SCHLSEND", "last bytes of the object")
        self.footer_at = len(self.raw) - 16 - TAG - footer_len
        bound = struct.pack(">H", SUITE) + h.object_id + h.tenant + struct.pack(">IQI", self.frame_count, self.footer_at, footer_len)
        plain = AESGCM(derive(data_key, h.object_id, b"footer")).decrypt(nonce(3, self.frame_count), self.raw[self.footer_at:-16], bound)
        must(int.from_bytes(plain[:4], "big") == self.frame_count and plain[4:36] == self.tags_digest(), "frame count and digest in the footer")
        self.index = plain[36:]
        return self

    def frames(self):
        found = parse_index(self.index)
        must(sorted(f.number for f in found) == list(range(self.frame_count)), "frames of the index")
        return found

    def tags_digest(self):
        at, digest = HEAD, hashlib.sha256()
        for _ in range(self.frame_count):
            at += 5 + int.from_bytes(self.raw[at:at + 4], "big") + TAG
            digest.update(self.raw[at - TAG:at])
        must(at == self.footer_at, "end of the frames")
        return digest.digest()

    def plaintext(self, f: Frame):
        """The whole batches in one frame."""
        sealed = self.raw[f.position:f.position + f.length]
        plain_len, kind = struct.unpack(">IB", sealed[:5])
        must(plain_len <= self.header.frame_bytes_max and len(sealed) == 5 + plain_len + TAG, "length of a frame")
        must(kind == (f.number == self.frame_count - 1), "kind of a frame")
        bound = (struct.pack(">H", SUITE) + self.header.object_id + self.header.tenant + f.topic
                 + struct.pack(">iIBIqq", f.partition, f.number, kind, plain_len, f.first_offset, f.last_offset))
        return self.frame_key(f).decrypt(nonce(2 if kind else 1, f.number), sealed[5:], bound)

    def frame_key(self, f: Frame):
        if not f.keyed:
            return AESGCM(derive(self.data_key, self.header.object_id, b"frame"))
        own = self.topic_key(f.topic)
        must(own is not None, "the key of a topic")
        return AESGCM(derive(self.data_key + own, self.header.object_id, b"topic-frame"))

    def batches(self):
        """(topic id, partition, batch bytes) of everything in the object."""
        for f in self.frames():
            plain, at = self.plaintext(f), 0
            while at < len(plain):
                size = 12 + int.from_bytes(plain[at + 8:at + 12], "big")
                yield f.topic, f.partition, plain[at:at + size]
                at += size
            must(at == len(plain), "whole batches in a frame")


def parse_index(raw):
    """version | partitions u32 | per partition: topic [16] | partition i32 | keyed u8 (version 2) | frames u32 | the frames."""
    version = raw[0]
    must(version in (1, 2), "version of the index")
    (partitions,), at, frames = struct.unpack_from(">I", raw, 1), 5, []
    for _ in range(partitions):
        topic, partition = struct.unpack_from(">16si", raw, at)
        keyed = raw[at + 20] if version == 2 else 0
        must(keyed in (0, 1), "keyed in the index")
        at += 20 + (version == 2)
        count, = struct.unpack_from(">I", raw, at)
        at += 4
        for _ in range(count):
            frames.append(Frame(topic, partition, keyed, *struct.unpack_from(">IQIqqq", raw, at)))
            at += 40
    must(at == len(raw), "length of the index")
    return frames


# Kafka's own format: https://kafka.apache.org/documentation/#recordbatch


def records(batch):
    """The records of a batch of magic 2, uncompressed or gzip."""
    base_offset, = struct.unpack_from(">q", batch)
    magic, crc, attributes = batch[16], int.from_bytes(batch[17:21], "big"), int.from_bytes(batch[21:23], "big")
    count, = struct.unpack_from(">i", batch, 57)
    must(magic == 2 and crc32c(batch[21:]) == crc, "checksum of a batch")
    must(attributes & 7 in (0, 1), "a codec this reader does not know")
    data = gzip.decompress(batch[61:]) if attributes & 7 else batch[61:]
    at, out = 0, []

    def varint():
        nonlocal at
        shift = value = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)

    def bytes_or_none():
        nonlocal at
        n = varint()
        if n < 0:
            return None
        at += n
        return data[at - n:at]

    for _ in range(count):
        varint()
        at += 1
        varint()
        delta = varint()
        key, value = bytes_or_none(), bytes_or_none()
        out.append(Record(base_offset + delta, key, value, [(bytes_or_none(), bytes_or_none()) for _ in range(varint())]))
    return out


def _crc32c_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


CRC32C = _crc32c_table()


def crc32c(raw):
    crc = 0xFFFFFFFF
    for byte in raw:
        crc = CRC32C[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def main():
    import argparse
    p = argparse.ArgumentParser(description="prints the records of a segment object of a stopped broker, one JSON line each")
    p.add_argument("object", type=Path)
    p.add_argument("--keyring", type=Path, required=True)
    p.add_argument("--key-file", type=Path, required=True)
    p.add_argument("--manifest", type=Path, help="for topics with a key of their own")
    p.add_argument("--topic-keys", type=Path, help="for topics with a key of their own")
    given = p.parse_args()
    keyring, segment = LocalKeyring(given.keyring, given.key_file), Segment(given.object.read_bytes())
    topic_keys = TopicKeys(given.topic_keys, given.manifest, keyring.unwrap).of(segment.header) if given.topic_keys else lambda _: None
    for topic, partition, batch in segment.open(keyring.unwrap(segment.wrapped_key(), segment.context()), topic_keys).batches():
        for r in records(batch):
            print(json.dumps({"topic": topic.hex(), "partition": partition, "offset": r.offset, "key": r.key and r.key.decode("utf-8", "replace"),
                              "value": r.value and r.value.decode("utf-8", "replace")}))


if __name__ == "__main__":
    main()
