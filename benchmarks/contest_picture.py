"""The picture of the contest: bars of rows a second, readable on white and on black."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchmarks.contest_figures import Data, Figure

WIDTH = 880
_LEFT, _RIGHT = 240, 710
_BAR, _STEP, _HEAD = 16, 24, 34

# Middle tones, with a contrast of about 4 to white and to black; nobody knows what is behind the picture.
_INK, _OURS, _OTHERS, _FLOOR = "#808080", "#3b82c4", "#c27c0e", "#808080"


@dataclass(frozen=True, slots=True)
class Bars:
    """What is drawn: for each file the ways with known figures, and how a way is called."""

    figures: Mapping[Data, Sequence[Figure]]
    names: Mapping[str, str]
    ours: frozenset[str]
    floor: str


def svg(bars: Bars) -> str:
    """Return the picture as SVG: all bars in one scale; what is extrapolated is hollow."""
    known = {data: [item for item in items if item.is_known] for data, items in bars.figures.items()}
    top = max((item.rate for items in known.values() for item in items), default=1.0)
    parts: list[str] = []
    y = 12.0
    for data, items in known.items():
        parts += _panel(bars, data, items, y, top)
        y += _HEAD + _STEP * len(items) + 10
    title = "Rows a second of whole jobs, by way"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" width="{WIDTH}" height="{y:.0f}" '
        f'role="img" font-family="system-ui, sans-serif"><title>{title}</title>{"".join(parts)}</svg>\n'
    )


def _panel(bars: Bars, data: Data, items: Sequence[Figure], y: float, top: float) -> Iterator[str]:
    yield _text(16, y + 12, f"{data.label}: rows a second", size=14, weight="bold")
    for place, item in enumerate(items):
        yield from _bar(bars, item, y + _HEAD + place * _STEP, top)


def _bar(bars: Bars, item: Figure, y: float, top: float) -> Iterator[str]:
    colour = _FLOOR if item.way == bars.floor else _OURS if item.way in bars.ours else _OTHERS
    length = max((_RIGHT - _LEFT) * item.rate / top, 1.0)
    hollow = item.measured is not None
    look = f'fill="none" stroke="{colour}" stroke-dasharray="4 3"' if hollow else f'fill="{colour}"'
    yield _text(_LEFT - 8, y + 12, bars.names[item.way], anchor="end")
    yield f'<rect x="{_LEFT}" y="{y:.1f}" width="{length:.1f}" height="{_BAR}" {look}/>'
    yield _text(_LEFT + length + 6, y + 12, f"{item.rate:,.0f}{' (extrapolated)' if hollow else ''}")


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{_INK}">{escape(text)}</text>'
    )
