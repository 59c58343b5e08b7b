"""What is done beside the traffic so that small models do better: comparisons, and answers made anew.

Decides when there is time for it. It must never delay a request, never ask a model that is busy with
requests, and never outlive its bounds.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from gateway.asking import Asked, Asker, beside
from gateway.asking import question as chat
from gateway.errors import EmbedderBusy, EmbedderFailed, GatewayError
from gateway.exchange import Exchange
from gateway.judge import Judge
from gateway.offload import gate
from gateway.offload.examples import Example
from gateway.offload.pair import Pair, Plan
from gateway.offload.room import Offloading
from gateway.wire.answer import said

log = logging.getLogger("gateway.rehearsal")
_PRESSED = 0.7  # load of the large model above which nothing is compared
_IDLE = 0.5  # and below which examples are answered anew
_ROUND = 8  # examples a round


@dataclass(frozen=True, slots=True)
class Terms:
    """What rehearsing takes from the configuration."""

    in_flight: int = 2
    replay: bool = True
    seconds: float = 300.0
    of: int = 3
    cutoff: float = 0.0


class Rehearsal:
    """Comparisons of both models' answers, and replays of examples.

    Args:
        keeps: whether policy and caller let the large model's answer to this request be stored.
    """

    def __init__(
        self,
        room: Offloading,
        asker: Asker,
        judge: Judge,
        terms: Terms,
        keeps: Callable[[Exchange], bool],
    ) -> None:
        self._room = room
        self._asker = asker
        self._judge = judge
        self._terms = terms
        self._keeps = keeps
        self._tasks: set[asyncio.Task[None]] = set()
        self.comparisons: Counter[str] = Counter()  # by outcome
        self.replays: Counter[str] = Counter()

    # ── comparisons ─────────────────────────────────────────────────────────────────────────────────────

    def compare(self, x: Exchange) -> None:
        """One model has answered; let the other answer too, where that was drawn and there is time."""
        plan: Plan | None = x.plan
        if plan is None or not plan.choice.compare or "gate" in plan.sources:
            return
        if len(self._tasks) >= self._terms.in_flight:
            self.comparisons["dropped"] += 1
        elif not _calm(plan.pair, _PRESSED):
            self.comparisons["busy"] += 1
        else:
            task = asyncio.get_running_loop().create_task(self._comparison(x, plan))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _comparison(self, x: Exchange, plan: Plan) -> None:
        try:
            agreement = await self._agreement(x, plan)
        except (GatewayError, EmbedderBusy, EmbedderFailed) as error:
            self.comparisons["failed"] += 1
            log.info("nothing was compared: %s", error)
        except Exception:
            self.comparisons["failed"] += 1
            log.exception("a comparison failed")
        else:
            self._room.compared(plan, agreement)
            self.comparisons["better" if agreement >= 0.5 else "worse"] += 1

    async def _agreement(self, x: Exchange, plan: Plan) -> float:
        request = x.request
        assert request is not None
        if plan.small is None:
            asked = self._room.compose(plan, request, stream=False)
            if asked is None:
                raise GatewayError("The request has no place for examples.")
            small = await self._asker.ask(beside(x, asked, "compare"), plan.pair.terms.small)
            whole = orjson.loads(small.answer.body) if small.answer.body else {}
            if gate.check(request.endpoint, request.fields, whole) is not None:
                return 0.0
            plan.small = said(request.endpoint, small.answer.body)
        if plan.large is None:
            large = await self._asker.again(x, "compare")
            self._room.answered(x, large.answer, self._keeps(x), large.cost)
        if plan.small is None or plan.large is None:
            raise GatewayError("One of the answers has no text.")
        return await self._judge.compare(plan.asked.question, plan.large, plan.small, x)

    # ── replays ─────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """A round of replays every so often, for ever."""
        while self._terms.replay:
            await asyncio.sleep(self._terms.seconds)
            await self.replay()

    async def replay(self) -> None:
        """Answer anew the examples that gain most by it, as long as their model has nothing better to do."""
        for example in self._room.examples.replay(self._terms.cutoff, _ROUND):
            pair = self._room.pair_of(example.model)
            if pair is None or not _calm(pair, _IDLE):
                continue
            try:
                await self._replay(example)
            except (GatewayError, EmbedderBusy, EmbedderFailed) as error:
                self.replays["failed"] += 1
                log.info("an example was not answered anew: %s", error)

    async def _replay(self, example: Example) -> None:
        """The best of its answer and a few fresh ones, by how far each is as good as all others."""
        answers = [example.answer]
        for _ in range(self._terms.of):
            fresh = await self._ask(example)
            text = said("chat", fresh.answer.body)
            if fresh.answer.reuse == "semantic" and text:
                answers.append(text)
        scores = await self._scores(example.question, answers)
        best = max(range(len(answers)), key=scores.__getitem__)
        self.replays["same" if answers[best] == example.answer else "better"] += 1
        self._room.replayed(example.id, answers[best], scores[best])

    async def _scores(self, question: str, answers: list[str]) -> list[float]:
        """Mean over all others of how far each answer is as good as they are."""
        sums = [0.0] * len(answers)
        for i, a in enumerate(answers):
            for j in range(i + 1, len(answers)):
                left, right = await self._judge.weigh(question, a, answers[j])
                sums[i] += left
                sums[j] += right
        others = max(1, len(answers) - 1)
        return [total / others for total in sums]

    async def _ask(self, example: Example) -> Asked:
        request = chat(example.model, example.question)
        return await self._asker.ask(beside(None, request, "replay"), example.model)

    async def close(self) -> None:
        """Give up what is in progress."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _calm(pair: Pair, limit: float) -> bool:
    return pair.pressure.excess == 0.0 and pair.load <= limit
