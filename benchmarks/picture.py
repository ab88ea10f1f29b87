"""Charts as SVG, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "bars", "curves"]

# All sizes are in user units of SVG.
WIDTH = 860
LABELS = 250  # for the names
FIGURES = 185  # for the text after the longest bar
ROW, BAR = 24, 14
TOP = 58

STYLE = """\
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, sans-serif; fill: #1f2328 }
  .title { font-size: 16px; font-weight: 600 }
  .note { fill: #59636e; stroke: #ffffff; stroke-width: 4px; paint-order: stroke }
  .page { fill: #ffffff }
  .ours { fill: #0969da }
  .peer { fill: #afb8c1 }
  .mark { stroke: #59636e; stroke-dasharray: 3 3 }
  .curve { fill: none; stroke-width: 2.5 }
  .curve.ours { stroke: #0969da; fill: none } .curve.peer { stroke: #afb8c1; fill: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .note { fill: #9198a1; stroke: #0d1117 }
    .page { fill: #0d1117 }
    .ours { fill: #4493f8 }
    .peer { fill: #656c76 }
    .curve.ours { stroke: #4493f8 } .curve.peer { stroke: #656c76 }
    .mark { stroke: #9198a1 }
  }"""


@dataclass(frozen=True)
class Bar:
    """
    A bar.

    Args:
        name: The text before it.
        value: Its length.
        figure: The text after it.
        ours: Whether it has the color of datastream-ws.

    """

    name: str
    value: float
    figure: str
    ours: bool


def bars(title: str, note: str, found: Sequence[Bar], mark: float | None = None) -> str:
    """
    Return a chart of bars in the given order, on a linear scale from 0.

    Args:
        title: The title.
        note: The line below the title.
        found: The bars.
        mark: The value of a dashed line. ``None`` draws no line.

    """
    most = max(bar.value for bar in found)
    scale = (WIDTH - LABELS - FIGURES) / most
    height = TOP + ROW * len(found) + 16
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">',
        f"<style>\n{STYLE}\n</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
        text(16, 26, title, "title"),
        text(16, 45, note, "note"),
    ]
    if mark is not None:
        x = LABELS + mark * scale
        lines.append(f'<path class="mark" d="M{x:.1f} {TOP}V{height - 12}"/>')
    for number, bar in enumerate(found):
        lines += row(bar, TOP + ROW * number, scale)
    return "\n".join([*lines, "</svg>", ""])


def row(bar: Bar, top: float, scale: float) -> list[str]:
    middle = top + ROW / 2
    kind = "ours" if bar.ours else "peer"
    length = max(1.0, bar.value * scale)
    return [
        text(LABELS - 10, middle + 4.5, bar.name, anchor="end"),
        f'<rect class="{kind}" x="{LABELS}" y="{middle - BAR / 2}" width="{length:.1f}" '
        f'height="{BAR}" rx="2"/>',
        text(LABELS + length + 8, middle + 4.5, bar.figure, "note"),
    ]


def text(x: float, y: float, what: str, kind: str = "", anchor: str = "") -> str:
    words = [f'x="{x:.1f}" y="{y:.1f}"']
    words += [f'class="{kind}"'] if kind else []
    words += [f'text-anchor="{anchor}"'] if anchor else []
    return f"<text {' '.join(words)}>{escape(what)}</text>"


def curves(
    title: str, note: str, found: Mapping[str, Sequence[tuple[float, float]]], ours: str = "ours"
) -> str:
    """
    Return a chart of curves over a logarithmic scale, with a dashed line at 1.

    Args:
        title: The title.
        note: The line below the title.
        found: The points (x, y) of each curve, by its name.
        ours: The beginning of the names that have the color of datastream-ws.

    """
    height, left, right, bottom = 420, 60, WIDTH - LABELS + 40, 360
    xs = sorted({x for points in found.values() for x, _ in points})
    most = max(y for points in found.values() for _, y in points) * 1.05
    low, span = math.log(xs[0]), math.log(xs[-1] / xs[0])

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (math.log(x) - low) / span * (right - left), bottom - y / most * (
            bottom - TOP
        )

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">',
        f"<style>\n{STYLE}\n</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
        text(16, 26, title, "title"),
        text(16, 45, note, "note"),
        f'<path class="mark" d="M{left} {at(xs[0], 1)[1]:.1f}H{right}"/>',
    ]
    lines += [text(at(x, 0)[0], bottom + 22, f"{x:,.0f} B", anchor="middle") for x in xs]
    lines += [
        text(left - 10, at(xs[0], y)[1] + 4, str(y), anchor="end") for y in range(int(most) + 1)
    ]
    ends = sorted(found, key=lambda name: found[name][-1][1], reverse=True)
    for place, name in enumerate(ends):
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (at(*point) for point in found[name]))
        kind = "ours" if name.startswith(ours) else "peer"
        lines.append(f'<path class="curve {kind}" d="M{path}"/>')
        level = at(*found[name][-1])[1]
        apart = at(xs[-1], found[ends[0]][-1][1])[1] + 20 * place
        lines.append(text(right + 12, max(level, apart) + 4, name))
    return "\n".join([*lines, "</svg>", ""])
