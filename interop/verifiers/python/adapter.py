"""Answers, one JSON object a line, whether a verifier from PyPI accepts a token.

Each (verifier, instance) pair has a cache of its own, filled by its own fetches of the set, and
every verifier keeps its default settings. The protocol is told in ../README.md.
"""

import json
import sys
import threading
import time
from importlib.metadata import version

import jwt as pyjwt
import requests
from authlib.integrations.base_client.sync_app import BaseApp, OAuth2Mixin
from authlib.integrations.base_client.sync_openid import OpenIDMixin
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from cryptojwt.jwt import JWT as CryptoJwt
from cryptojwt.key_jar import KeyJar
from joserfc import jwt as joserfc_jwt
from joserfc.errors import InvalidKeyIdError
from joserfc.jwk import KeySet

JWKS_URI, CLIENT_ID, AUDIENCE = sys.argv[1:4]


def pyjwt_verifier():
    client = pyjwt.PyJWKClient(JWKS_URI)

    def verify(token):
        key = client.get_signing_key_from_jwt(token)
        pyjwt.decode(token, key, algorithms=["ES256"], audience=AUDIENCE, issuer=CLIENT_ID)

    return verify


class AuthlibApp(OAuth2Mixin, OpenIDMixin, BaseApp):
    """What Authlib's integrations for Flask and Django are made of, without the framework."""

    client_cls = OAuth2Session


def authlib_verifier():
    # The token stands for an ID token: its issuer is the issuer, its audience the relying party.
    app = AuthlibApp(
        None,
        client_id=AUDIENCE,
        issuer=CLIENT_ID,
        jwks_uri=JWKS_URI,
        id_token_signing_alg_values_supported=["ES256"],
    )
    return lambda token: app.parse_id_token({"id_token": token}, nonce=None, claims_cls=IdToken)


class IdToken(CodeIDToken):
    """An ID token that no authorization request came before."""


def joserfc_verifier():
    """joserfc fetches nothing: the cache, 5 min and at most one fetch in 30 s, is ours."""
    held = {"keys": None, "fetched_at": 0.0}

    def fetch():
        response = requests.get(JWKS_URI, timeout=5)
        response.raise_for_status()
        held.update(keys=KeySet.import_key_set(response.json()), fetched_at=time.monotonic())

    def age():
        return time.monotonic() - held["fetched_at"]

    def verify(token):
        if held["keys"] is None or age() > 300:
            fetch()
        try:
            decoded = joserfc_jwt.decode(token, held["keys"], algorithms=["ES256"])
        except InvalidKeyIdError:
            if age() < 30:
                raise
            fetch()
            decoded = joserfc_jwt.decode(token, held["keys"], algorithms=["ES256"])
        claims = joserfc_jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": CLIENT_ID}, aud={"essential": True, "value": AUDIENCE}
        )
        claims.validate(decoded.claims)

    return verify


def cryptojwt_verifier():
    jar = KeyJar()
    jar.add_url(CLIENT_ID, JWKS_URI)
    receiver = CryptoJwt(key_jar=jar, iss=AUDIENCE, allowed_sign_algs=["ES256"])

    def verify(token):
        claims = receiver.unpack(token)
        if claims["iss"] != CLIENT_ID or AUDIENCE not in claims["aud"]:
            raise ValueError("wrong iss or aud")

    return verify


MAKERS = {
    "PyJWT": pyjwt_verifier,
    "Authlib": authlib_verifier,
    "joserfc": joserfc_verifier,
    "cryptojwt": cryptojwt_verifier,
}
SAYING = threading.Lock()
MAKING = threading.Lock()
INSTANCES = {}


def say(line):
    with SAYING:
        print(json.dumps(line), flush=True)


def answer(question):
    name = (question["verifier"], question["instance"])
    with MAKING:
        if name not in INSTANCES:
            INSTANCES[name] = (MAKERS[name[0]](), threading.Lock())
        verify, one_at_a_time = INSTANCES[name]
    try:
        with one_at_a_time:
            verify(question["token"])
        say({"id": question["id"], "accepted": True})
    except Exception as error:  # whatever a verifier raises is its way to say no
        why = f"{type(error).__name__}: {error}"
        say({"id": question["id"], "accepted": False, "error": why})


say({"verifiers": [{"name": name, "version": version(name), "from": "PyPI"} for name in MAKERS]})
for line in sys.stdin:
    threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()
