"""What is measured. Each measure is a function that yields samples as (row, server, value).

A round measures every server once, one after the other, so that what else the machine does meets
them all; a ratio is taken within a round.
"""

import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import time
from contextlib import contextmanager

import keys
from servers import PATH, Failure, Server

# Those that need several times as long for a request get fewer of them.
SLOW = ("caddy", "go", "express")
IDLE_CONNECTIONS = 10_000
RATE = 5000
# Of the first plot: requests a second. Of the second: keys in the set.
LOADS = (1000, 2000, 5000, 10_000, 20_000, 40_000)
COUNTS = (1, 3, 10, 30, 100, 300, 1000)
SETTLE = 0.4


class Bench:
    def __init__(self, programs, peers, sites, quick):
        self.programs, self.peers, self.sites, self.quick = programs, peers, sites, quick
        self.rounds = 2 if quick else 5

    def start(self, name, count=3):
        return Server(self.sites[count], name, self.programs)

    @contextmanager
    def all_started(self, count, without=()):
        servers = []
        try:
            for name in self.peers:
                if name not in without:
                    servers.append(self.start(name, count))
            yield servers
        finally:
            for server in servers:
                server.stop()

    def load(self, server, *options):
        words = [self.programs["loadgen"], "--port", str(server.port),
                 "--length", str(server.site.length), *options]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise Failure(f"{server.name}: {' '.join(options)}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def under_load(self, row, mode, count=3, without=()):
        """CPU per request and requests a second, as fast as 64 connections can."""
        with self.all_started(count, without) as servers:
            for again in range(-1, self.rounds):
                for server in servers:
                    requests = 4000 if server.name in SLOW else 20000
                    if count > 100:
                        requests = requests * 100 // count
                    if self.quick:
                        requests //= 4
                    before = server.cpu_seconds()
                    seen = self.load(server, "--mode", mode, "--requests", str(requests))
                    cpu = (server.cpu_seconds() - before) / requests
                    if again < 0:
                        continue  # The first round warms them up.
                    yield f"CPU per {row}", server.name, cpu * 1e6
                    yield f"requests/s, {row}", server.name, requests / seen["seconds"]

    def get(self):
        return self.under_load("GET", "keep-alive")

    def unchanged(self):
        # The original in Go knows no ETag.
        return self.under_load("304", "if-none-match", without=("go",))

    def head(self):
        return self.under_load("HEAD", "head")

    def close(self):
        return self.under_load("GET, `Connection: close`", "close")

    def large(self):
        return self.under_load("GET of 100 keys", "keep-alive", count=100)

    def system_calls(self):
        """By strace, of twice as many requests less those of one run: so the connections cancel."""
        requests = 300 if self.quick else 1000
        with self.all_started(3) as servers:
            for _ in range(2):
                for server in servers:
                    one, two = (count_calls(server, lambda s=server, n=times * requests: self.load(
                        s, "--requests", str(n))) for times in (1, 2))
                    yield "system calls per GET", server.name, (two - one) / requests

    def latency(self):
        """At a fixed rate, from when each request was due."""
        with self.all_started(3) as servers:
            for _ in range(self.rounds):
                for server in servers:
                    seen = self.load(server, "--rate", str(RATE), "--requests", str(RATE))
                    for name in ("p50", "p99", "p99.9"):
                        value = seen[name.replace(".", "_") + "_us"]
                        yield f"{name} at {RATE:,}/s", server.name, value

    def loads(self):
        """The same at one rate after another, for those that can answer as often."""
        with self.all_started(3, without=SLOW) as servers:
            for _ in range(self.rounds):
                for rate in LOADS:
                    for server in servers:
                        seen = self.load(server, "--rate", str(rate), "--requests", str(rate // 2))
                        yield f"p50 at {rate:,}/s", server.name, seen["p50_us"]
                        yield f"p99 at {rate:,}/s", server.name, seen["p99_us"]

    def counts(self):
        """CPU per GET of sets of one size after another."""
        for count in COUNTS:
            row = f"GET of {count:,} keys"
            for kind, name, value in self.under_load(row, "keep-alive", count, without=SLOW):
                if kind.startswith("CPU"):
                    yield kind, name, value

    def memory(self):
        """Of a server that has answered once, and what each idle connection adds to it."""
        for _ in range(1 if self.quick else 3):
            for name in self.peers:
                server = self.start(name)
                try:
                    server.get()
                    time.sleep(SETTLE)
                    yield "PSS idle", name, server.memory("Pss") / 1e6
                    yield "bytes per idle connection", name, self.each_idle(server)
                finally:
                    server.stop()

    def each_idle(self, server):
        # The load shares pages of files with the server; that would count as memory won.
        alone = server.memory("Pss_Anon")
        words = [self.programs["loadgen"], "--port", str(server.port), "--length",
                 str(server.site.length), "--idle", str(IDLE_CONNECTIONS)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as load:
            try:
                if load.stdout.readline() != "ready\n":
                    raise Failure(f"{server.name}: idle: {load.stderr.read().strip()}")
                return (server.memory("Pss_Anon") - alone) / IDLE_CONNECTIONS
            finally:
                load.kill()

    def idle(self):
        """CPU of servers that are left alone. A thread may end: what was seen of it last counts."""
        seconds = 20 if self.quick else 60
        with self.all_started(3) as servers:
            time.sleep(SETTLE)
            before = {server: dict(server.threads()) for server in servers}
            last = {server: dict(threads) for server, threads in before.items()}
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.1)
                for server in servers:
                    last[server] |= server.threads()
            for server in servers:
                used = sum(last[server].values()) - sum(before[server].values())
                yield "CPU when idle, each second", server.name, used / seconds * 1e6

    def startup(self):
        """From the exec to the first whole 200, with a key there."""
        for _ in range(4 if self.quick else 20):
            for name in self.peers:
                server = self.start(name)
                yield "exec to first 200", name, server.first_answer * 1e3
                yield "CPU from exec to first 200", name, server.cpu_seconds() * 1e3
                server.stop()
            if "jwks-server" in self.peers:
                server = Server(Nowhere(self.sites[3]), "jwks-server", self.programs)
                yield "exec to first 200, makes a key", server.name, server.first_answer * 1e3
                server.stop()

    def renamed(self):
        """From the rename of a file into keys/ to the first answer with it, and back."""
        if "jwks-server" not in self.peers:
            return
        for count in (3, 1000):
            server = self.start("jwks-server", count)
            *_, pem = (pem for pem, _ in zip(keys.public_keys(), range(count + 1)))
            outside = server.work / "new.pem"
            outside.write_text(pem)
            inside = server.site.directory / "keys" / "new.pem"
            try:
                for _ in range(4 if self.quick else 20):
                    for row, source, target in (("renamed in to served", outside, inside),
                                                ("renamed away to gone", inside, outside)):
                        # Until the look that follows a quiet moment is over.
                        time.sleep(SETTLE)
                        took = until_changed(server, lambda s=source, t=target: os.rename(s, t))
                        yield f"{row}, {count:,} keys", server.name, took * 1e3
            finally:
                server.stop()
                inside.unlink(missing_ok=True)


class Nowhere:
    """An empty directory, which is where a first start begins."""

    numbers = itertools.count()

    def __init__(self, site):
        self.root, self.file, self.length = site.root, site.file, 0
        self.directory = site.directory.parent / f"empty-{next(Nowhere.numbers)}"
        self.directory.mkdir()


def count_calls(server, work):
    """How many system calls all threads of the server make during `work`."""
    processes = [process.name for process in server.processes()]
    told = server.work / "calls"
    words = ["strace", "-f", "-c", "-o", told, *(f"-p{process}" for process in processes)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as strace:
        try:
            for _ in processes:
                if " attached" not in (line := strace.stderr.readline()):
                    raise Failure(f"strace: {line.strip()}")
            work()
        finally:
            strace.send_signal(signal.SIGINT)
            strace.communicate(timeout=20)
    total = next(line for line in told.read_text().splitlines() if line.endswith(" total"))
    return int(total.split()[3])


def until_changed(server, change):
    """Seconds from a change to the first answer of another length."""
    request = f"HEAD /{PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        def length():
            connection.sendall(request)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                part = connection.recv(4096)
                if not part:
                    raise Failure(f"{server.name} closed within an answer")
                head += part
            return head.lower().partition(b"content-length:")[2].split()[0]

        before, began_at = length(), time.monotonic()
        change()
        while length() == before:
            if time.monotonic() > began_at + 30:
                raise Failure(f"{server.name} does not see the change")
            # The server answers on the core on which it looks: it must have time to.
            time.sleep(0.0001)
        return time.monotonic() - began_at


MEASURES = {
    "get": Bench.get,
    "304": Bench.unchanged,
    "head": Bench.head,
    "close": Bench.close,
    "100-keys": Bench.large,
    "system-calls": Bench.system_calls,
    "latency": Bench.latency,
    "loads": Bench.loads,
    "key-counts": Bench.counts,
    "memory": Bench.memory,
    "idle": Bench.idle,
    "start": Bench.startup,
    "renamed": Bench.renamed,
}

# The unit of a row, the server that its ratios are to, if it is told in ratios, and the goal.
ROWS = {
    "CPU per GET": ("µs", "nginx", "≤ 0.70"),
    "requests/s, GET": ("/s", "nginx", "≥ 1.40"),
    "CPU per 304": ("µs", "nginx", "≤ 0.95"),
    "requests/s, 304": ("/s", "nginx", ""),
    "CPU per HEAD": ("µs", "nginx", ""),
    "requests/s, HEAD": ("/s", "nginx", ""),
    "CPU per GET, `Connection: close`": ("µs", "nginx", "≤ 1.05"),
    "requests/s, GET, `Connection: close`": ("/s", "nginx", ""),
    "CPU per GET of 100 keys": ("µs", "nginx", "≤ 0.90"),
    "requests/s, GET of 100 keys": ("/s", "nginx", ""),
    "system calls per GET": ("", None, "≤ 2.1"),
    f"p99.9 at {RATE:,}/s": ("µs", None, ""),
    **{f"{name} at {rate:,}/s": ("µs", None, "") for rate in LOADS for name in ("p50", "p99")},
    **{f"CPU per GET of {count:,} keys": ("µs", None, "") for count in COUNTS if count != 100},
    "PSS idle": ("MB", None, "≤ 3.5 MB"),
    "bytes per idle connection": ("", None, "≤ 6,144"),
    "CPU when idle, each second": ("µs", None, ""),
    "exec to first 200": ("ms", "go", "≤ 0.62 of Go"),
    "CPU from exec to first 200": ("ms", "go", ""),
    "exec to first 200, makes a key": ("ms", None, ""),
    "renamed in to served, 3 keys": ("ms", None, "≤ 1.5 ms"),
    "renamed away to gone, 3 keys": ("ms", None, ""),
    "renamed in to served, 1,000 keys": ("ms", None, "≤ 3 ms"),
    "renamed away to gone, 1,000 keys": ("ms", None, ""),
}


def table(samples, peers):
    """Markdown: medians, and in brackets the least and the most."""
    lines = [f"| Measure | {' | '.join(peers)} | Goal |", "|---" * (len(peers) + 2) + "|"]
    for row, (unit, base, goal) in ROWS.items():
        if row not in samples:
            continue
        bases = samples[row].get(base)
        cells = []
        for peer in peers:
            values = samples[row].get(peer)
            if not values:
                cells.append("n/a")
            elif bases is None or peer == base:
                told = f"{spread(values)} {unit}".strip()
                cells.append(f"1.00 = {told}" if bases else told)
            else:
                ratios = [value / of for value, of in zip(values, bases)]
                cells.append(f"{spread(ratios)}")
        lines.append(f"| {row} | {' | '.join(cells)} | {goal} |")
    return "\n".join(lines)


def spread(values):
    def told(value):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return f"{told(statistics.median(values))} ({told(min(values))}–{told(max(values))})"
