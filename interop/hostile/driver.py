#!/usr/bin/env python3
"""Attacks a running jwks-server and measures what a legitimate client notices.

Each attack gets a server of its own, in a directory of its own, on a free loopback port. Prints one
table. Needs only the standard library, and the tools that `run` sees to. README.md tells the rest.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from attacks import ATTACKS, CROWDED, NEEDS_DESCRIPTORS
from legit import Legit
from server import Failure, Server, tell

# No RSS may exceed it, at any time of any attack.
MAX_RSS_MIB = 64


class Sampler(threading.Thread):
    """Watches the server's memory and descriptors."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.ended = server, threading.Event()
        self.rss_mib, self.most = 0.0, 0

    def run(self):
        while True:
            try:
                self.rss_mib = max(self.rss_mib, self.server.rss_mib())
                self.most = max(self.most, self.server.connections())
            except OSError:
                return  # it has ended
            if self.ended.wait(0.1):
                return

    def stop(self):
        self.ended.set()
        self.join()


def strike(name, attack, binary, directory):
    """Makes one attack; returns its row of the table, and what was wrong."""
    directory.mkdir(mode=0o700)
    server = Server(binary, directory, attack.get("prefix", ()), attack.get("many_keys", False),
                    attack.get("options", ()))
    server.start()
    problems, outcome, watched = [], {}, {}
    sampler = Sampler(server)
    legit = None
    started = time.monotonic()
    try:
        sampler.start()
        if attack.get("legit", True):
            legit = Legit(server.port)
        outcome = attack["run"](server, problems)
        if server.process.poll() is None:
            began = time.monotonic()
            try:
                server.get(timeout=10)
            except OSError as error:
                problems.append(f"not served afterwards: {error!r}")
            outcome.setdefault("served_again", time.monotonic() - began)
        if legit:
            watched = legit.stop()
    finally:
        sampler.stop()
        if legit:
            legit.end()
        ended = server.stop()
    if ended:
        problems.append(ended)
    rss = sampler.rss_mib
    if rss > MAX_RSS_MIB:
        problems.append(f"RSS {rss:.0f} MiB, more than {MAX_RSS_MIB}")
    if watched:
        # Each clean answer there is says little if hardly any was asked for.
        if watched["requests"] < time.monotonic() - started:
            problems.append(f"the legitimate clients made only {watched['requests']} requests")
        if watched["failures"] and not attack.get("starves"):
            problems.append(f"{watched['failures']} legitimate requests failed, first: "
                            f"{watched['first_failure']}")
        if watched["single_p99"] > attack.get("p99", float("inf")):
            problems.append(f"a request took {watched['single_p99']:.0f} ms (p99), not {attack['p99']}")
    again = outcome.get("served_again", 0)
    if again > attack.get("served_again", float("inf")):
        problems.append(f"served again after {again:.1f} s, not {attack['served_again']} s")
    closed, bound = outcome.get("closed"), attack.get("bound")
    if closed is not None and bound is not None and closed > bound[1]:
        problems.append(f"{bound[0]} s promised, {closed:.1f} s taken")
    row = [
        name, f"{outcome.get('connections', 0):,}",
        "-" if closed is None else f"{closed:.1f} s" + (f" (≤ {bound[0]:g})" if bound else ""),
        "-" if "served_again" not in outcome else f"{outcome['served_again'] * 1000:.0f} ms",
        f"{watched['failures']} of {watched['requests']:,}" if watched else "-",
        f"{watched['p50']:.1f}/{watched['p99']:.1f} ms" if watched else "-",
        f"{rss:.1f} MiB", "FAILED" if problems else "passed",
    ]
    alone = (f", a request by itself: p99 {watched['single_p99']:.0f} ms, longest "
             f"{watched['longest']:.0f} ms") if watched else ""
    tell(f"{name}: {row[-1]} after {time.monotonic() - started:.1f} s; "
         f"{outcome.get('note', '')} (at most {sampler.most} connections"
         f"{alone})")
    for problem in problems:
        tell(f"    {problem}")
    figures = {
        "connections": outcome.get("connections", 0), "rss": rss, "closed": closed or 0,
        "starves": bool(attack.get("starves")),
        **{name: watched.get(name, 0) for name in ("requests", "failures", "p99", "longest")},
    }
    return row, figures


def summary(figures):
    """The totals, and the worst of each; attacks whose point is that nobody gets in count apart."""
    def worst(name, rows):
        return max((row[name] for row in rows), default=0)

    fair = [row for row in figures if not row["starves"]]
    yield (f"{sum(row['connections'] for row in figures):,} hostile connections; RSS at most "
           f"{worst('rss', figures):.1f} MiB; closed within {worst('closed', figures):.1f} s")
    for name, rows in (("legitimate requests", fair),
                       ("while nobody gets in", [row for row in figures if row["starves"]])):
        if rows:
            yield (f"{name}: {sum(row['failures'] for row in rows)} of "
                   f"{sum(row['requests'] for row in rows):,} failed; p99 at most "
                   f"{worst('p99', rows):.0f} ms, the longest {worst('longest', rows):.0f} ms")


# What is quick, and says the same on a busy machine.
CI = ["silent", "headers, then a byte a second", "slow read, nothing read", "65 KiB target, 101 headers",
      CROWDED, "smuggling, alone", "SIGTERM with stalled clients", "SIGTERM with none (control)"]

HEAD = ["attack", "connections", "closed within", "served again", "legitimate failures", "p50/p99",
        "RSS max", "verdict"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--ci", action="store_true", help=f"only {', '.join(CI)}")
    parser.add_argument("attacks", nargs="*")
    args = parser.parse_args()
    if args.ci:
        args.attacks += CI
    binary = str(Path(args.server).resolve())
    unknown = set(args.attacks) - set(ATTACKS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(ATTACKS)}")
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    rows, figures, counts = [], [], {"passed": 0, "FAILED": 0, "skipped": 0}
    with tempfile.TemporaryDirectory(prefix="jwks-server-hostile-") as directory:
        for number, (name, attack) in enumerate(ATTACKS.items()):
            if args.attacks and name not in args.attacks:
                continue
            needs = attack.get("needs", NEEDS_DESCRIPTORS if attack.get("many", True) else 0)
            if room < needs:
                tell(f"{name}: skipped: fewer than {needs} descriptors allowed")
                row = [name, *["-"] * (len(HEAD) - 2), "skipped"]
            else:
                try:
                    row, measured = strike(name, attack, binary, Path(directory) / str(number))
                    figures.append(measured)
                except (Failure, OSError, subprocess.SubprocessError) as error:
                    tell(f"{name}: FAILED: {error!r}")
                    row = [name, *["-"] * (len(HEAD) - 2), "FAILED"]
            rows.append(row)
            counts[row[-1]] += 1
    print("| " + " | ".join(HEAD) + " |")
    print("|" + "---|" * len(HEAD))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()
    print("\n".join(summary(figures)))
    print(f"{counts['passed']} passed, {counts['FAILED']} failed, {counts['skipped']} skipped")
    return 1 if counts["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main())
