"""What a migration does to tables, however it is written, and which of that keeps an application from writing.

Where the locks are said: https://www.postgresql.org/docs/current/sql-altertable.html and explicit-locking.html.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Kind(StrEnum):
    """What is done."""

    CREATE_TABLE = "create table"
    CREATE_INDEX = "create index"
    ADD_COLUMN = "add column"
    CHANGE_TYPE = "change type"
    SET_NOT_NULL = "set not null"
    ADD_CONSTRAINT = "add constraint"
    VALIDATE = "validate constraint"
    DROP = "drop"
    RENAME = "rename"


class Rule(StrEnum):
    """What can be found in a revision; the name is what an allowance in a comment gives."""

    DOWNGRADE = "downgrade"
    LEFTOVER = "leftover"
    HEADS = "heads"
    UNREADABLE = "unreadable"
    INDEX = "index"
    NOT_NULL = "not-null"
    REWRITE = "rewrite"
    CONSTRAINT = "constraint"
    DROP = "drop"
    RENAME = "rename"


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a migration does; `line` to `end` is where it says so."""

    kind: Kind
    table: str
    line: int
    end: int
    name: str = ""
    """The column, index or constraint; for a dropped or renamed thing, what it is with its name."""
    autocommit: bool = False
    """Whether it is inside `with …autocommit_block()`."""
    concurrently: bool = False
    not_null: bool = False
    filled: bool = False
    """Whether a new column has a default or is generated, so that rows that exist get a value."""
    computed: bool = False
    """Whether that value is computed for each row, so that the table is written anew."""
    constraint: str = ""
    """`foreign key`, `check`, `unique`, `primary key` or `exclusion`."""
    not_valid: bool = False
    by_index: bool = False
    """Whether a constraint takes an index that is there already."""


@dataclass(frozen=True, slots=True)
class Remark:
    """Why an operation is found fault with, and what to do instead."""

    rule: Rule
    operation: Operation
    message: str
    action: str


def judge(operations: Sequence[Operation], elsewhere: Collection[Operation] = ()) -> tuple[Remark, ...]:
    """Return what would keep an application from working while the operations of one migration run.

    Tables that it makes itself are nobody's yet. `elsewhere` are the operations of the other migrations: there a
    constraint may be validated.
    """
    made: set[str] = set()
    remarks: list[Remark] = []
    for operation in operations:
        if operation.kind is Kind.CREATE_TABLE:
            made.add(operation.table)
        elif operation.table not in made and operation.kind in _JUDGES:
            remarks += _JUDGES[operation.kind](operation, operations, elsewhere)
    return tuple(remarks)


_All = Sequence[Operation]
_Elsewhere = Collection[Operation]


def _index(found: Operation, operations: _All, elsewhere: _Elsewhere) -> Iterable[Remark]:
    if not found.concurrently:
        yield Remark(
            Rule.INDEX,
            found,
            f"Index {found.name or '(without a name)'} on {found.table} is built while nobody can write to the table.",
            "Build it with postgresql_concurrently=True inside `with op.get_context().autocommit_block():`.",
        )
    elif not found.autocommit:
        yield Remark(
            Rule.INDEX,
            found,
            f"Index {found.name or '(without a name)'} on {found.table} is built CONCURRENTLY, which PostgreSQL "
            "refuses inside a transaction.",
            "Put it inside `with op.get_context().autocommit_block():`.",
        )


def _column(found: Operation, operations: _All, elsewhere: _Elsewhere) -> Iterable[Remark]:
    if found.not_null and not found.filled:
        yield Remark(
            Rule.NOT_NULL,
            found,
            f"Column {found.name} is added to {found.table} as NOT NULL without a default: it fails when there are "
            "rows, and old writers fail afterwards.",
            "Give it a server_default, or add it nullable, fill it, and make it NOT NULL in a later revision.",
        )
    if found.computed:
        yield Remark(
            Rule.REWRITE,
            found,
            f"Column {found.name} gets a value of its own in each row: {found.table} is written anew, and nobody can "
            "read or write it meanwhile.",
            "Add it without a default, fill it in batches, then set the default.",
        )


def _type(found: Operation, operations: _All, elsewhere: _Elsewhere) -> Iterable[Remark]:
    yield Remark(
        Rule.REWRITE,
        found,
        f"The type of {found.table}.{found.name} changes: the table is written anew, as a rule, and nobody can read "
        "or write it meanwhile.",
        "Add a column of the new type, fill it in batches, let the application use it, and drop the old one later.",
    )


def _not_null(found: Operation, operations: _All, elsewhere: _Elsewhere) -> Iterable[Remark]:
    checked = [other for other in (*operations, *elsewhere) if other.kind is Kind.VALIDATE]
    if not any(other.table == found.table for other in checked):
        yield Remark(
            Rule.NOT_NULL,
            found,
            f"{found.table}.{found.name} becomes NOT NULL: the whole table is read for it while nobody can read or "
            "write it.",
            f"First add CHECK ({found.name} IS NOT NULL) NOT VALID, and VALIDATE it in a revision of its own; "
            "PostgreSQL then need not look.",
        )


def _constraint(found: Operation, operations: _All, elsewhere: _Elsewhere) -> Iterable[Remark]:
    what = f"The {found.constraint} {'constraint ' * (found.constraint != 'foreign key')}{found.name}".strip()
    if found.by_index:
        return
    if found.constraint in ("unique", "primary key", "exclusion"):
        yield Remark(
            Rule.CONSTRAINT,
            found,
            f"{what} of {found.table} builds its index while nobody can read or write the table.",
            "Build a unique index concurrently first, then ALTER TABLE … ADD CONSTRAINT … USING INDEX …."
            if found.constraint != "exclusion"
            else "Do it while nobody writes.",
        )
    elif not found.not_valid:
        yield Remark(
            Rule.CONSTRAINT,
            found,
            f"{what} of {found.table} is checked for every row while nobody can write.",
            "Add it with postgresql_not_valid=True (NOT VALID), and VALIDATE CONSTRAINT it in a later revision.",
        )
    else:
        yield from _validation(found, what, operations, elsewhere)


def _validation(found: Operation, what: str, operations: _All, elsewhere: _Elsewhere) -> Iterable[Remark]:
    def validates(other: Operation) -> bool:
        return other.kind is Kind.VALIDATE and other.name == found.name

    if any(map(validates, elsewhere)) or any(other.autocommit for other in operations if validates(other)):
        return
    same = any(map(validates, operations))
    yield Remark(
        Rule.CONSTRAINT,
        found,
        f"{what} of {found.table} is validated in the transaction that adds it, which holds its lock until the end."
        if same
        else f"{what} of {found.table} is NOT VALID, and no revision validates it.",
        f"Run ALTER TABLE {found.table} VALIDATE CONSTRAINT {found.name} in a later revision"
        + (", or both inside `with op.get_context().autocommit_block():`." if same else "."),
    )


def _drop(found: Operation, operations: _All, elsewhere: _Elsewhere) -> Iterable[Remark]:
    yield Remark(
        Rule.DROP,
        found,
        f"{found.name[:1].upper()}{found.name[1:]} is dropped: what it holds is gone, and an application of before "
        "fails.",
        "Deploy an application that no longer uses it first, and keep the dump.",
    )


def _rename(found: Operation, operations: _All, elsewhere: _Elsewhere) -> Iterable[Remark]:
    yield Remark(
        Rule.RENAME,
        found,
        f"{found.name[:1].upper()}{found.name[1:]} gets another name: an application that runs by the old one fails "
        "at once.",
        "Add the new one beside it, and drop the old one when nothing uses it.",
    )


_JUDGES: Mapping[Kind, Callable[[Operation, _All, _Elsewhere], Iterable[Remark]]] = MappingProxyType(
    {
        Kind.CREATE_INDEX: _index,
        Kind.ADD_COLUMN: _column,
        Kind.CHANGE_TYPE: _type,
        Kind.SET_NOT_NULL: _not_null,
        Kind.ADD_CONSTRAINT: _constraint,
        Kind.DROP: _drop,
        Kind.RENAME: _rename,
    }
)
