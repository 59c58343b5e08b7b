"""Two curves over a stream of requests, as SVG written by hand: no plotting library for one picture."""

from collections.abc import Sequence
from html import escape

from bench.offload.replay import Point

WIDTH, HEIGHT, EDGE = 640, 320, 48


def curves(title: str, points: Sequence[Point], floor: float) -> str:
    """Offloaded share (left axis, 0 to 1) and cumulative loss (right axis, 0 to twice the floor)."""
    last = points[-1].seen

    def line(values: Sequence[float], top: float, colour: str) -> str:
        places = " ".join(
            f"{_x(point.seen, last):.1f},{_y(value / top):.1f}"
            for point, value in zip(points, values, strict=True)
        )
        return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>'

    body = [
        f'<rect x="{EDGE}" y="{EDGE}" width="{WIDTH - 2 * EDGE}" height="{HEIGHT - 2 * EDGE}" fill="none" stroke="#999"/>',
        f'<line x1="{EDGE}" x2="{WIDTH - EDGE}" y1="{_y(0.5)}" y2="{_y(0.5)}" stroke="#c33" stroke-dasharray="4"/>',
        line([point.offloaded for point in points], 1.0, "#27c"),
        line([point.loss for point in points], 2 * floor, "#c33"),
        _text(EDGE, 20, title),
        _text(EDGE, 38, "blue: offloaded share, 0 to 1"),
        _text(WIDTH // 2, 38, f"red: cumulative quality loss, 0 to {2 * floor:.2f}; dashed: the floor"),
        _text(EDGE, HEIGHT - 20, f"0 to {last} requests"),
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    return "\n".join([head, *body, "</svg>"]) + "\n"


def _x(seen: int, last: int) -> float:
    return EDGE + (WIDTH - 2 * EDGE) * seen / last


def _y(share: float) -> float:
    return HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * min(1.0, max(0.0, share))


def _text(x: int, y: int, said: str) -> str:
    return f'<text x="{x}" y="{y}" font-size="12">{escape(said)}</text>'
