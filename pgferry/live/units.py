"""The comparison of a table, cut into units of work that can run one by one, in any process."""

from __future__ import annotations

import math
import random
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pgferry.live.model import LiveTable
from pgferry.model import Chunk, Key
from pgferry.ordering import row_order
from pgferry.sqlite.chunks import TableSample, plan_chunks, sample_table
from pgferry.sqlite.guard import TableRead, plan_read

RANGE_ROWS = 50_000
"""Rows of a range that is read at once and held in memory, at the most; and about how many bytes."""
RANGE_BYTES = 16 * 1024 * 1024

UNIT_RANGES = 10
"""Ranges that one unit compares."""

SORT_BYTES = 64 * 1024 * 1024
"""A table of up to so many bytes, whose key is not the rowid, is sorted in memory."""

SAMPLE_RANGES = 40
"""Ranges that a sample takes at least, where the table has rows for that many."""

LEAST_ROWS = 200
"""Rows that a range of a sample holds at least: reading one costs about as much as reading none."""


class Level(StrEnum):
    """How much is compared; each level includes the counts."""

    COUNTS = "counts"
    SAMPLE = "sample"
    CELLS = "cells"


class Way(StrEnum):
    """How the two sides of a table are brought together."""

    RANGES = "ranges of the rowid, in its order"
    SORTED = "sorted by key, here"
    STREAMED = "sorted by key, by SQLite"
    MARKED = "a mark for each row, in any order"
    LOOKED_UP = "rows of the source, looked up in the target by key"


@dataclass(frozen=True, slots=True)
class CompareUnit:
    """A part of a table that one task compares. Holds no secret and can be pickled."""

    name: str
    table: LiveTable
    read: TableRead
    way: Way
    parts: tuple[Chunk, ...]
    """Ranges of the source; where `way` is RANGES they are also those of the target, without a gap between them."""
    last: bool = True
    """Whether the highest keys are in it."""
    aside: frozenset[Key] = frozenset()
    """Addresses of rows that the ledger has in quarantine: the target may lack these."""

    @property
    def rows(self) -> int:
        """Rows of the source that it reads."""
        return sum(part.rows for part in self.parts)


def plan_units(
    source: sqlite3.Connection,
    table: LiveTable,
    level: Level,
    *,
    percent: float = 100.0,
    seed: str = "",
    aside: frozenset[Key] = frozenset(),
) -> tuple[CompareUnit, ...]:
    """Cut the comparison of a table of a snapshot into units; none where only rows are counted.

    A sample takes about `percent` of the table's ranges, at least one; the same seed takes the same.
    """
    if level is Level.COUNTS:
        return ()
    sample = sample_table(source, table.pair.source)
    read = plan_read(table.pair, sample)
    way = _way(table, sample, level)
    ranges = _ranges(source, table, sample, way, _range_rows(sample.rows, level, percent))
    last = ranges[-1].number
    if level is Level.SAMPLE:
        ranges = _chosen(ranges, percent, f"{seed} {table.pair.source.name}")
    parts = [ranges[first : first + UNIT_RANGES] for first in range(0, len(ranges), UNIT_RANGES)]
    name = table.pair.source.name
    return tuple(
        CompareUnit(
            name if len(parts) == 1 else f"{name} {number}/{len(parts)}",
            table,
            read,
            way,
            tuple(part),
            last in [chunk.number for chunk in part],
            aside,
        )
        for number, part in enumerate(parts, 1)
    )


def _way(table: LiveTable, sample: TableSample, level: Level) -> Way:
    order = row_order(table.pair)
    if order.natural:
        return Way.RANGES
    if level is Level.SAMPLE:
        return Way.LOOKED_UP
    if not order.columns:
        return Way.MARKED
    return Way.SORTED if sample.rows * sample.average_bytes <= SORT_BYTES else Way.STREAMED


def _range_rows(rows: int, level: Level, percent: float) -> int:
    if level is Level.CELLS:
        return RANGE_ROWS
    return max(LEAST_ROWS, min(RANGE_ROWS, math.ceil(rows * percent / 100 / SAMPLE_RANGES)))


def _ranges(source: sqlite3.Connection, table: LiveTable, sample: TableSample, way: Way, rows: int) -> Sequence[Chunk]:
    whole = Chunk(table.pair.source.name, 0, sample.rows)
    if way not in (Way.RANGES, Way.LOOKED_UP):
        return [whole]
    chunks = plan_chunks(source, table.pair.source, sample, rows=rows, size=RANGE_BYTES) or (whole,)
    return list(_without_gaps(chunks)) if way is Way.RANGES else chunks


def _without_gaps(chunks: Sequence[Chunk]) -> Iterator[Chunk]:
    """Yield the ranges up to just before the next one, and open at both ends: so they hold every integer."""
    for chunk, following in zip(chunks, [*chunks[1:], None], strict=True):
        low = chunk.low if chunk.number else None
        high = None if following is None else _before(following.low)
        yield replace(chunk, low=low, high=high)


def _before(key: Key | None) -> Key:
    assert key is not None
    (number,) = key
    assert isinstance(number, int)
    return (number - 1,)


def _chosen(ranges: Sequence[Chunk], percent: float, seed: str) -> list[Chunk]:
    count = max(1, min(len(ranges), math.ceil(len(ranges) * percent / 100)))
    return sorted(random.Random(seed).sample(ranges, count), key=lambda chunk: chunk.number)
