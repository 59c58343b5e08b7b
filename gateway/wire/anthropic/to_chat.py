"""A request in Anthropic's form → the same as a chat completion.

Decides which words of OpenAI's stand for which of Anthropic's. It must never leave out what could change the
answer; prompt-caching hints (`cache_control`) cannot.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.wire.anthropic.reading import dumps, listed, mapping, objects, only, refused, string

_Object = dict[str, Any]
_SAME = ("temperature", "top_p", "top_k")  # top_k is no field of OpenAI's, and one of nearly every engine's
_KNOWN = (
    *_SAME, "model", "messages", "max_tokens", "system", "stop_sequences", "stream", "metadata", "tools",
    "tool_choice", "thinking", "service_tier", "output_config", "cache_control",
)  # fmt: skip
_EFFORTS = ("low", "medium", "high")
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
ERROR = "Error: "  # before the text of a tool's result that is marked as one: chat messages have no such mark


def chat_request(fields: Mapping[str, Any]) -> _Object:
    """The body of a chat completion, not streamed.

    Raises:
        Untranslatable: some part of it has no form there.
    """
    only("", fields, _KNOWN)
    messages = [*_system("system", fields.get("system")), *_messages(fields["messages"])]
    if type(fields.get("max_tokens")) is not int:
        raise refused("max_tokens", "a whole number is required")
    out = {"model": fields["model"], "messages": messages, "max_tokens": fields["max_tokens"]}
    out |= {key: fields[key] for key in _SAME if fields.get(key) is not None}
    if fields.get("stop_sequences"):
        out["stop"] = listed("stop_sequences", fields["stop_sequences"])
    out |= _user(fields.get("metadata")) | _tools(fields) | _output(fields.get("output_config"))
    thinking = fields.get("thinking")
    if thinking is not None and mapping("thinking", thinking).get("type") != "disabled":
        raise refused("thinking", "the engine of this model speaks OpenAI's API, which has no such setting")
    if fields.get("service_tier") not in (None, "auto"):
        raise refused("service_tier", "the engine of this model speaks OpenAI's API, whose tiers are others")
    return out


def _user(metadata: Any) -> _Object:
    if metadata is None:
        return {}
    given = mapping("metadata", metadata)
    only("metadata", given, ("user_id",))
    return {} if given.get("user_id") is None else {"user": given["user_id"]}


def _output(config: Any) -> _Object:
    out: _Object = {}
    if config is None:
        return out
    given = mapping("output_config", config)
    only("output_config", given, ("format", "effort"))
    if (effort := given.get("effort")) is not None:
        if effort not in _EFFORTS:
            raise refused("output_config.effort", f"must be one of {', '.join(_EFFORTS)} here")
        out["reasoning_effort"] = effort
    if (form := given.get("format")) is not None:
        where = "output_config.format"
        only(where, mapping(where, form), ("type", "schema"))
        if form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
            raise refused(where, "must be a json_schema with its schema")
        schema = {"name": "answer", "schema": form["schema"], "strict": True}
        out["response_format"] = {"type": "json_schema", "json_schema": schema}
    return out


# ── messages ────────────────────────────────────────────────────────────────────────────────────────────


def _messages(messages: Sequence[_Object]) -> Iterator[_Object]:
    last = len(messages) - 1
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        only(where, message, ("role", "content"))
        content = message.get("content")
        match message["role"]:
            case "user":
                yield from _turn(f"{where}.content", content)
            case "assistant" if index == last:
                raise refused(
                    where, "the engine of this model speaks OpenAI's API, which continues no answer"
                )
            case "assistant":
                yield _said(f"{where}.content", content)
            case "system":
                yield from _system(f"{where}.content", content)
            case _:
                raise refused(f"{where}.role", "must be user, assistant or system")


def _system(where: str, content: Any) -> Iterator[_Object]:
    if content is None or content == "" or content == []:
        return
    if not isinstance(content, str):
        content = _joined([_text(place, block) for place, block in objects(where, content)])
    yield {"role": "system", "content": content}


def _turn(where: str, content: Any) -> Iterator[_Object]:
    """A user's message: results of tools become messages of their own, the rest follows them."""
    if isinstance(content, str):
        yield {"role": "user", "content": content}
        return
    parts = []
    for place, block in objects(where, content):
        if block.get("type") != "tool_result":
            parts.append(_part(place, block))
        elif parts:
            raise refused(place, "the results of tools must come before other content")
        else:
            yield _result(place, block)
    if parts:
        yield {"role": "user", "content": _joined(parts)}
    elif not content:
        raise refused(where, "must not be empty")


def _said(where: str, content: Any) -> _Object:
    """An earlier answer. Thinking without a signature is what this gateway made of an engine's reasoning."""
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    texts, calls, thoughts = [], [], []
    for place, block in objects(where, content):
        if block.get("type") == "tool_use":
            calls.append(_call(place, block))
        elif block.get("type") == "thinking" and block.get("signature") in (None, ""):
            only(place, block, ("type", "thinking", "signature"))
            thoughts.append(string(f"{place}.thinking", block.get("thinking")))
        else:
            texts.append(_text(place, block))
    if not texts and not calls:
        raise refused(where, "must not be empty")
    message: _Object = {"role": "assistant", "content": _joined(texts) if texts else None}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    return {**message, "tool_calls": calls} if calls else message


def _call(where: str, block: _Object) -> _Object:
    only(where, block, ("type", "id", "name", "input", "cache_control"))
    arguments = dumps(mapping(f"{where}.input", block.get("input"))).decode()
    function = {"name": string(f"{where}.name", block.get("name")), "arguments": arguments}
    return {"id": string(f"{where}.id", block.get("id")), "type": "function", "function": function}


def _result(where: str, block: _Object) -> _Object:
    only(where, block, ("type", "tool_use_id", "content", "is_error", "cache_control"))
    content, failed = block.get("content"), block.get("is_error")
    if failed not in (None, True, False):
        raise refused(f"{where}.is_error", "must be true or false")
    if content is None or content == []:
        content = ""
    if not isinstance(content, str):
        texts = [_text(place, part) for place, part in objects(f"{where}.content", content)]
        if failed:
            texts[0] = {**texts[0], "text": ERROR + texts[0]["text"]}
        content = _joined(texts)
    elif failed:
        content = ERROR + content
    id = string(f"{where}.tool_use_id", block.get("tool_use_id"))
    return {"role": "tool", "tool_call_id": id, "content": content}


def _joined(parts: list[_Object]) -> Any:
    """One text as a plain string, which every chat template takes."""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _text(where: str, block: _Object) -> _Object:
    if block.get("type") != "text":
        kind = str(block.get("type"))[:50]
        raise refused(where, f"the engine of this model speaks OpenAI's API, which has no '{kind}' here")
    only(where, block, ("type", "text", "cache_control"))
    return {"type": "text", "text": string(f"{where}.text", block.get("text"))}


def _part(where: str, block: _Object) -> _Object:
    if block.get("type") != "image":
        return _text(where, block)
    only(where, block, ("type", "source", "cache_control"))
    source = mapping(f"{where}.source", block.get("source"))
    match source.get("type"):
        case "base64":
            only(f"{where}.source", source, ("type", "media_type", "data"))
            kind = string(f"{where}.source.media_type", source.get("media_type"))
            url = f"data:{kind};base64,{string(f'{where}.source.data', source.get('data'))}"
        case "url":
            only(f"{where}.source", source, ("type", "url"))
            url = string(f"{where}.source.url", source.get("url"))
        case _:
            raise refused(f"{where}.source", "an image must be given as base64 or by its URL here")
    return {"type": "image_url", "image_url": {"url": url}}


# ── tools ───────────────────────────────────────────────────────────────────────────────────────────────


def _tools(fields: Mapping[str, Any]) -> _Object:
    out: _Object = {}
    if fields.get("tools"):
        out["tools"] = [_tool(place, tool) for place, tool in objects("tools", fields["tools"])]
    choice = fields.get("tool_choice")
    if choice is None:
        return out
    kind = mapping("tool_choice", choice).get("type")
    only("tool_choice", choice, ("type", "name", "disable_parallel_tool_use"))
    if kind == "tool":
        name = string("tool_choice.name", choice.get("name"))
        out["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif isinstance(kind, str) and kind in _CHOICES:
        only("tool_choice", choice, ("type", "disable_parallel_tool_use"))
        out["tool_choice"] = _CHOICES[kind]
    else:
        raise refused("tool_choice.type", "must be auto, any, tool or none")
    if (single := choice.get("disable_parallel_tool_use")) is not None:
        if not isinstance(single, bool):
            raise refused("tool_choice.disable_parallel_tool_use", "must be true or false")
        out["parallel_tool_calls"] = not single
    return out


def _tool(where: str, tool: _Object) -> _Object:
    if tool.get("type") not in (None, "custom"):
        kind = str(tool["type"])[:50]
        raise refused(
            f"{where}.type", f"'{kind}' is a tool of Anthropic's, and the engine of this model is not"
        )
    only(where, tool, ("type", "name", "description", "input_schema", "strict", "cache_control"))
    schema = mapping(f"{where}.input_schema", tool.get("input_schema"))
    function = {"name": string(f"{where}.name", tool.get("name")), "parameters": schema}
    function |= {key: tool[key] for key in ("description", "strict") if tool.get(key) is not None}
    return {"type": "function", "function": function}
