"""Who may do what on the admin port: tokens, each with a name and one of three roles.

`read` sees everything but exports; `policy` also decides policies and tries them in the playground; `admin` does
all there is. A wrong token never gets through, and a right one no further than its role.
"""

import math
import secrets
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, get_args

from gateway import keys
from gateway.config import Role
from gateway.errors import Forbidden, Unauthorized

ROLES: tuple[Role, ...] = get_args(Role)  # each may what those before it may
# What its method alone does not tell. Everything else that writes is for admins.
_NEEDED: dict[tuple[str, str], Role] = {
    ("POST", "/explain"): "read",
    ("POST", "/policies/validate"): "read",
    ("POST", "/policies/reload"): "policy",
    ("POST", "/policies/rollback"): "policy",
    ("PUT", "/policies"): "policy",
    ("PUT", "/policies/{category}"): "policy",
    ("DELETE", "/policies/{category}"): "policy",
    ("POST", "/playground"): "policy",
    ("GET", "/cache/export"): "admin",
}


class Token(NamedTuple):
    """One token of the configuration, plain or as its hash."""

    name: str
    token: str
    role: Role
    expires: float = math.inf  # unix seconds


class Operator(NamedTuple):
    """Who a request is from."""

    name: str
    role: Role

    def may(self, needed: Role) -> bool:
        return ROLES.index(self.role) >= ROLES.index(needed)


ANYBODY = Operator("anyone", "admin")  # where no token is configured, which only loopback allows


def needed(method: str, path: str) -> Role:
    """The least role for a route, given as its pattern."""
    method = "GET" if method == "HEAD" else method
    return _NEEDED.get((method, path), "read" if method == "GET" else "admin")


class Operators:
    """Recognises tokens by digests of them; holds none of them as it is."""

    def __init__(self, listed: Iterable[Token], clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.replace(listed)

    def replace(self, listed: Iterable[Token]) -> None:
        """Adopt a new list of tokens."""
        salt = secrets.token_bytes(16)
        self._rows = [(keys.listed(each.token, salt), each) for each in listed]

    def admit(self, authorization: str, role: Role) -> Operator:
        """Who sent this header, if that role is theirs. Raises Unauthorized and Forbidden."""
        operator = self._known(authorization)
        if not operator.may(role):
            raise Forbidden(
                f"This needs the role {role}; the token of '{operator.name}' has the role {operator.role}.",
                code="role_insufficient",
            )
        return operator

    def _known(self, authorization: str) -> Operator:
        if not self._rows:
            return ANYBODY
        scheme, _, given = authorization.partition(" ")
        found: Token | None = None
        for known, token in self._rows:  # all of them, so that time does not tell which is near
            if known.opens(given.strip()):
                found = token
        if found is None or scheme.lower() != "bearer" or self._clock() >= found.expires:
            raise Unauthorized(
                "The admin port needs its bearer token.", headers={"WWW-Authenticate": "Bearer"}
            )
        return Operator(found.name, found.role)
