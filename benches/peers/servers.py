"""The servers that are measured: how each is started, and what the kernel says that it uses."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import keys

HERE = Path(__file__).resolve().parent
PATH = ".well-known/jwks.json"
SERVER_CORE, LOAD_CORE = 0, 1
PATIENCE = 20


class Failure(Exception):
    """The measurement cannot go on."""


class Site:
    """A set of keys: the directory of jwks-server, and its document as a file for all others."""

    def __init__(self, work, count, binary):
        self.directory = work / f"{count}-keys"
        dropped = self.directory / "keys"
        dropped.mkdir(parents=True)
        for number, pem in enumerate(itertools.islice(keys.public_keys(), count - 1)):
            (dropped / f"{number}.pem").write_text(pem)
        self.root = work / f"{count}-site"
        self.file = self.root / PATH
        self.file.parent.mkdir(parents=True)
        self.length = 0
        server = Server(self, "jwks-server", {"jwks-server": binary})
        try:
            self.file.write_bytes(server.get())
        finally:
            server.stop()
        self.length = self.file.stat().st_size


NGINX = """
daemon off; worker_processes 1; pid {work}/pid; error_log {work}/error.log; {user}
events {{ worker_connections 16384; }}
http {{
    access_log off; sendfile on; keepalive_requests 1000000000; keepalive_timeout 60s;
    open_file_cache max=16 inactive=600s; open_file_cache_valid 600s;
    types {{ application/json json; }}
    client_body_temp_path {work}/b; proxy_temp_path {work}/p; fastcgi_temp_path {work}/f;
    uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
    server {{ listen 127.0.0.1:{port} backlog=4096; root {site.root}; }}
}}
"""
H2O = """
num-threads: 1
max-connections: 16384
{user}
listen: {{ host: 127.0.0.1, port: {port} }}
hosts:
  "*":
    paths:
      "/": {{ file.dir: "{site.root}" }}
"""
CADDY = """
{{
    admin off
    auto_https off
}}
http://:{port} {{
    bind 127.0.0.1
    root * {site.root}
    file_server
}}
"""


def command(name, programs, site, work, port):
    """The command line that serves `site`."""
    root = os.geteuid() == 0

    def config(text, user=""):
        file = work / f"{name}.conf"
        file.write_text(text.format(work=work, site=site, port=port, user=user if root else ""))
        return str(file)

    match name:
        case "nginx":
            return [programs["nginx"], "-e", work / "error.log", "-c", config(NGINX, "user root;")]
        case "h2o":
            return [programs["h2o"], "-c", config(H2O, "user: root")]
        case "caddy":
            return [programs["caddy"], "run", "--adapter", "caddyfile", "--config", config(CADDY)]
        case "go":
            return [programs["go-server"], str(port), site.file]
        case "express":
            return [programs["node"], Path(programs["express"]) / "server.js", str(port), site.file]
        case "limit":
            return [programs["loadgen"], "--port", str(port), "--limit", site.file]
        case "jwks-server":
            # At three quarters of the cap it would begin to close idle connections.
            return [programs["jwks-server"], "--bind", "127.0.0.1", "--port", str(port),
                    "--max-connections", "16384", "--key-file", site.directory / "private_key.pem"]
    raise Failure(f"no such server: {name}")


class Server:
    """A running server, in a process group of its own so that nothing of it stays."""

    running = []
    ports = itertools.cycle(range(18000, 18200))

    def __init__(self, site, name, programs):
        self.name, self.site = name, site
        self.port = next(port for port in Server.ports if is_free(port))
        self.work = site.root.parent / f"{name}-{self.port}"
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        words = [str(word) for word in command(name, programs, site, self.work, self.port)]
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(self.work), "NODE_ENV": "production"}
        # A child inherits on which core it may run; that of the load is not for servers.
        os.sched_setaffinity(0, {SERVER_CORE})
        try:
            with open(self.work / "log", "wb") as log:
                self.started_at = time.monotonic()
                self.process = subprocess.Popen(words, cwd=self.work, env=environment, stdout=log,
                                                stdin=subprocess.DEVNULL, stderr=log,
                                                start_new_session=True)
            Server.running.append(self)
        finally:
            os.sched_setaffinity(0, {LOAD_CORE})
        try:
            self.first_answer = self.wait_for_answer()
        except BaseException:
            self.stop()
            raise

    def wait_for_answer(self):
        """Seconds from the start to the first 200. It spins: a pause would be measured as well."""
        while True:
            try:
                self.get()
                return time.monotonic() - self.started_at
            except OSError:
                if self.process.poll() is not None or time.monotonic() > self.started_at + PATIENCE:
                    log = (self.work / "log").read_text(errors="replace")[-2000:]
                    raise Failure(f"{self.name} does not answer: {log}") from None

    def get(self):
        """The document."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            connection.sendall(
                f"GET /{PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 ") or self.site.length not in (0, len(body)):
            raise Failure(f"{self.name} answers {head!r} and {len(body)} bytes")
        return body

    def processes(self):
        """All processes of its group."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue  # It has just ended.
                if int(fields[2]) == self.process.pid:
                    yield entry

    def threads(self):
        """Each of its threads, with its seconds on a processor."""
        for process in self.processes():
            for file in process.glob("task/*/schedstat"):
                try:
                    yield file, int(file.read_text().split()[0]) / 1e9
                except OSError:
                    continue  # It has just ended.

    def cpu_seconds(self):
        """Time on a processor of all its threads."""
        return sum(seconds for _, seconds in self.threads())

    def memory(self, kind):
        """Bytes of memory, with each shared page divided by those who share it.

        `kind`: "Pss" for all of it, "Pss_Anon" for what is no page of a file.
        """
        rollups = [(process / "smaps_rollup").read_text() for process in self.processes()]
        return sum(int(line.split()[1]) * 1024 for rollup in rollups
                   for line in rollup.splitlines() if line.startswith(f"{kind}:"))

    def stop(self):
        if self in Server.running:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                pass
            # Also what outlived the first process, or would not end.
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
            Server.running.remove(self)
            shutil.rmtree(self.work, ignore_errors=True)


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
