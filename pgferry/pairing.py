"""Pairs the source's tables and columns with the target's, before a row moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pgferry.errors import UsageError
from pgferry.model import (
    ColumnPair,
    PgKind,
    SourceCatalog,
    SourceTable,
    TablePair,
    TargetColumn,
    TargetTable,
)
from pgferry.settings import Rules

ALEMBIC_TABLE = "alembic_version"
"""Alembic's own table: the target has one of its own, which `alembic upgrade` writes."""


@dataclass(frozen=True, slots=True)
class ExcludedTable:
    """A source table whose rows stay behind, and why."""

    table: str
    reason: str


@dataclass(frozen=True, slots=True)
class Pairing:
    """Which tables move where, and which stay behind."""

    pairs: tuple[TablePair, ...]
    excluded: tuple[ExcludedTable, ...]

    def pair(self, table: str) -> TablePair:
        """Return the pair of a source table; raises KeyError."""
        for pair in self.pairs:
            if pair.source.name == table:
                return pair
        raise KeyError(table)


def pair_tables(catalog: SourceCatalog, targets: Sequence[TargetTable], rules: Rules) -> Pairing:
    """Pair every source table that is not excluded with a target table, and its columns with the target's columns.

    Names pair exactly, after renames; a name without an exact partner pairs with the only one that differs in letter
    case, for SQLite's names are case-insensitive. Raises one UsageError that names everything without a partner: a
    table, a column, a NOT NULL target column that nothing fills, a type that cannot be written, a rule for nothing.
    """
    problems = list(_idle_rules(catalog, rules))
    pairs: list[TablePair] = []
    excluded: list[ExcludedTable] = []
    for table in catalog.tables:
        if table.name == ALEMBIC_TABLE:
            excluded.append(ExcludedTable(table.name, "Alembic's own; the target has its own"))
        elif rules.table(table.name).exclude:
            excluded.append(ExcludedTable(table.name, "excluded in pgferry.toml"))
        else:
            target = _find_table(table, targets, rules)
            if target is None:
                problems.append(f"table {table.name!r} has no table of that name in the target")
                continue
            pair, wrong = _pair_columns(table, target, rules)
            pairs.append(pair)
            problems.extend(wrong)
    problems.extend(_shared_targets(pairs))
    if problems:
        raise UsageError(
            f"The source and the target's schema do not fit: {'; '.join(problems)}.",
            "Add what is missing by a migration, or say `rename` or `exclude` in pgferry.toml.",
            problems=tuple(problems),
        )
    return Pairing(tuple(pairs), tuple(excluded))


def _find_table(table: SourceTable, targets: Sequence[TargetTable], rules: Rules) -> TargetTable | None:
    wanted = rules.table(table.name).rename or table.name
    exact = [target for target in targets if wanted in (target.name, f"{target.schema}.{target.name}")]
    if exact:
        return exact[0]
    loose = [target for target in targets if target.name.casefold() == wanted.casefold()]
    return loose[0] if len(loose) == 1 else None


def _pair_columns(table: SourceTable, target: TargetTable, rules: Rules) -> tuple[TablePair, list[str]]:
    problems: list[str] = []
    pairs: list[ColumnPair] = []
    for column in table.columns:
        rule = rules.table(table.name).columns.get(column.name)
        if rule is not None and rule.exclude:
            continue
        found = _find_column(rule.rename if rule and rule.rename else column.name, target.columns)
        if found is None:
            if not column.generated:
                problems.append(f"column {table.name}.{column.name} has no column of that name in the target")
        elif not found.generated:
            pairs.append(ColumnPair(column, found, rules.column(table.name, column.name)))
    problems.extend(_unwritable(table, pairs))
    problems.extend(_unfilled(target, pairs))
    return TablePair(table, target, tuple(pairs)), problems


def _find_column(wanted: str, columns: Sequence[TargetColumn]) -> TargetColumn | None:
    for column in columns:
        if column.name == wanted:
            return column
    loose = [column for column in columns if column.name.casefold() == wanted.casefold()]
    return loose[0] if len(loose) == 1 else None


def _unwritable(table: SourceTable, pairs: Iterable[ColumnPair]) -> Iterable[str]:
    for pair in pairs:
        kind = pair.target.type
        if PgKind.UNSUPPORTED in (kind.kind, kind.element.kind if kind.element else None):
            yield f"column {table.name}.{pair.source.name} goes to type {kind.name}, which pgferry cannot write"


def _unfilled(target: TargetTable, pairs: Sequence[ColumnPair]) -> Iterable[str]:
    filled = {pair.target.name for pair in pairs}
    if len(filled) < len(pairs):
        yield f"two columns go to the same column of {target.name}"
    for column in target.columns:
        given = column.has_default or column.identity or column.generated
        if column.not_null and not given and column.name not in filled:
            yield f"target column {target.name}.{column.name} is NOT NULL, has no default, and nothing fills it"


def _shared_targets(pairs: Sequence[TablePair]) -> Iterable[str]:
    first: dict[tuple[str, str], str] = {}
    for pair in pairs:
        name = (pair.target.schema, pair.target.name)
        if name in first:
            yield f"tables {first[name]!r} and {pair.source.name!r} both go to {pair.target.name!r}"
        first.setdefault(name, pair.source.name)


def _idle_rules(catalog: SourceCatalog, rules: Rules) -> Iterable[str]:
    tables: dict[str, SourceTable] = {table.name: table for table in catalog.tables}
    for name, rule in rules.tables.items():
        table = tables.get(name)
        if table is None:
            yield f"pgferry.toml has rules for table {name!r}, which the source does not have"
            continue
        columns: set[str] = {column.name for column in table.columns}
        for column in rule.columns:
            if column not in columns:
                yield f"pgferry.toml has rules for column {name}.{column}, which the source does not have"
