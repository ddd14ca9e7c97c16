#!/usr/bin/env python3
"""A stand-in for a jwks-server, for the control: it leaks a descriptor and 4 KiB for each request,
and now and then sends the body of one version with the tag of another."""

import base64
import hashlib
import http.server
import json
import os
import socketserver

LEAKED = []


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def version(byte):
    x = y = b64url(bytes([byte]) * 32)
    required = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    kid = b64url(hashlib.sha256(required.encode()).digest())
    key = {"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "alg": "ES256", "use": "sig"}
    body = json.dumps({"keys": [key]}, separators=(",", ":")).encode()
    return body, f'"{b64url(hashlib.sha256(body).digest()[:16])}"'


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802, the name that the library calls
        LEAKED.append((os.open("/dev/null", os.O_RDONLY), os.urandom(4096)))
        body, tag = version(len(LEAKED) // 100 % 200)
        if len(LEAKED) % 50 == 0:
            tag = version(255)[1]
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 100


with Server(("127.0.0.1", 0), Handler) as server:
    print(f"http://localhost:{server.server_port}/", flush=True)
    server.serve_forever()
