#!/usr/bin/env python3
"""Looks for a known private key in all that jwks-server says, and in its memory. README.md tells
the rest."""

import argparse
import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from files import ACCEPTED, REFUSED
from secret import CANARY, CANARY_KID, PAGE, Secret

PATHS = ["/.well-known/jwks.json", "/.well-known/jwks.json?a=b", "/healthz", "/readyz", "/", "/nothing",
         "/private_key.pem", "/next_key.pem", "/keys/", "/.well-known/../private_key.pem",
         "/.well-known/%2e%2e/private_key.pem", "//private_key.pem", "*", "http://a/private_key.pem"]
METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "get", "X"]
ODD = [b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02",
       b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000,
       b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
       b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
       b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"x\", *\r\n\r\n"]
SETTINGS = ["--port", "0", "--bind", "127.0.0.1", "--publish-lead", "1s", "--cache-max-age", "1s"]
PLAIN = ["sec1.pem", "pkcs8.pem"]
ROTATING = ["--rotate-every", "2s", "--retain-for", "2s"]
REVOKE = ["revoke", CANARY_KID, "--reason", "leaked"]


class Search:
    """All that has been searched, and what was found."""

    def __init__(self):
        self.secret = Secret(CANARY)
        self.texts = self.bytes = self.cores = 0
        self.problems = []

    def text(self, where, data):
        self.texts += 1
        self.bytes += len(data)
        if hits := self.secret.find_in_text(data):
            self.problems.append(f"{where}: {hits}")

    def core(self, where, process, secret=None):
        self.cores += 1
        if hits := (secret or self.secret).find_in_memory(core_of(process.pid)):
            self.problems.append(f"core {where}: {hits}")


def core_of(pid):
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(["gcore", "-o", f"{scratch}/core", str(pid)], capture_output=True, text=True,
                              timeout=120, check=False)
        try:
            return Path(f"{scratch}/core.{pid}").read_bytes()
        except OSError as error:
            raise SystemExit(f"no core of {pid}: {error}\n{done.stdout}{done.stderr}") from error


def scalar_of(pem):
    """The scalar of a private key that the program wrote."""
    text = subprocess.run(["openssl", "pkey", "-noout", "-text"], input=pem, capture_output=True,
                          check=True).stdout.decode()
    return int(re.sub(r"[^0-9a-f]", "", text.split("priv:")[1].split("pub:")[0]), 16)


class Directory:
    """A key directory, and the program in it. All it says is searched."""

    def __init__(self, program, search, root, name, prefix=()):
        self.program, self.search, self.name, self.prefix = program, search, name, list(prefix)
        self.path = root / re.sub(r"\W", "-", name)
        self.path.mkdir()
        self.runs = 0
        self.said = b""

    def put(self, name, content):
        """As an editor does it that writes a new file and renames it."""
        file = self.path / name
        file.parent.mkdir(exist_ok=True, mode=0o700)
        new = self.path / "new"
        new.write_bytes(content)
        new.chmod(0o600)
        new.rename(file)

    def arguments(self, *args):
        self.runs += 1
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith("JWKS_SERVER_")}
        environment |= {"RUST_LOG": "trace", "RUST_BACKTRACE": "1",
                        "JWKS_SERVER_LOG_FORMAT": ("text", "json")[self.runs % 2]}
        return [*self.prefix, self.program, *args], {"cwd": self.path, "env": environment,
                                                     "stdin": subprocess.DEVNULL}

    def command(self, *args, timeout=30):
        command, settings = self.arguments(*args)
        # A session of its own, so that what strace traces ends with it.
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              start_new_session=True, **settings) as running:
            try:
                out, _ = running.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGTERM)
                out, _ = running.communicate(timeout=20)
        self.said += out
        self.search.text(f"{self.name}: {' '.join(args)}", out)
        return out

    def commands(self):
        """Each, in an order in which each has something to do."""
        for args in (["status"], ["status", "--json"], ["check"],
                     ["assertion", "--client-id", "c", "--audience", "http://a/"],
                     ["dpop", "--method", "GET", "--url", "http://a/"],
                     ["rotate"], ["rotate", "--now"], ["status"], REVOKE, ["status"]):
            self.command(*args)

    def serve(self, *more):
        command, settings = self.arguments("serve", *SETTINGS, *more)
        self.log = self.path.parent / f"{self.path.name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, **settings)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            if said := re.search(rb"http://[a-z0-9.]+:(\d+)/", self.log.read_bytes()):
                self.port = int(said[1])
                return True
            time.sleep(0.02)
        self.stop()
        return False

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
        log = self.log.read_bytes()
        self.said += log
        self.search.text(f"{self.name}: log", log)

    def ask(self, request):
        data = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
            try:
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
                while more := client.recv(65536):
                    data += more
            except OSError:
                pass  # refused early
        self.search.text(f"{self.name}: answer to {request[:40]}", data)
        return data

    def ask_all(self):
        for path in PATHS:
            for method in METHODS:
                self.ask(f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        for request in ODD:
            self.ask(request)

    def wait_for_log(self, *words):
        self.wait_for(lambda: all(word.encode() in self.log.read_bytes() for word in words))

    def wait_for(self, what, seconds=60):
        deadline = time.monotonic() + seconds
        while not what():
            if time.monotonic() > deadline:
                self.search.problems.append(f"{self.name}: waited in vain")
                return
            time.sleep(0.05)


def controls(search):
    """The search finds what is there."""
    big = CANARY.to_bytes(32, "big")
    planted = {
        "a part": b"x" + big[5:21], "the other end": big[::-1][9:25], "hex": big.hex().encode(),
        "HEX": big.hex().upper().encode()[7:40], "decimal": str(CANARY).encode(), "list": str(list(big)).encode(),
        "colons": big.hex(":").encode(), "escaped": repr(big).encode(),
        "Montgomery": ((CANARY << 256) % int("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
                       ).to_bytes(32, "little"),
    }
    for shift in range(3):
        text = b"xyz"[:shift] + big + b"more of it"
        planted[f"base64 {shift}"] = base64.b64encode(text)
        planted[f"base64url {shift}"] = base64.urlsafe_b64encode(text)
        encoded = base64.b64encode(text)
        planted[f"short lines {shift}"] = b"\n".join(encoded[at:at + 8] for at in range(0, len(encoded), 8))
    planted |= {name: content for name, content in ACCEPTED.items()}
    for name, text in planted.items():
        if not search.secret.find_in_text(b"[" + text + b"]"):
            search.problems.append(f"control: not found in a text: {name}")
    if search.secret.find_in_text(b"".join(os.urandom(1 << 20).hex().encode() for _ in range(2))):
        search.problems.append("control: found where it is not")
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import time; k = bytes.fromhex('{big.hex()}')[8:24][::-1]; print(1, flush=True);"
         "time.sleep(60)"], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        names = [name for name, _ in search.secret.find_in_memory(core_of(holder.pid))]
        if "little-endian" not in names:
            search.problems.append(f"control: not found in the core of a process that holds it: {names}")
    finally:
        holder.kill()
        holder.wait()
    return len(planted) + 1


def accepted(directory, content):
    """The canary as the current key, the next, a dropped and a revoked one; through answers, commands, cores."""
    search = directory.search
    directory.put("private_key.pem", content)
    directory.commands()
    shutil.rmtree(directory.path / "keys")  # It tells that the canary is revoked.
    (directory.path / "next_key.pem").unlink(missing_ok=True)
    directory.put("private_key.pem", content)
    directory.put("keys/dropped.pem", content)
    if not directory.serve():
        search.problems.append(f"{directory.name}: does not serve")
        return
    try:
        search.core(f"{directory.name}, after the start", directory.process)
        directory.ask_all()
        directory.put("private_key.pem", content)
        directory.put("next_key.pem", content)
        directory.wait_for_log("holds the current key")
        search.core(f"{directory.name}, after a rewrite", directory.process)
        directory.commands()
        directory.wait_for_log("no longer served")
        search.core(f"{directory.name}, after the commands", directory.process)
        directory.put("keys/again.pem", content)
        directory.wait_for_log("keys/again.pem")
        search.core(f"{directory.name}, after a revoked key was put back", directory.process)
    finally:
        directory.stop()
    revocations = directory.said.count(f"{CANARY_KID}: out of the set".encode())
    if revocations != 2:
        search.problems.append(f"{directory.name}: revoked {revocations} times, not twice")


def unscrubbed(program, search, root):
    """A program that leaves its stack as it is has the canary in its cores, and nowhere else."""
    cores = 0
    for name in PLAIN:
        control = Search()
        accepted(Directory(program, control, root, f"unscrubbed {name}"), ACCEPTED[name])
        found = [problem for problem in control.problems if problem.startswith("core ")]
        cores += len(found)
        if not found:
            search.problems.append(f"control: in no core though the stack is not overwritten: {name}")
        search.problems += [f"control: {problem}" for problem in control.problems if problem not in found]
    return cores


def lived(directory, content):
    """A server that reads the canary a hundred times, makes keys by itself, and rotates; the keys that it
    made are searched for as well."""
    search = directory.search
    directory.put("private_key.pem", content)
    directory.serve(*ROTATING)
    made = []
    try:
        next_key = directory.path / "next_key.pem"
        directory.wait_for(next_key.exists)
        made.append(next_key.read_bytes())
        search.core(f"{directory.name}, with a next key", directory.process)
        directory.wait_for(lambda: (directory.path / "private_key.pem").read_bytes() == made[0])
        search.core(f"{directory.name}, after a rotation", directory.process)
        directory.wait_for(next_key.exists)
        made.append(next_key.read_bytes())
        for _ in range(100):
            directory.put("keys/dropped.pem", content)
            time.sleep(0.12)
        search.core(f"{directory.name}, after a hundred reads", directory.process)
        for number, pem in enumerate(made):
            search.core(f"{directory.name}, for the key that it made ({number})", directory.process,
                        Secret(scalar_of(pem)))
    finally:
        directory.stop()


def refused(directory, content):
    """A file that is refused: as the current key, and as the next."""
    directory.put("private_key.pem", content)
    directory.commands()
    if directory.serve():
        directory.stop()
    directory.put("private_key.pem", ACCEPTED["sec1.pem"])
    directory.put("next_key.pem", content)
    directory.commands()


def refused_drops(directory):
    """All files that are refused, dropped beside a current key that is not the canary."""
    search = directory.search
    directory.serve()
    try:
        for name, content in REFUSED.items():
            directory.put(f"keys/{name}", content)
        directory.wait_for_log(*REFUSED)
        # Fresh files are read again by the look that follows a quiet moment, and a core in the middle of a
        # read is not what is meant. The next look after that is 10 s later.
        time.sleep(1.5)
        status = directory.command("status", "--json")
        unnamed = [name for name in REFUSED if name.encode() not in status]
        if unnamed:
            search.problems.append(f"not told to be refused: {unnamed}")
        directory.command("check")
        directory.ask_all()
        search.core("with all refused files", directory.process)
    finally:
        directory.stop()
    reasons = set(re.findall(rb'"reason": ?"[^"]*', status))
    if len(reasons) < 20:
        search.problems.append(f"only {len(reasons)} reasons: the files reach little")
    return len(reasons)


def faults(program, search, root):
    """A directory that cannot be written, and calls that fail."""
    tries = [("read", "EIO"), ("fsync", "EIO"), ("fsync", "ENOSPC"), ("write", "ENOSPC"), ("rename,renameat,renameat2",
             "EIO"), ("openat2", "EACCES"), ("flock", "EIO"), ("getrandom", "EIO")]
    for number, (call, error) in enumerate(tries):
        for when in ("1+", "3+", "6+"):
            prefix = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={call}:error={error}:when={when}"]
            directory = Directory(program, search, root, f"{error} {number} {when}", prefix)
            directory.put("private_key.pem", ACCEPTED["sec1.pem"])
            directory.put("keys/dropped.pem", ACCEPTED["pkcs8.pem"])
            directory.put("next_key.pem", ACCEPTED["pkcs8.pem"])
            for args in (["rotate", "--now"], ["assertion", "--client-id", "c", "--audience", "http://a/"],
                         ["status"]):
                directory.command(*args)
            directory.command("serve", "--port", "0", timeout=1)
            directory.command(*REVOKE)
    if os.getuid() == 0:
        directory = Directory(program, search, root, "unwritable", ["setpriv", "--reuid=65534", "--clear-groups"])
        directory.put("private_key.pem", ACCEPTED["sec1.pem"])
        directory.put("keys/dropped.pem", ACCEPTED["pkcs8.pem"])
        for file in (directory.path / "private_key.pem", directory.path / "keys/dropped.pem"):
            file.chmod(0o644)
        (directory.path / "keys").chmod(0o555)
        directory.path.chmod(0o555)
        directory.commands()
        directory.command("serve", "--port", "0", timeout=1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--unscrubbed", required=True)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    program, search = str(Path(args.server).resolve()), Search()
    print(f"controls: {controls(search)} planted", flush=True)
    # Readable for the user that may not write.
    root = Path(tempfile.mkdtemp(prefix="jwks-server-leaks-"))
    root.chmod(0o755)
    try:
        cores = unscrubbed(str(Path(args.unscrubbed).resolve()), search, root)
        print(f"control: in {cores} cores where the stack is not overwritten", flush=True)
        traced = b""
        forms = PLAIN if args.quick else ACCEPTED
        for name in forms:
            directory = Directory(program, search, root, name)
            accepted(directory, ACCEPTED[name])
            traced += directory.said
        if b"TRACE" not in traced and b"DEBUG" not in traced:
            search.problems.append("the log is not at trace level")
        print(f"{len(forms)} forms of a file done", flush=True)
        if not args.quick:
            for name in PLAIN:
                lived(Directory(program, search, root, f"life of {name}"), ACCEPTED[name])
            print("lives done", flush=True)
        in_turn = [name for name in REFUSED if not args.quick or name.endswith("-sec1.pem")]
        for name in in_turn:
            refused(Directory(program, search, root, f"refused {name}"), REFUSED[name])
        reasons = refused_drops(Directory(program, search, root, "refused drops"))
        print(f"{len(REFUSED)} refused files, {len(in_turn)} of them in turn, {reasons} reasons", flush=True)
        if not args.quick:
            faults(program, search, root)
            print("faults done", flush=True)
    finally:
        shutil.rmtree(root)
    print(f"{search.texts:,} outputs and answers ({search.bytes / 1e6:.1f} MB) and {search.cores} cores searched, "
          f"{sum(map(len, search.secret.forms.values()))} needles, pages of {PAGE}")
    for problem in search.problems:
        print(f"    {problem}")
    print("FAILED" if search.problems else "passed")
    return 1 if search.problems else 0


if __name__ == "__main__":
    sys.exit(main())
