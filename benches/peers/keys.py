"""P-256 public keys as PEM, as many as wanted at once: the multiples of the base point.

Whose private halves everyone knows, so for nothing but measuring.
"""
import base64

P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
G = (0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
     0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5)
# SubjectPublicKeyInfo of id-ecPublicKey, prime256v1, up to the coordinates of the point.
SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200" "04")


def public_keys():
    """PEM after PEM, each of another key."""
    # 2 G, by the tangent; from then on G is added.
    slope = (3 * G[0] ** 2 - 3) * pow(2 * G[1], -1, P)
    point = chord(G, G, slope)
    while True:
        der = SPKI + b"".join(half.to_bytes(32, "big") for half in point)
        body = base64.b64encode(der).decode()
        yield f"-----BEGIN PUBLIC KEY-----\n{body[:64]}\n{body[64:]}\n-----END PUBLIC KEY-----\n"
        slope = (point[1] - G[1]) * pow(point[0] - G[0], -1, P)
        point = chord(point, G, slope)


def chord(a, b, slope):
    """The sum of two points on the line of this slope."""
    x = (slope ** 2 - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P
