"""SQL of a migration, read for what it does to tables."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from pgferry.operate.operations import Kind, Operation

_NAME = r'((?:"[^"]+"|\w+)(?:\.(?:"[^"]+"|\w+))?)'
_ALTER = re.compile(rf"^ALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?{_NAME}\s+(.*)$", re.I | re.S)
_VALIDATE = re.compile(r'^VALIDATE\s+CONSTRAINT\s+("[^"]+"|\w+)', re.I)
_CONSTRAINT = re.compile(
    r'^ADD\s+(?:CONSTRAINT\s+("[^"]+"|\w+)\s+)?(FOREIGN\s+KEY|CHECK|UNIQUE|PRIMARY\s+KEY|EXCLUDE)\b', re.I
)
_TYPES = {"EXCLUDE": "exclusion"}

_VOLATILE = ("gen_random_uuid", "uuid_generate", "random", "clock_timestamp", "nextval", "uuidv4", "uuidv7")
"""Functions that give each row a value of its own; `now()` gives all of a statement the same."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a revision a statement stands."""

    line: int
    end: int
    autocommit: bool


def operations(sql: str, place: Place) -> list[Operation]:
    """Return what the statements do; one that cannot be read does nothing that is known."""
    with _quiet():
        try:
            statements = sqlglot.parse(sql, read="postgres")
        except SqlglotError:
            return list(_by_words(sql, place))
    found: list[Operation] = []
    for statement in statements:
        if isinstance(statement, exp.Command):
            found += _by_words(statement.sql(dialect="postgres"), place)
        elif statement is not None:
            found += _of(statement, place)
    return found


def is_volatile(text: str) -> bool:
    """Say whether a default gives each row a value of its own."""
    return any(re.search(rf"\b{name}\w*\s*\(", text, re.I) for name in _VOLATILE)


def _of(statement: exp.Expr, place: Place) -> Iterator[Operation]:
    if isinstance(statement, exp.Create):
        yield from _created(statement, place)
    elif isinstance(statement, exp.Drop) and statement.args.get("kind") in ("TABLE", "MATERIALIZED VIEW"):
        for table in statement.args["tables"]:
            yield _operation(Kind.DROP, table.name, place, name=f"table {table.name}")
    elif isinstance(statement, exp.TruncateTable):
        for table in statement.expressions:
            yield _operation(Kind.DROP, table.name, place, name=f"all that table {table.name} holds")
    elif isinstance(statement, exp.Alter) and statement.args.get("kind") == "TABLE":
        for action in statement.args["actions"]:
            yield from _action(statement, action, place)


def _created(statement: exp.Create, place: Place) -> Iterator[Operation]:
    if statement.kind == "TABLE":
        table = statement.find(exp.Table)
        yield _operation(Kind.CREATE_TABLE, table.name if table else "", place)
    elif statement.kind == "INDEX":
        index = statement.this
        yield _operation(
            Kind.CREATE_INDEX,
            index.args["table"].name,
            place,
            name=index.name,
            concurrently=bool(statement.args.get("concurrently")),
        )


def _action(statement: exp.Alter, action: exp.Expr, place: Place) -> Iterator[Operation]:
    table = statement.this.name
    if isinstance(action, exp.ColumnDef):
        yield from _added(table, action, place)
    elif isinstance(action, exp.AlterColumn):
        if action.args.get("dtype") is not None:
            yield _operation(Kind.CHANGE_TYPE, table, place, name=action.name)
        elif action.args.get("allow_null") is False:
            yield _operation(Kind.SET_NOT_NULL, table, place, name=action.name)
    elif isinstance(action, exp.AddConstraint):
        for constraint in action.expressions:
            yield _constraint(table, constraint, bool(statement.args.get("not_valid")), place)
    elif isinstance(action, exp.Drop) and action.args.get("kind") == "COLUMN":
        for column in action.args["tables"]:
            yield _operation(Kind.DROP, table, place, name=f"column {table}.{column.name}")
    elif isinstance(action, exp.RenameColumn):
        yield _operation(Kind.RENAME, table, place, name=f"column {table}.{action.name}")
    elif isinstance(action, exp.AlterRename):
        yield _operation(Kind.RENAME, table, place, name=f"table {table}")


def _added(table: str, column: exp.ColumnDef, place: Place) -> Iterator[Operation]:
    kinds = [constraint.args.get("kind") for constraint in column.args.get("constraints") or ()]
    default = next((kind for kind in kinds if isinstance(kind, exp.DefaultColumnConstraint)), None)
    generated = any(
        isinstance(kind, exp.ComputedColumnConstraint | exp.GeneratedAsIdentityColumnConstraint) for kind in kinds
    )
    volatile = default is not None and is_volatile(_spelled(default))
    required = (exp.NotNullColumnConstraint, exp.PrimaryKeyColumnConstraint)
    yield _operation(
        Kind.ADD_COLUMN,
        table,
        place,
        name=column.name,
        not_null=any(isinstance(kind, required) and not kind.args.get("allow_null") for kind in kinds),
        filled=default is not None or generated,
        computed=generated or volatile,
    )
    for kind, constraint in (
        (exp.Reference, "foreign key"),
        (exp.UniqueColumnConstraint, "unique"),
        (exp.PrimaryKeyColumnConstraint, "primary key"),
        (exp.CheckColumnConstraint, "check"),
    ):
        if any(isinstance(found, kind) for found in kinds):
            name = f"of column {column.name}"
            yield _operation(Kind.ADD_CONSTRAINT, table, place, name=name, constraint=constraint)


def _spelled(default: exp.Expr) -> str:
    # sqlglot knows some functions by other names, and writes them so.
    return "gen_random_uuid()" if default.find(exp.Uuid) else default.sql(dialect="postgres")


def _constraint(table: str, constraint: exp.Expr, not_valid: bool, place: Place) -> Operation:
    parts = constraint.expressions if isinstance(constraint, exp.Constraint) else [constraint]
    kinds = {
        exp.ForeignKey: "foreign key",
        exp.UniqueColumnConstraint: "unique",
        exp.PrimaryKey: "primary key",
        exp.CheckColumnConstraint: "check",
    }
    kind = next((name for part in parts for known, name in kinds.items() if isinstance(part, known)), "check")
    name = constraint.name if isinstance(constraint, exp.Constraint) else ""
    return _operation(Kind.ADD_CONSTRAINT, table, place, name=name, constraint=kind, not_valid=not_valid)


def _by_words(sql: str, place: Place) -> Iterator[Operation]:
    """Read what sqlglot has no tree for."""
    altered = _ALTER.match(sql.strip())
    if not altered:
        return
    table, action = _bare(altered[1]), altered[2]
    if validated := _VALIDATE.match(action):
        yield _operation(Kind.VALIDATE, table, place, name=_bare(validated[1]))
    elif added := _CONSTRAINT.match(action):
        word = re.sub(r"\s+", " ", added[2].upper())
        yield _operation(
            Kind.ADD_CONSTRAINT,
            table,
            place,
            name=_bare(added[1] or ""),
            constraint=_TYPES.get(word, word.lower()),
            not_valid=re.search(r"\bNOT\s+VALID\b", action, re.I) is not None,
            by_index=re.search(r"\bUSING\s+INDEX\s+(?!TABLESPACE)", action, re.I) is not None,
        )


def _bare(name: str) -> str:
    last = name.rpartition(".")[2]
    return last.strip('"') if last.startswith('"') else last.lower()


def _operation(kind: Kind, table: str, place: Place, **details: str | bool) -> Operation:
    return Operation(kind, table, place.line, place.end, autocommit=place.autocommit, **details)  # type: ignore[arg-type]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep sqlglot from warning of statements that it has no tree for."""
    logger = logging.getLogger("sqlglot")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
