"""What users and applications say of answers, taken to all who learn from it.

Decides which answer is meant and what the verdict weighs. It must never take a verdict of another tenant.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from gateway.cache.cache import Cache
from gateway.errors import BadRequest, NotFound
from gateway.offload.room import Offloading
from gateway.record import Receipts
from gateway.sampling import Sampling
from gateway.savings import Savings


class Feedback:
    """Verdicts, by the request id of the response.

    Args:
        ask: the other replicas, whose responses may be meant; None: there are none.
    """

    def __init__(
        self,
        receipts: Receipts,
        cache: Cache,
        sampling: Sampling,
        offloading: Offloading,
        savings: Savings,
        ask: Callable[[Any], Awaitable[Any]] | None = None,
    ) -> None:
        self._ask = ask
        self._receipts = receipts
        self._cache = cache
        self._sampling = sampling
        self._offloading = offloading
        self._savings = savings

    async def take(self, tenant: str, given: Any) -> dict[str, Any]:
        """A verdict on an answer, by the request id of its response.

        One for each: the same again counts once, another replaces what was said before. A bad one removes what
        was stored; a semantic hit's entry stays for those it was right for, but is never served again to this
        question or its near neighbours.
        """
        if not isinstance(given, dict) or not isinstance(given.get("request_id"), str):
            raise BadRequest("Give the request_id of the response.", param="request_id")
        verdict = given.get("verdict")
        if verdict not in ("good", "bad"):
            raise BadRequest("The verdict is 'good' or 'bad'.", param="verdict")
        outcome = _outcome(verdict, given.get("score"))
        taken = await self._take(tenant, given["request_id"], verdict, outcome)
        if taken is None and self._ask is not None:
            taken = await self._ask([tenant, given["request_id"], verdict, outcome])
        if not isinstance(taken, dict):
            raise NotFound("No answer with this request id is known.", code="request_not_found")
        return taken

    async def answer(self, asked: Any) -> dict[str, Any] | None:
        """The same for another replica, that does not know the request."""
        tenant, request_id, verdict, outcome = asked
        return await self._take(tenant, request_id, verdict, outcome)

    async def _take(self, tenant: str, id: str, verdict: str, outcome: float) -> dict[str, Any] | None:
        receipt = self._receipts.find(tenant, id)
        if receipt is None:
            return None
        if verdict == "bad" and (credit := self._receipts.void(tenant, id)) is not None:
            self._savings.void(credit)
        if receipt.pair is not None:
            before = self._receipts.judged(tenant, id, verdict)
            if verdict != before:
                await self._sampling.told(
                    receipt.category,
                    tenant,
                    receipt.statistic,
                    wrong=verdict == "bad",
                    entry=receipt.entry,
                    pair=receipt.pair,
                    instead=before,
                )
            return {"request_id": id, "verdict": verdict, "removed": 0}
        if receipt.decision in ("offload", "forward"):
            self._offloading.label(tenant, id, outcome)
        removed = 0
        if verdict == "bad" and receipt.entry is not None:
            entries = self._cache.matching(lambda entry: entry.id == receipt.entry and entry.tenant == tenant)
            self._cache.forget(entries)
            removed = len(entries)
        return {"request_id": id, "verdict": verdict, "removed": removed}


def _outcome(verdict: str, score: Any) -> float:
    """How good an answer was, in [0, 1]: the application's own score, or its verdict."""
    if score is None:
        return 1.0 if verdict == "good" else 0.0
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise BadRequest("The score is a number from 0 to 1.", param="score")
    return float(score)
