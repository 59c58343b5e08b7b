"""Reading a caller's body for translation: each field is understood, or the request is refused with its place.

Decides what counts as absent: null, and an empty array or object in a field nobody knows. It must never raise
anything but `Untranslatable`, whatever the body holds.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import orjson

from gateway.errors import BadRequest


class Untranslatable(BadRequest):
    """The model's engine speaks the other API, and this part of the request has no form there."""

    code = "untranslatable"


def refused(where: str, why: str) -> Untranslatable:
    return Untranslatable(f"{where}: {why}", param=where)


def only(where: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse fields that are not known; `where` is the place of `given`, empty for the body itself."""
    for key, value in given.items():
        if key not in known and value not in (None, [], {}):
            name = f"{where}.{key}" if where else key
            raise refused(name[:200], "the engine of this model speaks another API, which has no such field")


def listed(where: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise refused(where, "must be an array")
    return value


def objects(where: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of an array of objects."""
    for index, item in enumerate(listed(where, value)):
        yield f"{where}[{index}]", mapping(f"{where}[{index}]", item)


def mapping(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise refused(where, "must be an object")
    return value


def string(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise refused(where, "must be a string")
    return value


def loads(text: str | bytes) -> Any:
    """JSON with its whole numbers exact, however long.

    Raises:
        ValueError: it is none.
    """
    return json.loads(text, parse_constant=_no_number)


def dumps(value: Any) -> bytes:
    """JSON; orjson writes whole numbers of 64 bits only, others come with `loads`."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
