"""The report's chart of rows per second, from the moments at which rows were loaded; tables that the UI can show."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgferry.report import SPEED_SPANS, WRAPPED, markdown_data, markdown_table, per_second, wrapped

BEGIN = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)


def commits(*chunks: tuple[float, int]) -> list[tuple[datetime, int]]:
    return [(BEGIN + timedelta(seconds=seconds), rows) for seconds, rows in chunks]


def test_an_even_load_is_an_even_line() -> None:
    speed = per_second(commits((0, 999), (1, 500), (2, 500), (3, 500)))
    assert [rate for _, rate in speed] == pytest.approx([500, 500, 500])
    assert speed[-1][0] == BEGIN + timedelta(seconds=3)


def test_commits_side_by_side_are_no_peak_without_end() -> None:
    rates = [rate for _, rate in per_second(commits((0, 1), (1, 100), (1.0001, 100), (2, 100), (2.0001, 100)))]
    assert max(rates) < 400


@pytest.mark.parametrize("chunks", [(), ((0, 10),), ((0, 10), (0, 10))])
def test_without_any_time_there_is_no_speed(chunks: tuple[tuple[float, int], ...]) -> None:
    assert per_second(commits(*chunks)) == []


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 10**9)), min_size=2, max_size=200).map(sorted))
def test_what_is_drawn_adds_up_to_what_was_loaded(chunks: list[tuple[float, int]]) -> None:
    loads = commits(*chunks)
    speed = per_second(loads)
    assert len(speed) <= SPEED_SPANS
    if speed:
        span = (loads[-1][0] - loads[0][0]).total_seconds() / len(speed)
        later = sum(rows for moment, rows in loads if moment > loads[0][0])
        # Up to the digits of a float that holds microseconds since 1970.
        assert sum(rate * span for _, rate in speed) == pytest.approx(later, rel=1e-3, abs=1e-3)
        assert min(rate for _, rate in speed) >= 0


def test_columns_of_numbers_stand_right_and_long_cells_are_wrapped() -> None:
    long = "a sentence that is too long for a line of a table and goes on for quite some time"
    head, rule, first, _ = markdown_table(["name", "rows", "said"], [["a", "1,234", long], ["b", "", "short"]]).split(
        "\n"
    )
    assert (head, rule) == ("| name | rows | said |", "| --- | ---: | --- |")
    assert first.replace("<br>", " ") == f"| a | 1,234 | {long} |"
    assert max(map(len, wrapped(long).split("<br>"))) <= WRAPPED


def test_code_is_not_wrapped() -> None:
    assert wrapped("`" + "word " * 40 + "`") == "`" + "word " * 40 + "`"


def test_nothing_in_a_value_is_a_sign_of_markdown_or_html() -> None:
    assert markdown_data("a|b *c* <b>&amp; `d` [e](f) g_h _i_") == (
        "a\\|b \\*c\\* &lt;b&gt;&amp;amp; \\`d\\` \\[e\\](f) g_h \\_i\\_"
    )
