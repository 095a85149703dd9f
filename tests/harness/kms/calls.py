"""What was asked, by whom, and how it ended; and what is to go wrong."""

import collections
import threading
import time
from dataclasses import dataclass, field


@dataclass
class Call:
    """One request that reached the stand-in. `keys`: ARNs it names; `outcome`: None while unanswered, `ok`, or an error's name."""

    operation: str
    asked: dict
    keys: tuple = ()
    caller: str | None = None
    outcome: str | None = None
    begun: float = field(default_factory=time.monotonic)
    ended: float | None = None

    @property
    def context(self):
        return self.asked.get("EncryptionContext") or self.asked.get("SourceEncryptionContext") or {}

    def end(self, outcome):
        self.outcome, self.ended = outcome, time.monotonic()


class Calls(list):
    """The log, oldest first. A part of it is a `Calls` again: `kms.calls.since(mark).of("Decrypt", key=arn)`."""

    def of(self, operation=None, key=None, outcome=None):
        return Calls(c for c in list(self) if operation in (None, c.operation) and (key is None or key in c.keys) and outcome in (None, c.outcome))

    def since(self, mark):
        return Calls(self[mark:])

    def count(self, operation=None, key=None, outcome=None):
        return len(self.of(operation, key, outcome))

    def by_operation(self):
        return collections.Counter(c.operation for c in list(self))

    def by_key(self):
        return collections.Counter(k for c in list(self) for k in c.keys)

    def most_at_once(self, same):
        """{same(call): the largest number of its calls that were unanswered at one moment}."""
        events = sorted(((moment, step, same(c)) for c in list(self) for moment, step in ((c.begun, 1), (c.ended or float("inf"), -1))), key=lambda e: e[:2])
        now, most = collections.Counter(), collections.Counter()
        for _, step, what in events:
            now[what] += step
            most[what] = max(most[what], now[what])
        return most


ERRORS = {"throttle": "ThrottlingException", "access_denied": "AccessDeniedException", "internal": "KMSInternalException",
          "unavailable": "ServiceUnavailableException", "key_unavailable": "KeyUnavailableException", "timeout": "DependencyTimeoutException"}
KINDS = {*ERRORS, "hang", "reset", "latency", "garbage"}


class Fault:
    """Something that goes wrong from its making until `end()` (it is a context manager), for these operations and keys (None:
    all), at most `times` times. `latency` answers rightly after `seconds`; `hang` never answers; `garbage` answers no JSON."""

    def __init__(self, kind, faults, operations=None, keys=None, seconds=0.0, times=None):
        assert kind in KINDS, kind
        self.kind, self.operations, self.keys, self.seconds, self.left = kind, operations, keys and set(keys), seconds, times
        self.hits, self._faults, self._lock = 0, faults, threading.Lock()
        self.hung = []
        faults.append(self)

    def strikes(self, call):
        if (self.operations and call.operation not in self.operations) or (self.keys and not self.keys & set(call.keys)):
            return False
        with self._lock:
            if self.left == 0:
                return False
            self.left = self.left if self.left is None else self.left - 1
            self.hits += 1
            return True

    def end(self):
        """Takes the fault away; what hangs is cut."""
        if self in self._faults:
            self._faults.remove(self)
        for cut in self.hung:
            cut()
        self.hung.clear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
