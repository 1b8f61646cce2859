"""Into how many units a table is cut: enough for all that work at once, and no more tasks than its bytes are worth."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pgferry import move
from pgferry.files import plan_export
from pgferry.settings import Rules, Settings
from pgferry.sqlite.snapshot import take

ROWS = 1_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A table of 1,000 rows of a little over 1,000 bytes."""
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
        file.executemany("INSERT INTO t (a) VALUES (?)", [("x" * 1_000,)] * ROWS)
        file.commit()
    return path


def chunks_of_units(source: Path, **settings: object) -> list[int]:
    """Return how many chunks each unit of the table has; all rows are in one of them, in their order."""
    chosen = Settings(_env_file=None, home=source.parent / "home", chunk_rows=10, **settings)
    planned = plan_export(take(source, source.parent / "backups"), chosen, Rules(), source.parent / "exported").move
    (group,) = planned.groups
    chunks = [chunk for unit in group.units for chunk in unit.chunks]
    assert [chunk.number for chunk in chunks] == list(range(100))
    assert sum(unit.rows for unit in group.units) == ROWS
    return [len(unit.chunks) for unit in group.units]


def test_a_small_table_is_cut_into_some_for_each_degree_of_parallelism(source: Path) -> None:
    assert chunks_of_units(source, parallelism=2) == [7] * 14 + [2]
    assert chunks_of_units(source, parallelism=5) == [3] * 33 + [1]


def test_a_large_one_is_cut_by_its_bytes(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(move, "UNIT_BYTES", 50_000)
    assert len(chunks_of_units(source)) in range(17, 22)


def test_there_are_never_too_many(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(move, "UNIT_BYTES", 1)
    monkeypatch.setattr(move, "UNITS", 50)
    assert chunks_of_units(source) == [2] * 50


def test_the_processes_of_a_cluster_get_as_many_as_there_may_be(source: Path) -> None:
    assert chunks_of_units(source, task_runner="dask") == [1] * 100
