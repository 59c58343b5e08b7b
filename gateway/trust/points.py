"""Operating points of a category from what was found wrong: for its budget, and for what load may spend.

Pure. It must never give a point that the number of look-ups does not certify.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gateway.calibration import operating_point

STEPS = 4  # of the error that load may spend


@dataclass(frozen=True, slots=True)
class Points:
    """Thresholds of the statistic: for each step of risk, and the one for twice the error."""

    steps: tuple[float, ...]  # never rising
    low: float


def risks(max_error: float, load_max_error: float | None) -> tuple[float, ...]:
    """The errors bounded, from no load to full load in equal steps; one alone where load may spend nothing."""
    if load_max_error is None or load_max_error <= max_error:
        return (max_error,)
    return tuple(np.linspace(max_error, load_max_error, STEPS + 1).tolist())


def points(
    wrong: Sequence[float],
    weights: Sequence[float],
    lookups: int,
    bound: float,
    max_error: float,
    load_max_error: float | None = None,
    floor: float = -1.0,
) -> Points | None:
    """What `lookups` look-ups certify, of which those judged wrong had statistics `wrong` (n,) and weights 1/q (n,).

    Conformal risk control by `calibration.operating_point`. None where there are too few for `max_error`.
    """
    statistics = np.asarray(wrong, dtype=np.float64)
    lost = np.asarray(weights, dtype=np.float64)
    always = np.ones(len(statistics), dtype=np.bool_)

    def at(risk: float) -> float | None:
        found = operating_point(statistics, always, risk, weights=lost, bound=bound, examples=lookups)
        return None if found is None else max(found, floor)

    steps = [at(risk) for risk in risks(max_error, load_max_error)]
    certified = tuple(step for step in steps if step is not None)
    if len(certified) < len(steps):
        return None
    return Points(certified, at(min(2 * max_error, 0.999)) or certified[0])
