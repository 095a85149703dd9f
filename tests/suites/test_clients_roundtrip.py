"""Every client reads what every client wrote, in every codec, byte for byte and in order."""

import pytest

from harness import clients
from harness.clients import CLIENTS, CODECS, CONSUME, PRODUCE

RECORDS = 40


@pytest.fixture(scope="module")
def written(broker):
    """One topic per codec that all four clients wrote into; {codec: (topic, {writer: [(key, value)]})}."""
    made = {}

    def of(codec):
        if codec not in made:
            topic = clients.create_topic(broker, f"roundtrip-{codec}", partitions=2)
            records = {w: [(f"{w}-{i}", f"{codec} {w} {i} äöü " + "x" * (i * 37 % 900)) for i in range(RECORDS)] for w in CLIENTS}
            for writer in CLIENTS:
                PRODUCE[writer](broker, topic, records[writer], codec)
            made[codec] = (topic, records)
        return made[codec]

    return of


@pytest.mark.parametrize("reader", CLIENTS)
@pytest.mark.parametrize("codec", CODECS)
def test_reader_sees_what_every_client_wrote(broker, written, codec, reader):
    topic, records = written(codec)
    seen = CONSUME[reader](broker, topic, RECORDS * len(CLIENTS))
    assert clients.offsets_are_dense(seen)
    assert sorted((s.key, s.value) for s in seen) == sorted(r for w in records.values() for r in w)
    for writer in CLIENTS:
        for partition in (0, 1):
            order = [s.value for s in seen if s.partition == partition and s.key.startswith(writer + "-")]
            assert order == [v for _, v in records[writer] if v in set(order)], f"{writer}'s records changed order"
