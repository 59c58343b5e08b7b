"""Whose request is this? API key → tenant id, the first part of every fingerprint.

With tenants configured an unknown or expired key never gets through. With none, each distinct set of client
credentials is a tenant of its own, so that nobody is served what their key could not have bought.
"""

import hashlib
import hmac
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gateway import keys
from gateway.errors import Unauthorized

_CREDENTIALS = ("Authorization", "api-key", "x-api-key", "OpenAI-Organization", "OpenAI-Project")
_INDEX = 8  # bytes of a plain key's digest by which its row is found


class Listed(NamedTuple):
    """One key of the configuration, plain or as its hash."""

    key: str
    tenant: str
    label: str = ""
    expires: float = math.inf  # unix seconds


class Privacy(NamedTuple):
    """How a tenant's texts are kept."""

    apart: bool = False  # an answer is reused for the end user who asked, and for nobody else
    retention: float = math.inf  # seconds after which nothing of a text is kept


@dataclass(eq=False, slots=True)
class Key:
    """A key as it is recognised: whose it is, and never what it is."""

    tenant: str
    label: str
    expires: float
    salt: bytes
    digest: bytes
    uses: int = 0
    used: float = 0.0  # unix seconds; 0: never since the start


class Tenants:
    """Resolves request headers to a tenant.

    Args:
        listed: every configured key; none means open mode.
        secret: 32 random bytes, kept in the store, so that open-mode tenants survive a restart.
    """

    def __init__(
        self, listed: Sequence[Listed], secret: bytes, clock: Callable[[], float] = time.time
    ) -> None:
        self._privacy, self._privacies = Privacy(), dict[str, Privacy]()
        self._secret = secret
        self._clock = clock
        self._salt = secrets.token_bytes(16)  # of plain keys; as nobody knows it, look-ups tell nothing
        self._rows: dict[str | bytes, Key] = {}
        self.replace(listed)

    def replace(self, listed: Sequence[Listed]) -> None:
        """Adopt a new list of keys; those that stay keep their counts."""
        before = {(key.tenant, key.label): key for key in self._rows.values()}
        rows: dict[str | bytes, Key] = {}
        count: Counter[str] = Counter()
        for each in listed:
            id, salt, digest = keys.listed(each.key, self._salt)
            label = each.label or id or f"key {count[each.tenant] + 1}"
            row = rows[id or digest[:_INDEX]] = Key(each.tenant, label, each.expires, salt, digest)
            count[each.tenant] += 1
            known = before.get((row.tenant, row.label))
            if known is not None:
                row.uses, row.used = known.uses, known.used
        self._rows = rows
        self._ids = frozenset(f"t:{key.tenant}" for key in rows.values())

    def keep(self, all: Privacy, own: Mapping[str, Privacy]) -> None:
        """Adopt how texts are kept: of everybody, and of tenants that have terms of their own."""
        self._privacy, self._privacies = all, dict(own)

    def privacy(self, tenant: str) -> Privacy:
        """How the texts of a tenant, given by its id, are kept."""
        return self._privacies.get(tenant, self._privacy)

    def rekey(self, secret: bytes) -> None:
        """Adopt the secret of a store that came late."""
        self._secret = secret

    @property
    def open(self) -> bool:
        return not self._rows

    @property
    def keys(self) -> list[Key]:
        """All of them, in the order of the configuration."""
        return list(self._rows.values())

    def knows(self, tenant: str) -> bool:
        """Whether an id can be somebody's, as things stand."""
        return tenant.startswith("k:") if self.open else tenant in self._ids

    @property
    def mark(self) -> str:
        """Tells one secret from another, and nothing of either: open-mode ids mean something under one only."""
        return hashlib.blake2b(b"mark", key=self._secret, digest_size=8).hexdigest()

    def resolve(self, headers: Mapping[str, str]) -> str:
        """The tenant's id: `t:<name>`, or in open mode `k:<keyed hash>`.

        Raises:
            Unauthorized: tenants are configured, and no listed key was given or it has expired.
        """
        if not self._rows:
            return self._anonymous(headers)
        given = _api_key(headers)
        key = self._find(given)
        if key is None:
            raise Unauthorized("Incorrect API key provided." if given else "You didn't provide an API key.")
        now = self._clock()
        if now >= key.expires:  # told only to who has the key
            raise Unauthorized("The API key has expired.", code="expired_api_key")
        key.uses += 1
        key.used = now
        return f"t:{key.tenant}"

    def _find(self, given: str) -> Key | None:
        """The row of a key: found by its public part, or by a few bytes of a digest nobody else can compute."""
        id = keys.id_of(given)
        row = None if id is None else self._rows.get(id)
        if row is not None:
            return row if hmac.compare_digest(row.digest, keys.digest(given, row.salt)) else None
        digest = keys.digest(given, self._salt)
        row = self._rows.get(digest[:_INDEX])
        return row if row is not None and hmac.compare_digest(row.digest, digest) else None

    def _anonymous(self, headers: Mapping[str, str]) -> str:
        # A header's value holds no line feed, so none can run into the next.
        given = "\n".join([headers.get(name, "") for name in _CREDENTIALS]).encode("utf-8", "surrogatepass")
        mac = hashlib.blake2b(given, key=self._secret, digest_size=16)
        return f"k:{mac.hexdigest()}"


def _api_key(headers: Mapping[str, str]) -> str:
    """The key as OpenAI, Azure and Anthropic clients send it."""
    authorization = headers.get("Authorization", "")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return headers.get("api-key") or headers.get("x-api-key") or ""
