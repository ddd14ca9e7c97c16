"""The programs of a run: jwks-server and its commands, and the adapters that hold the verifiers."""

import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

CLIENT_ID = "interop-client"
AUDIENCE = "https://op.example"

PUBLISH_LEAD = 65
RETAIN_FOR = 95
CACHE_MAX_AGE = 60
# Above the longest time that a verifier is known to hold a request back (keyfunc: 60 s).
ANSWER_WITHIN = 75


class Failure(Exception):
    """The run cannot go on."""


STARTED_AT = time.monotonic()


def tell(text):
    print(f"[{time.monotonic() - STARTED_AT:5.0f} s] {text}", file=sys.stderr, flush=True)


class Server:
    """A jwks-server with a directory of its own, and its commands."""

    def __init__(self, binary, directory):
        self.binary, self.key_file = binary, directory / "private_key.pem"
        self.options = ["--key-file", str(self.key_file), "--publish-lead", f"{PUBLISH_LEAD}s",
                        "--retain-for", f"{RETAIN_FOR}s", "--cache-max-age", f"{CACHE_MAX_AGE}s"]
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.startswith("JWKS_SERVER_")}
        self.log = directory / "log"
        self.process = None
        self.uri = None

    def start(self):
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [self.binary, "serve", "--port", "0", "--bind", "127.0.0.1", *self.options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            said = re.search(r"http://[a-z0-9.]+:(\d+)(/\S+)", self.log.read_text())
            if said:
                self.uri = f"http://127.0.0.1:{said[1]}{said[2]}"
                self.kids()
                return
            time.sleep(0.1)
        raise Failure(f"jwks-server does not serve:\n{self.log.read_text()}")

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise Failure("jwks-server was still there 10 s after SIGTERM") from None

    def run(self, *args):
        done = subprocess.run([self.binary, *args, *self.options], capture_output=True, text=True,
                              timeout=30, check=False, env=self.environment)
        if done.returncode != 0:
            raise Failure(f"jwks-server {args[0]} failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def assertion(self, *options):
        return self.run("assertion", "--client-id", CLIENT_ID, "--audience", AUDIENCE,
                        "--lifetime", "30m", *options)

    def current_kid(self):
        keys = json.loads(self.run("status", "--json"))["keys"]
        return next(key["kid"] for key in keys if key["state"] == "current")

    def kids(self):
        with urllib.request.urlopen(self.uri, timeout=5) as response:
            return [key["kid"] for key in json.load(response)["keys"]]

    def wait_for(self, what, holds, bound):
        deadline = time.monotonic() + bound
        while time.monotonic() < deadline:
            if holds():
                tell(what)
                return time.monotonic()
            time.sleep(0.2)
        raise Failure(f"after {bound} s there still is not: {what}\n{self.log.read_text()}")


class Adapter:
    """The program that speaks for the verifiers of one language."""

    def __init__(self, name, command, uri, log):
        self.name, self.log = name, log
        self.process = subprocess.Popen(
            [*command, uri, CLIENT_ID, AUDIENCE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=log.open("wb"), text=True)
        self.waiting, self.lock, self.count = {}, threading.Lock(), 0
        self.hello = concurrent.futures.Future()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            said = json.loads(line)
            if "verifiers" in said:
                self.hello.set_result(said["verifiers"])
            else:
                with self.lock:
                    future = self.waiting.pop(said["id"], None)
                if future:
                    future.set_result((said["accepted"], said.get("error", "")))

    def verifiers(self):
        """Its verifiers, as it names them."""
        try:
            return self.hello.result(30)
        except concurrent.futures.TimeoutError:
            raise Failure(f"{self.name} does not start:\n{self.log.read_text()}") from None

    def ask(self, verifier, instance, token):
        future = concurrent.futures.Future()
        with self.lock:
            self.count += 1
            number = self.count
            self.waiting[number] = future
            question = {"id": number, "verifier": verifier, "instance": instance, "token": token}
            try:
                self.process.stdin.write(json.dumps(question) + "\n")
                self.process.stdin.flush()
            except OSError as error:
                raise Failure(f"{self.name} has ended: {error}\n{self.log.read_text()}") from error
        try:
            return future.result(ANSWER_WITHIN)
        except concurrent.futures.TimeoutError:
            return False, f"no answer within {ANSWER_WITHIN} s"

    def stop(self):
        try:
            self.process.stdin.close()
            self.process.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
