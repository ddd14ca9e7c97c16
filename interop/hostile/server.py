"""A jwks-server with a directory of its own, and the answers of it or of a proxy before it."""

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PATH = "/.well-known/jwks.json"
GET = f"GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
LAST_GET = f"GET {PATH} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()

STARTED_AT = time.monotonic()


class Failure(Exception):
    """The attack cannot go on."""


def tell(text):
    print(f"[{time.monotonic() - STARTED_AT:4.0f} s] {text}", file=sys.stderr, flush=True)


def parse(data, heads=0):
    """The whole answers in `data` as (status, headers, body), and what is left.

    `heads`: that many answers from the first have no body.
    """
    answers = []
    while True:
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            return answers, data
        lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        status = int(lines[0].split()[1]) if lines[0].startswith("HTTP/1.") else 0
        if headers.get("transfer-encoding") == "chunked":
            body, rest = dechunk(rest)
            if body is None:
                return answers, data
        else:
            length = 0 if len(answers) < heads or status in (204, 304) \
                else int(headers.get("content-length", 0))
            if len(rest) < length:
                return answers, data
            body, rest = rest[:length], rest[length:]
        answers.append((status, headers, body))
        data = rest


def dechunk(data):
    body = b""
    while True:
        size, found, data = data.partition(b"\r\n")
        if not found:
            return None, b""
        size = int(size.split(b";")[0], 16)
        if len(data) < size + 2:
            return None, b""
        body, data = body + data[:size], data[size + 2:]
        if size == 0:
            return body, data


def exchange(port, request, timeout=10, quiet=None):
    """All that is answered to the bytes of `request`, and whether the connection was closed.

    Without an end, `quiet` seconds without a byte end it as well.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as client:
        client.settimeout(quiet or timeout)
        deadline = time.monotonic() + timeout
        data = b""
        try:
            client.sendall(request)
        except OSError:
            pass  # refused early: the answer is there to be read
        while time.monotonic() < deadline:
            try:
                more = client.recv(65536)
            except TimeoutError:
                return data, False
            except OSError:
                return data, True
            if not more:
                return data, True
            data += more
        return data, False


class Server:
    """A running jwks-server."""

    def __init__(self, binary, directory, prefix=(), many_keys=False, options=()):
        self.binary, self.directory, self.prefix = binary, directory, list(prefix)
        self.options = list(options)
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.startswith("JWKS_SERVER_")}
        self.log = directory / "log"
        self.process = self.port = None
        self.own_sockets = 0
        if many_keys:
            plant_keys(directory / "keys", 60)

    def start(self):
        with self.log.open("wb") as log:
            # prlimit executes the program in its own place, so the process id is the server's.
            self.process = subprocess.Popen(
                [*self.prefix, self.binary, "--port", "0", "--bind", "127.0.0.1",
                 *self.options],
                cwd=self.directory, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env=self.environment)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            said = re.search(r"http://[a-z0-9.]+:(\d+)/", self.log.read_text())
            if said:
                self.port = int(said[1])
                self.get()
                time.sleep(0.1)
                # The listener, and what the runtime has for itself.
                self.own_sockets = self.connections()
                return
            time.sleep(0.05)
        self.stop()
        raise Failure(f"jwks-server does not serve:\n{self.log.read_text()}")

    def stop(self):
        """Ends it; returns what was wrong with that, if anything."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(15)
                return "still there 15 s after SIGTERM"
        code = self.process.returncode
        return None if code == 0 else f"exit code {code}: {self.log.read_text()[-300:]}"

    def command(self, *args):
        done = subprocess.run([self.binary, *args], cwd=self.directory, capture_output=True,
                              text=True, timeout=30, check=False, env=self.environment)
        if done.returncode:
            raise Failure(f"jwks-server {args[0]} failed: {done.stderr.strip()}")
        return done.stdout

    def get(self, timeout=5):
        """The key set; an OSError if it is not served."""
        data, _ = exchange(self.port, LAST_GET, timeout)
        answers, rest = parse(data)
        if len(answers) != 1 or answers[0][0] != 200 or rest:
            raise OSError(f"no answer but {data[:80]!r}")
        return answers[0][2]

    def rss_mib(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        # What it is, and the most that it has been: a peak between two looks counts.
        # A process that is ending has none any more.
        return max(map(int, re.findall(r"Vm(?:RSS|HWM):\s+(\d+)", status)), default=0) / 1024

    def connections(self):
        """How many it has accepted and not closed."""
        mine = set()
        for entry in os.scandir(f"/proc/{self.process.pid}/fd"):
            try:
                target = os.readlink(entry.path)
            except OSError:
                continue
            if target.startswith("socket:"):
                mine.add(target)
        return max(0, len(mine) - self.own_sockets)


def plant_keys(directory, count):
    """Puts `count` new P-256 keys there, as SEC1 without a public half, for a large key set."""
    directory.mkdir(mode=0o700)
    for number in range(count):
        # Below the group's order, whose first byte is 0xff.
        scalar = b"\x01" + os.urandom(31)
        der = bytes.fromhex("30310201010420") + scalar + bytes.fromhex("a00a06082a8648ce3d030107")
        pem = b"-----BEGIN EC PRIVATE KEY-----\n" + base64.encodebytes(der)
        file = os.open(directory / f"dropped-{number}.pem", os.O_CREAT | os.O_WRONLY, 0o600)
        with os.fdopen(file, "wb") as out:
            out.write(pem + b"-----END EC PRIVATE KEY-----\n")
