#!/usr/bin/env python3
"""Takes real verifiers through a rotation and a revocation of one running jwks-server.

Starts the server in an empty directory, signs with its `assertion` command, and asks each verifier,
through the adapter of its language, at every stage. Prints a table, and fails if something does not
hold that the service promises. Needs only the standard library. README.md tells the stages.
"""

import argparse
import base64
import concurrent.futures
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

from processes import PUBLISH_LEAD, RETAIN_FOR, Adapter, Failure, Server, tell
from report import CELLS, changes, differs, failures, markdown

# The longest wait for the new key, within its time as the current one.
PATIENCE = 85
# From the fetch before the promotion to the end of the run: beyond the common 5 min.
WATCH_FOR = 315
POLL_EVERY = 1.0
# For a verifier that takes each token once only: enough for a poll every second.
STOCK = 220


class Tokens:
    """Tokens of one key. While it is current more can be signed; afterwards the stock must do."""

    def __init__(self, server):
        self.server, self.kid = server, server.current_kid()
        self.with_kid, self.without_kid = server.assertion(), server.assertion("--no-kid")
        self.stock, self.stock_without_kid, self.lock = [], [], threading.Lock()
        self.can_sign = True

    def fill_stock(self):
        for _ in range(STOCK):
            token = self.server.assertion()
            with self.lock:
                self.stock.append(token)
        self.stock_without_kid += [self.server.assertion("--no-kid") for _ in range(STOCK // 2)]
        self.can_sign = False

    def token(self, verifier, kidless):
        if not verifier.single_use:
            return self.without_kid if kidless else self.with_kid
        with self.lock:
            stock = self.stock_without_kid if kidless else self.stock
            if not self.can_sign:
                return stock.pop() if stock else None
        return self.server.assertion(*(["--no-kid"] if kidless else []))


class Foreign(Tokens):
    """Tokens that nobody may accept; one of each is enough."""

    def __init__(self, kid, with_kid, without_kid=None):
        self.kid, self.with_kid, self.without_kid = kid, with_kid, without_kid

    def token(self, verifier, kidless):
        return self.without_kid if kidless else self.with_kid


def with_broken_signature(token):
    head, body, signature = token.split(".")
    raw = bytearray(base64.urlsafe_b64decode(signature + "=="))
    raw[40] ^= 1
    return f"{head}.{body}.{base64.urlsafe_b64encode(raw).rstrip(b'=').decode()}"


class Verifier:
    """One verifier, with what it answered."""

    def __init__(self, adapter, said):
        self.adapter, self.name, self.version = adapter, said["name"], said["version"].lstrip("v")
        self.origin, self.single_use = said["from"], said.get("single_use", False)
        self.cells, self.errors = {}, {}

    def accepts(self, instance, tokens, kidless=False):
        """Whether it accepts, and why not; None if there is no token left to ask with."""
        token = tokens.token(self, kidless)
        if token is None:
            return None, "no token left"
        return self.adapter.ask(self.name, instance, token)

    def ask(self, cell, instance, tokens, kidless=False):
        accepted, error = self.accepts(instance, tokens, kidless)
        self.note(cell, "yes" if accepted else "no", error)
        return accepted

    def note(self, cell, outcome, error=""):
        self.cells[cell] = outcome
        if error:
            self.errors[cell] = error

    def wait(self, cell, instance, tokens, wanted, since, until, kidless=False):
        """Asks every second until it accepts (or rejects), and notes the seconds."""
        last = ""
        while True:
            accepted, error = self.accepts(instance, tokens, kidless)
            now = time.monotonic()
            last = error or last
            if accepted is wanted:
                self.note(cell, f"{now - since:.0f} s", "" if wanted else error)
                return True
            if accepted is None or now >= until:
                self.note(cell, f">{min(now, until) - since:.0f} s", last)
                return False
            time.sleep(POLL_EVERY)


class Run:
    """One pass through time, for all verifiers at once."""

    def __init__(self, server, stranger, verifiers):
        self.server, self.stranger, self.verifiers = server, stranger, verifiers
        self.pool = concurrent.futures.ThreadPoolExecutor(max_workers=8 * len(verifiers))
        self.later = []

    def each(self, do):
        for future in [self.pool.submit(do, verifier) for verifier in self.verifiers]:
            future.result()

    def begin(self, do, *args):
        self.later.append(self.pool.submit(do, *args))

    def pass_through(self):
        server = self.server
        first = Tokens(server)
        self.at_the_start(first)
        second, fetched_at, promoted_at = self.rotation(first)
        self.removal(first, second, promoted_at, fetched_at + WATCH_FOR)
        self.revocation(second, fetched_at + WATCH_FOR)
        tell(f"waiting for what is still accepted, until {WATCH_FOR} s after the fetch")
        for future in self.later:
            future.result()

    def negative_control(self):
        """A key that signs before anybody can know it: the verifiers that reject it."""
        first = Tokens(self.server)
        self.each(lambda verifier: verifier.ask("current", "control", first))
        self.server.run("rotate", "--now")
        self.server.wait_for("the next key signs, published to nobody",
                             lambda: len(self.server.kids()) == 2, 15)
        second = Tokens(self.server)
        self.each(lambda verifier: verifier.ask("next, fetched since", "control", second))
        return [verifier.name for verifier in self.verifiers
                if verifier.cells["current"] == "yes"
                and verifier.cells["next, fetched since"] == "no"]

    def at_the_start(self, first):
        """Each verifier is asked by several names, each with a cache of its own."""
        self.stranger.start()
        never = Foreign(self.stranger.current_kid(), self.stranger.assertion(),
                        self.stranger.assertion("--no-kid"))
        broken = Foreign(first.kid, with_broken_signature(first.with_kid))
        tell(f"current: {first.kid}")

        def ask(verifier):
            verifier.ask("current", "steady", first)
            verifier.ask("no kid, 1 key", "kidless 1", first, kidless=True)
            verifier.accepts("control", first)
            verifier.ask("forged", "control", never)
            verifier.ask("forged, no kid", "control", never, kidless=True)
            verifier.ask("broken", "control", broken)
            accepted, error = verifier.accepts("control", first)
            if not accepted:
                verifier.note("current", "no", f"after the forged ones: {error}")

        self.each(ask)
        self.stranger.stop()

    def rotation(self, first):
        server = self.server
        server.run("rotate")
        server.wait_for("the next key is published", lambda: len(server.kids()) == 2, 15)
        fetched_at = time.monotonic()

        def fetch(verifier):
            for instance in ("since", "removal", "revocation", "replacement"):
                accepted, error = verifier.accepts(instance, first)
                if not accepted:
                    verifier.note("current", "no", f"with the next key beside it: {error}")
            verifier.ask("no kid, +next", "kidless 2", first, kidless=True)

        self.each(fetch)
        # Verifiers in use, so that a cache that runs out is filled again.
        while time.monotonic() < fetched_at + PUBLISH_LEAD - 9:
            self.each(lambda verifier: verifier.accepts("steady", first))
            if first.can_sign:
                first.fill_stock()
            time.sleep(8)
        promoted_at = server.wait_for("the next key is promoted",
                                      lambda: server.current_kid() != first.kid, 40)
        second = Tokens(server)
        tell(f"current: {second.kid}")

        def ask(verifier):
            verifier.ask("next, fetched since", "since", second)
            for instance in ("revocation", "replacement"):
                verifier.accepts(instance, second)
            verifier.ask("next, fresh", "fresh after promotion", second)
            verifier.ask("retired", "since", first)
            verifier.ask("retired, fresh", "fresh in overlap", first)
            verifier.ask("no kid, new", "kidless 3", second, kidless=True)
            verifier.ask("no kid, retired", "kidless 4", first, kidless=True)

        waits = [("next, fetched before", "steady", False),
                 ("next, after forged", "control", False),
                 ("no kid, fetched before", "kidless 1", True)]
        for verifier in self.verifiers:
            for cell, instance, kidless in waits:
                self.begin(verifier.wait, cell, instance, second, True, promoted_at,
                           promoted_at + PATIENCE, kidless)
        self.each(ask)
        return second, fetched_at, promoted_at

    def removal(self, first, second, promoted_at, until):
        server = self.server
        second.fill_stock()
        still = promoted_at + RETAIN_FOR - 8 - time.monotonic()
        time.sleep(max(0, still))

        def ask_late(verifier):
            accepted, error = verifier.accepts("fresh late in overlap", first)
            if not accepted:
                verifier.note("retired, fresh", "no", f"8 s before the removal: {error}")

        self.each(ask_late)
        removed_at = server.wait_for("the retired key is removed",
                                     lambda: first.kid not in server.kids(), 40)
        self.each(lambda verifier: verifier.ask("removed, fresh", "fresh after removal", first))
        for verifier in self.verifiers:
            self.begin(verifier.wait, "removed", "removal", first, False, removed_at, until)

    def revocation(self, second, until):
        server = self.server
        self.each(lambda verifier: verifier.accepts("just fetched", second))
        server.run("revoke", second.kid, "--reason", "the interop run")
        revoked_at = server.wait_for("the current key is revoked",
                                     lambda: second.kid not in server.kids(), 15)
        third = Tokens(server)
        tell(f"current: {third.kid}")

        def ask(verifier):
            verifier.ask("revoked, fresh", "fresh after revocation", second)
            verifier.ask("replacement, fresh", "fresh after replacement", third)

        def replace(verifier):
            verifier.wait("replacement", "replacement", third, True, revoked_at, until)
            verifier.ask("revoked, then", "replacement", second)

        for verifier in self.verifiers:
            self.begin(replace, verifier)
            self.begin(verifier.wait, "revoked", "revocation", second, False, revoked_at, until)
            self.begin(verifier.wait, "replacement, just fetched", "just fetched", third, True,
                       revoked_at, until)
        self.each(ask)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", required=True, help="the jwks-server program")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=JSON",
                        help="an adapter: its name, and its command as a JSON array")
    parser.add_argument("--skipped", action="append", default=[], metavar="NAME=REASON",
                        help="a verifier that could not be had, and why")
    parser.add_argument("--negative-control", action="store_true",
                        help="only see that a rotation without pre-publication is caught")
    parser.add_argument("--out", type=Path, required=True, help="directory for what is written")
    parser.add_argument("--expected", type=Path, required=True, help="the outcomes expected")
    return parser.parse_args()


def main():
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    skipped = dict(entry.split("=", 1) for entry in args.skipped)
    expected = json.loads(args.expected.read_text()) if args.expected.exists() else {}
    adapters, verifiers = [], []
    with tempfile.TemporaryDirectory() as directory:
        places = [Path(directory, name) for name in ("served", "stranger")]
        for place in places:
            place.mkdir()
        server, stranger = (Server(args.server, place) for place in places)
        try:
            if args.adapter:
                server.start()
            for entry in args.adapter:
                name, command = entry.split("=", 1)
                log = args.out / f"{name}.log"
                adapters.append(Adapter(name, json.loads(command), server.uri, log))
            for adapter in adapters:
                verifiers += [Verifier(adapter, said) for said in adapter.verifiers()]
            if verifiers and args.negative_control:
                rejecting = Run(server, stranger, verifiers).negative_control()
                print("negative control: rotate --now: rejected by:",
                      "; ".join(rejecting) or "nobody")
                slow = [verifier.name for verifier in verifiers if differs(
                    expected.get(verifier.name, {}).get("replacement, just fetched", "0 s"), "0 s")]
                return 1 if slow and not rejecting else 0
            if verifiers:
                Run(server, stranger, verifiers).pass_through()
        finally:
            for adapter in adapters:
                adapter.stop()
            for each in (server, stranger):
                each.stop()
            if server.log.exists():
                (args.out / "jwks-server.log").write_text(server.log.read_text())

    table = markdown(verifiers, skipped)
    (args.out / "table.md").write_text(table)
    # In the form of expected.json, which has what each verifier is free to do.
    outcomes = {verifier.name: {cell: verifier.cells.get(cell) for cell in CELLS
                                if CELLS[cell][1] is None} for verifier in verifiers}
    (args.out / "outcomes.json").write_text(json.dumps(outcomes, indent=2) + "\n")
    errors = {verifier.name: verifier.errors for verifier in verifiers}
    (args.out / "errors.json").write_text(json.dumps(errors, indent=2) + "\n")
    print(table)
    for change in changes(verifiers, expected):
        print(f"CHANGED: {change}")
    for name, reason in skipped.items():
        print(f"SKIPPED: {name}: {reason}")
    failed = 0
    for verifier in verifiers:
        found = failures(verifier)
        failed += bool(found)
        for failure in found:
            print(f"FAILED: {failure}")
    print(f"{len(verifiers) - failed} passed, {failed} failed, {len(skipped)} skipped")
    if failed:
        return 1
    return 0 if verifiers else 77


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        print(f"FAILED: {failure}")
        print("0 passed, 1 failed")
        sys.exit(1)
