"""Foreign keys that wait in the ledger: the rows that would stand in their way when they are added."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pgferry.errors import Permanent
from pgferry.postgres.deferred import Deferred, pending
from pgferry.postgres.definitions import Kind
from pgferry.postgres.handle import Connection
from pgferry.postgres.orphans import ForeignKey, Orphans, orphans_of
from pgferry.quoting import qualified, quote

# As pg_get_constraintdef() prints it with an empty search_path: every name qualified, quoted where it must be.
_NAME = r'(?:"(?:[^"]|"")*"|[^\s",().]+)'
_LIST = rf"{_NAME}(?:, {_NAME})*"
_REFERENCE = re.compile(
    rf"FOREIGN KEY \(({_LIST})\) REFERENCES ({_NAME})\.({_NAME})\(({_LIST})\)( MATCH FULL)?(?: .*)?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Dangling:
    """A foreign key that waits, and the rows that it would not allow."""

    schema: str
    table: str
    name: str
    orphans: Orphans


async def dangling(conn: Connection, run_id: int) -> tuple[Dangling, ...]:
    """Count, by anti-join, the rows that the run's waiting foreign keys would refuse; keys without any are left out.

    Reads only, whole tables.
    """
    found = []
    for step in await pending(conn, run_id):
        if step.kind is Kind.FOREIGN_KEY:
            orphans = await orphans_of(conn, read_definition(step))
            if orphans.count:
                found.append(Dangling(step.schema, step.table, step.name, orphans))
    return tuple(found)


def read_definition(step: Deferred) -> ForeignKey:
    """Return what a waiting foreign key refers to. Raises Permanent for a definition that cannot be read."""
    begin = f"ALTER TABLE {qualified(step.schema, step.table)} ADD CONSTRAINT {quote(step.name)} "
    match = _REFERENCE.match(step.definition.removeprefix(begin))
    if match is None:
        raise Permanent(f"The {step} cannot be read: {step.definition}.", "Report this definition.")
    columns, schema, parent, parent_columns, full = match.groups()
    return ForeignKey(
        schema=step.schema,
        table=step.table,
        columns=_names(columns),
        parent_schema=_bare(schema),
        parent=_bare(parent),
        parent_columns=_names(parent_columns),
        match_full=full is not None,
    )


def _names(text: str) -> Sequence[str]:
    return tuple(_bare(name) for name in re.findall(_NAME, text))


def _bare(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
