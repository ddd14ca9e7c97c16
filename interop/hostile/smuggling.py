"""Requests that two readers may end at different bytes, to the server alone and through real proxies.

Alone: one answer for each request, or 400 and the end. Behind a proxy, which keeps its connections to
the server and shares them among clients: the same for the attacker, and whoever comes next gets what
they asked for. The body that the attacker sends is the beginning of a request, so that a server that
took it for one would answer the next client's request with the answer to it.
"""

import os
import socket
import subprocess
import threading
import time

from server import GET, LAST_GET, PATH, Failure, exchange, parse

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\nX-Swallow: "
CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
VICTIMS = 4


def _post(*headers, body=SMUGGLED):
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n" + body


def _get(*lines):
    return b"GET " + PATH.encode() + b" HTTP/1.1\r\n" + b"".join(lines) + b"\r\n"


_LENGTH = b"Content-Length: %d" % len(SMUGGLED)
_ENDED = b"0\r\n\r\n" + SMUGGLED
_CHUNKED = b"Transfer-Encoding: chunked"
_BODY = ([405], [400])
_REFUSED = ([400],)

# name, bytes, what the server alone may answer before it closes
CASES = [
    ("CL and TE", _post(b"Content-Length: %d" % len(_ENDED), _CHUNKED, body=_ENDED), _BODY),
    ("TE and CL", _post(_CHUNKED, b"Content-Length: 4", body=CHUNK), _BODY),
    ("TE and CL 0", _post(_CHUNKED, b"Content-Length: 0", body=_ENDED), _BODY),
    ("two CLs", _post(b"Content-Length: 0", _LENGTH), _REFUSED),
    ("two CLs, the other way", _post(_LENGTH, b"Content-Length: 0"), _REFUSED),
    ("two equal CLs", _post(_LENGTH, _LENGTH), _BODY),
    ("CL list", _post(b"Content-Length: 0, %d" % len(SMUGGLED)), _REFUSED),
    ("CL with a sign", _post(b"Content-Length: +%d" % len(SMUGGLED)), _REFUSED),
    ("a body as announced", _post(_LENGTH), _BODY),
    ("chunks as announced", _post(_CHUNKED, body=CHUNK), _BODY),
    ("GET with a body", _post(_LENGTH).replace(b"POST", b"GET", 1), ([200], [400])),
    ("space before the colon", _post(b"Transfer-Encoding : chunked", _LENGTH), _REFUSED),
    ("tab before chunked", _post(b"Transfer-Encoding:\tchunked", b"Content-Length: 5", body=_ENDED),
     _BODY),
    ("folded TE", _post(b"Transfer-Encoding:\r\n chunked", _LENGTH), _REFUSED),
    ("TE xchunked", _post(b"Transfer-Encoding: xchunked", _LENGTH), _REFUSED),
    ("TE twice", _post(_CHUNKED, b"Transfer-Encoding: identity", _LENGTH), _REFUSED),
    ("NUL in a value", _get(b"Host: a\r\n", b"X: a\0b\r\n"), _REFUSED),
    ("NUL in a name", _get(b"Host: a\r\n", b"X\0: a\r\n"), _REFUSED),
    ("two Hosts", _get(b"Host: a\r\n", b"Host: b\r\n"), _REFUSED),
    ("no Host", _get(), _REFUSED),
    ("bare CR", _get(b"Host: a\r\n", b"X: a\rContent-Length: 9\r\n"), _REFUSED),
    ("bare LF", b"GET " + PATH.encode() + b" HTTP/1.1\nHost: a\n\n" + LAST_GET, ([200, 200], [400])),
    ("bare LF before CL", b"GET " + PATH.encode() + b" HTTP/1.1\r\nHost: a\nContent-Length: 0\r\n\r\n"
     + LAST_GET, ([200, 200], [400])),
    ("bare LF in chunks", _post(_CHUNKED, body=b"0\n\n" + SMUGGLED), _BODY),
    ("two requests (control)", GET + LAST_GET, ([200, 200],)),
]


def alone(server, problems):
    for name, request, allowed in CASES:
        # A whole request behind it, for a server that takes the body for one.
        data, closed = exchange(server.port, request + b"\r\n\r\n", timeout=10)
        answers, rest = parse(data)
        statuses = [status for status, _, _ in answers]
        if statuses not in allowed or rest:
            problems.append(f"{name}: answered {statuses} {rest[:40]!r}")
        if not closed:
            problems.append(f"{name}: not closed within 10 s")
    return {"connections": len(CASES), "note": f"{len(CASES)} cases"}


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


NGINX = """
daemon off; pid {directory}/pid; error_log {directory}/error.log; worker_processes 1; {user}
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  upstream keys {{ server 127.0.0.1:{upstream}; keepalive 1; }}
  server {{
    listen 127.0.0.1:{port}; ignore_invalid_headers off;
    location / {{
      proxy_pass http://keys; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_next_upstream off;
    }}
  }}
}}
"""
# It forwards more than it does by default, so that more of the cases reach the server.
HAPROXY = """
global
  nbthread 1
  maxconn 256
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
  http-reuse always
  option accept-invalid-http-request
frontend clients
  bind 127.0.0.1:{port}
  default_backend keys
backend keys
  server keys 127.0.0.1:{upstream}
"""


class Proxy:
    """nginx or haproxy before a port, with one shared, kept connection to it."""

    def __init__(self, kind, directory, upstream):
        self.kind, self.port = kind, _free_port()
        directory.mkdir(mode=0o700)
        user = "user root;" if os.geteuid() == 0 else ""
        text = (NGINX if kind == "nginx" else HAPROXY).format(
            directory=directory, upstream=upstream, port=self.port, user=user)
        config = directory / "config"
        config.write_text(text)
        command = ["nginx", "-p", str(directory), "-e", str(directory / "error.log"), "-c",
                   str(config)] if kind == "nginx" else ["haproxy", "-db", "-f", str(config)]
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log)

    def __enter__(self):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                time.sleep(0.05)
        self.__exit__()
        raise Failure(f"{self.kind} does not start: {self.log.read_text()}")

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)

    def poisoned(self, body):
        """The next clients that do not get `body`."""
        wrong = []
        for _ in range(VICTIMS):
            data, _ = exchange(self.port, LAST_GET, timeout=6)
            answers, _ = parse(data)
            if [(status, got) for status, _, got in answers] != [(200, body)]:
                wrong.append(data[:60])
        return wrong


class Naive(threading.Thread):
    """A server that takes bodies for requests: the negative control."""

    def __init__(self, body):
        super().__init__(daemon=True)
        self.body, self.listener = body, socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def run(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.converse, args=(client,), daemon=True).start()

    def converse(self, client):
        data = b""
        with client:
            client.settimeout(10)
            while True:
                head, found, rest = data.partition(b"\r\n\r\n")
                try:
                    if not found:
                        more = client.recv(65536)
                        if not more:
                            return
                        data += more
                        continue
                    good = head.split(b" ")[1:2] == [PATH.encode()]
                    body = self.body if good else b"smuggled"
                    client.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (
                        b"200 OK" if good else b"404 Not Found", len(body), body))
                except OSError:
                    return
                data = rest


def behind(kind):
    def run(server, problems):
        body = server.get()
        outcomes = {}
        with Proxy(kind, server.directory / kind, server.port) as proxy:
            if proxy.poisoned(body):
                problems.append(f"{kind} does not serve at all")
            for name, request, allowed in CASES:
                data, _ = exchange(proxy.port, request, timeout=6, quiet=0.5)
                answers, rest = parse(data)
                statuses = [status for status, _, _ in answers]
                outcomes[name] = statuses
                # A proxy may refuse what the server alone would take, and mend what it would refuse.
                if not 1 <= len(statuses) <= max(map(len, allowed)) or rest or 404 in statuses:
                    problems.append(f"{name}: answered {statuses} {rest[:40]!r}")
                if wrong := proxy.poisoned(body):
                    problems.append(f"{name}: the next clients were answered {wrong}")
        naive = Naive(body)
        naive.start()
        with naive.listener, Proxy(kind, server.directory / f"{kind}-control", naive.port) as proxy:
            exchange(proxy.port, _post(_LENGTH), timeout=6, quiet=0.5)
            if not proxy.poisoned(body):
                problems.append("control: a server that takes bodies for requests was not noticed")
        return {"connections": len(CASES) * (1 + VICTIMS), "note": f"{outcomes}"}

    return run
