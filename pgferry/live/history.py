"""The validations of a move over the nights: a chart as an SVG picture, and a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from pgferry.live.model import ValidationRecord
from pgferry.report import markdown_table

WIDTH, HEIGHT = 880, 430
_LEFT, _RIGHT = 96, 864

# Middle tones: each is readable on white and on black (contrast of 4 and more), and told apart without colour by place.
_INK, _GRID = "#808080", "#80808055"
_GOOD, _BAD, _TIME = "#2e8b57", "#d9534f", "#3b82c4"

_LABELS = 8
"""Dates that are written below the chart, at the most."""


@dataclass(frozen=True, slots=True)
class _Panel:
    """A strip of the chart: what it shows, and its place."""

    title: str
    top: int
    bottom: int
    value: Callable[[ValidationRecord], float]
    shown: Callable[[float], str]
    colour: Callable[[ValidationRecord], str]


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _seconds(value: float) -> str:
    return f"{value:,.1f} s" if value < 100 else f"{value:,.0f} s"


_PANELS = (
    _Panel("rows compared", 58, 150, lambda night: night.rows, _count, lambda night: _GOOD if night.passed else _BAD),
    _Panel("differences", 190, 270, lambda night: night.differences, _count, lambda night: _BAD),
    _Panel("duration", 310, 380, lambda night: night.seconds, _seconds, lambda night: _TIME),
)


def chart(nights: Sequence[ValidationRecord], title: str = "Validations") -> str:
    """Return the chart of validations, in any order, as SVG: oldest left; rows compared, differences and duration."""
    ordered = sorted(nights, key=lambda night: (night.moment, night.id))
    heading = f"{title}: {_verdict(ordered)}"
    parts = [_text(_LEFT - 80, 20, heading, size=14, weight="bold")]
    for panel in _PANELS:
        parts += _panel(panel, ordered)
    parts += _dates(ordered)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" font-family="system-ui, sans-serif"><title>{escape(heading)}</title>{"".join(parts)}</svg>'
    )


def history_table(nights: Sequence[ValidationRecord]) -> str:
    """Return the validations as a table in Markdown, newest first."""
    head = ["validation", "moment (UTC)", "result", "level", "rows", "differences", "quarantined", "orphans",
            "seconds", "direction"]  # fmt: skip
    ordered = sorted(nights, key=lambda night: (night.moment, night.id), reverse=True)
    return markdown_table(head, [_row(night) for night in ordered])


def _row(night: ValidationRecord) -> list[str]:
    sample = f" {night.sample_percent:g} %" if night.sample_percent is not None else ""
    return [
        str(night.id),
        f"{night.moment:%Y-%m-%d %H:%M:%S}",
        "passed" if night.passed else "**differs**",
        f"{night.level}{sample}",
        f"{night.rows:,}",
        f"{night.differences:,}",
        f"{night.quarantined:,}",
        f"{night.orphans:,}",
        f"{night.seconds:,.1f}",
        str(night.direction),
    ]


def _verdict(ordered: Sequence[ValidationRecord]) -> str:
    if not ordered:
        return "none yet"
    row = next((n for n, night in enumerate(reversed(ordered)) if not night.passed), len(ordered))
    return f"the latest differs, {len(ordered)} in all" if row == 0 else f"{row} passed in a row, {len(ordered)} in all"


def _panel(panel: _Panel, ordered: Sequence[ValidationRecord]) -> Iterator[str]:
    most = max((panel.value(night) for night in ordered), default=0.0)
    yield _text(_LEFT - 80, panel.top - 14, panel.title, size=12)
    for place, value in ((panel.top, most), (panel.bottom, 0.0)):
        yield f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{place}" y2="{place}" stroke="{_GRID}"/>'
        if value or place == panel.bottom:
            yield _text(_LEFT - 8, place + 4, panel.shown(value), size=11, anchor="end")
    if ordered and not most:
        yield _text((_LEFT + _RIGHT) / 2, (panel.top + panel.bottom) // 2, "none", size=11, anchor="middle")
    for number, night in enumerate(ordered):
        yield _bar(panel, number, len(ordered), night, most)


def _bar(panel: _Panel, number: int, count: int, night: ValidationRecord, most: float) -> str:
    value = panel.value(night)
    # What is not zero is seen, however small beside the largest.
    height = max(2.0, (panel.bottom - panel.top) * value / most) if value else 0.0
    width = max(1.0, min(28.0, (_RIGHT - _LEFT) / count * 0.7))
    said = f"{night.moment:%Y-%m-%d %H:%M} UTC, {night.level}: {panel.shown(value)} {panel.title}"
    return (
        f'<rect x="{_middle(number, count) - width / 2:.1f}" y="{panel.bottom - height:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" fill="{panel.colour(night)}"><title>{escape(said)}</title></rect>'
    )


def _middle(number: int, count: int) -> float:
    return _LEFT + (_RIGHT - _LEFT) * (number + 0.5) / count


def _dates(ordered: Sequence[ValidationRecord]) -> Iterator[str]:
    step = -(-len(ordered) // _LABELS) or 1
    for number, night in enumerate(ordered):
        if number % step == 0:
            yield _text(_middle(number, len(ordered)), 404, f"{night.moment:%m-%d %H:%M}", size=11, anchor="middle")


def _text(x: float, y: float, words: str, *, size: int, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{_INK}">{escape(words)}</text>'
    )
