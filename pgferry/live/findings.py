"""What differs between both sides of a table: which rows, which cells, and how many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pgferry.convert.wire import interchangeable
from pgferry.live.model import LiveTable
from pgferry.live.rows import KeyReader, WireKey
from pgferry.marks import Fields
from pgferry.model import CellDifference, Key
from pgferry.verify import show

KEPT = 20_000
"""Differing rows of a table that are named; beyond that they are counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A row that is not equal on both sides."""

    row: Fields
    """The source's row; the target's when the source has none."""
    key: WireKey
    cells: tuple[CellDifference, ...]
    in_source: bool
    in_target: bool


@dataclass(slots=True)
class Findings:
    """Gathers the differences of one table."""

    table: LiveTable
    reader: KeyReader = field(init=False)
    found: list[Finding] = field(default_factory=list)
    uncounted: int = 0
    """Differences beyond those that are kept."""
    net: int = 0
    """Rows that the target lacks, less those that it has beyond the source's."""
    aside: Mapping[WireKey, Key] = field(default_factory=dict)
    """Rows that the target may lack, with their addresses: they are in quarantine."""
    lacking: list[Key] = field(default_factory=list)
    """Addresses of those of them that it does lack."""

    def __post_init__(self) -> None:
        self.reader = KeyReader(self.table)

    def missing(self, row: Fields) -> None:
        """Note a row that the target lacks."""
        address = self.aside.get(self.reader.key(row)) if self.aside else None
        if address is not None:
            self.lacking.append(address)
            return
        self.net += 1
        self._keep(row, (self._cell(row, None, "present", "missing"),), True, False)

    def extra(self, row: Fields) -> None:
        """Note a row that only the target has."""
        self.net -= 1
        self._keep(row, (self._cell(row, None, "missing", "present"),), False, True)

    def pair(self, row: Fields, other: Fields) -> None:
        """Compare the source's row with the target's of the same key, and note the cells that differ."""
        if row == other:
            return
        columns = zip(self.table.pair.columns, row, other, strict=True)
        cells = tuple(
            self._cell(row, column.source.name, show(mine, column.target.type), show(theirs, column.target.type))
            for column, mine, theirs in columns
            if not interchangeable(mine, theirs, column.target.type)
        )
        if cells:
            self._keep(row, cells, True, True)

    def join(self, source: Iterable[Fields], target: Iterable[Fields]) -> None:
        """Compare rows in any order by their keys. Memory: the source's rows and, of the target's, one."""
        mine = self._by_key(source)
        for row in target:
            rows = mine.get(self.reader.key(row))
            if rows:
                self.pair(rows.pop(), row)
            else:
                self.extra(row)
        for rows in mine.values():
            for row in rows:
                self.missing(row)

    def _by_key(self, rows: Iterable[Fields]) -> dict[WireKey, list[Fields]]:
        found: dict[WireKey, list[Fields]] = defaultdict(list)
        for row in rows:
            found[self.reader.key(row)].append(row)
        return found

    def _keep(self, row: Fields, cells: tuple[CellDifference, ...], in_source: bool, in_target: bool) -> None:
        if len(self.found) < KEPT:
            self.found.append(Finding(row, self.reader.key(row), cells, in_source, in_target))
        else:
            self.uncounted += len(cells)

    def _cell(self, row: Fields, column: str | None, mine: str, theirs: str) -> CellDifference:
        return CellDifference(self.table.pair.source.name, self.reader.shown(row), column, mine, theirs)

    def drop_missing(self, keys: Collection[WireKey]) -> None:
        """Forget missing rows that are known to be kept aside."""
        kept = [item for item in self.found if item.in_target or item.key not in keys]
        self.net -= len(self.found) - len(kept)
        self.found = kept

    @property
    def count(self) -> int:
        """Differing cells, plus one for each row that exists on one side only."""
        return sum(len(item.cells) for item in self.found) + self.uncounted

    def cells(self) -> Iterator[CellDifference]:
        """Yield the differences, row by row."""
        for item in self.found:
            yield from item.cells
