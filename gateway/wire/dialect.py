"""A caller's request as a backend of either API is sent it, and what becomes of the answer on its way back.

Decides whether a request is translated at all: where the backend speaks the caller's API its bytes go as they
are. The cache and everything before it see the caller's form alone. It must never translate what is only half
understood.
"""

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

from gateway.exchange import Endpoint, Request
from gateway.wire.anthropic.answer import (
    Unsayable,
    failure_to_completion,
    failure_to_message,
    to_completion,
    to_message,
)
from gateway.wire.anthropic.reading import Untranslatable, dumps, loads
from gateway.wire.anthropic.stream import ToCompletion, ToMessage
from gateway.wire.anthropic.to_chat import chat_request
from gateway.wire.anthropic.to_messages import messages_request
from gateway.wire.fingerprint import big_numbers, ours
from gateway.wire.rewrite import rewrite

__all__ = ["Api", "Spoken", "Translator", "Untranslatable", "spoken"]

Api = Literal["openai", "anthropic", "both"]
LIMIT = 64 << 20  # bytes of a whole answer


class Translator(Protocol):
    """Takes an answer as it comes; what it gives back is the caller's form of it, sooner or later.

    Both raise `Unsayable` where the answer has no such form.
    """

    def feed(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes: ...


class Spoken(NamedTuple):
    """What a backend is sent."""

    body: bytes
    usage_added: bool = False  # the gateway asks for a usage chunk that the caller did not
    endpoint: Endpoint | None = None  # where it is sent, if not to the caller's own
    translator: Callable[[int, str], Translator] | None = None  # (status, content type) → of the answer


def spoken(request: Request, api: Api, *, model: str | None = None, include_usage: bool = False) -> Spoken:
    """The request for a backend that speaks `api` and calls the model `model`.

    Raises:
        Untranslatable: the backend speaks the other API, and the request has no form there.
    """
    if api == "both" or (api == "anthropic") == (request.endpoint == "messages"):
        added = include_usage and not request.wants_usage and request.endpoint != "messages"
        return Spoken(rewrite(request, model=model, include_usage=include_usage), added)
    fields = {**_exact(request), "model": model or request.model}
    if ours(fields.get("cache")):
        fields.pop("cache", None)
    if request.endpoint == "messages":
        body = chat_request(fields)
        if request.stream:
            body["stream"] = True
            if include_usage:
                body["stream_options"] = {"include_usage": True}
        return Spoken(dumps(body), request.stream and include_usage, "chat", _to_message)
    if request.endpoint != "chat":
        raise Untranslatable(
            f"The model '{request.model}' is served by an engine that speaks Anthropic's API, which has no "
            f"{request.endpoint}.",
            param="model",
        )
    body = messages_request(fields)
    if request.stream:
        body["stream"] = True
    told = request.stream and (include_usage or request.wants_usage)
    added = told and not request.wants_usage

    def to_chat(status: int, content_type: str) -> Translator:
        now = int(time.time())
        if status < 300 and _streams(content_type):
            return ToCompletion(now, told)
        if status < 300:
            return _Whole(lambda whole: to_completion(whole, now))
        return _Whole(lambda whole: failure_to_completion(status, whole))

    return Spoken(dumps(body), added, "messages", to_chat)


def _exact(request: Request) -> dict[str, Any]:
    """The body with its whole numbers as they are, however long."""
    fields: dict[str, Any] = loads(request.raw) if big_numbers(request.raw) else request.fields
    return fields


def _to_message(status: int, content_type: str) -> Translator:
    if status < 300:
        return ToMessage() if _streams(content_type) else _Whole(to_message)
    return _Whole(lambda whole: failure_to_message(status, whole))


def _streams(content_type: str) -> bool:
    return content_type.lower().startswith("text/event-stream")


class _Whole:
    """An answer in one piece: nothing of it until all is there."""

    def __init__(self, translate: Callable[[bytes], bytes]) -> None:
        self._translate = translate
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        self._parts.append(data)
        self._size += len(data)
        if self._size > LIMIT:
            raise Unsayable("it is too long")
        return b""

    def finish(self) -> bytes:
        return self._translate(b"".join(self._parts))
