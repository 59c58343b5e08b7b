"""Everything that is wrong with a policy book, collected before anything is refused.

A book with one fault changes nothing; the operator sees every fault at once, each with its place.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gateway.errors import Invalid


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong: the file (empty for the API), the path inside it, and the reason."""

    file: str
    path: str
    reason: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.path, self.reason) if part)


class PolicyFaults(Invalid):
    """The book was refused. `faults` lists every reason; the API answers 422 with all of them."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults), code="invalid_policy")

    def body(self) -> dict[str, Any]:
        """OpenAI's error object, with the faults beside the message."""
        body = super().body()
        body["error"]["faults"] = [asdict(fault) for fault in self.faults]
        return body
