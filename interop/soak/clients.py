"""Clients that fetch the key set at a bounded rate, and check every answer."""

import base64
import hashlib
import http.client
import json
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

PATH = "/.well-known/jwks.json"
MEMBERS = ["kty", "crv", "x", "y", "kid", "alg", "use"]
# Until when a change on disk is served: 1 s is promised; the rest is for a busy machine.
SERVED_WITHIN = 4


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Torn(Exception):
    """An answer that is not one whole version of the set."""


def thumbprint(key):
    """RFC 7638."""
    required = {name: key[name] for name in ("crv", "kty", "x", "y")}
    text = json.dumps(required, separators=(",", ":"), sort_keys=True)
    return b64url(hashlib.sha256(text.encode()).digest())


def check_set(headers, body):
    """The keys of a 200, or `Torn`."""
    expected = f'"{b64url(hashlib.sha256(body).digest()[:16])}"'
    if headers.get("etag") != expected:
        raise Torn(f"ETag {headers.get('etag')} of a body whose tag is {expected}")
    if headers.get("content-type") != "application/json":
        raise Torn(f"Content-Type {headers.get('content-type')}")
    try:
        document = json.loads(body)
    except ValueError as error:
        raise Torn(f"no JSON: {error}: {body[:60]!r}") from error
    if list(document) != ["keys"] or not document["keys"]:
        raise Torn(f"no key set: {body[:60]!r}")
    keys = document["keys"]
    kids = [key.get("kid") for key in keys]
    if len(set(kids)) != len(kids):
        raise Torn(f"the same kid twice: {kids}")
    for key in keys:
        if list(key) != MEMBERS or thumbprint(key) != key["kid"]:
            raise Torn(f"not a key: {key}")
    return keys


def read_answer(stream, head_only):
    """One answer from a buffered stream: (status, headers, body)."""
    line = stream.readline(1000)
    parts = line.split()
    if len(parts) < 2 or not line.startswith(b"HTTP/1.1 "):
        raise Torn(f"no answer but {line[:60]!r}")
    headers = http.client.parse_headers(stream)
    status = int(parts[1])
    length = 0 if head_only or status == 304 else int(headers["content-length"])
    body = stream.read(length)
    if len(body) != length:
        raise Torn(f"{len(body)} of {length} bytes")
    return status, headers, body


class Connection:
    """A connection that is made when it is first needed, and, if it keeps, used again."""

    def __init__(self, port, keeps):
        self.port, self.keeps = port, keeps
        self.socket = self.stream = None

    def ask(self, method="GET", path=PATH, **headers):
        if self.socket is None:
            self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=15)
            self.stream = self.socket.makefile("rb")
        if not self.keeps:
            headers["Connection"] = "close"
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        try:
            self.socket.sendall(f"{method} {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
            answer = read_answer(self.stream, method == "HEAD")
            if not self.keeps:
                rest = self.stream.read()
                if rest:
                    raise Torn(f"{rest[:60]!r} after the answer")
                self.close()
            return answer
        except (OSError, Torn):
            self.close()
            raise

    def close(self):
        if self.socket is not None:
            self.stream.close()
            self.socket.close()
        self.socket = self.stream = None


class Findings:
    """What all clients have seen."""

    def __init__(self):
        self.lock = threading.Lock()
        self.answers = self.unchanged = self.signatures = 0
        self.torn, self.failures = [], []
        # kid -> the moment from which it must not be served.
        self.revoked = {}
        self.sets = set()

    def count(self, status, etag):
        with self.lock:
            self.answers += 1
            self.unchanged += status == 304
            self.sets.add(etag)

    def tell(self, where, problem):
        with self.lock:
            where.append(problem)


def client(port, number, rate, findings, ended):
    """Four of eight keep their connection; each asks in turn plainly, conditionally and with HEAD."""
    connection, etag = Connection(port, keeps=number % 2 == 0), None
    started, turn = time.monotonic(), 0
    while not ended.wait(max(0, started + turn / rate - time.monotonic())):
        turn += 1
        headers = {"If_None_Match": etag} if etag and turn % 3 == 1 else {}
        method = "HEAD" if turn % 10 == 0 else "GET"
        asked_at = time.monotonic()
        try:
            status, got, body = connection.ask(method, **headers)
            if status == 304:
                if not headers or got.get("etag") != etag:
                    raise Torn(f"304 for {got.get('etag')}, asked for {headers}")
            elif status != 200:
                raise Torn(f"status {status}")
            elif method == "GET":
                check_kids(check_set(got, body), asked_at, findings)
            elif not got.get("etag"):
                raise Torn("HEAD without an ETag")
            etag = got.get("etag")
            findings.count(status, etag)
        except Torn as problem:
            findings.tell(findings.torn, f"client {number}: {problem}")
        except OSError as problem:
            findings.tell(findings.failures, f"client {number}: {problem!r}")
    connection.close()


def check_kids(keys, asked_at, findings):
    for key in keys:
        since = findings.revoked.get(key["kid"])
        if since is not None and asked_at > since + SERVED_WITHIN:
            raise Torn(f"{key['kid']} is served after its revocation")


def openssl(*args, given=None):
    return subprocess.run(["openssl", *args], input=given, capture_output=True, check=True,
                          timeout=60).stdout


def public_pem(der):
    return b"-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(der) + b"-----END PUBLIC KEY-----\n"


# SubjectPublicKeyInfo of a P-256 key, up to its coordinates.
SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")


def coordinates(key):
    return b"".join(base64.urlsafe_b64decode(key[name] + "=") for name in "xy")


def signer(port, directory, findings, ended):
    """Reads private_key.pem as a signer does, signs, fetches the set, and verifies; looks whether the
    current key comes first, as soon as the file has been the same for long enough."""
    connection = Connection(port, keeps=False)
    text, point, since = None, None, 0
    with tempfile.TemporaryDirectory() as scratch:
        private, public, signature = (Path(scratch) / name for name in ("key", "public", "sig"))
        while not ended.wait(1):
            try:
                now_text = (directory / "private_key.pem").read_bytes()
                if now_text != text:
                    text, since = now_text, time.monotonic()
                    point = openssl("pkey", "-pubout", "-outform", "DER", given=text)[-64:]
                private.write_bytes(text)
                openssl("dgst", "-sha256", "-sign", str(private), "-out", str(signature),
                        "/dev/null")
                status, headers, body = connection.ask()
                keys = check_set(headers, body)
                served = [key for key in keys if coordinates(key) == point]
                if status != 200 or not served:
                    raise Torn("the key of private_key.pem, read before, is not in the set")
                public.write_bytes(public_pem(SPKI + coordinates(served[0])))
                openssl("dgst", "-sha256", "-verify", str(public), "-signature", str(signature),
                        "/dev/null")
                same = (directory / "private_key.pem").read_bytes() == text
                if same and time.monotonic() > since + SERVED_WITHIN and served[0] != keys[0]:
                    raise Torn("the current key is not the first")
                findings.signatures += 1
            except Torn as problem:
                findings.tell(findings.torn, f"signer: {problem}")
            except (OSError, subprocess.SubprocessError) as problem:
                said = getattr(problem, "stderr", b"")
                findings.tell(findings.failures, f"signer: {problem!r} {said!r}")
