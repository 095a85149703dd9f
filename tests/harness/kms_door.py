"""A door in front of moto's KMS: counts calls, keeps what was asked, and can refuse or be unreachable for chosen keys.

moto answers everything that works; what moto does not enforce (a disabled key still decrypts there) is answered here,
with the error AWS documents.
"""

import http.client
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from . import env


class Moto:
    """`moto_server` as a child process."""

    def __init__(self, folder):
        self.port = env.free_port()
        self.log = open(folder / "moto.log", "wb")
        self.child = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)], stdout=self.log, stderr=self.log)

    def client(self, service, port=None):
        import boto3
        return boto3.client(service, region_name="eu-central-1", endpoint_url=f"http://127.0.0.1:{port or self.port}",
                            aws_access_key_id="AKIDTEST", aws_secret_access_key="secret")

    def wait(self):
        env.eventually(lambda: self.client("kms").list_keys() is not None, timeout=60, every=0.3, what="moto")

    def end(self):
        self.child.kill()
        self.child.wait()
        self.log.close()


class Door:
    """Listens, passes on, remembers `calls` as (operation, body). `refuse[key]` names an AWS error; `down` cuts all."""

    def __init__(self, moto_port):
        self.calls, self.refuse, self.down = [], {}, False
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
                asked = json.loads(body or b"{}")
                door.calls.append((operation, asked))
                if door.down:
                    self.close_connection = True
                    return
                error = next((e for k, e in door.refuse.items() if k in str(asked.get("KeyId", ""))), None)
                if error:
                    return self.answer(400, json.dumps({"__type": error, "message": "refused by the door"}).encode())
                up = http.client.HTTPConnection("127.0.0.1", moto_port, timeout=30)
                up.request("POST", self.path, body, dict(self.headers))
                r = up.getresponse()
                self.answer(r.status, r.read())

            def answer(self, status, body):
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def end(self):
        self.server.shutdown()
        self.server.server_close()
