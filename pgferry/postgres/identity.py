"""After a load: the numbers that the server gives next, and the statistics that its planner needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from pgferry.errors import Permanent
from pgferry.model import PgKind, TablePair, TargetTable
from pgferry.postgres.catalog import rows_of, values_of
from pgferry.postgres.handle import Connection
from pgferry.postgres.statements import statements
from pgferry.quoting import qualified, quote

SQL = statements("identity")

_NUMBERS = frozenset({PgKind.SMALLINT, PgKind.INTEGER, PgKind.BIGINT, PgKind.NUMERIC})
_LAST_BIGINT = 2**63 - 1
_SEQUENCE = ("schema", "name", "type", "increment", "lowest", "highest")


@dataclass(frozen=True, slots=True)
class _Sequence:
    schema: str
    name: str
    type: str
    increment: int
    lowest: int
    highest: int

    @property
    def qualified(self) -> str:
        return qualified(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column that draws from a sequence, and the value next to which the sequence must not stay behind."""

    label: str
    sequence: _Sequence
    reached: int | None


async def set_identities(conn: Connection, pairs: Sequence[TablePair], sequences: Mapping[str, int]) -> dict[str, int]:
    """Set what identity and serial columns give next past every value in them; return it by `schema.table.column`.

    `sequences` is the source's `sqlite_sequence`: rowids that were given once are not given again either. A sequence
    never goes back and keeps its step; without rows and without an entry it stays where it is. Sequences that run
    downwards go below MIN. A full bigint sequence is left at its end, as SQLite's is, and 2**63 is returned. Raises
    Permanent, before any sequence is set, when one of a narrower type cannot hold what comes next.

    Setting is not transactional in PostgreSQL; a repeated call sets the same.
    """
    columns = await _columns(conn, pairs, sequences)
    following = await _positions(conn, list(dict.fromkeys(column.sequence for column in columns)))
    for column in columns:
        following[column.sequence] = _following(column, following[column.sequence])
    await _set(conn, following)
    return {column.label: following[column.sequence] for column in columns}


async def analyze(conn: Connection, tables: Sequence[TargetTable]) -> None:
    """Collect the tables' statistics; outside a transaction each table commits by itself."""
    if tables:
        await conn.execute(f"ANALYZE {', '.join(qualified(table.schema, table.name) for table in tables)}")


async def _columns(conn: Connection, pairs: Sequence[TablePair], sequences: Mapping[str, int]) -> list[_Column]:
    """Return the columns that draw from a sequence; many are asked about at once, for there may be thousands."""
    by_oid = {pair.target.oid: pair for pair in pairs}
    drawing = [
        (by_oid[row["table"]], row["column"], _Sequence(*(row[name] for name in _SEQUENCE)))
        for row in await conn.fetch(SQL["sequences"], list(by_oid))
    ]
    drawing = [each for each in drawing if each[1] in _number_columns(each[0])]
    found = await values_of(conn, [_outermost(pair, column, sequence) for pair, column, sequence in drawing])
    return [
        _Column(
            f"{pair.target.schema}.{pair.target.name}.{column}",
            sequence,
            _reached(pair, column, sequence, sequences, value),
        )
        for (pair, column, sequence), value in zip(drawing, found, strict=True)
    ]


def _number_columns(pair: TablePair) -> set[str]:
    return {column.name for column in pair.target.columns if column.type.kind in _NUMBERS}


def _outermost(pair: TablePair, column: str, sequence: _Sequence) -> str:
    """Return the term for the value that the sequence must pass."""
    reach = (
        f"ceil(max({quote(column)})::numeric)" if sequence.increment > 0 else f"floor(min({quote(column)})::numeric)"
    )
    return f"(SELECT {reach} FROM {rows_of(pair.target)})"


def _reached(
    pair: TablePair, column: str, sequence: _Sequence, sequences: Mapping[str, int], value: Decimal | None
) -> int | None:
    if sequence.increment < 0:
        return None if value is None else int(value)
    given = sequences.get(pair.source.name) if column == _rowid_target(pair) else None
    return max((int(known) for known in (value, given) if known is not None), default=None)


def _rowid_target(pair: TablePair) -> str | None:
    """Return the target column that takes the rowid, the only one that `sqlite_sequence` speaks of."""
    names = (column.target.name for column in pair.columns if column.source.name == pair.source.rowid_column)
    return next(names, None)


async def _positions(conn: Connection, sequences: Sequence[_Sequence]) -> dict[_Sequence, int]:
    """Return what each sequence gives next."""
    terms = [f"(SELECT ARRAY[last_value, is_called::int] FROM {sequence.qualified})" for sequence in sequences]
    found = await values_of(conn, terms)
    return {
        sequence: last + (sequence.increment if called else 0)
        for sequence, (last, called) in zip(sequences, found, strict=True)
    }


def _following(column: _Column, position: int) -> int:
    """Return the first value from `position` on, in the sequence's steps, that lies past what the column reached."""
    sequence, step = column.sequence, abs(column.sequence.increment)
    if column.reached is None:
        return position
    up = sequence.increment > 0
    behind = column.reached + 1 - position if up else position - (column.reached - 1)
    distance = -(-max(behind, 0) // step) * step
    value = position + distance if up else position - distance
    if distance and not sequence.lowest <= value <= sequence.highest and sequence.highest != _LAST_BIGINT:
        raise _too_narrow(column, value)
    return value


def _too_narrow(column: _Column, value: int) -> Permanent:
    sequence = column.sequence
    return Permanent(
        f"The next value of {column.label} is {value}, but its sequence {sequence.schema}.{sequence.name} "
        f"({sequence.type}) gives {sequence.lowest} to {sequence.highest}.",
        "Make the column and its sequence bigint (ALTER TABLE … ALTER COLUMN … TYPE bigint; ALTER SEQUENCE … AS "
        "bigint), or raise the sequence's MAXVALUE, then run again.",
    )


async def _set(conn: Connection, following: Mapping[_Sequence, int]) -> None:
    full = [value > sequence.highest for sequence, value in following.items()]
    values = [min(value, sequence.highest) for sequence, value in following.items()]
    await conn.execute(SQL["set_positions"], [sequence.qualified for sequence in following], values, full)
