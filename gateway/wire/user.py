"""Which end user a request is from, where its application says so.

The application's word is taken: the gateway knows the application by its key, and nobody behind it.
"""

from collections.abc import Mapping

from gateway.errors import BadRequest
from gateway.exchange import Request

HEADER = "x-gateway-user"
MAX_USER = 512  # characters
_FIELDS = ("safety_identifier", "user")  # OpenAI's, the newer one first


def end_user(request: Request, headers: Mapping[str, str]) -> str:
    """The end user's name as the application has it: our header, else the API's own field; empty where none is given.

    Raises BadRequest for a header that is too long. A field of another form is the engine's to refuse.
    """
    named = headers.get(HEADER)
    if named is not None:
        if len(named) > MAX_USER:
            raise BadRequest(f"{HEADER} has at most {MAX_USER} characters.", param=HEADER)
        return named.strip()
    fields = request.fields
    if request.endpoint == "messages":
        metadata = fields.get("metadata")
        given = [metadata.get("user_id") if isinstance(metadata, dict) else None]
    else:
        given = [fields.get(name) for name in _FIELDS]
    return next((value for value in given if isinstance(value, str) and value), "")
