"""The figures of the contest between ways, their section of docs/benchmarks.md and their picture, from given runs."""

from __future__ import annotations

import sqlite3
import xml.etree.ElementTree as ET
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.contest_figures import Contest, Data, Figure, Run, extrapolated, times
from benchmarks.contest_page import BEGIN, END, PAGE, draw, placed, render, write
from benchmarks.floor import Floor
from benchmarks.shapes import Source, make_blobs, make_tables, make_trades, make_wide
from benchmarks.ways import FLOOR, GUIDE, LIBRARY, MIGRATE, PGLOADER, WAYS

SMALL = Data("trades", "200,000 trades", 3, 200_000, 50_000_000)
LARGE = Data("trades", "2,000,000 trades", 3, 2_000_000, 500_000_000)
WIDE = Data("wide", "50 rows of 200 columns", 1, 50, 1_000_000)


def figure(way: str, data: Data, *seconds: float, peak: int = 100_000_000, **steps: float) -> Figure:
    """Return a figure of runs that took so long."""
    return Figure(way, data, tuple(Run(second, peak, steps) for second in seconds))


CONTEST = Contest(
    extrapolated(
        [
            figure(MIGRATE, SMALL, 9.0, 8.0, 10.0, peak=400_000_000, backup=0.5),
            figure(LIBRARY, SMALL, 5.0),
            Figure(PGLOADER, SMALL, failure="not installed"),
            figure(GUIDE, SMALL, 27.0),
            figure(FLOOR, SMALL, 2.0, rows=1.5, indexes=0.5),
            figure(MIGRATE, LARGE, 20.0, peak=500_000_000, backup=1.0, load=9.0),
            figure(LIBRARY, LARGE, 15.0),
            figure(PGLOADER, LARGE, 30.0),
            Figure(GUIDE, LARGE),
            figure(FLOOR, LARGE, 10.0),
        ]
    ),
    prefect_start=12.34,
)


def cells(section: str, heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without the rule below its heads."""
    _, below = section.split(f"### {heading}\n")
    lines = [line for line in below.split("\n### ")[0].splitlines() if line.startswith("|") and "---:" not in line]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


# ---------------------------------------------------------------- figures


def test_a_figure_is_the_median_of_its_runs_and_tells_their_spread() -> None:
    found = Figure(MIGRATE, SMALL, (Run(4.0, 5, {"load": 1.0}), Run(2.0, 9, {"load": 3.0, "check": 1.0}), Run(2.5, 7)))
    assert (found.seconds, found.spread, found.peak_bytes) == (2.5, (2.0, 4.0), 9)
    assert found.rate == 80_000
    assert found.bytes_per_second == 20_000_000
    assert found.steps == {"load": 1.0, "check": 0.0}


def test_what_was_left_out_is_extrapolated_from_the_largest_that_was_measured() -> None:
    middle = replace(SMALL, rows=400_000)
    given = [figure(GUIDE, SMALL, 10.0), figure(GUIDE, middle, 30.0), Figure(GUIDE, LARGE)]
    found = extrapolated(given)
    assert found[:2] == tuple(given[:2])
    assert found[2].measured == given[1]
    assert found[2].seconds == 150.0
    assert found[2].peak_bytes == 0


@pytest.mark.parametrize(
    "other",
    [
        figure(FLOOR, SMALL, 1.0),
        figure(GUIDE, replace(SMALL, shape="wide"), 1.0),
        figure(GUIDE, replace(LARGE, rows=LARGE.rows + 1), 1.0),
        Figure(GUIDE, SMALL, failure="it ended with 1"),
        Figure(GUIDE, SMALL),
    ],
    ids=["another way", "another shape", "more rows", "failed", "not run"],
)
def test_nothing_is_extrapolated_from_what_does_not_compare(other: Figure) -> None:
    found = extrapolated([other, Figure(GUIDE, LARGE)])[1]
    assert not found.is_known
    assert times(found, found) is None
    with pytest.raises(ValueError, match="nothing is known of guide on 2,000,000 trades"):
        _ = found.seconds


def test_a_failure_is_not_extrapolated_away() -> None:
    failed = Figure(GUIDE, LARGE, failure="it ended with 1")
    assert extrapolated([figure(GUIDE, SMALL, 1.0), failed])[1] == failed


def test_a_ratio_needs_both_figures() -> None:
    assert times(figure(MIGRATE, SMALL, 3.0), figure(FLOOR, SMALL, 2.0)) == 1.5
    assert times(None, figure(FLOOR, SMALL, 2.0)) is None
    assert times(figure(MIGRATE, SMALL, 3.0), Figure(FLOOR, SMALL, failure="not installed")) is None


# ---------------------------------------------------------------- page


def test_each_file_has_a_table_of_the_ways_with_ratios_to_the_floor() -> None:
    assert cells(render(CONTEST, "a day"), SMALL.label) == [
        ["way", "seconds", "min–max", "rows/s", "MB/s", "× floor", "peak memory", "rounds"],
        ["`pgferry migrate`", "9.0", "8.0–10.0", "22,222", "5.6", "4.50", "400 MB", "3"],
        ["pgferry without Prefect", "5.0", "", "40,000", "10.0", "2.50", "100 MB", "1"],
        ["pgloader", "not installed", "", "", "", "", "", ""],
        ["JSON and ORM", "27.0", "", "7,407", "1.9", "13.50", "100 MB", "1"],
        ["floor", "2.0", "", "100,000", "25.0", "1.00", "100 MB", "1"],
    ]


def test_what_is_extrapolated_is_marked_wherever_it_stands() -> None:
    section = render(CONTEST, "a day")
    row = ["JSON and ORM", "about 270.0", "", "7,407", "1.9", "27.00", "", "extrapolated from 200,000 trades"]
    assert cells(section, LARGE.label)[4] == row
    assert "was 13.5 times as fast as JSON and ORM (extrapolated)." in section
    assert "(extrapolated)" in draw(CONTEST)


def test_the_ratios_that_matter_are_said_in_words() -> None:
    lines = [line for line in render(CONTEST, "a day").splitlines() if line.startswith("- 2")]
    small = "took 4.50 times as long as the floor, was 3.0 times as fast as JSON and ORM."
    large = "took 2.00 times as long as the floor, was 1.5 times as fast as pgloader, was 13.5 times as fast as"
    assert lines == [
        f"- 200,000 trades: `pgferry migrate` {small}",
        f"- 2,000,000 trades: `pgferry migrate` {large} JSON and ORM (extrapolated).",
    ]


def test_time_a_row_memory_and_prefects_own_cost_are_shown_over_sizes() -> None:
    section = render(CONTEST, "a day")
    assert cells(section, "`pgferry migrate` over sizes")[1:] == [
        ["200,000", "45.0", "400 MB", "4.0", "44.4"],
        ["2,000,000", "10.0", "500 MB", "5.0", "25.0"],
    ]
    assert "The one-time start of Prefect's server took 12.3 s and is in none." in section


def test_the_steps_are_shown_by_file() -> None:
    assert cells(render(CONTEST, "a day"), "Steps in seconds: `pgferry migrate`") == [
        ["step", "200,000 trades", "2,000,000 trades"],
        ["backup", "0.5", "1.0"],
        ["load", "", "9.0"],
    ]


def test_a_part_of_the_contest_has_a_page_of_its_own() -> None:
    section = render(Contest((figure(FLOOR, WIDE, 1.0),)), "a day, by `make`")
    assert cells(section, WIDE.label)[1] == ["floor", "1.0", "", "50", "1.0", "1.00", "100 MB", "1"]
    assert "picture" not in section
    assert "over sizes" not in section
    assert section.endswith("Measured on a day, by `make`.")


def test_every_table_has_as_many_cells_in_each_line_and_a_blank_line_before_it() -> None:
    lines = render(CONTEST, "a day").splitlines()
    assert sum(line.startswith("| ") for line in lines) > 20
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|") and before.startswith("|"):
            assert line.count("|") == before.count("|")
        elif line.startswith("|"):
            assert before == ""


def test_a_failure_does_not_break_its_table() -> None:
    contest = Contest((Figure(PGLOADER, SMALL, failure="ended with 1: a|b\nc"),))
    assert "| pgloader | ended with 1: a\\|b c |" in render(contest, "a day")


def test_page_and_picture_are_written_side_by_side(tmp_path: Path) -> None:
    page, picture = tmp_path / "benchmarks.md", tmp_path / "pictures" / "benchmarks.svg"
    page.write_text(f"head\n{BEGIN}\nold\n{END}\ntail\n", "utf-8")
    write(CONTEST, "a day", page, picture)
    assert page.read_text("utf-8") == f"head\n{BEGIN}\n{render(CONTEST, 'a day')}\n{END}\ntail\n"
    assert "(pictures/benchmarks.svg)" in page.read_text("utf-8")
    assert picture.read_text("utf-8") == draw(CONTEST)
    with pytest.raises(ValueError, match="unpack"):
        placed("no marks", "new")


def test_the_page_has_the_place() -> None:
    text = PAGE.read_text("utf-8")
    assert placed(text, "figures") != text


def test_the_picture_has_a_bar_for_each_known_figure_in_one_scale() -> None:
    bars = list(ET.fromstring(draw(CONTEST)).iter("{http://www.w3.org/2000/svg}rect"))
    assert len(bars) == 4 + 5
    widths = [float(bar.get("width", "")) for bar in bars]
    rates = [found.rate for found in CONTEST.figures if found.is_known]
    longest = max(widths)
    assert widths == pytest.approx([longest * rate / max(rates) for rate in rates], abs=0.1)
    assert [bar.get("fill") == "none" for bar in bars] == [
        found.measured is not None for found in CONTEST.figures if found.is_known
    ]


# ---------------------------------------------------------------- files and ways


def test_the_files_have_the_tables_and_rows_that_they_are_said_to_have(tmp_path: Path) -> None:
    found = [
        make_trades(tmp_path / "trades.db", 50),
        make_tables(tmp_path / "tables.db", 3),
        make_wide(tmp_path / "wide.db", 20),
        make_blobs(tmp_path / "blobs.db", 2),
    ]
    assert [item.data.shape for item in found] == ["trades", "tables", "wide", "blobs"]
    assert [item.planned for item in found] == [False, True, True, True]
    assert [sorted(item.rows.values())[-1] for item in found] == [50, 100, 20, 2]
    assert found[1].data.tables == 3
    assert all(item.data.bytes == item.path.stat().st_size for item in found)
    assert _indexes(found[0]) == ["bench_source", "ix_items_name", "ix_trades_item_id", "ix_trades_timestamp"]


def test_the_same_call_writes_the_same_rows(tmp_path: Path) -> None:
    once, again = make_wide(tmp_path / "once.db", 30), make_wide(tmp_path / "again.db", 30)
    assert _rows(once, "wide") == _rows(again, "wide")
    assert len(_rows(once, "wide")[0]) == 200


def test_the_floor_copies_every_file_then_builds_and_quotes_its_names() -> None:
    lines = Floor({'a"b': Path("/x/it's.copy")}, ["ALTER TABLE a ADD PRIMARY KEY (id)"]).script("256MB").splitlines()
    assert lines[0] == "SET maintenance_work_mem = '256MB';"
    copy = lines.index("""\\copy "a""b" from '/x/it''s.copy' (format binary)""")
    assert copy < lines.index("ALTER TABLE a ADD PRIMARY KEY (id);")


def test_each_way_has_a_key_and_a_name_of_its_own() -> None:
    assert len({way.key for way in WAYS}) == len({way.name for way in WAYS}) == len(WAYS)


def _indexes(source: Source) -> list[str]:
    asked = "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY name"
    with closing(sqlite3.connect(source.path)) as connection:
        return [name for (name,) in connection.execute(asked)]


def _rows(source: Source, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(source.path)) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()
