"""What a preflight says of values and rows that PostgreSQL cannot hold for their size, or only just."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgferry.convert.row_width import MOST_COLUMNS, PAGE_ROOM, can_be_too_wide
from pgferry.model import PgKind, SourceTable
from pgferry.operate.check import Check, failed_check, listed, megabytes, passed, warned
from pgferry.operate.source_checks import FileFacts
from pgferry.operate.target_checks import Paired
from pgferry.pairing import ALEMBIC_TABLE
from pgferry.settings import Rules
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.connect import reading
from pgferry.sqlite.sizes import UTF16_GROWTH, Longest, longest_row, longest_values, wide_rows

MOST_BYTES = 2**30 - 64
"""Bytes of a value, and of a row's values together: palloc ends at 1 GiB - 1, heads and frames included."""

MOST_JSONB = 2**28 - 1
"""Bytes of the strings, of an array's or of an object's members within jsonb."""

LARGE_BYTES = 100 * 10**6
"""Bytes of a value from which on it is worth a word."""


@dataclass(frozen=True, slots=True)
class _Moving:
    """A table that moves, and its columns with their types in the target; None where that has no tables yet."""

    table: SourceTable
    columns: dict[str, PgKind | None]


def check_long_values(copy: Path, facts: FileFacts, paired: Paired, rules: Rules) -> Check:
    """Look for values and rows that are too long for PostgreSQL, and for long ones; `copy` is a snapshot.

    Nothing is read where the whole file is smaller than such a value.
    """
    name = "long values"
    most = facts.used_bytes * (1 if facts.encoding == "UTF-8" else UTF16_GROWTH)
    if most < LARGE_BYTES:
        return passed(name, f"none can be: the file holds {megabytes(facts.used_bytes)} in all")
    with reading(copy) as source:
        moving = _moving(source, paired, rules)
        long = [found for item in moving for found in _long_values(source, item)]
        rows = [longest_row(source, item.table, MOST_BYTES) for item in moving] if most >= MOST_BYTES else []
    refused = [found for found in long if found.bytes > MOST_BYTES] or [row for row in rows if row]
    if refused:
        return failed_check(
            name,
            f"PostgreSQL holds 1 GB in a value and in a row: {listed([str(found) for found in refused])}",
            "Exclude that column or table in pgferry.toml, or let the application keep such values elsewhere first.",
        )
    documents = [found for found in long if _is_jsonb(moving, found) and found.bytes > MOST_JSONB]
    if documents:
        return warned(
            name,
            f"jsonb holds 256 MB in a string, an array or an object: {listed([str(found) for found in documents])}",
            "The load may stop at these: give the column the type json or text by a migration.",
        )
    if long:
        return warned(
            name,
            listed([str(found) for found in long]),
            "Each takes its size some ten times in memory while it moves, and pg_dump saves no bytea of more than"
            " 512 MB. Lower PGFERRY_PARALLELISM, or let the application keep such values elsewhere first.",
        )
    return passed(name, f"none of {megabytes(LARGE_BYTES)} or more")


def check_wide_rows(copy: Path, paired: Paired, rules: Rules) -> Check:
    """Look for rows that fit on no page of PostgreSQL because of their many columns; `copy` is a snapshot."""
    name = "wide rows"
    with reading(copy) as source:
        moving = _moving(source, paired, rules)
        wide = [item for item in moving if can_be_too_wide(len(item.columns))]
        found = [wide_rows(source, item.table, list(item.columns.items())) for item in wide]
    beyond = [item.table.name for item in moving if len(item.columns) > MOST_COLUMNS]
    if beyond:
        return failed_check(
            name,
            f"more than {MOST_COLUMNS:,} columns, which no table of PostgreSQL has: {listed(beyond)}",
            "Exclude the table or some of its columns in pgferry.toml; `plan` leaves such tables behind.",
        )
    told = [str(rows) for rows in found if rows]
    if told:
        return warned(
            name,
            f"too wide for a page, which has room for {PAGE_ROOM:,} bytes: {listed(told)}",
            "These rows will be quarantined. Give the columns narrower types (real, integer, smallint), keep many of"
            " them in one array or jsonb, or exclude some in pgferry.toml.",
        )
    return passed(name, f"every row fits on a page of PostgreSQL ({len(wide):,} tables have enough columns to look)")


def _moving(source: sqlite3.Connection, paired: Paired, rules: Rules) -> list[_Moving]:
    if paired.pairs:
        return [
            _Moving(pair.source, {column.source.name: column.target.type.kind for column in pair.columns})
            for pair in paired.pairs
        ]
    tables = [t for t in read_catalog(source).tables if t.name != ALEMBIC_TABLE and not rules.table(t.name).exclude]
    return [_Moving(table, dict.fromkeys(_carried(table, rules))) for table in tables]


def _carried(table: SourceTable, rules: Rules) -> Iterator[str]:
    given = rules.table(table.name).columns
    return (column.name for column in table.columns if column.name not in given or not given[column.name].exclude)


def _long_values(source: sqlite3.Connection, moving: _Moving) -> Iterator[Longest]:
    return (found for found in longest_values(source, moving.table, LARGE_BYTES) if found.column in moving.columns)


def _is_jsonb(moving: list[_Moving], found: Longest) -> bool:
    return any(item.table is found.table and item.columns[found.column] is PgKind.JSONB for item in moving)
