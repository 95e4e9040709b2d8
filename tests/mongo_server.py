"""A MongoDB server for tests: the wire protocol of nx-27017 over a SQLite file."""

import socket
import subprocess
import sys
import time
from pathlib import Path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """Starts, stops and starts again on the same port, with the same file."""

    def __init__(self, directory):
        self.directory, self.port = Path(directory), free_port()
        self.process = None
        self.start()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}:sweep"

    @property
    def url(self):
        return f"mongodb://127.0.0.1:{self.port}/sweep"

    def start(self):
        command = [
            Path(sys.executable).with_name("nx-27017"), "--port", self.port,
            "--db", self.directory / "mongo.db", "--log-file", self.directory / "log",
            "--pid-file", self.directory / "pid",
        ]  # fmt: skip
        with (self.directory / "output").open("w") as output:
            self.process = subprocess.Popen(
                [str(part) for part in command], stdout=output, stderr=subprocess.STDOUT
            )
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise TimeoutError((self.directory / "output").read_text())

    def stop(self):
        self.process.kill()
        self.process.wait()
