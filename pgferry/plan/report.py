"""The plan as a Markdown page for a person: what each column becomes and why, what is not carried, what needs a yes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pgferry.plan import sql
from pgferry.plan.infer import type_sql
from pgferry.plan.model import ColumnPlan, NotCarried, Question, SchemaPlan, TablePlan
from pgferry.report import wrapped

_SHOWN_SQL = 200


def render_report(plan: SchemaPlan) -> str:
    """Return the report. The same plan gives the same text."""
    return "\n".join(_lines(plan)) + "\n"


def _lines(plan: SchemaPlan) -> Iterator[str]:
    yield from ("# Schema plan", "")
    yield from _summary(plan)
    yield from _questions(plan.questions)
    yield from _not_carried(plan.not_carried)
    yield from _renames(plan)
    yield from _orphans(plan)
    for table in plan.tables:
        yield from _table(table)


def _summary(plan: SchemaPlan) -> Iterator[str]:
    tables = plan.tables
    counts = (
        ("tables", len(tables)),
        ("rows", sum(table.rows for table in tables)),
        ("primary keys", sum(table.key is not None for table in tables)),
        ("unique constraints", sum(len(table.uniques) for table in tables)),
        ("indexes", sum(len(table.indexes) for table in tables)),
        ("foreign keys", sum(len(table.foreign_keys) for table in tables)),
        ("checks", sum(len(table.checks) for table in tables)),
        ("views", len(plan.views)),
        ("not carried", len(plan.not_carried)),
    )
    yield from _grid(("what", "count"), [(name, f"{count:,}") for name, count in counts])
    if not plan.tried:
        yield from ("No PostgreSQL server has tried this plan yet.", "")


def _questions(questions: Sequence[Question]) -> Iterator[str]:
    if not questions:
        return
    yield from ("## Questions that need a yes", "")
    yield from ("Each stands in pgferry.toml behind a `#`. Remove the `#` to say yes, then plan again.", "")
    rows = [(f"{q.table}.{q.column}", f"{q.setting} = {q.value}", q.reason) for q in questions]
    yield from _grid(("column", "rule", "why"), rows)


def _not_carried(items: Sequence[NotCarried]) -> Iterator[str]:
    if not items:
        return
    yield from ("## Not carried", "")
    rows = [(item.kind, item.table, item.name, item.reason, _short(item.sql)) for item in items]
    yield from _grid(("kind", "table", "name", "reason", "text"), rows)


def renames(plan: SchemaPlan) -> Iterator[tuple[str, str, str]]:
    """Yield (table, column or empty, name in the target) of everything whose name changes."""
    for table in plan.tables:
        if table.name != table.source:
            yield table.source, "", table.name
        for column in table.columns:
            if column.name != column.source.name:
                yield table.source, column.source.name, column.name


def _renames(plan: SchemaPlan) -> Iterator[str]:
    rows = list(renames(plan))
    rows += [
        (t.source, index.source, index.name)
        for t in plan.tables
        for index in t.indexes
        if _renamed(index.source, index.name)
    ]
    if rows:
        yield from ("## New names", "")
        yield from _grid(("table", "column or index", "name in PostgreSQL"), rows)


def _renamed(source: str, name: str) -> bool:
    return source != name and not source.startswith("sqlite_autoindex_")


def _orphans(plan: SchemaPlan) -> Iterator[str]:
    rows = [
        (table.source, ", ".join(key.columns), key.parent, f"{key.orphans:,}")
        for table in plan.tables
        for key in table.foreign_keys
        if key.orphans
    ]
    if rows:
        yield from ("## Foreign keys that rows violate", "", "They are made NOT VALID: new rows must obey them.", "")
        yield from _grid(("table", "columns", "parent", "rows"), rows)


def _table(table: TablePlan) -> Iterator[str]:
    yield from (f"## {_cell(table.source)}", "", f"{table.rows:,} rows", "")
    if table.stays_whole:
        yield from (f"Rows are wide and no value is large: they stay whole (`{sql.stay_whole(table)}`).", "")
    rows = [(c.name, type_sql(c.type), _extras(table, c), c.evidence, "; ".join(c.notes)) for c in table.columns]
    yield from _grid(("column", "type", "properties", "evidence", "notes"), rows)


def _extras(table: TablePlan, column: ColumnPlan) -> str:
    found = ["key"] if table.key and column.name in table.key.columns else []
    found += ["identity"] if column.identity else []
    found += ["not null"] if column.not_null and not found else []
    found += ["generated"] if column.generated is not None else []
    found += [f"default {column.default}"] if column.default is not None else []
    return ", ".join(found)


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield _row(header)
    yield _row(["---"] * len(header))
    yield from (_row(row) for row in rows)
    yield ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(wrapped(_cell(cell)) for cell in cells)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _short(sql: str) -> str:
    text = " ".join(sql.split())
    return text if len(text) <= _SHOWN_SQL else text[: _SHOWN_SQL - 1] + "…"
