"""What an entry costs in memory beside its document: 100,000 entries in one partition.

python -m bench.memory [--entries 100000]
"""

import argparse
import asyncio
import gc
import os
import random
import sys
import time

import numpy as np

ENTRIES = 100_000
_MARK = 2500  # bytes


def memory(entries: int = ENTRIES) -> tuple[str, str, str, bool]:
    """Measured in a fresh process, by its resident memory before and after."""
    import subprocess

    out = subprocess.check_output(
        [sys.executable, "-m", "bench.memory", "--entries", str(entries), "--child"], text=True
    )
    each, peak, seconds = out.split()
    value = f"{float(each):,.0f} bytes ({float(peak):,.0f} at the peak, built in {float(seconds):.0f} s)"
    return (
        f"index and metadata of {entries:,} entries, each",
        value,
        f"≤ {_MARK:,} bytes",
        float(each) <= _MARK,
    )


async def measure(entries: int) -> tuple[float, float, float]:
    """Catalogue and vectors, as the running gateway keeps them.

    (bytes an entry once all is built, and at the peak while building; seconds to build)
    """
    from gateway.cache.catalog import Catalog, random_id
    from gateway.cache.quota import Ledger
    from gateway.embedding.worker import Worker
    from gateway.exchange import Entry, request_digest
    from gateway.index.partitions import Partitions

    def no_embedder() -> object:
        raise RuntimeError("this measurement embeds nothing")

    partitions = Partitions()
    worker = Worker(no_embedder, partitions)  # type: ignore[arg-type]
    worker.start()
    await worker.ready.wait()
    catalog = Catalog(Ledger(1 << 40, {}, lambda _: 1.0), time.time)
    rng, partition = np.random.default_rng(1), os.urandom(32)
    gc.collect()
    before, started = _resident(), time.perf_counter()
    for start in range(0, entries, 1000):
        vectors = rng.standard_normal((1000, 384), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        items = []
        for row in range(1000):
            number = start + row
            entry = Entry(
                id=random_id(),
                exact=os.urandom(32),
                partition=partition,
                tenant="t:acme",
                category=random.choice(("code", "default", "factual")),
                model="large",
                endpoint="chat",
                question=f"How would you describe subject number {number} in this place?",
                created=time.time(),
                expires=time.time() + number,
                size=4000 + row,
                cost=0.0001 * row,
                temperature=None,
                request=request_digest(f"req_{os.urandom(16).hex()}"),
                prompt_tokens=100 + row,
                completion_tokens=300 + row,
            )
            catalog.add(entry)
            items.append((entry.id, entry.partition, vectors[row]))
        await worker.load_many(items)
    del vectors, items
    while partitions.due or worker._rebuild is not None:  # the graph is built beside the list it replaces
        await asyncio.sleep(0.1)
    seconds = time.perf_counter() - started
    gc.collect()
    each, peak = (_resident() - before) / entries, (_most_resident() - before) / entries
    await worker.close()
    return each, peak, seconds


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _most_resident() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=ENTRIES)
    parser.add_argument("--child", action="store_true", help="print bare figures")
    options = parser.parse_args()
    if options.child:
        print(*asyncio.run(measure(options.entries)))
    else:
        print(*memory(options.entries)[:3])
