"""Curves over a stream of requests, as PNG: shares on the left axis, quality lost on the right."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from bench.offload.data import Array


def curves(
    path: Path, title: str, seen: Array, shares: Mapping[str, Array], loss: Array, floor: float
) -> None:
    """`seen`, `loss` and each of `shares` (n,); loss as a share, drawn in points up to twice the floor."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    left = figure.subplots()
    for name, share in shares.items():
        left.plot(seen, 100 * share, label=f"offloaded, {name}")
    left.set(title=title, xlabel="requests", ylabel="offloaded so far, %", ylim=(0, 100), xlim=(0, seen[-1]))
    right = left.twinx()
    right.plot(seen, 100 * loss, color="tab:red", label="quality lost (right)")
    right.axhline(100 * floor, color="tab:red", linestyle="--", label="max_quality_loss (right)")
    right.set(ylabel="points lost against always large, so far", ylim=(min(0, 100 * loss.min()), 200 * floor))
    lines = [*left.get_lines(), *right.get_lines()]
    left.legend(lines, [line.get_label() for line in lines], loc="upper left", fontsize="small")
    figure.savefig(path)
