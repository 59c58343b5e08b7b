"""A second opinion on a candidate, learned from labelled pairs. It may only withhold a hit that the guard allows."""

from gateway.verifier.files import load

__all__ = ["load"]
