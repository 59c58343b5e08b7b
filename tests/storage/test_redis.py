"""What is particular to the Redis store: keys, lifetimes, the change stream, outages, secrets."""

import asyncio
import builtins
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import StoreAway, StoreError
from gateway.storage.redis import RedisStore
from tests.storage.conftest import Server, make_record


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server to be mistreated."""
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def namespace() -> str:
    return uuid.uuid4().hex


def run(store: RedisStore, body: Callable[[RedisStore], Any]) -> None:
    async def opened() -> None:
        await store.open()
        try:
            await body(store)
        finally:
            await store.close()

    asyncio.run(opened())


async def ids(store: RedisStore) -> list[int]:
    return [entry.id async for batch in store.scan() for entry, _ in batch]


async def shelf(store: RedisStore) -> dict[str, bytes]:
    return {key: value async for batch in store.shelf("pair") for key, value in batch}


def test_keys_share_one_slot_and_carry_lifetimes(redis_server: Server, namespace: str) -> None:
    async def body(store: RedisStore) -> None:
        await store.put([make_record(0xAB, expires=time.time() + 100)])
        await store.put_meta("secret", b"s")
        await store.shelve("pair", {"a": b"1", "b": b"2"})
        await store.announce("purge", b"{}")
        await store.append("audit", b"x", keep=5)
        keys = {key.decode() for key in await store._call("look", "KEYS", f"*{namespace}*")}
        names = ["e:00000000000000ab", "d:00000000000000ab", "ids", "changes", "meta", "shelf:pair"]
        names += ["purged", "purges", "journal:audit", f"w:{store._writer}"]
        assert keys == {f"gw:{{{namespace}}}:{name}" for name in names}
        for kind in "ed":
            left = await store._call("look", "PTTL", f"gw:{{{namespace}}}:{kind}:00000000000000ab")
            assert 95_000 < left <= 100_000

    run(RedisStore(redis_server.url, namespace=namespace), body)


def test_namespaces_are_apart(redis_server: Server, namespace: str) -> None:
    async def body(store: RedisStore) -> None:
        await store.put([make_record(1)])
        await store.shelve("pair", {"a": b"1"})
        other = RedisStore(redis_server.url, namespace=namespace + "x")
        await other.open()
        assert await other.get(1) is None
        assert await shelf(other) == {}
        assert await ids(other) == []
        await other.close()

    run(RedisStore(redis_server.url, namespace=namespace), body)


def test_the_change_stream_is_capped(redis_server: Server, namespace: str) -> None:
    async def body(store: RedisStore) -> None:
        for _ in range(1_500):
            await store.announce("told", b"")
        assert await store._call("look", "XLEN", f"gw:{{{namespace}}}:changes") < 1_000

    run(RedisStore(redis_server.url, namespace=namespace, max_changes=500), body)


def test_a_write_that_arrives_after_later_ones_changes_nothing(redis_server: Server, namespace: str) -> None:
    async def body(store: RedisStore) -> None:
        await store.put([make_record(1)])
        sent, numbers = store._run, []

        async def late(action: str, script: str, keys: Any, words: Any) -> Any:
            numbers.append(words[0])
            if action == "put":  # given up, as far as the sender knows
                stuck.append((action, script, keys, words))
                return b"OK"
            return await sent(action, script, keys, words)

        stuck: list[Any] = []
        store._run = late  # type: ignore[method-assign]
        await store.put([make_record(2)])
        await store.delete([1, 2])
        assert [await sent(*call) for call in stuck] == [b"LATE"]
        assert await ids(store) == []
        assert numbers == [2, 3]

    run(RedisStore(redis_server.url, namespace=namespace), body)


def test_an_append_that_was_sent_twice_is_one(redis_server: Server, namespace: str) -> None:
    async def body(store: RedisStore) -> None:
        assert await store.append("policies", b"same", after=0, keep=5) == 1
        assert await store.append("policies", b"same", after=0, keep=5) == 1
        assert await store.append("policies", b"other", after=0, keep=5) is None
        assert await store.journal("policies", 5) == [(1, b"same")]

    run(RedisStore(redis_server.url, namespace=namespace), body)


def test_changes_of_a_server_that_has_lost_its_data_are_a_gap(own_server: Server) -> None:
    async def body(store: RedisStore) -> None:
        await store.put([make_record(1)])
        at = await store.position()
        await store._call("lose", "FLUSHALL")
        assert await store.changes(at) is None
        await store.put([make_record(2)])
        assert await store.changes(at) is None

    run(RedisStore(own_server.url), body)


def test_a_value_the_server_evicted_or_somebody_spoiled_is_skipped(
    redis_server: Server, namespace: str
) -> None:
    async def body(store: RedisStore) -> None:
        await store.put([make_record(id) for id in range(4)])
        await store._call("spoil", "DEL", store._entry(1))
        await store._call("spoil", "SET", store._entry(2), b"\0\0\0\5nonsense")
        assert sorted(await ids(store)) == [0, 3]
        assert store.undecodable == 1
        assert await store._call("look", "ZCARD", store._key("ids")) == 3

    run(RedisStore(redis_server.url, namespace=namespace), body)


def test_gone_is_told_quickly_and_back_works_without_restart(own_server: Server) -> None:
    async def body(store: RedisStore) -> None:
        await store.put([make_record(id) for id in range(20)])
        await store.shelve("pair", {"a": b"1"})
        own_server.kill()
        calls = [lambda: store.get(1), lambda: store.put([make_record(9)]), lambda: store.delete([1])]
        calls += [lambda: store.shelve("pair", {"a": b"2"}), lambda: store.unshelve("pair", ["a"])]
        for call in [*calls, lambda: ids(store), lambda: store.get_meta("a"), lambda: shelf(store)]:
            started = time.perf_counter()
            with pytest.raises(StoreAway):
                await call()
            assert time.perf_counter() - started < 5
        own_server.start()
        assert await store.get(1) == make_record(1).document  # acknowledged, so on the server's disk
        assert len(await ids(store)) == 20
        assert await shelf(store) == {"a": b"1"}
        await store.put([make_record(50)])
        assert await store.get(50) is not None

    run(RedisStore(own_server.url), body)


def test_a_server_that_hangs_is_given_up_in_time(own_server: Server) -> None:
    async def body(store: RedisStore) -> None:
        await store.put([make_record(1)])
        assert own_server.process is not None
        os.kill(own_server.process.pid, signal.SIGSTOP)
        started = time.perf_counter()
        outcomes = await asyncio.gather(*(store.get(1) for _ in range(50)), return_exceptions=True)
        assert time.perf_counter() - started < 4  # the deadline is 1.8 s; the machine may be busy
        assert {type(outcome) for outcome in outcomes} == {StoreAway}
        os.kill(own_server.process.pid, signal.SIGCONT)
        assert await store.get(1) is not None

    run(RedisStore(own_server.url), body)


def test_a_server_that_is_away_at_open_is_used_when_it_comes(own_server: Server) -> None:
    own_server.kill()

    async def body() -> None:
        store = RedisStore(own_server.url)
        with pytest.raises(StoreError, match="open"):
            await store.open()
        own_server.start()
        await store.put([make_record(1)])
        assert await ids(store) == [1]
        await store.close()
        with pytest.raises(StoreError, match="not open"):
            await store.get(1)

    asyncio.run(body())


def test_a_server_out_of_memory_refuses_the_whole_batch_and_recovers(own_server: Server) -> None:
    async def body(store: RedisStore) -> None:
        await store._call("limit", "CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreError, match=r"OOM|maxmemory") as caught:
            await store.put([make_record(1)])
        assert not isinstance(caught.value, StoreAway), "trying again would not help"
        await store._call("limit", "CONFIG", "SET", "maxmemory", "0")
        assert await store.get(1) is None
        await store.put([make_record(1)])
        assert await ids(store) == [1]

    run(RedisStore(own_server.url), body)


@pytest.mark.parametrize(
    "url",
    ["redis://:hunter2@127.0.0.1:hunter2/0", "nonsense://:hunter2@host", "redis://:hunter2@127.0.0.1:1/0"],
)
def test_no_message_shows_the_password(url: str) -> None:
    async def body() -> None:
        store = RedisStore(url)
        with pytest.raises(StoreError) as caught:
            await store.open()
        assert "hunter2" not in f"{caught.value!r} {store!r} {caught.value.__cause__!r}"
        await store.close()

    asyncio.run(body())


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("redis"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)

    async def body() -> None:
        with pytest.raises(StoreError, match=r"pip install 'semantic-gateway\[redis\]'"):
            await RedisStore("redis://127.0.0.1:1").open()

    asyncio.run(body())


def test_it_speaks_tls_for_rediss() -> None:
    async def body() -> None:
        store = RedisStore("rediss://127.0.0.1:1")
        with pytest.raises(StoreError):
            await store.open()
        assert store._open().connection_pool.connection_class.__name__ == "SSLConnection"
        await store.close()

    asyncio.run(body())
