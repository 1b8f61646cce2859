"""The model of a large move: what it reckons, and that the documentation shows just that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.scale import EXAMPLES, MEASURED, Machines, reckon, table

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "scale.md").read_text("utf-8")
SMALL = Machines("", worker_cores=1, server_cores=1, network=1e9, server_disk=1e9, snapshot_disk=1e9)


def test_the_documentation_shows_the_table_of_the_model() -> None:
    assert "\n".join(table()) in PAGE


def test_the_measured_file_takes_what_was_measured() -> None:
    hours = reckon(522, MEASURED.indexed_rows, SMALL)
    assert hours.snapshot * 3600 == pytest.approx(1.5)
    assert hours.load * 3600 == pytest.approx(4.5 + 2.0)
    assert hours.index * 3600 == pytest.approx(9.0 + 3.5)
    assert hours.total == pytest.approx(hours.snapshot + hours.load + hours.index)


@pytest.mark.parametrize(
    ("part", "limit"),
    [("network", "network"), ("server_disk", "server's disk"), ("snapshot_disk", "reading the snapshot")],
)
def test_a_bottleneck_is_named(part: str, limit: str) -> None:
    narrow = {part: 1.0}
    assert reckon(522, 2e6, replace(SMALL, **narrow)).load_limit == limit


def test_more_machines_never_take_longer_and_a_single_reader_is_left() -> None:
    hours = [reckon(10e6, 4e8, machines) for machines in EXAMPLES[1:]]
    assert hours == sorted(hours, key=lambda each: -each.total)
    endless = Machines("", 10**6, 10**6, 1e9, 1e9, 1e9)
    assert reckon(10e6, 4e8, endless).load_limit == "check of the snapshot"
