"""Which headers cross the gateway. Hop-by-hop ones never do (RFC 9110, section 7.6.1), nor does the client's
key where the gateway authenticates clients itself."""

from functools import lru_cache
from typing import Literal

from multidict import CIMultiDict, CIMultiDictProxy

_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
# The body is re-framed, and a compressed request body arrives here decompressed.
_REQUEST_DROPPED = _HOP | {"host", "content-length", "content-encoding", "expect"}
_CREDENTIALS = frozenset(("authorization", "api-key", "x-api-key"))
_READABLE = frozenset(("gzip", "x-gzip", "deflate", "identity"))
_RENAMED = dict.fromkeys(("x-request-id", "request-id"), "x-gateway-upstream-request-id")
_VERSION = "2023-06-01"  # of Anthropic's API, where the client names none
_NONE: frozenset[str] = frozenset()
_NAMES = 1024  # spellings of header names whose part is remembered


def to_upstream(
    headers: CIMultiDictProxy[str],
    *,
    api_key: str,
    trust_client: bool,
    request_id: str,
    api: str = "openai",
    translated: bool = False,
) -> CIMultiDict[str]:
    """The request headers a backend gets.

    Args:
        api_key: the backend's own key, or empty.
        trust_client: without a key of its own, the backend gets the client's credentials.
        api: which the backend speaks: `openai`, `anthropic` or `both`.
        translated: the client speaks the other one.
    """
    named = _named_by_connection(headers)
    own_key = bool(api_key) or not trust_client
    out: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        kind = _kind(name)
        if kind == "dropped" or (own_key and kind == "credential") or (named and name.lower() in named):
            continue
        out.add(name, value)
    if translated and not own_key:
        api_key = _bearer(out) if api == "anthropic" else out.pop("x-api-key", "")
    for name, value in credentials(api_key, api).items():
        out.setdefault(name, value)
    out["X-Request-Id"] = request_id
    return out


def credentials(api_key: str, api: str) -> dict[str, str]:
    """A key, or none, as a backend takes it; Anthropic's API wants its version named beside."""
    if api == "anthropic":
        named = {"anthropic-version": _VERSION}
        return {**named, "x-api-key": api_key} if api_key else named
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _bearer(headers: CIMultiDict[str]) -> str:
    """Take the client's key out of an OpenAI client's headers."""
    scheme, _, token = headers.pop("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.pop("api-key", "")


def to_client(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The response headers a client gets, but for the gateway's own; the body's framing is the server's."""
    named = _named_by_connection(headers)
    out: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        shown = _shown(name)
        if shown and (not named or name.lower() not in named):
            out.add(shown, value)
    return out


def is_plain_sse(headers: CIMultiDictProxy[str]) -> bool:
    """Whether a body is an event stream that text can be taken out of or added to."""
    packed = headers.get("Content-Encoding", "identity").lower() != "identity"
    return headers.get("Content-Type", "").lower().startswith("text/event-stream") and not packed


def accept_readable(headers: CIMultiDict[str]) -> None:
    """Ask for no encoding that the gateway could not read, and so not store."""
    if "Accept-Encoding" not in headers:
        return
    offered = (part.strip() for value in headers.getall("Accept-Encoding") for part in value.split(","))
    kept = [part for part in offered if part.partition(";")[0].strip().lower() in _READABLE]
    headers["Accept-Encoding"] = ", ".join(kept) or "identity"


@lru_cache(_NAMES)
def _kind(name: str) -> Literal["dropped", "credential", "passes"]:
    """What becomes of a request's header."""
    low = name.lower()
    if low in _REQUEST_DROPPED or low.startswith("x-gateway-"):
        return "dropped"
    return "credential" if low in _CREDENTIALS else "passes"


@lru_cache(_NAMES)
def _shown(name: str) -> str:
    """A response header's name as the client sees it; empty where it does not."""
    low = name.lower()
    return "" if low in _HOP or low == "content-length" else _RENAMED.get(low, name)


def _named_by_connection(headers: CIMultiDictProxy[str]) -> frozenset[str]:
    values = headers.getall("Connection", None)
    return (
        frozenset(token.strip().lower() for value in values for token in value.split(","))
        if values
        else _NONE
    )
