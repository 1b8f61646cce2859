"""Writes a plan as an Alembic revision that a person can read, change and adopt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from pgferry.model import PgKind, PgType
from pgferry.plan import sql
from pgferry.plan.model import ColumnPlan, IndexPlan, SchemaPlan, TablePlan
from pgferry.quoting import quote

_TYPES = {
    PgKind.INTEGER: "sa.Integer()",
    PgKind.BIGINT: "sa.BigInteger()",
    PgKind.DOUBLE: "sa.Double()",
    PgKind.NUMERIC: "sa.Numeric()",
    PgKind.BOOLEAN: "sa.Boolean()",
    PgKind.TEXT: "sa.Text()",
    PgKind.BYTEA: "sa.LargeBinary()",
    PgKind.DATE: "sa.Date()",
    PgKind.TIME: "sa.Time()",
    PgKind.TIMESTAMP: "sa.DateTime()",
    PgKind.TIMESTAMPTZ: "sa.DateTime(timezone=True)",
    PgKind.UUID: "sa.Uuid()",
    PgKind.JSON: "postgresql.JSON()",
    PgKind.JSONB: "postgresql.JSONB()",
}


_UNKNOWN_KEYWORDS = frozenset({"collation", "concurrently", "lateral", "system_user", "tablesample"})
"""Keywords of PostgreSQL that SQLAlchemy does not quote by itself."""


@dataclass(frozen=True, slots=True)
class Revision:
    """An Alembic revision: its id, made from its content, and its Python text."""

    id: str
    text: str

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"{self.id}_schema.py"


def render_revision(plan: SchemaPlan) -> Revision:
    """Return the plan as a revision without a predecessor. The same plan gives the same bytes and the same id."""
    body = "\n".join(_body(plan))
    identity = hashlib.sha256(body.encode()).hexdigest()[:12]
    return Revision(identity, _head(identity, plan) + body)


def _head(identity: str, plan: SchemaPlan) -> str:
    postgresql = "from sqlalchemy.dialects import postgresql\n" if _uses_json(plan) else ""
    return (
        f'"""The schema of {len(plan.tables)} tables, proposed from the data of a SQLite file."""\n\n'
        "import sqlalchemy as sa\n"
        f"from alembic import op\n{postgresql}\n"
        f'revision = "{identity}"\n'
        "down_revision = None\nbranch_labels = None\ndepends_on = None\n\n\n"
    )


def _uses_json(plan: SchemaPlan) -> bool:
    types = (column.type.kind for table in plan.tables for column in table.columns)
    return any(kind in (PgKind.JSON, PgKind.JSONB) for kind in types)


def _body(plan: SchemaPlan) -> Iterator[str]:
    yield from _function("upgrade", ["create_tables()", "create_indexes()", "create_foreign_keys()", "create_views()"])
    yield from _function("downgrade", ["drop_views()", "drop_foreign_keys()", "drop_tables()"])
    yield from _function("create_tables", [line for table in plan.tables for line in _table(table)])
    yield from _function("create_indexes", [_index(table, index) for table in plan.tables for index in table.indexes])
    keys = [(table, key) for table in plan.tables for key in table.foreign_keys]
    yield from _function("create_foreign_keys", [_execute(sql.foreign_key(table, key)) for table, key in keys])
    yield from _function("create_views", [_execute(sql.view(view)) for view in plan.views])
    yield from _function("drop_views", [_execute(f"DROP VIEW {quote(view.name)}") for view in reversed(plan.views)])
    yield from _function(
        "drop_foreign_keys",
        [_execute(f"ALTER TABLE {quote(table.name)} DROP CONSTRAINT {quote(key.name)}") for table, key in keys],
    )
    yield from _function("drop_tables", [f"op.drop_table({_name(table.name)})" for table in reversed(plan.tables)])


def _function(name: str, lines: list[str]) -> Iterator[str]:
    yield f"def {name}():"
    yield from (f"    {line}" for line in lines or ["pass"])
    yield from ("", "") if name != "drop_tables" else ("",)


def _table(table: TablePlan) -> Iterator[str]:
    yield "op.create_table("
    yield f"    {_name(table.name)},"
    for column in table.columns:
        yield f"    {_column(column)},"
    if table.key:
        yield f"    sa.PrimaryKeyConstraint({_names(table.key.columns)}, name={_name(table.key.name)}),"
    for unique in table.uniques:
        yield f"    sa.UniqueConstraint({_names(unique.columns)}, name={_name(unique.name)}),"
    for check in table.checks:
        yield f"    sa.CheckConstraint({_text(check.sql)}, name={_name(check.name)}),"
    yield ")"
    if table.stays_whole:
        yield _execute(sql.stay_whole(table))


def _column(column: ColumnPlan) -> str:
    # Without autoincrement=False SQLAlchemy makes an integer key a SERIAL.
    parts = [_name(column.name), type_code(column.type)]
    if column.identity:
        parts.append("sa.Identity(always=False)")
    elif column.generated is not None:
        parts.append(f"sa.Computed({_text(column.generated)}, persisted=True)")
    else:
        parts.append("autoincrement=False")
    if column.default is not None:
        parts.append(f"server_default={_text(column.default)}")
    if column.not_null:
        parts.append("nullable=False")
    return f"sa.Column({', '.join(parts)})"


def type_code(type: PgType) -> str:
    """Return a type as Python code of SQLAlchemy."""
    if type.kind is PgKind.NUMERIC and type.precision is not None:
        return f"sa.Numeric({type.precision}, {type.scale or 0})"
    return _TYPES[type.kind]


def _index(table: TablePlan, index: IndexPlan) -> str:
    columns = {quote(column.name): column.name for column in table.columns}
    terms = ", ".join(_name(columns[term]) if term in columns else _text(term) for term in index.terms)
    where = f", postgresql_where={_text(index.where)}" if index.where else ""
    return f"op.create_index({_name(index.name)}, {_name(table.name)}, [{terms}], unique={index.unique}{where})"


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(map(_name, names))


def _name(name: str) -> str:
    return f"sa.quoted_name({name!r}, True)" if name in _UNKNOWN_KEYWORDS else repr(name)


def _execute(statement: str) -> str:
    return f"op.execute({_text(statement)})"


def _text(statement: str) -> str:
    # sa.text() reads a colon and a name as a parameter; a backslash before the colon keeps it a colon.
    return f"sa.text({statement.replace(':', chr(92) + ':')!r})"
