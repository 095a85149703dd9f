"""The server under test as a process: start, ready, SIGTERM, kill -9, start again on the same folder.

In: a folder and a port. Out: a running broker and the client credential folders it left.
Must not: know how data is stored; suites that touch files do that themselves.
"""

import os
import signal
import ssl
import subprocess
import time
import urllib.request
from pathlib import Path

from . import env


class NotReady(AssertionError):
    pass


class Process:
    """One child process whose output is kept in a file and watched for facts."""

    left = []  # every one, so that none outlives a fixture that failed half way

    def __init__(self, argv, log: Path, environment=None, cwd=None):
        self.log = log
        self._out = open(log, "ab")
        self._from = log.stat().st_size
        self.started = time.monotonic()
        self.child = subprocess.Popen([str(a) for a in argv], stdout=self._out, stderr=subprocess.STDOUT,
                                      stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})}, cwd=cwd)
        Process.left.append(self)

    def output(self) -> str:
        """What this very process printed (not its predecessors on the same log)."""
        with open(self.log, "rb") as f:
            f.seek(self._from)
            return f.read().decode("utf-8", "replace")

    def wait_for(self, is_ready, timeout):
        deadline = time.monotonic() + timeout
        while True:
            if is_ready(self.output()):
                return time.monotonic() - self.started
            code = self.child.poll()
            if code is not None:
                raise NotReady(f"ended with {code} before it was ready:\n{self.output()[-3000:]}")
            if time.monotonic() > deadline:
                raise NotReady(f"not ready after {timeout} s:\n{self.output()[-3000:]}")
            time.sleep(0.005)

    def stop(self, sig=signal.SIGTERM, timeout=30):
        if self.child.poll() is None:
            self.child.send_signal(sig)
        code = self.child.wait(timeout)
        self._out.close()
        return code

    @property
    def pid(self):
        return self.child.pid

    def rss_bytes(self):
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Credentials:
    """One principal's folder as a client finds it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.ca, self.cert, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        self.java = folder / "client.properties"
        self.librdkafka = folder / "librdkafka.conf"
        self.p12 = folder / "client.p12"

    def librdkafka_dict(self) -> dict:
        conf = {}
        for line in self.librdkafka.read_text().splitlines():
            line = line.strip()
            if line and not line.startswith("#"):
                key, _, value = line.partition("=")
                conf[key.strip()] = value.strip()
        return conf

    def tls(self, certificate=True) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        if certificate:
            context.load_cert_chain(str(self.cert), str(self.key))
        return context


class Schloss:
    """`schloss quickstart` on one folder; with `config`, `schloss serve` on the file quickstart left, those keys changed."""

    name = "schloss"
    tenants = {"acme": "111111111111", "globex": "222222222222"}

    def __init__(self, folder: Path, port=None, environment=None, config=None):
        self.folder, self.port = Path(folder), port or env.free_port()
        self.log = self.folder.parent / (self.folder.name + ".log")
        self.environment, self.config = dict(environment or {}), config
        self.process = None

    @property
    def bootstrap(self):
        return f"{env.LOCALHOST}:{self.port}"

    sasl_host = "acme.localhost"

    @property
    def sasl_bootstrap(self):
        """Where people log in who show no certificate: by the name dialled a tenant is known."""
        return f"{self.sasl_host}:{self.port}"

    @property
    def admin_port(self):
        return self.port + 1

    @property
    def data(self):
        return self.folder / "data"

    @property
    def organisation(self):
        return self.folder / "organisation"

    @property
    def own_config(self):
        return self.folder / "own.toml"

    def prepare(self):
        """Lets quickstart make its folder once, then writes `own.toml` with the wanted keys changed (None: taken out)."""
        quick = Schloss(self.folder, self.port, self.environment)
        quick.start()
        assert quick.stop() == 0
        self.write_config(self.config or {})

    def write_config(self, changes):
        lines = []
        for line in (self.folder / "schloss.toml").read_text().splitlines():
            if line.split(" = ")[0] not in changes:
                lines.append(line)
        lines += [f"{k} = {toml(v)}" for k, v in changes.items() if v is not None]
        self.own_config.write_text("\n".join(lines) + "\n")

    def command(self):
        if self.config is not None:
            return [env.schloss_binary(), "serve", "--config", self.own_config]
        return [env.schloss_binary(), "quickstart", "--dir", self.folder, "--port", str(self.port)]

    def start(self, timeout=60):
        """Starts and waits for the ready line; returns the seconds that took."""
        if self.config is not None and not self.own_config.exists():
            self.prepare()
        self.process = Process(self.command(), self.log, self.environment)
        return self.process.wait_for(lambda text: "schloss is ready on" in text, timeout)

    def start_refused(self, timeout=30):
        """Starts where a refusal is expected; returns (exit code, what it said)."""
        self.process = Process(self.command(), self.log, self.environment)
        code = self.process.child.wait(timeout)
        return code, self.process.output()

    def kill(self):
        self.process.stop(signal.SIGKILL)

    def stop(self, timeout=30):
        return self.process.stop(signal.SIGTERM, timeout)

    def running(self):
        return self.process is not None and self.process.child.poll() is None

    def client(self, tenant="acme", principal="admin") -> Credentials:
        return Credentials(self.folder / "clients" / tenant / principal)

    def admin_get(self, path, context=None, timeout=5):
        """GET on the HTTPS admin listener; the server certificate is checked, no client certificate is shown."""
        context = context or self.client().tls(certificate=False)
        with urllib.request.urlopen(f"https://{env.LOCALHOST}:{self.admin_port}{path}", context=context, timeout=timeout) as r:
            return r.status, r.read().decode()

    def run(self, *arguments, timeout=60, environment=None, stdin=None):
        """Another `schloss` command; returns the finished process with its text."""
        return subprocess.run([str(env.schloss_binary()), *map(str, arguments)], capture_output=True, text=True,
                              timeout=timeout, env={**os.environ, **(environment or {})}, input=stdin)


def toml(value):
    import json
    return json.dumps(value)
