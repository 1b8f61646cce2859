"""Plans the foreign keys of a table: those that PostgreSQL can hold; the others are noted with the reason."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from pgferry.model import PgKind, PgType, SourceForeignKey
from pgferry.plan.model import ForeignKeyPlan, TablePlan
from pgferry.plan.names import Namespace
from pgferry.plan.schema import Draft
from pgferry.plan.translate import Untranslatable
from pgferry.quoting import quote
from pgferry.sqlite import facts

_CHANGING = {"ON DELETE": ("SET NULL", "SET DEFAULT"), "ON UPDATE": ("CASCADE", "SET NULL", "SET DEFAULT")}
"""Actions that write the child's columns, which nothing can when they are generated."""


def plan_foreign_keys(
    connection: sqlite3.Connection, draft: Draft, drafts: Mapping[str, Draft], tables: Mapping[str, TablePlan]
) -> tuple[ForeignKeyPlan, ...]:
    """Plan a table's foreign keys; `drafts` and `tables` by lower-case source name. Notes those that cannot be made."""
    names = Namespace(frozenset())
    found = []
    for key in draft.source.foreign_keys:
        try:
            found.append(_foreign_key(connection, draft, key, drafts, tables, names))
        except Untranslatable as error:
            sql = f"FOREIGN KEY ({', '.join(key.columns)}) REFERENCES {key.parent} ({', '.join(key.parent_columns)})"
            draft.leave("foreign key", ", ".join(key.columns), str(error), sql)
    return tuple(found)


def _foreign_key(
    connection: sqlite3.Connection,
    draft: Draft,
    key: SourceForeignKey,
    drafts: Mapping[str, Draft],
    tables: Mapping[str, TablePlan],
    names: Namespace,
) -> ForeignKeyPlan:
    parent = drafts.get(key.parent.lower())
    if parent is None:
        raise Untranslatable(f"its parent {key.parent!r} is no table of the target")
    columns = [draft.exact(column) for column in key.columns]
    targets = [parent.exact(column) for column in key.parent_columns or parent.source.key]
    _check_columns(draft, columns, parent, targets)
    plan = tables[key.parent.lower()]
    parent_names = tuple(parent.column_names[column] for column in targets)
    if not _is_unique(plan, parent_names):
        raise Untranslatable(f"{', '.join(targets)} of {parent.source.name!r} has no unique key in the target")
    _check_actions(key, tables[draft.source.name.lower()], columns)
    own = tuple(draft.column_names[column] for column in columns)
    return ForeignKeyPlan(
        name=names.take("_".join((draft.name, *own, "fkey"))),
        columns=own,
        parent=plan.name,
        parent_columns=parent_names,
        on_update=key.on_update,
        on_delete=key.on_delete,
        deferrable=key.deferrable,
        initially_deferred=key.initially_deferred,
        orphans=facts.orphans(connection, draft.source.name, columns, parent.source.name, targets),
    )


def _check_columns(draft: Draft, columns: Sequence[str], parent: Draft, targets: Sequence[str]) -> None:
    if not targets or len(targets) != len(columns):
        raise Untranslatable(f"{parent.source.name!r} has no primary key of {len(columns)} columns")
    for owner, names in ((draft, columns), (parent, targets)):
        for name in names:
            if name not in owner.column_names:
                raise Untranslatable(f"{owner.source.name!r} has no column {name!r}")
    for column, target in zip(columns, targets, strict=True):
        if not comparable(draft.type(column), parent.type(target)):
            kinds = f"{draft.type(column).kind.value} and {parent.type(target).kind.value}"
            raise Untranslatable(f"{column} and {parent.source.name}.{target} are {kinds}, which do not compare")


def _check_actions(key: SourceForeignKey, table: TablePlan, columns: Sequence[str]) -> None:
    generated = [column for column in columns if table.column(column).generated is not None]
    for event, action in (("ON DELETE", key.on_delete), ("ON UPDATE", key.on_update)):
        if generated and action in _CHANGING[event]:
            raise Untranslatable(f"{event} {action} would write {', '.join(generated)}, which is generated")


def comparable(first: PgType, second: PgType) -> bool:
    """Say whether a foreign key may join two types."""
    integers = (PgKind.SMALLINT, PgKind.INTEGER, PgKind.BIGINT)
    return first.kind is second.kind or (first.kind in integers and second.kind in integers)


def _is_unique(table: TablePlan, columns: tuple[str, ...]) -> bool:
    keys = [set(key.columns) for key in (table.key, *table.uniques) if key is not None]
    plain = [
        set(index.terms)
        for index in table.indexes
        if index.unique and index.where is None and not any(term.endswith(" DESC") for term in index.terms)
    ]
    return set(columns) in keys or {quote(column) for column in columns} in plain
