"""The proposed schema, as values."""

from __future__ import annotations

from dataclasses import dataclass

from pgferry.model import PgType, SourceColumn


@dataclass(frozen=True, slots=True)
class NotCarried:
    """Something of the source that the target does not get, and why."""

    kind: str
    """`table`, `rows`, `column`, `default`, `generated`, `primary key`, `unique`, `index`, `foreign key`, `check`,
    `view`, `trigger`."""
    table: str
    name: str
    reason: str
    sql: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A rule that needs a person's yes: `setting = value` for a column in pgferry.toml."""

    table: str
    column: str
    setting: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """A column of the target."""

    source: SourceColumn
    name: str
    type: PgType
    evidence: str
    """What was found in the data, and the type that follows from it, in a sentence."""
    notes: tuple[str, ...] = ()
    not_null: bool = False
    identity: bool = False
    default: str | None = None
    """The default as PostgreSQL's SQL."""
    generated: str | None = None
    """The expression of a generated column as PostgreSQL's SQL; its values are not copied."""
    number_as_bytes: bool = False
    """Whether pgferry.toml has this rule for it."""


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """A primary key or a unique constraint, by the target's column names."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """An index; `terms` and `where` are PostgreSQL's SQL."""

    name: str
    source: str
    terms: tuple[str, ...]
    unique: bool = False
    where: str | None = None


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """A CHECK constraint; `sql` is PostgreSQL's."""

    name: str
    sql: str
    source: str


@dataclass(frozen=True, slots=True)
class ForeignKeyPlan:
    """A foreign key, by the target's names; `orphans` rows violate it, and then it is made NOT VALID."""

    name: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    on_update: str = "NO ACTION"
    on_delete: str = "NO ACTION"
    deferrable: bool = False
    initially_deferred: bool = False
    orphans: int = 0


@dataclass(frozen=True, slots=True)
class TablePlan:
    """A table of the target; `source` is its name in SQLite."""

    source: str
    name: str
    rows: int
    columns: tuple[ColumnPlan, ...]
    key: KeyPlan | None = None
    uniques: tuple[KeyPlan, ...] = ()
    checks: tuple[CheckPlan, ...] = ()
    indexes: tuple[IndexPlan, ...] = ()
    foreign_keys: tuple[ForeignKeyPlan, ...] = ()
    stays_whole: bool = False
    """Whether its rows stay whole on their pages; see `storage`."""

    def column(self, source: str) -> ColumnPlan:
        """Return the plan of a source column, whatever its case; raises KeyError."""
        for column in self.columns:
            if column.source.name.lower() == source.lower():
                return column
        raise KeyError(source)


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """A view; `sql` is its query as PostgreSQL's SQL."""

    source: str
    name: str
    columns: tuple[str, ...]
    sql: str
    source_sql: str


@dataclass(frozen=True, slots=True)
class SchemaPlan:
    """The schema proposed for one SQLite file. The same file and rules give an equal plan."""

    tables: tuple[TablePlan, ...]
    views: tuple[ViewPlan, ...] = ()
    not_carried: tuple[NotCarried, ...] = ()
    questions: tuple[Question, ...] = ()
    excluded: tuple[str, ...] = ()
    """Source tables that PostgreSQL cannot hold at all; pgferry.toml excludes them."""
    tried: bool = False
    """Whether a PostgreSQL server has accepted every statement of it."""

    def table(self, source: str) -> TablePlan:
        """Return the plan of a source table, whatever its case; raises KeyError."""
        for table in self.tables:
            if table.source.lower() == source.lower():
                return table
        raise KeyError(source)
