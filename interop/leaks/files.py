"""Files that hold the canary: those that are read, and those that are refused.

Most are the fixtures of the tests; the rest is made here from the plain ones.
"""

from pathlib import Path

FIXTURES = Path(__file__).resolve().parents[2] / "tests/fixtures/keys"

# The others hold other keys, or the public half.
ACCEPTED = {file.name: file.read_bytes() for file in sorted((FIXTURES / "accepted").glob("*.pem"))
            if not file.name.startswith(("spki", "zero", "rfc7517"))}


def _made():
    for name in ("sec1.pem", "pkcs8.pem"):
        text = ACCEPTED[name]
        lines = text.splitlines(keepends=True)
        label = lines[0][11:-6]
        body = b"".join(lines[1:-1])
        for share in (3, 5, 8, 9):
            yield f"cut-{share}-{name}", text[:len(text) * share // 10]
        yield f"two-{name}", text + text
        yield f"no-begin-{name}", body + lines[-1]
        yield f"no-line-breaks-{name}", text.replace(b"\n", b"")
        yield f"blanks-for-line-breaks-{name}", text.replace(b"\n", b" ")
        yield f"no-hyphens-{name}", text.replace(b"-----", b"")
        yield f"key-as-label-{name}", text.replace(label, lines[1].strip())
        yield f"key-as-end-label-{name}", b"".join(lines[:-1]) + b"-----END " + lines[1].strip() + b"-----\n"
        yield f"key-in-header-{name}", lines[0] + b"X: " + body.replace(b"\n", b"") + b"\n\n" + body + lines[-1]
        yield f"key-as-header-name-{name}", lines[0] + body.replace(b"\n", b"") + b": x\n\n" + lines[-1]
        yield f"base64-broken-{name}", text.replace(body, body[:50] + b"!" + body[51:])
        yield f"base64-short-{name}", text.replace(body, body[:-3] + b"\n")
        yield f"base64url-{name}", text.replace(body, body.translate(bytes.maketrans(b"+/", b"-_")) + b"_\n")
        yield f"other-label-{name}", text.replace(label, b"DSA PRIVATE KEY")
        yield f"public-label-{name}", text.replace(label, b"PUBLIC KEY")
        yield f"begin-line-long-{name}", b"-----BEGIN " + body.replace(b"\n", b"") + b"\n" + text
        yield f"utf16-{name}", text.decode().encode("utf-16")
        yield f"nul-{name}", text.replace(b"\n", b"\0")
        yield f"too-large-{name}", text * 100


REFUSED = {file.name: file.read_bytes() for file in sorted((FIXTURES / "refused").glob("*.pem"))}
REFUSED |= dict(_made())
