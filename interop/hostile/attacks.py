"""The attacks. Each is a function of the server and of a list for what is wrong; it returns its figures.

`bound` is what is promised, in seconds, and what only a clear violation exceeds: machines that test are
busy.
"""

import select
import signal
import socket
import subprocess
import time

import crowding
import smuggling
from server import GET, LAST_GET, PATH, Failure, exchange, parse

NEEDS_DESCRIPTORS = 4096
HEAD_BOUND = (6, 20)
WRITE_BOUND = (12, 26)


class Peer:
    """One hostile connection."""

    def __init__(self, port, payload, receive_buffer, reads):
        self.out, self.reads, self.data = memoryview(payload), reads, b""
        self.opened = self.closed = None
        self.socket = socket.socket()
        self.socket.setblocking(False)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect_ex(("127.0.0.1", port))

    def send(self):
        try:
            while self.out:
                self.out = self.out[self.socket.send(self.out[:65536]):]
        except BlockingIOError:
            pass
        except OSError:
            self.out = self.out[:0]  # an answer may still be there to be read

    def receive(self):
        """Whether it is still open."""
        try:
            while more := self.socket.recv(65536):
                self.data += more
            return False
        except BlockingIOError:
            return True
        except OSError:
            return False


class Swarm:
    """Many hostile connections, in one loop."""

    def __init__(self, port, count, payload, *, at_once=None, receive_buffer=None, reads=True,
                 trickle=None):
        self.port, self.payload = port, payload
        self.receive_buffer, self.reads, self.trickle = receive_buffer, reads, trickle
        self.unborn, self.at_once = count, at_once or count
        self.epoll, self.open, self.ended = select.epoll(), {}, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for peer in self.open.values():
            peer.socket.close()
        self.epoll.close()

    def spawn(self):
        # A few at a time: the backlog is not what is attacked.
        for _ in range(min(100, self.unborn, self.at_once - len(self.open))):
            self.unborn -= 1
            payload = self.payload(self.unborn) if callable(self.payload) else self.payload
            peer = Peer(self.port, payload, self.receive_buffer, self.reads)
            self.open[peer.socket.fileno()] = peer
            self.epoll.register(peer.socket, select.EPOLLOUT)

    def run(self, seconds):
        """Until all have been closed by the server, or for that long."""
        deadline = time.monotonic() + seconds
        next_trickle = time.monotonic() + 1
        while (self.unborn or self.open) and time.monotonic() < deadline:
            self.spawn()
            for descriptor, events in self.epoll.poll(0.02, 1000):
                self.handle(descriptor, events)
            if self.trickle and time.monotonic() >= next_trickle:
                next_trickle += 1
                for peer in self.open.values():
                    try:
                        peer.socket.send(self.trickle)
                    except OSError:
                        pass  # the next look at it tells
        return self

    def handle(self, descriptor, events):
        peer = self.open[descriptor]
        if events & select.EPOLLOUT:
            if peer.opened is None:
                peer.opened = time.monotonic()
            peer.send()
        over = bool(events & (select.EPOLLERR | select.EPOLLHUP | select.EPOLLRDHUP))
        if peer.reads and (events & select.EPOLLIN or over):
            over = not peer.receive()
        if over:
            peer.closed = time.monotonic()
            self.epoll.unregister(descriptor)
            del self.open[descriptor]
            peer.socket.close()
            self.ended.append(peer)
            return
        wanted = select.EPOLLRDHUP | (select.EPOLLIN if peer.reads else 0)
        self.epoll.modify(descriptor, wanted | (select.EPOLLOUT if peer.out else 0))

    def closed_within(self, problems):
        never = [peer for peer in self.ended if peer.opened is None]
        if never:
            problems.append(f"{len(never)} connections were refused")
        if self.open or self.unborn:
            problems.append(f"{len(self.open) + self.unborn} connections were not closed")
        times = [peer.closed - peer.opened for peer in self.ended if peer.opened is not None]
        return max(times, default=None)


def stall(payload, trickle=None, count=2000):
    """Connections that begin a request, or not even that, beside a control: an idle one that has
    made a request is not closed."""

    def run(server, problems):
        control = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        control.sendall(GET)
        control.recv(65536)
        with control, Swarm(server.port, count, payload, trickle=trickle) as swarm:
            swarm.run(25)
            closed = swarm.closed_within(problems)
            answered = sum(1 for peer in swarm.ended if peer.data)
            time.sleep(1)
            try:
                control.sendall(GET)
                answers, _ = parse(control.recv(65536))
                if [status for status, _, _ in answers] != [200]:
                    problems.append(f"control: answered {answers}")
            except OSError as error:
                problems.append(f"control: an idle connection was closed as well: {error!r}")
        return {"connections": count, "closed": closed, "note": f"{answered} answered first"}

    return run


def slowhttptest(*options):
    """What slowhttptest does with 1,000 connections. It sees an end late or never, so that the server's
    side is watched: from the moment at which it had most of the connections to the last one's end."""

    def run(server, problems):
        count, rate, seconds = 1000, 200, 28
        with (server.directory / "slowhttptest.log").open("wb") as log:
            tool = subprocess.Popen(
                ["slowhttptest", *options, "-c", str(count), "-r", str(rate), "-p", "5",
                 "-l", str(seconds), "-u", f"http://127.0.0.1:{server.port}{PATH}"],
                cwd=server.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            started = time.monotonic()
            opened = last = started
            most = 0
            while time.monotonic() < started + seconds:
                now, open_now = time.monotonic(), server.connections()
                if now < started + count / rate + 2:
                    if open_now > most:
                        most, opened = open_now, now
                # The legitimate clients have two, the tool's own probe one.
                if open_now > 3:
                    last = now
                elif now > started + count / rate + 2:
                    break
                time.sleep(0.05)
            if tool.poll() not in (None, 0):
                raise Failure(f"slowhttptest ended with {tool.returncode}")
        finally:
            if tool.poll() is None:
                tool.terminate()
            tool.wait(10)
        if last + 1 > started + seconds:
            problems.append(f"{server.connections()} connections were not closed")
        return {"connections": count, "closed": max(0.0, last - opened),
                "note": f"the server had {most} at most"}

    return run


def slow_read(server, problems):
    """Tiny windows, many requests, nothing read. Control: who reads after 5 s gets all answers."""
    requests = 100
    control = socket.socket()
    control.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    control.settimeout(15)
    control.connect(("127.0.0.1", server.port))
    with control:
        control.sendall(GET * (requests - 1) + LAST_GET)
        with Swarm(server.port, 500, GET * requests, receive_buffer=1, reads=False) as swarm:
            swarm.run(5)
            if swarm.ended:
                problems.append(f"{len(swarm.ended)} closed within 5 s: they were not slow readers")
            data = b""
            try:
                while more := control.recv(1 << 20):
                    data += more
            except OSError as error:
                problems.append(f"control: {error!r}")
            answers, rest = parse(data)
            if [status for status, _, _ in answers] != [200] * requests or rest:
                problems.append(f"control: {len(answers)} whole answers of {requests}")
            swarm.run(22)
            closed = swarm.closed_within(problems)
    return {"connections": 500, "closed": closed}


def pipelining(server, problems):
    """10,000 requests on each connection, and nothing read. Control: who reads gets 10,000 answers."""
    requests = 10_000
    payload = GET * requests
    with Swarm(server.port, 100, payload, receive_buffer=1, reads=False) as swarm:
        swarm.run(25)
        closed = swarm.closed_within(problems)
    with Swarm(server.port, 1, GET * (requests - 1) + LAST_GET) as control:
        control.run(20)
        data = control.ended[0].data if control.ended else b""
    if data.count(b"HTTP/1.1 200 OK\r\n") != requests or not data.endswith(b"]}"):
        problems.append(f"control: {data.count(b'HTTP/1.1 200 OK')} answers of {requests}")
    return {"connections": 100, "closed": closed}


def flood(count, at_once, payloads, allowed):
    def run(server, problems):
        with Swarm(server.port, count, lambda number: payloads[number % len(payloads)],
                   at_once=at_once) as swarm:
            swarm.run(28)
            closed = swarm.closed_within(problems)
            seen = {}
            for peer in swarm.ended:
                statuses = tuple(status for status, _, _ in parse(peer.data)[0])
                seen[statuses] = seen.get(statuses, 0) + 1
        for statuses, times in seen.items():
            if len(statuses) != 1 or statuses[0] not in allowed:
                problems.append(f"{times} answered {statuses}")
        # Control: what is large, yet within the bounds, is served.
        for headers in ("X: a\r\n" * 97, f"X: {'a' * 7000}\r\n"):
            data, _ = exchange(server.port, LAST_GET.replace(b"Conn", headers.encode() + b"Conn"))
            if [status for status, _, _ in parse(data)[0]] != [200]:
                problems.append(f"control: a large head within the bounds: {data[:60]!r}")
        return {"connections": count, "closed": closed, "note": f"answers: {seen}"}

    return run


_START = f"GET {PATH} HTTP/1.1\r\nHost: a\r\n".encode()
LARGE_HEADERS = _START + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 4096) for n in range(98)) + b"\r\n"
LARGE_TARGET = b"GET /?" + b"a" * 65 * 1024 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MANY_HEADERS = _START + b"X: a\r\n" * 100 + b"\r\n"


def mixed(server, problems):
    """10,000 connections, each in one of five ways, for 20 s; who is closed comes again, and old ones give
    way to new ones. The server has 3,072 of them, and a third as many wait in its backlog."""
    ways = [(b"", None, True, None), (b"G", None, True, b"E"), (_START + b"X: ", None, True, b"a"),
            (GET * 100, 1, False, None), (LARGE_HEADERS, None, True, None)]
    swarms = [Swarm(server.port, 2000, payload, receive_buffer=receive_buffer, reads=reads,
                    trickle=trickle)
              for payload, receive_buffer, reads, trickle in ways]
    total, most, times = 2000 * len(swarms), 0, []
    deadline = time.monotonic() + 20
    try:
        while time.monotonic() < deadline:
            for swarm in swarms:
                swarm.run(0.05)
                times += [peer.closed - peer.opened for peer in swarm.ended if peer.opened]
                swarm.unborn += len(swarm.ended)
                total += len(swarm.ended)
                swarm.ended = []
            most = max(most, sum(len(swarm.open) for swarm in swarms))
    finally:
        for swarm in swarms:
            swarm.__exit__()
    if most < 4_500 or total < 10_000:
        problems.append(f"only {most} connections were there at once")
    # Most of it is what they waited in the backlog, which the server cannot bound.
    longest = max(times, default=0)
    return {"connections": total, "note": f"{most} at once, the longest open for {longest:.1f} s"}


def descriptors(server, problems):
    """More connections than it has descriptors, held for 8 s; a rotation meanwhile."""
    def kid():
        # An old connection would give way to those that come.
        return server.get().partition(b'"kid":"')[2][:43]

    before = kid()
    deadline = time.monotonic() + 8
    swarm = Swarm(server.port, 200, b"G")
    rotated = published = None
    again = []
    try:
        while time.monotonic() < deadline:
            swarm.run(0.2)
            # Who is thrown out comes again.
            again += swarm.ended
            swarm.unborn += len(swarm.ended)
            swarm.ended = []
            now = time.monotonic()
            if rotated is None and now > deadline - 6:
                server.command("rotate", "--now")
                rotated = time.monotonic()
            if kid() != before and published is None:
                published = time.monotonic()
    finally:
        swarm.__exit__()
    released = time.monotonic()
    while True:
        try:
            server.get(timeout=2)
            break
        except OSError as error:
            if time.monotonic() > released + 20:
                problems.append(f"not served 20 s after the release: {error!r}")
                break
    served_again = time.monotonic() - released
    if kid() == before or published is None:
        problems.append("the rotation was not published meanwhile")
    if served_again > 5:
        problems.append(f"served again after {served_again:.1f} s, not 1 s")
    if published and published - rotated > 11:
        problems.append(f"the rotation was published after {published - rotated:.1f} s")
    return {"connections": 200 + len(again), "served_again": served_again,
            "note": f"rotation published after {(published or 0) - (rotated or 0):.2f} s"}


def termination(server, problems):
    """SIGTERM while 1,000 clients stall, each in one of five ways."""
    beginnings = [b"", b"G", LAST_GET[:-2], GET, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"]
    with Swarm(server.port, 800, lambda number: beginnings[number % 4]) as stalled, \
            Swarm(server.port, 200, GET * 100, receive_buffer=1, reads=False) as blocked:
        deadline = time.monotonic() + 4  # before the first is thrown out
        held = 0
        while held < 990 and time.monotonic() < deadline:
            stalled.run(0.2)
            blocked.run(0.2)
            held = server.connections()
        if held < 990:
            problems.append(f"only {held} connections were there at the signal")
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        try:
            server.process.wait(20)
        except subprocess.TimeoutExpired:
            problems.append("still there 20 s after SIGTERM")
        took = time.monotonic() - began
    return {"connections": 1000, "closed": took, "note": f"exit code {server.process.poll()}"}


def termination_control(server, problems):
    """SIGTERM with nobody there ends it at once, so the row before measured the clients."""
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(20)
    return {"connections": 0, "closed": time.monotonic() - began}


MIXED = "10,000 at once, mixed"
CROWDED = "200 that ask for 64 slots, beside a trusted proxy"
ATTACKS = {
    "slow headers (slowhttptest -H)": {
        "run": slowhttptest("-H", "-i", "5", "-x", "24"), "bound": HEAD_BOUND},
    "slow POST body (slowhttptest -B)": {
        "run": slowhttptest("-B", "-i", "5", "-s", "8192", "-x", "10"), "bound": HEAD_BOUND},
    "slow read (slowhttptest -X)": {
        "run": slowhttptest("-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "10"),
        "bound": WRITE_BOUND, "many_keys": True},
    "slow read, nothing read": {"run": slow_read, "bound": WRITE_BOUND, "many_keys": True},
    "silent": {"run": stall(b""), "bound": HEAD_BOUND},
    "a byte, then one a second": {"run": stall(b"G", trickle=b"E"), "bound": HEAD_BOUND},
    "headers, then a byte a second": {"run": stall(_START + b"X: ", trickle=b"a"), "bound": HEAD_BOUND},
    "part of the HTTP/2 preface": {
        "run": stall(lambda number: PREFACE[:(3, 11, 18, 22)[number % 4]]), "bound": HEAD_BOUND},
    "400 KiB of headers": {
        "run": flood(5000, 1000, [LARGE_HEADERS], {431, 400}), "bound": HEAD_BOUND},
    "65 KiB target, 101 headers": {
        "run": flood(1000, 500, [LARGE_TARGET, MANY_HEADERS], {414, 431, 400}), "bound": HEAD_BOUND},
    MIXED: {"run": mixed, "many_keys": True, "needs": 12_000},
    "3,072 that ask, from one address": {"run": crowding.hold(3072, 1), "p99": 1000},
    "3,072 that ask, from 256 addresses": {"run": crowding.hold(3072, 256), "p99": 1000},
    "3,072 that read slowly, from one address": {
        "run": crowding.hold(3072, 1, slow=True), "many_keys": True, "p99": 1000},
    "3,072 that ask, beside a trusted proxy": {
        "run": crowding.hold(3072, 256, pool=64), "p99": 1000,
        "options": ["--trusted-proxies", f"{crowding.PROXY}/32"]},
    "6,000 that ask, from as many addresses": {
        "run": crowding.hold(6000, 6000), "starves": True, "needs": 8_000, "served_again": 1},
    CROWDED: {"run": crowding.hold(200, 16, seconds=6, pool=4), "many": False, "p99": 1000,
              "options": ["--max-connections", "64", "--trusted-proxies", f"{crowding.PROXY}/32"]},
    "10,000 requests, nothing read": {"run": pipelining, "bound": WRITE_BOUND, "many": False},
    "no descriptors left (128)": {
        "run": descriptors, "prefix": ["prlimit", "--nofile=128:128"], "starves": True, "many": False},
    "smuggling, alone": {"run": smuggling.alone, "many": False},
    "smuggling, behind nginx": {"run": smuggling.behind("nginx"), "many": False},
    "smuggling, behind haproxy": {"run": smuggling.behind("haproxy"), "many": False},
    "SIGTERM with stalled clients": {"run": termination, "bound": (5, 10), "legit": False},
    "SIGTERM with none (control)": {
        "run": termination_control, "bound": (1, 3), "legit": False, "many": False},
}
