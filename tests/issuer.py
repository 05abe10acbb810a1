"""An OpenID provider of somebody else's, real over HTTP; whoever asks is `person`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

CLIENT_ID, CLIENT_SECRET, CODE = "conductor", "a secret", "a-code"


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Provider:
    """Its URL, its keys, whom it vouches for, and how often it was asked for keys."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys = {"k1": new_key()}
        self.person: dict[str, Any] = {}
        self.fetched = 0

    def configuration(self, **more: str) -> dict[str, str]:
        """What CONDUCTOR_OIDC_PROVIDERS holds of it."""
        return {
            "id": "corp",
            "name": "Corp",
            "issuer": self.url,
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            **more,
        }

    def mint(
        self, kid: str = "k1", key: Any = None, algorithm: str = "RS256", **claims: Any
    ) -> str:
        """A JWT about the person. A claim that is None is left out."""
        now = int(time.time())
        standard = {"iss": self.url, "aud": CLIENT_ID, "iat": now, "exp": now + 300}
        body = standard | self.person | claims
        return jwt.encode(
            {name: value for name, value in body.items() if value is not None},
            key or self.keys[kid],
            algorithm=algorithm,
            headers={"kid": kid},
        )

    def get(self, path: str, query: dict[str, list[str]]) -> Any:
        """What it answers; a string is where to go on."""
        match path:
            case "/.well-known/openid-configuration":
                self.fetched += 1
                ends = ("authorization", "token", "userinfo")
                return {
                    "issuer": self.url,
                    "jwks_uri": f"{self.url}/jwks",
                    "token_endpoint_auth_methods_supported": ["client_secret_post"],
                    **{f"{name}_endpoint": f"{self.url}/{name}" for name in ends},
                }
            case "/jwks":
                return {
                    "keys": [
                        {
                            **RSAAlgorithm.to_jwk(key.public_key(), as_dict=True),
                            "kid": kid,
                            "alg": "RS256",
                        }
                        for kid, key in self.keys.items()
                    ]
                }
            case "/authorization":
                back = {"code": CODE, "state": query["state"][0]}
                return f"{query['redirect_uri'][0]}?{urlencode(back)}"
            case "/userinfo":
                return self.person
        return None

    def exchange(self, form: dict[str, list[str]]) -> Any:
        assert form["code"] == [CODE]
        assert form["client_secret"] == [CLIENT_SECRET]
        assert form["code_verifier"]
        return {"access_token": "x", "token_type": "Bearer", "id_token": self.mint()}


@contextmanager
def running() -> Iterator[Provider]:
    """A provider that answers until the end."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            answer = provider.get(url.path, parse_qs(url.query))
            if isinstance(answer, str):
                self.send_response(302)
                self.send_header("Location", answer)
                self.end_headers()
            else:
                self.write(answer)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.write(provider.exchange(parse_qs(body)))

        def write(self, answer: Any) -> None:
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = Provider(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
