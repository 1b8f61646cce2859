"""What a table's indexes and constraints are made of: the statement that drops each and the steps that build it again.

Pure text from rows of the catalog (`sql/deferred.sql`). All of it was read with an empty search_path, so that every
name is qualified and the statements mean the same in any session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

from pgferry.quoting import literal, qualified, quote


class Stage(IntEnum):
    """The order of building. Steps of stages 1 and 4 may run at the same time as others of their stage."""

    INDEX = 1
    """Build an index: SHARE lock, so several of one table can be built at once."""
    ATTACH = 2
    """Make a constraint of a built index, or mark it: instant. Exclusion constraints are built here."""
    FOREIGN_KEY = 3
    """Add a foreign key NOT VALID: instant, locks both tables; one after the other, or they may deadlock."""
    VALIDATE = 4
    """Check a foreign key's existing rows; readers and writers go on."""


class Kind(StrEnum):
    """What a step builds."""

    INDEX = "index"
    CONSTRAINT_INDEX = "constraint index"
    """The index that a primary key or unique constraint then takes over."""
    PRIMARY_KEY = "primary key"
    UNIQUE = "unique constraint"
    EXCLUSION = "exclusion constraint"
    CLUSTER = "cluster mark"
    REPLICA_IDENTITY = "replica identity"
    FOREIGN_KEY = "foreign key"
    VALIDATION = "validation"


FOREIGN_KEY_KINDS = frozenset({Kind.FOREIGN_KEY, Kind.VALIDATION})
CONTYPES = {Kind.PRIMARY_KEY: "p", Kind.UNIQUE: "u", Kind.EXCLUSION: "x", Kind.FOREIGN_KEY: "f"}
"""The catalog's letter for each kind of constraint."""

_KINDS = {contype: kind for kind, contype in CONTYPES.items()}


@dataclass(frozen=True, slots=True)
class Step:
    """One statement that builds something again; `comment` and `also` are statements' parts that follow it at once."""

    kind: Kind
    stage: Stage
    definition: str
    comment: str | None = None
    """The statement COMMENT ON …, where there is a comment."""
    tablespace: str = ""
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Definition:
    """An index or a constraint: how to drop it, and the steps to build it again, in order."""

    schema: str
    table: str
    name: str
    drop: str
    steps: tuple[Step, ...]
    columns: tuple[str, ...] = ()
    kept: str | None = None
    """Why it must stay in place."""
    drop_order: int = field(default=2)


def foreign_key(row: Mapping[str, Any]) -> Definition:
    """Return the definition of a foreign key. One that was valid comes back NOT VALID first and is then validated."""
    table, name = qualified(row["schema"], row["table"]), quote(row["name"])
    later = " NOT VALID" if row["valid"] else ""
    comment = _comment(f"CONSTRAINT {name} ON {table}", row["comment"])
    add = f"ALTER TABLE {table} ADD CONSTRAINT {name} {row['definition']}{later}"
    steps = [Step(Kind.FOREIGN_KEY, Stage.FOREIGN_KEY, add, comment)]
    if row["valid"]:
        steps.append(Step(Kind.VALIDATION, Stage.VALIDATE, f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}"))
    return Definition(
        schema=row["schema"],
        table=row["table"],
        name=row["name"],
        drop=f"ALTER TABLE {table} DROP CONSTRAINT {name}",
        steps=tuple(steps),
        kept=row["kept"],
        drop_order=1,
    )


def index(schema: str, table: str, row: Mapping[str, Any]) -> Definition:
    """Return the definition of an index, with the constraint that it serves."""
    full, name = qualified(schema, table), quote(row["name"])
    constraint = row["contype"] is not None
    drop_index = f"DROP INDEX {qualified(schema, row['name'])}"
    return Definition(
        schema=schema,
        table=table,
        name=row["name"],
        drop=f"ALTER TABLE {full} DROP CONSTRAINT {name}" if constraint else drop_index,
        steps=tuple(_index_steps(schema, full, row)),
        columns=tuple(row["columns"]),
        kept=row["kept"],
        drop_order=2 if constraint else 3,
    )


def _index_steps(schema: str, table: str, row: Mapping[str, Any]) -> Iterator[Step]:
    if row["contype"] is None:
        yield _index_step(Kind.INDEX, schema, row)
    elif row["attachable"] and row["contype"] != "x":
        yield _index_step(Kind.CONSTRAINT_INDEX, schema, row)
        yield _attach_step(table, row)
    else:
        yield _whole_constraint(schema, table, row)
    name = quote(row["name"])
    if row["clustered"]:
        yield Step(Kind.CLUSTER, Stage.ATTACH, f"ALTER TABLE {table} CLUSTER ON {name}")
    if row["replica_identity"]:
        yield Step(Kind.REPLICA_IDENTITY, Stage.ATTACH, f"ALTER TABLE {table} REPLICA IDENTITY USING INDEX {name}")


def _index_step(kind: Kind, schema: str, row: Mapping[str, Any]) -> Step:
    full = qualified(schema, row["name"])
    targets = (entry.split() for entry in row["statistics"])
    return Step(
        kind,
        Stage.INDEX,
        row["definition"],
        comment=_comment(f"INDEX {full}", row["comment"]),
        tablespace=row["tablespace"],
        also=tuple(f"ALTER INDEX {full} ALTER COLUMN {place} SET STATISTICS {target}" for place, target in targets),
    )


def _attach_step(table: str, row: Mapping[str, Any]) -> Step:
    name = quote(row["name"])
    words = "PRIMARY KEY" if row["contype"] == "p" else "UNIQUE"
    statement = f"ALTER TABLE {table} ADD CONSTRAINT {name} {words} USING INDEX {name}{_deferrable(row)}"
    comment = _comment(f"CONSTRAINT {name} ON {table}", row["constraint_comment"])
    return Step(_KINDS[row["contype"]], Stage.ATTACH, statement, comment)


def _whole_constraint(schema: str, table: str, row: Mapping[str, Any]) -> Step:
    # Only a B-tree's index can be built first and taken over; the others come with their constraint.
    name = quote(row["name"])
    of_index = _comment(f"INDEX {qualified(schema, row['name'])}", row["comment"])
    return Step(
        _KINDS[row["contype"]],
        Stage.ATTACH,
        f"ALTER TABLE {table} ADD CONSTRAINT {name} {row['constraint_definition']}",
        comment=_comment(f"CONSTRAINT {name} ON {table}", row["constraint_comment"]),
        tablespace=row["tablespace"],
        also=() if of_index is None else (of_index,),
    )


def _deferrable(row: Mapping[str, Any]) -> str:
    if not row["deferrable"]:
        return ""
    return " DEFERRABLE INITIALLY DEFERRED" if row["deferred"] else " DEFERRABLE"


def _comment(on: str, text: str | None) -> str | None:
    return None if text is None else f"COMMENT ON {on} IS {literal(text)}"
