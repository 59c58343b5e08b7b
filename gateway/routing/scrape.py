"""What engines say of themselves: requests running and waiting, and the share of the KV cache in use.

Names of vLLM, SGLang, llama.cpp and TGI. A reading is data for routing, never a condition for it: an engine
that tells nothing is asked ever more rarely, one that tells nonsense is as silent as one that is down.
"""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from gateway.errors import GatewayError

log = logging.getLogger("gateway.routing")
_JITTER = random.Random()
LIMIT = 4 << 20  # bytes of one page
_RAREST = 60.0  # intervals between two looks at an engine that tells nothing

Field = Literal["running", "waiting", "cache"]
_NAMES: Mapping[str, Field] = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "cache",
    "vllm:gpu_cache_usage_perc": "cache",
    "sglang:num_running_reqs": "running",
    "sglang:num_queue_reqs": "waiting",
    "sglang:token_usage": "cache",
    "llamacpp:requests_processing": "running",
    "llamacpp:requests_deferred": "waiting",
    "llamacpp:kv_cache_usage_ratio": "cache",
    "tgi_batch_current_size": "running",
    "tgi_queue_size": "waiting",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """An engine's own figures; None where it does not tell."""

    running: float | None = None  # requests
    waiting: float | None = None  # requests
    cache: float | None = None  # share of the KV cache in use, 0 to 1


def parse(text: str) -> Figures | None:
    """The figures in a Prometheus page, or None if there are none.

    Several series of one name are data-parallel replicas behind one address: requests add up, and the cache is
    as full as the fullest.
    """
    found: dict[Field, float] = {}
    for line in text.splitlines():
        field = _NAMES.get(line[: _end_of_name(line)])
        if field is None:
            continue
        value = _value(line)
        if value is None or value < 0:
            continue
        known = found.get(field, 0.0)
        found[field] = max(known, min(value, 1.0)) if field == "cache" else known + value
    return Figures(**found) if found else None


def _end_of_name(line: str) -> int:
    brace, space = line.find("{"), line.find(" ")
    ends = [at for at in (brace, space) if at >= 0]
    return min(ends, default=len(line))


def _value(line: str) -> float | None:
    """`name{labels} value [timestamp]`; label values may hold spaces and braces."""
    rest = line[line.rfind("}") + 1 :] if "{" in line else line[_end_of_name(line) :]
    parts = rest.split()
    try:
        value = float(parts[0])
    except (IndexError, ValueError):
        return None
    return value if math.isfinite(value) else None


def metrics_url(base: str, setting: str) -> str:
    """Where a backend's metrics are: beside `/v1`, at a URL of its own, or nowhere (empty)."""
    if setting == "off":
        return ""
    return base.removesuffix("/v1") + "/metrics" if setting == "auto" else setting


class Scraper:
    """One reader for each distinct URL, as long as a backend has it.

    Args:
        urls: the URLs to read now; asked again each interval.
        fetch: the page, or None if there is none; raises GatewayError if it cannot be read.
        told: receives each reading.
        seconds: between two readings.
    """

    def __init__(
        self,
        urls: Callable[[], Iterable[str]],
        fetch: Callable[[str], Awaitable[str | None]],
        told: Callable[[str, Figures], None],
        *,
        seconds: float,
    ) -> None:
        self._urls = urls
        self._fetch = fetch
        self._told = told
        self._seconds = seconds
        self._readers: dict[str, asyncio.Task[None]] = {}
        self.failures = 0

    async def run(self) -> None:
        """Until cancelled: start readers for new URLs, stop those of URLs that are gone."""
        try:
            while True:
                self.follow()
                await asyncio.sleep(self._seconds)
        finally:
            for task in self._readers.values():
                task.cancel()

    def follow(self) -> None:
        """Make the readers those of the URLs there are now."""
        wanted = set(self._urls())
        for url in self._readers.keys() - wanted:
            self._readers.pop(url).cancel()
        for url in wanted - self._readers.keys():
            self._readers[url] = asyncio.get_running_loop().create_task(self._read(url))

    async def _read(self, url: str) -> None:
        silent = 0  # looks in a row that told nothing
        while True:
            silent = 0 if await self.once(url) else silent + 1
            wait = self._seconds * min(2.0 ** max(silent - 1, 0), _RAREST)
            await asyncio.sleep(wait * _JITTER.uniform(0.8, 1.2))

    async def once(self, url: str) -> bool:
        """One reading; tells whether there was anything to read."""
        try:
            page = await self._fetch(url)
        except GatewayError as error:
            self.failures += 1
            log.debug("engine metrics: %s", error)
            return True  # it may be back in a moment
        report = parse(page) if page else None
        if report is None:
            return False
        self._told(url, report)
        return True
