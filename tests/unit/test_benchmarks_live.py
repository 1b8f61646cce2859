"""The section of docs/benchmarks.md on the move without downtime, from figures that are given."""

from __future__ import annotations

import pytest

from benchmarks.live_page import (
    BEGIN,
    END,
    PAGE,
    Costs,
    Figures,
    Freeze,
    Lag,
    Rate,
    WriteCost,
    placed,
    render,
)

COSTS = Costs(
    rows=100_000,
    rounds=15,
    writes=(
        WriteCost("WAL", 1, "trades", "INSERT", 40.04, 50.05, 3.2, 4.2),
        WriteCost("WAL", 1, "trades", "DELETE", 30.0, 45.0, 3.0, 4.0),
        WriteCost("rollback journal", 100, "trades", "INSERT", 1234.4, 2468.8),
        WriteCost("rollback journal", 100, "trades", "DELETE", 99.94, 99.96),
    ),
)
LAG = Lag(rows=100_000, rate=500, writes=15_000, seconds=29.998, median=24.04, p99=48.06, longest=150.0, cpu=6.25)
SMALL = Freeze(100_000, 3, 1000, 1000, {"fence": 0.0101, "drain": 0.1}, 0.2, 0.25)
LARGE = Freeze(5_000_000, 3, 1000, 999, {"fence": 0.0104, "drain": 0.12}, 0.21, 0.3)
RATES = (Rate("every cell", 2_004_000, 10.0, 3), Rate("row by row", 200_000, 40.0, 1))


def cells(section: str) -> list[list[str]]:
    """Return the cells of every row of every table, without the rules below the heads."""
    lines = [line for line in section.splitlines() if line.startswith("|") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines if "---:" not in line]


def test_the_costs_stand_side_by_side_a_row_for_each_kind_of_write() -> None:
    assert cells(render(Figures(costs=COSTS), "a day")) == [
        [
            "table",
            "statement",
            "µs: WAL, 1 a transaction",
            "µs: rollback journal, 100 a transaction",
            "pages: WAL, 1 a transaction",
        ],
        ["trades", "INSERT", "40.0 → 50.0 (×1.25)", "1,234 → 2,469 (×2.00)", "3.2 → 4.2"],
        ["trades", "DELETE", "30.0 → 45.0 (×1.50)", "99.9 → 100.0 (×1.00)", "3.0 → 4.0"],
    ]


def test_the_lag_is_shown_with_the_rate_that_was_reached() -> None:
    section = render(Figures(lag=LAG), "a day")
    assert cells(section)[1] == ["15,000", "500", "24.0", "48.1", "150.0", "6.2"]
    assert "500 commits a second wanted, 30 s, a file with 100,000 trades" in section


def test_the_freeze_is_shown_by_step_with_how_it_grew() -> None:
    section = render(Figures(freezes=(SMALL, LARGE)), "a day")
    assert cells(section) == [
        ["trades", "rows drained", "rows compared", "fence", "drain", "frozen in all", "longest"],
        ["100,000", "1,000", "1,000", "10", "100", "200", "250"],
        ["5,000,000", "1,000", "999", "10", "120", "210", "300"],
    ]
    assert "the medians of 3 switches" in section
    assert "At 50 times the rows the freeze was 1.05 times as long." in section


def test_comparisons_of_several_sizes_have_their_own_rates() -> None:
    assert cells(render(Figures(rates=RATES), "a day"))[1:] == [
        ["every cell", "2,004,000", "3", "10.00", "200,400"],
        ["row by row", "200,000", "1", "40.00", "5,000"],
    ]


def test_what_was_left_out_leaves_nothing() -> None:
    assert render(Figures(), "2026-01-31, 2 cores, by `make`") == "Measured on 2026-01-31, 2 cores, by `make`."


def test_every_table_has_as_many_cells_in_each_line_and_a_blank_line_before_it() -> None:
    section = render(Figures(COSTS, LAG, (SMALL, LARGE), RATES), "a day")
    lines = section.splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|") and before.startswith("|"):
            assert line.count("|") == before.count("|")
        elif line.startswith("|"):
            assert before == ""
    assert section.count("\n### ") + section.startswith("### ") == 4


def test_the_section_takes_the_place_of_the_one_before() -> None:
    page = f"head\n{BEGIN}\nold\n{END}\ntail\n"
    once = placed(page, "new")
    assert once == f"head\n{BEGIN}\nnew\n{END}\ntail\n"
    assert placed(once, "new") == once
    with pytest.raises(ValueError, match="unpack"):
        placed("no marks", "new")


def test_the_page_has_the_place() -> None:
    page = PAGE.read_text("utf-8")
    assert placed(page, "figures") != page
