"""What an API key looks like: made at random, hashed for a file, read from it again.

A generated key has 256 random bits. Nobody can guess it, so a fast salted hash protects it as well as a slow one,
which exists for passwords and would cost every request milliseconds. It never stores or shows a key.
"""

import hmac
import re
import secrets
from base64 import b64decode, b64encode
from hashlib import blake2b
from typing import NamedTuple

PREFIX = "sgw"
_SCHEME = "blake2b"
_KEY = re.compile(rf"{PREFIX}-([0-9a-f]{{12}})-[A-Za-z0-9_-]{{43}}")
_HASH = re.compile(rf"{_SCHEME}:([0-9a-f]{{12}}):([0-9a-f]{{32}}):([0-9a-f]{{64}})")


class Hash(NamedTuple):
    """A generated key as a file holds it."""

    id: str  # the key's own public part, by which its row is found
    salt: bytes  # 16 bytes
    digest: bytes  # 32 bytes

    def opens(self, key: str) -> bool:
        """Whether it is this key's; in a time that tells nothing."""
        return hmac.compare_digest(self.digest, digest(key, self.salt))

    def __str__(self) -> str:
        return f"{_SCHEME}:{self.id}:{self.salt.hex()}:{self.digest.hex()}"


def generate() -> str:
    """A fresh key, `sgw-<12 hex digits>-<43 characters>`."""
    return f"{PREFIX}-{secrets.token_hex(6)}-{secrets.token_urlsafe(32)}"


def hashed(key: str) -> Hash:
    """What goes into the file in a generated key's place. Raises ValueError for any other key."""
    id = id_of(key)
    if id is None:
        raise ValueError("only a generated key can be hashed: others may be guessed from their hash")
    salt = secrets.token_bytes(16)
    return Hash(id, salt, digest(key, salt))


def id_of(key: str) -> str | None:
    """The public part of a generated key; None for any other."""
    found = _KEY.fullmatch(key)
    return None if found is None else found[1]


def is_hash(text: str) -> bool:
    """Whether a listed key is meant to be a hash."""
    return text.startswith(f"{_SCHEME}:")


def read(text: str) -> Hash:
    """A hash as `str` wrote it. Raises ValueError, which does not show it."""
    found = _HASH.fullmatch(text)
    if found is None:
        raise ValueError("not a key's hash as `semantic-gateway keys new` prints it")
    return Hash(found[1], bytes.fromhex(found[2]), bytes.fromhex(found[3]))


def listed(text: str, salt: bytes) -> Hash:
    """By what a configured key is recognised, be it a hash or plain: then without an id, and under this salt."""
    return read(text) if is_hash(text) else Hash("", salt, digest(text, salt))


def generate_sealing() -> str:
    """A fresh key for `store.encryption_keys`."""
    return b64encode(secrets.token_bytes(32)).decode()


def sealing(key: str) -> bytes:
    """The 32 bytes that such a key stands for. Raises ValueError, which does not show it."""
    try:
        read = b64decode(key, validate=True)
    except ValueError:
        read = b""
    if len(read) != 32:
        raise ValueError("a key is the base64 of 32 bytes, as `semantic-gateway keys seal` prints it")
    return read


def digest(key: str, salt: bytes) -> bytes:
    """32 bytes that tell a key only to who has it."""
    return blake2b(key.encode("utf-8", "surrogatepass"), salt=salt, digest_size=32).digest()
