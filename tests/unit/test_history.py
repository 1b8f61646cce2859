"""The history of validations is one picture that any browser shows, and one table."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest

from pgferry.chart import data_uri
from pgferry.live.history import chart, history_table
from pgferry.live.model import Direction, ValidationRecord

SVG = "{http://www.w3.org/2000/svg}"
FIRST = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)


def night(number: int, *, rows: int = 1000, differences: int = 0, level: str = "cells") -> ValidationRecord:
    """Return the validation of a night."""
    moment = FIRST + timedelta(days=number)
    return ValidationRecord(
        direction=Direction.FORWARD,
        level=level,
        started_at=moment,
        finished_at=moment + timedelta(seconds=90),
        moment=moment,
        passed=differences == 0,
        tables=3,
        rows=rows,
        cells=rows * 10,
        differences=differences,
        seconds=90.0 + number,
        sample_percent=5.0 if level == "sample" else None,
        id=number,
    )


def bars(svg: str) -> list[ElementTree.Element]:
    """Return the bars of a chart."""
    return list(ElementTree.fromstring(svg).iter(f"{SVG}rect"))


def titles(svg: str) -> list[str]:
    """Return what each bar says of itself."""
    return [str(bar.findtext(f"{SVG}title")) for bar in bars(svg)]


def test_each_night_has_a_bar_in_each_strip_oldest_left() -> None:
    svg = chart([night(2, differences=7), night(1), night(3)])
    said = titles(svg)
    assert len(said) == 9
    assert said[:3] == [
        "2026-03-02 03:00 UTC, cells: 1,000 rows compared",
        "2026-03-03 03:00 UTC, cells: 1,000 rows compared",
        "2026-03-04 03:00 UTC, cells: 1,000 rows compared",
    ]
    places = [float(bar.attrib["x"]) for bar in bars(svg)[:3]]
    assert places == sorted(places)
    assert said[4] == "2026-03-03 03:00 UTC, cells: 7 differences"
    heights = [float(bar.attrib["height"]) for bar in bars(svg)[3:6]]
    assert (heights[0], heights[2]) == (0.0, 0.0)
    assert heights[1] > 50


def test_the_verdict_is_written_above() -> None:
    assert "none yet" in chart([])
    assert "2 passed in a row, 3 in all" in chart([night(1, differences=1), night(2), night(3)])
    assert "the latest differs, 2 in all" in chart([night(1), night(2, differences=1)])


def test_one_difference_is_seen_beside_millions() -> None:
    svg = chart([night(1, differences=1), night(2, differences=5_000_000)])
    assert float(bars(svg)[2].attrib["height"]) >= 2


@pytest.mark.parametrize("count", [0, 1, 2, 30, 400])
def test_any_number_of_nights_stays_within_the_picture(count: int) -> None:
    svg = chart([night(number) for number in range(count)])
    root = ElementTree.fromstring(svg)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for bar in bars(svg):
        x, y, wide, high = (float(bar.attrib[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= y + high <= height
    assert len([text for text in root.iter(f"{SVG}text") if str(text.text).startswith("0")]) <= 8 + 3


def test_text_is_escaped_and_the_picture_travels_as_a_uri() -> None:
    svg = chart([night(1)], 'a<b> & "c"')
    assert 'a<b> & "c"' in str(ElementTree.fromstring(svg).findtext(f"{SVG}title"))
    head, _, body = data_uri(svg).partition(",")
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(body).decode() == svg


def test_no_colour_is_that_of_a_background() -> None:
    colours = {
        element.attrib["fill"]
        for element in ElementTree.fromstring(chart([night(1)])).iter()
        if "fill" in element.attrib
    }
    for colour in colours:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        light = sum(
            share * (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4)
            for share, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
        )
        # The contrast of WCAG 2 with white and with black: 3 and more for pictures and large text.
        assert 1.05 / (light + 0.05) >= 3
        assert (light + 0.05) / 0.05 >= 3


def test_the_table_has_the_newest_first() -> None:
    lines = history_table([night(1), night(2, differences=3), night(3, level="sample")]).splitlines()
    assert len(lines) == 5
    assert lines[2].startswith("| 3 | 2026-03-04 03:00:00 | passed | sample 5 % | 1,000 | 0 |")
    assert lines[3].startswith("| 2 | 2026-03-03 03:00:00 | **differs** | ")
    assert lines[4].endswith("| 91.0 | SQLite to PostgreSQL |")
