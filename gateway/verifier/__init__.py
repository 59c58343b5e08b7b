"""A second opinion on a candidate, learned from labelled pairs. It may only withhold what the guard's facts allow.

`load` brings a trained one; `train`, in its own module as it needs scikit-learn and torch, makes one.
"""

from gateway.verifier.model import load

__all__ = ["load"]
