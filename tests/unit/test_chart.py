"""Charts: SVG that any reader takes, whatever the names and numbers are."""

from __future__ import annotations

import base64
import math
import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgferry.chart import (
    HEIGHT,
    MOST_LINES,
    WIDTH,
    Chart,
    Line,
    picture,
    shown_bytes,
    shown_count,
    shown_percent,
    shown_seconds,
    svg,
)

BEGIN = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)
SVG = "{http://www.w3.org/2000/svg}"


def points(*values: float, step: float = 60.0) -> list[tuple[datetime, float]]:
    return [(BEGIN + timedelta(seconds=step * n), value) for n, value in enumerate(values)]


def drawn(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(svg(chart))


def texts(chart: Chart) -> list[str]:
    return [element.text or "" for element in drawn(chart).iter(f"{SVG}text")]


def corners(chart: Chart) -> list[list[tuple[float, float]]]:
    """Return the points of every line that is drawn."""
    lines = [str(element.get("points")) for element in drawn(chart).iter(f"{SVG}polyline")]
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())] for line in lines]


def test_a_line_goes_from_left_to_right_and_up_to_its_highest() -> None:
    ((first, *_, last),) = corners(Chart("rows", [Line("a", points(0, 5, 10))], shown_count))
    assert first[0] < last[0]
    assert first[1] > last[1]
    assert last == (864.0, 52.0)
    assert texts(Chart("rows", [Line("a", points(0, 10))], shown_count))[:7] == [
        "rows", "0", "2.5", "5", "7.5", "10", "12:00:00",
    ]  # fmt: skip


def test_nobody_joins_points_between_which_nobody_looked() -> None:
    line = Line("a", [*points(1, 2), *[(BEGIN + timedelta(hours=2), 3.0)]])
    assert len(corners(Chart("t", [line], shown_count, gap=600))) == 1
    assert len(list(drawn(Chart("t", [line], shown_count, gap=600)).iter(f"{SVG}circle"))) == 1
    assert len(corners(Chart("t", [line], shown_count))[0]) == 3


def test_a_limit_is_seen_even_when_nothing_comes_near_it() -> None:
    chart = Chart("connections", [Line("a", points(1, 2))], shown_count, limit=100)
    assert "limit 100" in texts(chart)
    assert "100" in texts(chart)
    assert [element.get("y1") for element in drawn(chart).iter(f"{SVG}line") if element.get("stroke-dasharray")]


def test_nothing_measured_is_said() -> None:
    for lines in ([], [Line("a", [])]):
        assert texts(Chart("empty", lines, shown_count)) == ["empty", "nothing measured yet"]


def test_lines_have_names_when_there_are_several_and_only_as_many_as_can_be_told_apart() -> None:
    lines = [Line(f"line {n}", points(1, n)) for n in range(MOST_LINES + 3)]
    assert "line 0" not in texts(Chart("one", lines[:1], shown_count))
    assert [text for text in texts(Chart("all", lines, shown_count)) if text.startswith("line")] == [
        f"line {n}" for n in range(MOST_LINES)
    ]


@given(
    st.text(),
    st.lists(st.tuples(st.text(), st.lists(st.floats(0, 1e18), max_size=5)), max_size=8),
    st.floats(0.001, 1e9) | st.none(),
    st.sampled_from([shown_bytes, shown_count, shown_percent, shown_seconds]),
)
def test_any_name_and_number_makes_a_picture_whose_points_are_inside(title, lines, limit, shown) -> None:
    chart = Chart(title, [Line(name, points(*values)) for name, values in lines], shown, limit=limit, gap=600)
    for x, y in (corner for line in corners(chart) for corner in line):
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT
    match = re.fullmatch(r"!\[([^\[\]\n]*)\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", picture(chart))
    assert match
    assert base64.b64decode(match[2]).decode() == svg(chart)


def test_colours_are_readable_on_white_and_on_black() -> None:
    lines = [Line(str(n), points(1, 2)) for n in range(MOST_LINES)]
    colours = set(re.findall(r'(?:fill|stroke)="#([0-9a-f]{6})"', svg(Chart("t", lines, shown_count, limit=1))))
    assert len(colours) == MOST_LINES + 2
    for colour in colours:
        light = luminance(colour)
        assert min(1.05 / (light + 0.05), (light + 0.05) / 0.05) > 3.2, colour


def luminance(colour: str) -> float:
    """Return the relative luminance, as https://www.w3.org/TR/WCAG21/#dfn-relative-luminance defines it."""
    channels = [int(colour[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else math.pow((c + 0.055) / 1.055, 2.4) for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (shown_bytes(0), "0 B"),
        (shown_bytes(8192), "8.19 kB"),
        (shown_bytes(1.5e9), "1.5 GB"),
        (shown_bytes(1e21), "1e+06 PB"),
        (shown_seconds(0.5), "0.5 s"),
        (shown_seconds(9000), "2.5 h"),
        (shown_percent(99.5), "99.5 %"),
        (shown_count(1234567), "1,234,567"),
    ],
)
def test_numbers_are_shown_with_units(said: str, expected: str) -> None:
    assert said == expected
