"""What is particular to the memory store; the rest is the contract's."""

import asyncio

from gateway.storage.memory import MemoryStore
from tests.storage.conftest import make_record


def test_it_hands_out_copies() -> None:
    async def body() -> None:
        store = MemoryStore()
        await store.put([make_record(1)])
        first, second = [[entry async for batch in store.scan() for entry, _ in batch] for _ in range(2)]
        assert first == second
        assert first[0] is not second[0]

    asyncio.run(body())


def test_a_shelf_being_read_may_change() -> None:
    async def body() -> None:
        store = MemoryStore()
        await store.shelve("pair", {"a": b"1"})
        async for batch in store.shelf("pair"):
            batch.clear()
            await store.shelve("pair", {"b": b"2"})
        assert [batch async for batch in store.shelf("pair")] == [[("a", b"1"), ("b", b"2")]]

    asyncio.run(body())


def test_repr_says_how_many() -> None:
    async def body() -> None:
        store = MemoryStore()
        await store.put([make_record(1)])
        assert repr(store) == "<MemoryStore: 1 entries>"

    asyncio.run(body())
