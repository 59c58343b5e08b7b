"""What the caller asks of the cache: our headers, HTTP's Cache-Control, and LiteLLM's body form.

Decides the caller's `Controls` where these meet: the tightest wins. It must never loosen anything, and never
read a header it does not own.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from gateway.errors import BadRequest
from gateway.exchange import Controls

_NUMBER = re.compile(r"\d{1,15}(\.\d{1,15})?", re.ASCII)
_MODES = {
    "on": (True, True),  # read, write
    "exact": (True, True),
    "only": (True, True),
    "off": (False, False),
    "refresh": (False, True),
}
CONTROL_HEADERS = (
    "x-gateway-cache",
    "x-gateway-category",
    "x-gateway-cache-ttl",
    "x-gateway-threshold",
    "x-gateway-tags",
    "x-gateway-offload",
    "cache-control",
)
MAX_TAGS = 16
MAX_NAME = 128  # characters of a tag, category or namespace
MAX_VARIANTS = 64
_REMEMBERED = 128  # combinations of header values


def controls(headers: Mapping[str, str], body: Any, honour_cache_control: bool) -> Controls:
    """The caller's controls.

    `body` is the request's `cache` field; anything but an object is not ours and says nothing. Raises
    `BadRequest` naming the header or the field whose value cannot be understood.
    """
    given = [headers.get(name) for name in CONTROL_HEADERS]
    if not honour_cache_control:
        given[-1] = None
    return _merged(given, body) if isinstance(body, dict) and body else _asked(*given)


@lru_cache(_REMEMBERED)
def _asked(*given: str | None) -> Controls:
    """What headers alone ask: the same few say the same again and again."""
    return _merged(given, {})


def _merged(given: Sequence[str | None], form: dict[str, Any]) -> Controls:
    """`given`: the values of the control headers, in their order; `form`: the body's `cache` field."""
    mode, category, ttl, threshold, tags, offload, directives = given
    standard = _directives(directives)
    mode = "on" if mode is None else _mode(mode)
    read, write = _MODES[mode]
    read = read and "no-cache" not in standard and not _flag(form, "no-cache")
    lifetime = _least(None if ttl is None else _seconds("x-gateway-cache-ttl", ttl), _amount(form, "ttl"))
    write = write and lifetime != 0 and "no-store" not in standard and not _flag(form, "no-store")
    return Controls(
        read=read,
        write=write,
        semantic=mode != "exact",
        only=mode == "only" or "only-if-cached" in standard,
        join=read,
        offload=offload is None or _switch("x-gateway-offload", offload),
        category=None if category is None else _name("x-gateway-category", category.strip()),
        threshold=None if threshold is None else _share("x-gateway-threshold", threshold),
        ttl=lifetime,
        max_age=_least(_max_age(standard), _amount(form, "s-maxage")),
        tags=() if tags is None else _tags(tags),
        namespace=_namespace(form),
        variants=_variants(form),
    )


def _bad(where: str, wanted: str) -> BadRequest:
    return BadRequest(f"{where} must be {wanted}.", param=where, code="invalid_cache_control")


def _least(*values: float | None) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _mode(value: str) -> str:
    mode = value.strip().lower()
    if mode not in _MODES:
        raise _bad("x-gateway-cache", "one of on, exact, off, refresh, only")
    return mode


def _switch(name: str, value: str) -> bool:
    word = value.strip().lower()
    if word not in ("on", "off"):
        raise _bad(name, "on or off")
    return word == "on"


def _name(where: str, value: str) -> str:
    if not value or len(value) > MAX_NAME or not value.isprintable():
        raise _bad(where, f"1 to {MAX_NAME} printable characters")
    return value


def _seconds(where: str, value: str) -> float:
    if not _NUMBER.fullmatch(value.strip()):
        raise _bad(where, "a number of seconds, zero or more")
    return float(value)


def _share(where: str, value: str) -> float:
    if not _NUMBER.fullmatch(value.strip()) or float(value) > 1.0:
        raise _bad(where, "a number from 0 to 1")
    return float(value)


def _tags(value: str) -> tuple[str, ...]:
    tags = tuple(dict.fromkeys(tag for part in value.split(",") if (tag := part.strip())))
    if len(tags) > MAX_TAGS:
        raise _bad("x-gateway-tags", f"at most {MAX_TAGS} tags")
    return tuple(_name("x-gateway-tags", tag) for tag in tags)


def _directives(value: str | None) -> dict[str, str]:
    """Cache-Control as directive → argument; those we do not know are left for others (RFC 9111, 5.2.3)."""
    if not value:
        return {}
    pairs = (part.partition("=") for part in value.split(","))
    known = ("no-cache", "no-store", "max-age", "only-if-cached")
    return {name: arg.strip() for key, _, arg in pairs if (name := key.strip().lower()) in known}


def _max_age(standard: Mapping[str, str]) -> float | None:
    """RFC 9111, 4.2.1: freshness that cannot be read means stale; the header need not be meant for us."""
    if "max-age" not in standard:
        return None
    value = standard["max-age"].strip('"').strip()
    return float(value) if _NUMBER.fullmatch(value) else 0.0


def _flag(form: Mapping[str, Any], key: str) -> bool:
    value = form.get(key)
    if value is not None and not isinstance(value, bool):
        raise _bad(f"cache.{key}", "true or false")
    return value is True


def _amount(form: Mapping[str, Any], key: str) -> float | None:
    value = form.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise _bad(f"cache.{key}", "a number of seconds, zero or more")
    return float(value)


def _namespace(form: Mapping[str, Any]) -> str:
    value = form.get("namespace")
    if value is None or value == "":
        return ""
    if not isinstance(value, str):
        raise _bad("cache.namespace", f"1 to {MAX_NAME} printable characters")
    return _name("cache.namespace", value)


def _variants(form: Mapping[str, Any]) -> int:
    value = form.get("variants")
    if value is None:
        return 1
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_VARIANTS:
        raise _bad("cache.variants", f"a whole number from 1 to {MAX_VARIANTS}")
    return value
