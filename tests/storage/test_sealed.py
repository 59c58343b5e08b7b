"""Encryption at rest: nothing readable on disk, nothing lost by rotation, nothing taken from a forger."""

import asyncio
import base64
import secrets
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import build
from gateway.config import ConfigFault
from gateway.config import build as configured
from gateway.errors import StoreError
from gateway.keys import generate_sealing
from gateway.storage.memory import MemoryStore
from gateway.storage.sealed import Seal, SealedStore, Unreadable
from gateway.storage.sqlite import SqliteStore
from tests.storage.conftest import make_record

OLD, NEW = generate_sealing(), generate_sealing()
SECRETS = (
    b"the question of user 7",
    b"an answer nobody may read",
    b"a tag of theirs",
    b"an example",
    b"a policy",
)


async def fill(store: Any) -> None:
    record = make_record(7, document=SECRETS[1])
    record.entry.question, record.entry.tags = SECRETS[0].decode(), (SECRETS[2].decode(),)
    await store.put([record])
    await store.shelve("example", {"a": SECRETS[3]})
    await store.append("policies", SECRETS[4], keep=10)
    await store.put_meta("tenant-secret", SECRETS[4])


async def read(store: Any) -> tuple[Any, ...]:
    """Everything that was filled in, as it is read back."""
    pages = [page async for page in store.scan()]
    shelf = [batch async for batch in store.shelf("example")]
    return (
        [(entry.question, entry.tags, vector) for page in pages for entry, vector in page],
        await store.get(7),
        dict(item for batch in shelf for item in batch),
        [value for _, value in await store.journal("policies", 10)],
        await store.get_meta("tenant-secret"),
    )


def expected() -> tuple[Any, ...]:
    vector = make_record(7).vector
    return (
        [(SECRETS[0].decode(), (SECRETS[2].decode(),), vector)], SECRETS[1], {"a": SECRETS[3]}, [SECRETS[4]], SECRETS[4],
    )  # fmt: skip


def test_no_text_reaches_the_disk(tmp_path: Path) -> None:
    async def body(store: Any) -> None:
        await store.open()
        await fill(store)
        assert await read(store) == expected()
        await store.close()

    def written(store: Any) -> bytes:
        asyncio.run(body(store))
        return b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())

    sealed = written(SealedStore(SqliteStore(tmp_path / "sealed.db"), [OLD]))
    vector = make_record(7).vector
    assert vector is not None
    assert not [text for text in (*SECRETS, vector[:64]) if text in sealed]
    (tmp_path / "sealed.db").unlink()
    plain = written(SqliteStore(tmp_path / "plain.db"))
    assert all(text in plain for text in (*SECRETS, vector[:64]))


def test_keys_rotate_and_what_was_plain_stays_readable() -> None:
    async def body() -> None:
        inner = MemoryStore()
        await fill(inner)  # before there were keys
        for keys in ([OLD], [NEW, OLD], [OLD, NEW]):
            store = SealedStore(inner, keys)
            await store.open()
            assert await read(store) == expected()
        await fill(SealedStore(inner, [NEW]))
        assert (await read(SealedStore(inner, [OLD, NEW])))[1] == SECRETS[1]

    asyncio.run(body())


def test_another_key_opens_nothing_and_the_gateway_goes_on_without_the_store() -> None:
    async def body() -> None:
        inner = MemoryStore()
        store = SealedStore(inner, [OLD])
        await store.open()
        await fill(store)
        wrong = SealedStore(inner, [NEW])
        with pytest.raises(StoreError, match="another key"):
            await wrong.open()
        assert [page async for page in wrong.scan()] == [[]]
        assert await wrong.get(7) is None
        with pytest.raises(StoreError):
            await wrong.get_meta("tenant-secret")
        assert wrong.unreadable == 3

    asyncio.run(body())


def test_a_gateway_without_keys_does_not_serve_what_is_sealed(tmp_path: Path) -> None:
    def config(*keys: str) -> Any:
        tree = {"store": {"path": "gateway.db", "encryption_keys": list(keys)}, "models": [MODEL]}
        return configured(tree, {}, base=tmp_path).store

    async def body() -> None:
        sealed = build.store(config(OLD))
        await build.open_store(sealed, config(OLD))
        await fill(sealed)
        await sealed.close()
        plain = build.store(config())
        with pytest.raises(StoreError, match="encryption_keys"):
            await build.open_store(plain, config())
        with pytest.raises(StoreError):
            await plain.get(7)

    asyncio.run(body())


MODEL = {"name": "m", "backends": [{"url": "http://127.0.0.1:1/v1"}]}


@pytest.mark.parametrize("key", ["", "short", base64.b64encode(b"x" * 31).decode(), "ö" * 44])
def test_a_key_that_is_none_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigFault) as fault:
        configured({"models": [MODEL], "store": {"encryption_keys": [key]}}, {})
    assert "encryption_keys" in str(fault.value)
    assert not key or key not in str(fault.value)


@given(st.binary(max_size=200), st.integers(min_value=0), st.integers(0, 255))
def test_what_is_moved_or_changed_is_not_opened(value: bytes, at: int, by: int) -> None:
    seal = Seal([OLD])
    sealed = seal.seal(value, b"here")
    assert seal.open(sealed, b"here") == value
    with pytest.raises(Unreadable):
        seal.open(sealed, b"there")
    at = 4 + at % (len(sealed) - 4)  # without its mark it would be somebody's plain value
    changed = sealed[:at] + bytes([sealed[at] ^ by]) + sealed[at + 1 :]
    if by:
        with pytest.raises(Unreadable):
            seal.open(changed, b"here")


@given(st.text())
def test_texts_come_back(text: str) -> None:
    seal = Seal([base64.b64encode(secrets.token_bytes(32)).decode()])
    assert seal.open_text(seal.seal_text(text, b"p"), b"p") == text
