"""Draws the points of catalogue.py as SVG text: time of a step over the size of the catalogue, both by powers of 10."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 44, 52
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600 }
  .quiet { fill: #57606a }
  .grid { stroke: #d0d7de; stroke-width: 1 }
  .line { fill: none; stroke-width: 2.5; stroke-linejoin: round }
  .cross { stroke: #57606a; stroke-dasharray: 4 4 }
  .c0 { stroke: #8250df } .c1 { stroke: #bc4c00 } .c2 { stroke: #0969da }
  .f0 { fill: #8250df } .f1 { fill: #bc4c00 } .f2 { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .quiet { fill: #9198a1 } .grid { stroke: #3d444d } .cross { stroke: #9198a1 }
    .c0 { stroke: #d2a8ff } .c1 { stroke: #ffa657 } .c2 { stroke: #79c0ff }
    .f0 { fill: #d2a8ff } .f1 { fill: #ffa657 } .f2 { fill: #79c0ff }
  }
"""


class _Axes:
    """Where a value lies in the drawing; both axes span whole powers of ten or what is measured."""

    def __init__(self, items: Sequence[float], seconds: Sequence[float]) -> None:
        self.items = min(items), max(items)
        self.powers = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))

    def x(self, items: float) -> float:
        """Return the distance from the left."""
        first, last = map(math.log10, self.items)
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(items) - first) / (last - first)

    def y(self, seconds: float) -> float:
        """Return the distance from the top."""
        low, high = self.powers
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (math.log10(seconds) - low) / (high - low)


def figure(report: Mapping[str, Any], names: Sequence[str], targets: int) -> str:
    """Return the figure of a report: a line for each of at most three losses, and the crossings as dashed lines."""
    points = [point for point in report["points"] if point["targets"] == targets and point["name"] in names]
    axes = _Axes([point["items"] for point in points], [point["seconds"] for point in points])
    title = f"CPU time of one step of the loss, {targets:,} targets, one thread"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{title}</title><style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="20">{title}</text>',
        *_grid(axes),
        *_crossings(report["crossover"], axes, targets),
    ]
    ends = []
    for at, name in enumerate(names):
        mine = sorted((p["items"], p["seconds"]) for p in points if p["name"] == name)
        places = " ".join(f"{axes.x(items):.1f},{axes.y(seconds):.1f}" for items, seconds in mine)
        parts.append(f'<polyline class="line c{at}" points="{places}"/>')
        parts += [f'<circle class="f{at}" cx="{p[0]}" cy="{p[1]}" r="3.5"/>' for p in map(_pair, places.split())]
        ends.append((axes.y(mine[-1][1]), at, name))
    parts += _labels(ends, axes)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _pair(place: str) -> list[str]:
    return place.split(",")


def _grid(axes: _Axes) -> list[str]:
    parts = []
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for power in range(axes.powers[0], axes.powers[1] + 1):
        y = axes.y(10.0**power)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="quiet" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_time(10.0**power)}</text>'
        )
    first, last = (math.log10(size) for size in axes.items)
    for power in range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1):
        x = axes.x(10.0**power)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        label = f'<text class="quiet" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{_count(10**power)}</text>'
        parts.append(label)
    middle = (LEFT + right) / 2
    return [*parts, f'<text class="quiet" x="{middle}" y="{bottom + 38}" text-anchor="middle">items</text>']


def _crossings(crossings: Sequence[Mapping[str, Any]], axes: _Axes, targets: int) -> list[str]:
    parts = []
    for found in crossings:
        if found["items"] is None or found["targets"] != targets:
            continue
        x, up = axes.x(found["items"]), TOP - 8
        parts.append(f'<line class="cross" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="quiet" x="{x:.1f}" y="{up}" text-anchor="middle">{_count(found["items"])}</text>')
    return parts


def _labels(ends: Sequence[tuple[float, int, str]], axes: _Axes) -> list[str]:
    """Name the lines at their right ends, from the top, apart enough to be read."""
    parts, free = [], 0.0
    for y, at, name in sorted(ends):
        free = max(y + 4, free + 17)
        parts.append(f'<text class="f{at}" x="{axes.x(axes.items[1]) + 10:.1f}" y="{free:.1f}">{name}</text>')
    return parts


def _time(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def _count(items: float) -> str:
    if items >= 1e6:
        return f"{items / 1e6:g}M"
    return f"{float(f'{items / 1000:.2g}'):g}k" if items >= 1000 else f"{items:.0f}"
