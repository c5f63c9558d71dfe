"""Values over time as a plain SVG: panels one above the other, each with one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

PANEL_WIDTH, PANEL_HEIGHT = 840, 110
LEFT_MARGIN, TOP_MARGIN = 64, 34
RIGHT_MARGIN, BOTTOM_MARGIN = 16, 20
HEADROOM = 1.1
"""How much higher a panel is than its largest value."""

MAX_TIME_LABELS = 10


@dataclass(frozen=True)
class Panel:
    """One line; its ``values`` belong to the ``seconds`` that `write_svg` gets."""

    title: str
    values: Sequence[float]


def write_svg(
    file: Path,
    title: str,
    seconds: Sequence[float],
    panels: Sequence[Panel],
    marks: Sequence[float],
) -> None:
    """Writes the panels, each from 0 upwards, with a grey line at each of ``marks``, in seconds."""
    end = max(seconds[-1], 1.0)
    panel_step = PANEL_HEIGHT + TOP_MARGIN
    width = LEFT_MARGIN + PANEL_WIDTH + RIGHT_MARGIN
    height = TOP_MARGIN + panel_step * len(panels) + BOTTOM_MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{LEFT_MARGIN}" y="18" font-weight="bold">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        parts += _draw_panel(panel, TOP_MARGIN + panel_step * number + 16, seconds, marks, end)
    bottom = height - 14
    minutes = int(end // 60)
    for minute in range(0, minutes + 1, max(1, minutes // MAX_TIME_LABELS)):
        x = _x(60 * minute, end)
        parts.append(f'<text x="{x:.0f}" y="{bottom}" text-anchor="middle">{minute}</text>')
    parts += [f'<text x="4" y="{bottom}">minutes</text>', "</svg>"]
    file.write_text("\n".join(parts) + "\n")


def _x(second: float, end: float) -> float:
    return LEFT_MARGIN + PANEL_WIDTH * second / end


def _draw_panel(
    panel: Panel, top: int, seconds: Sequence[float], marks: Sequence[float], end: float
) -> list[str]:
    """The SVG elements of one panel whose area starts at ``top``."""
    highest = max(panel.values)
    scale = max(highest, 1) * HEADROOM

    def y(value: float) -> float:
        return top + PANEL_HEIGHT * (1 - value / scale)

    points = " ".join(
        f"{_x(second, end):.1f},{y(value):.1f}"
        for second, value in zip(seconds, panel.values, strict=True)
    )
    label = LEFT_MARGIN - 6
    return [
        f'<text x="{LEFT_MARGIN}" y="{top - 4}">{escape(panel.title)}</text>',
        *(
            f'<path d="M{_x(mark, end):.1f} {top}v{PANEL_HEIGHT}" stroke="#e3e3e3"/>'
            for mark in marks
        ),
        f'<path d="M{LEFT_MARGIN} {top}v{PANEL_HEIGHT}h{PANEL_WIDTH}" stroke="#888" fill="none"/>',
        f'<text x="{label}" y="{y(highest) + 4:.0f}" text-anchor="end">{highest:g}</text>',
        f'<text x="{label}" y="{top + PANEL_HEIGHT}" text-anchor="end">0</text>',
        f'<polyline points="{points}" fill="none" stroke="#06c" stroke-width="1.5"/>',
    ]
