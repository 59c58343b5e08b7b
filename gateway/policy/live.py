"""The policy book in force: swapped by one reference, never changed under a request in progress.

A bad book, or a folder that cannot be read, leaves the old one in force. Edits by API live in the store's journal
of versions, where all who share the store follow them, and never change the policy folder. Nothing takes effect that
could not be written there: replicas would part.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import orjson

from gateway.errors import (
    Conflict,
    EmbedderBusy,
    EmbedderFailed,
    NotFound,
    Overloaded,
    PreconditionFailed,
    StoreError,
)
from gateway.interfaces import Classifier, DocumentStore, Vector
from gateway.policy.book import Book, from_json, to_json
from gateway.policy.folder import load_folder
from gateway.policy.policy import Policy

log = logging.getLogger("gateway.policy")
_JOURNAL = "policies"
_TRIES = 5  # at an edit, where others edit at the same time


@dataclass(frozen=True, slots=True)
class Version:
    """A book that was in force, as the journal has it."""

    number: int
    version: str  # of the book
    at: float  # unix seconds
    who: str
    what: str
    source: str  # files, api
    book: Any  # the YAML's own shape

    @classmethod
    def read(cls, number: int, raw: bytes) -> "Version":
        return cls(number=number, **orjson.loads(raw))

    def told(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if name != "book"}


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
        authority: `store`: the folder seeds it; `files`: the folder is the book, the store only keeps its versions.
        keep: versions kept.
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
        *,
        authority: Literal["store", "files"] = "store",
        keep: int = 100,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._authority, self._keep, self._clock = authority, keep, clock
        self._folder = folder
        self._store = store
        self._worker = worker
        self._checks = checks
        self._compile = compile
        self._fit = fit
        self._changed = changed
        self._turn = asyncio.Lock()  # one change at a time
        self.number = 0  # of the version in force, or of the newest that could not be used
        self._source = ""  # of that version
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
        """Adopt the store's newest version, unless it came from files and ours are others: then ours are the newest.

        To be called again when a store that was not there is.
        """
        try:
            async with self._turn:
                newest = await self._newest()
                seeded = newest is None or newest.source == "files" or self._authority == "files"
                if seeded and (newest is None or newest.version != self.book.version):
                    self.number = 0 if newest is None else newest.number
                    if await self._append(self.book, "gateway", "policy files", "files"):
                        return
                    newest = await self._newest()  # another replica was faster
                await self._adopt(newest, learn=False)
        except StoreError as error:
            log.warning("the store's policies are unavailable, the folder's are in force: %s", error)

    async def follow(self) -> None:
        """Adopt what another replica has decided since. Raises StoreError."""
        async with self._turn:
            await self._adopt(await self._newest())

    def edited(self, edit: Callable[[Book], Book], version: str | None) -> Book:
        """What an edit would make of the book in force.

        Raises:
            PreconditionFailed: the book in force is not of the given version.
        """
        book = edit(self.book)
        if version is not None and version != self.book.version:
            raise PreconditionFailed("The policy book has changed since you read it.")
        return book

    async def change(
        self, edit: Callable[[Book], Book], version: str | None = None, *, who: str = "", what: str = "edit"
    ) -> Book:
        """Write the edited book into the store, and put it in force; the others follow.

        Changes made at once, here or elsewhere, come one after another. Raises as `edited`, and:
            Conflict: the files are the authority.
            Overloaded: the store cannot take it; nothing has changed.
        """
        if self._authority == "files":
            raise Conflict("Policies are kept in files here (book.authority); edit those and reload.")
        async with self._turn:
            return await self._change(edit, version, who, what, "api")

    async def reload(self, who: str = "gateway") -> Book:
        """Read the folder again; it becomes the book, edits by API included in what it replaces.

        Raises:
            PolicyFaults: the folder's files are not valid; the old book stays in force.
            Overloaded: as `change`, unless the files are the authority.
        """
        async with self._turn:
            book = await asyncio.to_thread(load_folder, self._folder, self._checks)
            if self._authority == "store":
                return await self._change(lambda _: book, None, who, "policy files read again", "files")
            await self._enforce(self._compile(book))
        await self.restore()
        return book

    async def rollback(self, version: int | str, who: str = "") -> Book:
        """Put an earlier version in force again, by its number or its book's version, as the newest one.

        Raises as `change`, and NotFound.
        """
        found = [old for old in await self.versions() if version in (old.number, old.version)]
        if not found:
            raise NotFound("There is no such version any more.", code="version_not_found")
        book = self.parse(found[0].book)
        return await self.change(lambda _: book, who=who, what=f"rollback to {found[0].number}")

    async def versions(self) -> list[Version]:
        """The newest first. Raises Overloaded where the store cannot tell."""
        try:
            return [Version.read(*found) for found in await self._store.journal(_JOURNAL, self._keep)]
        except StoreError as error:
            raise _unavailable(error) from error

    async def recompile(self) -> None:
        """The same book anew, when what it is compiled with has changed."""
        async with self._turn:
            self._swap(self._compile(self.book))

    async def learn(self) -> None:
        """Fit the classifier to the book in force, once the embedder runs."""
        async with self._turn:
            await self._fit_to(self.current)

    async def _change(
        self, edit: Callable[[Book], Book], version: str | None, who: str, what: str, source: str
    ) -> Book:
        try:
            for _ in range(_TRIES):
                book = self.edited(edit, version)
                if book.version == self.book.version and source in ("api", self._source):
                    return book
                policy = self._compile(book)
                if await self._append(book, who, what, source):
                    await self._enforce(policy)
                    return book
                await self._adopt(await self._newest())
        except StoreError as error:
            raise _unavailable(error) from error
        raise PreconditionFailed("The policy book is being changed by others all the time.")

    async def _append(self, book: Book, who: str, what: str, source: str) -> bool:
        """Whether it is the newest version now; False: there is one that we do not know. Raises StoreError."""
        fields = {"version": book.version, "at": self._clock(), "who": who, "what": what, "source": source}
        raw = orjson.dumps({**fields, "book": to_json(book)})
        number = await self._store.append(_JOURNAL, raw, after=self.number, keep=self._keep)
        if number is not None:
            self.number, self._source = number, source
        return number is not None

    async def _newest(self) -> Version | None:
        """And from now on it is known."""
        for number, raw in await self._store.journal(_JOURNAL, 1):
            return Version.read(number, raw)
        return None

    async def _adopt(self, newest: Version | None, *, learn: bool = True) -> None:
        """Put another's version in force, if it is one that can be. `learn`: its categories, too."""
        if newest is None or newest.number == self.number:
            return
        self.number, self._source = newest.number, newest.source
        if self._authority == "files" or newest.version == self.book.version:
            return
        try:
            policy = self._compile(self.parse(newest.book))
        except Exception as error:
            log.error("policy version %d cannot be used here, the old one stays: %s", newest.number, error)
            return
        if learn:
            await self._fit_to(policy)
        self._swap(policy)
        log.info("policies followed", extra={"fields": {"number": newest.number, "who": newest.who}})

    async def _enforce(self, policy: Policy) -> None:
        await self._fit_to(policy)
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


def _unavailable(error: StoreError) -> Overloaded:
    log.error("the store does not keep policies: %s", error)
    return Overloaded("The store cannot be reached; nothing was changed.", code="store_unavailable")
