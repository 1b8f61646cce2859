"""The guarded read: which storage class each column is expected to have, and the SQL that holds it to that.

SQLite is dynamically typed. A chunk is read as `SELECT columns … WHERE range AND guard`: only rows whose every value
has the expected class (and range and size) stream to Arrow in C; the others come by the negated guard, one by one.
The guard is light or strict. Where an integer is expected, the Arrow reader itself stops at anything else, so the light
guard leaves these columns out; what is behind such a stop is read by the strict guard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pgferry.model import (
    Affinity,
    Chunk,
    ColumnPair,
    PgKind,
    PgType,
    SourceColumn,
    SourceTable,
    SqliteValue,
    StorageClass,
    TablePair,
)
from pgferry.quoting import quote
from pgferry.sqlite.chunks import TableSample, address_list, range_condition
from pgferry.sqlite.collations import as_bytes, keyed_by_own, read_from
from pgferry.sqlite.wide import joined

WIDE_VALUE = 64 * 1024
"""Bytes; a row with a larger value takes the row-wise path, so that a batch's memory is bounded by its row count."""

EXACT_FLOAT = 2**53
"""Integers up to here are exact as a float."""

_INTEGER_RANGES = {PgKind.SMALLINT: 2**15, PgKind.INTEGER: 2**31}
_FLOATING = (PgKind.REAL, PgKind.DOUBLE, PgKind.NUMERIC)
_PINS = {
    StorageClass.INTEGER: ("0", pa.int64()),
    StorageClass.REAL: ("0.0", pa.float64()),
    StorageClass.TEXT: ("''", pa.string()),
    StorageClass.BLOB: ("x''", pa.binary()),
}
_AFFINITY_CLASS = {
    Affinity.INTEGER: StorageClass.INTEGER,
    Affinity.NUMERIC: StorageClass.INTEGER,
    Affinity.REAL: StorageClass.REAL,
    Affinity.TEXT: StorageClass.TEXT,
    Affinity.BLOB: StorageClass.BLOB,
}


@dataclass(frozen=True, slots=True)
class ColumnRead:
    """How one column is read: the class that is expected, and the SQL that selects and guards it."""

    pair: ColumnPair
    storage: StorageClass
    expression: str
    guard: str
    """A condition that is true or false, never NULL; empty when every value must fit."""
    name: str = ""
    """The column's name in SQL, with the collation that it is read by where its own is not known."""
    self_guarding: bool = False
    """Whether the Arrow reader stops at a value of any other class, and the conversion finds one out of range."""

    @property
    def portable_guard(self) -> str:
        """The guard without octet_length(), which SQLite has since 3.43: newer than many a Python's."""
        return self.guard.replace(f"octet_length({self.name})", f"length(CAST({self.name} AS BLOB))")


@dataclass(frozen=True, slots=True)
class TableRead:
    """How the chunks of one table are read. `batch_rows` bounds the memory of one Arrow batch."""

    pair: TablePair
    columns: tuple[ColumnRead, ...]
    batch_rows: int
    only_by_rule: bool = False
    """Whether the Arrow reader cannot read the table at all: it does not have the collation that orders it."""

    def guard(self, *, strict: bool = True) -> str:
        """Return the condition that every row on the vectorised path fulfils."""
        return joined([column.guard for column in self._guarded(strict)], " AND ") or self._unguarded

    def portable_guard(self, *, strict: bool = True) -> str:
        """Return the same condition for Python's own SQLite."""
        return joined([column.portable_guard for column in self._guarded(strict)], " AND ") or self._unguarded

    @property
    def _unguarded(self) -> str:
        return "0" if self.only_by_rule else "1"

    def _guarded(self, strict: bool) -> list[ColumnRead]:
        if self.only_by_rule:
            return []
        return [column for column in self.columns if column.guard and (strict or not column.self_guarding)]

    @property
    def rowid(self) -> str | None:
        """The rowid's name, by which single rows are read again; None for a WITHOUT ROWID table."""
        return self.pair.source.rowid_name


def plan_read(pair: TablePair, sample: TableSample, *, batch_bytes: int = 8 * 1024 * 1024) -> TableRead:
    """Decide how a table is read, by the classes that its sampled values have."""
    seen = {column.name: counts for column, counts in zip(pair.source.columns, sample.classes, strict=True)}
    columns = tuple(_column_read(pair.source, column, seen.get(column.source.name, {})) for column in pair.columns)
    batch = int(batch_bytes / max(sample.average_bytes, 32.0))
    return TableRead(pair, columns, max(16, min(batch, 65536)), keyed_by_own(pair.source))


def clean_query(
    read: TableRead, chunk: Chunk, order: str = "", *, strict: bool = True
) -> tuple[str, tuple[SqliteValue, ...]]:
    """Return the guarded SELECT of a chunk for the ADBC reader, its columns named c0, c1, … and last the rowid.

    Its first row is no data: literals that pin each column's Arrow type, which the reader otherwise takes from
    whatever values come first. The other rows come in the order of their address, or by the SQL terms of `order`.
    """
    where, values = range_condition(read.pair.source, chunk)
    pins = [f"{_PINS[column.storage][0]} AS c{n}" for n, column in enumerate(read.columns)]
    terms = [column.expression for column in read.columns]
    if read.rowid is not None:
        pins.append(f"0 AS c{len(terms)}")
        terms.append(quote(read.rowid))
    select = (
        f"SELECT {', '.join(terms)} FROM {read_from(read.pair.source)} WHERE {where} AND {read.guard(strict=strict)}"
    )
    return f"SELECT {', '.join(pins)} UNION ALL SELECT * FROM ({select}{_in_order(read, order)})", values


def clean_schema(read: TableRead) -> pa.Schema:
    """Return the Arrow schema that `clean_query` must yield; text is taken as bytes by the caller where it is wrong."""
    types = [_PINS[column.storage][1] for column in read.columns]
    if read.rowid is not None:
        types.append(pa.int64())
    return pa.schema([(f"c{n}", kind) for n, kind in enumerate(types)])


def rest_query(read: TableRead, chunk: Chunk, *, strict: bool = True) -> tuple[str, tuple[SqliteValue, ...]]:
    """Return the SELECT of the rows of a chunk that the guard keeps out: the address first, then the raw columns.

    They come in the order of their rowids, where they have such.
    """
    where, values = range_condition(read.pair.source, chunk)
    order = f" ORDER BY {quote(read.rowid)}" if read.rowid is not None else ""
    return f"{raw_select(read)} WHERE {where} AND NOT ({read.portable_guard(strict=strict)}){order}", values


def guarded_rows_query(read: TableRead, chunk: Chunk, order: str = "") -> tuple[str, tuple[SqliteValue, ...]]:
    """Return the SELECT of the rows that the guard lets through, raw, in the order of `clean_query`."""
    where, values = range_condition(read.pair.source, chunk)
    return f"{raw_select(read)} WHERE {where} AND {read.portable_guard()}{_in_order(read, order)}", values


def rowids_query(read: TableRead, count: int) -> str:
    """Return the SELECT of that many rows, raw, by their rowids."""
    assert read.rowid is not None
    return f"{raw_select(read)} WHERE {quote(read.rowid)} IN ({', '.join('?' * count)})"


def row_query(read: TableRead, conditions: Sequence[str]) -> str:
    """Return the SELECT of the rows whose address fulfils the conditions, raw: the address first, then the columns.

    The conditions (`= ?`, `IS NULL`, …) stand in the order of the address.
    """
    names = zip(read.pair.source.address, conditions, strict=True)
    conditions = [f"{as_bytes(read.pair.source, name)} {condition}" for name, condition in names]
    return f"{raw_select(read)} WHERE {' AND '.join(conditions)}"


def raw_select(read: TableRead) -> str:
    """Return the SELECT, without a WHERE, of the address's columns first and then of the table's, as they are."""
    source = read.pair.source
    names = [quote(name) for name in source.address] + [quote(column.pair.source.name) for column in read.columns]
    return f"SELECT {', '.join(names)} FROM {quote(source.name)}"


def _in_order(read: TableRead, order: str) -> str:
    # It costs nothing, and without it SQLite reads an index, in that index's order, where one holds all the columns.
    terms = order or address_list(read.pair.source)
    return f" ORDER BY {terms}" if terms else ""


def _column_read(table: SourceTable, pair: ColumnPair, counts: dict[str, int]) -> ColumnRead:
    storage = _expected_class(pair.source, counts)
    name = as_bytes(table, pair.source.name)
    if pair.source.generated == "virtual":
        # Reckoned anew by whoever reads it: the Arrow reader's SQLite may be newer than Python's, and print other
        # digits. One of them reads all such rows.
        return ColumnRead(pair, storage, name, "0", name)
    if storage in (StorageClass.INTEGER, StorageClass.REAL) and pair.target.type.kind in _FLOATING:
        # An affinity of NUMERIC stores 12.0 as the integer 12: such a column is read whole, as floats.
        exact = f"typeof({name}) = 'integer' AND +{name} BETWEEN -{EXACT_FLOAT} AND {EXACT_FLOAT}"
        guard = f"(typeof({name}) = 'real' OR {exact})"
        return ColumnRead(pair, StorageClass.REAL, f"CAST({name} AS REAL)", _nullable(guard, name, pair), name)
    if pair.source.name == table.rowid_column:
        return ColumnRead(
            pair, StorageClass.INTEGER, name, _range_guard(name, pair.target.type), name, self_guarding=True
        )
    parts = [f"typeof({name}) = '{storage}'"]
    if storage is StorageClass.INTEGER:
        parts.append(_range_guard(name, pair.target.type))
    elif storage is not StorageClass.REAL:
        parts.append(f"octet_length({name}) <= {WIDE_VALUE}")
    guard = " AND ".join(part for part in parts if part)
    return ColumnRead(pair, storage, name, _nullable(guard, name, pair), name, storage is StorageClass.INTEGER)


def _expected_class(column: SourceColumn, counts: dict[str, int]) -> StorageClass:
    known = {storage: count for storage, count in counts.items() if storage != StorageClass.NULL}
    if not known:
        return _AFFINITY_CLASS[column.affinity]
    return StorageClass(max(sorted(known), key=lambda storage: known[storage]))


def _nullable(guard: str, name: str, pair: ColumnPair) -> str:
    return f"({guard})" if pair.target.not_null else f"({guard} OR {name} IS NULL)"


def _range_guard(name: str, target: PgType) -> str:
    # The plus keeps SQLite from reading the table by an index on the column, in that index's order.
    bound = _INTEGER_RANGES.get(target.kind)
    if target.kind is PgKind.BOOLEAN:
        return f"+{name} IN (0, 1)"
    return f"+{name} BETWEEN {-bound} AND {bound - 1}" if bound else ""
