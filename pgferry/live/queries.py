"""Parallel testing: the application's own SELECTs run on both databases at the same moment, and answer the same.

SQLite is the snapshot file, PostgreSQL the caller's transaction, so that a difference is a difference and not a row
in flight. What a query says of its order is kept: rows that sort equally may come in any order, others may not.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from datetime import time as clock
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

import asyncpg

from pgferry.errors import Transient, UsageError, is_transient
from pgferry.live.query_text import (
    Query,
    ResultShape,
    TargetColumns,
    parameters,
    parse,
    read_queries,
    shape,
    translated,
    without_limit,
)
from pgferry.live.query_values import TOLERANCE, Column, Row, column, plain_rows, unmatched
from pgferry.postgres.connection import Connection
from pgferry.report import markdown_cell, markdown_data, markdown_table
from pgferry.sqlite.connect import reading

__all__ = [
    "Query",
    "QueryComparison",
    "RowDifference",
    "compare_queries",
    "markdown",
    "read_queries",
    "to_json",
    "translated",
]

SLOWER_FACTOR = 1.5
SLOWER_MILLISECONDS = 5.0
"""A query is slower when it takes more than SLOWER_FACTOR times as long and these milliseconds more."""

FIRST_DIFFERENCES = 5
SHOWN_CHARACTERS = 200

# The names of columns mean the same to the translation only where they mean it in every table.
_COLUMNS = """
SELECT lower(a.attname) AS name,
       bool_and(coalesce(nullif(t.typbasetype, 0), t.oid) = 'boolean'::regtype) AS boolean,
       bool_and(a.attnotnull) AS required
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_type t ON t.oid = a.atttypid
 WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
   AND c.relnamespace = ANY (SELECT oid FROM pg_namespace WHERE nspname = ANY (current_schemas(false)))
 GROUP BY 1
"""
# Where the letters of a word decide before its case does, text is not sorted by bytes.
_SORTS_BY_BYTES = "SELECT 'B'::text < 'a'::text"


@dataclass(frozen=True, slots=True)
class RowDifference:
    """A row that differs; the side that has no such row is empty."""

    place: str
    """`row 7` where the query orders, else which side has it."""
    sqlite: str
    postgres: str


@dataclass(frozen=True, slots=True)
class QueryComparison:
    """What one query answered on both sides. Milliseconds are medians of the repeats, all rows fetched."""

    name: str
    file: str
    translated: str
    sqlite_rows: int = 0
    postgres_rows: int = 0
    difference_count: int = 0
    differences: tuple[RowDifference, ...] = ()
    """The first FIRST_DIFFERENCES of them."""
    sqlite_error: str = ""
    postgres_error: str = ""
    sqlite_ms: float = 0.0
    postgres_ms: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether a side did not answer at all."""
        return bool(self.sqlite_error or self.postgres_error)

    @property
    def equal(self) -> bool:
        """Whether both sides answered the same."""
        return not self.failed and self.difference_count == 0

    @property
    def ratio(self) -> float | None:
        """How many times as long PostgreSQL took; None when that was not measured."""
        return None if self.failed or not self.sqlite_ms else self.postgres_ms / self.sqlite_ms

    @property
    def slower(self) -> bool:
        """Whether PostgreSQL is slower by as much as a person would want to know."""
        more = self.postgres_ms - self.sqlite_ms
        return not self.failed and more > SLOWER_MILLISECONDS and self.postgres_ms > SLOWER_FACTOR * self.sqlite_ms


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one side answered."""

    names: tuple[str, ...] = ()
    rows: Sequence[Sequence[Any]] = ()
    milliseconds: float = 0.0
    error: str = ""
    types: tuple[str, ...] = ()
    """The types of PostgreSQL's columns."""


async def compare_queries(
    connection: Connection, snapshot: Path, queries: Sequence[Query], *, repeats: int = 3
) -> tuple[QueryComparison, ...]:
    """Run each query `repeats` times on both sides and compare the answers.

    `snapshot` is an immutable SQLite file; `connection` is in the caller's REPEATABLE READ READ ONLY transaction of
    the same moment, which stays usable: each query runs behind a savepoint. Answers are held in memory, one query at a
    time. A query that a side refuses is told in its comparison. Raises UsageError when a query does more than read,
    Transient when the connection is lost.
    """
    if not queries:
        return ()
    known = await _target_columns(connection)
    by_bytes = bool(await connection.fetchval(_SORTS_BY_BYTES))
    with reading(snapshot) as source:
        return tuple([await _compare(connection, source, query, known, by_bytes, max(1, repeats)) for query in queries])


async def _target_columns(connection: Connection) -> TargetColumns:
    found = await connection.fetch(_COLUMNS)
    return TargetColumns(
        frozenset(row["name"] for row in found if row["boolean"]),
        frozenset(row["name"] for row in found if row["required"]),
    )


async def _compare(
    connection: Connection,
    source: sqlite3.Connection,
    query: Query,
    known: TargetColumns,
    by_bytes: bool,
    repeats: int,
) -> QueryComparison:
    parse(query.sql, file=query.file)
    theirs, names = _for_postgres(query, known)
    # One side after the other: at the same time they would slow each other down.
    mine = await asyncio.to_thread(_ask_sqlite, source, query, repeats)
    answer = await _ask_postgres(connection, theirs, [(name, query.values[name]) for name in names], repeats)
    comparison = QueryComparison(
        query.name,
        query.file,
        theirs,
        len(mine.rows),
        len(answer.rows),
        sqlite_error=mine.error,
        postgres_error=answer.error,
        sqlite_ms=mine.milliseconds,
        postgres_ms=answer.milliseconds,
    )
    if comparison.failed:
        return comparison
    return await asyncio.to_thread(_judged, comparison, _pair(source, query, mine, answer), mine, answer, by_bytes)


def _for_postgres(query: Query, known: TargetColumns) -> tuple[str, tuple[str, ...]]:
    """Return the statement for PostgreSQL and the names of its parameters in their order."""
    if query.own is None:
        return translated(query.sql, known), parameters(query.sql, file=query.file)
    return translated(query.own, dialect="postgres"), parameters(query.own, file=query.file, dialect="postgres")


# ---------------------------------------------------------------- asking


def _ask_sqlite(source: sqlite3.Connection, query: Query, repeats: int) -> _Answer:
    times = []
    try:
        for _ in range(repeats):
            started = time.perf_counter()
            cursor = source.execute(query.sql, dict(query.values))
            rows = cursor.fetchall()
            times.append(time.perf_counter() - started)
    except sqlite3.Error as error:
        return _Answer(error=f"{error}")
    return _Answer(tuple(name for name, *_ in cursor.description), rows, median(times) * 1000)


async def _ask_postgres(connection: Connection, sql: str, values: Sequence[tuple[str, Any]], repeats: int) -> _Answer:
    # By statement, not by `connection.transaction()`: the caller may have begun its transaction by statement, too.
    await connection.execute("SAVEPOINT pgferry_query")
    try:
        return await _timed(connection, sql, values, repeats)
    except UsageError as error:
        return _Answer(error=error.message)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError, TypeError, ArithmeticError) as error:
        if connection.is_closed() or is_transient(error):
            raise Transient(f"PostgreSQL was lost while a query ran: {error}.", "Run the comparison again.") from error
        return _Answer(error=_words(error))
    finally:
        if not connection.is_closed():
            await connection.execute("ROLLBACK TO SAVEPOINT pgferry_query; RELEASE SAVEPOINT pgferry_query")


async def _timed(connection: Connection, sql: str, values: Sequence[tuple[str, Any]], repeats: int) -> _Answer:
    statement = await connection.prepare(sql)
    types = [parameter.name for parameter in statement.get_parameters()]
    arguments = [_argument(name, value, type_) for (name, value), type_ in zip(values, types, strict=True)]
    times = []
    rows: Sequence[Any] = ()
    for _ in range(repeats):
        started = time.perf_counter()
        rows = await statement.fetch(*arguments)
        times.append(time.perf_counter() - started)
    attributes = statement.get_attributes()
    names = tuple(attribute.name for attribute in attributes)
    return _Answer(names, rows, median(times) * 1000, types=tuple(attribute.type.name for attribute in attributes))


def _words(error: Exception) -> str:
    state = getattr(error, "sqlstate", None)
    hint = getattr(error, "hint", None)
    return f"{str(error).splitlines()[0]}{f' ({state})' if state else ''}{f'. {hint}' if hint else ''}"


_ARGUMENTS: Mapping[str, Callable[[Any], Any]] = {
    "bool": bool,
    "int2": int,
    "int4": int,
    "int8": int,
    "numeric": lambda value: Decimal(str(value)),
    "float4": float,
    "float8": float,
    "timestamp": lambda value: datetime.fromisoformat(value).replace(tzinfo=None),
    "timestamptz": lambda value: _in_utc(datetime.fromisoformat(value)),
    "date": date.fromisoformat,
    "time": clock.fromisoformat,
    "uuid": UUID,
    "bytea": lambda value: value.encode() if isinstance(value, str) else value,
    "text": lambda value: value if isinstance(value, str) else str(value),
    "varchar": lambda value: value if isinstance(value, str) else str(value),
}


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _argument(name: str, value: Any, type_name: str) -> Any:
    """Return a parameter's value as asyncpg takes it for the type that PostgreSQL gave the parameter."""
    if value is None or type_name not in _ARGUMENTS:
        return value
    try:
        return _ARGUMENTS[type_name](value)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UsageError(f"the parameter :{name} is {type_name} here, and {value!r} is no such value") from error


# ---------------------------------------------------------------- judging


@dataclass(frozen=True, slots=True)
class _Pair:
    """Both answers in plain form, and what is known of them."""

    one: list[Row]
    other: list[Row]
    columns: tuple[Column, ...]
    shape: ResultShape
    uncut: Callable[[], Iterator[Row]]
    """Asks SQLite again, without LIMIT and OFFSET."""

    def same_place(self, mine: Row, theirs: Row) -> bool:
        """Say whether two rows may stand in the same place of the order."""
        one, other = self._key(mine), self._key(theirs)
        return one == other or not unmatched([one], [other], self._key(self.columns))[0]

    def _key(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(row[place] for place in self.shape.sort_keys or ())


def _pair(source: sqlite3.Connection, query: Query, mine: _Answer, theirs: _Answer) -> _Pair:
    known = shape(query.sql, mine.names)
    numbers = [any(isinstance(row[place], int | float) for row in mine.rows) for place in range(len(mine.names))]
    columns = tuple(map(column, theirs.types, known.computed, numbers))

    def uncut() -> Iterator[Row]:
        rows = source.execute(without_limit(query.sql), dict(query.values))
        return (row for raw in rows for row in plain_rows([raw], columns))

    if len(mine.names) != len(theirs.names):
        return _Pair([], [], columns, known, uncut)
    return _Pair(plain_rows(mine.rows, columns), plain_rows(theirs.rows, columns), columns, known, uncut)


def _judged(
    comparison: QueryComparison, pair: _Pair, mine: _Answer, theirs: _Answer, by_bytes: bool
) -> QueryComparison:
    if len(mine.names) != len(theirs.names):
        columns = RowDifference("columns", ", ".join(mine.names), ", ".join(theirs.names))
        return replace(comparison, difference_count=1, differences=(columns,))
    lone, lother, near = unmatched(pair.one, pair.other, pair.columns)
    notes = [_near_note(near)] if near else []
    if (lone or lother) and _ties_at_the_cut(pair, lone, lother):
        notes.append(f"{len(lone)} rows tie where LIMIT or OFFSET cut: either choice is right")
        lone, lother = [], []
    if lone or lother:
        found, count = list(_lone_rows(pair, mine, theirs, lone, lother)), max(len(lone), len(lother))
    else:
        places = _misplaced(pair)
        found, count = list(_misplaced_rows(mine, theirs, places)), len(places)
        notes += _order_notes(pair, count, by_bytes)
    return replace(comparison, difference_count=count, differences=tuple(found[:FIRST_DIFFERENCES]), notes=tuple(notes))


def _near_note(near: int) -> str:
    return f"computed numbers of {near} rows are equal only within a relative {TOLERANCE:g}"


def _ties_at_the_cut(pair: _Pair, lone: list[int], lother: list[int]) -> bool:
    """Say whether the rows that differ are another choice among rows of SQLite that sort equally at the cut."""
    if not pair.shape.cut or pair.shape.sort_keys is None or len(lone) != len(lother):
        return False
    ends = (pair.one[0], pair.one[-1])

    def at_the_cut(row: Row) -> bool:
        return any(pair.same_place(row, end) for end in ends)

    if not all(map(at_the_cut, [*(pair.one[place] for place in lone), *(pair.other[place] for place in lother)])):
        return False
    # A row that stands at the cut with a wrong value looks the same so far. It is nowhere in SQLite's whole answer.
    chosen = list(filter(at_the_cut, pair.other))
    try:
        return not unmatched(list(filter(at_the_cut, pair.uncut())), chosen, pair.columns)[1]
    except sqlite3.Error:
        return False


def _misplaced(pair: _Pair) -> list[int]:
    if not pair.shape.sort_keys:
        return []
    rows = enumerate(zip(pair.one, pair.other, strict=True))
    return [place for place, (one, other) in rows if not pair.same_place(one, other)]


def _order_notes(pair: _Pair, misplaced: int, by_bytes: bool) -> Iterator[str]:
    if misplaced:
        yield "the same rows in another order"
        if not by_bytes:
            yield "the database's collation does not sort text by bytes, as SQLite does"
    if pair.shape.sort_keys is None:
        yield "it sorts by what it does not show, so the order was not compared"


def _lone_rows(
    pair: _Pair, mine: _Answer, theirs: _Answer, lone: list[int], lother: list[int]
) -> Iterator[RowDifference]:
    """Yield the rows that one side has alone; together, where the query orders and they stand in the same place."""
    together = set(lone) & set(lother) if pair.shape.sort_keys else set()
    for place in sorted({*lone, *lother}):
        if place in together:
            yield RowDifference(f"row {place + 1}", _shown(mine.rows[place]), _shown(theirs.rows[place]))
            continue
        if place in lone:
            yield RowDifference(f"row {place + 1} of SQLite only", _shown(mine.rows[place]), "")
        if place in lother:
            yield RowDifference(f"row {place + 1} of PostgreSQL only", "", _shown(theirs.rows[place]))


def _misplaced_rows(mine: _Answer, theirs: _Answer, places: list[int]) -> Iterator[RowDifference]:
    for place in places:
        yield RowDifference(f"row {place + 1}", _shown(mine.rows[place]), _shown(theirs.rows[place]))


def _shown(row: Sequence[Any]) -> str:
    text = ", ".join("NULL" if value is None else str(value) for value in row)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


# ---------------------------------------------------------------- telling


def verdict(comparison: QueryComparison) -> str:
    """Return the result of a comparison in a few words."""
    if comparison.failed:
        sides = (("SQLite", comparison.sqlite_error), ("PostgreSQL", comparison.postgres_error))
        return f"FAILED on {' and '.join(side for side, error in sides if error)}"
    if not comparison.equal:
        return f"DIFFERS ({comparison.difference_count:,})"
    return "equal, slower" if comparison.slower else "equal"


def markdown(comparisons: Sequence[QueryComparison]) -> str:
    """Return the comparisons for the Prefect UI: a table, then what differs, fails or should be known."""
    good = sum(comparison.equal for comparison in comparisons)
    slower = sum(comparison.slower for comparison in comparisons)
    head = ["query", "rows", "result", "SQLite ms", "PostgreSQL ms", "ratio"]
    lines = [
        f"## {good} of {len(comparisons)} queries answer the same" + (f", {slower} slower" if slower else ""),
        "",
        markdown_table(head, [_markdown_row(comparison) for comparison in comparisons]),
    ]
    for comparison in comparisons:
        if not comparison.equal or comparison.notes:
            lines += ["", f"### {markdown_cell(comparison.name)}", "", *_markdown_details(comparison)]
    return "\n".join(lines)


def _markdown_row(item: QueryComparison) -> list[str]:
    ratio = "" if item.ratio is None else f"{item.ratio:.1f}{' ⚠' if item.slower else ''}"
    cells = (item.name, item.sqlite_rows, verdict(item), f"{item.sqlite_ms:.1f}", f"{item.postgres_ms:.1f}", ratio)
    return [markdown_cell(cell) for cell in cells]


def _markdown_details(comparison: QueryComparison) -> Iterator[str]:
    for side, error in (("SQLite", comparison.sqlite_error), ("PostgreSQL", comparison.postgres_error)):
        if error:
            yield f"- {side}: {markdown_cell(error)}"
    yield from (f"- {note}" for note in comparison.notes)
    if comparison.differences:
        rows = [[item.place, item.sqlite, item.postgres] for item in comparison.differences]
        cells = [[markdown_data(cell) for cell in row] for row in rows]
        yield f"\n{markdown_table(['where', 'SQLite', 'PostgreSQL'], cells)}"
    if not comparison.equal:
        yield "\nOn PostgreSQL it is\n"
        yield f"```sql\n{comparison.translated.replace('```', '` ` `')}\n```"


def to_json(comparisons: Sequence[QueryComparison]) -> list[dict[str, Any]]:
    """Return the comparisons as JSON-able values."""
    return [
        {**asdict(item), "equal": item.equal, "slower": item.slower, "ratio": item.ratio and round(item.ratio, 3)}
        for item in comparisons
    ]
