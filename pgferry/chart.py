"""Charts of numbers over time, as SVG pictures that Markdown can hold: readable on white and on black."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 880, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 96, 864, 52, 222

# Middle tones, with a contrast of about 4 to white and to black; a picture in Markdown does not know what is behind it.
_INK, _GRID, _LIMIT = "#808080", "#80808055", "#d9534f"
_COLOURS = ("#3b82c4", "#2e8b57", "#c27c0e", "#9a67c9", "#0e8f9c", "#c2577f")

MOST_LINES = len(_COLOURS)
"""Lines that a chart can tell apart."""

_UNSEEN = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")

Point = tuple[datetime, float]
Shown = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Line:
    """A named row of points, in the order of time."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn: lines over a time, in one unit.

    `top` is the least that the axis reaches to; `limit`, where there is one, is drawn as a line that is not to be
    crossed. Points further apart than `gap` seconds are not joined: nobody looked in between.
    """

    title: str
    lines: Sequence[Line]
    shown: Shown
    top: float = 0.0
    limit: float | None = None
    gap: float = math.inf


def svg(chart: Chart) -> str:
    """Return the chart as SVG. Names may be any text; more than MOST_LINES lines are cut off."""
    lines = [line for line in chart.lines if line.points][:MOST_LINES]
    scale = _scale(chart, lines)
    parts = [_text(16, 20, chart.title, size=14, weight="bold"), *_legend(lines)]
    if scale is None:
        parts.append(_text((_LEFT + _RIGHT) / 2, (_TOP + _BOTTOM) / 2, "nothing measured yet", anchor="middle"))
    else:
        parts += [*_levels(scale, chart.shown), *_times(scale)]
        for line, colour in zip(lines, _COLOURS, strict=False):
            parts += _drawn(line, colour, scale, chart.gap)
        parts += _limit(scale, chart)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" font-family="system-ui, sans-serif"><title>{_escaped(chart.title)}</title>{"".join(parts)}</svg>'
    )


def picture(chart: Chart) -> str:
    """Return the chart as a picture in Markdown."""
    alternative = re.sub(r"[\\\[\]`<>]", "", _UNSEEN.sub(" ", chart.title))
    return f"![{alternative}]({data_uri(svg(chart))})"


def data_uri(drawing: str) -> str:
    """Return an SVG drawing as a URI that holds it."""
    return "data:image/svg+xml;base64," + base64.b64encode(drawing.encode()).decode()


def shown_count(value: float) -> str:
    """Return a number with its thousands apart: `1,234`, `0.5`."""
    return f"{value:,.0f}" if value == round(value) or value >= 100 else f"{value:,.1f}"


def shown_percent(value: float) -> str:
    """Return `99.5 %`."""
    return f"{value:.4g} %"


def shown_seconds(value: float) -> str:
    """Return `0.5 s`, `90 s` or `2.5 h`."""
    return f"{value / 3600:,.1f} h" if value >= 7200 else f"{value:,.4g} s"


def shown_bytes(value: float) -> str:
    """Return `8 kB`, `1.5 GB`: in steps of a thousand."""
    step = min(int(math.log(value, 1000)), len(_UNITS) - 1) if value >= 1 else 0
    return f"{value / 1000**step:.3g} {_UNITS[step]}"


# ---------------------------------------------------------------- where a point is


@dataclass(frozen=True, slots=True)
class _Scale:
    begin: float
    end: float
    top: float

    def x(self, moment: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (moment - self.begin) / (self.end - self.begin)

    def y(self, value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * max(value, 0.0) / self.top


def _scale(chart: Chart, lines: Sequence[Line]) -> _Scale | None:
    moments = [moment.timestamp() for line in lines for moment, _ in line.points]
    if not moments:
        return None
    highest = max([value for line in lines for _, value in line.points] + [chart.top, chart.limit or 0.0])
    begin, end = min(moments), max(moments)
    # A single moment stands in the middle.
    room = 0.5 if begin == end else 0.0
    return _Scale(begin - room, end + room, _round_up(highest))


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 4, 5, 8 or 10 times a power of ten: its quarters are easily read."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value * 0.999999)


# ---------------------------------------------------------------- the parts


def _levels(scale: _Scale, shown: Shown) -> Iterator[str]:
    for quarter in range(5):
        value = scale.top * quarter / 4
        y = scale.y(value)
        yield f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GRID}"/>'
        yield _text(_LEFT - 8, y + 4, shown(value), anchor="end")


def _times(scale: _Scale) -> Iterator[str]:
    span = scale.end - scale.begin
    form = "%H:%M:%S" if span < 1800 else "%H:%M" if span < 86_400 else "%m-%d %H:%M" if span < 864_000 else "%Y-%m-%d"
    said = ""
    for part in range(5):
        moment = scale.begin + span * part / 4
        before, said = said, f"{datetime.fromtimestamp(moment, UTC):{form}}"
        if said != before:
            anchor = "start" if part == 0 else "end" if part == 4 else "middle"
            yield _text(scale.x(moment), _BOTTOM + 18, said, anchor=anchor)
    yield _text(_LEFT - 8, _BOTTOM + 18, "UTC", anchor="end")


def _drawn(line: Line, colour: str, scale: _Scale, gap: float) -> Iterator[str]:
    points = [(moment.timestamp(), value) for moment, value in line.points]
    for piece in _pieces(points, gap):
        places = [f"{scale.x(moment):.1f},{scale.y(value):.1f}" for moment, value in piece]
        if len(places) == 1:
            x, y = places[0].split(",")
            yield f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>'
        else:
            yield f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _pieces(points: Sequence[tuple[float, float]], gap: float) -> Iterator[Sequence[tuple[float, float]]]:
    begin = 0
    for place, (before, after) in enumerate(pairwise(points), 1):
        if after[0] - before[0] > gap:
            yield points[begin:place]
            begin = place
    yield points[begin:]


def _limit(scale: _Scale, chart: Chart) -> Iterator[str]:
    if chart.limit is not None:
        y = scale.y(chart.limit)
        yield f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_LIMIT}" stroke-dasharray="6 4"/>'
        # On the side of the line where the values should not be.
        below = chart.limit > 0.8 * scale.top
        yield _text(_RIGHT, y + (14 if below else -4), f"limit {chart.shown(chart.limit)}", anchor="end", colour=_LIMIT)


def _legend(lines: Sequence[Line]) -> Iterator[str]:
    x = float(_LEFT)
    for line, colour in zip(lines, _COLOURS, strict=False):
        if len(lines) > 1:
            name = line.name if len(line.name) <= 24 else line.name[:23] + "…"
            yield f'<rect x="{x:.0f}" y="31" width="10" height="10" fill="{colour}"/>'
            yield _text(x + 14, 40, name)
            x += 26 + 6.6 * len(name)


def _text(
    x: float, y: float, text: str, *, size: int = 11, anchor: str = "start", weight: str = "normal", colour: str = _INK
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{colour}">{_escaped(text)}</text>'
    )


def _escaped(text: str) -> str:
    return escape(_UNSEEN.sub("\ufffd", text))
