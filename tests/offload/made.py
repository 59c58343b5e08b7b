"""Examples as the tests need them: a clock that is told the time, and defaults for what does not matter."""

from gateway.offload.examples import Example


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def example(id: int = 1, **fields: object) -> Example:
    defaults = {
        "tenant": "a",
        "model": "large",
        "category": "support",
        "question": f"what about number {id}",
        "answer": f"answer {id}",
        "tokens": 20,
        "cost": 0.01,
        "created": 1000.0,
    }
    return Example(id, **(defaults | fields))  # type: ignore[arg-type]
