"""A MongoDB server for tests: the wire protocol of nx-27017 over a SQLite file."""

import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import bson


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


@contextmanager
def guard(server, user, password):
    """The port of a proxy that lets only this user (mechanism PLAIN) through to `server`."""

    class Connection(socketserver.BaseRequestHandler):
        def handle(self):
            known = False
            with socket.create_connection(("127.0.0.1", server.port)) as behind:
                while message := receive(self.request):
                    document = command(message)
                    if "saslStart" in document:
                        known = document["payload"] == f"\0{user}\0{password}".encode()
                        answer = {"ok": 1, "done": True, "conversationId": 1, "payload": b""}
                        refusal = {"ok": 0, "code": 18, "errmsg": "Authentication failed."}
                        reply(self.request, message, answer if known else refusal)
                    elif known or {"hello", "ismaster", "isMaster"} & document.keys():
                        behind.sendall(message)
                        self.request.sendall(receive(behind))
                    else:
                        refusal = {"ok": 0, "code": 13, "errmsg": "requires authentication"}
                        reply(self.request, message, refusal)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy.server_address[1]
        proxy.shutdown()


def receive(connection):
    """A whole message of the wire protocol; empty where the other side has gone."""
    message = b""
    while len(message) < 4 or len(message) < struct.unpack_from("<i", message)[0]:
        size = struct.unpack_from("<i", message)[0] if len(message) >= 4 else 4
        piece = connection.recv(size - len(message))
        if not piece:
            return b""
        message += piece
    return message


def command(message):
    """What an OP_MSG (header, flags, kind 0, document) asks for; OP_QUERY is only a greeting."""
    if struct.unpack_from("<i", message, 12)[0] != 2013:
        return {"hello": 1}
    size = struct.unpack_from("<i", message, 21)[0]
    return bson.decode(message[21 : 21 + size])


def reply(connection, message, document):
    body = struct.pack("<ib", 0, 0) + bson.encode(document)
    request_id = struct.unpack_from("<i", message, 4)[0]
    connection.sendall(struct.pack("<iiii", 16 + len(body), 1, request_id, 2013) + body)
