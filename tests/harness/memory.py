"""Looks for secrets in the memory of a running process, as somebody with a dump of it would.

In: a process id and the bytes looked for. Out: where they are. Needs root, as a debugger does.
"""

import re
from pathlib import Path

REGION = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (r.)\S+ \S+ \S+ \S+ *(.*)")
PIECE = 16 * 1024 * 1024


def regions(pid):
    """(start, end, name) of everything readable and writable or private to the process."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        start, end, mode, name = REGION.match(line).groups() if REGION.match(line) else (None, None, None, None)
        if start and mode == "rw" and name not in ("[vvar]", "[vsyscall]"):
            yield int(start, 16), int(end, 16), name


def found(pid, wanted):
    """{who: [(address, region)]} for `wanted` {who: [bytes]}; all bytes of one length, searched in one pass."""
    owner = {secret: who for who, all_of_it in wanted.items() for secret in all_of_it}
    hits = {who: [] for who in wanted}
    if not owner:
        return hits
    longest = max(map(len, owner))
    pattern = re.compile(b"|".join(re.escape(s) for s in owner))
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for start, end, name in regions(pid):
            at = start
            while at < end:
                try:
                    mem.seek(at)
                    data = mem.read(min(PIECE + longest, end - at))
                except OSError:
                    break
                if not data:
                    break
                for hit in pattern.finditer(data):
                    if hit.start() < PIECE:
                        hits[owner[hit.group()]].append((hex(at + hit.start()), name))
                at += PIECE
    return hits
