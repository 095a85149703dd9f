"""Looks for secrets in the memory of a running process, as somebody with a dump of it would.

In: a process id and the bytes looked for. Out: where they are. Needs root, as a debugger does.
"""

import re
from pathlib import Path

REGION = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw\S+ \S+ \S+ \S+ *(.*)")
PIECE = 4 * 1024 * 1024


def regions(pid):
    """(start, end, name) of everything the process may write."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        match = REGION.match(line)
        if match:
            yield int(match[1], 16), int(match[2], 16), match[3]


def found(pid, wanted):
    """{who: [(address, region)]} for `wanted` {who: [bytes]}."""
    hits = {who: [] for who in wanted}
    owner = {secret: who for who, all_of_it in wanted.items() for secret in all_of_it}
    overlap = max(map(len, owner), default=1) - 1
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for start, end, name in regions(pid):
            for at in range(start, end, PIECE):
                try:
                    mem.seek(at)
                    data = mem.read(min(PIECE + overlap, end - at))
                except OSError:
                    continue
                if not data.strip(b"\0"):
                    continue
                for secret, who in owner.items():
                    place = data.find(secret)
                    while 0 <= place < PIECE:
                        hits[who].append((hex(at + place), name))
                        place = data.find(secret, place + 1)
    return hits
