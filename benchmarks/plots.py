"""Plots as SVG, a line for each series: text that a page can show and a diff can tell apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 36, 48
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280")
GREY = "#808080"
"""Seen on a light page and on a dark one."""

Series = Mapping[str, Sequence[tuple[float, float]]]


def plot(title: str, across: str, up: str, series: Series, *, marks: Sequence[float] = ()) -> str:
    """A plot of points ``(x, y)``, y from 0; ``marks`` are the places along x that are named."""
    points = [point for line in series.values() for point in line]
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    step = _step(max(y for _, y in points) or 1.0)
    top = step * math.ceil((max(y for _, y in points) or 1.0) / step)

    def at(x: float, y: float) -> tuple[float, float]:
        place = LEFT + (x - first) / ((last - first) or 1.0) * (WIDTH - LEFT - RIGHT)
        return place, HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    out = [_text(LEFT, 20, title, size=14), _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, across, "middle"),
           _text(14, HEIGHT / 2, up, "middle", turn=-90)]  # fmt: skip
    for number in range(round(top / step) + 1):
        _, y = at(first, number * step)
        out.append(f'<path d="M{LEFT},{y:.1f}H{WIDTH - RIGHT}" stroke="{GREY}" stroke-opacity="0.3"/>')
        out.append(_text(LEFT - 6, y + 4, f"{number * step:g}", "end"))
    out += [_text(at(mark, 0)[0], HEIGHT - BOTTOM + 18, f"{mark:g}", "middle") for mark in marks]
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in line)
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{places}"/>')
        out.append(_text(WIDTH - RIGHT + 10, TOP + 16 + 18 * number, name, colour=colour))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    return "\n".join([head, *out, "</svg>", ""])


def _text(x: float, y: float, said: str, anchor: str = "start", *, size: int = 12, turn: int = 0,
          colour: str = GREY) -> str:  # fmt: skip
    turned = f' transform="rotate({turn} {x:g} {y:g})"' if turn else ""
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{turned}>'
            f"{escape(said)}</text>")  # fmt: skip


def _step(most: float) -> float:
    """The distance of the grid's lines: 1, 2 or 5 times a power of ten, four to ten of them."""
    power = 10.0 ** math.floor(math.log10(most))
    return next(power * share for share in (0.1, 0.2, 0.5, 1.0, 2.0) if most / (power * share) <= 6)
