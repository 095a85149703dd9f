"""A raw Kafka client: frames over TLS, exact bytes in and out, for hostile input and byte-for-byte comparison.

Request bodies are written by kio (its message classes are generated from Kafka's own definitions), so that a mistake
of ours cannot be on both sides of the wire.
"""

import dataclasses
import datetime
import importlib
import io
import pkgutil
import socket
import ssl
import struct
import types
import typing
import uuid

from kio.serial import entity_reader, entity_writer
from kio.schema.index import api_key_map

from . import env

NAME_OF = dict(api_key_map)
KEY_OF = {name: key for key, name in NAME_OF.items()}


def module(api, version, kind):
    return importlib.import_module(f"kio.schema.{api}.v{version}.{kind}")


def class_of(api, version, kind):
    m = module(api, version, kind)
    camel = "".join(p.capitalize() for p in api.split("_")) + kind.capitalize()
    return getattr(m, camel)


def encode(entity) -> bytes:
    out = io.BytesIO()
    entity_writer(type(entity))(out, entity)
    return out.getvalue()


def header(key, version, correlation, client_id, flexible) -> bytes:
    raw = client_id.encode()
    return struct.pack(">hhih", key, version, correlation, len(raw)) + raw + (b"\0" if flexible else b"")


def frame(payload: bytes) -> bytes:
    return struct.pack(">i", len(payload)) + payload


class Closed(Exception):
    """The peer closed the connection instead of answering."""


class Raw:
    """One authenticated connection. `send` and `receive` deal in frame payloads."""

    def __init__(self, broker, tenant="acme", principal="admin", timeout=10, server_name=env.LOCALHOST, context=None, client_id="raw",
                 port=None, source=None):
        plain = socket.create_connection(("127.0.0.1", port or broker.port), timeout=timeout, source_address=source and (source, 0))
        context = context or broker.client(tenant, principal).tls()
        self.client_id, self.correlation = client_id, 0
        self.socket = context.wrap_socket(plain, server_hostname=server_name)
        self.socket.settimeout(timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        try:
            self.socket.close()
        except OSError:
            pass

    def send(self, payload: bytes):
        self.socket.sendall(frame(payload))

    def send_bytes(self, raw: bytes):
        self.socket.sendall(raw)

    def _exactly(self, n):
        out = b""
        while len(out) < n:
            try:
                part = self.socket.recv(n - len(out))
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError) as error:
                raise Closed(str(error)) from error
            if not part:
                raise Closed("end of stream")
            out += part
        return out

    def receive(self) -> bytes:
        (n,) = struct.unpack(">i", self._exactly(4))
        return self._exactly(n)

    def send_request(self, entity) -> int:
        self.correlation += 1
        kind = type(entity)
        self.send(header(kind.__api_key__, kind.__version__, self.correlation, self.client_id, kind.__flexible__) + encode(entity))
        return self.correlation

    def call_raw(self, entity) -> bytes:
        """The whole answer frame with the correlation id cut off (checked)."""
        sent = self.send_request(entity)
        answer = self.receive()
        assert struct.unpack(">i", answer[:4])[0] == sent, "answers left out of order"
        return answer[4:]

    def call(self, entity):
        """The decoded answer, by kio; every byte must be consumed."""
        raw = self.call_raw(entity)
        kind = type(entity)
        answer = class_of(NAME_OF[int(kind.__api_key__)], int(kind.__version__), "response")
        skip = 1 if answer.__flexible__ and NAME_OF[int(kind.__api_key__)] != "api_versions" else 0
        return decode(answer, raw[skip:])

    def request(self, api, version, **fields):
        return self.call(class_of(api, version, "request")(**fields))

    def api_versions(self) -> dict:
        """{api key: (min, max)} as the server advertises."""
        self.correlation += 1
        self.send(header(18, 0, self.correlation, self.client_id, False))
        answer = self.receive()
        code, n = struct.unpack(">hi", answer[4:10])
        assert code == 0, code
        rows = [struct.unpack(">hhh", answer[10 + 6 * i:16 + 6 * i]) for i in range(n)]
        return {k: (lo, hi) for k, lo, hi in rows}


def decode(kind, raw: bytes):
    reader = entity_reader(kind)
    got = reader(raw, 0)
    entity, used = got if isinstance(got, tuple) else (got, None)
    if used is not None:
        assert used == len(raw), f"{len(raw) - used} bytes behind the answer"
    return entity


def build(api, version, kind="request", **fields):
    """One message from plain dicts and lists; fields not named get Kafka's default, else zero, empty or null."""
    return _make(class_of(api, version, kind), fields)


def _make(cls, fields):
    hints = typing.get_type_hints(cls)
    values, rest = {}, dict(fields)
    for f in dataclasses.fields(cls):
        if f.name in rest:
            values[f.name] = _value(hints[f.name], rest.pop(f.name))
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            values[f.name] = _empty(hints[f.name])
    assert not rest, f"{cls.__name__} has no {sorted(rest)}"
    return cls(**values)


def _options(hint):
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [a for a in typing.get_args(hint) if a is not type(None)], True
    return [hint], False


def _value(hint, given):
    (inner, *_), _nullable = _options(hint)
    if given is None:
        return None
    if typing.get_origin(inner) is tuple:
        element = typing.get_args(inner)[0]
        return tuple(_value(element, g) for g in given)
    if dataclasses.is_dataclass(inner) and isinstance(given, dict):
        return _make(inner, given)
    if isinstance(given, int) and isinstance(inner, type) and issubclass(inner, datetime.timedelta):
        return datetime.timedelta(milliseconds=given)
    return given


def _empty(hint):
    (inner, *_), nullable = _options(hint)
    if nullable:
        return None
    if typing.get_origin(inner) is tuple:
        return ()
    if dataclasses.is_dataclass(inner):
        return _make(inner, {})
    if isinstance(inner, type):
        if issubclass(inner, datetime.timedelta):
            return datetime.timedelta(0)
        if issubclass(inner, bool):
            return False
        if issubclass(inner, int):
            return 0
        if issubclass(inner, str):
            return ""
        if issubclass(inner, bytes):
            return b""
        if issubclass(inner, uuid.UUID):
            return uuid.UUID(int=0)
    return 0


def supported(api):
    """Versions of `api` that kio can write."""
    package = importlib.import_module(f"kio.schema.{api}")
    return sorted(int(m.name[1:]) for m in pkgutil.iter_modules(package.__path__) if m.name.startswith("v") and m.name[1:].isdigit())
