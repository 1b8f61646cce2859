"""After a load: the numbers that the server gives next, and the statistics that its planner needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pgferry.errors import Permanent
from pgferry.model import PgKind, TablePair, TargetTable
from pgferry.postgres.catalog import rows_of
from pgferry.postgres.handle import Connection
from pgferry.postgres.statements import statements
from pgferry.quoting import qualified, quote

SQL = statements("identity")

_NUMBERS = frozenset({PgKind.SMALLINT, PgKind.INTEGER, PgKind.BIGINT, PgKind.NUMERIC})
_LAST_BIGINT = 2**63 - 1


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
    columns = [column for pair in pairs for column in await _columns(conn, pair, sequences)]
    following: dict[_Sequence, int] = {}
    for column in columns:
        known = following.get(column.sequence)
        start = await _position(conn, column.sequence) if known is None else known
        following[column.sequence] = _following(column, start)
    for sequence, value in following.items():
        await _set(conn, sequence, value)
    return {column.label: following[column.sequence] for column in columns}


async def analyze(conn: Connection, table: TargetTable) -> None:
    """Collect the table's statistics."""
    await conn.execute(f"ANALYZE {qualified(table.schema, table.name)}")


async def _columns(conn: Connection, pair: TablePair, sequences: Mapping[str, int]) -> list[_Column]:
    rows = await conn.fetch(SQL["sequences"], qualified(pair.target.schema, pair.target.name))
    numbers = {column.name for column in pair.target.columns if column.type.kind in _NUMBERS}
    found = []
    for row in rows:
        if row["column"] in numbers:
            sequence = _Sequence(*(row[name] for name in ("schema", "name", "type", "increment", "lowest", "highest")))
            reached = await _reached(conn, pair, row["column"], sequence, sequences)
            found.append(_Column(f"{pair.target.schema}.{pair.target.name}.{row['column']}", sequence, reached))
    return found


async def _reached(
    conn: Connection, pair: TablePair, column: str, sequence: _Sequence, sequences: Mapping[str, int]
) -> int | None:
    rows = rows_of(pair.target)
    if sequence.increment < 0:
        lowest = await conn.fetchval(f"SELECT floor(min({quote(column)})::numeric) FROM {rows}")
        return None if lowest is None else int(lowest)
    highest = await conn.fetchval(f"SELECT ceil(max({quote(column)})::numeric) FROM {rows}")
    given = sequences.get(pair.source.name) if column == _rowid_target(pair) else None
    values = [int(value) for value in (highest, given) if value is not None]
    return max(values, default=None)


def _rowid_target(pair: TablePair) -> str | None:
    """Return the target column that takes the rowid, the only one that `sqlite_sequence` speaks of."""
    names = (column.target.name for column in pair.columns if column.source.name == pair.source.rowid_column)
    return next(names, None)


async def _position(conn: Connection, sequence: _Sequence) -> int:
    row = await conn.fetchrow(f"SELECT last_value, is_called FROM {sequence.qualified}")
    assert row is not None
    return int(row["last_value"]) + (sequence.increment if row["is_called"] else 0)


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


async def _set(conn: Connection, sequence: _Sequence, value: int) -> None:
    full = value > sequence.highest
    await conn.fetchval(SQL["set_position"], sequence.qualified, sequence.highest if full else value, full)
