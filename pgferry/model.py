"""The values that travel between pgferry's modules: small, frozen, and free of behaviour beyond their own shape."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

SqliteValue = None | int | float | str | bytes
"""A value as SQLite stores it: one of its five storage classes. Undecodable text travels as `UndecodableText`."""

RawRow = tuple[SqliteValue, ...]
"""A row as SQLite has it: its address first, then the columns that are moved."""

Key = tuple[SqliteValue, ...]
"""The values that address one row: its rowid, or its primary key in a WITHOUT ROWID table."""


# ---------------------------------------------------------------- the source


class StorageClass(StrEnum):
    """What `typeof()` answers (https://www.sqlite.org/datatype3.html)."""

    NULL = "null"
    INTEGER = "integer"
    REAL = "real"
    TEXT = "text"
    BLOB = "blob"


class Affinity(StrEnum):
    """A column's affinity (https://www.sqlite.org/datatype3.html#determination_of_column_affinity)."""

    INTEGER = "INTEGER"
    TEXT = "TEXT"
    BLOB = "BLOB"
    REAL = "REAL"
    NUMERIC = "NUMERIC"


@dataclass(frozen=True, slots=True)
class UndecodableText:
    """A TEXT value whose bytes are no valid text in the file's encoding."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column of a SQLite table, as `pragma table_xinfo` tells it."""

    name: str
    declared: str
    """The declared type, as written; empty when there is none."""
    affinity: Affinity
    not_null: bool = False
    default: str | None = None
    """The default as SQL text."""
    key_position: int = 0
    """1-based place in the primary key; 0 when it is no part of it."""
    generated: str | None = None
    """`"virtual"` or `"stored"` for a generated column."""
    collation: str = "BINARY"
    generated_expression: str | None = None
    """The expression of a generated column, as written, without the outer parentheses."""


@dataclass(frozen=True, slots=True)
class IndexTerm:
    """One term of an index: a column, or an expression when `column` is None."""

    column: str | None
    descending: bool = False
    collation: str = "BINARY"


@dataclass(frozen=True, slots=True)
class SourceIndex:
    """An index; `origin` is `c` (CREATE INDEX), `u` (UNIQUE constraint) or `pk`."""

    name: str
    unique: bool
    origin: str
    terms: tuple[IndexTerm, ...]
    partial: bool = False
    sql: str | None = None
    """The CREATE INDEX text; None for the automatic index of a constraint."""


@dataclass(frozen=True, slots=True)
class SourceForeignKey:
    """A foreign key; `parent_columns` is empty when the statement names only the parent table."""

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    on_update: str = "NO ACTION"
    on_delete: str = "NO ACTION"
    deferrable: bool = False
    initially_deferred: bool = False


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A table of the source that holds data."""

    name: str
    columns: tuple[SourceColumn, ...]
    sql: str
    without_rowid: bool = False
    strict: bool = False
    autoincrement: bool = False
    rowid_column: str | None = None
    """The INTEGER PRIMARY KEY column that is the rowid, if there is one."""
    rowid_name: str | None = "rowid"
    """The name by which the rowid can be read: `rowid`, `_rowid_` or `oid`, whichever no column hides; the
    INTEGER PRIMARY KEY column when columns hide all three. None for a WITHOUT ROWID table, and for a table whose
    rowid cannot be named at all."""
    indexes: tuple[SourceIndex, ...] = ()
    foreign_keys: tuple[SourceForeignKey, ...] = ()
    checks: tuple[str, ...] = ()
    """The expressions of its CHECK constraints, without the outer parentheses."""

    @property
    def key(self) -> tuple[str, ...]:
        """The primary key's columns in key order; empty when there is none."""
        members = [column for column in self.columns if column.key_position]
        return tuple(column.name for column in sorted(members, key=lambda column: column.key_position))

    @property
    def address(self) -> tuple[str, ...]:
        """The columns that address a row for chunks and lookups: the rowid, or else the primary key."""
        return (self.rowid_name,) if self.rowid_name else self.key

    def column(self, name: str) -> SourceColumn:
        """Return the column of that exact name; raises KeyError."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class SourceObject:
    """A view, trigger or table that is not carried as data: its name, its SQL and (for the latter) why."""

    kind: str
    name: str
    sql: str
    reason: str = ""
    table: str = ""
    """The table that a trigger belongs to, or that an object was found in."""


@dataclass(frozen=True, slots=True)
class SourceCatalog:
    """What a SQLite file holds."""

    tables: tuple[SourceTable, ...]
    views: tuple[SourceObject, ...] = ()
    triggers: tuple[SourceObject, ...] = ()
    left_out: tuple[SourceObject, ...] = ()
    """Virtual and shadow tables, and SQLite's own: not data."""
    sequences: dict[str, int] = field(default_factory=dict)
    """`sqlite_sequence`: table -> the highest rowid it ever had."""
    encoding: str = "UTF-8"

    def table(self, name: str) -> SourceTable:
        """Return the table of that exact name; raises KeyError."""
        for table in self.tables:
            if table.name == name:
                return table
        raise KeyError(name)


# ---------------------------------------------------------------- the target


class PgKind(StrEnum):
    """The PostgreSQL types that pgferry writes; the value is the type's name in SQL."""

    SMALLINT = "smallint"
    INTEGER = "integer"
    BIGINT = "bigint"
    REAL = "real"
    DOUBLE = "double precision"
    NUMERIC = "numeric"
    BOOLEAN = "boolean"
    TEXT = "text"
    VARCHAR = "character varying"
    CHAR = "character"
    BYTEA = "bytea"
    DATE = "date"
    TIME = "time without time zone"
    TIMESTAMP = "timestamp without time zone"
    TIMESTAMPTZ = "timestamp with time zone"
    INTERVAL = "interval"
    UUID = "uuid"
    JSON = "json"
    JSONB = "jsonb"
    ENUM = "enum"
    ARRAY = "array"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class PgType:
    """A type of the target's catalog, domains resolved to their base type.

    `length` is in characters (varchar, char); `precision` and `scale` are numeric's, both None when unconstrained;
    `precision` is also the fractional-second digits (0-6) of time, timestamp and interval, None meaning 6.
    """

    kind: PgKind
    length: int | None = None
    precision: int | None = None
    scale: int | None = None
    labels: tuple[str, ...] = ()
    """An enum's labels."""
    element: PgType | None = None
    """An array's element type."""
    oid: int = 0
    """The type's oid in the target; needed for the elements of arrays of enums, 0 when unknown."""
    name: str = ""
    """The type as `format_type()` writes it, for messages; empty when it was not read from a catalog."""


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """A column of a target table."""

    name: str
    type: PgType
    not_null: bool = False
    has_default: bool = False
    identity: bool = False
    """An identity column, or one whose default is its own sequence (serial)."""
    generated: bool = False


@dataclass(frozen=True, slots=True)
class TargetTable:
    """A table of the target."""

    schema: str
    name: str
    oid: int
    columns: tuple[TargetColumn, ...]
    key: tuple[str, ...] = ()
    partitioned: bool = False

    def column(self, name: str) -> TargetColumn:
        """Return the column of that exact name; raises KeyError."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """A unique index of a target table, or the one of a primary key or unique constraint."""

    table_oid: int
    name: str
    terms: tuple[str, ...]
    """Its terms as PostgreSQL's SQL."""
    columns: tuple[str | None, ...]
    """The columns that its terms are; None for an expression."""
    bytewise: bool = True
    """Whether its collations find only equal bytes equal."""
    partial: bool = False
    nulls_equal: bool = False
    """Whether NULL equals NULL in it (NULLS NOT DISTINCT)."""


# ---------------------------------------------------------------- the move


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """What a person has decided about one column; the defaults guess nothing."""

    on_empty: str = "quarantine"
    """An empty string in a column that is not text: `quarantine` or `null`."""
    on_nul: str = "quarantine"
    """A NUL character in text or in JSON: `quarantine` or `strip`."""
    on_zero_date: str = "quarantine"
    """`0` or `0000-00-00…` in a date or timestamp column: `quarantine` or `null`."""
    epoch: str | None = None
    """The unit of numbers in a date or timestamp column: `s`, `ms`, `us` or `julian`; None quarantines them."""
    timezone: str | None = None
    """The IANA zone of naive values for timestamptz, and the zone that values with an offset are turned into for
    timestamp. None means UTC for the former, and quarantines the latter unless their offset is zero."""
    blob_as_text: bool = False
    """Whether a BLOB that is valid UTF-8 becomes text in a text column."""
    number_as_bytes: bool = False
    """Whether a number becomes the bytes of its digits in a bytea column, as SQLite's CAST(… AS BLOB) does."""


@dataclass(frozen=True, slots=True)
class ColumnPair:
    """A source column and the target column that takes its values."""

    source: SourceColumn
    target: TargetColumn
    rule: ColumnRule = ColumnRule()


@dataclass(frozen=True, slots=True)
class TablePair:
    """A source table and the target table that takes its rows; `columns` in the order in which they are copied."""

    source: SourceTable
    target: TargetTable
    columns: tuple[ColumnPair, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of one table of the snapshot: `low` <= address <= `high`, both inclusive; None is open.

    `rows` is the exact number of rows in it. Numbers count from 0 in address order.
    """

    table: str
    number: int
    rows: int
    low: Key | None = None
    high: Key | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An immutable copy of the source, of one moment; it is also the user's backup."""

    path: str
    sha256: str
    bytes: int
    source: str
    taken_at: datetime
    foreign_key_violations: int = 0


@dataclass(frozen=True, slots=True)
class ExportedChunk:
    """A chunk as a Parquet file in staging: `rows` in `path`, `quarantined` rows in `quarantine_path`."""

    chunk: Chunk
    path: str
    rows: int
    bytes: int
    sha256: str
    quarantined: int = 0
    quarantine_path: str | None = None
    quarantine_sha256: str | None = None
    in_order: bool = True
    """Whether all rows came in the order of their address."""


@dataclass(frozen=True, slots=True)
class LoadedChunk:
    """A chunk as the ledger records it; commits with its rows.

    `digest` is that of the COPY binary stream that was sent (see `ordering`); `xid` the transaction that wrote the
    rows and `first_block`..`last_block` the heap pages that they lie in, so that exactly these rows can be read back.
    """

    chunk: Chunk
    rows: int
    quarantined: int
    payload_bytes: int
    digest: str
    xid: int
    first_block: int
    last_block: int


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A row that the target cannot hold as it is: the first value that did not fit, and why."""

    table: str
    key: Key
    column: str
    storage_class: StorageClass
    value: bytes
    """The value's own bytes: text and blobs as stored, numbers as SQLite writes them."""
    reason: str


@dataclass(frozen=True, slots=True)
class CellDifference:
    """A cell (or, with `column` None, a whole row) that is not equal on both sides."""

    table: str
    key: str
    column: str | None
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class TableVerdict:
    """What verification found for one table."""

    table: str
    source_rows: int
    loaded: int
    quarantined: int
    excluded: int
    cells_compared: int
    difference_count: int
    """Differing cells, plus one for each row that exists on one side only."""
    differences: tuple[CellDifference, ...] = ()
    """The first of them."""
    bytes_sent: int = 0
    """Bytes of its COPY streams."""
    sampled: int = 0
    """Rows that were looked up once more through another reader."""

    def with_sample(self, rows: int, differences: tuple[CellDifference, ...]) -> TableVerdict:
        """Return the verdict with what the second reader found."""
        return replace(
            self,
            sampled=rows,
            difference_count=self.difference_count + len(differences),
            differences=self.differences + differences,
        )

    @property
    def closed(self) -> bool:
        """Whether every source row is accounted for."""
        return self.source_rows == self.loaded + self.quarantined + self.excluded


@dataclass(frozen=True, slots=True)
class OrphanedKey:
    """A foreign key that stays NOT VALID: new rows are held to it, but rows that were moved point at nothing."""

    table: str
    """The source's name of the table with the orphans; of one that was not moved, the target's, with its schema."""
    name: str
    parent: str
    """The target's table, with its schema, that lacks the rows."""
    orphans: int
    first: str
    """The referencing columns of a first orphan, with their values."""

    def __str__(self) -> str:
        return (
            f"the foreign key {self.name} of {self.table} stays NOT VALID: {self.orphans:,} rows point at rows that "
            f"{self.parent} does not hold, the first of them with {self.first}"
        )
