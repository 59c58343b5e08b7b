"""What a request asks: the text to embed, and why it may have to be matched exactly or not reused at all.

Decides from the decoded body the question, the bar against semantic matching and the bar against any reuse.
It must never judge whether a body is valid: what it cannot read, it bars.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from gateway.exchange import Endpoint

MARK = "\x00question"  # stands for the question in the partition; any text that never changes would do
_TEXT = ("text", "input_text", "output_text", "refusal")  # tuples: a caller's "type" may be unhashable
_OWN_TOOLS = ("function", "custom")  # run by the caller; every other type runs at the provider
_THOUGHTS = ("thinking", "redacted_thinking")
_ECHOES = ("prompt_logprobs", "return_token_ids")  # the answer repeats the prompt it was given


class Reading(NamedTuple):
    """The question, the reason code against semantic matching, the reason code against any reuse."""

    question: str | None
    barred: str | None
    uncacheable: str | None


def read(endpoint: Endpoint, fields: Mapping[str, Any]) -> Reading:
    """Read a validated body; reason codes are None where nothing forbids."""
    return _READERS[endpoint](fields)


def masked(endpoint: Endpoint, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the body in which the question's text is a mark; role, parts and their order stay."""
    if endpoint == "completions":
        prompt = fields.get("prompt")
        return {**fields, "prompt": [MARK] if isinstance(prompt, list) else MARK}
    key = "messages" if endpoint in ("chat", "messages") else "input"
    asked = fields[key]
    if isinstance(asked, str):
        return {**fields, key: MARK}
    last = asked[-1]
    return {**fields, key: [*asked[:-1], {**last, "content": _mask(last["content"])}]}


def _mask(content: Any) -> Any:
    if isinstance(content, str):
        return MARK
    return [_mask_part(part) for part in content]


def _mask_part(part: Any) -> Any:
    if isinstance(part, dict):
        return {**part, "text": MARK} if isinstance(part.get("text"), str) else part
    return MARK if isinstance(part, str) else part


def _chat(fields: Mapping[str, Any]) -> Reading:
    messages = fields["messages"]
    question = _asked(messages[-1])
    barred = _tools(fields) or _first(_message, messages) or _modalities(fields) or _measured(fields)
    if not barred and question is None:
        barred = "no-question"
    stateful = fields.get("web_search_options") is not None or _hosted(fields.get("tools"))
    return Reading(question, barred, "stateful" if stateful else None)


def _completions(fields: Mapping[str, Any]) -> Reading:
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    question = prompt if isinstance(prompt, str) and prompt.strip() else None
    barred = "suffix" if fields.get("suffix") else "echo" if fields.get("echo") else _measured(fields)
    if not barred and fields.get("prompt_embeds") is not None:
        barred = "non-text"
    if not barred and question is None:
        barred = "no-question"
    return Reading(question, barred, None)


def _responses(fields: Mapping[str, Any]) -> Reading:
    asked = fields.get("input")
    items: list[Any] = asked if isinstance(asked, list) else []
    if isinstance(asked, str):
        question = asked if asked.strip() else None
    else:
        question = _asked(items[-1]) if items else None
    barred = _tools(fields) or _first(_item, items) or _measured(fields)
    if not barred and question is None:
        barred = "no-question"
    return Reading(question, barred, "stateful" if _stateful(fields, items) else None)


def _messages(fields: Mapping[str, Any]) -> Reading:
    """Anthropic's: tools of its own and what it keeps for a caller make an answer depend on more than the body."""
    messages = fields["messages"]
    question = _asked(messages[-1])
    barred = _tools(fields) or _first(_turn, messages)
    if not barred and question is None:
        barred = "no-question"
    tools = fields.get("tools") or []
    kinds = [tool.get("type") if isinstance(tool, dict) else tool for tool in _list(tools)]
    stateful = any(kind not in (None, "custom") for kind in kinds)
    stateful = stateful or any(fields.get(key) for key in ("container", "mcp_servers"))
    return Reading(question, barred, "stateful" if stateful else None)


def _turn(message: Mapping[str, Any]) -> str | None:
    """Thinking is context; what tools were asked and gave bars, as any content but text does."""
    content = message.get("content")
    parts = [part for part in _list(content) if isinstance(part, dict)]
    if any(part.get("type") in ("tool_use", "tool_result") for part in parts):
        return "tools"
    thoughts = [part for part in parts if part.get("type") in _THOUGHTS]
    return _content([part for part in _list(content) if part not in thoughts] if thoughts else content)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _embeddings(fields: Mapping[str, Any]) -> Reading:
    return Reading(None, "endpoint", None)


_READERS: dict[Endpoint, Callable[[Mapping[str, Any]], Reading]] = {
    "chat": _chat,
    "completions": _completions,
    "responses": _responses,
    "messages": _messages,
    "embeddings": _embeddings,
}


def _asked(message: Any) -> str | None:
    """The text of a user's message, its parts joined by newlines; None where there is none."""
    if not isinstance(message, dict) or message.get("role") != "user":
        return None
    if message.get("type", "message") != "message":
        return None
    content = message.get("content")
    if isinstance(content, list):
        texts = (part.get("text") if isinstance(part, dict) else part for part in content)
        content = "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) and content.strip() else None


def _first(bar: Callable[[Any], str | None], items: Iterable[Any]) -> str | None:
    for item in items:
        if reason := bar(item):
            return reason
    return None


def _message(message: Mapping[str, Any]) -> str | None:
    if message["role"] in ("tool", "function") or message.get("tool_calls") or message.get("function_call"):
        return "tools"
    if message.get("audio") is not None:
        return "non-text"
    return _content(message.get("content"))


def _item(item: Any) -> str | None:
    """A Responses input item: messages are read, earlier reasoning is context, the rest is tool traffic."""
    if not isinstance(item, dict):
        return "non-text"
    kind = item.get("type", "message")
    if kind == "message":
        return _content(item.get("content"))
    return None if kind == "reasoning" else "tools"


def _content(content: Any) -> str | None:
    if content is None or isinstance(content, str):
        return None
    if not isinstance(content, list):
        return "non-text"
    return None if all(_plain(part) for part in content) else "non-text"


def _plain(part: Any) -> bool:
    if isinstance(part, str):
        return True
    if not isinstance(part, dict) or part.get("type", "text") not in _TEXT:
        return False
    return isinstance(part.get("refusal" if part.get("type") == "refusal" else "text"), str)


def _tools(fields: Mapping[str, Any]) -> str | None:
    if fields.get("tools") or fields.get("functions"):
        return "tools"
    choice = fields.get("tool_choice") or fields.get("function_call")
    return "tools" if choice and choice != "none" else None


def _modalities(fields: Mapping[str, Any]) -> str | None:
    modalities = fields.get("modalities")
    if fields.get("audio") is not None or (modalities and modalities != ["text"]):
        return "non-text"
    return None


def _measured(fields: Mapping[str, Any]) -> str | None:
    """Answers that depend on more than meaning: token probabilities, a predicted text, the prompt itself."""
    if fields.get("prediction") is not None:
        return "prediction"
    include = fields.get("include")
    wanted = isinstance(include, list) and "message.output_text.logprobs" in include
    if wanted or _asks(fields.get("logprobs")) or fields.get("top_logprobs"):
        return "logprobs"
    return "echo" if any(_asks(fields.get(key)) for key in _ECHOES) else None


def _asks(value: Any) -> bool:
    """Whether a field is set: 0 is a number of alternatives to list, and asks for the chosen one."""
    return value is not None and value is not False


def _hosted(tools: Any) -> bool:
    """Whether any tool runs at the provider: its result depends on when it ran."""
    if not isinstance(tools, list):
        return False
    return any(isinstance(tool, dict) and tool.get("type", "function") not in _OWN_TOOLS for tool in tools)


def _stateful(fields: Mapping[str, Any], items: Iterable[Any]) -> bool:
    """Whether the answer depends on state that the body only names."""
    if any(fields.get(key) is not None for key in ("previous_response_id", "conversation", "prompt")):
        return True
    if fields.get("background") or _hosted(fields.get("tools")):
        return True
    return any(isinstance(item, dict) and item.get("type") == "item_reference" for item in items)
