"""In which order, and side by side with what, the deferred indexes and constraints are built again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pgferry.move import Group, Move
from pgferry.postgres.connection import Connection
from pgferry.postgres.deferred import Deferred, defer, rebuild_one
from pgferry.postgres.definitions import Kind, Stage


@dataclass(frozen=True, slots=True)
class Work:
    """Steps that one task builds one after the other."""

    name: str
    steps: tuple[Deferred, ...]
    key: bool = False
    """Whether the primary key's index is among them: reading back needs it."""


IN_PLACE_ROWS = 1_000
"""Rows up to which a table keeps its indexes while it is loaded: to drop and build them takes longer than to keep them.

Of a thousand tables of a hundred rows each, that was most of the time of their move.
"""


async def put_aside(connection: Connection, move: Move) -> tuple[Deferred, ...]:
    """Put all foreign keys aside, and the other constraints and indexes of all but small tables; see `defer`."""
    small = {pair.target.oid for pair in move.pairs if move.source_rows[pair.source.name] <= IN_PLACE_ROWS}
    return await defer(connection, move.run_id, move.targets, in_place=small)


async def build(connection: Connection, steps: Sequence[Deferred], memory: str) -> None:
    """Build the steps in order, each in a transaction of its own; one that is built already is passed over."""
    for step in steps:
        await rebuild_one(connection, step, memory=memory)


def waiting(steps: Iterable[Deferred]) -> tuple[Deferred, ...]:
    """Return the steps that are still to be built."""
    return tuple(step for step in steps if step.dropped_at is not None and step.rebuilt_at is None)


def index_work(move: Move, group: Group, steps: Sequence[Deferred]) -> tuple[Work, ...]:
    """Return the index builds of a group: of a large table one by one, its key first; of many small ones together."""
    mine = _of_group(move, group, steps, Stage.INDEX)
    keys = {(step.schema, step.name) for step in steps if step.kind is Kind.PRIMARY_KEY}
    if len(group.tables) > 1:
        return (Work(f"indexes of {group.name}", mine, key=True),) if mine else ()
    works = [Work(f"index {step.name}", (step,), key=(step.schema, step.name) in keys) for step in mine]
    return tuple(sorted(works, key=lambda work: not work.key))


def key_work(move: Move, group: Group, steps: Iterable[Deferred]) -> Work:
    """Return the attaching of a group's keys and unique constraints to their built indexes."""
    return Work(f"keys of {group.name}", _of_group(move, group, steps, Stage.ATTACH))


def foreign_key_work(steps: Sequence[Deferred], lanes: int) -> tuple[Work, tuple[Work, ...]]:
    """Return the adding of all foreign keys, and their validations spread over `lanes` tasks."""
    added = Work("foreign keys", tuple(step for step in steps if step.stage is Stage.FOREIGN_KEY))
    checks = tuple(step for step in steps if step.stage is Stage.VALIDATE)
    parts = [checks[lane::lanes] for lane in range(lanes)]
    return added, tuple(Work(f"foreign key checks {n}", part) for n, part in enumerate(parts, 1) if part)


def _of_group(move: Move, group: Group, steps: Iterable[Deferred], stage: Stage) -> tuple[Deferred, ...]:
    targets = {(move.reads[table].pair.target.schema, move.reads[table].pair.target.name) for table in group.tables}
    return tuple(step for step in steps if step.stage is stage and (step.schema, step.table) in targets)
