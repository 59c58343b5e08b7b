"""One thread and the queue in front of it, for a resource that only one thread may touch.

Decides what runs next: first come, first served. Must never make the event loop wait, queue without a bound,
or keep the process from exiting: the thread is a daemon, and a disk that hangs hangs only it.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from gateway.errors import StoreError

T = TypeVar("T")
_Job = tuple[Callable[[], Any], "Future[Any]"]


class Lane:
    """Runs functions one after another on its own thread."""

    def __init__(self, name: str, depth: int) -> None:
        self._name, self._depth = name, depth
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._stopped = False
        threading.Thread(target=self._loop, name=name, daemon=True).start()

    def __repr__(self) -> str:
        return f"<Lane {self._name}: {self._jobs.qsize()} waiting{', stopped' if self._stopped else ''}>"

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises; StoreError when the lane is stopped or `depth` jobs wait already.

        A caller that is cancelled takes its job back if it has not begun; once begun, it runs to its end.
        """
        if self._stopped:
            raise StoreError(f"{self._name}: closed")
        if self._jobs.qsize() >= self._depth:
            raise StoreError(f"{self._name}: {self._depth} calls are waiting already")
        future: Future[T] = Future()
        self._jobs.put((work, future))
        return await asyncio.wrap_future(future)

    async def finish(self, work: Callable[[], None]) -> None:
        """Take no more jobs, run `work` after those that wait, then let the thread end."""
        self._stopped = True
        future: Future[None] = Future()
        self._jobs.put((work, future))
        self._jobs.put(None)
        await asyncio.wrap_future(future)

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            del job, work, future  # or the last batch stays in memory until the next one comes
