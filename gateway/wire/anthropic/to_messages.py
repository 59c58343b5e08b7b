"""A chat completion's request → the same in Anthropic's form.

Decides which words of Anthropic's stand for which of OpenAI's. It must never leave out what could change the
answer: a setting without a counterpart is refused, unless it is given its own default.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.wire.anthropic.reading import listed, loads, mapping, objects, only, refused, string

_Object = dict[str, Any]
MAX_TOKENS = 4096  # of an answer, where the caller sets no bound: Anthropic's API requires one
_SAME = ("temperature", "top_p", "top_k")
_KNOWN = (
    *_SAME, "model", "messages", "max_tokens", "max_completion_tokens", "stop", "stream", "stream_options",
    "tools", "tool_choice", "parallel_tool_calls", "user", "response_format", "reasoning_effort",
)  # fmt: skip
_DEFAULTS: Mapping[str, Any] = {
    "n": 1, "logprobs": False, "presence_penalty": 0, "frequency_penalty": 0, "store": False,
    "service_tier": "auto", "modalities": ["text"],
}  # fmt: skip
_CHOICES = {"auto": "auto", "required": "any", "none": "none"}
_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,", re.ASCII)
_SYSTEM = ("system", "developer")


def messages_request(fields: Mapping[str, Any]) -> _Object:
    """The body of a request to `/v1/messages`, not streamed.

    Raises:
        Untranslatable: some part of it has no form there.
    """
    defaults = [key for key, value in _DEFAULTS.items() if key in fields and fields[key] == value]
    only("", fields, (*_KNOWN, *defaults))
    out = {"model": fields["model"], "max_tokens": _bound(fields), **_conversation(fields["messages"])}
    out |= {key: fields[key] for key in _SAME if fields.get(key) is not None}
    if (stop := fields.get("stop")) not in (None, []):
        out["stop_sequences"] = [stop] if isinstance(stop, str) else listed("stop", stop)
    if fields.get("user") is not None:
        out["metadata"] = {"user_id": string("user", fields["user"])}
    if fields.get("stream_options") is not None:
        options = mapping("stream_options", fields["stream_options"])
        only("stream_options", options, ("include_usage",))
    return out | _tools(fields) | _output(fields)


def _bound(fields: Mapping[str, Any]) -> int:
    for key in ("max_completion_tokens", "max_tokens"):
        if (bound := fields.get(key)) is not None:
            if type(bound) is not int:
                raise refused(key, "must be a whole number")
            return bound
    return MAX_TOKENS


def _output(fields: Mapping[str, Any]) -> _Object:
    config: _Object = {}
    if (effort := fields.get("reasoning_effort")) is not None:
        if effort not in ("low", "medium", "high"):
            raise refused("reasoning_effort", "must be low, medium or high here")
        config["effort"] = effort
    form: _Object = mapping("response_format", fields.get("response_format") or {})
    kind = form.get("type")
    if kind == "json_schema":
        where = "response_format.json_schema"
        given = mapping(where, form.get("json_schema"))
        only("response_format", form, ("type", "json_schema"))
        only(where, given, ("name", "schema", "strict"))
        config["format"] = {"type": "json_schema", "schema": mapping(f"{where}.schema", given.get("schema"))}
    elif kind not in (None, "text"):
        raise refused(
            "response_format", "the engine of this model speaks Anthropic's API: text or json_schema"
        )
    return {"output_config": config} if config else {}


# ── messages ────────────────────────────────────────────────────────────────────────────────────────────


def _conversation(messages: Sequence[_Object]) -> _Object:
    """What the system says before anybody else stands apart; results of tools open a user's message."""
    system: list[_Object] = []
    out: list[_Object] = []
    for index, message in enumerate(messages):
        where, role = f"messages[{index}]", message["role"]
        if role in _SYSTEM:
            only(where, message, ("role", "content"))
            texts = list(_texts(f"{where}.content", message.get("content")))
            if out:
                out.append({"role": "system", "content": _joined(texts)})
            else:
                system += texts
        elif role == "tool":
            result = _result(where, message)
            if out and _opens(out[-1]):
                out[-1]["content"].append(result)
            else:
                out.append({"role": "user", "content": [result]})
        elif role == "user":
            only(where, message, ("role", "content"))
            parts = list(_parts(f"{where}.content", message.get("content")))
            if out and _opens(out[-1]):
                out[-1]["content"] += parts
            else:
                out.append({"role": "user", "content": _joined(parts)})
        elif role == "assistant":
            out.append({"role": "assistant", "content": _said(where, message)})
        else:
            raise refused(f"{where}.role", "has no counterpart in Anthropic's API")
    if not out or out[-1]["role"] == "assistant":
        raise refused(
            "messages", "the last one must be a user's or a tool's: OpenAI's API continues no answer"
        )
    return {"system": _joined(system), "messages": out} if system else {"messages": out}


def _opens(message: _Object) -> bool:
    """Whether a message holds results of tools and nothing else yet."""
    content = message["content"]
    return isinstance(content, list) and content[-1].get("type") == "tool_result"


def _said(where: str, message: _Object) -> Any:
    only(where, message, ("role", "content", "tool_calls"))
    content = message.get("content")
    blocks = [] if content in (None, "") else list(_texts(f"{where}.content", content))
    if message.get("tool_calls"):
        blocks += [_call(*call) for call in objects(f"{where}.tool_calls", message["tool_calls"])]
    if not blocks:
        raise refused(where, "must not be empty")
    return _joined(blocks)


def _call(where: str, call: _Object) -> _Object:
    only(where, call, ("id", "type", "function", "index"))
    if call.get("type", "function") != "function":
        raise refused(f"{where}.type", "only calls of functions have a counterpart in Anthropic's API")
    function = mapping(f"{where}.function", call.get("function"))
    only(f"{where}.function", function, ("name", "arguments"))
    text = string(f"{where}.function.arguments", function.get("arguments"))
    try:
        given = loads(text or "{}")
    except (ValueError, RecursionError):
        raise refused(f"{where}.function.arguments", "must be JSON") from None
    name = string(f"{where}.function.name", function.get("name"))
    return {
        "type": "tool_use",
        "id": string(f"{where}.id", call.get("id")),
        "name": name,
        "input": mapping(f"{where}.function.arguments", given),
    }


def _result(where: str, message: _Object) -> _Object:
    only(where, message, ("role", "content", "tool_call_id"))
    id, content = string(f"{where}.tool_call_id", message.get("tool_call_id")), message.get("content")
    if not isinstance(content, str):
        content = _joined(list(_texts(f"{where}.content", content)))
    return {"type": "tool_result", "tool_use_id": id, "content": content}


def _joined(blocks: list[_Object]) -> Any:
    return blocks[0]["text"] if len(blocks) == 1 and blocks[0]["type"] == "text" else blocks


def _texts(where: str, content: Any) -> Iterator[_Object]:
    for place, part in _each(where, content):
        yield _text(place, part)


def _parts(where: str, content: Any) -> Iterator[_Object]:
    for place, part in _each(where, content):
        yield _image(place, part) if part.get("type") == "image_url" else _text(place, part)


def _each(where: str, content: Any) -> Iterator[tuple[str, _Object]]:
    if isinstance(content, str):
        yield where, {"type": "text", "text": content}
        return
    if not listed(where, content):
        raise refused(where, "must not be empty")
    yield from objects(where, content)


def _text(where: str, part: _Object) -> _Object:
    if part.get("type") != "text":
        kind = str(part.get("type"))[:50]
        raise refused(where, f"the engine of this model speaks Anthropic's API, which has no '{kind}' here")
    only(where, part, ("type", "text"))
    return {"type": "text", "text": string(f"{where}.text", part.get("text"))}


def _image(where: str, part: _Object) -> _Object:
    only(where, part, ("type", "image_url"))
    image = mapping(f"{where}.image_url", part.get("image_url"))
    only(f"{where}.image_url", image, ("url",) if image.get("detail") != "auto" else ("url", "detail"))
    url = string(f"{where}.image_url.url", image.get("url"))
    if found := _DATA.match(url):
        data = url[found.end() :]
        return {"type": "image", "source": {"type": "base64", "media_type": found[1], "data": data}}
    if not url.startswith(("https://", "http://")):
        raise refused(f"{where}.image_url.url", "must be an http(s) URL or base64 data")
    return {"type": "image", "source": {"type": "url", "url": url}}


# ── tools ───────────────────────────────────────────────────────────────────────────────────────────────


def _tools(fields: Mapping[str, Any]) -> _Object:
    out: _Object = {}
    if fields.get("tools"):
        out["tools"] = [_tool(place, tool) for place, tool in objects("tools", fields["tools"])]
    choice = _choice(fields.get("tool_choice"))
    several = fields.get("parallel_tool_calls")
    if several not in (None, True, False):
        raise refused("parallel_tool_calls", "must be true or false")
    if several is not None and (out or choice):
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": not several}
        if choice["type"] == "none":
            del choice["disable_parallel_tool_use"]  # none is fewer than several
    return {**out, "tool_choice": choice} if choice else out


def _choice(choice: Any) -> _Object | None:
    if choice is None:
        return None
    if isinstance(choice, str) and choice in _CHOICES:
        return {"type": _CHOICES[choice]}
    given = mapping("tool_choice", choice)
    only("tool_choice", given, ("type", "function"))
    if given.get("type") != "function":
        raise refused("tool_choice", "must be auto, required, none or a function")
    function = mapping("tool_choice.function", given.get("function"))
    only("tool_choice.function", function, ("name",))
    return {"type": "tool", "name": string("tool_choice.function.name", function.get("name"))}


def _tool(where: str, tool: _Object) -> _Object:
    if tool.get("type") != "function":
        raise refused(f"{where}.type", "only functions have a counterpart in Anthropic's API")
    only(where, tool, ("type", "function"))
    function = mapping(f"{where}.function", tool.get("function"))
    only(f"{where}.function", function, ("name", "description", "parameters", "strict"))
    schema = function.get("parameters")
    out = {
        "name": string(f"{where}.function.name", function.get("name")),
        "input_schema": {"type": "object"}
        if schema is None
        else mapping(f"{where}.function.parameters", schema),
    }
    return out | {key: function[key] for key in ("description", "strict") if function.get(key) is not None}
