"""`moto_server` as a child process: AWS as an independent hand wrote it, without key states and key policies."""

import subprocess
import sys

from . import env


class Moto:
    def __init__(self, folder):
        self.port = env.free_port()
        self.log = open(folder / "moto.log", "wb")
        self.child = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)], stdout=self.log, stderr=self.log)

    def client(self, service):
        import boto3
        return boto3.client(service, region_name="eu-central-1", endpoint_url=f"http://127.0.0.1:{self.port}", aws_access_key_id="AKIDTEST", aws_secret_access_key="secret")

    def wait(self):
        env.eventually(lambda: self.client("kms").list_keys() is not None, timeout=60, every=0.3, what="moto")
        return self

    def end(self):
        self.child.kill()
        self.child.wait()
        self.log.close()
