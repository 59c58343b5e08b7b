"""Whose request is this? API key → tenant id, the first part of every fingerprint.

With tenants configured an unknown key never gets through. With none, each distinct set of client
credentials is a tenant of its own, so that nobody is served what their key could not have bought.
"""

import hashlib
from collections.abc import Mapping, Sequence

from gateway.errors import Unauthorized

_CREDENTIALS = ("Authorization", "api-key", "x-api-key", "OpenAI-Organization", "OpenAI-Project")


class Tenants:
    """Resolves request headers to a tenant.

    Args:
        keys: (API key, tenant name) of every configured key; empty means open mode.
        secret: 32 random bytes, kept in the store, so that open-mode tenants survive a restart.
    """

    def __init__(self, keys: Sequence[tuple[str, str]], secret: bytes) -> None:
        self._secret = secret
        self.replace(keys)

    def replace(self, keys: Sequence[tuple[str, str]]) -> None:
        """Adopt a new list of keys."""
        self._names = {self._digest(key): name for key, name in keys}

    def rekey(self, secret: bytes) -> None:
        """Adopt the secret of a store that came late."""
        self._secret = secret

    @property
    def open(self) -> bool:
        return not self._names

    def knows(self, tenant: str) -> bool:
        """Whether an id can be somebody's, as things stand."""
        return tenant.startswith("k:") if self.open else tenant[2:] in self._names.values()

    @property
    def mark(self) -> str:
        """Tells one secret from another, and nothing of either: open-mode ids mean something under one only."""
        return hashlib.blake2b(b"mark", key=self._secret, digest_size=8).hexdigest()

    def resolve(self, headers: Mapping[str, str]) -> str:
        """The tenant's id: `t:<name>`, or in open mode `k:<keyed hash>`.

        Raises:
            Unauthorized: tenants are configured and no listed key was given.
        """
        if not self._names:
            return self._anonymous(headers)
        # Looking up a SHA-256 takes the same time for near and far misses: the digest, not the key, is compared.
        name = self._names.get(self._digest(_api_key(headers)))
        if name is None:
            raise Unauthorized(
                "Incorrect API key provided." if _api_key(headers) else "You didn't provide an API key."
            )
        return f"t:{name}"

    def _anonymous(self, headers: Mapping[str, str]) -> str:
        # A header's value holds no line feed, so none can run into the next.
        given = "\n".join([headers.get(name, "") for name in _CREDENTIALS]).encode("utf-8", "surrogatepass")
        mac = hashlib.blake2b(given, key=self._secret, digest_size=16)
        return f"k:{mac.hexdigest()}"

    @staticmethod
    def _digest(key: str) -> bytes:
        return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _api_key(headers: Mapping[str, str]) -> str:
    """The key as OpenAI, Azure and Anthropic clients send it."""
    authorization = headers.get("Authorization", "")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return headers.get("api-key") or headers.get("x-api-key") or ""
