"""Hostile peers: lying lengths, garbage, silence. A bystander is served all the while and memory stays bounded.

Connections here hold a valid certificate: an authenticated tenant is the strongest attacker on this road. The same frames
also arrive without one, where they end in the handshake.
"""

import os
import random
import socket
import struct
import threading
import time

import confluent_kafka
import pytest

from harness import clients, env, wire

APIS = sorted(wire.NAME_OF[k] for k in (0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 23, 32, 33, 35, 37, 42, 44, 47, 60, 71, 72, 75))


class Bystander(threading.Thread):
    """Another tenant's client (acme's in Kafka mode) that produces all the while; remembers its slowest acknowledgement."""

    def __init__(self, broker, tenant, topic):
        super().__init__(daemon=True)
        self.topic, self.stop, self.worst, self.count, self.errors = topic, threading.Event(), 0.0, 0, []
        self.producer = confluent_kafka.Producer(clients.librdkafka_conf(broker, tenant=tenant, linger_ms=0, message_timeout_ms=20000))

    def run(self):
        while not self.stop.is_set():
            begun, done = time.monotonic(), []
            self.producer.produce(self.topic, value=b"bystander", on_delivery=lambda e, m: done.append(e))
            while not done:
                self.producer.poll(0.05)
            if done[0]:
                self.errors.append(done[0])
            self.worst, self.count = max(self.worst, time.monotonic() - begun), self.count + 1
            self.stop.wait(0.01)

    def served(self, slowest=1.0):
        enough = self.count + 5
        env.eventually(lambda: self.count > enough or self.errors, what="the bystander going on")
        self.stop.set()
        self.join(30)
        assert not self.errors, self.errors[:3]
        assert self.worst < slowest, f"the bystander waited {self.worst:.2f} s"


@pytest.fixture
def bystander(broker, name):
    tenant = "globex" if "globex" in broker.tenants else "acme"
    b = Bystander(broker, tenant, clients.create_topic(broker, name("bystander"), tenant=tenant))
    b.start()
    env.eventually(lambda: b.count > 2, what="the bystander's first records")
    b.worst = 0.0
    yield b
    b.stop.set()


def survives(broker, payloads, timeout=15):
    """Sends each payload on its own connection; an answer or a close are both right, a hang is not."""
    outcomes = {"answered": 0, "closed": 0}
    for p in payloads:
        with wire.Raw(broker, timeout=timeout) as raw:
            try:
                raw.send(p)
                raw.send(wire.header(18, 0, 2, "x", False))  # always answered: a produce with acks=0 is not
                raw.receive()
                outcomes["answered"] += 1
            except (wire.Closed, ConnectionError, BrokenPipeError):
                outcomes["closed"] += 1
    return outcomes


def grown(broker, before, limit):
    now = broker.process.rss_bytes()
    assert now - before < limit, f"resident memory grew by {(now - before) >> 20} MiB"


BILLION = struct.pack(">i", 2**31 - 1)


def test_the_two_bodies_known_to_abort_a_decoder_end_only_their_connection(broker, bystander):
    before = broker.process.rss_bytes()
    metadata_v4 = wire.header(3, 4, 1, "x", False) + BILLION
    produce_v3 = wire.header(0, 3, 1, "x", False) + struct.pack(">hhi", -1, -1, 1000) + BILLION
    survives(broker, [metadata_v4, produce_v3] * 5)
    grown(broker, before, 64 << 20)
    bystander.served()


@pytest.mark.parametrize("api", APIS)
def test_hostile_counts_at_every_place_of_a_request(broker, bystander, api):
    """Every advertised version; at every byte of the body a huge count is laid over what stands there."""
    before, rng, payloads = broker.process.rss_bytes(), random.Random(api), []
    with wire.Raw(broker) as raw:
        advertised = raw.api_versions()
    if broker.name == "kafka" and wire.KEY_OF[api] not in advertised:
        return  # Kafka offers telemetry only with a receiver plugged in
    lo, hi = advertised[wire.KEY_OF[api]]
    for v in [v for v in wire.supported(api) if lo <= v <= hi]:
        entity = wire.build(api, v)
        body = bytearray(wire.encode(entity) + bytes(8))
        head = wire.header(wire.KEY_OF[api], v, 1, "x", entity.__flexible__)
        places = range(len(body) - 4) if len(body) < 40 else sorted(rng.sample(range(len(body) - 4), 36))
        for at in places:
            for lie in (BILLION, b"\xff\xff\xff\xff\x07", b"\x7f\xff") if at < 24 else (BILLION,):
                spoiled = bytes(body[:at]) + lie + bytes(body[at + len(lie):])
                payloads.append(head + spoiled[: len(body) - 8 if rng.random() < 0.5 else None])
    payloads = rng.sample(payloads, min(len(payloads), 60))
    survives(broker, payloads)
    grown(broker, before, 128 << 20)
    bystander.served()


def test_random_garbage_behind_a_good_header(broker, bystander):
    rng, before = random.Random(7), broker.process.rss_bytes()
    payloads = []
    for _ in range(150):
        key, version = rng.choice([wire.KEY_OF[a] for a in APIS]), rng.randrange(0, 14)
        payloads.append(wire.header(key, version, 1, "x", rng.random() < 0.5) + rng.randbytes(rng.randrange(0, 300)))
    survives(broker, payloads)
    grown(broker, before, 64 << 20)
    bystander.served()


@pytest.mark.parametrize("length", [-1, -(2**31), 2**31 - 1, 0, 1, 7])
def test_frame_lengths_that_lie_end_the_connection(broker, bystander, length):
    before = broker.process.rss_bytes()
    with wire.Raw(broker, timeout=20) as raw:
        raw.send_bytes(struct.pack(">i", length) + b"\0" * max(0, min(length, 7)))
        with pytest.raises((wire.Closed, ConnectionError)):
            raw.receive()
    grown(broker, before, 32 << 20)
    bystander.served()


def test_an_unknown_api_ends_the_connection_and_an_unknown_api_versions_version_is_answered(broker):
    with wire.Raw(broker) as raw:
        raw.send(wire.header(999, 0, 1, "x", False))
        with pytest.raises((wire.Closed, ConnectionError)):
            raw.receive()
    with wire.Raw(broker) as raw:
        raw.send(wire.header(18, 99, 1, "x", True) + b"\x02a\x02b\0")
        answer = raw.receive()
        assert struct.unpack(">ih", answer[:6]) == (1, 35)  # UNSUPPORTED_VERSION with the range, in version 0's form
        assert struct.unpack(">i", answer[6:10])[0] >= 1


def test_answers_of_many_requests_in_flight_leave_in_order(broker):
    with wire.Raw(broker, timeout=20) as raw:
        sent = [raw.send_request(wire.build("metadata", 9, topics=None) if i % 3 else wire.build("list_groups", 4)) for i in range(200)]
        assert [struct.unpack(">i", raw.receive()[:4])[0] for _ in sent] == sent


@pytest.mark.schloss_only
@pytest.mark.timeout(150)
def test_silent_and_half_open_peers_are_cut(broker, bystander):
    """No handshake; a handshake and nothing; half a frame. Each is closed by the broker within its bound."""
    context = broker.client().tls()

    def silent():
        return socket.create_connection(("127.0.0.1", broker.port))

    def after_handshake(raw=b""):
        s = context.wrap_socket(silent(), server_hostname="localhost")
        if raw:
            s.sendall(raw)
        return s

    peers = [silent() for _ in range(20)] + [after_handshake() for _ in range(20)] + [after_handshake(struct.pack(">i", 1000) + b"\0" * 10) for _ in range(20)]
    for p in peers:
        p.settimeout(45)
        try:
            while p.recv(100):
                pass
        except (ConnectionError, OSError) as error:
            assert not isinstance(error, TimeoutError), "a silent peer was kept for 45 s"
        finally:
            p.close()
    bystander.served()


@pytest.mark.schloss_only
@pytest.mark.timeout(150)
def test_a_peer_that_trickles_a_frame_is_cut(broker, bystander):
    with wire.Raw(broker, timeout=60) as raw:
        raw.send_bytes(struct.pack(">i", 60_000))
        cut, begun = False, time.monotonic()
        while time.monotonic() - begun < 90:
            try:
                raw.send_bytes(b"\0")
            except (ConnectionError, OSError):
                cut = True
                break
            time.sleep(0.5)  # a slow loris sends slowly: that is the attack
        assert cut, "one byte each half second kept the connection for 90 s"
    bystander.served()


@pytest.mark.schloss_only
@pytest.mark.timeout(180)
def test_a_peer_that_never_reads_is_cut_and_holds_little_memory(broker, bystander, name):
    topic = clients.create_topic(broker, name("never-read"))
    clients.produce_librdkafka(broker, topic, [("k", os.urandom(375_000).hex())] * 20)
    before = broker.process.rss_bytes()
    fetch = wire.build("fetch", 12, replica_id=-1, max_wait=0, min_bytes=1, max_bytes=50_000_000, session_epoch=-1, topics=[dict(topic=topic, partitions=[
        dict(partition=0, current_leader_epoch=-1, last_fetched_epoch=-1, log_start_offset=-1, partition_max_bytes=50_000_000)])])
    with wire.Raw(broker, timeout=5) as raw:
        try:
            for _ in range(2000):
                raw.send_request(fetch)
        except (OSError, ConnectionError):
            pass  # back-pressure: the broker stopped reading, as it should
        grown(broker, before, 400 << 20)
        raw.socket.settimeout(100)

        def cut():
            import subprocess
            out = subprocess.run(["ss", "-Htn", "state", "established", "sport", "=", f":{broker.port}", "and", "dport", "=",
                                  f":{raw.socket.getsockname()[1]}"], capture_output=True, text=True).stdout
            return not out.strip()
        env.eventually(cut, timeout=100, every=0.5, what="the broker cutting the peer that never reads")
    bystander.served()


@pytest.mark.parametrize("codec", ["gzip", "zstd", "lz4", "snappy"])
def test_a_decompression_bomb_is_refused_or_stored_but_never_unfolded_into_memory(broker, bystander, name, codec):
    topic = clients.create_topic(broker, name("bomb"))
    bomb = compressed_zeros(codec, 256 << 20)
    before = broker.process.rss_bytes()
    with wire.Raw(broker, timeout=60) as raw:
        r = raw.call(wire.build("produce", 9, acks=-1, timeout=30000, topic_data=[dict(name=topic, partition_data=[dict(index=0, records=batch_of(bomb, codec))])]))
        assert int(r.responses[0].partition_responses[0].error_code) != 0
    if broker.name == "schloss":
        grown(broker, before, 200 << 20)
    bystander.served(slowest=2.0)


def compressed_zeros(codec, size):
    if codec == "gzip":
        import zlib
        z = zlib.compressobj(9, zlib.DEFLATED, 31)
        out = b"".join(z.compress(bytes(1 << 20)) for _ in range(size >> 20)) + z.flush()
    elif codec == "zstd":
        # frame header (no content size, window 8 MiB), then RLE blocks of 128 KiB of zeros
        out = struct.pack("<I", 0xFD2FB528) + bytes([0x00, 0x68])
        blocks = size >> 17
        for i in range(blocks):
            out += ((i == blocks - 1) | 1 << 1 | (1 << 17) << 3).to_bytes(3, "little") + b"\0"
    elif codec == "lz4":
        # one independent 4 MiB block form repeated: literal 0, then a match of offset 1 as long as the block allows
        import struct as s
        n, block = 4 << 20, b""
        match = n - 1 - 5 - 4 - 15
        block = bytes([0x1F, 0, 1, 0]) + b"\xff" * (match // 255) + bytes([match % 255]) + bytes([0x50]) + bytes(5)
        head = bytes([0x60, 0x70])
        out = s.pack("<I", 0x184D2204) + head + bytes([(xxh32(head) >> 8) & 0xFF])
        out += (s.pack("<I", len(block)) + block) * (size // n) + s.pack("<I", 0)
    else:
        # raw snappy: length varint, one literal 0, then copies of 64 bytes at offset 1
        body, n = b"", 64 << 20
        v = n
        while v > 127:
            body += bytes([v & 0x7F | 0x80])
            v >>= 7
        out = body + bytes([v]) + b"\0\0" + bytes([(63 << 2) | 2, 1, 0]) * ((n - 1) // 64) + bytes([((n - 1) % 64 - 1) << 2 | 2, 1, 0])
    return out


def xxh32(data, seed=0):
    """XXH32 of fewer than 16 bytes, as the lz4 frame header checksum needs."""
    p1, p2, p3, p4, p5, m = 2654435761, 2246822519, 3266489917, 668265263, 374761393, 0xFFFFFFFF
    h = (seed + p5 + len(data)) & m
    for b in data:
        h = (h + b * p5) & m
        h = (((h << 11) | (h >> 21)) & m) * p1 & m
    h ^= h >> 15
    h = h * p2 & m
    h ^= h >> 13
    h = h * p3 & m
    return h ^ (h >> 16)


def batch_of(payload, codec):
    import crc32c
    now = int(time.time() * 1000)
    attributes = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}[codec]
    body = struct.pack(">hiqqqhii", attributes, 0, now, now, -1, -1, -1, 1) + payload
    tail = struct.pack(">ibI", -1, 2, crc32c.crc32c(body)) + body
    return struct.pack(">qi", 0, len(tail)) + tail
