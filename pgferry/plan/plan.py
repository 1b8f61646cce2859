"""The plan of a whole file: read, measure, propose. `pgferry.plan.files` writes it."""

from __future__ import annotations

import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from pgferry.convert.row_width import MOST_COLUMNS, PAGE_ROOM, can_be_too_wide
from pgferry.errors import UsageError
from pgferry.model import PgKind, PgType, SourceCatalog, SourceObject, SourceTable
from pgferry.pairing import ALEMBIC_TABLE
from pgferry.plan.foreign_keys import plan_foreign_keys
from pgferry.plan.infer import Use, infer
from pgferry.plan.model import NotCarried, Question, SchemaPlan, ViewPlan
from pgferry.plan.names import SYSTEM_COLUMNS, Namespace, shorten
from pgferry.plan.schema import Draft, TablePlanner
from pgferry.plan.translate import KnownColumn, Untranslatable
from pgferry.plan.unify import unify
from pgferry.plan.views import Relation, translated_view
from pgferry.settings import Rules
from pgferry.sqlite.catalog import is_own, read_catalog
from pgferry.sqlite.connect import explain, open_read_only
from pgferry.sqlite.profile import profile_table
from pgferry.sqlite.sizes import wide_rows

_MULTIPLIED = re.compile(r"""(?<!SELECT)(?<!DISTINCT)(?<!ALL)(?<![\s(,.])\s*\*""", re.IGNORECASE)
"""A `*` that may be a product, and not all columns or all rows."""


def make_plan(snapshot_path: Path, rules: Rules | None = None) -> SchemaPlan:
    """Propose a schema for a snapshot, by what its data holds and what `rules` have decided; writes nothing.

    The same snapshot and rules give an equal plan. The snapshot must not change meanwhile. Views are translated but
    not tried: `pgferry.plan.trial.tried` does that on a server. Raises UsageError for names that cannot be
    given, and UsageError, Transient or Permanent when the file cannot be read.
    """
    settled = not snapshot_path.with_name(snapshot_path.name + "-wal").exists()
    try:
        with closing(open_read_only(snapshot_path, immutable=settled, stand_ins=True)) as connection:
            return _plan(connection, rules or Rules())
    except sqlite3.Error as error:
        raise explain(error, snapshot_path) from error


def _plan(connection: sqlite3.Connection, rules: Rules) -> SchemaPlan:
    catalog = read_catalog(connection)
    left = list(_left_out(catalog, rules))
    relations = Namespace()
    drafts = _drafts(connection, catalog, rules, relations)
    unify(drafts)
    _reserve_sequences(drafts, relations)
    view_names = relations.take_all([view.name for view in catalog.views])
    multiplied = any(_MULTIPLIED.search(view.sql) for view in catalog.views)
    planners = {
        name: TablePlanner(connection, draft, relations, multiplied=multiplied) for name, draft in drafts.items()
    }
    tables = {name: planner.plan() for name, planner in planners.items()}
    keys = {name: plan_foreign_keys(connection, draft, drafts, tables) for name, draft in drafts.items()}
    known = {name: Relation(drafts[name].name, planner.known()) for name, planner in planners.items()}
    views = _views(connection, catalog, view_names, known, left)
    for draft in drafts.values():
        left += draft.not_carried
        left += _too_wide(connection, draft)
    return SchemaPlan(
        tables=tuple(replace(table, foreign_keys=keys[name]) for name, table in tables.items()),
        views=tuple(views),
        not_carried=tuple(left),
        questions=tuple(_questions(drafts)),
        excluded=tuple(table.name for table in catalog.tables if len(table.columns) > MOST_COLUMNS),
    )


# ---------------------------------------------------------------- what stays behind


def _left_out(catalog: SourceCatalog, rules: Rules) -> Iterator[NotCarried]:
    for item in catalog.left_out:
        if not is_own(item.kind, item.name):
            yield _as_not_carried(item)
    for trigger in catalog.triggers:
        reason = "triggers are programs of SQLite: write it anew in PL/pgSQL if it is needed"
        yield NotCarried("trigger", trigger.table, trigger.name, reason, trigger.sql)
    for table in catalog.tables:
        reason = _why_excluded(table, rules)
        if reason:
            yield NotCarried("table", table.name, table.name, reason, table.sql)


def _as_not_carried(item: SourceObject) -> NotCarried:
    return NotCarried(item.kind, item.table, item.name, item.reason, item.sql)


def _why_excluded(table: SourceTable, rules: Rules) -> str:
    if table.name == ALEMBIC_TABLE:
        return "Alembic's own; the target has its own"
    if rules.table(table.name).exclude:
        return "excluded in pgferry.toml"
    if len(table.columns) > MOST_COLUMNS:
        return f"it has {len(table.columns):,} columns; a PostgreSQL table has {MOST_COLUMNS:,} at the most"
    return ""


def _too_wide(connection: sqlite3.Connection, draft: Draft) -> Iterator[NotCarried]:
    if can_be_too_wide(len(draft.proposals)):
        kinds = [(column, proposal.type.kind) for column, proposal in draft.proposals.items()]
        rows = wide_rows(connection, draft.source, kinds)
        if rows:
            reason = f"too wide for a page of PostgreSQL, which has room for {PAGE_ROOM:,} bytes; they are quarantined"
            yield NotCarried("rows", draft.source.name, str(rows), reason)


# ---------------------------------------------------------------- tables


def _drafts(
    connection: sqlite3.Connection, catalog: SourceCatalog, rules: Rules, relations: Namespace
) -> dict[str, Draft]:
    """Measure and name every table that is carried."""
    carried = [table for table in catalog.tables if not _why_excluded(table, rules)]
    wanted = {table.name: rules.table(table.name).rename or table.name for table in carried}
    _check_names(wanted)
    names = relations.take_all(list(wanted.values()))
    return {
        table.name.lower(): _draft(connection, table, names[wanted[table.name]], rules)
        for table in sorted(carried, key=_sequence_like_first)
    }


def _check_names(wanted: Mapping[str, str]) -> None:
    """Refuse new names of tables that `plan` cannot give; `wanted` by source table."""
    for table, name in wanted.items():
        # A long name with a dot in it is shortened by plan itself.
        if "." in name and name not in (table, shorten(table)):
            raise UsageError(
                f"Table {table!r} is renamed to {name!r} in pgferry.toml, and `plan` makes tables in one schema only.",
                "Say the name without a schema, or make the tables by revisions of your own, without a plan.",
            )
    _refuse_equal("Tables", wanted)


def _refuse_equal(what: str, wanted: Mapping[str, str]) -> None:
    sources: dict[str, list[str]] = defaultdict(list)
    for source, name in wanted.items():
        sources[name].append(source)
    for name, same in sources.items():
        if len(same) > 1:
            raise UsageError(
                f"{what} {' and '.join(map(repr, same))} would all be named {name!r} in the target.",
                "Say another `rename` for all but one of them in pgferry.toml.",
            )


def _sequence_like_first(table: SourceTable) -> tuple[bool, int]:
    # A table named like the sequence that PostgreSQL makes for another table's identity must be there before it:
    # then PostgreSQL picks another name for the sequence.
    like = table.name.endswith("_seq")
    return not like, -len(table.name) if like else 0


def _draft(connection: sqlite3.Connection, table: SourceTable, name: str, rules: Rules) -> Draft:
    columns = rules.table(table.name).columns
    carried = [c.name for c in table.columns if c.name not in columns or not columns[c.name].exclude]
    wanted = {column: (columns[column].rename if column in columns else None) or column for column in carried}
    _refuse_equal(f"Columns of {table.name!r},", wanted)
    names = Namespace(SYSTEM_COLUMNS).take_all(list(wanted.values()))
    profile = profile_table(connection, table)
    uses = _uses(table)
    proposals = {
        column: infer(
            table.column(column), profile.column(column), rules.column(table.name, column), uses[column.lower()]
        )
        for column in carried
    }
    return Draft(table, name, {column: names[wanted[column]] for column in carried}, profile, proposals, uses)


def _uses(table: SourceTable) -> dict[str, Use]:
    unique = {name.lower() for name in table.key}
    indexed = set(unique)
    for index in table.indexes:
        columns = {term.column.lower() for term in index.terms if term.column}
        indexed |= columns
        unique |= columns if index.unique else set()
    for column in (name for key in table.foreign_keys for name in key.columns):
        indexed.add(column.lower())
    rowid = (table.rowid_column or "").lower()
    names = [column.name.lower() for column in table.columns]
    return {name: Use(bool(rowid) and name == rowid, name in unique, name in indexed) for name in names}


def _reserve_sequences(drafts: Mapping[str, Draft], relations: Namespace) -> None:
    for draft in drafts.values():
        column = draft.source.rowid_column
        if column is not None and column in draft.column_names:
            relations.take(f"{draft.name}_{draft.column_names[column]}_seq")


def _questions(drafts: Mapping[str, Draft]) -> Iterator[Question]:
    for draft in drafts.values():
        for column, proposal in draft.proposals.items():
            for setting, value, reason in proposal.questions:
                yield Question(draft.source.name, column, setting, value, reason)


# ---------------------------------------------------------------- views


def _views(
    connection: sqlite3.Connection,
    catalog: SourceCatalog,
    names: Mapping[str, str],
    known: Mapping[str, Relation],
    left: list[NotCarried],
) -> Iterator[ViewPlan]:
    """Yield the views that translate, those that others read first; note the others in `left`."""
    relations = dict(known)
    waiting, before = list(catalog.views), -1
    reasons: dict[str, str] = {}
    while waiting and len(waiting) != before:
        before = len(waiting)
        for view in list(waiting):
            try:
                sql, binary = translated_view(view.sql, relations)
            except Untranslatable as error:
                reasons[view.name] = str(error)
                continue
            waiting.remove(view)
            columns = _view_columns(connection, view.name)
            relations[view.name.lower()] = Relation(names[view.name], _of_unknown_type(columns, binary=binary))
            yield ViewPlan(view.name, names[view.name], columns, sql, view.sql)
    left += [NotCarried("view", "", view.name, reasons[view.name], view.sql) for view in waiting]


def _view_columns(connection: sqlite3.Connection, view: str) -> tuple[str, ...]:
    rows = connection.execute("SELECT name FROM pragma_table_xinfo(?, 'main') ORDER BY cid", (view,))
    return tuple(Namespace(SYSTEM_COLUMNS).take_all([str(name) for (name,) in rows]).values())


def _of_unknown_type(columns: tuple[str, ...], *, binary: bool) -> dict[str, KnownColumn]:
    return {name.lower(): KnownColumn(name, PgType(PgKind.UNSUPPORTED), binary) for name in columns}
