"""A second opinion on a candidate, learned from labelled pairs. It may only withhold a hit that the guard allows."""

from pathlib import Path

from gateway.interfaces import Verifier
from gateway.verifier.files import load as _load

__all__ = ["load"]


def load(path: Path, embedder: str) -> Verifier:
    """The verifier in a folder. Raises Invalid where it is unreadable, or trained for another embedder."""
    return _load(path, embedder)
