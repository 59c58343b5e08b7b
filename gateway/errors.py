"""Every way a request can end without an answer, with its status and its code in OpenAI's error shape.

Rooms raise these; `server` renders them in one place. An upstream's own 4xx or 5xx is a Reply, not an error.
"""

from typing import Any

import orjson


class GatewayError(Exception):
    """A refusal the caller should see: an HTTP status and a code in OpenAI's error shape."""

    status = 500
    type = "api_error"
    code: str | None = "internal_error"
    headers: dict[str, str]

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def json(self) -> bytes:
        """The response body."""
        return orjson.dumps(self.body())

    def event(self) -> bytes:
        """The same as a server-sent event, for a stream whose first byte is already out."""
        return b"data: " + self.json() + b"\n\n"


class BadRequest(GatewayError):
    status, type, code = 400, "invalid_request_error", "invalid_request"


class Unauthorized(GatewayError):
    status, type, code = 401, "authentication_error", "invalid_api_key"


class Forbidden(GatewayError):
    status, type, code = 403, "permission_error", "forbidden"


class NotFound(GatewayError):
    status, type, code = 404, "invalid_request_error", "not_found"


class MethodNotAllowed(GatewayError):
    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class RequestTimeout(GatewayError):
    status, type, code = 408, "invalid_request_error", "request_timeout"


class Conflict(GatewayError):
    status, type, code = 409, "invalid_request_error", "conflict"


class PreconditionFailed(GatewayError):
    status, type, code = 412, "invalid_request_error", "precondition_failed"


class TooLarge(GatewayError):
    status, type, code = 413, "invalid_request_error", "request_too_large"


class UnsupportedMedia(GatewayError):
    status, type, code = 415, "invalid_request_error", "unsupported_media_type"


class Invalid(GatewayError):
    status, type, code = 422, "invalid_request_error", "validation_failed"


class Overloaded(GatewayError):
    status, type, code = 503, "api_error", "overloaded"


class BackendUnreachable(GatewayError):
    status, type, code = 502, "api_error", "backend_unreachable"


class BackendTimeout(GatewayError):
    status, type, code = 504, "api_error", "backend_timeout"


class NotCached(GatewayError):
    status, type, code = 504, "api_error", "not_cached"


class StoreError(Exception):
    """The document store failed; the request goes on without it."""


class StoreAway(StoreError):
    """It cannot be reached, or cannot serve just now: the same call may succeed later."""


class Outdated(StoreError):
    """A purge was announced that the writer has not applied yet: it must catch up first."""


class EmbedderBusy(Exception):
    """The embedder's queue is full or its deadline has passed; the semantic step is skipped."""


class EmbedderFailed(Exception):
    """The embedder raised; the semantic step is skipped."""
