"""Tokens of the admin port: each does what its role may, and nothing else."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway import keys
from gateway.admin.operators import Operators, Role, Token
from gateway.errors import Unauthorized
from tests.harness import Running

ROLES: tuple[Role, ...] = ("read", "policy", "admin")
HASHED = keys.generate()
TOKENS = [
    {"name": "ana", "token": str(keys.hashed(HASHED)), "role": "read"},
    {"name": "ben", "token": "policy-token", "role": "policy"},
    {"name": "cyd", "token": "admin-token", "role": "admin"},
]
GIVEN = {"read": HASHED, "policy": "policy-token", "admin": "admin-token"}


@pytest.fixture
def guarded(start: Callable[..., Running]) -> Running:
    return start({"admin": {"port": 0, "tokens": TOKENS}})


def call(gateway: Running, role: str, method: str, path: str, **options: Any) -> Any:
    headers = {"Authorization": f"Bearer {GIVEN[role]}", **options.pop("headers", {})}
    return gateway.http.request(method, gateway.admin + path, headers=headers, **options)


@pytest.mark.parametrize("role", ROLES)
def test_every_operation_asks_for_its_role(guarded: Running, role: Role) -> None:
    document = call(guarded, role, "GET", "/openapi.json").json()
    refused = set()
    for path, operations in document["paths"].items():
        for method in operations.keys() & {"get", "put", "post", "delete"}:
            # A body that no operation takes: who may gets as far as being told so, and changes nothing.
            body = (
                {"content": b"[]", "headers": {"Content-Type": "application/json"}} if method != "get" else {}
            )
            plain = path.replace("{category}", "nobody").replace("{id}", "nobody")
            answer = call(guarded, role, method.upper(), plain, **body)
            if answer.status_code == 403:
                assert answer.json()["error"]["code"] == "role_insufficient"
                refused.add((method, path))
            assert answer.status_code != 401
            assert (ROLES.index(role) < ROLES.index(operations[method]["x-role"])) == (
                (method, path) in refused
            )
    assert bool(refused) == (role != "admin")
    assert (("put", "/policies/{category}") in refused) == (role == "read")
    assert (call(guarded, role, "HEAD", "/cache/export").status_code == 403) == (role != "admin")
    assert (("post", "/cache/purge") in refused) == (role != "admin")


def test_who_asks_is_told_and_who_changes_is_recorded(guarded: Running) -> None:
    assert call(guarded, "policy", "GET", "/whoami").json() == {"name": "ben", "role": "policy"}
    category = call(guarded, "read", "GET", "/policies/code").json()
    category["cache"]["threshold"] = 0.97
    assert call(guarded, "read", "PUT", "/policies/code", json=category).status_code == 403
    assert call(guarded, "read", "GET", "/policies/code").json()["cache"]["threshold"] != 0.97
    assert call(guarded, "policy", "PUT", "/policies/code", json=category).status_code == 200
    newest = call(guarded, "read", "GET", "/audit").json()["records"][0]
    assert newest["who"].startswith("ben@")
    for path in ("/audit", "/policies", "/policies/versions", "/tenants", "/cache", "/backends", "/traffic"):
        told = call(guarded, "admin", "GET", path).text
        assert not any(token in told for token in GIVEN.values())


def test_a_wrong_or_expired_token_never_gets_through() -> None:
    now = [100.0]
    operators = Operators([Token("a", "one", "admin", expires=200.0)], clock=lambda: now[0])
    assert operators.admit("Bearer one", "admin").name == "a"
    for header in ("", "one", "Basic one", "Bearer", "Bearer two", "Bearer ONE"):
        with pytest.raises(Unauthorized):
            operators.admit(header, "read")
    now[0] = 200.0
    with pytest.raises(Unauthorized):
        operators.admit("Bearer one", "read")


def test_without_tokens_everybody_on_this_machine_is_an_admin() -> None:
    assert Operators([]).admit("", "admin").role == "admin"
