"""`python -m bench.offload.icl`: can a 270M base model answer BANKING77 messages, given examples, and which?

The answer is the intent's label. Stored are past messages with their labels, as a large model would have given
them; our selector has seen further messages answered by the large model (hindsight), and learns from each of its
own outcomes. Answers are kept by prompt, so that a second run calls the engine for new prompts only.
"""

import argparse
import hashlib
import json
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bench.accuracy.measure import Table
from bench.offload.data import DATA, ROOT, Array, Messages, banking
from examples.engine import start
from gateway.embedding.sentence import SentenceEmbedder
from gateway.offload.examples import Example
from gateway.offload.prompt import compose, example_tokens
from gateway.offload.selector import Asked, Selection, Selector

STORED = 3000
CANDIDATES = 20
ROOM = 1500  # tokens
PORT = 9391

Choose = Callable[[Asked, Array], Selection | Sequence[Example]]


class Engine:
    """Asks the small model, and remembers what it said to which prompt."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "icl-answers.jsonl"
        lines = self._path.read_bytes().splitlines() if self._path.is_file() else []
        self._known: dict[str, tuple[str, int]] = {
            key: (said, n) for key, said, n in map(orjson.loads, lines)
        }
        self._server: object = None

    def ask(self, body: dict[str, Any]) -> tuple[str, int]:
        """(answer, tokens of the prompt)."""
        sent = json.dumps(body, sort_keys=True).encode()
        key = hashlib.sha256(sent).hexdigest()[:24]
        if key not in self._known:
            self._known[key] = self._call(sent)
            with self._path.open("ab") as out:
                out.write(orjson.dumps([key, *self._known[key]]) + b"\n")
        return self._known[key]

    def _call(self, sent: bytes) -> tuple[str, int]:
        if self._server is None:
            weights = Path.home() / ".cache" / "semantic-gateway" / "weights"
            self._server = start(PORT, weights, slots=1, threads=1)
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/chat/completions", sent, headers)
        with urllib.request.urlopen(request, timeout=120) as reply:
            whole = json.loads(reply.read())
        return whole["choices"][0]["message"]["content"], whole["usage"]["prompt_tokens"]


@dataclass(slots=True)
class Score:
    right: list[bool] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    examples: list[int] = field(default_factory=list)


class Trial:
    """The stored examples and the messages, cut the same way for all contenders."""

    def __init__(self, messages: Messages, seed: int = 0) -> None:
        self.messages = messages
        self.stored = [
            Example(n, "t", "large", "support", text, label, example_tokens(text, label), 0.001, created=0.0)
            for n, (text, label) in enumerate(
                zip(messages.texts[:STORED], messages.labels[:STORED], strict=True)
            )
        ]
        self.rng = np.random.default_rng(seed)
        self.selector = Selector(rng=self.rng)

    def near(self, vector: Array) -> list[tuple[Example, float]]:
        similarity = self.messages.vectors[:STORED] @ vector
        return [(self.stored[at], float(similarity[at])) for at in np.argsort(-similarity)[:CANDIDATES]]

    def teach(self, start: int, stop: int) -> None:
        """Hindsight: messages that the large model answered, no call of the small one."""
        for at in range(start, min(stop, len(self.messages.texts))):
            selection = self.ours(self.asked(at), self.messages.vectors[at])
            self.selector.hindsight(selection, self.messages.labels[at])

    def asked(self, at: int) -> Asked:
        text = self.messages.texts[at]
        return Asked.of(text, len(text) // 4, "support")

    def nearest(self, asked: Asked, vector: Array) -> list[Example]:
        return [example for example, _ in self.near(vector)[:5]][::-1]

    def random(self, asked: Asked, vector: Array) -> list[Example]:
        return [self.stored[at] for at in self.rng.choice(STORED, 5, replace=False)]

    def alone(self, asked: Asked, vector: Array) -> list[Example]:
        return []

    def ours(self, asked: Asked, vector: Array) -> Selection:
        return self.selector.select(asked, self.near(vector), ROOM)


def run(trial: Trial, choose: Choose, engine: Engine, count: int, first: int = STORED) -> Score:
    score = Score()
    for at in range(first, first + count):
        chosen = choose(trial.asked(at), trial.messages.vectors[at])
        examples = chosen.examples if isinstance(chosen, Selection) else chosen
        fields = {"messages": [{"role": "user", "content": trial.messages.texts[at]}], "temperature": 0}
        body = compose("chat", {**fields, "max_tokens": 16, "stop": ["\n"]}, "gemma-3-270m", examples)
        assert body is not None
        said, tokens = engine.ask(body)
        right = said.strip() == trial.messages.labels[at]
        if isinstance(chosen, Selection):
            trial.selector.learn(chosen, float(right), said.strip())
        score.right.append(right)
        score.tokens.append(tokens)
        score.examples.append(len(examples))
    return score


def main() -> None:
    options = _options()
    messages = banking(options.data, SentenceEmbedder(cache=options.cache / "models"), options.cache)
    trial, engine = Trial(messages), Engine(options.cache)
    trial.teach(STORED + 300, STORED + 300 + options.taught)
    table = Table(
        "icl",
        f"Gemma 3 270M base on {options.messages} BANKING77 messages, {STORED} stored examples",
        ("examples", "right %", "± (95 %)", "prompt tokens", "examples in prompt"),
    )
    contenders: dict[str, Choose] = {
        "none": trial.alone,
        "random": trial.random,
        "nearest 5": trial.nearest,
        "ours": trial.ours,
    }
    for name, choose in contenders.items():
        score = run(trial, choose, engine, options.messages)
        share = float(np.mean(score.right))
        spread = 1.96 * float(np.sqrt(share * (1 - share) / len(score.right)))
        figures = (100 * share, 100 * spread, np.mean(score.tokens), np.mean(score.examples))
        table.rows.append([name, *(f"{figure:.1f}" for figure in figures)])
        print(table.rows[-1], flush=True)
    print(table.markdown())
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "icl.csv").write_text(table.csv(), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.offload.icl", description=__doc__)
    parser.add_argument("--messages", type=int, default=300)
    parser.add_argument(
        "--taught", type=int, default=1500, help="messages answered by the large model before"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the labelled data")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/offload", help="CSV")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / "bench/results/cache", help="model, vectors, answers"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
