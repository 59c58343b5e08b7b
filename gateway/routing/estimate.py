"""What a request will cost, before it is sent: from its size, its settings, and what such requests have cost."""

from collections.abc import Callable, Mapping
from typing import Any

from gateway.exchange import Exchange, Priority, Request, Work
from gateway.routing.fleet import Model
from gateway.routing.prefix import ENDS, blocks
from gateway.routing.work import Lengths

_PRIORITIES: dict[str, Priority] = {name: name for name in ("interactive", "standard", "batch")}
_BOUNDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_LONGEST_NAME = 200  # characters of a session's name


def estimate(
    x: Exchange, model: Model, lengths: Lengths, priority: Callable[[str], Priority], now: float, stream: bool
) -> Work:
    """Args:
    priority: the class of a tenant's requests that name none.
    """
    request, get = x.request, x.headers.get
    category = x.ruling.category if x.ruling else ""
    within = _seconds(get("x-gateway-deadline"))
    urgency = _PRIORITIES.get(get("x-gateway-priority", "")) or priority(x.tenant)
    deadline = None if within is None else now + within
    session = get("x-gateway-session", "")[:_LONGEST_NAME]
    if request is None:
        return Work(0, 1, model.name, category, x.tenant, urgency, deadline, session, stream=stream)
    size = len(request.raw)
    prompt, output = foreseen(request, model.name, lengths, category)
    # With one backend all prompts go to one cache, and nothing depends on what is in it.
    several = len(model.backends) > 1
    return Work(
        prompt=prompt,
        output=output,
        model=model.name,
        category=category,
        tenant=x.tenant,
        priority=urgency,
        deadline=deadline,
        session=session,
        prefix=blocks(request.endpoint, request.fields, size, x.tenant) if several else (),
        ends=ENDS,
        size=size,
        stream=stream,
    )


def foreseen(request: Request, model: str, lengths: Lengths, category: str = "") -> tuple[int, int]:
    """Tokens of prompt and output."""
    prompt = lengths.prompt(model, len(request.raw))
    if request.endpoint == "embeddings":
        return prompt, 1
    return prompt, lengths.output(model, category, _bound(request.fields))


def _bound(fields: Mapping[str, Any]) -> int | None:
    """The most output tokens the caller wants."""
    for name in _BOUNDS:
        value = fields.get(name)
        if type(value) is int:
            return value
    return None


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < 86400 else None
