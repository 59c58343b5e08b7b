"""Operators' regular expressions: compiled on an engine whose time is linear in the text, whatever they say."""

from typing import Any


def compile_pattern(pattern: str) -> Any:
    """A compiled linear-time regular expression (RE2). Raises ValueError with RE2's reason."""
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0] if error.args else error
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"is no regular expression RE2 accepts: {text}") from None
