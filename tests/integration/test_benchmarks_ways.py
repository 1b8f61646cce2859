"""The ways of the contest that need no Prefect server, each run on a tiny file as the benchmark runs it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from benchmarks.contest_place import Place
from benchmarks.contest_rounds import Course, run_course
from benchmarks.shapes import make_trades
from benchmarks.ways import MIGRATE, PGLOADER, UNVERIFIED, WAYS
from pgferry.postgres.embedded import EmbeddedServer


# Five processes one after the other, each of which imports for a second: on a crowded machine they take their time.
@pytest.mark.timeout(900)
def test_every_way_moves_all_rows_and_is_timed(
    server: EmbeddedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The unverified way makes the files of the floor.
    ways = [way for way in WAYS if way.key not in (MIGRATE, UNVERIFIED, PGLOADER)]
    found = run_course(Place(server, tmp_path, {}), Course(partial(make_trades, rows=200), 1, row_wise=True), ways)
    assert [(figure.way, figure.failure) for figure in found] == [(way.key, "") for way in ways]
    assert all(figure.seconds > 0 and figure.peak_bytes > 0 and figure.data.rows > 200 for figure in found)
    assert all(bool(figure.steps) is not way.row_wise for figure, way in zip(found, ways, strict=True))
    assert list(tmp_path.iterdir()) == []
    assert "200 trades, round 1 of 1" in capsys.readouterr().err
