"""Figures over time as a plain SVG: panels above each other, one line in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 840, 110
"""Pixels of a panel's line."""

LEFT, TOP = 64, 34


@dataclass(frozen=True)
class Panel:
    """One figure; ``values`` go with the seconds that `draw` gets."""

    title: str
    values: Sequence[float]


def draw(
    file: Path,
    title: str,
    seconds: Sequence[float],
    panels: Sequence[Panel],
    marks: Sequence[tuple[float, str]],
) -> None:
    """Writes the panels, each from 0 up. ``marks``: moments at which something was done."""
    end = max(seconds[-1], 1.0)
    step = HEIGHT + TOP
    height = TOP + step * len(panels) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 16}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{LEFT}" y="18" font-weight="bold">{escape(title)}</text>',
    ]

    def across(second: float) -> float:
        return LEFT + WIDTH * second / end

    for number, panel in enumerate(panels):
        top = TOP + step * number + 16
        most = max(*panel.values, 1) * 1.1

        def down(value: float, top: float = top, most: float = most) -> float:
            return top + HEIGHT * (1 - value / most)

        points = " ".join(
            f"{across(s):.1f},{down(v):.1f}" for s, v in zip(seconds, panel.values, strict=True)
        )
        lines = [
            f'<path d="M{across(at):.1f} {top}v{HEIGHT}" stroke="#e3e3e3"/>' for at, _ in marks
        ]
        highest = max(panel.values)
        parts += [
            f'<text x="{LEFT}" y="{top - 4}">{escape(panel.title)}</text>',
            *lines,
            f'<path d="M{LEFT} {top}v{HEIGHT}h{WIDTH}" stroke="#888" fill="none"/>',
            f'<text x="{LEFT - 6}" y="{down(highest) + 4:.0f}" text-anchor="end">'
            f"{highest:g}</text>",
            f'<text x="{LEFT - 6}" y="{top + HEIGHT}" text-anchor="end">0</text>',
            f'<polyline points="{points}" fill="none" stroke="#06c" stroke-width="1.5"/>',
        ]
    bottom = height - 14
    minutes = int(end // 60)
    for minute in range(0, minutes + 1, max(1, minutes // 10)):
        parts.append(
            f'<text x="{across(60 * minute):.0f}" y="{bottom}" text-anchor="middle">{minute}</text>'
        )
    parts += [f'<text x="4" y="{bottom}">minutes</text>', "</svg>"]
    file.write_text("\n".join(parts) + "\n")
