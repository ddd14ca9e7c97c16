"""The legitimate clients: one that connects for each request, one that keeps its connection.

They are a process of their own, so that the attacker's work delays neither. The load is open loop: each
request has a moment at which it should be sent, and its time counts from then, so that a stall is
seen by all requests that fall into it. A client sends one at a time, so that those that follow a slow
one wait for it as well; `longest` is the longest that a single one took by itself.
"""

import json
import socket
import subprocess
import sys
import threading
import time

from server import GET, LAST_GET, parse

# Requests a second of each.
CONNECTING, KEEPING = 40, 20
TIMEOUT = 5
LONGEST = 120


class Legit:
    def __init__(self, port):
        self.process = subprocess.Popen([sys.executable, "-B", __file__, str(port)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process.stdout.readline()
        time.sleep(0.5)  # both are under way before the attack begins

    def stop(self):
        out, _ = self.process.communicate("stop\n", timeout=30)
        return json.loads(out)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def answered(client):
    """Reads the answer; whether the connection is kept."""
    data = b""
    while True:
        more = client.recv(65536)
        if not more:
            raise OSError(f"closed after {len(data)} bytes")
        data += more
        answers, rest = parse(data)
        if answers:
            (status, headers, body), = answers
            if status != 200 or not body.startswith(b'{"keys":[{') or rest:
                raise OSError(f"answered {data[:60]!r}")
            return headers.get("connection") != "close"


def connect(port):
    client = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def stream(port, rate, keeps, stopped, times, single, failures):
    started = time.monotonic()
    kept = None
    for number in range(rate * LONGEST):
        intended = started + number / rate
        if stopped.wait(max(0, intended - time.monotonic())):
            return
        try:
            began = time.monotonic()
            client = kept or connect(port)
            kept = None
            client.sendall(GET if keeps else LAST_GET)
            if answered(client) and keeps:
                kept = client
            else:
                client.close()
            times.append(time.monotonic() - intended)
            single.append(time.monotonic() - began)
        except OSError as error:
            failures.append(f"{'keep-alive' if keeps else 'new connection'}: {error!r}")


def main():
    port = int(sys.argv[1])
    stopped, times, single, failures = threading.Event(), [], [], []
    streams = [threading.Thread(target=stream, args=(port, rate, keeps, stopped, times, single,
                                                      failures))
               for rate, keeps in ((CONNECTING, False), (KEEPING, True))]
    for thread in streams:
        thread.start()
    print("ready", flush=True)
    sys.stdin.readline()
    stopped.set()
    for thread in streams:
        thread.join()

    def at(share, times=times):
        times.sort()
        return times[min(len(times) - 1, int(len(times) * share))] * 1000 if times else 0.0

    print(json.dumps({"requests": len(times) + len(failures), "failures": len(failures),
                      "first_failure": failures[0] if failures else None,
                      "p50": at(0.5), "p99": at(0.99),
                      "single_p99": at(0.99, single),
                      "longest": max(single, default=0) * 1000}))


if __name__ == "__main__":
    main()
