"""Compares tables of a snapshot with PostgreSQL, while both are held at one moment: counts, a sample, or every cell.

Each range of a table is read on both sides in the order of its key, encoded alike, and compared by digest. Where the
digests differ, the rows are paired by key, and the answer is keys, columns and both values.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pgferry.export import fitting_rows, gather, semantic_schema
from pgferry.live.findings import Finding, Findings
from pgferry.live.keyed import KEYS, RawKeys, compare_keys, named_keys, plain_key, raw_keys, target_rows
from pgferry.live.model import LiveTable
from pgferry.live.rows import KeyReader, SourceRows, WireKey, batch_fields, range_where, target_query, unnumbered_where
from pgferry.live.units import CompareUnit, Level, Way, plan_units
from pgferry.marks import mark, marks, pick, subtract
from pgferry.model import CellDifference, Chunk, Key, QuarantinedRow
from pgferry.ordering import StreamDigest, row_order
from pgferry.postgres.catalog import count_rows as count_target_rows
from pgferry.postgres.connection import Connection
from pgferry.quoting import quote
from pgferry.sqlite.chunks import count_rows as count_source_rows
from pgferry.sqlite.connect import reading
from pgferry.sqlite.lookup import RowLookup
from pgferry.verify import read_binary, spooled

__all__ = [
    "CompareUnit",
    "DifferingRow",
    "Level",
    "TableComparison",
    "UnitComparison",
    "combine",
    "compare_keys",
    "compare_table",
    "compare_unit",
    "plan_units",
]

SHOWN = 100
"""Differences of a table that are shown; all are counted."""

PICKED = 20_000
"""Rows a side that are picked out by their marks, to be paired by key."""

# In index order without a sort, whatever the planner thinks of a table that was not analyzed yet.
_BY_INDEX = {"enable_sort": "off", "enable_bitmapscan": "off", "max_parallel_workers_per_gather": "0"}

_SORTING = {"work_mem": "'64MB'"}


@dataclass(frozen=True, slots=True)
class DifferingRow:
    """A row that is not equal on both sides."""

    table: str
    key: Key | None
    """The target's key, as SQLite has it where it has the row; None for a row that no key addresses."""
    in_source: bool
    in_target: bool


@dataclass(frozen=True, slots=True)
class UnitComparison:
    """What the comparison of a unit found."""

    table: str
    rows: int
    """Rows of the source that were compared."""
    rejected: tuple[QuarantinedRow, ...]
    """Rows that no rule accepts: they belong in quarantine."""
    aside: tuple[Key, ...]
    """Addresses of other rows that the target lacks and the ledger has in quarantine: the target refused them."""
    difference_count: int
    net: int
    """Rows that the target lacks, less those that it has beyond the source's."""
    differences: tuple[CellDifference, ...]
    differing: tuple[DifferingRow, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class TableComparison:
    """What the comparison of a table found."""

    table: str
    level: Level
    source_rows: int
    target_rows: int
    quarantined: int
    compared: int
    """Rows of the source whose every cell was compared."""
    cells: int
    difference_count: int
    """Differing cells, plus one for each row that exists on one side only."""
    excluded: int = 0
    differences: tuple[CellDifference, ...] = ()
    """The first of them."""
    differing: tuple[DifferingRow, ...] = ()
    rejected: tuple[QuarantinedRow, ...] = ()
    """Rows that no rule accepts, where all rows were read."""
    aside: tuple[Key, ...] = ()
    """Addresses of rows that the target refused, and the ledger has."""
    seconds: float = 0.0
    """Time of its units, added up."""
    emptied: bool = False
    """Whether PostgreSQL truncated or rewrote it meanwhile: what was held of it is gone, and nothing can be said."""

    @property
    def closed(self) -> bool:
        """Whether every source row is accounted for: equal or differing in the target, in quarantine, or excluded."""
        return self.source_rows == self.target_rows + self.quarantined + self.excluded

    @property
    def passed(self) -> bool:
        """Whether nothing differs and every row is accounted for, as far as it could be looked at."""
        return self.emptied or (self.closed and self.difference_count == 0)


async def compare_table(
    connection: Connection,
    snapshot: Path,
    table: LiveTable,
    level: Level,
    *,
    percent: float = 10.0,
    seed: str = "",
    aside: frozenset[Key] = frozenset(),
) -> TableComparison:
    """Compare one table of a snapshot with the target, as its transaction sees it; reads only.

    The caller holds a REPEATABLE READ transaction of the snapshot's moment. `percent` and `seed` choose the sample;
    `aside` are the addresses of the rows that the ledger has in quarantine. Memory: a range of rows, or for a table
    whose key is not the rowid up to 64 MiB, and 16 bytes a row and side where such a table differs.
    """
    with reading(snapshot) as source:
        source_rows = count_source_rows(source, table.pair.source)
        units = plan_units(source, table, level, percent=percent, seed=seed, aside=aside)
    (target_rows,) = await count_target_rows(connection, [table.pair.target])
    found = [await compare_unit(connection, snapshot, unit) for unit in units]
    return combine(table, level, source_rows, target_rows, found, len(aside))


def combine(
    table: LiveTable,
    level: Level,
    source_rows: int,
    target_rows: int,
    units: Sequence[UnitComparison],
    known_aside: int = 0,
) -> TableComparison:
    """Return what all units of a table found, and whether the counts of both sides agree with it.

    `known_aside` are the rows that the ledger has in quarantine; they count where not every row was read.
    """
    read = sum(len(unit.rejected) + len(unit.aside) for unit in units)
    quarantined = read if level is Level.CELLS else known_aside
    differences = [difference for unit in units for difference in unit.differences]
    unexplained = source_rows - quarantined - target_rows - sum(unit.net for unit in units)
    name = table.pair.source.name
    if unexplained:
        expected = f"{source_rows} rows, {quarantined} of them in quarantine"
        differences.insert(0, CellDifference(name, "(all rows)", None, expected, f"{target_rows} rows"))
    compared = sum(unit.rows for unit in units)
    return TableComparison(
        table=name,
        level=level,
        source_rows=source_rows,
        target_rows=target_rows,
        quarantined=quarantined,
        compared=compared,
        cells=compared * len(table.pair.columns),
        difference_count=sum(unit.difference_count for unit in units) + abs(unexplained),
        differences=tuple(differences[:SHOWN]),
        differing=tuple(row for unit in units for row in unit.differing),
        rejected=tuple(row for unit in units for row in unit.rejected),
        aside=tuple(key for unit in units for key in unit.aside),
        seconds=sum(unit.seconds for unit in units),
    )


# ---------------------------------------------------------------- a unit


async def compare_unit(connection: Connection, snapshot: Path, unit: CompareUnit) -> UnitComparison:
    """Compare a unit of a table, as the connection's transaction sees the target; reads only."""
    began = time.monotonic()
    aside = await asyncio.to_thread(_aside, snapshot, unit)
    work = _Work(connection, snapshot, unit, aside)
    async with _planned(connection, _BY_INDEX if unit.way is Way.RANGES else _SORTING):
        await work.run()
    names = await asyncio.to_thread(_names, snapshot, unit.table, work.findings.found)
    return UnitComparison(
        table=unit.table.pair.source.name,
        rows=work.rows - len(work.findings.lacking),
        rejected=tuple(work.rejected),
        aside=tuple(work.findings.lacking),
        difference_count=work.findings.count,
        net=work.findings.net,
        differences=tuple(work.findings.cells())[:SHOWN],
        differing=tuple(_differing(unit.table, item, names) for item in work.findings.found),
        seconds=time.monotonic() - began,
    )


@dataclass(frozen=True, slots=True)
class _Aside:
    """The rows of a table that the ledger has in quarantine and the target might hold, with their addresses."""

    by_key: Mapping[WireKey, Key]
    by_mark: Mapping[bytes, Key]
    """Empty where the rowid is the key: such tables are not compared by marks."""


def _aside(snapshot: Path, unit: CompareUnit) -> _Aside:
    table, read = unit.table, unit.read
    if table.by_rowid:
        return _Aside({wire: address for address, wire in named_keys(table, list(unit.aside))}, {})
    by_key: dict[WireKey, Key] = {}
    by_mark: dict[bytes, Key] = {}
    reader, width = KeyReader(table), len(table.pair.source.address)
    types, schema = [column.target.type for column in table.pair.columns], semantic_schema(read)
    with reading(snapshot) as source:
        lookup = RowLookup(source, read)
        for part in gather(row for row in map(lookup.row, unit.aside) if not isinstance(row, str)):
            batch, rows = fitting_rows(read, part, schema)
            for fields, row in zip(batch_fields(read, [batch]), rows, strict=True):
                by_key[reader.key(fields)] = by_mark[mark(types, fields)] = row[:width]
    return _Aside(by_key, by_mark)


class _Work:
    """The comparison of one unit: `findings`, and of the source the `rows` that fit and those `rejected`."""

    def __init__(self, connection: Connection, snapshot: Path, unit: CompareUnit, aside: _Aside) -> None:
        self.findings = Findings(unit.table, aside=aside.by_key)
        self._aside = aside
        self.rows = 0
        self.rejected: list[QuarantinedRow] = []
        self._connection, self._snapshot, self._unit = connection, snapshot, unit

    async def run(self) -> None:
        for part in self._unit.parts:
            match self._unit.way:
                case Way.RANGES:
                    await self._range(part)
                case Way.SORTED | Way.STREAMED:
                    await self._whole(part)
                case Way.MARKED:
                    await self._by_marks(part)
                case Way.LOOKED_UP:
                    await self._look_up(part)
        if self._unit.way is Way.RANGES and self._unit.last and self._unit.table.hidden:
            await self._unnumbered(self._unit.parts[-1])

    async def _range(self, part: Chunk) -> None:
        query = target_query(self._unit.table, range_where(self._unit.table, part), self._terms)
        if await self._equal(self._source(part), query):
            return
        rows = await asyncio.to_thread(lambda: list(self._source(part).fields()))
        async with spooled(self._connection, query) as target:
            await asyncio.to_thread(lambda: self.findings.join(rows, target()))

    async def _whole(self, part: Chunk) -> None:
        if not await self._equal(self._source(part), target_query(self._unit.table, "", self._terms)):
            self.rows, self.rejected = 0, []
            await self._by_marks(part)

    async def _equal(self, source: SourceRows, query: str) -> bool:
        mine, theirs = await asyncio.gather(
            asyncio.to_thread(source.digest), _digest(self._connection, query), return_exceptions=True
        )
        # Both have ended, whatever became of them: nothing is left that reads on.
        for answer in (mine, theirs):
            if isinstance(answer, BaseException):
                raise answer
        self._note(source)
        return mine == theirs

    async def _by_marks(self, part: Chunk) -> None:
        types = [column.target.type for column in self._unit.table.pair.columns]
        source = self._source(part)
        async with spooled(self._connection, target_query(self._unit.table)) as target:
            mine = await asyncio.to_thread(lambda: marks(types, source.fields()))
            theirs = await asyncio.to_thread(lambda: marks(types, target()))
            self._note(source)
            missing, extra = subtract(mine, theirs), subtract(theirs, mine)
            # Not by their keys: only so many rows are picked out.
            for name in missing.keys() & self._aside.by_mark.keys():
                self.findings.lacking.append(self._aside.by_mark[name])
                del missing[name]
            again = self._source(part)
            rows = await asyncio.to_thread(lambda: pick(types, again.fields(), missing, PICKED))
            others = await asyncio.to_thread(lambda: pick(types, target(), extra, PICKED))
        self.findings.join(rows, others)
        left = missing.total() - len(rows), extra.total() - len(others)
        self.findings.uncounted += max(left)
        self.findings.net += left[0] - left[1]

    async def _look_up(self, part: Chunk) -> None:
        table, source = self._unit.table, self._source(part)
        names = [column.target.name for column in table.key]
        for batch in source.batches():
            for first in range(0, batch.num_rows, KEYS):
                rows = batch.slice(first, KEYS)
                others = await target_rows(self._connection, table, rows.select(names))
                self.findings.join(batch_fields(self._unit.read, [rows]), others)
        self._note(source)

    async def _unnumbered(self, part: Chunk) -> None:
        if part.low is None and part.high is None:
            return  # a range without ends has no condition, which NULL could fail
        query = target_query(self._unit.table, unnumbered_where(self._unit.table))
        async with spooled(self._connection, query) as target:
            for row in target():
                self.findings.extra(row)

    def _source(self, part: Chunk) -> SourceRows:
        by = ""
        if self._unit.way is Way.STREAMED:
            by = ", ".join(f"{quote(column.source.name)} COLLATE BINARY" for column in self._unit.table.key)
        gather = self._unit.way in (Way.RANGES, Way.SORTED)
        return SourceRows(self._snapshot, self._unit.read, part, gather=gather, by=by)

    def _note(self, source: SourceRows) -> None:
        self.rows += source.rows
        self.rejected += source.rejected

    @property
    def _terms(self) -> str:
        return row_order(self._unit.table.pair).terms


async def _digest(connection: Connection, query: str) -> str:
    digest = StreamDigest()
    await read_binary(connection, query, digest.take)
    return digest.result()


def _names(snapshot: Path, table: LiveTable, found: Sequence[Finding]) -> RawKeys:
    with reading(snapshot) as source:
        return raw_keys(source, table, [item.row for item in found if item.in_source])


def _differing(table: LiveTable, item: Finding, names: RawKeys) -> DifferingRow:
    known = names.get(item.key)
    key = known.key if known is not None else plain_key(table, item.row)
    return DifferingRow(table.pair.source.name, key, item.in_source, item.in_target)


@asynccontextmanager
async def _planned(connection: Connection, settings: dict[str, str]) -> AsyncIterator[None]:
    await connection.execute("; ".join(f"SET {name} = {value}" for name, value in settings.items()))
    yield
    # Not in a `finally`: a transaction that has failed takes no more statements, and what it has set goes with it.
    await connection.execute("; ".join(f"RESET {name}" for name in settings))
