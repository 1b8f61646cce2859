"""What can be told before a row moves: names that change, values that will not fit, tables that stay behind."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pgferry.convert.row_width import PAGE_ROOM, can_be_too_wide
from pgferry.model import ColumnPair, PgKind, SourceCatalog, TablePair
from pgferry.quoting import quote
from pgferry.sqlite.catalog import holds_rows
from pgferry.sqlite.sizes import wide_rows

SHOWN_LABELS = 5
"""Unknown labels of a column that a note shows."""


@dataclass(frozen=True, slots=True)
class Renamed:
    """A table (`column` None) or a column whose name in the target differs from the source's."""

    table: str
    column: str | None
    source: str
    target: str


def renames(pairs: Iterable[TablePair]) -> tuple[Renamed, ...]:
    """Return every name that is not the same on both sides."""
    return tuple(_renames(pairs))


def _renames(pairs: Iterable[TablePair]) -> Iterator[Renamed]:
    for pair in pairs:
        table = pair.source.name
        if pair.target.name != table:
            yield Renamed(table, None, table, pair.target.name)
        for column in pair.columns:
            if column.target.name != column.source.name:
                yield Renamed(table, column.source.name, column.source.name, column.target.name)


def left_behind(catalog: SourceCatalog) -> tuple[str, ...]:
    """Return a note for each reason for which tables or columns of the source do not move, naming all of them."""
    found: dict[tuple[str, str], list[str]] = {}
    for item in catalog.left_out:
        if holds_rows(item):
            name = f"{item.table}.{item.name}" if item.kind == "column" else item.name
            found.setdefault((item.kind, item.reason), []).append(name)
    return tuple(
        f"not moved: {kind}{'s' if len(names) > 1 else ''} {', '.join(names)}: {reason}"
        for (kind, reason), names in found.items()
    )


def unknown_labels(source: sqlite3.Connection, pairs: Iterable[TablePair]) -> tuple[str, ...]:
    """Return a note for each enum column that holds text which is no label of the enum; its rows will be quarantined.

    One scan of the table for each enum column; reads only.
    """
    return tuple(
        note
        for pair in pairs
        for column in pair.columns
        if column.target.type.kind is PgKind.ENUM and (note := _unknown(source, pair, column)) is not None
    )


def too_wide(source: sqlite3.Connection, pairs: Sequence[TablePair]) -> tuple[str, ...]:
    """Return a note for each table with rows that fit on no page of PostgreSQL; they will be quarantined.

    One scan of each table of some hundred columns; reads only.
    """
    kinds = {pair.source.name: [(c.source.name, c.target.type.kind) for c in pair.columns] for pair in pairs}
    wide = [pair.source for pair in pairs if can_be_too_wide(len(pair.columns))]
    found = [wide_rows(source, table, kinds[table.name]) for table in wide]
    return tuple(
        f"{rows}, will be quarantined: a row must fit on a page of PostgreSQL, which has room for {PAGE_ROOM:,} bytes"
        for rows in found
        if rows
    )


def _unknown(source: sqlite3.Connection, pair: TablePair, column: ColumnPair) -> str | None:
    labels: Sequence[str] = column.target.type.labels
    name, table = quote(column.source.name), quote(pair.source.name)
    marks = ", ".join("?" * len(labels))
    found = source.execute(
        f"SELECT {name}, count(*) FROM {table} "
        f"WHERE {name} COLLATE BINARY NOT IN ({marks}) AND typeof({name}) = 'text' "
        f"GROUP BY {name} COLLATE BINARY ORDER BY 2 DESC, 1",
        labels,
    ).fetchall()
    if not found:
        return None
    shown = ", ".join(f"{value!r} in {count:,} rows" for value, count in found[:SHOWN_LABELS])
    more = f" and {len(found) - SHOWN_LABELS} more" if len(found) > SHOWN_LABELS else ""
    return (
        f"{pair.source.name}.{column.source.name} has labels that the target's type {column.target.type.name} does not "
        f"know: {shown}{more}; these rows will be quarantined"
    )
