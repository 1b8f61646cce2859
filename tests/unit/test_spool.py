"""Batches are read as they were added, whether they stayed in memory or went to a file."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pgferry.live.spool import Spool

SCHEMA = pa.schema([("n", pa.int64())])


def batch(*values: int) -> pa.RecordBatch:
    """Return a batch of one column."""
    return pa.record_batch([pa.array(values, pa.int64())], schema=SCHEMA)


@pytest.mark.parametrize("room", [0, 30, 10_000])
def test_batches_come_back_as_often_as_wanted(room: int) -> None:
    spool = Spool(SCHEMA, in_memory=room)
    for start in range(0, 20, 4):
        spool.add(batch(*range(start, start + 4)))
        spool.add(batch())
    assert spool.count == 20
    for _ in range(2):
        assert [value for part in spool.batches() for value in part.column(0).to_pylist()] == list(range(20))
    spool.close()
    assert list(spool.batches()) == []
