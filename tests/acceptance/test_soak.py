"""The soak in half a minute: nothing is lost, doubled or different under one fault after the other."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from benchmarks.soak import soak
from benchmarks.soak_page import BEGIN, END, PAGE, Soak, placed, render


@pytest.mark.timeout(900)
def test_a_short_soak_finds_both_sides_equal() -> None:
    # Below /tmp, not pytest's own folder (mode 700): the server runs under another account.
    with tempfile.TemporaryDirectory(prefix="pgferry-soak-") as folder:
        Path(folder).chmod(0o755)
        figures = soak(Path(folder), minutes=0.3, seed=2, rate=60)
    assert figures.differences == ()
    assert sum(figures.faults.values()) >= 2
    assert figures.writes > 100
    assert figures.rows > 100
    assert figures.comparisons >= 1
    assert figures.switches + figures.rollbacks >= 1
    assert figures.memory_end > 0


def test_the_figures_stand_between_their_marks() -> None:
    figures = Soak(1800.0, 12_345, 678, 90_123, {"cut": 7, "killed": 5}, 9, 2, 3, 1, 4.56, 7.89, 2**27, 2**27, 30)
    section = render(figures, "a day")
    assert "| faults | 12 |" in section
    assert "| longest lag, the fault included | 4.6 s |" in section
    assert "| writes lost, doubled or out of nowhere; cells that differ | 0 |" in section
    page = PAGE.read_text("utf-8")
    written = placed(page, section)
    assert f"{BEGIN}\n{section}\n{END}" in written
    assert placed(written, section) == written
