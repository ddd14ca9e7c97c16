"""What people and tools do to a running server: files, signals, commands. One thing at a time."""

import base64
import os
import random
import signal
import subprocess
import time

from clients import Connection, check_set, coordinates, openssl

# Tombstones are kept for ever, so a run makes few of them, whatever its length.
MOST_REVOCATIONS = 20
MOST_FILES = 12


def private_pem():
    """A new P-256 key, as SEC1 without a public half."""
    # Below the group's order, whose first byte is 0xff.
    scalar = b"\x01" + os.urandom(31)
    der = bytes.fromhex("30310201010420") + scalar + bytes.fromhex("a00a06082a8648ce3d030107")
    return (b"-----BEGIN EC PRIVATE KEY-----\n" + base64.encodebytes(der)
            + b"-----END EC PRIVATE KEY-----\n")


class Churn:
    def __init__(self, server, findings, seconds):
        self.server, self.findings = server, findings
        self.keys = server.directory / "keys"
        self.random = random.Random(1)
        self.done = {}
        self.revocation_every = max(5, seconds / MOST_REVOCATIONS)
        self.revoked_at = self.rotated_at = self.promoted_at = time.monotonic()

    def run(self, ended):
        actions = [self.drop, self.overwrite, self.rename, self.remove, self.half, self.garbage,
                   self.touch, self.hang_up, self.pause, self.status, self.rotate, self.revoke,
                   self.promote]
        while not ended.wait(0.3):
            action = self.random.choice(actions)
            try:
                if action() is not False:
                    self.done[action.__name__] = self.done.get(action.__name__, 0) + 1
            except (OSError, subprocess.SubprocessError) as problem:
                said = getattr(problem, "stderr", "")
                self.findings.tell(self.findings.failures, f"{action.__name__}: {problem!r} {said}")

    def dropped(self):
        return sorted(self.keys.glob("dropped-*.pem"))

    def fresh(self, kind="dropped"):
        return self.keys / f"{kind}-{self.random.getrandbits(48):012x}.pem"

    def drop(self):
        if len(self.dropped()) >= MOST_FILES:
            return False
        file = self.fresh()
        file.write_bytes(private_pem())
        file.chmod(0o600)
        return True

    def some(self):
        files = self.dropped()
        return self.random.choice(files) if files else None

    def overwrite(self):
        if (file := self.some()) is None:
            return False
        file.write_bytes(private_pem())  # in place: it is cut short, then written
        return True

    def rename(self):
        if (file := self.some()) is None:
            return False
        file.rename(self.fresh())
        return True

    def remove(self):
        if (file := self.some()) is None:
            return False
        file.unlink()
        return True

    def half(self):
        if len(self.dropped()) >= MOST_FILES:
            return False
        text, file = private_pem(), self.fresh()
        with file.open("wb", buffering=0) as out:
            out.write(text[:90])
            time.sleep(self.random.choice((0.01, 0.3)))
            out.write(text[90:])
        return True

    def garbage(self):
        """What is no key: it is there for a moment, then it is gone."""
        file = self.fresh("garbage")
        kind = self.random.randrange(5)
        if kind == 0:
            file.write_bytes(os.urandom(self.random.choice((0, 100, 20_000))))
        elif kind == 1:
            file.mkdir()
        elif kind == 2:
            os.mkfifo(file)
        elif kind == 3:
            file.symlink_to("/etc/passwd")
        else:
            file.write_bytes(private_pem()[:120])
        time.sleep(0.4)
        if file.is_dir() and not file.is_symlink():
            file.rmdir()
        else:
            file.unlink()

    def touch(self):
        current = self.server.directory / "private_key.pem"
        current.touch()

    def hang_up(self):
        self.server.process.send_signal(signal.SIGHUP)

    def pause(self):
        self.server.process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        self.server.process.send_signal(signal.SIGCONT)

    def status(self):
        self.server.command("status", self.random.choice(("--json", "--log-format=json")))

    def rotate(self):
        if time.monotonic() < self.rotated_at + 20:
            return False
        self.rotated_at = time.monotonic()
        self.server.command("rotate")
        return True

    def revoke(self):
        """A dropped key, once it is served; its file goes as well."""
        if time.monotonic() < self.revoked_at + self.revocation_every:
            return False
        self.revoked_at = time.monotonic()
        file, kid = self.served_drop()
        self.server.command("revoke", kid, "--reason", "soak")
        self.findings.revoked[kid] = time.monotonic()
        file.unlink()
        return True

    def promote(self):
        """A rotation by files: announced, and renamed into place."""
        if time.monotonic() < self.promoted_at + 15:
            return False
        self.promoted_at = time.monotonic()
        file, _ = self.served_drop()
        time.sleep(1.2)  # publish-lead
        file.rename(self.server.directory / "private_key.pem")
        return True

    def served_drop(self):
        """A new dropped key, from when the set has it: its file, and its kid."""
        file = self.fresh("served")
        text = private_pem()
        file.write_bytes(text)
        file.chmod(0o600)
        point = openssl("pkey", "-pubout", "-outform", "DER", given=text)[-64:]
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            _, headers, body = Connection(self.server.port, keeps=False).ask()
            for key in check_set(headers, body):
                if coordinates(key) == point:
                    return file, key["kid"]
            time.sleep(0.05)
        file.unlink()
        raise OSError("a dropped key was not served within 15 s")
