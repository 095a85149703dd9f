"""HTTP/1.1 with keep-alive on one event loop in a thread of its own: enough of it for AWS SDKs, and fast.

In: bytes. Out: `Request`s to `serve(request, connection)`, which answers through the connection, later or never.
"""

import asyncio
import socket
import struct
import threading
from dataclasses import dataclass

HEAD_MAX, BODY_MAX = 64 * 1024, 1024 * 1024
REASON = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 413: "Payload Too Large", 500: "Internal Server Error", 503: "Service Unavailable"}


@dataclass
class Request:
    method: str
    path: str
    query: str
    headers: dict
    body: bytes = b""


class Connection(asyncio.Protocol):
    def __init__(self, server):
        self.server, self.transport, self.buffer, self.busy = server, None, b"", False

    def connection_made(self, transport):
        self.transport = transport
        self.server.connections.add(self)

    def connection_lost(self, _):
        self.server.connections.discard(self)

    def data_received(self, data):
        self.buffer += data
        self.next()

    def next(self):
        """Serves the next whole request, if none is being served."""
        if self.busy:
            return
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return self.answer(413, b"") if len(self.buffer) > HEAD_MAX else None
        lines = self.buffer[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            headers[name] = f"{headers[name]},{value.strip()}" if name in headers else value.strip()
        length = int(headers.get("content-length") or 0)
        if length > BODY_MAX:
            return self.answer(413, b"")
        if len(self.buffer) < end + 4 + length:
            return
        method, target, _ = lines[0].split(" ", 2)
        path, _, query = target.partition("?")
        body, self.buffer = self.buffer[end + 4:end + 4 + length], self.buffer[end + 4 + length:]
        self.busy = True
        self.server.requests += 1
        self.server.serve(Request(method, path, query, headers, body), self)

    def answer(self, status, body, kind="application/x-amz-json-1.1", **headers):
        """`headers`: more of them, `_` for `-`."""
        if self.transport.is_closing():
            return
        head = f"HTTP/1.1 {status} {REASON.get(status, '-')}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{n.replace('_', '-')}: {v}\r\n" for n, v in headers.items()) + "\r\n"
        self.transport.write(head.encode() + body)
        self.busy = False
        self.next()

    def reset(self):
        """Cuts the connection with RST."""
        raw = self.transport.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Server:
    def __init__(self, serve):
        self.serve, self.connections, self.requests = serve, set(), 0
        self.loop = asyncio.new_event_loop()
        self.listener = None
        self.port = 0
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True, name="kms")

    def start(self):
        self.thread.start()
        self.listen()

    def listen(self):
        """Listens (again, on the same port, after `close`)."""
        def bind():
            return self.loop.create_server(lambda: Connection(self), "127.0.0.1", self.port, backlog=1024)
        self.listener = asyncio.run_coroutine_threadsafe(bind(), self.loop).result(10)
        self.port = self.listener.sockets[0].getsockname()[1]

    def close(self):
        """Stops listening and cuts every connection: nobody is there any more."""
        async def shut():
            self.listener.close()
            for c in list(self.connections):
                c.reset()
        asyncio.run_coroutine_threadsafe(shut(), self.loop).result(10)

    def end(self):
        self.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()
