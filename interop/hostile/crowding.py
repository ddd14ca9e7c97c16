"""Clients that do nothing wrong, and are too many: valid requests that hold all connections.

Each connection makes a request, holds on, and makes the next one; who is closed comes again. The
legitimate clients come from 127.0.0.1, the attackers from 127.1.0.0/16 and above, a trusted proxy from
127.200.0.1.
"""

import heapq
import select
import socket
import time

from server import GET, parse

PAUSE = 1.5
PROXY = "127.200.0.1"


def sources(count):
    """That many addresses, over and over."""
    return lambda number: "127.{}.{}.{}".format(1 + number % count // 62500, number % count // 250 % 250,
                                                1 + number % count % 250)


class Holder:
    """A connection that is made again and again."""

    def __init__(self, swarm, address, slow, pause):
        self.swarm, self.address, self.slow, self.pause = swarm, address, slow, pause
        self.socket, self.data, self.requests, self.closed, self.failed = None, b"", 0, 0, 0

    def connect(self):
        self.socket = socket.socket()
        self.socket.setblocking(False)
        if self.slow:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        self.socket.bind((self.address, 0))
        self.socket.connect_ex(("127.0.0.1", self.swarm.port))
        self.swarm.holders[self.socket.fileno()] = self
        self.swarm.epoll.register(self.socket, select.EPOLLOUT | select.EPOLLONESHOT)

    def close(self):
        if self.socket:
            self.swarm.holders.pop(self.socket.fileno(), None)
            self.socket.close()
            self.socket = None

    def again(self):
        """It was closed, which it does not notice before it wants to go on."""
        self.close()
        self.closed += 1
        self.data = b""

    def turn(self):
        """It is time for the next request, or for a few bytes more of the answer. When the next turn is;
        None if an event comes first."""
        try:
            if self.socket and self.slow and not self.data:
                return None  # it was made again meanwhile
            if self.socket and self.slow:
                self.receive(64)
                return self.pause
            if self.socket:
                self.ask()
            else:
                self.connect()
        except OSError:
            self.again()
            self.connect()
        return None

    def ask(self):
        self.data = b""
        # A slow reader asks for more than the kernels hold between them.
        self.socket.send(GET * 20 if self.slow else GET)
        self.requests += 1
        self.swarm.epoll.modify(self.socket, select.EPOLLIN | select.EPOLLONESHOT)

    def receive(self, count):
        more = self.socket.recv(count)
        if not more:
            raise ConnectionResetError
        self.data += more

    def ready(self, events):
        try:
            if events & select.EPOLLOUT:
                self.ask()
                return None
            if self.slow and events & (select.EPOLLRDHUP | select.EPOLLERR):
                # It would go on reading what its kernel has.
                raise ConnectionResetError
            self.receive(64 if self.slow else 65536)
            if self.slow:
                self.swarm.epoll.modify(self.socket, select.EPOLLRDHUP | select.EPOLLONESHOT)
            if not self.slow and not parse(self.data)[0]:
                self.swarm.epoll.modify(self.socket, select.EPOLLIN | select.EPOLLONESHOT)
                return None
            if not self.slow and parse(self.data)[0][0][0] != 200:
                self.failed += 1
        except OSError:
            self.again()
            if self.slow:
                self.connect()
                return None
        return self.pause


class Holders:
    """The attack, and beside it the pool of a trusted proxy."""

    def __init__(self, port, count, source, slow=False, pool=0):
        self.port, self.epoll, self.holders, self.due = port, select.epoll(), {}, []
        self.pool = [Holder(self, PROXY, False, 0.5) for _ in range(pool)]
        self.attackers = [Holder(self, source(number), slow, PAUSE) for number in range(count)]
        now = time.monotonic()
        for number, holder in enumerate([*self.pool, *self.attackers]):
            # 1,000 a second: the backlog is not what is attacked.
            heapq.heappush(self.due, (now + number / 1000, number, holder))
        self.serial = len(self.due)

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = time.monotonic()
            while self.due and self.due[0][0] <= now:
                holder = heapq.heappop(self.due)[2]
                self.later(holder, holder.turn())
            for descriptor, events in self.epoll.poll(0.005, 500):
                holder = self.holders.get(descriptor)
                if holder:
                    self.later(holder, holder.ready(events))

    def later(self, holder, pause):
        if pause is not None:
            self.serial += 1
            heapq.heappush(self.due, (time.monotonic() + pause, self.serial, holder))

    def end(self):
        for holder in [*self.pool, *self.attackers]:
            holder.close()
        self.epoll.close()


def hold(count, from_sources, seconds=18, slow=False, pool=0):
    def run(server, problems):
        holders = Holders(server.port, count, sources(from_sources), slow, pool)
        try:
            holders.run(seconds)
            held = server.connections()
        finally:
            holders.end()
        requests = sum(holder.requests for holder in holders.attackers)
        closed = sum(holder.closed for holder in holders.attackers)
        # The control: it was an attack, so connections had to give way.
        if not closed or requests < count:
            problems.append(f"control: no attack: {requests} requests, {closed} closed")
        if thrown := sum(holder.closed + holder.failed for holder in holders.pool):
            problems.append(f"the trusted proxy lost {thrown} connections")
        asked = sum(holder.requests for holder in holders.pool)
        if pool and asked < pool * seconds / 2:
            problems.append(f"the trusted proxy was answered only {asked} times")
        note = f"{requests:,} requests, {closed:,} closed, {held:,} held at the end"
        return {"connections": count, "note": note + (f"; the proxy asked {asked:,} times" if pool else "")}

    return run
