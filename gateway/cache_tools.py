"""`semantic-gateway cache export | import | warm | stats | purge`: the cache from the command line.

There is one way to the cache: the admin API of a gateway. Where one runs, it is asked, so that its memory learns
at once; where nobody listens, this process is that gateway for as long as the command takes, on the same store
and under the same policies, with no engine behind it. Must never open the store beside a gateway that answers.
"""

import asyncio
import gzip
import io
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import aiohttp
import orjson

from gateway import build
from gateway.app import SECRET, App
from gateway.config import Config, ConfigFault
from gateway.errors import GatewayError, StoreError
from gateway.tenant import Tenants
from gateway.transfer.lines import BadLine, Head, head
from gateway.transfer.room import MAX_LINES

_BATCH = 256 << 10  # bytes of lines in one call: decoding them must not keep requests waiting
_CALLS = 4  # at once: while one's lines are committed, the next one's are read
_READY_SECONDS = 120.0
_TOLD = 10  # bad lines told by number; the rest is counted
_UNDONE = ("bad", "not-stored", "embedder-busy", "embedder-failed")  # worth another run
_EVERY = 5.0  # seconds between plain lines of progress


@dataclass(frozen=True, slots=True)
class Place:
    """Where the cache is: the URL of a running gateway's admin port, or the configuration it has."""

    admin: str | None
    config: Config | None
    token: str = ""


class Refused(GatewayError):
    """The gateway did not do it; the message says why."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Gone(GatewayError):
    """The gateway went away meanwhile. What it had confirmed is done: the command can be run again."""


class Port:
    """The admin port of a gateway."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else orjson.dumps(body)
        return orjson.loads(await self.send(method, path, data))

    async def send(self, method: str, path: str, data: bytes | None = None) -> bytes:
        """A call whose body is JSON already. Raises Refused, Gone."""
        headers = {**self._headers, "Content-Type": "application/json"}
        body = None if data is None else io.BytesIO(data)  # sent in pieces
        with _staying():
            async with self._session.request(
                method, self._url + path, data=body, headers=headers
            ) as response:
                whole = await response.read()
        if response.status >= 300:
            raise Refused(_why(whole, response.status), response.status)
        return whole

    async def stream(self, path: str, **query: str) -> AsyncIterator[bytes]:
        """The answer's bytes as they come. Raises Refused, Gone."""
        with _staying():
            async with self._session.get(self._url + path, params=query, headers=self._headers) as response:
                if response.status >= 300:
                    raise Refused(_why(await response.read(), response.status))
                async for piece in response.content.iter_any():
                    yield piece

    async def ready(self) -> None:
        """Wait until everything stored can be found. Raises Refused."""
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            async with self._session.get(f"{self._url}/readyz", headers=self._headers) as response:
                if response.status == 200:
                    return
                if response.status != 503 or time.monotonic() > deadline:
                    raise Refused(_why(await response.read(), response.status))
            await asyncio.sleep(0.1)


@contextmanager
def _staying() -> Iterator[None]:
    """A connection that breaks off leaves as Gone."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Gone(f"the gateway went away: {error or 'no answer'}; the command can be run again") from error


def _why(body: bytes, status: int) -> str:
    try:
        return str(orjson.loads(body)["error"]["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return f"the admin port answered {status}"


@asynccontextmanager
async def port(place: Place) -> AsyncIterator[Port]:
    """The admin port of the gateway that runs, or of one that runs for as long as this block.

    Raises:
        ConfigFault: nobody answers, and there is no store to open.
    """
    url = place.admin or (None if place.config is None else _url(place.config))
    token = place.token or ("" if place.config is None else place.config.admin.token)
    timeout = aiohttp.ClientTimeout(total=None, connect=5.0, sock_read=300.0)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        if url is not None:
            found = Port(session, url, token)
            try:
                await found.ready()
            except aiohttp.ClientConnectorError as error:
                if place.admin is not None:
                    raise Refused(f"nobody answers at {place.admin}") from error
            else:
                print(f"talking to the gateway at {url}", file=sys.stderr)
                yield found
                return
        config = place.config
        if config is None or config.store.kind == "memory":
            raise ConfigFault(
                "command line", [("--config", "no gateway runs, and there is no store to open")]
            )
        async with _own(config) as (own_url, own_token):
            found = Port(session, own_url, own_token)
            await found.ready()
            print(f"no gateway runs at {url}: working on the store", file=sys.stderr)
            yield found


def _url(config: Config) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.admin.host, config.admin.host)
    return f"http://{host}:{config.admin.port}"


@asynccontextmanager
async def _own(config: Config) -> AsyncIterator[tuple[str, str]]:
    """A gateway of this process: loopback, a token nobody else knows, and no engine that it could ask."""
    token = secrets.token_urlsafe(24)
    nowhere = {"url": "http://127.0.0.1:9/v1", "api_key": "", "metrics": "off"}
    models = [
        model.model_copy(update={"backends": (model.backends[0].model_copy(update=nowhere),), "mirror": None})
        for model in config.models
    ]
    private = config.model_copy(
        update={
            "listen": config.listen.model_copy(update={"host": "127.0.0.1", "port": 0}),
            "admin": config.admin.model_copy(update={"host": "127.0.0.1", "port": 0, "token": token}),
            "models": tuple(models),
            "trust": config.trust.model_copy(update={"share": 0.0, "labels": None}),
            "offload": config.offload.model_copy(
                update={"replay": config.offload.replay.model_copy(update={"enabled": False})}
            ),
            "log": config.log.model_copy(update={"level": "error"}),
        }
    )
    app = App(private)
    await app.start()
    try:
        yield f"http://127.0.0.1:{app.ports['admin']}", token
    finally:
        await app.stop()


# ── export ──────────────────────────────────────────────────────────────────────────────────────────────


async def export(place: Place, out: Path, wanted: dict[str, str], *, with_secret: bool = False) -> int:
    """Write the cache into a file, which appears only once it is whole."""
    part = out.with_name(out.name + ".part")
    async with port(place) as admin:
        total = (await admin.call("GET", "/cache"))["entries"]
        secret = await _secret(place) if with_secret else None
        with _writer(part, out.suffix == ".gz") as file, progress("export", total, "entries") as step:
            rest, first = b"", True
            async for piece in admin.stream("/cache/export", **wanted):
                *lines, rest = (rest + piece).split(b"\n")
                if first and lines:
                    first = False
                    file.write(_headed(lines.pop(0), secret))
                file.writelines(line + b"\n" for line in lines)
                step(len(lines))
    part.replace(out)
    return 0


def _headed(line: bytes, secret: bytes | None) -> bytes:
    told = orjson.loads(line)
    return orjson.dumps(told if secret is None else {**told, "secret": secret.hex()}) + b"\n"


@contextmanager
def _writer(path: Path, packed: bool) -> Iterator[IO[bytes]]:
    """A new file for this user's eyes only, as it holds people's words; none where the block fails."""
    try:
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        with path.open("wb") as file:
            if packed:
                with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=5, filename="", mtime=0) as packing:
                    yield packing  # type: ignore[misc]  # it is written to like any file
            else:
                yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise Refused(f"{path}: {error.strerror or error}") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise


async def _secret(place: Place) -> bytes:
    """The secret that open-mode tenants are named by. It is in the store, and never in an answer of a port."""
    if place.config is None:
        raise ConfigFault("command line", [("--with-secret", "needs --config: the secret is in the store")])
    async with _store(place.config) as store:
        found: bytes | None = await store.get_meta(SECRET)
    if found is None:
        raise Refused("the store has no secret yet")
    return found


@asynccontextmanager
async def _store(config: Config) -> AsyncIterator[Any]:
    store = build.store(config.store)
    try:
        await build.open_store(store, config.store)
        yield store
    except StoreError as error:
        raise Refused(str(error)) from error
    finally:
        await store.close()


# ── import and warm ─────────────────────────────────────────────────────────────────────────────────────


async def restore(place: Place, file: Path) -> int:
    """Store what was exported; entries that are there already stay as they are."""
    with _reader(file) as lines:
        first = next(lines, b"")
        try:
            told = orjson.loads(first)
            found = head(told)
        except (orjson.JSONDecodeError, BadLine) as fault:
            raise Refused(f"{file}: {fault}") from fault
        if "secret" in told:
            await _adopt(place, told["secret"], found)
        async with port(place) as admin:
            before = b'{"head":%s,"lines":[' % found.line()
            return await _feed(admin, "/cache/import", before, file, lines, start=2)


async def _adopt(place: Place, told: Any, found: Head) -> None:
    """Give an empty store the secret of the gateway that the export came from, if no gateway has it open."""
    if place.config is None or place.config.store.kind == "memory":
        return
    try:
        secret = bytes.fromhex(told)
        known = Tenants([], secret).mark == found.tenants
    except (TypeError, ValueError):
        known = False
    if not known:
        raise Refused("the secret in the export is not the one its tenants are named by")
    if place.admin is not None or await _answers(place.config):
        print("a gateway runs: it keeps its own secret for the tenants of open mode", file=sys.stderr)
        return
    async with _store(place.config) as store:
        async for batch in store.scan():
            if batch:
                return
        await store.put_meta(SECRET, secret)


async def _answers(config: Config) -> bool:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"{_url(config)}/livez"):
                return True
        except aiohttp.ClientConnectorError:
            return False


async def warm(place: Place, file: Path, terms: dict[str, Any]) -> int:
    """Store answers that are known beforehand."""
    async with port(place) as admin:
        before = orjson.dumps(terms)[:-1] + (b',"lines":[' if terms else b'"lines":[')
        with _reader(file) as lines:
            return await _feed(admin, "/cache/warm", before, file, lines)


@contextmanager
def _reader(path: Path) -> Iterator[Iterator[bytes]]:
    """The lines of a file, packed or not; `-`: of standard input."""
    try:
        if str(path) == "-":
            yield iter(sys.stdin.buffer)
            return
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            yield iter(gzip.GzipFile(fileobj=raw) if packed else raw)
    except (OSError, EOFError) as error:
        raise Refused(f"{path}: {error}") from error


async def _feed(
    admin: Port,
    path: str,
    before: bytes,
    file: Path,
    lines: Iterator[bytes],
    *,
    start: int = 1,
) -> int:
    """Send lines in batches. 1 where some should be there and are not; those that cannot be used are named."""
    fed = _Fed(admin, path, before)
    began = time.perf_counter()
    with progress(path.rsplit("/", 1)[1], _lines_of(file, start), "lines") as step:
        under_way: set[asyncio.Task[None]] = set()
        try:
            for numbers, batch, broken in _batches(lines, start):
                fed.spoiled(broken)
                under_way.add(asyncio.create_task(fed.send(batch, numbers, step)))
                if len(under_way) >= _CALLS:
                    under_way = await _some(under_way, asyncio.FIRST_COMPLETED)
            while under_way:
                under_way = await _some(under_way, asyncio.ALL_COMPLETED)
        finally:
            for call in under_way:
                call.cancel()
    fed.tell(file)
    told = ", ".join(f"{count} {outcome}" for outcome, count in fed.outcomes.most_common() if count)
    print(f"{told or 'nothing to do'} ({time.perf_counter() - began:.1f} s)")
    return 1 if any(fed.outcomes[name] for name in _UNDONE) else 0


async def _some(calls: set[asyncio.Task[None]], when: str) -> set[asyncio.Task[None]]:
    """Those that are not done, once some are; raises what one of them raised."""
    done, left = await asyncio.wait(calls, return_when=when)
    for call in done:
        call.result()
    return left


class _Fed:
    """What was sent, and what became of it."""

    def __init__(self, admin: Port, path: str, before: bytes) -> None:
        self._admin, self._path, self._before = admin, path, before
        self.outcomes: Counter[str] = Counter()
        self.bad: list[tuple[int, str]] = []

    def spoiled(self, lines: list[tuple[int, str]]) -> None:
        self.bad += lines
        self.outcomes["bad"] += len(lines)

    async def send(self, batch: list[bytes], numbers: list[int], step: Callable[[int], object]) -> None:
        """One call; a batch that is too large goes line by line, so that one line costs only itself.

        Raises:
            Refused: for another reason, which the next batch would meet too.
        """
        if not batch:
            return
        try:
            body = self._before + b",".join(batch) + b"]}"
            told = orjson.loads(await self._admin.send("POST", self._path, body))
        except Refused as refused:
            if refused.status != 413:
                raise
            if len(batch) > 1:
                for line, number in zip(batch, numbers, strict=True):
                    await self.send([line], [number], step)
                return
            self.spoiled([(numbers[0], refused.message)])
        else:
            self.outcomes.update(told["outcomes"])
            self.bad += [(numbers[fault["at"]], fault["reason"]) for fault in told["faults"]]
        step(len(batch))

    def tell(self, file: Path) -> None:
        for number, reason in sorted(self.bad)[:_TOLD]:
            print(f"{file}:{number}: {reason}", file=sys.stderr)
        if len(self.bad) > _TOLD:
            print(f"{file}: {len(self.bad) - _TOLD} more lines could not be used", file=sys.stderr)


def _batches(
    lines: Iterator[bytes], start: int
) -> Iterator[tuple[list[int], list[bytes], list[tuple[int, str]]]]:
    """(numbers, lines, what is no JSON at all), as much as one call takes."""
    numbers: list[int] = []
    batch: list[bytes] = []
    broken: list[tuple[int, str]] = []
    size = 0
    for number, raw in enumerate(lines, start):
        line = raw.strip()
        if not line:
            continue
        if len(batch) == MAX_LINES or (batch and size + len(line) > _BATCH):
            yield numbers, batch, broken
            numbers, batch, broken, size = [], [], [], 0
        try:
            orjson.loads(line)
        except orjson.JSONDecodeError as error:
            broken.append((number, f"not JSON: {error.msg}"))
            continue
        numbers.append(number)
        batch.append(line)
        size += len(line)
    yield numbers, batch, broken


def _lines_of(file: Path, start: int) -> int | None:
    """How many lines there are; None where only reading them would tell."""
    if str(file) == "-":
        return None
    with _reader(file) as lines:
        return sum(1 for line in lines if line.strip()) - (start - 1)


# ── stats and purge ─────────────────────────────────────────────────────────────────────────────────────


async def stats(place: Place, *, as_json: bool = False) -> int:
    """What is held, category by category."""
    async with port(place) as admin:
        told = await admin.call("GET", "/cache")
    if as_json:
        print(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
        return 0
    print(f"{told['entries']} entries, {_size(told['bytes'])} of {_size(told['capacity'])}")
    print(f"{'category':<20} {'entries':>9} {'size':>10}")
    for each in told["categories"]:
        print(f"{each['name']:<20} {each['entries']:>9} {_size(each['bytes']):>10}")
    return 0


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


async def purge(place: Place, wanted: dict[str, Any]) -> int:
    """Remove what matches all criteria, from every place it is in."""
    async with port(place) as admin:
        told = await admin.call("POST", "/cache/purge", wanted)
    word = "would be purged" if told["dry_run"] else "purged"
    print(f"{told['purged']} entries and {told['examples']} examples {word}")
    return 0


async def erase(place: Place, wanted: dict[str, Any]) -> int:
    """Forget every text of a tenant or an end user."""
    async with port(place) as admin:
        told = await admin.call("POST", "/erase", wanted)
    print("erased: " + ", ".join(f"{count} {kind}" for kind, count in told["erased"].items()))
    return 0


# ── progress ────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def progress(name: str, total: int | None, unit: str) -> Iterator[Callable[[int], object]]:
    """Tells how far it is: a bar on a terminal, a plain line now and then elsewhere."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=name, unit=f" {unit}", dynamic_ncols=True) as bar:
            yield bar.update
        return
    done, began, told = 0, time.monotonic(), time.monotonic()
    of = "" if total is None else f" of {total}"

    def step(count: int) -> None:
        nonlocal done, told
        done += count
        if time.monotonic() - told >= _EVERY:
            told = time.monotonic()
            print(f"{name}: {done}{of} {unit}, {done / (told - began):.0f} a second", file=sys.stderr)

    yield step
    seconds = max(time.monotonic() - began, 1e-9)
    print(f"{name}: {done} {unit} in {seconds:.1f} s, {done / seconds:.0f} a second", file=sys.stderr)
