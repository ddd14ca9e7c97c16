#!/usr/bin/env python3
"""Runs a jwks-server under load, churn and rotations, and judges it. README.md tells the rest."""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from churn import Churn
from clients import Findings, client, signer

SETTINGS = ["--rotate-every", "6s", "--publish-lead", "1s", "--retain-for", "2s",
            "--cache-max-age", "1s"]
CLIENTS = 8

# How much the median of the last fifth may exceed that of the second one.
MOST_GROWTH = {"RSS": 1024, "descriptors": 2, "threads": 2}
UNITS = {"RSS": " KiB", "descriptors": "", "threads": ""}


class Server:
    """The program in a directory of its own."""

    def __init__(self, command, directory):
        self.directory = directory
        self.program = command[0]
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.startswith("JWKS_SERVER_") and name != "RUST_LOG"}
        self.log = directory.parent / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.environment)
        self.port = None
        deadline = time.monotonic() + 20
        while self.port is None:
            said = re.search(r"http://[a-z0-9.]+:(\d+)/", self.log.read_text())
            self.port = int(said[1]) if said else None
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise SystemExit(f"it does not serve:\n{self.log.read_text()}")
            time.sleep(0.05)

    def command(self, *args):
        return subprocess.run([self.program, *args], cwd=self.directory, capture_output=True,
                              check=True, text=True, timeout=60, env=self.environment).stdout

    def sample(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return {
            "RSS": int(re.search(r"VmRSS:\s+(\d+)", status)[1]),
            "descriptors": len(os.listdir(f"/proc/{self.process.pid}/fd")),
            "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
        }

    def end(self):
        """Ends it; returns its exit code and how long that took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = "none: killed after 20 s"
        return code, time.monotonic() - began


def soak(server, seconds, rate, churns):
    """What the clients found, what was sampled, and what was done to it."""
    findings, ended, samples = Findings(), threading.Event(), []
    churn = Churn(server, findings, seconds)
    workers = [threading.Thread(target=client, args=(server.port, number, rate, findings, ended))
               for number in range(CLIENTS)]
    if churns:
        workers += [
            threading.Thread(target=signer, args=(server.port, server.directory, findings, ended)),
            threading.Thread(target=churn.run, args=(ended,)),
        ]
    for worker in workers:
        worker.start()
    started = told = time.monotonic()
    try:
        while time.monotonic() < started + seconds and server.process.poll() is None:
            samples.append(server.sample())
            if time.monotonic() > told + 60:
                told += 60
                print(f"[{told - started:5.0f} s] {findings.answers:,} answers, {samples[-1]}",
                      flush=True)
            time.sleep(0.5)
    finally:
        ended.set()
        for worker in workers:
            worker.join()
    return findings, samples, churn.done


def judge(server, findings, samples, ended):
    """What is wrong."""
    problems = []
    for name, seen in (("torn answers", findings.torn), ("failures", findings.failures)):
        if seen:
            problems.append(f"{len(seen)} {name}, the first: {seen[0]}")
    fifth = len(samples) // 5
    for name, most in MOST_GROWTH.items():
        values = [sample[name] for sample in samples]
        early = statistics.median(values[fifth:2 * fifth])
        late = statistics.median(values[-fifth:])
        print(f"{name}: {early:g}{UNITS[name]} in the second fifth, {late:g} in the last, "
              f"{max(values):g} at most")
        if late - early > most:
            problems.append(f"{name} grew by {late - early:g}{UNITS[name]}, more than {most}")
    code, took = ended
    print(f"exit code {code}, {took:.2f} s after SIGTERM")
    if code != 0 or took > 10:
        problems.append(f"exit code {code} after {took:.1f} s")
    log = server.log.read_text(errors="replace")
    problems += [f"in the log: {line[:200]}" for line in log.splitlines()
                 if "panicked" in line or "unsettled" in line][:3]
    return problems


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True, help="jwks-server, or the stand-in")
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--rate", type=float, default=25, help="requests a second of each client")
    parser.add_argument("--stand-in", action="store_true", help="a server without keys and commands")
    args = parser.parse_args()
    command = [str(Path(args.server).resolve()), "--port", "0", "--bind", "127.0.0.1"]
    with tempfile.TemporaryDirectory(prefix="jwks-server-soak-") as scratch:
        directory = Path(scratch) / "served"
        directory.mkdir(0o700)
        server = Server(command if args.stand_in else command + SETTINGS, directory)
        ended = None
        try:
            findings, samples, done = soak(server, args.seconds, args.rate, not args.stand_in)
            ended = server.end()
        finally:
            if ended is None:
                server.process.kill()
        print(f"{findings.answers:,} answers in {args.seconds} s, {findings.unchanged:,} of them 304; "
              f"{len(findings.sets):,} versions of the set; {findings.signatures:,} signatures; "
              f"{len(findings.torn)} torn, {len(findings.failures)} failures")
        print("done to it:", ", ".join(f"{name} {count}" for name, count in sorted(done.items())))
        problems = judge(server, findings, samples, ended)
        if not args.stand_in and (findings.signatures < args.seconds / 10 or len(findings.sets) < 5):
            problems.append("too little happened to say anything")
    for problem in problems:
        print(f"    {problem}")
    print("FAILED" if problems else "passed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
