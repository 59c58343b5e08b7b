"""The policy book in force: swapped by one reference, never changed under a request in progress.

A bad book, or a folder that cannot be read, leaves the old one in force. Edits by API live in the store and
never change the policy folder.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import orjson

from gateway.errors import EmbedderBusy, EmbedderFailed, PreconditionFailed, StoreError
from gateway.interfaces import Classifier, DocumentStore, Vector
from gateway.policy.book import Book, from_json, to_json
from gateway.policy.folder import load_folder
from gateway.policy.policy import Policy

log = logging.getLogger("gateway.policy")
_KEY = "policies"


class Examples(Protocol):
    """The part of the worker that learns categories."""

    async def encode(self, texts: list[str]) -> Vector: ...

    def set_classifier(self, classifier: Classifier | None) -> None: ...


class LivePolicy:
    """Holds the compiled book, and the classifier that goes with it.

    Args:
        folder: the operator's policy files; the seed of the book.
        checks: names of the guard's checks that exist.
        compile: book → policy, with its guard.
        fit: (category of each example, vectors) → classifier.
        changed: told of every new book, after it is in force.
    """

    def __init__(
        self,
        folder: Path,
        store: DocumentStore,
        worker: Examples,
        checks: frozenset[str],
        compile: Callable[[Book], Policy],
        fit: Callable[[list[str], Vector], Classifier],
        changed: Callable[[Policy], None],
    ) -> None:
        self._folder = folder
        self._store = store
        self._worker = worker
        self._checks = checks
        self._compile = compile
        self._fit = fit
        self._changed = changed
        self._turn = asyncio.Lock()  # one change at a time
        self._settled = False  # restored from the store, or changed since
        self._learned: str | None = None  # version whose examples the classifier knows
        self.current = compile(load_folder(folder, checks))

    @property
    def book(self) -> Book:
        return self.current.book

    def parse(self, obj: Any) -> Book:
        """A book given as JSON in the YAML's shape.

        Raises:
            PolicyFaults: with every fault in it.
        """
        return from_json(obj, self._checks)

    async def restore(self) -> None:
        """Adopt the book last edited by API, if the store has one and it is still valid.

        To be called again when a store that was not there is: later edits are not undone.
        """
        if self._settled:
            return
        try:
            raw = await self._store.get_meta(_KEY)
            self._settled = True
            if raw:
                self._swap(self._compile(self.parse(orjson.loads(raw))))
        except (StoreError, ValueError) as error:
            log.warning("policies edited by API are unavailable, the folder's are in force: %s", error)
        except Exception as error:
            log.error("policies edited by API are not valid any more, the folder's are in force: %s", error)

    def edited(self, edit: Callable[[Book], Book], version: str | None) -> Book:
        """What an edit would make of the book in force.

        Raises:
            PreconditionFailed: the book in force is not of the given version.
        """
        book = edit(self.book)
        if version is not None and version != self.book.version:
            raise PreconditionFailed("The policy book has changed since you read it.")
        return book

    async def change(self, edit: Callable[[Book], Book], version: str | None = None) -> Book:
        """Put the edited book in force, and keep it. Changes made at once wait for each other; raises as `edited`."""
        async with self._turn:
            book = self.edited(edit, version)
            await self._enforce(self._compile(book))
            await self._save(orjson.dumps(to_json(book)))
        return book

    async def reload(self) -> Book:
        """Read the folder again; it becomes the book, edits by API included in what it replaces.

        Raises:
            PolicyFaults: the folder's files are not valid; the old book stays in force.
        """
        async with self._turn:
            book = await asyncio.to_thread(load_folder, self._folder, self._checks)
            await self._enforce(self._compile(book))
            await self._save(b"")
        return book

    async def recompile(self) -> None:
        """The same book anew, when what it is compiled with has changed."""
        async with self._turn:
            self._swap(self._compile(self.book))

    async def learn(self) -> None:
        """Fit the classifier to the book in force, once the embedder runs."""
        async with self._turn:
            await self._fit_to(self.current)

    async def _enforce(self, policy: Policy) -> None:
        await self._fit_to(policy)
        self._settled = True
        self._swap(policy)

    def _swap(self, policy: Policy) -> None:
        self.current = policy
        self._changed(policy)

    async def _fit_to(self, policy: Policy) -> None:
        """Categories are told apart by their examples; without a classifier everything is `default`."""
        names, texts = policy.utterances()
        version = str(hash((tuple(names), tuple(texts))))
        if version == self._learned:
            return
        try:
            vectors = await self._worker.encode(texts) if texts else None
            fitted = None if vectors is None else await asyncio.to_thread(self._fit, names, vectors)
            self._worker.set_classifier(fitted)
        except (EmbedderBusy, EmbedderFailed) as error:
            log.warning("categories cannot be learned while the embedder does not run: %s", error)
            return
        self._learned = version

    async def _save(self, raw: bytes) -> None:
        try:
            await self._store.put_meta(_KEY, raw)
        except StoreError as error:
            log.error("the policy change is in force, but could not be kept: %s", error)
