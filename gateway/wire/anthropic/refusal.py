"""Errors in Anthropic's shape.

Decides the type for a status. It must never tell more than the same error tells in OpenAI's shape.
"""

from typing import Any

import orjson

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def refusal(status: int, message: str, request_id: str | None = None) -> bytes:
    """The body of an error."""
    kind = _TYPES.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")
    body: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": message}}
    if request_id is not None:
        body["request_id"] = request_id
    return orjson.dumps(body)


def refusal_event(status: int, message: str) -> bytes:
    """The same as an event of a stream whose first byte is out."""
    return b"event: error\ndata: " + refusal(status, message) + b"\n\n"
